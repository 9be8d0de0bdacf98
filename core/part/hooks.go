package part

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"

	"github.com/ksplice/ksplice/core/objfile"
)

// hookKinds are the names of kmod/ksplice_part.h, KSPLICE_HOOK_*, by number.
var hookKinds = []string{"pre_apply", "check_apply", "apply", "post_apply", "fail_apply",
	"pre_reverse", "check_reverse", "reverse", "post_reverse", "fail_reverse"}

// Where struct ksplice_part has its hooks, and the size of struct ksplice_hook in bytes.
const (
	hooksAt   = 72
	hookCount = 80
	hookSize  = 16
)

// Hook is code of an update's own that runs before, during or after apply and undo.
type Hook struct {
	// When is "pre_apply", "apply", "post_reverse" and so on.
	When string `json:"when"`
	// Function is the symbol's name in the part.
	Function string `json:"function"`
}

// Hooks reads the hooks that a part's description names. The part is a module as an update holds it.
func Hooks(module []byte) ([]Hook, error) {
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
	out := make([]Hook, count)
	for i := range out {
		kind := binary.LittleEndian.Uint64(data[at:])
		if kind >= uint64(len(hookKinds)) {
			return nil, fmt.Errorf("read the hooks of a part: there is no hook of type %d", kind)
		}
		r := pointers[at+8]
		if r == nil || r.Symbol == nil {
			return nil, fmt.Errorf("read the hooks of a part: %s hook %d has no function", hookKinds[kind], i)
		}
		out[i] = Hook{hookKinds[kind], hookFunction(f, r)}
		at += hookSize
	}
	return out, nil
}

// hookFunction names what a reference leads to, by a section's symbol too.
func hookFunction(f *objfile.File, r *objfile.Reloc) string {
	if r.Symbol.Type != elf.STT_SECTION {
		return r.Symbol.Name
	}
	for _, y := range f.SymbolsIn(r.Symbol.Section) {
		if y.Type == elf.STT_FUNC && y.Value == uint64(r.Addend) {
			return y.Name
		}
	}
	return fmt.Sprintf("%s+%#x", r.Symbol.Section.Name, r.Addend)
}
