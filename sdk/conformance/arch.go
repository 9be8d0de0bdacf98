package conformance

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// ArchFixtures are what the suite asks an architecture plugin about. Without Objects the checks that need some say so in Check.Needs.
type ArchFixtures struct {
	// Target is the kernel that the objects were built for, with the facts that the plugin asks for.
	Target arch.Target
	// Objects are paths of relocatable objects, with at least one function of eight bytes or more. Units of a kernel that has what the plugin
	// knows (alternatives, static keys, tracing) say most.
	Objects []string
	// Config is given in Configure.
	Config map[string]string
}

// Arch are the checks of an architecture plugin; dir is theirs to write to. It is an error when an object cannot be read.
func Arch(a arch.Arch, fix ArchFixtures, dir string) ([]Check, error) {
	s, err := newArchSuite(a, fix, dir)
	if err != nil {
		return nil, err
	}
	about := bounded(s.objectChecks(), checkTimeout)
	if len(fix.Objects) == 0 {
		about = lacking(about, "objects")
	}
	return append(bounded(s.checks(), checkTimeout), about...), nil
}

// archSuite is the suite for one plugin.
type archSuite struct {
	arch.Arch
	fix   ArchFixtures
	files []plugin.File
	data  [][]byte
	dir   string

	sample plugin.File // the first of files, or where there is none a file that is no object
	bytes  []byte      // its content
}

func newArchSuite(a arch.Arch, fix ArchFixtures, dir string) (*archSuite, error) {
	s := &archSuite{Arch: a, fix: fix, dir: dir}
	for _, path := range fix.Objects {
		f, err := plugin.NewFile(path)
		if err != nil {
			return nil, err
		}
		b, err := f.Read()
		if err != nil {
			return nil, err
		}
		s.files, s.data = append(s.files, f), append(s.data, b)
	}
	s.bytes = []byte("no object, but the fixtures name none either\n")
	if len(s.files) > 0 {
		s.sample, s.bytes = s.files[0], s.data[0]
		return s, nil
	}
	var err error
	s.sample, err = s.write("sample", s.bytes)
	return s, err
}

func (s *archSuite) checks() []check {
	return append(baseChecks(plugin.KindArch, s.Arch, s.fix.Config),
		check{"machine", s.machine},
		check{"facts", s.facts},
		check{"describe garbage", s.describeGarbage},
	)
}

func (s *archSuite) objectChecks() []check {
	return []check{
		{"describe", s.describe},
		{"describe a batch", s.describeBatch},
		{"describe at once", s.describeAtOnce},
		{"match itself", s.matchItself},
		{"match other bytes", s.matchOther},
		{"match a batch", s.matchBatch},
		{"match garbage", s.matchGarbage},
		{"fixup", s.fixup},
		{"redirect", s.redirect},
		{"cancel", s.cancel},
	}
}

func (s *archSuite) machine(ctx context.Context) error {
	info, err := s.Info(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(info.Machines, s.fix.Target.Machine) {
		return fmt.Errorf("it serves the ELF machines %v, not the fixtures' %d", info.Machines, s.fix.Target.Machine)
	}
	target := s.fix.Target
	target.Machine = 0xfeed
	_, err = s.Arch.Describe(ctx, &arch.DescribeRequest{Target: target, Objects: []plugin.File{s.sample}})
	return diagnostic("Describe for a machine that it does not serve", err)
}

func (s *archSuite) facts(ctx context.Context) error {
	source, ok := s.Arch.(arch.FactSource)
	if !ok {
		return nil
	}
	first, err := source.FactExpressions(ctx)
	if err != nil {
		return err
	}
	second, err := source.FactExpressions(ctx)
	if err != nil {
		return err
	}
	var missing []string
	for _, f := range first {
		if _, ok := s.fix.Target.Facts[f.Name]; !ok && f.If == "" {
			missing = append(missing, f.Name)
		}
	}
	if len(s.files) == 0 {
		return same("FactExpressions", first, second)
	}
	if len(missing) > 0 {
		err = fmt.Errorf("the fixtures lack the facts %s, so that the rest of the suite asks what no host asks", strings.Join(missing, ", "))
	}
	// Without facts: an answer or a diagnostic.
	target := s.fix.Target
	target.Facts = nil
	_, none := s.Arch.Describe(ctx, &arch.DescribeRequest{Target: target, Objects: s.files})
	return errors.Join(err, same("FactExpressions", first, second), noPanic("Describe without facts", none))
}

// descriptionOf asks about one object.
func (s *archSuite) descriptionOf(ctx context.Context, f plugin.File) (*arch.ObjectDescription, error) {
	resp, err := s.Arch.Describe(ctx, &arch.DescribeRequest{Target: s.fix.Target, Objects: []plugin.File{f}})
	if err != nil {
		return nil, fmt.Errorf("describe %s: %w", f.Path, err)
	}
	if len(resp.Objects) != 1 {
		return nil, fmt.Errorf("describe %s: %d descriptions for one object", f.Path, len(resp.Objects))
	}
	return &resp.Objects[0], nil
}

func (s *archSuite) describe(ctx context.Context) error {
	functions := 0
	for i, f := range s.files {
		first, err := s.descriptionOf(ctx, f)
		if err != nil {
			return err
		}
		second, err := s.descriptionOf(ctx, f)
		if err != nil {
			return err
		}
		if err := errors.Join(same("Describe "+f.Path, first, second), fits(first, s.data[i])); err != nil {
			return fmt.Errorf("describe %s: %w", f.Path, err)
		}
		functions += len(first.Functions)
	}
	if functions == 0 {
		return fmt.Errorf("it finds no function in any of the %d objects", len(s.files))
	}
	return nil
}

// fits compares a description with what the ELF file says.
func fits(d *arch.ObjectDescription, data []byte) error {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("read the fixture: %w", err)
	}
	symbols, err := f.Symbols()
	if err != nil {
		return fmt.Errorf("read the fixture: %w", err)
	}
	symbol := func(n uint32) *elf.Symbol { // Symbols leaves entry 0 out
		if n == 0 || uint64(n) > uint64(len(symbols)) {
			return nil
		}
		return &symbols[n-1]
	}
	within := func(section uint32, at, length uint64) bool {
		if section == 0 || uint64(section) >= uint64(len(f.Sections)) {
			return false
		}
		size := f.Sections[section].Size
		return at <= size && length <= size-at
	}
	var errs []error
	fail := func(format string, args ...any) {
		if len(errs) < 10 {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	for _, fn := range d.Functions {
		y := symbol(fn.Symbol)
		switch {
		case y == nil:
			fail("function %q has symbol %d of %d", fn.Name, fn.Symbol, len(symbols))
		case y.Name != fn.Name || y.Value != fn.Offset || uint32(y.Section) != fn.Section && y.Section < elf.SHN_LORESERVE:
			fail("function %q at section %d offset %#x: its symbol %d is %q at section %d offset %#x",
				fn.Name, fn.Section, fn.Offset, fn.Symbol, y.Name, y.Section, y.Value)
		case !within(fn.Section, fn.Offset, fn.Size):
			fail("function %q of %d bytes at %#x is not inside section %d", fn.Name, fn.Size, fn.Offset, fn.Section)
		case f.Sections[fn.Section].Flags&elf.SHF_EXECINSTR == 0:
			fail("function %q lies in section %d, which is not executable", fn.Name, fn.Section)
		}
	}
	for _, r := range d.Refs {
		if !within(r.Section, r.At, uint64(r.Size)) || uint64(r.Symbol) > uint64(len(symbols)) {
			fail("the reference to symbol %d at section %d offset %#x is outside", r.Symbol, r.Section, r.At)
		}
	}
	for _, b := range d.Branches {
		if !within(b.Section, b.At, uint64(b.Length)) || !within(b.Section, b.Target, 0) {
			fail("the branch at section %d offset %#x to %#x is outside", b.Section, b.At, b.Target)
		}
	}
	for _, x := range d.Sites {
		if !within(x.Section, x.At, x.Length) {
			fail("the %s site of %d bytes at section %d offset %#x is outside", x.Kind, x.Length, x.Section, x.At)
		}
	}
	for _, e := range d.Entries {
		if !within(e.Table, e.At, e.Size) || e.Owner != 0 && !within(e.Owner, e.OwnerOffset, e.OwnerLength) {
			fail("the table entry at section %d offset %#x, owned by section %d offset %#x, is outside", e.Table, e.At, e.Owner, e.OwnerOffset)
		}
	}
	return errors.Join(errs...)
}

func (s *archSuite) describeBatch(ctx context.Context) error {
	// Every object twice, in two orders: the answer has the request's order.
	batch := slices.Concat(s.files, s.files)
	slices.Reverse(batch[:len(s.files)])
	resp, err := s.Arch.Describe(ctx, &arch.DescribeRequest{Target: s.fix.Target, Objects: batch})
	if err != nil {
		return err
	}
	for i, f := range batch {
		alone, err := s.descriptionOf(ctx, f)
		if err != nil {
			return err
		}
		if err := same(fmt.Sprintf("object %d of a batch and %s alone", i, f.Path), resp.Objects[i], *alone); err != nil {
			return err
		}
	}
	none, err := s.Arch.Describe(ctx, &arch.DescribeRequest{Target: s.fix.Target})
	if err != nil {
		return fmt.Errorf("an empty batch: %w", err)
	}
	if len(none.Objects) != 0 {
		return fmt.Errorf("an empty batch has the objects %v", none.Objects)
	}
	return nil
}

func (s *archSuite) describeAtOnce(ctx context.Context) error {
	want, err := s.Arch.Describe(ctx, &arch.DescribeRequest{Target: s.fix.Target, Objects: s.files})
	if err != nil {
		return err
	}
	var wait sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wait.Go(func() {
			got, err := s.Arch.Describe(ctx, &arch.DescribeRequest{Target: s.fix.Target, Objects: s.files})
			if err == nil {
				err = same("Describe, eight calls at once", want, got)
			}
			errs[i] = err
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// garbage calls ask with files that no plugin can use, and with some that only a careless one falls over.
func (s *archSuite) garbage(what string, ask func(plugin.File) error) error {
	good := s.sample
	must := map[string]plugin.File{
		"a missing file":       {Path: filepath.Join(s.dir, "missing.o"), SHA256: strings.Repeat("0", 64)},
		"a wrong digest":       {Path: good.Path, SHA256: strings.Repeat("0", 64)},
		"a directory":          {Path: s.dir, SHA256: strings.Repeat("0", 64)},
		"no path":              {},
		"a relative path":      {Path: "a.o", SHA256: good.SHA256[1:] + "0"},
		"another file's bytes": {Path: good.Path, SHA256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
	}
	var errs []error
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"an empty file", nil},
		{"text", []byte("Hello, world\n")},
		{"only the ELF header", s.bytes[:min(64, len(s.bytes))]},
		{"half an object", s.bytes[:len(s.bytes)/2]},
	} {
		f, err := s.write(c.name, c.data)
		if err != nil {
			return err
		}
		must[c.name] = f
	}
	names := make([]string, 0, len(must))
	for name := range must {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := diagnostic(what+" with "+name, ask(must[name])); err != nil {
			errs = append(errs, err)
		}
	}
	// One byte changed, all over the object: any answer that keeps the contract, or a diagnostic.
	step := max(len(s.bytes)/maxMutations, 1)
	for at := 0; at < len(s.bytes); at += step {
		b := bytes.Clone(s.bytes)
		b[at] ^= 0xff
		f, err := s.write("changed", b)
		if err != nil {
			return err
		}
		if err := noPanic(fmt.Sprintf("%s with byte %d of %s changed", what, at, good.Path), ask(f)); err != nil {
			errs = append(errs, err)
		}
		if len(errs) > 20 {
			break
		}
	}
	return errors.Join(errs...)
}

// maxMutations is how many changed objects each kind of call is asked about.
const maxMutations = 120

// write makes a file with the content.
func (s *archSuite) write(name string, data []byte) (plugin.File, error) {
	path := filepath.Join(s.dir, strings.ReplaceAll(name, " ", "-"))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return plugin.File{}, err
	}
	return plugin.NewFile(path)
}

func (s *archSuite) describeGarbage(ctx context.Context) error {
	return s.garbage("Describe", func(f plugin.File) error {
		_, err := s.Arch.Describe(ctx, &arch.DescribeRequest{Target: s.fix.Target, Objects: []plugin.File{f}})
		return err
	})
}
