package kerneltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/bind"
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/part"
	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/examples"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/sdktest"
)

// seedVariable chooses other mutations than the usual ones. A failure names the seed and the number of the mutation.
const seedVariable = "KSPLICE_TEST_SEED"

// How many mutations of each kind there are: in CI, and with KSPLICE_TEST_ALL=1.
const (
	fewMutations = 300
	allMutations = 6000
)

// mutated are the examples whose updates are mutated: in CI, and besides with KSPLICE_TEST_ALL=1.
var (
	mutated     = []string{"eventfd-short-read", "usercopy-once", "overcommit-ratio"}
	mutatedToo  = []string{"boot-id-capitals", "getppid-init"}
	errUnproved = errors.New("accepted, and nothing proves that it is harmless")
)

// subject is an update that fits the image of a kernel, and what matching and binding make of it.
type subject struct {
	name  string
	dir   string
	file  []byte
	u     *update.Update
	k     *kernel.Kernel
	a     arch.Arch
	liar  *liar
	lying arch.Arch // asks the liar over the wire, as a host asks a plugin
	units []*match.Unit
	base  *outcome
	truth map[arch.Candidate]arch.MatchResult // by function and address: what the plugin says without a mutation
}

// outcome is what the kernel module would be given, and all that matching learned.
type outcome struct {
	units    []*match.Unit
	sol      *match.Solution
	bindings []*bind.Binding
}

// road is an update on its way to the kernel module: a mutation changes any of it.
type road struct {
	k     *kernel.Kernel
	a     arch.Arch
	m     *update.Manifest
	files map[string][]byte
	units []*match.Unit
}

// judge takes the road as check and apply do. An error is a refusal.
func (r *road) judge(ctx context.Context) (*outcome, error) {
	for i := range r.m.Parts {
		p := &r.m.Parts[i]
		if err := part.Sealed(r.files[p.File], p); err != nil {
			return nil, err
		}
	}
	sol, err := match.Run(ctx, r.k, r.a, r.units)
	if err != nil {
		return nil, err
	}
	if err := sol.Err(); err != nil {
		return nil, err
	}
	out := &outcome{units: r.units, sol: sol}
	in := &bind.Input{Kernel: r.k, Manifest: r.m, Units: r.units, Solution: sol}
	for i := range r.m.Parts {
		b, err := bind.Part(in, &r.m.Parts[i])
		if err != nil {
			return nil, err
		}
		out.bindings = append(out.bindings, b)
	}
	return out, nil
}

// same says how what a mutation led to differs from what there is without it; empty: the kernel module is given the same, and
// matching learned no other address for anything.
func (s *subject) same(got *outcome) string {
	for i, b := range s.base.bindings {
		g := got.bindings[i]
		for n := range b.Values {
			if n >= len(g.Values) || g.Values[n] != b.Values[n] {
				return fmt.Sprintf("slot %d (%s) of part %s is another", n, b.Part.Slots[n].Name, b.Part.Name)
			}
		}
		if len(g.Values) != len(b.Values) || !slices.Equal(g.Modules, b.Modules) {
			return "the number of slots, or the modules that are held, are others"
		}
		if len(g.Windows) != len(b.Windows) {
			return "the number of windows is another"
		}
		for n, w := range b.Windows {
			if g.Windows[n].Address != w.Address || !bytes.Equal(g.Windows[n].Bytes, w.Bytes) {
				return fmt.Sprintf("window %d is another", n)
			}
		}
	}
	for ui, u := range s.units {
		for y := range u.File.Symbols[1:] {
			n := uint32(y + 1)
			want, ok := s.base.sol.Value(ui, n)
			have, known := got.sol.Value(ui, n)
			if ok && known && have != want && sameSymbol(u, got.units[ui], n) {
				return fmt.Sprintf("symbol %d (%s) of %s lies at %#x, not at %#x", n, u.File.Symbols[n].Name, u.Name, have, want)
			}
		}
	}
	for _, f := range s.base.sol.Functions {
		if f.Status != match.StatusMatched {
			continue
		}
		g, ok := got.sol.Function(f.Unit, f.Symbol)
		if ok && g.Status == match.StatusOverridden { // a symbol became weak: had the update needed it, binding would have refused
			continue
		}
		if !ok || g.Status != match.StatusMatched || g.Code != f.Code {
			return fmt.Sprintf("function %s of %s is elsewhere, or not matched: %+v", f.Name, f.Object, g)
		}
	}
	return ""
}

// sameSymbol says that a symbol stands for the same place of a unit, which may have been changed. Where it does not, its value says nothing:
// the slots tell whether the update uses it.
func sameSymbol(a, b *match.Unit, n uint32) bool {
	if int(n) >= len(b.File.Symbols) {
		return false
	}
	x, y := a.File.Symbols[n], b.File.Symbols[n]
	if x.Section == nil || y.Section == nil {
		return x.Section == y.Section
	}
	return x.Section.Index == y.Section.Index && x.Value == y.Value
}

// byContent says that a byte of a function lies in a field that leads to a string or constant, whose content was found where it leads now.
func (s *subject) byContent(got *outcome, f *match.Function, at uint64) bool {
	y := s.units[f.Unit].File.Symbols[f.Symbol]
	return slices.ContainsFunc(s.units[f.Unit].Desc.Refs, func(r arch.Ref) bool {
		if int(r.Section) != y.Section.Index || y.Value+at-r.At >= uint64(r.Size) {
			return false
		}
		_, ok := got.sol.Field(f.Unit, f.Symbol, r.At-y.Value)
		return ok
	})
}

// newSubject reads an update and the image of the kernel that it is for.
func newSubject(t *testing.T, l *lab, name string, a arch.Arch, k *kernel.Kernel) *subject {
	t.Helper()
	e, err := examples.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	s := &subject{name: name, dir: t.TempDir(), a: a, k: k, liar: &liar{Arch: a}, truth: map[arch.Candidate]arch.MatchResult{}}
	s.lying = sdktest.ServeArch(t, s.liar)
	if s.file, err = os.ReadFile(filepath.Join(l.share, filepath.Base(l.example(t, e)))); err != nil {
		t.Fatal(err)
	}
	if s.u, err = update.Read(bytes.NewReader(s.file)); err != nil {
		t.Fatal(err)
	}
	for i := range s.u.Manifest.Units {
		s.units = append(s.units, s.unit(t, i, s.u.Files[s.u.Manifest.Units[i].Pre], fmt.Sprintf("%04d.o", i)))
	}
	if err := apply.Describe(t.Context(), a, s.units); err != nil {
		t.Fatal(err)
	}
	s.liar.match = func(req *arch.MatchRequest, resp *arch.MatchResponse) {
		for i, c := range req.Candidates {
			s.truth[candidate(s.unitOf(req.Object), c.Function, c.Address)] = resp.Results[i]
		}
	}
	r := s.road()
	r.a = s.lying
	if s.base, err = r.judge(t.Context()); err != nil {
		t.Fatalf("%s does not fit without a mutation: %v", name, err)
	}
	s.liar.match = nil
	return s
}

func (s *subject) road() *road {
	return &road{k: s.k, a: s.a, m: &s.u.Manifest, files: s.u.Files, units: slices.Clone(s.units)}
}

// candidate names a result: a function of a unit, whose number stands for its bytes, and an address.
func candidate(unit int, symbol uint32, address uint64) arch.Candidate {
	return arch.Candidate{Function: symbol, Address: address, RunOffset: uint64(unit)}
}

func (s *subject) unitOf(object plugin.File) int {
	return slices.IndexFunc(s.units, func(u *match.Unit) bool { return u.Object.Path == object.Path })
}

// unit makes a unit of an object's bytes, which it writes to a file.
func (s *subject) unit(t *testing.T, i int, object []byte, file string) *match.Unit {
	t.Helper()
	m := &s.u.Manifest
	path := filepath.Join(s.dir, file)
	if err := os.WriteFile(path, object, 0o600); err != nil {
		t.Fatal(err)
	}
	return &match.Unit{Name: m.Units[i].Object, Module: m.Units[i].Module, Object: plugin.File{Path: path, SHA256: update.Digest(object)},
		Target: arch.Target{Machine: m.Kernel.Machine, Facts: m.Facts, Config: m.Config, Module: m.Units[i].Module != ""}}
}

// verdictOn is what became of a mutation: how it was refused, or why it is harmless. The error says that it is neither.
type verdictOn struct {
	refused  error
	harmless string
}

// mutator mutates one thing of a subject and says what, for people.
type mutator func(t *testing.T, s *subject, r *rand.Rand) (what string, v verdictOn, err error)

var mutators = map[string]mutator{
	"run byte": mutateRun, "run table": mutateTable, "pre byte": mutateByte, "relocation": mutateRelocation, "size": mutateSize,
	"description": mutateDescription, "verdict": mutateVerdict, "forged verdict": forgeVerdict, "update file": mutateFile, "manifest": mutateManifest,
}

// weigh turns what a road led to into a verdict. Harmless is only what gives the kernel module the same as without the mutation.
func (s *subject) weigh(got *outcome, err error) (verdictOn, error) {
	if err != nil {
		return verdictOn{refused: err}, nil
	}
	if why := s.same(got); why != "" {
		return verdictOn{}, fmt.Errorf("%w: %s", errUnproved, why)
	}
	return verdictOn{harmless: "slots, windows and addresses are the same"}, nil
}

// seed is the one in the environment, or always the same.
func seed(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv(seedVariable)
	if text == "" {
		return 1
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("$%s: %v", seedVariable, err)
	}
	return n
}

// TestMutate changes one thing at a time of what check and apply work from, without a boot: each change is refused, or what the kernel
// module would be given is proved to be the same.
func TestMutate(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		host := pluginhost.New(pluginhost.Config{Dirs: []string{filepath.Join(l.tools, "libexec", "ksplice", "plugins")}})
		defer host.Close()
		k, err := kernel.Image(l.kernel.Vmlinuz)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		a, _, err := host.Arch(t.Context(), k.Identity.Machine)
		if err != nil {
			t.Fatal(err)
		}
		names, count := mutated, fewMutations
		if os.Getenv(allVariable) == "1" {
			names, count = slices.Concat(mutated, mutatedToo), allMutations
		}
		var subjects []*subject
		for _, n := range names {
			subjects = append(subjects, newSubject(t, l, n, a, k))
		}
		for _, kind := range slices.Sorted(maps.Keys(mutators)) {
			n := count
			if kind == "manifest" { // each writes and reads an update file: slow
				n /= 6
			}
			t.Run(kind, func(t *testing.T) { mutate(t, kind, subjects, n) })
		}
	})
}

// mutate runs the mutations of one kind.
func mutate(t *testing.T, kind string, subjects []*subject, count int) {
	start, first := time.Now(), seed(t)
	refused, harmless := 0, map[string]int{}
	for i := range count {
		s := subjects[i%len(subjects)]
		what, v, err := mutators[kind](t, s, rand.New(rand.NewPCG(first, uint64(i))))
		switch {
		case err != nil:
			t.Errorf("%s, seed %d, mutation %d: %s: %v", s.name, first, i, what, err)
		case v.refused != nil:
			refused++
			if isCrash(v.refused) {
				t.Errorf("%s, seed %d, mutation %d: %s: refused by a crash: %v", s.name, first, i, what, v.refused)
			}
		default:
			harmless[v.harmless]++
		}
	}
	t.Logf("%s: %d mutations in %s: %d refused, harmless: %v", kind, count, time.Since(start).Round(time.Second), refused, harmless)
}

// isCrash tells a plugin that died, or was thought to have, from one that refused.
func isCrash(err error) bool {
	return errors.Is(err, pluginhost.ErrExited) || errors.Is(err, pluginhost.ErrTimeout) || strings.Contains(err.Error(), "runtime error")
}
