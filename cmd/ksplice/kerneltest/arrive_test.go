package kerneltest

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// diskPatch changes a function that null_blk's init runs, as any disk made later does.
const diskPatch = `--- a/drivers/block/null_blk/main.c
+++ b/drivers/block/null_blk/main.c
@@ -2017,5 +2017,5 @@
 	list_add_tail(&nullb->list, &nullb_list);
 
-	pr_info("disk %s created\n", nullb->disk_name);
+	pr_info("disk %s was created\n", nullb->disk_name);
 
 	return 0;
`

// initPatch changes null_blk's init itself.
const initPatch = `--- a/drivers/block/null_blk/main.c
+++ b/drivers/block/null_blk/main.c
@@ -2316,5 +2316,5 @@
 		goto err_dev;
 
-	pr_info("module loaded\n");
+	pr_info("module was loaded\n");
 	return 0;
 
`

// exitHunk changes its exit: no part of before init may make what that undoes.
const exitHunk = `@@ -2335,4 +2335,5 @@
 	struct nullb *nullb;
 
+	pr_info("module goes\n");
 	configfs_unregister_subsystem(&nullb_subsys);
 
`

// zonePatch changes a function with a tracepoint: its part names keys that lie in null_blk.
const zonePatch = `--- a/drivers/block/null_blk/zoned.c
+++ b/drivers/block/null_blk/zoned.c
@@ -209,5 +209,5 @@
 
 	first_zone = null_zone_no(dev, sector);
-	if (first_zone >= dev->nr_zones)
+	if (nr_zones == UINT_MAX || first_zone >= dev->nr_zones)
 		return 0;
 
`

const (
	oldDisk = "disk nullb0 created"
	newDisk = "disk nullb0 was created"
	oldInit = "module loaded"
	newInit = "module was loaded"
)

// arriving is a guest in which modules come.
type arriving struct {
	*lab
	id   string
	file string
}

// TestArrive arms updates for modules that are not loaded, and loads those.
func TestArrive(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		vlan, err := examples.Get("vlan-reserved-id")
		if err != nil {
			t.Fatal(err)
		}
		both := l.example(t, vlan)
		disk := l.create(t, "disk", []byte(diskPatch))
		initHunk := initPatch[strings.Index(initPatch, "@@"):]
		files := map[string]string{}
		for _, name := range []string{"null_blk", "watcher"} {
			if files["/lib/"+name+".ko"], err = vmtest.BuildModule(t.Context(), l.kernel, "cmd/ksplice/kerneltest/testdata/"+name, name); err != nil {
				t.Fatal(err)
			}
		}
		l.boot(t, vmtest.Options{Files: files})
		l.MustRun(t, "modprobe", "configfs")
		if series != "6.1" {
			l.MustRun(t, "modprobe", "nls_ucs2_utils") // a module without text
		}
		same := l.saveText(t)
		l.keepJournal(t)
		made := map[string]*arriving{diskPatch: {l, l.id(t, disk), disk}}
		for _, part := range []struct {
			name  string
			whose string // whose turn it is, each kernel's if empty
			patch string // whose update it arms
			run   func(*arriving, *testing.T)
		}{
			{"live", "", diskPatch, func(_ *arriving, t *testing.T) { l.arriveLive(t, &vlan, both) }},
			{"disarmed", "6.12", diskPatch, (*arriving).disarmed},
			{"other", "6.12", diskPatch, (*arriving).other},
			{"before-init", "6.1", diskPatch, (*arriving).beforeInit},
			{"failing-init", "6.1", diskPatch, (*arriving).failingInit},
			{"slow", "6.1", diskPatch, (*arriving).slow},
			{"alone", "6.1", diskPatch, (*arriving).alone},
			{"init alone", "6.1", initPatch, (*arriving).initAlone},
			{"init and more", "6.12", diskPatch + initHunk, (*arriving).initAndMore},
			{"after init", "6.12", diskPatch + initHunk + exitHunk, (*arriving).afterInit},
			{"keys", "6.12", zonePatch, (*arriving).keys}, // the last: its part stays
		} {
			if part.whose != "" && !l.turn(part.whose) {
				continue
			}
			if made[part.patch] == nil {
				file := l.create(t, strings.ReplaceAll(part.name, " ", "-"), []byte(part.patch))
				made[part.patch] = &arriving{l, l.id(t, file), file}
			}
			ok := t.Run(part.name, func(t *testing.T) {
				defer func() {
					if t.Failed() {
						t.Log(l.MustRun(t, "sh", "-c", "dmesg | grep -e ksplice: -e null_blk: | tail -n 40"))
					}
				}()
				part.run(made[part.patch], t)
			})
			if !ok {
				t.FailNow() // what it left is in the way of the next
			}
		}
		same()
	})
}

// state returns what status says of a transaction: its stage, and what an armed one waits for.
func (l *lab) state(t testing.TB, id string) (stage, text string, exposed time.Duration) {
	t.Helper()
	var states []struct {
		ID      string        `json:"id"`
		Stage   string        `json:"stage"`
		Exposed time.Duration `json:"exposed_ns"`
		Armed   struct{ State string }
	}
	if err := json.Unmarshal([]byte(l.must(t, exitOK, "", "status", "--json")), &states); err != nil {
		t.Fatal(err)
	}
	for _, s := range states {
		if s.ID == id {
			stage, text, exposed = s.Stage, s.Armed.State, s.Exposed
		}
	}
	return stage, text, exposed
}

// arriveLive applies an update to vmlinux, and its part for 8021q when that comes.
func (l *lab) arriveLive(t *testing.T, e *examples.Example, file string) {
	id := l.id(t, file)
	l.must(t, exitOK, "not loaded", "check", file)
	l.must(t, exitOK, "armed", "apply", "--attempts", "100", file)
	if stage, _, _ := l.state(t, id); stage != "applied" {
		t.Fatalf("the part for vmlinux is %q", stage)
	}
	if stage, text, _ := l.state(t, id+":8021q"); stage != "armed" || !strings.Contains(text, "waits") {
		t.Fatalf("the part for 8021q is %q (%s)", stage, text)
	}
	l.must(t, exitRefused, "applied already", "apply", file)
	l.setUp(t, e)
	var exposed time.Duration
	poll(t, "8021q to get its part", func() bool {
		var stage string
		stage, _, exposed = l.state(t, id+":8021q")
		return stage == "applied"
	})
	t.Logf("8021q had been live for %v", exposed)
	if exposed <= 0 {
		t.Error("a module that was live got its part, and nobody says how long it had been")
	}
	for i := range e.Show {
		l.sees(t, &e.Show[i], "new")
	}
	if r, err := l.Run(t.Context(), "rmmod", "8021q"); err != nil || r.Exit == 0 {
		t.Errorf("8021q could be unloaded under its part (%v)", err)
	}
	// All of it goes in one stop, whichever of the two is named.
	out := l.must(t, exitOK, "undone", "undo", "--attempts", "100", id+":8021q")
	if !strings.Contains(out, "disarmed") {
		t.Errorf("undo does not say that nothing waits for 8021q any more:\n%s", out)
	}
	for i := range e.Show {
		l.sees(t, &e.Show[i], "old")
	}
	l.clean(t)
}

// says wants words in what the kernel logs while a module is loaded.
func (l *lab) says(t testing.TB, want, not string, args ...string) {
	t.Helper()
	l.MustRun(t, "dmesg", "-c")
	l.MustRun(t, append([]string{"modprobe"}, args...)...)
	log := l.MustRun(t, "dmesg")
	if !strings.Contains(log, want) || strings.Contains(log, not) {
		t.Fatalf("modprobe %s: the log wants %q, and not %q:\n%s", strings.Join(args, " "), want, not, log)
	}
}

// arm applies the update, for a module that is not there. An init waits for longer than an emulated machine may need.
func (a *arriving) arm(t testing.TB, flags ...string) {
	t.Helper()
	a.must(t, exitOK, "armed", append([]string{"apply", "--before-init-wait", "2m", a.file}, flags...)...)
}

// disarmed undoes an update whose module has not come: when it comes, nothing happens.
func (a *arriving) disarmed(t *testing.T) {
	a.arm(t)
	if r, err := a.Run(t.Context(), "rmmod", "ksplice"); err != nil || r.Exit == 0 {
		t.Errorf("ksplice could be unloaded while an update waits (%v)", err)
	}
	a.must(t, exitOK, "disarmed", "undo", a.id)
	a.must(t, exitRefused, "not applied", "undo", a.id)
	a.says(t, oldDisk, newDisk, "null_blk", "nr_devices=1")
	a.MustRun(t, "rmmod", "null_blk")
	a.clean(t)
}

// other loads another module of the name: it is refused, and lives on as it is. So it is when the init waits.
func (a *arriving) other(t *testing.T) {
	for _, flags := range [][]string{nil, {"--before-init=refuse"}} {
		a.arm(t, flags...)
		r, err := a.Run(t.Context(), "insmod", "/lib/null_blk.ko")
		if err != nil || (r.Exit != 0) != (len(flags) == 1 && strings.HasSuffix(flags[0], "refuse")) {
			t.Errorf("insmod with %q: %v, %+v", flags, err, r)
		}
		var text string
		if r.Exit == 0 {
			poll(t, "the other module to be refused", func() bool {
				_, text, _ = a.state(t, a.id+":null_blk")
				return !strings.Contains(text, "waits")
			})
			if !strings.Contains(text, "in module null_blk") {
				t.Errorf("the refusal does not say what is wrong: %s", text)
			}
			a.must(t, exitRefused, a.id+":null_blk  module null_blk runs without its part", "status", "--check")
			a.must(t, exitOK, "ksplice_armed_unapplied 1\n", "status", "--prometheus")
			a.told(t, "KSPLICE_EVENT=failed", "KSPLICE_OPERATION=arrive", "KSPLICE_ID="+a.id, "KSPLICE_MODULE=null_blk")
			a.MustRun(t, "rmmod", "null_blk")
		}
		a.must(t, exitOK, "disarmed", "undo", a.id)
	}
	a.clean(t)
}

// beforeInit has the part in before the module's init: what init does shows it. Somebody who registers a notifier meanwhile is in nobody's way.
func (a *arriving) beforeInit(t *testing.T) {
	a.arm(t, "--before-init")
	watcher := a.MustStart(t, "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do insmod /lib/watcher.ko; rmmod watcher; sleep 0.1; done")
	a.says(t, newDisk, oldDisk, "null_blk", "nr_devices=1")
	if stage, _, exposed := a.state(t, a.id+":null_blk"); stage != "applied" || exposed != 0 {
		t.Errorf("the part is %q, the module had been live for %v", stage, exposed)
	}
	a.must(t, exitOK, "good", "status", "--check")
	a.told(t, "KSPLICE_EVENT=applied", "KSPLICE_OPERATION=arrive", "KSPLICE_ID="+a.id, "KSPLICE_MODULE=null_blk")
	if r, err := watcher.Wait(t.Context()); err != nil || r.Exit != 0 {
		t.Errorf("the watcher: %v %+v", err, r)
	}
	a.undo(t, a.id)
	a.MustRun(t, "rmmod", "null_blk")
	a.says(t, oldDisk, newDisk, "null_blk", "nr_devices=1")
	a.MustRun(t, "rmmod", "null_blk")
	a.clean(t)
}

// fails wants a module's init to fail.
func (a *arriving) fails(t *testing.T) {
	t.Helper()
	if r, err := a.Run(t.Context(), "modprobe", "null_blk", "queue_mode=1"); err != nil || r.Exit == 0 {
		t.Fatalf("null_blk's init did not fail (%v)", err)
	}
}

// failingInit has init fail behind the part, which takes the module away under it. The part goes, and comes again.
func (a *arriving) failingInit(t *testing.T) {
	a.arm(t, "--before-init")
	for range 3 {
		a.fails(t)
		if stage, _, _ := a.state(t, a.id+":null_blk"); stage == "applied" {
			t.Errorf("the part is said to be applied to a module that is not there")
		}
	}
	a.says(t, newDisk, oldDisk, "null_blk", "nr_devices=1")
	a.undo(t, a.id)
	a.MustRun(t, "rmmod", "null_blk")
	a.clean(t)
}

// keys has init fail behind a part that names keys of the module: it has to stay for good, and what comes after is told so.
func (a *arriving) keys(t *testing.T) {
	a.arm(t, "--before-init")
	a.fails(t)
	if out := a.MustRun(t, "cat", "/proc/modules"); !strings.Contains(out, "ksplice_"+a.id+"_null_blk") {
		t.Errorf("the part is gone, although it names keys of a module that is:\n%s", out)
	}
	a.MustRun(t, "modprobe", "null_blk", "nr_devices=1", "zoned=1")
	if _, text, _ := a.state(t, a.id+":null_blk"); !strings.Contains(text, "stay mapped") {
		t.Errorf("the part cannot be loaded a second time, and nobody says so: %s", text)
	}
	a.MustRun(t, "rmmod", "null_blk")
	a.must(t, exitOK, "disarmed", "undo", a.id)
}

// slow keeps the helper waiting for longer than the init does.
func (a *arriving) slow(t *testing.T) {
	for _, policy := range []string{"allow", "refuse"} {
		a.must(t, exitOK, "armed", "apply", "--before-init="+policy, "--before-init-wait", "1s", a.file)
		a.MustRun(t, "mv", guestCLI, guestCLI+".real")
		a.MustRun(t, "sh", "-c", "printf '#!/bin/sh\nwhile ! [ -e /tmp/go ]; do sleep 0.1; done\nexec %s.real \"$@\"\n' "+guestCLI+" > "+guestCLI+"; chmod 755 "+guestCLI)
		if policy == "refuse" {
			if r, err := a.Run(t.Context(), "modprobe", "null_blk", "nr_devices=1"); err != nil || r.Exit == 0 {
				t.Errorf("null_blk was loaded without its update (%v)", err)
			}
		} else {
			a.says(t, oldDisk, newDisk, "null_blk", "nr_devices=1")
		}
		a.MustRun(t, "touch", "/tmp/go")
		if policy == "allow" {
			// It comes when it can.
			a.gets(t)
		}
		poll(t, "the helper to be done", func() bool {
			r := a.ksplice(t, "undo", "--attempts", "100", a.id)
			return r.Exit == exitOK
		})
		a.MustRun(t, "rm", "/tmp/go")
		a.MustRun(t, "mv", guestCLI+".real", guestCLI)
		if policy == "allow" {
			a.MustRun(t, "rmmod", "null_blk")
		}
	}
	a.clean(t)
}

// alone loads the module when the program that would apply its part is not there.
func (a *arriving) alone(t *testing.T) {
	for _, policy := range []string{"allow", "refuse"} {
		a.arm(t, "--before-init="+policy)
		a.MustRun(t, "mv", guestCLI, guestCLI+".away")
		r, err := a.Run(t.Context(), "modprobe", "null_blk", "nr_devices=1")
		a.MustRun(t, "mv", guestCLI+".away", guestCLI)
		if err != nil || (r.Exit == 0) != (policy == "allow") {
			t.Errorf("--before-init=%s, and nobody to apply it: %v, %+v", policy, err, r)
		}
		if policy == "allow" {
			if _, text, _ := a.state(t, a.id+":null_blk"); !strings.Contains(text, "cannot be started") {
				t.Errorf("what was wrong is told as %q", text)
			}
			a.MustRun(t, "rmmod", "null_blk")
		}
		a.must(t, exitOK, "disarmed", "undo", a.id)
	}
	a.clean(t)
	if left := a.MustRun(t, "cat", "/sys/kernel/ksplice/armed"); left != "" {
		t.Errorf("something is armed still:\n%s", left)
	}
}

// initAlone has an update of a module's init and nothing else: it comes before that, or not at all.
func (a *arriving) initAlone(t *testing.T) {
	a.must(t, exitRefused, "waits for it with --before-init only", "apply", a.file)
	a.says(t, oldInit, newInit, "null_blk", "nr_devices=1")
	a.must(t, exitRefused, "which has run: unload the module", "apply", "--before-init", a.file)
	a.MustRun(t, "rmmod", "null_blk")
	a.arm(t, "--before-init")
	a.fails(t) // it comes to a module that goes at once, and to that which comes after
	if log := a.MustRun(t, "dmesg"); !strings.Contains(log, "module null_blk went in its init; update "+a.id+":null_blk went with it") {
		t.Errorf("an init that failed did so without its part:\n%s", log)
	}
	a.says(t, newInit, oldInit, "null_blk", "nr_devices=1")
	if functions := a.functions(t); len(functions) > 0 {
		t.Errorf("init is over, and %q are said to be replaced", functions)
	}
	if stage, _, exposed := a.state(t, a.id+":null_blk"); stage != "applied" || exposed != 0 {
		t.Errorf("the part is %q, the module had been live for %v", stage, exposed)
	}
	a.undo(t, a.id)
	a.MustRun(t, "rmmod", "null_blk")
	a.says(t, oldInit, newInit, "null_blk", "nr_devices=1")
	a.MustRun(t, "rmmod", "null_blk")
	a.clean(t)
}

// initAndMore has an update of a module's init and of what stays. Another module may lie where the init was when it is undone.
func (a *arriving) initAndMore(t *testing.T) {
	a.arm(t, "--before-init")
	a.says(t, newInit, oldInit, "null_blk", "nr_devices=1")
	a.kept(t)
	a.MustRun(t, "insmod", "/lib/watcher.ko")
	same := a.saveText(t, "watcher")
	a.must(t, exitRefused, "applied already", "check", a.file)
	a.undo(t, a.id)
	same()
	a.MustRun(t, "rmmod", "watcher")
	a.MustRun(t, "rmmod", "null_blk")
	a.clean(t)
}

// afterInit has an update that changes init and does not carry that: though init waits, the rest goes in after it.
func (a *arriving) afterInit(t *testing.T) {
	out := a.must(t, exitOK, "armed", "apply", "--before-init", "--before-init-wait", "2m", a.file)
	if !strings.Contains(out, "its part goes in when the module is live, not before") {
		t.Errorf("apply does not say that init will not have the update:\n%s", out)
	}
	a.says(t, oldDisk, newInit, "null_blk", "nr_devices=1")
	a.gets(t)
	a.kept(t)
	a.undo(t, a.id)
	a.MustRun(t, "rmmod", "null_blk")
	a.clean(t)
}

// gets waits until a live null_blk has its part.
func (a *arriving) gets(t testing.TB) {
	t.Helper()
	poll(t, "null_blk to get its part", func() bool {
		stage, _, _ := a.state(t, a.id+":null_blk")
		return stage == "applied"
	})
}

// kept wants what is replaced in a live null_blk to be what outlives its init.
func (a *arriving) kept(t testing.TB) {
	t.Helper()
	want := []string{"null_add_dev", "null_add_dev.cold"} // gcc splits the second off for one of the kernels
	if got := a.functions(t); len(got) == 0 || !slices.Equal(got, want[:len(got)]) {
		t.Errorf("%q are said to be replaced, want %q", got, want)
	}
}

// functions names what status says is replaced in null_blk.
func (a *arriving) functions(t testing.TB) (names []string) {
	t.Helper()
	var states []struct {
		ID        string                  `json:"id"`
		Functions []struct{ Name string } `json:"functions"`
	}
	if err := json.Unmarshal([]byte(a.must(t, exitOK, "", "status", "--json")), &states); err != nil {
		t.Fatal(err)
	}
	for _, s := range states {
		for _, f := range s.Functions {
			if s.ID == a.id+":null_blk" {
				names = append(names, f.Name)
			}
		}
	}
	slices.Sort(names)
	return names
}
