package kbuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// recipe replaces what kbuild does for an object: it writes the command down instead of running it. if_changed_rule
// (scripts/Kbuild.include) expands rule_cc_o_c and rule_as_o_S as recipes of the object, so all that depends on the
// object (flags of its directory, of its module, objtool or not) is as in a build, and what the object needs (generated
// headers) is made first.
//
// Only the makefile that lists the object counts (real-obj-y, real-obj-m and lib-y of scripts/Makefile.lib): where a directory hangs on
// another makefile than its parent's, as drivers/block/aoe on drivers/Makefile, that of the parent is asked for the object, too,
// and would compile it its own way, at the same time.
const recipe = "$(if $(filter $@,$(real-obj-y) $(real-obj-m) $(lib-y))," +
	"$(file >$(dot-target).ksplice,$(%s)$(if $(strip $(cmd_record_mcount)),; $(cmd_record_mcount))))"

// recordMakefile is read by make before the kernel's own, whose definitions then do not count. On make's command line the variables
// would be in the environment of every recipe, and expanded, with their effect, for each.
func recordMakefile() string {
	return "override rule_cc_o_c = " + fmt.Sprintf(recipe, "cmd_cc_o_c") + "\noverride rule_as_o_S = " + fmt.Sprintf(recipe, "cmd_as_o_S") + "\n"
}

// recordSuffix is that of the files that recipe writes.
const recordSuffix = ".ksplice"

// commandKey names the remembered command of a unit. Its file has a digest over this and the command on the first line, the command after
// it: what was altered would compile something else, and is none.
func commandKey(u backend.Unit, flags []string) string {
	return digest(append([]string{u.Object}, flags...)...)
}

func (t *Tree) commandPath(key string) string { return t.state("commands", key) }

// knownCommand gives the remembered command of a unit, "" when there is none.
func (t *Tree) knownCommand(u backend.Unit, flags []string) string {
	key := commandKey(u, flags)
	b, err := os.ReadFile(t.commandPath(key))
	if err != nil {
		return ""
	}
	seal, text, ok := strings.Cut(string(b), "\n")
	if !ok || seal != digest(key, text) {
		return ""
	}
	return text
}

func (t *Tree) rememberCommand(u backend.Unit, flags []string, text string) error {
	key := commandKey(u, flags)
	if err := writeFile(t.commandPath(key), []byte(digest(key, text)+"\n"+text)); err != nil {
		return fmt.Errorf("remember command of %s: %w", u.Object, err)
	}
	return nil
}

// askCommands has kbuild make what the units need and say how it would compile each. The commands of units that it
// cannot compile are missing in the answer; why is in what make said.
func (t *Tree) askCommands(ctx context.Context, work string, units []backend.Unit, flags []string, jobs int) (map[string]string, *output, error) {
	mk, err := t.makefile(recordMakefile())
	if err != nil {
		return nil, nil, fmt.Errorf("ask kbuild for commands: %w", err)
	}
	extra := map[string]string{"MAKEFILES": mk}
	if len(flags) > 0 {
		extra["KBUILD_CFLAGS"] = strings.ReplaceAll(t.env["KBUILD_CFLAGS"], rootMark, work) + " " + strings.Join(flags, " ")
	}
	argv := []string{"make", "-s", "-k", fmt.Sprintf("-j%d", jobs), "-f", "scripts/Makefile.build", "obj=.", "need-builtin=1", "need-modorder=1",
		// KERNEL-NOTES 2.2: every object sees objtool exactly once. Symbol versions are not wanted.
		"delay-objtool=", "objtool=./" + wrapperName, "CONFIG_MODVERSIONS="}
	for _, u := range units {
		argv = append(argv, "./"+u.Object)
		// Objects of sources elsewhere may have a directory that only a build makes.
		if err := os.MkdirAll(filepath.Join(work, path.Dir(u.Object)), 0o755); err != nil {
			return nil, nil, fmt.Errorf("ask kbuild for commands: %w", err)
		}
	}
	out, err := run(ctx, command{dir: work, env: t.env.at(work, extra), argv: argv})
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	commands := map[string]string{}
	for _, u := range units {
		record := filepath.Join(work, path.Dir(u.Object), "."+path.Base(u.Object)+recordSuffix)
		b, rerr := os.ReadFile(record)
		if rerr != nil {
			continue
		}
		os.Remove(record)
		commands[u.Object] = strings.TrimSpace(string(b))
	}
	if err != nil && len(commands) == len(units) {
		// Something else than the units' own rules failed.
		return nil, nil, failure("make the files that the units need", out, err)
	}
	return commands, out, nil
}

// makefileNames are those that kbuild reads in a directory (scripts/Makefile.build).
var makefileNames = []string{"Kbuild", "Makefile"}

// configuring are files that decide the flags of every unit, the captured environment included.
var configuring = []string{"Makefile", ".config", "include/config/auto.conf", "include/generated/autoconf.h",
	"scripts/Kbuild.include", "scripts/Makefile.build", "scripts/Makefile.lib", "scripts/Makefile.compiler"}

// checkConfigured refuses a work tree that is configured otherwise than the tree: the captured environment would not hold.
func (t *Tree) checkConfigured(work string) error {
	if work == t.Root() {
		return nil
	}
	for _, name := range append(configuring, "arch/"+t.Arch+"/Makefile") {
		same, err := sameContent(filepath.Join(t.Root(), name), filepath.Join(work, name))
		if err != nil {
			return fmt.Errorf("compare the work tree with the tree: %w", err)
		}
		if !same {
			return &plugin.Diagnostic{Fault: plugin.FaultPatch, Where: name, Summary: "the file configures the whole kernel and cannot be patched in a running one",
				Detail: "leave it out of the patch"}
		}
	}
	return nil
}

// plainMakefiles says whether the makefiles that kbuild reads on its way to an object are those of the tree. known
// remembers directories within one call.
func (t *Tree) plainMakefiles(work, object string, known map[string]bool) (bool, error) {
	for dir := path.Dir(object); ; dir = path.Dir(dir) {
		plain, ok := known[dir]
		if !ok {
			plain = true
			for _, name := range makefileNames {
				same, err := sameContent(filepath.Join(t.Root(), dir, name), filepath.Join(work, dir, name))
				if err != nil {
					return false, fmt.Errorf("compare the work tree with the tree: %w", err)
				}
				plain = plain && same
			}
			known[dir] = plain
		}
		if !plain || dir == "." || dir == "/" {
			return plain, nil
		}
	}
}

// sameContent says whether two files are the same, or equal, or both missing.
func sameContent(a, b string) (bool, error) {
	sa, erra := os.Stat(a)
	sb, errb := os.Stat(b)
	switch {
	case errors.Is(erra, os.ErrNotExist) && errors.Is(errb, os.ErrNotExist):
		return true, nil
	case errors.Is(erra, os.ErrNotExist) || errors.Is(errb, os.ErrNotExist):
		return false, nil
	case erra != nil:
		return false, erra
	case errb != nil:
		return false, errb
	case os.SameFile(sa, sb):
		return true, nil
	case sa.Size() != sb.Size():
		return false, nil
	}
	ca, err := os.ReadFile(a)
	if err != nil {
		return false, err
	}
	cb, err := os.ReadFile(b)
	if err != nil {
		return false, err
	}
	return bytes.Equal(ca, cb), nil
}
