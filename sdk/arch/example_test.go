package arch_test

import (
	"context"
	"os"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Plugin is an architecture of which nothing but the name is known yet: what it embeds refuses all questions.
type Plugin struct{ arch.Unimplemented }

// Info implements plugin.Base.
func (Plugin) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Name: "riscv64", Version: "0.1.0", Description: "Knows the code of riscv64 kernels.", Machines: []uint16{243}}, nil
}

// The main function of a plugin calls Serve, and nothing else. This one was started as `arch-riscv64 describe`, which shows who it is.
func ExampleServe() {
	os.Args = []string{"arch-riscv64", "describe"}

	arch.Serve(Plugin{})

	// Output:
	// {
	//   "kind": "arch",
	//   "name": "riscv64",
	//   "version": "0.1.0",
	//   "protocols": [
	//     1
	//   ],
	//   "description": "Knows the code of riscv64 kernels.",
	//   "machines": [
	//     243
	//   ]
	// }
}
