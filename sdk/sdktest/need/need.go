// Package need skips tests for want of something that this machine lacks, or fails them where KSPLICE_TEST_REQUIRE=1 says that all is there:
// what CI installs must not go missing unseen. Tests call it; it imports nothing of Ksplice, so that all of them may.
package need

import (
	"os"
	"os/exec"
	"testing"
)

// Variable names the environment variable that turns skips into failures, with "1".
const Variable = "KSPLICE_TEST_REQUIRE"

// Program returns the path of a program. A test that gets here without it is skipped, or fails.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	OK(t, err)
	return path
}

// OK goes on when err is nil. Else err says what is missing, as a backend's Health does, and the test is skipped, or fails.
func OK(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case os.Getenv(Variable) == "1":
		t.Fatalf("%s=1 takes this to be there: %v", Variable, err)
	default:
		t.Skipf("SKIPPED: %v", err)
	}
}
