package semantic

import (
	"fmt"
	"testing"
)

func TestFields(t *testing.T) {
	object := object(t, "fields", `
typedef struct { int counter; } atomic_t;
struct list_head { struct list_head *next, *prev; };
struct op { char mode; int (*call)(int); };
struct ops { const char *name; struct op op[3]; unsigned low : 3, high : 9; atomic_t users; struct list_head link; union { long whole; char bytes[2]; }; short grid[2][3]; };
struct ops ops = { "a", {}, 1 };
static int plain = 3;
int *use(void); int *use(void) { return &plain; }
`)
	for _, c := range []struct {
		symbol string
		at     []uint64
		want   string
	}{
		{"ops", []uint64{0}, "[{.name char * struct ops 0 8}]"},
		{"ops", []uint64{3, 7, 0}, "[{.name char * struct ops 0 8}]"},
		{"ops", []uint64{24, 8}, "[{.op[0].mode char struct op 8 1} {.op[1].mode char struct op 24 1}]"},
		{"ops", []uint64{33}, "[{.op[1].call function * struct op 32 8}]"},
		{"ops", []uint64{57}, "[{.high unsigned int struct ops 56 2}]"},
		{"ops", []uint64{60}, "[{.users.counter int struct atomic_t 60 4}]"},
		{"ops", []uint64{72}, "[{.link.prev struct list_head * struct list_head 72 8}]"},
		{"ops", []uint64{81}, "[{.whole long int struct ops 80 8}]"},
		{"ops", []uint64{96}, "[{.grid[1][1] short int struct ops 96 2}]"},
		{"plain", []uint64{1}, "[{ int  0 4}]"},
	} {
		got, ok, err := Fields(object, c.symbol, c.at)
		if text := fmt.Sprint(got); !ok || err != nil || text != c.want {
			t.Errorf("%s at %d: %s, %v, %v; want %s", c.symbol, c.at, text, ok, err, c.want)
		}
	}
	for symbol, at := range map[string]uint64{"ops": 9, "plain": 4, "nobody": 0} { // padding, beyond, not there
		if got, ok, err := Fields(object, symbol, []uint64{at}); ok || err != nil {
			t.Errorf("%s at %d: %v, %v, %v; want nothing", symbol, at, got, ok, err)
		}
	}
}
