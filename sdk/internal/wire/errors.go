package wire

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
)

// detailMax bounds a diagnostic's detail in bytes: it crosses in HTTP/2 trailers, which have a limit of their own.
const detailMax = 64 << 10

// toStatus turns what a plugin's method returned into the status that crosses.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return err
	}
	var d *plugin.Diagnostic
	if !errors.As(err, &d) {
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return status.Error(codes.DeadlineExceeded, Text(err.Error()))
		case errors.Is(err, context.Canceled):
			return status.Error(codes.Canceled, Text(err.Error()))
		}
		d = &plugin.Diagnostic{Fault: plugin.FaultInternal, Summary: err.Error()}
	} else {
		d = unwrapped(err, d)
	}
	out := New(d, DiagnosticTo)
	if len(out.Detail) > detailMax {
		half := detailMax / 2
		out.Detail = Text(out.Detail[:half]) + "\n[...]\n" + Text(out.Detail[len(out.Detail)-half:])
	}
	st, derr := status.New(codes.Unknown, "the plugin returned a diagnostic").WithDetails(out)
	if derr != nil {
		return status.Error(codes.Internal, Text(err.Error()))
	}
	return st.Err()
}

// unwrapped returns d with what the errors around it in err say.
func unwrapped(err error, d *plugin.Diagnostic) *plugin.Diagnostic {
	whole, inner := err.Error(), d.Error()
	if whole == inner {
		return d
	}
	out := *d
	if prefix, ok := strings.CutSuffix(whole, inner); ok {
		out.Summary = prefix + d.Summary
		return &out
	}
	if out.Detail != "" {
		out.Detail += "\n"
	}
	out.Detail += whole
	return &out
}

// FromStatus turns the error of a call into the plugin's Diagnostic, or into one that wraps the context's error, or
// leaves it as it is.
func FromStatus(call string, err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, d := range st.Details() {
		if d, ok := d.(*pb.Diagnostic); ok {
			out := new(plugin.Diagnostic)
			DiagnosticFrom(d, out)
			return out
		}
	}
	switch st.Code() {
	case codes.Canceled:
		return fmt.Errorf("%s: %w", call, context.Canceled)
	case codes.DeadlineExceeded:
		return fmt.Errorf("%s: %w", call, context.DeadlineExceeded)
	}
	return fmt.Errorf("%s: %w", call, err)
}

// Nonsense returns the error for a reply that breaks the contract of the interface. The label names the plugin.
func Nonsense(label, call string, problem error) error {
	return &plugin.Diagnostic{
		Fault:   plugin.FaultInternal,
		Where:   label,
		Summary: fmt.Sprintf("its reply to %s makes no sense: %v", call, problem),
		Detail:  "nothing was done with the reply; install a version of the plugin that was made for this Ksplice, or report it to the plugin's author",
	}
}

// Answer is what a method of a plugin returned; neither a response nor an error is a bug of the plugin.
func Answer[R any](resp *R, err error) (*R, error) {
	if err == nil && resp == nil {
		return nil, plugin.Errorf(plugin.FaultInternal, "", "the plugin returned neither a response nor an error")
	}
	return resp, err
}
