package plugin

// What host and plugin must agree on before they can speak. The Serve functions and the host use these; the author of
// a plugin in Go needs none of them, that of a plugin in another language all.
const (
	// CookieKey and CookieValue are the environment variable by which a plugin knows that a host started it. They keep
	// people from running plugins by hand; they are no secret.
	CookieKey   = "KSPLICE_PLUGIN_COOKIE"
	CookieValue = "5c6c0f1be8e0447f8d1b3d1f54f7e0b7a0c97b54a2b1d6e1"

	// MaxMessage bounds one message in bytes, either way. Larger things cross as a File.
	MaxMessage = 256 << 20

	// CallKey is the metadata key under which a host numbers its calls. With the number it asks, after a call that it gave up, until when
	// the plugin still works on it (Drain in base.proto).
	CallKey = "ksplice-call"
)

// Protocols returns the protocol versions that this SDK speaks, ascending. Version 1 is the protobuf package
// ksplice.plugin.v1.
func Protocols() []int { return []int{1} }
