package create

import (
	"context"
	"fmt"

	"github.com/ksplice/ksplice/core/modsign"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// sign puts the vendor's signature behind every part. It comes last: a signing service is asked once for each, and the update's ID, which is
// over what the parts are made from, is the same whoever signs them.
func (r *run) sign(ctx context.Context, u *update.Update) error {
	config := r.target.Config
	if r.o.Signer == nil {
		if config["CONFIG_MODULE_SIG_FORCE"] == "y" {
			r.report.Notes = append(r.report.Notes, "this kernel loads signed modules only, and the update's parts are not signed: see --module-key")
		}
		return nil
	}
	r.stage("sign")
	if config["CONFIG_MODULE_SIG"] != "y" {
		r.report.Notes = append(r.report.Notes, "this kernel verifies no signatures of modules (CONFIG_MODULE_SIG is not set)")
	}
	hash, err := modsign.HashFor(config)
	if err != nil {
		return unsignable(err)
	}
	if r.o.Progress != nil {
		r.o.Progress(plugin.Progress{}) // nothing is shown over what a command asks at the terminal
	}
	for i := range u.Manifest.Parts {
		p := &u.Manifest.Parts[i]
		signed, err := r.o.Signer.Sign(ctx, u.Files[p.File], hash)
		if err != nil {
			return unsignable(fmt.Errorf("part %s: %w", p.Name, err))
		}
		s, err := modsign.Parse(signed)
		if err == nil {
			err = modsign.Verifies(config, s.Algorithm)
		}
		if err != nil {
			return unsignable(fmt.Errorf("part %s: %w", p.Name, err))
		}
		if i == 0 {
			r.o.Say("signed", fmt.Sprintf("by %s, %s", s, s.Hash))
		}
		u.Files[p.File], p.SHA256, p.Size = signed, update.Digest(signed), int64(len(signed))
	}
	return nil
}

// unsignable says that parts cannot be signed as was asked.
func unsignable(err error) error {
	return &plugin.Diagnostic{Fault: plugin.FaultUser, Summary: "the update's parts cannot be signed", Detail: err.Error()}
}
