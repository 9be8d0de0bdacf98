package pluginhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// PathVariable names the environment variable with directories to look in first, separated as in PATH.
const PathVariable = "KSPLICE_PLUGIN_PATH"

// DefaultDirs returns the directories that belong to an installation, in order: those in $KSPLICE_PLUGIN_PATH; beside
// the executable, as an installation below a prefix and as a build have it; then the system's.
func DefaultDirs() []string {
	dirs := filepath.SplitList(os.Getenv(PathVariable))
	if exe, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		beside := filepath.Dir(exe)
		dirs = append(dirs, filepath.Join(beside, "..", "libexec", "ksplice", "plugins"), filepath.Join(beside, "plugins"))
	}
	dirs = append(dirs, "/usr/local/libexec/ksplice/plugins", "/usr/libexec/ksplice/plugins")
	var out []string
	for _, d := range dirs {
		if d = filepath.Clean(d); filepath.IsAbs(d) && !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out
}

// Source says why a directory is looked through.
type Source string

// The sources of directories beside the configuration.
const (
	SourceEnvironment  Source = "$" + PathVariable
	SourceInstallation Source = "installation"
)

// DefaultSource returns the source of one of DefaultDirs.
func DefaultSource(dir string) Source {
	for _, d := range filepath.SplitList(os.Getenv(PathVariable)) {
		if filepath.Clean(d) == dir {
			return SourceEnvironment
		}
	}
	return SourceInstallation
}

// Found is one executable in the directories: a plugin, or what might have been meant as one. A directory that cannot be read is one, too.
type Found struct {
	// Path is the binary as found, File its name: KIND-NAME. File is empty for a directory.
	Path string `json:"path"`
	File string `json:"file"`
	// Directory is the one of Config.Dirs that it was found in.
	Directory string `json:"directory"`
	// Info is what the plugin says of itself; zero when it was skipped before it could say so.
	Info plugin.Info `json:"info"`
	// SHA256 is the binary's digest in hex, for a pin; empty when it could not be read or was not trusted.
	SHA256 string `json:"sha256,omitempty"`
	// Skipped says why the plugin is not used; empty when it is.
	Skipped string `json:"skipped,omitempty"`
	// ShadowedBy is the path of the plugin of the same kind and name in an earlier directory, where that is why it is not used.
	ShadowedBy string `json:"shadowed_by,omitempty"`
}

// binaryName is how plugin binaries are called: the kind, then the name.
var binaryName = regexp.MustCompile(`^(arch|backend|transform)-([a-zA-Z0-9][a-zA-Z0-9_.+-]*)$`)

// SplitName returns the kind and the name of the plugin that a file of this name is, where it is one.
func SplitName(file string) (kind plugin.Kind, name string, ok bool) {
	m := binaryName.FindStringSubmatch(file)
	if m == nil {
		return "", "", false
	}
	return plugin.Kind(m[1]), m[2], true
}

// candidate is a binary that may be a plugin.
type candidate struct {
	dir   string // of the configuration
	found string // path as found
	path  string // without symbolic links
	file  string
	kind  plugin.Kind
	name  string
	label string
	log   hclog.Logger

	unusable error  // what scan found wrong
	shadowed string // the path of the one that comes before it

	asking sync.Mutex // guards what describe found, and that only one asks
	asked  bool
	info   *plugin.Info
	id     string // of the file that was asked
	err    error

	starting sync.Mutex // guards inst, and that only one starts it
	inst     *instance
}

// scan lists the binaries in dirs that are called like plugins. The first of a name wins; the others, what cannot be
// executed, and executables that are called otherwise, are unusable. A directory that is named twice counts once.
func scan(dirs []string, log hclog.Logger) []*candidate {
	var out []*candidate
	first := make(map[string]*candidate)
	seen := make(map[string]bool)
	for _, dir := range dirs {
		if seen[filepath.Clean(dir)] {
			continue
		}
		seen[filepath.Clean(dir)] = true
		entries, err := os.ReadDir(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			out = append(out, &candidate{dir: dir, found: dir, label: "plugin directory " + dir,
				unusable: newError(ErrNotFound, dir, "make the directory readable, or take it out of the configuration", "read the plugin directory: %v", err)})
			continue
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			info, err := os.Stat(path)
			if err == nil && !info.Mode().IsRegular() {
				continue
			}
			kind, name, ok := SplitName(e.Name())
			if !ok {
				if err == nil && info.Mode()&0o111 != 0 {
					out = append(out, misnamed(dir, path, e.Name()))
				}
				continue
			}
			c := &candidate{dir: dir, found: path, file: e.Name(), kind: kind, name: name}
			c.label = fmt.Sprintf("%s plugin %s (%s)", c.kind, c.name, path)
			c.log = log.Named(string(kind)).Named(name)
			if err == nil {
				c.path, err = filepath.EvalSymlinks(path)
			}
			switch other := first[c.file]; {
			case err != nil:
				c.unusable = newError(ErrNotFound, c.label, "mend or remove the file", "look at the plugin: %v", err)
			case info.Mode()&0o111 == 0:
				c.unusable = newError(ErrNotFound, c.label, "chmod +x it, or remove it", "the file is not executable")
			case other != nil:
				c.shadowed = other.found
				c.unusable = newError(ErrNotFound, c.label, "the directory that comes first in the list wins", "%s comes before it", other.found)
			default:
				first[c.file] = c
			}
			out = append(out, c)
		}
	}
	return out
}

// misnamed is an executable whose name no host looks for.
func misnamed(dir, path, file string) *candidate {
	return &candidate{dir: dir, found: path, file: file, label: path, unusable: newError(ErrNotFound, path,
		"if it is a plugin, give it the kind and name that it prints when it is called with the argument \"describe\"; else keep it elsewhere",
		"its name is none of arch-NAME, backend-NAME and transform-NAME")}
}

// describeMax bounds what a plugin may print when it describes itself, in bytes.
const describeMax = 1 << 20

// describe returns who the plugin says it is; it asks once. With an error there may be an Info all the same.
func (h *Host) describe(ctx context.Context, c *candidate) (*plugin.Info, error) {
	if c.unusable != nil {
		return nil, c.unusable
	}
	c.asking.Lock()
	defer c.asking.Unlock()
	if !c.asked {
		c.info, c.id, c.err = h.ask(ctx, c)
		c.asked = ctx.Err() == nil
	}
	return c.info, c.err
}

// identity tells which file describe asked; empty when it was not trusted.
func (c *candidate) identity() string {
	c.asking.Lock()
	defer c.asking.Unlock()
	return c.id
}

// ask runs `BINARY describe` and checks the answer. It returns the identity of the file that it asked, too.
func (h *Host) ask(ctx context.Context, c *candidate) (*plugin.Info, string, error) {
	id, err := c.verify(h.asRoot, h.config.Pins[c.file])
	if err != nil {
		return nil, "", err
	}
	var text []byte
	p, err := startProcess(c.path, []string{"describe"}, os.Environ(), c.log, func(r io.Reader) {
		text, _ = io.ReadAll(io.LimitReader(r, describeMax+1))
		io.Copy(io.Discard, r)
	})
	if err != nil {
		return nil, id, newError(ErrExited, c.label, "install a binary for this machine, or remove the file", "start the plugin: %v", err)
	}
	timeout := h.config.Timeouts.Describe
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	select {
	case <-p.exited:
	case <-ctx.Done():
		p.kill()
		<-p.exited
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, id, fmt.Errorf("describe %s: %w", c.label, ctx.Err())
		}
		return nil, id, newError(ErrTimeout, c.label, "it should print who it is at once: report it to its author, or remove it",
			"`%s describe` did not end within %s", c.found, timeout)
	}
	if !p.cmd.ProcessState.Success() {
		return nil, id, newError(ErrExited, c.label, p.output.String()+"\nif it is no Ksplice plugin, remove it from the directory",
			"`%s describe` %s", c.found, p.outcome)
	}
	info := new(plugin.Info)
	if err := json.Unmarshal(text, info); err != nil || len(text) > describeMax {
		return nil, id, newError(ErrNonsense, c.label, "if it is no Ksplice plugin, remove it from the directory",
			"`%s describe` did not print a description in JSON but %s", c.found, quoted(string(text)))
	}
	return info, id, c.checkInfo(info)
}

// checkInfo returns what is wrong with what a plugin says of itself.
func (c *candidate) checkInfo(info *plugin.Info) error {
	const advice = "report it to the plugin's author, or give the file the name KIND-NAME that the plugin has"
	switch {
	case info.Kind != c.kind || info.Name != c.name:
		return newError(ErrNonsense, c.label, advice, "it says that it is the %s plugin %q", info.Kind, info.Name)
	case c.kind == plugin.KindArch && len(info.Machines) == 0:
		return newError(ErrNonsense, c.label, advice, "it is an architecture plugin and serves no ELF machine")
	case !slices.ContainsFunc(info.Protocols, func(v int) bool { return slices.Contains(plugin.Protocols(), v) }):
		return protocolError(c.label, versions(info.Protocols))
	}
	return nil
}
