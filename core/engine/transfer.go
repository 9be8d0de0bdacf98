package engine

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Piece is memory of the kernel's: what it holds, or is to hold.
type Piece struct {
	Address uint64
	Bytes   []byte
}

// Attach gives an object a shadow field.
type Attach struct {
	Field  string
	Object uint64
	Data   []byte
}

// Transfer is what a state transfer has read, and what it changes.
type Transfer struct {
	// Guards are all bytes that were read, Sets those that are written: both in order of address, and each of Sets lies in Guards.
	Guards, Sets []Piece
	Attaches     []Attach
}

// The structures of kmod/ksplice_uapi.h, field for field.
type (
	pieceC struct {
		address   uint64
		length, _ uint32
	}
	attachC struct {
		object        uint64
		field, length uint32
	}
	transferC struct {
		guards, sets, attaches, fields, values, nrValues uint64
		nrGuards, nrSets, nrAttaches, nrFields           uint32
	}
)

const fieldLength = 128 // KSPLICE_FIELD_LEN

var iocTransfer = ioc(iocWrite, 16, unsafe.Sizeof(transferC{}))

// Transfer has data of the running kernel changed in the commit's stop, where what was read is as it was. It may be called again after a commit
// that ended with CauseMoved, which may then be tried again.
func (d *Device) Transfer(t *Transfer) error {
	if !d.info.Transfer {
		return errors.New("the loaded ksplice module does not transfer state: reload the one that came with this ksplice")
	}
	var values []byte
	pieces := func(list []Piece) []pieceC {
		out := make([]pieceC, len(list))
		for i, p := range list {
			out[i] = pieceC{address: p.Address, length: uint32(len(p.Bytes))}
			values = append(values, p.Bytes...)
		}
		return out
	}
	guards, sets := pieces(t.Guards), pieces(t.Sets)
	var names []string
	var fields [][fieldLength]byte
	attaches := make([]attachC, len(t.Attaches))
	for i, a := range t.Attaches {
		k := slices.Index(names, a.Field)
		if k < 0 {
			k, names = len(names), append(names, a.Field)
			var f [fieldLength]byte
			if copy(f[:len(f)-1], a.Field) != len(a.Field) {
				return fmt.Errorf("attach shadow field %q: its name is too long", a.Field)
			}
			fields = append(fields, f)
		}
		attaches[i] = attachC{object: a.Object, field: uint32(k), length: uint32(len(a.Data))}
		values = append(values, a.Data...)
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	c := transferC{guards: pinned(&pin, guards), sets: pinned(&pin, sets), attaches: pinned(&pin, attaches), fields: pinned(&pin, fields),
		values: pinned(&pin, values), nrValues: uint64(len(values)), nrGuards: uint32(len(guards)), nrSets: uint32(len(sets)),
		nrAttaches: uint32(len(attaches)), nrFields: uint32(len(fields))}
	err := d.ioctl(iocTransfer, unsafe.Pointer(&c))
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("state transfer: %w; the kernel's lockdown forbids to write what no signature stands behind: "+
			"have the vendor carry that by hooks, whose code is signed, or apply the update without Secure Boot", err)
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("state transfer: %d pieces of memory read, %d set, %d shadow fields, %d bytes in all: more than the kernel module takes",
			len(guards), len(sets), len(attaches), len(values))
	case err != nil:
		return fmt.Errorf("state transfer: %w", err)
	}
	return nil
}

// pinned is the address of a list; 0 for an empty one.
func pinned[T any](pin *runtime.Pinner, list []T) uint64 {
	if len(list) == 0 {
		return 0
	}
	pin.Pin(&list[0])
	return uint64(uintptr(unsafe.Pointer(&list[0])))
}
