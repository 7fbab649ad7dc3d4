/* SPDX-License-Identifier: MIT */
/*
 * TAP: one line a test, the plan at the end. The count is shared with forked children, so that a
 * test which may crash, park or hang can run in one.
 */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

/* Only there to end what hangs: no test of a sound blob comes near it. */
#define TAP_PATIENCE 900

static struct {
	int count, failed;
} * tap;

static inline void tap_start(void)
{
	tap = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(TAP_PATIENCE);
}

/*
 * How often something is to be done that is done `full` times as a rule: $TEST_EFFORT says how many
 * per cent of that, where a processor is emulated. At least once.
 */
static inline unsigned effort(unsigned full)
{
	const char *percent = getenv("TEST_EFFORT");
	unsigned n = percent ? full * (unsigned)atoi(percent) / 100 : full;

	return n ? n : 1;
}

__attribute__((format(printf, 1, 2))) static inline void diag(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf("# ");
	vprintf(format, args);
	printf("\n");
	va_end(args);
	fflush(stdout);
}

__attribute__((format(printf, 4, 5))) static inline int tap_ok(
    int passed, const char *where, int line, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf("%sok %d - ", passed ? "" : "not ", ++tap->count);
	vprintf(format, args);
	printf("\n");
	va_end(args);
	if (!passed) {
		tap->failed++;
		diag("at %s:%d", where, line);
	}
	fflush(stdout);
	return passed;
}

#define ok(condition, ...) tap_ok(!!(condition), __FILE__, __LINE__, __VA_ARGS__)

__attribute__((format(printf, 2, 3))) static inline void skip(
    const char *name, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf("ok %d - %s # SKIP ", ++tap->count, name);
	vprintf(format, args);
	printf("\n");
	va_end(args);
	fflush(stdout);
}

static inline int tap_end(void)
{
	printf("1..%d\n", tap->count);
	return tap->failed != 0;
}

/* A child that dies with its parent, whatever signals it blocks. */
static inline pid_t fork_mortal(void)
{
	pid_t parent = getpid(), pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
	}
	return pid;
}

/*
 * Children beside each other, `most` at a time: run(i, what) is the exit status of the i-th of `count`, and ended() is
 * told how each has ended, as wait(2) says it. When that returns other than 0, no more are begun.
 */
static inline void each_in_child(unsigned count, unsigned most,
    int (*run)(unsigned i, const void *what), const void *what,
    int (*ended)(int status, void *tally), void *tally)
{
	unsigned begun = 0, running = 0;
	int status;

	while (begun < count || running) {
		if (begun < count && running < most) {
			pid_t pid = fork_mortal();

			if (!pid) {
				status = run(begun, what);
				fflush(stdout);
				_exit(status);
			}
			begun++;
			running++;
			continue;
		}
		if (wait(&status) < 0)
			break;
		running--;
		if (ended(status, tally))
			count = begun;
	}
}

/* Runs `test` in a child; what it maps, opens and sets up ends with it. */
static inline void in_child(const char *name, void (*test)(void))
{
	int status = -1;
	pid_t pid = fork_mortal();

	if (!pid) {
		test();
		fflush(stdout);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		ok(0, "%s: the child ended with status 0x%x", name, (unsigned)status);
}

#endif
