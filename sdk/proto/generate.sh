#!/bin/sh
# Generates the Go code of the plugin protocol beside the .proto files. The Go generators are those that go.mod pins;
# protoc is the system's, and its version is checked because it is written into the generated files.
set -eu
cd "$(dirname "$0")"

want='libprotoc 3.21.12'
if ! have=$(protoc --version 2>/dev/null); then
	echo "generate: protoc is not installed; install $want (Debian: apt-get install protobuf-compiler)" >&2
	exit 1
fi
if [ "$have" != "$want" ]; then
	echo "generate: protoc is \"$have\", the committed code was made by \"$want\" (Debian 12: protobuf-compiler)" >&2
	exit 1
fi

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
for tool in protoc-gen-go protoc-gen-go-grpc; do
	printf '#!/bin/sh\nexec go tool %s "$@"\n' "$tool" >"$bin/$tool"
	chmod +x "$bin/$tool"
done
PATH="$bin:$PATH" protoc -I . \
	--go_out=. --go_opt=paths=source_relative \
	--go-grpc_out=. --go-grpc_opt=paths=source_relative \
	ksplice/plugin/v1/*.proto
