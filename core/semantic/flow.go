package semantic

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// declared is a function that takes or returns pointers to a structure.
type declared struct {
	returns bool
	// takes says which parameters are pointers to it, params what the definition calls all of them.
	takes  []bool
	params []string
}

// declaration is a line of -aux-info: whether it is a definition, and the declaration. Names of parameters follow in another comment.
var declaration = regexp.MustCompile(`^/\* .*:\d+:[A-Z]([CF]) \*/ ([^;]*);`)

// staticFunction is the only form of declaration that is understood, where the structure is among the types.
var staticFunction = regexp.MustCompile(`^static (?:inline )?([^()]*?)(\w+) \(([^()]*)\)$`)

// signaturesWith reads how functions are declared that have to do with a structure. One that others could call, or that others define, is
// an error.
func signaturesWith(list []byte, tag string) (map[string]*declared, error) {
	mention := regexp.MustCompile(`\bstruct ` + regexp.QuoteMeta(tag) + `\b`)
	plain := regexp.MustCompile(`^(?:(?:const|volatile) )*struct ` + regexp.QuoteMeta(tag) + ` \*(?:(?:const|volatile|restrict) ?)*(\w*)$`)
	last := regexp.MustCompile(`\w+$`)
	m := map[string]*declared{}
	for line := range strings.Lines(string(list)) {
		if !mention.MatchString(line) {
			continue
		}
		d := declaration.FindStringSubmatch(line)
		if d == nil {
			return nil, fmt.Errorf("a declaration is not understood: %s", line)
		}
		f := staticFunction.FindStringSubmatch(d[2])
		if f == nil {
			return nil, fmt.Errorf("others may call it, or the declaration is not understood: %s", d[2])
		}
		result := strings.TrimSpace(f[1])
		x := &declared{returns: mention.MatchString(result)}
		if n := plain.FindStringSubmatch(result); x.returns && (n == nil || n[1] != "") {
			return nil, fmt.Errorf("it returns more than a pointer: %s", d[2])
		}
		for _, p := range strings.Split(f[3], ", ") {
			takes := mention.MatchString(p)
			if takes && !plain.MatchString(p) {
				return nil, fmt.Errorf("it takes more than a pointer: %s", d[2])
			}
			x.takes, x.params = append(x.takes, takes), append(x.params, last.FindString(p))
		}
		if m[f[2]] == nil || d[1] == "F" {
			m[f[2]] = x
		}
	}
	return m, nil
}

// node is the first line of what gcc's call graph says of a symbol.
var node = regexp.MustCompile(`^([^ /]+)/\d+ \(`)

// table is what the graph says once all functions are known that anything leads to, and before unreachable ones are taken out.
var table = regexp.MustCompile(`(?s)Initial Symbol table:\n(.*?)(?:Removing unused symbols|\w+ Symbol table):`)

// calledByName looks in gcc's call graph, before anything is optimised: nothing refers to the functions but calls.
func calledByName(graph []byte, functions map[string]*declared) error {
	first := table.FindSubmatch(graph)
	if first == nil {
		return errors.New("the call graph is not understood")
	}
	found := map[string]bool{}
	of := ""
	for line := range strings.Lines(string(first[1])) {
		if n := node.FindStringSubmatch(line); n != nil {
			if of = ""; functions[n[1]] != nil {
				of = n[1]
				found[of] = true
			}
			continue
		}
		if of == "" {
			continue
		}
		line = strings.TrimSpace(line)
		good := true
		switch name, value, _ := strings.Cut(line, ":"); name {
		case "Visibility":
			good = value == " semantic_interposition"
		case "Referring":
			good = value == ""
		case "Address is taken.":
			good = false
		}
		if !good {
			return fmt.Errorf("%s is not only called by name: %s", of, line)
		}
	}
	for name := range functions {
		if !found[name] {
			return fmt.Errorf("the call graph does not have %s", name)
		}
	}
	return nil
}

// proof follows pointers to a structure through the functions of a unit.
type proof struct {
	tag        string
	size       int64
	signatures map[string]*declared
}

// heading begins each function in gcc's dump.
var heading = regexp.MustCompile(`(?m)^;; Function (\S+) \(.*\)\n;; enabled by -tree-original\n`)

// flows looks at all functions, and names those that have to do with the structure.
func (p *proof) flows(dump []byte) (map[string]bool, error) {
	if bytes.Contains(dump, []byte("VA_ARG_EXPR")) {
		return nil, errors.New("a function takes arguments without a type")
	}
	concerned := map[string]bool{}
	words := []string{"struct " + p.tag}
	for name := range p.signatures {
		words = append(words, name)
	}
	at := heading.FindAllSubmatchIndex(dump, -1)
	for i, m := range at {
		end := len(dump)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		name, body := string(dump[m[2]:m[3]]), string(dump[m[1]:end])
		if p.signatures[name] == nil && !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(body, w) }) {
			continue
		}
		f, err := newFlow(p, name, body)
		if err == nil {
			err = f.check()
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if f.concerned {
			concerned[name] = true
		}
	}
	return concerned, nil
}

// flow is one function of the dump, in tokens.
type flow struct {
	*proof
	self   *declared // nil: it neither takes nor returns pointers to the structure
	tokens []string
	// pointers and objects are variables by name; wide are those of them that mean the same everywhere in the function.
	pointers, objects, wide map[string]bool
	// done are the tokens that are understood; initialised are names of pointers with a value in their declarations.
	done, initialised []bool
	concerned         bool
}

var (
	// remark is a line of the dump that is no code.
	remark     = regexp.MustCompile(`(?m)^\s*(# DEBUG BEGIN STMT;|// predicted (un)?likely by [^;"]*;)$`)
	lexeme     = regexp.MustCompile(`^(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|D\.\d+|[A-Za-z_]\w*|\d\w*|->|==|!=|[-+*/%&|^~!<>=?:;,.(){}\[\]])`)
	identifier = regexp.MustCompile(`^[A-Za-z_]\w*$`)
)

func newFlow(p *proof, name, body string) (*flow, error) {
	f := &flow{proof: p, self: p.signatures[name], pointers: map[string]bool{}, objects: map[string]bool{}, wide: map[string]bool{}}
	body = strings.TrimSpace(remark.ReplaceAllString(body, ""))
	for body != "" {
		n := len(lexeme.FindString(body))
		if n == 0 {
			return nil, fmt.Errorf("the dump is not understood at %.40q", body)
		}
		f.tokens = append(f.tokens, body[:n])
		body = strings.TrimLeft(body[n:], " \t\n")
	}
	f.done, f.initialised = make([]bool, len(f.tokens)), make([]bool, len(f.tokens))
	if f.self != nil {
		f.concerned = true
		for i, takes := range f.self.takes {
			if takes {
				f.pointers[f.self.params[i]], f.wide[f.self.params[i]] = true, true
			}
		}
	}
	return f, f.declarations()
}

// at is a token; "" is outside of the function.
func (f *flow) at(i int) string {
	if i < 0 || i >= len(f.tokens) {
		return ""
	}
	return f.tokens[i]
}

// is says that the tokens from i on are those of a text, which has blanks between them.
func (f *flow) is(i int, text string) bool {
	for t := range strings.FieldsSeq(text) {
		if f.at(i) != t {
			return false
		}
		i++
	}
	return true
}

// after is the place behind a text that begins at i; -1: another text does, or i is -1.
func (f *flow) after(i int, text string) int {
	if i < 0 || !f.is(i, text) {
		return -1
	}
	return i + len(strings.Fields(text))
}

// one says that a token is one of those of a text.
func (f *flow) one(i int, of string) bool {
	for t := range strings.FieldsSeq(of) {
		if f.at(i) == t {
			return true
		}
	}
	return false
}

// begins says that a statement or a declaration begins at i.
func (f *flow) begins(i int) bool { return f.one(i-1, "; { }") }

// understood marks the tokens from first to before end, and returns end.
func (f *flow) understood(first, end int) int {
	for i := first; i < end; i++ {
		f.done[i] = true
	}
	return end
}

// qualified skips qualifiers.
func (f *flow) qualified(i int) int {
	for f.one(i, "const volatile restrict") {
		i++
	}
	return i
}

// object is the place behind the type T; -1: it is another type.
func (f *flow) object(i int) int {
	if i = f.after(f.qualified(i), "struct "+f.tag); i >= 0 {
		i = f.qualified(i)
	}
	return i
}

// pointer is the place behind the type T *; -1: it is another type.
func (f *flow) pointer(i int) int {
	if i = f.after(f.object(i), "*"); i >= 0 {
		i = f.qualified(i)
	}
	return i
}

// declarations finds the variables.
func (f *flow) declarations() error {
	depth := 0
	for i, t := range f.tokens {
		switch t {
		case "{":
			depth++
		case "}":
			// There must be one outermost block, which has all uses of its variables in it.
			if depth--; depth <= 0 && i+1 < len(f.tokens) {
				return errors.New("the dump has more than one block")
			}
		}
		if !f.begins(i) {
			continue
		}
		name, names := f.pointer(i), f.pointers
		if name < 0 {
			name, names = f.object(i), f.objects
		}
		if name < 0 || !identifier.MatchString(f.at(name)) || !f.one(name+1, "; =") {
			continue
		}
		f.concerned = true
		names[f.at(name)] = true
		if depth == 1 {
			f.wide[f.at(name)] = true
		}
		f.understood(i, name)
		f.initialised[name] = f.at(name+1) == "=" && f.pointers[f.at(name)]
		f.done[name] = !f.initialised[name]
	}
	if depth != 0 {
		return errors.New("the dump ends early")
	}
	return nil
}

// releases are functions that do not keep what they are given, a const void *.
const releases = "kfree kvfree kfree_sensitive IS_ERR IS_ERR_OR_NULL PTR_ERR"

// check refuses whatever has to do with the structure and is not understood.
func (f *flow) check() error {
	for i, t := range f.tokens {
		if f.done[i] || f.one(i-1, "-> . struct union enum") { // the latter are members and tags
			continue
		}
		good := true
		switch {
		case t == "struct" && f.at(i+1) == f.tag:
			good = false
		case t == "return" && f.self != nil && f.self.returns:
			good = f.at(f.value(i+1)) == ";"
		case f.objects[t]:
			f.concerned = true
			good = f.at(i+1) == "." && !f.addressed(i)
		case f.pointers[t]:
			f.concerned = true
			good = f.used(i)
		case f.signatures[t] != nil:
			f.concerned = true
			good = !f.signatures[t].returns && f.call(i) >= 0
		case f.one(i, releases) && f.is(i+1, "( ( const void * )"):
			f.value(i + 7)
		}
		if !good {
			return fmt.Errorf("not known to be harmless: %.200s", strings.Join(f.tokens[max(i-8, 0):min(i+9, len(f.tokens))], " "))
		}
	}
	return nil
}

// used says that a pointer at i is used in one of the ways that keep it what it is.
func (f *flow) used(i int) bool {
	switch f.at(i + 1) {
	case "->":
		return !f.addressed(i)
	case "==", "!=":
		return true
	case "=":
		n := f.value(i + 2)
		if f.begins(i) || f.initialised[i] {
			return f.at(n) == ";"
		}
		// (p = value) == 0B
		return f.at(i-1) == "(" && f.one(i-2, "( & | = !") && f.at(n) == ")" && f.one(n+1, "== !=") && f.at(n+2) == "0B"
	}
	return false
}

// addressed says that the variable at i may stand for the address of a member: &p->a, but not &p->a->b, whose place is elsewhere, nor n & p->a.
func (f *flow) addressed(i int) bool {
	if f.at(i-1) != "&" || f.number(i-2) >= 0 || identifier.MatchString(f.at(i-2)) && f.at(i-2) != "return" || f.at(i-2) == "]" {
		return false
	}
	for i += 3; i < len(f.tokens); i++ {
		switch f.tokens[i] {
		case "->":
			return false
		case ".":
			i++
		default:
			return true
		}
	}
	return true
}

// value is the place behind a T * that is one of the known kinds; -1: it is something else. What follows is for the caller to check: an
// operator would make something else of it.
func (f *flow) value(i int) int {
	switch t := f.at(i); {
	case t == "0B":
		return i + 1
	case f.pointers[t] && f.at(i+1) != "->": // which leads to a member
		return f.understood(i, i+1)
	case t == "&" && f.objects[f.at(i+1)]:
		return f.understood(i, i+2)
	case t == "(":
		return f.cast(i)
	case f.signatures[t] != nil && f.signatures[t].returns:
		return f.call(i)
	}
	return -1
}

// cast is value for a conversion: of a T * to one with other qualifiers, or of fresh memory.
func (f *flow) cast(i int) int {
	from := f.after(f.pointer(i+1), ")")
	if from < 0 {
		return -1
	}
	end := from + 1
	switch {
	case f.pointers[f.at(from)] && f.wide[f.at(from)]:
	case f.at(from) == "&" && f.objects[f.at(from+1)] && f.wide[f.at(from+1)]:
		end = from + 2
	default:
		if end = f.fresh(from); end >= 0 {
			f.understood(i, from) // the allocator's arguments are looked at like others
		}
		return end
	}
	return f.understood(i, end)
}

// fresh is the place behind an expression that gives memory which nobody else knows, an error's number, or NULL.
func (f *flow) fresh(i int) int {
	if f.is(i, "ERR_PTR ( -") && f.number(i+3) > 0 {
		return f.after(i+4, ")")
	}
	if f.at(i) != "TARGET_EXPR" {
		return f.allocation(i)
	}
	// include/linux/alloc_tag.h:alloc_hooks, without CONFIG_MEM_ALLOC_PROFILING. gcc prints declarations twice.
	result := f.at(i + 2)
	i = f.after(i, "TARGET_EXPR < "+result+" , {")
	for range 2 {
		i = f.after(f.allocation(f.after(i, "struct alloc_tag * _old = 0B ; void * _res =")), ";")
	}
	return f.after(i, "{ } "+result+" = _res ; } >")
}

// allocators are the kernel's whose first argument is how much they allocate, a second one how.
var allocators = []string{"kmalloc", "kzalloc", "kvmalloc", "kvzalloc"}

// allocation is the place behind a call of an allocator for an object: a size that the compiler knows is no size of somebody else's, who
// may have kept it from before.
func (f *flow) allocation(i int) int {
	if i < 0 || !slices.Contains(allocators, strings.TrimSuffix(f.at(i), "_noprof")) || f.at(i+1) != "(" || f.number(i+2) < f.size || f.at(i+3) != "," {
		return -1
	}
	return f.after(f.argument(i+4), ")")
}

// number is a token's value; -1: it is no number.
func (f *flow) number(i int) int64 {
	if n, err := strconv.ParseInt(f.at(i), 10, 64); err == nil {
		return n
	}
	return -1
}

// call is the place behind a call of one of the functions by its name, with pointers where it takes some; -1: it is something else.
func (f *flow) call(i int) int {
	next := f.after(i+1, "(")
	for n, takes := range f.signatures[f.at(i)].takes {
		if n > 0 {
			next = f.after(next, ",")
		}
		if next < 0 {
			return -1
		}
		if takes {
			next = f.value(next)
		} else {
			next = f.argument(next)
		}
	}
	if next = f.after(next, ")"); next >= 0 {
		f.done[i] = true
	}
	return next
}

// argument is the place behind one argument of a call. It is taken to end early where gcc prints a comma that is none between arguments:
// what follows that comma is no value.
func (f *flow) argument(i int) int {
	for depth := 0; i < len(f.tokens); i++ {
		switch {
		case f.one(i, "( [ {"):
			depth++
		case depth == 0 && f.one(i, ", )"):
			return i
		case f.one(i, ") ] }"):
			depth--
		case depth == 0 && f.is(i, "TARGET_EXPR <") && f.is(i+3, ", {"):
			i += 3 // the comma is none between arguments
		}
	}
	return -1
}
