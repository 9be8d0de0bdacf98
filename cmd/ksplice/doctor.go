package main

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/create"
	"github.com/ksplice/ksplice/core/doctor"
	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/machine"
	"github.com/ksplice/ksplice/core/persist"
	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/core/trust"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

func doctorCommand() *command {
	return &command{
		name: "doctor", summary: "say whether this machine is ready, and what to do where it is not",
		help: `A row for each thing that apply or create needs: good, WARNING (it works, but not all of it, or nobody can tell), or WRONG (it would be refused), with
what to do on the next line. What only create needs says so: a machine that gets its updates from elsewhere may do without. Nothing is changed.
Exit code 3: something that apply needs is WRONG. Run it as root, as apply is.`,
		example: "ksplice doctor",
		run: func(ctx context.Context, e *env, args []string) error {
			if len(args) > 0 {
				return usagef("doctor takes no arguments")
			}
			m, err := e.patient(ctx)
			if err != nil {
				return err
			}
			p := newProgress(e.err, e.json, patience)
			p.begin("look")
			rows, err := doctor.Run(ctx, m, doctor.Checks())
			p.close()
			if err != nil {
				return err
			}
			if err := e.result(rows, func(w io.Writer) {
				for _, r := range rows {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.For, r.Check, r.Verdict, r.Found)
					if r.Do != "" {
						fmt.Fprintf(w, "\t\t\t%s\n", strings.ReplaceAll(r.Do, "\n", "\n\t\t\t"))
					}
				}
			}); err != nil {
				return err
			}
			if n := doctor.Count(rows, doctor.Apply, doctor.Wrong); n > 0 {
				return &notReadyError{n}
			}
			return nil
		},
	}
}

// notReadyError says that apply would be refused on this machine.
type notReadyError struct{ n int }

func (e *notReadyError) Error() string {
	if e.n == 1 {
		return "this machine is not ready: 1 thing that apply needs is wrong"
	}
	return fmt.Sprintf("this machine is not ready: %d things that apply needs are wrong", e.n)
}

// compilerLimit bounds how long a compiler may take to say its version.
const compilerLimit = 10 * time.Second

// patient is the running machine as the doctor sees it.
func (e *env) patient(ctx context.Context) (*doctor.Machine, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("which kernel is running: %w", err)
	}
	flags := builderFlags{kernel: unix.ByteSliceToString(u.Release[:]), version: unix.ByteSliceToString(u.Version[:])}
	m := &doctor.Machine{Release: flags.kernel, UID: os.Geteuid()}
	self, err := elf.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("which machine is it: %w", err)
	}
	m.ELF = uint16(self.Machine)
	self.Close()
	m.Now, m.NowErr = machine.Read()
	m.Device = func() error {
		d, err := engine.Open()
		if err != nil {
			return err
		}
		return errors.Join(d.CanApply(), d.Close())
	}
	m.Plugins, m.Health = e.host.List(ctx), e.health
	m.Updates = e.decided(flags.kernel, flags.version)
	if dir, err := os.UserCacheDir(); err == nil {
		flags.cache = filepath.Join(dir, "ksplice")
	}
	m.Cache = flags.cache
	m.Backend = func(ctx context.Context) (string, error) {
		b, info, err := e.backend(ctx, &flags)
		var refused *create.RefusedError
		if errors.As(err, &refused) && len(refused.Reasons) > 0 { // it speaks of a patch
			return "", errors.New(refused.Reasons[0].Text)
		}
		if err != nil {
			return "", err
		}
		r, err := b.Probe(ctx, &backend.ProbeRequest{Release: flags.kernel, Version: flags.version})
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s by backend %s", r.Banner, info.Name), nil
	}
	m.CompilerVersion = func(ctx context.Context, command string) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, compilerLimit)
		defer cancel()
		out, err := exec.CommandContext(ctx, command, "--version").Output()
		if err != nil {
			return "", fmt.Errorf("%s --version: %w", command, err)
		}
		s := bufio.NewScanner(bytes.NewReader(out))
		s.Scan()
		return s.Text(), nil
	}
	m.Free = func(path string) (uint64, error) {
		var s unix.Statfs_t
		if err := unix.Statfs(path, &s); err != nil {
			return 0, fmt.Errorf("room in %s: %w", path, err)
		}
		return s.Bavail * uint64(s.Bsize), nil
	}
	return m, nil
}

// health asks a plugin whether it can do its work on this machine.
func (e *env) health(ctx context.Context, p *pluginhost.Found) error {
	var base plugin.Base
	var err error
	switch p.Info.Kind {
	case plugin.KindArch:
		base, _, err = e.host.Arch(ctx, p.Info.Machines[0])
	case plugin.KindBackend:
		base, _, err = e.host.Backend(ctx, p.Info.Name)
	case plugin.KindTransform:
		base, _, err = e.host.Transform(ctx, p.Info.Name)
	}
	if err != nil {
		return err
	}
	return base.Health(ctx)
}

// decided is what the machine has decided about updates.
func (e *env) decided(release, version string) doctor.Updates {
	u := doctor.Updates{Unsigned: e.config.Trust.AllowUnsigned}
	keys, err := e.keys()
	if u.KeysErr = err; err == nil {
		u.KeyDirs = keys.Dirs
		for _, k := range keys.Trusted {
			if slices.ContainsFunc(keys.Revoked, func(r *trust.Key) bool { return r.ID() == k.ID() }) {
				continue
			}
			u.Keys = append(u.Keys, doctor.Trusted{Name: k.Name, From: k.From, Until: k.Until})
		}
	}
	u.PersistentErr = decidedAtBoot(&u, release, version)
	return u
}

// decidedAtBoot is what it has decided about those that are applied at boot.
func decidedAtBoot(u *doctor.Updates, release, version string) error {
	list, err := persist.Default().List()
	if err != nil {
		return err
	}
	here := persist.Of(list, release, version)
	u.Persistent = len(here)
	for _, p := range here {
		applied, err := isApplied(p.ID)
		if err != nil {
			return err
		}
		if !applied {
			u.Unapplied = append(u.Unapplied, p.ID)
		}
	}
	if u.Disabled, err = persist.DisabledHere(); err != nil {
		return err
	}
	died, err := diedOf(persist.Default())
	if died != nil {
		u.Suspended = (&persist.SuspendedError{Attempt: *died}).Error()
	}
	return err
}
