package patch

import "slices"

// maxEdits bounds the work of align: files that differ in more lines are taken to have nothing in common
// between their first and their last difference.
const maxEdits = 2000

// align returns for each line of after the line of before that it is, -1 for new lines. It finds the fewest insertions
// and deletions (E. Myers, "An O(ND) Difference Algorithm and Its Variations", 1986).
func align(before, after []string) []int {
	match := make([]int, len(after))
	head := 0
	for head < len(before) && head < len(after) && before[head] == after[head] {
		match[head] = head
		head++
	}
	tail := 0
	for tail < len(before)-head && tail < len(after)-head && before[len(before)-1-tail] == after[len(after)-1-tail] {
		tail++
		match[len(after)-tail] = len(before) - tail
	}
	a, b := before[head:len(before)-tail], after[head:len(after)-tail]
	for j := range b {
		match[head+j] = -1
	}
	for _, p := range shortestEdit(a, b) {
		match[head+p.after] = head + p.before
	}
	return match
}

// pair is a line that both files have.
type pair struct{ before, after int }

// shortestEdit returns the lines that a and b have in common, last first; nothing if they differ in more than maxEdits lines.
func shortestEdit(a, b []string) []pair {
	limit := min(len(a)+len(b), maxEdits)
	// reach[k+limit] is how far in a the best path on diagonal k = x-y has come; trace keeps it for each number of edits.
	reach := make([]int, 2*limit+2)
	var trace [][]int
	for d := 0; d <= limit; d++ {
		trace = append(trace, slices.Clone(reach[limit-d:limit+d+2]))
		for k := -d; k <= d; k += 2 {
			x := 0
			if k == -d || k != d && reach[limit+k-1] < reach[limit+k+1] {
				x = reach[limit+k+1]
			} else {
				x = reach[limit+k-1] + 1
			}
			for x < len(a) && x-k < len(b) && a[x] == b[x-k] {
				x++
			}
			reach[limit+k] = x
			if x >= len(a) && x-k >= len(b) {
				return backtrack(trace, len(a), len(b))
			}
		}
	}
	return nil
}

// backtrack walks the best path back from its end. trace[d] holds how far each diagonal from -d to d+1 had come before edit d.
func backtrack(trace [][]int, x, y int) []pair {
	var common []pair
	for d := len(trace) - 1; d >= 0; d-- {
		v, k := trace[d], x-y
		from := k - 1
		if k == -d || k != d && v[d+k-1] < v[d+k+1] {
			from = k + 1
		}
		fromX := v[d+from]
		fromY := fromX - from
		for x > fromX && y > fromY && x > 0 && y > 0 {
			x, y = x-1, y-1
			common = append(common, pair{x, y})
		}
		x, y = fromX, fromY
	}
	return common
}
