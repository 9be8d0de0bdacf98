package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/modsign"
	"github.com/ksplice/ksplice/core/update"
)

// TestPartRows: what a part says of its signer and its hooks, for which nobody has vouched, makes no rows of its own.
func TestPartRows(t *testing.T) {
	var b bytes.Buffer
	printPart(&b, &update.Part{Name: "ksplice_x", Target: "vmlinux"}, []update.Hook{{Function: "f\n\tsigned\tby x", When: "apply"}},
		&modsign.Signature{Issuer: "CN=Acme\tgood\nsigned\tby CN=Acme", Serial: "1f", Hash: "sha256", Algorithm: "rsa"})
	want := []string{`	signed	by CN=Acme\tgood\nsigned\tby CN=Acme, serial 1f	sha256 with rsa, as the part says: the kernel verifies it`,
		`	hook	f\n\tsigned\tby x	apply`}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != 3 || lines[1] != want[0] || lines[2] != want[1] {
		t.Errorf("a part is shown as\n%s\nwant, behind a first row,\n%s", b.String(), strings.Join(want, "\n"))
	}
}
