package kernel

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz/lzma"
)

// maxWindow bounds the memory that an unpacker looks back to: twice what kernels are packed with (scripts/Makefile.lib:
// zstd --ultra -22), in bytes.
const maxWindow = 256 << 20

// unpackBzImage unpacks the kernel proper from an x86 bzImage (Documentation/arch/x86/boot.rst): the setup header at
// offset 0x1f1, since protocol 2.08 with the place of the compressed kernel behind the setup sectors.
func unpackBzImage(b []byte) ([]byte, error) {
	if len(b) < 0x250 || string(b[0x202:0x206]) != "HdrS" {
		return nil, fmt.Errorf("neither an ELF file nor an x86 bzImage: %w", ErrFormat)
	}
	if v := binary.LittleEndian.Uint16(b[0x206:]); v < 0x208 {
		return nil, fmt.Errorf("bzImage: boot protocol %d.%02d; 2.08 or later is supported: %w", v>>8, v&0xff, ErrFormat)
	}
	sectors := uint64(b[0x1f1])
	if sectors == 0 {
		sectors = 4
	}
	start := (sectors+1)*512 + uint64(binary.LittleEndian.Uint32(b[0x248:]))
	length := uint64(binary.LittleEndian.Uint32(b[0x24c:]))
	if start+length > uint64(len(b)) {
		return nil, fmt.Errorf("bzImage: the file has %d bytes, its kernel ends at %d: cut off? %w",
			len(b), start+length, ErrFormat)
	}
	out, err := decompress(b[start : start+length])
	if err != nil {
		return nil, fmt.Errorf("bzImage: unpack kernel: %w", err)
	}
	return out, nil
}

// decompress unpacks a kernel by its first bytes (lib/decompress.c: compressed_formats). All formats but gzip are followed
// by the unpacked size in four bytes (scripts/Makefile.lib: size_append).
func decompress(p []byte) ([]byte, error) {
	if len(p) < 8 {
		return nil, fmt.Errorf("%d bytes: %w", len(p), ErrFormat)
	}
	if bytes.HasPrefix(p, []byte{0x1f, 0x8b}) {
		r, err := gzip.NewReader(bytes.NewReader(p))
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		r.Multistream(false)
		return readBounded("gzip", r)
	}
	options := []zstd.DOption{zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1)}
	body, size := p[:len(p)-4], binary.LittleEndian.Uint32(p[len(p)-4:])
	var out []byte
	var err error
	switch {
	case bytes.HasPrefix(p, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		out, err = unpackXZ(body)
	case bytes.HasPrefix(p, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		var r *zstd.Decoder
		if r, err = zstd.NewReader(bytes.NewReader(body), options...); err == nil {
			defer r.Close()
			out, err = readBounded("zstd", r)
		}
	case bytes.HasPrefix(p, []byte{0x02, 0x21, 0x4c, 0x18}):
		out, err = unpackLZ4(body)
	case bytes.HasPrefix(p, []byte{0x5d, 0, 0}):
		// LZMA_Alone: properties, then the dictionary's size, which is allocated at once.
		if n := binary.LittleEndian.Uint32(p[1:]); n > maxWindow {
			return nil, fmt.Errorf("lzma: a dictionary of %d bytes is not plausible: %w", n, ErrFormat)
		}
		var r io.Reader
		if r, err = lzma.NewReader(bytes.NewReader(body)); err == nil {
			out, err = readBounded("lzma", r)
		}
	case bytes.HasPrefix(p, []byte("BZh")):
		out, err = readBounded("bzip2", bzip2.NewReader(bytes.NewReader(body)))
	case bytes.HasPrefix(p, []byte{0x89, 'L', 'Z', 'O'}):
		return nil, errors.New("LZO is not supported; unpack it with the kernel's scripts/extract-vmlinux")
	default:
		return nil, fmt.Errorf("unknown compression, first bytes %x: %w", p[:8], ErrFormat)
	}
	if err != nil {
		return nil, err
	}
	if uint32(len(out)) != size {
		return nil, fmt.Errorf("unpacked to %d bytes, expected %d: %w", len(out), size, ErrFormat)
	}
	return out, nil
}

func readBounded(format string, r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxImage+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", format, err)
	}
	if len(b) > maxImage {
		return nil, fmt.Errorf("%s: unpacks to more than %d bytes: %w", format, maxImage, ErrFormat)
	}
	return b, nil
}

// unpackLZ4 unpacks the legacy LZ4 frame: a magic number, then blocks of at most 8 MiB unpacked, each behind its packed
// size in four bytes (LZ4 Frame Format, "Legacy frame").
func unpackLZ4(p []byte) ([]byte, error) {
	var out []byte
	for p = p[4:]; len(p) > 0; {
		if len(p) < 4 {
			return nil, fmt.Errorf("lz4: a block's size is cut off: %w", ErrFormat)
		}
		n := binary.LittleEndian.Uint32(p)
		p = p[4:]
		if uint64(n) > uint64(len(p)) {
			return nil, fmt.Errorf("lz4: a block of %d bytes is cut off: %w", n, ErrFormat)
		}
		var err error
		if out, err = lz4Block(out, p[:n]); err != nil {
			return nil, err
		}
		if len(out) > maxImage {
			return nil, fmt.Errorf("lz4: unpacks to more than %d bytes: %w", maxImage, ErrFormat)
		}
		p = p[n:]
	}
	return out, nil
}

// lz4Block appends a block's content to out (LZ4 Block Format): a token, literals, then a copy of what came before.
func lz4Block(out, p []byte) ([]byte, error) {
	bad := fmt.Errorf("lz4: damaged block: %w", ErrFormat)
	first := len(out)
	length := func(n int) (int, bool) {
		if n != 15 {
			return n, true
		}
		for len(p) > 0 {
			c := p[0]
			p = p[1:]
			if n += int(c); c != 255 {
				return n, true
			}
		}
		return 0, false
	}
	for len(p) > 0 {
		token := p[0]
		p = p[1:]
		n, ok := length(int(token >> 4))
		if !ok || n > len(p) {
			return nil, bad
		}
		out = append(out, p[:n]...)
		if p = p[n:]; len(p) == 0 {
			return out, nil // the last sequence has literals only
		}
		if len(p) < 2 {
			return nil, bad
		}
		back := int(binary.LittleEndian.Uint16(p))
		p = p[2:]
		if n, ok = length(int(token & 15)); !ok || back == 0 || back > len(out)-first || len(out)-first > 8<<20 {
			return nil, bad
		}
		for range n + 4 {
			out = append(out, out[len(out)-back])
		}
	}
	return out, nil
}
