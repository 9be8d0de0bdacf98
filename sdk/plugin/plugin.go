// Package plugin is the contract that every Ksplice plugin shares, whatever its kind: who it is, which
// protocol versions it speaks, which configuration it takes and whether it is well. Plugin authors reach
// it through the package of their kind (arch, backend, transform); the host reaches it when it lists,
// verifies and launches plugins.
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
	// Kind is the kind of the plugin.
	Kind Kind `json:"kind"`
	// Name is how configuration, logs and messages name the plugin, for example "x86_64" or "debian".
	Name string `json:"name"`
	// Version is the plugin's own version, free text.
	Version string `json:"version"`
	// Protocols lists the protocol versions the plugin speaks, ascending.
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
	Name        string `json:"name"`
	Description string `json:"description"`
	Required    bool   `json:"required,omitempty"`
	Default     string `json:"default,omitempty"`
}

// Base is what every plugin implements, beside the interface of its kind.
type Base interface {
	// Info returns who the plugin is. It never fails and never waits.
	Info(ctx context.Context) (*Info, error)
	// Configure is called once, before any call of the plugin's kind. Unknown keys are an error.
	Configure(ctx context.Context, config map[string]string) error
	// Health returns nil when the plugin can do its work on this machine, else what is missing.
	Health(ctx context.Context) error
}

// Fault says whose fault an error is; exit codes and advice follow from it.
type Fault string

// The faults.
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

// Errorf returns a Diagnostic with the given fault, place and formatted summary.
func Errorf(fault Fault, where, format string, args ...any) *Diagnostic {
	return &Diagnostic{Fault: fault, Where: where, Summary: fmt.Sprintf(format, args...)}
}

// Progress is one event of a long call.
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
