package trust

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"aead.dev/minisign"

	"github.com/ksplice/ksplice/core/rootonly"
)

// DefaultDir is where trusted keys lie where the configuration does not say otherwise.
const DefaultDir = "/etc/ksplice/keys.d"

// The names of key files: NAME.pub is trusted, NAME.revoked is not any more, whatever else says that it is.
const (
	trustedSuffix = ".pub"
	revokedSuffix = ".revoked"
	maxKeyFile    = 4 << 10 // bytes
)

// lastYear is the last year of a key's bounds: the day behind the last one must be one that RFC 3339 can write.
const lastYear = 9998

// Key is a public key of a directory.
//
// Its file is one that minisign writes and reads: a line `untrusted comment: …` and the key. What may follow, minisign does not read:
//
//	valid-from: 2026-01-01     signatures of the key count from the beginning of that day on, UTC
//	valid-until: 2027-12-31    and to its end
//	# a remark
type Key struct {
	// Name is the file's without its suffix, File its path.
	Name string
	File string
	// From and Until bound when the key's signatures count; zero is no bound. Until is the instant behind the last day.
	From, Until time.Time

	public minisign.PublicKey
}

// ID names the key as minisign does: 16 hex digits.
func (k *Key) ID() string { return keyID(k.public.ID()) }

// Keys are those that a machine trusts, and those that it does not any more.
type Keys struct {
	Dirs    []string
	Trusted []*Key
	Revoked []*Key
}

// KeyError says what is wrong with a key file, or a directory of such. Nobody is trusted before that is mended: the file may be one that
// revokes a key.
type KeyError struct {
	File   string
	Advice string
	Err    error
}

// Error implements error.
func (e *KeyError) Error() string {
	return fmt.Sprintf("trusted keys: %s: %v: %s", e.File, e.Err, e.Advice)
}

// Unwrap returns the reason.
func (e *KeyError) Unwrap() error { return e.Err }

// ReadKeys reads the keys of the directories. The default directory need not be there. Root trusts only what nobody else could have put
// there. Errors are *KeyError.
func ReadKeys(dirs []string, asRoot bool) (*Keys, error) {
	k := &Keys{Dirs: dirs}
	for _, dir := range dirs {
		if err := k.read(dir, asRoot); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func (k *Keys) read(dir string, asRoot bool) error {
	if !filepath.IsAbs(dir) {
		return &KeyError{dir, "name it from / on", errors.New("where it lies depends on who looks")}
	}
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) && dir == DefaultDir {
		return nil
	}
	var entries []fs.DirEntry
	if err == nil {
		entries, err = os.ReadDir(real)
	}
	if err != nil {
		return &KeyError{dir, "make the directory, or take it out of [trust] keys of the configuration", err}
	}
	if asRoot {
		if err := rootonly.Dir(real); err != nil {
			return &KeyError{dir, ownAdvice, err}
		}
	}
	for _, e := range entries {
		name, suffix := strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())), filepath.Ext(e.Name())
		if strings.HasPrefix(name, ".") || name == "" || suffix != trustedSuffix && suffix != revokedSuffix {
			continue
		}
		key, err := readKey(filepath.Join(real, e.Name()), asRoot)
		if err != nil {
			return err
		}
		key.Name, key.File = name, filepath.Join(dir, e.Name())
		if suffix == revokedSuffix {
			k.Revoked = append(k.Revoked, key)
		} else {
			k.Trusted = append(k.Trusted, key)
		}
	}
	return nil
}

const ownAdvice = "root trusts keys that only root can change: make it and every directory above root's own (chown root, chmod go-w)"

func readKey(path string, asRoot bool) (*Key, error) {
	const unreadable = "make the file readable, or remove it"
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, &KeyError{path, unreadable, err}
	}
	if asRoot {
		if err := rootonly.File(real); err != nil {
			return nil, &KeyError{path, ownAdvice, err}
		}
	}
	switch info, err := os.Stat(real); {
	case err != nil:
		return nil, &KeyError{path, unreadable, err}
	case !info.Mode().IsRegular(): // opening a pipe would wait
		return nil, &KeyError{path, "remove it, or give it another name", errors.New("it is no regular file")}
	}
	f, err := os.Open(real)
	if err != nil {
		return nil, &KeyError{path, unreadable, err}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, &KeyError{path, unreadable, err}
	}
	key, err := parseKey(text)
	if err != nil {
		return nil, &KeyError{path, "get the key's file anew from whose key it is, or remove it", err}
	}
	return key, nil
}

// parseKey reads a key file's text.
func parseKey(text []byte) (*Key, error) {
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("it has more than the %d bytes that a public key's file may have", maxKeyFile)
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) < 2 || !strings.HasPrefix(lines[0], commentPrefix) {
		return nil, fmt.Errorf("its first line does not begin with %q, as that of a public key of minisign does", commentPrefix)
	}
	k := &Key{}
	if err := k.public.UnmarshalText([]byte(lines[1])); err != nil {
		return nil, err
	}
	for i, line := range lines[2:] {
		line = strings.TrimSpace(line)
		word, day, _ := strings.Cut(line, ":")
		var at *time.Time
		switch {
		case line == "" || line[0] == '#':
			continue
		case word == "valid-from":
			at = &k.From
		case word == "valid-until":
			at = &k.Until
		default:
			return nil, fmt.Errorf("line %d is neither `valid-from: DATE` nor `valid-until: DATE` nor a remark (#)", i+3)
		}
		if !at.IsZero() {
			return nil, fmt.Errorf("line %d says %s a second time", i+3, word)
		}
		date, err := time.Parse(time.DateOnly, strings.TrimSpace(day))
		if err != nil {
			return nil, fmt.Errorf("line %d: %s wants a date such as 2027-12-31", i+3, word)
		}
		if date.Year() > lastYear {
			return nil, fmt.Errorf("line %d: %s: no year behind %d has a place in a message; for ever is what holds without the line", i+3, word, lastYear)
		}
		*at = date
	}
	if !k.Until.IsZero() {
		k.Until = k.Until.AddDate(0, 0, 1)
		if !k.From.Before(k.Until) {
			return nil, errors.New("it is valid until a day before that from which on it is")
		}
	}
	return k, nil
}

const commentPrefix = "untrusted comment: "
