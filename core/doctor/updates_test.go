package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestUpdates(t *testing.T) {
	day := 24 * time.Hour
	enabled := t.TempDir()
	wants := filepath.Join(enabled, "etc/systemd/system/sysinit.target.wants")
	if err := errors.Join(os.MkdirAll(wants, 0o755), os.Symlink("/lib/systemd/system/"+Service, filepath.Join(wants, Service))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		u    Updates
		run  func(*Machine) []Finding
		want []Verdict
	}{
		{"no key", Updates{KeyDirs: []string{"/keys"}}, atKeys, []Verdict{Wrong}},
		{"nobody", Updates{}, atKeys, []Verdict{Wrong}},
		{"a bad key file", Updates{KeysErr: errors.New("acme.pub: writable by everybody"), Unsigned: true}, atKeys, []Verdict{Wrong}},
		{"a key", Updates{Keys: []Trusted{{Name: "acme"}}}, atKeys, []Verdict{Good}},
		{"an expired key", Updates{Keys: []Trusted{{Name: "acme", Until: time.Now().Add(-day)}}}, atKeys, []Verdict{Warning, Wrong}},
		{"an expired key and another", Updates{Keys: []Trusted{{Name: "acme", Until: time.Now().Add(-day)}, {Name: "site"}}}, atKeys, []Verdict{Warning, Good}},
		{"a key that expires soon", Updates{Keys: []Trusted{{Name: "acme", Until: time.Now().Add(day)}}}, atKeys, []Verdict{Warning, Good}},
		{"a key of the future", Updates{Keys: []Trusted{{Name: "acme", From: time.Now().Add(day)}}}, atKeys, []Verdict{Warning, Wrong}},
		{"a machine to try on", Updates{Unsigned: true}, atKeys, []Verdict{Warning}},
		{"nothing at boot", Updates{}, atBoot, nil},
		{"something at boot", Updates{Persistent: 2}, atBoot, []Verdict{Good}},
		{"something at boot, and no service", Updates{Persistent: 2}, notEnabled, []Verdict{Warning}},
		{"something at boot, and a masked service", Updates{Persistent: 2}, masked, []Verdict{Warning}},
		{"something that is not applied", Updates{Persistent: 2, Unapplied: []string{"11111111"}}, atBoot, []Verdict{Warning}},
		{"nobody wants any", Updates{Persistent: 2, Disabled: "a file is there", Unapplied: []string{"11111111"}}, atBoot, []Verdict{Warning}},
		{"somebody who is not root", Updates{PersistentErr: fs.ErrPermission}, atBoot, []Verdict{Warning}},
		{"a boot that died", Updates{Persistent: 2, Suspended: "the boot died"}, atBoot, []Verdict{Warning}},
		{"a damaged list", Updates{PersistentErr: errors.New("damaged")}, atBoot, []Verdict{Warning}},
	} {
		got := c.run(&Machine{Updates: c.u, Root: enabled})
		same := len(got) == len(c.want)
		for i := range got {
			same = same && got[i].Verdict == c.want[i] && got[i].Found != "" && (got[i].Verdict == Good) == (got[i].Do == "")
		}
		if !same {
			t.Errorf("%s: %+v, want %v", c.name, got, c.want)
		}
	}
}

func atKeys(m *Machine) []Finding { return keys(context.Background(), m) }
func notEnabled(m *Machine) []Finding {
	m.Root += "/nowhere"
	return persistent(context.Background(), m)
}
func masked(m *Machine) []Finding {
	unit := filepath.Join(m.Root, "etc/systemd/system", Service)
	if err := os.Symlink(os.DevNull, unit); err != nil {
		return nil
	}
	defer os.Remove(unit)
	return persistent(context.Background(), m)
}
func atBoot(m *Machine) []Finding { return persistent(context.Background(), m) }
