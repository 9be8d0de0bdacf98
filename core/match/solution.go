package match

import (
	"fmt"
	"time"

	"github.com/ksplice/ksplice/sdk/arch"
)

// Status says what became of one function of a pre object.
type Status string

// The statuses.
const (
	// StatusMatched: run is pre.
	StatusMatched Status = "matched"
	// StatusMismatch: run differs; Function.Mismatch says where.
	StatusMismatch Status = "mismatch"
	// StatusAbsent: run has no such function.
	StatusAbsent Status = "absent"
	// StatusAmbiguous: several places in run match and nothing decides between them.
	StatusAmbiguous Status = "ambiguous"
	// StatusDiscarded: the function is in code that run has thrown away (init, exit); it is not matched.
	StatusDiscarded Status = "discarded"
	// StatusOverridden: a weak function which another unit's strong one replaced when the kernel was linked.
	StatusOverridden Status = "overridden"
)

// Function is the verdict on one function.
type Function struct {
	Unit   int    `json:"-"`
	Object string `json:"object"`
	Symbol uint32 `json:"-"`
	Name   string `json:"name"`
	Status Status `json:"status"`
	// Address is the function's address in run, Code where its code lies (elsewhere when an update replaced it).
	Address uint64 `json:"address,omitempty"`
	Code    uint64 `json:"code,omitempty"`
	// Reason says why it is not matched.
	Reason   string         `json:"reason,omitempty"`
	Mismatch *arch.Mismatch `json:"mismatch,omitempty"`
	// Run is the function's bytes in run and RunSize their number that count; Resized as in arch.MatchResult.
	Run     []byte `json:"-"`
	RunSize uint64 `json:"size,omitempty"`
	Resized bool   `json:"resized,omitempty"`
}

// Stats counts what matching did.
type Stats struct {
	Functions   int           `json:"functions"`
	Relocations int           `json:"relocations"`
	Bytes       int           `json:"bytes"`
	Rounds      int           `json:"rounds"`
	Time        time.Duration `json:"time_ns"`
	Plugin      time.Duration `json:"plugin_ns"` // spent in calls of the architecture plugin
}

// Solution is the outcome of matching.
type Solution struct {
	Functions []Function
	Stats     Stats

	unknowns *unknowns
	merged   map[fieldKey]uint64
	byName   map[functionKey]int
}

type fieldKey struct {
	unit   int
	symbol uint32
	at     uint64
}

type functionKey struct {
	unit   int
	symbol uint32
}

// Value returns the run value of a symbol of a unit, by the symbol's index in the pre object.
func (s *Solution) Value(unit int, symbol uint32) (uint64, bool) {
	p, ok, err := s.unknowns.place(unit, symbol)
	if err != nil || !ok {
		return 0, false
	}
	return s.unknowns.get(p)
}

// Field returns the address that a field of a matched function names, where its target is merged data whose content was proved.
func (s *Solution) Field(unit int, function uint32, at uint64) (uint64, bool) {
	a, ok := s.merged[fieldKey{unit, function, at}]
	return a, ok
}

// Function returns the verdict on a function.
func (s *Solution) Function(unit int, symbol uint32) (*Function, bool) {
	i, ok := s.byName[functionKey{unit, symbol}]
	if !ok {
		return nil, false
	}
	return &s.Functions[i], true
}

// Err returns nil when every function that run can be expected to have was matched, else an error that names
// the first that was not, and how many there are. A function that run has at several places is no error: who needs its
// address refuses (core/bind).
func (s *Solution) Err() error {
	var first *Function
	bad := 0
	for i := range s.Functions {
		switch f := &s.Functions[i]; f.Status {
		case StatusMatched, StatusAmbiguous, StatusDiscarded, StatusOverridden:
		default:
			if bad++; first == nil {
				first = f
			}
		}
	}
	if first == nil {
		return nil
	}
	return &MismatchError{First: *first, Count: bad}
}

// MismatchError says that run is not what the objects compiled to.
type MismatchError struct {
	First Function
	Count int
}

// Error implements error.
func (e *MismatchError) Error() string {
	s := fmt.Sprintf("run-pre matching: %s: %s: %s", e.First.Object, e.First.Name, e.First.Reason)
	if e.Count > 1 {
		s += fmt.Sprintf(" (and %d more functions)", e.Count-1)
	}
	return s
}
