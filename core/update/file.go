package update

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"sort"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/ksplice/ksplice/sdk/arch"
)

// The layout of an update file. All integers are little-endian.
//
//	offset  size  what
//	     0     8  magic, "KSPLICE\n"
//	     8     4  format version
//	    12     4  reserved, zero
//	    16     8  length of the payload in bytes
//	    24    32  SHA-256 of the payload
//	    56     …  payload: a zstd frame that holds a tar archive
//	     …     …  signatures over all that stands before, each four lines of text as minisign writes them; none is as good
//
// A signature can be added or taken away without changing what the others are over, nor the update.
//
// The archive's first member is manifest.json; the others are those the manifest names, in the order of
// their names, with zero times and owners. The digest is checked before anything is decompressed, the
// digests of the members before the manifest is believed.
const (
	magic      = "KSPLICE\n"
	headerSize = 56
	// maxPayload and maxContent bound what a file may make a reader allocate.
	maxPayload = 256 << 20
	maxContent = 1 << 30

	manifestName = "manifest.json"
)

// The ways in which a file is not an update. They are wrapped in errors that say more.
var (
	ErrForeign   = errors.New("not a ksplice update")
	ErrTruncated = errors.New("update file is truncated")
	ErrAltered   = errors.New("update file was altered")
	ErrVersion   = errors.New("update file has another format version")
)

// Update is a whole update: the manifest and its members.
type Update struct {
	Manifest Manifest
	// Files holds the members by name: parts, pre objects, the patch.
	Files map[string][]byte
}

// ID returns the name of an update made from the given pieces: eight hex digits. The same kernel, patch and
// tools give the same ID.
func ID(pieces ...[]byte) string {
	h := sha256.New()
	for _, p := range pieces {
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil)[:4])
}

// ValidID says whether a text can be an update's ID.
func ValidID(id string) bool { return idPattern.MatchString(id) }

// Digest returns the lower-case hex SHA-256 of b.
func Digest(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// Write encodes the update, without signatures. The same update gives the same bytes.
func (u *Update) Write(w io.Writer) error {
	s, err := u.Seal()
	if err != nil {
		return err
	}
	if err := s.write(w); err != nil {
		return fmt.Errorf("write update: %w", err)
	}
	return nil
}

// WriteFile writes the update to path, without signatures, as Sealed.WriteFile does.
func (u *Update) WriteFile(path string) error {
	s, err := u.Seal()
	if err != nil {
		return err
	}
	return s.WriteFile(path)
}

// Seal encodes the update. The same update gives the same bytes.
func (u *Update) Seal() (*Sealed, error) {
	u.Manifest.Format = FormatVersion
	if err := u.check(); err != nil {
		return nil, fmt.Errorf("write update: %w", err)
	}
	manifest, err := json.MarshalIndent(&u.Manifest, "", " ")
	if err != nil {
		return nil, fmt.Errorf("write update: encode manifest: %w", err)
	}
	var file bytes.Buffer
	file.Write(make([]byte, headerSize))
	enc, err := zstd.NewWriter(&file, zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("write update: %w", err)
	}
	tw := tar.NewWriter(enc)
	add := func(name string, content []byte) error {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("write update: member %s: %w", name, err)
		}
		_, err := tw.Write(content)
		return err
	}
	if err := add(manifestName, manifest); err != nil {
		return nil, err
	}
	for _, name := range u.names() {
		if err := add(name, u.Files[name]); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(tw.Close(), enc.Close()); err != nil {
		return nil, fmt.Errorf("write update: %w", err)
	}
	content := file.Bytes()
	copy(content, magic)
	binary.LittleEndian.PutUint32(content[8:], FormatVersion)
	binary.LittleEndian.PutUint64(content[16:], uint64(len(content)-headerSize))
	sum := sha256.Sum256(content[headerSize:])
	copy(content[24:], sum[:])
	return &Sealed{Content: content}, nil
}

// ReadFile reads and verifies the update at path.
func ReadFile(path string) (*Update, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read update: %w", err)
	}
	defer f.Close()
	u, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return u, nil
}

// Read reads and verifies an update, whoever has signed it. It returns an error that wraps ErrForeign, ErrTruncated, ErrAltered or ErrVersion
// where r holds no such thing; nothing of the content is looked at before its digest was right.
func Read(r io.Reader) (*Update, error) {
	s, err := ReadSealed(r)
	if err != nil {
		return nil, err
	}
	return s.Open()
}

func decode(payload []byte) (*Update, error) {
	dec, err := zstd.NewReader(bytes.NewReader(payload), zstd.WithDecoderMaxMemory(maxContent), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("read update: %w", err)
	}
	defer dec.Close()
	content := io.LimitReader(dec, maxContent)
	tr := tar.NewReader(content)
	u := &Update{Files: map[string][]byte{}}
	seen, left := false, int64(maxContent)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: archive: %w", ErrAltered, err)
		}
		// A sparse member takes little of the archive and much memory.
		if left -= h.Size; left < 0 {
			return nil, fmt.Errorf("%w: with member %s of %d bytes it is more than an update may have", ErrAltered, h.Name, h.Size)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			return nil, fmt.Errorf("%w: member %s: %w", ErrAltered, h.Name, err)
		}
		switch {
		case !seen && h.Name != manifestName:
			return nil, fmt.Errorf("%w: the first member is %q, not %s", ErrAltered, h.Name, manifestName)
		case !seen:
			seen = true
			d := json.NewDecoder(bytes.NewReader(b))
			d.DisallowUnknownFields()
			if err := d.Decode(&u.Manifest); err != nil {
				return nil, fmt.Errorf("%w: manifest: %w", ErrAltered, err)
			}
		default:
			if _, twice := u.Files[h.Name]; twice {
				return nil, fmt.Errorf("%w: member %s stands twice", ErrAltered, h.Name)
			}
			u.Files[h.Name] = b
		}
	}
	if !seen {
		return nil, fmt.Errorf("%w: there is no manifest", ErrAltered)
	}
	if v := u.Manifest.Format; v < oldestVersion || v > FormatVersion {
		return nil, fmt.Errorf("%w: the manifest has %d, this ksplice reads %d to %d", ErrVersion, v, oldestVersion, FormatVersion)
	}
	if err := u.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAltered, err)
	}
	return u, nil
}

func (u *Update) names() []string {
	names := make([]string, 0, len(u.Files))
	for n := range u.Files {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

var (
	idPattern     = regexp.MustCompile(`^[0-9a-f]{8}$`)
	modulePattern = regexp.MustCompile(`^[0-9A-Za-z_]{1,55}$`)
	memberPattern = regexp.MustCompile(`^[0-9A-Za-z_.+-]+(/[0-9A-Za-z_.+-]+)*$`)
)

// check verifies everything in the manifest that later stages index or load by, and the digests of all members.
func (u *Update) check() error {
	m := &u.Manifest
	if !ValidID(m.ID) {
		return fmt.Errorf("id %q is not eight hex digits", m.ID)
	}
	if !ValidVersion(m.Effective) {
		return fmt.Errorf("effective version %q is not one word of printable ASCII", m.Effective)
	}
	if err := lines("", reflect.ValueOf(m).Elem()); err != nil {
		return err
	}
	named := map[string]bool{}
	member := func(what, name, digest string) error {
		b, ok := u.Files[name]
		switch {
		case !memberPattern.MatchString(name) || strings.Contains(name, "..") || name == manifestName:
			return fmt.Errorf("%s: member name %q is not allowed", what, name)
		case !ok:
			return fmt.Errorf("%s: member %s is missing", what, name)
		case named[name]:
			return fmt.Errorf("%s: member %s is named twice", what, name)
		case Digest(b) != digest:
			return fmt.Errorf("%s: member %s has SHA-256 %s, the manifest says %s", what, name, Digest(b), digest)
		}
		named[name] = true
		return nil
	}
	if err := member("patch", m.Patch.File, m.Patch.SHA256); err != nil {
		return err
	}
	for _, e := range m.Patch.Edits {
		if !filepath.IsLocal(e.Path) {
			return fmt.Errorf("edited file %q lies outside of the tree", e.Path)
		}
		if err := member("edited file "+e.Path, e.File, e.SHA256); err != nil {
			return err
		}
	}
	for _, base := range m.Base {
		if !ValidID(base) {
			return fmt.Errorf("base %q is not eight hex digits", base)
		}
	}
	for _, unit := range m.Units {
		if err := member("unit "+unit.Object, unit.Pre, unit.SHA256); err != nil {
			return err
		}
	}
	if len(m.Parts) == 0 {
		return errors.New("there are no parts")
	}
	targets := map[string]bool{}
	for i := range m.Parts {
		p := &m.Parts[i]
		if err := member("part "+p.Name, p.File, p.SHA256); err != nil {
			return err
		}
		if err := p.check(m, targets); err != nil {
			return fmt.Errorf("part %s: %w", p.Name, err)
		}
	}
	for i := range m.Transfers {
		if err := m.Transfers[i].check(m); err != nil {
			return fmt.Errorf("state transfer %q: %w", m.Transfers[i].Item, err)
		}
	}
	for name := range u.Files {
		if !named[name] {
			return fmt.Errorf("member %s is not in the manifest", name)
		}
	}
	return nil
}

func (p *Part) check(m *Manifest, targets map[string]bool) error {
	switch {
	case !modulePattern.MatchString(p.Name):
		return errors.New("the name is not a module name of at most 55 characters")
	case !modulePattern.MatchString(p.Target):
		return fmt.Errorf("target %q is not a module name", p.Target)
	case p.Init && p.Target == "vmlinux":
		return errors.New("the init of the kernel proper has run when anything is applied")
	case targets[p.Target] && !p.Init, targets["\x00init\x00"+p.Target] && p.Init:
		return fmt.Errorf("target %s has two parts", p.Target)
	case targets["\x00"+p.Name]:
		return errors.New("two parts have the same name")
	}
	if targets["\x00"+p.Name] = true; p.Init {
		targets["\x00init\x00"+p.Target] = true
	} else {
		targets[p.Target] = true
	}
	for _, f := range p.Functions {
		if f.Unit < 0 || f.Unit >= len(m.Units) {
			return fmt.Errorf("function %s: unit %d of %d", f.Name, f.Unit, len(m.Units))
		}
		if r := &f.Redirect; r.Kind == arch.RedirectJump && !f.Fragment && (uint64(len(r.Template)) != r.Window.Length || len(r.Template) < 4 || r.Field > uint64(len(r.Template))-4) {
			return fmt.Errorf("function %s: its redirect's field at %d lies outside its %d bytes", f.Name, r.Field, len(r.Template))
		}
	}
	for _, w := range p.Writes {
		if w.Unit < 0 || w.Unit >= len(m.Units) {
			return fmt.Errorf("data %s: unit %d of %d", w.Name, w.Unit, len(m.Units))
		}
	}
	for i, s := range p.Slots {
		if s.Unit < -1 || s.Unit >= len(m.Units) {
			return fmt.Errorf("slot %d (%s): unit %d of %d", i, s.Name, s.Unit, len(m.Units))
		}
		switch s.Kind {
		case SlotSymbol, SlotKey:
		case SlotConst:
		case SlotCode, SlotField, SlotPointer:
			if s.Unit < 0 {
				return fmt.Errorf("slot %d (%s): kind %s wants a unit", i, s.Name, s.Kind)
			}
		default:
			return fmt.Errorf("slot %d (%s): kind %q is not known", i, s.Name, s.Kind)
		}
	}
	return nil
}
