// Command misbehave is a plugin that does what a plugin must not do. Its file name is its mode: as "arch-exit-call" it is
// the architecture plugin "exit-call", which exits in a call. The tests of pluginhost run it.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// forever is longer than any test waits.
const forever = time.Hour

// describing holds what goes wrong with `BINARY describe`.
var describing = map[string]func(){
	"describe-fails":   func() { fmt.Fprintln(os.Stderr, "no such luck"); os.Exit(5) },
	"describe-garbage": func() { fmt.Println("Hello, world") },
	"describe-hangs":   func() { time.Sleep(forever) },
	"describe-floods": func() {
		line := strings.Repeat("x", 4095) + "\n"
		for range 1024 {
			fmt.Print(line)
		}
	},
	"other-name":     func() { fmt.Println(`{"kind":"arch","name":"somebody","protocols":[1],"machines":[62]}`) },
	"no-machine":     func() { fmt.Println(`{"kind":"arch","name":"no-machine","protocols":[1]}`) },
	"new-protocol":   func() { fmt.Println(`{"kind":"arch","name":"new-protocol","protocols":[7,8],"machines":[62]}`) },
	"later-protocol": func() { fmt.Println(`{"kind":"arch","name":"later-protocol","protocols":[99],"machines":[62]}`) },
	"empty-protocol": func() { fmt.Println(`{"kind":"arch","name":"empty-protocol","protocols":[],"machines":[62]}`) },
	"no-protocol":    func() { fmt.Println(`{"kind":"arch","name":"no-protocol","machines":[62]}`) },
	// says [1] here, and [99] when it is asked in a call
	"other-protocol": func() { fmt.Println(`{"kind":"arch","name":"other-protocol","protocols":[1],"machines":[62]}`) },
}

// starting holds what goes wrong before the handshake is over.
var starting = map[string]func(){
	"exit-start":     func() { fmt.Fprintln(os.Stderr, "cannot find my data"); os.Exit(3) },
	"hang-handshake": func() { time.Sleep(forever) },
	"hang-connect": func() {
		socket := filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "s")
		if _, err := net.Listen("unix", socket); err != nil {
			os.Exit(1)
		}
		fmt.Printf("1|1|unix|%s|grpc|%s\n", socket, certificate())
		time.Sleep(forever)
	},
	"bad-certificate": func() {
		fmt.Printf("1|1|unix|/nowhere|grpc|%s\n", strings.Repeat("A", 400))
		time.Sleep(forever)
	},
	"garbage-line":  func() { fmt.Println("usage: garbage-line [options]"); time.Sleep(forever) },
	"garbage-flood": func() { fmt.Print(strings.Repeat("garbage", 1<<18)); time.Sleep(forever) },
	"lies-protocol": func() { fmt.Println("1|9|unix|/nowhere|grpc|"); time.Sleep(forever) },
	"text-protocol": func() { fmt.Println("1|one|unix|/nowhere|grpc|"); time.Sleep(forever) },
	"later-core":    func() { fmt.Println("2|1|unix|/nowhere|grpc|"); time.Sleep(forever) },
	"netrpc":        func() { fmt.Println("1|1|unix|/nowhere|netrpc|"); time.Sleep(forever) },
	"no-certificate": func() {
		fmt.Println("1|1|unix|/nowhere|grpc|")
		time.Sleep(forever)
	},
}

// certificate returns one that a host can read, as the handshake has it.
func certificate() string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(forever)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return base64.RawStdEncoding.EncodeToString(der)
}

// misbehaver is the plugin of a mode, of both kinds.
type misbehaver struct {
	arch.Unimplemented
	mode string
}

func (m misbehaver) Info(context.Context) (*plugin.Info, error) {
	info := &plugin.Info{Name: m.mode, Version: "1.0", Machines: []uint16{62}}
	switch m.mode {
	case "old-and-new":
		info.Protocols = []int{1, 99}
	case "other-protocol":
		info.Protocols = []int{99}
	}
	return info, nil
}

func (m misbehaver) Configure(_ context.Context, config map[string]string) error {
	if m.mode == "wants-key" {
		return plugin.CheckConfig(config, []plugin.ConfigKey{{Name: "colour", Description: "of the bike shed", Required: true}})
	}
	return plugin.CheckConfig(config, nil)
}

func (m misbehaver) Describe(ctx context.Context, req *arch.DescribeRequest) (*arch.DescribeResponse, error) {
	ok := &arch.DescribeResponse{Objects: make([]arch.ObjectDescription, len(req.Objects))}
	switch m.mode {
	case "exit-call":
		fmt.Fprintln(os.Stderr, "I have had enough")
		os.Exit(4)
	case "hang-call", "deaf":
		time.Sleep(forever)
	case "frozen":
		syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		time.Sleep(forever) // the other threads go on for a moment
	case "obeys":
		if err := os.WriteFile(req.Objects[0].Path, []byte("begun"), 0o600); err != nil {
			return nil, err
		}
		<-ctx.Done()
		time.Sleep(300 * time.Millisecond)
		return nil, errors.Join(ctx.Err(), os.WriteFile(req.Objects[0].Path, []byte("cleaned up"), 0o600))
	case "panics":
		var none *arch.DescribeRequest
		return nil, fmt.Errorf("%v", none.Objects)
	case "panics-aside":
		go panic("aside")
		time.Sleep(forever)
	case "returns-nothing":
		return nil, nil
	case "plain-error":
		return nil, errors.New("open \xff: no such file")
	case "diagnostic":
		d := plugin.Errorf(plugin.FaultPatch, "net/core/dev.o", "the section %s is odd", ".text")
		d.Detail = "expected 1, found 2"
		return nil, fmt.Errorf("describe: %w", d)
	case "wrong-count":
		ok.Objects = append(ok.Objects, arch.ObjectDescription{})
	case "wrong-index":
		ok.Objects[0].Sites = []arch.Site{{Section: 1, Kind: "x", Key: 12}}
	case "unsorted":
		ok.Objects[0].Functions = []arch.Function{{Section: 2, Parent: -1}, {Section: 1, Parent: -1}}
	case "huge":
		ok.Objects[0].Functions = []arch.Function{{Name: strings.Repeat("x", plugin.MaxMessage)}}
	case "noisy":
		noise()
	case "child":
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		pids := fmt.Sprintf("%d %d", os.Getpid(), cmd.Process.Pid)
		return ok, os.WriteFile(req.Objects[0].Path, []byte(pids), 0o600)
	}
	return ok, nil
}

func (m misbehaver) Redirect(_ context.Context, req *arch.RedirectRequest) (*arch.RedirectResponse, error) {
	resp := &arch.RedirectResponse{Redirects: make([]arch.Redirect, len(req.Functions))}
	for i := range resp.Redirects {
		resp.Redirects[i].Kind = arch.RedirectKind(m.mode)
	}
	return resp, nil
}

// noise writes what must not disturb a host: to stdout behind the handshake, and to stderr lines that look like logs.
func noise() {
	out := os.NewFile(1, "stdout")
	fmt.Fprintln(out, "1|1|unix|/nowhere|grpc|")
	fmt.Fprint(out, strings.Repeat("no end of line ", 1<<15))
	errs := os.NewFile(2, "stderr")
	fmt.Fprintln(errs, `{"@message":5,"@level":[],"@timestamp":"never"}`)
	fmt.Fprintln(errs, `{"@message":"a warning of mine","@level":"warn","answer":42}`)
	fmt.Fprintln(errs, strings.Repeat("x", 1<<20))
}

// builder is the backend of a mode.
type builder struct {
	backend.Unimplemented
	mode string
}

func (b builder) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Name: b.mode, Version: "1.0"}, nil
}

func (b builder) Prepare(ctx context.Context, req *backend.PrepareRequest, progress plugin.ProgressFunc) (*backend.Tree, error) {
	progress(plugin.Progress{Stage: "unpack", Message: "one of two", Done: 1, Total: 2})
	progress(plugin.Progress{Stage: "unpack", Message: "bytes \xff", Done: 2, Total: 2})
	tree := &backend.Tree{
		ID: "1", Root: "/t", Source: "/t/s", Build: "/t/b", Release: req.Release, Machine: 62, Config: "/t/b/.config", Symvers: "/t/b/Module.symvers",
	}
	switch b.mode {
	case "obeys":
		<-ctx.Done()
		return nil, errors.Join(ctx.Err(), os.WriteFile(req.CacheDir+"/cleaned", nil, 0o600))
	case "deaf":
		time.Sleep(forever)
	case "exit-call":
		os.Exit(4)
	case "talks-after":
		go func() {
			for range 1000 {
				progress(plugin.Progress{Stage: "late"})
				time.Sleep(time.Millisecond)
			}
		}()
	case "other-tree":
		tree.Source = "/etc"
	}
	return tree, nil
}

func main() {
	kind, mode, ok := strings.Cut(filepath.Base(os.Args[0]), "-")
	if !ok {
		fmt.Fprintln(os.Stderr, "misbehave: the file name must be KIND-MODE")
		os.Exit(2)
	}
	if len(os.Args) == 2 && os.Args[1] == "describe" {
		if wrong := describing[mode]; wrong != nil {
			wrong()
			return
		}
	} else if wrong := starting[mode]; wrong != nil {
		wrong()
		return
	}
	deaf := mode == "deaf" && len(os.Args) == 1
	if deaf {
		signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	}
	if kind == "backend" {
		backend.Serve(builder{mode: mode})
	} else {
		arch.Serve(misbehaver{mode: mode})
	}
	if deaf {
		time.Sleep(forever)
	}
}
