// Package diff is pre-post differencing: it finds which functions and data of one translation unit a patch changes, by
// comparing the unit's object before the patch (pre) with the object after it (post), and what the changed code needs to
// live in a part (the closure). The create pipeline and the diff command call it; core/part builds parts from its results.
//
// It works on symbols inside sections, not on sections: -ffunction-sections does not split explicit sections and
// assembly. What relocations refer to is compared by what it means, so that moved strings, renumbered static
// variables and line numbers are no change.
package diff

import (
	"debug/elf"
	"fmt"
	"slices"
	"sort"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/semantic"
	"github.com/ksplice/ksplice/sdk/arch"
)

// Object is one object with its description by the architecture plugin.
type Object struct {
	// Name names the object for people, for example "net/sched/sch_qfq.o".
	Name string
	File *objfile.File
	Desc *arch.ObjectDescription
	// Statics says where local variables are declared, by the names of their symbols; nil where nobody knows.
	Statics map[string]semantic.Static
}

// Kind says what became of a function or a datum.
type Kind string

// The kinds.
const (
	Changed Kind = "changed"
	New     Kind = "new"
	Removed Kind = "removed"
	// MovedHere: another unit of the same target had the function (see Moved), and lists it as changed.
	MovedHere Kind = "moved here"
)

// FunctionChange is one function, or piece that the compiler split off a function, that differs.
type FunctionChange struct {
	Name string
	Kind Kind
	// Why is the first reason, for people: "bytes at +0x12", "reference at +0x20: foo -> bar", "table __ex_table: 2 entries -> 3".
	Why string
	// Pre is nil for new functions. Post is nil for removed ones, for those that moved to another unit, and for a changed piece that
	// post no longer has.
	Pre, Post *objfile.Symbol
	// Fragment says that it is a piece of the function Parent (NAME.cold).
	Fragment bool
	Parent   string
}

// DataChange is one datum that differs.
type DataChange struct {
	Name string
	Kind Kind
	Why  string
	// Bytes are the offsets at which the contents differ, ascending, for changed data; of an address that differs, all of its bytes.
	Bytes []uint64
	// Pre is nil for new data, Post for removed data.
	Pre, Post *objfile.Symbol
}

// Pair is a variable of pre that goes under another name in post: a static local whose number moved.
type Pair struct {
	Pre, Post *objfile.Symbol
}

// Refusal says why no update can be made of the differences.
type Refusal struct {
	// Where names the function, datum or section.
	Where string
	// Reason says what is wrong, and Fix what to do, where something can be done.
	Reason, Fix string
	// State says that data which exist in the running kernel would have to change: code that carries them over could take it.
	State bool
	// Initialiser says that all it needs is another value in the datum that Where names: Rewrite can have that written.
	Initialiser bool
}

// Result says what differs between two objects. All lists are in order of name.
type Result struct {
	Functions []FunctionChange
	Data      []DataChange
	Pairs     []Pair
	Refusals  []Refusal
	// Hooks are the patch's own, in the order in which it has them.
	Hooks []Hook
	// Notes are for people: changes that the running kernel will never see, for example of code that runs at boot only.
	Notes []string

	// Init says that code or data of a module's init differ: CompareInit tells how. Exit says so of its exit.
	Init, Exit bool

	pre, post *view
	compare   *comparer
	rewrites  map[*item][]Field         // by post item
	changed   map[*item]*FunctionChange // by post item; changed functions only
}

// Compare finds the differences between an object before and after a patch. An error means that an object or its description
// is not sound; differences that no update can carry are in Refusals.
func Compare(pre, post *Object) (*Result, error) { return compare(pre, post, false) }

// CompareInit is Compare for a module whose init has not run: code and data of its init are there, and count.
func CompareInit(pre, post *Object) (*Result, error) { return compare(pre, post, true) }

func compare(pre, post *Object, init bool) (*Result, error) {
	r := &Result{changed: map[*item]*FunctionChange{}, rewrites: map[*item][]Field{}}
	var err error
	if r.pre, err = newView(pre, init); err != nil {
		return nil, fmt.Errorf("compare objects: pre: %w", err)
	}
	if r.post, err = newView(post, init); err != nil {
		return nil, fmt.Errorf("compare objects: post: %w", err)
	}
	if a, b := pre.File.Header.Machine, post.File.Header.Machine; a != b {
		return nil, fmt.Errorf("compare objects: %s is for %v, %s for %v: build both with the same compiler", pre.Name, a, post.Name, b)
	}
	pairSymbols(r.pre, r.post)
	r.compare = newComparer(r.pre, r.post)
	if err := r.readHooks(); err != nil {
		return nil, fmt.Errorf("compare objects: %w", err)
	}
	r.functions()
	r.data()
	r.sections()
	r.loose()
	r.labels()
	r.entries()
	r.lostStatics()
	r.aliases()
	r.listPairs()
	r.sort()
	return r, nil
}

// Exposed lists the functions and data of pre that only this unit could name, and that post has under global names: by those.
func (r *Result) Exposed() map[string]*objfile.Symbol {
	out := map[string]*objfile.Symbol{}
	for _, b := range r.post.all {
		if b.pair == nil || !b.pair.local() || b.pair.symbol == nil {
			continue
		}
		for _, y := range b.names {
			if y.Bind != elf.STB_LOCAL {
				out[y.Name] = b.pair.symbol
			}
		}
	}
	return out
}

// Defines says that post has functions that differ, hooks, global data that pre lacks, or values to be written into run's data.
func (r *Result) Defines() bool {
	return len(r.Functions) > 0 || len(r.Hooks) > 0 || len(r.rewrites) > 0 || slices.ContainsFunc(r.Data, func(d DataChange) bool { return d.Kind == New && d.Post.Bind != elf.STB_LOCAL })
}

// InitFunctions names the functions of a module's init that differ.
func (r *Result) InitFunctions() []string {
	var out []string
	for _, f := range r.Functions {
		if f.Pre != nil && hasPrefix(f.Pre.Section.Name, initSections) && f.Kind == Changed {
			out = append(out, f.Name)
		}
	}
	return out
}

// listPairs lists the variables that were paired in spite of their names.
func (r *Result) listPairs() {
	for _, b := range r.post.all {
		if a := b.pair; a != nil && b.kind == itemData && a.name() != b.name() {
			r.Pairs = append(r.Pairs, Pair{a.symbol, b.symbol})
		}
	}
}

func (r *Result) sort() {
	sort.SliceStable(r.Functions, func(i, j int) bool { return r.Functions[i].Name < r.Functions[j].Name })
	sort.SliceStable(r.Data, func(i, j int) bool { return r.Data[i].Name < r.Data[j].Name })
	sort.SliceStable(r.Pairs, func(i, j int) bool { return r.Pairs[i].Post.Name < r.Pairs[j].Post.Name })
	sort.SliceStable(r.Refusals, func(i, j int) bool { return r.Refusals[i].Where < r.Refusals[j].Where })
	sort.Strings(r.Notes)
	for i := range r.Functions {
		if f := &r.Functions[i]; f.Kind == Changed && f.Post != nil {
			r.changed[r.post.bySymbol[f.Post]] = f
		}
	}
}

func (r *Result) refuse(where, reason, fix string) {
	r.Refusals = append(r.Refusals, Refusal{Where: where, Reason: reason, Fix: fix})
}

func (r *Result) refuseState(where, reason, fix string) {
	r.Refusals = append(r.Refusals, Refusal{Where: where, Reason: reason, Fix: fix, State: true})
}

func (r *Result) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}
