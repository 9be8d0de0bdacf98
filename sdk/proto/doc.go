// Package proto holds the wire protocol between Ksplice and its plugins, one folder a version, with the generated Go
// code beside the definitions. The packages sdk/arch, sdk/backend and sdk/transform call it; plugin authors and the
// host use those and never meet a protobuf type. PROTOCOL.md is for authors in other languages.
//
// What may change in a version that is out, and what makes the next one, is in PROTOCOL.md as well, under "Versions".
// testdata/v1.binpb is version 1 as plugins were first built against it: a FileDescriptorSet, by
//
//	protoc -I . --include_imports --descriptor_set_out=testdata/v1.binpb ksplice/plugin/v1/*.proto
//
// It is never made again. Tests hold the current definitions against it, and run a plugin that is built from it.
package proto

//go:generate ./generate.sh
