package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// The .xz file format 1.1.0. Kernels for x86 go through its filter for branches before LZMA2 (scripts/xz_wrap.sh), which
// the xz package does not know; so the container and the filter are read here.
const (
	xzFilterX86   = 0x04
	xzFilterLZMA2 = 0x21
)

// unpackXZ unpacks one stream of blocks.
func unpackXZ(p []byte) ([]byte, error) {
	if len(p) < 12 || p[6] != 0 || crc32.ChecksumIEEE(p[6:8]) != binary.LittleEndian.Uint32(p[8:]) {
		return nil, fmt.Errorf("xz: damaged stream header: %w", ErrFormat)
	}
	check := p[7]
	var out []byte
	// The index, which begins with a zero, ends the blocks.
	for p = p[12:]; len(p) > 0 && p[0] != 0; {
		body, rest, err := xzBlock(p, check)
		if err != nil {
			return nil, fmt.Errorf("xz: %w", err)
		}
		if out = append(out, body...); len(out) > maxImage {
			return nil, fmt.Errorf("xz: unpacks to more than %d bytes: %w", maxImage, ErrFormat)
		}
		p = rest
	}
	if len(p) == 0 {
		return nil, fmt.Errorf("xz: the stream is cut off: %w", ErrFormat)
	}
	return out, nil
}

// xzBlock unpacks the block that p begins with and returns what follows it.
func xzBlock(p []byte, check byte) (out, rest []byte, err error) {
	size := (int(p[0]) + 1) * 4
	if size > len(p) || crc32.ChecksumIEEE(p[:size-4]) != binary.LittleEndian.Uint32(p[size-4:]) {
		return nil, nil, fmt.Errorf("damaged block header: %w", ErrFormat)
	}
	header, data := p[1:size-4], p[size:]
	flags := header[0]
	number := func(b []byte) (uint64, []byte) {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			err = fmt.Errorf("damaged block header: %w", ErrFormat)
			return 0, nil
		}
		return v, b[n:]
	}
	header = header[1:]
	for _, present := range []byte{0x40, 0x80} { // sizes, packed and unpacked: the chunks tell them too
		if flags&present != 0 {
			_, header = number(header)
		}
	}
	var branches *uint32 // the filter's start offset
	for i := 0; i <= int(flags&3) && err == nil; i++ {
		var id, n uint64
		id, header = number(header)
		n, header = number(header)
		if err != nil || n > uint64(len(header)) {
			return nil, nil, fmt.Errorf("damaged block header: %w", ErrFormat)
		}
		properties := header[:n]
		header = header[n:]
		last := i == int(flags&3)
		switch {
		case id == xzFilterX86 && !last && branches == nil:
			branches = new(uint32)
			if n == 4 {
				*branches = binary.LittleEndian.Uint32(properties)
			}
		case id == xzFilterLZMA2 && last:
		default:
			return nil, nil, fmt.Errorf("filter %#x is not supported; unpack the image with the kernel's scripts/extract-vmlinux", id)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	length, unpacked, ok := lzma2Length(data)
	if !ok || unpacked > maxImage {
		return nil, nil, fmt.Errorf("damaged or cut off LZMA2 data: %w", ErrFormat)
	}
	// A dictionary larger than the data is of no use.
	r, err := lzma.Reader2Config{DictCap: max(unpacked, lzma.MinDictCap)}.NewReader2(bytes.NewReader(data[:length]))
	if err != nil {
		return nil, nil, err
	}
	out = make([]byte, unpacked)
	if _, err := io.ReadFull(r, out); err != nil {
		return nil, nil, err
	}
	if branches != nil {
		absoluteToRelative(out, *branches)
	}
	rest = data[min((length+3)&^3, len(data)):]
	return xzCheck(out, rest, check)
}

// lzma2Length walks the chunks of LZMA2 data: how many bytes they are, with the end mark, and unpack to.
func lzma2Length(p []byte) (length, unpacked int, ok bool) {
	for at := 0; at < len(p); {
		c := p[at]
		if c == 0 {
			return at + 1, unpacked, true
		}
		if at+6 > len(p) {
			return 0, 0, false
		}
		size := int(binary.BigEndian.Uint16(p[at+1:])) + 1
		switch {
		case c == 1 || c == 2: // stored
			unpacked += size
			at += 3 + size
		case c < 0x80:
			return 0, 0, false
		default:
			unpacked += size + int(c&0x1f)<<16
			at += 5 + int(binary.BigEndian.Uint16(p[at+3:])) + 1
			if c >= 0xc0 {
				at++ // new properties
			}
		}
	}
	return 0, 0, false
}

// xzCheck compares a block with its check, and returns what follows that.
func xzCheck(out, rest []byte, check byte) ([]byte, []byte, error) {
	sizes := [16]int{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}
	n := sizes[check&15]
	if n > len(rest) {
		return nil, nil, fmt.Errorf("cut off: %w", ErrFormat)
	}
	good := true
	switch check {
	case 1:
		good = crc32.ChecksumIEEE(out) == binary.LittleEndian.Uint32(rest)
	case 4:
		good = crc64.Checksum(out, crc64.MakeTable(crc64.ECMA)) == binary.LittleEndian.Uint64(rest)
	}
	if !good {
		return nil, nil, fmt.Errorf("the unpacked data does not have its checksum: %w", ErrFormat)
	}
	return out, rest[n:], nil
}

// absoluteToRelative undoes the x86 filter, in which the targets of call (e8) and jmp (e9) were made absolute. The packer
// converts an operand when its top byte is 00 or ff, and what counts as an opcode byte depends on bytes like opcodes up to
// three places before it; recent has a bit for each of those, the nearest lowest.
func absoluteToRelative(p []byte, start uint32) {
	sign := func(b byte) bool { return b == 0 || b == 0xff }
	recent := uint(0)
	last := -1 << 30
	for i := 0; i+5 <= len(p); i++ {
		if p[i]&0xfe != 0xe8 {
			continue
		}
		if gap := i - last; gap > 3 {
			recent = 0
		} else {
			recent = recent << (gap - 1) & 7
		}
		last = i
		// nearby is how many of the operand's bytes, from the top, the older opcode's operand would share.
		nearby := [8]uint{0, 1, 2, 2, 3, 3, 3, 3}[recent]
		if recent == 3 || recent >= 5 || recent != 0 && sign(p[i+4-int(nearby)]) || !sign(p[i+4]) {
			recent = recent<<1&7 | 1
			continue
		}
		v := binary.LittleEndian.Uint32(p[i+1:])
		here := start + uint32(i) + 5
		for {
			v -= here
			if recent == 0 || !sign(byte(v>>(24-8*nearby))) {
				break
			}
			v ^= 1<<(32-8*nearby) - 1
		}
		v &= 1<<25 - 1
		if v&(1<<24) != 0 {
			v |= 0xfe << 24
		}
		binary.LittleEndian.PutUint32(p[i+1:], v)
		i += 4
	}
}
