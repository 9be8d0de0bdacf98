// Package create is the pipeline that makes an update from a patch: tree, pre and post objects, differences, parts, file.
// It only says in which order the stages run; the create command calls it.
package create

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/ksplice/ksplice/core/build"
	"github.com/ksplice/ksplice/core/modsign"
	"github.com/ksplice/ksplice/core/patch"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// compilerFlags are what the units of a kernel with a configuration are compiled with beside its own: every function and datum gets a section of
// its own, and types are described where the kernel itself does not ask for that (Makefile.debug of the kernel), which changes no code.
func compilerFlags(config map[string]string) []string {
	flags := []string{"-ffunction-sections", "-fdata-sections"}
	if config["CONFIG_DEBUG_INFO"] != "y" {
		flags = append(flags, "-g")
	}
	return flags
}

// maxSlots is how many slots the kernel module has (kmod/slots.c); a part with more could not be loaded.
const maxSlots = 8192

// Options say what to make.
type Options struct {
	// Patch is the patch's text; Reverse takes it backwards.
	Patch   []byte
	Reverse bool
	// Release is the kernel's `uname -r`; Version its `uname -v`, empty when not known.
	Release, Version string
	// Description is one line for people (update.ValidLine); empty: the patch's own subject, or its files.
	Description string
	// Effective is the version that a kernel with the update has in effect; may be empty.
	Effective string
	// Base lists the updates that the new one stands on, lowest first.
	Base []*update.Update
	// Units names further units (source files) that are compiled and matched because new code names their symbols.
	Units []string
	// ModuleSource is the source tree of a module that is not the kernel's own, which the patch is for; empty: it is for the kernel's.
	// ModuleBuilt is the directory in which the running module was built: messages have its name.
	ModuleSource, ModuleBuilt string

	// Accept has, by their IDs, the items of the report that the author takes upon himself, and why.
	Accept map[string]string
	// ReportOnly makes no update: the report is all that is wanted.
	ReportOnly bool
	// Signer signs the parts, as modules are signed; nil: they are not.
	Signer modsign.Signer

	BackendName string
	ArchInfo    plugin.Info
	// Arch gives the architecture plugin for an ELF machine number.
	Arch    func(machine uint16) (arch.Arch, plugin.Info, error)
	Builder *build.Builder
	// Transforms gives the transform plugins, in the order in which they are asked.
	Transforms func(context.Context) ([]Transform, error)
	// Jobs bounds parallel compilers; 0: one a processor.
	Jobs     int
	Log      hclog.Logger
	Progress plugin.ProgressFunc
	// Say tells people what was found, while it is found.
	Say func(key, text string)
}

// Report is what create tells.
type Report struct {
	ID     string        `json:"id"`
	Kernel string        `json:"kernel"`
	Banner string        `json:"banner"`
	Tree   time.Duration `json:"tree_ns"`
	Reused bool          `json:"tree_reused"`
	// Units is the number of translation units that the patch reaches, Unaffected how many of them were not compiled because nothing
	// changes for them, Cached how many of the objects were in the cache.
	Units      int       `json:"units"`
	Unaffected int       `json:"unaffected,omitempty"`
	Cached     int       `json:"cached"`
	Changed    []Changed `json:"changed"`
	Notes      []string  `json:"notes,omitempty"`
	// Items are the changes of what existing data mean. Refusals are what else is in the way of an update, where the report alone was wanted.
	Items    []*Item  `json:"items,omitempty"`
	Refusals []Reason `json:"refusals,omitempty"`
	Stages   []Stage  `json:"stages"`
}

// Changed is one unit with differences.
type Changed struct {
	Source    string   `json:"source"`
	Module    string   `json:"module,omitempty"`
	Functions []string `json:"functions"`
	New       []string `json:"new,omitempty"`
	Removed   []string `json:"removed,omitempty"`
	// Moved are functions that other units had.
	Moved []string `json:"moved,omitempty"`
	// Sets are fields of existing data that get another value.
	Sets []string `json:"sets,omitempty"`
	// Hooks are the patch's own, each with its time: "apply fill".
	Hooks []string `json:"hooks,omitempty"`
	// Init are functions of the module's init: they are replaced where the module comes, and its init waits for the update.
	Init []string `json:"init,omitempty"`
}

// Stage is the time one stage took.
type Stage struct {
	Name string        `json:"name"`
	Time time.Duration `json:"time_ns"`
}

// run is one run of the pipeline.
type run struct {
	o      Options
	report Report
	dir    string
	since  time.Time

	tree    *backend.Tree
	arch    arch.Arch
	target  arch.Target // facts and configuration, without Module
	buildID string
	patches []*patch.Patch
	text    []byte            // of the last one, as it travels
	pre     map[string][]byte // files that differ from the tree, before the patch (those of Base)
	post    map[string][]byte // the same after it; nil content: the file is gone
	// before and after are pre and post as people see them: lines keep no numbers. edits are what transform plugins made of some.
	before, after, edits map[string][]byte
	// edited are the items that are carried by edits, asked counts the times that plugins were asked.
	edited map[string]bool
	asked  int
	units  []*unit
	claims []update.Claim
	// patchClaims are the items that the patch takes upon itself, and how it carries them.
	patchClaims map[string]string
	// patchTransfers are what the patch asks transform plugins for, carriages what plugins carry at apply.
	patchTransfers []patchTransfer
	carriages      []*carriage
	// external are the files that a module's own source tree adds to the kernel's, flags what pre and post are compiled with beyond the
	// kernel's own.
	external map[string][]byte
	flags    []string
	// searched says for which parts' symbols units have been searched.
	searched map[string]bool
}

// Create makes an update; none with Options.ReportOnly.
func Create(ctx context.Context, o Options) (*update.Update, *Report, error) {
	dir, done, err := o.Builder.Temporary("create")
	if err != nil {
		return nil, nil, err
	}
	defer done()
	r := &run{o: o, dir: dir, since: time.Now(), searched: map[string]bool{}, edited: map[string]bool{}}
	if r.o.Transforms == nil {
		r.o.Transforms = func(context.Context) ([]Transform, error) { return nil, nil }
	}
	if r.o.Say == nil {
		r.o.Say = func(string, string) {}
	}
	u, err := r.create(ctx)
	r.stage("")
	return u, &r.report, err
}

// stage notes that a stage begins; the one before it ends.
func (r *run) stage(name string) {
	now := time.Now()
	if n := len(r.report.Stages); n > 0 {
		r.report.Stages[n-1].Time = now.Sub(r.since)
	}
	r.since = now
	if name != "" {
		r.report.Stages = append(r.report.Stages, Stage{Name: name})
	}
}

func (r *run) create(ctx context.Context) (*update.Update, error) {
	if err := r.parse(); err != nil {
		return nil, err
	}
	r.stage("tree")
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	r.stage("patch")
	if err := r.applyPatches(); err != nil {
		return nil, err
	}
	if err := r.addHeader(); err != nil {
		return nil, err
	}
	if err := r.findClaims(); err != nil {
		return nil, err
	}
	if err := r.rounds(ctx); err != nil || r.o.ReportOnly {
		return nil, err
	}
	r.stage("link")
	u, err := r.assemble(ctx)
	for missing := (*unprovedError)(nil); errors.As(err, &missing); {
		if err := r.prove(ctx, missing); err != nil {
			return nil, err
		}
		r.searched[missing.part] = true
		r.stage("link")
		u, err = r.assemble(ctx)
	}
	if err != nil {
		return nil, err
	}
	return u, r.sign(ctx, u)
}

// parse reads the patch and those of the base, and refuses what no hot update can carry.
func (r *run) parse() error {
	for _, b := range r.o.Base {
		p, err := patch.Parse(b.Files[b.Manifest.Patch.File])
		if err != nil {
			return fmt.Errorf("patch of update %s: %w", b.Manifest.ID, err)
		}
		if b.Manifest.Patch.External {
			if r.o.ModuleSource == "" {
				return refuse(ReasonPatch, fmt.Sprintf("update %s is for a module with a source tree of its own: name that, too (--module-source)", b.Manifest.ID))
			}
			p.Under(externalDir)
		}
		r.patches = append(r.patches, p)
	}
	p, err := patch.Parse(r.o.Patch)
	if err != nil {
		return refuse(ReasonPatch, err.Error())
	}
	r.text = r.o.Patch
	if r.o.Reverse {
		p = p.Reverse()
		r.text = p.Bytes()
	}
	if r.o.ModuleSource != "" {
		p.Under(externalDir)
	}
	r.patches = append(r.patches, p)
	var reasons []string
	for _, f := range p.Files {
		for _, name := range f.Paths() {
			switch c := patch.Classify(name); c.Class {
			case patch.Refused:
				reasons = append(reasons, name+": "+c.Reason)
			case patch.Rules:
				if problem := p.RulesProblem(f); problem != "" {
					reasons = append(reasons, name+": "+problem)
				}
			case patch.Ignored:
				r.report.Notes = append(r.report.Notes, name+": "+c.Reason)
			}
		}
	}
	if len(reasons) > 0 {
		return refuse(ReasonUnsupported, reasons...)
	}
	if len(code(p)) == 0 {
		return refuse(ReasonNoEffect, "it touches no code")
	}
	if r.o.Description == "" {
		r.o.Description = update.Line(p.Subject())
	}
	return nil
}

// prepare gets the tree, the architecture and the facts.
func (r *run) prepare(ctx context.Context) error {
	start := time.Now()
	tree, err := r.o.Builder.Prepare(ctx, r.o.Release, r.o.Version, r.o.Progress)
	if err != nil {
		return err
	}
	r.tree = tree
	r.report.Kernel, r.report.Banner, r.report.Tree, r.report.Reused = tree.Release, tree.Banner, time.Since(start), tree.Reused
	r.o.Say("kernel", fmt.Sprintf("%s (%s) by backend %s", tree.Release, tree.Banner, r.o.BackendName))
	again := " (next time: cached)"
	if tree.Reused {
		again = " (cached)"
	}
	r.o.Say("tree", "ready in "+seconds(r.report.Tree)+again)
	for _, b := range r.o.Base {
		if k := b.Manifest.Kernel; k.Release != tree.Release || k.Version != tree.Version {
			return refuse(ReasonKernel, fmt.Sprintf("update %s is for kernel %s (%s), not for %s (%s)", b.Manifest.ID, k.Release, k.Version, tree.Release, tree.Version))
		}
	}
	if r.arch, r.o.ArchInfo, err = r.o.Arch(tree.Machine); err != nil {
		return err
	}
	if r.buildID, err = r.o.Builder.BuildID(tree); err != nil {
		return err
	}
	if r.target, err = r.o.Builder.Target(ctx, tree, r.arch); err != nil {
		return err
	}
	r.flags = compilerFlags(r.target.Config)
	return r.addExternal()
}

// applyPatches computes the files before and after the patch. Lines that stay keep the numbers that they have in the tree: each
// patch applies to plain text, and what is compiled is stabilised against the tree.
func (r *run) applyPatches() error {
	plain := map[string][]byte{}
	r.after, r.edits = plain, map[string][]byte{}
	read := func(name string) ([]byte, error) {
		if b, ok := plain[name]; ok {
			if b == nil {
				return nil, os.ErrNotExist
			}
			return b, nil
		}
		return r.original(name)
	}
	r.post = maps.Clone(r.external)
	if r.post == nil {
		r.post = map[string][]byte{}
	}
	for i, p := range r.patches {
		if i == len(r.patches)-1 {
			r.pre, r.before = maps.Clone(r.post), maps.Clone(plain)
			if err := r.editedBase(); err != nil {
				return err
			}
		}
		changed, err := p.Apply(read)
		if err != nil {
			var hunk *patch.HunkError
			if errors.As(err, &hunk) || errors.Is(err, os.ErrNotExist) {
				of := r.tree.Banner
				if r.o.ModuleSource != "" {
					of = "the module in " + r.o.ModuleSource
				}
				return refuse(ReasonPatch, fmt.Sprintf("it does not apply to the source of %s: %v", of, err))
			}
			return err
		}
		for name, b := range changed {
			if err := r.put(name, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// editedBase makes pre what transform plugins left of the base's sources: that is what its parts were compiled from. The patch itself is for
// the sources as people have them, so that plugins edit them again after it.
func (r *run) editedBase() error {
	if len(r.o.Base) == 0 {
		return nil
	}
	last := r.o.Base[len(r.o.Base)-1]
	for _, e := range last.Manifest.Patch.Edits {
		text, err := r.stable(e.Path, last.Files[e.File])
		if err != nil {
			return err
		}
		r.before[e.Path], r.pre[e.Path] = last.Files[e.File], text
	}
	return nil
}

// keepEdits takes over what plugins left of the base's sources where the patch changes nothing: the update on this one has them as its pre.
func (r *run) keepEdits() {
	if len(r.o.Base) == 0 {
		return
	}
	touched := code(r.patches[len(r.patches)-1])
	last := r.o.Base[len(r.o.Base)-1]
	for _, e := range last.Manifest.Patch.Edits {
		if _, ok := r.edits[e.Path]; !ok && !slices.Contains(touched, e.Path) {
			r.edits[e.Path] = last.Files[e.File]
		}
	}
}

// put makes a text what a file is after the patch.
func (r *run) put(name string, text []byte) error {
	stable, err := r.stable(name, text)
	if err == nil {
		r.after[name], r.post[name] = text, stable
	}
	return err
}

// stable is a file's text with the line numbers that its lines have in the tree.
func (r *run) stable(name string, text []byte) ([]byte, error) {
	was, err := r.original(name)
	if text == nil || errors.Is(err, os.ErrNotExist) {
		return text, nil
	}
	if err == nil {
		text, err = patch.StabilizeLines(was, text, name)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return text, nil
}

// affected asks which units the patch reaches.
func (r *run) affected(ctx context.Context) error {
	p := r.patches[len(r.patches)-1]
	paths, added, removed := r.touched(), 0, 0
	for _, f := range p.Files {
		added, removed = added+f.Added, removed+f.Removed
	}
	asked := append(slices.Clone(paths), r.externalSources()...)
	for i, u := range r.o.Units {
		r.o.Units[i] = path.Clean(u)
		asked = append(asked, r.o.Units[i])
	}
	if err := r.checkRules(ctx); err != nil {
		return err
	}
	units, err := r.reached(ctx, asked)
	if err != nil {
		return err
	}
	if base := r.patches[:len(r.patches)-1]; len(base) > 0 && slices.ContainsFunc(paths, func(p string) bool { return !compiled(units, p) }) {
		// The tree does not say who includes what since the base: its files are looked at themselves.
		for _, b := range base {
			asked = append(asked, code(b)...)
		}
		if units, err = r.reached(ctx, asked); err != nil {
			return err
		}
	}
	if len(units) == 0 {
		return refuse(ReasonNotBuilt, fmt.Sprintf("this kernel builds nothing of what it touches (%s)", strings.Join(paths, ", ")))
	}
	for _, u := range r.o.Units {
		if !compiled(units, u) {
			return refuse(ReasonNotBuilt, fmt.Sprintf("this kernel compiles no %s, which --unit names: give a source file as the tree has it, for example fs/exec.c", u))
		}
	}
	if err := r.unbuilt(ctx, paths, units); err != nil {
		return err
	}
	for i := range units {
		r.units = append(r.units, &unit{Unit: units[i]})
	}
	r.sortUnits()
	r.report.Units = len(units)
	text := fmt.Sprintf("%s, +%d -%d: %s", count(len(p.Files), "file"), added, removed, count(len(units), "translation unit"))
	if slices.ContainsFunc(paths, isHeader) && len(units) > 1 {
		text += " (those that include the patched headers)"
	}
	r.o.Say("patch", text)
	return nil
}

// sortUnits puts the units in the order in which they travel; one object may be in several modules.
func (r *run) sortUnits() {
	slices.SortFunc(r.units, func(a, b *unit) int {
		return cmp.Or(strings.Compare(a.Object, b.Object), strings.Compare(a.Module, b.Module))
	})
}

// code lists the files of a patch that may change code.
func code(p *patch.Patch) []string {
	var out []string
	for _, f := range p.Files {
		for _, name := range f.Paths() {
			if c := patch.Classify(name).Class; c == patch.Source || c == patch.Header {
				out = append(out, name)
			}
		}
	}
	return out
}

func isHeader(file string) bool { return strings.HasSuffix(file, ".h") }

// compiled says that a file is the source of one of the units.
func compiled(units []backend.Unit, file string) bool {
	return slices.ContainsFunc(units, func(u backend.Unit) bool { return u.Source == file })
}

// unbuilt notes the patched files that this kernel makes nothing of, where it does of others.
func (r *run) unbuilt(ctx context.Context, paths []string, units []backend.Unit) error {
	if len(paths) < 2 {
		return nil
	}
	for _, p := range paths {
		if compiled(units, p) || isExternal(p) {
			continue
		}
		if _, err := os.Stat(filepath.Join(r.tree.Source, p)); isHeader(p) && errors.Is(err, os.ErrNotExist) {
			continue // a new one: only the patch's own files can include it
		}
		of, err := r.built(ctx, r.post, []string{p})
		if err != nil {
			return err
		}
		if len(of) == 0 {
			r.report.Notes = append(r.report.Notes, p+": this kernel builds nothing of it")
		}
	}
	return nil
}

// seconds writes a time for people: tenths matter only when it is short.
func seconds(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
