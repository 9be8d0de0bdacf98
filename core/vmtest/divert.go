package vmtest

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Numbers of registers in the GDB remote protocol for x86-64 (gdb's i386/64bit-core.xml).
const (
	regDI = 5
	regSP = 7
	regIP = 16
)

// divertLimit bounds the wait for a thread to come by.
const divertLimit = 2 * time.Minute

// Divert waits until a thread of the guest runs the function at an address, lets it finish that, and has it call another function, with
// one argument, where it would return to: as if its caller had called that next, with nothing but the registers lost that callers
// must not count on. ready is called when the guest runs on and the wait begins.
func (g *Guest) Divert(function, to, argument uint64, ready func()) error {
	if g.debugSocket == "" {
		return errors.New("divert a thread: the guest was booted without Options.Debug")
	}
	c, err := net.DialTimeout("unix", g.debugSocket, pokeTimeout)
	if err != nil {
		return fmt.Errorf("divert a thread: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(divertLimit)); err != nil {
		return fmt.Errorf("divert a thread: %w", err)
	}
	d := &debugger{c, bufio.NewReader(c)}
	if _, err := d.ask("?"); err != nil {
		return fmt.Errorf("divert a thread: %w", err)
	}
	// QEMU gives single registers to those only who have asked for their description (gdbstub.c: handle_get_reg).
	if _, err = d.ask("qXfer:features:read:target.xml:0,4"); err == nil {
		err = d.divert(function, to, argument, ready)
	}
	if _, e := d.ask("D"); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("divert a thread that runs %#x: %w", function, err)
	}
	return nil
}

func (d *debugger) divert(function, to, argument uint64, ready func()) error {
	if err := d.runTo(function, ready); err != nil {
		return err
	}
	sp, err := d.register(regSP)
	if err != nil {
		return err
	}
	back, err := d.word(sp)
	if err != nil {
		return err
	}
	if err := d.runTo(back, func() {}); err != nil {
		return err
	}
	if sp, err = d.register(regSP); err != nil {
		return err
	}
	return errors.Join(
		d.must(fmt.Sprintf("M%x,8:%s", sp-8, hexWord(back))),
		d.must(fmt.Sprintf("P%x=%s", regSP, hexWord(sp-8))),
		d.must(fmt.Sprintf("P%x=%s", regDI, hexWord(argument))),
		d.must(fmt.Sprintf("P%x=%s", regIP, hexWord(to))),
	)
}

// runTo lets the guest run until a thread is at an address, and chooses that thread's processor.
func (d *debugger) runTo(address uint64, running func()) error {
	if err := d.must(fmt.Sprintf("Z0,%x,1", address)); err != nil {
		return err
	}
	if err := d.send("c"); err != nil {
		return err
	}
	running()
	stop, err := d.reply()
	if err != nil {
		return err
	}
	_, thread, ok := strings.Cut(stop, "thread:")
	if !ok {
		return fmt.Errorf("the debugger's stub says %q, expected where the guest stands", stop)
	}
	thread, _, _ = strings.Cut(thread, ";")
	return errors.Join(d.must(fmt.Sprintf("z0,%x,1", address)), d.must("Hg"+thread))
}

// must sends a packet that is to be answered by OK.
func (d *debugger) must(packet string) error {
	reply, err := d.ask(packet)
	if err == nil && reply != "OK" {
		err = fmt.Errorf("the debugger's stub says %q to %q", reply, packet)
	}
	return err
}

func (d *debugger) register(n int) (uint64, error) { return d.number(fmt.Sprintf("p%x", n)) }
func (d *debugger) word(at uint64) (uint64, error) { return d.number(fmt.Sprintf("m%x,8", at)) }

func (d *debugger) number(packet string) (uint64, error) {
	reply, err := d.ask(packet)
	if err != nil {
		return 0, err
	}
	b, err := hex.DecodeString(reply)
	if err != nil || len(b) != 8 {
		return 0, fmt.Errorf("the debugger's stub says %q to %q, expected 8 bytes", reply, packet)
	}
	return binary.LittleEndian.Uint64(b), nil
}

func hexWord(v uint64) string { return hex.EncodeToString(binary.LittleEndian.AppendUint64(nil, v)) }
