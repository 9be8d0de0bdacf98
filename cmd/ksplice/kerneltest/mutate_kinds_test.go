package kerneltest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/update"
)

// overlay is a kernel's memory with a few bytes changed.
type overlay struct {
	kernel.Memory
	at    uint64
	bytes []byte
}

// ReadMemory implements kernel.Memory.
func (o *overlay) ReadMemory(p []byte, address uint64) error {
	if err := o.Memory.ReadMemory(p, address); err != nil {
		return err
	}
	for i, b := range o.bytes {
		if k := o.at + uint64(i) - address; k < uint64(len(p)) {
			p[k] = b
		}
	}
	return nil
}

// flipped is a kernel with one bit or more of a byte changed.
func flipped(t *testing.T, k *kernel.Kernel, at uint64, x byte) *kernel.Kernel {
	t.Helper()
	b := make([]byte, 1)
	if err := k.Memory.ReadMemory(b, at); err != nil {
		t.Fatal(err)
	}
	out := *k
	out.Memory = &overlay{k.Memory, at, []byte{b[0] ^ x}}
	return &out
}

// pattern is what a byte is changed by: one bit, or several.
func pattern(r *rand.Rand) byte {
	if r.IntN(2) == 0 {
		return 1 << r.IntN(8)
	}
	return byte(1 + r.IntN(255))
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// matchedFunctions are the functions that have a place in run.
func (s *subject) matchedFunctions() []*match.Function {
	var out []*match.Function
	for i := range s.base.sol.Functions {
		if f := &s.base.sol.Functions[i]; f.Status == match.StatusMatched {
			out = append(out, f)
		}
	}
	return out
}

// constants are the addresses in run of merged strings and constants that slots stand for.
func (s *subject) constants() []uint64 {
	var out []uint64
	for i := range s.u.Manifest.Parts {
		for _, y := range s.u.Manifest.Parts[i].Slots {
			if a, ok := s.base.sol.Field(y.Unit, y.Function, y.At); ok && y.Kind == update.SlotField {
				out = append(out, a)
			}
		}
	}
	return out
}

// mutateRun changes a byte of a function of the update's units in the kernel, or of a constant that they name. None of it may pass, unless
// a field leads to another string or constant of the same content then, which is nothing that the update uses.
func mutateRun(t *testing.T, s *subject, r *rand.Rand) (string, verdictOn, error) {
	f := pick(r, s.matchedFunctions())
	at, where := f.Code+r.Uint64N(f.RunSize), f.Name
	if c := s.constants(); len(c) > 0 && r.IntN(10) == 0 {
		at, where = pick(r, c), "a constant"
	}
	x := pattern(r)
	road := s.road()
	road.k = flipped(t, s.k, at, x)
	got, err := road.judge(t.Context())
	what := fmt.Sprintf("%s: byte at %#x ^ %#x", where, at, x)
	switch {
	case err != nil:
		return what, verdictOn{refused: err}, nil
	case at-f.Code < f.RunSize && s.byContent(got, f, at-f.Code) && s.same(got) == "":
		return what, verdictOn{harmless: "the content of a constant is the same"}, nil
	}
	return what, verdictOn{}, errUnproved
}

// tables are the tables of the kernel proper that matching reads keys from, with the size of an entry.
var tables = []struct {
	start, stop string
	size        uint64
}{{"__start___jump_table", "__stop___jump_table", 16}, {"__start_static_call_sites", "__stop_static_call_sites", 8}}

// entries are the addresses of the entries whose code lies in the update's units.
func (s *subject) entries(t *testing.T) (out []uint64, sizes []uint64) {
	t.Helper()
	functions := s.matchedFunctions()
	for _, table := range tables {
		start, stop := s.k.Symbols.LookupIn("", table.start), s.k.Symbols.LookupIn("", table.stop)
		if len(start) != 1 || len(stop) != 1 {
			t.Fatalf("the kernel has no %s", table.start)
		}
		b := make([]byte, stop[0].Address-start[0].Address)
		if err := s.k.Memory.ReadMemory(b, start[0].Address); err != nil {
			t.Fatal(err)
		}
		for k := uint64(0); k+table.size <= uint64(len(b)); k += table.size {
			at := start[0].Address + k
			code := at + uint64(int64(int32(binary.LittleEndian.Uint32(b[k:]))))
			if slices.ContainsFunc(functions, func(f *match.Function) bool { return code-f.Code < f.RunSize }) {
				out, sizes = append(out, at), append(sizes, table.size)
			}
		}
	}
	return out, sizes
}

// mutateTable changes the kernel's own tables: where keys lie, and now and then what its symbol table says.
func mutateTable(t *testing.T, s *subject, r *rand.Rand) (string, verdictOn, error) {
	road := s.road()
	var what string
	entries, sizes := s.entries(t)
	if len(entries) > 0 && r.IntN(8) > 0 {
		i := r.IntN(len(entries))
		at, x := entries[i]+r.Uint64N(sizes[i]), pattern(r)
		road.k = flipped(t, s.k, at, x)
		what = fmt.Sprintf("table entry at %#x: byte %d ^ %#x", entries[i], at-entries[i], x)
	} else {
		u := pick(r, s.units)
		name := pick(r, u.File.Symbols[1:]).Name
		symbols := slices.Clone(s.k.Symbols.All())
		for i := range symbols {
			if y := &symbols[i]; y.Name == name {
				x := uint64(pattern(r))
				y.Address ^= x
				what = fmt.Sprintf("symbol %s ^ %#x", name, x)
				break
			}
		}
		road.k = kernel.New(s.k.Identity, symbols, nil, s.k.Memory, false)
	}
	v, err := s.weigh(road.judge(t.Context()))
	return what, v, err
}

// withObject takes the road with another pre object in a unit's place.
func (s *subject) withObject(t *testing.T, i int, object []byte) (verdictOn, error) {
	t.Helper()
	road := s.road()
	road.units[i] = s.unit(t, i, object, "mutated.o")
	for j := range road.units {
		if j != i { // described already
			continue
		}
		if err := apply.Describe(t.Context(), s.a, road.units[i:i+1]); err != nil {
			return verdictOn{refused: err}, nil
		}
	}
	return s.weigh(road.judge(t.Context()))
}

// pre gives the bytes of a unit's object.
func (s *subject) pre(i int) []byte { return s.u.Files[s.u.Manifest.Units[i].Pre] }

// mutateByte changes a byte of a pre object, wherever in the file.
func mutateByte(t *testing.T, s *subject, r *rand.Rand) (string, verdictOn, error) {
	i := r.IntN(len(s.units))
	b := bytes.Clone(s.pre(i))
	at, x := r.IntN(len(b)), pattern(r)
	b[at] ^= x
	v, err := s.withObject(t, i, b)
	return fmt.Sprintf("%s: byte %#x ^ %#x", s.units[i].Name, at, x), v, err
}

// edited takes the road with an edited pre object.
func (s *subject) edited(t *testing.T, r *rand.Rand, edit func(f *objfile.File) string) (string, verdictOn, error) {
	t.Helper()
	i := r.IntN(len(s.units))
	b := s.pre(i)
	f, err := objfile.Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	what := s.units[i].Name + ": " + edit(f)
	var out bytes.Buffer
	if err := f.Write(&out); err != nil {
		return what, verdictOn{refused: err}, nil
	}
	v, err := s.withObject(t, i, out.Bytes())
	return what, v, err
}

// relocationTypes are those that kernel objects have, and some that they do not.
var relocationTypes = []elf.R_X86_64{elf.R_X86_64_64, elf.R_X86_64_PC32, elf.R_X86_64_PLT32, elf.R_X86_64_32, elf.R_X86_64_32S, elf.R_X86_64_PC64,
	elf.R_X86_64_NONE, elf.R_X86_64_16, elf.R_X86_64_GOTPCREL}

// mutateRelocation changes a relocation's place, type, symbol or addend.
func mutateRelocation(t *testing.T, s *subject, r *rand.Rand) (string, verdictOn, error) {
	return s.edited(t, r, func(f *objfile.File) string {
		var of []*objfile.Section
		for _, y := range f.Sections {
			if len(y.Relocs) > 0 && y.Flags&elf.SHF_ALLOC != 0 && (y.Flags&elf.SHF_EXECINSTR != 0 || r.IntN(8) == 0) {
				of = append(of, y)
			}
		}
		y := pick(r, of)
		rel := pick(r, y.Relocs)
		what := fmt.Sprintf("%s+%#x %v %s%+d: ", y.Name, rel.Offset, elf.R_X86_64(rel.Type), rel.Symbol.Name, rel.Addend)
		switch r.IntN(4) {
		case 0:
			rel.Offset += uint64(int64(r.IntN(17) - 8))
			return what + fmt.Sprintf("offset %#x", rel.Offset)
		case 1:
			rel.Type = uint32(pick(r, relocationTypes))
			return what + fmt.Sprintf("type %v", elf.R_X86_64(rel.Type))
		case 2:
			rel.Symbol = pick(r, f.Symbols[1:])
			return what + "symbol " + rel.Symbol.String()
		}
		if r.IntN(2) == 0 {
			rel.Addend ^= 1 << r.IntN(32)
		} else {
			rel.Addend += int64(r.IntN(33) - 16)
		}
		return what + fmt.Sprintf("addend %d", rel.Addend)
	})
}

// mutateSize changes where a symbol begins or ends, or where a section does.
func mutateSize(t *testing.T, s *subject, r *rand.Rand) (string, verdictOn, error) {
	return s.edited(t, r, func(f *objfile.File) string {
		if r.IntN(3) == 0 {
			y := pick(r, f.Sections[1:])
			was := y.Size
			y.Size = uint64(max(0, int64(y.Size)+int64(r.IntN(33)-16)))
			if y.Type != elf.SHT_NOBITS {
				y.Data = append(bytes.Clone(y.Data[:min(y.Size, uint64(len(y.Data)))]), make([]byte, max(0, int64(y.Size)-int64(len(y.Data))))...)
			}
			return fmt.Sprintf("section %s of %d bytes: %d", y.Name, was, y.Size)
		}
		var of []*objfile.Symbol
		for _, y := range f.Symbols[1:] {
			if y.Section != nil && (y.Type == elf.STT_FUNC || y.Type == elf.STT_OBJECT) {
				of = append(of, y)
			}
		}
		y := pick(r, of)
		what := fmt.Sprintf("symbol %s at %#x of %d bytes: ", y.Name, y.Value, y.Size)
		if r.IntN(3) == 0 {
			y.Value += uint64(int64(r.IntN(33) - 16))
			return what + fmt.Sprintf("at %#x", y.Value)
		}
		y.Size = uint64(max(0, int64(y.Size)+int64(r.IntN(33)-16)))
		return what + fmt.Sprintf("%d bytes", y.Size)
	})
}

// mutateFile changes a byte of the update file, or cuts it off.
func mutateFile(t *testing.T, s *subject, r *rand.Rand) (string, verdictOn, error) {
	b := bytes.Clone(s.file)
	at, x := r.IntN(len(b)), pattern(r)
	what := fmt.Sprintf("byte %#x ^ %#x", at, x)
	switch r.IntN(8) {
	case 0:
		b, what = b[:at], fmt.Sprintf("cut off at %#x", at)
	default:
		b[at] ^= x
	}
	if _, err := update.Read(bytes.NewReader(b)); err != nil {
		return what, verdictOn{refused: err}, nil
	}
	return what, verdictOn{}, errUnproved
}

// mutateManifest changes one value of what the manifest says of the parts; all digests are right.
func mutateManifest(t *testing.T, s *subject, r *rand.Rand) (string, verdictOn, error) {
	raw, err := json.Marshal(&s.u.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	u := &update.Update{Files: map[string][]byte{}}
	if err := json.Unmarshal(raw, &u.Manifest); err != nil {
		t.Fatal(err)
	}
	// The members are large and not what is mutated: short ones stand for them.
	m := &u.Manifest
	member := func(name string, digest *string) {
		u.Files[name] = []byte(name)
		*digest = update.Digest(u.Files[name])
	}
	member(m.Patch.File, &m.Patch.SHA256)
	for i := range m.Units {
		member(m.Units[i].Pre, &m.Units[i].SHA256)
	}
	for i := range m.Parts {
		member(m.Parts[i].File, &m.Parts[i].SHA256)
	}
	what := mutateValue(r, &m.Parts)
	var file bytes.Buffer
	if err := u.Write(&file); err != nil {
		return what, verdictOn{refused: err}, nil
	}
	read, err := update.Read(&file)
	if err != nil {
		return what, verdictOn{refused: err}, nil
	}
	road := s.road()
	road.m = &read.Manifest
	v, err := s.weigh(road.judge(t.Context()))
	return what, v, err
}
