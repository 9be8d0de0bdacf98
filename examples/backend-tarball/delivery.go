package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// Files of a delivery, which is a directory with the kernel's release (`uname -r`) as its name.
const (
	sumsName    = "SHA256SUMS"     // of all the others, as sha256sum writes it
	versionName = "version"        // what `uname -v` prints
	configName  = "config"         // of the build
	symversName = "Module.symvers" // of the build
	seriesName  = "patches/series" // optional: patches that the tarball lacks, as quilt has them
	imageName   = "vmlinuz"        // optional: it tells the build id, so that apply knows the kernel at once
)

// delivery is one kernel as ACME delivers it.
type delivery struct {
	dir, release, version string
	sums                  map[string]string // digests by file name
	tarball               string
	patches               []patch
	key                   string // a digest of all digests
}

// patch is a line of the series.
type patch struct{ name, strip string }

// tarballForm is a kernel's source.
var tarballForm = regexp.MustCompile(`^linux-[\w.+-]+\.tar\.xz$`)

// errNone says that there is no delivery of a release.
var errNone = errors.New("there is no delivery")

// openDelivery reads the small files of a delivery: enough to say what it is of.
func openDelivery(dir, release string) (*delivery, error) {
	// A release comes from the user: it must be one directory's name.
	if release == "" || release == "." || !filepath.IsLocal(release) || strings.ContainsAny(release, "/\x00") {
		return nil, errNone
	}
	d := &delivery{dir: filepath.Join(dir, release), release: release}
	text, err := os.ReadFile(filepath.Join(d.dir, sumsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNone
	}
	if err != nil {
		return nil, d.bad(sumsName, "it cannot be read", err.Error())
	}
	if d.sums, err = d.readSums(string(text)); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	d.key = hex.EncodeToString(sum[:])
	for name := range d.sums {
		if !tarballForm.MatchString(name) {
			continue
		}
		if d.tarball != "" {
			return nil, d.bad(sumsName, "it has two tarballs of sources", d.tarball+" and "+name)
		}
		d.tarball = name
	}
	for _, name := range []string{d.tarball, versionName, configName, symversName} {
		if d.sums[name] == "" {
			return nil, d.bad(sumsName, "it is not complete", fmt.Sprintf("a delivery has linux-*.tar.xz, %s, %s and %s", versionName, configName, symversName))
		}
	}
	// What may be missing must not be missing from the digests alone.
	for _, name := range []string{seriesName, imageName} {
		if _, err := os.Lstat(filepath.Join(d.dir, name)); err == nil && d.sums[name] == "" {
			return nil, d.bad(sumsName, "it has no digest of "+name, "the delivery has that file")
		}
	}
	version, err := d.read(versionName)
	if err != nil {
		return nil, err
	}
	d.version = strings.TrimSpace(string(version))
	if d.sums[seriesName] == "" {
		return d, nil
	}
	series, err := d.read(seriesName)
	if err != nil {
		return nil, err
	}
	d.patches, err = d.readSeries(string(series))
	return d, err
}

// bad is the error of a delivery that ACME must mend. Where is the file's path.
func (d *delivery) bad(name, summary, detail string) error {
	return &plugin.Diagnostic{Fault: plugin.FaultToolchain, Where: filepath.Join(d.dir, name), Summary: summary,
		Detail: detail + "; fetch the delivery again, or ask ACME for a whole one"}
}

// sumForm is a line of sha256sum's: digest, blank, blank or *, name.
var sumForm = regexp.MustCompile(`^([0-9a-f]{64}) [ *](\S+)$`)

func (d *delivery) readSums(text string) (map[string]string, error) {
	sums := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		m := sumForm.FindStringSubmatch(line)
		if m == nil || !filepath.IsLocal(m[2]) {
			return nil, d.bad(sumsName, "it is not what sha256sum writes of a delivery's files", fmt.Sprintf("one line is %q", line))
		}
		sums[strings.TrimPrefix(m[2], "./")] = m[1]
	}
	return sums, nil
}

// stripForm is the one option that a patch of the series may have.
var stripForm = regexp.MustCompile(`^-p[0-9]$`)

// readSeries reads quilt's list of patches: a line each, # begins a comment.
func (d *delivery) readSeries(text string) ([]patch, error) {
	var list []patch
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		switch {
		case len(f) == 0:
			continue
		case len(f) > 2 || len(f) == 2 && !stripForm.MatchString(f[1]) || !filepath.IsLocal(f[0]):
			return nil, d.bad(seriesName, "it is not a list of patches", fmt.Sprintf("one line is %q; a line has a file's name and, where that is not -p1, -p0 or another", strings.TrimSpace(line)))
		}
		p := patch{name: filepath.Join("patches", f[0]), strip: "-p1"}
		if len(f) == 2 {
			p.strip = f[1]
		}
		if d.sums[p.name] == "" {
			return nil, d.bad(sumsName, "it has no digest of "+p.name, "the series names that patch")
		}
		list = append(list, p)
	}
	return list, nil
}

// read reads a small file and holds it against its digest.
func (d *delivery) read(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(d.dir, name))
	if err != nil {
		return nil, d.bad(name, "it cannot be read", err.Error())
	}
	sum := sha256.Sum256(b)
	return b, d.compare(name, sum[:])
}

func (d *delivery) compare(name string, sum []byte) error {
	if got := hex.EncodeToString(sum); got != d.sums[name] {
		return d.bad(name, "it is not the file that ACME delivered", fmt.Sprintf("its SHA-256 is %s, %s says %s", got, sumsName, d.sums[name]))
	}
	return nil
}

// check holds every file against its digest, before anything is made of one.
func (d *delivery) check() error {
	names := make([]string, 0, len(d.sums))
	for name := range d.sums {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f, err := os.Open(filepath.Join(d.dir, name))
		if err != nil {
			return d.bad(name, "it cannot be read", err.Error())
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return d.bad(name, "it cannot be read", err.Error())
		}
		if err := d.compare(name, h.Sum(nil)); err != nil {
			return err
		}
	}
	return nil
}

// releases lists what is delivered, sorted.
func releases(dir string) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(dir, "*", sumsName))
	if err != nil {
		return nil, err
	}
	var list []string
	for _, f := range found {
		list = append(list, filepath.Base(filepath.Dir(f)))
	}
	slices.Sort(list)
	return list, nil
}
