package engine

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/modsign"
)

// TestReadDemand reads what a kernel under Secure Boot shows, one that enforces signatures by itself, and one that says nothing.
func TestReadDemand(t *testing.T) {
	const keys = "0af90793 I------     2 perm 1f0b0000     0     0 keyring   .builtin_trusted_keys: 1\n" +
		"1a490d18 I------     1 perm 1f010000     0     0 asymmetri Acme: Kernel Updates: 8be94b4a5576027ea82e89fb2d14facc7732576a: X509.rsa 7732576a []\n" +
		"3a1d7af5 I------     1 perm 1f010000     0     0 asymmetri Acme: Kernel Updates: 14011249c2675ea8e5148542202005810584b25f: X509.rsa 0584b25f []\n" +
		"37a020a5 I------     1 perm 1f030000     0     0 asymmetri A build's key: f8737d2b0cb3: X509.ecdsa-nist-p384 db3f1982 []\n"
	for _, c := range []struct {
		files map[string]string
		want  Demand
	}{
		{nil, Demand{}},
		{map[string]string{"sys/kernel/security/lockdown": "none [integrity] confidentiality\n", "proc/keys": keys, "sys/module/module/parameters/sig_enforce": "N\n",
			"proc/sys/kernel/modules_disabled": "0\n"}, Demand{Lockdown: "integrity", Keys: []string{"A build's key", "Acme: Kernel Updates"}}},
		{map[string]string{"sys/kernel/security/lockdown": "[none] integrity confidentiality\n", "sys/module/module/parameters/sig_enforce": "Y\n",
			"proc/sys/kernel/modules_disabled": "1\n"}, Demand{Enforced: true, Disabled: true}},
	} {
		root := t.TempDir()
		for name, text := range c.files {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if d := cmp.Diff(c.want, readDemand(root)); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
	}
}

// signed is a module with a signature.
func signed(t *testing.T) []byte {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c := &x509.Certificate{SerialNumber: big.NewInt(0x2a), Subject: pkix.Name{CommonName: "Vendor"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = modsign.ParseCertificate(der, now); err != nil {
		t.Fatal(err)
	}
	k, err := modsign.LoadKey(x509.MarshalPKCS1PrivateKey(key), c)
	if err != nil {
		t.Fatal(err)
	}
	module, err := k.Sign(t.Context(), []byte("a module"), "sha256")
	if err != nil {
		t.Fatal(err)
	}
	return module
}

// TestRefused says why the loader refused modules.
func TestRefused(t *testing.T) {
	good := signed(t)
	locked, enforced, plain := Demand{Lockdown: "integrity", Keys: []string{"Acme"}}, Demand{Enforced: true}, Demand{}
	unsigned, garbled := []byte("a module"), []byte("a module~Module signature appended~\n")
	for _, c := range []struct {
		demand Demand
		module []byte
		errno  unix.Errno
		words  string // empty: it is not the signature
	}{
		{locked, unsigned, unix.EPERM, "it is not signed, and this kernel loads signed modules only (its lockdown, which Secure Boot begins, is integrity)"},
		{enforced, unsigned, unix.EKEYREJECTED, "(module.sig_enforce is set): have the vendor"},
		{locked, garbled, unix.EBADMSG, "cannot verify its signature"},
		{locked, good, unix.EPERM, "it is signed by CN=Vendor, serial 2a, whose certificate is not among those that this kernel verifies modules with (its lockdown, which " +
			"Secure Boot begins, is integrity; it has Acme): get that certificate from the vendor and enrol it"},
		{enforced, good, unix.EKEYREJECTED, "(module.sig_enforce is set; it has none that it names): get that certificate from the vendor and " +
			"enrol it with `mokutil --import CERT.der` and a reboot, or in the firmware's db; where it is enrolled already, the module was altered"},
		{Demand{Enforced: true, Keys: []string{"Acme: Vendor"}}, good, unix.EKEYREJECTED, "its signature by CN=Vendor, serial 2a is refused: the module was altered"},
		{Demand{Enforced: true, Keys: []string{"Vendors"}}, good, unix.EKEYREJECTED, "it has Vendors"},
		{locked, good, unix.EKEYREJECTED, "its signature by CN=Vendor, serial 2a is refused: the module was altered"},
		{plain, good, unix.EBADMSG, "its signature by CN=Vendor, serial 2a is refused: the module was altered"},
		{locked, good, unix.ENOPKG, "cannot verify its signature: it has no sha256 with rsa"},
		{plain, unsigned, unix.EPERM, ""},
		{Demand{Lockdown: "integrity", Disabled: true}, unsigned, unix.EPERM, ""},
		{locked, unsigned, unix.ENOEXEC, ""},
		{locked, unsigned, unix.EINVAL, ""},
	} {
		err := c.demand.refused("ksplice_x_vmlinux", c.module, c.errno)
		if c.words == "" && err != nil || c.words != "" && (err == nil || !strings.Contains(err.Error(), c.words) || !errors.Is(err, c.errno)) {
			t.Errorf("%v: %v, want %q", c.errno, err, c.words)
		}
	}
	if err := locked.Loadable("x", unsigned); err == nil || !strings.Contains(err.Error(), "have the vendor make the update with its key") {
		t.Errorf("an unsigned module is loadable: %v", err)
	}
	if err := errors.Join(plain.Loadable("x", unsigned), locked.Loadable("x", garbled)); err != nil {
		t.Error(err)
	}
	if err := locked.Writable("x", "ops.peek"); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "ops.peek") {
		t.Errorf("data of a kernel that is locked down are writable: %v", err)
	}
	if err := errors.Join(plain.Writable("x", "ops.peek"), enforced.Writable("x", "ops.peek")); err != nil {
		t.Error(err)
	}
}
