package kerneltest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/update"
)

// Where a machine's trusted keys lie, and a configuration that changes nothing.
const (
	guestKeys = "/etc/ksplice/keys.d"
	noConfig  = "/dev/null"
)

// signers wants only such updates to be applied as somebody has signed whom the machine trusts, and no others to be looked into.
func (l *lab) signers(t *testing.T, file string) {
	unsigned, err := os.ReadFile(filepath.Join(l.share, filepath.Base(file)))
	if err != nil {
		t.Fatal(err)
	}
	// Two key pairs, and the update as each has signed it.
	keys := t.TempDir()
	public := map[string]string{}
	for _, name := range []string{"acme", "mallory"} {
		key, signed := filepath.Join(keys, name), filepath.Join(l.share, name+".ksplice")
		if err := os.WriteFile(signed, unsigned, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"keygen", "--no-password", key}, {"sign", "--key", key + ".key", signed}} {
			if out, errs, exit := l.host(t, args...); exit != exitOK {
				t.Fatalf("%s: exit code %d\n%s%s", strings.Join(args, " "), exit, out, errs)
			}
		}
		b, err := os.ReadFile(key + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		public[name] = string(b)
	}
	// acme's signature below another update, whose digests are right.
	signed, err := update.ReadSealedFile(filepath.Join(l.share, "acme.ksplice"))
	if err != nil {
		t.Fatal(err)
	}
	u, err := signed.Open()
	if err != nil {
		t.Fatal(err)
	}
	u.Manifest.Description += ", or so"
	altered, err := u.Seal()
	if err != nil {
		t.Fatal(err)
	}
	altered.Signatures = signed.Signatures
	if err := altered.WriteFile(filepath.Join(l.share, "altered-signed.ksplice")); err != nil {
		t.Fatal(err)
	}
	l.MustRun(t, "mkdir", "-p", guestKeys)
	acme := guestKeys + "/acme.pub"
	write := func(path, text string) {
		t.Helper()
		if err := l.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// What starts a plugin has looked into the update.
	started := regexp.MustCompile(`arch\.x86_64`)
	refused := func(words, file string, flags ...string) {
		t.Helper()
		out := l.must(t, exitRefused, words, append([]string{"apply", "-vv", "--config", noConfig, "/share/" + file}, flags...)...)
		if started.MatchString(out) {
			t.Errorf("%s is refused, but was looked into:\n%s", file, out)
		}
	}
	refused("this machine trusts nobody's key", filepath.Base(file))
	refused("is not in "+guestKeys, "acme.ksplice")
	write(acme, public["acme"])
	refused("the update is not signed: get one from the vendor that is", filepath.Base(file))
	refused("is not in "+guestKeys, "mallory.ksplice")
	refused("the file was altered since it was signed", "altered-signed.ksplice")
	l.must(t, exitRefused, "the update is not signed", "check", "--config", noConfig, file)
	write(acme, public["acme"]+"valid-until: 2020-12-31\n")
	refused("counted until 2020-12-31", "acme.ksplice")
	write(acme, public["acme"])
	write(guestKeys+"/acme.revoked", public["acme"])
	refused("was revoked", "acme.ksplice")
	l.MustRun(t, "rm", guestKeys+"/acme.revoked")
	l.MustRun(t, "chmod", "666", acme)
	refused(acme+" is writable by everybody", "acme.ksplice")
	l.MustRun(t, "chmod", "644", acme)
	if out := l.must(t, exitOK, "", "status", "--json", "--config", noConfig); strings.Contains(out, `"applied"`) {
		t.Fatalf("status says\n%s", out)
	}

	out := l.must(t, exitOK, "applied", "apply", "-vv", "--attempts", "100", "--config", noConfig, "/share/acme.ksplice")
	if !started.MatchString(out) || !strings.Contains(out, "by acme, key ") {
		t.Errorf("what is signed is applied, but apply says\n%s", out)
	}
	// Whom the machine trusts does not count for undo.
	l.MustRun(t, "rm", acme)
	l.must(t, exitOK, "undone", "undo", "--attempts", "100", "--config", noConfig, l.id(t, file))
	l.must(t, exitOK, "fits", "check", "--config", noConfig, "--allow-unsigned", file)
}
