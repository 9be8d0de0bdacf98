package main

import (
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ksplice/ksplice/core/create"
)

//go:embed report.html
var pages embed.FS

// Report is what eval.json holds.
type Report struct {
	Kernel string `json:"kernel"`
	// Reverse says that the patches were taken backwards.
	Reverse bool      `json:"reverse"`
	Totals  []Total   `json:"totals"`
	Results []*Result `json:"results"`
	// Built is how many patches change object code of this kernel and could be tried; Share of them was applied with no code.
	Built int     `json:"built"`
	Share float64 `json:"share"`
}

// Total is how many patches had a verdict.
type Total struct {
	Verdict Verdict `json:"verdict"`
	Patches int     `json:"patches"`
}

// verdicts are all of them, in the order of the report.
var verdicts = []Verdict{Applied, NeedsCode, Failed, NotBuilt, NoEffect, OnlyInit, NotLoaded, Unfit}

func newReport(kernel string, reverse bool, results []*Result) *Report {
	rep := &Report{Kernel: kernel, Reverse: reverse, Results: results}
	for _, v := range verdicts {
		n := 0
		for _, r := range results {
			if r.Verdict == v {
				n++
			}
		}
		rep.Totals = append(rep.Totals, Total{v, n})
		if v == Applied || v == NeedsCode || v == Failed {
			rep.Built += n
		}
	}
	if rep.Built > 0 {
		rep.Share = float64(rep.Totals[0].Patches) / float64(rep.Built)
	}
	return rep
}

// report writes eval.json and eval.html, and the table to standard output.
func (e *evaluation) report(results []*Result) error {
	rep := newReport(e.kernel.Release+" ("+e.kernel.Version+")", e.reverse, results)
	b, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(e.out, "eval.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(e.out, "eval.html"))
	if err != nil {
		return err
	}
	if err := rep.html(f); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := rep.table(os.Stdout); err != nil {
		return err
	}
	fmt.Printf("\n%s and %s have the details\n", filepath.Join(e.out, "eval.html"), filepath.Join(e.out, "eval.json"))
	return nil
}

// table writes a row a patch and the totals.
func (rep *Report) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PATCH\tUNITS\tFUNCTIONS\tCREATE\tAPPLY\tPAUSE\tCALLS\tSIZE\tVERDICT")
	for _, r := range rep.Results {
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Patch, r.Units, len(r.Functions), r.CreateTime(), r.ApplyTime(), r.PauseText(),
			r.Calls(), r.SizeText(), strings.ReplaceAll(r.Words(), "\n", " "))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%s, %d patches%s:\n", rep.Kernel, len(rep.Results), map[bool]string{true: " backwards"}[rep.Reverse])
	for _, x := range rep.Totals {
		if x.Patches > 0 {
			fmt.Fprintf(w, "%5d  %s\n", x.Patches, x.Verdict)
		}
	}
	_, err := fmt.Fprintf(w, "%.1f %% of the %d that change this kernel's code were applied with no code written for them\n", 100*rep.Share, rep.Built)
	return err
}

func (rep *Report) html(w io.Writer) error {
	t, err := template.ParseFS(pages, "report.html")
	if err != nil {
		return err
	}
	return t.Execute(w, rep)
}

// Words are the verdict and why.
func (r *Result) Words() string {
	s := string(r.Verdict)
	if r.Stage != "" {
		s += ": " + r.Stage
	}
	if len(r.Reasons) > 0 {
		s += ": " + r.Reasons[0]
	}
	if n := len(r.Reasons) - 1; n > 0 {
		s += fmt.Sprintf(" (and %d more)", n)
	}
	return s
}

func sum(stages []create.Stage, names ...string) time.Duration {
	var d time.Duration
	for _, s := range stages {
		if len(names) == 0 || slices.Contains(names, s.Name) {
			d += s.Time
		}
	}
	return d
}

func seconds(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// CreateTime is that of all of create, for people.
func (r *Result) CreateTime() string { return seconds(sum(r.Create)) }

// ApplyTime is that of apply in the guest, for people.
func (r *Result) ApplyTime() string { return seconds(sum(r.Times, "apply")) }

// PauseText is the pause, for people.
func (r *Result) PauseText() string {
	if r.Pause == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f ms", float64(r.Pause)/1e6)
}

// SizeText is the update's size, for people.
func (r *Result) SizeText() string {
	if r.Size == 0 {
		return "-"
	}
	return fmt.Sprintf("%d KB", (r.Size+999)/1000)
}

// Calls says how many replacements were entered, of those that a probe could reach.
func (r *Result) Calls() string {
	if len(r.Entered) == 0 {
		return "-"
	}
	entered, reachable := 0, 0
	for _, x := range r.Entered {
		if x.Error == "" {
			reachable++
		}
		if x.Calls > 0 {
			entered++
		}
	}
	return fmt.Sprintf("%d of %d", entered, reachable)
}

// Bar is one bar of the page's drawings, in percent of the longest.
type Bar struct {
	Name, Text string
	Percent    float64
}

// Pauses are the bars of the pauses, the longest first.
func (rep *Report) Pauses() []Bar {
	return rep.bars(func(r *Result) (float64, string) { return float64(r.Pause), r.PauseText() })
}

// Creates are the bars of the time of create, the longest first.
func (rep *Report) Creates() []Bar {
	return rep.bars(func(r *Result) (float64, string) { return float64(sum(r.Create)), r.CreateTime() })
}

func (rep *Report) bars(of func(*Result) (float64, string)) []Bar {
	var out []Bar
	most := 0.0
	for _, r := range rep.Results {
		if v, text := of(r); v > 0 {
			out = append(out, Bar{r.Patch, text, v})
			most = max(most, v)
		}
	}
	for i := range out {
		out[i].Percent *= 100 / most
	}
	slices.SortStableFunc(out, func(a, b Bar) int {
		switch {
		case a.Percent > b.Percent:
			return -1
		case a.Percent < b.Percent:
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

// Portion is a verdict's share of all patches, in percent.
func (rep *Report) Portion(t Total) float64 {
	if len(rep.Results) == 0 {
		return 0
	}
	return 100 * float64(t.Patches) / float64(len(rep.Results))
}

// SharePercent is Share for people.
func (rep *Report) SharePercent() string { return fmt.Sprintf("%.1f %%", 100*rep.Share) }
