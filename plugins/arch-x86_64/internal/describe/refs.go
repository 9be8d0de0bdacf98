package describe

import (
	"sort"
	"strings"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/decode"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/object"
	"github.com/ksplice/ksplice/sdk/arch"
)

// dataFields makes the fields of a section as if it held data only; sweep refines those of code.
func (u *Unit) dataFields(s *object.Section) {
	fields := make([]Field, len(s.Relocs))
	for i, r := range s.Relocs {
		fields[i] = Field{Reloc: r, Size: object.FieldSize(r.Type), PCRel: object.PCRel(r.Type), Kind: arch.RefAddress, Means: r.Addend}
		if u.perCPU(r.Symbol) {
			fields[i].Kind = arch.RefPerCPU
		}
	}
	u.Fields[s.Index] = fields
}

// perCPU says whether a symbol is defined in a section of per-cpu data.
func (u *Unit) perCPU(symbol uint32) bool {
	s := u.File.Symbols[symbol].Section
	return s != 0 && strings.HasPrefix(u.File.Sections[s].Name, ".data..percpu")
}

// sweep decodes a section of code from one end to the other, refines its fields by the instructions around them and
// lists the branches across functions. Where there is no instruction that we know it goes on at the next symbol and
// remembers the gap; fields in a gap stay data.
func (u *Unit) sweep(s *object.Section) {
	fields := u.Fields[s.Index]
	syncs := u.syncPoints(s)
	next := 0 // the first field not yet passed
	for at := uint64(0); at < uint64(len(s.Data)); {
		for len(syncs) > 0 && syncs[0] <= at {
			syncs = syncs[1:]
		}
		in, err := decode.Decode(s.Data[at:])
		end := at + uint64(in.Len)
		if err != nil || len(syncs) > 0 && syncs[0] < end {
			resume := uint64(len(s.Data))
			if len(syncs) > 0 {
				resume = syncs[0]
			}
			u.gaps[s.Index] = append(u.gaps[s.Index], arch.Range{Offset: at, Length: resume - at})
			at = resume
			continue
		}
		for next < len(fields) && fields[next].Offset < at {
			next++
		}
		relocated := false
		for ; next < len(fields) && fields[next].Offset < end; next++ {
			f := &fields[next]
			if f.Size == 0 {
				continue
			}
			f.Inst, f.InstLen = at, in.Len
			refine(f, &in)
			relocated = relocated || in.IsBranch() && f.Offset == at+uint64(in.PCRelOff)
		}
		if in.IsBranch() && !relocated {
			u.branch(s, at, &in)
		}
		at = end
	}
}

// syncPoints are the places of a section where an instruction must begin: functions, labels and replacements of
// alternatives, sorted.
func (u *Unit) syncPoints(s *object.Section) []uint64 {
	var points []uint64
	for _, sp := range u.spans[s.Index] {
		points = append(points, sp.start)
		if sp.end < s.Size {
			points = append(points, sp.end)
		}
	}
	sort.Slice(points, func(i, j int) bool { return points[i] < points[j] })
	return points
}

// refine says what a field in an instruction is for.
func refine(f *Field, in *decode.Inst) {
	const gs = 0x65
	off := int(f.Offset - f.Inst)
	kind := f.Kind
	switch {
	case in.PCRelSize != 0 && off == in.PCRelOff && in.IsBranch():
		kind = arch.RefBranch
	case in.DispSize != 0 && off == in.DispOff && in.Segment == gs && !in.Lea:
		kind = arch.RefPerCPU
	case in.DispSize != 0 && off == in.DispOff && !in.Lea:
		kind = arch.RefMemory
	}
	f.Indexed = in.DispSize != 0 && off == in.DispOff && in.Indexed()
	if f.PCRel && in.PCRelSize != 0 && off == in.PCRelOff {
		f.Means = f.Addend + int64(f.InstLen-off)
	}
	if f.Kind != arch.RefPerCPU {
		f.Kind = kind
	}
}

// branch lists a branch without relocation when it leaves its function.
func (u *Unit) branch(s *object.Section, at uint64, in *decode.Inst) {
	target := in.Target(at)
	from, to := u.FunctionAt(Place{s.Index, at}), u.FunctionAt(Place{s.Index, target})
	switch {
	case from == nil && to == nil:
		return
	case from != nil && target >= from.Offset && target < from.Offset+from.Size:
		return
	}
	u.Desc.Branches = append(u.Desc.Branches, arch.Branch{Section: s.Index, At: at, Length: uint8(in.Len),
		Field: at + uint64(in.PCRelOff), FieldSize: uint8(in.PCRelSize), Target: target})
}

// listRefs fills Desc.Refs from the fields.
func (u *Unit) listRefs() {
	for section, fields := range u.Fields {
		for i := range fields {
			f := &fields[i]
			if f.Size == 0 {
				continue // R_X86_64_NONE: objtool's way to drop a relocation
			}
			u.Desc.Refs = append(u.Desc.Refs, arch.Ref{Section: uint32(section), At: f.Offset, Size: uint8(f.Size), Type: uint32(f.Type),
				PCRel: f.PCRel, Kind: f.Kind, Symbol: f.Symbol, Addend: f.Addend, Offset: f.Means, Indexed: f.Indexed})
		}
	}
}
