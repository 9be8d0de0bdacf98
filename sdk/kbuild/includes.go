package kbuild

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// includesName is the file in the state directory with every #include of the tree: a line a file, the file and what it
// includes separated by tabs, each include with its opening quote or bracket.
const includesName = "includes"

// skipped are directories that no unit of a kernel includes from.
var skipped = map[string]bool{"Documentation": true, "tools": true, "samples": true, "scripts": true, "rust": true, ".git": true, "LICENSES": true}

// scanIncludes finds the names in #include directives, conditional or not, and those that a macro stands for, in case an
// #include names the macro (include/linux/genl_magic_func.h).
func scanIncludes(content []byte) []string {
	var list []string
	for len(content) > 0 {
		i := bytes.IndexByte(content, '#')
		if i < 0 {
			break
		}
		begins := i == 0 || onlyBlanks(content[:i])
		line := content[i+1:]
		if j := bytes.IndexByte(line, '\n'); j >= 0 {
			content, line = line[j:], line[:j]
		} else {
			content = nil
		}
		if !begins {
			continue
		}
		rest, ok := bytes.CutPrefix(bytes.TrimLeft(line, " \t"), []byte("include"))
		if !ok {
			if m := macroForm.FindSubmatch(line); m != nil {
				list = append(list, string(m[1]))
			}
			continue
		}
		rest = bytes.TrimLeft(rest, " \t")
		if len(rest) < 2 {
			continue
		}
		end := byte('"')
		if rest[0] == '<' {
			end = '>'
		} else if rest[0] != '"' {
			continue
		}
		if j := bytes.IndexByte(rest[1:], end); j > 0 {
			list = append(list, string(rest[:j+1]))
		}
	}
	return list
}

// macroForm is a macro that stands for a file's name.
var macroForm = regexp.MustCompile(`^[ \t]*define[ \t]+\w+[ \t]+(["<][\w./+-]+\.[chS])[">][ \t]*$`)

// onlyBlanks says whether nothing but blanks stands before the end on its last line.
func onlyBlanks(b []byte) bool {
	for i := len(b) - 1; i >= 0; i-- {
		switch b[i] {
		case '\n':
			return true
		case ' ', '\t':
		default:
			return false
		}
	}
	return true
}

// shippedSuffix is that of sources that kbuild copies before it compiles them (scripts/Makefile.lib: cmd_shipped).
const shippedSuffix = "_shipped"

func isSource(name string) bool {
	switch path.Ext(strings.TrimSuffix(name, shippedSuffix)) {
	case ".c", ".h", ".S":
		return true
	}
	// Included tables: drivers/gpu has .inc, arch/x86 .tbl is data and goes through scripts.
	return path.Ext(name) == ".inc"
}

func isMakefile(name string) bool { return slices.Contains(makefileNames, path.Base(name)) }

// index scans the tree's includes.
func (t *Tree) index(progress plugin.ProgressFunc) error {
	progress(plugin.Progress{Stage: "index", Message: "look who includes whom"})
	var names []string
	root := t.Root()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.IsDir() && (skipped[rel] || filepath.Dir(rel) == "arch" && d.Name() != t.Arch) {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() && (isSource(rel) || isMakefile(rel)) {
			names = append(names, rel)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("index the tree: %w", err)
	}
	lines := make([]string, len(names))
	var g errgroup.Group
	g.SetLimit(jobs(0))
	for i, name := range names {
		g.Go(func() error {
			b, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				return err
			}
			if isMakefile(name) {
				lines[i] = strings.Join(scanMakefile(name, string(b)), "\n")
			} else {
				lines[i] = strings.Join(append([]string{strings.TrimSuffix(name, shippedSuffix)}, scanIncludes(b)...), "\t")
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("index the tree: %w", err)
	}
	lines = slices.DeleteFunc(lines, func(l string) bool { return l == "" })
	slices.Sort(lines)
	return writeFile(t.state(includesName), []byte(strings.Join(lines, "\n")+"\n"))
}

// includes is who includes whom.
type includes struct {
	files map[string]bool
	// byBase has, for the last part of an included name, who includes such a name and how.
	byBase map[string][]include
	// search are the directories of LINUXINCLUDE, in order; forced the files that every unit includes.
	search []string
	forced []string
	// rules are those that make objects of sources elsewhere.
	rules []sourceRule
}

type include struct {
	file, name string
	quoted     bool
}

// indexes keeps what was read, by tree directory: it takes a tenth of a second and never changes.
var indexes struct {
	sync.Mutex
	known map[string]*includes
}

// includes reads the tree's index. Where a work tree differs, its own files are what the host asks about, so they need not be
// looked at: a file is found by those that include it, not by what it includes.
func (t *Tree) includes() (*includes, error) {
	indexes.Lock()
	defer indexes.Unlock()
	if x := indexes.known[t.Dir]; x != nil {
		return x, nil
	}
	f, err := os.Open(t.state(includesName))
	if err != nil {
		return nil, fmt.Errorf("read the index of includes: %w", err)
	}
	defer f.Close()
	x := &includes{files: map[string]bool{}, byBase: map[string][]include{}}
	x.paths(t.env["LINUXINCLUDE"])
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		x.add(strings.Split(s.Text(), "\t"))
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read the index of includes: %w", err)
	}
	if indexes.known == nil {
		indexes.known = map[string]*includes{}
	}
	indexes.known[t.Dir] = x
	return x, nil
}

// paths reads LINUXINCLUDE (the kernel's top Makefile).
func (x *includes) paths(flags string) {
	f := strings.Fields(flags)
	for i, s := range f {
		switch {
		case strings.HasPrefix(s, "-I"):
			x.search = append(x.search, path.Clean(strings.TrimPrefix(s, "-I")))
		case s == "-include" && i+1 < len(f):
			x.forced = append(x.forced, path.Clean(f[i+1]))
		}
	}
	// c_flags (scripts/Makefile.lib).
	x.forced = append(x.forced, "include/linux/compiler_types.h")
}

// add adds a file and what it includes.
func (x *includes) add(line []string) {
	switch {
	case line[0] == ruleMark && len(line) == 3:
		x.rules = append(x.rules, sourceRule{line[1], line[2]})
		return
	case line[0] == forcedMark && len(line) == 2:
		x.forced = append(x.forced, line[1])
		return
	}
	x.files[line[0]] = true
	for _, s := range line[1:] {
		name := s[1:]
		x.byBase[path.Base(name)] = append(x.byBase[path.Base(name)], include{line[0], name, s[0] == '"'})
	}
}

// mayMean says whether an include may mean target. It is exact for names found beside the including file or in the
// kernel's own include directories, which come before those of a makefile; of other names any file with that end counts.
func (x *includes) mayMean(i include, target string) bool {
	if i.quoted {
		if beside := path.Join(path.Dir(i.file), i.name); x.files[beside] {
			return beside == target
		}
	}
	for _, dir := range x.search {
		if p := path.Join(dir, i.name); x.files[p] {
			return p == target
		}
	}
	name := path.Clean(i.name)
	for strings.HasPrefix(name, "../") {
		name = name[3:]
	}
	return target == name || strings.HasSuffix(target, "/"+name)
}

// includers lists the files that include target, directly or not, sorted; everything says that every unit does.
func (x *includes) includers(target string) (list []string, everything bool) {
	seen := map[string]bool{target: true}
	todo := []string{target}
	for len(todo) > 0 {
		t := todo[0]
		todo = todo[1:]
		if slices.Contains(x.forced, t) {
			everything = true
		}
		for _, i := range x.byBase[path.Base(t)] {
			if !seen[i.file] && x.mayMean(i, t) {
				seen[i.file] = true
				todo = append(todo, i.file)
				list = append(list, i.file)
			}
		}
	}
	slices.Sort(list)
	return list, everything
}
