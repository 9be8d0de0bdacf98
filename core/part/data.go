package part

import (
	"bytes"
	"debug/elf"
	"fmt"
	"slices"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/semantic"
	"github.com/ksplice/ksplice/core/update"
)

// datum notes a variable that the part brings and may write to.
func (x *unitBuilder) datum(p *diff.Piece, y *objfile.Symbol, s *objfile.Section) {
	perCPU := s.Name == ".data..percpu"
	if p.Table || p.Change != nil || y.Size == 0 || s.Name != ".data" && s.Name != ".bss" && !perCPU {
		return
	}
	name, _ := objfile.Stem(y.Name)
	d := update.Datum{Unit: x.in.Unit.Source, Name: name, Symbol: y.Name, Size: y.Size, PerCPU: perCPU,
		Escapes: slices.Contains(x.in.Closure.Escapes, y.Name), Renewable: diff.Renewable(y.Name)}
	if st, ok := x.in.Post.Statics[y.Name]; ok {
		d.Function = st.Function
		d.Name, _ = objfile.Stem(st.Name)
	}
	x.b.out.Data = append(x.b.out.Data, d)
}

// Place completes a part's data: where they lie in the linked module, and what they hold; objects are the post objects with debug
// information, by unit. A datum of which something is not known stays without it.
func Place(data []update.Datum, module []byte, objects map[string]string) error {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return fmt.Errorf("read the linked part: %w", err)
	}
	symbols, err := f.Symbols()
	if err != nil {
		return fmt.Errorf("read the linked part: %w", err)
	}
	places := map[string][]elf.Symbol{}
	for _, y := range symbols {
		if t := elf.ST_TYPE(y.Info); t == elf.STT_OBJECT && int(y.Section) < len(f.Sections) {
			places[y.Name] = append(places[y.Name], y)
		}
	}
	wanted := map[string]map[string]bool{}
	for i := range data {
		d := &data[i]
		if p := places[d.Symbol]; len(p) == 1 && p[0].Size == d.Size {
			d.Section, d.Offset = f.Sections[p[0].Section].Name, p[0].Value
		}
		if wanted[d.Unit] == nil {
			wanted[d.Unit] = map[string]bool{}
		}
		wanted[d.Unit][d.Symbol] = true
	}
	for unit, names := range wanted {
		shapes, err := semantic.Shapes(objects[unit], names)
		if err != nil {
			return err
		}
		for i := range data {
			if s, ok := shapes[data[i].Symbol]; ok && data[i].Unit == unit {
				data[i].Shape, data[i].Plain = s.Leaves, s.Plain
			}
		}
	}
	return nil
}
