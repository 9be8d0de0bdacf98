package kbuild

import (
	"bytes"
	"regexp"
	"strings"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// messageForm is a message of gcc or gas with a place: "file:line:column: error: text", the column may be missing.
var messageForm = regexp.MustCompile(`^([^:\s][^:]*):(\d+):(?:(\d+):)? *(fatal error|error|Error|warning|Warning): *(.*)$`)

// objtoolForm is a message of objtool: "object: warning: objtool: text".
var objtoolForm = regexp.MustCompile(`^(\S+\.o): (warning|error): objtool: (.*)$`)

// maxDiagnostics bounds what one unit reports: the first errors are those that matter.
const maxDiagnostics = 50

// parseLog finds errors and warnings in what a compiler, an assembler or objtool said. Warnings have Fault "toolchain",
// errors "patch": the tree compiles without them.
func parseLog(log []byte) []plugin.Diagnostic {
	var list []plugin.Diagnostic
	for line := range bytes.Lines(log) {
		if len(list) == maxDiagnostics {
			break
		}
		text := strings.TrimRight(string(line), "\r\n")
		if m := messageForm.FindStringSubmatch(text); m != nil {
			where := strings.TrimPrefix(m[1], "./") + ":" + m[2]
			if m[3] != "" {
				where += ":" + m[3]
			}
			list = append(list, diagnostic(m[4], where, m[5]))
		} else if m := objtoolForm.FindStringSubmatch(text); m != nil {
			list = append(list, diagnostic(m[2], m[1], "objtool: "+m[3]))
		}
	}
	return list
}

func diagnostic(kind, where, text string) plugin.Diagnostic {
	if strings.EqualFold(kind, "warning") {
		return plugin.Diagnostic{Fault: plugin.FaultToolchain, Where: where, Summary: "warning: " + text}
	}
	return plugin.Diagnostic{Fault: plugin.FaultPatch, Where: where, Summary: text}
}

// isError says whether a diagnostic is more than a warning.
func isError(d plugin.Diagnostic) bool { return !strings.HasPrefix(d.Summary, "warning: ") }
