// Package sdktest runs the conformance suites of the plugin kinds as tests: the author of a plugin calls Arch, Backend or Transform in a
// test and learns whether a host can rely on the plugin. What is called goes over the wire, as a host's calls do, whether
// the plugin is a value in the test, which is served in memory, or the client of a binary (LaunchArch and its like). Each requirement is a
// subtest; those for which the fixtures lack something are logged as skipped. `ksplice plugin check` asks the same of a finished binary.
//
// ServeArch and its like are for tests of one's own that ask as a host does.
//
//	func TestConformance(t *testing.T) {
//		sdktest.Arch(t, &Plugin{}, sdktest.ArchFixtures{Target: target, Objects: []string{"testdata/a.o", "testdata/b.o"}})
//	}
package sdktest

import (
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/conformance"
	"github.com/ksplice/ksplice/sdk/internal/serve"
	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
)

type (
	// ArchFixtures are the objects, and the kernel that they are of, which Arch asks about.
	ArchFixtures = conformance.ArchFixtures
	// BackendFixtures name the kernel that Backend has built.
	BackendFixtures = conformance.BackendFixtures
	// TransformFixtures are the reports, and the state transfers, that Transform asks about.
	TransformFixtures = conformance.TransformFixtures
	// TransferFixture is a state transfer with the kernel that it finds.
	TransferFixture = conformance.TransferFixture
)

// Arch checks the contract of an architecture plugin: the implementation, or the client of a launched one (LaunchArch).
func Arch(t *testing.T, a arch.Arch, fix ArchFixtures) {
	t.Helper()
	if _, ok := a.(*arch.Client); !ok {
		a = ServeArch(t, a)
	}
	list, err := conformance.Arch(a, fix, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	run(t, list)
}

// Backend checks the contract of a backend: the implementation, or the client of a launched one (LaunchBackend).
func Backend(t *testing.T, b backend.Backend, fix BackendFixtures) {
	t.Helper()
	if _, ok := b.(*backend.Client); !ok {
		b = ServeBackend(t, b)
	}
	run(t, conformance.Backend(b, fix, t.TempDir()))
}

// Transform checks the contract of a transform plugin: the implementation, or the client of a launched one (LaunchTransform).
func Transform(t *testing.T, p transform.Transform, fix TransformFixtures) {
	t.Helper()
	if _, ok := p.(*transform.Client); !ok {
		p = ServeTransform(t, p)
	}
	run(t, conformance.Transform(p, fix, t.TempDir()))
}

func run(t *testing.T, list []conformance.Check) {
	t.Helper()
	lacks := make(map[string][]string) // what is not asked, by what it needs
	for _, c := range list {
		if c.Needs != "" {
			lacks[c.Needs] = append(lacks[c.Needs], c.Name)
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			if err := c.Run(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	for what, names := range lacks {
		t.Logf("SKIPPED: the fixtures lack %s, so that this is not asked: %s", what, strings.Join(names, ", "))
	}
}

// ServeArch serves impl in memory and returns its client, which checks replies as a host's does. It ends with the test.
func ServeArch(t testing.TB, impl arch.Arch) *arch.Client {
	t.Helper()
	return arch.NewClient(serve.Serve(t, plugin.KindArch, impl, func(s *grpc.Server) { arch.Register(s, impl) }), "arch plugin under test")
}

// ServeBackend is ServeArch for a backend.
func ServeBackend(t testing.TB, impl backend.Backend) *backend.Client {
	t.Helper()
	return backend.NewClient(serve.Serve(t, plugin.KindBackend, impl, func(s *grpc.Server) { backend.Register(s, impl) }), "backend plugin under test")
}

// ServeTransform is ServeArch for a transform plugin.
func ServeTransform(t testing.TB, impl transform.Transform) *transform.Client {
	t.Helper()
	return transform.NewClient(serve.Serve(t, plugin.KindTransform, impl, func(s *grpc.Server) { transform.Register(s, impl) }), "transform plugin under test")
}

// LaunchArch starts the plugin binary at path as a host would and returns its client, once the process itself was found to be as a host needs it
// (conformance.Process). The process ends with the test.
func LaunchArch(t testing.TB, path string) *arch.Client {
	t.Helper()
	return arch.NewClient(launch(t, plugin.KindArch, path), "arch plugin "+path)
}

// LaunchBackend is LaunchArch for a backend.
func LaunchBackend(t testing.TB, path string) *backend.Client {
	t.Helper()
	return backend.NewClient(launch(t, plugin.KindBackend, path), "backend plugin "+path)
}

// LaunchTransform is LaunchArch for a transform plugin.
func LaunchTransform(t testing.TB, path string) *transform.Client {
	t.Helper()
	return transform.NewClient(launch(t, plugin.KindTransform, path), "transform plugin "+path)
}

func launch(t testing.TB, kind plugin.Kind, path string) *grpc.ClientConn {
	t.Helper()
	for _, c := range conformance.Process(kind, path) {
		if err := c.Run(t.Context()); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
	conn, end, err := conformance.Launch(t.Context(), kind, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	return conn
}
