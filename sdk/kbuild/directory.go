package kbuild

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/ksplice/ksplice/sdk/backend"
)

// directory is what one kbuild directory builds, evaluated with the configuration. All names are relative to the root.
type directory struct {
	Subdirs []subdir `json:"subdirs,omitempty"`
	// Builtin are the objects of the kernel proper, Lib those of its libraries.
	Builtin []string `json:"builtin,omitempty"`
	Lib     []string `json:"lib,omitempty"`
	// Modules are the modules made here: each object and its parts, or itself.
	Modules []module `json:"modules,omitempty"`
}

// subdir is a directory that kbuild descends into. Builtin and Modular say whether what is found there goes into the
// kernel proper, and whether modules are made there (need-builtin, need-modorder of scripts/Makefile.build).
type subdir struct {
	Path    string `json:"path"`
	Builtin bool   `json:"builtin,omitempty"`
	Modular bool   `json:"modular,omitempty"`
}

type module struct {
	Object string   `json:"object"`
	Parts  []string `json:"parts"`
}

// name is the module's name as the kernel says it.
func (m module) name() string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(m.Object), ".o"), "-", "_")
}

// unitsMakefile is read by make before scripts/Makefile.build, which has computed these variables when the recipe
// is expanded. A module's object with any of the three suffixes is composite (scripts/Makefile.lib:suffix-search).
const unitsMakefile = `.PHONY: ksplice-units
ksplice-units:
	@:$(foreach d,$(subdir-ym),$(info subdir $d $(if $(filter $d/built-in.a,$(subdir-builtin)),1,0) $(if $(filter $d/modules.order,$(subdir-modorder)),1,0)))\
	$(foreach o,$(filter %.o,$(real-obj-y)),$(info builtin $o))\
	$(foreach o,$(filter %.o,$(lib-y)),$(info lib $o))\
	$(foreach m,$(filter %.o,$(obj-m)),$(info module $m $(addprefix $(obj)/,$(foreach s,-objs -y -m,$($(patsubst $(obj)/%.o,%,$m)$s)))))
`

// directories evaluates kbuild directories of a tree or a work tree and remembers them.
type directories struct {
	t      *Tree
	dir    string // where make runs
	env    []string
	mu     sync.Mutex
	known  map[subdir]*directory
	libs   map[string]bool // directories whose libraries go into the kernel proper
	dirty  bool
	shared bool // what is learned holds for the tree itself
}

// directories prepares to evaluate in work. Who is done calls save, so that what was learned is remembered.
func (t *Tree) directories(work string) (*directories, error) {
	mk, err := t.makefile(unitsMakefile)
	if err != nil {
		return nil, fmt.Errorf("evaluate makefiles: %w", err)
	}
	d := &directories{t: t, dir: work, env: t.env.at(work, map[string]string{"MAKEFILES": mk}), known: map[subdir]*directory{}, libs: map[string]bool{}, shared: work == t.Root()}
	for _, dir := range strings.Fields(t.env["ARCH_LIB"] + " " + t.env["KBUILD_VMLINUX_LIBS"]) {
		d.libs[path.Clean(strings.TrimSuffix(dir, "lib.a"))] = true
	}
	if d.shared {
		d.load()
	}
	return d, nil
}

const directoriesName = "directories.json"

// evaluated is one entry of directories.json.
type evaluated struct {
	subdir
	Directory *directory `json:"directory"`
}

func (d *directories) load() {
	b, err := os.ReadFile(d.t.state(directoriesName))
	if err != nil {
		return
	}
	var list []evaluated
	if json.Unmarshal(b, &list) != nil {
		return // made again
	}
	for _, e := range list {
		d.known[e.subdir] = e.Directory
	}
}

func (d *directories) save() {
	if !d.dirty || !d.shared {
		return
	}
	var list []evaluated
	for s, dir := range d.known {
		list = append(list, evaluated{s, dir})
	}
	if b, err := json.Marshal(list); err == nil {
		// Losing it costs time only.
		_ = writeFile(d.t.state(directoriesName), b)
	}
}

// evaluate has make read one directory's makefile.
func (d *directories) evaluate(ctx context.Context, s subdir) (*directory, error) {
	d.mu.Lock()
	dir, ok := d.known[s]
	d.mu.Unlock()
	if ok {
		return dir, nil
	}
	argv := []string{"make", "-s", "-f", "scripts/Makefile.build", "obj=" + s.Path, "need-builtin=" + flag(s.Builtin), "need-modorder=" + flag(s.Modular), "ksplice-units"}
	out, err := run(ctx, command{dir: d.dir, env: d.env, argv: argv})
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, failure("evaluate the makefile of "+s.Path, out, err)
	}
	dir = parseDirectory(string(out.stdout), s, d.libs[s.Path])
	d.mu.Lock()
	d.known[s], d.dirty = dir, true
	d.mu.Unlock()
	return dir, nil
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return ""
}

// parseDirectory reads what unitsMakefile prints. lib says that the directory's library goes into the kernel proper.
func parseDirectory(text string, s subdir, lib bool) *directory {
	d := &directory{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		name := path.Clean(f[1])
		switch {
		case f[0] == "subdir" && len(f) == 4:
			d.Subdirs = append(d.Subdirs, subdir{name, s.Builtin && f[2] == "1", s.Modular && f[3] == "1"})
		case f[0] == "builtin" && s.Builtin:
			d.Builtin = append(d.Builtin, name)
		case f[0] == "lib" && lib:
			d.Lib = append(d.Lib, name)
		case f[0] == "module" && s.Modular:
			m := module{Object: name}
			for _, p := range f[2:] {
				m.Parts = append(m.Parts, path.Clean(p))
			}
			if len(m.Parts) == 0 {
				m.Parts = []string{name}
			}
			d.Modules = append(d.Modules, m)
		}
	}
	return d
}

// top is where kbuild begins.
var top = subdir{".", true, true}

// chain evaluates the directories on the way from the top to a file, and those below them that lie on it.
func (d *directories) chain(ctx context.Context, file string) ([]*directory, error) {
	var list []*directory
	todo := []subdir{top}
	for len(todo) > 0 {
		s := todo[0]
		todo = todo[1:]
		dir, err := d.evaluate(ctx, s)
		if err != nil {
			return nil, err
		}
		list = append(list, dir)
		for _, sub := range dir.Subdirs {
			if strings.HasPrefix(file, sub.Path+"/") {
				todo = append(todo, sub)
			}
		}
	}
	return list, nil
}

// all evaluates every directory of the kernel.
func (d *directories) all(ctx context.Context, jobs int, step func(done int)) ([]*directory, error) {
	var list []*directory
	level := []subdir{top}
	seen := map[subdir]bool{top: true}
	for len(level) > 0 {
		dirs := make([]*directory, len(level))
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(jobs)
		for i, s := range level {
			g.Go(func() (err error) {
				dirs[i], err = d.evaluate(gctx, s)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		list = append(list, dirs...)
		step(len(list))
		level = nil
		for _, dir := range dirs {
			for _, s := range dir.Subdirs {
				if !seen[s] {
					seen[s] = true
					level = append(level, s)
				}
			}
		}
	}
	return list, nil
}

// units lists the units among objects that these directories build; wanted nil means all. source gives what an object is
// compiled from; objects without are left out.
func units(dirs []*directory, wanted map[string]bool, source func(object string) string) []backend.Unit {
	var list []backend.Unit
	add := func(object, mod string) {
		if wanted != nil && !wanted[object] {
			return
		}
		if s := source(object); s != "" {
			list = append(list, backend.Unit{Source: s, Object: object, Module: mod})
		}
	}
	for _, d := range dirs {
		for _, o := range append(d.Builtin, d.Lib...) {
			add(o, "")
		}
		for _, m := range d.Modules {
			for _, o := range m.Parts {
				add(o, m.name())
			}
		}
	}
	return list
}
