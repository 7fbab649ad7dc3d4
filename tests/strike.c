/* SPDX-License-Identifier: MIT */
/*
 * Runs a command, and at its n-th system call, counted over all its threads, lets something happen:
 *
 *   strike [--kill N | --late N USEC | --signal N SIG | --fail N ERRNO | --refuse N I | --run N ACTION |
 *          --tear N PIECES] [--only CALL] [--alone] [--marked] [--log FILE] COMMAND...
 *
 * --kill      SIGKILL when the call is about to be made; it is not made. So it comes right behind all that came
 *             before, too.
 * --late      SIGKILL so many microseconds after it was let go.
 * --signal    this signal when it is about to be made.
 * --fail      it is not made, and returns this error (PTRACE_SET_SYSCALL_INFO, Linux 6.16 and later).
 * --run       this command of a shell runs to its end when it is about to be made.
 * --tear      it writes so many of its pieces (process_vm_writev; PTRACE_SET_SYSCALL_INFO), and then comes SIGKILL.
 * --only CALL no others are counted: see the table below.
 * --marked    none is counted but where the program says so: tests/strike.h.
 * --refuse    the same with the I-th of the errors that this call can have, counted from 0 (and from there again,
 *             if it has fewer): tests/errnos.h.
 * --alone     its children are not followed, which it may want to trace itself; nor are its threads.
 * --log FILE  a line for each call, with its number, its thread and how many errors it can have; "fails with ERRNO"
 *             behind the one that does; the last one is where it happened, if that has ended it. Those that may change
 *             something outside of the process end in "!": behind any other all is as behind the one before. Otherwise, and
 *             without any of the above, only how many there were, as the last line of stderr: "N calls".
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

#include "errnos.h"
#include "strike.h"

/* linux/ptrace.h; neither it nor glibc's own has them in Debian 12. */
#define SET_SYSCALL_INFO 0x4212

enum kind { COUNT, KILL, LATE, SIGNAL, RUN, TEAR, FAIL, REFUSE };

/* Some have only the newer one. */
#ifdef SYS_renameat
#define RENAME SYS_renameat
#else
#define RENAME SYS_renameat2
#endif

static const struct call {
	const char *name;
	long nr;
	long first; /* argument; -1: any */
} calls[] = {
    {"openat", SYS_openat, -1},
    {"linkat", SYS_linkat, -1},
    {"unlinkat", SYS_unlinkat, -1},
    {"renameat", RENAME, -1},
    {"ptrace", SYS_ptrace, -1},
    {"seize", SYS_ptrace, PTRACE_SEIZE},
    {"cont", SYS_ptrace, PTRACE_CONT},
    {"setsigmask", SYS_ptrace, PTRACE_SETSIGMASK},
    {"setregset", SYS_ptrace, PTRACE_SETREGSET},
    {"process_vm_readv", SYS_process_vm_readv, -1},
    {"process_vm_writev", SYS_process_vm_writev, -1},
};

struct strike {
	enum kind kind;
	unsigned long at; /* counted from 1 */
	int what, is_done, is_alone, is_over;
	const char *action;
	const struct call *only; /* NULL: all */
	FILE *log;
	pid_t pid, failing, torn;
	int err;       /* that it fails with */
	uint32_t arch; /* of the command: what else is run has other numbers, and is let alone */
	unsigned long calls;
};

static _Noreturn void die(const char *what)
{
	perror(what);
	_exit(125);
}

static void set_info(pid_t tid, struct __ptrace_syscall_info *info)
{
	/* (Its parent may have killed it.) */
	if (ptrace(SET_SYSCALL_INFO, tid, (void *)sizeof(*info), info) && errno != ESRCH) {
		perror("strike: PTRACE_SET_SYSCALL_INFO");
		kill(tid, SIGKILL);
		_exit(125);
	}
}

static int is_counted(const struct strike *strike, const struct __ptrace_syscall_info *info)
{
	const struct call *only = strike->only;

	return !only || ((long)info->entry.nr == only->nr &&
			    (only->first < 0 || (long)info->entry.args[0] == only->first));
}

/* A call that is not made has no number that the kernel knows. brk(2) says that it has failed by where the break is. */
static void begin_to_fail(struct strike *strike, pid_t tid, struct __ptrace_syscall_info *info)
{
	uint64_t nr = info->entry.nr;

	strike->err =
	    strike->kind == FAIL ? strike->what : errno_of((long)nr, (unsigned)strike->what);
	if (!strike->err)
		return;
	if (strike->log) {
		fprintf(strike->log, "fails with %d\n", strike->err);
		fflush(strike->log);
	}
	if (nr == SYS_brk)
		info->entry.args[0] = 0;
	else if (!fails_having_been_made((long)nr))
		info->entry.nr = (uint64_t)-1;
	set_info(tid, info);
	if (nr != SYS_brk)
		strike->failing = tid;
}

static void begin_to_tear(struct strike *strike, pid_t tid, struct __ptrace_syscall_info *info)
{
	if (info->entry.nr != SYS_process_vm_writev)
		return;
	info->entry.args[2] = info->entry.args[4] = (uint64_t)strike->what;
	set_info(tid, info);
	strike->torn = tid;
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

static void count_call(struct strike *strike, pid_t tid, struct __ptrace_syscall_info *info)
{
	strike->calls++;
	if (!strike->arch)
		strike->arch = info->arch;
	if (strike->log) {
		unsigned errnos =
		    info->arch == strike->arch ? count_errnos((long)info->entry.nr) : 0;

		fprintf(strike->log, "%lu %d %u %lld(%llx, %llx, %llx, %llx)%s\n", strike->calls,
		    (int)tid, errnos, (long long)info->entry.nr,
		    (unsigned long long)info->entry.args[0],
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
	if (strike->kind == RUN && system(strike->action) < 0)
		die(strike->action);
	if (strike->kind == TEAR)
		begin_to_tear(strike, tid, info);
	if (strike->kind >= FAIL && info->arch == strike->arch)
		begin_to_fail(strike, tid, info);
}

static void at_entry(struct strike *strike, pid_t tid, struct __ptrace_syscall_info *info)
{
	if (info->entry.nr == STRIKE_FROM_HERE || info->entry.nr == STRIKE_NO_MORE)
		strike->is_over = info->entry.nr == STRIKE_NO_MORE;
	else if (!strike->is_over && is_counted(strike, info))
		count_call(strike, tid, info);
}

static void at_exit(struct strike *strike, pid_t tid, struct __ptrace_syscall_info *info)
{
	if (strike->torn == tid)
		kill(strike->pid, SIGKILL);
	if (strike->failing != tid)
		return;
	strike->failing = 0;
	info->exit.rval = -strike->err;
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

static const struct call *find_call(const char *name)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (!strcmp(calls[i].name, name))
			return &calls[i];
	fprintf(stderr, "strike: %s is not in the table\n", name);
	exit(125);
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
		if (!strcmp(option, "only")) {
			strike.only = find_call(argv[++i]);
			continue;
		}
		if (!strcmp(option, "alone")) {
			strike.is_alone = 1;
			continue;
		}
		if (!strcmp(option, "marked")) {
			strike.is_over = 1;
			continue;
		}
		strike.kind = !strcmp(option, "kill")     ? KILL
			      : !strcmp(option, "late")   ? LATE
			      : !strcmp(option, "signal") ? SIGNAL
			      : !strcmp(option, "run")    ? RUN
			      : !strcmp(option, "tear")   ? TEAR
			      : !strcmp(option, "fail")   ? FAIL
			      : !strcmp(option, "refuse") ? REFUSE
							  : COUNT;
		strike.at = strtoul(argv[++i], NULL, 0);
		if (strike.kind >= LATE && i + 1 < argc) {
			strike.action = argv[++i];
			strike.what = atoi(strike.action);
		}
	}
	if (i >= argc) {
		fputs("usage: strike [--kill N | --late N USEC | --signal N SIG | --fail N ERRNO | "
		      "--refuse N I | --run N ACTION | --tear N PIECES] [--only CALL] [--alone] "
		      "[--marked] [--log FILE] COMMAND...\n",
		    stderr);
		if (strike.log)
			fclose(strike.log);
		return 125;
	}
	strike.pid = spawn(&strike, argv + i);
	status = follow(&strike);
	if (strike.log)
		fclose(strike.log);
	else
		fprintf(stderr, "%lu calls\n", strike.calls);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
