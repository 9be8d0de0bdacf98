package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/bind"
	"github.com/ksplice/ksplice/core/create"
	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/persist"
	"github.com/ksplice/ksplice/core/semantic"
	"github.com/ksplice/ksplice/core/transfer"
	"github.com/ksplice/ksplice/core/trust"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// The exit codes; `ksplice --help` lists them.
const (
	exitOK       = 0
	exitInternal = 1
	exitUsage    = 2
	exitRefused  = 3
	exitConflict = 4
	exitBuild    = 5
)

// exitMeanings say what they mean: --help in a word, the manual in a sentence.
var exitMeanings = []struct {
	code        int
	short, text string
}{
	{exitOK, "done", "It is done."},
	{exitInternal, "internal error", "An internal error: report it."},
	{exitUsage, "wrong use", "The command line is wrong, or a file that it names is not there."},
	{exitRefused, "refused", "It was refused, and the reason says what is wrong with the update, the kernel or the machine."},
	{exitConflict, "conflict (threads stand in the way)", "Threads stand in the way: try again, or with --freeze."},
	{exitBuild, "build failed", "The sources could not be built."},
}

// usageError says that the command line is wrong.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// refusals are the types of errors that say what the update, or the machine, is not.
var refusals = []any{
	new(*apply.WrongKernelError),
	new(*apply.CommitError),
	new(*apply.BusyError),
	new(*transfer.MovedError),
	new(*apply.NothingError),
	new(*apply.InitError),
	new(*apply.AfterInitError),
	new(*apply.HelperError),
	new(*bind.Error),
	new(*match.MismatchError),
	new(*create.RefusedError),
	new(*conformanceError),
	new(*persist.SuspendedError),
	new(*persist.UnsafeError),
	new(*persist.BaseError),
	new(*persist.DamagedError),
	new(*bootError),
	new(*problemsError),
	new(*notReadyError),
	new(*engine.SignatureError),
	new(*trust.RefusedError),
	new(*trust.KeyError),
}

// exitCode says whose fault an error is: the caller's, the update's or the machine's (refused), threads' in the way, the
// toolchain's (build failed) or ours (internal).
func exitCode(err error) int {
	var (
		usage    *usageError
		conflict *apply.ConflictError
		diag     *plugin.Diagnostic
	)
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &conflict):
		return exitConflict
	}
	for _, target := range refusals {
		if errors.As(err, target) {
			return exitRefused
		}
	}
	for _, sentinel := range []error{update.ErrForeign, update.ErrTruncated, update.ErrAltered, update.ErrVersion, engine.ErrApplied,
		engine.ErrNotApplied, engine.ErrNoModule, engine.ErrABI, engine.ErrBusy, engine.ErrMapped, engine.ErrLocked, engine.ErrWaitedFor, kernel.ErrHidden, kernel.ErrFormat,
		kernel.ErrNoModules, trust.ErrSignature, trust.ErrFull} {
		if errors.Is(err, sentinel) {
			return exitRefused
		}
	}
	if errors.Is(err, semantic.ErrNoTypes) {
		return exitBuild
	}
	if errors.As(err, &diag) {
		switch diag.Fault {
		case plugin.FaultUser:
			return exitUsage
		case plugin.FaultPatch, plugin.FaultMachine:
			return exitRefused
		case plugin.FaultToolchain:
			return exitBuild
		}
	}
	if errors.Is(err, context.Canceled) {
		return exitRefused
	}
	for _, machine := range []error{os.ErrPermission, unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.ENOMEM} {
		if errors.Is(err, machine) {
			return exitRefused
		}
	}
	// What the kernel does not offer, or does not offer to us.
	var path *fs.PathError
	if errors.As(err, &path) {
		for _, dir := range []string{"/proc/", "/sys/", "/dev/"} {
			if strings.HasPrefix(path.Path, dir) {
				return exitRefused
			}
		}
	}
	return exitInternal
}
