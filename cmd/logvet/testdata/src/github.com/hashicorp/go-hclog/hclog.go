// Package hclog has the signatures of the real one.
package hclog

type Level int

type Logger interface {
	Log(level Level, msg string, args ...interface{})
	Info(msg string, args ...interface{})
	With(args ...interface{}) Logger
	Named(name string) Logger
}
