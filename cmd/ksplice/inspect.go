package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/ksplice/ksplice/core/modsign"
	"github.com/ksplice/ksplice/core/part"
	"github.com/ksplice/ksplice/core/trust"
	"github.com/ksplice/ksplice/core/update"
)

func inspectCommand() *command {
	var patch bool
	var extract string
	return &command{
		name: "inspect", args: "FILE", summary: "show what is in an update",
		help: `The kernel that the update is for, its parts, the functions they replace and why, the symbols that apply
solves, the hooks it runs, the patch, and whose signatures it has. That the file is whole is seen first; it need not be
signed: what it says of itself only a trusted signature vouches for. Whom a part names as its signer the kernel verifies, when
the part is loaded. What a terminal would not show as it is, is escaped. The running kernel is not looked at.`,
		example: "ksplice inspect fix.ksplice\nksplice inspect --patch fix.ksplice",
		flags: func(fs *pflag.FlagSet) {
			fs.BoolVar(&patch, "patch", false, "print the patch's text alone; where that is no terminal, bit for bit")
			fs.StringVar(&extract, "extract", "", "write what the update holds (pre objects, parts, patch) below this `DIRECTORY`")
		},
		run: func(ctx context.Context, e *env, args []string) error {
			path, err := one(args, "update file")
			if err != nil {
				return err
			}
			sealed, err := readSealed(ctx, path)
			if err != nil {
				return err
			}
			u, err := sealed.Open()
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			m := &u.Manifest
			text := u.Files[m.Patch.File]
			if extract != "" {
				files, err := extractTo(extract, u)
				if err != nil {
					return err
				}
				return e.result(files, func(w io.Writer) {
					for _, f := range files {
						fmt.Fprintf(w, "wrote\t%s\n", f)
					}
				})
			}
			if patch && e.json {
				return e.result(map[string]string{"patch_text": string(text)}, nil)
			}
			if patch {
				return e.raw(text)
			}
			hooks := map[string][]update.Hook{}
			for i := range m.Parts {
				p := &m.Parts[i]
				if hooks[p.Name], err = part.Hooks(u.Files[p.File]); err != nil {
					return fmt.Errorf("%w: part %s: %w", update.ErrAltered, p.Name, err)
				}
				if hooks[p.Name] == nil {
					hooks[p.Name] = []update.Hook{}
				}
			}
			parts, err := moduleSignatures(u)
			if err != nil {
				return err
			}
			verdicts := e.judge(path, sealed)
			shown := struct {
				*update.Manifest
				Hooks            map[string][]update.Hook      `json:"hooks"`             // by part
				ModuleSignatures map[string]*modsign.Signature `json:"module_signatures"` // likewise; null: it has none
				Signatures       []trust.Verdict               `json:"signatures"`        // of the file
				PatchText        string                        `json:"patch_text"`
			}{m, hooks, parts, verdicts, string(text)}
			if err := e.result(shown, func(w io.Writer) {
				fmt.Fprintf(w, "update\t%s\t%s\n", m.ID, m.Description)
				fmt.Fprintf(w, "kernel\t%s\t%s\n", m.Kernel.Release, m.Kernel.Banner)
				fmt.Fprintf(w, "\tversion\t%s\n", m.Kernel.Version)
				if m.Kernel.BuildID != "" {
					fmt.Fprintf(w, "\tbuild id\t%s\n", m.Kernel.BuildID)
				}
				fmt.Fprintf(w, "made by\tbackend %s\tarchitecture %s, %s\n", m.Toolchain.Backend, m.Toolchain.Arch, m.Toolchain.CompilerVersion)
				if m.Effective != "" {
					fmt.Fprintf(w, "effective\t%s\tof a kernel that has it\n", m.Effective)
				}
				printSignatures(w, verdicts)
				for _, b := range m.Base {
					fmt.Fprintf(w, "stands on\t%s\t\n", b)
				}
				for _, f := range m.Patch.Files {
					fmt.Fprintf(w, "patch\t%s\t+%d -%d\n", f.Path, f.Added, f.Removed)
				}
				for _, c := range m.Claims {
					if c.Hook {
						fmt.Fprintf(w, "carried\t%s\tby the patch: %s\n", c.Item, c.Because)
						continue
					}
					if c.Plugin == "" {
						fmt.Fprintf(w, "accepted\t%s\tby the author: %s\n", c.Item, c.Because)
						continue
					}
					fmt.Fprintf(w, "carried\t%s\tby %s: %s\n", c.Item, c.Plugin, c.Because)
				}
				for _, t := range m.Transfers {
					var from []string
					for _, g := range t.Globals {
						from = append(from, g.Name)
					}
					fmt.Fprintf(w, "transfer\t%s\tby %s at apply and undo, from %s\n", t.Item, t.Plugin, strings.Join(from, ", "))
				}
				for _, x := range m.Units {
					fmt.Fprintf(w, "unit\t%s\t%s\n", x.Object, module(x.Module))
				}
				for i := range m.Parts {
					printPart(w, &m.Parts[i], hooks[m.Parts[i].Name], parts[m.Parts[i].Name])
				}
			}); err != nil || e.json {
				return err
			}
			_, err = fmt.Fprintf(e.out, "\n%s", escaped(string(text), "\n\t"))
			return err
		},
	}
}

// extractTo writes the members of an update below a directory and returns their paths. Existing files are not overwritten.
func extractTo(dir string, u *update.Update) ([]string, error) {
	var files []string
	for _, name := range slices.Sorted(maps.Keys(u.Files)) {
		content := u.Files[name]
		path := filepath.Join(dir, filepath.FromSlash(name)) // members have local names, as update.ReadFile has seen
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return files, fmt.Errorf("extract %s: %w", name, err)
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return files, fmt.Errorf("extract %s: %w", name, err)
		}
		_, err = f.Write(content)
		if err := errors.Join(err, f.Close()); err != nil {
			return files, fmt.Errorf("extract %s: %w", name, err)
		}
		files = append(files, path)
	}
	return files, nil
}

func printPart(w io.Writer, p *update.Part, hooks []update.Hook, signed *modsign.Signature) {
	target := p.Target
	switch {
	case p.Init:
		target += " before its init"
	case p.AfterInit:
		target += " after its init"
	}
	fmt.Fprintf(w, "part\t%s\tfor %s, %s\n", p.Name, target, size(p.Size))
	if signed == nil {
		fmt.Fprintf(w, "\tsigned\tby nobody\tkernels under Secure Boot do not load it\n")
	} else {
		fmt.Fprintf(w, "\tsigned\tby %s\t%s with %s, as the part says: the kernel verifies it\n", escaped(signed.String(), ""), signed.Hash, signed.Algorithm)
	}
	for _, f := range p.Functions {
		kind := string(f.Redirect.Kind)
		if f.Fragment {
			kind = "fragment"
		}
		fmt.Fprintf(w, "\treplaces\t%s\t%d bytes\t%s\t%s\n", f.Name, f.Size, kind, f.Why)
	}
	for _, x := range p.Writes {
		fmt.Fprintf(w, "\tsets\t%s\t%d bytes\t\twhere it has the old value\n", x.Name, x.Size)
	}
	for _, n := range p.New {
		fmt.Fprintf(w, "\tnew\t%s\n", n)
	}
	for i, s := range p.Slots {
		fmt.Fprintf(w, "\tsolves\t%s\tslot %d\t%s\n", s.Name, i, s.Kind)
	}
	if len(hooks) == 0 {
		fmt.Fprintf(w, "\thooks\tnone\n")
	}
	for _, h := range hooks {
		fmt.Fprintf(w, "\thook\t%s\t%s\n", escaped(h.Function, ""), h.When)
	}
	for _, n := range p.Escapes {
		fmt.Fprintf(w, "\tescapes\t%s\tthe part stays mapped after undo\n", n)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(w, "\tnote\t%s\n", n)
	}
}

// raw prints a text as it is, but for a terminal, which might act on it.
func (e *env) raw(text []byte) error {
	if f, ok := e.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		text = []byte(escaped(string(text), "\n\t"))
	}
	_, err := e.out.Write(text)
	return err
}

// escaped writes, as Go does in strings, what a terminal would not show as it is: it might act on it, or turn the direction. Runes of except stay.
func escaped(text, except string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		if broken := r == utf8.RuneError && n == 1; !broken && (unicode.IsPrint(r) || strings.ContainsRune(except, r)) {
			b.WriteString(text[:n])
		} else {
			quoted := strconv.Quote(text[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[n:]
	}
	return b.String()
}

// module names what a unit is part of.
func module(name string) string {
	if name == "" {
		return "kernel proper"
	}
	return "module " + name
}
