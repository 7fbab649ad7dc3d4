/* SPDX-License-Identifier: MIT */
/* One thread that is traced: its stops, its registers, its signals, and the call that a stop has broken. */
#include <elf.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stop.h"

uint64_t aior_now(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void aior_nap(uint64_t ns)
{
	struct timespec time = {.tv_nsec = (long)ns};

	nanosleep(&time, NULL);
}

/* What waitpid() would have said of the stop: siginfo has the same number, but of a signal's own. */
static int status_of(const siginfo_t *info)
{
	int code = info->si_code;
	int is_event = code > 0 && (code & 0x7f) == info->si_signo && code & ~0x7f;

	return (is_event ? code : info->si_signo) << 8 | 0x7f;
}

/*
 * Whoever waits for any child in our program (waitpid(-1), in a handler of SIGCHLD, say) is told of our tracees'
 * stops, too, and then nobody is told again. So a thread that stands is looked at itself.
 */
int aior_poll_stop(pid_t tid, int *status)
{
	siginfo_t info;
	pid_t pid = aior_wait_now(tid, status);

	if (!pid && !aior_trace(PTRACE_GETSIGINFO, tid, 0, &info)) {
		pid = aior_wait_now(tid, status);
		if (!pid) {
			*status = status_of(&info);
			return 1;
		}
	}
	if (pid > 0)
		return WIFSTOPPED(*status) ? 1 : -1;
	return !pid || errno == EINTR ? 0 : -1;
}

int aior_wait_stop(pid_t tid, int *status, uint64_t end)
{
	uint64_t begin = aior_now(CLOCK_MONOTONIC), now;
	int found;

	for (;;) {
		found = aior_poll_stop(tid, status);
		if (found)
			return found > 0;
		now = aior_now(CLOCK_MONOTONIC);
		if (now > end)
			return -1;
		if (now - begin < AIOR_BUSY_NS) {
			sched_yield();
			continue;
		}
		/* A first thread's end is told when all others have been waited for. */
		if (aior_task_has_exited(tid))
			return 0;
		aior_nap(AIOR_NS_PER_MS / 5);
	}
}

/* A stop before a signal's delivery: the signal is ours to hand over. */
int aior_signal_in_hand(int status)
{
	return status >> 16 == 0 && WSTOPSIG(status) != (SIGTRAP | 0x80) ? WSTOPSIG(status) : 0;
}

int aior_get_regs(pid_t tid, arch_regs *regs, size_t *len)
{
	struct iovec vec = {.iov_base = regs, .iov_len = sizeof(*regs)};

	if (aior_trace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &vec))
		return -1;
	*len = vec.iov_len;
	return 0;
}

int aior_set_regs(pid_t tid, const arch_regs *regs, size_t len)
{
	arch_regs copy = *regs;
	struct iovec vec = {.iov_base = &copy, .iov_len = len};

	return aior_trace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &vec) ? -1 : 0;
}

int aior_get_mask(pid_t tid, uint64_t *mask)
{
	return aior_trace(PTRACE_GETSIGMASK, tid, sizeof(*mask), mask) ? -1 : 0;
}

int aior_set_mask(pid_t tid, uint64_t mask)
{
	return aior_trace(PTRACE_SETSIGMASK, tid, sizeof(mask), &mask) ? -1 : 0;
}

int aior_is_all(uint64_t mask)
{
	return (mask | 1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1)) == ~0ull;
}

/* Signal sets, as /proc/TID/status has them in hexadecimal. */
struct signals {
	uint64_t pending; /* for the thread alone */
	uint64_t shared;  /* pending for any thread of the process */
	uint64_t blocked, caught;
};

static void read_signals(pid_t tid, struct signals *signals)
{
	const struct {
		const char *key;
		uint64_t *set;
	} rows[] = {
	    {"SigPnd:", &signals->pending},
	    {"ShdPnd:", &signals->shared},
	    {"SigBlk:", &signals->blocked},
	    {"SigCgt:", &signals->caught},
	};
	char path[64], *line = NULL;
	size_t room = 0;
	FILE *file;

	memset(signals, 0, sizeof(*signals));
	snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
	file = fopen(path, "re");
	if (!file)
		file = fopen(path, "re");
	if (!file)
		return;
	while (getline(&line, &room, file) > 0)
		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
			if (!strncmp(line, rows[i].key, strlen(rows[i].key)))
				*rows[i].set = strtoull(line + strlen(rows[i].key), NULL, 16);
	free(line);
	fclose(file);
}

/* Whether any signal is pending for it. */
static int has_pending(const struct aior_tracee *thread)
{
	struct __ptrace_peeksiginfo_args own = {.nr = 1};
	struct __ptrace_peeksiginfo_args shared = {.flags = PTRACE_PEEKSIGINFO_SHARED, .nr = 1};
	siginfo_t info;

	return thread->signal || aior_trace(PTRACE_PEEKSIGINFO, thread->tid, &own, &info) ||
	       aior_trace(PTRACE_PEEKSIGINFO, thread->tid, &shared, &info);
}

/* Whether a signal with a handler is about to be delivered to it. */
int aior_handler_is_near(const struct aior_tracee *thread)
{
	struct signals signals;
	uint64_t coming;

	if (!has_pending(thread))
		return 0;
	read_signals(thread->tid, &signals);
	coming = (signals.pending | signals.shared) & ~signals.blocked;
	if (thread->signal)
		coming |= 1ull << (thread->signal - 1);
	return !!(coming & signals.caught);
}

/* How often a thread has gone to sleep: of its own accord given up its CPU. */
uint64_t aior_count_switches(pid_t tid)
{
	return (uint64_t)aior_status_number(tid, "\nvoluntary_ctxt_switches:");
}

struct aior_sample aior_sample_thread(pid_t tid)
{
	struct aior_sample sample = {.switches = aior_count_switches(tid)};

	sample.nr = aior_current_call(tid, &sample.first);
	return sample;
}

/*
 * Whether the sample is of the very wait that the stop has ended: the thread has gone to sleep once
 * since, and that was the stop.
 */
int aior_is_of_this_wait(const struct aior_tracee *thread, int nr)
{
	return thread->sample.nr == nr &&
	       aior_count_switches(thread->tid) == thread->sample.switches + 1;
}

int aior_is_one_of(int nr, const int *calls, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (calls[i] == nr)
			return 1;
	return 0;
}

int aior_first_argument(const struct aior_tracee *thread, int nr, uint64_t *first)
{
	const uint64_t *sampled = NULL;

	if (ARCH_LOSES_ARGUMENT && aior_is_of_this_wait(thread, nr))
		sampled = &thread->sample.first;
	return arch_first_argument(
	    thread->tid, nr, &thread->regs, thread->regs_len, sampled, first);
}

/* A wait that the stop has broken is made again. Returns whether it was one, and the registers changed. */
int aior_mend_wait(struct aior_tracee *thread, const struct aior_calls *calls)
{
	int nr = arch_interrupted_call(thread->tid, &thread->regs, thread->regs_len);
	uint64_t first;

	if (nr < 0 || !aior_is_one_of(nr, calls->broken_by_stop, calls->broken_count) ||
	    aior_first_argument(thread, nr, &first))
		return 0;
	thread->call = nr;
	arch_again(&thread->regs, thread->regs_len, first);
	return 1;
}

/* Where the result has taken the place of an argument, a signal has ended the call by now. */
void aior_restart_wait(struct aior_tracee *thread, const struct aior_calls *calls)
{
	if (aior_get_regs(thread->tid, &thread->regs, &thread->regs_len) ||
	    (ARCH_LOSES_ARGUMENT && aior_handler_is_near(thread)) || !aior_mend_wait(thread, calls))
		return;
	thread->is_mended = !aior_set_regs(thread->tid, &thread->regs, thread->regs_len);
}

void aior_leave_thread(struct aior_tracee *thread, const struct aior_calls *calls)
{
	aior_restart_wait(thread, calls);
	aior_trace(PTRACE_DETACH, thread->tid, 0, thread->signal);
}

int aior_stopped_thread(const struct aior_stopped *stopped, size_t i, struct aior_thread *thread)
{
	struct signals signals;
	arch_regs regs;
	size_t len;

	errno = ESRCH;
	if (!stopped->threads[i].is_stopped)
		return -1;
	thread->tid = stopped->threads[i].tid;
	thread->stop_signal = stopped->threads[i].signal;
	if (aior_get_regs(thread->tid, &regs, &len))
		return -1;
	thread->regs = malloc(len);
	if (!thread->regs)
		return -1;
	memcpy(thread->regs, &regs, len);
	thread->regs_len = len;
	read_signals(thread->tid, &signals);
	thread->pending = signals.pending;
	thread->blocked = signals.blocked;
	return 0;
}
