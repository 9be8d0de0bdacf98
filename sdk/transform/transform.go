// Package transform is what the author of a data-structure transformation plugin imports. Such a plugin
// takes responsibility for semantic changes of a patch: it claims items of the semantic report and
// contributes hook code or edits of the post sources that carry existing data over.
package transform

import (
	"context"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// Transform carries semantic changes.
type Transform interface {
	plugin.Base

	// Plan is called at create time with the semantic report. It may claim items and return edits; the host
	// then compiles and compares again, and calls Plan again, until nothing new appears.
	Plan(ctx context.Context, req *PlanRequest) (*PlanResponse, error)

	// Transfer is called at apply time, and again at undo, for each item that Plan said is carried by it. It looks at the running kernel
	// through s, and returns what is to be changed there. It may be called several times until what it read holds still.
	Transfer(ctx context.Context, req *TransferRequest, s State) (*TransferResponse, error)
}

// ItemKind says what changed.
type ItemKind string

// The kinds of item.
const (
	ItemLayout      ItemKind = "layout"      // a structure, union or enum has another layout
	ItemInitialiser ItemKind = "initialiser" // data that exists in run has another initial value
	ItemTransfer    ItemKind = "transfer"    // the patch asks this plugin for a state transfer: Name is what it says (<ksplice.h>, ksplice_transfer)
)

// Item is one semantic change that somebody must take responsibility for.
type Item struct {
	// ID is stable for the same change: "layout:struct qfq_class", "initialiser:net/sched/sch_qfq.o:qfq_policy".
	ID   string
	Kind ItemKind
	// Unit is the object it was found in; Name the type or datum.
	Unit, Name string
	// Detail says what changed, for people.
	Detail string
	// Pre and Post are the old and the new initial bytes, for initialisers; addresses in them are 0.
	Pre, Post []byte
	// Fields are what of the datum differs, in order of place, for initialisers.
	Fields []Field
	// Source is the file in which a structure is defined, relative to PlanRequest.SourceDir, for layouts.
	Source string
	// Members are what a structure gains, where all others stay what they are, for layouts; none for every other change.
	Members []Member
}

// Member is a member that a structure gains.
type Member struct {
	// Name is as C writes it behind the object's; Type as the source names it: "spinlock_t", "struct list_head", "unsigned long *".
	Name, Type string
	// Size is in bytes; Bits is a bit field's width in bits, else 0.
	Size, Bits uint64
	// Kind is MemberNumber, MemberPointer, or empty for everything else.
	Kind string
}

// The kinds of member that are told apart.
const (
	MemberNumber  = "number" // an enum, or an array of numbers, too
	MemberPointer = "pointer"
)

// Field is a member of a datum, or an element of an array, whose initial value changes.
type Field struct {
	// Name is as C writes it behind the datum's name: ".peek", "[3].mode"; empty for the datum itself.
	Name string
	// Type is its type; Within is the innermost structure or union that it is a member of: "struct list_head", by its typedef where it has no tag,
	// "struct atomic_t"; empty for none.
	Type, Within string
	// Offset and Size are its place in the datum, in bytes.
	Offset, Size uint64
	// PreAddress and PostAddress name what it holds the address of, before and after the patch; empty where it is no address.
	PreAddress, PostAddress string
}

// PlanRequest is the report and where things are.
type PlanRequest struct {
	// Round counts from 0: after each round with edits everything is compiled and compared again.
	Round int
	// Patch is the patch's text.
	Patch []byte
	// SourceDir is a directory with the post sources that the patch touches, with the edits of earlier rounds, and what <ksplice.h> is.
	SourceDir string
	// Items are those that nobody has claimed in this round. What is claimed to be rewritten comes again once sources were edited; what is claimed
	// with edits does not, since then it changes no more.
	Items []Item
}

// PlanResponse is what the plugin takes on.
type PlanResponse struct {
	// Claimed are the IDs of items that the plugin is responsible for from here on.
	Claimed []string
	// Rewrites are those of Claimed, initialisers, whose new value the kernel module is to write into the running kernel's datum: in the stop
	// in which the functions are redirected, where each of the fields has the old value, or the update is refused; undo puts that back.
	Rewrites []string
	// Edits replace post source files, by path relative to SourceDir: only such as are there. A layout that is claimed with edits must be
	// as it was when they are compiled.
	Edits map[string][]byte
	// Transfers are those of Claimed that Transfer carries when the update is applied, and takes back when it is undone. Layouts may be among
	// them where the structure does not become larger: objects that exist stay where they are.
	Transfers map[string]TransferPlan
	// Declined says of items that the plugin knows and leaves to others why it cannot carry them.
	Declined map[string]string
	// Because says for each claimed item how it is carried; it is recorded in the update.
	Because map[string]string
}
