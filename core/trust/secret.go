package trust

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unicode"

	"aead.dev/minisign"
)

// The ways in which a secret key cannot be used. They are wrapped in errors that say more.
var (
	ErrNoSecret = errors.New("not a secret key of minisign")
	ErrPassword = errors.New("wrong password, or the secret key is damaged")
)

// Secret is a key to sign with.
type Secret struct{ key minisign.PrivateKey }

// ReadSecret reads a secret key as `minisign -G` writes it. Where it is encrypted, password is asked for. Errors wrap ErrNoSecret or
// ErrPassword, or are the system's.
func ReadSecret(file string, password func() (string, error)) (*Secret, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read secret key: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("read secret key: %w", err)
	}
	s := &Secret{}
	if !minisign.IsEncrypted(text) {
		if err := s.key.UnmarshalText(text); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", file, ErrNoSecret, err)
		}
		return s, nil
	}
	word, err := password()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if s.key, err = minisign.DecryptKey(word, text); err != nil {
		return nil, fmt.Errorf("%s: %w", file, ErrPassword)
	}
	return s, nil
}

// ID names the key as minisign does: 16 hex digits.
func (s *Secret) ID() string { return keyID(s.key.ID()) }

// Sign signs content, and a comment with it. The same content, comment and key give the same signature.
func (s *Secret) Sign(content []byte, comment string) (Signature, error) {
	for _, r := range comment {
		if !unicode.IsPrint(r) {
			return Signature{}, fmt.Errorf("sign: a comment cannot hold %q", r)
		}
	}
	hashed := hash(content)
	text := hashed.SignWithComments(s.key, comment, "signature of a ksplice update, with key "+s.ID())
	// Nothing tells a secret key that was damaged and is not encrypted but this.
	public, ok := s.key.Public().(minisign.PublicKey)
	if !ok || !hashed.Verify(public, text) {
		return Signature{}, fmt.Errorf("sign with key %s: %w: its halves do not belong together", s.ID(), ErrNoSecret)
	}
	list, err := ParseSignatures(text)
	if err != nil {
		return Signature{}, fmt.Errorf("sign with key %s: %w", s.ID(), err)
	}
	return list[0], nil
}

// Generate makes a key pair, as two files' texts. Without a password the secret key is not encrypted.
func Generate(password string) (secret, public []byte, err error) {
	pub, key, err := minisign.GenerateKey(nil)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	if password == "" {
		secret, err = key.MarshalText()
	} else {
		secret, err = minisign.EncryptKey(password, key)
	}
	if err == nil {
		public, err = pub.MarshalText()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	return append(secret, '\n'), append(public, '\n'), nil
}
