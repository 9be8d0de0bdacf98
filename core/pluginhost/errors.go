package pluginhost

import (
	"errors"
	"fmt"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// What can be wrong with a plugin. Every error of this package that is not the plugin's own diagnostic is an *Error
// with one of these in its chain.
var (
	// ErrNotFound: no usable plugin of that kind and name is in the directories.
	ErrNotFound = errors.New("plugin not found")
	// ErrUntrusted: somebody else could have changed the plugin, or its digest is not the pinned one.
	ErrUntrusted = errors.New("plugin not trusted")
	// ErrProtocol: the plugin speaks no protocol version that this host speaks.
	ErrProtocol = errors.New("plugin speaks another protocol")
	// ErrExited: the plugin's process ended when it should not have.
	ErrExited = errors.New("plugin exited")
	// ErrTimeout: the plugin did not answer in time.
	ErrTimeout = errors.New("plugin timed out")
	// ErrNonsense: the plugin sent what does not follow the protocol.
	ErrNonsense = errors.New("plugin sent nonsense")
	// ErrClosed: the host was closed.
	ErrClosed = errors.New("plugin host closed")
)

// Error is one failure of a plugin. Its Diagnostic names the plugin with its path and says what happened and what to
// do; errors.As finds it, errors.Is finds the reason.
type Error struct {
	Diagnostic plugin.Diagnostic
	reason     error
}

// Error implements error.
func (e *Error) Error() string { return e.Diagnostic.Error() }

// Unwrap returns the diagnostic and the reason.
func (e *Error) Unwrap() []error { return []error{&e.Diagnostic, e.reason} }

// newError returns an Error about the plugin that label names. The advice says what to do.
func newError(reason error, label, advice, format string, args ...any) *Error {
	return &Error{
		reason: reason,
		Diagnostic: plugin.Diagnostic{
			Fault: fault(reason), Where: label, Summary: fmt.Sprintf(format, args...), Detail: advice,
		},
	}
}

// fault says whose fault a reason is: what is installed and who may write it is the machine's, the rest is a bug of the
// plugin.
func fault(reason error) plugin.Fault {
	switch reason {
	case ErrNotFound, ErrUntrusted, ErrProtocol:
		return plugin.FaultMachine
	}
	return plugin.FaultInternal
}
