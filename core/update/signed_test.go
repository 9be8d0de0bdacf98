package update

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ksplice/ksplice/core/trust"
)

// signer makes a key, and reads what was made as a machine that trusts it.
func signer(t testing.TB) (*trust.Secret, *trust.Keys) {
	t.Helper()
	dir := t.TempDir()
	secret, public, err := trust.Generate("")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "test.key")
	if err := errors.Join(os.WriteFile(file, secret, 0o600), os.WriteFile(filepath.Join(dir, "test.pub"), public, 0o644)); err != nil {
		t.Fatal(err)
	}
	s, err := trust.ReadSecret(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := trust.ReadKeys([]string{dir}, false)
	if err != nil {
		t.Fatal(err)
	}
	return s, keys
}

func sign(t testing.TB, by *trust.Secret, s *Sealed) *Sealed {
	t.Helper()
	x, err := by.Sign(s.Content, "an update")
	if err == nil {
		err = s.Sign(x)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// signed is an update with a signature of a key that nobody has.
func signed(t testing.TB, u *Update) *Sealed {
	t.Helper()
	s, err := u.Seal()
	if err != nil {
		t.Fatal(err)
	}
	by, _ := signer(t)
	return sign(t, by, s)
}

// TestSigned: signatures change nothing of the update, and come back as they were; of a file's other bytes they bear no change.
func TestSigned(t *testing.T) {
	vendor, vendors := signer(t)
	site, sites := signer(t)
	s, err := sample().Seal()
	if err != nil {
		t.Fatal(err)
	}
	plain := s.Bytes()
	if !bytes.Equal(plain, encode(t, sample())) {
		t.Error("an update without signatures is not what Write writes")
	}
	sign(t, site, sign(t, vendor, sign(t, vendor, s)))
	path := filepath.Join(t.TempDir(), "signed.ksplice")
	if err := s.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	back, err := ReadSealedFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back.Content, plain) || len(back.Signatures) != 2 || !bytes.Equal(back.Bytes(), s.Bytes()) {
		t.Errorf("read again it has %d signatures and %d bytes, want 2 and %d", len(back.Signatures), len(back.Content), len(plain))
	}
	u, err := back.Open()
	if err != nil || u.Manifest.ID != sample().Manifest.ID {
		t.Errorf("the update in it: %v", err)
	}
	trusted := func(k *trust.Keys, s *Sealed) error {
		_, err := k.Verify(time.Now(), trust.Signed{Signatures: s.Signatures, Contents: [][]byte{s.Content}})
		return err
	}
	for _, k := range []*trust.Keys{vendors, sites} {
		if err := trusted(k, back); err != nil {
			t.Error(err)
		}
	}
	for i := range plain {
		b := s.Bytes()
		b[i] ^= 0x20
		if x, err := ReadSealed(bytes.NewReader(b)); err == nil && trusted(vendors, x) == nil {
			t.Errorf("with byte %d altered it is trusted", i)
		}
	}
	// Who makes the digest right again has altered what is signed.
	other := sample()
	other.Manifest.Description = "another example"
	o, err := other.Seal()
	if err != nil {
		t.Fatal(err)
	}
	o.Signatures = back.Signatures
	if o, err = ReadSealed(bytes.NewReader(o.Bytes())); err != nil || trusted(vendors, o) == nil {
		t.Errorf("another update with the same signatures is trusted (%v)", err)
	}
}

// TestBehind: what follows the payload are whole signatures, or the file is no update.
func TestBehind(t *testing.T) {
	s := signed(t, sample())
	whole := s.Bytes()
	for n := len(s.Content) + 1; n < len(whole); n++ {
		if _, err := Read(bytes.NewReader(whole[:n])); !errors.Is(err, ErrAltered) {
			t.Fatalf("with %d of %d bytes of its signature: %v, want %v", n-len(s.Content), len(whole)-len(s.Content), err, ErrAltered)
		}
	}
	for name, tail := range map[string]string{"a byte": "x", "lines": "a\nb\nc\nd\n", "more than signatures may have": strings.Repeat("x\n", trust.MaxSignatures)} {
		if _, err := Read(bytes.NewReader(append(bytes.Clone(whole), tail...))); !errors.Is(err, ErrAltered) {
			t.Errorf("%s behind the signatures: %v, want %v", name, err, ErrAltered)
		}
	}
	// A ksplice of before would not have passed over them either.
	old := bytes.Clone(whole)
	binary.LittleEndian.PutUint32(old[8:], signedVersion-1)
	if _, err := Read(bytes.NewReader(old)); !errors.Is(err, ErrAltered) || !strings.Contains(err.Error(), "bytes follow the payload") {
		t.Errorf("signatures in a file of version %d: %v", signedVersion-1, err)
	}
	o, err := ReadSealed(bytes.NewReader(old[:len(s.Content)]))
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Sign(s.Signatures[0]); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "minisign -Sm FILE") {
		t.Errorf("signing a file of version %d: %v", signedVersion-1, err)
	}
}

// TestWriteFile: what is there keeps its mode and its owner, links stay links, and what is no file stays what it is.
func TestWriteFile(t *testing.T) {
	s := signed(t, sample())
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	defer syscall.Umask(syscall.Umask(0o027))
	must(errors.Join(os.WriteFile(at("old"), nil, 0o600), os.MkdirAll(at("sub/deep"), 0o755), os.WriteFile(at("sub/file"), nil, 0o600), os.Chmod(at("sub/file"), 0o664),
		os.Symlink("sub/deep", at("dir")), os.Symlink("dir/../file", at("link")), os.Symlink(at("dir/to"), at("dangling")), os.Symlink("../made", at("sub/deep/to")),
		os.Symlink("loop", at("loop")), syscall.Mkfifo(at("pipe"), 0o600)))
	if os.Geteuid() == 0 {
		must(os.Chown(at("old"), 7, 8))
	}
	for name, want := range map[string]struct {
		file string
		mode os.FileMode
	}{"new": {"new", 0o640}, "old": {"old", 0o600}, "link": {"sub/file", 0o664}, "dangling": {"sub/made", 0o640}} {
		if err := s.WriteFile(at(name)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		info, err := os.Lstat(at(want.file))
		must(err)
		if info.Mode() != want.mode {
			t.Errorf("%s: %s has mode %v, want %v", name, want.file, info.Mode(), want.mode)
		}
		if b, err := os.ReadFile(at(want.file)); err != nil || !bytes.Equal(b, s.Bytes()) {
			t.Errorf("%s: %s has %d bytes, %v", name, want.file, len(b), err)
		}
	}
	if st := new(syscall.Stat_t); os.Geteuid() == 0 {
		if must(syscall.Stat(at("old"), st)); st.Uid != 7 || st.Gid != 8 {
			t.Errorf("the owner is %d:%d, want 7:8", st.Uid, st.Gid)
		}
	}
	for name, words := range map[string]string{"pipe": "pipe is no regular file", "sub": "sub is no regular file", "loop": "too many levels", "none/x": "no such file"} {
		if err := s.WriteFile(at(name)); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want %q", name, err, words)
		}
	}
	for _, name := range []string{"link", "dangling", "sub/deep/to"} {
		if info, err := os.Lstat(at(name)); err != nil || info.Mode().Type() != os.ModeSymlink {
			t.Errorf("%s is no link any more (%v)", name, err)
		}
	}
	left, err := filepath.Glob(at(".ksplice-*"))
	if must(err); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestFull: what could not be read again is not signed once more.
func TestFull(t *testing.T) {
	s := signed(t, sample())
	for {
		by, _ := signer(t)
		x, err := by.Sign(s.Content, "an update")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Sign(x); errors.Is(err, trust.ErrFull) {
			break
		} else if err != nil || len(s.Signatures) > 100 {
			t.Fatalf("signature %d: %v", len(s.Signatures), err)
		}
	}
	if back, err := ReadSealed(bytes.NewReader(s.Bytes())); err != nil || len(back.Signatures) != len(s.Signatures) {
		t.Errorf("with %d signatures: %v", len(s.Signatures), err)
	}
}
