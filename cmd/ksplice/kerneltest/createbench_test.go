package kerneltest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ksplice/ksplice/core/build"
	"github.com/ksplice/ksplice/core/patch"
	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
	"github.com/ksplice/ksplice/sdk/backend"
)

// BenchmarkCreate measures create for a patch of one file, of five, and of a header that some 80 units include: with nothing in the cache,
// with the tree there, and the second time. Beside the first time stands the floor: the bare commands (compiler and objtool) of the same
// units, before and after the patch, as many at a time as there are processors. Processor time is told, too, since the machine may have other
// things to do.
func BenchmarkCreate(b *testing.B) {
	withoutGuest(b, (*measuring).creating)
}

// withoutGuest measures on every wanted series what needs its kernel's files and no guest.
func withoutGuest(b *testing.B, measure func(*measuring, *testing.B)) {
	vmtest.Need(b)
	for _, s := range wantedSeries() {
		b.Run(s, func(b *testing.B) {
			l := &lab{kernel: vmtest.MustFetch(b, s), share: b.TempDir()}
			var err error
			if l.tools, err = vmtest.Tools(b.Context()); err != nil {
				b.Fatal(err)
			}
			m := &measuring{lab: l}
			fmt.Printf("\nkernel %s\n", m.kernel.Release)
			measure(m, b)
		})
	}
}

// cost is what something took.
type cost struct{ wall, processors time.Duration }

func (c cost) text() string {
	return fmt.Sprintf("%.1f s (%.1f s of processors)", c.wall.Seconds(), c.processors.Seconds())
}

// creating times create for three patches.
func (m *measuring) creating(b *testing.B) {
	header, err := os.ReadFile(filepath.Join("testdata", "jbd2-header.patch"))
	if err != nil {
		b.Fatal(err)
	}
	cache := b.TempDir()
	for i, p := range []struct {
		name string
		text []byte
	}{{"one file", m.patchOf(b, "netif-rx-drop")}, {"five files", m.patchOf(b, "sleepers")}, {"a header", header}} {
		if i == 0 {
			c, took := m.timeCreate(b, cache, p.text)
			m.row("create, nothing cached (packages are downloaded)", "%s: %s", took.text(), c.split())
			if err := os.RemoveAll(filepath.Join(cache, "objects")); err != nil {
				b.Fatal(err)
			}
		}
		first, took := m.timeCreate(b, cache, p.text)
		m.row(fmt.Sprintf("create, %s, %d units, tree cached", p.name, first.Units), "%s: %s", took.text(), first.split())
		floor := m.floor(b, cache, p.text)
		m.row("  the bare commands for them, before and after", "%s: create takes %.2f times the time, %.2f times the processors'", floor.text(),
			took.wall.Seconds()/floor.wall.Seconds(), took.processors.Seconds()/floor.processors.Seconds())
		if first.Unaffected > 0 {
			m.row("  units that were left out, proved from preprocessed source", "%d; for 500 units such a patch would take %.0f s", first.Unaffected,
				took.wall.Seconds()*500/float64(first.Units))
		}
		second, took := m.timeCreate(b, cache, p.text)
		m.row("  the second time", "%s: %s", took.text(), second.split())
		if i == 0 {
			m.row("  update on disk", "%d bytes", second.Size)
		}
	}
}

func (m *measuring) patchOf(b *testing.B, name string) []byte {
	e, err := examples.Get(name)
	if err != nil {
		b.Fatal(err)
	}
	text, err := e.Patch(m.series())
	if err != nil {
		b.Fatal(err)
	}
	return text
}

// timeCreate runs create with a cache.
func (m *measuring) timeCreate(b *testing.B, cache string, text []byte) (c created, took cost) {
	path := filepath.Join(m.share, "bench.patch")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		b.Fatal(err)
	}
	start, before := time.Now(), processors(b)
	out, errs, exit := m.host(b, "create", "--json", "--patch", path, "--kernel", m.kernel.Release, "--cache", cache, "-o", filepath.Join(m.share, "bench.ksplice"))
	took = cost{time.Since(start), processors(b) - before}
	if exit != exitOK {
		b.Fatalf("create: exit code %d\n%s%s", exit, out, errs)
	}
	if err := json.Unmarshal([]byte(out), &c); err != nil {
		b.Fatal(err)
	}
	return c, took
}

// floor runs the commands of the units that a patch reaches, as they are in the tree, for before the patch and for after it.
func (m *measuring) floor(b *testing.B, cache string, text []byte) cost {
	host := pluginhost.New(pluginhost.Config{Dirs: []string{filepath.Join(m.tools, "libexec", "ksplice", "plugins")}})
	defer host.Close()
	debian, _, err := host.Backend(b.Context(), "debian")
	if err != nil {
		b.Fatal(err)
	}
	builder := build.New(debian, cache, nil)
	defer builder.Close()
	tree, err := builder.Prepare(b.Context(), m.kernel.Release, "", nil)
	if err != nil {
		b.Fatal(err)
	}
	units, err := builder.Affected(b.Context(), tree, patched(b, text))
	if err != nil {
		b.Fatal(err)
	}
	// Of many units one side is compiled, and counted twice: both cost the same.
	sides := 2
	if len(units) > 20 {
		sides = 1
	}
	type bare struct{ dir, command string }
	var commands []bare
	for side := range sides {
		work := filepath.Join(cache, fmt.Sprintf("floor-%d", side))
		defer os.RemoveAll(work)
		if out, err := exec.CommandContext(b.Context(), "cp", "-al", tree.Root, work).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		// Preprocessing tells the commands.
		resp, err := debian.Compile(b.Context(), &backend.CompileRequest{Tree: tree, WorkDir: work, Units: units, Preprocess: true,
			ExtraFlags: []string{"-ffunction-sections", "-fdata-sections"}}, nil)
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range resp.Results {
			commands = append(commands, bare{work, r.Command})
		}
	}
	start, before := time.Now(), processors(b)
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for _, c := range commands {
		g.Go(func() error {
			cmd := exec.CommandContext(b.Context(), "sh", "-ec", c.command)
			cmd.Dir = c.dir
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	times := time.Duration(2 / sides)
	return cost{time.Since(start) * times, (processors(b) - before) * times}
}

// patched lists the files that a patch changes.
func patched(b *testing.B, text []byte) (files []string) {
	p, err := patch.Parse(text)
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range p.Files {
		files = append(files, f.Path())
	}
	return files
}
