package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kept"
	"github.com/ksplice/ksplice/core/update"
)

// members lists the applied transactions of updates, the latest first: what stands on another comes before it.
func members(ids []string) ([]engine.Applied, error) {
	updates, err := engine.Updates()
	if err != nil {
		return nil, err
	}
	var out []engine.Applied
	for _, a := range slices.Backward(updates) {
		if a.Stage == "applied" && slices.Contains(ids, engine.UpdateID(a.ID)) {
			out = append(out, a)
		}
	}
	return out, nil
}

// replaceable refuses to replace what the new update stands on.
func replaceable(u *update.Update, ids []string) error {
	for _, id := range ids {
		if slices.Contains(u.Manifest.Base, id) {
			return fmt.Errorf("update %s was made to stand on %s (create --on): it cannot replace it", u.Manifest.ID, id)
		}
	}
	going, err := members(ids)
	if err != nil {
		return err
	}
	for _, a := range going {
		if list, err := kept.Default().ReadTransfers(a.ID); err != nil || len(list) > 0 {
			return errors.Join(err, fmt.Errorf("update %s has transferred state, which is taken back by undo alone: undo it first, and then apply %s", a.ID, u.Manifest.ID))
		}
	}
	return nil
}

// bury takes away what is left of updates that went in the stop. What cannot be taken away now is an orphan, which the next run clears.
func (s *session) bury(ctx context.Context, gone []engine.Applied) {
	for _, a := range gone {
		if a.StaysMapped {
			continue
		}
		for _, name := range slices.Backward(a.Parts) {
			if err := engine.Unload(context.WithoutCancel(ctx), name); err != nil {
				s.opts.Log.Warn("a part of a replaced update cannot be removed; the next run tries again", "part", name, "error", err)
			}
		}
	}
	d, err := engine.Open()
	if err == nil {
		defer d.Close()
		for _, id := range s.opts.Replace {
			if err = forget(d, id); err != nil {
				break
			}
		}
	}
	if err != nil {
		s.opts.Log.Warn("the replaced updates still wait for modules", "updates", strings.Join(s.opts.Replace, ", "), "error", err)
	}
}
