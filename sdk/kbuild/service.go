package kbuild

// Service serves the calls of backend.Backend that need a prepared tree only: Units, Compile, Link and Facts. Backends embed it.
type Service struct{}
