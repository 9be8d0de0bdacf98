package modsign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// minRSA is the shortest RSA key that we sign with, in bits: what UEFI firmware and shim take as well.
const minRSA = 2048

// Key is a private key with its certificate.
type Key struct {
	key  crypto.Signer
	cert *x509.Certificate
}

// LoadKey reads the private key of a certificate: PKCS#8, PKCS#1 or SEC 1, in PEM or DER, not encrypted. The file may hold the certificate too.
func LoadKey(key []byte, cert *x509.Certificate) (*Key, error) {
	k, err := parseKey(key)
	if err != nil {
		return nil, err
	}
	if public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(k.Public()) {
		return nil, fmt.Errorf("the key is not that of the certificate of %s: their public keys differ", cert.Subject)
	}
	return &Key{k, cert}, nil
}

// ParseCertificate reads a certificate in PEM or DER, and refuses one that no kernel or firmware should be asked to trust: outside of its
// dates, which are held against now, or with a key that is too short or of a kind that modules are not signed with.
func ParseCertificate(file []byte, now time.Time) (*x509.Certificate, error) {
	der := file
	if b := block(file, "CERTIFICATE"); b != nil {
		der = b.Bytes
	} else if isPEM(file) {
		return nil, errors.New("the certificate's file holds no certificate in PEM")
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("the certificate is none in PEM or DER: %w", err)
	}
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < minRSA {
			return nil, fmt.Errorf("the certificate of %s has an RSA key of %d bits: use one of %d or more", cert.Subject, key.N.BitLen(), minRSA)
		}
	case *ecdsa.PublicKey:
		if !slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384()}, key.Curve) { // crypto/ecc_curve_defs.h, as far as all kernels have it
			return nil, fmt.Errorf("the certificate of %s has a key on curve %s: use P-256 or P-384, or RSA", cert.Subject, key.Curve.Params().Name)
		}
	default:
		return nil, fmt.Errorf("the certificate of %s has a key of kind %s: modules are signed with RSA or ECDSA", cert.Subject, cert.PublicKeyAlgorithm)
	}
	const day = "2 January 2006"
	if now.After(cert.NotAfter) {
		return nil, fmt.Errorf("the certificate of %s expired on %s: sign with one that is valid", cert.Subject, cert.NotAfter.UTC().Format(day))
	}
	if now.Before(cert.NotBefore) {
		return nil, fmt.Errorf("the certificate of %s is not valid before %s; is this machine's clock right?", cert.Subject, cert.NotBefore.UTC().Format(day))
	}
	return cert, nil
}

// Notes says what is odd about a certificate, and harmless to the kernel.
func Notes(cert *x509.Certificate) []string {
	listed := len(cert.ExtKeyUsage) + len(cert.UnknownExtKeyUsage)
	if listed == 0 || slices.ContainsFunc(cert.ExtKeyUsage, func(u x509.ExtKeyUsage) bool {
		return u == x509.ExtKeyUsageCodeSigning || u == x509.ExtKeyUsageAny
	}) || slices.ContainsFunc(cert.UnknownExtKeyUsage, oidModuleSigning.Equal) {
		return nil
	}
	return []string{fmt.Sprintf("the certificate of %s is not for signing code by its extended key usage; kernels do not look at that, other tools may", cert.Subject)}
}

// oidModuleSigning is the usage by which shim keeps a machine owner's key to modules (shim: OID_EKU_MODSIGN).
var oidModuleSigning = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 2312, 16, 1, 2}

func isPEM(file []byte) bool { b, _ := pem.Decode(file); return b != nil }

// block returns the first PEM block whose type ends so.
func block(file []byte, kind string) *pem.Block {
	for {
		var b *pem.Block
		if b, file = pem.Decode(file); b == nil || strings.HasSuffix(b.Type, kind) {
			return b
		}
	}
}

func parseKey(file []byte) (crypto.Signer, error) {
	der := file
	if b := block(file, "PRIVATE KEY"); b != nil {
		if b.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(b.Headers["Proc-Type"], "ENCRYPTED") {
			return nil, errors.New("the key is encrypted: decrypt it for the time of the build (openssl pkey -in KEY -out PLAIN), " +
				"or have it used by a command of yours (--module-signer)")
		}
		der = b.Bytes
	} else if isPEM(file) {
		return nil, errors.New("the key's file holds no private key in PEM")
	}
	var key any
	var err error
	if key, err = x509.ParsePKCS8PrivateKey(der); err != nil {
		if key, err = x509.ParsePKCS1PrivateKey(der); err != nil {
			if key, err = x509.ParseECPrivateKey(der); err != nil {
				return nil, errors.New("the key is none that is known: PKCS#8, PKCS#1 or SEC 1, in PEM or DER, not encrypted")
			}
		}
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return key, nil
	case *ecdsa.PrivateKey:
		return key, nil
	}
	return nil, fmt.Errorf("the key is a %T: modules are signed with RSA or ECDSA", key)
}
