package scaffold

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// sdkModule is the module that has the SDK.
const sdkModule = "github.com/ksplice/ksplice"

// example is the project in a checkout of Ksplice whose requirements a new project takes over: it imports what every plugin imports, its go.mod and
// go.sum are tidy, and Ksplice's own tests build it.
const example = "examples/transform-chrdev"

// fromCheckout returns go.mod and go.sum of a project in dir that builds against the checkout p.SDK, without any network where the checkout itself
// builds without.
func (p *Project) fromCheckout(dir string) (mod, sum []byte, err error) {
	notOne := func(err error) error {
		return wrong("give the directory of "+sdkModule+"'s source, the one with its go.mod", "%s is no checkout of Ksplice: %v", p.SDK, err)
	}
	text, err := os.ReadFile(filepath.Join(p.SDK, "go.mod"))
	if err != nil {
		return nil, nil, notOne(err)
	}
	if got := modfile.ModulePath(text); got != sdkModule {
		return nil, nil, notOne(fmt.Errorf("its module is %q", got))
	}
	name := filepath.Join(p.SDK, example, "go.mod")
	if text, err = os.ReadFile(name); err != nil {
		return nil, nil, notOne(err)
	}
	if sum, err = os.ReadFile(filepath.Join(p.SDK, example, "go.sum")); err != nil {
		return nil, nil, notOne(err)
	}
	f, err := modfile.Parse(name, text, nil)
	if err != nil {
		return nil, nil, notOne(err)
	}
	to, err := replacement(dir, p.SDK)
	if err != nil {
		return nil, nil, err
	}
	if err := p.edit(f, to); err != nil {
		return nil, nil, fmt.Errorf("edit %s: %w", name, err)
	}
	mod, err = f.Format()
	return mod, sum, err
}

// edit makes the example's go.mod the project's.
func (p *Project) edit(f *modfile.File, replacement string) error {
	if err := f.AddModuleStmt(p.Module); err != nil {
		return err
	}
	for _, r := range f.Replace {
		if err := f.DropReplace(r.Old.Path, r.Old.Version); err != nil {
			return err
		}
	}
	if err := f.AddReplace(sdkModule, "", replacement, ""); err != nil {
		return err
	}
	f.Cleanup()
	for _, r := range f.Replace {
		r.Syntax.Before = []modfile.Comment{{Token: "// A checkout of the SDK; a version of it, in the first line of require, takes its place."}}
	}
	return nil
}

// replacement is how go.mod in dir names the checkout: as the caller did, absolute or relative.
func replacement(dir, sdk string) (string, error) {
	if filepath.IsAbs(sdk) {
		return filepath.Clean(sdk), nil
	}
	project, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if sdk, err = filepath.Abs(sdk); err != nil {
		return "", err
	}
	rel, err := filepath.Rel(project, sdk)
	if err != nil || strings.HasPrefix(rel, ".") {
		return rel, err
	}
	return "./" + rel, nil
}

// fromVersion returns go.mod of a project that requires a version of Ksplice. The rest of it, and go.sum, `go mod tidy` adds when the version is
// downloaded.
func (p *Project) fromVersion() ([]byte, error) {
	if err := module.Check(sdkModule, p.Version); err != nil {
		return nil, wrong("give a checkout of Ksplice in its place", "%q is no version of Ksplice to require: %v", p.Version, err)
	}
	// Ksplice was built with this Go, so that it is enough for its SDK.
	language, _, _ := strings.Cut(strings.TrimPrefix(runtime.Version(), "go"), " ")
	if i := strings.IndexAny(language, "-+"); i >= 0 {
		language = language[:i]
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "module %s\n\ngo %s\n\nrequire %s %s\n", modfile.AutoQuote(p.Module), language, sdkModule, p.Version)
	if _, err := modfile.Parse("go.mod", b.Bytes(), nil); err != nil {
		return nil, fmt.Errorf("make go.mod: %w", err)
	}
	return b.Bytes(), nil
}
