package create

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/update"
)

func TestClaimsIn(t *testing.T) {
	tests := []struct {
		source string
		want   []update.Claim
		err    string
	}{
		{"int x;", nil, ""},
		{`ksplice_claim("layout:a.c:t", "so");`, []update.Claim{{Item: "layout:a.c:t", Hook: true, Because: "so"}}, ""},
		{"char c = 'ab'; ksplice_claim(\n\"layout:\" \"a.c:t\",\n\t\"so \"\n\"and so\") ; // ksplice_claim(\"x\", \"y\")\n/* ksplice_claim(1) */ char *s = \"ksplice_claim(\";",
			[]update.Claim{{Item: "layout:a.c:t", Hook: true, Because: "so and so"}}, ""},
		{"\n\nksplice_claim(\"x\");", nil, "a.c:3: write ksplice_claim("},
		{`ksplice_claim("x", because)`, nil, "a.c:1: write ksplice_claim("},
		{`ksplice_claim("x", "")`, nil, "a.c:1: write ksplice_claim("},
		{`ksplice_claim`, nil, "a.c:1: write ksplice_claim("},
	}
	for _, tt := range tests {
		got, err := claimsIn("a.c", []byte(tt.source))
		if d := cmp.Diff(tt.want, got); d != "" || (err == nil) != (tt.err == "") || err != nil && !strings.HasPrefix(err.Error(), tt.err) {
			t.Errorf("%s: error %v, want %q, claims (-want +got):\n%s", tt.source, err, tt.err, d)
		}
	}
}

func TestIncludesKsplice(t *testing.T) {
	for source, want := range map[string]bool{
		"#include <ksplice.h>\n": true, "int x;\n #  include <ksplice.h>": true, "#include<ksplice.h>": true, "// #include <ksplice.h>": false, "#include <linux/ksplice.h>": false, "": false,
	} {
		if got := includesKsplice([]byte(source)); got != want {
			t.Errorf("includesKsplice(%q) = %v", source, got)
		}
	}
}

func FuzzClaims(f *testing.F) {
	f.Add([]byte(`ksplice_claim("layout:a.c:t", "so");`))
	f.Add([]byte(`ksplice_claim("a" "b" `))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = claimsIn("a.c", b) })
}
