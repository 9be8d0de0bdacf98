package update

import (
	"cmp"
	"fmt"
	"reflect"
	"strings"
	"unicode"
)

// ValidLine says whether a text may stand in a manifest: it is shown within a line, also before anybody has vouched for it. So nothing of it may
// end the line, move a terminal's cursor or turn the direction of writing.
func ValidLine(text string) bool { return !strings.ContainsFunc(text, unprintable) }

// Line makes a line that ValidLine takes of any text: white space becomes one blank, what else cannot be printed the
// replacement character.
func Line(text string) string {
	return strings.Map(func(r rune) rune {
		if unprintable(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.Join(strings.Fields(text), " "))
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// lines wants ValidLine of every text below v, which is at the given place of the manifest. Manifest.Config is as the kernel's own file has it,
// and not shown.
func lines(at string, v reflect.Value) error {
	switch v.Kind() {
	case reflect.String:
		if text := v.String(); !ValidLine(text) {
			return fmt.Errorf("%s of the manifest is %q, with what cannot be printed within a line", at, text)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "config" {
				continue
			}
			if err := lines(strings.TrimPrefix(at+"."+cmp.Or(name, f.Name), "."), v.Field(i)); err != nil {
				return err
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return nil // bytes
		}
		for i := range v.Len() {
			if err := lines(fmt.Sprintf("%s[%d]", at, i), v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			if err := lines("a key of "+at, key); err != nil {
				return err
			}
			if err := lines(fmt.Sprintf("%s[%s]", at, key), v.MapIndex(key)); err != nil {
				return err
			}
		}
	}
	return nil
}
