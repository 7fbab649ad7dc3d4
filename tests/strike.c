/* SPDX-License-Identifier: MIT */
/*
 * Runs a command, and at its n-th system call, counted over all its threads, lets something happen:
 *
 *   strike [--kill N | --late N USEC | --signal N SIG | --fail N ERRNO] [--alone] [--log FILE] COMMAND...
 *
 * --kill      SIGKILL when the call is about to be made; it is not made. So it comes right behind all that came
 *             before, too.
 * --late      SIGKILL so many microseconds after it was let go.
 * --signal    this signal when it is about to be made.
 * --fail      it is not made, and returns this error (PTRACE_SET_SYSCALL_INFO, Linux 6.16 and later).
 * --alone     its children are not followed, which it may want to trace itself; nor are its threads.
 * --log FILE  a line for each call, with its number; the last one is where it happened. Those that may change something
 *             outside of the process end in "!": behind any other all is as behind the one before. Without a file only
 *             how many there were, as the last line of stderr: "N calls".
 *
 * Ends as the command does: its exit status, 128 + signal; 125 if it cannot be done here.
 */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* linux/ptrace.h; neither it nor glibc's own has them in Debian 12. */
#define SET_SYSCALL_INFO 0x4212

enum kind { COUNT, KILL, LATE, SIGNAL, FAIL };

struct strike {
	enum kind kind;
	unsigned long at; /* counted from 1 */
	int what, is_done, is_alone;
	FILE *log;
	pid_t pid, failing;
	unsigned long calls;
};

static _Noreturn void die(const char *what)
{
	perror(what);
	_exit(125);
}

static void set_info(pid_t tid, struct __ptrace_syscall_info *info)
{
	if (ptrace(SET_SYSCALL_INFO, tid, (void *)sizeof(*info), info)) {
		perror("strike: PTRACE_SET_SYSCALL_INFO");
		kill(tid, SIGKILL);
		_exit(125);
	}
}

static int is_seen_by_others(uint64_t nr)
{
	static const long calls[] = {SYS_ptrace, SYS_process_vm_writev, SYS_pwrite64, SYS_sendmsg,
	    SYS_sendto, SYS_kill, SYS_tkill, SYS_tgkill, SYS_clone, SYS_clone3, SYS_linkat,
	    SYS_unlinkat, SYS_renameat2};

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (nr == (uint64_t)calls[i])
			return 1;
	return 0;
}

static void at_entry(struct strike *strike, pid_t tid, struct __ptrace_syscall_info *info)
{
	strike->calls++;
	if (strike->log) {
		fprintf(strike->log, "%lu %d %lld(%llx, %llx, %llx, %llx)%s\n", strike->calls,
		    (int)tid, (long long)info->entry.nr, (unsigned long long)info->entry.args[0],
		    (unsigned long long)info->entry.args[1],
		    (unsigned long long)info->entry.args[2],
		    (unsigned long long)info->entry.args[3],
		    is_seen_by_others(info->entry.nr) ? "!" : "");
		fflush(strike->log);
	}
	if (strike->calls != strike->at)
		return;
	if (strike->kind == KILL)
		kill(strike->pid, SIGKILL);
	if (strike->kind == SIGNAL)
		kill(strike->pid, strike->what);
	if (strike->kind == FAIL) {
		info->entry.nr = (uint64_t)-1;
		set_info(tid, info);
		strike->failing = tid;
	}
}

static void at_exit(struct strike *strike, pid_t tid, struct __ptrace_syscall_info *info)
{
	if (strike->failing != tid)
		return;
	strike->failing = 0;
	info->exit.rval = -strike->what;
	info->exit.is_error = 1;
	set_info(tid, info);
}

/* Returns the signal to deliver. */
static int look_at_stop(struct strike *strike, pid_t tid, int status)
{
	struct __ptrace_syscall_info info;
	int signal = WSTOPSIG(status);

	if (status >> 16)
		return 0;
	if (signal != (SIGTRAP | 0x80))
		return signal;
	memset(&info, 0, sizeof(info));
	if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, (void *)sizeof(info), &info) < 0)
		return 0; /* it has been killed */
	if (info.op == PTRACE_SYSCALL_INFO_ENTRY)
		at_entry(strike, tid, &info);
	else if (info.op == PTRACE_SYSCALL_INFO_EXIT)
		at_exit(strike, tid, &info);
	return 0;
}

static void spin(int usec)
{
	struct timespec now, begin;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	do
		clock_gettime(CLOCK_MONOTONIC, &now);
	while ((now.tv_sec - begin.tv_sec) * 1000000 + (now.tv_nsec - begin.tv_nsec) / 1000 < usec);
}

static int follow(struct strike *strike)
{
	int status, end = -1;
	pid_t tid;

	while ((tid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR) {
		if (tid <= 0)
			continue;
		if (WIFSTOPPED(status)) {
			/* (A thread's first stop is one of its own, and no signal.) */
			int is_first = tid != strike->pid && WSTOPSIG(status) == SIGSTOP;
			int signal = look_at_stop(strike, tid, status);

			ptrace(PTRACE_SYSCALL, tid, 0, is_first ? 0 : signal);
			if (strike->kind == LATE && strike->calls == strike->at &&
			    !strike->is_done) {
				strike->is_done = 1;
				spin(strike->what);
				kill(strike->pid, SIGKILL);
			}
		} else if (tid == strike->pid) {
			end = status;
		}
	}
	return end;
}

static pid_t spawn(const struct strike *strike, char **command)
{
	unsigned long children = strike->is_alone ? 0 : PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK;
	pid_t pid = fork();
	int status;

	if (!pid) {
		if (ptrace(PTRACE_TRACEME, 0, 0, 0))
			die("strike: PTRACE_TRACEME");
		raise(SIGSTOP);
		execvp(*command, command);
		die(*command);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status) ||
	    ptrace(PTRACE_SETOPTIONS, pid, 0,
		PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL | children) ||
	    ptrace(PTRACE_SYSCALL, pid, 0, 0))
		die("strike");
	return pid;
}

int main(int argc, char **argv)
{
	struct strike strike = {.kind = COUNT};
	int i, status;

	for (i = 1; i + 1 < argc && argv[i][0] == '-'; i++) {
		const char *option = argv[i] + 2;

		if (!strcmp(option, "log")) {
			strike.log = fopen(argv[++i], "we");
			if (!strike.log)
				die(argv[i]);
			continue;
		}
		if (!strcmp(option, "alone")) {
			strike.is_alone = 1;
			continue;
		}
		strike.kind = !strcmp(option, "kill")     ? KILL
			      : !strcmp(option, "late")   ? LATE
			      : !strcmp(option, "signal") ? SIGNAL
			      : !strcmp(option, "fail")   ? FAIL
							  : COUNT;
		strike.at = strtoul(argv[++i], NULL, 0);
		if (strike.kind >= LATE && i + 1 < argc)
			strike.what = atoi(argv[++i]);
	}
	if (i >= argc) {
		fputs("usage: strike [--kill N | --late N USEC | --signal N SIG | --fail N ERRNO] "
		      "[--alone] [--log FILE] COMMAND...\n",
		    stderr);
		return 125;
	}
	strike.pid = spawn(&strike, argv + i);
	status = follow(&strike);
	if (!strike.log)
		fprintf(stderr, "%lu calls\n", strike.calls);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
