package kernel

import (
	"bytes"
	"testing"

	"github.com/ksplice/ksplice/core/engine"
)

// TestLookThrough reads code under the jumps of one update, and the jumps of another, at every place and length.
func TestLookThrough(t *testing.T) {
	run := bytes.Repeat([]byte{0xaa}, 64)
	want := bytes.Clone(run)
	copy(want[16:], "oldest") // two of them set the field, and before both it was this
	jump := []byte{0xe9, 1, 2, 3, 4}
	copy(run[8:], jump)
	copy(run[24:], jump)
	copy(run[40:], jump)
	copy(want[8:], "12345")
	copy(want[24:], jump)
	copy(want[40:], "abcde")
	change := func(at uint64, old string) engine.Change {
		return engine.Change{Kind: "jump", Code: testBase + at - 4, Window: 4, Old: []byte(old)}
	}
	updates := []engine.Applied{
		{ID: "00000001", Stage: "applied", Functions: []engine.Change{change(40, "abcde"), {Kind: "fragment", Code: testBase}},
			Data: []engine.Change{{Address: testBase + 16, Old: []byte("oldest")}}},
		{ID: "00000002", Stage: "applied", Functions: []engine.Change{change(24, "zzzzz")}},
		{ID: "00000001:m", Stage: "applied", Functions: []engine.Change{change(8, "12345"), {Kind: "ftrace", Code: testBase + 50}},
			Data: []engine.Change{{Address: testBase + 18, Old: []byte("no")}}},
		{ID: "00000001:n", Stage: "undone", Functions: []engine.Change{change(56, "yyyyy")}},
	}
	m, err := lookThrough(space{testBase: run}, updates, []string{"00000001"})
	if err != nil {
		t.Fatal(err)
	}
	for at := range run {
		for n := range len(run) - at {
			got := make([]byte, n)
			if err := m.ReadMemory(got, testBase+uint64(at)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want[at:at+n]) {
				t.Fatalf("%d bytes at %d = % x, want % x", n, at, got, want[at:at+n])
			}
		}
	}
	updates[0].Functions[0].Old = nil // a kernel module that does not say
	if _, err := lookThrough(space{testBase: run}, updates, []string{"00000001"}); err == nil {
		t.Error("a jump over unknown bytes: no error")
	}
}
