package plugin

import (
	"context"
	"os"
)

// Failure is what a mock does instead of answering: see the Mock of each kind.
type Failure string

// The failures.
const (
	FailNone  Failure = ""      // it answers
	FailError Failure = "error" // it returns a Diagnostic
	FailHang  Failure = "hang"  // it waits until the call is cancelled
	FailDeaf  Failure = "deaf"  // it never returns, cancelled or not
	FailPanic Failure = "panic" // it panics
	FailDie   Failure = "die"   // its process exits
	FailLie   Failure = "lie"   // its answer breaks the contract of the interface
	FailNil   Failure = "nil"   // it returns neither an answer nor an error
)

// Fail does what f says; only FailNone, FailLie and FailNil come back without an error: they are the mock's to do.
func (f Failure) Fail(ctx context.Context, call string) error {
	switch f {
	case FailError:
		return &Diagnostic{Fault: FaultMachine, Summary: call + " fails", Detail: "the mock was told to", Where: "mock"}
	case FailHang:
		<-ctx.Done()
		return ctx.Err()
	case FailDeaf:
		select {}
	case FailPanic:
		panic("the mock was told to panic in " + call)
	case FailDie:
		os.Exit(17)
	}
	return nil
}
