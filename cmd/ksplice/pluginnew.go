package main

import (
	"fmt"
	"io"
	"path/filepath"
	"runtime/debug"

	"github.com/spf13/pflag"
	"golang.org/x/mod/semver"

	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/scaffold"
)

// newFlags say what plugin new writes, and where.
type newFlags struct {
	dir     string
	module  string
	sdk     string
	machine uint16
}

func (n *newFlags) flags(fs *pflag.FlagSet) {
	fs.StringVar(&n.dir, "dir", "", "new: the `DIRECTORY` to write to, empty or not there yet (default: KIND-NAME)")
	fs.StringVar(&n.module, "module", "", "new: the Go module `PATH` of the project (default: example.org/KIND-NAME)")
	fs.StringVar(&n.sdk, "sdk", "", "new: a `DIRECTORY` with the source of ksplice to build against (default: the version of this ksplice)")
	fs.Uint16Var(&n.machine, "machine", 0, "new, of an architecture plugin: the ELF machine `NUMBER`, where its name does not tell")
}

// project is what was written.
type project struct {
	Dir   string   `json:"dir"`
	Files []string `json:"files"`
}

func newPlugin(e *env, kind, name string, flags *newFlags) error {
	p := scaffold.Project{Kind: plugin.Kind(kind), Name: name, Module: flags.module, Machine: flags.machine, SDK: flags.sdk}
	if p.SDK == "" {
		build, _ := debug.ReadBuildInfo()
		var err error
		if p.Version, err = ownVersion(build); err != nil {
			return err
		}
	}
	out := project{Dir: flags.dir}
	if out.Dir == "" {
		out.Dir = p.File()
	}
	var err error
	if out.Files, err = scaffold.Write(out.Dir, p); err != nil {
		return err
	}
	return e.result(out, func(w io.Writer) {
		for _, f := range out.Files {
			fmt.Fprintln(w, filepath.Join(out.Dir, f))
		}
		fmt.Fprintf(w, "\nIt builds, and says what it cannot do yet:\n    cd %s && make && make test && make check\n", out.Dir)
	})
}

// ownVersion is the version that this ksplice was built as, which a project can require: a release, or a commit that is published.
func ownVersion(build *debug.BuildInfo) (string, error) {
	const advice = "give a checkout of its source with --sdk DIRECTORY"
	switch {
	case build == nil || build.Main.Version == "" || build.Main.Version == "(devel)":
		return "", usagef("this ksplice does not know which version it is, so that no project can require its SDK: %s", advice)
	case !semver.IsValid(build.Main.Version) || semver.Build(build.Main.Version) != "":
		return "", usagef("this ksplice is of version %s, which nobody can download: %s", build.Main.Version, advice)
	}
	return build.Main.Version, nil
}
