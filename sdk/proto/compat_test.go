package proto_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/ksplice/ksplice/sdk/plugin"
	_ "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1" // registers the current definitions
	"github.com/ksplice/ksplice/sdk/transform"
)

// TestFirstVersion: whatever was in version 1 when it was frozen is there, with the same numbers and types. Plugins are built against it.
func TestFirstVersion(t *testing.T) {
	for _, e := range lost(files(t, frozen(t)), protoregistry.GlobalFiles) {
		t.Error(e)
	}
}

// TestLost: what a plugin of version 1 would trip over is found, and what it never sees is not.
func TestLost(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *descriptorpb.FileDescriptorSet)
		want   string // of the one finding; empty: none
	}{
		"nothing": {func(*descriptorpb.FileDescriptorSet) {}, ""},
		"a field more": {func(s *descriptorpb.FileDescriptorSet) {
			m := message(s, "Item")
			f := proto.Clone(m.Field[0]).(*descriptorpb.FieldDescriptorProto)
			f.Name, f.JsonName, f.Number = proto.String("more"), proto.String("more"), proto.Int32(99)
			m.Field = append(m.Field, f)
		}, ""},
		"a message more": {func(s *descriptorpb.FileDescriptorSet) {
			f := file(s, "transform")
			f.MessageType = append(f.MessageType, &descriptorpb.DescriptorProto{Name: proto.String("More")})
		}, ""},
		"a call more": {func(s *descriptorpb.FileDescriptorSet) {
			y := file(s, "transform").Service[0]
			m := proto.Clone(y.Method[0]).(*descriptorpb.MethodDescriptorProto)
			m.Name = proto.String("More")
			y.Method = append(y.Method, m)
		}, ""},
		"a field less": {func(s *descriptorpb.FileDescriptorSet) {
			m := message(s, "Item")
			m.Field = slices.DeleteFunc(m.Field, named("pre"))
		}, "ksplice.plugin.v1.Item has no field 6 (pre) any more"},
		"another number": {func(s *descriptorpb.FileDescriptorSet) {
			field(s, "Item", "pre").Number = proto.Int32(60)
		}, "ksplice.plugin.v1.Item has no field 6 (pre) any more"},
		"another name": {func(s *descriptorpb.FileDescriptorSet) {
			field(s, "Item", "pre").Name = proto.String("before")
		}, "field 6 of ksplice.plugin.v1.Item was pre, and is before"},
		"another type": {func(s *descriptorpb.FileDescriptorSet) {
			field(s, "Item", "pre").Type = descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum()
		}, "field 6 of ksplice.plugin.v1.Item was bytes pre, and is string pre"},
		"another message": {func(s *descriptorpb.FileDescriptorSet) {
			field(s, "Item", "fields").TypeName = proto.String(".ksplice.plugin.v1.Member")
		}, "was repeated ksplice.plugin.v1.Field fields, and is repeated ksplice.plugin.v1.Member fields"},
		"one instead of many": {func(s *descriptorpb.FileDescriptorSet) {
			field(s, "Objects", "objects").Label = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()
		}, "was repeated ksplice.plugin.v1.Object objects, and is ksplice.plugin.v1.Object objects"},
		"the values of a map": {func(s *descriptorpb.FileDescriptorSet) {
			m := message(s, "PlanResponse")
			i := slices.IndexFunc(m.NestedType, func(d *descriptorpb.DescriptorProto) bool { return d.GetName() == "EditsEntry" })
			m.NestedType[i].Field[1].Type = descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum()
		}, "was map<string, bytes> edits, and is map<string, string> edits"},
		"out of its oneof": {func(s *descriptorpb.FileDescriptorSet) {
			field(s, "Objects", "last").OneofIndex = proto.Int32(0)
			message(s, "Objects").OneofDecl = []*descriptorpb.OneofDescriptorProto{{Name: proto.String("how")}}
		}, "was bool last, and is bool last in the oneof how"},
		"a choice more": {func(s *descriptorpb.FileDescriptorSet) {
			m := message(s, "TransferCall")
			f := proto.Clone(m.Field[0]).(*descriptorpb.FieldDescriptorProto)
			f.Name, f.JsonName, f.Number = proto.String("more"), proto.String("more"), proto.Int32(99)
			m.Field = append(m.Field, f)
		}, "the oneof call of ksplice.plugin.v1.TransferCall has more, which it had not"},
		"a message less": {func(s *descriptorpb.FileDescriptorSet) {
			f := file(s, "base")
			f.MessageType = slices.DeleteFunc(f.MessageType, func(d *descriptorpb.DescriptorProto) bool { return d.GetName() == "ConfigureResponse" })
			f.Service[0].Method[1].OutputType = proto.String(".ksplice.plugin.v1.DrainResponse")
		}, "ksplice.plugin.v1.ConfigureResponse is gone"},
		"a call less": {func(s *descriptorpb.FileDescriptorSet) {
			y := file(s, "base").Service[0]
			y.Method = y.Method[:3]
		}, "ksplice.plugin.v1.Base.Drain is gone"},
		"a stream": {func(s *descriptorpb.FileDescriptorSet) {
			file(s, "transform").Service[0].Method[0].ServerStreaming = proto.Bool(true)
		}, "ksplice.plugin.v1.Transform.Plan was (ksplice.plugin.v1.PlanRequest) returns (ksplice.plugin.v1.PlanResponse), and is"},
		"a number of an enum": {func(s *descriptorpb.FileDescriptorSet) {
			file(s, "arch").EnumType[0].Value[1].Number = proto.Int32(17)
		}, "ksplice.plugin.v1.RefKind has no value 1 (REF_KIND_ADDRESS) any more"},
	} {
		t.Run(name, func(t *testing.T) {
			set := frozen(t)
			c.change(set)
			got := lost(files(t, frozen(t)), files(t, set))
			if c.want == "" && len(got) > 0 || c.want != "" && !strings.Contains(strings.Join(got, "\n"), c.want) {
				t.Errorf("lost = %q, want %q", got, c.want)
			}
		})
	}
}

// TestPage: PROTOCOL.md names every field and call that there is, and the numbers of the handshake.
func TestPage(t *testing.T) {
	b, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{plugin.CookieKey, plugin.CookieValue, plugin.CallKey, strconv.Itoa(plugin.MaxMessage), strconv.Itoa(transform.MaxChanges)}
	protoregistry.GlobalFiles.RangeFilesByPackage("ksplice.plugin.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Messages().Len() {
			m := f.Messages().Get(i)
			for k := range m.Fields().Len() {
				want = append(want, fmt.Sprintf("`%s.%s`", m.Name(), m.Fields().Get(k).Name()))
			}
		}
		for i := range f.Services().Len() {
			y := f.Services().Get(i)
			for k := range y.Methods().Len() {
				want = append(want, fmt.Sprintf("`%s`", y.Methods().Get(k).Name()))
			}
		}
		return true
	})
	if len(want) < 200 {
		t.Fatalf("only %d names are looked for", len(want))
	}
	for _, w := range want {
		if !strings.Contains(string(b), w) {
			t.Errorf("PROTOCOL.md does not say %s", w)
		}
	}
}

// frozen is version 1 as plugins were first built against it (see doc.go).
func frozen(t *testing.T) *descriptorpb.FileDescriptorSet {
	t.Helper()
	b, err := os.ReadFile("testdata/v1.binpb")
	if err != nil {
		t.Fatal(err)
	}
	set := new(descriptorpb.FileDescriptorSet)
	if err := proto.Unmarshal(b, set); err != nil {
		t.Fatal(err)
	}
	return set
}

func files(t *testing.T, set *descriptorpb.FileDescriptorSet) *protoregistry.Files {
	t.Helper()
	f, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// advice ends what lost says.
const advice = "; a plugin that was built against version 1 would not notice: see the versioning rules in PROTOCOL.md"

// lost says what of the old files a peer that was built with them misses, or misreads, in the new ones.
func lost(old, new *protoregistry.Files) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)+advice) }
	old.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Messages().Len() {
			lostMessage(f.Messages().Get(i), new, say)
		}
		for i := range f.Enums().Len() {
			lostEnum(f.Enums().Get(i), new, say)
		}
		for i := range f.Services().Len() {
			lostService(f.Services().Get(i), new, say)
		}
		return true
	})
	return out
}

// find returns what new has by the full name of old, where it is of the same sort.
func find[D protoreflect.Descriptor](old D, new *protoregistry.Files, say func(string, ...any)) (D, bool) {
	d, err := new.FindDescriptorByName(old.FullName())
	same, ok := d.(D)
	if err != nil || !ok {
		say("%s is gone", old.FullName())
	}
	return same, err == nil && ok
}

func lostMessage(old protoreflect.MessageDescriptor, new *protoregistry.Files, say func(string, ...any)) {
	m, ok := find(old, new, say)
	if !ok {
		return
	}
	for i := range old.Fields().Len() {
		was := old.Fields().Get(i)
		is := m.Fields().ByNumber(was.Number())
		switch {
		case is == nil:
			say("%s has no field %d (%s) any more", old.FullName(), was.Number(), was.Name())
		case is.Name() != was.Name():
			say("field %d of %s was %s, and is %s", was.Number(), old.FullName(), was.Name(), is.Name())
		case text(is) != text(was):
			say("field %d of %s was %s, and is %s", was.Number(), old.FullName(), text(was), text(is))
		}
	}
	// To a peer that does not know a choice the message is empty.
	for i := range old.Oneofs().Len() {
		was := old.Oneofs().Get(i)
		is := m.Oneofs().ByName(was.Name())
		for k := 0; is != nil && k < is.Fields().Len(); k++ {
			if f := is.Fields().Get(k); was.Fields().ByNumber(f.Number()) == nil {
				say("the oneof %s of %s has %s, which it had not", was.Name(), old.FullName(), f.Name())
			}
		}
	}
}

// text writes a field as its .proto does.
func text(f protoreflect.FieldDescriptor) string {
	out := typeOf(f) + " " + string(f.Name())
	switch {
	case f.IsMap():
		out = fmt.Sprintf("map<%s, %s> %s", typeOf(f.MapKey()), typeOf(f.MapValue()), f.Name())
	case f.IsList():
		out = "repeated " + out
	}
	if o := f.ContainingOneof(); o != nil {
		out += " in the oneof " + string(o.Name())
	}
	return out
}

func typeOf(f protoreflect.FieldDescriptor) string {
	switch {
	case f.Message() != nil:
		return string(f.Message().FullName())
	case f.Enum() != nil:
		return string(f.Enum().FullName())
	}
	return f.Kind().String()
}

func lostEnum(old protoreflect.EnumDescriptor, new *protoregistry.Files, say func(string, ...any)) {
	e, ok := find(old, new, say)
	for i := 0; ok && i < old.Values().Len(); i++ {
		was := old.Values().Get(i)
		if is := e.Values().ByNumber(was.Number()); is == nil || is.Name() != was.Name() {
			say("%s has no value %d (%s) any more", old.FullName(), was.Number(), was.Name())
		}
	}
}

func lostService(old protoreflect.ServiceDescriptor, new *protoregistry.Files, say func(string, ...any)) {
	signature := func(m protoreflect.MethodDescriptor) string {
		stream := map[bool]string{true: "stream "}
		return fmt.Sprintf("(%s%s) returns (%s%s)", stream[m.IsStreamingClient()], m.Input().FullName(), stream[m.IsStreamingServer()], m.Output().FullName())
	}
	for i := range old.Methods().Len() {
		was := old.Methods().Get(i)
		if is, ok := find(was, new, say); ok && signature(is) != signature(was) {
			say("%s was %s, and is %s", was.FullName(), signature(was), signature(is))
		}
	}
}

// file, message, field and named find things in a set that a test changes.
func file(s *descriptorpb.FileDescriptorSet, name string) *descriptorpb.FileDescriptorProto {
	for _, f := range s.File {
		if f.GetName() == "ksplice/plugin/v1/"+name+".proto" {
			return f
		}
	}
	panic("no file " + name)
}

func message(s *descriptorpb.FileDescriptorSet, name string) *descriptorpb.DescriptorProto {
	for _, f := range s.File {
		for _, m := range f.MessageType {
			if m.GetName() == name {
				return m
			}
		}
	}
	panic("no message " + name)
}

func field(s *descriptorpb.FileDescriptorSet, of, name string) *descriptorpb.FieldDescriptorProto {
	m := message(s, of)
	return m.Field[slices.IndexFunc(m.Field, named(name))]
}

func named(name string) func(*descriptorpb.FieldDescriptorProto) bool {
	return func(f *descriptorpb.FieldDescriptorProto) bool { return f.GetName() == name }
}
