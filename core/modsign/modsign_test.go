package modsign

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

var (
	now    = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	module = bytes.Repeat([]byte("the bytes of a module"), 100)
)

// certify makes a self-signed certificate.
func certify(t testing.TB, key crypto.Signer, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(0x7d8d22b7), Subject: pkix.Name{CommonName: "Acme Kernel Updates", Organization: []string{"Acme"}},
		NotBefore: now.AddDate(0, 0, -1), NotAfter: now.AddDate(1, 0, 0), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		SubjectKeyId: []byte{1, 2, 3, 4}}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func pkcs8(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func asPEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func write(t testing.TB, dir, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSign has OpenSSL judge what we sign, and wants to read it back.
func TestSign(t *testing.T) {
	curve, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, signer := range map[string]crypto.Signer{"rsa": rsaKey(t, 2048), "ecdsa": curve} {
		cert := certify(t, signer, nil)
		key, err := LoadKey(asPEM("PRIVATE KEY", pkcs8(t, signer)), cert)
		if err != nil {
			t.Fatal(err)
		}
		for _, hash := range []Hash{"sha256", "sha384", "sha512"} {
			t.Run(name+" "+string(hash), func(t *testing.T) {
				signed, err := key.Sign(t.Context(), module, hash)
				if err != nil {
					t.Fatal(err)
				}
				if again, err := key.Sign(t.Context(), module, hash); err != nil || !bytes.Equal(signed, again) {
					t.Errorf("signed twice it is two signatures (%v)", err)
				}
				s, err := Parse(signed)
				if err != nil {
					t.Fatal(err)
				}
				if s.Hash != string(hash) || s.Algorithm != name || s.String() != "CN=Acme Kernel Updates,O=Acme, serial 7d8d22b7" {
					t.Errorf("read back: %s with %s by %s", s.Hash, s.Algorithm, s)
				}
				if err := s.Verify(cert); err != nil {
					t.Error(err)
				}
				content, message, err := split(signed)
				if err != nil || !bytes.Equal(content, module) {
					t.Fatalf("what was signed is not the module (%v)", err)
				}
				verifyWithOpenSSL(t, message, cert)
				if _, err := key.Sign(t.Context(), signed, hash); err == nil {
					t.Error("it was signed twice")
				}
			})
		}
	}
}

func verifyWithOpenSSL(t *testing.T, message []byte, cert *x509.Certificate) {
	t.Helper()
	openssl := need.Program(t, "openssl")
	dir := t.TempDir()
	out, err := exec.Command(openssl, "cms", "-verify", "-binary", "-inform", "DER", "-in", write(t, dir, "signature", message), "-content", write(t, dir, "module", module),
		"-certfile", write(t, dir, "cert", asPEM("CERTIFICATE", cert.Raw)), "-nointern", "-noverify", "-out", os.DevNull).CombinedOutput()
	if err != nil {
		t.Errorf("openssl cms -verify: %v\n%s", err, out)
	}
}

// TestVerify wants signatures of other keys, over other bytes and with other names to be refused.
func TestVerify(t *testing.T) {
	signer := rsaKey(t, 2048)
	cert := certify(t, signer, nil)
	key, err := LoadKey(pkcs8(t, signer), cert)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := key.Sign(t.Context(), module, "sha256")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Parse(signed)
	if err != nil {
		t.Fatal(err)
	}
	other := certify(t, rsaKey(t, 2048), func(c *x509.Certificate) { c.Subject.CommonName = "Other" })
	if err := s.Verify(other); err == nil || !strings.Contains(err.Error(), "not by CN=Other") {
		t.Errorf("another's certificate: %v", err)
	}
	namesake := certify(t, rsaKey(t, 2048), nil)
	if err := s.Verify(namesake); err == nil || !strings.Contains(err.Error(), "not one of the key of") {
		t.Errorf("a namesake's certificate: %v", err)
	}
	altered := bytes.Clone(signed)
	altered[5] ^= 1
	if s, err = Parse(altered); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(cert); err == nil || !strings.Contains(err.Error(), "not one of the key of") {
		t.Errorf("an altered module: %v", err)
	}
}

// TestParse gives it what is no signature.
func TestParse(t *testing.T) {
	signer := rsaKey(t, 2048)
	key, err := LoadKey(pkcs8(t, signer), certify(t, signer, nil))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := key.Sign(t.Context(), module, "sha256")
	if err != nil {
		t.Fatal(err)
	}
	_, message, err := split(signed)
	if err != nil {
		t.Fatal(err)
	}
	for _, unsigned := range [][]byte{nil, module, signed[:len(signed)-1]} {
		if _, err := Parse(unsigned); !errors.Is(err, ErrUnsigned) {
			t.Errorf("%d bytes: %v, want %v", len(unsigned), err, ErrUnsigned)
		}
	}
	trailing := func(change func(b []byte)) []byte {
		b := bytes.Clone(signed)
		change(b[len(b)-len(marker)-trailerSize:])
		return b
	}
	for words, b := range map[string][]byte{
		"it is cut off":             []byte("x" + marker),
		"not that of a PKCS#7":      trailing(func(b []byte) { b[2] = 1 }),
		"struct module_signature":   trailing(func(b []byte) { b[0] = 1 }),
		"bytes of message in":       trailing(func(b []byte) { b[8] = 0xff }),
		"no PKCS#7 message in DER":  appendTo(module, message[1:]),
		"1 bytes follow the PKCS#7": appendTo(module, append(bytes.Clone(message), 0)),
	} {
		if _, err := Parse(b); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("want %q: %v", words, err)
		}
	}
	for i := range message { // whatever it holds, it is an answer and no panic
		b := bytes.Clone(message)
		b[i] ^= 0x55
		_, _ = Parse(appendTo(module, b))
	}
}

func FuzzParse(f *testing.F) {
	signer := rsaKey(f, 2048)
	key, err := LoadKey(pkcs8(f, signer), certify(f, signer, nil))
	if err != nil {
		f.Fatal(err)
	}
	signed, err := key.Sign(f.Context(), module, "sha256")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := Parse(b); err == nil && (len(s.content) >= len(b) || s.String() == "") {
			t.Errorf("%d bytes of content in %d, signed by %q", len(s.content), len(b), s)
		}
	})
}

// TestKeys reads keys and certificates in every form, and refuses what cannot or should not sign.
func TestKeys(t *testing.T) {
	signer := rsaKey(t, 2048)
	cert := certify(t, signer, nil)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(curve)
	if err != nil {
		t.Fatal(err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := x509.MarshalPKCS1PrivateKey(signer)
	both := append(asPEM("CERTIFICATE", cert.Raw), asPEM("RSA PRIVATE KEY", pkcs1)...)
	for name, c := range map[string]struct {
		key  []byte
		cert *x509.Certificate
	}{
		"PKCS#8": {pkcs8(t, signer), cert}, "PKCS#8 in PEM": {asPEM("PRIVATE KEY", pkcs8(t, signer)), cert}, "PKCS#1": {pkcs1, cert},
		"with its certificate": {both, cert}, "SEC 1": {sec1, certify(t, curve, nil)}, "SEC 1 in PEM": {asPEM("EC PRIVATE KEY", sec1), certify(t, curve, nil)},
	} {
		if _, err := LoadKey(c.key, c.cert); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: pkcs1})
	for words, key := range map[string][]byte{
		"their public keys differ":          pkcs8(t, rsaKey(t, 2048)),
		"the key is encrypted":              encrypted,
		"encrypted: decrypt it":             asPEM("ENCRYPTED PRIVATE KEY", pkcs1),
		"holds no private key":              asPEM("CERTIFICATE", cert.Raw),
		"none that is known":                []byte("a key"),
		"modules are signed with RSA or EC": pkcs8(t, edwards),
	} {
		if _, err := LoadKey(key, cert); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("want %q: %v", words, err)
		}
	}
	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GODEBUG", "rsa1024min=0")
	for words, file := range map[string][]byte{
		"has an RSA key of 1024 bits": certify(t, rsaKey(t, 1024), nil).Raw,
		"curve P-224":                 certify(t, small, nil).Raw,
		"a key of kind Ed25519":       certify(t, edwards, nil).Raw,
		"expired on 1 January 2026":   certify(t, signer, func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, 0, -1) }).Raw,
		"not valid before 3 January":  certify(t, signer, func(c *x509.Certificate) { c.NotBefore = now.AddDate(0, 0, 1) }).Raw,
		"holds no certificate":        asPEM("PRIVATE KEY", pkcs8(t, signer)),
		"none in PEM or DER":          []byte("a certificate"),
	} {
		if _, err := ParseCertificate(file, now); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("want %q: %v", words, err)
		}
	}
	if c, err := ParseCertificate(both, now); err != nil || !c.Equal(cert) {
		t.Errorf("a file with both: %v", err)
	}
	if n := Notes(cert); n != nil {
		t.Errorf("notes on a certificate for code: %q", n)
	}
	server := certify(t, signer, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	if n := Notes(server); len(n) != 1 || !strings.Contains(n[0], "not for signing code") {
		t.Errorf("notes on a server's certificate: %q", n)
	}
}

// TestHashFor chooses by configurations as kernels have them.
func TestHashFor(t *testing.T) {
	for _, c := range []struct {
		config map[string]string
		want   Hash
	}{
		{map[string]string{"CONFIG_MODULE_SIG_HASH": "sha256", "CONFIG_CRYPTO_SHA256": "y", "CONFIG_CRYPTO_SHA512": "m"}, "sha256"},
		{map[string]string{"CONFIG_MODULE_SIG_HASH": "sha512", "CONFIG_CRYPTO_SHA256": "y", "CONFIG_CRYPTO_SHA512": "y"}, "sha512"},
		{map[string]string{"CONFIG_MODULE_SIG_HASH": "sha1", "CONFIG_CRYPTO_SHA256": "y", "CONFIG_CRYPTO_SHA512": "m"}, "sha256"},
		{map[string]string{"CONFIG_MODULE_SIG_HASH": "sha3-256", "CONFIG_CRYPTO_SHA256": "y", "CONFIG_CRYPTO_SHA512": "y"}, "sha512"},
		{map[string]string{"CONFIG_CRYPTO_SHA256": "m"}, ""},
	} {
		got, err := HashFor(c.config)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("HashFor(%v) = %q, %v, want %q", c.config, got, err, c.want)
		}
	}
	if err := Verifies(map[string]string{}, "ecdsa"); err == nil {
		t.Error("a kernel without ECDSA verifies it")
	}
	if err := Verifies(map[string]string{"CONFIG_CRYPTO_ECDSA": "y"}, "ecdsa"); err != nil {
		t.Error(err)
	}
}

// TestCommand signs with commands, good and bad ones.
func TestCommand(t *testing.T) {
	signer := rsaKey(t, 2048)
	cert := certify(t, signer, nil)
	key, err := LoadKey(pkcs8(t, signer), cert)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := key.Sign(t.Context(), module, "sha256")
	if err != nil {
		t.Fatal(err)
	}
	_, message, err := split(signed)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	whole, detached := write(t, dir, "whole", signed), write(t, dir, "detached", message)
	for _, line := range []string{"install -m 600 " + whole,
		"f() { cat " + detached + `; }; [ "$KSPLICE_MODULE_HASH" = sha256 ] && [ -s "$1" ] && f`} {
		got, err := (&Command{Line: line, Cert: cert}).Sign(t.Context(), module, "sha256")
		if err != nil || !bytes.Equal(got, signed) {
			t.Errorf("%s: %v", line, err)
		}
	}
	other := certify(t, rsaKey(t, 2048), func(c *x509.Certificate) { c.Subject.CommonName = "Other" })
	for _, c := range []struct {
		line, words string
		cert        *x509.Certificate
	}{
		{"true", "neither signed the file", cert},
		{"echo no PIN >&2; false", "no PIN", cert},
		{"echo hello; :", "no PKCS#7 message in DER", cert},
		{"echo more >>", "has no signature", cert},
		{"install -m 600 " + write(t, dir, "changed", append([]byte("x"), signed...)), "changed the module itself", cert},
		{"install -m 600 " + whole, "not by CN=Other", other},
	} {
		if _, err := (&Command{Line: c.line, Cert: c.cert}).Sign(t.Context(), module, "sha256"); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %q", c.line, err, c.words)
		}
	}
}

// asksVariable has TestAsk, in a process that has a terminal of its own, sign with what it holds.
const asksVariable = "KSPLICE_TEST_ASKS"

// TestAsk: a command asks at the terminal and gets its answer; one that is killed leaves the terminal as it was.
func TestAsk(t *testing.T) {
	if line := os.Getenv(asksVariable); line != "" {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := (&Command{Line: line}).Sign(ctx, module, "sha256")
		state, stateErr := unix.IoctlGetTermios(0, unix.TCGETS)
		fmt.Fprintf(os.Stderr, "signed: %v, echo: %t\n", err, stateErr == nil && state.Lflag&unix.ECHO != 0)
		return
	}
	signer := rsaKey(t, 2048)
	key, err := LoadKey(pkcs8(t, signer), certify(t, signer, nil))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := key.Sign(t.Context(), module, "sha256")
	if err != nil {
		t.Fatal(err)
	}
	whole := write(t, t.TempDir(), "whole", signed)
	ask := `f() { stty -echo </dev/tty && printf "PIN? " >/dev/tty && read -r pin </dev/tty && [ "$pin" = 1234 ] && install -m 600 ` + whole + ` "$1"; }; f`
	for answer, want := range map[string]string{"1234\n": "signed: <nil>", "4321\n": "exit status 1", "": "deadline exceeded"} {
		ours, theirs := terminal(t)
		cmd := exec.Command(os.Args[0], "-test.run=^TestAsk$")
		cmd.Env = append(os.Environ(), asksVariable+"="+ask)
		var errs bytes.Buffer
		cmd.Stdin, cmd.Stderr = theirs, &errs
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		// With its last end on that side the terminal goes, and nobody waits for a question any more.
		if err := errors.Join(cmd.Start(), theirs.Close()); err != nil {
			t.Fatal(err)
		}
		for asked := ""; !strings.Contains(asked, "PIN? "); {
			b := make([]byte, 64)
			n, err := ours.Read(b)
			if asked += string(b[:n]); err != nil {
				t.Fatalf("asked for %q: %v", asked, err)
			}
		}
		if _, err := ours.WriteString(answer); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil || !strings.Contains(errs.String(), want) || !strings.Contains(errs.String(), "echo: true") {
			t.Errorf("with answer %q: %v, %s, want %q, and the echo", answer, err, errs.String(), want)
		}
	}
}

// terminal makes a pseudo-terminal, and returns both of its ends (pty(7)): the caller closes theirs.
func terminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	n, err := unix.IoctlGetUint32(int(ours.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}
