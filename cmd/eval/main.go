// Command eval takes every patch of a directory down the whole road on one kernel: create, check, apply in a booted guest under a
// mixed workload, a probe on every replacement, undo, and a comparison of the kernel's text. It writes a table, JSON and a page of
// HTML: a verdict for each patch, and never a guessed one. A run that was ended goes on where it was. `make eval` runs it.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/ksplice/ksplice/core/vmtest"
)

// options are what the command line says.
type options struct {
	corpus, kernel, out, list string
	versions                  string
	reverse                   bool
	jobs                      int
}

func main() {
	var o options
	flag.StringVar(&o.corpus, "corpus", "", "the `directory` of the patches")
	flag.StringVar(&o.kernel, "kernel", "6.1", `the kernel: a series such as "6.12" or an exact release`)
	flag.StringVar(&o.out, "out", "", "the `directory` for results (default: eval-KERNEL below out)")
	flag.StringVar(&o.list, "list", "", "take only these patches, `names` without .patch, separated by blanks")
	flag.BoolVar(&o.reverse, "reverse", false, "take the patches backwards")
	flag.StringVar(&o.versions, "versions", "", "fill the corpus with the differences between two versions of linux-source, `FROM:TO`, and end")
	flag.IntVar(&o.jobs, "jobs", runtime.NumCPU(), "how many updates are made at the same time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var failed int
	var err error
	if o.versions != "" {
		var n int
		if n, err = writeVersions(ctx, o.versions, o.corpus); err == nil {
			fmt.Fprintf(os.Stderr, "%d patches are in %s\n", n, o.corpus)
		}
	} else {
		failed, err = run(ctx, o)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "eval:", err)
		os.Exit(1)
	}
	if failed > 0 {
		fmt.Fprintf(os.Stderr, "eval: %d patches failed\n", failed)
		os.Exit(1)
	}
}

// evaluation is one run.
type evaluation struct {
	options
	kernel *vmtest.Kernel
	tools  string // an installation of ksplice
	share  string // the guest's /share
	files  map[string]string
	key    string // of everything but the patch that a result depends on
}

func run(ctx context.Context, o options) (failed int, err error) {
	patches, err := list(o)
	if err != nil {
		return 0, err
	}
	e, err := newEvaluation(ctx, o)
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(e.share)
	results := make([]*Result, len(patches))
	var todo []int
	for i, p := range patches {
		if results[i], err = e.known(p); err != nil {
			return 0, err
		}
		if results[i].Verdict == "" {
			todo = append(todo, i)
		}
	}
	if n := len(patches) - len(todo); n > 0 {
		fmt.Fprintf(os.Stderr, "%d of %d patches have results already, in %s\n", n, len(patches), e.out)
	}
	err = e.all(ctx, patches, results, todo)
	done := slices.DeleteFunc(slices.Clone(results), func(r *Result) bool { return r.Verdict == "" })
	for _, r := range done {
		if r.Verdict == Failed {
			failed++
		}
	}
	return failed, errors.Join(err, e.report(done))
}

// list returns the paths of the patches.
func list(o options) ([]string, error) {
	if o.corpus == "" {
		return nil, errors.New("say where the patches are with -corpus")
	}
	patches, err := filepath.Glob(filepath.Join(o.corpus, "*.patch"))
	if err != nil {
		return nil, err
	}
	if wanted := strings.Fields(o.list); len(wanted) > 0 {
		patches = slices.DeleteFunc(patches, func(p string) bool { return !slices.Contains(wanted, name(p)) })
		if len(patches) != len(wanted) {
			return nil, fmt.Errorf("%s has %d of the %d patches listed", o.corpus, len(patches), len(wanted))
		}
	}
	if len(patches) == 0 {
		return nil, fmt.Errorf("there are no *.patch in %s", o.corpus)
	}
	return patches, nil
}

func name(patch string) string { return strings.TrimSuffix(filepath.Base(patch), ".patch") }

// newEvaluation builds and fetches what a run needs.
func newEvaluation(ctx context.Context, o options) (*evaluation, error) {
	e := &evaluation{options: o}
	var err error
	if e.kernel, err = vmtest.Fetch(ctx, o.kernel); err != nil {
		return nil, err
	}
	if e.tools, err = vmtest.Tools(ctx); err != nil {
		return nil, err
	}
	kmod, err := vmtest.BuildKmod(ctx, e.kernel)
	if err != nil {
		return nil, err
	}
	if e.files, err = vmtest.Tree(e.tools, guestTools); err != nil {
		return nil, err
	}
	e.files[guestKmod] = kmod
	for to, pkg := range map[string]string{guestUser: "./examples/exercise", guestTool: "./cmd/ksplice/kerneltest/labtool"} {
		if e.files[to], err = vmtest.Program(ctx, pkg); err != nil {
			return nil, err
		}
	}
	// The names of these directories are digests of what is in them.
	e.key = fmt.Sprint(e.kernel.Release, " ", e.kernel.Version, " ", filepath.Base(e.tools), " ", filepath.Base(filepath.Dir(kmod)), " ", o.reverse)
	if e.out == "" {
		e.out = filepath.Join("out", "eval-"+e.kernel.Release)
	}
	if err := os.MkdirAll(filepath.Join(e.out, "results"), 0o755); err != nil {
		return nil, err
	}
	e.share, err = os.MkdirTemp("", "ksplice-eval-")
	return e, err
}

// all evaluates what is to do: updates are made side by side, and one guest takes them as they come.
func (e *evaluation) all(ctx context.Context, patches []string, results []*Result, todo []int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work, made := make(chan int), make(chan int, len(todo))
	var wg sync.WaitGroup
	for range max(e.jobs, 1) {
		wg.Go(func() {
			for i := range work {
				if err := e.create(ctx, patches[i], results[i]); err != nil {
					cancel(err)
					return
				}
				made <- i
			}
		})
	}
	go func() {
		defer close(work)
		for _, i := range todo {
			select {
			case work <- i:
			case <-ctx.Done():
				return
			}
		}
	}()
	go func() {
		wg.Wait()
		close(made)
	}()
	m := &machine{e: e}
	defer m.close()
	p := newProgress(len(todo))
	for i := range made {
		r := results[i]
		if r.Verdict == "" {
			if err := m.try(ctx, r); err != nil {
				cancel(err)
				break
			}
		}
		if err := e.keep(r); err != nil {
			cancel(err)
			break
		}
		p.done(r)
	}
	wg.Wait()
	return context.Cause(ctx)
}

func digest(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
