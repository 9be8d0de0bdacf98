package ubuntu

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// write writes files below dir.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// kmake is written as debian/rules.d/0-common-vars.mk of Ubuntu's 6.8 has it.
const kmake = "# $* is the flavour name which is filled in for each step\nkmake = make ARCH=$(build_arch) \\\n\tCROSS_COMPILE=$(CROSS_COMPILE) \\\n" +
	"\tCC=$(CROSS_COMPILE)$(gcc) \\\n\tKERNELRELEASE=$(abi_release)-$* \\\n\tCONFIG_DEBUG_SECTION_MISMATCH=y \\\n\tKBUILD_BUILD_VERSION=\"$(uploadnum)\" \\\n" +
	"\tCFLAGS_MODULE=\"-DPKG_ABI=$(abinum)\" \\\n\tPYTHON=$(PYTHON)\nifneq ($(LOCAL_ENV_CC),)\nkmake += CC=\"$(LOCAL_ENV_CC)\" CONFIG_OTHER=y\nendif\n"

func TestPackaging(t *testing.T) {
	good := map[string]string{
		"debian/debian.env":               "DEBIAN=debian.aws\n",
		"debian/rules.d/0-common-vars.mk": kmake,
		"debian.aws/rules.d/amd64.mk":     "human_arch\t= 64 bit x86\nbuild_arch\t= x86\nheader_arch\t= $(build_arch)\n",
	}
	dir := t.TempDir()
	write(t, dir, good)
	p, err := readPackaging(dir, "6.8.0-1024")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"CONFIG_DEBUG_SECTION_MISMATCH=y", "CFLAGS_MODULE=-DPKG_ABI=1024"}; p.directory != "debian.aws" || p.arch != "x86" || !slices.Equal(p.variables, want) {
		t.Errorf("readPackaging = %+v, want debian.aws, x86 and %v", p, want)
	}
	// A script that takes a file away and makes another executable, as Ubuntu's do.
	write(t, dir, map[string]string{"debian.aws/reconstruct": "chmod +x 'debian/rules'\nrm -f 'CREDITS'\nexit 0\n", "debian/rules": "", "CREDITS": ""})
	if err := p.reconstruct(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "CREDITS")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is there still: %v", err)
	}
	if st, err := os.Stat(filepath.Join(dir, "debian/rules")); err != nil || st.Mode()&0o111 == 0 {
		t.Errorf("the script cannot be executed: %v, %v", st, err)
	}
	write(t, dir, map[string]string{"debian.aws/reconstruct": "exit 1\n"})
	if err := p.reconstruct(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "debian.aws/reconstruct") {
		t.Errorf("a script that fails: %v", err)
	}
	for name, text := range map[string]string{
		"debian/debian.env":               "DEBIAN=../elsewhere\n",
		"debian/rules.d/0-common-vars.mk": "kmake_is_elsewhere = 1\n",
		"debian.aws/rules.d/amd64.mk":     "",
	} {
		dir := t.TempDir()
		write(t, dir, good)
		write(t, dir, map[string]string{name: text})
		if _, err := readPackaging(dir, "6.8.0-1024"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is %q: %v, want an error that names it", name, text, err)
		}
	}
}

// header makes an image that is a setup header alone, with a version string at an offset from its base.
func header(text string) string {
	b := make([]byte, 0x800)
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x20e:], 0x400)
	copy(b[0x600:], text+"\x00")
	return string(b)
}

func TestImageVersion(t *testing.T) {
	const release = "6.8.0-45-generic"
	for _, tt := range []struct{ image, version, wrong string }{
		{header("6.8.0-45-generic (buildd@lcy02-amd64-115) #45-Ubuntu SMP PREEMPT_DYNAMIC Fri Aug 30 12:02:04 UTC 2024"), "#45-Ubuntu SMP PREEMPT_DYNAMIC Fri Aug 30 12:02:04 UTC 2024", ""},
		// Cut to 64 characters it may end with a blank, which no comparison sees.
		{header("6.8.0-45-generic (buildd@lcy02-amd64-075) #45~22.04.1-Ubuntu SMP PREEMPT_DYNAMIC Wed Feb 11 13:19:54 UTC "), "#45~22.04.1-Ubuntu SMP PREEMPT_DYNAMIC Wed Feb 11 13:19:54 UTC", ""},
		{header("6.8.0-44-generic (a@b) #44-Ubuntu SMP"), "", "6.8.0-44-generic"},
		{header("nonsense"), "", "nonsense"},
		{"MZ", "", "no setup header"},
		{"", "", "no setup header"},
		{strings.Replace(header("6.8.0-45-generic (a@b) #45-Ubuntu SMP")[:0x600], "HdrS", "HdrX", 1), "", "no setup header"},
		{header("")[:0x600], "", `says that it is ""`},
	} {
		name := filepath.Join(t.TempDir(), "vmlinuz")
		if err := os.WriteFile(name, []byte(tt.image), 0o644); err != nil {
			t.Fatal(err)
		}
		version, err := imageVersion(name, release)
		if version != tt.version || (err != nil) != (tt.wrong != "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("imageVersion(%d bytes) = %q, %v, want %q, %q", len(tt.image), version, err, tt.version, tt.wrong)
		}
	}
}
