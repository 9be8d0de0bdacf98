package update

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

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

// Sign adds a signature over Content, in place of one of the same key. Files of versions that have no place for it give an error that wraps ErrVersion.
func (s *Sealed) Sign(x trust.Signature) error {
	if v := binary.LittleEndian.Uint32(s.Content[8:]); v < signedVersion {
		return fmt.Errorf("%w: the file has %d, and signatures since %d only; make the update again, or sign it in a file beside it: minisign -Sm FILE",
			ErrVersion, v, signedVersion)
	}
	s.Signatures = trust.Add(s.Signatures, x)
	return nil
}

func (s *Sealed) write(w io.Writer) error {
	for _, b := range [][]byte{s.Content, trust.Join(s.Signatures)} {
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("write update: %w", err)
		}
	}
	return nil
}

// Bytes returns the whole file.
func (s *Sealed) Bytes() []byte {
	return bytes.Join([][]byte{s.Content, trust.Join(s.Signatures)}, nil)
}

// WriteFile writes the file to path, whole or not at all.
func (s *Sealed) WriteFile(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".ksplice-*")
	if err != nil {
		return fmt.Errorf("write update: %w", err)
	}
	defer os.Remove(f.Name())
	err = errors.Join(s.write(f), f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write update: %w", err)
	}
	return nil
}
