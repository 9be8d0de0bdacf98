package pluginhost

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownership is what decides whether somebody but root can change a file or directory.
type ownership struct {
	mode     os.FileMode
	uid, gid uint32
	acl      bool // an access control list: the group's bits are its mask (acl(5))
}

// weakness says how somebody but root can change it, or "". A sticky directory counts as safe where sticky is set:
// nobody can replace what root owns in it.
func (o ownership) weakness(sticky bool) string {
	if sticky && o.mode&os.ModeSticky != 0 && o.uid == 0 {
		return ""
	}
	switch {
	case o.uid != 0:
		return fmt.Sprintf("belongs to user %d", o.uid)
	case o.mode&0o002 != 0:
		return fmt.Sprintf("is writable by everybody (mode %#o)", o.mode.Perm())
	case o.mode&0o020 != 0 && o.gid != 0:
		return fmt.Sprintf("is writable by group %d (mode %#o)", o.gid, o.mode.Perm())
	case o.mode&0o020 != 0 && o.acl:
		return fmt.Sprintf("is writable by whom its access control list names (mode %#o)", o.mode.Perm())
	}
	return ""
}

// stat returns the ownership of path.
func stat(path string) (ownership, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return ownership{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ownership{}, fmt.Errorf("stat %s: the owner is not known", path)
	}
	n, err := unix.Lgetxattr(path, "system.posix_acl_access", nil)
	return ownership{mode: info.Mode(), uid: st.Uid, gid: st.Gid, acl: err == nil && n > 0}, nil
}

// checkRootOnly returns an error that says who else could change the file at path, which has no symbolic links in it: the
// file itself, its directory and every directory above are looked at. Root runs what the file holds.
func checkRootOnly(path string, stat func(string) (ownership, error)) error {
	for p, depth := path, 0; ; p, depth = filepath.Dir(p), depth+1 {
		o, err := stat(p)
		if err != nil {
			return err
		}
		// The directory that holds the plugin may not even take new files of others.
		if w := o.weakness(depth > 1); w != "" {
			return fmt.Errorf("%s %s", p, w)
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

// digest returns the lower-case hex SHA-256 of the file at path.
func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// identity tells whether the file at path is still the same: its inode, size and time of change.
func identity(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("stat %s: its inode is not known", path)
	}
	return fmt.Sprint(st.Dev, st.Ino, st.Size, st.Mtim), nil
}

// verify returns the identity of the plugin's binary, or why it must not be run. It is called before every start: the
// answer may change while the host lives. Between it and the start only somebody who may write the binary can change
// it, which for root is root. Only a pinned binary is read whole.
func (c *candidate) verify(asRoot bool, pin string) (string, error) {
	if asRoot {
		if err := checkRootOnly(c.path, stat); err != nil {
			return "", newError(ErrUntrusted, c.label,
				"root runs plugins that only root can change: make it and every directory above root's own (chown root, chmod go-w), or install the plugin where they are",
				"%v", err)
		}
	}
	id, err := identity(c.path)
	if err == nil && pin != "" {
		var sum string
		if sum, err = digest(c.path); err == nil && !strings.EqualFold(sum, pin) {
			return id, newError(ErrUntrusted, c.label,
				"if you installed another version on purpose, put its digest into the configuration; else find out who changed the file",
				"its SHA-256 is %s, the configuration pins %s", sum, strings.ToLower(pin))
		}
	}
	if err != nil {
		return "", newError(ErrUntrusted, c.label, "make the file readable, or remove it", "read the plugin: %v", err)
	}
	return id, nil
}
