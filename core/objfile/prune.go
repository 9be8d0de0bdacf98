package objfile

import (
	"debug/elf"
	"fmt"
	"slices"
	"strings"
)

// Prune drops the sections that keep does not want, their relocations, the symbols in them, and the undefined
// symbols that only dropped relocations referred to. keep is asked once for every section that is not generated;
// relocation tables and groups follow their sections. It is an error when a kept section refers to a dropped one (by a
// relocation, or by sh_link or sh_info); the file is then as it was.
func (f *File) Prune(keep func(*Section) bool) error {
	kept := make(map[*Section]bool, len(f.Sections))
	for i, s := range f.Sections {
		switch {
		case i == 0 || s.Generated():
			kept[s] = s.Type != elf.SHT_RELA && s.Type != elf.SHT_GROUP
		default:
			kept[s] = keep(s)
		}
	}
	for _, s := range f.Sections {
		switch s.Type {
		case elf.SHT_RELA:
			kept[s] = kept[s.InfoSection]
		case elf.SHT_GROUP:
			kept[s] = s.Group.keeps(kept)
		}
	}
	used, dropped, err := f.references(kept)
	if err != nil {
		return err
	}
	f.drop(kept, used, dropped)
	return nil
}

// keeps says that a member of the group is kept.
func (g *Group) keeps(kept map[*Section]bool) bool {
	return g != nil && slices.ContainsFunc(g.Members, func(m *Section) bool { return kept[m] })
}

// references returns the symbols that kept and that dropped relocations refer to.
func (f *File) references(kept map[*Section]bool) (used, dropped map[*Symbol]bool, err error) {
	used, dropped = map[*Symbol]bool{}, map[*Symbol]bool{}
	for _, s := range f.Sections {
		if !kept[s] {
			for _, r := range s.Relocs {
				dropped[r.Symbol] = true
			}
			continue
		}
		for _, to := range []*Section{s.Link, s.InfoSection} {
			if to != nil && !kept[to] {
				return nil, nil, fmt.Errorf("prune object: section %s is kept and names section %s, which is dropped", s, to)
			}
		}
		for i, r := range s.Relocs {
			used[r.Symbol] = true
			if r.Symbol != nil && r.Symbol.Section != nil && !kept[r.Symbol.Section] {
				return nil, nil, fmt.Errorf("prune object: section %s is kept and its relocation %d at offset %#x refers to symbol %s in section %s, which is dropped",
					s, i, r.Offset, r.Symbol, r.Symbol.Section)
			}
		}
	}
	return used, dropped, nil
}

// drop takes everything out of the file that is not kept.
func (f *File) drop(kept map[*Section]bool, used, dropped map[*Symbol]bool) {
	signatures := map[*Symbol]bool{}
	sections := f.Sections[:0:0]
	for _, s := range f.Sections {
		if !kept[s] {
			continue
		}
		sections = append(sections, s)
		if s.Type == elf.SHT_GROUP {
			members := s.Group.Members[:0:0]
			for _, m := range s.Group.Members {
				if kept[m] {
					members = append(members, m)
				}
			}
			s.Group.Members = members
			signatures[s.Group.Signature] = true
		}
	}
	symbols := f.Symbols[:0:0]
	for i, y := range f.Symbols {
		gone := y.Section != nil && !kept[y.Section] ||
			y.Section == nil && y.Special == elf.SHN_UNDEF && dropped[y] && !used[y]
		if i == 0 || !gone {
			symbols = append(symbols, y)
			continue
		}
		if signatures[y] {
			// A signature is a name only; it may be undefined.
			y.Section, y.Value, y.Size, y.Type, y.Bind = nil, 0, 0, elf.STT_NOTYPE, elf.STB_LOCAL
			symbols = append(symbols, y)
		}
	}
	f.Sections, f.Symbols = sections, symbols
}

// StripDebug drops debug information: the sections that compilers make for debuggers and everything that only
// they refer to. A debug section that other sections refer to stays.
func (f *File) StripDebug() {
	kept := make(map[*Section]bool, len(f.Sections))
	var todo []*Section
	visit := func(s *Section) {
		if s != nil && !kept[s] {
			kept[s] = true
			todo = append(todo, s)
		}
	}
	for _, s := range f.Sections {
		if !isDebug(s) {
			visit(s)
		}
	}
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		visit(s.Link)
		if !s.Generated() {
			visit(s.InfoSection)
		}
		for _, r := range s.Relocs {
			if r.Symbol != nil {
				visit(r.Symbol.Section)
			}
		}
	}
	for _, s := range f.Sections {
		switch {
		case s.Type == elf.SHT_RELA:
			kept[s] = kept[s.InfoSection]
		case s.Type == elf.SHT_GROUP:
			kept[s] = s.Group.keeps(kept)
		}
	}
	used, dropped := map[*Symbol]bool{}, map[*Symbol]bool{}
	for _, s := range f.Sections {
		for _, r := range s.Relocs {
			if kept[s] {
				used[r.Symbol] = true
			} else {
				dropped[r.Symbol] = true
			}
		}
	}
	f.drop(kept, used, dropped)
}

// isDebug knows debug sections by name, as strip does (binutils bfd/elf.c, elf_fake_sections and
// _bfd_elf_make_section_from_shdr).
func isDebug(s *Section) bool {
	if s.Flags&elf.SHF_ALLOC != 0 || s.Generated() {
		return false
	}
	for _, p := range []string{".debug", ".zdebug", ".gnu.debuglto_", ".gnu.linkonce.wi.", ".line", ".stab", ".gdb_index"} {
		if strings.HasPrefix(s.Name, p) {
			return true
		}
	}
	return false
}
