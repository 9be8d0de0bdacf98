// Package serve serves plugins in memory, for tests.
package serve

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/ksplice/ksplice/sdk/internal/wire"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Serve serves a plugin's implementation in memory and returns a connection to it. Both end with the test.
func Serve(t testing.TB, kind plugin.Kind, impl plugin.Base, register wire.Register) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := wire.NewServer(kind, impl, register)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///memory",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(plugin.MaxMessage), grpc.MaxCallSendMsgSize(plugin.MaxMessage)))
	if err != nil {
		t.Fatalf("connect to the plugin: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
