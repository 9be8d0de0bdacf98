package x86

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/objtest"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// client returns the plugin behind a connection: the client checks every reply.
func client(t testing.TB) *arch.Client {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer(grpc.MaxRecvMsgSize(plugin.MaxMessage), grpc.MaxSendMsgSize(plugin.MaxMessage))
	arch.Register(s, &Plugin{})
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient("passthrough:plugin", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(plugin.MaxMessage), grpc.MaxCallSendMsgSize(plugin.MaxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return arch.NewClient(conn, "arch plugin x86_64")
}

// file returns a file with the content.
func file(t testing.TB, content []byte) plugin.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := plugin.NewFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// unit is the object of ../object/testdata/unit.S.
func unit(t testing.TB) plugin.File {
	t.Helper()
	b, err := os.ReadFile("../object/testdata/unit.o")
	if err != nil {
		t.Fatal(err)
	}
	return file(t, b)
}

// TestCalls makes all four calls about one object, over the wire.
func TestCalls(t *testing.T) {
	ctx, c := context.Background(), client(t)
	target := objtest.Target("CONFIG_X86_KERNEL_IBT", "y", "CONFIG_FUNCTION_PADDING_BYTES", "16")
	o := unit(t)
	d, err := c.Describe(ctx, &arch.DescribeRequest{Target: target, Objects: []plugin.File{o, o}})
	if err != nil {
		t.Fatal(err)
	}
	var f *arch.Function
	for i := range d.Objects[1].Functions {
		if d.Objects[1].Functions[i].Name == "f" {
			f = &d.Objects[1].Functions[i]
		}
	}
	if f == nil {
		t.Fatalf("no function f in %+v", d.Objects[1].Functions)
	}
	code := make([]byte, 100)
	m, err := c.Match(ctx, &arch.MatchRequest{Target: target, Object: o, Run: file(t, code),
		Candidates: []arch.Candidate{{Function: f.Symbol, Address: 0xffffffff81000000, RunLength: 100}}})
	if err != nil {
		t.Fatal(err)
	}
	if r := m.Results[0]; r.Matched || r.Mismatch.PreOffset != 0 || !strings.Contains(r.Mismatch.Pre, "endbr64") {
		t.Errorf("match with zeroes: %+v", r)
	}
	x, err := c.Fixup(ctx, &arch.FixupRequest{Target: target, Object: o, Sections: []uint32{f.Section}})
	if err != nil || len(x.Edits)+len(x.Copies)+len(x.Refusals) != 0 {
		t.Errorf("fix up: %+v, %v", x, err)
	}
	r, err := c.Redirect(ctx, &arch.RedirectRequest{Target: target, Object: o, Functions: []uint32{f.Symbol}})
	if err != nil || r.Redirects[0].Kind != arch.RedirectFtrace {
		t.Errorf("redirect: %+v, %v", r, err) // a static branch stands behind the nop
	}
	facts, err := c.FactExpressions(ctx)
	if err != nil || len(facts) == 0 {
		t.Errorf("facts: %v, %v", facts, err)
	}
	info, err := new(Plugin).Info(ctx)
	if err != nil || info.Name != "x86_64" || info.Kind != plugin.KindArch || len(info.Machines) != 1 || info.Machines[0] != 62 {
		t.Errorf("info: %+v, %v", info, err)
	}
}

// TestErrors requires diagnostics that say whose fault it is and where.
func TestErrors(t *testing.T) {
	ctx, c := context.Background(), &Plugin{}
	target := objtest.Target()
	bad := file(t, []byte("no object"))
	changed := unit(t)
	changed.SHA256 = strings.Repeat("0", 64)
	foreign := target
	foreign.Machine = 183
	poor := objtest.Target()
	delete(poor.Facts, "alt_instr.size")
	for _, x := range []struct {
		name  string
		call  func() error
		fault plugin.Fault
	}{
		{"no object", func() error {
			_, err := c.Describe(ctx, &arch.DescribeRequest{Target: target, Objects: []plugin.File{bad}})
			return err
		}, plugin.FaultToolchain},
		{"changed file", func() error {
			_, err := c.Redirect(ctx, &arch.RedirectRequest{Target: target, Object: changed})
			return err
		}, plugin.FaultToolchain},
		{"missing fact", func() error {
			_, err := c.Describe(ctx, &arch.DescribeRequest{Target: poor, Objects: []plugin.File{unit(t)}})
			return err
		}, plugin.FaultToolchain},
		{"foreign machine", func() error {
			_, err := c.Describe(ctx, &arch.DescribeRequest{Target: foreign, Objects: []plugin.File{unit(t)}})
			return err
		}, plugin.FaultUser},
		{"no function", func() error {
			_, err := c.Redirect(ctx, &arch.RedirectRequest{Target: target, Object: unit(t), Functions: []uint32{0}})
			return err
		}, plugin.FaultInternal},
		{"no section", func() error {
			_, err := c.Fixup(ctx, &arch.FixupRequest{Target: target, Object: unit(t), Sections: []uint32{999}})
			return err
		}, plugin.FaultInternal},
		{"run file is gone", func() error {
			_, err := c.Match(ctx, &arch.MatchRequest{Target: target, Object: unit(t), Run: plugin.File{Path: "/nonexistent"}})
			return err
		}, plugin.FaultMachine},
		{"candidate outside", func() error {
			_, err := c.Match(ctx, &arch.MatchRequest{Target: target, Object: unit(t), Run: bad, Candidates: []arch.Candidate{{RunOffset: 1 << 40}}})
			return err
		}, plugin.FaultInternal},
	} {
		err := x.call()
		var d *plugin.Diagnostic
		if !errors.As(err, &d) || d.Fault != x.fault || d.Where == "" {
			t.Errorf("%s: %v, want a diagnostic with fault %s", x.name, err, x.fault)
		}
	}
}

// TestCache requires that objects are remembered by content and target, and that memory is bounded.
func TestCache(t *testing.T) {
	p := &Plugin{}
	o := unit(t)
	a, b := objtest.Target(), objtest.Target("CONFIG_X86_KERNEL_IBT", "y")
	u, err := p.unit(o, &a)
	if err != nil {
		t.Fatal(err)
	}
	if v, _ := p.unit(unit(t), &a); v != u {
		t.Error("the same content is described again")
	}
	a.Config["CONFIG_SMP"] = "y"
	if v, _ := p.unit(o, &a); v != u {
		t.Error("a configuration symbol that says nothing here counts")
	}
	if v, _ := p.unit(o, &b); v == u {
		t.Error("another configuration gives the same description")
	}
	for i := range 2 * cacheSize {
		b.Config["CONFIG_FUNCTION_PADDING_BYTES"] = strings.Repeat("1", i%20+1)
		b.Facts["x"] = int64(i)
		if _, err := p.unit(o, &b); err != nil {
			t.Fatal(err)
		}
	}
	if len(p.units.units) > cacheSize || len(p.units.order) != len(p.units.units) {
		t.Errorf("%d units in %d places are remembered", len(p.units.units), len(p.units.order))
	}
}
