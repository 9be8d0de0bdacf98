package machine

import (
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/engine"
)

// Effective is the version of the kernel that runs in effect: what was booted, and what was applied to it since.
type Effective struct {
	// Release and Booted are the kernel's that was booted, as uname -r and uname -v print them; neither changes when updates are applied.
	Release string `json:"release"`
	Booted  string `json:"version"`
	// Version is what the vendor of an applied update says that it makes of this kernel (create --effective): of the latest that says so, and is
	// in force as a whole. Empty where none does.
	Version string `json:"effective,omitempty"`
	// By is that update's ID.
	By string `json:"effective_by,omitempty"`
	// Updates are those in force, in the order in which they were applied.
	Updates []InForce `json:"updates"`
}

// InForce is an update that is applied.
type InForce struct {
	ID          string `json:"id"`
	Description string `json:"description"`
	// Effective is what its vendor says that it makes of the kernel.
	Effective string `json:"effective,omitempty"`
	// Without are loaded modules that run without their part of it.
	Without []string `json:"without,omitempty"`
}

// Effective says which version of the kernel runs in effect. An update of which nothing is applied, as it waits for modules, does not count:
// those are not loaded, and nothing of what it mends runs; but it does count that a loaded module runs without its part.
func (m *Machine) Effective() Effective {
	e := Effective{Release: m.Release, Booted: m.Version, Updates: []InForce{}}
	without := map[string][]string{}
	for _, s := range m.Updates {
		if s.Armed != nil && s.Armed.Live {
			without[s.Armed.ID] = append(without[s.Armed.ID], s.Armed.Module)
		}
	}
	for _, s := range m.Updates {
		id := engine.UpdateID(s.ID)
		if s.Stage != "applied" || slices.ContainsFunc(e.Updates, func(u InForce) bool { return u.ID == id }) {
			continue
		}
		u := InForce{ID: id, Description: s.Description, Without: without[id]}
		if manifest := m.Manifests[id]; manifest != nil {
			u.Effective = manifest.Effective
		}
		if u.Effective != "" && len(u.Without) == 0 {
			e.Version, e.By = u.Effective, id
		}
		e.Updates = append(e.Updates, u)
	}
	return e
}

// String is the version on one line: "6.1.0-57-amd64 (6.1.194-1) +3f9c2ab1 +0badcafe?". The release is always its first word; a question mark says
// that a module runs without its part of the update.
func (e *Effective) String() string {
	var b strings.Builder
	b.WriteString(e.Release)
	if e.Version != "" {
		b.WriteString(" (" + e.Version + ")")
	}
	for _, u := range e.Updates {
		b.WriteString(" +" + u.ID)
		if len(u.Without) > 0 {
			b.WriteByte('?')
		}
	}
	return b.String()
}
