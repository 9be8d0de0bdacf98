package a

import "github.com/hashicorp/go-hclog"

const key = "key"

type text string

func calls(l hclog.Logger, args []interface{}) {
	l.Info("message")
	l.Info("message", key, 1, text("other"), 2)
	l.Info("message", args...)
	l.Named("name").Log(1, "message", "key", 1)
	l.Info("message", 1)            // want "Info has 1 arguments that should be pairs of a key and its value"
	l.Log(1, "message", "key")      // want "Log has 1 arguments that should be pairs"
	l.With("key").Info("message")   // want "With has 1 arguments that should be pairs"
	l.Info("message", "a", 1, 2, 3) // want "key 2 of Info is not a string"
}
