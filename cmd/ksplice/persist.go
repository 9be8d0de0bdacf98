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

	"github.com/ksplice/ksplice/core/doctor"
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
	died, err := diedOf(store)
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
		if died != nil {
			fmt.Fprintf(e.err, "ksplice persist: %v\n", &persist.SuspendedError{Attempt: *died})
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
	died, err := diedOf(store)
	if err != nil {
		return err
	}
	suspended := died != nil
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

// diedOf returns the attempt of the boot that died of its updates; nil: none did.
func diedOf(store persist.Store) (*persist.Attempt, error) {
	id, err := bootID()
	if err != nil {
		return nil, err
	}
	return store.Died(id)
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
		return e.result([]string{}, func(w io.Writer) { fmt.Fprintf(w, "nothing applied\t%s\n", why) })
	}
	id, err := bootID()
	if err != nil {
		return err
	}
	if err := store.Begin(id); err != nil {
		return err
	}
	// From here on the guard is there, and goes whatever becomes of the updates: whoever has this process end in good order, and whoever waits for its
	// end, has a machine that lives.
	done, applyErr := e.applyAll(ctx, store, id, here)
	status := fmt.Sprintf("%d of %s applied", len(done), counted(len(here), "update"))
	if applyErr == nil {
		notify("READY=1\nSTATUS=" + status)
	}
	printErr := e.result(done, func(w io.Writer) { fmt.Fprintf(w, "boot\t%s\n", status) })
	select {
	case <-ctx.Done():
	case <-time.After(settle):
	}
	return errors.Join(applyErr, printErr, store.Settle())
}

// applyAll applies updates, one after the other, and returns those that are in force. The error names the others.
func (e *env) applyAll(ctx context.Context, store persist.Store, boot string, list []persist.Entry) ([]string, error) {
	loadModule(ctx, e)
	done := []string{}
	failed := &bootError{}
	var errs []error
	for _, entry := range list {
		err := ctx.Err()
		if err == nil {
			notify("STATUS=applying " + entry.ID)
			if err = store.Applying(boot, entry.ID); err == nil {
				var in bool
				if in, err = e.reapply(ctx, store, entry); in {
					done = append(done, entry.ID)
					continue
				}
			}
		}
		failed.ids = append(failed.ids, entry.ID)
		errs = append(errs, err)
	}
	if len(failed.ids) > 0 {
		errs = append(errs, failed)
	}
	return done, errors.Join(errs...)
}

// reapply runs `ksplice apply` as it was run when the update was made persistent, and says whether it is in force. What is wrong apply says itself.
func (e *env) reapply(ctx context.Context, store persist.Store, entry persist.Entry) (bool, error) {
	applied, err := isApplied(entry.ID)
	if applied || err != nil {
		return applied, err
	}
	out := e.out
	if e.json {
		out = io.Discard // standard output holds one value
	}
	return run(ctx, append(append([]string{"apply"}, entry.Flags...), store.File(entry.ID)), out, e.err) == exitOK, nil
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

// set makes an update persistent as it was verified, in the place of those that it replaced, and returns what the administrator must know.
func (k *keep) set(u *update.Update, by *trusted, replaced []string) ([]string, error) {
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
		return nil, fmt.Errorf("make update %s persistent: %w", u.Manifest.ID, err)
	}
	m := &u.Manifest
	release, version, err := running()
	if err != nil {
		return nil, err
	}
	entry := persist.Entry{ID: m.ID, Description: m.Description, Release: release, Version: version, Added: time.Now().UTC().Truncate(time.Second), Base: m.Base, Flags: flags}
	store := persist.Default()
	if err := store.Add(entry, by.sealed, by.beside, replaced); err != nil {
		return nil, fmt.Errorf("update %s is applied, but will not be at the next boot: %w", m.ID, err)
	}
	return atNextBoot(store, release, version)
}

// atNextBoot says what will be otherwise at the next boot than it is now, or keeps updates from being applied there.
func atNextBoot(store persist.Store, release, version string) ([]string, error) {
	var notes []string
	list, err := store.List()
	if err != nil {
		return nil, err
	}
	for _, entry := range list {
		if entry.Release != release || entry.Version != version {
			continue
		}
		applied, err := isApplied(entry.ID)
		if err != nil {
			return nil, err
		}
		if !applied {
			notes = append(notes, fmt.Sprintf("persistent update %s is not applied now, and goes in at the next boot: ksplice persist remove %s, if it must not", entry.ID, entry.ID))
		}
	}
	if !doctor.ServiceEnabled("") {
		notes = append(notes, "nothing applies updates at boot yet: systemctl enable "+doctor.Service)
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	if why := persist.Disabled(string(cmdline), persist.DisableFile); why != "" {
		notes = append(notes, "nothing is applied at boot: "+why)
	}
	died, err := diedOf(store)
	if err != nil {
		return nil, err
	}
	if died != nil {
		notes = append(notes, (&persist.SuspendedError{Attempt: *died}).Error())
	}
	return notes, nil
}

// already says that an update is applied, which --persist takes for done.
func (k *keep) already(err error) bool { return k.on && errors.Is(err, engine.ErrApplied) }
