// Functions with one of each thing that the plugin describes: made by Makefile, with the options of a kernel with BTI, pointer
// authentication and the tracer.

extern int outside(int);
extern int counter;
static int own;
static const char *const words[] = { "one", "two", "three" };

__attribute__((noinline)) static int leaf(int x)
{
	return x * 3 + own;
}

int calls(int x) // CALL26 to another unit and to a function of this one, ADRP and the pages' low bits, memory
{
	counter += outside(x);
	own = leaf(counter);
	return own;
}

int tail(int x) // JUMP26
{
	return outside(x + 1);
}

const char *address(unsigned int n) // ADRP and ADD of data; the array itself is of ABS64
{
	return n < 3 ? words[n] : "none";
}

void (*const table[])(void) = { (void (*)(void))calls, (void (*)(void))tail };
