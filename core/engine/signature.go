package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/modsign"
)

// SignatureError says that the kernel does not load a module because of its signature, or for want of one.
type SignatureError struct {
	Module string
	// Signature is who signed it; nil: nobody, or Unreadable says what is wrong with the signature.
	Signature  *modsign.Signature
	Unreadable error
	// Altered says that the kernel has the signer's certificate, and that the signature is not one of its key, or is revoked.
	Altered bool
	Demand  Demand
	// Errno is the loader's answer; 0: it was not asked.
	Errno unix.Errno
}

// Error implements error.
func (e *SignatureError) Error() string {
	var text string
	switch {
	case e.Unreadable != nil:
		text = fmt.Sprintf("the kernel cannot verify its signature: %v; have the vendor sign it again, as `ksplice create --module-key` does", e.Unreadable)
	case e.Signature == nil:
		text = fmt.Sprintf("it is not signed, and this kernel loads signed modules only (%s): have the vendor make the update with its key "+
			"(`ksplice create --module-key KEY --module-cert CERT`), or sign with one of your own that this machine trusts", e.Demand.why())
	case e.Altered:
		text = fmt.Sprintf("its signature by %s is refused: the module was altered behind it, or key or module are revoked on this machine (dbx, .blacklist); "+
			"get the update again from the vendor", e.Signature)
	default:
		text = fmt.Sprintf("it is signed by %s, whose certificate is not among those that this kernel verifies modules with (%s; it has %s): "+
			"get that certificate from the vendor and enrol it with `mokutil --import CERT.der` and a reboot, or in the firmware's db",
			e.Signature, e.Demand.why(), e.Demand.trusts())
		if e.Errno == unix.EKEYREJECTED {
			text += "; where it is enrolled already, the module was altered behind its signature: get the update again"
		}
	}
	if e.Errno != 0 {
		text = e.Errno.Error() + "; " + text
	}
	return fmt.Sprintf("load module %s: %s", e.Module, text)
}

// Unwrap gives the loader's answer.
func (e *SignatureError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// Demand is what the running kernel demands of modules.
type Demand struct {
	// Lockdown is "integrity" or "confidentiality"; empty: the kernel is not locked down, or does not say.
	Lockdown string
	// Enforced says that only signed modules are loaded, locked down or not (module.sig_enforce).
	Enforced bool
	// Disabled says that no module is loaded before the next boot (kernel.modules_disabled).
	Disabled bool
	// Keys are the X.509 certificates that the kernel has, by subject.
	Keys []string
}

// Signed says that only signed modules are loaded.
func (d *Demand) Signed() bool { return d.Lockdown != "" || d.Enforced }

func (d *Demand) why() string {
	if d.Lockdown != "" {
		return "its lockdown, which Secure Boot begins, is " + d.Lockdown
	}
	return "module.sig_enforce is set"
}

func (d *Demand) trusts() string {
	if len(d.Keys) == 0 {
		return "none that it names"
	}
	return strings.Join(d.Keys, ", ")
}

// has says that a certificate's subject is the issuer of a signer's: it is the signer's own, if nobody else certified that.
func (d *Demand) has(s *modsign.Signature) bool {
	return s != nil && s.IssuerName() != "" && slices.ContainsFunc(d.Keys, func(key string) bool {
		return key == s.IssuerName() || strings.HasSuffix(key, ": "+s.IssuerName()) // with its organisation before it (x509_fabricate_name)
	})
}

var (
	chosenLevel = regexp.MustCompile(`\[(\w+)\]`) // security/lockdown/lockdown.c: lockdown_read
	// A certificate in /proc/keys: its description, "SUBJECT: ID", and "X509.rsa" (crypto/asymmetric_keys/x509_public_key.c, asymmetric_type.c).
	keyLine = regexp.MustCompile(`^(?:\S+\s+){7}asymmetri (.*): [0-9a-f]+: X509\.`)
)

// ReadDemand asks the running kernel. What it does not tell, it does not demand.
func ReadDemand() Demand { return readDemand("/") }

func readDemand(root string) Demand {
	read := func(name string) string {
		b, _ := os.ReadFile(filepath.Join(root, name)) // not there, or not for us: not known
		return string(b)
	}
	var d Demand
	if m := chosenLevel.FindStringSubmatch(read("sys/kernel/security/lockdown")); m != nil && m[1] != "none" {
		d.Lockdown = m[1]
	}
	d.Enforced = strings.TrimSpace(read("sys/module/module/parameters/sig_enforce")) == "Y"
	d.Disabled = strings.TrimSpace(read("proc/sys/kernel/modules_disabled")) == "1"
	for line := range strings.Lines(read("proc/keys")) {
		if m := keyLine.FindStringSubmatch(line); m != nil && !slices.Contains(d.Keys, m[1]) {
			d.Keys = append(d.Keys, m[1])
		}
	}
	slices.Sort(d.Keys)
	return d
}

// Loadable returns a *SignatureError for a module without a signature, where the running kernel loads signed ones only. Whether it knows the
// key of one that is signed is not known before it is loaded.
func (d *Demand) Loadable(name string, module []byte) error {
	if _, err := modsign.Parse(module); d.Signed() && errors.Is(err, modsign.ErrUnsigned) {
		return &SignatureError{Module: name, Demand: *d}
	}
	return nil
}

// Writable returns an error that wraps ErrLocked for a part that sets a field of data, where the running kernel is locked down.
func (d *Demand) Writable(part, field string) error {
	if d.Lockdown == "" {
		return nil
	}
	return fmt.Errorf("part %s sets %s: %w", part, field, ErrLocked)
}

// refused says why the loader, with the kernel's demand, refused a module; nil: not because of its signature (kernel/module/signing.c:
// module_sig_check).
func (d *Demand) refused(name string, module []byte, errno unix.Errno) error {
	s, err := modsign.Parse(module)
	e := &SignatureError{Module: name, Signature: s, Demand: *d, Errno: errno}
	unsigned := errors.Is(err, modsign.ErrUnsigned)
	if err != nil && !unsigned {
		e.Unreadable = err
	}
	switch errno {
	case unix.EPERM: // of the lockdown; also where modules may not be loaded at all
		if d.Lockdown == "" || d.Disabled {
			return nil
		}
	case unix.EKEYREJECTED:
		// By the signature itself; where sig_enforce is set, as under Secure Boot where IMA has its say (security/integrity/ima/ima_efi.c:
		// arch_get_ima_policy), also where the key is not known or there is none.
		e.Altered = !d.Enforced || d.has(s)
	case unix.ENOKEY, unix.ENODATA:
	case unix.EBADMSG, unix.ENOPKG:
		if unsigned {
			return nil
		}
		e.Altered = errno == unix.EBADMSG
		if e.Unreadable == nil && !e.Altered {
			e.Unreadable = fmt.Errorf("it has no %s with %s", s.Hash, s.Algorithm)
		}
	default:
		return nil
	}
	return e
}
