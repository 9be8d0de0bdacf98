package conformance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/ksplice/ksplice/sdk/internal/serve"
	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
)

// modeVariable makes the test binary a plugin: it holds what is wrong with it.
const modeVariable = "KSPLICE_TEST_PLUGIN_MODE"

func TestMain(m *testing.M) {
	switch mode, ok := os.LookupEnv(modeVariable); {
	case !ok:
		os.Exit(m.Run())
	case mode == "is deaf" && len(os.Args) == 1:
		signal.Ignore(unix.SIGTERM)
		c, err := certificate()
		if err != nil {
			panic(err)
		}
		fmt.Printf("1|1|unix|/nowhere|grpc|%s\n", base64.RawStdEncoding.EncodeToString(c.Certificate[0]))
		time.Sleep(time.Minute)
	case mode == "takes anybody for a host":
		time.Sleep(time.Minute)
	default:
		transform.Serve(talker{mode: mode})
		if mode == "lingers" && len(os.Args) == 1 {
			time.Sleep(time.Minute)
		}
	}
}

// talker is a plugin that says another version of itself in a call.
type talker struct {
	transform.Unimplemented
	mode string
}

func (p talker) Info(context.Context) (*plugin.Info, error) {
	info := &plugin.Info{Name: "talker", Version: "1", Description: "Talks."}
	if p.mode == "says two things" && len(os.Args) == 1 {
		info.Version = "2"
	}
	return info, nil
}

func TestProcess(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "transform-talker")
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	before := endTimeout
	endTimeout = time.Second
	t.Cleanup(func() { endTimeout = before })
	for mode, want := range map[string]struct{ check, words string }{ // the check that is run, all where it is empty, and its error
		"":                {},
		"says two things": {"process", "two answers to one question differ"},
		"lingers":         {"shutdown", "by itself: it is still there after 1s"},
		"is deaf":         {"terminate", "it is still there after 1s"},

		"takes anybody for a host": {"by hand", "must end with an exit code other than 0: signal: killed"},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Setenv(modeVariable, mode)
			for _, c := range Process(plugin.KindTransform, path) {
				if want.check != "" && want.check != c.Name {
					continue
				}
				err := c.Run(t.Context())
				if (err == nil) != (want.words == "") || err != nil && !strings.Contains(err.Error(), want.words) {
					t.Errorf("%s: %v, want %q", c.Name, err, want.words)
				}
			}
		})
	}
}

// TestStrangers: a server that takes clients without a certificate, or with any, is found out.
func TestStrangers(t *testing.T) {
	own, err := certificate()
	if err != nil {
		t.Fatal(err)
	}
	known := x509.NewCertPool()
	known.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]}))
	for auth, want := range map[tls.ClientAuthType]string{
		tls.NoClientCert:               "it talks to a client with",
		tls.RequireAnyClientCert:       "it talks to a client with a certificate of its own",
		tls.VerifyClientCertIfGiven:    "it talks to a client without a certificate",
		tls.RequireAndVerifyClientCert: "",
	} {
		l, err := tls.Listen("unix", filepath.Join(t.TempDir(), "socket"),
			&tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: auth, ClientCAs: known, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		go func() { _ = server.Serve(l) }()
		err = strangers(t.Context(), l.Addr())
		server.Stop()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", auth, err, want)
		}
	}
}

// TestServices: a server without a health service, or with one that says no, is no plugin.
func TestServices(t *testing.T) {
	for name, c := range map[string]struct {
		register func(*grpc.Server)
		want     string
	}{
		"no health service": {func(*grpc.Server) {}, "Unimplemented"},
		"not serving": {func(s *grpc.Server) {
			h := health.NewServer()
			h.SetServingStatus("plugin", healthpb.HealthCheckResponse_NOT_SERVING)
			healthpb.RegisterHealthServer(s, h)
		}, "it says NOT_SERVING"},
	} {
		err := services(t.Context(), serve.Serve(t, plugin.KindTransform, &transform.Mock{}, c.register))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
