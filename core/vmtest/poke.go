package vmtest

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// debugger speaks the GDB remote protocol with QEMU's stub, as far as we need it. The stub writes past page
// protections, as broken hardware or an intruder would: nothing in the guest is asked.
type debugger struct {
	c net.Conn
	r *bufio.Reader
}

// pokeTimeout bounds one conversation.
const pokeTimeout = 20 * time.Second

// WriteMemory writes b at a kernel virtual address of the guest, whose processors stand still meanwhile.
func (g *Guest) WriteMemory(address uint64, b []byte) error {
	if g.debugSocket == "" {
		return errors.New("write guest memory: it was booted without Options.Debug")
	}
	c, err := net.DialTimeout("unix", g.debugSocket, pokeTimeout)
	if err != nil {
		return fmt.Errorf("write guest memory: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(pokeTimeout)); err != nil {
		return fmt.Errorf("write guest memory: %w", err)
	}
	d := &debugger{c, bufio.NewReader(c)}
	if _, err := d.ask("?"); err != nil { // why it stands: because we came
		return fmt.Errorf("write guest memory: %w", err)
	}
	reply, err := d.ask(fmt.Sprintf("M%x,%x:%x", address, len(b), b))
	if err == nil && reply != "OK" {
		err = fmt.Errorf("the debugger's stub says %q", reply)
	}
	if _, e := d.ask("D"); err == nil { // detaching lets it run on
		err = e
	}
	if err != nil {
		return fmt.Errorf("write guest memory at %#x: %w", address, err)
	}
	return nil
}

// ask sends a packet and returns the reply's content.
func (d *debugger) ask(packet string) (string, error) {
	if err := d.send(packet); err != nil {
		return "", err
	}
	for {
		reply, err := d.reply()
		if err != nil || packet == "?" || !strings.HasPrefix(reply, "T") { // else it says, unasked, that the guest stands
			return reply, err
		}
	}
}

func (d *debugger) send(packet string) error {
	sum := byte(0)
	for i := range len(packet) {
		sum += packet[i]
	}
	_, err := fmt.Fprintf(d.c, "$%s#%02x", packet, sum)
	return err
}

// reply receives a packet and returns its content.
func (d *debugger) reply() (string, error) {
	if _, err := d.r.ReadString('$'); err != nil { // past acknowledgements
		return "", err
	}
	reply, err := d.r.ReadString('#')
	if err != nil {
		return "", err
	}
	if _, err := d.r.Discard(2); err != nil {
		return "", err
	}
	_, err = d.c.Write([]byte("+"))
	return strings.TrimSuffix(reply, "#"), err
}
