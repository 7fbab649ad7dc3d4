/* SPDX-License-Identifier: MIT */
/*
 * Preloaded into the tool, lets a system call fail that a process makes for it: those that are injected, and those of
 * the blobs, whose threads have no filter. (Their helpers make theirs unseen.)
 *
 *   REFUSE_INSIDE='N I LOG'   the N-th call fails with the I-th of the errors that it can have, counted from 0;
 *                             N is 0: none fails. LOG is a file that is written as strike.c's is
 *
 * What runs in the process is let go by PTRACE_SYSCALL to one stop, or by PTRACE_CONT to its end. In both cases this looks
 * at each call's entry and exit, for which it takes PTRACE_SET_SYSCALL_INFO (Linux 6.16 and later).
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "errnos.h"

#define SET_SYSCALL_INFO 0x4212 /* linux/ptrace.h; not in Debian 12 */

static struct {
	long (*ptrace)(int request, ...);
	unsigned long at, calls;
	unsigned i;
	FILE *log;
	pid_t failing, interrupted;
	int err;
} inside;

static void __attribute__((constructor)) begin(void)
{
	const char *text = getenv("REFUSE_INSIDE");
	char path[256] = "";

	inside.ptrace = (long (*)(int, ...))dlsym(RTLD_NEXT, "ptrace");
	if (text && sscanf(text, "%lu %u %255s", &inside.at, &inside.i, path) == 3)
		inside.log = fopen(path, "we");
	if (!inside.log)
		abort();
}

static void set_info(pid_t tid, struct __ptrace_syscall_info *info)
{
	if (inside.ptrace(SET_SYSCALL_INFO, tid, (void *)sizeof(*info), info))
		abort();
}

static void at_entry(pid_t tid, struct __ptrace_syscall_info *info)
{
	long nr = (long)info->entry.nr;

	fprintf(inside.log, "%lu %d %u %ld(%llx, %llx, %llx, %llx)\n", ++inside.calls, (int)tid,
	    count_errnos(nr), nr, (unsigned long long)info->entry.args[0],
	    (unsigned long long)info->entry.args[1], (unsigned long long)info->entry.args[2],
	    (unsigned long long)info->entry.args[3]);
	inside.err = inside.calls == inside.at ? errno_of(nr, inside.i) : 0;
	if (inside.err) {
		fprintf(inside.log, "fails with %d\n", inside.err);
		if (!fails_having_been_made(nr))
			info->entry.nr = (uint64_t)-1;
		set_info(tid, info);
		inside.failing = tid;
	}
	fflush(inside.log);
}

/* Returns the number of the call that the thread is about to make; -1: it is about to make none. */
static long look(pid_t tid)
{
	struct __ptrace_syscall_info info;
	long nr = -1;

	memset(&info, 0, sizeof(info));
	if (inside.ptrace(PTRACE_GET_SYSCALL_INFO, tid, (void *)sizeof(info), &info) < 0)
		return -1;
	if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
		nr = (long)info.entry.nr;
		if (nr != SYS_rt_sigsuspend)
			at_entry(tid, &info);
	} else if (info.op == PTRACE_SYSCALL_INFO_EXIT && inside.failing == tid) {
		info.exit.rval = -inside.err;
		info.exit.is_error = 1;
		set_info(tid, &info);
		inside.failing = 0;
	}
	return nr;
}

/* A blob, to where it sleeps. */
static long run_through(pid_t tid)
{
	int status;

	do {
		if (inside.ptrace(PTRACE_SYSCALL, tid, 0, 0))
			return -1;
		if (waitpid(tid, &status, __WALL) != tid || !WIFSTOPPED(status))
			return 0;
	} while (look(tid) != SYS_rt_sigsuspend);
	return inside.ptrace(PTRACE_CONT, tid, 0, 0);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list args;
	void *addr, *data;
	pid_t tid;
	int was_interrupted;

	va_start(args, request);
	tid = va_arg(args, pid_t);
	addr = va_arg(args, void *);
	data = va_arg(args, void *);
	va_end(args);
	was_interrupted = inside.interrupted == tid;
	if (request == PTRACE_SYSCALL || inside.failing == tid)
		look(tid);
	if (request == PTRACE_INTERRUPT)
		inside.interrupted = tid;
	if (request == PTRACE_CONT)
		inside.interrupted = 0;
	/* One that is to stop at once is let go in vain. */
	if (request == PTRACE_CONT && !was_interrupted)
		return run_through(tid);
	return inside.ptrace((int)request, tid, addr, data);
}
