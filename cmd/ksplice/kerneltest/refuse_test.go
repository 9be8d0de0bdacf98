package kerneltest

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/ksplice/ksplice/core/build"
	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// refusals wants what must not be applied to be refused, with the reason, and nothing to change.
func (l *lab) refusals(t *testing.T, files map[string]string) {
	same := l.saveText(t)
	l.badPatches(t)
	l.badFiles(t, files)
	t.Run("signers", func(t *testing.T) { l.signers(t, files["uptime-words"]) })
	l.changedByte(t, files["uptime-words"])
	l.sleepingProbe(t, files["uptime-words"])
	l.livepatched(t, files["getppid-init"])
	l.otherObjects(t, files["uptime-words"])
	same()
	l.clean(t)
}

// sleepingProbe puts a kprobe that is not enabled where the jump goes: enabled later it would write over the jump, or run what it
// covers.
func (l *lab) sleepingProbe(t *testing.T, file string) {
	u, err := update.ReadFile(filepath.Join(l.share, filepath.Base(file)))
	if err != nil {
		t.Fatal(err)
	}
	const events = "/sys/kernel/tracing/kprobe_events"
	f := u.Manifest.Parts[0].Functions[0]
	probe := func() {
		l.MustRun(t, "sh", "-c", fmt.Sprintf("echo p:asleep %s+%d >> %s", f.Name, f.Redirect.Window.Offset, events))
	}
	remove := func() { l.MustRun(t, "sh", "-c", "echo -:asleep >> "+events) }
	probe()
	l.must(t, exitRefused, "a kprobe stands at", "apply", file)
	remove()
	l.apply(t, file)
	probe()
	l.must(t, exitRefused, "a kprobe stands at", "undo", u.Manifest.ID)
	remove()
	l.undo(t, u.Manifest.ID)
}

// badPatches makes updates of patches that no update can carry.
func (l *lab) badPatches(t *testing.T) {
	for _, r := range examples.Refusals {
		if r.Command == "create" && !l.turn("6.12") {
			continue
		}
		t.Run(r.Name, func(t *testing.T) {
			text, err := r.Patch(l.series())
			if err != nil {
				t.Fatal(err)
			}
			patch := filepath.Join(l.share, r.Name+"-FAIL.patch")
			if err := os.WriteFile(patch, text, 0o644); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(l.share, r.Name+"-FAIL.ksplice")
			out, errs, exit := l.host(t, "create", "--patch", patch, "--kernel", l.kernel.Release, "-o", file)
			if r.Command == "apply" {
				if exit != exitOK {
					t.Fatalf("create: exit code %d\n%s%s", exit, out, errs)
				}
				got := l.ksplice(t, "apply", "/share/"+filepath.Base(file))
				exit, errs = got.Exit, got.Stderr
			} else if _, err := os.Stat(file); err == nil {
				t.Error("create refused, but wrote a file")
			}
			if exit != exitRefused || !regexp.MustCompile(r.Words).MatchString(errs) {
				t.Errorf("%s: exit code %d, want %d and %q\n%s", r.Command, exit, exitRefused, r.Words, errs)
			}
		})
	}
}

// badFiles gives check and apply files that are not what create wrote, or were made for another kernel.
func (l *lab) badFiles(t *testing.T, files map[string]string) {
	good, err := os.ReadFile(filepath.Join(l.share, filepath.Base(files["uptime-words"])))
	if err != nil {
		t.Fatal(err)
	}
	altered := append([]byte(nil), good...)
	altered[len(altered)/2] ^= 1
	for name, b := range map[string][]byte{"altered": altered, "truncated": good[:len(good)-9], "foreign": []byte("#!/bin/sh\n")} {
		if err := os.WriteFile(filepath.Join(l.share, name+".ksplice"), b, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, command := range []string{"check", "apply", "inspect"} {
			l.must(t, exitRefused, name+".ksplice", command, "/share/"+name+".ksplice")
		}
	}
	l.otherBuilds(t, good)
	other := map[string]string{"6.1": "6.12", "6.12": "6.1"}[l.series()]
	k := vmtest.MustFetch(t, other)
	patch, err := examples.All[0].Patch(other)
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(l.share, "other.patch")
	if err := os.WriteFile(source, patch, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, errs, exit := l.host(t, "create", "--patch", source, "--kernel", k.Release, "-o", filepath.Join(l.share, "other.ksplice")); exit != exitOK {
		t.Fatalf("create for %s: exit code %d\n%s%s", k.Release, exit, out, errs)
	}
	l.must(t, exitRefused, "another kernel", "apply", "/share/other.ksplice")
}

// otherBuilds gives apply updates for other builds of the same release: a rebuild changes the version or only the build id.
func (l *lab) otherBuilds(t *testing.T, good []byte) {
	for what, change := range map[string]func(k *update.Kernel){
		"version":  func(k *update.Kernel) { k.Version += " rebuilt" },
		"build id": func(k *update.Kernel) { k.BuildID = strings.Repeat("5a", len(k.BuildID)/2) },
	} {
		u, err := update.Read(bytes.NewReader(good))
		if err != nil {
			t.Fatal(err)
		}
		if u.Manifest.Kernel.BuildID == "" {
			t.Fatal("the manifest has no build id")
		}
		change(&u.Manifest.Kernel)
		if err := u.WriteFile(filepath.Join(l.share, "rebuilt.ksplice")); err != nil {
			t.Fatal(err)
		}
		l.must(t, exitRefused, "another kernel: its "+what, "apply", "/share/rebuilt.ksplice")
	}
}

// changedByte changes a byte of a function in the running kernel, as an intruder or a broken memory would.
func (l *lab) changedByte(t *testing.T, file string) {
	l.must(t, exitOK, "fits", "check", file)
	f := strings.Fields(l.MustRun(t, guestTool, "peek", "uptime_proc_show"))
	address, err := strconv.ParseUint(f[0], 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	was, err := hex.DecodeString(f[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{14, len(was) / 3, len(was) / 2} { // behind the last is padding
		if err := l.WriteMemory(address+uint64(at), []byte{was[at] ^ 0x41}); err != nil {
			t.Fatal(err)
		}
		l.must(t, exitRefused, "uptime_proc_show", "check", file)
		l.must(t, exitRefused, "uptime_proc_show", "apply", file)
		if err := l.WriteMemory(address+uint64(at), was[at:at+1]); err != nil {
			t.Fatal(err)
		}
	}
	l.must(t, exitOK, "fits", "check", file)
}

// livepatched wants a function that the kernel's own livepatch has redirected to be refused: our redirect would be dead.
func (l *lab) livepatched(t *testing.T, file string) {
	ko, err := vmtest.BuildModule(t.Context(), l.kernel, "examples/livepatch", "livepatch_getppid")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(ko)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.WriteFile("/tmp/livepatch.ko", b, 0o644); err != nil {
		t.Fatal(err)
	}
	l.livepatch(t, "/tmp/livepatch.ko")
	l.must(t, exitRefused, "livepatch", "check", file)
	l.must(t, exitRefused, "livepatch", "apply", file)
	l.unlivepatch(t)
	l.must(t, exitOK, "fits", "check", file)
}

// livepatchControl is the directory of examples/livepatch's module.
const livepatchControl = "/sys/kernel/livepatch/livepatch_getppid"

// livepatch loads the livepatch module and waits until it is in force.
func (l *lab) livepatch(t testing.TB, ko string) {
	t.Helper()
	l.MustRun(t, "insmod", ko)
	poll(t, "the livepatch to be in", func() bool {
		r, err := l.Run(t.Context(), "sh", "-c", "[ $(cat "+livepatchControl+"/transition) = 0 ]")
		return err == nil && r.Exit == 0
	})
}

// unlivepatch takes it away.
func (l *lab) unlivepatch(t testing.TB) {
	t.Helper()
	l.MustRun(t, "sh", "-c", "echo 0 > "+livepatchControl+"/enabled")
	poll(t, "the livepatch to go", func() bool {
		r, err := l.Run(t.Context(), "test", "-e", livepatchControl)
		return err == nil && r.Exit != 0
	})
	l.MustRun(t, "rmmod", "livepatch_getppid")
}

// otherObjects matches objects of a unit that were compiled as the kernel's own, and with another option.
func (l *lab) otherObjects(t *testing.T, file string) {
	host := pluginhost.New(pluginhost.Config{Dirs: []string{filepath.Join(l.tools, "libexec", "ksplice", "plugins")}})
	defer host.Close()
	debian, _, err := host.Backend(t.Context(), "debian")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	b := build.New(debian, filepath.Join(cache, "ksplice"), hclog.NewNullLogger())
	defer b.Close()
	tree, err := b.Prepare(t.Context(), l.kernel.Release, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	units, err := b.Affected(t.Context(), tree, []string{"fs/proc/uptime.c"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, flag string
		exit       int
	}{{"own", "", exitOK}, {"O1", "-O1", exitRefused}} {
		flags := []string{"-ffunction-sections", "-fdata-sections"}
		if c.flag != "" {
			flags = append(flags, c.flag)
		}
		objects, err := b.Compile(t.Context(), tree, build.CompileInput{Units: units, Flags: flags}, nil)
		if err != nil {
			t.Fatal(err)
		}
		o, err := os.ReadFile(objects[0].Path)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(l.share, c.name+".o")
		if err := os.WriteFile(path, o, 0o644); err != nil {
			t.Fatal(err)
		}
		l.must(t, c.exit, "uptime_proc_show", "match", "--update", file, "--against", "live", "/share/"+c.name+".o")
		// The same on the host, with the kernel's image and its tree.
		out, errs, exit := l.host(t, "match", "--kernel", l.kernel.Release, "--against", l.kernel.Vmlinuz, path)
		if exit != c.exit || !strings.Contains(out, "uptime_proc_show") {
			t.Errorf("match of %s.o with the image: exit code %d, want %d\n%s%s", c.name, exit, c.exit, out, errs)
		}
		out, errs, exit = l.host(t, "match", "--against", l.kernel.Vmlinuz, path)
		if exit != exitUsage || !strings.Contains(errs, "--kernel RELEASE") {
			t.Errorf("match without the kernel's tables: exit code %d, want %d\n%s%s", exit, exitUsage, out, errs)
		}
	}
	pair := []string{filepath.Join(l.share, "own.o"), filepath.Join(l.share, "O1.o")}
	out, errs, exit := l.host(t, append([]string{"diff", "--kernel", l.kernel.Release}, pair...)...)
	if exit != exitOK || !strings.Contains(out, "uptime_proc_show") {
		t.Errorf("diff: exit code %d\n%s%s", exit, out, errs)
	}
}
