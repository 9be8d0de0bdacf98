// Package mutation is what TestMutateGuest and the tool that it runs in the guest tell each other, in JSON.
package mutation

// Plan is an update of one part, bound for the kernel that runs, and how it is to be changed, one attempt after the other.
type Plan struct {
	ID   string
	Part string // the part's module name
	File string // the part, as the guest sees it
	// Values are the slots' values. Keys are the numbers of those that are private copies of static keys.
	Values  []uint64
	Keys    []int
	Windows []Bytes
	// Attempts say what is changed.
	Attempts []Attempt
}

// Bytes are bytes at an address.
type Bytes struct {
	Address uint64
	Bytes   []byte
}

// What an attempt changes.
const (
	Nothing       = ""
	Slot          = "slot"           // slot Index has Value
	Window        = "window"         // byte At of window Index is changed by Bytes
	WindowAddress = "window address" // window Index is said to be at Value
	Part          = "part"           // the part has Bytes at At
)

// Attempt is one change.
type Attempt struct {
	What  string
	Index int
	At    int
	Value uint64
	Bytes []byte
}

// Outcome is what became of an attempt.
type Outcome struct {
	// Refused says what refused it: a stage, or the kernel module's cause; empty: it was applied, and undone.
	Refused string
	Why     string
	// State is what was in force.
	State []string
}
