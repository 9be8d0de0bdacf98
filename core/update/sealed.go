package update

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ksplice/ksplice/core/trust"
)

// Sealed is an update file of which no more is known than that it is whole: its header and its digest are right. Whoever wants to know who
// made it asks before he opens it.
type Sealed struct {
	// Content is the file but for the signatures: what they are over.
	Content    []byte
	Signatures []trust.Signature
}

// ReadSealedFile reads the update file at path, and does not look into it.
func ReadSealedFile(path string) (*Sealed, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read update: %w", err)
	}
	defer f.Close()
	s, err := ReadSealed(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// ReadSealed reads an update file and does not look into it. Errors are those of Read.
func ReadSealed(r io.Reader) (*Sealed, error) {
	header := make([]byte, headerSize)
	n, err := io.ReadFull(r, header)
	switch {
	case n >= len(magic) && string(header[:len(magic)]) != magic, n < len(magic) && !strings.HasPrefix(magic, string(header[:n])), n == 0:
		return nil, fmt.Errorf("%w: it does not begin with %q; was the file made by ksplice create?", ErrForeign, magic)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: the header has %d of %d bytes; copy the file again", ErrTruncated, n, headerSize)
	case err != nil:
		return nil, fmt.Errorf("read update: %w", err)
	}
	version := binary.LittleEndian.Uint32(header[8:])
	if version < oldestVersion || version > FormatVersion {
		return nil, fmt.Errorf("%w: the file has %d, this ksplice reads %d to %d; use the ksplice that made it", ErrVersion, version, oldestVersion, FormatVersion)
	}
	if binary.LittleEndian.Uint32(header[12:]) != 0 {
		return nil, fmt.Errorf("%w: reserved bytes of the header are not zero", ErrAltered)
	}
	length := binary.LittleEndian.Uint64(header[16:])
	if length > maxPayload {
		return nil, fmt.Errorf("%w: a payload of %d bytes is more than the %d an update may have", ErrAltered, length, maxPayload)
	}
	var content bytes.Buffer
	content.Write(header)
	got, err := io.CopyN(&content, r, int64(length))
	switch {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: the payload has %d of %d bytes; copy the file again", ErrTruncated, got, length)
	case err != nil:
		return nil, fmt.Errorf("read update: %w", err)
	}
	s := &Sealed{Content: content.Bytes()}
	if sum := sha256.Sum256(s.payload()); !bytes.Equal(sum[:], header[24:56]) {
		return nil, fmt.Errorf("%w: the payload's SHA-256 is %x, the header says %x; get the file again from who made it",
			ErrAltered, sum, header[24:56])
	}
	text, err := io.ReadAll(io.LimitReader(r, trust.MaxSignatures+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read update: %w", err)
	case len(text) > 0 && version < signedVersion:
		return nil, fmt.Errorf("%w: bytes follow the payload", ErrAltered)
	}
	if s.Signatures, err = trust.ParseSignatures(text); err != nil {
		return nil, fmt.Errorf("%w: what follows the payload: %w", ErrAltered, err)
	}
	return s, nil
}

func (s *Sealed) payload() []byte { return s.Content[headerSize:] }

// Open verifies the content and returns the update. Errors are those of Read.
func (s *Sealed) Open() (*Update, error) { return decode(s.payload()) }

// Sign adds a signature over Content, in place of one of the same key. Files of versions that have no place for it give an error that wraps ErrVersion,
// files that have no more place one that wraps trust.ErrFull.
func (s *Sealed) Sign(x trust.Signature) error {
	if v := binary.LittleEndian.Uint32(s.Content[8:]); v < signedVersion {
		return fmt.Errorf("%w: the file has %d, and signatures since %d only; make the update again, or sign it in a file beside it: minisign -Sm FILE",
			ErrVersion, v, signedVersion)
	}
	list, err := trust.Add(s.Signatures, x)
	if err != nil {
		return err
	}
	s.Signatures = list
	return nil
}

func (s *Sealed) write(w io.Writer) error {
	for _, b := range [][]byte{s.Content, trust.Join(s.Signatures)} {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// Bytes returns the whole file.
func (s *Sealed) Bytes() []byte {
	return bytes.Join([][]byte{s.Content, trust.Join(s.Signatures)}, nil)
}

// WriteFile writes the file to path, whole or not at all. A file that is there keeps its mode, and its owner where we may; where path is a
// symbolic link, it is the file that it leads to.
func (s *Sealed) WriteFile(path string) error {
	if err := s.writeFile(path); err != nil {
		return fmt.Errorf("write update: %w", err)
	}
	return nil
}

func (s *Sealed) writeFile(path string) error {
	was, err := replaced(path)
	if err != nil {
		return err
	}
	if path, err = follow(path); err != nil {
		return err
	}
	mode := os.FileMode(0o666) // under the umask, as any new file
	if was != nil {
		mode = 0o600 // until it is whose it was
	}
	f, err := os.OpenFile(filepath.Join(filepath.Dir(path), ".ksplice-"+rand.Text()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = s.write(f)
	if was != nil {
		err = errors.Join(err, inherit(f, was))
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// inherit gives a file the mode of another, and its owner and group as far as we may.
func inherit(f *os.File, was os.FileInfo) error {
	if st, ok := was.Sys().(*syscall.Stat_t); ok && f.Chown(int(st.Uid), int(st.Gid)) != nil {
		_ = f.Chown(-1, int(st.Gid))
	}
	return f.Chmod(was.Mode().Perm())
}

// CanReplace returns an error where WriteFile would not write to path, for what is there is no file: a directory, a device, a pipe.
func CanReplace(path string) error {
	_, err := replaced(path)
	return err
}

// replaced is the file that path leads to, nil where there is none.
func replaced(path string) (os.FileInfo, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file, and an update takes the place of one, whole or not at all: name a file", path)
	}
	return info, nil
}

// maxLinks is how many symbolic links follow follows, as the kernel does (include/linux/namei.h, MAXSYMLINKS).
const maxLinks = 40

// follow returns where path leads to, whether or not there is a file.
func follow(path string) (string, error) {
	for range maxLinks {
		dir, name := filepath.Split(path)
		dir, err := filepath.EvalSymlinks(cmp.Or(dir, "."))
		if err != nil {
			return "", err
		}
		path = filepath.Join(dir, name)
		to, err := os.Readlink(path)
		if err != nil {
			return path, nil // no link, or nothing yet
		}
		if path = to; !filepath.IsAbs(to) {
			path = dir + "/" + to // not cleaned: .. leads up from where a link leads
		}
	}
	return "", fmt.Errorf("%s: %w", path, syscall.ELOOP)
}
