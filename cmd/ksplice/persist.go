package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/persist"
	"github.com/ksplice/ksplice/core/update"
)

// settleTime is how long a machine must live after its updates, so that they are believed to be harmless.
const settleTime = time.Minute

func persistCommand() *command {
	var settle time.Duration
	return &command{
		name: "persist", args: "list | remove ID | resume | boot", summary: "the updates that are applied again at each boot",
		help: `An update that was applied with --persist is applied again at each boot of the kernel that it was made for, by
ksplice.service, before the network comes up. list shows those of this machine, and remove has one applied no more
(undo does that as well). They lie in /var/lib/ksplice.

boot is what the service runs: it loads the kernel module, applies the running kernel's updates in the order in which they were made persistent, and
then waits until the machine has lived for a minute (--settle). A boot that dies before is not repeated: the next ones
apply nothing until you run resume. An orderly shutdown is no death. By hand the same is had with the word ksplice.disable on the kernel's command line, or
with a file /etc/ksplice/disable. Exit code 3: an update could not be applied, or nothing is because of such a boot.`,
		example: "ksplice apply --persist fix.ksplice\nksplice persist list",
		flags: func(fs *pflag.FlagSet) {
			fs.DurationVar(&settle, "settle", settleTime, "boot: how long the machine must live before this boot counts as a good one")
		},
		run: func(ctx context.Context, e *env, args []string) error {
			store := persist.Default()
			switch {
			case len(args) == 1 && args[0] == "list":
				return e.listPersistent(store)
			case len(args) == 2 && args[0] == "remove":
				return e.removePersistent(store, args[1])
			case len(args) == 1 && args[0] == "resume":
				return e.resume(store)
			case len(args) == 1 && args[0] == "boot":
				if settle < 0 || settle > time.Hour {
					return usagef("--settle wants at most an hour")
				}
				return e.boot(ctx, store, settle)
			}
			return usagef("write `ksplice persist list`, `remove ID`, `resume` or `boot`")
		},
	}
}

// persistent is a row of the list.
type persistent struct {
	persist.Entry
	// Here says that it is for the running kernel.
	Here bool `json:"here"`
}

func (e *env) listPersistent(store persist.Store) error {
	list, err := store.List()
	if err != nil {
		return err
	}
	guarded, err := store.Guarded()
	if err != nil {
		return err
	}
	release, version, err := running()
	if err != nil {
		return err
	}
	rows := make([]persistent, len(list))
	for i, entry := range list {
		rows[i] = persistent{entry, entry.Release == release && entry.Version == version}
	}
	return e.result(rows, func(w io.Writer) {
		if guarded != nil && guarded.Suspended {
			fmt.Fprintf(e.err, "ksplice persist: %v\n", &persist.SuspendedError{Attempt: *guarded})
		}
		if len(rows) == 0 {
			fmt.Fprintln(w, "no persistent updates")
			return
		}
		fmt.Fprintln(w, "ID\tKERNEL\tADDED\tDESCRIPTION")
		for _, r := range rows {
			kernel := r.Release
			if !r.Here {
				kernel += " (not running)"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.ID, kernel, r.Added.Format(time.DateTime), r.Description)
		}
	})
}

func (e *env) removePersistent(store persist.Store, prefix string) error {
	list, err := store.List()
	if err != nil {
		return err
	}
	var found []string
	for _, entry := range list {
		if strings.HasPrefix(entry.ID, prefix) {
			found = append(found, entry.ID)
		}
	}
	if len(found) != 1 {
		return usagef("%d persistent updates have an ID that begins with %q; `ksplice persist list` shows them", len(found), prefix)
	}
	if _, err := store.Remove(found[0]); err != nil {
		return err
	}
	return e.result(map[string]string{"removed": found[0]}, func(w io.Writer) {
		fmt.Fprintf(w, "removed\t%s: it is not applied at boot any more; what is applied now stays applied\n", found[0])
	})
}

func (e *env) resume(store persist.Store) error {
	guarded, err := store.Guarded()
	if err != nil {
		return err
	}
	suspended := guarded != nil && guarded.Suspended
	if suspended {
		if err := store.Settle(); err != nil {
			return err
		}
	}
	return e.result(map[string]bool{"resumed": suspended}, func(w io.Writer) {
		if !suspended {
			fmt.Fprintln(w, "nothing was suspended")
			return
		}
		fmt.Fprintln(w, "resumed\tpersistent updates are applied again, from the next boot on or with `systemctl restart ksplice`")
	})
}

// reapplied is what came of one update at boot.
type reapplied struct {
	ID string `json:"id"`
	// Code is the exit code that `ksplice apply` would have had.
	Code int `json:"exit_code"`
}

// bootError says that updates could not be applied at boot.
type bootError struct{ ids []string }

func (e *bootError) Error() string {
	return fmt.Sprintf("%d of this kernel's persistent updates could not be applied: %s", len(e.ids), strings.Join(e.ids, ", "))
}

// boot applies the running kernel's updates.
func (e *env) boot(ctx context.Context, store persist.Store, settle time.Duration) (err error) {
	defer func() {
		if err != nil {
			// The machine goes on booting either way; that it failed the unit's state tells.
			notify("READY=1\nSTATUS=" + strings.ReplaceAll(err.Error(), "\n", " "))
		}
	}()
	list, err := store.List()
	if err != nil {
		return err
	}
	release, version, err := running()
	if err != nil {
		return err
	}
	here := slices.DeleteFunc(slices.Clone(list), func(p persist.Entry) bool { return p.Release != release || p.Version != version })
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	why := persist.Disabled(string(cmdline), persist.DisableFile)
	if why == "" && len(here) == 0 {
		why = fmt.Sprintf("none of %s is for %s %s", counted(len(list), "persistent update"), release, version)
	}
	if why != "" {
		notify("READY=1\nSTATUS=nothing applied: " + why)
		return e.result([]reapplied{}, func(w io.Writer) { fmt.Fprintf(w, "nothing applied\t%s\n", why) })
	}
	id, err := bootID()
	if err != nil {
		return err
	}
	if err := store.Begin(id); err != nil {
		return err
	}
	loadModule(ctx, e)
	var done []reapplied
	failed := &bootError{}
	for _, entry := range here {
		notify("STATUS=applying " + entry.ID)
		if err := store.Applying(id, entry.ID); err != nil {
			return err
		}
		code := e.reapply(ctx, store, entry)
		done = append(done, reapplied{entry.ID, code})
		if code != exitOK {
			failed.ids = append(failed.ids, entry.ID)
		}
		if ctx.Err() != nil {
			break
		}
	}
	status := fmt.Sprintf("%d of %s applied", len(here)-len(failed.ids), counted(len(here), "update"))
	notify("READY=1\nSTATUS=" + status)
	if err := e.result(done, func(w io.Writer) { fmt.Fprintf(w, "boot\t%s\n", status) }); err != nil {
		return err
	}
	// Whoever has this process end in good order has a machine that lives.
	select {
	case <-ctx.Done():
	case <-time.After(settle):
	}
	if err := store.Settle(); err != nil {
		return err
	}
	if len(failed.ids) > 0 {
		return failed
	}
	return nil
}

// reapply runs `ksplice apply` as it was run when the update was made persistent, and returns its exit code.
func (e *env) reapply(ctx context.Context, store persist.Store, entry persist.Entry) int {
	applied, err := isApplied(entry.ID)
	if err != nil {
		return e.fail(persistCommand(), err)
	}
	if applied {
		return exitOK
	}
	out := e.out
	if e.json {
		out = io.Discard // standard output holds one value
	}
	return run(ctx, append(append([]string{"apply"}, entry.Flags...), store.File(entry.ID)), out, e.err)
}

// isApplied says whether an update is in force already, as it is when the service is started again.
func isApplied(id string) (bool, error) {
	updates, err := engine.Updates()
	if err != nil {
		return false, err
	}
	armed, err := engine.ReadArmed()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(updates, func(a engine.Applied) bool { return engine.UpdateID(a.ID) == id && a.Stage == "applied" }) ||
		slices.ContainsFunc(armed, func(a engine.Armed) bool { return a.ID == id }), nil
}

// loadModule loads the kernel module, if it is not. Where that fails each update says what is missing.
func loadModule(ctx context.Context, e *env) {
	d, err := engine.Open()
	if err == nil {
		d.Close()
		return
	}
	if out, err := exec.CommandContext(ctx, "modprobe", "ksplice").CombinedOutput(); err != nil {
		e.log.Error("the kernel module cannot be loaded", "error", err, "modprobe", strings.TrimSpace(string(out)))
	}
}

// running returns uname -r and -v.
func running() (release, version string, err error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", "", fmt.Errorf("ask the kernel who it is: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Version[:]), nil
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("ask the kernel which boot this is: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// notify tells the service manager how it goes (sd_notify(3)); without one it does nothing.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return // the manager says itself that it has not heard of us
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state))
}

// keep is the flag that makes an update persistent.
type keep struct {
	on bool
	fs *pflag.FlagSet
}

func (k *keep) flags(fs *pflag.FlagSet) {
	k.fs = fs
	fs.BoolVar(&k.on, "persist", false, "apply it again at each boot of this kernel, with the same flags (ksplice persist)")
}

// set makes an update persistent, in the place of those that it replaced.
func (k *keep) set(u *update.Update, path string, replaced []string) error {
	// What is said of this run only, and what is true at no other time.
	not := []string{"persist", "replace", "json", "verbose", "help"}
	flags := []string{}
	var err error
	k.fs.Visit(func(f *pflag.Flag) {
		if slices.Contains(not, f.Name) {
			return
		}
		value := f.Value.String()
		if f.Name == "config" {
			var abs string
			if abs, err = filepath.Abs(value); err == nil {
				value = abs
			}
		}
		flags = append(flags, "--"+f.Name+"="+value)
	})
	if err != nil {
		return fmt.Errorf("make update %s persistent: %w", u.Manifest.ID, err)
	}
	m := &u.Manifest
	release, version, err := running()
	if err != nil {
		return err
	}
	entry := persist.Entry{ID: m.ID, Description: m.Description, Release: release, Version: version, Added: time.Now().UTC().Truncate(time.Second), Flags: flags}
	if err := persist.Default().Add(entry, path, replaced); err != nil {
		return fmt.Errorf("update %s is applied, but will not be at the next boot: %w", m.ID, err)
	}
	return nil
}

// already says that an update is applied, which --persist takes for done.
func (k *keep) already(err error) bool { return k.on && errors.Is(err, engine.ErrApplied) }
