package kbuild

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// factSymbol names the constants in the compiled file.
const factSymbol = "ksplice_fact_%d"

// Facts evaluates constant expressions; see backend.Backend. They are compiled as code of the kernel proper would be.
func (Service) Facts(ctx context.Context, req *backend.FactsRequest) (*backend.FactsResponse, error) {
	t, err := openFor(req.Tree)
	if err != nil {
		return nil, err
	}
	config, err := ReadConfig(filepath.Join(t.Root(), ".config"))
	if err != nil {
		return nil, err
	}
	dir, err := filepath.EvalSymlinks(req.WorkDir)
	if err != nil {
		return nil, fmt.Errorf("facts: %w", err)
	}
	var wanted []arch.FactExpression
	for _, e := range req.Expressions {
		if e.If == "" || config.IsSet(e.If) {
			wanted = append(wanted, e)
		}
	}
	for name, text := range map[string]string{"facts.c": factSource(wanted), "Kbuild": "obj-y := facts.o\nOBJECT_FILES_NON_STANDARD := y\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("facts: %w", err)
		}
	}
	object := filepath.Join(dir, "facts.o")
	out, err := run(ctx, command{dir: t.Root(), env: t.env.at(t.Root(), nil),
		argv: []string{"make", "-s", "-f", "scripts/Makefile.build", "obj=" + dir, "need-builtin=1", "CONFIG_MODVERSIONS=", object}})
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		for _, d := range parseLog(out.stderr) {
			if isError(d) {
				d.Fault = plugin.FaultToolchain
				d.Detail = "the architecture plugin asks for something that this kernel does not have"
				return nil, &d
			}
		}
		return nil, failure("compile facts", out, err)
	case err != nil:
		return nil, fmt.Errorf("compile facts: %w", err)
	}
	return readFacts(object, wanted)
}

// factSource is C with a constant an expression. A #line makes the compiler name the fact where an expression is wrong.
func factSource(list []arch.FactExpression) string {
	b := &strings.Builder{}
	seen := map[string]bool{}
	for _, e := range list {
		for _, name := range e.Includes {
			if !seen[name] {
				seen[name] = true
				fmt.Fprintf(b, "#include <%s>\n", name)
			}
		}
	}
	for i, e := range list {
		symbol := fmt.Sprintf(factSymbol, i)
		fmt.Fprintf(b, "extern const long long %s;\n#line 1 \"fact %s\"\nconst long long %s = (%s);\n", symbol, strings.ReplaceAll(e.Name, `"`, ""), symbol, e.Expression)
	}
	return b.String()
}

// readFacts reads the constants from the object's data.
func readFacts(object string, list []arch.FactExpression) (*backend.FactsResponse, error) {
	f, err := elf.Open(object)
	if err != nil {
		return nil, fmt.Errorf("read facts: %w", err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil && len(list) > 0 {
		return nil, fmt.Errorf("read facts: %w", err)
	}
	at := map[string]elf.Symbol{}
	for _, s := range symbols {
		at[s.Name] = s
	}
	facts := map[string]int64{}
	for i, e := range list {
		s, ok := at[fmt.Sprintf(factSymbol, i)]
		if !ok || int(s.Section) >= len(f.Sections) {
			return nil, plugin.Errorf(plugin.FaultInternal, e.Name, "the compiled facts lack it")
		}
		data := make([]byte, 8)
		sec := f.Sections[s.Section]
		if sec.Type == elf.SHT_PROGBITS {
			if _, err := sec.ReadAt(data, int64(s.Value)); err != nil {
				return nil, fmt.Errorf("read fact %s: %w", e.Name, err)
			}
		} // else it is a zero in .bss
		facts[e.Name] = int64(f.ByteOrder.Uint64(data))
	}
	return &backend.FactsResponse{Facts: facts}, nil
}
