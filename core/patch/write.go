package patch

import (
	"bytes"
	"fmt"
	"strings"
)

// Bytes returns the patch as a unified diff with prefixes a/ and b/ that Parse reads back to an equal patch, but for
// positions in the text. The header is kept as it is, so a reversed patch still carries the words of the one it takes back.
func (p *Patch) Bytes() []byte {
	var b bytes.Buffer
	b.WriteString(p.Header)
	if p.Header != "" && !strings.HasSuffix(p.Header, "\n") {
		b.WriteByte('\n')
	}
	for _, f := range p.Files {
		f.write(&b)
	}
	return b.Bytes()
}

func (f *File) write(b *bytes.Buffer) {
	old, now := "a/"+f.Old, "b/"+f.New
	git := func(a, z string) { fmt.Fprintf(b, "diff --git a/%s b/%s\n", a, z) }
	switch {
	case f.Old == "":
		git(f.New, f.New)
		b.WriteString("new file mode 100644\n")
		old = "/dev/null"
	case f.New == "":
		git(f.Old, f.Old)
		b.WriteString("deleted file mode 100644\n")
		now = "/dev/null"
	default:
		git(f.Old, f.New)
		if f.Old != f.New {
			fmt.Fprintf(b, "rename from %s\nrename to %s\n", f.Old, f.New)
		}
	}
	if len(f.Hunks) == 0 {
		return
	}
	fmt.Fprintf(b, "--- %s\n+++ %s\n", old, now)
	for _, h := range f.Hunks {
		fmt.Fprintf(b, "@@ -%d,%d +%d,%d @@\n", h.OldStart, h.OldLines, h.NewStart, h.NewLines)
		for _, l := range h.Lines {
			b.WriteByte(byte(l.Op))
			b.WriteString(l.Text)
			if !strings.HasSuffix(l.Text, "\n") {
				b.WriteString("\n\\ No newline at end of file\n")
			}
		}
	}
}
