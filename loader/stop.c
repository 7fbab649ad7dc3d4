/* SPDX-License-Identifier: MIT */
/*
 * Stops all threads of a process, so that nobody but the process itself could tell: ptrace's SEIZE
 * and INTERRUPT send no signal and show the parent nothing; ptrace(2).
 */
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "arch.h"
#include "internal.h"

#define PATIENCE_MS 10000
/* How long some threads may stand still because another one is not out of io_submit. */
#define HOLD_MS 100

/* The system call that a thread was in right before it was stopped. */
struct sample {
	int nr; /* -1: none that is known */
	uint64_t first;
	uint64_t switches; /* how often the thread had gone to sleep */
};

struct stopped_thread {
	pid_t tid;
	struct sample sample;
	int signal;     /* it was about to take this one; it gets it when it goes on */
	int is_stopped; /* it has stopped, and not exited */
};

struct aior_stopped {
	const struct aior_calls *calls;
	struct stopped_thread *threads;
	size_t count, room;
};

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Sleeps a little, and a little longer each time. */
static void nap(unsigned *naps)
{
	struct timespec time = {.tv_nsec = *naps < 20 ? 20000 : 1000000};

	++*naps;
	nanosleep(&time, NULL);
}

/*
 * A synchronous request that is interrupted inside io_submit delivers EINTR as its event, so a
 * thread is let out of it first. Returns 0 if that takes longer.
 */
static int leaves_io_submit(pid_t tid, const struct aior_calls *calls, int64_t ms)
{
	int64_t end = now_ms() + ms;
	unsigned naps = 0;
	uint64_t first;

	while (aior_current_call(tid, &first) == calls->io_submit) {
		if (now_ms() >= end)
			return 0;
		nap(&naps);
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
static int is_of_this_wait(const struct stopped_thread *thread, int nr)
{
	return thread->sample.nr == nr &&
	       count_switches(thread->tid) == thread->sample.switches + 1;
}

static int wait_for_stop(struct stopped_thread *thread, struct aior_error *error)
{
	int64_t end = now_ms() + PATIENCE_MS;
	unsigned naps = 0;
	int status;
	pid_t pid;

	for (;;) {
		pid = waitpid(thread->tid, &status, __WALL | WNOHANG);
		if (pid < 0 && errno == EINTR)
			continue;
		if (pid)
			break;
		if (now_ms() > end)
			return aior_fail(error, ETIMEDOUT, "stop",
			    "thread %d cannot be stopped: it is in vfork, or waits for "
			    "a device; try again when it goes on",
			    (int)thread->tid);
		nap(&naps);
	}
	if (pid < 0 || !WIFSTOPPED(status))
		return 0; /* it has exited meanwhile */
	thread->is_stopped = 1;
	/* A stop before a signal's delivery: the signal is ours to hand over. */
	if (status >> 16 == 0)
		thread->signal = WSTOPSIG(status);
	return 0;
}

static struct stopped_thread *add_thread(struct aior_stopped *stopped, pid_t tid)
{
	if (stopped->count == stopped->room) {
		size_t room = stopped->room ? 2 * stopped->room : 16;
		void *larger = reallocarray(stopped->threads, room, sizeof(*stopped->threads));

		if (!larger)
			return NULL;
		stopped->threads = larger;
		stopped->room = room;
	}
	stopped->threads[stopped->count] =
	    (struct stopped_thread){.tid = tid, .sample = {.nr = -1}};
	return &stopped->threads[stopped->count++];
}

struct stopping {
	struct aior_stopped *stopped;
	const struct aior_process *process;
	const struct aior_calls *calls;
	struct aior_error *error;
	int found;       /* threads that this pass found */
	int has_failed;  /* and `error` says why */
	pid_t in_submit; /* it does not come out of io_submit while others are stopped */
};

static int refuse_seize(const struct aior_process *process, int err, struct aior_error *error)
{
	struct aior_process again;

	if (process->is_kernel_thread)
		return aior_fail(
		    error, EINVAL, "stop", "process %d is a kernel thread", (int)process->pid);
	if (!aior_process_open(process->pid, &again, NULL) && again.tracer)
		return aior_fail(error, EBUSY, "stop",
		    "process %d is traced by process %d (a debugger?): end that first",
		    (int)process->pid, (int)again.tracer);
	return aior_fail(error, err, "stop",
	    "process %d may not be traced by you: be its owner or root (and see ptrace(2), "
	    "\"Ptrace access mode checking\")",
	    (int)process->pid);
}

static int stop_task(pid_t tid, void *data)
{
	struct stopping *stopping = data;
	struct aior_stopped *stopped = stopping->stopped;
	struct stopped_thread *thread;

	for (size_t i = 0; i < stopped->count; i++)
		if (stopped->threads[i].tid == tid)
			return 0;
	if (!leaves_io_submit(tid, stopped->calls, HOLD_MS)) {
		stopping->in_submit = tid;
		return -1;
	}
	if (ptrace(PTRACE_SEIZE, tid, 0, 0)) {
		int err = errno;

		/* An exited thread that is still listed says EPERM too. */
		if (err == ESRCH || aior_task_has_exited(tid))
			return 0;
		stopping->has_failed = 1;
		return refuse_seize(stopping->process, err, stopping->error);
	}
	stopping->found++;
	thread = add_thread(stopped, tid);
	if (thread && ARCH_LOSES_ARGUMENT) {
		thread->sample.switches = count_switches(tid);
		thread->sample.nr = aior_current_call(tid, &thread->sample.first);
	}
	ptrace(PTRACE_INTERRUPT, tid, 0, 0);
	if (!thread)
		aior_fail(stopping->error, ENOMEM, "stop", "out of memory");
	stopping->has_failed = !thread || wait_for_stop(thread, stopping->error);
	return stopping->has_failed ? -1 : 0;
}

/* Stops all threads, or none. */
static int try_to_stop(struct stopping *stopping)
{
	struct aior_stopped *stopped = calloc(1, sizeof(*stopped));
	const struct aior_process *process = stopping->process;
	int ret;

	if (!stopped)
		return aior_fail(stopping->error, ENOMEM, "stop", "out of memory");
	stopped->calls = stopping->calls;
	stopping->stopped = stopped;
	stopping->in_submit = 0;
	/* Until a pass finds no new thread: stopped threads make none. */
	do {
		stopping->found = 0;
		ret = aior_each_task(process->pid, stop_task, stopping);
	} while (!ret && stopping->found);
	if (!ret && stopped->count)
		return 0;
	aior_continue(stopped);
	if (!stopping->has_failed && !stopping->in_submit)
		aior_fail(
		    stopping->error, ESRCH, "stop", "process %d has exited", (int)process->pid);
	return -1;
}

int aior_stop(
    const struct aior_process *process, struct aior_stopped **stopped, struct aior_error *error)
{
	struct stopping stopping = {
	    .process = process,
	    .calls = aior_calls_of(aior_process_arch(process)),
	    .error = error,
	};
	int64_t end = now_ms() + PATIENCE_MS, left;

	if (!stopping.calls)
		return aior_fail(error, ESRCH, "stop", "process %d has become another program",
		    (int)process->pid);
	while (try_to_stop(&stopping)) {
		if (!stopping.in_submit)
			return -1;
		/* What it waits for may be up to a thread that we had stopped. */
		left = end - now_ms();
		if (left <= 0 || !leaves_io_submit(stopping.in_submit, stopping.calls, left))
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

static int get_regs(pid_t tid, void *regs, size_t *len)
{
	struct iovec vec = {.iov_base = regs, .iov_len = *len};

	if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &vec))
		return -1;
	*len = vec.iov_len;
	return 0;
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
static int handler_is_near(const struct stopped_thread *thread)
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
	unsigned char regs[1024];
	size_t len = sizeof(regs);

	if (!stopped->threads[i].is_stopped)
		return -1;
	thread->tid = stopped->threads[i].tid;
	thread->stop_signal = stopped->threads[i].signal;
	if (get_regs(thread->tid, regs, &len))
		return -1;
	thread->regs = malloc(len);
	if (!thread->regs)
		return -1;
	memcpy(thread->regs, regs, len);
	thread->regs_len = len;
	read_signals(thread->tid, &signals);
	thread->pending = signals.pending;
	thread->blocked = signals.blocked;
	return 0;
}

static int is_broken_by_stop(const struct aior_calls *calls, int nr)
{
	for (size_t i = 0; i < calls->broken_count; i++)
		if (calls->broken_by_stop[i] == nr)
			return 1;
	return 0;
}

/* A wait that the stop broke is made again. */
static void restart_wait(const struct stopped_thread *thread, const struct aior_calls *calls)
{
	arch_regs regs;
	size_t len = sizeof(regs);
	struct iovec vec = {.iov_base = &regs};
	const uint64_t *first;
	int nr;

	if (get_regs(thread->tid, &regs, &len))
		return;
	nr = arch_interrupted_call(thread->tid, &regs, len);
	if (nr < 0 || !is_broken_by_stop(calls, nr))
		return;
	first = ARCH_LOSES_ARGUMENT && is_of_this_wait(thread, nr) ? &thread->sample.first : NULL;
	if (!arch_restart(thread->tid, nr, &regs, len, first, handler_is_near(thread)))
		return;
	vec.iov_len = len;
	ptrace(PTRACE_SETREGSET, thread->tid, NT_PRSTATUS, &vec);
}

void aior_continue(struct aior_stopped *stopped)
{
	for (size_t i = 0; i < stopped->count; i++) {
		struct stopped_thread *thread = &stopped->threads[i];

		if (!thread->is_stopped)
			continue;
		restart_wait(thread, stopped->calls);
		ptrace(PTRACE_DETACH, thread->tid, 0, thread->signal);
	}
	free(stopped->threads);
	free(stopped);
}
