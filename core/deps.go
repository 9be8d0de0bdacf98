// Package core holds the rooms of Ksplice; see ARCHITECTURE.md.
package core

import (
	_ "github.com/BurntSushi/toml"
	_ "github.com/bluekeyes/go-gitdiff/gitdiff"
	_ "github.com/cavaliergopher/cpio"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/hashicorp/go-hclog"
	_ "github.com/hashicorp/go-plugin"
	_ "github.com/klauspost/compress/zstd"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/schollz/progressbar/v3"
	_ "github.com/spf13/pflag"
	_ "github.com/ulikunitz/xz"
	_ "golang.org/x/arch/x86/x86asm"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
	_ "google.golang.org/grpc"
	_ "google.golang.org/protobuf/proto"
)
