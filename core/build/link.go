package build

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// moduleSuffix is that of modules in the cache, beside objects.
const moduleSuffix = ".ko"

// Link has a module made, or takes it from the cache: of the same tree, glue, objects and script the same bytes are made. Tree, Name,
// Glue, Objects, Script and Provided are the caller's; the work directory is made here. The module stays until Close.
func (b *Builder) Link(ctx context.Context, req *backend.LinkRequest, progress plugin.ProgressFunc) (*backend.LinkResponse, error) {
	root, err := b.root()
	if err != nil {
		return nil, err
	}
	key, err := linkKey(req)
	if err != nil {
		return nil, err
	}
	dir, done, err := b.Temporary("link")
	if err != nil {
		return nil, err
	}
	kept := filepath.Join(root, "objects", key[:2], key[2:34])
	if module, ok := keptModule(kept, key); ok {
		path := filepath.Join(dir, req.Name+moduleSuffix)
		if err := os.WriteFile(path, module, 0o644); err != nil {
			done()
			return nil, fmt.Errorf("link %s: %w", req.Name, err)
		}
		return &backend.LinkResponse{Module: path}, nil
	}
	r := *req
	r.WorkDir = dir
	resp, err := b.backend.Link(ctx, &r, orSilent(progress))
	var module []byte
	if err == nil {
		var rerr error
		if module, rerr = os.ReadFile(resp.Module); rerr != nil {
			err = plugin.Errorf(plugin.FaultInternal, req.Name, "the backend says that it made the module, but: %v", rerr)
		}
	}
	if err != nil {
		done()
		return nil, err
	}
	for i := range resp.Diagnostics {
		b.log.Warn("link", "module", req.Name, "message", resp.Diagnostics[i].Error())
	}
	if len(resp.Diagnostics) == 0 { // who has something to say says it each time
		if err := keepModule(kept, key, module); err != nil {
			b.log.Warn("the module is not kept", "error", err)
		}
	}
	return resp, nil
}

// linkKey is a digest of all that a module is made of.
func linkKey(req *backend.LinkRequest) (string, error) {
	glue, err := json.Marshal(req.Glue) // maps by name
	if err != nil {
		return "", fmt.Errorf("link %s: %w", req.Name, err)
	}
	provided, err := json.Marshal(req.Provided)
	if err != nil {
		return "", fmt.Errorf("link %s: %w", req.Name, err)
	}
	parts := []string{layout, "link", req.Tree.ID, req.Name, string(glue), req.Script, string(provided)}
	for _, o := range req.Objects {
		content, err := os.ReadFile(o)
		if err != nil {
			return "", fmt.Errorf("link %s: %w", req.Name, err)
		}
		parts = append(parts, filepath.Base(o), sum(content))
	}
	return digest(parts...), nil
}

// keptModule reads a module from the cache. One that was altered is none.
func keptModule(base, key string) ([]byte, bool) {
	var want string
	if !readSealed(base+recordSuffix, key, &want) {
		return nil, false
	}
	module, err := os.ReadFile(base + moduleSuffix)
	if err != nil || sum(module) != want {
		return nil, false
	}
	return module, true
}

func keepModule(base, key string, module []byte) error {
	if err := writeFile(base+moduleSuffix, module); err != nil {
		return err
	}
	return writeSealed(base+recordSuffix, key, sum(module))
}
