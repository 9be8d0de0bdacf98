package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/ksplice/ksplice/core/modsign"
	"github.com/ksplice/ksplice/core/update"
)

// signingFlags say who signs the parts of an update.
type signingFlags struct{ key, cert, command string }

func (f *signingFlags) flags(fs *pflag.FlagSet) {
	fs.StringVar(&f.key, "module-key", "", "sign the update's parts with the private key in this `FILE` (PEM or DER, not encrypted)")
	fs.StringVar(&f.cert, "module-cert", "", "the key's X.509 certificate, a `FILE` in PEM or DER (default: in that of --module-key)")
	fs.StringVar(&f.command, "module-signer", "", "sign with a `COMMAND`: it gets a part's path as its last argument, and signs that file, or writes the signature "+
		"(PKCS#7, DER, detached) to standard output; it may ask at the terminal, /dev/tty; --module-cert says whose it must be")
}

// signer returns who signs, nil where nobody does, and what people should know of the certificate.
func (f *signingFlags) signer(now time.Time) (modsign.Signer, []string, error) {
	switch {
	case f.key != "" && f.command != "":
		return nil, nil, usagef("--module-key and --module-signer: one or the other signs")
	case f.key == "" && f.command == "" && f.cert != "":
		return nil, nil, usagef("--module-cert goes with --module-key or --module-signer")
	case f.key == "" && f.command == "":
		return nil, nil, nil
	}
	if f.cert == "" {
		f.cert = f.key
	}
	var cert *x509.Certificate
	var notes []string
	if f.cert != "" {
		text, err := os.ReadFile(f.cert)
		if err != nil {
			return nil, nil, usagef("the certificate to sign with: %v", err)
		}
		if cert, err = modsign.ParseCertificate(text, now); err != nil {
			return nil, nil, usagef("%s: %v", f.cert, err)
		}
		notes = modsign.Notes(cert)
	}
	if f.command != "" {
		return &modsign.Command{Line: f.command, Cert: cert}, notes, nil
	}
	text, err := os.ReadFile(f.key)
	if err != nil {
		return nil, nil, usagef("the key to sign with: %v", err)
	}
	key, err := modsign.LoadKey(text, cert)
	if err != nil {
		return nil, nil, usagef("%s: %v", f.key, err)
	}
	return key, notes, nil
}

// moduleSignatures says who signed the parts of an update, by their names; nil: nobody did.
func moduleSignatures(u *update.Update) (map[string]*modsign.Signature, error) {
	out := map[string]*modsign.Signature{}
	for i := range u.Manifest.Parts {
		p := &u.Manifest.Parts[i]
		s, err := modsign.Parse(u.Files[p.File])
		if err != nil && !errors.Is(err, modsign.ErrUnsigned) {
			return nil, fmt.Errorf("%w: part %s: %w", update.ErrAltered, p.Name, err)
		}
		out[p.Name] = s
	}
	return out, nil
}
