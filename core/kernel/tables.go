package kernel

import (
	"encoding/binary"
	"fmt"
)

// The tables of kallsyms as scripts/kallsyms.c (write_src) emits them, each aligned to eight bytes on 64-bit machines:
//
//	num_syms      u32
//	names         for each symbol: length in ULEB128 of one or two bytes, then that many token numbers; the first
//	              character of the expanded name is the symbol's type
//	markers       u32 for every 256th symbol: its offset in names
//	seqs_of_names u8[3] for each symbol (since 6.2, in 6.1 as distributions have it)
//	token_table   256 strings, each with a NUL
//	token_index   u16[256]: where the strings begin
//	offsets       u32 for each symbol
//	relative_base u64
//
// Up to Linux 6.3 offsets and relative_base stand before num_syms, since then behind token_index.

// tables are one kernel's kallsyms tables.
type tables struct {
	count      int
	names      []byte // may go on behind the last name
	tokens     []byte
	tokenIndex []byte // 512 bytes
	offsets    []byte // 4 * count bytes
	base       uint64
}

// maxSymbols bounds a symbol table: ten times what a kernel with everything has.
const maxSymbols = 8 << 20

// decode expands the names and computes the addresses.
func (t *tables) decode(order binary.ByteOrder) (*Symbols, error) {
	tokens := make([][]byte, 256)
	for i := range tokens {
		at := int(order.Uint16(t.tokenIndex[2*i:]))
		end := at
		for end < len(t.tokens) && t.tokens[end] != 0 {
			end++
		}
		if end >= len(t.tokens) {
			return nil, fmt.Errorf("read kallsyms tables: token %d has no end: %w", i, ErrFormat)
		}
		tokens[i] = t.tokens[at:end]
	}
	text := make([]byte, 0, 24*t.count)
	ends := make([]int, t.count)
	names := t.names
	for i := range ends {
		n, head := nameLength(names)
		if n == 0 || head+n > len(names) {
			return nil, fmt.Errorf("read kallsyms tables: name %d of %d does not end: %w", i, t.count, ErrFormat)
		}
		for _, c := range names[head : head+n] {
			text = append(text, tokens[c]...)
		}
		names = names[head+n:]
		ends[i] = len(text)
	}
	all := string(text)
	list := make([]Symbol, t.count)
	absolute := t.absolutePercpu(order)
	start := 0
	for i := range list {
		name := all[start:ends[i]]
		if len(name) < 2 {
			return nil, fmt.Errorf("read kallsyms tables: symbol %d has no name: %w", i, ErrFormat)
		}
		list[i] = Symbol{Name: name[1:], Type: name[0], Address: t.address(i, absolute, order)}
		start = ends[i]
	}
	return newSymbols(list), nil
}

// nameLength reads the length that a name begins with: n bytes behind head bytes; n is 0 where there is none.
func nameLength(p []byte) (n, head int) {
	switch {
	case len(p) < 2:
		return 0, 0
	case p[0]&0x80 == 0:
		return int(p[0]), 1
	}
	return int(p[0]&0x7f) | int(p[1])<<7, 2
}

// absolutePercpu says whether CONFIG_KALLSYMS_ABSOLUTE_PERCPU was in effect: offsets of ordinary symbols are then negative.
func (t *tables) absolutePercpu(order binary.ByteOrder) bool {
	for i := range t.count {
		if int32(order.Uint32(t.offsets[4*i:])) < 0 {
			return true
		}
	}
	return false
}

// address computes a symbol's address (kernel/kallsyms.c: kallsyms_sym_address).
func (t *tables) address(i int, absolute bool, order binary.ByteOrder) uint64 {
	v := order.Uint32(t.offsets[4*i:])
	switch {
	case !absolute:
		return t.base + uint64(v)
	case int32(v) >= 0:
		return uint64(v)
	}
	return t.base - 1 - uint64(int64(int32(v)))
}

// sorted says whether the addresses ascend, as scripts/kallsyms.c: sort_symbols leaves them; per-CPU symbols come first.
func (t *tables) sorted(order binary.ByteOrder) bool {
	absolute := t.absolutePercpu(order)
	last := uint64(0)
	for i := range t.count {
		a := t.address(i, absolute, order)
		if a < last {
			return false
		}
		last = a
	}
	return true
}

func align8(n int) int { return (n + 7) &^ 7 }

// findTables looks for the tables in a piece of a kernel, by their structure: no symbol says where they are. data begins at
// an address that is a multiple of eight.
func findTables(data []byte, order binary.ByteOrder) (*tables, error) {
	for p := 0; p+512 <= len(data); p += 8 {
		if !isTokenIndex(data[p:p+512], order) {
			continue
		}
		start, ok := tokenTable(data, p, order)
		if !ok {
			continue
		}
		if t := tablesAround(data, start, p, order); t != nil {
			return t, nil
		}
	}
	return nil, fmt.Errorf("no kallsyms tables found; the kernel needs CONFIG_KALLSYMS: %w", ErrFormat)
}

func isTokenIndex(p []byte, order binary.ByteOrder) bool {
	last := order.Uint16(p)
	if last != 0 {
		return false
	}
	for i := 2; i < 512; i += 2 {
		v := order.Uint16(p[i:])
		if v <= last {
			return false
		}
		last = v
	}
	return true
}

// tokenTable returns where the token table that ends before its index at p begins.
func tokenTable(data []byte, p int, order binary.ByteOrder) (int, bool) {
	last := int(order.Uint16(data[p+510:]))
	// Only the length of the last string is not known; the alignment leaves few choices.
	for start := p - align8(last+1); start >= 0 && start >= p-align8(last+1)-512; start -= 8 {
		if isTokenTable(data[start:p], data[p:p+512], order) {
			return start, true
		}
	}
	return 0, false
}

func isTokenTable(table, index []byte, order binary.ByteOrder) bool {
	at := 0
	for i := range 256 {
		if int(order.Uint16(index[2*i:])) != at {
			return false
		}
		for at < len(table) && table[at] != 0 {
			if table[at] < ' ' || table[at] > '~' {
				return false
			}
			at++
		}
		at++
	}
	return at <= len(table) && len(table)-at < 8 && zero(table[at:])
}

func zero(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}

// tablesAround finds the other tables around a token table and its index. Tables of few symbols occur in anything; the one
// with the most is meant.
func tablesAround(data []byte, tokens, index int, order binary.ByteOrder) *tables {
	var best *tables
	for q := tokens - 16; q >= 0; q -= 8 {
		count := int(order.Uint32(data[q:]))
		if count == 0 || count > maxSymbols || order.Uint32(data[q+4:]) != 0 || count > (tokens-q-8)/2 ||
			best != nil && count <= best.count {
			continue
		}
		if !namesFit(data[q+8:tokens], count, order) {
			continue
		}
		t := &tables{count: count, names: data[q+8 : tokens], tokens: data[tokens:index], tokenIndex: data[index : index+512]}
		size := align8(4 * count)
		for _, at := range []int{index + 512, q - 8 - size} {
			if at < 0 || at+size+8 > len(data) {
				continue
			}
			t.offsets, t.base = data[at:at+4*count], order.Uint64(data[at+size:])
			if t.base >= 1<<63 && zero(data[at+4*count:at+size]) && t.sorted(order) {
				best = t
				break
			}
		}
	}
	return best
}

// namesFit says whether p holds that many names and the markers for them.
func namesFit(p []byte, count int, order binary.ByteOrder) bool {
	at := 0
	marks := make([]int, 0, 16)
	for i := range count {
		n, head := nameLength(p[at:])
		if n == 0 || at+head+n > len(p) {
			return false
		}
		if i%256 == 0 {
			marks = append(marks, at)
		}
		at += head + n
	}
	end := align8(at)
	if end+4*len(marks) > len(p) || !zero(p[at:end]) {
		return false
	}
	for i, m := range marks {
		if int(order.Uint32(p[end+4*i:])) != m {
			return false
		}
	}
	return true
}
