package part

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/update"
)

// sealKey names the entry of .modinfo that holds the seal. A part carries its seal as it carries its code: under its signature. So the
// manifest, which nobody signs, cannot say another thing of a slot than what the code was made for; of slots that new code alone names the
// kernel module could not tell.
const sealKey = "ksplice_seal"

// seal is a digest over what the manifest says of a part's unknowns.
func seal(target string, functions []update.Function, writes []update.Write, slots []update.Slot, globals []string) (string, error) {
	b, err := json.Marshal(struct {
		Target    string
		Functions []update.Function
		Writes    []update.Write
		Slots     []update.Slot
		Globals   []string
	}{target, functions, writes, slots, globals})
	if err != nil {
		return "", fmt.Errorf("seal the slots: %w", err)
	}
	return update.Digest(b), nil
}

// Sealed returns an error unless a module, as an update holds it, was made for just the functions and slots that the manifest names.
func Sealed(module []byte, p *update.Part) error {
	f, err := objfile.Read(bytes.NewReader(module), int64(len(module)))
	if err != nil {
		return fmt.Errorf("part %s: %w", p.Name, err)
	}
	want, err := seal(p.Target, p.Functions, p.Writes, p.Slots, p.Globals)
	if err != nil {
		return fmt.Errorf("part %s: %w", p.Name, err)
	}
	info := f.Section(".modinfo")
	if info == nil {
		return fmt.Errorf("part %s: it is no module: it has no .modinfo", p.Name)
	}
	for entry := range bytes.SplitSeq(info.Data, []byte{0}) {
		if have, ok := bytes.CutPrefix(entry, []byte(sealKey+"=")); ok {
			if string(have) != want {
				return fmt.Errorf("part %s was made for other functions, data or slots than the manifest names; get the update again from who made it", p.Name)
			}
			return nil
		}
	}
	return errors.New("part " + p.Name + " does not say what functions and slots it was made for; make the update again with this version of ksplice")
}
