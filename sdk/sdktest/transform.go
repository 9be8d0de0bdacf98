package sdktest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
)

// TransformFixtures are what the suite asks a transform plugin about.
type TransformFixtures struct {
	// Requests are reports that a host could make; their Round is 0.
	Requests []*transform.PlanRequest
	// Config is given in Configure.
	Config map[string]string
}

// Transform checks the contract of a transform plugin: the implementation, or the client of a launched one (LaunchTransform).
func Transform(t *testing.T, p transform.Transform, fix TransformFixtures) {
	t.Helper()
	if _, ok := p.(*transform.Client); !ok {
		p = ServeTransform(t, p)
	}
	s := &transformSuite{Transform: p, fix: fix, dir: t.TempDir()}
	runChecks(t, s.checks(), checkTimeout)
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

func (s *transformSuite) cancel(ctx context.Context) error {
	for i := range 4 {
		for _, req := range s.fix.Requests {
			if err := givenUp(ctx, i, func(ctx context.Context) error {
				_, err := s.Plan(ctx, req)
				return err
			}); err != nil {
				return err
			}
		}
	}
	return s.planNothing(ctx)
}

// givenUp runs a call and gives it up after 4^i microseconds, with i 0 before it begins. It is an error when the call fails by
// anything but that, or still runs a minute later.
func givenUp(ctx context.Context, i int, call func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if i == 0 {
		cancel()
	} else {
		defer time.AfterFunc(time.Microsecond<<(2*min(i, 12)), cancel).Stop()
	}
	done := make(chan error, 1)
	go func() { done <- call(ctx) }()
	select {
	case err := <-done:
		if err == nil || errors.Is(err, context.Canceled) {
			return nil
		}
		return fmt.Errorf("a call that was given up: %w", err)
	case <-time.After(givenUpGrace):
		return fmt.Errorf("a call that was given up still runs after %s", givenUpGrace)
	}
}

// givenUpGrace is how long a call may clean up.
const givenUpGrace = time.Minute
