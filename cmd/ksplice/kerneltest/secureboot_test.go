package kerneltest

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ksplice/ksplice/core/modsign"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// guestUnsigned is the kernel module as it is built, without a signature.
const guestUnsigned = "/lib/unsigned.ko"

// TestSecureBoot boots through firmware with Secure Boot on, in whose database is a vendor's certificate: what the vendor signed is loaded,
// applied and undone, nothing else is, and memory is served as the kernel's lockdown says.
func TestSecureBoot(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		if !turn(series, "6.12") {
			t.Skip("SKIPPED: its turn is with 6.12; `make road` takes both")
		}
		l := prepare(t, series)
		vendor, stranger := newVendor(t, "Acme Kernel Updates"), newVendor(t, "Stranger")
		unsigned := l.signedUpdate(t, "unsigned")
		signed := l.signedUpdate(t, "signed", "--module-key", vendor.key, "--module-cert", vendor.cert)
		strange := l.signedUpdate(t, "strange", "--module-key", stranger.key, "--module-cert", stranger.cert)
		sets := l.create(t, "sets", []byte(rateHunk(7)), "--module-key", vendor.key, "--module-cert", vendor.cert)
		l.signedByCommand(t, signed, vendor)
		l.files[guestUnsigned] = l.kmod
		l.files[guestKmod] = vendor.sign(t, l.kmod)

		start := time.Now()
		l.Guest = vmtest.Test(t, vmtest.Options{Kernel: l.kernel, Files: l.files, Share: l.share, SecureBoot: [][]byte{vendor.der}})
		if level := l.MustRun(t, "cat", "/sys/kernel/security/lockdown"); !strings.Contains(level, "[integrity]") {
			t.Fatalf("the kernel's lockdown is %q", level)
		}
		t.Logf("booted in %v", time.Since(start).Round(time.Second))
		l.lockedModule(t, signed)
		id := l.id(t, signed)
		for _, file := range []string{unsigned, strange} {
			if other := l.id(t, file); other != id {
				t.Errorf("the update %s has the ID %s, and signed by the vendor %s", file, other, id)
			}
		}
		l.must(t, exitOK, "by CN=Acme Kernel Updates, serial ", "inspect", signed)

		same := l.saveText(t)
		words := &examples.All[0].Show[0]
		for _, command := range []string{"check", "apply"} {
			l.must(t, exitRefused, "it is not signed, and this kernel loads signed modules only (its lockdown, which Secure Boot begins, is integrity)", command, unsigned)
		}
		if text := l.must(t, exitRefused, "it is signed by CN=Stranger, serial ", "apply", strange); !strings.Contains(text, "it has Acme Kernel Updates, ") {
			t.Errorf("whose certificates the kernel has is not told:\n%s", text)
		}
		l.must(t, exitRefused, "the module was altered behind it", "apply", l.altered(t, signed))
		l.sees(t, words, "old")
		l.apply(t, signed)
		l.sees(t, words, "new")
		l.undo(t, id)
		l.sees(t, words, "old")
		l.MustRun(t, guestTool, "transfer", "locked")
		l.lockedData(t, sets)
		same()
		l.clean(t)
		l.confidential(t, signed)
	})
}

// lockedModule loads the kernel module, which must be signed; check wants it for nothing.
func (l *lab) lockedModule(t *testing.T, signed string) {
	l.must(t, exitOK, "fits", "check", signed)
	l.must(t, exitRefused, "it must be signed: dkms does that with a key that is enrolled once", "apply", signed)
	if r, err := l.Run(t.Context(), "insmod", guestUnsigned); err != nil || r.Exit == 0 {
		t.Fatalf("the kernel module is loaded without a signature (%v)", err)
	}
	l.MustRun(t, "insmod", guestKmod)
}

// lockedData wants no field of data to be set, though the vendor signed the update that does: where the field lies nobody signed.
func (l *lab) lockedData(t *testing.T, sets string) {
	const words = "it changes initial values of data, which the kernel's lockdown forbids"
	for _, command := range []string{"check", "apply"} {
		l.must(t, exitRefused, "sets printk_ratelimit_state.interval: "+words, command, sets)
	}
	// Where the command does not see that the kernel is locked down, the kernel module does.
	l.MustRun(t, "umount", "/sys/kernel/security")
	l.must(t, exitRefused, "commit the update: operation not permitted; "+words, "apply", sets)
	l.MustRun(t, "mount", "-t", "securityfs", "securityfs", "/sys/kernel/security")
	l.rate(t, "5")
}

// confidential raises the lockdown to where nobody reads kernel memory: nothing is applied any more, and what is applied goes.
func (l *lab) confidential(t *testing.T, signed string) {
	words := &examples.All[0].Show[0]
	l.apply(t, signed)
	l.sees(t, words, "new")
	l.MustRun(t, "sh", "-c", "echo confidentiality > /sys/kernel/security/lockdown")
	l.MustRun(t, guestTool, "begin")
	l.undo(t, l.id(t, signed))
	l.sees(t, words, "old")
	l.clean(t)
	for _, command := range []string{"check", "apply"} {
		l.must(t, exitRefused, "nothing can be proved of this kernel", command, signed)
	}
	l.MustRun(t, "rmmod", "ksplice")
	l.must(t, exitRefused, "with lockdown=integrity, or with none, it can be read", "check", signed)
}

// signedUpdate makes the update of the first example, and returns its path in the guest.
func (l *lab) signedUpdate(t *testing.T, name string, args ...string) string {
	text, err := examples.All[0].Patch(l.series())
	if err != nil {
		t.Fatal(err)
	}
	return l.create(t, name, text, append([]string{"--description", "signed or not"}, args...)...)
}

// signedByCommand has the kernel's own sign-file sign the parts: the update is the same, bit for bit.
func (l *lab) signedByCommand(t *testing.T, signed string, v *vendor) {
	found, err := filepath.Glob(filepath.Join(l.kernel.KDir, "../../lib/linux-kbuild-*/scripts/sign-file"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the kernel's sign-file: %q (%v)", found, err)
	}
	file := l.signedUpdate(t, "by-command", "--module-signer", "'"+found[0]+"' $KSPLICE_MODULE_HASH "+v.key+" "+v.cert, "--module-cert", v.cert)
	ours, theirs := l.readShared(t, signed), l.readShared(t, file)
	if !bytes.Equal(ours, theirs) {
		t.Error("signed by sign-file the update is another")
	}
}

// altered changes a byte of a signed part, and all digests with it.
func (l *lab) altered(t *testing.T, file string) string {
	u, err := update.Read(bytes.NewReader(l.readShared(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	p := &u.Manifest.Parts[0]
	part := u.Files[p.File]
	const word = "description="
	at := bytes.Index(part, []byte(word))
	if at < 0 {
		t.Fatal("the part has no description to alter")
	}
	part[at+len(word)] ^= 1
	p.SHA256 = update.Digest(part)
	if err := u.WriteFile(filepath.Join(l.share, "altered.ksplice")); err != nil {
		t.Fatal(err)
	}
	return "/share/altered.ksplice"
}

// readShared reads a file that the guest sees too.
func (l *lab) readShared(t *testing.T, guest string) []byte {
	b, err := os.ReadFile(filepath.Join(l.share, filepath.Base(guest)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vendor is a key with its certificate, in files.
type vendor struct {
	dir, key, cert string
	der            []byte
}

func newVendor(t *testing.T, name string) *vendor {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
	v := &vendor{dir: t.TempDir()}
	if v.der, err = x509.CreateCertificate(rand.Reader, c, c, key.Public(), key); err != nil {
		t.Fatal(err)
	}
	v.key, v.cert = filepath.Join(v.dir, "key.pem"), filepath.Join(v.dir, "cert.pem")
	for path, b := range map[string]*pem.Block{v.key: {Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}, v.cert: {Type: "CERTIFICATE", Bytes: v.der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

// sign signs a module as dkms would, and returns the signed file.
func (v *vendor) sign(t *testing.T, file string) string {
	module, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := modsign.ParseCertificate(v.der, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(v.key)
	if err != nil {
		t.Fatal(err)
	}
	key, err := modsign.LoadKey(text, cert)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := key.Sign(t.Context(), module, "sha256")
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(v.dir, filepath.Base(file))
	if err := os.WriteFile(out, signed, 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}
