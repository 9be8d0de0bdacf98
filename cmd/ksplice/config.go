package main

import (
	"errors"
	"os"

	"github.com/BurntSushi/toml"
	"github.com/hashicorp/go-hclog"

	"github.com/ksplice/ksplice/core/pluginhost"
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
}

// readConfig reads the file at path; an empty path means the default one, which need not exist.
func readConfig(path string) (*config, error) {
	c := &config{}
	named := path != ""
	if !named {
		path = configDefault
	}
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
	return c, nil
}

func (c *config) host(log hclog.Logger) pluginhost.Config {
	return pluginhost.Config{Dirs: append(c.Plugins.Dirs, pluginhost.DefaultDirs()...), Pins: c.Plugins.Pins, PluginConfig: c.Plugin, Logger: log}
}
