package examples

import (
	"embed"
	"fmt"
)

//go:embed fixes corpus
var fixes embed.FS

// Fix is a real fix of the kernel, taken from the differences between two versions of Debian's source, that changes what existing data mean:
// a structure gains a member, a lock its type, a table an entry.
type Fix struct {
	// Name is the patch's file name without its ending, Release the kernel that it is for: an older one, which does not have it, or a series.
	Name, Release string
	// Backwards: the patch takes the fix away, and is in corpus/.
	Backwards bool
	// Lines is how many lines its author had to write besides the fix.
	Lines int
	// Modules are loaded before.
	Modules []string
	// Setup lists arguments of "exercise" that are run once before.
	Setup [][]string
	// Hold are arguments of "exercise hold", which makes objects before the update and uses them at each SIGUSR1; none where there are none.
	Hold []string
	// HoldLater are the same of one that makes its objects under the update.
	HoldLater []string
	// Show is what a program sees.
	Show []Effect
}

// Patch returns the fix.
func (f Fix) Patch() ([]byte, error) {
	dir := "fixes/" + f.Release
	if f.Backwards {
		dir = "corpus"
	}
	b, err := fixes.ReadFile(dir + "/" + f.Name + ".patch")
	if err != nil {
		return nil, fmt.Errorf("read the fix %s for %s: %w", f.Name, f.Release, err)
	}
	return b, nil
}

const (
	old61  = "6.1.0-47-amd64"
	old612 = "6.12.107+deb12-amd64"
)

// bounded is what is seen of a value that the fix has refused.
func bounded(refused string, action ...string) []Effect {
	return []Effect{{Action: action, Old: `^done$`, New: "^" + refused + "$"}}
}

// Fixes lists the fixes.
var Fixes = []Fix{
	{Name: "tcp-rmem-min-bound", Release: old612, Show: bounded("EINVAL", "set", "/proc/sys/net/ipv4/tcp_rmem", "1 131072 6291456")},
	{Name: "tcp-tso-rtt-log-bound", Release: old612, Show: bounded("EINVAL", "set", "/proc/sys/net/ipv4/tcp_tso_rtt_log", "40")},
	{Name: "unix-sysctl-bound", Release: old612, Show: bounded("EINVAL", "set", "/proc/sys/net/unix/max_dgram_qlen", "-1")},
	{Name: "rtnl-txqlen-range", Release: old612, Show: bounded("ERANGE", "txqlen", "lo", "2147483647")},
	{Name: "cpuset-nr_dl", Release: old612, Hold: []string{"deadline"}},
	{Name: "hwsim154-pib_lock", Release: old612, Modules: []string{"mac802154_hwsim"}, Hold: []string{"link", "wpan0"}},
	{Name: "isofs-session_start", Release: old612, Modules: []string{"loop", "isofs"}, Hold: []string{"iso", "/share/links.iso"}},
	{Name: "hci-remote_oob_lock", Release: old612, Modules: []string{"hci_vhci"}, Hold: []string{"bluetooth"}},
	{Name: "teql-raw_lock", Release: old612, Modules: []string{"sch_teql", "dummy"}, Hold: []string{"teql", "dummy0"}},
	{Name: "fq-initial-quantum", Release: old612, Modules: []string{"sch_fq", "dummy"}, Show: bounded("ERANGE", "qdisc", "dummy0", "fq", "4", "2000000")},
	{Name: "hhf-policy", Release: old612, Modules: []string{"sch_hhf", "dummy"}, Show: bounded("ERANGE", "qdisc", "dummy0", "hhf", "3", "5000")},
	{Name: "hwsim154-pib_lock", Release: old61, Modules: []string{"mac802154_hwsim"}, Hold: []string{"link", "wpan0"}},
	{Name: "teql-slaves_lock", Release: old61, Modules: []string{"sch_teql", "dummy"}, Hold: []string{"teql", "dummy0"}},
	{Name: "codel-peek", Release: old61, Modules: []string{"sch_codel", "dummy"}, Hold: []string{"codel", "dummy0"}},
	{Name: "spnego-vet", Release: old61, Modules: []string{"cifs"}, Show: bounded("EPERM", "add-key", "cifs.spnego", "ver=0x2")},
	{Name: "proc_net-setattr", Release: old61, Show: bounded("EPERM", "chmod", "/proc/self/net", "777")},
	{Name: "can-raw-destruct", Release: old61, Lines: 12, Modules: []string{"can-raw"}, Hold: []string{"can"}},
}

// Corpus lists fixes of vulnerabilities, taken backwards to the newest kernel, which need code of their authors'.
var Corpus = []Fix{
	{
		Name: "CVE-2023-42753", Release: "6.1", Backwards: true, Modules: []string{"ip_set_hash_netportnet"},
		Hold: []string{"ipset", "before"}, HoldLater: []string{"ipset", "under"},
	},
	{Name: "CVE-2023-52637", Release: "6.1", Backwards: true, Modules: []string{"can-j1939", "vcan"}, Hold: []string{"j1939"}},
	{Name: "CVE-2023-52638", Release: "6.1", Backwards: true, Modules: []string{"can-j1939", "vcan"}, Hold: []string{"j1939"}},
	{Name: "CVE-2024-22099", Release: "6.1", Backwards: true, Modules: []string{"rfcomm", "hci_vhci"}, Hold: []string{"bluetooth"}},
}
