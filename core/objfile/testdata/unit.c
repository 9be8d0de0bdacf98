/* Functions, data and tables as a kernel's units have them: every one in a section of its own. */
struct ops {
	int (*open)(int mode);
	const char *name;
};

extern int outside(const char *what, int n);
extern int weak_outside(void) __attribute__((weak));

static int counter;
int shared = 3;
int tentative;
const int limits[] = { 1, 2, 3 };

static int __attribute__((noinline)) helper(int n)
{
	static int calls;

	calls += n;
	return outside("a string of its own", calls) + outside("string of its own", n);
}

int open_file(int mode)
{
	if (weak_outside && mode > limits[shared & 1])
		return weak_outside();
	switch (mode) {
	case 0: return helper(1);
	case 1: return outside("one", 2);
	case 2: return shared;
	case 3: return counter++;
	case 4: return -mode;
	case 5: return outside(__func__, mode);
	}
	return helper(mode);
}

const struct ops file_ops = { open_file, "file" };
int alias_of_open(int mode) __attribute__((alias("open_file")));

static void __attribute__((constructor, section(".init.text"))) start(void)
{
	counter = 1;
}
