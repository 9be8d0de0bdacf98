package part

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/update"
)

// Where struct ksplice_part has its hooks, and the size of struct ksplice_hook in bytes.
const (
	hooksAt   = 72
	hookCount = 80
	hookSize  = 16
)

// maxHooks is how many hooks the kernel module takes of a part (kmod/ksplice.h).
const maxHooks = 256

// hookSymbol begins the names by which the description finds hooks' functions.
const hookSymbol = "ksplice_hook_"

// hookPlace is a hook's type and the symbol that names its function to the description.
type hookPlace struct {
	kind   uint64
	symbol string
}

// hooks lists a unit's hooks, and gives each function a name that the description can use.
func (x *unitBuilder) hooks() error {
	for _, h := range x.in.Closure.Hooks {
		kind := slices.Index(diff.HookKinds, h.When)
		w, ok := x.where[h.Piece]
		if kind < 0 || !ok {
			return fmt.Errorf("the closure lacks the function of a %s hook", h.When)
		}
		n := hookPlace{uint64(kind), fmt.Sprintf("%s%04x", hookSymbol, len(x.b.hooks))}
		x.out.AddSymbol(&objfile.Symbol{Name: n.symbol, Value: w.offset + h.Piece.Entry - h.Piece.Start, Size: h.Piece.End - h.Piece.Entry, Type: elf.STT_FUNC,
			Bind: elf.STB_GLOBAL, Section: w.section})
		x.b.hooks = append(x.b.hooks, n)
		x.b.out.Hooks = append(x.b.out.Hooks, update.Hook{When: h.When, Function: h.Piece.Symbols[0].Name})
	}
	return nil
}

// hooks writes the description's list of hooks and returns where it is.
func (d *describer) hooks() uint64 {
	at := d.align()
	for _, h := range d.b.hooks {
		e := d.grow(hookSize)
		d.put64(e, h.kind)
		d.pointTo(e+8, h.symbol)
	}
	return at
}

// Hooks reads the hooks that a part's description names. The part is a module as an update holds it.
func Hooks(module []byte) ([]update.Hook, error) {
	f, err := objfile.Read(bytes.NewReader(module), int64(len(module)))
	if err != nil {
		return nil, fmt.Errorf("read the hooks of a part: %w", err)
	}
	y := f.Symbol(descriptionSymbol)
	if y == nil || y.Section == nil || y.Value > uint64(len(y.Section.Data)) || uint64(len(y.Section.Data))-y.Value < partSize {
		return nil, fmt.Errorf("read the hooks of a part: it has no description %s of %d bytes", descriptionSymbol, partSize)
	}
	data := y.Section.Data
	count := binary.LittleEndian.Uint64(data[y.Value+hookCount:])
	if count == 0 {
		return nil, nil
	}
	pointers := make(map[uint64]*objfile.Reloc, len(y.Section.Relocs))
	for _, r := range y.Section.Relocs {
		pointers[r.Offset] = r
	}
	table := pointers[y.Value+hooksAt]
	if table == nil || table.Symbol == nil || table.Symbol.Section != y.Section {
		return nil, fmt.Errorf("read the hooks of a part: its description points to none of its %d", count)
	}
	at := table.Symbol.Value + uint64(table.Addend)
	if at > uint64(len(data)) || count > (uint64(len(data))-at)/hookSize {
		return nil, fmt.Errorf("read the hooks of a part: %d at %#x lie outside of its %d bytes", count, at, len(data))
	}
	out := make([]update.Hook, count)
	for i := range out {
		kind := binary.LittleEndian.Uint64(data[at:])
		if kind >= uint64(len(diff.HookKinds)) {
			return nil, fmt.Errorf("read the hooks of a part: there is no hook of type %d", kind)
		}
		r := pointers[at+8]
		if r == nil || r.Symbol == nil {
			return nil, fmt.Errorf("read the hooks of a part: %s hook %d has no function", diff.HookKinds[kind], i)
		}
		out[i] = update.Hook{When: diff.HookKinds[kind], Function: hookFunction(f, r)}
		at += hookSize
	}
	return out, nil
}

// hookFunction names what a reference leads to, by the function's own name where the part has it.
func hookFunction(f *objfile.File, r *objfile.Reloc) string {
	at := uint64(r.Addend)
	if r.Symbol.Type != elf.STT_SECTION {
		at += r.Symbol.Value
	}
	for _, y := range f.SymbolsIn(r.Symbol.Section) {
		if y.Type == elf.STT_FUNC && y.Value == at && !strings.HasPrefix(y.Name, hookSymbol) {
			return y.Name
		}
	}
	if r.Symbol.Type != elf.STT_SECTION {
		return r.Symbol.Name
	}
	return fmt.Sprintf("%s+%#x", r.Symbol.Section.Name, r.Addend)
}
