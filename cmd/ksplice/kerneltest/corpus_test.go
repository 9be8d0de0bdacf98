package kerneltest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ksplice/ksplice/core/vmtest"
)

// The variables of TestCorpus; `make corpus` sets them.
const (
	corpusVariable  = "KSPLICE_TEST_CORPUS"         // a directory of patches
	listVariable    = "KSPLICE_TEST_CORPUS_LIST"    // patches by name without .patch, separated by spaces; empty: all
	reverseVariable = "KSPLICE_TEST_CORPUS_REVERSE" // "1": take them backwards
)

// TestCorpus makes an update of every patch of a directory, applies it in a booted guest and undoes it, and wants the
// kernel's text to be what it was. Patches that create refuses are listed with the reason and fail only when a list names them.
func TestCorpus(t *testing.T) {
	dir := os.Getenv(corpusVariable)
	if dir == "" {
		t.Skipf("SKIPPED: it wants a directory of patches in $%s; `make corpus CORPUS=DIR` runs it", corpusVariable)
	}
	patches, err := filepath.Glob(filepath.Join(dir, "*.patch"))
	if err != nil || len(patches) == 0 {
		t.Fatalf("no patches in %s (%v)", dir, err)
	}
	wanted := strings.Fields(os.Getenv(listVariable))
	if len(wanted) > 0 {
		patches = slices.DeleteFunc(patches, func(p string) bool {
			return !slices.Contains(wanted, strings.TrimSuffix(filepath.Base(p), ".patch"))
		})
		if len(patches) != len(wanted) {
			t.Fatalf("%s has %d of the %d patches listed", dir, len(patches), len(wanted))
		}
	}
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		l.boot(t, vmtest.Options{MemoryMiB: 2048})
		for _, p := range patches {
			t.Run(strings.TrimSuffix(filepath.Base(p), ".patch"), func(t *testing.T) { l.corpus(t, p, len(wanted) > 0) })
		}
	})
}

func (l *lab) corpus(t *testing.T, patch string, must bool) {
	name := strings.TrimSuffix(filepath.Base(patch), ".patch")
	args := []string{"create", "--patch", patch, "--kernel", l.kernel.Release, "-o", filepath.Join(l.share, name+".ksplice")}
	if os.Getenv(reverseVariable) == "1" {
		args = append(args, "--reverse")
	}
	start := time.Now()
	out, errs, exit := l.host(t, args...)
	took := time.Since(start)
	switch {
	case exit == exitRefused && !must:
		t.Skipf("REFUSED: %s", strings.TrimSpace(errs))
	case exit != exitOK:
		t.Fatalf("create: exit code %d\n%s%s", exit, out, errs)
	}
	file := "/share/" + name + ".ksplice"
	var u struct {
		ID    string
		Parts []struct {
			Target    string
			Functions []struct{ Name string }
		}
	}
	if err := json.Unmarshal([]byte(l.must(t, exitOK, "", "inspect", "--json", file)), &u); err != nil {
		t.Fatal(err)
	}
	var modules, functions []string
	for _, p := range u.Parts {
		if p.Target != "vmlinux" {
			modules = append(modules, p.Target)
			if r, err := l.Run(t.Context(), "modprobe", p.Target); err != nil || r.Exit != 0 {
				t.Skipf("NOT LOADED: module %s does not load here (%v): %s", p.Target, err, strings.TrimSpace(r.Stderr))
			}
		}
		for _, f := range p.Functions {
			functions = append(functions, f.Name)
		}
	}
	same := l.saveText(t, modules...)
	l.must(t, exitOK, "fits", "check", file)
	applied := l.apply(t, file)
	l.undo(t, u.ID)
	same()
	l.clean(t)
	fmt.Printf("%s %s: created in %.1f s; %s: %s; %s\n", l.kernel.Release, name, took.Seconds(), strings.Join(append(modules, "vmlinux")[:max(len(modules), 1)], " "),
		strings.Join(functions, " "), strings.Join(strings.Fields(applied), " "))
}
