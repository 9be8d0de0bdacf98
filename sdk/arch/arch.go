// Package arch is what the author of an architecture plugin imports: the interface to fill ([Arch]), the types that
// cross it and [Serve]. An architecture plugin is the only part of Ksplice that knows an instruction set; the
// host asks it four pure questions in batches and it never calls back. Package plugin says how a plugin lives, and what the words mean.
//
// # When it is asked
//
// When an update is made, Describe says what is in the objects before and after the patch: the host compares them function by function, and finds what
// changed and what that needs. Fixup then says what must change in code of the kernel proper that moves into a module, and Redirect how the functions
// that are replaced can be led to their replacements. When an update is applied, Match compares the objects from before the patch with the memory of the running
// kernel: the equations of the functions that match give the addresses of symbols.
//
// # What to get right
//
// A function that Match accepts is replaced in a running kernel, so whatever is not understood is a mismatch. The kernel rewrites itself, however: each place
// where it may is a [Site], accepted in the forms that some kernel can give it, and no equation comes from inside of one. What bytes alone cannot
// tell, an [Obligation] has the host look up.
//
// The optional interfaces [FactSource] and [ConfigSource] say what a plugin wants to know of a kernel.
package arch

import (
	"context"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// Arch is one instruction set. Calls may run at once, and each answers for its request alone.
type Arch interface {
	plugin.Base

	// Describe tells what is in relocatable objects: functions, references, sites, which table entry belongs to what.
	Describe(ctx context.Context, req *DescribeRequest) (*DescribeResponse, error)
	// Match compares functions of one pre object with candidate bytes of a running kernel.
	Match(ctx context.Context, req *MatchRequest) (*MatchResponse, error)
	// Fixup says how code extracted from an object that was built for the kernel proper must be edited to
	// live in a module.
	Fixup(ctx context.Context, req *FixupRequest) (*FixupResponse, error)
	// Redirect says how a function can be redirected.
	Redirect(ctx context.Context, req *RedirectRequest) (*RedirectResponse, error)
}

// Target is what all four calls know of the kernel that the objects were built for.
type Target struct {
	// Machine is the ELF machine number (EM_X86_64 is 62).
	Machine uint16
	// Facts are numbers probed from the kernel's own tree: sizes and offsets of structures, by the names that
	// FactExpressions returned.
	Facts map[string]int64
	// Config holds the CONFIG_ symbols that are set, by full name, with their value ("y", "m", "4096").
	Config map[string]string
	// Module says that the objects were built as parts of a module (-DMODULE).
	Module bool
}

// DescribeRequest asks about a batch of objects.
type DescribeRequest struct {
	Target  Target
	Objects []plugin.File
}

// DescribeResponse has one description an object, in the order of the request.
type DescribeResponse struct {
	Objects []ObjectDescription
}

// ObjectDescription is what an architecture knows of one relocatable object. All section and symbol numbers
// are those of the ELF file (section header index; index in .symtab, entry 0 included). All slices are sorted
// by section, then offset.
type ObjectDescription struct {
	// Functions are the function symbols in executable sections (STT_FUNC, and assembly labels that begin code
	// in sections without STT_FUNC symbols); compiler- and linker-made helper symbols such as __pfx_ are left out.
	Functions []Function
	// Refs are the relocations of every allocated section, each normalised to the place it means.
	Refs []Ref
	// Branches are the branches which the assembler resolved without a relocation and that leave the function
	// they stand in. Branches within a function are not listed.
	Branches []Branch
	// Sites are the places in executable sections that the kernel may rewrite in itself.
	Sites []Site
	// Entries are the entries of the object's tables, each with the place in code that owns it.
	Entries []TableEntry
}

// Function is one function of an object.
type Function struct {
	// Symbol is the index of the function's symbol; aliases at the same place have an entry each.
	Symbol uint32
	// Name is the symbol's name.
	Name string
	// Section and Offset say where its first instruction is; Size is in bytes.
	Section      uint32
	Offset, Size uint64
	// Pad counts the bytes before Offset that belong to the function but are never compared (call padding).
	Pad uint64
	// Endbr says that the function begins with a landing pad for indirect branches.
	Endbr bool
	// Fentry says that a tracer's call site follows, at FentryOffset from the function's start.
	Fentry       bool
	FentryOffset uint64
	// Parent is, for a piece that the compiler split off (NAME.cold), the index in Functions of the function that
	// it was split from; -1 for whole functions.
	Parent int32
}

// RefKind says how a relocation's place uses its target.
type RefKind uint8

// The kinds of reference.
const (
	// RefAddress takes the target's address (or its low or high part), in an instruction or in data.
	RefAddress RefKind = iota
	// RefBranch is the operand of a direct call, jump or conditional jump: only control reaches the target.
	RefBranch
	// RefMemory reads or writes memory at the target, relative to the instruction.
	RefMemory
	// RefPerCPU names a per-cpu variable by its offset in the per-cpu area.
	RefPerCPU
)

// Ref is one relocation, normalised: where Ref says Symbol+Offset the instruction or datum really means that
// place, with the bias of pc-relative fields (distance from the field to the end of the instruction) taken out.
type Ref struct {
	// Section and At are the place of the field.
	Section uint32
	At      uint64
	// Size is the field's width in bytes.
	Size uint8
	// Type is the ELF relocation type.
	Type uint32
	// PCRel says that the field holds a distance from its own place.
	PCRel bool
	// Kind says what the reference is for.
	Kind RefKind
	// Indexed says that registers are added to the field, so that what is meant may lie anywhere around the place.
	Indexed bool
	// Symbol is the index of the relocation's symbol, and Addend the raw addend (r_addend).
	Symbol uint32
	Addend int64
	// Offset is the distance from the symbol to the place meant: Addend less the bias.
	Offset int64
}

// Branch is a branch across functions of one section that the assembler resolved itself.
type Branch struct {
	// Section is that of the branch and of its target.
	Section uint32
	// At is the offset of the instruction, Length its length, Field and FieldSize where in the section its
	// displacement is and how wide.
	At        uint64
	Length    uint8
	Field     uint64
	FieldSize uint8
	// Target is the offset in the same section where it goes.
	Target uint64
}

// SiteKind names the mechanism that rewrites a site. The host treats kinds as names, except for the exported constants.
type SiteKind string

// The kinds of site that a host acts on.
const (
	// SiteFentry is the tracer's call at a function's entry.
	SiteFentry SiteKind = "fentry"
	// SiteJumpLabel is a static branch; its key is found in the running kernel's __jump_table.
	SiteJumpLabel SiteKind = "jump_label"
	// SiteStaticCall is a static call; its key is found in the running kernel's .static_call_sites.
	SiteStaticCall SiteKind = "static_call"
	// SiteCall is a direct call that the kernel may lead to the padding just before the callee instead; its displacement is the site's end.
	SiteCall SiteKind = "call"
	// SiteRuntimeConst is an immediate that the kernel writes once at boot.
	SiteRuntimeConst SiteKind = "runtime_const"
)

// Site is a range of bytes in code which the kernel may rewrite.
type Site struct {
	// Section, At and Length are the range, Kind what rewrites it.
	Section uint32
	At      uint64
	Length  uint64
	Kind    SiteKind
	// Live says that the site may be rewritten at any time, not only while the kernel boots or the module loads.
	Live bool
	// Table and Entry are the section and offset of the table entry that names the site; Table 0 where none does.
	Table uint32
	Entry uint64
	// Key is, for jump labels and static calls, the index in ObjectDescription.Refs of the reference to the key; else -1.
	Key int32
	// Detail is the mechanism's own word for people, for example "altinstr feature 0x13" or "runtime_ptr_USER_PTR_MAX".
	Detail string
}

// TableEntry is one entry of a table section.
type TableEntry struct {
	// Table is the table's section; At and Size give the entry in it. Where a format has no fixed entry
	// (strings), Size is that entry's own.
	Table uint32
	At    uint64
	Size  uint64
	// Owner and OwnerOffset name the place in code that the entry is about. Owner 0: it is about no code.
	Owner       uint32
	OwnerOffset uint64
	// OwnerLength is the number of bytes of code that the entry is about, 0 where it says a point.
	OwnerLength uint64
	// Ignore lists ranges of the entry, by offset in it, which say nothing of what the code does (line numbers).
	Ignore []Range
}

// Range is a range of bytes; who has it says from where Offset counts.
type Range struct {
	Offset uint64
	Length uint64
}

// MatchRequest asks to compare functions of one object with run bytes.
type MatchRequest struct {
	Target Target
	// Object is the pre object.
	Object plugin.File
	// Run is a file that holds the bytes of all candidates.
	Run plugin.File
	// Candidates are the pairs to compare.
	Candidates []Candidate
	// NoSelfModification says that run is an image that was never booted: sites hold what the linker left.
	NoSelfModification bool
}

// Candidate is a place in run where a function may be.
type Candidate struct {
	// Function is the function's symbol index in the object.
	Function uint32
	// Address is the run address of the function's first instruction (behind any pad).
	Address uint64
	// RunOffset and RunLength say where its bytes are in the run file. RunLength may exceed the function's size
	// (the host gives some slack for longer forms) and may fall short at the end of mapped memory.
	RunOffset, RunLength uint64
}

// MatchResponse has one result a candidate, in the order of the request.
type MatchResponse struct {
	Results []MatchResult
}

// MatchResult is the verdict on one candidate.
type MatchResult struct {
	// Matched says that run is pre, provided that all Equations and Obligations hold.
	Matched bool
	// Mismatch is set when Matched is not.
	Mismatch *Mismatch
	// Equations are the addresses that run's relocation fields give.
	Equations []Equation
	// Obligations are what the host must check in the running kernel for the match to count.
	Obligations []Obligation
	// RunSize is the function's size in run in bytes.
	RunSize uint64
	// Resized says that run uses shorter or longer forms than pre, so that offsets in run differ from those in pre.
	Resized bool
	// Sites are the ranges of run (offset from Address) that were accepted by form and not by value.
	Sites []Range
}

// Mismatch is the first difference between pre and run that no rule explains.
type Mismatch struct {
	// PreOffset and RunOffset count from the function's start.
	PreOffset, RunOffset uint64
	// Pre and Run are the instructions there, decoded, with their bytes.
	Pre, Run string
	// Reason is what was expected and what was found.
	Reason string
}

// Equation says that, if the candidate is the function, Symbol has the value. Two different values of one symbol refute candidates.
type Equation struct {
	// Symbol is a symbol index of the object. For section symbols the value is the section's base in run.
	Symbol uint32
	// Value is S in the relocation's formula: the symbol's run address (or per-cpu offset).
	Value uint64
	// At is the offset in the function of the field it came from.
	At uint64
}

// ObligationKind says what must hold.
type ObligationKind string

// The obligations.
const (
	// ObligationBytes: the bytes at Address in run equal Bytes. Used for merged strings and constants.
	ObligationBytes ObligationKind = "bytes"
	// ObligationString: the NUL-terminated string at Address in run equals Bytes (which include the NUL).
	ObligationString ObligationKind = "string"
	// ObligationSymbol: the running kernel's symbol table has one of Names at Address.
	ObligationSymbol ObligationKind = "symbol"
	// ObligationCode: the bytes at Address in run are one of the forms in Forms (ITS thunks).
	ObligationCode ObligationKind = "code"
	// ObligationJumpKey: run's __jump_table has an entry for the code at Address; its key gives an equation for
	// Symbol: value = key - Offset.
	ObligationJumpKey ObligationKind = "jump_key"
	// ObligationStaticCallKey: the same of .static_call_sites.
	ObligationStaticCallKey ObligationKind = "static_call_key"
	// ObligationStaticCallFunc: the function that the key of run's .static_call_sites entry for the code at Address holds (the key's
	// first word, in run's byte order) is one of Forms; where it holds none, run's symbol table has one of Names at one of Forms.
	ObligationStaticCallFunc ObligationKind = "static_call_func"
	// ObligationKprobe: the list of registered kprobes has Address.
	ObligationKprobe ObligationKind = "kprobe"
	// ObligationFtrace: Address lies in memory that ftrace, BPF or livepatch made: any executable kernel address
	// that is a known tracing entry or that no symbol but a trampoline's covers.
	ObligationFtrace ObligationKind = "ftrace"
)

// Obligation is something the architecture cannot check from the bytes it was given.
type Obligation struct {
	// Kind says what must hold, and which of the fields below count.
	Kind ObligationKind
	// At is the offset in the function of the place that needs it.
	At uint64
	// Address is a run address; what must be there Bytes, Names or Forms say.
	Address uint64
	Bytes   []byte
	Names   []string
	Forms   [][]byte
	// Symbol and Offset are for the key obligations: the key's symbol in the object and its offset from it.
	Symbol uint32
	Offset int64
}

// FixupRequest asks about one object from which code is extracted.
type FixupRequest struct {
	Target Target
	Object plugin.File
	// Sections are the sections that are extracted; only they need edits.
	Sections []uint32
}

// FixupResponse lists the edits.
type FixupResponse struct {
	Edits []Edit
	// Copies are bytes that the kernel module must copy from run into the part at apply time.
	Copies []Copy
	// Refusals name code that cannot live in a module, and why.
	Refusals []plugin.Diagnostic
}

// Edit replaces bytes of a section and, where given, adds a relocation there. Relocations whose field lies in the
// replaced range are dropped. Edits do not change sizes.
type Edit struct {
	// Bytes replace as many at At in Section.
	Section uint32
	At      uint64
	Bytes   []byte
	// Reloc is nil where no relocation is added.
	Reloc *NewReloc
}

// NewReloc is a relocation to add.
type NewReloc struct {
	// At is the offset in the section of its field, which lies in the bytes that are replaced.
	At uint64
	// Type is the ELF relocation type.
	Type uint32
	// Symbol is the name of a symbol of the running kernel, and SymbolIndex its index in the object, 0 where the
	// object does not have it.
	Symbol      string
	SymbolIndex uint32
	Addend      int64
}

// Copy is a run of bytes in extracted code which must be taken from the running kernel: the kernel wrote them at boot,
// alike at every site of the same name (runtime_shift_ sites).
type Copy struct {
	// Section, At and Length are the range that is filled in.
	Section uint32
	At      uint64
	Length  uint64
	// Name is the table that lists the sites ("runtime_shift_d_hash_shift").
	Name string
}

// RedirectRequest asks how functions of a pre object can be redirected.
type RedirectRequest struct {
	Target Target
	Object plugin.File
	// Functions are symbol indices.
	Functions []uint32
}

// RedirectKind is a way to redirect.
type RedirectKind string

// The ways.
const (
	// RedirectJump writes a jump over Window.
	RedirectJump RedirectKind = "jump"
	// RedirectFtrace uses the tracer's entry: a live site is in the way of a jump. Reason says which.
	RedirectFtrace RedirectKind = "ftrace"
	// RedirectNone: the function cannot be redirected; Reason says why.
	RedirectNone RedirectKind = "none"
)

// RedirectResponse has one answer a function, in the order of the request.
type RedirectResponse struct {
	Redirects []Redirect
}

// Redirect is how one function is redirected.
type Redirect struct {
	Kind RedirectKind
	// Window is the range of the function, from its start, that the jump overwrites.
	Window Range
	// Template is what is written there, with its field zero; Field, Type and Addend relocate it to the replacement:
	// Type is the ELF relocation type for the field at offset Field in Template.
	Template []byte
	Field    uint64
	Type     uint32
	Addend   int64
	// Reason is set for RedirectFtrace and RedirectNone.
	Reason string
}

// FactExpression is a number that the plugin wants from a kernel's tree: what sizes and offsets the structures of its tables have there.
type FactExpression struct {
	// Name is the key in Target.Facts.
	Name string
	// Includes are kernel headers, for example "linux/jump_label.h".
	Includes []string
	// Expression is a C integer constant expression, for example "sizeof(struct jump_entry)".
	Expression string
	// If is a CONFIG_ symbol that must be set for the expression to make sense; empty: always.
	If string
}

// FactSource is implemented by plugins that need facts. The host asks before the first Describe.
type FactSource interface {
	// FactExpressions are the same at every call; each name is there once.
	FactExpressions(ctx context.Context) ([]FactExpression, error)
}

// ConfigSource is implemented by plugins that read only some symbols of a target's configuration: they are sent no others. A whole
// configuration takes longer to send than most objects to match.
type ConfigSource interface {
	// ConfigSymbols are the names, for example "CONFIG_X86_KERNEL_IBT".
	ConfigSymbols() []string
}
