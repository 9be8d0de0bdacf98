package kbuild

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// moduleName is what a module may be called: it becomes a file, a C string and a make target.
var moduleName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_]{0,54}$`)

// glueName is what a glue file may be called.
var glueName = regexp.MustCompile(`^[a-zA-Z0-9_]+\.c$`)

// linking is one call of Link.
type linking struct {
	t   *Tree
	req *backend.LinkRequest
	dir string
	env []string
}

// Link makes a module; see backend.Backend. kbuild compiles the glue and makes a module of it, and what modpost must not see
// is linked to that module afterwards. The result has no debug information, and its bytes do not depend on where it was
// made.
func (Service) Link(ctx context.Context, req *backend.LinkRequest, progress plugin.ProgressFunc) (*backend.LinkResponse, error) {
	t, err := openFor(req.Tree)
	if err != nil {
		return nil, err
	}
	if !moduleName.MatchString(req.Name) {
		return nil, plugin.Errorf(plugin.FaultInternal, req.Name, "a module cannot have this name")
	}
	if len(req.Glue) == 0 {
		return nil, plugin.Errorf(plugin.FaultInternal, req.Name, "a module needs at least one glue source")
	}
	dir, err := filepath.EvalSymlinks(req.WorkDir)
	if err != nil {
		return nil, fmt.Errorf("link %s: %w", req.Name, err)
	}
	l := &linking{t: t, req: req, dir: dir}
	l.env = t.env.at(t.Root(), map[string]string{
		// What the top Makefile exports for an external module.
		"KBUILD_EXTMOD": dir, "extmod_prefix": dir + "/", "MODORDER": filepath.Join(dir, "modules.order"),
		"MODULES_NSDEPS": filepath.Join(dir, "modules.nsdeps"), "KBUILD_MODULES": "1", "KBUILD_BUILTIN": "",
		"KBUILD_EXTRA_SYMBOLS": filepath.Join(dir, "provided.symvers"),
		"KBUILD_CFLAGS":        strings.ReplaceAll(t.env["KBUILD_CFLAGS"], rootMark, t.Root()) + " -fmacro-prefix-map=" + dir + "/= -fdebug-prefix-map=" + dir + "=.",
	})
	progress(plugin.Progress{Stage: "link", Message: req.Name})
	if err := l.writeSources(); err != nil {
		return nil, err
	}
	resp := &backend.LinkResponse{}
	for _, step := range [][]string{
		{"scripts/Makefile.build", "obj=" + dir, "need-modorder=1", "need-builtin="},
		{"scripts/Makefile.modpost"},
		{"scripts/Makefile.modfinal"},
	} {
		argv := append([]string{"make", "-s", "CONFIG_DEBUG_INFO_BTF_MODULES=", "-f"}, step...)
		out, err := run(ctx, command{dir: t.Root(), env: l.env, argv: argv})
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit):
			return nil, refusal(l.problems(step[0], out))
		case err != nil:
			return nil, fmt.Errorf("link %s: %s: %w", req.Name, step[0], err)
		}
		resp.Diagnostics = append(resp.Diagnostics, l.problems("", out)...)
	}
	module, err := l.final(ctx)
	if err != nil {
		return nil, err
	}
	resp.Module = module
	return resp, nil
}

func (l *linking) writeSources() error {
	kb := &strings.Builder{}
	fmt.Fprintf(kb, "obj-m := %s.o\n%s-y :=", l.req.Name, l.req.Name)
	names := make([]string, 0, len(l.req.Glue))
	for name := range l.req.Glue {
		names = append(names, name)
	}
	slices.Sort(names)
	files := map[string]string{}
	for _, name := range names {
		if !glueName.MatchString(name) || name == l.req.Name+".c" {
			return plugin.Errorf(plugin.FaultInternal, l.req.Name, "a glue source cannot be called %q", name)
		}
		fmt.Fprintf(kb, " %s.o", strings.TrimSuffix(name, ".c"))
		files[name] = l.req.Glue[name]
	}
	kb.WriteString("\n")
	files["Kbuild"] = kb.String()
	files["provided.symvers"] = providedSymbols(l.req.Provided)
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(l.dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("link %s: %w", l.req.Name, err)
		}
	}
	return nil
}

// providedSymbols is a Module.symvers (Documentation/kbuild/modules.rst) of symbols that come from elsewhere. Their CRC is 0:
// a provider without CRCs is what the loader accepts (kernel/module/version.c:check_version).
func providedSymbols(provided map[string]string) string {
	var lines []string
	for symbol, from := range provided {
		lines = append(lines, fmt.Sprintf("0x00000000\t%s\t%s\tEXPORT_SYMBOL_GPL\t\n", symbol, from))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// modpostForm is what modpost says: "ERROR: modpost: text".
var modpostForm = regexp.MustCompile(`^(ERROR|WARNING): (?:modpost: )?(.*)$`)

// problems finds diagnostics in a log. A failed step without any gets one with the end of its log.
func (l *linking) problems(failed string, out *output) []plugin.Diagnostic {
	list := parseLog(out.stderr)
	for line := range strings.Lines(string(out.stderr)) {
		if m := modpostForm.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			list = append(list, diagnostic(strings.ToLower(m[1]), l.req.Name, "modpost: "+m[2]))
		}
	}
	for i := range list {
		list[i].Where = strings.TrimPrefix(list[i].Where, l.dir+"/")
	}
	if failed != "" && !slices.ContainsFunc(list, isError) {
		list = append(list, plugin.Diagnostic{Fault: plugin.FaultToolchain, Where: l.req.Name, Summary: failed + " failed", Detail: tail(out)})
	}
	return list
}

// refusal makes one error of diagnostics: the first that is more than a warning, with the others in its detail.
func refusal(list []plugin.Diagnostic) error {
	var first *plugin.Diagnostic
	var others []string
	for i := range list {
		switch {
		case !isError(list[i]):
		case first == nil:
			first = &list[i]
		default:
			others = append(others, list[i].Error())
		}
	}
	if len(others) > 0 {
		first.Detail = strings.TrimSpace(first.Detail + "\n" + strings.Join(others, "\n"))
	}
	return first
}

// final links the module that kbuild made with the objects.
func (l *linking) final(ctx context.Context) (string, error) {
	module := filepath.Join(l.dir, l.req.Name+".ko")
	glue := filepath.Join(l.dir, "glue-linked.o")
	if err := os.Rename(module, glue); err != nil {
		return "", fmt.Errorf("link %s: %w", l.req.Name, err)
	}
	script := filepath.Join(l.dir, "final.lds")
	text := l.req.Script
	if text == "" {
		b, err := os.ReadFile(filepath.Join(l.t.Root(), "arch", l.t.Arch, "module.lds"))
		if errors.Is(err, os.ErrNotExist) {
			b, err = os.ReadFile(filepath.Join(l.t.Root(), "scripts/module.lds"))
		}
		if err != nil {
			return "", fmt.Errorf("link %s: %w", l.req.Name, err)
		}
		text = string(b)
	}
	if err := os.WriteFile(script, []byte(text), 0o644); err != nil {
		return "", fmt.Errorf("link %s: %w", l.req.Name, err)
	}
	tool := func(name string) string {
		if t := l.t.env[name]; t != "" {
			return t
		}
		return strings.ToLower(name)
	}
	ld := append([]string{tool("LD"), "-r"}, strings.Fields(l.t.env["KBUILD_LDFLAGS"])...)
	// -S: debug information has paths; the build id of the glue alone is none of the module's.
	ld = append(ld, "-S", "--build-id=sha1", "-T", script, "-o", module, glue)
	steps := [][]string{
		{tool("OBJCOPY"), "--strip-debug", "--remove-section=.note.gnu.build-id", "--remove-section=.comment", glue},
		append(ld, l.req.Objects...),
		{tool("OBJCOPY"), "--strip-debug", "--remove-section=.comment", module},
	}
	for _, argv := range steps {
		out, err := run(ctx, command{dir: l.dir, env: l.env, argv: argv})
		if err != nil {
			if ctx.Err() != nil {
				return "", ctx.Err()
			}
			return "", failure("link "+l.req.Name+": "+argv[0], out, err)
		}
	}
	return module, nil
}
