// Package doctor says whether a machine is ready for ksplice: a row for each thing that apply or create need, with what to do where it is
// not there. The doctor command calls it. It looks at files and at what it is given, and changes nothing.
package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ksplice/ksplice/core/machine"
	"github.com/ksplice/ksplice/core/pluginhost"
)

// Verdict is what came of one look.
type Verdict string

// The verdicts.
const (
	// Good: as it should be.
	Good Verdict = "good"
	// Warning: it works without, or nobody can tell; the row says what does not.
	Warning Verdict = "WARNING"
	// Wrong: what the row is needed for is refused.
	Wrong Verdict = "WRONG"
)

// Need is what a check is needed for.
type Need string

// The needs.
const (
	// Apply needs the running kernel, the kernel module and an architecture plugin.
	Apply Need = "apply"
	// Create needs sources, a compiler and room, on whatever machine it runs.
	Create Need = "create"
)

// Finding is what a check found.
type Finding struct {
	Verdict Verdict
	// Found is what there is, in a few words.
	Found string
	// Do says what to do; empty where nothing is to be done.
	Do string
}

// Row is one check with what it found.
type Row struct {
	Check   string  `json:"check"`
	For     Need    `json:"for"`
	Verdict Verdict `json:"verdict"`
	Found   string  `json:"found"`
	Do      string  `json:"do,omitempty"`
}

// Check is one thing to look at. Further ones go into Checks.
type Check struct {
	Name string
	For  Need
	// Run looks. It may return several findings, or none where there is nothing to tell.
	Run func(ctx context.Context, m *Machine) []Finding
}

// Machine is the machine as checks see it: files below a root, and what no file tells.
type Machine struct {
	// Root is put before every path; empty on the running machine.
	Root string
	// Release is the running kernel's, ELF the machine number of its programs (EM_X86_64 is 62).
	Release string
	ELF     uint16
	// UID is the user's.
	UID int
	// Now is what ksplice knows of the machine; nil where it could not be read, as NowErr says.
	Now    *machine.Machine
	NowErr error
	// Device tries to speak to the loaded kernel module.
	Device func() error
	// Plugins are the binaries found; Health asks one whether it can do its work here.
	Plugins []pluginhost.Found
	Health  func(context.Context, *pluginhost.Found) error
	// Backend says which backend can build the running kernel, and as what.
	Backend func(context.Context) (string, error)
	// CompilerVersion returns the first line of what a compiler says to --version.
	CompilerVersion func(ctx context.Context, command string) (string, error)
	// Updates is what the machine has decided about updates.
	Updates Updates
	// Cache is the directory for trees and objects, Free the bytes that a user may still write below a path that exists.
	Cache string
	Free  func(path string) (uint64, error)
}

// Checks are all checks, in the order in which they are shown.
func Checks() []Check {
	return []Check{
		{"user", Apply, user},
		{"kernel release", Apply, release},
		{"kernel configuration", Apply, configuration},
		{"kernel addresses", Apply, addresses},
		{"loading modules", Apply, loading},
		{"live patches of others", Apply, livepatches},
		{"kernel headers", Apply, headers},
		{"ksplice module", Apply, module},
		{"lockdown", Apply, lockdown},
		{"secure boot", Apply, secureBoot},
		{"module signature", Apply, signature},
		{"architecture plugin", Apply, architecture},
		{"plugins", Apply, plugins},
		{"freezing", Apply, freezing},
		{"state directory", Apply, state},
		{"leftovers", Apply, leftovers},
		{"trusted keys", Apply, keys},
		{"persistent updates", Apply, persistent},
		{"backend", Create, backend},
		{"compiler", Create, compiler},
		{"cache", Create, cache},
	}
}

// Run goes through checks.
func Run(ctx context.Context, m *Machine, checks []Check) ([]Row, error) {
	rows := []Row{}
	for _, c := range checks {
		for _, f := range c.Run(ctx, m) {
			rows = append(rows, Row{Check: c.Name, For: c.For, Verdict: f.Verdict, Found: f.Found, Do: f.Do})
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// Count counts the rows of one need and verdict.
func Count(rows []Row, need Need, verdict Verdict) int {
	n := 0
	for _, r := range rows {
		if r.For == need && r.Verdict == verdict {
			n++
		}
	}
	return n
}

func good(found string) []Finding          { return []Finding{{Good, found, ""}} }
func warning(found, do string) []Finding   { return []Finding{{Warning, found, do}} }
func wrong(found, do string) []Finding     { return []Finding{{Wrong, found, do}} }
func (m *Machine) path(name string) string { return filepath.Join("/", m.Root, name) }

// read returns a file's text without blanks around it, and whether the file is there.
func (m *Machine) read(name string) (text string, ok bool, err error) {
	b, err := os.ReadFile(m.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	return strings.TrimSpace(string(b)), err == nil, err
}

func (m *Machine) exists(name string) bool {
	_, err := os.Stat(m.path(name))
	return err == nil
}

// unknown is what a file told us that cannot be read.
func unknown(err error) []Finding {
	return warning("not known: "+err.Error(), "run ksplice doctor as root")
}
