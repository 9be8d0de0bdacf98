// Package wire is what the host and the agent in the guest say to each other: JSON values, one a line, over a
// virtio-serial port. Package vmtest and its guest program use it.
package wire

// Port is the name of the virtio-serial port that the agent speaks on.
const Port = "ksplice.agent"

// ConfigPath is where the guest's init finds its Config.
const ConfigPath = "/vmtest.json"

// ModuleDir is the directory of the modules that init loads.
const ModuleDir = "/.vmtest/modules"

// ReadyMark is what the agent writes to the kernel's log before it says Ready: what stands before it in the console
// comes from booting.
const ReadyMark = "vmtest: the guest agent is ready"

// FailMark begins the line on the console that says why init gave up.
const FailMark = "vmtest: setup failed: "

// Chunk is the greatest number of bytes of data in one message.
const Chunk = 128 << 10

// Config tells init what to set up.
type Config struct {
	Modules []string `json:"modules"` // paths of uncompressed modules, in the order to load them
	Mounts  []Mount  `json:"mounts"`  // directories of the host
}

// Mount is a directory that the host serves by 9p.
type Mount struct {
	Tag      string `json:"tag"`
	Path     string `json:"path"`
	ReadOnly bool   `json:"readOnly"`
}

// Operations of a Request.
const (
	OpStart    = "start"    // runs Argv; answered by Started, any number of Out, Exit
	OpSignal   = "signal"   // sends Signal to the process group of ID; answered by Done only when it fails
	OpRead     = "read"     // reads Path; answered by any number of Out, then Done
	OpWrite    = "write"    // writes Data to Path at Offset, the file being made anew at 0; answered by Done
	OpPoweroff = "poweroff" // not answered
)

// Request is what the host asks for. ID is new for each request but OpSignal, which names the process.
type Request struct {
	ID     uint64   `json:"id"`
	Op     string   `json:"op"`
	Argv   []string `json:"argv,omitempty"`
	Signal int      `json:"signal,omitempty"`
	Path   string   `json:"path,omitempty"`
	Mode   uint32   `json:"mode,omitempty"`
	Offset int64    `json:"offset,omitempty"`
	Data   []byte   `json:"data,omitempty"`
}

// Events of a Reply.
const (
	Ready   = "ready"   // the agent answers from now on; ID is 0
	Started = "started" // PID
	Out     = "out"     // Data of Stream: 1 is standard output or the file, 2 standard error
	Exit    = "exit"    // Code; 128 and the signal's number when a signal ended it
	Done    = "done"    // Error is empty when it went well
)

// Reply is what the agent answers.
type Reply struct {
	ID     uint64 `json:"id"`
	Event  string `json:"event"`
	PID    int    `json:"pid,omitempty"`
	Stream int    `json:"stream,omitempty"`
	Data   []byte `json:"data,omitempty"`
	Code   int    `json:"code,omitempty"`
	Error  string `json:"error,omitempty"`
}
