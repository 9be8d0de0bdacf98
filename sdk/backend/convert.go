package backend

import (
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/internal/wire"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
)

// treeTo converts a tree, which may be missing.
func treeTo(t *Tree) *pb.Tree {
	if t == nil {
		return nil
	}
	return &pb.Tree{
		Id: t.ID, Root: t.Root, Source: t.Source, Build: t.Build, Release: t.Release, Version: t.Version,
		Banner: wire.Text(t.Banner), Arch: t.Arch, Machine: uint32(t.Machine), Config: t.Config, Symvers: t.Symvers,
		Compiler: t.Compiler, CompilerVersion: wire.Text(t.CompilerVersion), CompilerSha256: t.CompilerSHA256, Reused: t.Reused,
		Image: t.Image,
	}
}

// treeFrom converts a tree, which may be missing.
func treeFrom(t *pb.Tree) (*Tree, error) {
	if t == nil {
		return nil, nil
	}
	var n wire.Narrow
	return &Tree{
		ID: t.GetId(), Root: t.GetRoot(), Source: t.GetSource(), Build: t.GetBuild(), Release: t.GetRelease(), Version: t.GetVersion(),
		Banner: t.GetBanner(), Arch: t.GetArch(), Machine: n.Uint16("Tree.Machine", t.GetMachine()),
		Config: t.GetConfig(), Symvers: t.GetSymvers(),
		Compiler: t.GetCompiler(), CompilerVersion: t.GetCompilerVersion(), CompilerSHA256: t.GetCompilerSha256(), Reused: t.GetReused(),
		Image: t.GetImage(),
	}, n.Err()
}

func unitTo(u *Unit, to *pb.Unit) { to.Source, to.Object, to.Module = u.Source, u.Object, u.Module }

func unitFrom(u *pb.Unit, to *Unit) {
	*to = Unit{Source: u.GetSource(), Object: u.GetObject(), Module: u.GetModule()}
}

func resultTo(r *CompileResult, to *pb.CompileResult) {
	to.Unit, to.Object, to.Includes, to.Command = wire.New(&r.Unit, unitTo), r.Object, r.Includes, wire.Text(r.Command)
	to.Diagnostics, to.Nanoseconds = wire.Pack(r.Diagnostics, wire.DiagnosticTo), r.Nanoseconds
}

func resultFrom(r *pb.CompileResult, to *CompileResult) {
	*to = CompileResult{
		Unit: wire.One(r.GetUnit(), unitFrom), Object: r.GetObject(), Includes: r.GetIncludes(), Command: r.GetCommand(),
		Diagnostics: wire.Unpack(r.GetDiagnostics(), wire.DiagnosticFrom), Nanoseconds: r.GetNanoseconds(),
	}
}

func factTo(f *arch.FactExpression, to *pb.FactExpression) {
	to.Name, to.Includes, to.Expression, to.If = f.Name, f.Includes, f.Expression, f.If
}

func factFrom(f *pb.FactExpression, to *arch.FactExpression) {
	*to = arch.FactExpression{Name: f.GetName(), Includes: f.GetIncludes(), Expression: f.GetExpression(), If: f.GetIf()}
}
