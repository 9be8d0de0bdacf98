package match

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/sdk/arch"
)

// oblige checks one obligation in the running kernel. failed says what does not hold; for the key obligations the key's
// address is returned.
func (m *matcher) oblige(unit int, o *arch.Obligation) (key uint64, failed string, err error) {
	switch o.Kind {
	case arch.ObligationBytes, arch.ObligationString:
		got := make([]byte, len(o.Bytes))
		if e := m.pages.read(got, o.Address); e != nil {
			return 0, fmt.Sprintf("the constant it names cannot be read: %v", e), nil
		}
		if !bytes.Equal(got, o.Bytes) {
			return 0, fmt.Sprintf("it names %q at %#x, expected %q", got, o.Address, o.Bytes), nil
		}
	case arch.ObligationSymbol:
		if m.namedAt(o.Address, o.Names) {
			return 0, "", nil
		}
		return 0, fmt.Sprintf("it names %s, expected one of %s", m.nameOf(o.Address), strings.Join(o.Names, ", ")), nil
	case arch.ObligationCode:
		for _, form := range o.Forms {
			got := make([]byte, len(form))
			if m.k.Memory.ReadMemory(got, o.Address) == nil && bytes.Equal(got, form) {
				return 0, "", nil
			}
		}
		return 0, fmt.Sprintf("the code at %s is none of the thunks it may be", m.nameOf(o.Address)), nil
	case arch.ObligationJumpKey, arch.ObligationStaticCallKey:
		keys, err := m.keysOf(unit, o.Kind)
		if err != nil {
			return 0, "", err
		}
		key, ok := keys[o.Address]
		if !ok {
			return 0, fmt.Sprintf("the running kernel's own table has no %s site at %#x", strings.TrimSuffix(string(o.Kind), "_key"), o.Address), nil
		}
		return key, "", nil
	case arch.ObligationStaticCallFunc:
		failed, err := m.calls(unit, o)
		return 0, failed, err
	case arch.ObligationKprobe:
		if !slices.Contains(m.tracing.Kprobes, o.Address) {
			return 0, fmt.Sprintf("a breakpoint stands at %#x that is no registered kprobe", o.Address), nil
		}
	case arch.ObligationFtrace:
		if !m.tracer(o.Address) {
			return 0, fmt.Sprintf("the function's entry calls %s, which is no tracer", m.nameOf(o.Address)), nil
		}
	default:
		return 0, "", fmt.Errorf("the architecture plugin asks for an obligation %q that this ksplice does not know", o.Kind)
	}
	return 0, "", nil
}

// calls checks whom the key of a static call has its site call (include/linux/static_call_types.h: struct static_call_key begins with
// the function).
func (m *matcher) calls(unit int, o *arch.Obligation) (failed string, err error) {
	keys, err := m.keysOf(unit, arch.ObligationStaticCallKey)
	if err != nil {
		return "", err
	}
	function := make([]byte, 8)
	key, ok := keys[o.Address]
	if !ok {
		return fmt.Sprintf("the running kernel's own table has no static_call site at %#x", o.Address), nil
	}
	if err := m.k.Memory.ReadMemory(function, key); err != nil {
		return fmt.Sprintf("the static call's key cannot be read: %v", err), nil
	}
	none := bytes.Equal(function, make([]byte, len(function)))
	for _, form := range o.Forms {
		if bytes.Equal(form, function) || none && len(form) == len(function) && m.namedAt(m.k.Word(form), o.Names) {
			return "", nil
		}
	}
	return fmt.Sprintf("the static call leads elsewhere than to %s, which its key at %#x holds", m.nameOf(m.k.Word(function)), key), nil
}

// namedAt says that run's symbol table has one of the names at an address.
func (m *matcher) namedAt(address uint64, names []string) bool {
	return slices.ContainsFunc(m.k.Symbols.At(address), func(s kernel.Symbol) bool { return slices.Contains(names, s.Name) })
}

// keysOf returns code address to key address of the run table that a unit's sites stand in.
func (m *matcher) keysOf(unit int, kind arch.ObligationKind) (map[uint64]uint64, error) {
	module := m.u.units[unit].Module
	id := string(kind) + "\x00" + module
	parts := slices.DeleteFunc(slices.Clone(m.u.units[unit].Parts), func(p string) bool {
		_, loaded := m.k.Modules[p]
		return !loaded
	})
	if t, ok := m.keys[id]; ok {
		return t, nil
	}
	read := m.k.JumpKeys
	if kind == arch.ObligationStaticCallKey {
		read = m.k.StaticCallKeys
	}
	t, err := read(module)
	if err != nil {
		return nil, err
	}
	// Code that an update put in place of other code, or brought, has its sites in the part's own table.
	for _, r := range m.redirect {
		parts = append(parts, r.Part)
	}
	slices.Sort(parts)
	for _, p := range slices.Compact(parts) {
		id := string(kind) + "\x00" + p
		if m.keys[id] == nil {
			extra, err := read(p)
			if err != nil {
				return nil, err
			}
			m.keys[id] = extra
		}
		for a, k := range m.keys[id] {
			t[a] = k
		}
	}
	m.keys[id] = t
	return t, nil
}

// keyOfTrampoline checks the key of a static call whose site names the trampoline in the key's place: a module may call what
// exports no key (EXPORT_STATIC_CALL_TRAMP), and the kernel puts the key in as it loads the module
// (kernel/static_call_inline.c, static_call_add_module). ok is false for other sites. The field says nothing about where the
// trampoline lies.
func (m *matcher) keyOfTrampoline(unit int, o *arch.Obligation, key uint64) (failed string, ok bool, err error) {
	s, err := m.u.symbol(unit, o.Symbol)
	if err != nil {
		return "", false, err
	}
	call, ok := strings.CutPrefix(s.Name, "__SCT__")
	if !ok {
		return "", false, nil
	}
	for _, have := range m.k.Symbols.At(key) {
		if have.Name == "__SCK__"+call {
			return "", true, nil
		}
	}
	return fmt.Sprintf("the site's key is %s, expected __SCK__%s", m.nameOf(key), call), true, nil
}

// tracer says whether code at address is an ftrace entry: one of ftrace's own (arch/x86/kernel/ftrace_64.S), or a
// trampoline that ftrace or BPF allocated (create_trampoline in arch/x86/kernel/ftrace.c, kernel/bpf/trampoline.c), which
// kallsyms lists under a pseudo module, or not at all.
func (m *matcher) tracer(address uint64) bool {
	s, _, ok := m.k.Symbols.Covering(address)
	switch {
	case !ok:
		return !m.inModule(address)
	case strings.HasPrefix(s.Name, "ftrace_"), s.Name == "__fentry__", strings.HasPrefix(s.Name, "bpf_trampoline_"):
		return true
	}
	return strings.HasPrefix(s.Module, "__builtin__") || s.Module == "bpf" || (s.Module == "" && m.outsideText(address))
}

func (m *matcher) inModule(address uint64) bool {
	_, ok := m.k.Owner(address)
	return ok
}

// outsideText says that the address lies behind the kernel proper's own image.
func (m *matcher) outsideText(address uint64) bool {
	end := m.k.Symbols.LookupIn("", "_end")
	return len(end) == 1 && address >= end[0].Address && !m.inModule(address)
}

func (m *matcher) nameOf(address uint64) string {
	if s, offset, ok := m.k.Symbols.Covering(address); ok {
		return fmt.Sprintf("%#x (%s+%#x)", address, s.Name, offset)
	}
	return fmt.Sprintf("%#x", address)
}

// pageCache reads constants of run, whose pages are asked for again and again, once.
type pageCache struct {
	mem   kernel.Memory
	pages map[uint64][]byte
}

const pageSize = 4096

func newPageCache(m kernel.Memory) *pageCache { return &pageCache{m, map[uint64][]byte{}} }

func (c *pageCache) read(p []byte, address uint64) error {
	for len(p) > 0 {
		base := address &^ (pageSize - 1)
		page, ok := c.pages[base]
		if !ok {
			page = make([]byte, pageSize)
			if c.mem.ReadMemory(page, base) != nil {
				return c.mem.ReadMemory(p, address) // an image's segments need not begin at a page
			}
			c.pages[base] = page
		}
		n := copy(p, page[address-base:])
		p, address = p[n:], address+uint64(n)
	}
	return nil
}
