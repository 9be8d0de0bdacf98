package transform_test

import (
	"context"
	"os"

	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
)

// Plugin takes one changed initialiser upon itself: the new value is written where the running kernel still has the old one.
type Plugin struct{ transform.Unimplemented }

// Info implements plugin.Base.
func (Plugin) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Name: "acme", Version: "0.1.0", Description: "Carries Acme's limits."}, nil
}

// Plan implements transform.Transform.
func (Plugin) Plan(_ context.Context, req *transform.PlanRequest) (*transform.PlanResponse, error) {
	resp := &transform.PlanResponse{Because: map[string]string{}}
	for _, i := range req.Items {
		if i.Kind == transform.ItemInitialiser && i.Unit == "drivers/acme/acme.o" && i.Name == "acme_limit" {
			resp.Claimed = append(resp.Claimed, i.ID)
			resp.Rewrites = append(resp.Rewrites, i.ID)
			resp.Because[i.ID] = "the limit is a plain number"
		}
	}
	return resp, nil
}

// The main function of a plugin calls Serve, and nothing else. This one was started as `transform-acme describe`, which shows who it is.
func ExampleServe() {
	os.Args = []string{"transform-acme", "describe"}

	transform.Serve(Plugin{})

	// Output:
	// {
	//   "kind": "transform",
	//   "name": "acme",
	//   "version": "0.1.0",
	//   "protocols": [
	//     1
	//   ],
	//   "description": "Carries Acme's limits."
	// }
}
