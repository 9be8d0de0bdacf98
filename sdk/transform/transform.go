// Package transform is what the author of a transform plugin imports: the interface to fill ([Transform]), the types that cross it and [Serve]. Such
// a plugin takes responsibility for what a patch changes of data that exist in a running kernel already: a structure has another layout, a variable another
// initial value, or something only the patch's author knows of. Package plugin says how a plugin lives, and what the words mean.
//
// # When an update is made
//
// The host calls Plan with a report of such changes, an [Item] each. What nobody claims makes it refuse the patch. A plugin claims what it knows
// how to carry, says so for people (PlanResponse.Because), and chooses one of
//
//   - a rewrite: the kernel module writes the new initial value where the running kernel still has the old one;
//   - edits of the patched sources, which the host compiles and compares again, so that the change is gone;
//   - a transfer, below;
//   - nothing more: existing data do no harm as they are.
//
// # State transfer
//
// When the update is applied, and again when it is undone, the host calls Transfer for each item that is carried so. The plugin describes walks over typed
// objects ([Walk]), which the host executes on the running kernel's memory; it computes on what comes back, and returns sets of members and shadow
// fields to attach ([TransferResponse]). All of that is written in the stop in which functions are redirected, if every byte that the walks have read
// is still as it was: else the host calls Transfer again. A plugin can only read and change objects that walks have found, and never touches memory itself.
package transform

import (
	"context"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// Transform carries what a patch changes of existing data.
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
	ItemInitialiser ItemKind = "initialiser" // a variable that the running kernel has gets another initial value
	ItemTransfer    ItemKind = "transfer"    // the patch asks this plugin for a state transfer: Name is what it says (<ksplice.h>, ksplice_transfer)
)

// Item is one semantic change that somebody must take responsibility for.
type Item struct {
	// ID is stable for the same change: "layout:fs/eventfd.c:eventfd_ctx"; "initialiser:mm/util.o:sysctl_overcommit_ratio", in a module
	// "initialiser:sch_plug:net/sched/sch_plug.o:plug_qdisc_ops". `ksplice create --report` shows it.
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
	// SourceDir is a directory with the sources that the patch touches, as they are after it and after the edits of earlier rounds, and with <ksplice.h>
	// at include/.
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
