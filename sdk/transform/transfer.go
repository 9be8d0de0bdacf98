package transform

import (
	"context"
	"fmt"
)

// TransferPlan says what Transfer will need of an item's unit.
type TransferPlan struct {
	// Types are those of the objects that walks find, where they cannot be seen from the globals' types alone: "struct eventfd_ctx". What lies
	// in an object is described with it, what it points to is not.
	Types []string
	// Globals are variables of the unit, or such as it declares, at which walks begin.
	Globals []string
	// Data are the plugin's own; they travel with the update and come back in TransferRequest.Data.
	Data []byte
}

// TransferRequest says what is to be carried.
type TransferRequest struct {
	// Item is the ID of the item that was claimed.
	Item string
	// Undo says that the update goes: what Transfer did is to be taken back. Paths then mean what they mean to the new code when objects are
	// read, and to the old code when they are set; at apply it is the other way round. A member that only one of them has may be named both
	// times. Shadow fields go by themselves.
	Undo bool
	// Data are what TransferPlan gave.
	Data []byte
}

// State is the running kernel's, as far as an item's plan has described it.
type State interface {
	// Walk finds objects and reads them. An error ends the transfer: no other walk will succeed, and nothing is written.
	Walk(ctx context.Context, w *Walk) ([]Object, error)
}

// Walk says which objects to find. It begins at a global or at objects that an earlier walk has found, and each step leads from every object of
// the one before to others.
type Walk struct {
	// Global is the variable at which the walk begins; empty: it begins at From.
	Global string
	// From are objects that earlier walks of the same transfer have found; Address and Type count.
	From []Object
	// Steps are taken one after the other; none: the walk finds what it begins at.
	Steps []Step
	// Read are the members to read of every object that the last step finds, as C writes them: "count", "lock.owner", "names[2]",
	// "dev->mtu"; "" is the object itself. A value has 4096 bytes at most.
	Read []string
}

// StepKind says how a step leads from an object to others.
type StepKind string

// The kinds of step. Path is a member of the object, as in Walk.Read; empty is the object itself.
const (
	// StepMember leads to a member.
	StepMember StepKind = "member"
	// StepFollow leads to what a pointer points to, nowhere where it is NULL. Type says what that is, where the pointer's own type does not.
	StepFollow StepKind = "follow"
	// StepEach leads to the elements of an array, or of as many as Count says behind a pointer; Index of the objects is the element's.
	StepEach StepKind = "each"
	// StepList leads to the objects of the type Type on a list (struct list_head), which hang on it by their member Link.
	StepList StepKind = "list"
	// StepHList is the same for struct hlist_head, hlist_nulls_head and hlist_bl_head. A hash table is StepEach, then StepHList.
	StepHList StepKind = "hlist"
	// StepTree is the same for struct rb_root, in order.
	StepTree StepKind = "tree"
	// StepChain leads to what a pointer points to and on from there, by the pointer Link of each, until that is NULL. Type as in StepFollow.
	StepChain StepKind = "chain"
	// StepXArray leads to the objects of the type Type that a struct xarray has, or a struct idr; Index of the objects is theirs there.
	StepXArray StepKind = "xarray"
	// StepPerCPU leads from a per-CPU variable, or what a per-CPU pointer stands for, to that of each possible CPU; Index is the CPU's number.
	StepPerCPU StepKind = "percpu"
)

// Step leads from an object to others.
type Step struct {
	Kind StepKind
	// Path is the member of the object at which the step begins; empty: the object itself.
	Path string
	// Type is that of what is found, "struct file"; Link the member by which it hangs: see the kinds.
	Type, Link string
	// Count is a member of the object that the step begins at, or a number: how many elements StepEach has behind a pointer, or in an array
	// that is not to be taken whole.
	Count string
}

// Inside is StepMember: to the member path.
func Inside(path string) Step { return Step{Kind: StepMember, Path: path} }

// Follow is StepFollow: to what the pointer path points to, which is of the type of; empty: of the pointer's own.
func Follow(path, of string) Step { return Step{Kind: StepFollow, Path: path, Type: of} }

// Each is StepEach: to the elements of path, as many as count says; empty: all of an array.
func Each(path, count string) Step { return Step{Kind: StepEach, Path: path, Count: count} }

// List is StepList: to the objects of the type of that hang on the list path by their member link.
func List(path, of, link string) Step { return Step{Kind: StepList, Path: path, Type: of, Link: link} }

// HList is StepHList: List for the lists of hash tables.
func HList(path, of, link string) Step {
	return Step{Kind: StepHList, Path: path, Type: of, Link: link}
}

// Tree is StepTree: List for a red-black tree.
func Tree(path, of, link string) Step { return Step{Kind: StepTree, Path: path, Type: of, Link: link} }

// Chain is StepChain: to what the pointer path points to, and on by the pointer link of each; of as for Follow.
func Chain(path, of, link string) Step {
	return Step{Kind: StepChain, Path: path, Type: of, Link: link}
}

// XArray is StepXArray: to the objects of the type of in the xarray or idr path.
func XArray(path, of string) Step { return Step{Kind: StepXArray, Path: path, Type: of} }

// PerCPU is StepPerCPU: to the copies of path that the possible CPUs have.
func PerCPU(path string) Step { return Step{Kind: StepPerCPU, Path: path} }

// Object is an object of the running kernel, or a part of one.
type Object struct {
	// Address names it, together with Type. It says nothing about what is there after the call.
	Address uint64
	// Type is the object's: "struct eventfd_ctx".
	Type string
	// From is the index in Walk.From of the object that the walk came from; Index that of the last step which has one.
	From, Index uint64
	// Values are what Walk.Read asked for, in order.
	Values []Value
}

// Value is what a member holds.
type Value struct {
	// Bytes are as they lie in memory; of a bit field with what else lies in them.
	Bytes []byte
	// Number is the value of a number, an enum, a bit field or a pointer, with the sign of a signed one extended to 64 bits; 0 for others.
	Number uint64
	// Missing says that a pointer on the way to the member is NULL.
	Missing bool
}

// Int is Number as a signed number.
func (v Value) Int() int64 { return int64(v.Number) }

// Set gives a member of an object another value.
type Set struct {
	Object Object // Address and Type count
	// Path is a member that lies in the object itself.
	Path string
	// Number is the value of a number, a bit field or a pointer, whose bytes are not needed then; a pointer gets 0, or an address that walks have
	// found or read.
	Number uint64
	// Bytes is the value of any other member, of the member's size. What it has of pointers in it nobody checks.
	Bytes []byte
}

// Attach gives an object a shadow field that the patch defines (<ksplice.h>, KSPLICE_SHADOW). One that has the field already keeps it.
type Attach struct {
	Object Object // Address and Type count
	// Field is the name that the patch gives it, the second argument of KSPLICE_SHADOW: "eventfd_ctx.reads".
	Field string
	// Data is all of the field: its constructor does not run.
	Data []byte
}

// TransferResponse is what is to be changed: all of it or nothing.
type TransferResponse struct {
	// Sets and Attaches have MaxChanges entries each, at most. At undo nothing is attached.
	Sets     []Set
	Attaches []Attach
	// Note is a line for people: "12 classes counted".
	Note string
}

// MaxChanges bounds the sets of a transfer, and the attachments (kmod/ksplice_uapi.h, KSPLICE_MAX_SETS).
const MaxChanges = 1 << 20

// TooManyError says that a plugin wants more changed than a transfer can.
type TooManyError struct {
	// What there are too many of: "sets", "attachments", or "changes" where that does not matter.
	What string
}

// Error implements error.
func (e *TooManyError) Error() string {
	return fmt.Sprintf("it returns more than %d %s", MaxChanges, e.What)
}
