// Package wire is what the plugin kinds share on their way across gRPC: conversions of the base types, errors, the
// server process and the client of the base service. Only the packages of the SDK call it.
package wire

import (
	"fmt"
	"strings"

	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
)

// Pack converts a slice to messages that lie together in memory.
func Pack[S, D any](in []S, convert func(from *S, to *D)) []*D {
	if len(in) == 0 {
		return nil
	}
	slab, out := make([]D, len(in)), make([]*D, len(in))
	for i := range in {
		convert(&in[i], &slab[i])
		out[i] = &slab[i]
	}
	return out
}

// Unpack converts messages to a slice.
func Unpack[S, D any](in []*S, convert func(from *S, to *D)) []D {
	if len(in) == 0 {
		return nil
	}
	out := make([]D, len(in))
	for i := range in {
		convert(in[i], &out[i])
	}
	return out
}

// One converts a single message; a nil message gives the zero value.
func One[S, D any](in *S, convert func(from *S, to *D)) D {
	var out D
	if in != nil {
		convert(in, &out)
	}
	return out
}

// New converts a single value to a message.
func New[S, D any](in *S, convert func(from *S, to *D)) *D {
	out := new(D)
	convert(in, out)
	return out
}

// Narrow collects the first number of a message that does not fit its Go type.
type Narrow struct{ err error }

// Err returns the first misfit, or nil.
func (n *Narrow) Err() error { return n.err }

// Note records a misfit, unless there is one.
func (n *Narrow) Note(format string, args ...any) {
	if n.err == nil {
		n.err = fmt.Errorf(format, args...)
	}
}

// Uint8 converts v of the named field.
func (n *Narrow) Uint8(field string, v uint32) uint8 {
	if v > 0xff {
		n.Note("%s is %d, more than 8 bits hold", field, v)
	}
	return uint8(v)
}

// Uint16 converts v of the named field.
func (n *Narrow) Uint16(field string, v uint32) uint16 {
	if v > 0xffff {
		n.Note("%s is %d, more than 16 bits hold", field, v)
	}
	return uint16(v)
}

// Text makes s, which is for people, valid UTF-8 as protobuf demands: compilers quote bytes as they find them.
func Text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// FileTo converts a File.
func FileTo(f *plugin.File, to *pb.File) { to.Path, to.Sha256 = f.Path, f.SHA256 }

// FileFrom converts a File.
func FileFrom(f *pb.File, to *plugin.File) { to.Path, to.SHA256 = f.GetPath(), f.GetSha256() }

// DiagnosticTo converts a Diagnostic.
func DiagnosticTo(d *plugin.Diagnostic, to *pb.Diagnostic) {
	to.Fault, to.Summary, to.Detail, to.Where = string(d.Fault), Text(d.Summary), Text(d.Detail), Text(d.Where)
}

// DiagnosticFrom converts a Diagnostic; a fault that is not known becomes internal.
func DiagnosticFrom(d *pb.Diagnostic, to *plugin.Diagnostic) {
	*to = plugin.Diagnostic{Fault: plugin.Fault(d.GetFault()), Summary: d.GetSummary(), Detail: d.GetDetail(), Where: d.GetWhere()}
	switch to.Fault {
	case plugin.FaultUser, plugin.FaultPatch, plugin.FaultToolchain, plugin.FaultMachine, plugin.FaultInternal:
	default:
		to.Fault = plugin.FaultInternal
	}
}

func infoTo(in *plugin.Info) *pb.Info {
	out := &pb.Info{Kind: string(in.Kind), Name: in.Name, Version: Text(in.Version), Description: Text(in.Description)}
	for _, p := range in.Protocols {
		out.Protocols = append(out.Protocols, int32(p))
	}
	for _, m := range in.Machines {
		out.Machines = append(out.Machines, uint32(m))
	}
	out.Config = Pack(in.Config, func(k *plugin.ConfigKey, to *pb.ConfigKey) {
		to.Name, to.Description, to.Required, to.Default = k.Name, Text(k.Description), k.Required, k.Default
	})
	return out
}

func infoFrom(in *pb.Info) (*plugin.Info, error) {
	out := &plugin.Info{Kind: plugin.Kind(in.GetKind()), Name: in.GetName(), Version: in.GetVersion(), Description: in.GetDescription()}
	for _, p := range in.GetProtocols() {
		out.Protocols = append(out.Protocols, int(p))
	}
	var n Narrow
	for _, m := range in.GetMachines() {
		out.Machines = append(out.Machines, n.Uint16("a machine number", m))
	}
	out.Config = Unpack(in.GetConfig(), func(k *pb.ConfigKey, to *plugin.ConfigKey) {
		*to = plugin.ConfigKey{Name: k.GetName(), Description: k.GetDescription(), Required: k.GetRequired(), Default: k.GetDefault()}
	})
	return out, n.Err()
}
