// Command logvet is a tool for `go vet -vettool`: it checks that calls of hclog's loggers have a value for every key.
package main

import (
	"go/ast"
	"go/types"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/passes/inspect"
	"golang.org/x/tools/go/analysis/unitchecker"
	"golang.org/x/tools/go/ast/inspector"
	"golang.org/x/tools/go/types/typeutil"
)

const hclog = "github.com/hashicorp/go-hclog"

// firstPair is the index of the first key among the arguments of a logger's method.
var firstPair = map[string]int{"Log": 2, "Trace": 1, "Debug": 1, "Info": 1, "Warn": 1, "Error": 1, "With": 0}

var analyzer = &analysis.Analyzer{
	Name:     "logvet",
	Doc:      "check that every key in a call of an hclog logger is a string and has a value",
	Requires: []*analysis.Analyzer{inspect.Analyzer},
	Run:      run,
}

func main() { unitchecker.Main(analyzer) }

func run(pass *analysis.Pass) (any, error) {
	calls := pass.ResultOf[inspect.Analyzer].(*inspector.Inspector)
	calls.Preorder([]ast.Node{(*ast.CallExpr)(nil)}, func(n ast.Node) {
		call := n.(*ast.CallExpr)
		fn, ok := typeutil.Callee(pass.TypesInfo, call).(*types.Func)
		if !ok || fn.Pkg() == nil || fn.Pkg().Path() != hclog || fn.Signature().Recv() == nil || call.Ellipsis.IsValid() {
			return
		}
		first, ok := firstPair[fn.Name()]
		if !ok || len(call.Args) < first {
			return
		}
		pairs := call.Args[first:]
		if len(pairs)%2 != 0 {
			pass.Reportf(call.Pos(), "%s has %d arguments that should be pairs of a key and its value", fn.Name(), len(pairs))
			return
		}
		for i := 0; i < len(pairs); i += 2 {
			if b, ok := pass.TypesInfo.TypeOf(pairs[i]).Underlying().(*types.Basic); !ok || b.Info()&types.IsString == 0 {
				pass.Reportf(pairs[i].Pos(), "key %d of %s is not a string", i/2+1, fn.Name())
			}
		}
	})
	return nil, nil
}
