package kernel

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// makeTables writes kallsyms tables as scripts/kallsyms.c does, of symbols sorted by address, into the middle of other data.
// The tokens are each character itself, and a few pairs.
func makeTables(symbols []Symbol, base uint64, old bool) []byte {
	order := binary.LittleEndian
	tokens := make([]string, 256)
	used := map[byte]bool{}
	for _, y := range symbols {
		for i := range y.Name {
			used[y.Name[i]] = true
		}
		used[y.Type] = true
	}
	pairs := []string{"ab", "_s", "foo"}
	for i := range tokens {
		if used[byte(i)] {
			tokens[i] = string(rune(i))
		} else if len(pairs) > 0 {
			tokens[i], pairs = pairs[0], pairs[1:]
		}
	}
	align := func(b []byte) []byte { return append(b, make([]byte, -len(b)&7)...) }
	var offsets, names, markers, seqs, table, index []byte
	for i, y := range symbols {
		v := uint32(y.Address)
		if y.Address >= base {
			v = uint32(base - y.Address - 1)
		}
		offsets = order.AppendUint32(offsets, v)
		if i%256 == 0 {
			markers = order.AppendUint32(markers, uint32(len(names)))
		}
		var name []byte
		for s := string(y.Type) + y.Name; s != ""; {
			best, n := 0, 0
			for c, token := range tokens {
				if token != "" && strings.HasPrefix(s, token) && len(token) > n {
					best, n = c, len(token)
				}
			}
			name, s = append(name, byte(best)), s[n:]
		}
		if len(name) > 0x7f {
			names = append(names, byte(len(name))|0x80, byte(len(name)>>7))
		} else {
			names = append(names, byte(len(name)))
		}
		names = append(names, name...)
		seqs = append(seqs, byte(i>>16), byte(i>>8), byte(i))
	}
	for _, s := range tokens {
		index = order.AppendUint16(index, uint16(len(table)))
		table = append(append(table, s...), 0)
	}
	where := order.AppendUint64(align(offsets), base)
	out := align(bytes.Repeat([]byte("other data "), 30))
	if old {
		out = append(out, where...)
	}
	out = align(order.AppendUint32(out, uint32(len(symbols))))
	out = align(append(out, names...))
	out = align(append(out, markers...))
	if old {
		out = align(append(out, seqs...))
	}
	out = align(append(out, table...))
	out = align(append(out, index...))
	if !old {
		out = append(out, where...)
		out = align(append(out, seqs...))
	}
	return append(out, bytes.Repeat([]byte{0xcc, 0}, 100)...)
}

const testBase = 0xffffffff81000000

func manySymbols(n int) []Symbol {
	list := []Symbol{{Name: "__per_cpu_start", Type: 'A'}, {Name: "cpu_foo", Type: 'A', Address: 0x40},
		{Name: "_text", Type: 'T', Address: testBase}, {Name: strings.Repeat("long_", 60), Type: 't', Address: testBase + 8}}
	for i := range n {
		list = append(list, Symbol{Name: "foo_" + strings.Repeat("s", i%7) + string(rune('a'+i%26)), Type: 't', Address: testBase + 16*uint64(i+1)})
	}
	return list
}

func TestFindTables(t *testing.T) {
	for _, n := range []int{3, 252, 1000} {
		for _, old := range []bool{true, false} {
			want := manySymbols(n)
			data := makeTables(want, testBase, old)
			tables, err := findTables(data, binary.LittleEndian)
			if err != nil {
				t.Errorf("%d symbols, old %v: %v", n, old, err)
				continue
			}
			got, err := tables.decode(binary.LittleEndian)
			if err != nil {
				t.Errorf("%d symbols, old %v: %v", n, old, err)
				continue
			}
			if d := cmp.Diff(want, got.All()); d != "" {
				t.Errorf("%d symbols, old %v (-want +got):\n%s", n, old, d)
			}
		}
	}
}

func TestFindTablesNone(t *testing.T) {
	data := makeTables(manySymbols(300), testBase, false)
	for name, p := range map[string][]byte{"empty": nil, "zeros": make([]byte, 1<<16), "cut": data[:len(data)/2]} {
		if _, err := findTables(p, binary.LittleEndian); err == nil || !strings.Contains(err.Error(), "CONFIG_KALLSYMS") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzFindTables(f *testing.F) {
	f.Add(makeTables(manySymbols(3), testBase, true))
	f.Add(makeTables(manySymbols(300), testBase, false))
	f.Fuzz(func(t *testing.T, data []byte) {
		if tables, err := findTables(data, binary.LittleEndian); err == nil {
			if s, err := tables.decode(binary.LittleEndian); err == nil && s.Len() != tables.count {
				t.Errorf("%d symbols of %d", s.Len(), tables.count)
			}
		}
	})
}
