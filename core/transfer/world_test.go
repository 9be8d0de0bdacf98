package transfer_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/semantic"
	"github.com/ksplice/ksplice/core/transfer"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/sdktest/need"
	"github.com/ksplice/ksplice/sdk/transform"
)

// source has the kernel's own containers as they are (include/linux/types.h, list_nulls.h, list_bl.h, rbtree_types.h, xarray.h, idr.h), and
// what the tests walk over. The patch moves members of struct subject.
const source = `
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long u64;
struct list_head { struct list_head *next, *prev; };
struct hlist_node { struct hlist_node *next, **pprev; };
struct hlist_head { struct hlist_node *first; };
struct hlist_nulls_node { struct hlist_nulls_node *next, **pprev; };
struct hlist_nulls_head { struct hlist_nulls_node *first; };
struct hlist_bl_node { struct hlist_bl_node *next, **pprev; };
struct hlist_bl_head { struct hlist_bl_node *first; };
struct rb_node { unsigned long __rb_parent_color; struct rb_node *rb_right, *rb_left; } __attribute__((aligned(sizeof(long))));
struct rb_root { struct rb_node *rb_node; };
struct rb_root_cached { struct rb_root rb_root; struct rb_node *rb_leftmost; };
typedef struct spinlock { u32 rlock; } spinlock_t;
struct xarray { spinlock_t xa_lock; u32 xa_flags; void *xa_head; };
struct xa_node {
	u8 shift, offset, count, nr_values;
	struct xa_node *parent;
	struct xarray *array;
	union { struct list_head private_list; void *rcu_head[2]; };
	void *slots[64];
	union { unsigned long tags[3][1]; unsigned long marks[3][1]; };
};
struct idr { struct xarray idr_rt; unsigned int idr_base, idr_next; };

enum plain { FIRST, SECOND };
enum minus { MINUS = -1 };
enum __attribute__((packed)) tiny { TINY };

struct item {
	u32 id;
	struct list_head list;
	struct hlist_node hash;
	struct hlist_nulls_node nulls;
	struct hlist_bl_node bl;
	struct rb_node tree;
	struct { struct item *next; } chain;
	void *data;
};
struct header { u32 id; };
struct cpu_stat { u64 packets; };
struct numbers {
	signed char s8; u8 u8; short s16; u16 u16; int s32; u32 u32; long s64; u64 u64;
	_Bool yes; enum plain plain; enum minus minus; enum tiny tiny;
	void *any; struct item *item;
	char name[6]; struct { u16 x, y; } pair; double real; u32 grid[2][3]; union { u32 whole; u8 part; } either; __int128 huge;
	u32 a : 3; int b : 5; u32 c : 9; _Bool flag : 1; long wide : 41; u64 full : 64;
	char big[4097];
	struct { } nothing;
};
struct root {
	u32 n; int wrong; u32 bits : 2;
	struct item *one, *none, *vector;
	void *any;
	struct item *table[3];
	struct item cells[2];
	u32 grid[2][3];
	struct numbers *many[8];
	struct list_head list, empty;
	struct hlist_head buckets[3];
	struct hlist_nulls_head nulls;
	struct hlist_bl_head locked, unlocked;
	struct rb_root tree, bare;
	struct rb_root_cached cached;
	struct xarray nothing, single, array;
	struct idr idr;
	struct cpu_stat *stats, *no_stats;
	struct { struct item *next; } first;
	u32 open[];
} root;
struct cpu_stat stat;
struct item *current_item;
struct subject {
	u32 kept;
#ifndef AFTER
	u32 moved, gone; u16 old : 4;
#else
	u32 fresh, moved; u16 young : 4;
#endif
} subject;
`

// layouts are those of source, without and with the patch.
func layouts(t testing.TB) (before, after update.Layouts) {
	t.Helper()
	need.Program(t, "gcc")
	both, err := compiled()
	if err != nil {
		t.Fatal(err)
	}
	return both[0], both[1]
}

var compiled = sync.OnceValues(func() (out [2]update.Layouts, err error) {
	dir, err := os.MkdirTemp("", "transfer")
	if err != nil {
		return out, err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "u.c"), []byte(source), 0o600); err != nil {
		return out, err
	}
	for i, flag := range []string{"-UAFTER", "-DAFTER"} {
		cmd := exec.Command("gcc", "-g", "-c", "-fno-eliminate-unused-debug-types", "-o", "u.o", flag, "u.c")
		cmd.Dir = dir
		if text, err := cmd.CombinedOutput(); err != nil {
			return out, fmt.Errorf("gcc: %w\n%s", err, text)
		}
		out[i], _, err = semantic.Layouts(filepath.Join(dir, "u.o"), []string{"struct item", "struct header", "struct xa_node", "struct numbers"},
			[]string{"root", "stat", "subject", "current_item"})
		if err != nil {
			return out, err
		}
	}
	return out, nil
})

// base is where memory begins.
const base = 0xffff888100000000

var order = binary.NativeEndian

// arena is a kernel's memory: one piece, and nothing else can be read.
type arena struct {
	data []byte
	free uint64 // from here on
	read int    // how often
}

// ReadMemory implements kernel.Memory.
func (a *arena) ReadMemory(p []byte, address uint64) error {
	a.read++
	if address < base || address-base+uint64(len(p)) > uint64(len(a.data)) {
		return errors.New("no memory there")
	}
	copy(p, a.data[address-base:])
	return nil
}

// at is the bytes from an address on.
func (a *arena) at(address uint64) []byte { return a.data[address-base:] }

// write does what the kernel module does in the stop.
func (a *arena) write(sets []engine.Piece) {
	for _, s := range sets {
		copy(a.at(s.Address), s.Bytes)
	}
}

// word writes a pointer.
func (a *arena) word(address, v uint64) { order.PutUint64(a.at(address), v) }

// world is a running kernel with one update.
type world struct {
	testing.TB
	arena
	before, after update.Layouts
	bound         *transfer.Bound
	session       *transfer.Session
	root          uint64
	items         map[uint64]uint64 // by id
}

// The places of per-CPU variables, as offsets, and the CPUs' own.
const (
	statOffset  = 0x100
	statsOffset = 0x200
	cpu0        = base + 0x10000
	cpu2        = base + 0x11000
)

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{TB: t, arena: arena{data: make([]byte, 0x20000), free: base + 0x240}, items: map[uint64]uint64{}}
	w.before, w.after = layouts(t)
	w.root = w.alloc("struct root", 1)
	w.free += 64 // of root.open
	w.bound = &transfer.Bound{
		Transfer: update.Transfer{Item: "transfer:test:it", Plugin: "test", Data: []byte("data"), Before: w.before, After: w.after,
			Globals: []update.Global{{Name: "root", Type: "struct root"}, {Name: "stat", Type: "struct cpu_stat", PerCPU: true},
				{Name: "subject", Type: "struct subject"}, {Name: "current_item", Type: "struct item *", PerCPU: true}}},
		Addresses: []uint64{w.root, statOffset, w.alloc("struct subject", 1), statOffset + 8},
		CPUs:      []kernel.CPU{{Number: 0, Offset: cpu0}, {Number: 2, Offset: cpu2}},
	}
	w.session = transfer.New(&w.arena)
	return w
}

// alloc takes memory for objects that lie one behind the other.
func (w *world) alloc(typ string, n uint64) uint64 {
	w.Helper()
	size := w.before[typ].Size
	if size == 0 {
		w.Fatalf("%s is not described", typ)
	}
	at := w.free
	if w.free = (at + n*size + 47) &^ 15; w.free > cpu0 {
		w.Fatal("no memory is free")
	}
	return at
}

var steps = regexp.MustCompile(`\w+|\[\d+\]`)

// member is where a member lies in a type.
func (w *world) member(l update.Layouts, typ, path string) (at uint64, m update.LayoutMember) {
	w.Helper()
	m.Type = typ
	for _, s := range steps.FindAllString(path, -1) {
		if n, err := strconv.ParseUint(strings.Trim(s, "[]"), 10, 32); err == nil {
			m.Type = l[m.Type].Of
			at += n * l[m.Type].Size
			continue
		}
		i := slices.IndexFunc(l[m.Type].Members, func(m update.LayoutMember) bool { return m.Name == s })
		if i < 0 {
			w.Fatalf("%s has no %s", m.Type, s)
		}
		m = l[m.Type].Members[i]
		at += m.Offset
	}
	return at, m
}

// offset is that of a member before the patch.
func (w *world) offset(typ, path string) uint64 {
	w.Helper()
	at, _ := w.member(w.before, typ, path)
	return at
}

// put writes a member that is a number or a pointer; of a bit field only its bits.
func (w *world) put(address uint64, typ, path string, v uint64) {
	w.Helper()
	at, m := w.member(w.before, typ, path)
	b := w.at(address + at)
	for i := range m.Bits {
		k, bit := (m.Bit+i)/8, byte(1)<<((m.Bit+i)%8)
		if b[k] &^= bit; v>>i&1 == 1 {
			b[k] |= bit
		}
	}
	if m.Bits > 0 {
		return
	}
	switch w.before[m.Type].Size {
	case 1:
		b[0] = byte(v)
	case 2:
		order.PutUint16(b, uint16(v))
	case 4:
		order.PutUint32(b, uint32(v))
	case 8:
		order.PutUint64(b, v)
	default:
		w.Fatalf("%s of %s is no number", path, typ)
	}
}

// item is the one with an id.
func (w *world) item(id uint64) uint64 {
	w.Helper()
	if w.items[id] == 0 {
		w.itemAt(id, w.alloc("struct item", 1))
	}
	return w.items[id]
}

func (w *world) itemAt(id, address uint64) {
	w.Helper()
	w.items[id] = address
	w.put(address, "struct item", "id", id)
}

// hang makes a list of items: head, a member of root, leads to the first one's member link, that to the next one's, the last to end.
func (w *world) hang(head, link string, end uint64, ids ...uint64) {
	w.Helper()
	at := w.root + w.offset("struct root", head)
	for _, id := range ids {
		next := w.item(id) + w.offset("struct item", link)
		w.word(at, next)
		at = next
	}
	w.word(at, end)
}

// list is hang for a ring.
func (w *world) list(head string, ids ...uint64) {
	w.Helper()
	w.hang(head, "list", w.root+w.offset("struct root", head), ids...)
}

// tree makes a balanced tree of the ids, which are in order, and returns its topmost node.
func (w *world) tree(ids ...uint64) uint64 {
	w.Helper()
	if len(ids) == 0 {
		return 0
	}
	k := len(ids) / 2
	x := w.item(ids[k])
	w.put(x, "struct item", "tree.rb_left", w.tree(ids[:k]...))
	w.put(x, "struct item", "tree.rb_right", w.tree(ids[k+1:]...))
	return x + w.offset("struct item", "tree")
}

// node makes a node of an XArray and returns the entry that leads to it.
func (w *world) node(shift uint64, slots map[uint64]uint64) uint64 {
	w.Helper()
	x := w.alloc("struct xa_node", 1)
	w.put(x, "struct xa_node", "shift", shift)
	for i, e := range slots {
		w.put(x, "struct xa_node", fmt.Sprintf("slots[%d]", i), e)
	}
	return x | 2
}

// plug is a plugin whose Transfer is a function.
type plug struct {
	transform.Unimplemented
	transfer func(ctx context.Context, req *transform.TransferRequest, s transform.State) (*transform.TransferResponse, error)
}

var _ transform.Transform = (*plug)(nil)

// Info implements plugin.Base.
func (p *plug) Info(context.Context) (*plugin.Info, error) { return &plugin.Info{}, nil }

// Transfer implements transform.Transform.
func (p *plug) Transfer(ctx context.Context, req *transform.TransferRequest, s transform.State) (*transform.TransferResponse, error) {
	return p.transfer(ctx, req, s)
}

// run runs a transfer of one walk, whose objects change says what to do with; nil: nothing.
func (w *world) run(undo bool, walk *transform.Walk, change func(found []transform.Object) transform.TransferResponse) error {
	p := &plug{transfer: func(ctx context.Context, _ *transform.TransferRequest, s transform.State) (*transform.TransferResponse, error) {
		found, err := s.Walk(ctx, walk)
		if err != nil {
			return nil, err
		}
		resp := &transform.TransferResponse{}
		if change != nil {
			*resp = change(found)
		}
		return resp, nil
	}}
	return w.session.Run(w.Context(), w.bound, p, undo)
}

// walk is what a walk finds.
func (w *world) walk(walk *transform.Walk) ([]transform.Object, error) {
	var out []transform.Object
	err := w.run(false, walk, func(found []transform.Object) transform.TransferResponse {
		out = found
		return transform.TransferResponse{}
	})
	return out, err
}

// find is walk where nothing may go wrong.
func (w *world) find(walk *transform.Walk) []transform.Object {
	w.Helper()
	out, err := w.walk(walk)
	if err != nil {
		w.Fatal(err)
	}
	return out
}

// changes is what the kernel module is given.
func (w *world) changes() *engine.Transfer {
	w.Helper()
	x, err := w.session.Changes()
	if err != nil {
		w.Fatal(err)
	}
	return x
}

// show writes objects by their first value: "TYPE:1#INDEX<FROM", without the type for items, without an index or from that is 0.
func (w *world) show(found []transform.Object) string {
	w.Helper()
	var out []string
	for _, o := range found {
		text := fmt.Sprint(o.Values[0].Int())
		if o.Type != "struct item" {
			text = o.Type + ":" + text
		} else if at := w.items[o.Values[0].Number]; o.Address != at {
			w.Errorf("item %s is at %#x, want %#x", text, o.Address, at)
		}
		if o.Index != 0 {
			text += fmt.Sprintf("#%d", o.Index)
		}
		if o.From != 0 {
			text += fmt.Sprintf("<%d", o.From)
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

// refused checks that an error says something, and is no MovedError.
func refused(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one that says %q", words)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
	if m := new(transfer.MovedError); errors.As(err, &m) {
		t.Errorf("%v is a MovedError", err)
	}
}

// moved checks that an error is a MovedError, and says something.
func moved(t testing.TB, err error, words ...string) *transfer.MovedError {
	t.Helper()
	m := new(transfer.MovedError)
	if !errors.As(err, &m) {
		t.Errorf("%v is no MovedError", err)
		return m
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
	return m
}
