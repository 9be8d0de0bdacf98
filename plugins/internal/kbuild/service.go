package kbuild

import (
	"context"

	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Service serves the calls of backend.Backend that need a tree only. Backends embed it.
type Service struct{}

// Units finds translation units; see Units.
func (Service) Units(ctx context.Context, req *backend.UnitsRequest) (*backend.UnitsResponse, error) {
	return Units(ctx, req)
}

// Compile compiles units; see Compile.
func (Service) Compile(ctx context.Context, req *backend.CompileRequest, progress plugin.ProgressFunc) (*backend.CompileResponse, error) {
	return Compile(ctx, req, progress)
}

// Link makes a module; see Link.
func (Service) Link(ctx context.Context, req *backend.LinkRequest, progress plugin.ProgressFunc) (*backend.LinkResponse, error) {
	return Link(ctx, req, progress)
}

// Facts evaluates constant expressions; see Facts.
func (Service) Facts(ctx context.Context, req *backend.FactsRequest) (*backend.FactsResponse, error) {
	return Facts(ctx, req)
}
