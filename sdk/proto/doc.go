// Package proto holds the wire protocol between Ksplice and its plugins, one folder a version, with the generated Go
// code beside the definitions. The packages sdk/arch, sdk/backend and sdk/transform call it; plugin authors and the
// host use those and never meet a protobuf type.
package proto

//go:generate ./generate.sh
