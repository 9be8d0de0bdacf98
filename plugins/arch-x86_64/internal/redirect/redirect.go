// Package redirect says how functions can be redirected to their replacements: by a jump behind the entry's endbr64 and the
// tracer's nop, so that tracers and probes at the entry go on working, or through the tracer where a place that the kernel
// rewrites at run time is in the way. The plugin's Redirect call is its only caller.
package redirect

import (
	"debug/elf"
	"fmt"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/describe"
	"github.com/ksplice/ksplice/sdk/arch"
)

// Lengths in bytes.
const (
	endbrLen  = 4
	fentryLen = 5
	jumpLen   = 5
)

// jump is jmp rel32 with its field zero; the field is at jumpField and counts from the jump's end.
var jump = [jumpLen]byte{0xe9}

const jumpField = 1

// Run answers for each function, by its symbol number.
func Run(u *describe.Unit, functions []uint32) ([]arch.Redirect, error) {
	out := make([]arch.Redirect, len(functions))
	for i, symbol := range functions {
		fn := u.Function(symbol)
		if fn == nil {
			return nil, fmt.Errorf("symbol %d is no function of the object", symbol)
		}
		out[i] = function(u, fn)
	}
	return out, nil
}

// function answers for one function.
func function(u *describe.Unit, fn *arch.Function) arch.Redirect {
	switch {
	case fn.Parent >= 0:
		return arch.Redirect{Kind: arch.RedirectNone,
			Reason: "it is a piece of " + u.Desc.Functions[fn.Parent].Name + " and entered through that only"}
	case u.File.Sections[fn.Section].Name == ".static_call.text":
		return arch.Redirect{Kind: arch.RedirectNone, Reason: "it is the trampoline of a static call, which the kernel rewrites"}
	}
	start := uint64(0)
	if fn.Endbr {
		start = endbrLen
	}
	if fn.Fentry {
		start = fn.FentryOffset + fentryLen
	}
	why := obstacle(u, fn, start)
	if why == "" {
		return arch.Redirect{Kind: arch.RedirectJump, Window: arch.Range{Offset: start, Length: jumpLen},
			Template: append([]byte(nil), jump[:]...), Field: jumpField, Type: uint32(elf.R_X86_64_PLT32), Addend: -(jumpLen - jumpField)}
	}
	if fn.Fentry {
		return arch.Redirect{Kind: arch.RedirectFtrace, Reason: why}
	}
	return arch.Redirect{Kind: arch.RedirectNone,
		Reason: why + ", and the function has no tracer's call at its entry that could be used instead"}
}

// obstacle says why no jump can stand at an offset of the function, "" where one can. What the kernel rewrites while it boots
// only is no obstacle; a live site is: the kernel checks the bytes there before it writes (arch/x86/kernel/jump_label.c:
// __jump_label_patch, static_call.c:__static_call_validate) and stops the machine where they are not its own.
func obstacle(u *describe.Unit, fn *arch.Function, start uint64) string {
	if start+jumpLen > fn.Size {
		return fmt.Sprintf("its %d bytes leave no room for a jump of %d bytes at +%#x", fn.Size, jumpLen, start)
	}
	from, to := fn.Offset+start, fn.Offset+start+jumpLen
	const longest = 64 // bytes of the longest live site, generously
	first, end := u.SitesIn(fn.Section, from-min(from, longest), to)
	for i := first; i < end; i++ {
		if s := &u.Desc.Sites[i]; s.Live && s.At < to && s.At+s.Length > from {
			return fmt.Sprintf("a %s site at +%#x, which the kernel may rewrite at any time, is where the jump would stand",
				s.Kind, s.At-fn.Offset)
		}
	}
	return ""
}
