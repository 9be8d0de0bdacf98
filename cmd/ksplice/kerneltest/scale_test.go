package kerneltest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// leastMatched is what share of the functions that run can have must match.
const leastMatched = 0.995

// TestScale matches 400 units, listed in testdata, with the memory of a kernel that has booted, on the host: every function is accounted
// for. `make road` runs it.
func TestScale(t *testing.T) {
	if os.Getenv(allVariable) != "1" {
		t.Skipf("SKIPPED: it compiles 400 units; set $%s=1 (`make road`)", allVariable)
	}
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		list, err := os.ReadFile(filepath.Join("testdata", "units-"+series))
		if err != nil {
			t.Fatal(err)
		}
		e, err := examples.Get("uptime-words")
		if err != nil {
			t.Fatal(err)
		}
		patch, err := e.Patch(series)
		if err != nil {
			t.Fatal(err)
		}
		var args []string
		for _, u := range strings.Fields(string(list)) {
			args = append(args, "--unit", u)
		}
		l.create(t, "scale", patch, args...)
		l.boot(t, vmtest.Options{Debug: true})
		for _, m := range []string{"ext4", "nf_tables", "sch_qfq", "sch_fq"} {
			l.MustRun(t, "modprobe", m)
		}
		core := filepath.Join(l.share, "core")
		if err := l.DumpMemory(core); err != nil {
			t.Fatal(err)
		}
		out, errs, _ := l.host(t, "match", "--json", "--update", filepath.Join(l.share, "scale.ksplice"), "--against", core)
		var said struct {
			Functions []match.Function `json:"functions"`
			Stats     match.Stats      `json:"stats"`
		}
		if err := json.Unmarshal([]byte(out), &said); err != nil {
			t.Fatalf("%v\n%s", err, errs)
		}
		count := map[match.Status]int{}
		for _, f := range said.Functions {
			count[f.Status]++
			switch f.Status {
			case match.StatusMatched, match.StatusDiscarded, match.StatusOverridden:
			case match.StatusAmbiguous:
				t.Logf("%s %s: %s: %s", f.Status, f.Object, f.Name, f.Reason) // equal static functions of a header
			default:
				t.Errorf("%s %s: %s: %s", f.Status, f.Object, f.Name, f.Reason)
			}
		}
		t.Logf("%d functions of %d units: %v; %s", len(said.Functions), len(args)/2, count, errs)
		there := len(said.Functions) - count[match.StatusDiscarded] - count[match.StatusOverridden]
		if n := count[match.StatusMatched]; float64(n) < leastMatched*float64(there) || there < 5000 {
			t.Errorf("%d of %d functions match", n, there)
		}
	})
}
