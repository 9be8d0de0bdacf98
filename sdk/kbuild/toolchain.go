package kbuild

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// toolchain is what compiles a tree on this machine.
type toolchain struct {
	version  string   // the first line of `CC --version`
	compiler string   // digest of cc1
	digests  []string // of every program that has a say in an object's bytes
}

// toolDigest remembers the digest of a program while its file stays the same.
type toolDigest struct {
	Size   int64  `json:"size"`
	Time   int64  `json:"mtime_ns"`
	SHA256 string `json:"sha256"`
}

// toolchain looks at the compiler's command, which has defaults of its own, its cc1 and the assembler.
func (t *Tree) toolchain(ctx context.Context) (*toolchain, error) {
	version, err := compilerVersion(ctx, t.CC)
	if err != nil {
		return nil, err
	}
	known := map[string]toolDigest{}
	cache := t.state("toolchain.json")
	if b, err := os.ReadFile(cache); err == nil {
		// A cache that cannot be read is made again.
		_ = json.Unmarshal(b, &known)
	}
	tc := &toolchain{version: version}
	changed := false
	for _, name := range []string{"", "cc1", "as"} {
		program := t.CC
		if name != "" {
			out, err := run(ctx, command{env: os.Environ(), argv: []string{t.CC, "-print-prog-name=" + name}})
			if err != nil {
				return nil, failure("ask "+t.CC+" for its "+name, out, err)
			}
			program = strings.TrimSpace(string(out.stdout))
		}
		path, err := exec.LookPath(program)
		if err != nil {
			return nil, &plugin.Diagnostic{Fault: plugin.FaultToolchain, Where: t.CC, Summary: "its " + name + " is missing", Detail: "install the compiler's package again"}
		}
		st, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", path, err)
		}
		d, ok := known[path]
		if !ok || d.Size != st.Size() || d.Time != st.ModTime().UnixNano() {
			sum, err := fileDigest(path)
			if err != nil {
				return nil, err
			}
			d = toolDigest{st.Size(), st.ModTime().UnixNano(), sum}
			known[path], changed = d, true
		}
		if name == "cc1" {
			tc.compiler = d.SHA256
		}
		tc.digests = append(tc.digests, d.SHA256)
	}
	if changed {
		b, err := json.Marshal(known)
		if err != nil {
			return nil, fmt.Errorf("remember the tools' digests: %w", err)
		}
		if err := writeFile(cache, b); err != nil {
			return nil, fmt.Errorf("remember the tools' digests: %w", err)
		}
	}
	return tc, nil
}

// compilerVersion is the first line that a compiler says of itself.
func compilerVersion(ctx context.Context, cc string) (string, error) {
	if _, err := exec.LookPath(cc); err != nil {
		return "", &plugin.Diagnostic{Fault: plugin.FaultToolchain, Where: cc, Summary: "the compiler is not installed",
			Detail: "install the package " + compilerPackage(cc)}
	}
	out, err := run(ctx, command{env: append(os.Environ(), "LC_ALL=C"), argv: []string{cc, "--version"}})
	if err != nil {
		return "", failure(cc+" --version", out, err)
	}
	line, _, _ := strings.Cut(string(out.stdout), "\n")
	return line, nil
}

// CheckCompiler refuses a compiler that calls itself anything else than the configuration's CONFIG_CC_VERSION_TEXT does.
// The command's name, which comes first in both, is not compared: 6.1 says gcc-12 where 6.12 says x86_64-linux-gnu-gcc-12.
// It returns the compiler's command.
func CheckCompiler(ctx context.Context, config Config) (string, error) {
	text := config["CONFIG_CC_VERSION_TEXT"]
	cc, want, ok := strings.Cut(text, " ")
	if !ok {
		return "", plugin.Errorf(plugin.FaultUser, ".config", "CONFIG_CC_VERSION_TEXT is %q, which names no compiler", text)
	}
	version, err := compilerVersion(ctx, cc)
	if err != nil {
		return "", err
	}
	if _, got, _ := strings.Cut(version, " "); got != want {
		return "", &plugin.Diagnostic{Fault: plugin.FaultToolchain, Where: cc, Summary: "the compiler is not the one that built the kernel",
			Detail: fmt.Sprintf("the kernel was built by %q, this one says %q; install that version of the package %s", want, got, compilerPackage(cc))}
	}
	return cc, nil
}

// compilerPackage is Debian's name of the package with a compiler: "gcc-12" for "x86_64-linux-gnu-gcc-12".
func compilerPackage(cc string) string {
	name := filepath.Base(cc)
	if i := strings.Index(name, "gcc"); i >= 0 {
		return name[i:]
	}
	return name
}

func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("digest file: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("digest file %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
