package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/pluginhost"
)

// listed is a found plugin, with where it was found.
type listed struct {
	pluginhost.Found
	// Source says why its directory is looked through.
	Source string `json:"source"`
}

func listPlugins(ctx context.Context, e *env) error {
	found := e.host.List(ctx)
	out := make([]listed, len(found))
	for i, f := range found {
		out[i] = listed{f, e.config.source(f.Directory)}
	}
	return e.result(out, func(w io.Writer) {
		if len(out) == 0 {
			fmt.Fprintln(w, "no plugins; install them, or name their directory in $KSPLICE_PLUGIN_PATH")
		} else {
			fmt.Fprintln(w, "KIND\tNAME\tVERSION\tPROTOCOLS\tPATH\tDESCRIPTION")
		}
		for i := range out {
			out[i].row(w, e.verbose > 0)
		}
		if e.verbose > 0 {
			e.directories(w, out)
		}
	})
}

// row writes one plugin; what is said besides stands below its description.
func (l *listed) row(w io.Writer, verbose bool) {
	const below = "\n\t\t\t\t\t"
	if l.Skipped != "" {
		fmt.Fprintf(w, "-\t-\t-\t-\t%s\tskipped: %s\n", l.Path, strings.ReplaceAll(l.Skipped, "\n", below))
	} else {
		fmt.Fprintf(w, "%s\t%s\t%s\t%v\t%s\t%s\n", l.Info.Kind, l.Info.Name, l.Info.Version, l.Info.Protocols, l.Path, l.Info.Description)
	}
	if !verbose {
		return
	}
	fmt.Fprintf(w, "%sfound in %s (%s)\n", below[1:], l.Directory, l.Source)
	if l.SHA256 != "" {
		fmt.Fprintf(w, "%ssha256 %s\n", below[1:], l.SHA256)
	}
}

// directories says in which order directories were looked through, and what came of each.
func (e *env) directories(w io.Writer, found []listed) {
	fmt.Fprintln(w, "\nDirectories are looked through in this order; of plugins of the same kind and name the first is used:")
	var seen []string
	for _, dir := range e.config.dirs() {
		if slices.Contains(seen, filepath.Clean(dir)) {
			continue
		}
		seen = append(seen, filepath.Clean(dir))
		used, skipped := 0, 0
		for _, f := range found {
			switch {
			case f.Directory == dir && f.Skipped == "":
				used++
			case f.Directory == dir:
				skipped++
			}
		}
		what := fmt.Sprintf("%d used, %d skipped", used, skipped)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			what = "is not there"
		}
		fmt.Fprintf(w, "%d\t%s (%s): %s\n", len(seen), dir, e.config.source(dir), what)
	}
}
