package sdktest

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ksplice/ksplice/sdk/arch"
)

// RawArch returns the client of an architecture plugin whose every reply is these bytes, for fuzzing what makes use of replies.
func RawArch(reply []byte) *arch.Client { return arch.NewClient(raw(reply), "raw plugin") }

// raw is a connection on which the same bytes come back from every call.
type raw []byte

// Invoke implements grpc.ClientConnInterface.
func (r raw) Invoke(_ context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	if err := proto.Unmarshal(r, reply.(proto.Message)); err != nil {
		return status.Error(codes.Internal, err.Error()) // as grpc says it
	}
	return nil
}

// NewStream implements grpc.ClientConnInterface.
func (raw) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("an architecture plugin has no streams")
}
