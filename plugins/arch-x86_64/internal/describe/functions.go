package describe

import (
	"bytes"
	"debug/elf"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/object"
	"github.com/ksplice/ksplice/sdk/arch"
)

// endbr64 is the landing pad of indirect branches.
var endbr64 = []byte{0xf3, 0x0f, 0x1e, 0xfa}

// HasEndbr says whether code begins with endbr64.
func HasEndbr(code []byte) bool { return bytes.HasPrefix(code, endbr64) }

// helperPrefixes begin the names of symbols that objtool and compilers put on call padding
// (tools/objtool/elf.c:elf_create_prefix_symbol; clang's kCFI).
var helperPrefixes = []string{"__pfx_", "__cfi_"}

// findFunctions lists the functions and their pads.
func (u *Unit) findFunctions() error {
	f := u.File
	typed := map[uint32]bool{}
	pads := map[Place]uint64{} // by the place of a helper symbol, its size
	for i := range f.Symbols {
		s := &f.Symbols[i]
		if s.Type == elf.STT_FUNC && s.Section != 0 {
			typed[s.Section] = true
			if isHelper(s.Name) {
				pads[Place{s.Section, s.Value + s.Size}] = s.Size
			}
		}
	}
	for i := range f.Symbols {
		s := &f.Symbols[i]
		if s.Section == 0 || s.Name == "" || !f.Sections[s.Section].Exec() || isHelper(s.Name) {
			continue
		}
		// SYM_CODE_START gives a size and no type (include/linux/linkage.h); other labels begin code where nothing has a type.
		label := s.Type == elf.STT_NOTYPE && (s.Size > 0 || !typed[s.Section]) && s.Value < f.Sections[s.Section].Size
		if s.Type != elf.STT_FUNC && !label {
			continue
		}
		if size := f.Sections[s.Section].Size; s.Value > size || s.Size > size-s.Value {
			return fmt.Errorf("function %s lies outside section %s", s.Name, f.Sections[s.Section].Name)
		}
		u.Desc.Functions = append(u.Desc.Functions, arch.Function{Symbol: s.Index, Name: s.Name, Section: s.Section,
			Offset: s.Value, Size: s.Size, Parent: -1})
	}
	fs := u.Desc.Functions
	sort.SliceStable(fs, func(i, j int) bool {
		if fs[i].Section != fs[j].Section {
			return fs[i].Section < fs[j].Section
		}
		return fs[i].Offset < fs[j].Offset
	})
	byName := map[string]int{}
	for i := range fs {
		fn := &fs[i]
		if fn.Size == 0 { // assembly without .size: up to the next function
			fn.Size = f.Sections[fn.Section].Size - fn.Offset
			for j := i + 1; j < len(fs) && fs[j].Section == fn.Section; j++ {
				if fs[j].Offset > fn.Offset {
					fn.Size = fs[j].Offset - fn.Offset
					break
				}
			}
		}
		u.bySymbol[fn.Symbol] = i
		byName[fn.Name] = i
		spans := u.spans[fn.Section]
		sp := span{function: i, start: fn.Offset, end: fn.Offset + fn.Size, maxEnd: fn.Offset + fn.Size}
		if n := len(spans); n > 0 {
			sp.maxEnd = max(sp.maxEnd, spans[n-1].maxEnd)
		}
		u.spans[fn.Section] = append(spans, sp)
	}
	padding := u.configNumber("CONFIG_FUNCTION_PADDING_BYTES")
	for i := range fs {
		fn := &fs[i]
		fn.Parent = parent(byName, fn.Name)
		if n, ok := pads[Place{fn.Section, fn.Offset}]; ok && n <= fn.Offset {
			fn.Pad = n
		} else if fn.Parent < 0 {
			fn.Pad = u.padBefore(fn, padding)
		}
		if s := &f.Sections[fn.Section]; len(s.Data) > 0 {
			fn.Endbr = HasEndbr(s.Data[fn.Offset : fn.Offset+fn.Size])
		}
	}
	return nil
}

// isHelper says that a symbol names call padding and no function.
func isHelper(name string) bool {
	for _, p := range helperPrefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// configNumber is the value of a numeric configuration symbol, 0 where it is not set.
func (u *Unit) configNumber(name string) uint64 {
	n, err := strconv.ParseUint(u.Target.Config[name], 0, 32)
	if err != nil {
		return 0
	}
	return n
}

// padBefore counts the call padding before a function: exactly n single-byte nops that belong to no other function
// (-fpatchable-function-entry=n,n, and FUNCTION_PADDING of include/linux/linkage.h for assembly).
func (u *Unit) padBefore(fn *arch.Function, n uint64) uint64 {
	s := &u.File.Sections[fn.Section]
	if n == 0 || fn.Offset < n || uint64(len(s.Data)) < fn.Offset {
		return 0
	}
	for _, b := range s.Data[fn.Offset-n : fn.Offset] {
		if b != 0x90 {
			return 0
		}
	}
	if u.FunctionAt(Place{fn.Section, fn.Offset - n}) != nil || u.FunctionAt(Place{fn.Section, fn.Offset - 1}) != nil {
		return 0
	}
	return n
}

// parent finds the function that a piece was split from: gcc names it NAME.cold, older ones NAME.cold.NUMBER
// (gcc/cgraphclones.cc:clone_function_name).
func parent(byName map[string]int, name string) int32 {
	i := strings.LastIndex(name, ".cold")
	if i <= 0 {
		return -1
	}
	if rest := name[i+len(".cold"):]; rest != "" {
		if _, err := strconv.ParseUint(strings.TrimPrefix(rest, "."), 10, 32); err != nil || rest[0] != '.' {
			return -1
		}
	}
	if p, ok := byName[name[:i]]; ok {
		return int32(p)
	}
	return -1
}

// entryPoints notes where the tracer's call site of each function is.
func (u *Unit) entryPoints() {
	for i := range u.Desc.Functions {
		fn := &u.Desc.Functions[i]
		first, end := u.SitesIn(fn.Section, fn.Offset, fn.Offset+min(fn.Size, maxFentryOffset+1))
		for _, s := range u.Desc.Sites[first:end] {
			if s.Kind == arch.SiteFentry {
				fn.Fentry, fn.FentryOffset = true, s.At-fn.Offset
				break
			}
		}
	}
}

// maxFentryOffset is how far from the entry the tracer's site can be: behind endbr64.
const maxFentryOffset = 4

// implicitSites adds the sites that no table lists: the call of __fentry__ in objects without __mcount_loc, the entry's
// endbr64 where the kernel seals functions, and static call trampolines.
func (u *Unit) implicitSites() {
	have := map[Place]bool{}
	endbr := map[Place]bool{}
	for _, s := range u.Desc.Sites {
		switch s.Kind {
		case arch.SiteFentry:
			have[Place{s.Section, s.At}] = true
		case SiteEndbr:
			endbr[Place{s.Section, s.At}] = true
		}
	}
	ibt := u.Target.Config["CONFIG_X86_KERNEL_IBT"] == "y"
	for i := range u.Desc.Functions {
		fn := &u.Desc.Functions[i]
		s := &u.File.Sections[fn.Section]
		at := fn.Offset
		if fn.Endbr {
			// The linker's objtool sees more than this unit: any endbr64 at an entry may be sealed.
			if p := (Place{fn.Section, at}); ibt && !endbr[p] {
				endbr[p] = true
				u.addSite(arch.Site{Section: fn.Section, At: at, Length: 4, Kind: SiteEndbr, Key: -1, Detail: "entry"}, SiteDetail{})
			}
			at += 4
		}
		if p := (Place{fn.Section, at}); !have[p] && u.callsFentry(s, at) {
			have[p] = true
			u.addSite(arch.Site{Section: fn.Section, At: at, Length: 5, Kind: arch.SiteFentry, Live: true, Key: -1,
				Detail: "call __fentry__"}, SiteDetail{})
		}
		if s.Name == ".static_call.text" && fn.Size >= 8 {
			u.addSite(arch.Site{Section: fn.Section, At: fn.Offset, Length: 5, Kind: SiteStaticTramp, Live: true, Key: -1,
				Detail: fn.Name}, SiteDetail{})
		}
	}
}

// callsFentry says whether the five bytes at a place call __fentry__.
func (u *Unit) callsFentry(s *object.Section, at uint64) bool {
	if at+5 > uint64(len(s.Data)) || s.Data[at] != 0xe8 {
		return false
	}
	f := u.fieldAt(s.Index, at+1)
	return f != nil && u.File.Symbols[f.Symbol].Name == "__fentry__"
}
