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

// setting is a key of the configuration file, as `ksplice config` shows it and the manual.
type setting struct {
	Key     string `json:"key"` // FILE and KEY stand for what one likes
	Type    string `json:"type"`
	Default string `json:"default"`
	Meaning string `json:"meaning"`
}

// settings are all keys of config.
var settings = []setting{
	{"plugins.dirs", "list of directories", "[]", "where plugins are looked for before the installation's own directory"},
	{"plugins.pins.FILE", "text", "", "the SHA-256, in hex, that the plugin of that file name must have; ksplice plugin list -v shows it"},
	{"plugin.FILE.KEY", "text", "", "what the plugin of that file name is given; its author says what there is"},
	{"trust.keys", "list of directories", `["` + trust.DefaultDir + `"]`, "where the keys lie of those whose updates this machine takes (ksplice verify --help)"},
	{"trust.allow_unsigned", "true or false", "false", "take updates that nobody of those has signed, as with --allow-unsigned: for machines on which updates are tried"},
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
			return e.result(settings, func(w io.Writer) {
				fmt.Fprintln(w, "KEY\tTYPE\tDEFAULT\tMEANING")
				for _, s := range settings {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Key, s.Type, s.Default, s.Meaning)
				}
			})
		},
	}
}

// configKey is what the manual says of one key of the configuration.
type configKey struct {
	// table and key are as they stand in the file; capital letters stand for a name.
	table, key string
	kind       string // "string", "array of strings"
	text       string
}

// configKeys lists all keys of config.
var configKeys = []configKey{
	{"plugins", "dirs", "array of strings", "Directories in which plugins are looked for, before those of $KSPLICE_PLUGIN_PATH and of the installation."},
	{"plugins.pins", "FILE", "string", "The SHA-256, in hexadecimal, that the plugin with this file name must have, for example backend-acme; `ksplice plugin list -v` shows digests. A plugin that has another is not run."},
	{"plugin.FILE", "KEY", "string", "What the plugin with this file name is always given, as --backend-option gives it once. Which keys there are, the plugin says."},
}

// configExample is a whole file.
const configExample = `[plugins]
dirs = ["/opt/acme/ksplice/plugins"]
[plugins.pins]
backend-acme = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
[plugin.backend-kbuild]
source = "/usr/src/linux-6.1.130"`

// readConfig reads the file at path; an empty path means the default one, which need not exist.
func readConfig(path string) (*config, error) {
	named := path != ""
	if !named {
		path = configDefault
	}
	c := &config{path: path}
	meta, err := toml.DecodeFile(path, c)
	if errors.Is(err, os.ErrNotExist) && !named {
		return c, nil
	}
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
	if os.Geteuid() == 0 {
		if err := rootsOwn(path); err != nil {
			return nil, usagef("configuration %s: it says what root runs and whom root trusts, but somebody else could change it: %v (chown root, chmod go-w)", path, err)
		}
	}
	return c, nil
}

// rootsOwn returns an error that says who else could change the file. What is no file at all, as /dev/null, nobody can.
func rootsOwn(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if real, err = filepath.Abs(real); err != nil {
		return err
	}
	if info, err := os.Stat(real); err != nil || !info.Mode().IsRegular() {
		return err
	}
	return rootonly.File(real)
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
