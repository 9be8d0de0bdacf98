package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Updates is what the machine has decided about updates: whose it takes, and which are applied at boot.
type Updates struct {
	// Keys are the trusted keys by name, each with the instant behind its last day (zero: none); KeysErr says why nobody is trusted.
	Keys    []Trusted
	KeysErr error
	// KeyDirs are the directories in which they lie; the configuration may name none.
	KeyDirs []string
	// Unsigned says that the configuration takes what nobody has signed.
	Unsigned bool
	// Persistent is how many are applied at boot of the running kernel, Unapplied are the IDs of those that are not now. Suspended says why none is since a
	// boot died of it, Disabled why none is by an administrator's will, PersistentErr why all that is not known.
	Persistent    int
	Unapplied     []string
	Suspended     string
	Disabled      string
	PersistentErr error
}

// Trusted is a key.
type Trusted struct {
	Name        string
	From, Until time.Time
}

// soon is how long before its end a key is warned of.
const soon = 30 * 24 * time.Hour

// keys are those of whom the machine takes updates.
func keys(_ context.Context, m *Machine) []Finding {
	u := &m.Updates
	if u.KeysErr != nil {
		return []Finding{{Wrong, "nobody is trusted: " + u.KeysErr.Error(), "mend the file; until then every update is refused"}}
	}
	var out []Finding
	if u.Unsigned {
		out = append(out, Finding{Warning, "the configuration takes updates that nobody has signed", "take allow_unsigned out of [trust], unless updates are tried on this machine"})
	}
	now := time.Now()
	var valid []string
	for _, k := range u.Keys {
		switch {
		case !k.Until.IsZero() && !now.Before(k.Until):
			out = append(out, Finding{Warning, fmt.Sprintf("key %s has expired", k.Name), "get the new key of its owner, and compare it with what he publishes"})
			continue
		case !k.Until.IsZero() && now.Add(soon).After(k.Until):
			out = append(out, Finding{Warning, fmt.Sprintf("key %s expires on %s", k.Name, k.Until.Add(-time.Second).Format(time.DateOnly)), "get the new key of its owner"})
		case now.Before(k.From):
			out = append(out, Finding{Warning, fmt.Sprintf("key %s is not valid before %s", k.Name, k.From.Format(time.DateOnly)), "wait until then, or look at the clock"})
			continue
		}
		valid = append(valid, k.Name)
	}
	switch {
	case len(valid) > 0:
		out = append(out, Finding{Verdict: Good, Found: "updates are taken of " + strings.Join(valid, ", ")})
	case !u.Unsigned && len(u.KeyDirs) == 0:
		out = append(out, Finding{Wrong, "the configuration has this machine trust nobody (keys of [trust] is empty), so that every update is refused",
			"name the directory of the keys there, or take the line out"})
	case !u.Unsigned:
		out = append(out, Finding{Wrong, "no key is trusted, so that every update is refused",
			fmt.Sprintf("put the vendor's key into %s (ksplice verify --help)", strings.Join(u.KeyDirs, " or "))})
	}
	return out
}

// Service applies persistent updates at boot.
const Service = "ksplice.service"

// ServiceEnabled says whether it is run at boot (systemctl enable, and not mask), by the file system below root.
func ServiceEnabled(root string) bool {
	const dir = "/etc/systemd/system"
	if to, err := os.Readlink(filepath.Join(root, dir, Service)); err == nil && to == os.DevNull {
		return false
	}
	_, err := os.Lstat(filepath.Join(root, dir, "sysinit.target.wants", Service))
	return err == nil
}

// persistent are the updates that are applied at boot.
func persistent(_ context.Context, m *Machine) []Finding {
	u := &m.Updates
	switch {
	case errors.Is(u.PersistentErr, fs.ErrPermission):
		return unknown(u.PersistentErr)
	case u.PersistentErr != nil:
		return []Finding{{Warning, u.PersistentErr.Error(), "until then nothing is applied at boot"}}
	case u.Suspended != "":
		return []Finding{{Warning, u.Suspended, "take the update away that did it (ksplice persist remove ID), then ksplice persist resume"}}
	case u.Persistent == 0:
		return nil
	case !ServiceEnabled(m.Root):
		return []Finding{{Warning, fmt.Sprintf("%d are for this kernel, and nothing applies them at boot", u.Persistent), "systemctl unmask " + Service + ", systemctl enable " + Service}}
	case u.Disabled != "":
		return []Finding{{Warning, fmt.Sprintf("%d are for this kernel, and none is applied at boot: %s", u.Persistent, u.Disabled), "take that away when updates are to be applied again"}}
	case len(u.Unapplied) > 0:
		return []Finding{{Warning, "not applied now: " + strings.Join(u.Unapplied, ", "), "journalctl -b -u " + Service + " says why; systemctl restart " + Service + " tries again"}}
	}
	return []Finding{{Verdict: Good, Found: fmt.Sprintf("%d applied at each boot of this kernel", u.Persistent)}}
}
