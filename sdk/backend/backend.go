// Package backend is what the author of a build backend imports: the interface to fill ([Backend]), the types that cross it
// and [Serve]. A backend knows where one distribution's kernels come from and how they are built; the host knows
// neither. Backends of kernels that are built by the kernel's own build system, as nearly all are, fill most of it by embedding
// kbuild.Service of package sdk/kbuild. Package plugin says how a plugin lives, and what the words mean.
//
// # When it is asked
//
// When an update is made, and never else. Probe finds the backend of the kernel, Prepare makes its tree, once for all updates. The host copies the tree
// by links to a work tree, before the patch and after it, and has Units say what the patched files are compiled into. Compile makes these units' objects in
// both. What changed goes into modules that Link makes; Facts are numbers that the architecture plugin wants of the tree.
//
// # What to get right
//
// An object must be the one that the running kernel was built of: same source, configuration, compiler and flags, but for those that the host adds. A
// tree that is almost the kernel's makes updates which no machine takes, so that it is better to refuse. The same request gives the same bytes.
//
// A backend writes below CacheDir and WorkDir only, and leaves nothing behind there that a later call would take for whole when it is cancelled or
// killed: make beside, then rename. Errors of the source are results with diagnostics ([CompileResult]); an error of a call is that it could not be made.
package backend

import (
	"context"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Backend builds pieces of one family of kernels.
type Backend interface {
	plugin.Base

	// Probe says whether the backend can build for a kernel, without fetching anything large.
	Probe(ctx context.Context, req *ProbeRequest) (*ProbeResponse, error)
	// Prepare makes the tree of one kernel ready to compile single units: sources, configuration,
	// symbol versions, generated headers, objtool. A second call with the same request finds it ready.
	Prepare(ctx context.Context, req *PrepareRequest, progress plugin.ProgressFunc) (*Tree, error)
	// Units says which translation units of the kernel given source files are, or are included by, and whether each is built into the kernel
	// proper or into which module.
	Units(ctx context.Context, req *UnitsRequest) (*UnitsResponse, error)
	// Compile compiles units in a work tree that the host made from the tree. A unit that does not compile is a result.
	Compile(ctx context.Context, req *CompileRequest, progress plugin.ProgressFunc) (*CompileResponse, error)
	// Link makes one loadable module of glue sources and ready objects.
	Link(ctx context.Context, req *LinkRequest, progress plugin.ProgressFunc) (*LinkResponse, error)
	// Facts evaluates constant expressions with the tree's compiler, headers and configuration.
	Facts(ctx context.Context, req *FactsRequest) (*FactsResponse, error)
}

// ProbeRequest names a kernel.
type ProbeRequest struct {
	// Release is what `uname -r` prints there.
	Release string
	// Version is what `uname -v` prints there; empty when not known.
	Version string
	// CacheDir is the directory that Prepare will get; it need not exist. A tree that is ready there answers at once.
	CacheDir string
}

// ProbeResponse says whether the backend can build for the kernel, and what that is.
type ProbeResponse struct {
	// Supported says that Prepare can be expected to work.
	Supported bool
	// Banner names the kernel for people, for example "Debian 6.1.192-2"; it is set where Supported is.
	Banner string
	// Reason says why not, and what to do; it is set where Supported is not.
	Reason string
}

// PrepareRequest asks for a tree.
type PrepareRequest struct {
	// Release is the kernel's `uname -r`.
	Release string
	// Version, where given, must be the kernel's `uname -v`.
	Version string
	// CacheDir is a directory for this backend alone, shared between runs; the backend locks in it what it changes.
	CacheDir string
	// Jobs bounds parallel work; 0 means one a processor.
	Jobs int
}

// Tree is a prepared tree. Everything below Source and Build stays as Prepare left it: the host copies (by links) what it
// changes. All paths are absolute.
type Tree struct {
	// ID is a digest of everything that decides what the tree compiles to: sources, configuration, tools.
	ID string
	// Root is the directory with everything of the tree below it; Source (with the kernel's top Makefile) and
	// Build (with .config and include/generated) are in it, and may be the same.
	Root, Source, Build string
	// Release, Version: `uname -r` and `uname -v` of the kernel.
	Release, Version string
	// Banner names the kernel for people.
	Banner string
	// Arch is the kernel's own name of the architecture ("x86"), Machine the ELF machine number.
	Arch    string
	Machine uint16
	// Config is the path of the configuration, Symvers that of Module.symvers.
	Config, Symvers string
	// Compiler is the compiler's command, CompilerVersion what it calls itself, CompilerSHA256 the digest of the real compiler (cc1).
	Compiler, CompilerVersion, CompilerSHA256 string
	// Image is the path of the kernel's own image (vmlinuz or vmlinux), which tells the build id; empty where the backend
	// cannot have it.
	Image string
	// Reused says that nothing had to be made: the tree was there.
	Reused bool
}

// UnitsRequest asks for units.
type UnitsRequest struct {
	// Tree is as Prepare returned it.
	Tree *Tree
	// WorkDir is a directory made like Tree.Root to look in (a patched tree); empty: Tree.Root.
	WorkDir string
	// Sources are the source files asked for, relative to Source. A file that is no unit of its own but is included by
	// some (a header, a .c file that others include) stands for all units that include it, directly or not; the answer may
	// name too many of them, never too few. Files that no unit compiles are left out of the answer.
	Sources []string
	// All asks for all units of the kernel instead.
	All bool
}

// UnitsResponse lists the built units.
type UnitsResponse struct {
	Units []Unit
}

// Unit is one translation unit that this kernel has.
type Unit struct {
	// Source and Object are relative to the source and the build directory: "net/sched/sch_qfq.c", "net/sched/sch_qfq.o".
	Source, Object string
	// Module is the module it is part of, with underscores as in /proc/modules; empty for the kernel proper.
	Module string
}

// CompileRequest asks to compile units.
type CompileRequest struct {
	Tree *Tree
	// WorkDir has the layout of Tree.Root: the host made it and gives it to this call alone.
	WorkDir string
	// Units are compiled with the tree's own flags, as kbuild would, plus ExtraFlags; and objtool runs on each object
	// exactly once, whether or not this kernel would leave it to the final link.
	Units      []Unit
	ExtraFlags []string
	// Jobs bounds parallel work; 0 means one a processor.
	Jobs int
	// Preprocess asks for each unit's preprocessed text in place of its object, without line markers (gcc -E -P), by the same command.
	// A backend that cannot do it makes objects.
	Preprocess bool
}

// CompileResponse has one result a unit, in order.
type CompileResponse struct {
	Results []CompileResult
}

// CompileResult is one compiled unit.
type CompileResult struct {
	Unit Unit
	// Object is the absolute path of the object, empty when it failed.
	Object string
	// Includes are the files the compiler read, relative to the source directory, from its dependency output.
	Includes []string
	// Command is the compiler command that was run.
	Command string
	// Diagnostics are the compiler's errors and warnings.
	Diagnostics []plugin.Diagnostic
	// Nanoseconds is the wall time of the compiler and objtool.
	Nanoseconds int64
}

// LinkRequest asks for a module.
type LinkRequest struct {
	Tree *Tree
	// WorkDir is an empty directory for this call alone.
	WorkDir string
	// Name is the module's name.
	Name string
	// Glue is C source, by file name, that kbuild compiles and modpost sees: license, vermagic, init and exit.
	Glue map[string]string
	// Objects are linked after modpost, in order; modpost does not see them.
	Objects []string
	// Script is a linker script for the final relocatable link.
	Script string
	// Provided lists symbols which something else exports, for modpost: name to providing module.
	Provided map[string]string
}

// LinkResponse gives the module.
type LinkResponse struct {
	// Module is the absolute path of the finished .ko; Diagnostics are warnings of compiler, modpost and linker.
	Module      string
	Diagnostics []plugin.Diagnostic
}

// FactsRequest asks for numbers.
type FactsRequest struct {
	Tree        *Tree
	Expressions []arch.FactExpression
	// WorkDir is an empty directory for this call alone.
	WorkDir string
}

// FactsResponse gives the numbers.
type FactsResponse struct {
	// Facts are the values by the expressions' names. An expression whose If this kernel does not set is left out; one that does not compile
	// fails the call.
	Facts map[string]int64
}
