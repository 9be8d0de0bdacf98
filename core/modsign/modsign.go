// Package modsign is the signature at the end of a kernel module: it makes one of a key and a certificate, or has a vendor's command make it,
// and reads who signed a module. Create signs parts with it, inspect and the engine's errors say whose signature a part has.
//
// Behind the module's bytes come a PKCS#7 message, struct module_signature and a marker (include/linux/module_signature.h). The message is a
// SignedData of one signer, detached, without certificates and without signed attributes, which the kernel refuses in modules
// (crypto/asymmetric_keys/pkcs7_verify.c: pkcs7_verify). With an RSA key (PKCS #1 v1.5) the same module, key and hash give the same bytes,
// which are those of the kernel's own scripts/sign-file.
package modsign

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes that Hash offers
	_ "crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
)

// marker ends a signed module (MODULE_SIG_STRING, include/linux/module_signature.h).
const marker = "~Module signature appended~\n"

// trailer is struct module_signature; pkcs7ID is PKEY_ID_PKCS7, the one kind that the kernel takes: all other fields are zero then.
type trailer struct {
	Algorithm, Hash, IDType, SignerLength, KeyIDLength uint8
	_                                                  [3]uint8
	Length                                             uint32 // of the message, big-endian
}

const (
	trailerSize = 12
	pkcs7ID     = 2
)

// ErrUnsigned says that a module has no signature.
var ErrUnsigned = errors.New("it has no signature")

// Hash is a digest by the name that kernel configurations have for it: "sha256".
type Hash string

// hashes are the digests that we sign with: all kernels that verify modules know them where they are built in (pkcs7_parser.c:
// pkcs7_sig_note_digest_algo).
var hashes = []struct {
	name       Hash
	hash       crypto.Hash
	oid, ecdsa asn1.ObjectIdentifier // the second: ECDSA with it (RFC 5758, 3.2)
	config     string                // the symbol that builds it into the kernel
}{
	{"sha256", crypto.SHA256, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, "CONFIG_CRYPTO_SHA256"},
	{"sha384", crypto.SHA384, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}, "CONFIG_CRYPTO_SHA512"},
	{"sha512", crypto.SHA512, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}, "CONFIG_CRYPTO_SHA512"},
}

// PKCS #7 (RFC 2315, RFC 5652).
var (
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidRSA        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
)

type (
	message struct {
		Type    asn1.ObjectIdentifier
		Content signedData `asn1:"explicit,tag:0"`
	}
	signedData struct {
		Version      int
		Digests      []pkix.AlgorithmIdentifier `asn1:"set"`
		Content      content
		Certificates asn1.RawValue `asn1:"optional,tag:0"`
		CRLs         asn1.RawValue `asn1:"optional,tag:1"`
		Signers      []signerInfo  `asn1:"set"`
	}
	content struct {
		Type asn1.ObjectIdentifier
		Data asn1.RawValue `asn1:"explicit,optional,tag:0"`
	}
	signerInfo struct {
		Version      int
		ID           asn1.RawValue // issuerAndSerial, or a key's identifier
		Digest       pkix.AlgorithmIdentifier
		Attributes   asn1.RawValue `asn1:"optional,tag:0"`
		Algorithm    pkix.AlgorithmIdentifier
		Signature    []byte
		Unattributed asn1.RawValue `asn1:"optional,tag:1"`
	}
	issuerAndSerial struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}
)

// Signer signs modules: a Key, or a Command.
type Signer interface {
	// Sign returns the module with a signature behind it.
	Sign(ctx context.Context, module []byte, hash Hash) ([]byte, error)
}

// Sign implements Signer. Signing a module that is signed is an error.
func (k *Key) Sign(_ context.Context, module []byte, hash Hash) ([]byte, error) {
	if bytes.HasSuffix(module, []byte(marker)) {
		return nil, errors.New("sign module: it is signed already")
	}
	for _, h := range hashes {
		if h.name != hash {
			continue
		}
		algorithm := pkix.AlgorithmIdentifier{Algorithm: h.ecdsa}
		if _, ok := k.key.Public().(*rsa.PublicKey); ok {
			algorithm = pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: asn1.NullRawValue}
		}
		sum := h.hash.New()
		sum.Write(module)
		signature, err := k.key.Sign(nil, sum.Sum(nil), h.hash) // ECDSA without random numbers is deterministic (RFC 6979)
		if err != nil {
			return nil, fmt.Errorf("sign module: %w", err)
		}
		id, err := asn1.Marshal(issuerAndSerial{asn1.RawValue{FullBytes: k.cert.RawIssuer}, k.cert.SerialNumber})
		if err != nil {
			return nil, fmt.Errorf("sign module: %w", err)
		}
		digest := pkix.AlgorithmIdentifier{Algorithm: h.oid}
		b, err := asn1.Marshal(message{oidSignedData, signedData{Version: 1, Digests: []pkix.AlgorithmIdentifier{digest}, Content: content{Type: oidData},
			Signers: []signerInfo{{Version: 1, ID: asn1.RawValue{FullBytes: id}, Digest: digest, Algorithm: algorithm, Signature: signature}}}})
		if err != nil {
			return nil, fmt.Errorf("sign module: %w", err)
		}
		return appendTo(module, b), nil
	}
	return nil, fmt.Errorf("sign module: %q is no hash to sign with", hash)
}

// appendTo puts a message behind a module.
func appendTo(module, message []byte) []byte {
	out := bytes.NewBuffer(make([]byte, 0, len(module)+len(message)+trailerSize+len(marker)))
	out.Write(module)
	out.Write(message)
	_ = binary.Write(out, binary.BigEndian, trailer{IDType: pkcs7ID, Length: uint32(len(message))}) // a buffer takes all
	out.WriteString(marker)
	return out.Bytes()
}

// Signature is who signed a module. Of Issuer with Serial and KeyID, which name the certificate, a module has the one or the other.
type Signature struct {
	// Issuer is the issuer of the signer's certificate, as RFC 2253 writes it, and Serial its number, in hexadecimal digits.
	Issuer string `json:"issuer,omitempty"`
	Serial string `json:"serial,omitempty"`
	// KeyID is the certificate's subject key identifier, in hexadecimal digits.
	KeyID string `json:"key_id,omitempty"`
	// Hash is what was signed: "sha256"; Algorithm the kind of key: "rsa", "ecdsa". What is not known is an object identifier.
	Hash      string `json:"hash"`
	Algorithm string `json:"algorithm"`

	name    string // the issuer's common name
	issuer  []byte // DER
	serial  *big.Int
	keyID   []byte
	content []byte // the module without its signature
	value   []byte
}

// String names the signer: "CN=Acme Kernel Updates, serial 1f3a".
func (s *Signature) String() string {
	if s.KeyID != "" {
		return "the key " + s.KeyID
	}
	return s.Issuer + ", serial " + s.Serial
}

// IssuerName is the common name of the issuer, which is the signer's own where nobody else certified it; empty: not known.
func (s *Signature) IssuerName() string { return s.name }

// Parse reads a module's signature, without judging it: ErrUnsigned where there is none, another error where the kernel could not read it.
func Parse(module []byte) (*Signature, error) {
	content, text, err := split(module)
	if err != nil {
		return nil, err
	}
	s, err := parseMessage(text)
	if err != nil {
		return nil, fmt.Errorf("read the module's signature: %w", err)
	}
	s.content = content
	return s, nil
}

// split cuts a signed module into what was signed and the message.
func split(module []byte) (content, message []byte, err error) {
	rest, ok := bytes.CutSuffix(module, []byte(marker))
	if !ok {
		return nil, nil, ErrUnsigned
	}
	var t trailer
	if len(rest) < trailerSize {
		return nil, nil, errors.New("read the module's signature: it is cut off")
	}
	rest, tail := rest[:len(rest)-trailerSize], rest[len(rest)-trailerSize:]
	if err := binary.Read(bytes.NewReader(tail), binary.BigEndian, &t); err != nil {
		return nil, nil, fmt.Errorf("read the module's signature: %w", err)
	}
	if want := (trailer{IDType: pkcs7ID, Length: t.Length}); t != want {
		return nil, nil, fmt.Errorf("read the module's signature: struct module_signature is %x, not that of a PKCS#7 message", tail)
	}
	if uint64(t.Length) >= uint64(len(rest)) {
		return nil, nil, fmt.Errorf("read the module's signature: %d bytes of message in %d", t.Length, len(rest))
	}
	at := len(rest) - int(t.Length)
	return rest[:at], rest[at:], nil
}

func parseMessage(text []byte) (*Signature, error) {
	var m message
	switch rest, err := asn1.Unmarshal(text, &m); {
	case err != nil:
		return nil, fmt.Errorf("it is no PKCS#7 message in DER: %w", err)
	case len(rest) > 0:
		return nil, fmt.Errorf("%d bytes follow the PKCS#7 message", len(rest))
	case !m.Type.Equal(oidSignedData) || !m.Content.Content.Type.Equal(oidData):
		return nil, fmt.Errorf("the PKCS#7 message is of type %v over %v, not signed data", m.Type, m.Content.Content.Type)
	case len(m.Content.Content.Data.FullBytes) > 0:
		return nil, errors.New("the PKCS#7 message holds what was signed; the kernel wants it detached")
	case len(m.Content.Signers) != 1:
		return nil, fmt.Errorf("the PKCS#7 message has %d signers, not one", len(m.Content.Signers))
	}
	x := &m.Content.Signers[0]
	if len(x.Attributes.FullBytes) > 0 {
		return nil, errors.New("the PKCS#7 message has signed attributes, which the kernel refuses in modules")
	}
	s := &Signature{Hash: x.Digest.Algorithm.String(), Algorithm: x.Algorithm.Algorithm.String(), value: x.Signature}
	if x.Algorithm.Algorithm.Equal(oidRSA) {
		s.Algorithm = "rsa"
	}
	for _, h := range hashes {
		if x.Digest.Algorithm.Equal(h.oid) {
			s.Hash = string(h.name)
			if x.Algorithm.Algorithm.Equal(h.ecdsa) {
				s.Algorithm = "ecdsa"
			}
		}
	}
	if x.ID.Class == asn1.ClassContextSpecific && x.ID.Tag == 0 { // SubjectKeyIdentifier (RFC 5652, 5.3)
		s.keyID, s.KeyID = x.ID.Bytes, hex.EncodeToString(x.ID.Bytes)
		return s, nil
	}
	var id issuerAndSerial
	if _, err := asn1.Unmarshal(x.ID.FullBytes, &id); err != nil {
		return nil, fmt.Errorf("the signer of the PKCS#7 message is not named: %w", err)
	}
	var names pkix.RDNSequence
	if _, err := asn1.Unmarshal(id.Issuer.FullBytes, &names); err != nil {
		return nil, fmt.Errorf("the signer's issuer is no name: %w", err)
	}
	s.issuer, s.serial = id.Issuer.FullBytes, id.Serial
	s.Issuer, s.Serial = names.String(), id.Serial.Text(16)
	var n pkix.Name
	n.FillFromRDNSequence(&names)
	s.name = n.CommonName
	return s, nil
}

// Verify returns an error unless a certificate's key made the signature, and the kernel would find that certificate by what the signature
// says.
func (s *Signature) Verify(cert *x509.Certificate) error {
	if s.keyID != nil && !bytes.Equal(s.keyID, cert.SubjectKeyId) ||
		s.keyID == nil && (!bytes.Equal(s.issuer, cert.RawIssuer) || s.serial.Cmp(cert.SerialNumber) != 0) {
		return fmt.Errorf("it is signed by %v, not by %s, serial %x", s, cert.Subject, cert.SerialNumber)
	}
	for _, h := range hashes {
		if string(h.name) != s.Hash {
			continue
		}
		sum := h.hash.New()
		sum.Write(s.content)
		ok := false
		switch key := cert.PublicKey.(type) {
		case *rsa.PublicKey:
			ok = s.Algorithm == "rsa" && rsa.VerifyPKCS1v15(key, h.hash, sum.Sum(nil), s.value) == nil
		case *ecdsa.PublicKey:
			ok = s.Algorithm == "ecdsa" && ecdsa.VerifyASN1(key, sum.Sum(nil), s.value)
		}
		if !ok {
			return fmt.Errorf("its signature is not one of the key of %s", cert.Subject)
		}
		return nil
	}
	return fmt.Errorf("its signature is over a digest of kind %s, not sha256, sha384 or sha512", s.Hash)
}

// HashFor returns the hash that a kernel's own modules are signed with, by its configuration, or else the strongest that it surely has.
func HashFor(config map[string]string) (Hash, error) {
	var best Hash
	for _, h := range hashes {
		if config["CONFIG_MODULE_SIG_HASH"] == string(h.name) {
			return h.name, nil
		}
		if config[h.config] == "y" {
			best = h.name
		}
	}
	if best == "" {
		return "", errors.New("this kernel has neither SHA-256 nor SHA-512 built in (CONFIG_CRYPTO_SHA256, CONFIG_CRYPTO_SHA512): it can verify no signature that we make")
	}
	return best, nil
}

// Verifies returns an error where a kernel, by its configuration, cannot verify signatures of a kind of key.
func Verifies(config map[string]string, algorithm string) error {
	if algorithm == "ecdsa" && config["CONFIG_CRYPTO_ECDSA"] != "y" {
		return errors.New("the key is an elliptic curve's, and this kernel cannot verify ECDSA (CONFIG_CRYPTO_ECDSA is not built in): sign with an RSA key")
	}
	return nil
}
