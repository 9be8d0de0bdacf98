package objfile

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
)

// stringTable is the content of a table of names (SHT_STRTAB).
type stringTable struct {
	text string
	// ends are the offsets of all NULs: names may share their tails, and looking for the end of each by itself
	// would take quadratic time in a table made to do harm.
	ends []int
}

func newStrings(b []byte) *stringTable {
	t := &stringTable{text: string(b)}
	for i, c := range b {
		if c == 0 {
			t.ends = append(t.ends, i)
		}
	}
	return t
}

// at returns the name at an offset. An empty table has the empty name at 0.
func (t *stringTable) at(offset uint32) (string, bool) {
	if offset == 0 && t.text == "" {
		return "", true
	}
	i := sort.SearchInts(t.ends, int(offset))
	if i == len(t.ends) {
		return "", false
	}
	return t.text[offset:t.ends[i]], true
}

// name is a name that a table is to hold, and where it was in the table as read.
type name struct {
	text string
	was  uint32
}

// holds says whether all names are still where they were.
func (t *stringTable) holds(names []name) bool {
	for _, n := range names {
		if text, ok := t.at(n.was); !ok || text != n.text {
			return false
		}
	}
	return true
}

// makeStrings lays names out, a name that ends another sharing its tail, and returns the table with the
// offset of each name. The same set of names gives the same table.
func makeStrings(names []name) ([]byte, map[string]uint32, error) {
	offsets := map[string]uint32{"": 0}
	sorted := make([]string, 0, len(names))
	for _, n := range names {
		if strings.IndexByte(n.text, 0) >= 0 {
			return nil, nil, fmt.Errorf("name %q holds a NUL", n.text)
		}
		if n.text != "" {
			sorted = append(sorted, n.text)
		}
	}
	// Sorted by their reverse, longest first among those that share a tail: each name is either the tail of the
	// one before it or of none.
	slices.SortFunc(sorted, func(a, b string) int { return compareReverse(b, a) })
	sorted = slices.Compact(sorted)
	table := []byte{0}
	last := ""
	for _, s := range sorted {
		if strings.HasSuffix(last, s) {
			offsets[s] = offsets[last] + uint32(len(last)-len(s))
			continue
		}
		if uint64(len(table))+uint64(len(s)) >= math.MaxUint32 {
			return nil, nil, fmt.Errorf("%d names do not fit a table of 4 GiB", len(sorted))
		}
		offsets[s] = uint32(len(table))
		table = append(append(table, s...), 0)
		last = s
	}
	return table, offsets, nil
}

// compareReverse compares two strings read from their ends.
func compareReverse(a, b string) int {
	for i, j := len(a)-1, len(b)-1; i >= 0 && j >= 0; i, j = i-1, j-1 {
		if a[i] != b[j] {
			return int(a[i]) - int(b[j])
		}
	}
	return len(a) - len(b)
}
