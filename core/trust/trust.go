// Package trust decides whose updates a machine takes: by public keys that lie in directories, and signatures over an update file's bytes,
// both as minisign has them (https://jedisct1.github.io/minisign/, "Signature format" and "Public key format": ed25519 over BLAKE2b-512). It
// knows nothing of what is signed. The update file and the command line call it.
package trust

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"aead.dev/minisign"
)

// Status is what a signature is worth.
type Status string

// What a signature can be worth: only one that is StatusTrusted counts.
const (
	StatusTrusted Status = "trusted"
	// StatusUnknown: no key of the directories has the ID that the signature names.
	StatusUnknown Status = "unknown key"
	// StatusAltered: a key has that ID, and did not make the signature, or of other bytes.
	StatusAltered Status = "does not fit"
	// StatusEarly and StatusExpired: the key's signatures do not count yet, or any more.
	StatusEarly   Status = "not valid yet"
	StatusExpired Status = "expired"
	// StatusRevoked: the key must not be trusted any more.
	StatusRevoked Status = "revoked"
)

// Verdict is what a signature is worth on this machine.
type Verdict struct {
	// Key is the ID of the key that the signature names.
	Key    string `json:"key"`
	Status Status `json:"status"`
	// Name and File are the key's on this machine.
	Name string `json:"name,omitempty"`
	File string `json:"file,omitempty"`
	// Comment is what the key's owner has signed besides; of a signature that was verified only.
	Comment string `json:"comment,omitempty"`
	// When is the first instant at which the key counts, or the first at which it does not any more.
	When *time.Time `json:"when,omitempty"`
}

// Signed are signatures, and what they may be over: each over one of the contents.
type Signed struct {
	Signatures []Signature
	Contents   [][]byte
}

// Judge says of every signature what it is worth now.
func (k *Keys) Judge(now time.Time, signed ...Signed) []Verdict {
	out := []Verdict{} // for JSON
	for _, x := range signed {
		hashed := make([]*minisign.Reader, len(x.Contents))
		made := func(key *Key, s Signature) bool {
			text := s.Text()
			for i, content := range x.Contents {
				if hashed[i] == nil {
					hashed[i] = hash(content)
				}
				if hashed[i].Verify(key.public, text) {
					return true
				}
			}
			return false
		}
		for _, s := range x.Signatures {
			out = append(out, k.judge(now, s, made))
		}
	}
	return out
}

// hash reads content through, and can say then who has signed it.
func hash(content []byte) *minisign.Reader {
	r := minisign.NewReader(bytes.NewReader(content))
	_, _ = io.Copy(io.Discard, r) // memory gives no errors
	return r
}

// judge weighs one signature: a revoked key comes before all others, and of several trusted ones that are the same, one that counts now.
func (k *Keys) judge(now time.Time, s Signature, made func(*Key, Signature) bool) Verdict {
	best := Verdict{Key: s.KeyID(), Status: StatusUnknown}
	for _, key := range k.Revoked {
		if key.public.ID() == s.s.KeyID && made(key, s) {
			return key.verdict(s, StatusRevoked, time.Time{})
		}
	}
	for _, key := range k.Trusted {
		switch {
		case key.public.ID() != s.s.KeyID:
		case !made(key, s):
			if best.Status == StatusUnknown {
				best.Status, best.Name, best.File = StatusAltered, key.Name, key.File
			}
		case now.Before(key.From):
			best = key.verdict(s, StatusEarly, key.From)
		case !key.Until.IsZero() && !now.Before(key.Until):
			best = key.verdict(s, StatusExpired, key.Until)
		default:
			return key.verdict(s, StatusTrusted, key.Until)
		}
	}
	return best
}

func (k *Key) verdict(s Signature, status Status, when time.Time) Verdict {
	v := Verdict{Key: k.ID(), Status: status, Name: k.Name, File: k.File, Comment: s.s.TrustedComment}
	if !when.IsZero() {
		v.When = &when
	}
	return v
}

// Verify returns the first signature that is trusted: one suffices, since whoever alters a file can take the others away. Where there is none
// it returns a *RefusedError.
func (k *Keys) Verify(now time.Time, signed ...Signed) (*Verdict, error) {
	verdicts := k.Judge(now, signed...)
	for i := range verdicts {
		if verdicts[i].Status == StatusTrusted {
			return &verdicts[i], nil
		}
	}
	return nil, &RefusedError{Verdicts: verdicts, Dirs: k.Dirs, NoKeys: len(k.Trusted) == 0, Now: now}
}

// RefusedError says that nobody whom this machine trusts has signed an update.
type RefusedError struct {
	// Verdicts are the signatures' that it has.
	Verdicts []Verdict
	Dirs     []string
	// NoKeys says that the machine trusts no key at all.
	NoKeys bool
	Now    time.Time
}

// Error implements error.
func (e *RefusedError) Error() string {
	dirs := strings.Join(e.Dirs, " and ")
	if len(e.Dirs) == 0 {
		dirs = "a directory that [trust] keys of the configuration names (it names none)"
	}
	const yourself = "or take it upon yourself with --allow-unsigned"
	switch {
	case len(e.Verdicts) == 0 && e.NoKeys:
		return fmt.Sprintf("the update is not signed, and this machine trusts nobody's key: get a signed update and the public key from the vendor, and put the key into %s as NAME%s; %s",
			dirs, trustedSuffix, yourself)
	case len(e.Verdicts) == 0:
		return fmt.Sprintf("the update is not signed: get one from the vendor that is, with a key of %s; %s", dirs, yourself)
	}
	var b strings.Builder
	b.WriteString("nobody whom this machine trusts has signed the update:")
	for i := range e.Verdicts {
		fmt.Fprintf(&b, "\n  %s", e.Verdicts[i].advice(dirs, e.Now))
	}
	return b.String()
}

// advice says what is wrong with a signature, and what to do.
func (v *Verdict) advice(dirs string, now time.Time) string {
	switch v.Status {
	case StatusUnknown:
		return fmt.Sprintf("key %s is not in %s: if it is the vendor's, as he himself says, put it there as NAME%s", v.Key, dirs, trustedSuffix)
	case StatusAltered:
		return fmt.Sprintf("the signature is not one of key %s (%s) over these bytes: the file was altered since it was signed; get it again", v.Key, v.File)
	case StatusEarly:
		return fmt.Sprintf("key %s (%s) counts from %s on, and it is %s: set the clock, or wait", v.Key, v.File, v.When.Format(time.DateOnly), now.UTC().Format(time.DateOnly))
	case StatusExpired:
		return fmt.Sprintf("key %s (%s) counted until %s, and it is %s: get the update signed with the vendor's present key, and that key", v.Key, v.File,
			v.When.AddDate(0, 0, -1).Format(time.DateOnly), now.UTC().Format(time.DateOnly))
	case StatusRevoked:
		return fmt.Sprintf("key %s was revoked (%s): whoever made this may not be whose key it was; get the update signed with another key", v.Key, v.File)
	}
	return fmt.Sprintf("key %s (%s): %s", v.Key, v.File, v.Status)
}
