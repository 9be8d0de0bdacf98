#include "textflag.h"

// func trap()
TEXT ·trap(SB), NOSPLIT, $0-0
	INT	$4
	RET
