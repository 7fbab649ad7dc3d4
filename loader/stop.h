/* SPDX-License-Identifier: MIT */
/* A process whose threads are stopped, each in a ptrace-stop of the calling thread. */
#ifndef AIOR_STOP_H
#define AIOR_STOP_H

#include "arch.h"
#include "internal.h"

#define AIOR_NS_PER_MS 1000000ull
/* So long threads that are to stop are waited for without sleeping. */
#define AIOR_BUSY_NS (2 * AIOR_NS_PER_MS)
/* For what is a matter of moments, and must come to an end all the same. */
#define AIOR_PATIENCE_NS (10000 * AIOR_NS_PER_MS)

/* The system call that a thread was in right before it was stopped. */
struct aior_sample {
	int nr; /* -1: none that is known */
	uint64_t first;
	uint64_t switches; /* how often the thread had gone to sleep */
};

struct aior_tracee {
	pid_t tid;
	int is_stopped; /* it has stopped, and not exited */
	int signal;     /* it was about to take this one; it gets it when it goes on */
	int has_filter; /* of system calls */
	int is_mended; /* the stop has broken its wait, and its registers say by now that it is made again */
	int has_moved; /* adopted: it has made, or may have made, a system call for us */
	struct aior_sample sample;
	/* What aior_capture() has found; the registers are such that it can go on with them. */
	int is_captured;
	size_t regs_len;
	arch_regs regs;
	uint64_t mask;
	int call;     /* that it was in; -1: not known, or none */
	int is_timed; /* that wait has a timeout in which the kernel notes what is left of it; ... */
	uint64_t
	    since; /* ... the thread has been parked since then (CLOCK_MONOTONIC, in ns); 0: it has not */
	uint64_t ring, events; /* see struct aior_thread_record */
	uint32_t taken;
};

struct aior_stopped {
	const struct aior_calls *calls;
	struct aior_tracee *threads;
	size_t count, room;
	int has_filter; /* one of them; of parked ones that is not known */
	enum aior_purpose purpose;
	uint64_t stopped_at; /* when the first was: CLOCK_MONOTONIC, in ns */
	/* They are the caller's, who has set these options of ptrace. */
	int is_adopted;
	unsigned long options;
};

/* tracee.c */

/* CLOCK_MONOTONIC, or another clock, in nanoseconds. */
uint64_t aior_now(clockid_t clock);
void aior_nap(uint64_t ns);

/* Whether a traced thread is in a ptrace-stop, with its status as waitpid() gives it; -1: it has exited. */
int aior_poll_stop(pid_t tid, int *status);
/*
 * Waits until a traced thread is in a ptrace-stop. Returns 1 and its status; 0: it has exited; -1: not
 * before `end` (CLOCK_MONOTONIC, in ns).
 */
int aior_wait_stop(pid_t tid, int *status, uint64_t end);

/* The signal that a stop with this status is about: it is ours to hand over; 0: it is about none. */
int aior_signal_in_hand(int status);

int aior_get_regs(pid_t tid, arch_regs *regs, size_t *len);
int aior_set_regs(pid_t tid, const arch_regs *regs, size_t len);
int aior_get_mask(pid_t tid, uint64_t *mask);
int aior_set_mask(pid_t tid, uint64_t mask);
/* Whether it blocks all signals that can be blocked. */
int aior_is_all(uint64_t mask);

/* How often a thread has gone to sleep: of its own accord given up its CPU. */
uint64_t aior_count_switches(pid_t tid);
struct aior_sample aior_sample_thread(pid_t tid);
/* Whether the sample is of the very wait in call `nr` that the stop has ended. */
int aior_is_of_this_wait(const struct aior_tracee *thread, int nr);
/* Whether a signal with a handler is about to be delivered to it. */
int aior_handler_is_near(const struct aior_tracee *thread);
int aior_is_one_of(int nr, const int *calls, size_t count);
/* The first argument of the call that it has come back from, whose number is `nr`; -1: that is not known. */
int aior_first_argument(const struct aior_tracee *thread, int nr, uint64_t *first);
/*
 * A wait that the stop has broken is made again: in thread->regs, which must be those of the thread. Returns
 * whether it was one.
 */
int aior_mend_wait(struct aior_tracee *thread, const struct aior_calls *calls);
/* The same in the thread itself: whoever lets go of it, the wait goes on. */
void aior_restart_wait(struct aior_tracee *thread, const struct aior_calls *calls);
/*
 * One that is in the middle of a blob goes on there for a moment, and is stopped again. When a blob's host has died its
 * process may be stopped (SIGSTOP): then nobody but a tracer lets it come to its end. Not so under a filter of system calls,
 * which is suspended, for what the thread runs is the program's to say.
 */
void aior_let_work(struct aior_tracee *thread);
/* It goes on, as aior_continue() says. */
void aior_leave_thread(struct aior_tracee *thread, const struct aior_calls *calls);

/* samples.c */

/* The sample of a thread; `samples` may be NULL. */
struct aior_sample aior_find_sample(const struct aior_samples *samples, pid_t tid);

/* stop.c */

/*
 * A synchronous request that is interrupted inside io_submit delivers EINTR as its event, so a
 * thread is let out of it first. Returns 0 if it is not out at `end`.
 */
int aior_leaves_io_submit(pid_t tid, const struct aior_calls *calls, uint64_t end);

/* Adds a thread; NULL if there is no memory. */
struct aior_tracee *aior_add_tracee(struct aior_stopped *stopped, pid_t tid);

/* capture.c */

/*
 * For threads that are to be made to do something else: reads what they were doing, so that
 * aior_release() can have them go on with it. A signal that a thread was about to take it takes now: it is
 * about to run its handler then. Fails with ESRCH if the process has exited over that.
 */
int aior_capture(
    struct aior_stopped *stopped, const struct aior_process *process, struct aior_error *error);

/*
 * The threads of a process which its tracer, the caller, has stopped already; `options` are those of ptrace
 * that it has set, `samples` may be NULL. None of them moves for it, and their registers are read. Signals that they are
 * about to take are the caller's. What lets other threads go on gives these back to it.
 */
int aior_adopt_stopped(const struct aior_process *process, const struct aior_calls *calls,
    unsigned long options, const struct aior_samples *samples, struct aior_stopped **stopped,
    struct aior_error *error);

/* One that can run something: it has not exited, and is not about to take a signal which is its tracer's. */
struct aior_tracee *aior_choose_thread(const struct aior_stopped *stopped);

/*
 * A thread that has made system calls for us is in the stop of one, behind which the kernel does not look whether
 * the call that the thread was in is to be made again: its program would see ERESTARTSYS. Behind the stop of a
 * signal it does, and such a stop comes before any further instruction: so it goes there.
 */
void aior_leave_call(const struct aior_tracee *thread);
/* A wait that notes what is left of its time ends when it would have, though its thread was parked. */
void aior_pass_time(const struct aior_tracee *thread, const struct aior_calls *calls);
/* Registers and mask as captured, whatever it has done meanwhile. */
void aior_put_back(const struct aior_tracee *thread);
/* Adopted threads stay where they are now, in a park loop if anywhere else than before; with their tracer's options. */
void aior_keep_parked(struct aior_stopped *stopped);
/* The same for all, and they go on, or are their tracer's again. Frees `stopped`. */
void aior_release(struct aior_stopped *stopped);

#endif
