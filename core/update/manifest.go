// Package update is the update file that a vendor ships: a manifest, the parts (one loadable module a target), the
// pre objects that run-pre matching needs, and the patch. Create writes it, check, apply and inspect read it.
package update

import (
	"strings"

	"github.com/ksplice/ksplice/sdk/arch"
)

// FormatVersion is the version of the file format that this package writes; it reads what has been written since oldestVersion. Version 4 has
// Manifest.Transfers, which a ksplice that does not know them must not pass over. Since version 5 signatures may follow the payload.
const (
	FormatVersion = 5
	signedVersion = 5
	oldestVersion = 3
)

// Manifest says everything about an update that is not code. Its texts are shown within lines (ValidLine).
type Manifest struct {
	// Format is FormatVersion at the time of writing.
	Format int `json:"format"`
	// ID names the update: eight hex digits of a digest over everything that the parts are made from (see ID). It is
	// decided before the parts are made, because they carry it.
	ID string `json:"id"`
	// Description is one line for people.
	Description string `json:"description"`
	// Effective is the version that the vendor says a kernel has in effect which has this update; empty where he says none. What it looks like
	// is his: people compare it with his list of fixes.
	Effective string    `json:"effective,omitempty"`
	Kernel    Kernel    `json:"kernel"`
	Toolchain Toolchain `json:"toolchain"`
	// Facts and Config are what the architecture plugin is given at apply as it was at create.
	Facts  map[string]int64  `json:"facts"`
	Config map[string]string `json:"config"`
	Patch  Patch             `json:"patch"`
	// Base lists the IDs of the updates that this one stands on, lowest first.
	Base  []string `json:"base,omitempty"`
	Units []Unit   `json:"units"`
	Parts []Part   `json:"parts"`
	// Claims say who is responsible for changes of what existing data mean.
	Claims []Claim `json:"claims,omitempty"`
	// Transfers are what transform plugins do with the running kernel's data at apply, and take back at undo.
	Transfers []Transfer `json:"transfers,omitempty"`
}

// ValidVersion says whether a text may be Manifest.Effective: one word of printable ASCII, or empty. It is shown within a line.
func ValidVersion(v string) bool {
	return !strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// Transfer is one item that a transform plugin carries when the update is applied.
type Transfer struct {
	// Item is the claimed item's ID, Plugin the plugin's name, Data what it gets back.
	Item   string `json:"item"`
	Plugin string `json:"plugin"`
	Data   []byte `json:"data,omitempty"`
	// Unit is an index in Manifest.Units.
	Unit    int      `json:"unit"`
	Globals []Global `json:"globals,omitempty"`
	// Before and After are the types that the unit's code has without and with the patch.
	Before Layouts `json:"before"`
	After  Layouts `json:"after"`
}

// Global is a variable at which walks over the running kernel's data begin.
type Global struct {
	Name string `json:"name"`
	// Symbol is its symbol index in the unit's pre object; 0: that does not name it, and it is found by name.
	Symbol uint32 `json:"symbol,omitempty"`
	// Type names a Layout.
	Type string `json:"type"`
	// PerCPU says that each CPU has one.
	PerCPU bool `json:"per_cpu,omitempty"`
}

// Claim is a semantic change that a transform plugin carries, or the patch itself, or that the author takes upon himself: then Plugin is
// empty, and Hook false.
type Claim struct {
	// Item names the change: "initialiser:net/sched/sch_plug.o:plug_qdisc_ops".
	Item    string `json:"item"`
	Plugin  string `json:"plugin,omitempty"`
	Hook    bool   `json:"hook,omitempty"`
	Because string `json:"because"`
}

// Kernel identifies the kernel that the update is for.
type Kernel struct {
	Release string `json:"release"` // uname -r
	Version string `json:"version"` // uname -v
	BuildID string `json:"build_id,omitempty"`
	Banner  string `json:"banner"`
	Machine uint16 `json:"machine"` // ELF machine number
}

// Toolchain says what built the update.
type Toolchain struct {
	Backend         string `json:"backend"`
	Arch            string `json:"arch"` // the architecture plugin's name
	Tree            string `json:"tree"` // the tree's ID
	CompilerVersion string `json:"compiler_version"`
}

// Patch is the source patch.
type Patch struct {
	// File is the member that holds its text.
	File   string      `json:"file"`
	SHA256 string      `json:"sha256"`
	Files  []PatchFile `json:"files"`
	// Edits are what transform plugins made of files, which holds where the patch says otherwise.
	Edits []Edit `json:"edits,omitempty"`
	// External says that it is for a module with a source tree of its own, which its paths are relative to.
	External bool `json:"external,omitempty"`
}

// Edit is a source file as transform plugins left it behind the patch.
type Edit struct {
	// Path is the file's in the tree, File the member that holds it.
	Path   string `json:"path"`
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
}

// PatchFile is one file that the patch touches.
type PatchFile struct {
	Path    string `json:"path"`
	Added   int    `json:"added"`
	Removed int    `json:"removed"`
}

// Unit is one translation unit whose pre object travels with the update.
type Unit struct {
	Source string `json:"source"`
	Object string `json:"object"`
	// Module is the module that the unit is part of; empty for the kernel proper.
	Module string `json:"module,omitempty"`
	// Pre is the member that holds the pre object, stripped of debug information.
	Pre    string `json:"pre"`
	SHA256 string `json:"sha256"`
}

// Part is one loadable module, for one target.
type Part struct {
	// Target is "vmlinux" or a module's name.
	Target string `json:"target"`
	// Init says that the part is for a module whose init waits for it, and replaces code of that too: it takes the place of the target's
	// other part, where there is one.
	Init bool `json:"init,omitempty"`
	// AfterInit says that the module's init changes too, and no part carries that: before it, this part would not fit.
	AfterInit bool `json:"after_init,omitempty"`
	// Name is the part's own module name.
	Name   string `json:"name"`
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
	// Functions are those that the part replaces, and the fragments that go with them, in the order of the
	// part's own description.
	Functions []Function `json:"functions"`
	// Writes are the values that data of the target get, in the order of the part's own description.
	Writes []Write `json:"writes,omitempty"`
	// Hooks are functions of the patch's own that run before, during or after apply and undo, in the order of the part's own description.
	Hooks []Hook `json:"hooks,omitempty"`
	// New lists functions and data that are new.
	New []string `json:"new,omitempty"`
	// Globals are those of New that code of other units may name: the running kernel must not have them.
	Globals []string `json:"globals,omitempty"`
	// Data are the variables of the part's own that it can write to: what an update that replaces this one carries over.
	Data []Datum `json:"data,omitempty"`
	// Slots are the part's unknowns, by number.
	Slots []Slot `json:"slots"`
	// Escapes names the new code and data whose address escapes: they keep the part mapped after undo.
	Escapes []string `json:"escapes,omitempty"`
	// Notes are things people should know, for example functions of __init sections that were left out.
	Notes []string `json:"notes,omitempty"`
}

// Function is a replaced function.
type Function struct {
	Name string `json:"name"`
	// Unit is an index in Manifest.Units, Symbol the function's symbol index in that unit's pre object.
	Unit   int    `json:"unit"`
	Symbol uint32 `json:"symbol"`
	Size   uint64 `json:"size"`
	// Fragment says that it is only a piece of another function (NAME.cold), not redirected itself.
	Fragment bool `json:"fragment,omitempty"`
	// Redirect is how it is redirected.
	Redirect arch.Redirect `json:"redirect"`
	// Replacement is the symbol of the replacement in the part.
	Replacement string `json:"replacement,omitempty"`
	// Why says what differs.
	Why string `json:"why"`
}

// Hook is code of an update's own that runs before, during or after apply and undo.
type Hook struct {
	// When is "pre_apply", "apply", "post_reverse" and so on.
	When string `json:"when"`
	// Function is the symbol's name in the part.
	Function string `json:"function"`
}

// Write is a field of one of the target's data that gets another value in the stop, where it has the old one.
type Write struct {
	// Name is the datum's and the field's: "plug_qdisc_ops.peek".
	Name string `json:"name"`
	// Unit is an index in Manifest.Units, Symbol the datum's symbol index in that unit's pre object.
	Unit   int    `json:"unit"`
	Symbol uint32 `json:"symbol"`
	// Offset and Size are the field's in the datum, in bytes.
	Offset uint64 `json:"offset"`
	Size   uint64 `json:"size"`
}

// Datum is a variable of a part's own: state that the running kernel does not have without it.
type Datum struct {
	// Unit, Function and Name are where the source declares it; Function is empty at file scope. Not always one only.
	Unit     string `json:"unit"`
	Function string `json:"function,omitempty"`
	Name     string `json:"name"`
	// Symbol is its name in the part, which several may have.
	Symbol string `json:"symbol"`
	// Section and Offset are where it lies in the part as linked, Size is in bytes. Section is empty where that is not known.
	Section string `json:"section,omitempty"`
	Offset  uint64 `json:"offset"`
	Size    uint64 `json:"size"`
	// Shape says what its memory holds (semantic.Shape), Plain that these are numbers only.
	Shape string `json:"shape,omitempty"`
	Plain bool   `json:"plain,omitempty"`
	// Escapes says that its address may be held elsewhere, PerCPU that each CPU has one.
	Escapes bool `json:"escapes,omitempty"`
	PerCPU  bool `json:"per_cpu,omitempty"`
	// Renewable says that a fresh one does no harm: all that it remembers is that a message was shown.
	Renewable bool `json:"renewable,omitempty"`
}

// SlotKind says how a slot gets its value.
type SlotKind string

// The kinds of slot.
const (
	// SlotSymbol: the run value of a symbol (address, or per-cpu offset), proved by matching where Unit >= 0 and by name else.
	SlotSymbol SlotKind = "symbol"
	// SlotCode: where the code of the function lies now: its address, or its replacement in an update below.
	SlotCode SlotKind = "code"
	// SlotField: S of one relocation field of a pre function whose target is merged (strings, constants): the place
	// that run's field at offset At of Function names, less the reference's own offset, after its content was proved.
	SlotField SlotKind = "field"
	// SlotKey: a static key: like SlotSymbol, but a private copy where the key is in memory that is read-only for good.
	SlotKey SlotKind = "key"
	// SlotPointer: the address that run has in a field of a datum (Symbol, At), after what it leads to was proved: a string or constant that
	// the pre object's field leads to.
	SlotPointer SlotKind = "pointer"
	// SlotConst: the run address of the bytes of a runtime constant, at any site that Name (a table's name) lists.
	SlotConst SlotKind = "const"
)

// Slot is one unknown of a part.
type Slot struct {
	Kind SlotKind `json:"kind"`
	// Name is the symbol's name, or for sections that of the section.
	Name string `json:"name"`
	// Unit is the index of the unit whose pre object has the symbol; -1: none has, the name alone decides.
	Unit int `json:"unit"`
	// Symbol is the symbol's index in that unit's pre object.
	Symbol uint32 `json:"symbol,omitempty"`
	// Function (a symbol index in the unit) and At (offset from its start) are for SlotField.
	Function uint32 `json:"function,omitempty"`
	At       uint64 `json:"at,omitempty"`
	// AddressTaken says that post takes the symbol's address as a function pointer.
	AddressTaken bool `json:"address_taken,omitempty"`
}
