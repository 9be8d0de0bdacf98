// Command labtool runs inside the guests of the kernel tests, for what the shell there cannot do.
//
//	labtool text save FILE [MODULE...]      keep the text of the kernel proper and of modules
//	labtool text compare FILE               name every function whose text is not what it was, outside of sites
//	labtool peek SYMBOL [MODULE]            print a function's run address and its bytes
//	labtool mutate FILE                     take an update to the kernel module with one thing changed at a time
//	labtool begin                           have the kernel module, in a kernel whose memory nobody may read, begin to apply: it refuses
//	labtool transfer                        give the kernel module bad state transfers; ends with the kernel locked down
//	labtool journal FILE                    be the machine's journal, and keep its entries
//	labtool killat WORDS COMMAND [ARG...]   run a command, kill it with SIGKILL when it prints the words
package main

import (
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "labtool:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) >= 3 && args[0] == "text" && args[1] == "save":
		return save(args[2], args[3:])
	case len(args) == 3 && args[0] == "text" && args[1] == "compare":
		return compare(args[2])
	case len(args) >= 2 && args[0] == "peek":
		return peek(append(args[1:], "")[:2])
	case len(args) == 2 && args[0] == "mutate":
		return mutate(args[1])
	case len(args) == 1 && args[0] == "begin":
		return begin()
	case len(args) == 1 && args[0] == "transfer":
		return transfer(false)
	case len(args) == 2 && args[0] == "transfer" && args[1] == "locked":
		return transfer(true)
	case len(args) == 2 && args[0] == "journal":
		return keepJournal(args[1])
	case len(args) >= 3 && args[0] == "killat":
		return killAt(args[1], args[2:])
	}
	return fmt.Errorf("unknown arguments %q", args)
}
