package trust

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/scrypt"

	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

// decode returns what the second line of a file holds.
func decode(t testing.TB, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(strings.Split(text, "\n")[1]))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func encode(t testing.TB, b []byte) string {
	t.Helper()
	return base64.StdEncoding.EncodeToString(b)
}

// encrypt encrypts a secret key's text as minisign documents it ("Secret key format"), at a small cost: minisign's own takes seconds and a
// gigabyte.
func encrypt(t *testing.T, secret, password string) string {
	t.Helper()
	const operations, memory = 1 << 15, 1 << 24 // of scrypt, as libsodium counts: N 1024, r 8, p 1
	b := decode(t, secret)
	binary.LittleEndian.PutUint16(b[2:], 0x6353) // "Sc"
	copy(b[6:38], "a salt that is no secret at all, ")
	binary.LittleEndian.PutUint64(b[38:], operations)
	binary.LittleEndian.PutUint64(b[46:], memory)
	sum := blake2b.Sum256(append([]byte("Ed"), b[54:126]...))
	copy(b[126:], sum[:])
	stream, err := scrypt.Key([]byte(password), b[6:38], 1024, 8, 1, len(b)-54)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range stream {
		b[54+i] ^= x
	}
	return "untrusted comment: minisign encrypted secret key\n" + encode(t, b) + "\n"
}

// TestSecret reads secret keys, encrypted and not, and such as are none.
func TestSecret(t *testing.T) {
	secret, public, err := Generate("")
	if err != nil {
		t.Fatal(err)
	}
	k := mustRead(t, map[string]string{"k.pub": string(public)})
	swapped := decode(t, string(secret))
	swapped[120] ^= 1 // of the public half
	for _, tt := range []struct {
		name, text, password string
		want                 error
	}{
		{"not encrypted", string(secret), "", nil},
		{"encrypted", encrypt(t, string(secret), "right"), "right", nil},
		{"another password", encrypt(t, string(secret), "right"), "wrong", ErrPassword},
		{"no password", encrypt(t, string(secret), "right"), "", ErrPassword},
		{"a public key", string(public), "", ErrNoSecret},
		{"nothing", "", "", ErrNoSecret},
		{"a damaged key", "untrusted comment: x\n" + encode(t, swapped) + "\n", "", ErrNoSecret},
	} {
		file := filepath.Join(t.TempDir(), "k.key")
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := ReadSecret(file, func() (string, error) { return tt.password, nil })
		var signature Signature
		if err == nil {
			signature, err = s.Sign([]byte("content"), "an update")
		}
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if tt.want != nil {
			continue
		}
		if v, err := k.Verify(time.Now(), Signed{[]Signature{signature}, [][]byte{[]byte("content")}}); err != nil || v.Key != s.ID() {
			t.Errorf("%s: what it signs: %+v, %v", tt.name, v, err)
		}
		again, err := s.Sign([]byte("content"), "an update")
		if err != nil || string(again.Text()) != string(signature.Text()) {
			t.Errorf("%s: a second signature differs (%v)", tt.name, err)
		}
		if _, err := s.Sign(nil, "two\nlines"); err == nil {
			t.Errorf("%s: it signs a comment of two lines", tt.name)
		}
	}
	asked := errors.New("there is no terminal")
	file := filepath.Join(t.TempDir(), "k.key")
	if err := os.WriteFile(file, []byte(encrypt(t, string(secret), "x")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSecret(file, func() (string, error) { return "", asked }); !errors.Is(err, asked) {
		t.Errorf("nobody knows the password: %v", err)
	}
	if _, err := ReadSecret(file+".none", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestMinisign has the program minisign verify what we sign and the other way round, with its keys and ours.
func TestMinisign(t *testing.T) {
	program := need.Program(t, "minisign")
	dir := t.TempDir()
	run := func(stdin string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(stdin string, args ...string) string {
		t.Helper()
		out, err := run(stdin, args...)
		if err != nil {
			t.Fatalf("minisign %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	// Our key, one of minisign's, and that one encrypted at a cost that a test can bear: minisign takes it, so it is as minisign has them.
	secret, public, err := Generate("")
	if err != nil {
		t.Fatal(err)
	}
	write("ours.key", string(secret))
	write("ours.pub", string(public))
	must("", "-G", "-W", "-p", "theirs.pub", "-s", "theirs.key")
	write("encrypted.key", encrypt(t, read("theirs.key"), "a password"))
	write("encrypted.pub", read("theirs.pub"))
	const content = "header and payload"
	write("file", content)
	for _, name := range []string{"ours", "theirs", "encrypted"} {
		write(name+".pub", read(name+".pub")+"valid-from: 2020-01-01\n# a remark\n")
		k := mustRead(t, map[string]string{"k.pub": read(name + ".pub")})
		s, err := ReadSecret(filepath.Join(dir, name+".key"), func() (string, error) { return "a password", nil })
		if err != nil {
			t.Fatal(err)
		}
		signature, err := s.Sign([]byte(content), "update 0badcafe")
		if err != nil {
			t.Fatal(err)
		}
		write("file.minisig", string(signature.Text()))
		if out := must("", "-Vm", "file", "-p", name+".pub"); !strings.Contains(out, "update 0badcafe") {
			t.Errorf("%s: minisign says of our signature: %s", name, out)
		}
		write("file", content+" altered")
		if out, err := run("", "-Vm", "file", "-p", name+".pub"); err == nil {
			t.Errorf("%s: minisign takes our signature of something else: %s", name, out)
		}
		write("file", content)
		for flag, want := range map[string]string{"": "", "-l": "sign anew"} {
			args := append([]string{"-Sm", "file", "-s", name + ".key", "-t", "an update"}, strings.Fields(flag)...)
			must(map[string]string{"encrypted": "a password\n"}[name], args...)
			list, err := ParseSignatures([]byte(read("file.minisig")))
			if want != "" {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: minisign %s: %v, want %q", name, flag, err, want)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s: what minisign signs: %v", name, err)
			}
			if v, err := k.Verify(time.Now(), Signed{list, [][]byte{[]byte(content)}}); err != nil || v.Comment != "an update" {
				t.Errorf("%s: what minisign signs: %+v, %v", name, v, err)
			}
		}
	}
}
