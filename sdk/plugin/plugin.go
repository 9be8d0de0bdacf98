// Package plugin is the contract that every Ksplice plugin shares, whatever its kind: who it is, which
// protocol versions it speaks, which configuration it takes and whether it is well. Plugin authors reach
// it through the package of their kind (arch, backend, transform); the host reaches it when it lists,
// verifies and launches plugins.
//
// # How a plugin lives
//
// A plugin is a program called KIND-NAME, for example backend-acme, in one of the directories that ksplice looks through. Its main
// function is the Serve of its kind. `ksplice plugin new KIND NAME` writes such a project, `ksplice plugin run` makes single calls by hand,
// and `ksplice plugin check` goes through what a host relies on.
//
// The host asks `BINARY describe` who the plugin is, and starts the program when it needs it: Info, then Configure, then calls of the
// kind. Calls may run at once. One whose context ends must end, too, with all commands that it started; a plugin that does not obey
// is killed. When the host is done, or dies, the process goes, and whatever it has started in its process group.
//
// # What a host relies on
//
// The same question has the same answer: what is made of it must not depend on the clock, the order of a map or what was asked before.
// What cannot be done is said by a [Diagnostic]; another error counts as a bug of the plugin, and so does a panic, which ends the call
// and nothing else. A reply that breaks the contract of its interface is refused as a whole. Large things cross as a [File]. A plugin writes where
// a request says that it may, and nowhere else.
//
// # Words
//
// Pre and post are object code built from the source before and after the patch, run is the code in the memory of the running kernel. A
// translation unit, or unit, is a source file that is compiled to one object. The stop is the moment in which the whole machine stands still
// and functions are redirected to their replacements. A part is the module that an update brings for one target: the kernel proper, vmlinux, or a
// module of it.
package plugin

import (
	"context"
	"fmt"
)

// Kind names what a plugin does. The kinds are closed: a host refuses one it does not know.
type Kind string

// The three kinds of plugin.
const (
	KindArch      Kind = "arch"
	KindBackend   Kind = "backend"
	KindTransform Kind = "transform"
)

// Info says who a plugin is. It is what `BINARY describe` prints as JSON, without a handshake, and what the
// Info call of every kind returns.
type Info struct {
	// Kind is the kind of the plugin. Serve fills it in.
	Kind Kind `json:"kind"`
	// Name is how configuration, logs and messages name the plugin, for example "x86_64" or "debian". The binary is called KIND-NAME.
	Name string `json:"name"`
	// Version is the plugin's own version, free text.
	Version string `json:"version"`
	// Protocols lists the protocol versions the plugin speaks, ascending. Serve fills in those of the SDK where there are none.
	Protocols []int `json:"protocols"`
	// Description is one sentence for people.
	Description string `json:"description"`
	// Config describes the keys the plugin takes in Configure.
	Config []ConfigKey `json:"config,omitempty"`
	// Machines lists, for architecture plugins, the ELF machine numbers they serve (EM_X86_64 is 62); a host picks the
	// plugin for an object by it. Empty for the other kinds.
	Machines []uint16 `json:"machines,omitempty"`
}

// ConfigKey is one configuration key that a plugin takes.
type ConfigKey struct {
	// Name is the key, as the configuration has it below [plugin.KIND-NAME]; Description says what it is for, for people.
	Name        string `json:"name"`
	Description string `json:"description"`
	// Required says that the plugin cannot work without it; Default, for people, what holds where it is not given.
	Required bool   `json:"required,omitempty"`
	Default  string `json:"default,omitempty"`
}

// Base is what every plugin implements, beside the interface of its kind.
type Base interface {
	// Info returns who the plugin is. It never fails and never waits: it is asked before Configure, too.
	Info(ctx context.Context) (*Info, error)
	// Configure is called once by a host, before any call of the plugin's kind; config may be empty. Unknown keys are an error that names
	// them, and so are required ones that are missing: see CheckConfig.
	Configure(ctx context.Context, config map[string]string) error
	// Health returns nil when the plugin can do its work on this machine, else what is missing and how to get it.
	Health(ctx context.Context) error
}

// Fault says whose fault an error is; exit codes and advice follow from it.
type Fault string

// The faults. ksplice ends with exit code 2 for the user's, 3 for the patch's and the machine's, 5 for the toolchain's and 1 for a bug.
const (
	FaultUser      Fault = "user"      // the request is wrong
	FaultPatch     Fault = "patch"     // the patch cannot be carried as it is
	FaultToolchain Fault = "toolchain" // compiler, headers or sources are not as needed
	FaultMachine   Fault = "machine"   // the machine refuses: disk, network, kernel
	FaultInternal  Fault = "internal"  // a bug
)

// Diagnostic is how a plugin says that something went wrong, or that somebody should know something. As an
// error it crosses the wire whole.
type Diagnostic struct {
	// Fault says whose fault it is.
	Fault Fault `json:"fault"`
	// Summary is one sentence, lower case, without a full stop.
	Summary string `json:"summary"`
	// Detail is enough to solve it: what was expected, what was found, what to do.
	Detail string `json:"detail,omitempty"`
	// Where names the file, object, function or line, when there is one.
	Where string `json:"where,omitempty"`
}

// Error implements error.
func (d *Diagnostic) Error() string {
	s := d.Summary
	if d.Where != "" {
		s = d.Where + ": " + s
	}
	if d.Detail != "" {
		s += ": " + d.Detail
	}
	return s
}

// Errorf returns a Diagnostic with the given fault, place (empty for none) and formatted summary, without Detail.
func Errorf(fault Fault, where, format string, args ...any) *Diagnostic {
	return &Diagnostic{Fault: fault, Where: where, Summary: fmt.Sprintf(format, args...)}
}

// Progress is one event of a long call, for people who wait.
type Progress struct {
	// Stage names what is being done, for example "unpack" or "compile".
	Stage string
	// Message is one line for people.
	Message string
	// Done and Total count steps of the stage; Total 0 means not known.
	Done, Total int64
}

// ProgressFunc receives progress events. It may be nil at the host's side; a plugin always gets one it can call.
type ProgressFunc func(Progress)

// File names a large thing that crosses by path and digest instead of in a message.
type File struct {
	// Path is absolute.
	Path string `json:"path"`
	// SHA256 is the lower-case hex digest of the file's content; whoever opens the file checks it.
	SHA256 string `json:"sha256"`
}
