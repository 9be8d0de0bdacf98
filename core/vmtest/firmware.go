package vmtest

import (
	"bytes"
	"crypto/x509"
	"debug/pe"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"unicode/utf16"
)

// The firmware of the package ovmf: UEFI that enforces Secure Boot, and its variables, of which it has none yet. It wants system management mode.
const (
	firmwareCode = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	firmwareVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// firmware writes variables by which the firmware has Secure Boot on and trusts the certificates and who signed the kernel, and returns what
// QEMU is told.
func firmware(file string, k *Kernel, trusted [][]byte) ([]string, error) {
	template, err := os.ReadFile(firmwareVars)
	if err != nil {
		return nil, fmt.Errorf("%w: install the package ovmf", err)
	}
	signer, err := k.signer()
	if err != nil {
		return nil, fmt.Errorf("who signed %s: %w", k.Vmlinuz, err)
	}
	vars, err := secureVars(template, append([][]byte{signer}, trusted...))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, vars, 0o600); err != nil {
		return nil, err
	}
	// The firmware keeps its variables from everybody but system management mode; sleep states would need more memory of it.
	return []string{"-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + quoteComma(firmwareCode),
		"-drive", "if=pflash,format=raw,unit=1,file=" + quoteComma(file)}, nil
}

// guid is a GUID as UEFI lays it out (UEFI 2.10, appendix A).
type guid struct {
	A    uint32
	B, C uint16
	D    [8]byte
}

var (
	globalVariable   = guid{0x8be4df61, 0x93ca, 0x11d2, [8]byte{0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}} // EFI_GLOBAL_VARIABLE
	securityDatabase = guid{0xd719b2cb, 0x3d3a, 0x4596, [8]byte{0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}} // EFI_IMAGE_SECURITY_DATABASE_GUID
	certX509         = guid{0xa5c059a1, 0x94e4, 0x4aa7, [8]byte{0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}} // EFI_CERT_X509_GUID
	variableStore    = guid{0xaaf32c78, 0x947b, 0x439a, [8]byte{0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92}} // gEfiAuthenticatedVariableGuid
	owner            = guid{0x6b73706c, 0x6963, 0x6500, [8]byte{1}}                                              // of the entries: anybody
)

// variableHeader is AUTHENTICATED_VARIABLE_HEADER (edk2: MdeModulePkg/Include/Guid/VariableFormat.h).
type variableHeader struct {
	Start              uint16
	State, _           uint8
	Attributes         uint32
	Count              uint64
	Year               uint16
	Month, Day         uint8
	_                  [12]uint8 // of EFI_TIME
	Key                uint32
	NameSize, DataSize uint32
	Vendor             guid
}

// secureVars returns firmware's empty variables (a firmware volume) with keys in them: as there is a platform key, the firmware is in user mode,
// and Secure Boot is on. The platform's key and the one that may change the database are the first of the certificates; nobody changes any.
func secureVars(template []byte, certs [][]byte) ([]byte, error) {
	out := bytes.Clone(template)
	// EFI_FIRMWARE_VOLUME_HEADER has its length at 48; VARIABLE_STORE_HEADER follows: a GUID, the store's size, 8 bytes more.
	if len(out) < 64 {
		return nil, fmt.Errorf("%s is no firmware volume", firmwareVars)
	}
	at := int(binary.LittleEndian.Uint16(out[48:]))
	var id bytes.Buffer
	_ = binary.Write(&id, binary.LittleEndian, variableStore) // a buffer takes all
	const storeHeader = 28
	if at+storeHeader+2 > len(out) || !bytes.HasPrefix(out[at:], id.Bytes()) || !bytes.Equal(out[at+storeHeader:at+storeHeader+2], []byte{0xff, 0xff}) {
		return nil, fmt.Errorf("%s holds no empty store of variables: it is laid out in a way unknown here", firmwareVars)
	}
	end := at + int(binary.LittleEndian.Uint32(out[at+16:]))
	at += storeHeader
	for _, v := range []struct {
		name   string
		vendor guid
		certs  [][]byte
	}{{"PK", globalVariable, certs[:1]}, {"KEK", globalVariable, certs[:1]}, {"db", securityDatabase, certs}} {
		b := variable(v.name, v.vendor, signatureLists(v.certs))
		if at+len(b) > min(end, len(out)) {
			return nil, errors.New("the certificates do not fit into the firmware's variables")
		}
		copy(out[at:], b)
		at += (len(b) + 3) &^ 3
	}
	return out, nil
}

// variable lays a variable out that only signed updates may change.
func variable(name string, vendor guid, data []byte) []byte {
	const (
		added      = 0x3f // VAR_ADDED
		attributes = 0x27 // NON_VOLATILE, BOOTSERVICE_ACCESS, RUNTIME_ACCESS, TIME_BASED_AUTHENTICATED_WRITE_ACCESS
	)
	text := utf16.Encode([]rune(name + "\x00"))
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, variableHeader{Start: 0x55aa, State: added, Attributes: attributes, Year: 2026, Month: 1, Day: 1,
		NameSize: uint32(2 * len(text)), DataSize: uint32(len(data)), Vendor: vendor})
	_ = binary.Write(&b, binary.LittleEndian, text)
	b.Write(data)
	return b.Bytes()
}

// signatureLists holds a list of its own for each certificate, since entries of one list are of one size (EFI_SIGNATURE_LIST; UEFI 2.10, 32.4.1).
func signatureLists(certs [][]byte) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		_ = binary.Write(&b, binary.LittleEndian, struct {
			Kind                 guid
			Size, Header, Single uint32
			Owner                guid
		}{certX509, uint32(28 + 16 + len(c)), 0, uint32(16 + len(c)), owner})
		b.Write(c)
	}
	return b.Bytes()
}

// signer returns the certificate, in DER, of who signed the kernel's image for UEFI: the first of those in its Authenticode signature.
func (k *Kernel) signer() ([]byte, error) {
	f, err := os.Open(k.Vmlinuz)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	image, err := pe.NewFile(f)
	if err != nil {
		return nil, err
	}
	header, ok := image.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return nil, errors.New("it is no image for 64-bit UEFI")
	}
	at := header.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_SECURITY] // by offset in the file; WIN_CERTIFICATE has 8 bytes before the message
	if at.Size <= 8 {
		return nil, errors.New("it is not signed")
	}
	b := make([]byte, at.Size-8)
	if _, err := f.ReadAt(b, int64(at.VirtualAddress)+8); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var message struct {
		Type asn1.ObjectIdentifier
		Data struct {
			Version      int
			Digests      asn1.RawValue
			Content      asn1.RawValue
			Certificates asn1.RawValue `asn1:"optional,tag:0"`
			CRLs         asn1.RawValue `asn1:"optional,tag:1"`
			Signers      asn1.RawValue
		} `asn1:"explicit,tag:0"`
	}
	if _, err := asn1.Unmarshal(b, &message); err != nil {
		return nil, fmt.Errorf("its signature: %w", err)
	}
	certs, err := x509.ParseCertificates(message.Data.Certificates.Bytes)
	if err != nil {
		return nil, fmt.Errorf("its signature: %w", err)
	}
	if len(certs) == 0 {
		return nil, errors.New("its signature holds no certificate")
	}
	return certs[0].Raw, nil
}
