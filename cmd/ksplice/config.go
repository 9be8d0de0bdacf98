package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/BurntSushi/toml"
	"github.com/hashicorp/go-hclog"

	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/core/rootonly"
	"github.com/ksplice/ksplice/core/trust"
)

const configDefault = "/etc/ksplice/config.toml"

// config is the configuration file. Unknown keys are refused.
type config struct {
	// Plugins says where plugins are looked for before the built-in places, and pins the SHA-256 of some by file name.
	Plugins struct {
		Dirs []string          `toml:"dirs"`
		Pins map[string]string `toml:"pins"`
	} `toml:"plugins"`
	// Plugin holds a plugin's own keys, by file name.
	Plugin map[string]map[string]string `toml:"plugin"`
	// Trust says whose updates this machine takes.
	Trust struct {
		Keys          []string `toml:"keys"`
		AllowUnsigned bool     `toml:"allow_unsigned"`
	} `toml:"trust"`

	path string // of the file
}

func configCommand() *command {
	return &command{
		name: "config", summary: "list what the configuration file can set",
		help: `A row each: the key, what it wants, what holds where it is not there, and what it does. The file is TOML: a key a.b is b
in the table [a]. A file with any other key is refused, by every command.`,
		example: "ksplice config\nksplice config --config new.toml    # and see that the file is right",
		run: func(_ context.Context, e *env, args []string) error {
			if len(args) > 0 {
				return usagef("config takes no arguments")
			}
			rows := make([]configRow, len(configKeys))
			for i, k := range configKeys {
				rows[i] = configRow{k.table + "." + k.key, k.kind, k.standard, k.text}
			}
			return e.result(rows, func(w io.Writer) {
				fmt.Fprintln(w, "KEY\tTYPE\tDEFAULT\tMEANING")
				for _, r := range rows {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Key, r.Type, r.Default, r.Meaning)
				}
			})
		},
	}
}

// configRow is a row of `ksplice config`.
type configRow struct {
	Key     string `json:"key"`
	Type    string `json:"type"`
	Default string `json:"default"`
	Meaning string `json:"meaning"`
}

// configKey is what the manual and `ksplice config` say of one key of the configuration.
type configKey struct {
	// table and key are as they stand in the file; capital letters stand for a name.
	table, key string
	kind       string // "string", "array of strings"
	standard   string // what holds where it is not there, as it would be written
	text       string
}

// configKeys lists all keys of config.
var configKeys = []configKey{
	{"plugins", "dirs", "array of strings", "[]", "Directories in which plugins are looked for, before those of $KSPLICE_PLUGIN_PATH and of the installation."},
	{"plugins.pins", "FILE", "string", "", "The SHA-256, in hexadecimal, that the plugin with this file name must have, for example backend-acme; `ksplice plugin list -v` shows digests. A plugin that has another is not run."},
	{"plugin.FILE", "KEY", "string", "", "What the plugin with this file name is always given, as --backend-option gives it once. Which keys there are, the plugin says."},
	{"trust", "keys", "array of strings", `["` + trust.DefaultDir + `"]`, "Directories in which the public keys lie of those whose updates this machine takes; `ksplice verify --help` says how. An empty list takes nobody's."},
	{"trust", "allow_unsigned", "boolean", "false", "Take updates that nobody of those has signed, as with --allow-unsigned: for machines on which updates are tried."},
}

// configExample is a whole file.
const configExample = `[plugins]
dirs = ["/opt/acme/ksplice/plugins"]
[plugins.pins]
backend-acme = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
[plugin.backend-kbuild]
source = "/usr/src/linux-6.1.130"
[trust]
keys = ["/etc/ksplice/keys.d", "/usr/share/acme/ksplice-keys"]`

// readConfig reads the file at path; an empty path means the default one, which need not exist.
func readConfig(path string) (*config, error) {
	named := path != ""
	if !named {
		path = configDefault
	}
	c := &config{path: path}
	// Who owns a link in the path may turn it at any moment: what is asked about and what is read is where it leads to now.
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) && !named {
		return c, nil
	}
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return nil, usagef("configuration %s: %v", path, err)
	}
	if os.Geteuid() == 0 && real != os.DevNull {
		if err := rootonly.File(real); err != nil {
			return nil, usagef("configuration %s: it says what root runs and whom root trusts, but somebody else could change it: %v (chown root, chmod go-w)", path, err)
		}
	}
	meta, err := toml.DecodeFile(real, c)
	if err != nil {
		return nil, usagef("configuration %s: %v", path, err)
	}
	if u := meta.Undecoded(); len(u) > 0 {
		return nil, usagef("configuration %s: key %q is not known", path, u[0].String())
	}
	for _, d := range c.Plugins.Dirs {
		if !filepath.IsAbs(d) {
			return nil, usagef("configuration %s: plugins.dirs: %q is no absolute path", path, d)
		}
	}
	return c, nil
}

// dirs are those that plugins are looked for in, in order.
func (c *config) dirs() []string { return slices.Concat(c.Plugins.Dirs, pluginhost.DefaultDirs()) }

// source says why one of dirs is looked through.
func (c *config) source(dir string) string {
	if slices.Contains(c.Plugins.Dirs, dir) {
		return "configuration " + c.path
	}
	return string(pluginhost.DefaultSource(dir))
}

func (c *config) host(log hclog.Logger) pluginhost.Config {
	return pluginhost.Config{Dirs: c.dirs(), Pins: c.Plugins.Pins, PluginConfig: c.Plugin, Logger: log}
}
