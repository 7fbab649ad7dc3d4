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

/* How long some threads may stand still because another one is not out of io_submit. */
#define HOLD_NS (100 * AIOR_NS_PER_MS)
/* How often a thread is seized that nobody seems to trace. */
#define TRIES 10

/* One that a signal has stopped is out, though the call is still shown: do_signal_stop() comes last in each. */
int aior_leaves_io_submit(pid_t tid, const struct aior_calls *calls, uint64_t end)
{
	uint64_t first;

	while (aior_current_call(tid, &first) == calls->io_submit && !aior_task_is_stopped(tid)) {
		if (aior_now(CLOCK_MONOTONIC) >= end)
			return 0;
		aior_nap(AIOR_NS_PER_MS / 50);
	}
	return 1;
}

struct aior_tracee *aior_add_tracee(struct aior_stopped *stopped, pid_t tid)
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

struct stopping {
	struct aior_stopped *stopped;
	const struct aior_process *process;
	const struct aior_calls *calls;
	struct aior_error *error;
	enum aior_purpose purpose;
	uint64_t capsule; /* AIOR_PARKED: where it lies */
	int is_gone;      /* ... and lies no more */
	int has_failed;   /* and `error` says why */
	pid_t in_submit;  /* it does not come out of io_submit while others are stopped */
};

/* Why a thread could not be seized: `err`, or since `tracer` traces it. (Others of its process may be ours by now.) */
static int refuse_seize(const struct aior_process *process, int err, int has_filter, pid_t tracer,
    struct aior_error *error)
{
	if (process->is_kernel_thread)
		return aior_fail(
		    error, EINVAL, "stop", "process %d is a kernel thread", (int)process->pid);
	if (tracer > 0)
		return aior_fail(error, EBUSY, "stop",
		    "process %d is traced by process %d (a debugger, or another call like this "
		    "one): wait for its end, or end it",
		    (int)process->pid, (int)tracer);
	if (err != EPERM && err != EACCES)
		return aior_not_allowed(process, err, error);
	if (has_filter)
		return aior_fail(error, err, "stop",
		    "process %d has a filter of system calls (seccomp): suspending it takes "
		    "CAP_SYS_ADMIN in the first user namespace, and a caller without a filter",
		    (int)process->pid);
	return aior_refuse_tracing(process, err, "stop", error);
}

/*
 * Its filter is suspended when it has stopped, and not before: it runs until then, and could make any call that the
 * filter forbids. Whether it has one takes long to find out, so that is not asked of a thread that is parked.
 */
static int seize_once(pid_t tid, enum aior_purpose purpose, int *has_filter)
{
	unsigned long options = purpose == AIOR_TO_READ ? 0 : PTRACE_O_TRACESYSGOOD;
	long mode = purpose == AIOR_TO_INJECT ? aior_status_number(tid, "\nSeccomp:") : 0;

	*has_filter = mode > 0;
	if (mode < 0)
		return -1;
	if (mode && !aior_may_suspend_filters()) {
		errno = EPERM;
		return -1;
	}
	return aior_trace(PTRACE_SEIZE, tid, 0, options) ? -1 : 0;
}

/* One that is parked just gets that if it may. */
static int suspend_filter(const struct stopping *stopping, struct aior_tracee *thread)
{
	const unsigned long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP;
	int err;

	if (!thread->is_stopped || stopping->purpose == AIOR_TO_READ ||
	    (stopping->purpose == AIOR_TO_INJECT && !thread->has_filter) ||
	    !aior_trace(PTRACE_SETOPTIONS, thread->tid, 0, options))
		return 0;
	err = errno;
	if (err == ESRCH || !aior_status_number(thread->tid, "\nSeccomp:"))
		return 0;
	return refuse_seize(stopping->process, err, 1, 0, stopping->error);
}

/*
 * 0 or an errno, and who traces the thread. Another tracer may have let it go since it was refused to us: so only
 * one that is there when we look is named. And a thread that exits must not be traced any more, and its id may be
 * that of one which lives by the time that we look why. (That one has called execve(2).)
 */
static int seize(pid_t tid, enum aior_purpose purpose, int *has_filter, pid_t *tracer)
{
	int err = 0;

	*tracer = 0;
	for (int i = 0; i < TRIES && *tracer <= 0; i++) {
		if (!seize_once(tid, purpose, has_filter))
			return 0;
		err = errno == ENOENT ? ESRCH : errno;
		if (err != EPERM && err != ESRCH)
			break;
		if (aior_task_has_exited(tid))
			return ESRCH;
		*tracer = (pid_t)aior_status_number(tid, "\nTracerPid:");
	}
	return err;
}

/*
 * One that was ours and has exited has left its id to another if that has called execve(2): the thread that does
 * becomes the first one.
 */
static int is_ours(const struct aior_stopped *stopped, pid_t tid)
{
	for (size_t i = 0; i < stopped->count; i++)
		if (stopped->threads[i].tid == tid && stopped->threads[i].is_stopped)
			return 1;
	return 0;
}

static int seize_task(pid_t tid, void *data)
{
	struct stopping *stopping = data;
	struct aior_stopped *stopped = stopping->stopped;
	struct aior_tracee *thread;
	int has_filter, err;
	pid_t tracer;

	if (is_ours(stopped, tid))
		return 0;
	if (stopping->purpose != AIOR_PARKED &&
	    !aior_leaves_io_submit(tid, stopped->calls, aior_now(CLOCK_MONOTONIC) + HOLD_NS)) {
		stopping->in_submit = tid;
		return -1;
	}
	err = seize(tid, stopping->purpose, &has_filter, &tracer);
	if (err) {
		/* An exited thread that is still listed says EPERM too. */
		if (err == ESRCH || aior_task_has_exited(tid) || aior_is_worker(tid))
			return 0;
		stopping->has_failed = 1;
		return refuse_seize(stopping->process, err, has_filter, tracer, stopping->error);
	}
	thread = aior_add_tracee(stopped, tid);
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
		if (!aior_leaves_io_submit(stopped->threads[i].tid, stopped->calls,
			aior_now(CLOCK_MONOTONIC) + HOLD_NS)) {
			stopping->in_submit = stopped->threads[i].tid;
			return -1;
		}
	return 0;
}

static void interrupt_thread(struct aior_stopped *stopped, struct aior_tracee *thread)
{
	if (ARCH_LOSES_ARGUMENT)
		thread->sample = aior_sample_thread(thread->tid);
	if (!stopped->stopped_at)
		stopped->stopped_at = aior_now(CLOCK_MONOTONIC);
	aior_trace(PTRACE_INTERRUPT, thread->tid, 0, 0);
}

static int has_capsule(const struct stopping *stopping)
{
	char magic[8];

	return !aior_read_memory(
		   stopping->process->task, stopping->capsule, magic, sizeof(magic)) &&
	       !memcmp(magic, AIOR_TABLE_MAGIC, sizeof(magic));
}

/* At once: if we are killed from here on, the wait goes on all the same. */
static void note_stop(const struct stopping *stopping, struct aior_tracee *thread, int status)
{
	thread->is_stopped = 1;
	thread->signal = aior_signal_in_hand(status);
	if (stopping->purpose != AIOR_PARKED)
		aior_restart_wait(thread, stopping->calls);
}

/* Takes those that stand by now. Returns how many have neither stopped nor exited. */
static size_t take_stopped(const struct stopping *stopping, size_t from)
{
	const struct aior_stopped *stopped = stopping->stopped;
	size_t left = 0;
	int status;

	for (size_t i = from; i < stopped->count; i++) {
		struct aior_tracee *thread = &stopped->threads[i];
		int found = thread->is_stopped ? -1 : aior_poll_stop(thread->tid, &status);

		left += !found;
		if (found > 0)
			note_stop(stopping, thread, status);
	}
	return left;
}

static int wait_for_stop(const struct stopping *stopping, struct aior_tracee *thread)
{
	int status;

	switch (
	    aior_wait_stop(thread->tid, &status, aior_now(CLOCK_MONOTONIC) + AIOR_PATIENCE_NS)) {
	case 1:
		note_stop(stopping, thread, status);
		return 0;
	case 0:
		return 0; /* it has exited meanwhile */
	default:
		return aior_fail(stopping->error, ETIMEDOUT, "stop",
		    "thread %d cannot be stopped: it is in vfork, or waits for "
		    "a device; try again when it goes on",
		    (int)thread->tid);
	}
}

/*
 * Waits for all that have been interrupted. Those that take longer than most, as they wait for a device, come last:
 * the others' waits must not stay broken for so long.
 */
static int wait_for_stops(const struct stopping *stopping, size_t from)
{
	const struct aior_stopped *stopped = stopping->stopped;
	uint64_t end = aior_now(CLOCK_MONOTONIC) + AIOR_BUSY_NS;

	while (take_stopped(stopping, from) && aior_now(CLOCK_MONOTONIC) < end)
		sched_yield();
	for (size_t i = from; i < stopped->count; i++) {
		struct aior_tracee *thread = &stopped->threads[i];

		if ((!thread->is_stopped && wait_for_stop(stopping, thread)) ||
		    suspend_filter(stopping, thread))
			return -1;
	}
	return 0;
}

/* All threads that there are now, beside each other. Returns -1, or how many new ones there were. */
static int stop_more(struct stopping *stopping)
{
	struct aior_stopped *stopped = stopping->stopped;
	size_t before = stopped->count;

	if (aior_each_task(stopping->process->pid, seize_task, stopping)) {
		if (!stopping->has_failed && !stopping->in_submit) {
			stopping->has_failed = 1;
			aior_not_allowed(stopping->process, errno, stopping->error);
		}
		return -1;
	}
	/* A thread in io_submit must not be interrupted, and those of a parked process are not asked. */
	if (stopping->purpose == AIOR_PARKED && !has_capsule(stopping)) {
		stopping->is_gone = 1;
		return -1;
	}
	if (stopping->purpose != AIOR_PARKED && leave_io_submit(stopping, before))
		return -1;
	for (size_t i = before; i < stopped->count; i++)
		interrupt_thread(stopped, &stopped->threads[i]);
	if (wait_for_stops(stopping, before)) {
		stopping->has_failed = 1;
		return -1;
	}
	return (int)(stopped->count - before);
}

/*
 * A thread that is traced and not stopped cannot be left: so it is stopped, when those that stand still already
 * have gone on, and it is out of io_submit. (It may be in the next one by the time that it is told to stop.)
 */
static void stop_and_leave(struct aior_tracee *thread, const struct aior_calls *calls, uint64_t end)
{
	int status, has_stopped = -1;

	while (has_stopped < 0 && aior_leaves_io_submit(thread->tid, calls, end)) {
		aior_trace(PTRACE_INTERRUPT, thread->tid, 0, 0);
		has_stopped =
		    aior_wait_stop(thread->tid, &status, aior_now(CLOCK_MONOTONIC) + HOLD_NS);
		if (aior_now(CLOCK_MONOTONIC) >= end)
			break;
	}
	if (has_stopped != 1)
		return;
	thread->signal = aior_signal_in_hand(status);
	aior_leave_thread(thread, calls);
}

static void leave_all(struct aior_stopped *stopped)
{
	uint64_t end = aior_now(CLOCK_MONOTONIC) + AIOR_PATIENCE_NS;

	for (size_t i = 0; i < stopped->count; i++)
		if (stopped->threads[i].is_stopped)
			aior_leave_thread(&stopped->threads[i], stopped->calls);
	for (size_t i = 0; i < stopped->count; i++)
		if (!stopped->threads[i].is_stopped)
			stop_and_leave(&stopped->threads[i], stopped->calls, end);
	free(stopped->threads);
	free(stopped);
}

/* Stops all threads, or none. */
static int try_to_stop(struct stopping *stopping)
{
	struct aior_stopped *stopped = calloc(1, sizeof(*stopped));
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
	return -1;
}

/*
 * There was no thread that could be stopped, and no reason. Whoever calls execve(2) ends all other threads before it
 * takes the first one's id.
 */
static int may_be_in_exec(const struct aior_process *process, struct aior_error *error)
{
	struct aior_process now;

	aior_nap(AIOR_NS_PER_MS);
	if (aior_process_open(process->pid, &now, error))
		return 0;
	if (now.start_time != process->start_time) {
		aior_fail(error, ESRCH, "stop", "process %d has exited", (int)process->pid);
		return 0;
	}
	aior_fail(error, EAGAIN, "stop",
	    "the threads of process %d cannot be found: it takes /proc, and a free descriptor",
	    (int)process->pid);
	return 1;
}

/*
 * Whether it is the process that was looked at before it stood still: its pid may be another's by now, or it may have
 * called execve(2).
 */
static int check_again(
    const struct aior_process *process, const struct aior_calls *calls, struct aior_error *error)
{
	struct aior_process now;

	if (aior_process_open(process->pid, &now, error))
		return -1;
	if (now.start_time != process->start_time)
		return aior_fail(error, ESRCH, "stop",
		    "process %d has exited, and its number is another process's now",
		    (int)process->pid);
	if (now.stack != process->stack || aior_calls_of(aior_process_arch(process)) != calls)
		return aior_fail(error, EAGAIN, "stop",
		    "process %d has become another program meanwhile (execve): try again",
		    (int)process->pid);
	return 0;
}

static int stop(const struct aior_process *process, enum aior_purpose purpose, uint64_t capsule,
    struct aior_stopped **stopped, struct aior_error *error)
{
	struct stopping stopping = {
	    .process = process,
	    .calls = aior_calls_of(aior_process_arch(process)),
	    .error = error,
	    .purpose = purpose,
	    .capsule = capsule,
	};
	uint64_t end = aior_now(CLOCK_MONOTONIC) + AIOR_PATIENCE_NS;

	if (!stopping.calls)
		return aior_fail(error, EAGAIN, "stop",
		    "process %d has become another program meanwhile (execve): try again",
		    (int)process->pid);
	while (try_to_stop(&stopping)) {
		if (!stopping.has_failed && !stopping.in_submit && !stopping.is_gone &&
		    aior_now(CLOCK_MONOTONIC) < end && may_be_in_exec(process, error))
			continue;
		if (!stopping.in_submit)
			return stopping.is_gone ? 1 : -1;
		/* What it waits for may be up to a thread that we had stopped. */
		if (!aior_leaves_io_submit(stopping.in_submit, stopping.calls, end))
			return aior_fail(error, ETIMEDOUT, "stop",
			    "thread %d does not come out of io_submit: try again when its storage "
			    "answers",
			    (int)stopping.in_submit);
	}
	if (check_again(process, stopping.calls, error)) {
		leave_all(stopping.stopped);
		return -1;
	}
	*stopped = stopping.stopped;
	return 0;
}

int aior_stop(const struct aior_process *process, enum aior_purpose purpose,
    struct aior_stopped **stopped, struct aior_error *error)
{
	return stop(process, purpose, 0, stopped, error);
}

int aior_stop_staged(const struct aior_process *process, uint64_t capsule,
    struct aior_stopped **stopped, struct aior_error *error)
{
	return stop(process, AIOR_PARKED, capsule, stopped, error);
}

size_t aior_stopped_count(const struct aior_stopped *stopped)
{
	return stopped->count;
}

void aior_let_work(struct aior_tracee *thread)
{
	int status, has_stopped = 1;

	if (thread->has_filter || aior_status_number(thread->tid, "\nSeccomp:"))
		return;
	/* Told to stop when it had done so already, it does so once more (JOBCTL_TRAP_STOP, kernel/ptrace.c). */
	for (int tries = 0; has_stopped == 1 && tries < 3; tries++) {
		if (aior_trace(PTRACE_CONT, thread->tid, 0, thread->signal))
			return;
		aior_nap(AIOR_NS_PER_MS);
		has_stopped = aior_poll_stop(thread->tid, &status);
		thread->signal = has_stopped == 1 ? aior_signal_in_hand(status) : 0;
	}
	if (has_stopped == 1)
		return;
	aior_trace(PTRACE_INTERRUPT, thread->tid, 0, 0);
	if (aior_wait_stop(thread->tid, &status, aior_now(CLOCK_MONOTONIC) + AIOR_PATIENCE_NS) == 1)
		thread->signal = aior_signal_in_hand(status);
	else
		thread->is_stopped = 0;
}

void aior_continue(struct aior_stopped *stopped)
{
	if (stopped->is_adopted) {
		aior_keep_parked(stopped);
		return;
	}
	for (size_t i = 0; i < stopped->count; i++)
		if (stopped->threads[i].is_stopped)
			aior_leave_thread(&stopped->threads[i], stopped->calls);
	free(stopped->threads);
	free(stopped);
}
