package conformance

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// BackendFixtures are what the suite asks a backend about. Without Release the checks that need a kernel say so in Check.Needs.
type BackendFixtures struct {
	// Release is a kernel that the backend can build, as `uname -r` prints it.
	Release string
	// CacheDir is where the backend keeps its trees; empty: a directory of the test.
	CacheDir string
	// Source is a source file of that kernel that is a unit of its own, and Header one that some unit includes.
	Source, Header string
	// Config is given in Configure.
	Config map[string]string
}

// Backend are the checks of a backend; dir is theirs to write to.
func Backend(b backend.Backend, fix BackendFixtures, dir string) []Check {
	s := &backendSuite{Backend: b, fix: fix, root: dir}
	if fix.CacheDir == "" {
		s.fix.CacheDir = s.dir()
	}
	builds := bounded(s.buildChecks(), buildTimeout)
	if fix.Release == "" {
		builds = lacking(builds, "a kernel")
	}
	return append(bounded(s.checks(), checkTimeout), builds...)
}

type backendSuite struct {
	backend.Backend
	fix  BackendFixtures
	root string // below which each directory is made
	dirs int
	tree *backend.Tree
	unit backend.Unit
}

// dir makes a directory. Whoever uses one that cannot be made says so.
func (s *backendSuite) dir() string {
	s.dirs++
	dir := filepath.Join(s.root, strconv.Itoa(s.dirs))
	_ = os.MkdirAll(dir, 0o700)
	return dir
}

func (s *backendSuite) checks() []check {
	return append(baseChecks(plugin.KindBackend, s.Backend, s.fix.Config),
		check{"probe unknown kernels", s.probeUnknown},
		check{"prepare unknown kernels", s.prepareUnknown},
		check{"garbage", s.garbage},
		check{"cancel", s.cancel},
	)
}

func (s *backendSuite) buildChecks() []check {
	return []check{
		{"probe", s.probe},
		{"prepare", s.prepare},
		{"units", s.units},
		{"compile", s.compile},
		{"compile errors", s.compileErrors},
		{"facts", s.factsOf},
	}
}

// unknown are releases that nobody has.
var unknown = []string{"", "0.0.0", "6.1.0-sdktest-no-such-kernel", "../../etc/passwd", "6.1.0-1-amd64; reboot", "-rf", "6.1.0\n-56", "\x00"}

func (s *backendSuite) probeUnknown(ctx context.Context) error {
	var errs []error
	for _, release := range unknown {
		resp, err := s.Probe(ctx, &backend.ProbeRequest{Release: release})
		switch {
		case err != nil:
			errs = append(errs, noPanic(fmt.Sprintf("Probe of %q", release), err))
		case resp.Supported:
			errs = append(errs, fmt.Errorf("the kernel %q is supported, as %q", release, resp.Banner))
		}
	}
	return errors.Join(errs...)
}

func (s *backendSuite) prepareUnknown(ctx context.Context) error {
	var errs []error
	for _, release := range unknown {
		_, err := s.Prepare(ctx, &backend.PrepareRequest{Release: release, CacheDir: s.fix.CacheDir}, nil)
		errs = append(errs, diagnostic(fmt.Sprintf("Prepare of %q", release), err))
	}
	return errors.Join(errs...)
}

// garbage asks for work in trees that are none.
func (s *backendSuite) garbage(ctx context.Context) error {
	var errs []error
	dir := s.dir()
	for name, tree := range map[string]*backend.Tree{
		"no tree": {},
		"an empty directory": {ID: "1", Root: dir, Source: dir, Build: dir, Release: "0.0.0", Machine: 1,
			Config: filepath.Join(dir, ".config"), Symvers: filepath.Join(dir, "Module.symvers")},
	} {
		unit := backend.Unit{Source: "a/b.c", Object: "a/b.o"}
		resp, err := s.Compile(ctx, &backend.CompileRequest{Tree: tree, WorkDir: s.dir(), Units: []backend.Unit{unit}}, nil)
		if err == nil && resp.Results[0].Object == "" && len(resp.Results[0].Diagnostics) == 0 {
			errs = append(errs, fmt.Errorf("a compilation in %s gives neither an object nor a diagnostic", name))
		}
		if err == nil && resp.Results[0].Object != "" {
			errs = append(errs, fmt.Errorf("a compilation in %s gives %s", name, resp.Results[0].Object))
		}
		errs = append(errs, noPanic("Compile in "+name, err))
		_, err = s.Link(ctx, &backend.LinkRequest{Tree: tree, WorkDir: s.dir(), Name: "x"}, nil)
		errs = append(errs, diagnostic("Link in "+name, err))
		_, err = s.Facts(ctx, &backend.FactsRequest{Tree: tree, WorkDir: s.dir(), Expressions: []arch.FactExpression{{Name: "int", Expression: "sizeof(int)"}}})
		errs = append(errs, diagnostic("Facts in "+name, err))
		_, err = s.Units(ctx, &backend.UnitsRequest{Tree: tree, Sources: []string{"a/b.c"}})
		errs = append(errs, noPanic("Units in "+name, err))
	}
	return errors.Join(errs...)
}

// cancel gives a call up before it has begun and while it runs.
func (s *backendSuite) cancel(ctx context.Context) error {
	for i := range 6 {
		err := givenUp(ctx, s.Backend, i, func(ctx context.Context) error {
			_, err := s.Prepare(ctx, &backend.PrepareRequest{Release: "6.1.0-sdktest-no-such-kernel", CacheDir: s.fix.CacheDir}, nil)
			return err
		})
		var d *plugin.Diagnostic
		if err != nil && !errors.As(err, &d) {
			return err
		}
	}
	_, err := s.Info(ctx)
	return err
}

func (s *backendSuite) probe(ctx context.Context) error {
	first, err := s.Probe(ctx, &backend.ProbeRequest{Release: s.fix.Release})
	if err != nil {
		return err
	}
	if !first.Supported {
		return fmt.Errorf("the fixtures' kernel %s is not supported: %s", s.fix.Release, first.Reason)
	}
	second, err := s.Probe(ctx, &backend.ProbeRequest{Release: s.fix.Release})
	if err != nil {
		return err
	}
	return same("Probe", first, second)
}

func (s *backendSuite) prepare(ctx context.Context) error {
	req := &backend.PrepareRequest{Release: s.fix.Release, CacheDir: s.fix.CacheDir}
	var bad error
	first, err := s.Prepare(ctx, req, func(p plugin.Progress) {
		if p.Stage == "" || p.Total != 0 && p.Done > p.Total {
			bad = fmt.Errorf("the progress event %+v makes no sense", p)
		}
	})
	if err != nil {
		return err
	}
	second, err := s.Prepare(ctx, req, nil)
	if err != nil {
		return fmt.Errorf("prepare again: %w", err)
	}
	if !second.Reused {
		bad = errors.Join(bad, errors.New("a second Prepare of the same kernel makes the tree again"))
	}
	s.tree = second
	a, b := *first, *second
	a.Reused, b.Reused = false, false
	files := []string{filepath.Join(a.Source, "Makefile"), a.Config, a.Symvers}
	if a.Image != "" {
		files = append(files, a.Image)
	}
	for _, file := range files {
		if _, err := os.Stat(file); err != nil {
			bad = errors.Join(bad, fmt.Errorf("the tree is not complete: %w", err))
		}
	}
	return errors.Join(bad, same("Prepare", a, b))
}

// ready says why there is no tree to work with.
func (s *backendSuite) ready() error {
	if s.tree == nil {
		return errors.New("there is no tree, see prepare")
	}
	return nil
}

func (s *backendSuite) units(ctx context.Context) error {
	if err := s.ready(); err != nil {
		return err
	}
	resp, err := s.Units(ctx, &backend.UnitsRequest{Tree: s.tree, Sources: []string{s.fix.Source}})
	if err != nil {
		return err
	}
	if len(resp.Units) != 1 {
		return fmt.Errorf("%d units for %s: %+v", len(resp.Units), s.fix.Source, resp.Units)
	}
	s.unit = resp.Units[0]
	again, err := s.Units(ctx, &backend.UnitsRequest{Tree: s.tree, Sources: []string{s.fix.Source}})
	if err != nil {
		return err
	}
	if err := same("Units", resp, again); err != nil {
		return err
	}
	if resp, err = s.Units(ctx, &backend.UnitsRequest{Tree: s.tree, Sources: []string{"sdktest/no/such/file.c"}}); err != nil {
		return fmt.Errorf("units of a file that does not exist: %w", err)
	} else if len(resp.Units) > 0 {
		return fmt.Errorf("a file that does not exist has the units %v", resp.Units)
	}
	if s.fix.Header == "" {
		return nil
	}
	if resp, err = s.Units(ctx, &backend.UnitsRequest{Tree: s.tree, Sources: []string{s.fix.Header}}); err != nil {
		return fmt.Errorf("units that include %s: %w", s.fix.Header, err)
	} else if len(resp.Units) == 0 {
		return fmt.Errorf("no unit includes %s", s.fix.Header)
	}
	return nil
}

// work copies the tree by links, as a host does.
func (s *backendSuite) work() (string, error) {
	dir := s.dir()
	err := filepath.WalkDir(s.tree.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.tree.Root, path)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(to, 0o755)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, to)
		}
		if err := os.Link(path, to); err != nil {
			return os.Symlink(path, to) // another file system
		}
		return nil
	})
	return dir, err
}

func (s *backendSuite) compileIn(ctx context.Context, work string, units ...backend.Unit) (*backend.CompileResponse, error) {
	return s.Compile(ctx, &backend.CompileRequest{
		Tree: s.tree, WorkDir: work, Units: units, ExtraFlags: []string{"-ffunction-sections", "-fdata-sections"},
	}, nil)
}

func (s *backendSuite) compile(ctx context.Context) error {
	if err := s.ready(); err != nil {
		return err
	}
	work, err := s.work()
	if err != nil {
		return err
	}
	var objects [2][]byte
	for i := range objects {
		resp, err := s.compileIn(ctx, work, s.unit)
		if err != nil {
			return err
		}
		r := resp.Results[0]
		if r.Object == "" {
			return fmt.Errorf("%s does not compile: %+v", s.unit.Source, r.Diagnostics)
		}
		if objects[i], err = os.ReadFile(r.Object); err != nil {
			return err
		}
		f, err := elf.Open(r.Object)
		if err != nil {
			return err
		}
		if f.Type != elf.ET_REL || uint16(f.Machine) != s.tree.Machine {
			return fmt.Errorf("%s is %s for machine %d", r.Object, f.Type, f.Machine)
		}
		f.Close()
		if len(r.Includes) == 0 || r.Command == "" {
			return fmt.Errorf("the result names %d included files and the command %q", len(r.Includes), r.Command)
		}
	}
	if string(objects[0]) != string(objects[1]) {
		return fmt.Errorf("%s compiles to two different objects", s.unit.Source)
	}
	return nil
}

func (s *backendSuite) compileErrors(ctx context.Context) error {
	if err := s.ready(); err != nil {
		return err
	}
	work, err := s.work()
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(s.tree.Root, filepath.Join(s.tree.Source, s.unit.Source))
	if err != nil {
		return err
	}
	path := filepath.Join(work, rel)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil { // a link to the tree's own
		return err
	}
	if err := os.WriteFile(path, append(text, "\nint sdktest(void) { return sdktest_no_such_thing; }\n"...), 0o644); err != nil {
		return err
	}
	resp, err := s.compileIn(ctx, work, s.unit)
	if err != nil {
		return diagnostic("Compile of a source with an error", err)
	}
	r := resp.Results[0]
	if r.Object != "" || len(r.Diagnostics) == 0 {
		return fmt.Errorf("a source with an error gives the object %q and %d diagnostics", r.Object, len(r.Diagnostics))
	}
	return nil
}

func (s *backendSuite) factsOf(ctx context.Context) error {
	if err := s.ready(); err != nil {
		return err
	}
	resp, err := s.Facts(ctx, &backend.FactsRequest{Tree: s.tree, WorkDir: s.dir(), Expressions: []arch.FactExpression{
		{Name: "list", Includes: []string{"linux/list.h"}, Expression: "sizeof(struct list_head)"},
		{Name: "negative", Expression: "-5"},
		{Name: "never", Includes: []string{"no/such/header.h"}, Expression: "sizeof(struct none)", If: "CONFIG_SDKTEST_NO_SUCH_OPTION"},
	}})
	if err != nil {
		return err
	}
	if resp.Facts["list"] <= 0 || resp.Facts["negative"] != -5 || len(resp.Facts) != 2 {
		return fmt.Errorf("the facts are %v", resp.Facts)
	}
	_, err = s.Facts(ctx, &backend.FactsRequest{Tree: s.tree, WorkDir: s.dir(), Expressions: []arch.FactExpression{
		{Name: "wrong", Expression: "sizeof(struct sdktest_no_such_thing)"},
	}})
	return diagnostic("Facts of a type that does not exist", err)
}
