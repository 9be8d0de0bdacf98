// Command vm gives the kernels of package vmtest to scripts and to people: it fetches them, builds the kernel module for
// them and runs programs in them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"syscall"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/vmtest"
)

const usage = `usage: vm kdir SERIES               fetch a kernel ("6.1", or a release) and print the directory of its headers
       vm kmod SERIES               build the kernel module for it and print the file
       vm modules SERIES            print the directory of its modules
       vm vmlinux SERIES FILE       unpack its image, an ELF file, into FILE
       vm run SERIES PROGRAM [ARG]  boot it with Ksplice installed in /usr/local and run a program, its exit status is ours;
                                    the working directory is /share, the console goes to stderr when something is wrong
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		code = 1
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string) (int, error) {
	want := 2
	if len(args) > 0 && (args[0] == "run" || args[0] == "vmlinux") {
		want = 3
	}
	if len(args) < want || args[0] != "run" && len(args) != want {
		fmt.Fprint(os.Stderr, usage)
		return 2, nil
	}
	k, err := vmtest.Fetch(ctx, args[1])
	if err != nil {
		return 0, err
	}
	switch args[0] {
	case "kdir":
		fmt.Println(k.KDir)
		return 0, nil
	case "modules":
		fmt.Println(k.ModulesDir)
		return 0, nil
	case "vmlinux":
		return 0, vmlinux(k, args[2])
	case "kmod":
		file, err := vmtest.BuildKmod(ctx, k)
		if err == nil {
			fmt.Println(file)
		}
		return 0, err
	case "run":
		return inGuest(ctx, k, args[2:])
	}
	fmt.Fprint(os.Stderr, usage)
	return 2, nil
}

func vmlinux(k *vmtest.Kernel, file string) error {
	f, err := os.Open(k.Vmlinuz)
	if err != nil {
		return err
	}
	defer f.Close()
	image, err := kernel.Vmlinux(f)
	if err != nil {
		return fmt.Errorf("%s: %w", k.Vmlinuz, err)
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.NewSectionReader(image, 0, math.MaxInt64))
	return errors.Join(err, out.Close())
}

func inGuest(ctx context.Context, k *vmtest.Kernel, argv []string) (int, error) {
	tools, err := vmtest.Tools(ctx)
	if err != nil {
		return 0, err
	}
	files, err := vmtest.Tree(tools, "/usr/local")
	if err != nil {
		return 0, err
	}
	if files["/root/ksplice.ko"], err = vmtest.BuildKmod(ctx, k); err != nil {
		return 0, err
	}
	share, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	g, err := vmtest.Boot(ctx, vmtest.Options{Kernel: k, Files: files, Share: share})
	if err != nil {
		return 0, err
	}
	defer g.Close()
	r, err := g.Run(ctx, append([]string{"sh", "-c", `cd /share && exec "$@"`, "vm"}, argv...)...)
	if err != nil {
		return 0, err
	}
	fmt.Print(r.Stdout)
	fmt.Fprint(os.Stderr, r.Stderr)
	if err := g.Err(); err != nil {
		return 0, err
	}
	return r.Exit, g.Close()
}
