package need

import (
	"fmt"
	"strings"
	"testing"
)

// told is a test that keeps what it was told, and goes on.
type told struct {
	testing.TB
	skipped, failed string
}

func (t *told) Helper()                           {}
func (t *told) Skipf(format string, args ...any)  { t.skipped = fmt.Sprintf(format, args...) }
func (t *told) Fatalf(format string, args ...any) { t.failed = fmt.Sprintf(format, args...) }

func TestProgram(t *testing.T) {
	const none = "ksplice-no-such-program"
	for _, tt := range []struct {
		value, name  string
		skips, fails bool
	}{
		{"", "go", false, false},
		{"1", "go", false, false},
		{"", none, true, false},
		{"0", none, true, false},
		{"1", none, false, true},
	} {
		t.Setenv(Variable, tt.value)
		var got told
		path := Program(&got, tt.name)
		if found := !tt.skips && !tt.fails; (path != "") != found {
			t.Errorf("%s=%q: Program(%s) = %q", Variable, tt.value, tt.name, path)
		}
		if strings.Contains(got.skipped, tt.name) != tt.skips || strings.Contains(got.failed, tt.name) != tt.fails {
			t.Errorf("%s=%q: Program(%s) skips: %q, fails: %q", Variable, tt.value, tt.name, got.skipped, got.failed)
		}
	}
}
