package manual

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const page = "# A page\n\nText.\n\n```diff fix.patch\n--- a\n+++ b\n```\n\n```console\n$ make \\\n    it\nmade 3f9c2ab1 in 0.31 ms\n# use it\n```\n\n```c\nint not_run;\n```\n\n```toml /etc/x.toml\na = 1\n```\n"

func TestRead(t *testing.T) {
	got, err := Read(page)
	if err != nil {
		t.Fatal(err)
	}
	want := []Step{
		{Line: 5, File: "fix.patch", Content: "--- a\n+++ b\n"},
		{Line: 11, Command: "make     it", Prints: []string{"made 3f9c2ab1 in 0.31 ms"}},
		{Line: 14, Command: "use it", Target: true},
		{Line: 21, File: "/etc/x.toml", Target: true, Content: "a = 1\n"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []string{"```console\n$ a", "```console\nprinted\n```", "```console\n$ a \\\n```"} {
		if _, err := Read(bad); err == nil {
			t.Errorf("Read(%q) is no error", bad)
		}
	}
}

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		name, shown, printed string
		same                 bool
	}{
		{"numbers differ", "applied   2 functions, machine stopped for 0.31 ms", "applied  14 functions, machine stopped for 1,204.5 ms\n", true},
		{"words differ", "applied 2 functions", "undone 2 functions", false},
		{"a line too many", "a", "a\nb", false},
		{"a line too few", "a\nb", "a", false},
		{"lines left out", "a\n...\nd", "a\nb\nc\nd", true},
		{"lines left out at the end", "a\n...", "a\nb\nc", true},
		{"none left out", "a\n...\nd", "a\nd", true},
		{"not what is left out", "a\n...\nx", "a\nb\nc\nd", false},
		{"text left out", "fits  update 3f9c2ab1 ...", "fits update 00112233 would change it", true},
		{"another ID", "undone 3f9c2ab1", "undone 44556677", false},
		{"the same ID", "undone 3f9c2ab1", "undone 00112233", true},
		{"a release", "kernel 6.1.0-56-amd64 (Debian 6.1.192-2)", "kernel 6.1.0-58-amd64 (Debian 6.1.200-1)", true},
		{"nothing", "", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := Names{"3f9c2ab1": "00112233"}
			if err := n.Compare(strings.Split(c.shown, "\n"), c.printed); (err == nil) != c.same {
				t.Errorf("Compare = %v", err)
			}
		})
	}
}

func TestNames(t *testing.T) {
	n := Names{}
	if err := n.Compare([]string{"update fix.ksplice, id 3f9c2ab1"}, "update fix.ksplice, id 01234567"); err != nil {
		t.Fatal(err)
	}
	got := n.Here("ksplice undo 3f9c2ab1 --kernel 6.1.0-56-amd64 deadbeef", "6.1.0-99-amd64")
	if want := "ksplice undo 01234567 --kernel 6.1.0-99-amd64 deadbeef"; got != want {
		t.Errorf("Here = %q, want %q", got, want)
	}
}
