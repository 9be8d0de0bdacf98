package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
)

// pluginCall is one call of a kind of plugin.
type pluginCall struct {
	name, what string
	request    func() any // a new one
	call       func(ctx context.Context, p plugin.Base, request any, progress plugin.ProgressFunc) (any, error)
	refused    error // why it cannot be made by hand
}

// nothing is a request, or an answer, without anything in it.
type nothing struct{}

// longCall is a call of P that reports progress.
func longCall[P, Req, Resp any](name, what string, f func(P, context.Context, *Req, plugin.ProgressFunc) (Resp, error)) pluginCall {
	return pluginCall{
		name: name, what: what, request: func() any { return new(Req) },
		call: func(ctx context.Context, p plugin.Base, request any, progress plugin.ProgressFunc) (any, error) {
			return f(p.(P), ctx, request.(*Req), progress)
		},
	}
}

// call is a call of P.
func call[P, Req, Resp any](name, what string, f func(P, context.Context, *Req) (Resp, error)) pluginCall {
	return longCall(name, what, func(p P, ctx context.Context, req *Req, _ plugin.ProgressFunc) (Resp, error) { return f(p, ctx, req) })
}

// bareCall is a call of P that takes nothing.
func bareCall[P, Resp any](name, what string, f func(P, context.Context) (Resp, error)) pluginCall {
	return call(name, what, func(p P, ctx context.Context, _ *nothing) (Resp, error) { return f(p, ctx) })
}

// baseCalls are those of every plugin.
var baseCalls = []pluginCall{
	bareCall("Info", "who the plugin is", plugin.Base.Info),
	// The host has configured it with these keys when it started it.
	call("Configure", "takes the plugin's own keys", func(plugin.Base, context.Context, *map[string]string) (nothing, error) { return nothing{}, nil }),
	bareCall("Health", "whether it can work on this machine", func(p plugin.Base, ctx context.Context) (nothing, error) { return nothing{}, p.Health(ctx) }),
}

// kindCalls are those of a kind.
var kindCalls = map[plugin.Kind][]pluginCall{
	plugin.KindArch: {
		bareCall("FactExpressions", "which numbers it wants of a kernel", arch.FactSource.FactExpressions),
		call("Describe", "what is in objects", arch.Arch.Describe),
		call("Match", "whether bytes of a running kernel are an object's functions", arch.Arch.Match),
		call("Fixup", "what must change in code that moves into a module", arch.Arch.Fixup),
		call("Redirect", "how functions can be redirected", arch.Arch.Redirect),
	},
	plugin.KindBackend: {
		call("Probe", "whether it can build for a kernel", backend.Backend.Probe),
		longCall("Prepare", "makes a kernel's tree ready", backend.Backend.Prepare),
		call("Units", "which translation units source files are", backend.Backend.Units),
		longCall("Compile", "compiles units", backend.Backend.Compile),
		longCall("Link", "links a module", backend.Backend.Link),
		call("Facts", "evaluates constant expressions", backend.Backend.Facts),
	},
	plugin.KindTransform: {
		call("Plan", "which changes of data it carries", transform.Transform.Plan),
		{
			name: "Transfer", what: "what to change in a running kernel; not by hand, see sdktest.TransferFixture",
			request: func() any { return new(transform.TransferRequest) },
			refused: usagef("Transfer asks its caller to walk over a running kernel, which a request in JSON cannot stand for: write a kernel of a few objects " +
				"as an sdktest.TransferFixture, and sdktest.Transform runs it in `go test`"),
		},
	},
}

// callsOf are all calls of a kind.
func callsOf(kind plugin.Kind) []pluginCall { return slices.Concat(baseCalls, kindCalls[kind]) }

// findCall returns a call of a kind by its name.
func findCall(kind plugin.Kind, name string) (*pluginCall, error) {
	calls := callsOf(kind)
	var names []string
	for i := range calls {
		if calls[i].name == name {
			return &calls[i], calls[i].refused
		}
		names = append(names, calls[i].name)
	}
	return nil, usagef("%s plugins have no call %q: there are %s", kind, name, strings.Join(names, ", "))
}

// callLine is how a call is listed.
type callLine struct {
	Name string `json:"name"`
	What string `json:"what"`
	// Request is a request with everything in it that there can be: the shape, and no values.
	Request any `json:"request"`
}

// callList is what there is to ask a plugin.
type callList struct {
	Info  plugin.Info `json:"info"`
	Calls []callLine  `json:"calls"`
}

func listCalls(ctx context.Context, e *env, host *pluginhost.Host, kind plugin.Kind, name string) error {
	info, err := host.Describe(ctx, kind, name)
	if err != nil {
		return shown("describe", err)
	}
	out := callList{Info: info}
	for _, c := range callsOf(kind) {
		request := c.request()
		sample(reflect.ValueOf(request).Elem())
		out.Calls = append(out.Calls, callLine{c.name, c.what, request})
	}
	return e.result(out, func(w io.Writer) {
		fmt.Fprintf(w, "%s plugin %s %s: %s\n", info.Kind, info.Name, info.Version, info.Description)
		for _, k := range info.Config {
			fmt.Fprintf(w, "  --option %s=...\t%s\n", k.Name, strings.TrimSpace(k.Description+" "+needed(k)))
		}
		fmt.Fprintln(w, "\nCALL\tWHAT IT IS ASKED")
		for _, c := range out.Calls {
			fmt.Fprintf(w, "%s\t%s\n", c.Name, c.What)
			if e.verbose > 0 {
				shape, _ := json.Marshal(c.Request) // our own types
				fmt.Fprintf(w, "\t%s\n", shape)
			}
		}
	})
}

// needed says whether a key must be given.
func needed(k plugin.ConfigKey) string {
	switch {
	case k.Required:
		return "(required)"
	case k.Default != "":
		return "(default " + k.Default + ")"
	}
	return ""
}

// sample puts one element into every list, map and pointer of v.
func sample(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		sample(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			sample(v.Field(i))
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 { // bytes: a string in base64
			v.SetBytes([]byte{})
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		sample(v.Index(0))
	case reflect.Map:
		of := reflect.New(v.Type().Elem()).Elem()
		sample(of)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("NAME"), of)
	}
}

// fillDigests gives every file of a request that has none its digest, and its absolute path.
func fillDigests(request any) error {
	return digests(reflect.ValueOf(request))
}

func digests(v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return digests(v.Elem())
		}
	case reflect.Struct:
		if f, ok := v.Interface().(plugin.File); ok {
			if f.Path == "" || f.SHA256 != "" {
				return nil
			}
			whole, err := plugin.NewFile(f.Path)
			v.Set(reflect.ValueOf(whole))
			return err
		}
		for i := range v.NumField() {
			if err := digests(v.Field(i)); err != nil {
				return err
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			if err := digests(v.Index(i)); err != nil {
				return err
			}
		}
	}
	return nil
}
