package trust

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"aead.dev/minisign"
)

// The bounds of what stands in a file that nobody has vouched for yet.
const (
	// MaxSignatures bounds the text of an update's signatures, in bytes.
	MaxSignatures = 64 << 10
	maxCount      = 16
	// signatureLines are the lines of one signature: a comment, the signature, the trusted comment, the signature over both.
	signatureLines = 4

	// DetachedSuffix is that of a file of signatures beside an update, as `minisign -Sm FILE` writes it.
	DetachedSuffix = ".minisig"
)

// ErrSignature says that something is no signature. It is wrapped in errors that say more.
var ErrSignature = errors.New("not a signature of minisign")

// Signature is one signature. What it says of itself counts for nothing before it was verified.
type Signature struct{ s minisign.Signature }

// KeyID names the key that the signature says it was made with, as minisign does: 16 hex digits.
func (s Signature) KeyID() string { return keyID(s.s.KeyID) }

func keyID(id uint64) string { return fmt.Sprintf("%016X", id) }

// Text returns the signature as it stands in a file: four lines.
func (s Signature) Text() []byte { return []byte(s.s.String()) }

// ParseSignatures reads signatures as minisign writes them, one behind the other. No text has none. Errors wrap ErrSignature.
func ParseSignatures(text []byte) ([]Signature, error) {
	if len(text) == 0 {
		return nil, nil
	}
	if len(text) > MaxSignatures {
		return nil, fmt.Errorf("%w: %d bytes are more than the %d that signatures may have", ErrSignature, len(text), MaxSignatures)
	}
	lines := strings.SplitAfter(string(text), "\n")
	if last := len(lines) - 1; lines[last] != "" || last%signatureLines != 0 {
		return nil, fmt.Errorf("%w: it is not some times %d whole lines, so that one was cut off, or something else added", ErrSignature, signatureLines)
	}
	lines = lines[:len(lines)-1]
	if n := len(lines) / signatureLines; n > maxCount {
		return nil, fmt.Errorf("%w: there are %d, more than the %d that there may be", ErrSignature, n, maxCount)
	}
	var out []Signature
	for ; len(lines) > 0; lines = lines[signatureLines:] {
		var s Signature
		err := s.parse(strings.Join(lines[:signatureLines], ""))
		if err != nil {
			return nil, fmt.Errorf("%w: number %d: %w", ErrSignature, len(out)+1, err)
		}
		out = append(out, s)
	}
	return out, nil
}

func (s *Signature) parse(text string) error {
	if err := s.s.UnmarshalText([]byte(text)); err != nil {
		return err
	}
	if string(s.Text()) != text {
		return errors.New("it is not written as minisign writes one")
	}
	// One over the bytes themselves could be taken for one over a digest, and the other way round.
	if s.s.Algorithm != minisign.HashEdDSA {
		return errors.New("it was made without hashing first, as minisign did before 0.10 and does with -l: sign anew")
	}
	for _, comment := range []string{s.s.TrustedComment, s.s.UntrustedComment} {
		if strings.ContainsFunc(comment, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) && r != '\t' }) {
			return errors.New("a comment of it holds what cannot be printed")
		}
	}
	return nil
}

// Join writes signatures one behind the other.
func Join(list []Signature) []byte {
	var b bytes.Buffer
	for _, s := range list {
		b.Write(s.Text())
	}
	return b.Bytes()
}

// ErrFull says that a file has no place for another signature. It is wrapped in errors that say more.
var ErrFull = errors.New("no place for another signature")

// Add puts a signature behind the others, in place of one that the same key made before. More than ParseSignatures takes gives an error that
// wraps ErrFull.
func Add(list []Signature, s Signature) ([]Signature, error) {
	var out []Signature
	for _, other := range list {
		if other.s.KeyID != s.s.KeyID {
			out = append(out, other)
		}
	}
	out = append(out, s)
	const instead = "sign in a file beside it (minisign -Sm FILE), or sign the file as it was made, without those that need not be there"
	if len(out) > maxCount {
		return nil, fmt.Errorf("%w: it has those of %d keys, as many as there may be: %s", ErrFull, len(out)-1, instead)
	}
	if n := len(Join(out)); n > MaxSignatures {
		return nil, fmt.Errorf("%w: with it they would have %d bytes, more than the %d that there may be: %s", ErrFull, n, MaxSignatures, instead)
	}
	return out, nil
}
