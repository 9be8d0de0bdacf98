package transform

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"google.golang.org/grpc"

	"github.com/ksplice/ksplice/sdk/internal/wire"
	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
)

// chunk is how many objects or changes cross in one message: some hundred kilobytes.
const chunk = 4096

// Transfer implements Transform. It executes the plugin's walks by s, and fails with the error of the first of them that failed, whatever
// the plugin makes of that.
func (c *Client) Transfer(ctx context.Context, req *TransferRequest, s State) (*TransferResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.client.Transfer(ctx)
	if err != nil {
		return nil, wire.FromStatus("Transfer", err)
	}
	h := &hosted{label: c.Label, state: s, stream: stream}
	request := &pb.TransferRequest{Item: req.Item, Undo: req.Undo, Data: req.Data}
	if err := h.send(&pb.TransferCall{Call: &pb.TransferCall_Request{Request: request}}); err != nil {
		return nil, err
	}
	for !h.ended {
		e, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil, wire.Nonsense(c.Label, "Transfer", errors.New("it ended without a result"))
		case err != nil:
			return nil, h.failed(wire.FromStatus("Transfer", err))
		}
		if err := h.event(ctx, e); err != nil {
			return nil, err
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, h.failed(wire.FromStatus("Transfer", err))
		}
		return nil, wire.Nonsense(c.Label, "Transfer", errors.New("something follows its result"))
	}
	return &h.out, h.failed(nil)
}

// hosted is a transfer on the host's side.
type hosted struct {
	label  string
	state  State
	stream grpc.BidiStreamingClient[pb.TransferCall, pb.TransferEvent]
	out    TransferResponse
	ended  bool
	walk   error // of the first walk that failed
}

// failed is the error that says most.
func (h *hosted) failed(err error) error {
	if h.walk != nil {
		return h.walk
	}
	return err
}

// send sends a message. That the plugin does not read any more is told by what it sends.
func (h *hosted) send(m *pb.TransferCall) error {
	if err := h.stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
		return h.failed(wire.FromStatus("Transfer", err))
	}
	return nil
}

func (h *hosted) event(ctx context.Context, e *pb.TransferEvent) error {
	switch e := e.GetEvent().(type) {
	case *pb.TransferEvent_Walk:
		return h.answer(ctx, walkFrom(e.Walk))
	case *pb.TransferEvent_Changes:
		h.out.Sets = append(h.out.Sets, wire.Unpack(e.Changes.GetSets(), setFrom)...)
		h.out.Attaches = append(h.out.Attaches, wire.Unpack(e.Changes.GetAttaches(), attachFrom)...)
		for what, n := range map[string]int{"sets": len(h.out.Sets), "attachments": len(h.out.Attaches)} {
			if n > MaxChanges {
				return wire.Nonsense(h.label, "Transfer", &TooManyError{what})
			}
		}
		return nil
	case *pb.TransferEvent_Result:
		h.ended, h.out.Note = true, e.Result.GetNote()
		return nil
	}
	return wire.Nonsense(h.label, "Transfer", errors.New("it has an empty event"))
}

// answer executes a walk.
func (h *hosted) answer(ctx context.Context, w *Walk) error {
	found, err := h.state.Walk(ctx, w)
	if err != nil {
		h.walk = h.failed(err)
		return h.send(&pb.TransferCall{Call: &pb.TransferCall_Objects{Objects: &pb.Objects{Error: wire.Text(err.Error())}}})
	}
	for {
		n := min(chunk, len(found))
		m := &pb.Objects{Objects: wire.Pack(found[:n], objectTo), Last: n == len(found)}
		if err := h.send(&pb.TransferCall{Call: &pb.TransferCall_Objects{Objects: m}}); err != nil || m.Last {
			return err
		}
		found = found[n:]
	}
}

// Transfer serves Transform.Transfer.
func (s *server) Transfer(stream grpc.BidiStreamingServer[pb.TransferCall, pb.TransferEvent]) error {
	call, err := stream.Recv()
	if err != nil {
		return err
	}
	req := call.GetRequest()
	if req == nil {
		return plugin.Errorf(plugin.FaultInternal, "", "the host's first message of a transfer is no request")
	}
	resp, err := wire.Answer(s.impl.Transfer(stream.Context(),
		&TransferRequest{Item: req.GetItem(), Undo: req.GetUndo(), Data: req.GetData()}, &remote{stream: stream}))
	if err != nil {
		return err
	}
	send := func(e *pb.TransferEvent) error { return stream.Send(e) }
	for sets := range slices.Chunk(resp.Sets, chunk) {
		if err := send(&pb.TransferEvent{Event: &pb.TransferEvent_Changes{Changes: &pb.Changes{Sets: wire.Pack(sets, setTo)}}}); err != nil {
			return err
		}
	}
	for attaches := range slices.Chunk(resp.Attaches, chunk) {
		if err := send(&pb.TransferEvent{Event: &pb.TransferEvent_Changes{Changes: &pb.Changes{Attaches: wire.Pack(attaches, attachTo)}}}); err != nil {
			return err
		}
	}
	return send(&pb.TransferEvent{Event: &pb.TransferEvent_Result{Result: &pb.TransferResult{Note: wire.Text(resp.Note)}}})
}

// remote is the State behind a plugin's stream. Walks of several goroutines come one after the other.
type remote struct {
	mu     sync.Mutex // one walk at a time
	stream grpc.BidiStreamingServer[pb.TransferCall, pb.TransferEvent]
}

// Walk implements State.
func (r *remote) Walk(ctx context.Context, w *Walk) ([]Object, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := r.stream.Send(&pb.TransferEvent{Event: &pb.TransferEvent_Walk{Walk: walkTo(w)}}); err != nil {
		return nil, err
	}
	var out []Object
	for {
		call, err := r.stream.Recv()
		if err != nil {
			return nil, fmt.Errorf("walk: %w", err)
		}
		m := call.GetObjects()
		switch {
		case m == nil:
			return nil, plugin.Errorf(plugin.FaultInternal, "", "the host answers a walk with no objects")
		case m.GetError() != "":
			return nil, plugin.Errorf(plugin.FaultUser, "", "walk: %s", m.GetError())
		}
		out = append(out, wire.Unpack(m.GetObjects(), objectFrom)...)
		if m.GetLast() {
			return out, nil
		}
	}
}

func handleTo(o *Object) *pb.Handle { return &pb.Handle{Address: o.Address, Type: wire.Text(o.Type)} }

func handleFrom(h *pb.Handle) Object { return Object{Address: h.GetAddress(), Type: h.GetType()} }

func walkTo(w *Walk) *pb.Walk {
	out := &pb.Walk{Global: w.Global, Read: w.Read}
	for i := range w.From {
		out.From = append(out.From, handleTo(&w.From[i]))
	}
	out.Steps = wire.Pack(w.Steps, func(s *Step, to *pb.Step) {
		to.Kind, to.Path, to.Type, to.Link, to.Count = string(s.Kind), s.Path, s.Type, s.Link, s.Count
	})
	return out
}

func walkFrom(w *pb.Walk) *Walk {
	out := &Walk{Global: w.GetGlobal(), Read: w.GetRead()}
	for _, h := range w.GetFrom() {
		out.From = append(out.From, handleFrom(h))
	}
	out.Steps = wire.Unpack(w.GetSteps(), func(s *pb.Step, to *Step) {
		*to = Step{Kind: StepKind(s.GetKind()), Path: s.GetPath(), Type: s.GetType(), Link: s.GetLink(), Count: s.GetCount()}
	})
	return out
}

func objectTo(o *Object, to *pb.Object) {
	to.Address, to.Type, to.From, to.Index = o.Address, wire.Text(o.Type), o.From, o.Index
	to.Values = wire.Pack(o.Values, func(v *Value, to *pb.Value) { to.Bytes, to.Number, to.Missing = v.Bytes, v.Number, v.Missing })
}

func objectFrom(o *pb.Object, to *Object) {
	*to = Object{Address: o.GetAddress(), Type: o.GetType(), From: o.GetFrom(), Index: o.GetIndex()}
	to.Values = wire.Unpack(o.GetValues(), func(v *pb.Value, to *Value) {
		*to = Value{Bytes: v.GetBytes(), Number: v.GetNumber(), Missing: v.GetMissing()}
	})
}

func setTo(s *Set, to *pb.Set) {
	to.Object, to.Path, to.Number, to.Bytes = handleTo(&s.Object), s.Path, s.Number, s.Bytes
}

func setFrom(s *pb.Set, to *Set) {
	*to = Set{Object: handleFrom(s.GetObject()), Path: s.GetPath(), Number: s.GetNumber(), Bytes: s.GetBytes()}
}

func attachTo(a *Attach, to *pb.Attach) {
	to.Object, to.Field, to.Data = handleTo(&a.Object), a.Field, a.Data
}

func attachFrom(a *pb.Attach, to *Attach) {
	*to = Attach{Object: handleFrom(a.GetObject()), Field: a.GetField(), Data: a.GetData()}
}
