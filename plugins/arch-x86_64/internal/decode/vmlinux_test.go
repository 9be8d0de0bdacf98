package decode

import (
	"bufio"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

// TestVmlinux compares the decoder with objdump on every instruction of whole kernel images: KSPLICE_TEST_VMLINUX
// lists ELF images, separated by colons.
func TestVmlinux(t *testing.T) {
	images := os.Getenv("KSPLICE_TEST_VMLINUX")
	if images == "" {
		need.OK(t, errors.New("KSPLICE_TEST_VMLINUX names no uncompressed vmlinux images (paths, separated by colons)"))
	}
	need.Program(t, "objdump")
	for _, image := range filepath.SplitList(images) {
		t.Run(filepath.Base(image), func(t *testing.T) { compareImage(t, image) })
	}
}

// compareImage runs objdump over one image and compares lengths and branch targets. Bytes that objdump itself calls
// bad, or a prefix without an instruction (data in text), are only required not to decode to the same length.
func compareImage(t *testing.T, image string) {
	cmd := exec.Command("objdump", "-d", "-w", image)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var total, branches, data, wrong int
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.SplitN(lines.Text(), "\t", 3)
		if len(fields) != 3 {
			continue
		}
		at, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(fields[0]), ":"), 16, 64)
		if err != nil {
			continue
		}
		code, err := hex.DecodeString(strings.ReplaceAll(fields[1], " ", ""))
		if err != nil {
			t.Fatalf("%#x: %v", at, err)
		}
		total++
		if code[0] == 0x9b && len(code) > 1 { // objdump takes fwait and an x87 instruction together
			code = code[1:]
		}
		in, err := Decode(code)
		if isData(fields[2]) {
			data++
			continue
		}
		if err != nil || in.Len != len(code) {
			if wrong++; wrong <= 40 {
				t.Errorf("%#x: % x: objdump says %q, length %d; we say length %d, %v", at, code, fields[2], len(code), in.Len, err)
			}
			continue
		}
		if !in.IsBranch() {
			continue
		}
		branches++
		words := strings.Fields(fields[2])
		target, err := strconv.ParseUint(strings.TrimPrefix(words[len(words)-1], "0x"), 16, 64)
		if err != nil || target != in.Target(at) {
			t.Errorf("%#x: % x: objdump says %q, we say target %#x", at, code, fields[2], in.Target(at))
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d instructions, %d direct branches, %d lines that are data, %d wrong", image, total, branches, data, wrong)
	if total-data < 100_000 {
		t.Errorf("only %d instructions: not a kernel image?", total)
	}
}

// isData says that objdump found no instruction, or only prefixes.
func isData(text string) bool {
	return strings.Contains(text, "(bad)")
}
