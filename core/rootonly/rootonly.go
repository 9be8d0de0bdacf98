// Package rootonly says who besides root could change a file: what root runs, and whom root trusts, only root may decide. The plugin host and
// the trusted keys call it.
package rootonly

import (
	"fmt"
	"os"
	"path/filepath"
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

// File returns an error that says who else could change the file at path, which is absolute and has no symbolic links in it: the file
// itself, its directory and every directory above are looked at.
func File(path string) error { return check(path, 0, stat) }

// Dir does so for a directory, into which nobody else may put files.
func Dir(path string) error { return check(path, 1, stat) }

// check walks up from path, which lies at the given depth: 0 is a file's.
func check(path string, depth int, stat func(string) (ownership, error)) error {
	for p := path; ; p, depth = filepath.Dir(p), depth+1 {
		o, err := stat(p)
		if err != nil {
			return err
		}
		// The directory that holds the file may not even take new files of others.
		if w := o.weakness(depth > 1); w != "" {
			return fmt.Errorf("%s %s", p, w)
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}
