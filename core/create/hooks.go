package create

import (
	"bytes"
	"debug/elf"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/scanner"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/kmod/include"
)

// ksplicePath is where a patched tree has the header that patches include as <ksplice.h>: the kernel's include/ is searched for every unit.
const ksplicePath = "include/ksplice.h"

// claimMacro takes an item of the report upon the patch.
const claimMacro = "ksplice_claim"

// addHeader puts <ksplice.h> into the tree, before and after the patch, where a file of the patches includes it.
func (r *run) addHeader() error {
	uses := func(files map[string][]byte) bool {
		for _, b := range files {
			if includesKsplice(b) {
				return true
			}
		}
		return false
	}
	if !uses(r.post) && !uses(r.pre) {
		return nil
	}
	if _, err := r.original(ksplicePath); err == nil {
		return refuse(ReasonUnsupported, "the kernel's source has an "+ksplicePath+" of its own, where a patch finds <ksplice.h>")
	}
	if b, ok := r.post[ksplicePath]; ok && !bytes.Equal(b, include.Ksplice) {
		return refuse(ReasonPatch, "it brings an "+ksplicePath+" of its own: create puts it there")
	}
	r.pre[ksplicePath], r.post[ksplicePath] = include.Ksplice, include.Ksplice
	return nil
}

// includesKsplice says that a source includes <ksplice.h>.
func includesKsplice(source []byte) bool {
	for line := range bytes.Lines(source) {
		rest, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("#"))
		if !ok {
			continue
		}
		if rest, ok = bytes.CutPrefix(bytes.TrimSpace(rest), []byte("include")); ok && bytes.HasPrefix(bytes.TrimSpace(rest), []byte("<ksplice.h>")) {
			return true
		}
	}
	return false
}

// findClaims reads what the patch takes upon itself: in files that it touches, without what was there before.
func (r *run) findClaims() error {
	r.patchClaims, r.patchTransfers = map[string]string{}, nil
	for _, name := range slices.Sorted(maps.Keys(r.post)) {
		if name == ksplicePath || r.post[name] == nil {
			continue
		}
		claims, err := claimsIn(name, r.post[name])
		if err != nil {
			return refuse(ReasonPatch, err.Error())
		}
		had, _ := claimsIn(name, r.pre[name])
		for _, c := range claims {
			if slices.Contains(had, c) {
				continue
			}
			r.patchClaims[c.Item] = c.Because
		}
		pairs, err := pairsIn(name, r.post[name], transferMacro, "PLUGIN", "WHAT IT IS TO DO")
		if err != nil {
			return refuse(ReasonPatch, err.Error())
		}
		done, _ := pairsIn(name, r.pre[name], transferMacro, "", "")
		for _, t := range pairs {
			if x := (patchTransfer{t[0], t[1]}); !slices.Contains(done, t) && !slices.Contains(r.patchTransfers, x) {
				r.patchTransfers = append(r.patchTransfers, x)
			}
		}
	}
	return nil
}

// claimsIn reads the claims of one source.
func claimsIn(name string, source []byte) ([]update.Claim, error) {
	pairs, err := pairsIn(name, source, claimMacro, "ITEM", "HOW IT IS CARRIED")
	var out []update.Claim
	for _, p := range pairs {
		out = append(out, update.Claim{Item: p[0], Because: p[1], Hook: true})
	}
	return out, err
}

// pairsIn reads what a source gives a macro of two strings, whose names are for people.
func pairsIn(name string, source []byte, macro, first, second string) ([][2]string, error) {
	if !bytes.Contains(source, []byte(macro)) {
		return nil, nil
	}
	var s scanner.Scanner
	s.Init(bytes.NewReader(source))
	s.Mode = scanner.ScanIdents | scanner.ScanStrings | scanner.ScanChars | scanner.ScanComments | scanner.SkipComments
	s.Error = func(*scanner.Scanner, string) {} // C has constants that Go has not: the compiler judges them
	var out [][2]string
	for t := s.Scan(); t != scanner.EOF; t = s.Scan() {
		if t != scanner.Ident || s.TokenText() != macro {
			continue
		}
		line := s.Line
		var p [2]string
		ok := s.Scan() == '('
		var after rune
		p[0], after = literal(&s)
		ok = ok && after == ','
		p[1], after = literal(&s)
		if !ok || after != ')' || p[0] == "" || p[1] == "" {
			return nil, fmt.Errorf("%s:%d: write %s(\"%s\", \"%s\")%s", name, line, macro, first, second, itemHelp(macro))
		}
		out = append(out, p)
	}
	return out, nil
}

func itemHelp(macro string) string {
	if macro == claimMacro {
		return " with an item's ID as create --report has it"
	}
	return " with the name of a transform plugin"
}

// literal reads a string constant, which may be several in a row, and what stands behind it.
func literal(s *scanner.Scanner) (string, rune) {
	var b strings.Builder
	for {
		t := s.Scan()
		if t != scanner.String {
			return b.String(), t
		}
		text, err := strconv.Unquote(s.TokenText())
		if err != nil {
			return "", t
		}
		b.WriteString(text)
	}
}

// uncompiled refuses claims that no unit of the update has: code that the configuration leaves out carries nothing.
func (r *run) uncompiled() []Reason {
	var reasons []Reason
	for _, id := range slices.Sorted(maps.Keys(r.patchClaims)) {
		if !slices.ContainsFunc(r.units, func(u *unit) bool { return u.result.Claims(id) }) {
			reasons = append(reasons, Reason{ReasonState, fmt.Sprintf("the patch claims %s (%s) where nothing is compiled: move that out of #if, into a file that this kernel builds", id, claimMacro)})
		}
	}
	return reasons
}

// place is where a function begins.
type place struct {
	section *objfile.Section
	at      uint64
}

// earlyCalls refuses hooks that lead, while the old code runs, to a function that the update replaces: at another time they would get another.
func (r *run) earlyCalls(units []*unit) ([]Reason, error) {
	local, global := map[*unit]map[place]bool{}, map[string]bool{}
	for _, u := range units {
		local[u] = map[place]bool{}
		for _, f := range u.result.Functions {
			if f.Kind == diff.Changed && f.Pre != nil {
				local[u][place{f.Pre.Section, f.Pre.Value}] = true
			}
		}
		for _, y := range u.pre.diff.File.Symbols { // by other names, too
			if y.Section != nil && y.Bind != elf.STB_LOCAL && local[u][place{y.Section, y.Value}] {
				global[y.Name] = true
			}
		}
	}
	var reasons []Reason
	for _, u := range units {
		if len(u.result.Hooks) == 0 || len(u.result.Refusals) > 0 {
			continue
		}
		c, err := u.result.Closure()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", u.Object, err)
		}
		for i := range c.Hooks {
			h := &c.Hooks[i]
			called := h.Calls(func(t *diff.Target) bool {
				if t.Pre != nil && t.Pre.Section != nil {
					return local[u][place{t.Pre.Section, t.Pre.Value}]
				}
				return global[t.Name]
			})
			if called != "" {
				reasons = append(reasons, Reason{ReasonUnsupported, fmt.Sprintf("%s: the %s hook %s leads to %s, which the patch changes: the old code would run then; write what the hook needs into a function of its own",
					u.Object, h.When, h.Piece.Symbols[0].Name, called)})
			}
		}
	}
	return reasons, nil
}
