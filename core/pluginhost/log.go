package pluginhost

import (
	"encoding/json"
	"io"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
)

// tailLines is how many lines of a plugin's stderr an error quotes.
const tailLines = 8

// tail keeps what is worth quoting of a plugin's stderr: the beginning of a Go panic, else the last lines.
type tail struct {
	mu     sync.Mutex
	last   []string
	crash  []string
	inside bool // in a crash report
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
		t.inside = true
	}
	if t.inside && len(t.crash) < tailLines {
		t.crash = append(t.crash, line)
	}
	if t.last = append(t.last, line); len(t.last) > tailLines {
		t.last = t.last[1:]
	}
}

// String returns the lines, or what to say in their place.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := t.last
	if t.crash != nil {
		lines = t.crash
	}
	if len(lines) == 0 {
		return "it wrote nothing to stderr"
	}
	return "on stderr it wrote:\n\t" + strings.Join(lines, "\n\t")
}

// pumpLog copies a plugin's stderr into the log: lines in hclog's JSON at their own level, others at Debug. Nothing
// that a plugin writes can do more than look odd there.
func pumpLog(r io.Reader, log hclog.Logger, t *tail) {
	readLines(r, func(line string) {
		level, message, args, ok := parseLog(line)
		if !ok {
			t.add(line)
			log.Debug("stderr", "line", line)
			return
		}
		if level >= hclog.Warn {
			t.add(message)
		}
		log.Log(level, message, args...)
	})
}

// parseLog reads a line of hclog's JSON; ok is false for anything else.
func parseLog(line string) (level hclog.Level, message string, args []any, ok bool) {
	var fields map[string]any
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &fields) != nil {
		return 0, "", nil, false
	}
	message, ok = fields["@message"].(string)
	name, isText := fields["@level"].(string)
	if !ok || !isText {
		return 0, "", nil, false
	}
	if level = hclog.LevelFromString(name); level == hclog.NoLevel || level == hclog.Off {
		level = hclog.Info
	}
	for key, value := range fields {
		if !strings.HasPrefix(key, "@") && key != "timestamp" {
			args = append(args, key, value)
		}
	}
	return level, message, args, true
}
