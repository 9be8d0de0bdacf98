package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/trust"
	"github.com/ksplice/ksplice/core/update"
)

// keys reads whom this machine trusts.
func (e *env) keys() (*trust.Keys, error) {
	dirs := e.config.Trust.Keys
	if dirs == nil { // an empty list trusts nobody
		dirs = []string{trust.DefaultDir}
	}
	return trust.ReadKeys(dirs, os.Geteuid() == 0)
}

// signatures returns those that an update has: its own, and those in a file beside it, which may be over the whole file as well. Where that file is
// bad they are the update's own, and the error says what it is.
func signatures(path string, s *update.Sealed) ([]trust.Signed, error) {
	out := []trust.Signed{{Signatures: s.Signatures, Contents: [][]byte{s.Content}}}
	list, err := beside(path + trust.DetachedSuffix)
	if len(list) > 0 {
		out = append(out, trust.Signed{Signatures: list, Contents: [][]byte{s.Bytes(), s.Content}})
	}
	return out, err
}

// beside reads a file of signatures. One that is not there has none.
func beside(path string) ([]trust.Signature, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // opening a pipe would wait
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, usagef("read signatures: %v", err)
	}
	defer f.Close()
	const mend = "sign anew, or remove the file"
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, usagef("read signatures: %v", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: %w: it is no regular file; %s", path, trust.ErrSignature, mend)
	}
	text, err := io.ReadAll(io.LimitReader(f, trust.MaxSignatures+1))
	if err != nil {
		return nil, usagef("read signatures: %v", err)
	}
	list, err := trust.ParseSignatures(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; %s", path, err, mend)
	}
	return list, nil
}

// passOver says that a bad file of signatures beside an update is passed over: who could bring it could have left it away.
func (e *env) passOver(bad error) {
	if bad != nil {
		e.log.Warn("the file of signatures beside the update is passed over", "error", bad)
	}
}

// judge says what an update's signatures are worth. Where the keys cannot be read, none is known.
func (e *env) judge(path string, s *update.Sealed) []trust.Verdict {
	signed, bad := signatures(path, s)
	e.passOver(bad)
	keys, err := e.keys()
	if err != nil {
		e.log.Warn("nobody's signature can be verified", "error", err)
		keys = &trust.Keys{}
	}
	return keys.Judge(time.Now(), signed...)
}

// vouched returns the first trusted of the signatures that signatures gave with bad, and the keys by which it is. Where none is, bad comes first.
func (e *env) vouched(signed []trust.Signed, bad error) (*trust.Verdict, *trust.Keys, error) {
	keys, err := e.keys()
	if err != nil {
		return nil, nil, err
	}
	by, err := keys.Verify(time.Now(), signed...)
	if err != nil {
		return nil, nil, cmp.Or(bad, err)
	}
	e.passOver(bad)
	return by, keys, nil
}

func printSignatures(w io.Writer, verdicts []trust.Verdict) {
	if len(verdicts) == 0 {
		fmt.Fprintf(w, "signed\tby nobody\t\n")
	}
	for _, v := range verdicts {
		by := "key " + v.Key
		if v.Name != "" {
			by = v.Name + ", " + by
		}
		what := string(v.Status)
		if v.Comment != "" {
			what += ": " + strings.ReplaceAll(v.Comment, "\t", " ") // minisign separates with tabs, and so do we columns
		}
		fmt.Fprintf(w, "signed\t%s\t%s\n", by, what)
	}
}

// trusted is whom an update must be of before it is looked into.
type trusted struct {
	allow bool
	by    *trust.Verdict // nil: of nobody, which is allowed

	// What was verified: the file, and the signatures beside it.
	sealed *update.Sealed
	beside []trust.Signature
	fs     *pflag.FlagSet
}

func (t *trusted) flags(fs *pflag.FlagSet) {
	t.fs = fs
	fs.BoolVar(&t.allow, "allow-unsigned", false, "take an update that nobody whom this machine trusts has signed")
}

// verify wants somebody trusted to have signed the update, or that not to matter.
func (t *trusted) verify(e *env, path string, s *update.Sealed) error {
	allow := t.allow
	if !t.fs.Changed("allow-unsigned") {
		allow = e.config.Trust.AllowUnsigned
	}
	t.sealed = s
	signed, bad := signatures(path, s)
	for _, beside := range signed[1:] {
		t.beside = beside.Signatures
	}
	var err error
	t.by, _, err = e.vouched(signed, bad)
	if err != nil && allow {
		// Who could bring a bad signature could have left it away.
		e.log.Info("the update is of nobody whom this machine trusts", "file", path, "error", err)
		return nil
	}
	return err
}

func (t *trusted) print(w io.Writer) {
	if t.by == nil {
		fmt.Fprintf(w, "signed\tby nobody whom this machine trusts, which is allowed\n")
		return
	}
	fmt.Fprintf(w, "signed\tby %s, key %s\n", t.by.Name, t.by.Key)
}

// trustedReport is what apply and check report, and whose update it was.
type trustedReport struct {
	*apply.Report
	SignedBy *trust.Verdict `json:"signed_by"`
}

func (t *trusted) report(r *apply.Report) trustedReport { return trustedReport{r, t.by} }

func verifyCommand() *command {
	return &command{
		name: "verify", args: "FILE", summary: "say who has signed an update, and whether this machine trusts them",
		help: `Signatures are minisign's: in the update itself (ksplice create --sign, ksplice sign), or beside it in FILE.minisig
(minisign -Sm FILE). One that this machine trusts suffices, whatever others there are: where it is in the update itself, a FILE.minisig that
is none is passed over, with a warning. What follows the update in its own file must be whole signatures, or it is no update: the file
was altered. What the update holds is not looked at.

The keys lie in ` + trust.DefaultDir + `, or where the configuration says ([trust] keys; an empty list trusts nobody). NAME.pub is a public key as minisign
and ksplice keygen write it, and root's own. Lines may be added below it, which minisign does not read:

    valid-from: 2026-01-01
    valid-until: 2027-12-31

The last day is included; days are UTC's. An expired key's signatures count no more, whenever they were made. NAME.revoked is
a key that must not be trusted any more, whatever NAME.pub says: mv acme.pub acme.revoked, and it is so for good, whoever puts
acme.pub back. Its signatures count for nothing; those that others have made of the same update do.

Updates are what the kernel is going to run: compare a key with what its owner publishes before you put it there.`,
		example: "ksplice verify fix.ksplice\ncp acme.pub " + trust.DefaultDir + "/ && ksplice verify fix.ksplice",
		run: func(ctx context.Context, e *env, args []string) error {
			path, err := one(args, "update file")
			if err != nil {
				return err
			}
			s, err := readSealed(ctx, path)
			if err != nil {
				return err
			}
			signed, bad := signatures(path, s)
			_, keys, err := e.vouched(signed, bad)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			verdicts := keys.Judge(time.Now(), signed...)
			return e.result(map[string][]trust.Verdict{"signatures": verdicts}, func(w io.Writer) { printSignatures(w, verdicts) })
		},
	}
}
