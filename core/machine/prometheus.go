package machine

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/ksplice/ksplice/core/apply"
)

// stages are all that an update can be in: those that the kernel module knows (kmod/sysfs.c: stage_show), and armed.
var stages = []string{"applied", "armed", "preparing", "undone", "dropped", "gone"}

// sample is one value of a metric, with labels by twos: name and value.
type sample struct {
	labels []string
	value  float64
}

// metric is one family of samples. All are gauges.
type metric struct {
	name, help string
	samples    []sample
}

// WriteMetrics writes how the machine stands in Prometheus' text exposition format, version 0.0.4
// (https://prometheus.io/docs/instrumenting/exposition_formats/). Every family is there whatever there is to tell, so that alerts on
// absent series mean that nobody wrote; those with a sample an update may have none.
func (m *Machine) WriteMetrics(w io.Writer) error {
	var b strings.Builder
	for _, x := range m.metrics() {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n", x.name, helpEscapes.Replace(x.help), x.name)
		for _, s := range x.samples {
			b.WriteString(x.name)
			writeLabels(&b, s.labels)
			b.WriteByte(' ')
			b.WriteString(strconv.FormatFloat(s.value, 'f', -1, 64))
			b.WriteByte('\n')
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write metrics: %w", err)
	}
	return nil
}

// What stands for itself neither in a label's value nor in a help text.
var (
	labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	helpEscapes  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
)

func writeLabels(b *strings.Builder, labels []string) {
	if len(labels) == 0 {
		return
	}
	for i := 0; i < len(labels); i += 2 {
		if i == 0 {
			b.WriteByte('{')
		} else {
			b.WriteByte(',')
		}
		fmt.Fprintf(b, `%s="%s"`, labels[i], labelEscapes.Replace(strings.ToValidUTF8(labels[i+1], "\uFFFD")))
	}
	b.WriteByte('}')
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m *Machine) metrics() []metric {
	var byStage, info, at, pause, functions, exposed []sample
	count := map[string]int{}
	var armed, waiting, probes int
	for i := range m.Updates {
		s := &m.Updates[i]
		count[s.Stage]++
		info = append(info, sample{[]string{"id", s.ID, "description", s.Description, "stage", s.Stage}, 1})
		probes += len(s.DeadProbes)
		if s.Armed != nil {
			armed++
			if s.Armed.Live {
				waiting++
			}
		}
		if s.Stage != "applied" {
			continue
		}
		id := []string{"id", s.ID}
		at = append(at, sample{id, float64(s.Since.UnixNano()) / float64(time.Second)})
		pause = append(pause, sample{id, s.Pause.Seconds()})
		functions = append(functions, sample{id, float64(replaced(s))})
		if s.Exposed > 0 {
			exposed = append(exposed, sample{id, s.Exposed.Seconds()})
		}
	}
	for _, stage := range stages {
		byStage = append(byStage, sample{[]string{"stage", stage}, float64(count[stage])})
	}
	one := func(n int) []sample { return []sample{{value: float64(n)}} }
	return []metric{
		{"ksplice_module_loaded", "Whether the ksplice kernel module is loaded.", []sample{{value: truth(m.Loaded)}}},
		{"ksplice_busy", "Whether a ksplice was changing the machine at this moment.", []sample{{value: truth(m.Busy)}}},
		{"ksplice_kernel_info", "The running kernel's release, and the version that updates make of it where they say so.", []sample{{[]string{"release", m.Release, "effective", m.Effective().Version}, 1}}},
		{"ksplice_updates", "Updates, and parts of updates that came or come with a module of their own, by stage.", byStage},
		{"ksplice_update_info", "One for each update; what it is stands in the labels.", info},
		{"ksplice_update_applied_timestamp_seconds", "When an applied update was applied, in seconds since the epoch.", at},
		{"ksplice_update_pause_seconds", "How long the machine stood still when an applied update was applied.", pause},
		{"ksplice_update_functions", "How many functions an applied update replaces.", functions},
		{"ksplice_update_exposed_seconds", "How long a module had been live without its part of an update, of parts that came later than that.", exposed},
		{"ksplice_armed", "Parts of updates that wait for their modules, or could not be applied to them.", one(armed)},
		{"ksplice_armed_unapplied", "Of these, those whose module runs without its part.", one(waiting)},
		{"ksplice_dead_probes", "Probes inside replaced functions, which are not reached any more.", one(probes)},
		{"ksplice_orphan_parts", "Loaded parts that belong to no applied update.", one(len(m.Orphans))},
		{"ksplice_persistent", "Updates that are to be applied at each boot of this kernel.", one(len(m.Persistent))},
		{"ksplice_persistent_unapplied", "Of these, those that are not in force.", one(len(m.Unapplied()))},
		{"ksplice_persistent_suspended", "Whether none is applied at boot since one died of it.", []sample{{value: truth(m.Died != nil)}}},
		{"ksplice_problems", "What ksplice status --check complains of.", one(len(m.Problems()))},
	}
}

// replaced counts replaced functions, without the fragments that go with them.
func replaced(s *apply.State) int {
	n := 0
	for _, c := range s.Functions {
		if c.Kind != "fragment" {
			n++
		}
	}
	return n
}
