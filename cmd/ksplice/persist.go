package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/ksplice/ksplice/core/doctor"
	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/persist"
	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/core/update"
)

func persistCommand() *command {
	var settle time.Duration
	return &command{
		name: "persist", args: "list | remove ID | resume | boot | settle", summary: "the updates that are applied again at each boot",
		help: `An update that was applied with --persist is applied again at each boot of the kernel that it was made for, by
ksplice.service, before the network comes up. list shows those of this machine, and remove has one applied no more
(undo does that as well). They lie in /var/lib/ksplice.

boot is what the service runs: it loads the kernel module, applies the running kernel's updates in the order in which they were made persistent, and
then waits until the machine has lived for a minute (--settle). The machine waits for one try of each; what fails and may not fail a little later (a thread
in the way) is tried again in that minute. A boot that dies before is not repeated: the next ones
apply nothing until you run resume. So it is with a machine that dies within a minute after a part went in whose module came later. An orderly shutdown is
no death, nor is the end of the service: settle, which it runs then, forgets the boot. By hand the same is had with the word ksplice.disable on the kernel's command line, or
with a file /etc/ksplice/disable. Exit code 3: an update could not be applied, or nothing is because of such a boot.`,
		example: "ksplice apply --persist fix.ksplice\nksplice persist list",
		flags: func(fs *pflag.FlagSet) {
			fs.DurationVar(&settle, "settle", settleTime, "boot and settle: how long the machine must live before this boot counts as a good one")
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
			case settle < 0 || settle > time.Hour:
				return usagef("--settle wants at most an hour")
			case len(args) == 1 && args[0] == "boot":
				return e.boot(ctx, store, settle)
			case len(args) == 1 && args[0] == "settle":
				return e.settled(ctx, store, settle)
			}
			return usagef("write `ksplice persist list`, `remove ID`, `resume`, `boot` or `settle`")
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
	id, err := persist.Boot()
	if err != nil {
		return nil, err
	}
	return store.Died(id)
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
	for _, entry := range persist.Of(list, release, version) {
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
	why, err := persist.DisabledHere()
	if err != nil {
		return nil, err
	}
	if why != "" {
		notes = append(notes, "nothing is applied at boot: "+why)
	}
	if dirs := os.Getenv(pluginhost.PathVariable); dirs != "" {
		notes = append(notes, fmt.Sprintf("%s is set now (%s), and not at boot: where the update needs a plugin from there, write the directories to dirs in [plugins] of the configuration", pluginhost.PathVariable, dirs))
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
