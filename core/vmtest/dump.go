package vmtest

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"time"
)

// dumpTimeout bounds the writing of a core: the guest's whole memory.
const dumpTimeout = 5 * time.Minute

// DumpMemory writes an ELF core of the guest, by physical addresses, to a file of the host. The guest stands still meanwhile.
func (g *Guest) DumpMemory(file string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return fmt.Errorf("dump guest memory: %w", err)
	}
	if g.monitorSocket == "" {
		return fmt.Errorf("dump guest memory: it was booted without Options.Debug")
	}
	c, err := net.DialTimeout("unix", g.monitorSocket, pokeTimeout)
	if err != nil {
		return fmt.Errorf("dump guest memory: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(dumpTimeout)); err != nil {
		return fmt.Errorf("dump guest memory: %w", err)
	}
	// The machine protocol of QEMU: it greets, then answers one command after the other, with events in between.
	in, out := json.NewDecoder(c), json.NewEncoder(c)
	for _, command := range []any{
		nil,
		map[string]any{"execute": "qmp_capabilities"},
		map[string]any{"execute": "dump-guest-memory", "arguments": map[string]any{"paging": false, "protocol": "file:" + file}},
	} {
		if command != nil {
			if err := out.Encode(command); err != nil {
				return fmt.Errorf("dump guest memory: %w", err)
			}
		}
		for {
			var reply struct {
				Greeting *json.RawMessage `json:"QMP"`
				Return   *json.RawMessage `json:"return"`
				Error    *struct {
					Desc string `json:"desc"`
				} `json:"error"`
			}
			if err := in.Decode(&reply); err != nil {
				return fmt.Errorf("dump guest memory: %w", err)
			}
			if reply.Error != nil {
				return fmt.Errorf("dump guest memory: QEMU: %s", reply.Error.Desc)
			}
			if reply.Return != nil || reply.Greeting != nil {
				break
			}
		}
	}
	return nil
}
