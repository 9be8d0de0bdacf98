// Package csource compares the preprocessed C of one unit before and after a patch, and proves where it can that the unit needs no new
// code. The create pipeline calls it for the units that include a patched header.
//
// The proof is C's, not that of a compiler: a static function that nothing in its unit refers to has no meaning. Where two texts are the
// same but for such functions, any right translation of the one is a right translation of the other; so is the code that runs. What
// may give an unreferred function a meaning after all keeps it among the rest, which must be the same token by token: attributes (used,
// section, constructor ...) but those that are known to be harmless, declarations that could reach beyond it, pragmas. A function is
// referred to where its name is any word of the rest, of string constants and pragmas, too (assembly calls by name, #pragma weak), or
// of a function that is referred to itself.
package csource

import (
	"bytes"
	"strings"
)

// Same says that the unit whose preprocessed texts (gcc -E -P) these are needs no other code after the patch than it has. false says
// nothing.
func Same(pre, post []byte) bool {
	for _, s := range [][]byte{pre, post} {
		// Files that only the assembler reads, and lines that are in no text.
		if bytes.Contains(s, []byte(".incbin")) || bytes.Contains(s, []byte("__builtin_LINE")) || bytes.HasPrefix(s, []byte("\x7fELF")) {
			return false
		}
	}
	if bytes.Equal(pre, post) {
		return true
	}
	a, ok := parse(pre)
	if !ok {
		return false
	}
	b, ok := parse(post)
	return ok && sameMeaning(a, b)
}

// SameText says it of assembly, whose text is all there is.
func SameText(pre, post []byte) bool {
	return bytes.Equal(pre, post) && !bytes.Contains(pre, []byte(".incbin"))
}

// function is a static function that may be without meaning.
type function struct {
	name         string
	head, tokens []token // head: up to its body
	live         bool
}

// item is an external declaration or a run of tokens of several.
type item struct {
	tokens   []token
	function *function // nil: it means something in any case
}

type unit struct {
	items     []item
	functions map[string]*function
}

func parse(source []byte) (*unit, bool) {
	tokens, ok := lex(source)
	if !ok {
		return nil, false
	}
	u := &unit{functions: map[string]*function{}}
	for rest := tokens; len(rest) > 0; {
		n, f := external(rest)
		u.items = append(u.items, item{rest[:n], f})
		rest = rest[n:]
		if f == nil {
			continue
		}
		if u.functions[f.name] != nil {
			return nil, false // defined twice: this is no C
		}
		u.functions[f.name] = f
	}
	u.trace()
	return u, true
}

// notNames are words before a parenthesis that are no function's name.
var notNames = map[string]bool{"__attribute__": true, "__attribute": true, "typeof": true, "__typeof__": true, "__typeof": true, "_Alignas": true,
	"__asm__": true, "__asm": true, "asm": true, "__extension__": true, "_Static_assert": true, "static_assert": true}

// external finds the end of the external declaration at the beginning, and the static function that it is, if it may be without meaning.
func external(tokens []token) (n int, f *function) {
	depth, name, body := 0, "", -1
	initialised, static := false, false
	for i, t := range tokens {
		if t.kind == directive && depth == 0 && i == 0 {
			return 1, nil
		}
		if t.kind == word && depth == 0 && body < 0 {
			static = static || t.is("static")
			continue
		}
		if t.kind != punctuation {
			continue
		}
		switch t.b[0] {
		case '(', '[':
			if depth == 0 && t.b[0] == '(' && name == "" && i > 0 && tokens[i-1].kind == word && !notNames[string(tokens[i-1].b)] {
				name = string(tokens[i-1].b)
			}
			depth++
		case '{':
			if depth == 0 && body < 0 {
				body = i
			}
			depth++
		case ')', ']':
			depth--
		case '}':
			depth--
			// The first braces after a parameter list are a function's body; others belong to a type or an initialiser, and the declaration
			// goes on.
			if depth == 0 && body >= 0 && name != "" && !initialised && before(tokens[:body], name) {
				f := &function{name: name, head: tokens[:body], tokens: tokens[:i+1]}
				if !static || !harmlessHead(f.head) || !harmlessBody(tokens[body:i+1]) {
					f = nil
				}
				return i + 1, f
			}
		case ';':
			if depth == 0 {
				return i + 1, nil
			}
		case '=':
			initialised = initialised || depth == 0
		}
		if depth < 0 {
			return i + 1, nil
		}
	}
	return len(tokens), nil
}

// before says that a function's name is among the tokens.
func before(tokens []token, name string) bool {
	for _, t := range tokens {
		if t.is(name) {
			return true
		}
	}
	return false
}

// trace finds the functions that are referred to.
func (u *unit) trace() {
	var todo []*function
	refer := func(name string) {
		if f := u.functions[name]; f != nil && !f.live {
			f.live = true
			todo = append(todo, f)
		}
	}
	scan := func(list []token) {
		for i := 0; i < len(list); i++ {
			switch list[i].kind {
			case word:
				if f := u.functions[string(list[i].b)]; f != nil { // no string is made of it
					refer(f.name)
				}
			case text:
				n := i + 1
				for n < len(list) && list[n].kind == text {
					n++
				}
				words(list[i:n], refer)
				i = n - 1
			case directive:
				words(list[i:i+1], refer)
			case punctuation:
			}
		}
	}
	for _, it := range u.items {
		if it.function == nil {
			scan(it.tokens)
		}
	}
	for len(todo) > 0 {
		f := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		scan(f.tokens)
	}
}

// sameMeaning compares what means something.
func sameMeaning(a, b *unit) bool {
	i, j := 0, 0
	var ta, tb []token
	for {
		ta, i = a.next(ta, i)
		tb, j = b.next(tb, j)
		if len(ta) == 0 || len(tb) == 0 {
			break
		}
		n := min(len(ta), len(tb))
		for k := range n {
			if ta[k].kind != tb[k].kind || !bytes.Equal(ta[k].b, tb[k].b) {
				return false
			}
		}
		ta, tb = ta[n:], tb[n:]
	}
	return len(ta) == 0 && len(tb) == 0 && a.tagsKnown(b) && b.tagsKnown(a)
}

// next gives what is left of an item's tokens, or those of the next one that means something; none at the end.
func (u *unit) next(left []token, i int) ([]token, int) {
	for len(left) == 0 && i < len(u.items) {
		if f := u.items[i].function; f == nil || f.live {
			left = u.items[i].tokens
		}
		i++
	}
	return left, i
}

// tagsKnown says that functions without meaning of u that other does not have with the same head name no type there first: it would be
// another one for what follows.
func (u *unit) tagsKnown(other *unit) bool {
	var known map[string]bool
	for _, f := range u.functions {
		if f.live || other.functions[f.name] != nil && sameTokens(f.head, other.functions[f.name].head) {
			continue
		}
		for i, t := range f.head {
			if !t.is("struct") && !t.is("union") && !t.is("enum") {
				continue
			}
			if known == nil {
				known = u.tags()
			}
			if i+1 == len(f.head) || !known[string(f.head[i+1].b)] {
				return false
			}
		}
	}
	return true
}

// tags are the tags in what means something.
func (u *unit) tags() map[string]bool {
	tags := map[string]bool{}
	for _, it := range u.items {
		if it.function != nil {
			continue
		}
		for i, t := range it.tokens[:len(it.tokens)-1] {
			if t.is("struct") || t.is("union") || t.is("enum") {
				tags[string(it.tokens[i+1].b)] = true
			}
		}
	}
	return tags
}

func sameTokens(a, b []token) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].kind != b[i].kind || !bytes.Equal(a[i].b, b[i].b) {
			return false
		}
	}
	return true
}

// Attributes that give no meaning to a function that nobody refers to, and those that a body may have besides.
var (
	headAttributes = attributes("unused gnu_inline no_instrument_function always_inline noinline cold hot pure const malloc nonnull returns_nonnull " +
		"warn_unused_result deprecated format alloc_size assume_aligned no_sanitize no_sanitize_address no_sanitize_undefined no_stack_protector optimize target " +
		"no_profile_instrument_function noclone flatten noreturn")
	bodyAttributes = attributes("unused fallthrough error warning aligned packed may_alias mode cleanup vector_size nonstring")
)

func attributes(names string) map[string]bool {
	m := map[string]bool{}
	for n := range strings.FieldsSeq(names) {
		m[n] = true
	}
	return m
}

// harmlessHead says that a function's declaration means nothing when nobody refers to it.
func harmlessHead(tokens []token) bool {
	for _, t := range tokens {
		if t.kind == directive || t.is("extern") || t.is("{") || t.is("asm") || t.is("__asm__") {
			return false
		}
	}
	return onlyAttributes(tokens, headAttributes, nil)
}

// assertion is how the names of functions begin that only compiletime_assert (include/linux/compiler_types.h) declares: each is its own.
const assertion = "__compiletime_assert_"

// harmlessBody says that nothing in a body reaches beyond it, if the function means nothing.
func harmlessBody(tokens []token) bool {
	asserts := false
	for i, t := range tokens {
		switch {
		case t.kind == directive:
			return false
		case t.is("extern"):
			// extern void __compiletime_assert_7(void)
			if i+2 >= len(tokens) || !tokens[i+1].is("void") || !bytes.HasPrefix(tokens[i+2].b, []byte(assertion)) {
				return false
			}
			asserts = true
		}
	}
	more := map[string]bool{}
	if asserts {
		more["noreturn"] = true
	}
	return onlyAttributes(tokens, bodyAttributes, more)
}

// onlyAttributes says that tokens have no other attributes than the given ones.
func onlyAttributes(tokens []token, some, more map[string]bool) bool {
	for i := 0; i < len(tokens); i++ {
		if !tokens[i].is("__attribute__") && !tokens[i].is("__attribute") {
			continue
		}
		depth := 0
		for i++; i < len(tokens); i++ {
			t := tokens[i]
			switch {
			case t.is("("):
				depth++
			case t.is(")"):
				depth--
			case depth == 2 && t.kind == word:
				if name := strings.TrimSuffix(strings.TrimPrefix(string(t.b), "__"), "__"); !some[name] && !more[name] {
					return false
				}
			}
			if depth == 0 {
				break
			}
		}
	}
	return true
}
