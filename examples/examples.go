// Package examples lists the patches in patches/, what a program sees of each, and which must be refused. The kernel tests
// and the benchmark read the list; exercise/ is the program that shows the effects inside a guest, livepatch/ a module of the
// kernel's own livepatch for comparison.
package examples

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
)

//go:embed patches
var patches embed.FS

// Trait is what a patch is an example of.
type Trait uint

const (
	// Vmlinux: a part for the kernel proper.
	Vmlinux Trait = 1 << iota
	// Module: a part for a module.
	Module
	// Files: several source files.
	Files
	// Header: an inline function of a header.
	Header
	// Static: static variables, of a file and of a function, that new code shares with run.
	Static
	// Ambiguous: functions whose names other files use too.
	Ambiguous
	// NewData: data, functions or messages that run does not have.
	NewData
	// Window: a static branch lies where the jump would go: ftrace redirects the function.
	Window
	// ReadOnlyKey: a static key that is read-only after boot.
	ReadOnlyKey
	// Sleep: a thread can be put to sleep in the function with "exercise sleep".
	Sleep
	// Sets: a value of data that exist.
	Sets
	// Cheap: the call costs so little that a redirect can be measured with "exercise bench".
	Cheap
)

// Has says that t has all of the traits in u.
func (t Trait) Has(u Trait) bool { return t&u == u }

// Switch is a file of the guest's whose writing rewrites code of the function: Off is how it was at boot.
type Switch struct {
	Path, On, Off string
}

// Example is a patch whose update can be applied.
type Example struct {
	// Name is the patch's file name without its ending.
	Name string
	// Base names the example that it stands on.
	Base   string
	Traits Trait
	// Targets lists what the update has parts for: "vmlinux" and modules.
	Targets []string
	// Functions are some that the update replaces, by the names that the kernel's symbol table has.
	Functions []string
	// Units are what create must match besides, because new code names their symbols.
	Units []string
	// Modules are loaded before, in this order.
	Modules []string
	// Setup lists arguments of "exercise" that are run once before.
	Setup [][]string
	// Show lists actions of "exercise do" and "exercise loop", each with the regular expressions that the old and the new
	// text match; neither matches the other's. Empty: only the kernel's state shows the effect.
	Show []Effect
	// Flip, where set, rewrites code of the function.
	Flip *Switch
}

// Effect is what a program sees.
type Effect struct {
	Action []string
	// Old and New are regular expressions for the text without the newline at its end.
	Old, New string
	// Once: what has been seen stays after undo (a line in the kernel's log).
	Once bool
}

// Seen says which effect a text of "exercise do" shows: "old", "new" or, for neither or both, "".
func (x Effect) Seen(text string) string {
	text = strings.TrimSuffix(text, "\n")
	was, now := regexp.MustCompile(x.Old).MatchString(text), regexp.MustCompile(x.New).MatchString(text)
	switch {
	case was && !now:
		return "old"
	case now && !was:
		return "new"
	}
	return ""
}

// All lists the examples, the simplest first.
var All = []Example{
	{
		Name: "uptime-words", Traits: Vmlinux, Targets: []string{"vmlinux"}, Functions: []string{"uptime_proc_show"},
		Show: []Effect{{
			Action: []string{"file", "/proc/uptime"},
			Old:    `^\d+\.\d\d \d+\.\d\d$`, New: `^\d+\.\d\d \d+\.\d\d \(\d+ days \d\d:\d\d\)$`,
		}},
	},
	{
		Name: "pktgen-commands", Traits: Module | NewData, Targets: []string{"pktgen"}, Functions: []string{"pgctrl_show"},
		Modules: []string{"pktgen"},
		Show: []Effect{{
			Action: []string{"file", "/proc/net/pktgen/pgctrl"},
			Old:    `^Packet Generator [^\n]*$`, New: `^Packet Generator [^\n]*\nCommands: start stop reset$`,
		}},
	},
	{
		Name: "loadavg-cpus-vlan-device", Traits: Vmlinux | Module | Files, Targets: []string{"vmlinux", "8021q"},
		Functions: []string{"loadavg_proc_show", "vlan_seq_show"}, Modules: []string{"8021q"},
		Show: []Effect{{
			Action: []string{"file", "/proc/loadavg"},
			Old:    `^[\d. ]+ \d+/\d+ \d+$`, New: `^[\d. ]+ \d+/\d+ \d+ of \d+ cpus$`,
		}, {
			Action: []string{"file", "/proc/net/vlan/config"},
			Old:    `^VLAN Dev name\t \| VLAN ID(\n|$)`, New: `^VLAN Dev name\t \| VLAN ID \| Device(\n|$)`,
		}},
	},
	{
		Name: "vlan-reserved-id", Traits: Vmlinux | Module | Files | Header, Targets: []string{"vmlinux", "8021q"},
		Functions: []string{"vlan_do_receive", "vlan_seq_show"}, Modules: []string{"8021q", "dummy"},
		Setup: [][]string{{"vlan", "dummy0", "5"}},
		Show: []Effect{{
			Action: []string{"file", "/proc/net/vlan/config"},
			Old:    `\ndummy0\.5 +\| 5  \| dummy0(\n|$)`, New: `\ndummy0\.5 +\| 5  \| dummy0 \| (up|down)(\n|$)`,
		}},
	},
	{
		Name: "boot-id-capitals", Traits: Vmlinux | Static | NewData, Targets: []string{"vmlinux"},
		Functions: []string{"proc_do_uuid"},
		Show: []Effect{{
			Action: []string{"file", "/proc/sys/kernel/random/boot_id"},
			Old:    `^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`, New: `^[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}$`,
		}, {
			Action: []string{"log", "UUIDs are"},
			Old:    `^no line$`, New: `^random: UUIDs are shown in capitals$`, Once: true,
		}},
	},
	{
		Name: "reboot-names", Traits: Vmlinux | Ambiguous, Targets: []string{"vmlinux"}, Functions: []string{"mode_show", "type_show"},
		Show: []Effect{{
			Action: []string{"file", "/sys/kernel/reboot/mode"}, Old: `^\w+$`, New: `^mode \w+$`,
		}, {
			Action: []string{"file", "/sys/kernel/reboot/type"}, Old: `^\w+$`, New: `^type \w+$`,
		}},
	},
	{
		Name: "netif-rx-drop", Traits: Vmlinux | Window, Targets: []string{"vmlinux"}, Functions: []string{"__netif_rx"},
		Show: []Effect{{Action: []string{"udp", "13"}, Old: `^arrived$`, New: `^lost$`}},
		Flip: &Switch{"/sys/kernel/tracing/events/net/netif_rx_entry/enable", "1", "0"},
	},
	{
		Name: "schedstat-message", Traits: Vmlinux | Window, Targets: []string{"vmlinux"}, Functions: []string{"force_schedstat_enabled"},
		Flip: &Switch{"/proc/sys/kernel/sched_schedstats", "1", "0"},
	},
	{
		Name: "usercopy-once", Traits: Vmlinux | ReadOnlyKey | NewData, Targets: []string{"vmlinux"}, Functions: []string{"__check_object_size"},
		Show: []Effect{{
			Action: []string{"log", "usercopy:"},
			Old:    `^no line$`, New: `^usercopy: the size of copies is checked$`, Once: true,
		}},
	},
	{
		Name: "eventfd-short-read", Traits: Vmlinux | Sleep, Targets: []string{"vmlinux"}, Functions: []string{"eventfd_read"},
		Show: []Effect{{Action: []string{"short-read"}, Old: `^EINVAL$`, New: `^EMSGSIZE$`}},
	},
	{
		Name: "eventfd-reads", Traits: Vmlinux | NewData, Targets: []string{"vmlinux"}, Functions: []string{"eventfd_read", "eventfd_show_fdinfo"},
		Show: []Effect{{Action: []string{"eventfd"}, Old: `^no reads$`, New: `^reads: \d+$`}},
	},
	{
		Name: "eventfd-count", Traits: Vmlinux | NewData, Targets: []string{"vmlinux"}, Functions: []string{"eventfd_read", "eventfd_show_fdinfo"},
		Show: []Effect{{Action: []string{"eventfd"}, Old: `^no reads$`, New: `^reads: \d+$`}},
	},
	{
		// __x64_sys_getppid is another name of the same code (arch/x86/include/asm/syscall_wrapper.h:SYSCALL_DEFINE0).
		Name: "getppid-init", Traits: Vmlinux | Cheap, Targets: []string{"vmlinux"}, Functions: []string{"__ia32_sys_getppid"},
		Show: []Effect{{Action: []string{"getppid"}, Old: `^0$`, New: `^1$`}},
	},
	{
		Name: "uptime-processes", Traits: Vmlinux, Targets: []string{"vmlinux"}, Functions: []string{"uptime_proc_show"},
		Units: []string{"kernel/fork.c"},
		Show: []Effect{{
			Action: []string{"file", "/proc/uptime"},
			Old:    `^\d+\.\d\d \d+\.\d\d$`, New: `^\d+\.\d\d \d+\.\d\d \d+ processes$`,
		}},
	},
	{
		Name: "overcommit-ratio", Traits: Vmlinux | Sets, Targets: []string{"vmlinux"}, Functions: []string{"overcommit_ratio_handler"},
		Show: []Effect{{Action: []string{"file", "/proc/sys/vm/overcommit_ratio"}, Old: `^50$`, New: `^60$`}},
	},
	{
		Name: "uptime-words-seconds", Base: "uptime-words", Traits: Vmlinux, Targets: []string{"vmlinux"},
		Functions: []string{"uptime_proc_show"},
		Show: []Effect{{
			Action: []string{"file", "/proc/uptime"},
			Old:    `^\d+\.\d\d \d+\.\d\d \(\d+ days \d\d:\d\d\)$`, New: `^\d+\.\d\d \d+\.\d\d \(\d+ days \d\d:\d\d:\d\d\)$`,
		}},
	},
}

// Refusal is a patch that must be refused.
type Refusal struct {
	// Name is the patch's file name without "-FAIL.patch".
	Name string
	// Command refuses it: "create" or "apply".
	Command string
	// Words is a regular expression that the message matches.
	Words string
}

// Refusals lists the patches that must be refused.
var Refusals = []Refusal{
	{"does-not-apply", "create", `fs/proc/uptime\.c: hunk 2 .*does not apply`},
	{"layout", "create", `struct eventfd_ctx`},
	{"layout-header", "create", `struct in_device`},
	{"initialiser", "create", `oops_count: changed initialiser of live data`},
	{"init-only", "create", `(?s)no function's object code changes.*proc_uptime_init`},
	{"entry-text", "create", `\.entry\.text`},
	{"kconfig", "create", `fs/proc/Kconfig: .*configuration of a running kernel cannot change`},
	{"schedule", "apply", `schedule`},
}

// Always is an example with functions in which somebody always sleeps: it goes in with --freeze. "exercise asleep" sleeps in each of
// them; the functions differ between kernels.
var Always = Example{Name: "sleepers", Traits: Vmlinux, Targets: []string{"vmlinux"}}

// Get returns an example by its name.
func Get(name string) (Example, error) {
	if i := slices.IndexFunc(All, func(e Example) bool { return e.Name == name }); i >= 0 {
		return All[i], nil
	}
	return Example{}, fmt.Errorf("no example %q: package examples lists them", name)
}

// With returns the examples that have all of the traits, in the order of All.
func With(t Trait) []Example {
	var out []Example
	for _, e := range All {
		if e.Traits.Has(t) {
			out = append(out, e)
		}
	}
	return out
}

// Patch returns the example's patch for a series of kernels ("6.1", "6.12").
func (e Example) Patch(series string) ([]byte, error) { return read(series, e.Name) }

// Patch returns the patch for a series of kernels.
func (r Refusal) Patch(series string) ([]byte, error) { return read(series, r.Name+"-FAIL") }

// read returns a patch: the one for the series where there is one, else the one for all.
func read(series, name string) ([]byte, error) {
	b, err := patches.ReadFile("patches/" + series + "/" + name + ".patch")
	if errors.Is(err, fs.ErrNotExist) {
		b, err = patches.ReadFile("patches/" + name + ".patch")
	}
	if err != nil {
		return nil, fmt.Errorf("read example patch %s for %s: %w", name, series, err)
	}
	return b, nil
}
