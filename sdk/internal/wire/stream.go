package wire

import (
	"errors"
	"io"
	"sync"

	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
)

// Progress returns the function that a plugin's long call reports with, and one that ends it. Events sent after the end
// are dropped: a goroutine which outlives its call must not write on a finished stream.
func Progress(send func(*pb.Progress) error) (report plugin.ProgressFunc, end func()) {
	var mu sync.Mutex
	ended := false
	report = func(p plugin.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if ended {
			return
		}
		// An error means that the host has gone or gave the call up; its context says so too.
		ended = send(&pb.Progress{Stage: Text(p.Stage), Message: Text(p.Message), Done: p.Done, Total: p.Total}) != nil
	}
	return report, func() {
		mu.Lock()
		defer mu.Unlock()
		ended = true
	}
}

// event is one message of a long call's stream.
type event[R any] interface {
	GetProgress() *pb.Progress
	GetResult() *R
}

// Receive reads the stream of a long call to its end: progress events, then exactly one result.
func Receive[R any, E event[R]](label, call string, recv func() (E, error), progress plugin.ProgressFunc) (*R, error) {
	var result *R
	for {
		e, err := recv()
		if errors.Is(err, io.EOF) {
			if result == nil {
				return nil, Nonsense(label, call, errors.New("it ended without a result"))
			}
			return result, nil
		}
		if err != nil {
			return nil, FromStatus(call, err)
		}
		if p := e.GetProgress(); p != nil {
			if progress != nil {
				progress(plugin.Progress{Stage: p.GetStage(), Message: p.GetMessage(), Done: p.GetDone(), Total: p.GetTotal()})
			}
			continue
		}
		if result != nil || e.GetResult() == nil {
			return nil, Nonsense(label, call, errors.New("it has an empty event, or a second result"))
		}
		result = e.GetResult()
	}
}
