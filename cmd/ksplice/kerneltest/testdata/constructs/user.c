// What programs see of the patch "pending". Modes:
//   calls   system calls of both kinds, natively and through the gate of 32-bit programs, and what two of their functions' clones fill in
//   timer   a timer that is due in an hour of the machine's clock, and how often it says that it came
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

// Numbers of arch/x86/entry/syscalls/syscall_32.tbl.
enum { umask32 = 60, sysinfo32 = 116 };

static long gate(long number, long argument)
{
	long result;

	asm volatile("int $0x80" : "=a"(result) : "a"(number), "b"(argument) : "memory", "r8", "r9", "r10", "r11");
	return (int)result;
}

static long native(long number, long argument)
{
	return syscall(number, argument) < 0 ? -errno : 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "calls")) {
		struct msginfo queues;
		struct sysinfo machine;

		umask(022);
		printf("%ld ", native(SYS_umask, 0x5ca1e));
		umask(022);
		printf("%ld ", gate(umask32, 0x5ca1e));
		printf("%ld ", native(SYS_sysinfo, 0));
		printf("%ld ", gate(sysinfo32, 0));
		if (sysinfo(&machine) || msgctl(0, IPC_INFO, (struct msqid_ds *)&queues) < 0)
			return 1;
		printf("%u %d\n", machine.pad, queues.msgssz);
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "timer")) {
		struct itimerspec when = { { 0 } };
		uint64_t ticks;
		int fd = timerfd_create(CLOCK_REALTIME, 0);

		clock_gettime(CLOCK_REALTIME, &when.it_value);
		when.it_value.tv_sec += 3600;
		if (fd < 0 || timerfd_settime(fd, TFD_TIMER_ABSTIME, &when, NULL))
			return 1;
		puts("armed");
		fflush(stdout);
		if (read(fd, &ticks, sizeof(ticks)) != sizeof(ticks))
			return 1;
		printf("came %lu\n", (unsigned long)ticks);
		return 0;
	}
	return 2;
}
