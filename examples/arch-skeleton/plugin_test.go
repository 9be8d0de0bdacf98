package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/conformance"
	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/sdktest"
)

// target is a kernel of which nothing is asked yet.
var target = arch.Target{Machine: uint16(machine)}

// unfinished reads README's table of checks that fail: the porting note of each.
func unfinished(t *testing.T) map[string]note {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]note{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([a-z ]+) \| (\d+) \|`).FindAllStringSubmatch(string(text), -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		list[m[1]] = note(n)
	}
	return list
}

// noteForm finds the note in an error.
var noteForm = regexp.MustCompile(`porting note (\d+) in`)

// TestConformance runs the suite against the finished binary, as a host starts it. What README says fails must fail, for want of the note
// that it says, and nothing else: who fills a note in takes its lines out of the table. Once it is empty, this test is the one line
// sdktest.Arch(t, &Plugin{}, fixtures).
func TestConformance(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "arch-aarch64")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	fixtures := conformance.ArchFixtures{Target: target, Objects: []string{"testdata/plain.o", "testdata/branches.o"}}
	checks, err := conformance.Arch(sdktest.LaunchArch(t, binary), fixtures, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	want := unfinished(t)
	if len(want) == 0 {
		t.Error("README lists no check that fails")
	}
	for _, c := range checks {
		n, fails := want[c.Name]
		delete(want, c.Name)
		err := c.Run(t.Context())
		switch {
		case err == nil && fails:
			t.Errorf("%s passes: take it out of README's table", c.Name)
		case err != nil && !fails:
			t.Errorf("%s: %v", c.Name, err)
		case err != nil:
			if m := noteForm.FindStringSubmatch(err.Error()); m == nil || m[1] != fmt.Sprint(int(n)) {
				t.Errorf("%s fails, but not for want of porting note %d: %v", c.Name, n, err)
			}
		}
	}
	for name := range want {
		t.Errorf("README lists the check %q, which the suite does not have", name)
	}
}

// TestNotes: every note that a refusal names is there, and the notes count up from 1.
func TestNotes(t *testing.T) {
	text, err := os.ReadFile("PORTING.md")
	if err != nil {
		t.Fatal(err)
	}
	var notes int
	for _, m := range regexp.MustCompile(`(?m)^## (\d+)\. \S`).FindAllStringSubmatch(string(text), -1) {
		if notes++; m[1] != fmt.Sprint(notes) {
			t.Errorf("note %s stands where %d is expected", m[1], notes)
		}
	}
	for _, n := range []note{noteReferences, noteBranches, noteTracer, noteJumpLabels, noteAlternatives, noteTables, noteBoot, noteMatch, noteFixup, noteRedirect} {
		if int(n) < 1 || int(n) > notes {
			t.Errorf("there is no note %d among %d", n, notes)
		}
	}
}

// describeFile describes one object over the wire, where what breaks the contract is an error.
func describeFile(t *testing.T, path string) (*arch.ObjectDescription, error) {
	t.Helper()
	f, err := plugin.NewFile(path)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := sdktest.ServeArch(t, &Plugin{}).Describe(t.Context(), &arch.DescribeRequest{Target: target, Objects: []plugin.File{f}})
	if err != nil {
		return nil, err
	}
	return &resp.Objects[0], nil
}

// refused wants an object to be refused by a note.
func refused(t *testing.T, what string, err error, n note) {
	t.Helper()
	var d *plugin.Diagnostic
	if !errors.As(err, &d) || d.Where == "" || !strings.Contains(d.Detail, fmt.Sprintf("porting note %d in", n)) {
		t.Errorf("%s: %v, want a refusal by porting note %d", what, err, n)
	}
}

func TestRefused(t *testing.T) {
	_, err := describeFile(t, "testdata/callops.o")
	refused(t, "NOPs before the function", err, noteTracer)
	_, err = describeFile(t, "testdata/adr.o")
	refused(t, "an address that the assembler resolved", err, noteBranches)
	data, err := os.ReadFile("testdata/branches.o")
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range unported {
		refusedTable(t, data, name, n)
	}
	refusedTable(t, data, "runtime_ptr_x", noteBoot)
	p, f := sdktest.ServeArch(t, &Plugin{}), plugin.File{Path: "/none"}
	_, err = p.Match(t.Context(), &arch.MatchRequest{Target: target, Object: f, Run: f})
	refused(t, "Match", err, noteMatch)
	_, err = p.Fixup(t.Context(), &arch.FixupRequest{Target: target, Object: f})
	refused(t, "Fixup", err, noteFixup)
	_, err = p.Redirect(t.Context(), &arch.RedirectRequest{Target: target, Object: f})
	refused(t, "Redirect", err, noteRedirect)
}

// refusedTable gives the name of a table to a section of the object.
func refusedTable(t *testing.T, object []byte, name string, n note) {
	t.Helper()
	old := []byte("placeholder_of_the_name_of_a_table\x00")
	if bytes.Count(object, old) != 1 {
		t.Fatalf("the object has %d sections for %s", bytes.Count(object, old), name)
	}
	path := filepath.Join(t.TempDir(), "object.o")
	if err := os.WriteFile(path, bytes.Replace(object, old, append([]byte(name), make([]byte, len(old)-len(name))...), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := describeFile(t, path)
	refused(t, name, err, n)
}
