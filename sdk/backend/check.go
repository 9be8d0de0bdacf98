package backend

import (
	"fmt"
	"path/filepath"
	"strings"
)

// within says that path is dir or lies below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

func checkProbe(resp *ProbeResponse) error {
	if resp.Supported && resp.Banner == "" || !resp.Supported && resp.Reason == "" {
		return fmt.Errorf("supported is %t, with banner %q and reason %q", resp.Supported, resp.Banner, resp.Reason)
	}
	return nil
}

func checkTree(req *PrepareRequest, t *Tree) error {
	if t.ID == "" || t.Machine == 0 {
		return fmt.Errorf("a tree with ID %q for machine %d", t.ID, t.Machine)
	}
	if t.Release != req.Release {
		return fmt.Errorf("a tree of release %q where %q was asked for", t.Release, req.Release)
	}
	if req.Version != "" && t.Version != req.Version {
		return fmt.Errorf("a tree of version %q where %q was asked for", t.Version, req.Version)
	}
	if !filepath.IsAbs(t.Root) {
		return fmt.Errorf("the tree's root is %q, which is not absolute", t.Root)
	}
	for what, dir := range map[string]string{"source": t.Source, "build": t.Build} {
		if !filepath.IsAbs(dir) || !within(dir, t.Root) {
			return fmt.Errorf("the %s directory is %q, which is not below the root %s", what, dir, t.Root)
		}
	}
	for what, file := range map[string]string{"configuration": t.Config, "table of symbol versions": t.Symvers} {
		if !filepath.IsAbs(file) {
			return fmt.Errorf("the %s is %q, which is not absolute", what, file)
		}
	}
	if t.Image != "" && !filepath.IsAbs(t.Image) {
		return fmt.Errorf("the kernel's image is %q, which is not absolute", t.Image)
	}
	return nil
}

func checkUnits(resp *UnitsResponse) error {
	// A source stands for all units that include it, so there may be units of other sources than those asked for.
	for _, u := range resp.Units {
		if !filepath.IsLocal(u.Source) || !filepath.IsLocal(u.Object) {
			return fmt.Errorf("the unit %q with object %q is outside the tree", u.Source, u.Object)
		}
	}
	return nil
}

func checkCompile(req *CompileRequest, resp *CompileResponse) error {
	if got, want := len(resp.Results), len(req.Units); got != want {
		return fmt.Errorf("%d results for %d units", got, want)
	}
	for i, r := range resp.Results {
		if r.Unit != req.Units[i] {
			return fmt.Errorf("result %d is about %s instead of %s", i, r.Unit.Source, req.Units[i].Source)
		}
		if r.Object != "" && !filepath.IsAbs(r.Object) {
			return fmt.Errorf("the object of %s is %q, which is not absolute", r.Unit.Source, r.Object)
		}
	}
	return nil
}

func checkLink(resp *LinkResponse) error {
	if !filepath.IsAbs(resp.Module) {
		return fmt.Errorf("the module is %q, which is not absolute", resp.Module)
	}
	return nil
}

func checkFacts(req *FactsRequest, resp *FactsResponse) error {
	asked := make(map[string]bool, len(req.Expressions))
	for _, e := range req.Expressions {
		asked[e.Name] = true
		if _, ok := resp.Facts[e.Name]; !ok && e.If == "" {
			return fmt.Errorf("the fact %s is missing", e.Name)
		}
	}
	for name := range resp.Facts {
		if !asked[name] {
			return fmt.Errorf("the fact %q was not asked for", name)
		}
	}
	return nil
}
