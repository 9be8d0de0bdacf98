package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
)

// TransformFixtures are what the suite asks a transform plugin about.
type TransformFixtures struct {
	// Requests are reports that a host could make, of items that the plugin claims and of others; their Round is 0.
	Requests []*transform.PlanRequest
	// Transfers are state transfers that a host could ask for.
	Transfers []TransferFixture
	// Config is given in Configure.
	Config map[string]string
}

// TransferFixture is one state transfer, and the kernel that it finds.
type TransferFixture struct {
	// Request is what the host asks; the suite asks it with Undo besides.
	Request transform.TransferRequest
	// Walk stands for the running kernel: it returns what a walk finds there, with one value for each member that the walk reads. It is called
	// anew for every transfer, from several goroutines at once where the plugin walks so.
	Walk func(w *transform.Walk) ([]transform.Object, error)
	// Check, where set, returns what is wrong with what the plugin wants changed.
	Check func(undo bool, resp *transform.TransferResponse) error
}

// Transform are the checks of a transform plugin; dir is theirs to write to.
func Transform(p transform.Transform, fix TransformFixtures, dir string) []Check {
	s := &transformSuite{Transform: p, fix: fix, dir: dir}
	return bounded(s.checks(), checkTimeout)
}

type transformSuite struct {
	transform.Transform
	fix TransformFixtures
	dir string
}

func (s *transformSuite) checks() []check {
	return append(baseChecks(plugin.KindTransform, s.Transform, s.fix.Config),
		check{"plan nothing", s.planNothing},
		check{"plan strangers", s.planStrangers},
		check{"plan", s.plan},
		check{"transfer", s.transfer},
		check{"transfer in a kernel that moves", s.moving},
		check{"cancel", s.cancel},
	)
}

func (s *transformSuite) planNothing(ctx context.Context) error {
	resp, err := s.Plan(ctx, &transform.PlanRequest{SourceDir: s.dir})
	if err != nil {
		return fmt.Errorf("plan for an empty report: %w", err)
	}
	if len(resp.Claimed)+len(resp.Edits) > 0 {
		return fmt.Errorf("for an empty report it claims %q and edits %d files", resp.Claimed, len(resp.Edits))
	}
	return nil
}

// planStrangers reports what no plugin can know.
func (s *transformSuite) planStrangers(ctx context.Context) error {
	for _, kind := range []transform.ItemKind{"sdktest", "", transform.ItemLayout, transform.ItemInitialiser} {
		item := transform.Item{ID: "sdktest:struct nobody_has_this", Kind: kind, Unit: "no/such/unit.o", Name: "nobody_has_this", Detail: "\xff\x00"}
		resp, err := s.Plan(ctx, &transform.PlanRequest{SourceDir: s.dir, Patch: []byte("no patch"), Items: []transform.Item{item}})
		if err := noPanic(fmt.Sprintf("Plan for an item of kind %q", kind), err); err != nil {
			return err
		}
		if err == nil && (kind == "sdktest" || kind == "") && len(resp.Claimed) > 0 {
			return fmt.Errorf("it claims an item of the kind %q, which it cannot know", kind)
		}
	}
	return nil
}

// maxRounds is how many rounds a host plans.
const maxRounds = 10

func (s *transformSuite) plan(ctx context.Context) error {
	for i, req := range s.fix.Requests {
		first, err := s.Plan(ctx, req)
		if err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		second, err := s.Plan(ctx, req)
		if err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		if err := same(fmt.Sprintf("Plan of request %d", i), first, second); err != nil {
			return err
		}
		// What it has claimed leaves the report; in the end nothing new must come.
		rest, settled := *req, false
		for round := range maxRounds {
			rest.Round = round
			resp, err := s.Plan(ctx, &rest)
			if err != nil {
				return fmt.Errorf("request %d, round %d: %w", i, round, err)
			}
			if len(resp.Claimed) == 0 {
				settled = true
				break
			}
			rest.Items = slices.DeleteFunc(slices.Clone(rest.Items), func(it transform.Item) bool { return slices.Contains(resp.Claimed, it.ID) })
		}
		if !settled {
			return fmt.Errorf("request %d: it still claims items in round %d", i, maxRounds)
		}
	}
	return nil
}

// finder is a fixture's kernel. It notes what it has told of, and fails from a walk on.
type finder struct {
	walk  func(w *transform.Walk) ([]transform.Object, error)
	fails int // the number of the walk that fails, from 1; 0: none
	walks int
	found map[handle]bool // address and type
}

func (f *finder) Walk(_ context.Context, w *transform.Walk) ([]transform.Object, error) {
	f.walks++
	if f.fails > 0 && f.walks >= f.fails {
		return nil, errMoved
	}
	for _, o := range w.From {
		if !f.found[of(o)] {
			return nil, fmt.Errorf("it walks from a %s at %#x, which no walk has found", o.Type, o.Address)
		}
	}
	out, err := f.walk(w)
	for i, o := range out {
		if err == nil && len(o.Values) != len(w.Read) {
			return nil, fmt.Errorf("the fixture gives %d values of object %d, the walk reads %d members", len(o.Values), i, len(w.Read))
		}
		f.found[of(o)] = true
	}
	return out, err
}

// handle names an object.
type handle struct {
	address uint64
	typ     string
}

func of(o transform.Object) handle { return handle{o.Address, o.Type} }

var errMoved = errors.New("nothing is mapped there")

// transfer wants the same of the same kernel each time, and nothing about objects that no walk has found.
func (s *transformSuite) transfer(ctx context.Context) error {
	for i, fix := range s.fix.Transfers {
		for _, undo := range []bool{false, true} {
			req := fix.Request
			req.Undo = undo
			var all [2]*transform.TransferResponse
			for k := range all {
				f := &finder{walk: fix.Walk, found: map[handle]bool{}}
				resp, err := s.Transfer(ctx, &req, f)
				if err != nil {
					return fmt.Errorf("transfer %d, undo %t: %w", i, undo, err)
				}
				for _, x := range resp.Sets {
					if !f.found[of(x.Object)] {
						return fmt.Errorf("transfer %d, undo %t: it sets %s of a %s at %#x, which no walk has found", i, undo, x.Path, x.Object.Type, x.Object.Address)
					}
				}
				for _, x := range resp.Attaches {
					if !f.found[of(x.Object)] || undo {
						return fmt.Errorf("transfer %d, undo %t: it attaches %s to a %s at %#x, which no walk has found, or at undo", i, undo, x.Field, x.Object.Type, x.Object.Address)
					}
				}
				all[k] = resp
			}
			if err := same(fmt.Sprintf("transfer %d, undo %t", i, undo), all[0], all[1]); err != nil {
				return err
			}
			if fix.Check == nil {
				continue
			}
			if err := fix.Check(undo, all[0]); err != nil {
				return fmt.Errorf("transfer %d, undo %t: %w", i, undo, err)
			}
		}
	}
	return nil
}

// moving fails each walk in turn: the transfer must fail, and the plugin be none the worse.
func (s *transformSuite) moving(ctx context.Context) error {
	for i, fix := range s.fix.Transfers {
		for fails := 1; ; fails++ {
			f := &finder{walk: fix.Walk, fails: fails, found: map[handle]bool{}}
			_, err := s.Transfer(ctx, &fix.Request, f)
			if f.walks < fails {
				break
			}
			if !errors.Is(err, errMoved) {
				return fmt.Errorf("transfer %d, whose walk %d fails: %w", i, fails, err)
			}
		}
	}
	return s.transfer(ctx)
}

func (s *transformSuite) cancel(ctx context.Context) error {
	for i := range 4 {
		for _, req := range s.fix.Requests {
			if err := givenUp(ctx, s.Transform, i, func(ctx context.Context) error {
				_, err := s.Plan(ctx, req)
				return err
			}); err != nil {
				return err
			}
		}
	}
	return s.planNothing(ctx)
}
