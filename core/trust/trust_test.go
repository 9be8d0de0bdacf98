package trust

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// pair is a key pair of a test.
type pair struct {
	secret *Secret
	public string // the file's text
}

func newPair(t testing.TB) pair {
	t.Helper()
	secret, public, err := Generate("")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "test.key")
	if err := os.WriteFile(file, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := ReadSecret(file, func() (string, error) { return "", errors.New("a key that is not encrypted wants no password") })
	if err != nil {
		t.Fatal(err)
	}
	return pair{s, string(public)}
}

func (p pair) sign(t testing.TB, content string) Signature {
	t.Helper()
	s, err := p.secret.Sign([]byte(content), "an update")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// join adds signatures, one behind the other.
func join(t testing.TB, signatures ...Signature) []Signature {
	t.Helper()
	var list []Signature
	for _, s := range signatures {
		var err error
		if list, err = Add(list, s); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// directory writes key files and reads them.
func directory(t testing.TB, files map[string]string) (*Keys, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return ReadKeys([]string{dir}, false)
}

func mustRead(t testing.TB, files map[string]string) *Keys {
	t.Helper()
	k, err := directory(t, files)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func day(t *testing.T, s string) time.Time {
	t.Helper()
	d, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestJudge weighs a signature by a key in every state that it can be in.
func TestJudge(t *testing.T) {
	const content = "header and payload"
	acme, other := newPair(t), newPair(t)
	// Another key under acme's ID: IDs prove nothing.
	forged := other
	forged.public = strings.Join(strings.SplitAfter(acme.public, "\n")[:1], "") + sameID(t, other, acme) + "\n"
	for _, tt := range []struct {
		name  string
		files map[string]string
		over  string
		now   string
		want  Status
		key   string
		words string
	}{
		{"trusted", map[string]string{"acme.pub": acme.public}, content, "2026-06-01T00:00:00Z", StatusTrusted, "acme", ""},
		{"no keys", nil, content, "2026-06-01T00:00:00Z", StatusUnknown, "", "is not in"},
		{"another's key", map[string]string{"other.pub": other.public}, content, "2026-06-01T00:00:00Z", StatusUnknown, "", "put it there as NAME.pub"},
		{"another content", map[string]string{"acme.pub": acme.public}, content + "x", "2026-06-01T00:00:00Z", StatusAltered, "acme", "altered since it was signed"},
		{"another key of that ID", map[string]string{"acme.pub": forged.public}, content, "2026-06-01T00:00:00Z", StatusAltered, "acme", "get it again"},
		{"that one and the right one", map[string]string{"acme.pub": forged.public, "b.pub": acme.public}, content, "2026-06-01T00:00:00Z", StatusTrusted, "b", ""},
		{"the last instant", map[string]string{"acme.pub": acme.public + "valid-until: 2026-06-01\n"}, content, "2026-06-01T23:59:59Z", StatusTrusted, "acme", ""},
		{"the instant after", map[string]string{"acme.pub": acme.public + "valid-until: 2026-06-01\n"}, content, "2026-06-02T00:00:00Z", StatusExpired, "acme", "counted until 2026-06-01, and it is 2026-06-02"},
		{"another time zone", map[string]string{"acme.pub": acme.public + "valid-until: 2026-06-01\n"}, content, "2026-06-01T23:00:00-02:00", StatusExpired, "acme", "and it is 2026-06-02"},
		{"the first instant", map[string]string{"acme.pub": acme.public + "# ours\n\nvalid-from: 2026-06-01\r\n"}, content, "2026-06-01T00:00:00Z", StatusTrusted, "acme", ""},
		{"the instant before", map[string]string{"acme.pub": acme.public + "valid-from: 2026-06-01\n"}, content, "2026-05-31T23:59:59Z", StatusEarly, "acme", "set the clock"},
		{"expired, and prolonged beside it", map[string]string{"acme.pub": acme.public + "valid-until: 2026-01-01\n", "b.pub": acme.public}, content, "2026-06-01T00:00:00Z", StatusTrusted, "b", ""},
		{"revoked", map[string]string{"acme.revoked": acme.public}, content, "2026-06-01T00:00:00Z", StatusRevoked, "acme", "was revoked"},
		{"revoked and trusted", map[string]string{"acme.pub": acme.public, "old.revoked": acme.public}, content, "2026-06-01T00:00:00Z", StatusRevoked, "old", "old.revoked"},
		{"not a key file's name", map[string]string{"acme.pub.bak": acme.public, ".acme.pub": acme.public, "acme": acme.public, ".pub": "x"}, content, "2026-06-01T00:00:00Z", StatusUnknown, "", ""},
	} {
		k := mustRead(t, tt.files)
		signed := Signed{[]Signature{acme.sign(t, content)}, [][]byte{[]byte(tt.over)}}
		got := k.Judge(day(t, tt.now), signed)[0]
		if got.Status != tt.want || got.Name != tt.key || got.Key != acme.secret.ID() {
			t.Errorf("%s: %+v, want %s by %q", tt.name, got, tt.want, tt.key)
		}
		if fits := got.Status != StatusUnknown && got.Status != StatusAltered; fits != (got.Comment == "an update") {
			t.Errorf("%s: the comment is %q", tt.name, got.Comment)
		}
		v, err := k.Verify(day(t, tt.now), signed)
		var refused *RefusedError
		switch {
		case tt.want == StatusTrusted && (err != nil || v.Name != tt.key):
			t.Errorf("%s: Verify = %+v, %v", tt.name, v, err)
		case tt.want != StatusTrusted && (!errors.As(err, &refused) || !strings.Contains(err.Error(), tt.words)):
			t.Errorf("%s: Verify = %v, want %q", tt.name, err, tt.words)
		}
	}
}

// sameID returns p's key with the ID of another, as it stands in a file.
func sameID(t *testing.T, p, of pair) string {
	t.Helper()
	return encode(t, append(decode(t, of.public)[:10:10], decode(t, p.public)[10:]...))
}

// TestSeveral: one trusted signature suffices, and what is unsigned says what to do.
func TestSeveral(t *testing.T) {
	const content = "content"
	vendor, site, nobody := newPair(t), newPair(t), newPair(t)
	now := time.Now()
	list := join(t, nobody.sign(t, content), vendor.sign(t, content), site.sign(t, "another content"))
	signed := Signed{list, [][]byte{[]byte("nothing"), []byte(content)}}
	k := mustRead(t, map[string]string{"vendor.pub": vendor.public, "site.pub": site.public})
	if v, err := k.Verify(now, signed); err != nil || v.Name != "vendor" {
		t.Errorf("with a trusted one among three: %+v, %v", v, err)
	}
	// A revoked key's signature is as good as none: whoever holds the key could leave it out.
	k = mustRead(t, map[string]string{"vendor.revoked": vendor.public, "site.pub": site.public})
	if v, err := k.Verify(now, Signed{list, signed.Contents}, Signed{[]Signature{site.sign(t, content)}, signed.Contents}); err != nil || v.Name != "site" {
		t.Errorf("with a revoked one and a trusted one: %+v, %v", v, err)
	}
	_, err := k.Verify(now, signed)
	for _, words := range []string{nobody.secret.ID() + " is not in " + k.Dirs[0], vendor.secret.ID() + " was revoked", "site.pub) over these bytes"} {
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("nobody is trusted: %v, want %q", err, words)
		}
	}
	for dir, words := range map[*Keys]string{k: "with a key of " + k.Dirs[0], mustRead(t, nil): "this machine trusts nobody's key"} {
		if _, err := dir.Verify(now, Signed{nil, signed.Contents}); err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "--allow-unsigned") {
			t.Errorf("not signed: %v, want %q", err, words)
		}
	}
}

// TestAdd: a key signs once, and the order is that in which keys have signed.
func TestAdd(t *testing.T) {
	a, b := newPair(t), newPair(t)
	list := join(t, a.sign(t, "1"), b.sign(t, "2"), a.sign(t, "3"))
	if got, want := string(Join(list)), string(b.sign(t, "2").Text())+string(a.sign(t, "3").Text()); got != want {
		t.Errorf("signatures are\n%swant\n%s", got, want)
	}
	back, err := ParseSignatures(Join(list))
	if err != nil || !bytes.Equal(Join(back), Join(list)) {
		t.Errorf("what was written is read as %v, %v", back, err)
	}
}

// TestFull: as many signatures are added as can be read again, and no more; one of a key that is there already always can.
func TestFull(t *testing.T) {
	last := newPair(t)
	list := join(t, last.sign(t, "x"))
	for len(list) < maxCount {
		list = append(list, newPair(t).sign(t, "x"))
	}
	if _, err := ParseSignatures(Join(join(t, append(list, last.sign(t, "y"))...))); err != nil {
		t.Errorf("signed again by one of %d: %v", maxCount, err)
	}
	if _, err := Add(list, newPair(t).sign(t, "x")); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "those of 16 keys") || !strings.Contains(err.Error(), "minisign -Sm FILE") {
		t.Errorf("signed by one more: %v", err)
	}
	long, err := last.secret.Sign([]byte("x"), strings.Repeat("long,", MaxSignatures/10))
	if err != nil {
		t.Fatal(err)
	}
	longer, err := newPair(t).secret.Sign([]byte("x"), strings.Repeat("long,", MaxSignatures/10))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Add([]Signature{long}, longer); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "more than the 65536") {
		t.Errorf("signed at too great a length: %v", err)
	}
}

// TestEveryByte flips every bit of a signature: it must not be trusted any more, except where only its own comment changes.
func TestEveryByte(t *testing.T) {
	p := newPair(t)
	k := mustRead(t, map[string]string{"p.pub": p.public})
	text := p.sign(t, "content").Text()
	comment := bytes.IndexByte(text, '\n')
	for i := len(commentPrefix); i < len(text); i++ {
		c := bytes.Clone(text)
		c[i] ^= 1
		list, err := ParseSignatures(c)
		if err != nil {
			continue
		}
		if _, err := k.Verify(time.Now(), Signed{list, [][]byte{[]byte("content")}}); err == nil && i >= comment {
			t.Errorf("with a bit of byte %d flipped it is trusted: %q", i, c)
		}
	}
}

func TestSignaturesRefused(t *testing.T) {
	p := newPair(t)
	good := string(p.sign(t, "content").Text())
	lines := strings.SplitAfter(good, "\n")
	for name, tt := range map[string]struct{ text, words string }{
		"cut off":            {good[:len(good)-1], "cut off"},
		"a line less":        {strings.Join(lines[:3], ""), "cut off"},
		"a line more":        {good + "\n", "something else added"},
		"nothing of it":      {"a\nb\nc\nd\n", "number 1"},
		"the second":         {good + strings.Replace(good, "trusted", "busted", 1), "number 2"},
		"too many":           {strings.Repeat(good, maxCount+1), "more than the 16"},
		"too long":           {strings.Repeat(good, MaxSignatures/len(good)+1), "more than the 65536"},
		"line ends of DOS":   {strings.ReplaceAll(good, "\n", "\r\n"), "not written as minisign"},
		"what a screen does": {strings.Replace(good, "an update", "an \x1b[2Jupdate", 1), "cannot be printed"},
		"no text":            {strings.Replace(good, "an update", "an \xffupdate", 1), "cannot be printed"},
		"without hashing":    {lines[0] + legacy(t, lines[1]) + lines[2] + lines[3], "sign anew"},
	} {
		if _, err := ParseSignatures([]byte(tt.text)); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), tt.words) {
			t.Errorf("%s: %v, want %q", name, err, tt.words)
		}
	}
	if list, err := ParseSignatures(nil); err != nil || list != nil {
		t.Errorf("no text: %v, %v", list, err)
	}
}

// legacy makes a signature say that it is over the bytes themselves: "Ed", not "ED".
func legacy(t *testing.T, line string) string {
	t.Helper()
	b := decode(t, "\n"+line)
	b[1] = 'd'
	return encode(t, b) + "\n"
}

func TestKeysRefused(t *testing.T) {
	p := newPair(t)
	lines := strings.SplitAfter(p.public, "\n")
	for name, tt := range map[string]struct{ text, words string }{
		"empty":               {"", "its first line does not begin"},
		"the key alone":       {lines[1], "its first line does not begin"},
		"half a key":          {lines[0] + lines[1][:20] + "\n", "invalid public key"},
		"a secret key":        {"untrusted comment: minisign encrypted secret key\n" + strings.Repeat("A", 212) + "\n", "invalid public key length"},
		"a misspelt line":     {p.public + "valid-untill: 2027-01-01\n", "line 3 is neither"},
		"two ends":            {p.public + "valid-until: 2027-01-01\nvalid-until: 2028-01-01\n", "a second time"},
		"no date":             {p.public + "\nvalid-until: soon\n", "line 4: valid-until wants a date"},
		"no such day":         {p.public + "valid-from: 2026-02-30\n", "valid-from wants a date"},
		"no year of RFC 3339": {p.public + "valid-until: 9999-12-31\n", "no year behind 9998"},
		"the wrong way":       {p.public + "valid-from: 2027-01-02\nvalid-until: 2027-01-01\n", "until a day before"},
		"larger than a key":   {p.public + strings.Repeat("#\n", maxKeyFile), "more than the 4096 bytes"},
	} {
		for _, file := range []string{"bad.pub", "bad.revoked"} {
			_, err := directory(t, map[string]string{"acme.pub": p.public, file: tt.text})
			var bad *KeyError
			if !errors.As(err, &bad) || filepath.Base(bad.File) != file || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("%s in %s: %v, want %q", name, file, err, tt.words)
			}
		}
	}
}

// TestDirectories: what is not there, or not a key's file, or somebody else's.
func TestDirectories(t *testing.T) {
	p := newPair(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "p.pub")
	if err := os.WriteFile(file, []byte(p.public), 0o644); err != nil {
		t.Fatal(err)
	}
	bad := func(what, words string, asRoot bool, dirs ...string) {
		t.Helper()
		k, err := ReadKeys(dirs, asRoot)
		var e *KeyError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, %v, want %q", what, k, err, words)
		}
	}
	bad("a directory that is not there", "make the directory", false, dir, filepath.Join(dir, "none"))
	bad("one that depends on who looks", "from / on", false, "keys.d")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	k, err := ReadKeys([]string{link}, os.Geteuid() == 0)
	if err != nil || len(k.Trusted) != 1 || k.Trusted[0].File != filepath.Join(link, "p.pub") || k.Trusted[0].ID() != p.secret.ID() {
		t.Errorf("by a link: %+v, %v", k, err)
	}
	if os.Geteuid() == 0 {
		for path, modes := range map[string][2]os.FileMode{file: {0o646, 0o644}, dir: {0o777 | os.ModeSticky, 0o755}} {
			if err := os.Chmod(path, modes[0]); err != nil {
				t.Fatal(err)
			}
			bad("what everybody writes", path+" is writable by everybody", true, link)
			if _, err := ReadKeys([]string{link}, false); err != nil {
				t.Errorf("what everybody writes, and root does not ask: %v", err)
			}
			if err := os.Chmod(path, modes[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "q.pub")); err != nil {
		t.Fatal(err)
	}
	bad("a link to nothing", "q.pub", false, dir)
	if err := errors.Join(os.Remove(filepath.Join(dir, "q.pub")), os.Mkdir(filepath.Join(dir, "q.pub"), 0o755)); err != nil {
		t.Fatal(err)
	}
	bad("a directory of a key's name", "no regular file", false, dir)
	if _, err := os.Stat(DefaultDir); errors.Is(err, fs.ErrNotExist) {
		if k, err := ReadKeys([]string{DefaultDir}, false); err != nil || len(k.Trusted) > 0 {
			t.Errorf("the default directory, which is not there: %+v, %v", k, err)
		}
	}
}

// TestParseKey: the dates of a key.
func TestParseKey(t *testing.T) {
	p := newPair(t)
	k, err := parseKey([]byte(p.public + "valid-from: 2026-01-01\nvalid-until: 2026-12-31\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []time.Time{day(t, "2026-01-01T00:00:00Z"), day(t, "2027-01-01T00:00:00Z")}
	if d := cmp.Diff(want, []time.Time{k.From, k.Until}); d != "" {
		t.Errorf("when it counts (-want +got):\n%s", d)
	}
}

func FuzzSignatures(f *testing.F) {
	f.Add(newPair(f).sign(f, "content").Text())
	f.Fuzz(func(t *testing.T, b []byte) {
		if list, err := ParseSignatures(b); err == nil && !bytes.Equal(Join(list), b) {
			t.Errorf("%q is read as %q", b, Join(list))
		}
	})
}

func FuzzKey(f *testing.F) {
	f.Add([]byte(newPair(f).public + "valid-from: 2026-01-01\n# no end\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := parseKey(b); err == nil && !k.Until.IsZero() && !k.From.Before(k.Until) {
			t.Errorf("%q counts from %v until %v", b, k.From, k.Until)
		}
	})
}
