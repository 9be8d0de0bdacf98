package create

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/backend"
)

// unprovedError says that a part names symbols of which nothing would prove where they are: no code before the patch names them, and
// they are not exported.
type unprovedError struct {
	part, target string
	names        []string
}

func (e *unprovedError) Error() string {
	return fmt.Sprintf("only new code for %s names %s, and nothing proves where that is", e.target, strings.Join(e.names, ", "))
}

// unproved lists the symbols among a part's slots that core/bind could not solve.
func (r *run) unproved(target string, init bool, slots []update.Slot) (*unprovedError, error) {
	var names []string
	units := r.kept()
	called := codeNames(units, target, init)
	for i := range slots {
		s := &slots[i]
		if s.Kind != update.SlotSymbol && s.Kind != update.SlotKey || s.Name == "__this_module" || strings.HasPrefix(s.Name, "__SCT__") || called[s.Name] {
			continue
		}
		// What is defined in a unit that is matched is found with it.
		if s.Unit < 0 || units[s.Unit].pre.diff.File.Symbols[s.Symbol].Section == nil {
			names = append(names, s.Name)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	b, err := os.ReadFile(r.tree.Symvers)
	if err != nil {
		return nil, fmt.Errorf("read the exported symbols: %w", err)
	}
	exported := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		// CRC, name, module, kind (Documentation/kbuild/modules.rst)
		if f := strings.Fields(line); len(f) > 1 {
			exported[f[1]] = true
		}
	}
	names = slices.DeleteFunc(names, func(n string) bool {
		call, key := strings.CutPrefix(n, "__SCK__")
		return exported[n] || key && exported["__SCT__"+call] // the key of a static call goes by its trampoline
	})
	if len(names) == 0 {
		return nil, nil
	}
	slices.Sort(names)
	part := target
	if init {
		part += " before its init"
	}
	return &unprovedError{part, target, slices.Compact(names)}, nil
}

// codeNames are the undefined symbols that code of a target's units names before the patch, and the keys of its static branches and calls,
// which run's own tables tell by site. Data are not matched, so that what they name is not learned. With init that of a module is.
func codeNames(units []*unit, target string, init bool) map[string]bool {
	names := map[string]bool{}
	for _, u := range units {
		if u.target() != target {
			continue
		}
		f, desc := u.pre.diff.File, u.pre.diff.Desc
		learn := func(section, symbol uint32) {
			s := f.Sections[section]
			if y := f.Symbols[symbol]; y.Section == nil && s.Flags&elf.SHF_EXECINSTR != 0 && (!match.Discarded(s.Name) || init && match.Init(s.Name)) {
				names[y.Name] = true
			}
		}
		for i := range desc.Refs {
			learn(desc.Refs[i].Section, desc.Refs[i].Symbol)
		}
		for _, site := range desc.Sites {
			if site.Key >= 0 {
				learn(site.Section, desc.Refs[site.Key].Symbol)
			}
		}
	}
	return names
}

// maxDefiners bounds the units that are compiled to find a symbol.
const maxDefiners = 8

// prove finds the units that define what a part names, and takes them along to be matched. What is not found stays for apply to refuse.
func (r *run) prove(ctx context.Context, missing *unprovedError) error {
	r.stage("search")
	for _, name := range missing.names {
		if slices.ContainsFunc(r.units, func(u *unit) bool { return u.target() == missing.target && u.defines(name) }) {
			continue
		}
		found, err := r.definer(ctx, missing.target, name)
		if err != nil {
			return err
		}
		if found == nil {
			r.report.Notes = append(r.report.Notes, fmt.Sprintf("%s: only new code names it, it is not exported, and no unit of %s was found that defines it: name one (--unit)", name, missing.target))
			continue
		}
		r.units = append(r.units, found)
		r.o.Units = append(r.o.Units, found.Source)
		r.o.Say("match too", fmt.Sprintf("%s, which defines %s", found.Source, name))
	}
	r.sortUnits()
	return nil
}

func (u *unit) target() string { return targetOf(u.Unit) }

func targetOf(u backend.Unit) string {
	if u.Module == "" {
		return vmlinux
	}
	return u.Module
}

// defines says that the unit has a global symbol of the name before the patch.
func (u *unit) defines(name string) bool {
	y := u.pre.diff.File.Symbol(name)
	return y != nil && y.Section != nil && y.Bind != elf.STB_LOCAL
}

// definer finds the unit of a target that defines a symbol: in what the base changed, near what the patch changes, then everywhere.
func (r *run) definer(ctx context.Context, target, name string) (*unit, error) {
	tried := map[string]bool{}
	for _, list := range []func(string) ([]string, error){r.based, r.nearby, r.everywhere} {
		files, err := list(name)
		if err != nil {
			return nil, err
		}
		files = slices.DeleteFunc(files, func(f string) bool { return tried[f] })
		for _, f := range files {
			tried[f] = true
		}
		if len(files) == 0 {
			continue
		}
		units, err := r.built(ctx, r.pre, files)
		if err != nil {
			return nil, err
		}
		units = slices.DeleteFunc(units, func(u backend.Unit) bool {
			x := &unit{Unit: u}
			return x.target() != target || slices.ContainsFunc(r.units, func(o *unit) bool { return o.Unit == u })
		})
		for _, u := range units[:min(len(units), maxDefiners)] {
			x := &unit{Unit: u}
			if err := r.compileGroup(ctx, []*unit{x}); err != nil {
				return nil, err
			}
			if !x.defines(name) {
				continue
			}
			if err := r.describe(ctx, []*unit{x}); err != nil {
				return nil, err
			}
			x.pre.diff.Name, x.post.diff.Name = x.Object, x.Object
			if x.result, err = diff.Compare(x.pre.diff, x.post.diff); err != nil {
				return nil, fmt.Errorf("%s: %w", x.Object, err)
			}
			if x.differs(false) {
				return nil, nil // it includes what the patch changes, and would have been found
			}
			return x, nil
		}
	}
	return nil, nil
}

// based lists the sources that the base changed or brought and that may define a symbol.
func (r *run) based(name string) ([]string, error) {
	var out []string
	for _, file := range slices.Sorted(maps.Keys(r.pre)) {
		if r.pre[file] != nil && strings.HasSuffix(file, ".c") && r.mayDefine(file, name) {
			out = append(out, file)
		}
	}
	return out, nil
}

// nearby lists the sources beside the changed ones that may define a symbol.
func (r *run) nearby(name string) ([]string, error) {
	seen := map[string]bool{}
	var out []string
	for _, u := range r.units {
		dir := path.Dir(u.Source)
		if !u.differs(false) && !u.differs(true) || seen[dir] {
			continue
		}
		seen[dir] = true
		if isExternal(u.Source) {
			continue // all that it has is compiled
		}
		entries, err := os.ReadDir(filepath.Join(r.tree.Source, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a directory may be the patch's own
			return nil, fmt.Errorf("search for %s: %w", name, err)
		}
		for _, e := range entries {
			if file := path.Join(dir, e.Name()); strings.HasSuffix(file, ".c") && r.mayDefine(file, name) {
				out = append(out, file)
			}
		}
	}
	return out, nil
}

// elsewhere are directories of the kernel's source without units of its.
var elsewhere = []string{"Documentation", "tools", "scripts", "samples", ".git"}

// everywhere lists all sources that may define a symbol.
func (r *run) everywhere(name string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(r.tree.Source, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(r.tree.Source, file)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains(elsewhere, rel) || path.Dir(rel) == "arch" && path.Base(rel) != r.tree.Arch {
				return fs.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(rel, ".c") && d.Type().IsRegular() && r.mayDefine(rel, name) {
			out = append(out, rel)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("search for %s: %w", name, err)
	}
	return out, nil
}

// mayDefine says that a line of a source which begins at its left edge has the name in it, as those of definitions do.
func (r *run) mayDefine(file, name string) bool {
	text, ok := r.pre[file]
	if !ok {
		// One that cannot be read defines nothing.
		text, _ = os.ReadFile(filepath.Join(r.tree.Source, file))
	}
	if !bytes.Contains(text, []byte(name)) {
		return false
	}
	word := regexp.MustCompile(`\b` + regexp.QuoteMeta(name) + `\b`)
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		line := s.Bytes()
		if len(line) == 0 || !(line[0] == '_' || line[0]|0x20 >= 'a' && line[0]|0x20 <= 'z') || bytes.HasPrefix(line, []byte("extern")) {
			continue
		}
		if word.Match(line) {
			return true
		}
	}
	return false
}
