package kerneltest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/vmtest"
)

// BenchmarkShadow measures look-ups of shadow fields beside those of the kernel's livepatch and beside a member, in a hook of an update.
func BenchmarkShadow(b *testing.B) {
	vmtest.Need(b)
	for _, series := range wantedSeries() {
		b.Run(series, func(b *testing.B) { prepare(b, series).shadowBench(b) })
	}
}

func (l *lab) shadowBench(b *testing.B) {
	code, err := os.ReadFile("testdata/shadowbench.c")
	if err != nil {
		b.Fatal(err)
	}
	lines := "+" + strings.ReplaceAll(strings.TrimSuffix(string(code), "\n"), "\n", "\n+") + "\n"
	file := l.create(b, "shadowbench", []byte(edit("fs/signalfd.c", " #include <linux/compat.h>\n"+lines+" \n void signalfd_cleanup(struct sighand_struct *sighand)\n")))
	l.boot(b, vmtest.Options{})
	for b.Loop() {
		l.MustRun(b, "dmesg", "-c")
		l.apply(b, file)
		log := l.MustRun(b, "dmesg")
		for _, n := range []int{1000, 100000} {
			var plain, ours, theirs float64
			_, line, _ := strings.Cut(log, fmt.Sprintf("shadowbench: %d objects, ", n))
			if _, err := fmt.Sscanf(line, "ps a look-up: %f plain, %f ksplice, %f livepatch", &plain, &ours, &theirs); err != nil || strings.Contains(log, "sum is wrong") {
				b.Fatalf("%v in the log:\n%s", err, log)
			}
			for what, ps := range map[string]float64{"plain": plain, "ksplice": ours, "livepatch": theirs} {
				b.ReportMetric(ps/1000, fmt.Sprintf("ns/%s-of-%d", what, n))
			}
		}
		l.undo(b, l.id(b, file))
	}
}
