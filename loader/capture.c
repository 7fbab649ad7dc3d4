/* SPDX-License-Identifier: MIT */
/* What stopped threads were doing, so that they can go on with it when they have been made to do something else. */
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

/*
 * Has the thread take the signal that it was about to take, and stop again right behind that: in front of
 * its handler's first instruction, as a rule. PTRACE_INTERRUPT is seen in front of any further signal
 * (get_signal(), kernel/signal.c).
 */
static int take_signal(struct aior_tracee *thread)
{
	int status;

	while (thread->signal) {
		aior_trace(PTRACE_INTERRUPT, thread->tid, 0, 0);
		aior_trace(PTRACE_CONT, thread->tid, 0, thread->signal);
		thread->signal = 0;
		if (aior_wait_stop(
			thread->tid, &status, aior_now(CLOCK_MONOTONIC) + AIOR_PATIENCE_NS) != 1) {
			thread->is_stopped = 0;
			return -1;
		}
		thread->signal = aior_signal_in_hand(status);
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
	    !aior_is_one_of(nr, calls->takes_events, calls->takes_events_count) ||
	    taken >= (int64_t)arch_argument(regs, thread->regs_len, 1) ||
	    arch_argument(regs, thread->regs_len, 4) ||
	    aior_first_argument(thread, nr, &thread->ring))
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
	word = aior_trace(PTRACE_PEEKTEXT, thread->tid,
	    (void *)(uintptr_t)arch_pc(&thread->regs, thread->regs_len), 0);
	memcpy(code, &word, sizeof(word));
	return !errno && !arch_find_call(code, sizeof(code), 0, thread->regs_len);
}

/* Goes on until it is about to make a call, or has made it. Returns 0 if it is there. */
static int go_to_call(const struct aior_tracee *thread)
{
	uint64_t end = aior_now(CLOCK_MONOTONIC) + AIOR_PATIENCE_NS;
	int status, signal = 0;

	do {
		aior_trace(PTRACE_SYSCALL, thread->tid, 0, signal);
		if (aior_wait_stop(thread->tid, &status, end) != 1)
			return -1;
		signal = aior_signal_in_hand(status);
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

	if (!aior_is_one_of(nr, calls->keeps_time, calls->keeps_time_count) || !is_at_call(thread))
		return;
	thread->call = nr;
	thread->has_moved = 1;
	aior_set_mask(thread->tid, ~0ull);
	if (!go_to_call(thread) && !aior_get_regs(thread->tid, &at_call, &len)) {
		arch_set_call_number(&thread->regs, len, arch_call_number(&at_call, len));
		arch_cancel_call(thread->tid, &at_call, len);
		go_to_call(thread);
	}
	aior_put_back(thread);
}

static const struct aior_timed_call *find_timed(const struct aior_calls *calls, int nr)
{
	for (size_t i = 0; i < calls->notes_time_count; i++)
		if (calls->notes_time[i].nr == nr)
			return &calls->notes_time[i];
	return NULL;
}

/* A thread that is only about to make the call has not waited yet. */
static int is_in_timed_call(const struct aior_tracee *thread, const struct aior_calls *calls)
{
	if (ARCH_LOSES_ARGUMENT) {
		int nr = arch_call_number(&thread->regs, thread->regs_len);

		return find_timed(calls, nr) && is_at_call(thread) &&
		       aior_is_of_this_wait(thread, nr);
	}
	return arch_calls_again(&thread->regs, thread->regs_len) &&
	       find_timed(calls, arch_last_call(thread->tid, &thread->regs, thread->regs_len));
}

void aior_pass_time(const struct aior_tracee *thread, const struct aior_calls *calls)
{
	const struct aior_timed_call *timed = find_timed(calls, thread->call);
	int64_t seconds = 0, parts = 0, left, passed;
	unsigned char time[16];
	uint64_t at;

	if (!thread->since || !timed)
		return;
	at = arch_argument(&thread->regs, thread->regs_len, timed->argument);
	if (!at || aior_read_memory(thread->tid, at, time, 2 * (size_t)timed->bytes))
		return;
	memcpy(&seconds, time, timed->bytes);
	memcpy(&parts, time + timed->bytes, timed->bytes);
	if (seconds < 0 || seconds > INT32_MAX || parts < 0 || parts >= timed->parts)
		return; /* longer than anybody waits for */
	passed =
	    (int64_t)((aior_now(CLOCK_MONOTONIC) - thread->since) / (1000000000u / timed->parts));
	left = seconds * timed->parts + parts - passed;
	if (left < 0)
		left = 0;
	seconds = left / timed->parts;
	parts = left % timed->parts;
	memcpy(time, &seconds, timed->bytes);
	memcpy(time + timed->bytes, &parts, timed->bytes);
	aior_write_memory(thread->tid, at, time, 2 * (size_t)timed->bytes);
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

	if (aior_trace(PTRACE_GET_RSEQ_CONFIGURATION, thread->tid, sizeof(rseq), &rseq) <
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
	if (!thread->is_mended)
		thread->call = -1;
	thread->taken = 0;
	if (thread->is_mended || aior_mend_wait(thread, calls)) {
		thread->is_captured = 1;
		return 0;
	}
	find_taken(thread, calls);
	if (ARCH_LOSES_ARGUMENT)
		settle(thread, calls);
	else
		thread->call = arch_last_call(thread->tid, &thread->regs, thread->regs_len);
	if (is_in_timed_call(thread, calls)) {
		thread->is_timed = 1;
		if (ARCH_LOSES_ARGUMENT)
			thread->call = arch_call_number(&thread->regs, thread->regs_len);
	}
	abort_sequence(thread);
	thread->is_captured = 1;
	return 0;
}

/* What makes a thread take a signal is its tracer's, who would have it run the handler where we want it to sleep. */
static int is_in_signal_stop(pid_t tid)
{
	siginfo_t info;

	/* Of a group-stop there is none; an event is behind the low byte; a signal of kill(2) has a code below 0. */
	if (aior_trace(PTRACE_GETSIGINFO, tid, 0, &info) || info.si_code >> 8 > 0)
		return 0;
	/* At a system call: ptrace(2), PTRACE_O_TRACESYSGOOD. */
	return info.si_signo != SIGTRAP || (info.si_code & ~0x80) != SIGTRAP;
}

int aior_capture(
    struct aior_stopped *stopped, const struct aior_process *process, struct aior_error *error)
{
	for (size_t i = 0; i < stopped->count; i++) {
		struct aior_tracee *thread = &stopped->threads[i];

		if (!thread->is_stopped)
			continue;
		if (stopped->is_adopted && is_in_signal_stop(thread->tid))
			return aior_fail(error, EBUSY, "stop",
			    "thread %d of process %d is about to take a signal, which its tracer "
			    "has to give it first",
			    (int)thread->tid, (int)process->pid);
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

struct adoption {
	struct aior_stopped *stopped;
	const struct aior_samples *samples;
};

static int adopt_task(pid_t tid, void *data)
{
	const struct adoption *adoption = data;
	struct aior_stopped *stopped = adoption->stopped;
	unsigned long options = stopped->options | PTRACE_O_TRACESYSGOOD;
	struct aior_tracee *thread;

	if (aior_task_has_exited(tid) || aior_is_worker(tid))
		return 0;
	thread = aior_add_tracee(stopped, tid);
	if (!thread || aior_get_regs(tid, &thread->regs, &thread->regs_len) ||
	    aior_get_mask(tid, &thread->mask))
		return -1;
	thread->is_stopped = 1;
	thread->call = -1;
	thread->sample = aior_find_sample(adoption->samples, tid);
	thread->has_filter = aior_status_number(tid, "\nSeccomp:") != 0;
	stopped->has_filter |= thread->has_filter;
	if (thread->has_filter)
		options |= PTRACE_O_SUSPEND_SECCOMP;
	if (!aior_mend_wait(thread, stopped->calls))
		find_taken(thread, stopped->calls);
	return aior_trace(PTRACE_SETOPTIONS, tid, 0, options) ? -1 : 0;
}

static void give_options_back(const struct aior_stopped *stopped)
{
	for (size_t i = 0; i < stopped->count; i++)
		aior_trace(PTRACE_SETOPTIONS, stopped->threads[i].tid, 0, stopped->options);
}

static void free_stopped(struct aior_stopped *stopped)
{
	free(stopped->threads);
	free(stopped);
}

int aior_adopt_stopped(const struct aior_process *process, const struct aior_calls *calls,
    unsigned long options, const struct aior_samples *samples, struct aior_stopped **stopped,
    struct aior_error *error)
{
	struct aior_stopped *own = calloc(1, sizeof(*own));
	struct adoption adoption = {own, samples};

	if (!own)
		return aior_fail(error, ENOMEM, "stop", "out of memory");
	own->calls = calls;
	own->is_adopted = 1;
	own->options = options;
	own->stopped_at = aior_now(CLOCK_MONOTONIC);
	if (aior_each_task(process->pid, adopt_task, &adoption) || !own->count) {
		give_options_back(own);
		free_stopped(own);
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

		if (thread->is_stopped && !is_in_signal_stop(thread->tid))
			return thread;
	}
	return &stopped->threads[0];
}

void aior_leave_call(const struct aior_tracee *thread)
{
	int status;

	/* What has been attached to, and not seized, cannot be interrupted. */
	if (aior_trace(PTRACE_INTERRUPT, thread->tid, 0, 0) && errno == EIO)
		syscall(SYS_tkill, thread->tid, SIGSTOP);
	if (!aior_trace(PTRACE_CONT, thread->tid, 0, 0))
		aior_wait_stop(thread->tid, &status, aior_now(CLOCK_MONOTONIC) + AIOR_PATIENCE_NS);
}

void aior_keep_parked(struct aior_stopped *stopped)
{
	for (size_t i = 0; i < stopped->count; i++) {
		struct aior_tracee *thread = &stopped->threads[i];

		if (!thread->has_moved ||
		    aior_get_regs(thread->tid, &thread->regs, &thread->regs_len))
			continue;
		aior_leave_call(thread);
		aior_set_regs(thread->tid, &thread->regs, thread->regs_len);
	}
	give_options_back(stopped);
	free_stopped(stopped);
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

	if (!makes_call || !aior_handler_is_near(thread))
		return;
	aior_set_mask(thread->tid, ~0ull);
	go_to_call(thread);
	aior_set_mask(thread->tid, thread->mask);
}

static void return_stopped(struct aior_stopped *stopped)
{
	for (size_t i = 0; i < stopped->count; i++) {
		if (stopped->threads[i].has_moved)
			aior_leave_call(&stopped->threads[i]);
		aior_put_back(&stopped->threads[i]);
		if (stopped->threads[i].is_captured)
			meet_signal_in_call(&stopped->threads[i]);
	}
	give_options_back(stopped);
	free_stopped(stopped);
}

void aior_release(struct aior_stopped *stopped)
{
	if (stopped->is_adopted) {
		return_stopped(stopped);
		return;
	}
	for (size_t i = 0; i < stopped->count; i++) {
		struct aior_tracee *thread = &stopped->threads[i];

		if (!thread->is_stopped)
			continue;
		if (!thread->is_captured) {
			aior_leave_thread(thread, stopped->calls);
			continue;
		}
		aior_put_back(thread);
		meet_signal_in_call(thread);
		aior_trace(PTRACE_DETACH, thread->tid, 0, thread->signal);
	}
	free(stopped->threads);
	free(stopped);
}
