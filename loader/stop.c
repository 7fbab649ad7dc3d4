/* SPDX-License-Identifier: MIT */
/*
 * Stops all threads of a process, so that nobody but the process itself could tell: ptrace's SEIZE
 * and INTERRUPT send no signal and show the parent nothing; ptrace(2).
 */
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

#define NS_PER_MS 1000000ull
#define PATIENCE_NS (10000 * NS_PER_MS)
/* How long some threads may stand still because another one is not out of io_submit. */
#define HOLD_NS (100 * NS_PER_MS)
/* So long a thread that is to stop is waited for without sleeping. */
#define BUSY_NS (2 * NS_PER_MS)

uint64_t aior_now(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void nap(uint64_t ns)
{
	struct timespec time = {.tv_nsec = (long)ns};

	nanosleep(&time, NULL);
}

/*
 * A synchronous request that is interrupted inside io_submit delivers EINTR as its event, so a
 * thread is let out of it first. Returns 0 if it is not out at `end`.
 */
static int leaves_io_submit(pid_t tid, const struct aior_calls *calls, uint64_t end)
{
	uint64_t first;

	while (aior_current_call(tid, &first) == calls->io_submit) {
		if (aior_now(CLOCK_MONOTONIC) >= end)
			return 0;
		nap(NS_PER_MS / 50);
	}
	return 1;
}

/* How often a thread has gone to sleep: of its own accord given up its CPU. */
static uint64_t count_switches(pid_t tid)
{
	return (uint64_t)aior_status_number(tid, "\nvoluntary_ctxt_switches:");
}

/*
 * Whether the sample is of the very wait that the stop has ended: the thread has gone to sleep once
 * since, and that was the stop.
 */
static int is_of_this_wait(const struct aior_tracee *thread, int nr)
{
	return thread->sample.nr == nr &&
	       count_switches(thread->tid) == thread->sample.switches + 1;
}

int aior_wait_stop(pid_t tid, int *status, uint64_t end)
{
	uint64_t begin = aior_now(CLOCK_MONOTONIC), now;
	pid_t pid;

	for (;;) {
		pid = waitpid(tid, status, __WALL | WNOHANG);
		if (pid > 0)
			return WIFSTOPPED(*status);
		if (pid < 0 && errno != EINTR)
			return 0;
		now = aior_now(CLOCK_MONOTONIC);
		if (now > end)
			return -1;
		if (now - begin < BUSY_NS) {
			sched_yield();
			continue;
		}
		/* A first thread's end is told when all others have been waited for. */
		if (aior_task_has_exited(tid))
			return 0;
		nap(NS_PER_MS / 5);
	}
}

/* A stop before a signal's delivery: the signal is ours to hand over. */
static int signal_in_hand(int status)
{
	return status >> 16 == 0 && WSTOPSIG(status) != (SIGTRAP | 0x80) ? WSTOPSIG(status) : 0;
}

static int wait_for_stop(struct aior_tracee *thread, struct aior_error *error)
{
	int status;

	switch (aior_wait_stop(thread->tid, &status, aior_now(CLOCK_MONOTONIC) + PATIENCE_NS)) {
	case 1:
		thread->is_stopped = 1;
		thread->signal = signal_in_hand(status);
		return 0;
	case 0:
		return 0; /* it has exited meanwhile */
	default:
		return aior_fail(error, ETIMEDOUT, "stop",
		    "thread %d cannot be stopped: it is in vfork, or waits for "
		    "a device; try again when it goes on",
		    (int)thread->tid);
	}
}

static struct aior_tracee *add_thread(struct aior_stopped *stopped, pid_t tid)
{
	if (stopped->count == stopped->room) {
		size_t room = stopped->room ? 2 * stopped->room : 16;
		void *larger = reallocarray(stopped->threads, room, sizeof(*stopped->threads));

		if (!larger)
			return NULL;
		stopped->threads = larger;
		stopped->room = room;
	}
	memset(&stopped->threads[stopped->count], 0, sizeof(*stopped->threads));
	stopped->threads[stopped->count].tid = tid;
	stopped->threads[stopped->count].sample.nr = -1;
	return &stopped->threads[stopped->count++];
}

static void leave_thread(struct aior_tracee *thread, const struct aior_calls *calls);

struct stopping {
	struct aior_stopped *stopped;
	const struct aior_process *process;
	const struct aior_calls *calls;
	struct aior_error *error;
	enum aior_purpose purpose;
	int has_failed;  /* and `error` says why */
	pid_t in_submit; /* it does not come out of io_submit while others are stopped */
};

static int refuse_seize(
    const struct aior_process *process, int err, int has_filter, struct aior_error *error)
{
	struct aior_process again;

	if (process->is_kernel_thread)
		return aior_fail(
		    error, EINVAL, "stop", "process %d is a kernel thread", (int)process->pid);
	if (!aior_process_open(process->pid, &again, NULL) && again.tracer)
		return aior_fail(error, EBUSY, "stop",
		    "process %d is traced by process %d (a debugger?): end that first",
		    (int)process->pid, (int)again.tracer);
	if (has_filter)
		return aior_fail(error, err, "stop",
		    "process %d has a filter of system calls (seccomp): suspending it takes "
		    "CAP_SYS_ADMIN in the first user namespace, and a caller without a filter",
		    (int)process->pid);
	return aior_fail(error, err, "stop",
	    "process %d may not be traced by you: be its owner or root (and see ptrace(2), "
	    "\"Ptrace access mode checking\")",
	    (int)process->pid);
}

/*
 * Suspends the filter of a thread that has one. Whether it has one takes long to find out, so a thread that is
 * parked just gets that if it may: what is to be told of a filter is known by then.
 */
static int seize(pid_t tid, enum aior_purpose purpose, int *has_filter)
{
	unsigned long options = purpose == AIOR_TO_READ ? 0 : PTRACE_O_TRACESYSGOOD;

	*has_filter = 0;
	if (purpose == AIOR_PARKED &&
	    !ptrace(PTRACE_SEIZE, tid, 0, options | PTRACE_O_SUSPEND_SECCOMP))
		return 0;
	if (purpose != AIOR_TO_READ && aior_status_number(tid, "\nSeccomp:")) {
		*has_filter = 1;
		options |= PTRACE_O_SUSPEND_SECCOMP;
	}
	return ptrace(PTRACE_SEIZE, tid, 0, options) ? -1 : 0;
}

static int seize_task(pid_t tid, void *data)
{
	struct stopping *stopping = data;
	struct aior_stopped *stopped = stopping->stopped;
	struct aior_tracee *thread;
	int has_filter;

	for (size_t i = 0; i < stopped->count; i++)
		if (stopped->threads[i].tid == tid)
			return 0;
	if (stopping->purpose != AIOR_PARKED &&
	    !leaves_io_submit(tid, stopped->calls, aior_now(CLOCK_MONOTONIC) + HOLD_NS)) {
		stopping->in_submit = tid;
		return -1;
	}
	if (seize(tid, stopping->purpose, &has_filter)) {
		int err = errno;

		/* An exited thread that is still listed says EPERM too. */
		if (err == ESRCH || aior_task_has_exited(tid) || aior_is_worker(tid))
			return 0;
		stopping->has_failed = 1;
		return refuse_seize(stopping->process, err, has_filter, stopping->error);
	}
	thread = add_thread(stopped, tid);
	if (!thread) {
		stopping->has_failed = 1;
		return aior_fail(stopping->error, ENOMEM, "stop", "out of memory");
	}
	thread->has_filter = has_filter;
	stopped->has_filter |= has_filter;
	return 0;
}

static int leave_io_submit(struct stopping *stopping, size_t from)
{
	const struct aior_stopped *stopped = stopping->stopped;

	for (size_t i = from; i < stopped->count; i++)
		if (!leaves_io_submit(stopped->threads[i].tid, stopped->calls,
			aior_now(CLOCK_MONOTONIC) + HOLD_NS)) {
			stopping->in_submit = stopped->threads[i].tid;
			return -1;
		}
	return 0;
}

static void interrupt_thread(struct aior_stopped *stopped, struct aior_tracee *thread)
{
	if (ARCH_LOSES_ARGUMENT) {
		thread->sample.switches = count_switches(thread->tid);
		thread->sample.nr = aior_current_call(thread->tid, &thread->sample.first);
	}
	if (!stopped->stopped_at)
		stopped->stopped_at = aior_now(CLOCK_MONOTONIC);
	ptrace(PTRACE_INTERRUPT, thread->tid, 0, 0);
}

/* All threads that there are now, beside each other. Returns -1, or how many new ones there were. */
static int stop_more(struct stopping *stopping)
{
	struct aior_stopped *stopped = stopping->stopped;
	size_t before = stopped->count;

	if (aior_each_task(stopping->process->pid, seize_task, stopping))
		return -1;
	if (stopping->purpose != AIOR_PARKED && leave_io_submit(stopping, before))
		return -1;
	for (size_t i = before; i < stopped->count; i++)
		interrupt_thread(stopped, &stopped->threads[i]);
	for (size_t i = before; i < stopped->count; i++)
		if (wait_for_stop(&stopped->threads[i], stopping->error)) {
			stopping->has_failed = 1;
			return -1;
		}
	return (int)(stopped->count - before);
}

/*
 * A thread that is traced and not stopped cannot be left: so it is stopped, when those that stand still already
 * have gone on, and it is out of io_submit.
 */
static void leave_all(struct aior_stopped *stopped)
{
	uint64_t end = aior_now(CLOCK_MONOTONIC) + PATIENCE_NS;
	int status;

	for (size_t i = 0; i < stopped->count; i++)
		if (stopped->threads[i].is_stopped)
			leave_thread(&stopped->threads[i], stopped->calls);
	for (size_t i = 0; i < stopped->count; i++) {
		struct aior_tracee *thread = &stopped->threads[i];

		if (thread->is_stopped || !leaves_io_submit(thread->tid, stopped->calls, end))
			continue;
		ptrace(PTRACE_INTERRUPT, thread->tid, 0, 0);
		if (aior_wait_stop(thread->tid, &status, aior_now(CLOCK_MONOTONIC) + HOLD_NS) != 1)
			continue;
		thread->signal = signal_in_hand(status);
		leave_thread(thread, stopped->calls);
	}
	free(stopped->threads);
	free(stopped);
}

/* Stops all threads, or none. */
static int try_to_stop(struct stopping *stopping)
{
	struct aior_stopped *stopped = calloc(1, sizeof(*stopped));
	const struct aior_process *process = stopping->process;
	int found;

	if (!stopped)
		return aior_fail(stopping->error, ENOMEM, "stop", "out of memory");
	stopped->calls = stopping->calls;
	stopped->purpose = stopping->purpose;
	stopping->stopped = stopped;
	stopping->in_submit = 0;
	/* Until a pass finds no new thread: stopped threads make none. */
	do
		found = stop_more(stopping);
	while (found > 0);
	for (size_t i = 0; !found && i < stopped->count; i++)
		if (stopped->threads[i].is_stopped)
			return 0;
	leave_all(stopped);
	if (!stopping->has_failed && !stopping->in_submit)
		aior_fail(
		    stopping->error, ESRCH, "stop", "process %d has exited", (int)process->pid);
	return -1;
}

int aior_stop(const struct aior_process *process, enum aior_purpose purpose,
    struct aior_stopped **stopped, struct aior_error *error)
{
	struct stopping stopping = {
	    .process = process,
	    .calls = aior_calls_of(aior_process_arch(process)),
	    .error = error,
	    .purpose = purpose,
	};
	uint64_t end = aior_now(CLOCK_MONOTONIC) + PATIENCE_NS;

	if (!stopping.calls)
		return aior_fail(error, ESRCH, "stop", "process %d has become another program",
		    (int)process->pid);
	while (try_to_stop(&stopping)) {
		if (!stopping.in_submit)
			return -1;
		/* What it waits for may be up to a thread that we had stopped. */
		if (!leaves_io_submit(stopping.in_submit, stopping.calls, end))
			return aior_fail(error, ETIMEDOUT, "stop",
			    "thread %d does not come out of io_submit: try again when its storage "
			    "answers",
			    (int)stopping.in_submit);
	}
	*stopped = stopping.stopped;
	return 0;
}

size_t aior_stopped_count(const struct aior_stopped *stopped)
{
	return stopped->count;
}

/* ---- a thread's state ---- */

int aior_get_regs(pid_t tid, arch_regs *regs, size_t *len)
{
	struct iovec vec = {.iov_base = regs, .iov_len = sizeof(*regs)};

	if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &vec))
		return -1;
	*len = vec.iov_len;
	return 0;
}

int aior_set_regs(pid_t tid, const arch_regs *regs, size_t len)
{
	arch_regs copy = *regs;
	struct iovec vec = {.iov_base = &copy, .iov_len = len};

	return ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &vec) ? -1 : 0;
}

int aior_get_mask(pid_t tid, uint64_t *mask)
{
	return ptrace(PTRACE_GETSIGMASK, tid, sizeof(*mask), mask) ? -1 : 0;
}

int aior_set_mask(pid_t tid, uint64_t mask)
{
	return ptrace(PTRACE_SETSIGMASK, tid, sizeof(mask), &mask) ? -1 : 0;
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
		return;
	while (getline(&line, &room, file) > 0)
		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
			if (!strncmp(line, rows[i].key, strlen(rows[i].key)))
				*rows[i].set = strtoull(line + strlen(rows[i].key), NULL, 16);
	free(line);
	fclose(file);
}

/* Whether a signal with a handler is about to be delivered to it. */
static int handler_is_near(const struct aior_tracee *thread)
{
	struct signals signals;
	uint64_t coming;

	read_signals(thread->tid, &signals);
	coming = (signals.pending | signals.shared) & ~signals.blocked;
	if (thread->signal)
		coming |= 1ull << (thread->signal - 1);
	return !!(coming & signals.caught);
}

int aior_stopped_thread(const struct aior_stopped *stopped, size_t i, struct aior_thread *thread)
{
	struct signals signals;
	arch_regs regs;
	size_t len;

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

static int is_one_of(int nr, const int *calls, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (calls[i] == nr)
			return 1;
	return 0;
}

static int first_argument(const struct aior_tracee *thread, int nr, uint64_t *first)
{
	const uint64_t *sampled = NULL;

	if (ARCH_LOSES_ARGUMENT && is_of_this_wait(thread, nr))
		sampled = &thread->sample.first;
	return arch_first_argument(
	    thread->tid, nr, &thread->regs, thread->regs_len, sampled, first);
}

/* A wait that the stop has broken is made again. Returns whether it was one, and the registers changed. */
static int mend_wait(struct aior_tracee *thread, const struct aior_calls *calls)
{
	int nr = arch_interrupted_call(thread->tid, &thread->regs, thread->regs_len);
	uint64_t first;

	if (nr < 0 || !is_one_of(nr, calls->broken_by_stop, calls->broken_count) ||
	    first_argument(thread, nr, &first))
		return 0;
	thread->call = nr;
	arch_again(&thread->regs, thread->regs_len, first);
	return 1;
}

/* Where the result has taken the place of an argument, a signal has ended the call by now. */
static void restart_wait(struct aior_tracee *thread, const struct aior_calls *calls)
{
	if (aior_get_regs(thread->tid, &thread->regs, &thread->regs_len) ||
	    (ARCH_LOSES_ARGUMENT && handler_is_near(thread)) || !mend_wait(thread, calls))
		return;
	aior_set_regs(thread->tid, &thread->regs, thread->regs_len);
}

static void leave_thread(struct aior_tracee *thread, const struct aior_calls *calls)
{
	restart_wait(thread, calls);
	ptrace(PTRACE_DETACH, thread->tid, 0, thread->signal);
}

void aior_continue(struct aior_stopped *stopped)
{
	for (size_t i = 0; i < stopped->count; i++)
		if (stopped->threads[i].is_stopped)
			leave_thread(&stopped->threads[i], stopped->calls);
	free(stopped->threads);
	free(stopped);
}

/* ---- capture and release ---- */

/*
 * Has the thread take the signal that it was about to take, and stop again right behind that: in front of
 * its handler's first instruction, as a rule. PTRACE_INTERRUPT is seen in front of any further signal
 * (get_signal(), kernel/signal.c).
 */
static int take_signal(struct aior_tracee *thread)
{
	int status;

	while (thread->signal) {
		ptrace(PTRACE_INTERRUPT, thread->tid, 0, 0);
		ptrace(PTRACE_CONT, thread->tid, 0, thread->signal);
		thread->signal = 0;
		if (aior_wait_stop(thread->tid, &status, aior_now(CLOCK_MONOTONIC) + PATIENCE_NS) !=
		    1) {
			thread->is_stopped = 0;
			return -1;
		}
		thread->signal = signal_in_hand(status);
	}
	return 0;
}

/*
 * io_getevents without a time limit that has taken some of the events that it was to wait for returns them
 * when it is stopped, which it never does otherwise.
 */
static void find_taken(struct aior_tracee *thread, const struct aior_calls *calls)
{
	const arch_regs *regs = &thread->regs;
	int64_t taken = arch_result(regs, thread->regs_len);
	int nr = arch_last_call(thread->tid, regs, thread->regs_len);

	if (taken <= 0 || taken > INT32_MAX ||
	    !is_one_of(nr, calls->takes_events, calls->takes_events_count) ||
	    taken >= (int64_t)arch_argument(regs, thread->regs_len, 1) ||
	    arch_argument(regs, thread->regs_len, 4) || first_argument(thread, nr, &thread->ring))
		return;
	thread->call = nr;
	thread->events = arch_argument(regs, thread->regs_len, 3);
	thread->taken = (uint32_t)taken;
}

static int is_at_call(const struct aior_tracee *thread)
{
	unsigned char code[sizeof(long)];
	long word;

	errno = 0;
	word = ptrace(PTRACE_PEEKTEXT, thread->tid,
	    (void *)(uintptr_t)arch_pc(&thread->regs, thread->regs_len), 0);
	memcpy(code, &word, sizeof(word));
	return !errno && !arch_find_call(code, sizeof(code), 0, thread->regs_len);
}

/* Goes on until it is about to make a call, or has made it. Returns 0 if it is there. */
static int go_to_call(const struct aior_tracee *thread)
{
	uint64_t end = aior_now(CLOCK_MONOTONIC) + PATIENCE_NS;
	int status, signal = 0;

	do {
		ptrace(PTRACE_SYSCALL, thread->tid, 0, signal);
		if (aior_wait_stop(thread->tid, &status, end) != 1)
			return -1;
		signal = signal_in_hand(status);
	} while (WSTOPSIG(status) != (SIGTRAP | 0x80));
	return 0;
}

/*
 * On some architectures the kernel winds a thread back to its call before the stop, and only behind it says
 * whether that is the call itself or restart_syscall(2), which knows how long it has waited already. So the
 * thread goes on up to that call, which is not made. Only the call's number is to be believed there: riscv64
 * shows a result in the place of the first argument (do_trap_ecall_u()), aarch64 the kind of the stop in x7
 * (report_syscall()).
 */
static void settle(struct aior_tracee *thread, const struct aior_calls *calls)
{
	int nr = arch_call_number(&thread->regs, thread->regs_len);
	arch_regs at_call;
	size_t len;

	if (!is_one_of(nr, calls->keeps_time, calls->keeps_time_count) || !is_at_call(thread))
		return;
	thread->call = nr;
	aior_set_mask(thread->tid, ~0ull);
	if (!go_to_call(thread) && !aior_get_regs(thread->tid, &at_call, &len)) {
		arch_cancel_call(thread->tid, &at_call, len);
		go_to_call(thread);
		arch_set_call_number(&thread->regs, len, arch_call_number(&at_call, len));
	}
	aior_put_back(thread);
}

/* rseq(2); include/uapi/linux/rseq.h and ptrace.h. */
#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
struct __ptrace_rseq_configuration {
	uint64_t rseq_abi_pointer;
	uint32_t rseq_abi_size, signature, flags, pad;
};
#endif
#define RSEQ_CS_OFFSET 8

/*
 * A thread in its restartable sequence is to begin that again when something came between, which the kernel
 * sees to; but it forgets the sequence as soon as the thread runs elsewhere.
 */
static void abort_sequence(struct aior_tracee *thread)
{
	struct __ptrace_rseq_configuration rseq;
	struct {
		uint32_t version, flags;
		uint64_t start, bytes, abort;
	} sequence;
	uint64_t addr;

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, thread->tid, sizeof(rseq), &rseq) <
		(long)sizeof(rseq) ||
	    !rseq.rseq_abi_pointer ||
	    aior_read_memory(
		thread->tid, rseq.rseq_abi_pointer + RSEQ_CS_OFFSET, &addr, sizeof(addr)) ||
	    !addr || aior_read_memory(thread->tid, addr, &sequence, sizeof(sequence)))
		return;
	if (arch_pc(&thread->regs, thread->regs_len) - sequence.start < sequence.bytes)
		arch_set_pc(&thread->regs, thread->regs_len, sequence.abort);
}

static int capture(struct aior_tracee *thread, const struct aior_calls *calls)
{
	if (take_signal(thread) || aior_get_regs(thread->tid, &thread->regs, &thread->regs_len) ||
	    aior_get_mask(thread->tid, &thread->mask))
		return -1;
	thread->call = -1;
	if (mend_wait(thread, calls)) {
		thread->is_captured = 1;
		return 0;
	}
	find_taken(thread, calls);
	if (ARCH_LOSES_ARGUMENT)
		settle(thread, calls);
	else
		thread->call = arch_last_call(thread->tid, &thread->regs, thread->regs_len);
	abort_sequence(thread);
	thread->is_captured = 1;
	return 0;
}

int aior_capture(
    struct aior_stopped *stopped, const struct aior_process *process, struct aior_error *error)
{
	for (size_t i = 0; i < stopped->count; i++) {
		struct aior_tracee *thread = &stopped->threads[i];

		if (!thread->is_stopped)
			continue;
		if (arch_has_shadow_stack(thread->tid))
			return aior_fail(error, ENOTSUP, "stop",
			    "thread %d of process %d has a shadow stack, which cannot be carried: "
			    "start "
			    "the program without one (GLIBC_TUNABLES)",
			    (int)thread->tid, (int)process->pid);
		if (capture(thread, stopped->calls))
			return aior_fail(error, ESRCH, "stop", "thread %d of process %d has exited",
			    (int)thread->tid, (int)process->pid);
	}
	return 0;
}

static int adopt_task(pid_t tid, void *data)
{
	struct aior_stopped *stopped = data;
	struct aior_tracee *thread;

	if (aior_task_has_exited(tid) || aior_is_worker(tid))
		return 0;
	thread = add_thread(stopped, tid);
	if (!thread || aior_get_regs(tid, &thread->regs, &thread->regs_len) ||
	    aior_get_mask(tid, &thread->mask))
		return -1;
	thread->is_stopped = 1;
	thread->call = -1;
	thread->has_filter = aior_status_number(tid, "\nSeccomp:") != 0;
	stopped->has_filter |= thread->has_filter;
	mend_wait(thread, stopped->calls);
	return 0;
}

int aior_adopt_stopped(const struct aior_process *process, const struct aior_calls *calls,
    struct aior_stopped **stopped, struct aior_error *error)
{
	struct aior_stopped *own = calloc(1, sizeof(*own));

	if (!own)
		return aior_fail(error, ENOMEM, "stop", "out of memory");
	own->calls = calls;
	own->stopped_at = aior_now(CLOCK_MONOTONIC);
	if (aior_each_task(process->pid, adopt_task, own) || !own->count) {
		free(own->threads);
		free(own);
		return aior_fail(error, ESRCH, "stop",
		    "not every thread of process %d is in a ptrace-stop of the calling thread",
		    (int)process->pid);
	}
	*stopped = own;
	return 0;
}

struct aior_tracee *aior_choose_thread(const struct aior_stopped *stopped)
{
	for (size_t i = 0; i < stopped->count; i++) {
		struct aior_tracee *thread = &stopped->threads[i];
		siginfo_t info;

		if (thread->is_stopped &&
		    (ptrace(PTRACE_GETSIGINFO, thread->tid, 0, &info) || info.si_code >> 8))
			return thread;
	}
	return &stopped->threads[0];
}

/*
 * A thread that has made system calls for us is in the stop of one, behind which the kernel does not look whether
 * the call that the thread was in is to be made again: its program would see ERESTARTSYS. Behind the stop of a
 * signal it does, and such a stop comes before any further instruction.
 */
static void leave_call(const struct aior_tracee *thread)
{
	int status;

	/* What has been attached to, and not seized, cannot be interrupted. */
	if (ptrace(PTRACE_INTERRUPT, thread->tid, 0, 0))
		syscall(SYS_tkill, thread->tid, SIGSTOP);
	if (!ptrace(PTRACE_CONT, thread->tid, 0, 0))
		aior_wait_stop(thread->tid, &status, aior_now(CLOCK_MONOTONIC) + PATIENCE_NS);
}

void aior_return_stopped(struct aior_stopped *stopped, const struct aior_tracee *injected)
{
	if (injected)
		leave_call(injected);
	for (size_t i = 0; i < stopped->count; i++)
		aior_put_back(&stopped->threads[i]);
	free(stopped->threads);
	free(stopped);
}

void aior_put_back(const struct aior_tracee *thread)
{
	aior_set_regs(thread->tid, &thread->regs, thread->regs_len);
	aior_set_mask(thread->tid, thread->mask);
}

/*
 * A signal that comes to run a handler ends a wait, unless that blocks it: but only if the signal finds the
 * thread in the call, where the call's own mask holds. So the thread goes there first.
 */
static void meet_signal_in_call(const struct aior_tracee *thread)
{
	int makes_call = ARCH_LOSES_ARGUMENT ? is_at_call(thread)
					     : arch_calls_again(&thread->regs, thread->regs_len);

	if (!makes_call || !handler_is_near(thread))
		return;
	aior_set_mask(thread->tid, ~0ull);
	go_to_call(thread);
	aior_set_mask(thread->tid, thread->mask);
}

void aior_release(struct aior_stopped *stopped)
{
	for (size_t i = 0; i < stopped->count; i++) {
		struct aior_tracee *thread = &stopped->threads[i];

		if (!thread->is_stopped)
			continue;
		if (!thread->is_captured) {
			leave_thread(thread, stopped->calls);
			continue;
		}
		aior_put_back(thread);
		meet_signal_in_call(thread);
		ptrace(PTRACE_DETACH, thread->tid, 0, thread->signal);
	}
	free(stopped->threads);
	free(stopped);
}
