// Package shadow decides which members that a structure gains can be shadow fields, and rewrites the sources so that they are: the declaration
// goes, each access becomes a look-up, objects that are freed or made lose what they had.
package shadow

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
)

// Plugin implements transform.Transform.
type Plugin struct {
	transform.Unimplemented
	// defaults are C expressions for what objects have that were born before the update, by "STRUCT.MEMBER".
	defaults map[string]string
}

var _ transform.Transform = (*Plugin)(nil)

// keyPattern is a configuration key: a structure's tag and the member.
var keyPattern = regexp.MustCompile(`^[A-Za-z_]\w*\.[A-Za-z_]\w*$`)

// Info implements plugin.Base.
func (*Plugin) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{
		Kind: plugin.KindTransform, Name: "shadow", Version: "1",
		Description: "Structures that gain scalar, pointer or lock members: they are kept beside the objects.",
	}, nil
}

// Configure implements plugin.Base. A key STRUCT.MEMBER gives a C expression for what objects have that were born before the update; the
// object is there as a void pointer, "object". Without it they have zero, and locks are free.
func (p *Plugin) Configure(_ context.Context, config map[string]string) error {
	for k, v := range config {
		if !keyPattern.MatchString(k) || strings.TrimSpace(v) == "" || strings.ContainsAny(v, ";{}\n") {
			return &plugin.Diagnostic{Fault: plugin.FaultUser, Summary: fmt.Sprintf("configuration %s = %q is no default of a member", k, v),
				Detail: "write STRUCT.MEMBER = \"EXPRESSION\": what objects have that were born before the update"}
		}
	}
	p.defaults = config
	return nil
}

// Plan implements transform.Transform.
func (p *Plugin) Plan(ctx context.Context, req *transform.PlanRequest) (*transform.PlanResponse, error) {
	resp := &transform.PlanResponse{Because: map[string]string{}, Declined: map[string]string{}, Edits: map[string][]byte{}}
	var files map[string][]byte
	for i := range req.Items {
		it := &req.Items[i]
		if it.Kind != transform.ItemLayout || len(it.Members) == 0 || it.Source == "" {
			continue
		}
		if why := p.unfit(it); why != "" {
			resp.Declined[it.ID] = why
			continue
		}
		if files == nil {
			var err error
			if files, err = read(req.SourceDir); err != nil {
				return nil, err
			}
		}
		r := &rewriter{item: it, files: files, defaults: p.defaults}
		why, err := r.rewrite(ctx)
		if err != nil {
			return nil, err
		}
		if why != "" {
			resp.Declined[it.ID] = why
			continue
		}
		for name, text := range r.edits {
			files[name], resp.Edits[name] = text, text
		}
		resp.Claimed = append(resp.Claimed, it.ID)
		resp.Because[it.ID] = r.because()
	}
	return resp, nil
}

// plain are types whose memory may be anywhere, and what makes a lock a free one. Sources: include/linux/types.h, spinlock_types.h, mutex_types.h,
// rwsem.h, seqlock.h.
var plain = map[string]string{
	"atomic_t": "", "atomic64_t": "", "atomic_long_t": "", "spinlock_t": "spin_lock_init", "raw_spinlock_t": "raw_spin_lock_init", "rwlock_t": "rwlock_init",
	"struct mutex": "mutex_init", "struct rw_semaphore": "init_rwsem", "seqcount_t": "seqcount_init", "seqlock_t": "seqlock_init",
}

// wanted are types of which nobody can guess what objects have that exist: a count of users is at least one.
var wanted = map[string]bool{"refcount_t": true}

var identifier = regexp.MustCompile(`^[A-Za-z_]\w*$`)

// unfit says why a structure's new members cannot be kept elsewhere; "" where they can.
func (p *Plugin) unfit(it *transform.Item) string {
	if strings.HasPrefix(it.Source, "include/uapi/") {
		return it.Source + " is what programs see: its layout is theirs, too"
	}
	for i := range it.Members {
		m := &it.Members[i]
		_, known := plain[m.Type]
		_, given := p.defaults[it.Name+"."+m.Name]
		switch {
		case !identifier.MatchString(m.Name):
			return fmt.Sprintf("member %s is of a structure without a name in it", m.Name)
		case m.Bits != 0:
			return fmt.Sprintf("member %s is a bit field, which has no address: make it a whole number", m.Name)
		case m.Size == 0:
			return fmt.Sprintf("member %s has no size", m.Name)
		case strings.HasPrefix(m.Type, "function"):
			return fmt.Sprintf("member %s is a pointer to a function, whose type the debug information does not name: give it a typedef", m.Name)
		case known, m.Kind == transform.MemberNumber:
		case m.Kind == transform.MemberPointer, wanted[m.Type]:
			if !given {
				return fmt.Sprintf("nobody knows what member %s (%s) is of objects that exist: say so in the plugin's configuration, \"%s.%s\" = \"EXPRESSION\"", m.Name, m.Type, it.Name, m.Name)
			}
		default:
			return fmt.Sprintf("member %s is a %s: code finds the object by where it lies in it (container_of), or links to it: this needs hooks of the patch's own", m.Name, m.Type)
		}
	}
	return ""
}

// read reads the sources.
func read(dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || filepath.Ext(name) != ".c" && filepath.Ext(name) != ".h" {
			return err
		}
		files[filepath.ToSlash(name)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the sources in %s: %w", dir, err)
	}
	return files, nil
}

// rewriter makes shadow fields of one structure's new members.
type rewriter struct {
	item     *transform.Item
	files    map[string][]byte
	defaults map[string]string
	edits    map[string][]byte
	// found counts, by member, what the sources have of the objects' lives: where one ends, where one begins, where a lock of it is made.
	found map[string]*lives
}

type lives struct{ freed, made, begun int }

// Marks of the semantic patch for what must not be, and for births.
const (
	markLater = "KSPLICE_SHADOW_FREED_LATER();"
	markStack = "ksplice_shadow_on_the_stack"
	markCopy  = "KSPLICE_SHADOW_COPIED();"
	markMany  = "ksplice_shadow_many"
	markMade  = "ksplice_shadow_made_"
	detach    = "ksplice_shadow_detach("
	born      = "ksplice_shadow_born("
)

var refused = map[string]string{
	markLater: "frees such objects by kfree_rcu: readers that are still there could give them the field again",
	markStack: "has such an object on the stack, where the next one would have what it left",
	markCopy:  "copies or clears such objects as a whole, which would not reach the field",
	markMany:  "makes several such objects at once, or copies of one",
	markMade:  "makes such an object in a declaration or in the middle of an expression: let a statement of its own do that",
}

// foreign are pointers that lead elsewhere than to an object of the kernel's.
func foreign(tag string) *regexp.Regexp {
	return regexp.MustCompile(`struct\s+` + regexp.QuoteMeta(tag) + `\s+(__user|__percpu|__iomem)\b`)
}

// simple is an expression that may stand twice.
var simple = regexp.MustCompile(`^[\w\s.*&()>\[\]-]+$`)

// twice says why what an object is called cannot stand in a call of its own; "" where it can.
func twice(text []byte) string {
	for _, m := range regexp.MustCompile(`ksplice_shadow_(?:detach|born)\(&\w+, (.*)\);`).FindAllSubmatch(text, -1) {
		e := m[1]
		if !simple.Match(e) || bytes.Contains(e, []byte("++")) || bytes.Contains(e, []byte("--")) || regexp.MustCompile(`\w\s*\(`).Match(e) {
			return fmt.Sprintf("frees or makes an object that it names by %q, which would be evaluated twice", e)
		}
	}
	return ""
}

func (r *rewriter) rewrite(ctx context.Context) (why string, err error) {
	r.edits, r.found = map[string][]byte{}, map[string]*lives{}
	for i := range r.item.Members {
		r.found[r.item.Members[i].Name] = &lives{}
	}
	if why, err = r.undeclare(ctx); why != "" || err != nil {
		return why, err
	}
	for _, name := range slices.Sorted(maps.Keys(r.files)) {
		text := r.files[name]
		if edited, ok := r.edits[name]; ok {
			text = edited
		}
		if !bytes.Contains(text, []byte(r.item.Name)) {
			continue
		}
		out, err := spatch(ctx, r.semanticPatch(name), text)
		if err != nil {
			return "", err
		}
		for _, mark := range slices.Sorted(maps.Keys(refused)) {
			if bytes.Contains(out, []byte(mark)) {
				return name + " " + refused[mark], nil
			}
		}
		if foreign(r.item.Name).Match(text) {
			return name + " has pointers to such structures that are not in the kernel's memory", nil
		}
		if why := twice(out); why != "" {
			return name + " " + why, nil
		}
		if bytes.Equal(out, text) {
			continue
		}
		uses := r.uses(out)
		if len(uses) > 0 && filepath.Ext(name) == ".h" {
			return fmt.Sprintf("the header %s uses %s, and every file that includes it would have fields of its own", name, strings.Join(uses, ", ")), nil
		}
		out = r.births(out)
		if len(uses) > 0 {
			if out, why = r.declare(out, uses); why != "" {
				return name + ": " + why, nil
			}
		}
		r.edits[name] = out
	}
	for i := range r.item.Members {
		m := &r.item.Members[i]
		if l := r.found[m.Name]; l.made+l.begun == 0 {
			return fmt.Sprintf("no file of the patch makes such objects, or begins %s of them: one would have what another left at its place", m.Name), nil
		}
	}
	return "", nil
}

// undeclare takes the members out of the structure.
func (r *rewriter) undeclare(ctx context.Context) (why string, err error) {
	text := r.files[r.item.Source]
	for i := range r.item.Members {
		m := &r.item.Members[i]
		var b strings.Builder
		for _, array := range []string{"", "[E]"} {
			fmt.Fprintf(&b, "@@ type T; expression E; @@\nstruct %s {\n...\n- T %s%s;\n...\n};\n\n", r.item.Name, m.Name, array)
		}
		out, err := spatch(ctx, b.String(), text)
		if err != nil {
			return "", err
		}
		if bytes.Equal(out, text) {
			return fmt.Sprintf("%s does not declare %s as one expects it, in a structure with a tag", r.item.Source, m.Name), nil
		}
		text = out
	}
	r.edits[r.item.Source] = text
	return "", nil
}

// accessor and field name what stands for a member.
func (r *rewriter) accessor(m *transform.Member) string {
	return "ksplice_at_" + r.item.Name + "_" + m.Name
}
func (r *rewriter) field(m *transform.Member) string { return "ksplice_" + r.item.Name + "_" + m.Name }

// uses names the members for which a text has something.
func (r *rewriter) uses(text []byte) []string {
	var out []string
	for i := range r.item.Members {
		m := &r.item.Members[i]
		if bytes.Contains(text, []byte(r.accessor(m)+"(")) || bytes.Contains(text, []byte(detach+"&"+r.field(m)+",")) || bytes.Contains(text, []byte(born+"&"+r.field(m)+",")) {
			out = append(out, m.Name)
		}
	}
	return out
}

// What frees and makes objects. Sources: include/linux/slab.h, vmalloc.h, mm.h, rcupdate.h.
var (
	freedLater = []string{"kfree_rcu", "kvfree_rcu"}
	freed      = []string{"kfree", "kvfree", "vfree", "kfree_sensitive"}
	made       = []string{"kmalloc", "kzalloc", "kvmalloc", "kvzalloc", "kmalloc_node", "kzalloc_node", "kmem_cache_alloc", "kmem_cache_zalloc", "kmem_cache_alloc_node", "devm_kzalloc", "devm_kmalloc"}
	many       = []string{"kcalloc", "kvcalloc", "kcalloc_node", "kmalloc_array", "kvmalloc_array", "devm_kcalloc", "kmemdup", "memdup_user", "vmemdup_user"}
	copies     = []string{"*P = E", "P[E1] = E", "S = E", "memcpy(P, L)", "memcpy(E, P, L)", "memmove(P, L)", "memset(P, L)", "copy_from_user(P, L)", "copy_to_user(E, P, L)"}
)

// semanticPatch is what Coccinelle does to a file: it looks for what must not be, makes look-ups of accesses, and says where lives end and begin.
func (r *rewriter) semanticPatch(file string) string {
	var b strings.Builder
	tag := r.item.Name
	rule := func(names, body string) {
		fmt.Fprintf(&b, "@@ %s @@\n%s\n\n", strings.ReplaceAll(names, "TAG", "struct "+tag), body)
	}
	rule("local idexpression TAG S;", "- &S\n+ "+markStack+"(S)")
	for _, copied := range copies {
		rule("TAG *P; TAG S; expression E, E1; expression list L;", "+ "+markCopy+"\n  "+copied+";")
	}
	for _, f := range many {
		rule("TAG *P; expression list L;", "- P = "+f+"(L)\n+ P = "+markMany+"(L)")
		rule("identifier P; expression list L;", "- struct "+tag+" *P = "+f+"(L);\n+ struct "+tag+" *P = "+markMany+"(L);")
	}
	for i := range r.item.Members {
		m := &r.item.Members[i]
		rule("local idexpression TAG S;", "- S."+m.Name+"\n+ "+markStack+"(S)")
		rule("TAG *P;", "- P->"+m.Name+"\n+ (*"+r.accessor(m)+"(P))")
		rule("TAG S;", "- S."+m.Name+"\n+ (*"+r.accessor(m)+"(&S))")
	}
	if filepath.Ext(file) != ".c" {
		return b.String()
	}
	for _, f := range freedLater {
		rule("TAG *P; expression list L;", "+ "+markLater+"\n  "+f+"(P, L);")
	}
	rule("TAG *P;", "+ "+markLater+"\n  kfree_rcu_mightsleep(P);")
	lost := r.each(detach)
	for _, f := range freed {
		rule("TAG *P;", lost+"  "+f+"(P);")
	}
	rule("TAG *P; expression E;", lost+"  kmem_cache_free(E, P);")
	// Every call that makes one is marked, wherever it stands; a statement of its own loses the mark again.
	for _, f := range made {
		rule("TAG *P; expression list L;", "- P = "+f+"(L)\n+ P = "+markMade+f+"(L)")
		rule("identifier P; expression list L;", "- struct "+tag+" *P = "+f+"(L);\n+ struct "+tag+" *P = "+markMade+f+"(L);")
		rule("TAG *P; expression list L;", "- P = "+markMade+f+"(L);\n+ P = "+f+"(L);\n"+r.each(born))
	}
	return b.String()
}

// each is a call for every member's field, as lines that a rule adds.
func (r *rewriter) each(call string) string {
	var b strings.Builder
	for i := range r.item.Members {
		fmt.Fprintf(&b, "+ %s&%s, P);\n", call, r.field(&r.item.Members[i]))
	}
	return b.String()
}

// births counts how the lives of objects show in a rewritten file, and writes out what is done where one begins: it loses what another left at
// its place, and does not have the default of those that existed before.
func (r *rewriter) births(text []byte) []byte {
	for i := range r.item.Members {
		m := &r.item.Members[i]
		l := r.found[m.Name]
		l.freed += bytes.Count(text, []byte(detach+"&"+r.field(m)+","))
		l.made += bytes.Count(text, []byte(born+"&"+r.field(m)+","))
		if init := plain[m.Type]; init != "" && bytes.Contains(text, []byte(init+"(&(*"+r.accessor(m)+"(")) {
			l.begun++
		}
		begin := detach + "&" + r.field(m) + ", $1);"
		if _, given := r.defaults[r.item.Name+"."+m.Name]; given {
			begin += fmt.Sprintf("\n\tif ($1)\n\t\tmemset(%s($1), 0, sizeof(typeof(%s)));", r.accessor(m), m.Type)
		}
		text = regexp.MustCompile(regexp.QuoteMeta(born+"&"+r.field(m))+`, (.*)\);`).ReplaceAll(text, []byte(begin))
	}
	return text
}

var include = regexp.MustCompile(`^\s*#\s*include\b`)

// declare puts the fields that a file uses behind its last #include that always counts.
func (r *rewriter) declare(text []byte, uses []string) (out []byte, why string) {
	at, depth, offset := -1, 0, 0
	for line := range bytes.Lines(text) {
		offset += len(line)
		directive := string(bytes.TrimSpace(line))
		switch rest, ok := strings.CutPrefix(directive, "#"); {
		case !ok:
		case strings.HasPrefix(strings.TrimSpace(rest), "if"):
			depth++
		case strings.HasPrefix(strings.TrimSpace(rest), "endif"):
			depth--
		case include.Match(line) && depth == 0:
			at = offset
		}
	}
	if at < 0 {
		return nil, "it has no #include behind which the fields could stand"
	}
	var b strings.Builder
	b.WriteString("#include <ksplice.h>\n")
	for i := range r.item.Members {
		m := &r.item.Members[i]
		if !slices.Contains(uses, m.Name) {
			continue
		}
		key, ctor := r.item.Name+"."+m.Name, "NULL" // of the configuration
		begin := ""
		if init := plain[m.Type]; init != "" {
			begin = fmt.Sprintf("%s((typeof(%s) *)data);", init, m.Type)
		}
		if e := r.defaults[key]; e != "" {
			begin = fmt.Sprintf("*(typeof(%s) *)data = (%s);", m.Type, e)
		}
		if begin != "" {
			ctor = r.field(m) + "_begin"
			fmt.Fprintf(&b, "\nstatic int %s(void *object, void *data, void *arg)\n{\n\t%s\n\treturn 0;\n}\n", ctor, begin)
		}
		fmt.Fprintf(&b, "\nKSPLICE_SHADOW(%s, \"%s:%s\", typeof(%s), %s, NULL);\n", r.field(m), r.item.Source, key, m.Type, ctor)
		fmt.Fprintf(&b, "\nstatic inline typeof(%s) *%s(const void *object)\n{\n\treturn ksplice_shadow_of(&%s, object);\n}\n", m.Type, r.accessor(m), r.field(m))
	}
	return slices.Concat(text[:at], []byte(b.String()), text[at:]), ""
}

// because says how the item is carried.
func (r *rewriter) because() string {
	var names []string
	for i := range r.item.Members {
		m := &r.item.Members[i]
		value := "zero"
		if plain[m.Type] != "" {
			value = "free"
		}
		if e := r.defaults[r.item.Name+"."+m.Name]; e != "" {
			value = e
		}
		names = append(names, fmt.Sprintf("%s (%s for objects that exist)", m.Name, value))
	}
	text := strings.Join(names, ", ")
	if len(names) == 1 {
		text += " is a shadow field"
	} else {
		text += " are shadow fields"
	}
	if r.found[r.item.Members[0].Name].freed == 0 {
		text += ", which objects keep when they are freed, until undo"
	}
	return text
}
