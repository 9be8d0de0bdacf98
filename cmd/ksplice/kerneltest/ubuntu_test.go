package kerneltest

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ksplice/ksplice/core/vmtest"
)

// ubuntuVariable asks for the test with a kernel like Ubuntu's, which is built first.
const ubuntuVariable = "KSPLICE_TEST_UBUNTU"

// ubuntuPatch changes what Ubuntu's kernels alone have, and is seen at once.
const ubuntuPatch = `--- a/fs/proc/version_signature.c
+++ b/fs/proc/version_signature.c
@@ -5,7 +5,7 @@
 
 static int version_signature_show(struct seq_file *m, void *unused)
 {
-	seq_puts(m, CONFIG_VERSION_SIGNATURE "\n");
+	seq_printf(m, "%s, patched\n", CONFIG_VERSION_SIGNATURE);
 	return 0;
 }
 
`

// TestUbuntu takes a kernel from an archive that is laid out as Ubuntu's, whose sources it was built of as Ubuntu builds: the conformance suite, and an
// update from the patch to the booted kernel and back.
func TestUbuntu(t *testing.T) {
	if os.Getenv(ubuntuVariable) != "1" {
		t.Skipf("SKIPPED: builds a kernel, which takes minutes; %s=1 runs it: `make ubuntu`", ubuntuVariable)
	}
	vmtest.Need(t)
	start := time.Now()
	took := func(what string) {
		t.Logf("%s in %s", what, time.Since(start).Round(time.Second))
		start = time.Now()
	}
	archive, err := vmtest.Ubuntu(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	took("archive")
	l := prepareFor(t, archive.Kernel)
	release := l.kernel.Release
	server := httptest.NewServer(http.FileServer(http.Dir(archive.Dir)))
	defer server.Close()
	config, err := vmtest.AptRoot(t.Context(), t.TempDir(), server.URL, "deb", "deb-src")
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	took("tools")

	t.Run("conformance", func(t *testing.T) {
		out, errs, exit := l.host(t, "plugin", "check", filepath.Join(l.tools, "libexec/ksplice/plugins/backend-ubuntu"), "--option", "apt-config="+config,
			"--release", release, "--source", "fs/proc/version_signature.c", "--header", "include/linux/seq_file.h", "--cache", filepath.Join(cache, "backends", "ubuntu"))
		t.Logf("%s", out)
		if exit != exitOK {
			t.Fatalf("plugin check: exit code %d\n%s", exit, errs)
		}
	})
	took("conformance, with a tree made")
	t.Run("tree", func(t *testing.T) { ubuntuTree(t, cache) })
	t.Run("no sources", func(t *testing.T) {
		config, err := vmtest.AptRoot(t.Context(), t.TempDir(), server.URL, "deb")
		if err != nil {
			t.Fatal(err)
		}
		l.ubuntuRefused(t, config, "deb-src")
	})
	t.Run("altered package", func(t *testing.T) {
		altered := httptest.NewServer(alter(archive.Dir, "linux-headers-"+release+"_"))
		defer altered.Close()
		config, err := vmtest.AptRoot(t.Context(), t.TempDir(), altered.URL, "deb", "deb-src")
		if err != nil {
			t.Fatal(err)
		}
		l.ubuntuRefused(t, config, "the packages cannot be fetched")
	})
	start = time.Now()
	file := l.create(t, "signature", []byte(ubuntuPatch), "--backend", "ubuntu", "--backend-option", "apt-config="+config, "--cache", cache)
	took("create")
	l.boot(t, vmtest.Options{})
	took("boot")
	same := l.saveText(t)
	signature := func() string { t.Helper(); return l.MustRun(t, "cat", "/proc/version_signature") }
	old := signature()
	if want := "Ubuntu " + l.kernel.Version + "-generic "; !strings.HasPrefix(old, want) {
		t.Fatalf("the kernel's signature is %q, want it to begin with %q", old, want)
	}
	l.apply(t, file)
	if now, want := signature(), strings.TrimSpace(old)+", patched\n"; now != want {
		t.Errorf("with the update the signature is %q, want %q", now, want)
	}
	l.undo(t, l.id(t, file))
	if now := signature(); now != old {
		t.Errorf("after undo the signature is %q, want %q", now, old)
	}
	same()
	took("apply and undo")
}

// ubuntuTree looks for what the source package's script does, and a diff cannot say.
func ubuntuTree(t *testing.T, cache string) {
	roots, err := filepath.Glob(filepath.Join(cache, "backends/ubuntu/trees/*/root"))
	if err != nil || len(roots) != 1 {
		t.Fatalf("trees: %v, %v, want one", roots, err)
	}
	if _, err := os.Stat(filepath.Join(roots[0], "CREDITS")); !os.IsNotExist(err) {
		t.Errorf("CREDITS, which the packaging removes, is there: %v", err)
	}
	if st, err := os.Stat(filepath.Join(roots[0], "debian/scripts/link-headers")); err != nil || st.Mode()&0o111 == 0 {
		t.Errorf("debian/scripts/link-headers, which the packaging makes executable, is not: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(roots[0]), ".source-*")); err != nil || len(left) > 0 {
		t.Errorf("unpacking left %v, %v", left, err)
	}
}

// ubuntuRefused wants create to refuse with a reason.
func (l *lab) ubuntuRefused(t *testing.T, config, words string) {
	t.Helper()
	patch := filepath.Join(l.share, "refused.patch")
	if err := os.WriteFile(patch, []byte(ubuntuPatch), 0o644); err != nil {
		t.Fatal(err)
	}
	out, errs, exit := l.host(t, "create", "--patch", patch, "--kernel", l.kernel.Release, "--backend", "ubuntu", "--backend-option", "apt-config="+config,
		"--cache", t.TempDir(), "-o", filepath.Join(l.share, "refused.ksplice"))
	if exit == exitOK || exit == exitInternal || !strings.Contains(errs, words) {
		t.Errorf("create: exit code %d, want a refusal with %q\n%s%s", exit, words, out, errs)
	}
}

// alter serves a directory, and one byte of the files otherwise whose names begin so.
func alter(dir, prefix string) http.Handler {
	files := http.FileServer(http.Dir(dir))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(filepath.Base(r.URL.Path), prefix) {
			files.ServeHTTP(w, r)
			return
		}
		b, err := os.ReadFile(filepath.Join(dir, filepath.Clean("/"+r.URL.Path)))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		b[len(b)/2] ^= 1
		_, _ = w.Write(b) // a client that hangs up says so itself
	})
}
