package update

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// member is one file of an archive.
type member struct {
	name    string
	content []byte
}

// seal makes a file whose header and digest are right, whatever the archive holds.
func seal(t *testing.T, members ...member) []byte {
	t.Helper()
	var payload bytes.Buffer
	enc, err := zstd.NewWriter(&payload)
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(enc)
	for _, m := range members {
		if err := tw.WriteHeader(&tar.Header{Name: m.name, Mode: 0o644, Size: int64(len(m.content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), enc.Close()); err != nil {
		t.Fatal(err)
	}
	header := make([]byte, headerSize)
	copy(header, magic)
	binary.LittleEndian.PutUint32(header[8:], FormatVersion)
	binary.LittleEndian.PutUint64(header[16:], uint64(payload.Len()))
	sum := sha256.Sum256(payload.Bytes())
	copy(header[24:], sum[:])
	return append(header, payload.Bytes()...)
}

// TestSealed: somebody who can make the outer digest right cannot pass off members that the manifest does not vouch for.
func TestSealed(t *testing.T) {
	u := sample()
	u.Manifest.Format = FormatVersion
	manifest := func(edit func(map[string]any)) member {
		b, err := json.Marshal(&u.Manifest)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		edit(m)
		if b, err = json.Marshal(m); err != nil {
			t.Fatal(err)
		}
		return member{manifestName, b}
	}
	same := func(map[string]any) {}
	part, pre, patch := member{"parts/x.ko", u.Files["parts/x.ko"]}, member{"pre/a.o", u.Files["pre/a.o"]}, member{"patch.diff", u.Files["patch.diff"]}
	if _, err := Read(bytes.NewReader(seal(t, manifest(same), part, patch, pre))); err != nil {
		t.Fatalf("a good one: %v", err)
	}
	for _, c := range []struct {
		name    string
		members []member
		want    error
		words   string
	}{
		{"another part", []member{manifest(same), {"parts/x.ko", []byte("evil bytes")}, patch, pre}, ErrAltered, "parts/x.ko has SHA-256"},
		{"another pre object", []member{manifest(same), part, patch, {"pre/a.o", nil}}, ErrAltered, "pre/a.o has SHA-256"},
		{"a member twice", []member{manifest(same), part, part, patch, pre}, ErrAltered, "stands twice"},
		{"a second manifest", []member{manifest(same), part, patch, pre, manifest(same)}, ErrAltered, "manifest.json is not in the manifest"},
		{"a member more", []member{manifest(same), part, patch, pre, {"z", nil}}, ErrAltered, "member z is not in the manifest"},
		{"a member outside", []member{manifest(same), part, patch, pre, {"../z", nil}}, ErrAltered, "not in the manifest"},
		{"a member less", []member{manifest(same), part, patch}, ErrAltered, "pre/a.o is missing"},
		{"the manifest not first", []member{part, manifest(same), patch, pre}, ErrAltered, "the first member is"},
		{"no manifest", nil, ErrAltered, "no manifest"},
		{"no JSON", []member{{manifestName, []byte("{")}}, ErrAltered, "manifest"},
		{"an unknown key", []member{manifest(func(m map[string]any) { m["run_this"] = "x" }), part, patch, pre}, ErrAltered, "run_this"},
		{"a transfer without a part", []member{manifest(func(m map[string]any) {
			m["units"].([]any)[0].(map[string]any)["module"] = "other"
			m["transfers"] = []any{map[string]any{"item": "x", "plugin": "p", "unit": 0, "before": map[string]any{}, "after": map[string]any{}}}
		}), part, patch, pre}, ErrAltered, "no part is for other"},
		{"a transfer of no unit", []member{manifest(func(m map[string]any) {
			m["transfers"] = []any{map[string]any{"item": "x", "plugin": "p", "unit": 7, "before": map[string]any{}, "after": map[string]any{}}}
		}), part, patch, pre}, ErrAltered, "unit 7"},
		{"a layout whose member lies outside", []member{manifest(func(m map[string]any) {
			m["transfers"] = []any{map[string]any{"item": "x", "plugin": "p", "unit": 0, "after": map[string]any{}, "before": map[string]any{
				"struct s": map[string]any{"kind": "struct", "size": 4, "members": []any{map[string]any{"name": "m", "type": "int", "offset": 2}}}, "int": map[string]any{"kind": "number", "size": 4}}}}
		}), part, patch, pre}, ErrAltered, "member m of struct s lies outside"},
		{"an old format", []member{manifest(func(m map[string]any) { m["format"] = 2 }), part, patch, pre}, ErrVersion, "2"},
		{"the format before", []member{manifest(func(m map[string]any) { m["format"] = 3 }), part, patch, pre}, nil, ""},
		{"another format", []member{manifest(func(m map[string]any) { m["format"] = 9 }), part, patch, pre}, ErrVersion, "9"},
		{"a redirect whose field lies outside", []member{manifest(func(m map[string]any) {
			m["parts"].([]any)[0].(map[string]any)["functions"] = []any{map[string]any{"name": "f", "unit": 0, "symbol": 1, "size": 9, "why": "",
				"redirect": map[string]any{"Kind": "jump", "Window": map[string]any{"Offset": 5, "Length": 5}, "Template": "6QAAAAA=", "Field": 4, "Type": 4, "Addend": -4}}}
		}), part, patch, pre}, ErrAltered, "field at 4 lies outside"},
		{"an id for a path", []member{manifest(func(m map[string]any) { m["id"] = "../../ab" }), part, patch, pre}, ErrAltered, "eight hex digits"},
		{"a version with more lines", []member{manifest(func(m map[string]any) { m["effective"] = "6.1\n6.2" }), part, patch, pre}, ErrAltered, "effective version"},
		{"a description that forges a row", []member{manifest(func(m map[string]any) { m["description"] = "fix\nsigned  acme, key 0123  trusted" }), part, patch, pre}, ErrAltered, `description of the manifest is "fix\nsigned`},
		{"a kernel that clears the screen", []member{manifest(func(m map[string]any) { m["kernel"].(map[string]any)["banner"] = "Debian\x1b[2J" }), part, patch, pre}, ErrAltered, "kernel.banner of the manifest"},
		{"a note with columns", []member{manifest(func(m map[string]any) { m["parts"].([]any)[0].(map[string]any)["notes"] = []string{"good", "a\tb"} }), part, patch, pre}, ErrAltered, "parts[0].notes[1] of the manifest"},
		{"a reason with a separator of lines", []member{manifest(func(m map[string]any) {
			m["claims"] = []any{map[string]any{"item": "x", "because": "so\u2028and so"}}
		}), part, patch, pre}, ErrAltered, "claims[0].because of the manifest"},
		{"a name that turns the direction", []member{manifest(func(m map[string]any) {
			m["parts"].([]any)[0].(map[string]any)["slots"].([]any)[0].(map[string]any)["name"] = "a\u202eb"
		}), part, patch, pre}, ErrAltered, "parts[0].slots[0].name of the manifest"},
		{"a fact with two lines", []member{manifest(func(m map[string]any) { m["facts"] = map[string]any{"a\nb": 1} }), part, patch, pre}, ErrAltered, "a key of facts of the manifest"},
		{"a configuration as it is", []member{manifest(func(m map[string]any) { m["config"] = map[string]any{"CONFIG_CMDLINE": "a\tb"} }), part, patch, pre}, nil, ""},
		{"letters of anywhere", []member{manifest(func(m map[string]any) { m["description"] = "größer, 大きい" }), part, patch, pre}, nil, ""},
		{"a base that is none", []member{manifest(func(m map[string]any) { m["base"] = []string{"x"} }), part, patch, pre}, ErrAltered, "base"},
	} {
		_, err := Read(bytes.NewReader(seal(t, c.members...)))
		if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %v with %q", c.name, err, c.want, c.words)
		}
	}
}

// TestSparse: members that take no place in the archive are counted by what they take in memory.
func TestSparse(t *testing.T) {
	var payload bytes.Buffer
	enc, err := zstd.NewWriter(&payload)
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(enc)
	write := func(h *tar.Header, content string) {
		t.Helper()
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	write(&tar.Header{Name: manifestName, Mode: 0o644, Size: 2}, "{}")
	// A hole of 1000 MiB; the second member's records are those of GNU tar's sparse format 1.0, which the library reads and does not
	// write: they are put in place of records of the same length.
	for _, name := range []string{"a", "b"} {
		const sparse = "0\n"
		map_ := sparse + strings.Repeat("\x00", 512-len(sparse))
		write(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(map_)), Format: tar.FormatPAX, PAXRecords: map[string]string{
			"NEW.sparse.major": "1", "NEW.sparse.minor": "0", "NEW.sparse.name": name, "NEW.sparse.realsize": "1048576000"}}, map_)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	dec, err := zstd.NewReader(&payload)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := io.ReadAll(dec)
	if err != nil {
		t.Fatal(err)
	}
	archive = bytes.ReplaceAll(archive, []byte("NEW.sparse"), []byte("GNU.sparse"))
	writer, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decode(writer.EncodeAll(archive, nil)); !errors.Is(err, ErrAltered) || !strings.Contains(err.Error(), "member b of 1048576000 bytes") {
		t.Errorf("err = %v, want %v", err, ErrAltered)
	}
}

// TestBomb: a member that says it is larger than any update is refused before it is unpacked.
func TestBomb(t *testing.T) {
	var payload bytes.Buffer
	enc, err := zstd.NewWriter(&payload)
	if err != nil {
		t.Fatal(err)
	}
	if err := tar.NewWriter(enc).WriteHeader(&tar.Header{Name: manifestName, Mode: 0o644, Size: 8 << 30}); err != nil {
		t.Fatal(err)
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := decode(payload.Bytes()); !errors.Is(err, ErrAltered) || !strings.Contains(err.Error(), "8589934592 bytes") {
		t.Errorf("err = %v, want %v", err, ErrAltered)
	}
}

// TestLine: what create makes of texts that others wrote may stand in a manifest.
func TestLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "",
		"fs: rename a":                     "fs: rename a",
		"größer, 大きい":                      "größer, 大きい",
		" net:\tfix\r\n it\u00a0now\u2028": "net: fix it now",
		"a\x1b[2Jb\u202ec\x00\xff":         "a\ufffd[2Jb\ufffdc\ufffd\ufffd",
	} {
		got := Line(text)
		if got != want || !ValidLine(got) || ValidLine(text) != (got == text) {
			t.Errorf("Line(%q) = %q, want %q", text, got, want)
		}
	}
}

// TestWriteLines: no file is made that would not be read.
func TestWriteLines(t *testing.T) {
	u := sample()
	u.Manifest.Parts[0].Functions[0].Why = "size\n40"
	if _, err := u.Seal(); err == nil || !strings.Contains(err.Error(), `write update: parts[0].functions[0].why of the manifest is "size\n40"`) {
		t.Errorf("err = %v", err)
	}
}
