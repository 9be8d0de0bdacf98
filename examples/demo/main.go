// Command demo shows a hot update, end to end, on Debian's newest kernel of a series: it makes an update from a patch, signs
// it, boots the kernel in a virtual machine that trusts the key, and shows what a program there sees before, after apply, and
// after undo, while other programs use the patched code in a loop. It fails when anything is not as it should be. `make demo`
// runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ksplice/ksplice/core/vmtest"
)

const (
	patchFile = "examples/patches/proc-version.patch" // from the directory of the source tree
	added     = "Updated while running"               // what the patch adds to what the program sees
	limit     = 15 * time.Minute                      // for all of it, downloads included
	readers   = 3                                     // programs that use the patched code all the while
)

// loop is what each reader runs: it ends as soon as it cannot read the version.
const loop = `n=0; while read -r line < /proc/version; do n=$((n+1)); [ $((n % 100)) != 0 ] || echo $n; done; echo failed after $n`

func main() {
	series := flag.String("series", "6.1", `the kernel: a series such as "6.12", or an exact release`)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the demo did not end within %v", limit))
	begin := time.Now()
	err := demo(ctx, *series)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo: FAILED:", err)
		os.Exit(1)
	}
	fmt.Printf("\ndemo: old behaviour, new behaviour, old behaviour; nothing was restarted (%.0f s in all)\n", time.Since(begin).Seconds())
}

func say(format string, args ...any) { fmt.Printf("\n== "+format+"\n", args...) }

func demo(ctx context.Context, series string) error {
	patch, err := os.ReadFile(patchFile)
	if err != nil {
		return fmt.Errorf("%w: run this in the source tree", err)
	}
	say("the kernel")
	k, err := vmtest.Fetch(ctx, series)
	if err != nil {
		return err
	}
	fmt.Printf("Debian's %s, version %s, as it is in the archive\n", k.Package, k.Version)
	tools, err := vmtest.Tools(ctx)
	if err != nil {
		return err
	}
	kmod, err := vmtest.BuildKmod(ctx, k)
	if err != nil {
		return err
	}
	share, err := os.MkdirTemp("", "ksplice-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(share)

	say("the patch: %s", patchFile)
	_, diff, _ := strings.Cut(string(patch), "---\n")
	fmt.Print(diff)

	keys, err := os.MkdirTemp("", "ksplice-demo-keys-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(keys)
	key := filepath.Join(keys, "vendor")
	say("ksplice keygen --no-password vendor")
	if err := onHost(ctx, tools, "keygen", "--no-password", key); err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	say("ksplice create --patch %s --kernel %s --sign vendor.key -o demo.ksplice", patchFile, k.Release)
	if err := onHost(ctx, tools, "create", "--patch", patchFile, "--kernel", k.Release, "--sign", key+".key", "-o", filepath.Join(share, "demo.ksplice")); err != nil {
		return fmt.Errorf("create the update: %w", err)
	}

	say("boot %s in QEMU, with vendor.pub in /etc/ksplice/keys.d: it trusts who has made the update", k.Release)
	files, err := vmtest.Tree(tools, "/usr/local")
	if err != nil {
		return err
	}
	files["/root/ksplice.ko"] = kmod
	files["/etc/ksplice/keys.d/vendor.pub"] = key + ".pub"
	g, err := vmtest.Boot(ctx, vmtest.Options{Kernel: k, Files: files, Share: share})
	if err != nil {
		return err
	}
	defer g.Close()
	if err := inGuest(ctx, g); err != nil {
		return err
	}
	if err := g.Err(); err != nil {
		return err
	}
	return g.Close()
}

// onHost runs ksplice here, and shows what it says.
func onHost(ctx context.Context, tools string, args ...string) error {
	c := exec.CommandContext(ctx, filepath.Join(tools, "bin", "ksplice"), args...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 30 * time.Second
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	return c.Run()
}

// inGuest is what happens in the machine.
func inGuest(ctx context.Context, g *vmtest.Guest) error {
	var busy []*vmtest.Process
	for range readers {
		p, err := g.Start(ctx, "sh", "-c", loop)
		if err != nil {
			return err
		}
		busy = append(busy, p)
	}
	old, err := show(ctx, g, "cat", "/proc/version")
	if err != nil {
		return err
	}
	if strings.Contains(old, added) {
		return errors.New("/proc/version is patched before the update is")
	}
	id := ""
	for _, step := range []struct {
		argv    []string
		patched bool
	}{
		{[]string{"insmod", "/root/ksplice.ko"}, false},
		{[]string{"ksplice", "check", "/share/demo.ksplice"}, false},
		{[]string{"ksplice", "apply", "/share/demo.ksplice"}, true},
		{[]string{"ksplice", "status"}, true},
		{[]string{"ksplice", "undo"}, false},
		{[]string{"ksplice", "status"}, false},
	} {
		if step.argv[1] == "undo" {
			step.argv = append(step.argv, id)
		}
		out, err := show(ctx, g, step.argv...)
		if err != nil {
			return err
		}
		if step.argv[1] == "status" && step.patched {
			if id, err = firstID(out); err != nil {
				return err
			}
		}
		now, err := show(ctx, g, "cat", "/proc/version")
		if err != nil {
			return err
		}
		rest, kept := strings.CutPrefix(now, old)
		if !kept || step.patched != strings.Contains(rest, added) || !step.patched && rest != "" {
			return fmt.Errorf("after `%s` /proc/version reads %q", strings.Join(step.argv, " "), now)
		}
	}
	return end(busy)
}

// end ends the readers, which must have read all the while and never failed.
func end(busy []*vmtest.Process) error {
	var counts []string
	for _, p := range busy {
		select {
		case <-p.Done():
			return fmt.Errorf("a program that read /proc/version all the while ended: %s", p.Output())
		default:
		}
		lines := strings.Fields(p.Output())
		if len(lines) == 0 {
			return errors.New("a program that reads /proc/version all the while has not read it a hundred times")
		}
		counts = append(counts, lines[len(lines)-1])
		if err := p.Kill(); err != nil {
			return err
		}
	}
	fmt.Printf("\n%d programs have read /proc/version %s times all the while, and never failed\n", len(busy), strings.Join(counts, ", "))
	return nil
}

// show runs a program in the guest and shows its command line and its output, which it returns.
func show(ctx context.Context, g *vmtest.Guest, argv ...string) (string, error) {
	fmt.Printf("\nguest# %s\n", strings.Join(argv, " "))
	r, err := g.Run(ctx, argv...)
	if err != nil {
		return "", err
	}
	fmt.Print(r.Stdout, r.Stderr)
	if r.Exit != 0 {
		return "", fmt.Errorf("`%s` ended with exit status %d", strings.Join(argv, " "), r.Exit)
	}
	return r.Stdout, nil
}

// firstID takes the ID of the first update that `ksplice status` lists below its heading.
func firstID(status string) (string, error) {
	lines := strings.Split(status, "\n")
	if len(lines) >= 2 && strings.HasPrefix(lines[0], "ID") {
		if f := strings.Fields(lines[1]); len(f) > 0 {
			return f[0], nil
		}
	}
	return "", fmt.Errorf("`ksplice status` lists no update:\n%s", status)
}
