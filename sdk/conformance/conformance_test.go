package conformance

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/internal/serve"
	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
	"github.com/ksplice/ksplice/sdk/sdktest/need"
	"github.com/ksplice/ksplice/sdk/transform"
)

// plain is a small architecture plugin that keeps the contract: functions match the very same bytes.
type plain struct {
	arch.Unimplemented
	careless bool // trusts paths and ELF files
}

func (plain) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Name: "plain", Version: "1", Description: "Compares bytes.", Machines: []uint16{62}}, nil
}

func (p plain) open(f plugin.File, t arch.Target) (*elf.File, []elf.Symbol, error) {
	if t.Machine != 62 {
		return nil, nil, plugin.Errorf(plugin.FaultUser, f.Path, "machine %d is not served", t.Machine)
	}
	data, err := f.Read()
	if p.careless {
		data, err = os.ReadFile(f.Path)
	}
	if err != nil {
		return nil, nil, &plugin.Diagnostic{Fault: plugin.FaultMachine, Summary: "the object cannot be read", Detail: err.Error()}
	}
	o, err := elf.NewFile(bytes.NewReader(data))
	if err != nil || o.Type != elf.ET_REL {
		return nil, nil, plugin.Errorf(plugin.FaultToolchain, f.Path, "the object is damaged: %v", err)
	}
	symbols, err := o.Symbols()
	if err != nil {
		return nil, nil, plugin.Errorf(plugin.FaultToolchain, f.Path, "the object is damaged: %v", err)
	}
	return o, append([]elf.Symbol{{}}, symbols...), nil
}

// code returns the bytes of a function.
func (p plain) code(o *elf.File, symbols []elf.Symbol, n uint32) ([]byte, error) {
	if !p.careless && uint64(n) >= uint64(len(symbols)) {
		return nil, plugin.Errorf(plugin.FaultInternal, "", "there is no symbol %d", n)
	}
	y := symbols[n]
	if elf.ST_TYPE(y.Info) != elf.STT_FUNC || int(y.Section) >= len(o.Sections) {
		return nil, plugin.Errorf(plugin.FaultInternal, "", "symbol %d is no function", n)
	}
	s := o.Sections[y.Section]
	data, err := s.Data()
	if err != nil || s.Flags&elf.SHF_EXECINSTR == 0 || y.Value > uint64(len(data)) || y.Size > uint64(len(data))-y.Value {
		return nil, plugin.Errorf(plugin.FaultToolchain, y.Name, "the function is outside of its section: %v", err)
	}
	return data[y.Value : y.Value+y.Size], nil
}

func (p plain) Describe(_ context.Context, req *arch.DescribeRequest) (*arch.DescribeResponse, error) {
	resp := &arch.DescribeResponse{}
	for _, f := range req.Objects {
		o, symbols, err := p.open(f, req.Target)
		if err != nil {
			return nil, err
		}
		var d arch.ObjectDescription
		for i, y := range symbols {
			if _, err := p.code(o, symbols, uint32(i)); err != nil {
				continue
			}
			d.Functions = append(d.Functions, arch.Function{Symbol: uint32(i), Name: y.Name, Section: uint32(y.Section), Offset: y.Value, Size: y.Size, Parent: -1})
		}
		slices.SortStableFunc(d.Functions, func(a, b arch.Function) int {
			return int(a.Section)<<20 + int(a.Offset) - int(b.Section)<<20 - int(b.Offset)
		})
		resp.Objects = append(resp.Objects, d)
	}
	return resp, nil
}

func (p plain) Match(_ context.Context, req *arch.MatchRequest) (*arch.MatchResponse, error) {
	o, symbols, err := p.open(req.Object, req.Target)
	if err != nil {
		return nil, err
	}
	run, err := req.Run.Read()
	if err != nil {
		return nil, &plugin.Diagnostic{Fault: plugin.FaultMachine, Summary: "run cannot be read", Detail: err.Error()}
	}
	resp := &arch.MatchResponse{}
	for _, c := range req.Candidates {
		code, err := p.code(o, symbols, c.Function)
		if err != nil {
			return nil, err
		}
		r := arch.MatchResult{Mismatch: &arch.Mismatch{Reason: "other bytes"}}
		if size := uint64(len(code)); c.RunLength >= size && c.RunOffset <= uint64(len(run)) && size <= uint64(len(run))-c.RunOffset &&
			bytes.Equal(code, run[c.RunOffset:c.RunOffset+size]) {
			r = arch.MatchResult{Matched: true, RunSize: size}
		}
		resp.Results = append(resp.Results, r)
	}
	return resp, nil
}

func (p plain) Fixup(_ context.Context, req *arch.FixupRequest) (*arch.FixupResponse, error) {
	_, _, err := p.open(req.Object, req.Target)
	return &arch.FixupResponse{}, err
}

func (p plain) Redirect(_ context.Context, req *arch.RedirectRequest) (*arch.RedirectResponse, error) {
	_, _, err := p.open(req.Object, req.Target)
	resp := &arch.RedirectResponse{}
	for range req.Functions {
		resp.Redirects = append(resp.Redirects, arch.Redirect{Kind: arch.RedirectNone, Reason: "too plain"})
	}
	return resp, err
}

// fixtures compiles two objects.
func fixtures(t *testing.T) ArchFixtures {
	t.Helper()
	gcc := need.Program(t, "gcc")
	fix := ArchFixtures{Target: arch.Target{Machine: 62}}
	dir := t.TempDir()
	for name, source := range map[string]string{
		"a": "int g(int); int f(int n) { return g(n) * 7 + 3; } int h(int n) { return n / 5; }",
		"b": "extern int v[]; int k(int n) { for (int i = 0; i < n; i++) v[i]++; return v[n]; }",
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+".c", []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(gcc, "-O2", "-c", "-o", path+".o", path+".c").CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, out)
		}
		fix.Objects = append(fix.Objects, path+".o")
	}
	slices.Sort(fix.Objects)
	return fix
}

func TestArch(t *testing.T) {
	list, err := Arch(serveArch(t, plain{}), fixtures(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	passes(t, list)
}

// TestWithout: without objects, or a kernel, the suites ask what can be asked all the same, and tell what they do not ask.
func TestWithout(t *testing.T) {
	list, err := Arch(serveArch(t, plain{}), ArchFixtures{Target: arch.Target{Machine: 62}}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	passes(t, list)
	wantNeeds(t, list, "objects", "info configure large message drain health machine facts describe garbage")
	list, err = Arch(serveArch(t, &arch.Mock{Machine: 62}), ArchFixtures{Target: arch.Target{Machine: 62}}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if garbage := slices.IndexFunc(list, func(c Check) bool { return c.Name == "describe garbage" }); list[garbage].Run(t.Context()) == nil {
		t.Error("a plugin that describes whatever it is given passes")
	}
	list = Backend(serveBackend(t, &backend.Mock{}), BackendFixtures{}, t.TempDir())
	wantNeeds(t, list, "a kernel", "info configure large message drain health probe unknown kernels prepare unknown kernels garbage cancel")
}

// wantNeeds wants all checks but those named to need something.
func wantNeeds(t *testing.T, list []Check, needs, asked string) {
	t.Helper()
	var got []string
	for _, c := range list {
		if c.Needs == "" {
			got = append(got, c.Name)
		} else if c.Needs != needs {
			t.Errorf("%s needs %q, want %q", c.Name, c.Needs, needs)
		}
	}
	if got := strings.Join(got, " "); got != asked {
		t.Errorf("asked are %q, want %q", got, asked)
	}
}

// failed runs checks and returns the names of those that fail.
func failed(t *testing.T, checks []check) []string {
	t.Helper()
	var names []string
	for _, c := range checks {
		if err := c.run(t.Context()); err != nil {
			t.Logf("%s: %.300v", c.name, err)
			names = append(names, c.name)
		}
	}
	return names
}

// TestBadArch: the suite finds what is wrong, whatever it is.
func TestBadArch(t *testing.T) {
	fix := fixtures(t)
	for _, c := range []struct {
		name string
		impl arch.Arch
		want string // a check that must fail
	}{
		{"trusts what it is given", plain{careless: true}, "describe garbage"},
		{"nothing implemented", bare{}, "describe"},
		{"Describe lies", &arch.Mock{Real: plain{}, Failures: map[string]plugin.Failure{"Describe": plugin.FailLie}}, "describe"},
		{"Describe panics", &arch.Mock{Real: plain{}, Failures: map[string]plugin.Failure{"Describe": plugin.FailPanic}}, "describe garbage"},
		{"Describe returns nothing", &arch.Mock{Real: plain{}, Failures: map[string]plugin.Failure{"Describe": plugin.FailNil}}, "describe"},
		{"Match lies", &arch.Mock{Real: plain{}, Failures: map[string]plugin.Failure{"Match": plugin.FailLie}}, "match itself"},
		{"Match fails", &arch.Mock{Real: plain{}, Failures: map[string]plugin.Failure{"Match": plugin.FailError}}, "match a batch"},
		{"Fixup lies", &arch.Mock{Real: plain{}, Failures: map[string]plugin.Failure{"Fixup": plugin.FailLie}}, "fixup"},
		{"Redirect lies", &arch.Mock{Real: plain{}, Failures: map[string]plugin.Failure{"Redirect": plugin.FailLie}}, "redirect"},
		{"Info fails", &arch.Mock{Real: plain{}, Failures: map[string]plugin.Failure{"Info": plugin.FailError}}, "info"},
		{"any key is accepted", &arch.Mock{Real: plain{}, Failures: map[string]plugin.Failure{"Configure": plugin.FailLie}}, "configure"},
		{"not well", &arch.Mock{Real: plain{}, Failures: map[string]plugin.Failure{"Health": plugin.FailError}}, "health"},
		{"facts lie", &arch.Mock{Real: plain{}, Failures: map[string]plugin.Failure{"FactExpressions": plugin.FailLie}}, "facts"},
		{"nothing matches", &arch.Mock{Machine: 62}, "match itself"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := newArchSuite(serveArch(t, c.impl), fix, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if got := failed(t, append(s.checks(), s.objectChecks()...)); !slices.Contains(got, c.want) {
				t.Errorf("checks that fail = %q, want %q among them", got, c.want)
			}
		})
	}
}

// random gives another answer every time.
type random struct {
	arch.Mock
	n int
}

func (r *random) Describe(ctx context.Context, req *arch.DescribeRequest) (*arch.DescribeResponse, error) {
	resp, err := r.Mock.Describe(ctx, req)
	if err == nil && len(resp.Objects) > 0 && len(resp.Objects[0].Functions) > 0 {
		r.n++
		resp.Objects[0].Functions[0].Endbr = r.n%2 == 0
	}
	return resp, err
}

func TestRandomArch(t *testing.T) {
	s, err := newArchSuite(serveArch(t, &random{Mock: arch.Mock{Real: plain{}}}), fixtures(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.describe(t.Context()); err == nil || !strings.Contains(err.Error(), "two answers to one question differ") {
		t.Errorf("describe: %v", err)
	}
}

func TestBackend(t *testing.T) {
	passes(t, Backend(serveBackend(t, &backend.Mock{}), BackendFixtures{}, t.TempDir()))
	for call, want := range map[string]string{
		"Probe": "probe unknown kernels", "Prepare": "prepare unknown kernels", "Compile": "garbage", "Link": "garbage", "Facts": "garbage", "Units": "garbage",
		"Info": "info", "Configure": "configure",
	} {
		s := &backendSuite{root: t.TempDir(), Backend: serveBackend(t, &backend.Mock{Failures: map[string]plugin.Failure{call: plugin.FailLie}})}
		if got := failed(t, s.checks()); !slices.Contains(got, want) {
			t.Errorf("a lie in %s: checks that fail = %q, want %q among them", call, got, want)
		}
	}
}

// carrier takes responsibility for layouts.
type carrier struct{ transform.Mock }

func (carrier) Plan(_ context.Context, req *transform.PlanRequest) (*transform.PlanResponse, error) {
	resp := &transform.PlanResponse{Because: map[string]string{}}
	for _, it := range req.Items {
		if it.Kind == transform.ItemLayout {
			resp.Claimed = append(resp.Claimed, it.ID)
			resp.Because[it.ID] = "it is carried over"
		}
	}
	return resp, nil
}

// Transfer counts two objects.
func (carrier) Transfer(ctx context.Context, req *transform.TransferRequest, s transform.State) (*transform.TransferResponse, error) {
	first, err := s.Walk(ctx, &transform.Walk{Global: "list", Read: []string{"a"}})
	if err != nil {
		return nil, err
	}
	all, err := s.Walk(ctx, &transform.Walk{From: first, Read: []string{"a"}})
	if err != nil {
		return nil, err
	}
	resp := &transform.TransferResponse{}
	for _, o := range all {
		resp.Sets = append(resp.Sets, transform.Set{Object: o, Path: "a", Number: o.Values[0].Number - 1})
		if !req.Undo {
			resp.Attaches = append(resp.Attaches, transform.Attach{Object: o, Field: "x.y", Data: req.Data})
		}
	}
	return resp, nil
}

// twoObjects is a kernel with two objects.
func twoObjects(*transform.Walk) ([]transform.Object, error) {
	number := func(n uint64) []transform.Value { return []transform.Value{{Bytes: []byte{byte(n)}, Number: n}} }
	return []transform.Object{{Address: 0x1000, Type: "struct x", Values: number(7)}, {Address: 0x2000, Type: "struct x", Values: number(42)}}, nil
}

// flood returns sets without end. What it sends is never held in memory as a whole.
type flood struct {
	pb.UnimplementedTransformServer
	sent atomic.Int64
}

func (f *flood) Transfer(stream grpc.BidiStreamingServer[pb.TransferCall, pb.TransferEvent]) error {
	sets := make([]*pb.Set, 4096)
	for i := range sets {
		sets[i] = &pb.Set{Object: &pb.Handle{Address: 0x1000, Type: "struct x"}, Path: "a"}
	}
	for f.sent.Load() < 10_000_000 {
		if err := stream.Send(&pb.TransferEvent{Event: &pb.TransferEvent_Changes{Changes: &pb.Changes{Sets: sets}}}); err != nil {
			return err
		}
		f.sent.Add(int64(len(sets)))
	}
	return stream.Send(&pb.TransferEvent{Event: &pb.TransferEvent_Result{Result: &pb.TransferResult{}}})
}

// TestFlood: of ten million sets the host reads little more than it takes.
func TestFlood(t *testing.T) {
	f := &flood{}
	conn := serve.Serve(t, plugin.KindTransform, &transform.Mock{}, func(s *grpc.Server) { pb.RegisterTransformServer(s, f) })
	_, err := transform.NewClient(conn, "flood").Transfer(t.Context(), &transform.TransferRequest{}, &finder{walk: twoObjects, found: map[handle]bool{}})
	if err == nil || !strings.Contains(err.Error(), "more than 1048576 sets") {
		t.Errorf("ten million sets: %v", err)
	}
	if n := f.sent.Load(); n > 2*transform.MaxChanges {
		t.Errorf("%d sets were sent before the host said no", n)
	}
}

// TestTransferStream: what a plugin or a host says out of turn ends the call with an error.
func TestTransferStream(t *testing.T) {
	for name, c := range map[string]struct {
		say  []*pb.TransferEvent
		want string
	}{
		"nothing":     {nil, "it ended without a result"},
		"empty":       {[]*pb.TransferEvent{{}}, "it has an empty event"},
		"two results": {[]*pb.TransferEvent{result(), result()}, "something follows its result"},
		"a result":    {[]*pb.TransferEvent{result()}, ""},
	} {
		conn := serve.Serve(t, plugin.KindTransform, &transform.Mock{}, func(s *grpc.Server) { pb.RegisterTransformServer(s, &sayer{say: c.say}) })
		_, err := transform.NewClient(conn, "sayer").Transfer(t.Context(), &transform.TransferRequest{}, &finder{})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func result() *pb.TransferEvent {
	return &pb.TransferEvent{Event: &pb.TransferEvent_Result{Result: &pb.TransferResult{}}}
}

// sayer says what it is told to.
type sayer struct {
	pb.UnimplementedTransformServer
	say []*pb.TransferEvent
}

func (s *sayer) Transfer(stream grpc.BidiStreamingServer[pb.TransferCall, pb.TransferEvent]) error {
	for _, e := range s.say {
		if err := stream.Send(e); err != nil {
			return err
		}
	}
	return nil
}

func TestTransform(t *testing.T) {
	fix := TransformFixtures{Requests: []*transform.PlanRequest{{SourceDir: t.TempDir(), Items: []transform.Item{
		{ID: "layout:struct a", Kind: transform.ItemLayout, Unit: "a.o", Name: "struct a", Detail: "grows"},
		{ID: "initialiser:a.o:v", Kind: transform.ItemInitialiser, Unit: "a.o", Name: "v", Pre: []byte{1}, Post: []byte{2}},
	}}}}
	fix.Transfers = []TransferFixture{{Request: transform.TransferRequest{Item: "layout:struct x", Data: []byte("data")}, Walk: twoObjects,
		Check: func(undo bool, resp *transform.TransferResponse) error {
			if undo == (len(resp.Attaches) == 2) || len(resp.Sets) != 2 || resp.Sets[1].Number != 41 {
				return fmt.Errorf("it returns %+v", resp)
			}
			return nil
		}}}
	passes(t, Transform(serveTransform(t, &carrier{}), fix, t.TempDir()))
	fix.Transfers = nil
	passes(t, Transform(serveTransform(t, &transform.Mock{}), fix, t.TempDir()))
	for failure, want := range map[plugin.Failure]string{
		plugin.FailLie: "plan nothing", plugin.FailNil: "plan nothing", plugin.FailPanic: "plan strangers", plugin.FailError: "plan",
	} {
		s := &transformSuite{fix: fix, dir: t.TempDir(),
			Transform: serveTransform(t, &transform.Mock{Failures: map[string]plugin.Failure{"Plan": failure}})}
		if got := failed(t, s.checks()); !slices.Contains(got, want) {
			t.Errorf("%s: checks that fail = %q, want %q among them", failure, got, want)
		}
	}
}

// bare has no call of its kind.
type bare struct{ arch.Unimplemented }

func (bare) Info(ctx context.Context) (*plugin.Info, error) { return plain{}.Info(ctx) }

// TestHungArch: a plugin that never answers, but obeys, passes for one that is slow.
func TestHungArch(t *testing.T) {
	a := serveArch(t, &arch.Mock{Failures: map[string]plugin.Failure{"Describe": plugin.FailHang}})
	for i := range 5 {
		if err := givenUp(t.Context(), a, i, func(ctx context.Context) error {
			_, err := a.Describe(ctx, &arch.DescribeRequest{})
			return err
		}); err != nil {
			t.Error(err)
		}
	}
}

// TestDeafTransform: one that goes on with a call that was given up does not pass.
func TestDeafTransform(t *testing.T) {
	before := drainGrace
	drainGrace = time.Second
	t.Cleanup(func() { drainGrace = before })
	p := serveTransform(t, &transform.Mock{Failures: map[string]plugin.Failure{"Plan": plugin.FailDeaf}})
	err := givenUp(t.Context(), p, 8, func(ctx context.Context) error {
		_, err := p.Plan(ctx, &transform.PlanRequest{})
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "still runs after 1s") {
		t.Errorf("err = %v", err)
	}
}

func serveArch(t testing.TB, impl arch.Arch) *arch.Client {
	t.Helper()
	return arch.NewClient(serve.Serve(t, plugin.KindArch, impl, func(s *grpc.Server) { arch.Register(s, impl) }), "arch plugin under test")
}

func serveBackend(t testing.TB, impl backend.Backend) *backend.Client {
	t.Helper()
	return backend.NewClient(serve.Serve(t, plugin.KindBackend, impl, func(s *grpc.Server) { backend.Register(s, impl) }), "backend plugin under test")
}

func serveTransform(t testing.TB, impl transform.Transform) *transform.Client {
	t.Helper()
	return transform.NewClient(serve.Serve(t, plugin.KindTransform, impl, func(s *grpc.Server) { transform.Register(s, impl) }), "transform plugin under test")
}

// passes wants a plugin to meet all requirements.
func passes(t *testing.T, list []Check) {
	t.Helper()
	for _, c := range list {
		if c.Needs != "" {
			continue
		}
		if err := c.Run(t.Context()); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}
