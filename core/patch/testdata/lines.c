/* Functions that hold their line numbers, as the kernel's warnings do. */
extern void warn(const char *file, int line);
extern int sum(int first, ...);

#define WARN() warn("lines.c", __LINE__)
#define WARN_ON(condition) ({ int hit = (condition); if (hit) warn("lines.c", __LINE__); hit; })
#define PAIR(a, b) \
	((a) + \
	 (b) + __LINE__)

int first(void)
{
	WARN();
	return __LINE__;
}

int patched_one(int n)
{
	if (n > 3)
		return sum(1,
			   2,
			   3);
	return n;
}

int second(int n)
{
	if (WARN_ON(n > 1))
		return PAIR(n,
			    __LINE__);
	return 0;
}

#ifdef FEATURE
/* A comment with an apostrophe that isn't closed, and a (. */
int patched_feature(int n)
{
	return n + 1;
}

int feature(void)
{
	return __LINE__;
}
#else
int no_feature(void)
{
	return __LINE__;
}
#endif

int third(void)
{
	return sum(__LINE__,
#ifdef FEATURE
		   __LINE__,
#else
		   1, __LINE__,
#endif
		   __LINE__);
}

#if 0
static int patched_never(void)
{
	does not look here (
}
#endif

int fourth(int n)
{
	return WARN_ON(n) + __LINE__;
}

int patched_two(int n)
{
	WARN();
	WARN();
	/* This comment goes on
	 * over lines.
	 */
	return n;
}

int last(void)
{
	WARN();
	return PAIR(1, 2);
}
