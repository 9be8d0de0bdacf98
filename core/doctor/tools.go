package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/ksplice/ksplice/core/freeze"
	"github.com/ksplice/ksplice/core/kept"
	"github.com/ksplice/ksplice/sdk/plugin"
)

func architecture(_ context.Context, m *Machine) []Finding {
	for _, p := range m.Plugins {
		if p.Skipped == "" && p.Info.Kind == plugin.KindArch && slices.Contains(p.Info.Machines, m.ELF) {
			return good(p.Info.Name + " " + p.Info.Version)
		}
	}
	return wrong(fmt.Sprintf("none serves ELF machine %d", m.ELF), "install the plugins of ksplice; `ksplice plugin list` shows where they are looked for")
}

// plugins has a row for each that is not used, or says that it cannot do its work.
func plugins(ctx context.Context, m *Machine) []Finding {
	var out []Finding
	well := 0
	for i := range m.Plugins {
		p := &m.Plugins[i]
		if p.Skipped != "" {
			out = append(out, Finding{Warning, p.File + " is not used", p.Skipped})
			continue
		}
		if err := m.Health(ctx, p); err != nil {
			out = append(out, Finding{Warning, p.File + " is not well", err.Error()})
			continue
		}
		well++
	}
	if well > 0 {
		out = append([]Finding{{Good, fmt.Sprintf("%d well", well), ""}}, out...)
	}
	return out
}

func freezing(_ context.Context, m *Machine) []Finding {
	root, err := freeze.MountPoint(m.path("/proc/self/mountinfo"))
	switch {
	case errors.Is(err, freeze.ErrNoCgroups):
		return warning("no cgroup v2", "apply --freeze needs it: mount -t cgroup2 none /sys/fs/cgroup")
	case err != nil:
		return unknown(err)
	}
	return good("cgroup v2 at " + root)
}

// state: what lies in there is believed at undo and when modules come, so that it must be root's alone.
func state(_ context.Context, m *Machine) []Finding {
	for _, dir := range []string{kept.Root, filepath.Dir(kept.Root)} {
		info, err := os.Stat(m.path(dir))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return unknown(err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		switch {
		case !info.IsDir():
			return wrong(dir+" is no directory", "remove it")
		case !ok || int(st.Uid) != m.owner() || info.Mode().Perm()&0o022 != 0:
			return wrong(fmt.Sprintf("%s can be written to by others (mode %#o)", dir, info.Mode().Perm()), "chown root "+dir+" && chmod go-w "+dir)
		case dir == kept.Root:
			return good(dir)
		}
		return good(dir + "; made when it is needed")
	}
	return wrong(filepath.Dir(kept.Root)+" is missing", "mount a tmpfs there")
}

// owner is whose directories are trusted: root's, and below another root, which is a test's, its own.
func (m *Machine) owner() int {
	if m.Root != "" {
		return os.Getuid()
	}
	return 0
}

func leftovers(_ context.Context, m *Machine) []Finding {
	if m.NowErr != nil {
		return unknown(m.NowErr)
	}
	var out []Finding
	for _, p := range m.Now.Problems() {
		out = append(out, Finding{Warning, p.Name() + ": " + p.What, p.Do})
	}
	if len(out) == 0 {
		return good("none")
	}
	return out
}

func backend(ctx context.Context, m *Machine) []Finding {
	banner, err := m.Backend(ctx)
	if err != nil {
		return wrong("none can build for "+m.Release, err.Error())
	}
	return good(banner)
}

// compiler: of the running kernel, which is what create builds for by default.
func compiler(ctx context.Context, m *Machine) []Finding {
	config, _, err := m.config()
	if err != nil || config == nil {
		return nil // which is told
	}
	command, want, ok := strings.Cut(config["CC_VERSION_TEXT"], " ")
	if !ok {
		return warning("not known which", "the running kernel's configuration does not say what it was compiled with")
	}
	line, err := m.CompilerVersion(ctx, command)
	if err != nil {
		return wrong(command+" is missing", "install "+command+", which compiled the running kernel: "+want)
	}
	// What it was called as is not compared.
	if _, have, _ := strings.Cut(line, " "); have != want {
		return wrong(line, "the running kernel was compiled with "+want+": install that version of "+command)
	}
	return good(line)
}

// Room for a tree, in bytes: a distribution's kernel takes 1.3 GB with its objects, and as much again for packages and what is unpacked on the way.
const (
	tightRoom = 2 << 30
	amplyRoom = 4 << 30
)

func cache(_ context.Context, m *Machine) []Finding {
	if m.Cache == "" {
		return wrong("no place", "neither $XDG_CACHE_HOME nor $HOME is set: set one, or name a directory with --cache")
	}
	dir := m.Cache
	for !m.exists(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	free, err := m.Free(m.path(dir))
	if err != nil {
		return unknown(err)
	}
	found := fmt.Sprintf("%s has %.1f GiB free", m.Cache, float64(free)/(1<<30))
	const do = "a kernel's tree takes 2 to 4 GiB: make room, or name another directory with --cache"
	switch {
	case free < tightRoom:
		return wrong(found, do)
	case free < amplyRoom:
		return warning(found, do)
	}
	return good(found)
}
