package examples

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/sdktest"
	"github.com/ksplice/ksplice/sdk/sdktest/need"
	"github.com/ksplice/ksplice/sdk/transform"
)

// TestPython builds the plugin in Python from the current definitions of the protocol, and from those of its first version, as somebody
// may have done long ago: both pass the suite, and this host gets on with them.
func TestPython(t *testing.T) {
	wantsPython(t)
	first, err := filepath.Abs("../sdk/proto/testdata/v1.binpb")
	if err != nil {
		t.Fatal(err)
	}
	for name, protocol := range map[string]string{"current": "", "first": "--descriptor_set_in=" + first} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			// Root runs nothing that others may change, and some systems leave test directories to the group.
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "make", "-C", "transform-python", "OUT="+dir)
			if protocol != "" {
				cmd.Args = append(cmd.Args, "PROTOCOL="+protocol)
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%q: %v\n%s", cmd.Args, err, out)
			}
			path := filepath.Join(dir, "transform-chrdev-python")
			t.Run("suite", func(t *testing.T) {
				client := sdktest.LaunchTransform(t, path)
				sdktest.Transform(t, client, pythonFixtures())
				pythonFails(t, client)
			})
			t.Run("host", func(t *testing.T) { pythonHosted(t, dir) })
		})
	}
}

// wantsPython skips the test where what the plugin is made of is missing, or fails it where all must be there.
func wantsPython(t *testing.T) {
	t.Helper()
	out, err := exec.Command("/usr/bin/python3", "-I", "-c", "import grpc, google.protobuf, cryptography").CombinedOutput()
	for _, tool := range []string{"protoc", "make"} {
		if _, e := exec.LookPath(tool); e != nil {
			err = errors.Join(err, e)
		}
	}
	// What status.proto imports is in a package of its own.
	if _, e := os.Stat("/usr/include/google/protobuf/any.proto"); e != nil {
		err = errors.Join(err, e)
	}
	if err != nil {
		need.OK(t, fmt.Errorf("the plugin in Python wants Debian's python3-grpcio, python3-protobuf, python3-cryptography, protobuf-compiler and libprotobuf-dev: %w\n%s", err, out))
	}
}

// regionsItem is what the plugin carries.
const regionsItem = "layout:fs/char_dev.c:char_device_struct"

func pythonPlan(members ...string) *transform.PlanRequest {
	i := transform.Item{ID: regionsItem, Kind: transform.ItemLayout, Unit: "fs/char_dev.o", Name: "char_device_struct", Source: "fs/char_dev.c"}
	for _, m := range members {
		i.Members = append(i.Members, transform.Member{Name: m, Type: "unsigned int", Size: 4, Kind: transform.MemberNumber})
	}
	return &transform.PlanRequest{Items: []transform.Item{i}}
}

// manyRegions are more objects than cross in one message.
const manyRegions = 5000

func pythonFixtures() sdktest.TransformFixtures {
	return sdktest.TransformFixtures{
		Requests: []*transform.PlanRequest{pythonPlan("last_minor"), pythonPlan("last_minor", "more"), pythonPlan()},
		Transfers: []sdktest.TransferFixture{{Request: transform.TransferRequest{Item: regionsItem}, Walk: pythonRegions,
			Check: func(undo bool, resp *transform.TransferResponse) error {
				if len(resp.Sets) != manyRegions || resp.Note != fmt.Sprintf("%d regions", manyRegions) {
					return fmt.Errorf("%d members are set: %s", len(resp.Sets), resp.Note)
				}
				for i, s := range resp.Sets {
					want := uint64(i) + 255
					if undo {
						want = 0
					}
					if s.Path != "last_minor" || s.Number != want {
						return fmt.Errorf("region %d gets %s = %d, want last_minor = %d", i, s.Path, s.Number, want)
					}
				}
				return nil
			}}},
	}
}

// pythonRegions stands for a kernel with many regions of 256 minor numbers.
func pythonRegions(w *transform.Walk) ([]transform.Object, error) {
	if w.Global != "chrdevs" || len(w.Steps) != 2 || w.Steps[1].Kind != transform.StepChain {
		return nil, fmt.Errorf("the walk is %+v", w)
	}
	out := make([]transform.Object, manyRegions)
	for i := range out {
		out[i] = transform.Object{Address: 0xffff888000000000 + uint64(i)*96, Type: "struct char_device_struct",
			Values: []transform.Value{{Number: uint64(i)}, {Number: 256}}}
	}
	return out, nil
}

// kernelFunc is a kernel that answers walks.
type kernelFunc func(ctx context.Context, w *transform.Walk) ([]transform.Object, error)

func (f kernelFunc) Walk(ctx context.Context, w *transform.Walk) ([]transform.Object, error) {
	return f(ctx, w)
}

// pythonFails: an exception in a call is a diagnostic with its stack, and the next call is none the worse.
func pythonFails(t *testing.T, p transform.Transform) {
	t.Helper()
	_, err := p.Transfer(t.Context(), &transform.TransferRequest{Item: regionsItem},
		kernelFunc(func(context.Context, *transform.Walk) ([]transform.Object, error) {
			return []transform.Object{{Address: 1, Type: "struct char_device_struct"}}, nil // without values
		}))
	var d *plugin.Diagnostic
	if !errors.As(err, &d) || d.Fault != plugin.FaultInternal || !strings.Contains(d.Summary, "failed in Transfer: ValueError") ||
		!strings.Contains(d.Detail, "chrdev.py") {
		t.Errorf("an exception in Transfer: %#v", err)
	}
	if err := p.Health(t.Context()); err != nil {
		t.Error(err)
	}
}

// pythonHosted has the host start the plugin, give up a transfer in the middle, and go on with the same process.
func pythonHosted(t *testing.T, dir string) {
	h := pluginhost.New(pluginhost.Config{Dirs: []string{dir}})
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p, info, err := h.Transform(ctx, "chrdev-python")
	if err != nil {
		t.Fatal(err)
	}
	if info.Name != "chrdev-python" || len(info.Protocols) != 1 || info.Protocols[0] != 1 {
		t.Errorf("Info = %+v", info)
	}
	resp, err := p.Plan(ctx, pythonPlan("last_minor"))
	if err != nil || len(resp.Claimed) != 1 || len(resp.Transfers[regionsItem].Globals) != 1 {
		t.Errorf("Plan = %+v, %v", resp, err)
	}
	_, err = p.Transfer(ctx, &transform.TransferRequest{Item: regionsItem},
		kernelFunc(func(ctx context.Context, _ *transform.Walk) ([]transform.Object, error) {
			cancel() // while the plugin waits for objects
			<-ctx.Done()
			return nil, ctx.Err()
		}))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a transfer that is given up: %v", err)
	}
	if err := p.Health(t.Context()); err != nil {
		t.Errorf("the plugin did not obey, and was killed: %v", err)
	}

	other := pluginhost.New(pluginhost.Config{Dirs: []string{dir},
		PluginConfig: map[string]map[string]string{"transform-chrdev-python": {"colour": "red"}}})
	defer other.Close()
	var d *plugin.Diagnostic
	if _, _, err := other.Transform(t.Context(), "chrdev-python"); !errors.As(err, &d) || d.Fault != plugin.FaultUser ||
		!strings.Contains(d.Summary, "unknown configuration key colour") {
		t.Errorf("an unknown key: %v", err)
	}
}
