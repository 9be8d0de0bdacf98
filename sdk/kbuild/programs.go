package kbuild

import (
	"os/exec"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// Programs is the Health of a backend that runs programs, each with the name of the package that has it: nil when all are there, else a
// *plugin.Diagnostic that names the packages to install, in order, each once.
func Programs(programs map[string]string) error {
	var want []string
	for program, pkg := range programs {
		if _, err := exec.LookPath(program); err != nil {
			want = append(want, pkg)
		}
	}
	if len(want) == 0 {
		return nil
	}
	slices.Sort(want)
	return &plugin.Diagnostic{Fault: plugin.FaultMachine, Summary: "programs are missing",
		Detail: "install the packages " + strings.Join(slices.Compact(want), ", ")}
}
