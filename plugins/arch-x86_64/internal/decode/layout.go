package decode

import "fmt"

// Attributes of an opcode: what follows the opcode byte (Intel SDM volume 2, appendix A).
type attr uint16

const (
	modrm  attr = 1 << iota // a ModRM byte
	imm8                    // an immediate byte
	imm16                   // an immediate of two bytes
	immZ                    // an immediate of 2 or 4 bytes, by operand size
	immV                    // an immediate of 2, 4 or 8 bytes, by operand size
	moffs                   // an address of 8 or 4 bytes, by address size
	rel8                    // a branch displacement byte
	rel32                   // a branch displacement of 4 bytes
	memory                  // the ModRM operand must be memory
	bad                     // no instruction in 64-bit mode
	ok     attr = 0         // the opcode is all
)

// oneByte and twoByte hold the attributes of opcode maps 0 and 1; maps 2 and 3 are uniform.
var oneByte, twoByte = buildOneByte(), buildTwoByte()

// fill sets the attributes of opcodes from..to.
func fill(t *[256]attr, from, to int, a attr) {
	for i := from; i <= to; i++ {
		t[i] = a
	}
}

// buildOneByte makes the table of map 0. Prefixes, escapes and VEX/EVEX never reach it.
func buildOneByte() *[256]attr {
	t := new([256]attr)
	for row := 0; row < 0x40; row += 8 { // add or adc sbb and sub xor cmp
		fill(t, row, row+3, modrm)
		t[row+4], t[row+5] = imm8, immZ
		t[row+6], t[row+7] = bad, bad
	}
	fill(t, 0x60, 0x62, bad)
	t[0x63] = modrm
	t[0x68], t[0x69], t[0x6a], t[0x6b] = immZ, modrm|immZ, imm8, modrm|imm8
	fill(t, 0x70, 0x7f, rel8)
	t[0x80], t[0x81], t[0x82], t[0x83] = modrm|imm8, modrm|immZ, bad, modrm|imm8
	fill(t, 0x84, 0x8f, modrm)
	t[0x8d] = modrm | memory
	t[0x9a] = bad
	fill(t, 0xa0, 0xa3, moffs)
	t[0xa8], t[0xa9] = imm8, immZ
	fill(t, 0xb0, 0xb7, imm8)
	fill(t, 0xb8, 0xbf, immV)
	t[0xc0], t[0xc1], t[0xc2] = modrm|imm8, modrm|imm8, imm16
	t[0xc6], t[0xc7], t[0xc8], t[0xca] = modrm|imm8, modrm|immZ, imm16|imm8, imm16
	t[0xcd], t[0xce] = imm8, bad
	fill(t, 0xd0, 0xd3, modrm)
	fill(t, 0xd4, 0xd6, bad)
	fill(t, 0xd8, 0xdf, modrm)
	fill(t, 0xe0, 0xe3, rel8)
	fill(t, 0xe4, 0xe7, imm8)
	t[0xe8], t[0xe9], t[0xea], t[0xeb] = rel32, rel32, bad, rel8
	t[0xf6], t[0xf7] = modrm, modrm // and an immediate for reg 0 and 1
	t[0xfe], t[0xff] = modrm, modrm
	return t
}

// buildTwoByte makes the table of map 1 (0f).
func buildTwoByte() *[256]attr {
	t := new([256]attr)
	fill(t, 0x00, 0xff, modrm)
	for _, op := range []int{0x05, 0x06, 0x07, 0x08, 0x09, 0x0b, 0x0e, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x37,
		0x77, 0xa0, 0xa1, 0xa2, 0xa8, 0xa9, 0xaa} {
		t[op] = ok
	}
	for _, op := range []int{0x04, 0x0a, 0x0c, 0x0f, 0x24, 0x25, 0x26, 0x27, 0x36, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d,
		0x3e, 0x3f, 0x7a, 0x7b} {
		t[op] = bad
	}
	for _, op := range []int{0x70, 0x71, 0x72, 0x73, 0xa4, 0xac, 0xba, 0xc2, 0xc4, 0xc5, 0xc6} {
		t[op] = modrm | imm8
	}
	fill(t, 0x80, 0x8f, rel32)
	fill(t, 0xc8, 0xcf, ok)
	return t
}

// reader walks through the bytes of one instruction.
type reader struct {
	code []byte
	pos  int
}

func (r *reader) byte() (byte, error) {
	if r.pos >= len(r.code) || r.pos >= MaxLen {
		return 0, ErrTruncated
	}
	b := r.code[r.pos]
	r.pos++
	return b, nil
}

func (r *reader) skip(n int) error {
	if r.pos+n > len(r.code) || r.pos+n > MaxLen {
		return ErrTruncated
	}
	r.pos += n
	return nil
}

// prefixes is what stands before the opcode.
type prefixes struct {
	opsize, addrsize, lock bool
	rep                    byte // the last of f2 and f3
	segment                byte
	rex                    byte
	vex                    bool // VEX or EVEX
}

// layout finds the length and the fields of the first instruction of code, without knowing what it does.
func layout(code []byte) (Inst, error) {
	var in Inst
	r := &reader{code: code}
	p, op, err := readPrefixes(r)
	if err != nil {
		return in, err
	}
	in.Segment = p.segment
	var a attr
	switch {
	case op == 0xc5 || op == 0xc4 || op == 0x62:
		if a, err = readVex(r, op, &p, &in); err != nil {
			return in, err
		}
	case op == 0x0f:
		if a, err = readEscape(r, &in); err != nil {
			return in, err
		}
	default:
		in.Opcode, in.OpcodeOff, a = op, r.pos-1, oneByte[op]
	}
	if a&bad != 0 {
		return in, fmt.Errorf("%w: opcode %#x of map %d", ErrUnknown, in.Opcode, in.Map)
	}
	if a&modrm != 0 {
		if a, err = readModRM(r, a, &p, &in); err != nil {
			return in, err
		}
	}
	if err := readImmediate(r, a, &p, &in); err != nil {
		return in, err
	}
	in.Len = r.pos
	in.Class = classify(&in, &p)
	in.Lea = in.Map == 0 && in.Opcode == 0x8d
	return in, nil
}

// readPrefixes reads legacy prefixes, REX and the first opcode byte. A REX that is not the last prefix is refused:
// processors ignore it and compilers do not make it.
func readPrefixes(r *reader) (prefixes, byte, error) {
	var p prefixes
	for {
		b, err := r.byte()
		if err != nil {
			return p, 0, err
		}
		switch b {
		case 0x66:
			p.opsize = true
		case 0x67:
			p.addrsize = true
		case 0xf0:
			p.lock = true
		case 0xf2, 0xf3:
			p.rep = b
		case 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65:
			p.segment = b
		default:
			if b&0xf0 != 0x40 {
				return p, b, nil
			}
			p.rex = b
			if b, err = r.byte(); err != nil {
				return p, 0, err
			}
			switch b {
			case 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0xc4, 0xc5, 0x62:
				return p, 0, fmt.Errorf("%w: REX is not the last prefix", ErrUnknown)
			}
			if b&0xf0 == 0x40 {
				return p, 0, fmt.Errorf("%w: REX twice", ErrUnknown)
			}
			return p, b, nil
		}
	}
}

// readEscape reads the opcode behind 0f.
func readEscape(r *reader, in *Inst) (attr, error) {
	b, err := r.byte()
	if err != nil {
		return 0, err
	}
	in.Map = 1
	a := twoByte[b]
	if b == 0x38 || b == 0x3a {
		in.Map, a = 2, modrm
		if b == 0x3a {
			in.Map, a = 3, modrm|imm8
		}
		if b, err = r.byte(); err != nil {
			return 0, err
		}
	}
	in.Opcode, in.OpcodeOff = b, r.pos-1
	return a, nil
}

// readVex reads the rest of a VEX or EVEX prefix and the opcode behind it.
func readVex(r *reader, first byte, p *prefixes, in *Inst) (attr, error) {
	if p.opsize || p.lock || p.rep != 0 || p.rex != 0 {
		return 0, fmt.Errorf("%w: a prefix before VEX", ErrUnknown)
	}
	p.vex = true
	b, err := r.byte()
	if err != nil {
		return 0, err
	}
	in.Map = 1
	switch first {
	case 0xc4: // the map is in the low five bits
		in.Map = b & 0x1f
		err = r.skip(1)
	case 0x62: // EVEX: the map is in the low three bits, two more payload bytes
		in.Map = b & 7
		err = r.skip(2)
	}
	if err != nil {
		return 0, err
	}
	if in.Opcode, err = r.byte(); err != nil {
		return 0, err
	}
	in.OpcodeOff = r.pos - 1
	switch in.Map {
	case 1:
		a := twoByte[in.Opcode]
		if a&(rel32|bad) != 0 {
			return bad, nil
		}
		if in.Opcode != 0x77 {
			a |= modrm
		}
		return a&^imm8 | vexImmediate(in.Opcode), nil
	case 2, 5, 6:
		return modrm, nil
	case 3:
		return modrm | imm8, nil
	}
	return bad, nil
}

// vexImmediate says whether a VEX opcode of map 1 has an immediate byte.
func vexImmediate(op byte) attr {
	switch op {
	case 0x70, 0x71, 0x72, 0x73, 0xc2, 0xc4, 0xc5, 0xc6:
		return imm8
	}
	return 0
}

// readModRM reads ModRM, SIB and displacement, and settles the attributes that depend on ModRM.
func readModRM(r *reader, a attr, p *prefixes, in *Inst) (attr, error) {
	m, err := r.byte()
	if err != nil {
		return 0, err
	}
	in.ModRM, in.HasModRM = m, true
	mod, reg, rm := m>>6, m>>3&7, m&7
	if a&memory != 0 && mod == 3 {
		return 0, fmt.Errorf("%w: the operand must be memory", ErrUnknown)
	}
	if in.Map == 0 && !p.vex {
		if a, err = groupAttr(in.Opcode, mod, reg, rm, a); err != nil {
			return 0, err
		}
	}
	// Moves from and to control and debug registers ignore mod (Intel SDM volume 2, MOV).
	if mod == 3 || in.Map == 1 && !p.vex && in.Opcode >= 0x20 && in.Opcode <= 0x23 {
		return a, nil
	}
	size := map[byte]int{0: 0, 1: 1, 2: 4}[mod]
	pcrel := false
	if rm == 4 {
		sib, err := r.byte()
		if err != nil {
			return 0, err
		}
		if mod == 0 && sib&7 == 5 {
			size = 4
		}
	} else if mod == 0 && rm == 5 {
		size, pcrel = 4, true
	}
	in.DispOff, in.DispSize = r.pos, size
	if size == 0 {
		in.DispOff = 0
	}
	if pcrel {
		if p.addrsize {
			return 0, fmt.Errorf("%w: relative to eip", ErrUnknown)
		}
		in.PCRelOff, in.PCRelSize = in.DispOff, size
	}
	return a, r.skip(size)
}

// groupAttr settles one-byte opcodes whose operation is in ModRM.
func groupAttr(op, mod, reg, rm byte, a attr) (attr, error) {
	none := func() (attr, error) { return 0, fmt.Errorf("%w: opcode %#x /%d", ErrUnknown, op, reg) }
	switch op {
	case 0x8f:
		if reg != 0 { // XOP
			return none()
		}
	case 0xc6: // mov, xabort
		if reg != 0 && (mod != 3 || reg != 7 || rm != 0) {
			return none()
		}
	case 0xc7: // mov, xbegin
		if reg != 0 {
			if mod != 3 || reg != 7 || rm != 0 {
				return none()
			}
			return modrm | rel32, nil
		}
	case 0xf6:
		if reg < 2 {
			return a | imm8, nil
		}
	case 0xf7:
		if reg < 2 {
			return a | immZ, nil
		}
	case 0xfe:
		if reg > 1 {
			return none()
		}
	case 0xff:
		if reg == 7 || (reg == 3 || reg == 5) && mod == 3 {
			return none()
		}
	}
	return a, nil
}

// readImmediate reads what stands behind the operand bytes.
func readImmediate(r *reader, a attr, p *prefixes, in *Inst) error {
	size := 0
	if a&imm16 != 0 {
		size += 2
	}
	if a&imm8 != 0 {
		size++
	}
	z := 4
	if p.opsize && p.rex&8 == 0 {
		z = 2
	}
	switch {
	case a&immZ != 0:
		size += z
	case a&immV != 0:
		size += z
		if p.rex&8 != 0 {
			size += 4
		}
	case a&moffs != 0:
		size += 8
		if p.addrsize {
			size -= 4
		}
	case a&(rel8|rel32) != 0:
		if p.opsize { // Intel and AMD disagree on the length
			return fmt.Errorf("%w: operand size prefix on a branch", ErrUnknown)
		}
		in.PCRelOff, in.PCRelSize = r.pos, 1
		if a&rel32 != 0 {
			in.PCRelSize = 4
		}
		return r.skip(in.PCRelSize)
	}
	if size != 0 {
		in.ImmOff, in.ImmSize = r.pos, size
	}
	return r.skip(size)
}

// classify says what an instruction does to control flow.
func classify(in *Inst, p *prefixes) Class {
	if p.vex {
		return None
	}
	op, reg := in.Opcode, in.ModRM>>3&7
	switch in.Map {
	case 0:
		switch {
		case op == 0xe8:
			return Call
		case op == 0xe9 || op == 0xeb:
			return Jmp
		case op >= 0x70 && op <= 0x7f || op >= 0xe0 && op <= 0xe3 || op == 0xc7 && reg == 7:
			return Jcc
		case op == 0xc2 || op == 0xc3 || op == 0xca || op == 0xcb || op == 0xcf:
			return Ret
		case op == 0xff && (reg == 2 || reg == 3):
			return IndirectCall
		case op == 0xff && (reg == 4 || reg == 5):
			return IndirectJmp
		case op == 0xcc || op == 0xcd || op == 0xf1 || op == 0xf4:
			return Trap
		}
	case 1:
		switch {
		case op >= 0x80 && op <= 0x8f:
			return Jcc
		case op == 0x07 || op == 0x35: // sysret, sysexit
			return Ret
		case op == 0x0b || op == 0xb9 || op == 0xff:
			return Trap
		}
	}
	return None
}
