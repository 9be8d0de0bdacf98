package kernel

import (
	"cmp"
	"hash/maphash"
	"slices"
	"sort"
	"sync"
)

// Symbol is an entry of the kernel's own symbol table.
type Symbol struct {
	Name string
	// Module is the module it is part of; empty for the kernel proper. Code that BPF, ftrace or kprobes generated is
	// under a pseudo module such as "bpf" or "__builtin__ftrace".
	Module  string
	Address uint64
	// Type is the letter that nm(1) prints for it. In modules capitals mean exported, not for GPL code only
	// (kernel/kallsyms.c: s_show, kernel/module/kallsyms.c: is_exported).
	Type byte
}

// Symbols is a symbol table. It is safe for concurrent use.
type Symbols struct {
	list   []Symbol // by address; equal addresses stay in the kernel's order
	ranges map[string][]Range

	once  sync.Once
	seed  maphash.Seed
	heads []int32 // by hash: 1 + index in list of the first symbol
	next  []int32 // 1 + index of the next symbol of the same hash
}

// pseudoReach bounds how far behind a symbol of generated code an address still counts as its, in bytes; such code has no
// size in the symbol table.
const pseudoReach = 1 << 20

func newSymbols(list []Symbol) *Symbols {
	// The kernel proper's symbols come first and in order; only those of modules, a tenth, need sorting.
	byAddress := func(a, b Symbol) int { return cmp.Compare(a.Address, b.Address) }
	n := 1
	for n < len(list) && list[n-1].Address <= list[n].Address {
		n++
	}
	if n >= len(list) {
		return &Symbols{list: list}
	}
	head, tail := list[:n], list[n:]
	slices.SortStableFunc(tail, byAddress)
	if head[n-1].Address <= tail[0].Address {
		return &Symbols{list: list}
	}
	merged := make([]Symbol, 0, len(list))
	for len(head) > 0 && len(tail) > 0 {
		if head[0].Address <= tail[0].Address {
			merged, head = append(merged, head[0]), head[1:]
		} else {
			merged, tail = append(merged, tail[0]), tail[1:]
		}
	}
	return &Symbols{list: append(append(merged, head...), tail...)}
}

// Len returns the number of symbols.
func (s *Symbols) Len() int { return len(s.list) }

// All returns all symbols by address. The caller must not change them.
func (s *Symbols) All() []Symbol { return s.list }

// index makes the hash table of names: 165,000 names take milliseconds, sorting them would take ten times as long.
func (s *Symbols) index() {
	size := 1
	for size < len(s.list) {
		size *= 2
	}
	s.seed = maphash.MakeSeed()
	s.heads, s.next = make([]int32, size), make([]int32, len(s.list))
	for i := len(s.list) - 1; i >= 0; i-- {
		h := maphash.String(s.seed, s.list[i].Name) & uint64(size-1)
		s.next[i] = s.heads[h]
		s.heads[h] = int32(i + 1)
	}
}

func (s *Symbols) each(name string, f func(*Symbol)) {
	s.once.Do(s.index)
	h := maphash.String(s.seed, name) & uint64(len(s.heads)-1)
	for i := s.heads[h]; i != 0; i = s.next[i-1] {
		if s.list[i-1].Name == name {
			f(&s.list[i-1])
		}
	}
}

// Lookup returns all symbols of that name, by address.
func (s *Symbols) Lookup(name string) []Symbol {
	var out []Symbol
	s.each(name, func(y *Symbol) { out = append(out, *y) })
	return out
}

// LookupIn returns the symbols of that name in one module, or in the kernel proper when module is empty, by address.
func (s *Symbols) LookupIn(module, name string) []Symbol {
	var out []Symbol
	s.each(name, func(y *Symbol) {
		if y.Module == module {
			out = append(out, *y)
		}
	})
	return out
}

// after returns the index of the first symbol above address.
func (s *Symbols) after(address uint64) int {
	return sort.Search(len(s.list), func(i int) bool { return s.list[i].Address > address })
}

// At returns the symbols whose address it is. The caller must not change them.
func (s *Symbols) At(address uint64) []Symbol {
	end := s.after(address)
	start := end
	for start > 0 && s.list[start-1].Address == address {
		start--
	}
	return s.list[start:end:end]
}

// Covering returns the symbol that the address lies in or behind, the first one where several begin there, and its
// offset from it. ok is false where no symbol begins before it, or that symbol's module ends before it.
func (s *Symbols) Covering(address uint64) (y Symbol, offset uint64, ok bool) {
	i := s.after(address) - 1
	if i < 0 {
		return Symbol{}, 0, false
	}
	y = s.At(s.list[i].Address)[0]
	offset = address - y.Address
	ranges, known := s.ranges[y.Module]
	if !known || len(ranges) == 0 {
		return y, offset, offset < pseudoReach
	}
	for _, r := range ranges {
		if r.Contains(address) && (r.Contains(y.Address) || y.Address == r.End) {
			return y, offset, true
		}
	}
	return y, offset, offset == 0
}
