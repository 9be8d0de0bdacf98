package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// runPlugin drives a plugin by hand: args are the call, none to list them, and its request.
func runPlugin(ctx context.Context, e *env, path string, args []string, options map[string]string) (err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return err
	}
	dir, file := filepath.Split(path)
	kind, name, ok := pluginhost.SplitName(file)
	if _, err := os.Stat(path); err != nil {
		return usagef("%v", err)
	}
	if !ok {
		return usagef("%s is not called as a plugin is, arch-NAME, backend-NAME or transform-NAME: `%s describe` says which", path, path)
	}
	config := e.config.host(e.log)
	config.Dirs = []string{filepath.Clean(dir)}
	host := pluginhost.New(config)
	defer func() { err = errors.Join(err, host.Close()) }()
	host.Configure(file, options)
	if len(args) == 0 {
		return listCalls(ctx, e, host, kind, name)
	}
	c, err := findCall(kind, args[0])
	if err != nil {
		return err
	}
	request := c.request()
	if err := readRequest(c.name, args[1:], request); err != nil {
		return err
	}
	starting := "start"
	if keys, ok := request.(*map[string]string); ok { // of Configure, which a host calls once, when it starts the plugin
		host.Configure(file, *keys)
		starting = c.name
	}
	p, err := host.Named(ctx, kind, name)
	if err != nil {
		return shown(starting, err)
	}
	answer, err := c.call(ctx, p, request, e.progress)
	if err != nil {
		return shown(c.name, err)
	}
	e.diagnostics(answer)
	e.printed = true
	return e.encode(answer)
}

// progress shows one event of a long call.
func (e *env) progress(p plugin.Progress) {
	s := p.Stage + ": " + p.Message
	if p.Total > 0 {
		s += fmt.Sprintf(" (%d of %d)", p.Done, p.Total)
	}
	fmt.Fprintln(e.err, s)
}

// diagnostics shows what an answer complains of.
func (e *env) diagnostics(answer any) {
	var list []plugin.Diagnostic
	switch a := answer.(type) {
	case *backend.CompileResponse:
		for _, r := range a.Results {
			list = append(list, r.Diagnostics...)
		}
	case *backend.LinkResponse:
		list = a.Diagnostics
	case *arch.FixupResponse:
		list = a.Refusals
	}
	for i := range list {
		fmt.Fprintln(e.err, whole(&list[i]))
	}
}

// whole is everything that a diagnostic says.
func whole(d *plugin.Diagnostic) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (fault: %s)", d.Summary, d.Fault)
	if d.Where != "" {
		fmt.Fprintf(&b, "\n  where: %s", d.Where)
	}
	if d.Detail != "" {
		fmt.Fprintf(&b, "\n  %s", strings.ReplaceAll(strings.TrimSpace(d.Detail), "\n", "\n  "))
	}
	return b.String()
}

// callError is a call that ended with a diagnostic.
type callError struct {
	call       string
	diagnostic *plugin.Diagnostic
	err        error
}

func (e *callError) Error() string { return e.call + ": " + whole(e.diagnostic) }
func (e *callError) Unwrap() error { return e.err }

// shown makes an error show its diagnostic whole, where it has one.
func shown(call string, err error) error {
	var d *plugin.Diagnostic
	if !errors.As(err, &d) {
		return err
	}
	return &callError{call, d, err}
}

// requestMax bounds a request in bytes, as a message is.
const requestMax = plugin.MaxMessage

// readRequest reads a call's request: from the argument, from the file that it names with @, or from standard input for "-". Digests of files that
// are named without one are filled in.
func readRequest(call string, args []string, request any) error {
	text, from := []byte("{}"), "the request"
	if len(args) > 0 {
		var err error
		switch {
		case args[0] == "-":
			from = "standard input"
			text, err = io.ReadAll(io.LimitReader(os.Stdin, requestMax+1))
		case strings.HasPrefix(args[0], "@"):
			from = args[0][1:]
			text, err = os.ReadFile(from)
		default:
			text = []byte(args[0])
		}
		if err != nil {
			return usagef("read the request of %s: %v", call, err)
		}
	}
	if len(text) > requestMax {
		return usagef("the request of %s is larger than %d bytes: large things cross by path", call, requestMax)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	err := dec.Decode(request)
	if err == nil && len(bytes.TrimSpace(text[dec.InputOffset():])) > 0 {
		err = fmt.Errorf("something follows the request, at byte %d", dec.InputOffset())
	}
	var other *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF):
		err = errors.New("it is empty; {} is a request without anything in it")
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("it ends too early")
	case errors.As(err, &other):
		err = fmt.Errorf("%q is a %s, and %s is wanted", other.Field, other.Value, other.Type)
	}
	if err != nil {
		return usagef("%s, as JSON for %s: %s; `ksplice plugin run -v BINARY` shows what each call takes", from, call, strings.TrimPrefix(err.Error(), "json: "))
	}
	if err := fillDigests(request); err != nil {
		return usagef("the request of %s: %v", call, err)
	}
	return nil
}
