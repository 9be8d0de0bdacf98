package create

import (
	"fmt"
	"slices"
	"strings"
)

// ReasonKind says of what kind a reason is.
type ReasonKind string

// The kinds of reasons.
const (
	// ReasonPatch: the patch is malformed, or does not apply.
	ReasonPatch ReasonKind = "patch"
	// ReasonKernel: nobody can build for the kernel, or the update to stand on is for another.
	ReasonKernel ReasonKind = "kernel"
	// ReasonNotBuilt: this kernel has nothing of what the patch touches.
	ReasonNotBuilt ReasonKind = "not built"
	// ReasonNoEffect: no function's object code changes.
	ReasonNoEffect ReasonKind = "no effect"
	// ReasonState: data that exist in the running kernel would have to change, in layout or value: it needs code that carries them over.
	ReasonState ReasonKind = "state"
	// ReasonUnsupported: no hot update can carry it.
	ReasonUnsupported ReasonKind = "unsupported"
)

// Reason is one reason why no update can be made.
type Reason struct {
	Kind ReasonKind `json:"kind"`
	Text string     `json:"text"`
}

// RefusedError says why no update can be made of the patch. Every reason is listed, not only the first.
type RefusedError struct {
	Reasons []Reason
}

// Error implements error.
func (e *RefusedError) Error() string {
	if len(e.Reasons) == 1 {
		return "the patch is refused: " + e.Reasons[0].Text
	}
	texts := make([]string, len(e.Reasons))
	for i, r := range e.Reasons {
		texts[i] = r.Text
	}
	return fmt.Sprintf("the patch is refused for %d reasons:\n  %s", len(e.Reasons), strings.Join(texts, "\n  "))
}

// refuse refuses the patch for reasons of one kind.
func refuse(kind ReasonKind, texts ...string) *RefusedError {
	e := &RefusedError{}
	for _, t := range texts {
		e.Reasons = append(e.Reasons, Reason{kind, t})
	}
	return e
}

func sortReasons(list []Reason) {
	slices.SortFunc(list, func(a, b Reason) int { return strings.Compare(a.Text, b.Text) })
}
