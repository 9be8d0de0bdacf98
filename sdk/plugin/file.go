package plugin

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// NewFile returns the File for the file at path: its absolute path and the digest of its content.
func NewFile(path string) (File, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return File{}, fmt.Errorf("name file %s: %w", path, err)
	}
	f, err := os.Open(abs)
	if err != nil {
		return File{}, fmt.Errorf("digest file: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return File{}, fmt.Errorf("digest file %s: %w", abs, err)
	}
	return File{Path: abs, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// Read returns the content of the file. It is an error when the path is relative or when the content has another
// digest than the sender saw.
func (f File) Read() ([]byte, error) {
	if !filepath.IsAbs(f.Path) {
		return nil, fmt.Errorf("read file %q: the path must be absolute", f.Path)
	}
	data, err := os.ReadFile(f.Path)
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	sum := sha256.Sum256(data)
	if got := hex.EncodeToString(sum[:]); got != f.SHA256 {
		return nil, fmt.Errorf("read file %s: its digest is %s, expected %s: it was changed while it was in use", f.Path, got, f.SHA256)
	}
	return data, nil
}
