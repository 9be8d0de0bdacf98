package plugin

import (
	"context"
	"slices"
	"strings"
)

// Unconfigured is for plugins that take no configuration and need nothing of the machine: embed it (or the
// Unimplemented type of a kind, which has it) and write Info only.
type Unconfigured struct{}

// Configure refuses every key.
func (Unconfigured) Configure(_ context.Context, config map[string]string) error {
	return CheckConfig(config, nil)
}

// Health always returns nil.
func (Unconfigured) Health(context.Context) error { return nil }

// CheckConfig returns a Diagnostic, the user's fault, when config has a key that is not among keys or lacks one that is required.
func CheckConfig(config map[string]string, keys []ConfigKey) error {
	var known, unknown []string
	for _, k := range keys {
		known = append(known, k.Name)
	}
	for k := range config {
		if !slices.Contains(known, k) {
			unknown = append(unknown, k)
		}
	}
	if len(unknown) == 0 {
		return missing(config, keys)
	}
	slices.Sort(unknown)
	d := &Diagnostic{Fault: FaultUser, Summary: "unknown configuration key " + strings.Join(unknown, ", "), Detail: "the plugin takes no configuration"}
	if len(known) > 0 {
		d.Detail = "the plugin takes: " + strings.Join(known, ", ")
	}
	return d
}

func missing(config map[string]string, keys []ConfigKey) error {
	for _, k := range keys {
		if _, ok := config[k.Name]; k.Required && !ok {
			return &Diagnostic{Fault: FaultUser, Summary: "configuration key " + k.Name + " is missing", Detail: k.Description}
		}
	}
	return nil
}

// NotImplemented returns the error of a call that a plugin does not have: what the Unimplemented types return.
func NotImplemented(call string) error {
	return &Diagnostic{Fault: FaultInternal, Summary: "the plugin does not implement " + call, Detail: "use another plugin, or ask its author for it"}
}
