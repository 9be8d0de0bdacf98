package shadow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// Program finds Coccinelle's program.
func Program() (string, error) {
	path, err := exec.LookPath("spatch")
	if err != nil {
		return "", &plugin.Diagnostic{Fault: plugin.FaultMachine, Summary: "Coccinelle, which rewrites the sources, is not installed",
			Detail: "install it (Debian and Ubuntu: apt-get install coccinelle), or carry the change by hooks of the patch's own"}
	}
	return path, nil
}

// spatch applies a semantic patch to a source and returns what becomes of it.
func spatch(ctx context.Context, semantic string, source []byte) ([]byte, error) {
	program, err := Program()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ksplice-shadow-")
	if err != nil {
		return nil, fmt.Errorf("rewrite a source: %w", err)
	}
	defer os.RemoveAll(dir)
	// No isomorphisms: with those of Coccinelle's own P->m is an array's element, too, whose index would go.
	rules, same, file := filepath.Join(dir, "rules.cocci"), filepath.Join(dir, "none.iso"), filepath.Join(dir, "source.c")
	if err := errors.Join(os.WriteFile(rules, []byte(semantic), 0o600), os.WriteFile(same, nil, 0o600), os.WriteFile(file, source, 0o600)); err != nil {
		return nil, fmt.Errorf("rewrite a source: %w", err)
	}
	cmd := exec.CommandContext(ctx, program, "--sp-file", rules, "--iso-file", same, "--very-quiet", "--no-includes", "--no-show-diff", "--in-place", file)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	said, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, &plugin.Diagnostic{Fault: plugin.FaultToolchain, Summary: "Coccinelle could not rewrite a source", Detail: fmt.Sprintf("%v\n%s", err, said)}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("rewrite a source: %w", err)
	}
	return text, nil
}
