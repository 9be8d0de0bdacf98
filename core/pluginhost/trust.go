package pluginhost

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/ksplice/ksplice/core/rootonly"
)

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
		if err := rootonly.File(c.path); err != nil {
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
