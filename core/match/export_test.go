package match

// RunWith is Run with what others do to the kernel given.
var RunWith = run
