package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/persist"
	"github.com/ksplice/ksplice/core/trust"
	"github.com/ksplice/ksplice/core/update"
)

const (
	// settleTime is how long a machine must live after its updates, so that they are believed to be harmless.
	settleTime = time.Minute
	// readyTime is how long a boot waits for its updates. What takes longer goes in while the machine goes on; ksplice.service's TimeoutStartSec is more.
	readyTime = 3 * time.Minute
	// againTime is how long after a try what failed, and may not fail again, is tried once more.
	againTime = 5 * time.Second
)

// bootError says that updates could not be applied at boot.
type bootError struct {
	ids    []string
	causes []error
}

func (e *bootError) Error() string {
	var causes []string
	for _, c := range e.causes {
		causes = append(causes, c.Error())
	}
	return fmt.Sprintf("%d of this kernel's persistent updates could not be applied: %s (%s)", len(e.ids), strings.Join(e.ids, ", "), strings.Join(causes, "; "))
}

// boot applies the running kernel's updates.
func (e *env) boot(ctx context.Context, store persist.Store, settle time.Duration) (err error) {
	e.event = &event{operation: "boot"}
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
	here := persist.Of(list, release, version)
	why, err := persist.DisabledHere()
	if err != nil {
		return err
	}
	if why == "" && len(here) == 0 {
		why = fmt.Sprintf("none of %s is for %s %s", counted(len(list), "persistent update"), release, version)
	}
	if why != "" {
		notify("READY=1\nSTATUS=nothing applied: " + why)
		return e.result([]string{}, func(w io.Writer) { fmt.Fprintf(w, "nothing applied\t%s\n", why) })
	}
	id, err := persist.Boot()
	if err != nil {
		return err
	}
	if err := store.Begin(id); err != nil {
		return err
	}
	// From here on the guard is there, and goes whatever becomes of the updates: whoever has this process end in good order, and whoever waits for its
	// end, has a machine that lives.
	done, applyErr := e.applyAll(ctx, store, id, here, settle)
	status := fmt.Sprintf("%d of %s applied", len(done), counted(len(here), "update"))
	notify("STATUS=" + status)
	printErr := e.result(done, func(w io.Writer) { fmt.Fprintf(w, "boot\t%s\n", status) })
	pause(ctx, settle)
	return errors.Join(applyErr, printErr, store.Settle())
}

// applyAll applies updates, one after the other, and returns those that are in force; the error names the others. The machine waits for the first
// round only. What may be otherwise soon (a thread in the way, a slow plugin, code that is just being rewritten) is tried again for as long as limit says.
func (e *env) applyAll(ctx context.Context, store persist.Store, boot string, list []persist.Entry, limit time.Duration) ([]string, error) {
	ready := sync.OnceFunc(func() { notify("READY=1") })
	slow := time.AfterFunc(readyTime, ready)
	defer slow.Stop()
	r := round{env: e, store: store, boot: boot}
	r.run(ctx, list)
	ready()
	for end := time.Now().Add(limit); len(r.again) > 0 && time.Now().Before(end) && pause(ctx, againTime); {
		// What stands on what was left out has no other reason to fail, and all of them keep their order.
		again := slices.DeleteFunc(slices.Clone(list), func(p persist.Entry) bool { return slices.Contains(r.done, p.ID) })
		r.run(ctx, again)
	}
	return r.done, r.err()
}

// round is one try of several updates.
type round struct {
	*env
	store persist.Store
	boot  string
	// done is what is in force after all rounds; failed what is not after the last one, with its causes; again what of that is worth another one.
	done   []string
	failed []string
	causes []error
	again  []string
}

func (r *round) run(ctx context.Context, list []persist.Entry) {
	loadModule(ctx, r.env)
	r.failed, r.causes, r.again = nil, nil, nil
	for _, entry := range list {
		err := ctx.Err()
		if err == nil {
			notify("STATUS=applying " + entry.ID)
			err = r.store.Applying(r.boot, entry.ID)
		}
		if err == nil {
			err = r.reapply(ctx, r.store, entry)
		}
		switch {
		case err == nil:
			r.done = append(r.done, entry.ID)
			continue
		case passing(err):
			r.again = append(r.again, entry.ID)
		}
		r.failed, r.causes = append(r.failed, entry.ID), append(r.causes, err)
	}
}

func (r *round) err() error {
	if len(r.failed) == 0 {
		return nil
	}
	return &bootError{r.failed, r.causes}
}

// passing says that a failure to apply may be none soon: not where somebody has decided something (whom to trust, how apply is run), or the update is
// not this machine's.
func passing(err error) bool {
	for _, target := range []any{new(*usageError), new(*trust.RefusedError), new(*trust.KeyError), new(*persist.UnsafeError), new(*apply.WrongKernelError), new(*engine.SignatureError)} {
		if errors.As(err, target) {
			return false
		}
	}
	return !slices.ContainsFunc([]error{trust.ErrSignature, update.ErrForeign, update.ErrTruncated, update.ErrAltered, update.ErrVersion},
		func(sentinel error) bool { return errors.Is(err, sentinel) })
}

// reapply runs `ksplice apply` as it was run when the update was made persistent, if the update is not in force. What is wrong apply prints itself.
func (e *env) reapply(ctx context.Context, store persist.Store, entry persist.Entry) error {
	applied, err := isApplied(entry.ID)
	if applied || err != nil {
		return err
	}
	out := e.out
	if e.json {
		out = io.Discard // standard output holds one value
	}
	return applyCommand().perform(ctx, append(slices.Clone(entry.Flags), store.File(entry.ID)), out, e.err)
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

// settled waits until the machine has lived for a while after this boot's last update, and forgets the boot then. Somebody must, where the process that
// remembered it is gone: one that was killed (ksplice.service runs this when its own has ended), or that the kernel waited for (arrive).
func (e *env) settled(ctx context.Context, store persist.Store, settle time.Duration) error {
	id, err := persist.Boot()
	if err != nil {
		return err
	}
	a, err := store.Guarded()
	if err != nil || a == nil || a.Boot != id || a.Suspended {
		return err
	}
	// A process that ended by itself, or by the service manager's will, says that the machine is well. See systemd.exec(5).
	if result := os.Getenv("SERVICE_RESULT"); result != "success" && result != "exit-code" && result != "timeout" {
		pause(ctx, settle)
	}
	return store.SettleIf(a)
}

// settleLater has this program do that, beside this process and beyond it.
func settleLater() error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.Command(exe, "persist", "settle")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("wait for how the machine bears it: %w", err)
	}
	return cmd.Process.Release()
}

// guardArrival remembers this boot, and says that it does, before an update that is persistent gets its part for a module that has come: at the next
// boot it would come again.
func guardArrival(store persist.Store, id string) (bool, error) {
	list, err := store.List()
	if err != nil || !slices.ContainsFunc(list, func(p persist.Entry) bool { return p.ID == id }) {
		return false, err
	}
	boot, err := persist.Boot()
	if err != nil {
		return false, err
	}
	err = store.Applying(boot, id)
	return err == nil, err
}

// pause waits, and says whether it waited to the end.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
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
