/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "journal.h"
#include "others.h"

/* When threads that have exited are looked for, and how often then. */
#define FIRST_LOOK_NS (300 * AIOR_NS_PER_MS)
#define LOOK_NS (50 * AIOR_NS_PER_MS)

int aior_stays_parked(pid_t pid, struct aior_error *error)
{
	size_t used;

	if (!error)
		return -1;
	used = strlen(error->message);
	error->is_unfinished = 1;
	snprintf(error->message + used, sizeof(error->message) - used,
	    "; process %d stays parked: go on with `aio-restorer restore %d`", (int)pid, (int)pid);
	return -1;
}

/* ---- the thread that traces ---- */

struct tracer {
	int (*function)(void *data);
	void *data;
	pid_t tid;
	int ret;
};

/*
 * The kernel tells the tracer's program of each stop by a SIGCHLD. Where it has no handler that is thrown away, but
 * not if the thread that it is meant for blocks it: then it goes to another, whose call may end with EINTR.
 */
static void let_stops_be_ignored(void)
{
	struct sigaction action;
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	if (!sigaction(SIGCHLD, NULL, &action) && action.sa_handler == SIG_DFL)
		pthread_sigmask(SIG_UNBLOCK, &child, NULL);
}

static void *trace(void *data)
{
	struct tracer *tracer = data;

	tracer->tid = gettid();
	let_stops_be_ignored();
	tracer->ret = tracer->function(tracer->data);
	return NULL;
}

static int reap_thread(pid_t tid, void *data)
{
	const struct tracer *tracer = data;
	siginfo_t info;

	if (aior_task_has_exited(tid) && aior_status_number(tid, "\nTracerPid:") == tracer->tid)
		waitid(P_PID, (id_t)tid, &info, WEXITED | WNOHANG | __WALL);
	return 0;
}

/*
 * A thread that calls execve(2) ends all others, and waits until their tracer has been told of it, who cannot make it his
 * own as long as it is in there (de_thread(), fs/exec.c; ptrace_attach(), kernel/ptrace.c): they would wait for each
 * other for ever. But not only the tracer may ask for the ends of threads: all of its process may.
 */
static void join_tracer(pthread_t thread, struct tracer *tracer, const pid_t *pids, size_t count)
{
	uint64_t end = aior_now(CLOCK_REALTIME) + FIRST_LOOK_NS;
	struct timespec time;

	for (;; end = aior_now(CLOCK_REALTIME) + LOOK_NS) {
		time.tv_sec = (time_t)(end / (1000 * AIOR_NS_PER_MS));
		time.tv_nsec = (long)(end % (1000 * AIOR_NS_PER_MS));
		if (pthread_timedjoin_np(thread, NULL, &time) != ETIMEDOUT)
			return;
		for (size_t i = 0; i < count; i++)
			aior_each_task(pids[i], reap_thread, tracer);
	}
}

int aior_as_tracer(int (*function)(void *data), void *data, const pid_t *pids, size_t count,
    struct aior_error *error)
{
	struct tracer tracer = {function, data, 0, -1};
	sigset_t all, mask;
	pthread_t thread;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &mask);
	err = pthread_create(&thread, NULL, trace, &tracer);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	if (err)
		return aior_fail(error, err, "stop", "no thread can be started to trace from: %s",
		    aior_errno_text(err));
	join_tracer(thread, &tracer, pids, count);
	/*
	 * That is over before the kernel has let go what the thread still traced (exit_notify(), kernel/exit.c). In
	 * between another tracer would be refused, and a SIGCONT would wake who sleeps under a filter.
	 */
	while (!syscall(SYS_tgkill, getpid(), tracer.tid, 0))
		aior_nap(AIOR_NS_PER_MS / 100);
	return tracer.ret;
}

/* ---- a process that an earlier host may have left ---- */

uint64_t aior_draining_ring(const struct aior_process *process, const struct aior_capsule *capsule)
{
	const struct aior_table *table = &capsule->table;
	struct aior_ring_record ring;

	if (!aior_holds_rings(capsule))
		return 0;
	for (uint32_t i = 0; i < table->ring_count; i++) {
		uint64_t at = capsule->addr + table->rings + (uint64_t)i * table->ring_stride;

		if (aior_read_memory(process->task, at, &ring, sizeof(ring)))
			return 0;
		if (ring.aside)
			return ring.addr;
	}
	return 0;
}

static int still_draining(const struct aior_process *process, const struct aior_capsule *capsule,
    int err, struct aior_error *error)
{
	uint64_t ring = aior_draining_ring(process, capsule);

	if (ring)
		aior_fail_ring(error, err, "drain", ring,
		    "requests in flight have not ended: their storage does not answer");
	else
		aior_fail(
		    error, err, "drain", "process %d is still being staged", (int)process->pid);
	return aior_stays_parked(process->pid, error);
}

/*
 * Where the process is stopped (SIGSTOP), the blob's thread stands still as soon as nobody traces it any more. (If it
 * cannot be traced now, another one may be at it.)
 */
static void let_drain(const struct aior_process *process, const struct aior_capsule *capsule)
{
	struct aior_parked parked = {
	    .process = process, .arch = aior_process_arch(process), .capsule = *capsule};
	struct aior_error unwanted;

	if (aior_stop_staged(process, capsule->addr, &parked.stopped, &unwanted))
		return;
	if (aior_parked_load(&parked, &unwanted) && parked.at_work)
		aior_let_work(parked.at_work);
	aior_leave_parked(parked.stopped);
	aior_parked_free(&parked);
}

/*
 * Waits while the blob, which nobody traces any more, goes on in there. Returns 1; 0 if the capsule is not there any
 * more by then: others may have restored it.
 */
static int wait_for_drain(const struct aior_process *process, struct aior_capsule *capsule,
    const struct aior_options *options, struct aior_error *error)
{
	uint64_t begin = aior_now(CLOCK_MONOTONIC), end = UINT64_MAX;

	if (options && options->timeout_ms >= 0)
		end = begin + (uint64_t)options->timeout_ms * AIOR_NS_PER_MS;
	while (capsule->table.state == AIOR_TABLE_DRAINING) {
		if (options && options->cancel && *options->cancel)
			return still_draining(process, capsule, EINTR, error);
		if (aior_now(CLOCK_MONOTONIC) > end)
			return still_draining(process, capsule, ETIMEDOUT, error);
		aior_nap(AIOR_NS_PER_MS);
		if (aior_task_is_stopped(process->task))
			let_drain(process, capsule);
		if (aior_read_memory(
			process->task, capsule->addr, &capsule->table, sizeof(capsule->table)) ||
		    memcmp(capsule->table.magic, AIOR_TABLE_MAGIC, sizeof(capsule->table.magic)) !=
			0)
			return 0;
	}
	return 1;
}

/* As aior_open_other(), with `is_drained` 0 if it is to be called again. */
static int open_once(pid_t pid, const struct aior_options *options, struct aior_process *process,
    struct aior_capsule *capsule, int *is_drained, struct aior_error *error)
{
	int found;

	*is_drained = 1;
	if (aior_process_open(pid, process, error))
		return -1;
	if (process->is_kernel_thread)
		return aior_check_process(process, error);
	if (aior_journal_recover(process, error))
		return -1;
	found = aior_find_capsule(process->task, capsule, error);
	if (found < 0 && error && (error->err == EPERM || error->err == EACCES))
		return aior_not_allowed(process, error->err, error);
	if (found < 0 && error && (error->err == ENOENT || error->err == ESRCH))
		return aior_fail(error, ESRCH, "open",
		    "process %d has exited, or is becoming another program (execve)", (int)pid);
	/* As long as the blob has helpers, they share the process's memory. */
	if (found > 0 && capsule->table.state <= AIOR_TABLE_STAGED && capsule->table.thread_count) {
		found = wait_for_drain(process, capsule, options, error);
		*is_drained = !!found;
	}
	return found;
}

int aior_open_other(pid_t pid, int is_to_stage, const struct aior_options *options,
    struct aior_process *process, struct aior_capsule *capsule, struct aior_error *error)
{
	uint64_t begin = aior_now(CLOCK_MONOTONIC);
	int found, is_drained;

	do
		found = open_once(pid, options, process, capsule, &is_drained, error);
	while (!is_drained && !aior_gives_up(pid, begin, error));
	if (found < 0 || !is_drained)
		return -1;
	/* Of one that is not staged, nobody wants more than that, unless he is to stage it. */
	return (found || is_to_stage) && aior_check_process(process, error) ? -1 : found;
}

int aior_is_still_there(const struct aior_parked *parked)
{
	struct aior_table now, then = parked->capsule.table;

	if (aior_read_memory(parked->process->task, parked->capsule.addr, &now, sizeof(now)) ||
	    memcmp(now.magic, AIOR_TABLE_MAGIC, sizeof(now.magic)) != 0)
		return 0;
	aior_count_polls(&now);
	aior_count_polls(&then);
	return !memcmp(&now, &then, sizeof(now));
}

int aior_stop_parked(
    struct aior_parked *parked, const struct aior_options *options, struct aior_error *error)
{
	uint64_t end = aior_now(CLOCK_MONOTONIC) + AIOR_PATIENCE_NS;
	struct aior_error own;
	int ret;

	(void)options;
	if (!error)
		error = &own;
	do {
		ret = aior_stop_staged(
		    parked->process, parked->capsule.addr, &parked->stopped, error);
		if (ret < 0 && error->err == ETIMEDOUT)
			return aior_stays_parked(parked->process->pid, error);
		if (ret)
			return ret;
		if (!aior_is_still_there(parked)) {
			aior_leave_parked(parked->stopped);
			parked->stopped = NULL;
			return 1;
		}
		ret = aior_parked_load(parked, error);
		if (!ret)
			return 0;
		if (parked->at_work)
			aior_let_work(parked->at_work);
		aior_continue(parked->stopped);
		aior_parked_free(parked);
		parked->stopped = NULL;
		if (error->err != EAGAIN)
			return -1;
		aior_nap(AIOR_NS_PER_MS);
		if (aior_read_memory(parked->process->task, parked->capsule.addr,
			&parked->capsule.table, sizeof(parked->capsule.table)))
			return aior_fail(error, errno, "capsule", "the capsule cannot be read: %s",
			    aior_errno_text(errno));
	} while (aior_now(CLOCK_MONOTONIC) < end);
	error->err = EBUSY;
	return -1;
}

static int is_asleep(pid_t tid)
{
	uint64_t first;

	return !aior_task_runs(tid) && aior_current_call(tid, &first) >= 0;
}

static int has_filter(const struct aior_tracee *thread)
{
	return thread->has_filter || aior_status_number(thread->tid, "\nSeccomp:");
}

/* Goes on to the next stop at a system call: its number; -1: there is none. */
static int next_call(const struct aior_tracee *thread, uint64_t end)
{
	int status, signal = 0;
	uint64_t first;

	do {
		aior_trace(PTRACE_SYSCALL, thread->tid, 0, signal);
		if (aior_wait_stop(thread->tid, &status, end) != 1 ||
		    aior_now(CLOCK_MONOTONIC) >= end)
			return -1;
		signal = aior_signal_in_hand(status);
	} while (WSTOPSIG(status) != (SIGTRAP | 0x80));
	return aior_current_call(thread->tid, &first);
}

/*
 * Under a filter it must be asleep when that comes back, and until then it must make no other calls than those of the
 * park loop: that it is parked says a capsule in memory which it can write to. Returns 0 if it makes another; then it
 * goes on under its filter, as what is not parked does.
 */
static int goes_to_sleep(
    const struct aior_tracee *thread, const struct aior_calls *calls, uint64_t end)
{
	int nr = next_call(thread, end);

	if (nr == calls->rt_sigprocmask && next_call(thread, end) == nr)
		nr = next_call(thread, end);
	if (nr == calls->rt_sigsuspend)
		return !aior_trace(PTRACE_CONT, thread->tid, 0, 0);
	aior_trace(PTRACE_SETOPTIONS, thread->tid, 0, 0);
	aior_trace(PTRACE_DETACH, thread->tid, 0, 0);
	return 0;
}

void aior_leave_parked(struct aior_stopped *stopped)
{
	uint64_t end = aior_now(CLOCK_MONOTONIC) + AIOR_PATIENCE_NS;

	if (stopped->is_adopted) {
		aior_keep_parked(stopped);
		return;
	}
	for (size_t i = 0; stopped->purpose == AIOR_PARKED && i < stopped->count; i++)
		stopped->has_filter |= has_filter(&stopped->threads[i]);
	for (size_t i = 0; i < stopped->count; i++) {
		struct aior_tracee *thread = &stopped->threads[i];

		if (!thread->is_stopped)
			continue;
		if (!stopped->has_filter)
			aior_trace(PTRACE_DETACH, thread->tid, 0, 0);
		else
			thread->is_stopped = goes_to_sleep(thread, stopped->calls, end);
	}
	for (size_t i = 0; stopped->has_filter && i < stopped->count; i++)
		while (stopped->threads[i].is_stopped && !is_asleep(stopped->threads[i].tid) &&
		       aior_now(CLOCK_MONOTONIC) < end)
			aior_nap(AIOR_NS_PER_MS / 10);
	free(stopped->threads);
	free(stopped);
}

void aior_leave_unchanged(const struct aior_process *process, struct aior_stopped *stopped)
{
	struct aior_capsule capsule;

	if (aior_find_new_capsule(process->task, &capsule, NULL) == 1 &&
	    capsule.table.thread_count && capsule.table.state != AIOR_TABLE_PREPARED)
		aior_leave_parked(stopped);
	else
		aior_continue(stopped);
}

int aior_gives_up(pid_t pid, uint64_t begin, struct aior_error *error)
{
	if (aior_now(CLOCK_MONOTONIC) - begin < AIOR_PATIENCE_NS)
		return 0;
	aior_fail(error, EBUSY, "capsule",
	    "others stage and restore process %d all the time: wait for their end", (int)pid);
	return 1;
}
