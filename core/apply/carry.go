package apply

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kept"
	"github.com/ksplice/ksplice/core/update"
)

// carried is a variable of an update that goes, and the one of the new update that takes its place.
type carried struct {
	from, to         *update.Datum
	fromPart, toPart string
}

// carry finds what the new update takes over of those that it replaces: variables that are declared as the same in both. It refuses what
// cannot be taken over as bytes; only what remembers that a message was shown may begin anew.
func carry(m *update.Manifest, going []engine.Applied, read func(id string) (*update.Manifest, error)) ([]carried, error) {
	var out []carried
	for _, a := range going {
		old, err := read(engine.UpdateID(a.ID))
		if err != nil {
			return nil, fmt.Errorf("what state update %s holds is not known, so that it cannot be replaced in one step: undo it first: %w", a.ID, err)
		}
		for i := range old.Parts {
			p := &old.Parts[i]
			if !slices.Contains(a.Parts, p.Name) {
				continue
			}
			for j := range p.Data {
				to, part, err := heir(m, p, &p.Data[j])
				if err != nil {
					return nil, fmt.Errorf("replace update %s: %s: %w; undo it first, which gives its state up", old.ID, said(&p.Data[j]), err)
				}
				if to != nil {
					out = append(out, carried{&p.Data[j], to, p.Name, part})
				}
			}
		}
	}
	return out, nil
}

// heir finds the variable of m that continues d; nil where there is none, or where a fresh one will do.
func heir(m *update.Manifest, p *update.Part, d *update.Datum) (*update.Datum, string, error) {
	same := func(x *update.Datum) bool { return x.Unit == d.Unit && x.Function == d.Function && x.Name == d.Name }
	var to *update.Datum
	part, n := "", 0
	for i := range m.Parts {
		q := &m.Parts[i]
		for j := range q.Data {
			if q.Target == p.Target && same(&q.Data[j]) {
				to, part = &q.Data[j], q.Name
				n++
			}
		}
	}
	before := 0
	for j := range p.Data {
		if same(&p.Data[j]) {
			before++
		}
	}
	var why string
	switch {
	case n == 0:
		return nil, "", nil
	case n > 1 || before > 1:
		why = fmt.Sprintf("there are %d of that name in it and %d in the new one", before, n)
	case d.Section == "" || to.Section == "":
		why = "where it lies is not known"
	case d.PerCPU || to.PerCPU:
		why = "each CPU has one of its own"
	case d.Shape == "" || d.Shape != to.Shape || d.Size != to.Size:
		why = "the new one's is of another type"
	case !d.Plain:
		why = "it holds more than numbers: what points to it, or where it points, would not follow"
	case (d.Escapes || to.Escapes) && !d.Renewable:
		why = "its address may be held elsewhere"
	default:
		return to, part, nil
	}
	if d.Renewable && to.Renewable {
		return nil, "", nil
	}
	return nil, "", fmt.Errorf("what it holds cannot be taken over: %s", why)
}

func said(d *update.Datum) string {
	if d.Function != "" {
		return fmt.Sprintf("the variable %s of %s (%s)", d.Name, d.Function, d.Unit)
	}
	return fmt.Sprintf("the variable %s (%s)", d.Name, d.Unit)
}

// carryAll tells the kernel module what to take over. The parts are loaded.
func carryAll(d *engine.Device, list []carried) error {
	for _, c := range list {
		from, err := placed(c.fromPart, c.from)
		if err != nil {
			return err
		}
		to, err := placed(c.toPart, c.to)
		if err != nil {
			return err
		}
		if err := d.Carry(from, to, c.from.Size); err != nil {
			return err
		}
	}
	return nil
}

// placed returns the address of a variable of a loaded part.
func placed(part string, d *update.Datum) (uint64, error) {
	b, err := os.ReadFile(filepath.Join("/sys/module", part, "sections", d.Section))
	if err != nil {
		return 0, fmt.Errorf("find %s of part %s: %w", d.Symbol, part, err)
	}
	base, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(string(b)), "0x"), 16, 64)
	if err != nil || base == 0 {
		return 0, fmt.Errorf("find %s of part %s: section %s is at %.40q", d.Symbol, part, d.Section, b)
	}
	return base + d.Offset, nil
}

// manifests reads the manifest of an update that was applied in this boot.
func manifests(id string) (*update.Manifest, error) { return kept.Default().ReadManifest(id) }
