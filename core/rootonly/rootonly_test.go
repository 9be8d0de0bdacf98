package rootonly

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestWeakness(t *testing.T) {
	for _, tt := range []struct {
		name   string
		o      ownership
		sticky bool
		want   string
	}{
		{"root's own", ownership{mode: 0o755}, false, ""},
		{"another's", ownership{mode: 0o755, uid: 1000}, false, "belongs to user 1000"},
		{"everybody writes", ownership{mode: 0o757}, false, "is writable by everybody (mode 0757)"},
		{"a group writes", ownership{mode: 0o775, gid: 50}, false, "is writable by group 50 (mode 0775)"},
		{"root's group writes", ownership{mode: 0o775}, false, ""},
		{"an access control list's mask", ownership{mode: 0o775, acl: true}, false, "is writable by whom its access control list names (mode 0775)"},
		{"sticky", ownership{mode: 0o777 | os.ModeSticky}, true, ""},
		{"sticky counts for nothing", ownership{mode: 0o777 | os.ModeSticky}, false, "is writable by everybody (mode 0777)"},
		{"another's sticky", ownership{mode: 0o777 | os.ModeSticky, uid: 7}, true, "belongs to user 7"},
	} {
		if got := tt.o.weakness(tt.sticky); got != tt.want {
			t.Errorf("%s: weakness = %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestRootOnly changes one thing on the way from the root directory to a file.
func TestRootOnly(t *testing.T) {
	const path = "/opt/ksplice/plugins/arch-x86_64"
	shared := ownership{mode: 0o777 | os.ModeSticky | os.ModeDir}
	for at, tt := range map[string]struct {
		o    ownership
		want string
	}{
		"":                     {},
		path:                   {ownership{mode: 0o777}, path + " is writable by everybody"},
		"/opt/ksplice/plugins": {shared, "/opt/ksplice/plugins is writable by everybody"}, // others could put files there
		"/opt/ksplice":         {ownership{mode: 0o755, uid: 3}, "/opt/ksplice belongs to user 3"},
		"/opt":                 {shared, ""},
		"/":                    {ownership{mode: 0o770, gid: 9}, "/ is writable by group 9"},
	} {
		err := check(path, 0, func(p string) (ownership, error) {
			if p == at {
				return tt.o, nil
			}
			return ownership{mode: 0o755}, nil
		})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", at, err, tt.want)
		}
	}
	gone := errors.New("gone")
	if err := check(path, 0, func(string) (ownership, error) { return ownership{}, gone }); !errors.Is(err, gone) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestDir: a directory may not take others' files, however it keeps them apart; one above it may.
func TestDir(t *testing.T) {
	dir, shared := "/tmp/keys.d", ownership{mode: 0o777 | os.ModeSticky | os.ModeDir}
	for at, want := range map[string]string{"/tmp": "", dir: dir + " is writable by everybody"} {
		err := check(dir, 1, func(p string) (ownership, error) {
			if p == at {
				return shared, nil
			}
			return ownership{mode: 0o755}, nil
		})
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s shared: %v, want %q", at, err, want)
		}
	}
}
