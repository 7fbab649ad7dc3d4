/* SPDX-License-Identifier: MIT */
/* Restores the rings of parked processes, and lets them go on. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <unistd.h>

#include "grow.h"
#include "journal.h"
#include "names.h"
#include "others.h"

/* So long a blob is waited for, whoever asks to end; and so long, whatever the options say. */
#define MOMENT_MS 1000
#define LEAST_MS 10000

static struct aior_table *table_of(const struct aior_parked *parked)
{
	return (void *)parked->bytes;
}

/* What can be said before anything is touched. */
static int check(struct aior_parked *parked, struct aior_error *error)
{
	struct aior_capsule *capsule = &parked->capsule;
	struct aior_survey survey;

	capsule->table = *table_of(parked);
	if (!aior_check_capsule(capsule, parked->arch, NULL))
		aior_settle(parked->process->task, &capsule->table, parked->bytes);
	if (aior_check_capsule(capsule, parked->arch, error) ||
	    aior_check_records(capsule, parked->bytes, error) ||
	    aior_survey(parked->process->task, capsule, parked->bytes, &survey, error))
		return -1;
	return aior_check_staged(parked->process->task, &capsule->table, parked->bytes, error);
}

/* It sleeps where it slept before. */
static void park_again(const struct aior_parked *parked)
{
	const struct aior_blob *blob = aior_parked_blob(parked);
	const struct aior_tracee *thread = parked->injected;
	arch_regs regs = thread->regs;

	aior_park_regs(
	    blob, parked->code, aior_parked_record(parked) + 16, &regs, thread->regs_len);
	aior_set_regs(thread->tid, &regs, thread->regs_len);
}

static int fail_as_blob(const struct aior_parked *parked, const struct aior_injection *injection,
    int err, struct aior_error *error)
{
	const struct aior_table *table = table_of(parked);
	const struct aior_ring_record *ring = NULL;
	struct aior_args args;

	if (parked->is_running)
		return aior_fail(error, err, "restore", "%s: process %d is still being restored",
		    err == EINTR ? "interrupted" : "it takes too long", (int)parked->process->pid);
	if (err)
		return aior_fail(
		    error, err, "restore", "process %d has exited", (int)parked->process->pid);
	if (aior_read_memory(
		parked->process->task, aior_inject_args(injection), &args, sizeof(args)))
		return aior_fail(error, errno, "restore", "what came of it cannot be read: %s",
		    aior_errno_text(errno));
	if (!args.err)
		return 0;
	if (args.ring < table->ring_count)
		ring = aior_capsule_ring(table, parked->bytes, args.ring);
	return aior_fail_blob(error, &args, ring ? &ring->addr : NULL);
}

/* For the restore blob. */
static struct aior_args args_for(
    const struct aior_parked *parked, const struct aior_options *options)
{
	struct aior_args args = aior_capsule_args(table_of(parked), parked->capsule.addr);

	if (options && options->compacts)
		args.flags = AIOR_F_COMPACT;
	return args;
}

/*
 * A blob ends by itself, unless somebody has tampered with it: then it is left as if we had died, but not before it
 * has had its time. What its caller traces stays his, and under a filter of system calls it must not go on without us.
 */
static int wait_for_blob(const struct aior_parked *parked, struct aior_injection *injection,
    const struct aior_options *options)
{
	struct aior_options limits = {.timeout_ms = MOMENT_MS};
	int err;

	if (!options || parked->stopped->is_adopted ||
	    aior_status_number(parked->injected->tid, "\nSeccomp:"))
		return aior_inject_wait(injection, NULL);
	err = aior_inject_wait(injection, &limits);
	if (err != ETIMEDOUT)
		return err;
	limits.cancel = options->cancel;
	limits.timeout_ms = options->timeout_ms;
	if (limits.timeout_ms >= 0 && limits.timeout_ms < LEAST_MS)
		limits.timeout_ms = LEAST_MS;
	return aior_inject_wait(injection, &limits);
}

/* The addresses that it takes, in front of aior_inject_place(). */
static void want_room(const struct aior_parked *parked, struct aior_injection *injection)
{
	injection->spare_len =
	    aior_grow_room(parked->process->task, table_of(parked), parked->bytes);
}

/* The blob is there: runs it, on rings that are as large as they must be here. */
static int restore_rings(struct aior_parked *parked, struct aior_injection *injection,
    const struct aior_options *options, const struct aior_args *args, size_t *grown,
    struct aior_error *error)
{
	struct aior_growth growth = {
	    injection, table_of(parked), parked->bytes, parked->capsule.addr, NULL, 0};
	int ret = aior_grow(&growth, error), err;

	if (!ret) {
		err = aior_inject_start(injection, args)
			  ? ESRCH
			  : wait_for_blob(parked, injection, options);
		parked->is_running = err == EINTR || err == ETIMEDOUT;
		ret = fail_as_blob(parked, injection, err, error);
		if (ret && !parked->is_running)
			aior_shrink(&growth);
	}
	*grown = growth.count;
	aior_growth_free(&growth);
	return ret;
}

/* Runs the restore blob, which is gone again afterwards. */
static int run_blob(struct aior_parked *parked, const struct aior_options *options, size_t *grown,
    struct aior_error *error)
{
	struct aior_table *table = table_of(parked);
	struct aior_args args = args_for(parked, options);
	struct aior_injection injection;
	int ret;

	if (aior_parked_adopt(parked, &injection, error))
		return -1;
	aior_inject_unmap_scratch(&injection);
	injection.gate = (struct aior_gate){.call = aior_park_gate(&injection)};
	injection.is_parked = 1;
	injection.blob = aior_blob(parked->arch, AIOR_OP_RESTORE);
	injection.has_code = 0;
	aior_reset_records(table, parked->bytes);
	if (aior_write_memory(parked->process->task, parked->capsule.addr + table->rings,
		parked->bytes + table->rings, (size_t)table->ring_count * table->ring_stride)) {
		aior_inject_end(&injection);
		return aior_fail(error, errno, "capsule", "the capsule cannot be written: %s",
		    aior_errno_text(errno));
	}
	want_room(parked, &injection);
	ret = aior_inject_place(&injection, 0, error);
	if (!ret) {
		/* If we die, the thread sleeps in there: whoever comes next must find it. */
		aior_parked_note_scratch(
		    parked, injection.code, injection.spare + injection.spare_len - injection.code);
		ret = aior_inject_map(&injection, error);
	}
	if (!ret) {
		ret = restore_rings(parked, &injection, options, &args, grown, error);
		if (!parked->is_running)
			aior_inject_unmap(&injection);
	}
	if (parked->is_running) {
		parked->injected->is_stopped = 0; /* and none that could be left */
	} else {
		aior_parked_note_scratch(parked, 0, 0);
		park_again(parked);
	}
	aior_inject_end(&injection);
	return ret;
}

/*
 * What the blob has written into the capsule. Where its tables are, and how long, is known and must stay so, whatever
 * others may have written there meanwhile.
 */
static void read_results(struct aior_parked *parked)
{
	struct aior_table table = *table_of(parked);

	aior_read_memory(
	    parked->process->task, parked->capsule.addr, parked->bytes, (size_t)table.total);
	*table_of(parked) = table;
}

static void report(const struct aior_parked *parked, struct aior_outcome *outcome)
{
	const struct aior_table *table = table_of(parked);
	uint64_t now = aior_now(CLOCK_REALTIME), first = now;

	aior_report_restore(&outcome->rings, table, parked->bytes);
	outcome->thread_count = table->thread_count;
	for (uint32_t i = 0; i < table->thread_count; i++) {
		uint64_t at = aior_capsule_thread(table, parked->bytes, i)->stopped_at;

		if (at < first)
			first = at;
	}
	outcome->stood_ns = now - first;
}

int aior_restore_parked(struct aior_parked *parked, const struct aior_options *options,
    struct aior_outcome *outcome, struct aior_error *error)
{
	struct aior_table *table = table_of(parked);
	uint64_t begin = aior_now(CLOCK_MONOTONIC), middle;
	int was_live = aior_parked_is_live(parked);
	size_t grown = 0;
	pid_t pid = parked->process->pid;

	if (!was_live &&
	    (check(parked, error) || aior_reserve_lost(&outcome->rings, table->poll_count, error) ||
		run_blob(parked, options, &grown, error))) {
		aior_leave_parked(parked->stopped);
		return error && error->err == ESRCH ? -1 : aior_stays_parked(pid, error);
	}
	if (was_live && aior_reserve_lost(&outcome->rings, table->poll_count, error)) {
		aior_leave_parked(parked->stopped);
		return aior_stays_parked(pid, error);
	}
	middle = aior_now(CLOCK_MONOTONIC);
	outcome->blob_ns = middle - begin;
	read_results(parked);
	if (aior_unpark(parked, error))
		return -1;
	outcome->finish_ns = aior_now(CLOCK_MONOTONIC) - middle;
	report(parked, outcome);
	outcome->rings.grown_count = grown;
	return 0;
}

/* One that is not staged by then is none of ours. */
static int restore_loaded(struct aior_parked *parked, const struct aior_options *options,
    struct aior_outcome *outcome, struct aior_error *error)
{
	if (table_of(parked)->state == AIOR_TABLE_PREPARED) {
		outcome->was_so = 1;
		return aior_unpark(parked, error);
	}
	if (!parked->injected)
		return aior_nobody_parked(parked, error);
	if (aior_parked_finish(parked)) {
		aior_leave_parked(parked->stopped);
		aior_fail(error, errno, "capsule", "the capsule cannot be written: %s",
		    aior_errno_text(errno));
		return aior_stays_parked(parked->process->pid, error);
	}
	return aior_restore_parked(parked, options, outcome, error);
}

/* Of one whose tracer, the caller, has stopped it already. */
static int adopt_parked(
    struct aior_parked *parked, unsigned long ptrace_options, struct aior_error *error)
{
	if (aior_adopt_stopped(parked->process, aior_calls_of(parked->arch), ptrace_options, NULL,
		&parked->stopped, error))
		return -1;
	if (aior_parked_load(parked, error)) {
		aior_continue(parked->stopped);
		return -1;
	}
	if (parked->injected)
		parked->injected->has_moved = 1;
	return 0;
}

/*
 * `ptrace_options`: of its tracer, the caller; NULL: nobody has stopped it yet, and 1 is returned if its capsule is
 * another one when it is stopped.
 */
static int restore_found(struct aior_parked *parked, const struct aior_options *options,
    const unsigned long *ptrace_options, struct aior_outcome *outcome, struct aior_error *error)
{
	uint64_t begin = aior_now(CLOCK_MONOTONIC);
	int ret;

	parked->arch = aior_process_arch(parked->process);
	parked->gate = aior_find_gate(parked->process, parked->arch);
	aior_count_polls(&parked->capsule.table);
	if (parked->capsule.table.state != AIOR_TABLE_PREPARED &&
	    aior_check_capsule(&parked->capsule, parked->arch, error))
		return -1;
	ret = ptrace_options ? adopt_parked(parked, *ptrace_options, error)
			     : aior_stop_parked(parked, options, error);
	if (ret)
		return ret;
	outcome->stop_ns = aior_now(CLOCK_MONOTONIC) - begin;
	ret = restore_loaded(parked, options, outcome, error);
	aior_parked_free(parked);
	return ret;
}

static int restore_one(pid_t pid, const struct aior_options *options, struct aior_outcome *outcome,
    struct aior_error *error)
{
	struct aior_process process;
	struct aior_parked parked = {.process = &process};
	uint64_t begin = aior_now(CLOCK_MONOTONIC);
	int found, ret;

	outcome->pid = pid;
	do {
		found = aior_open_other(pid, 0, options, &process, &parked.capsule, error);
		if (found < 0)
			return -1;
		if (!found) {
			outcome->was_so = 1;
			return 0;
		}
		ret = parked.capsule.table.thread_count
			  ? restore_found(&parked, options, NULL, outcome, error)
			  : aior_restore_left(&process, &parked.capsule, options, outcome, error);
	} while (ret > 0 && !aior_gives_up(pid, begin, error));
	return ret ? -1 : 0;
}

struct work {
	const pid_t *pids;
	size_t count;
	const struct aior_options *options;
	struct aior_outcome *outcomes;
	struct aior_error *error;
};

/* Each for itself: what fails in one is no reason to leave the others parked. The first failure is told. */
static int restore_all(void *data)
{
	struct work *work = data;
	struct aior_error error;
	int ret = 0;

	for (size_t i = 0; i < work->count; i++) {
		struct aior_outcome own = {0},
				    *outcome = work->outcomes ? &work->outcomes[i] : &own;

		memset(&error, 0, sizeof(error));
		if (restore_one(work->pids[i], work->options, outcome, &error)) {
			outcome->is_staged = error.is_unfinished;
			if (!ret && work->error)
				*work->error = error;
			ret = -1;
		}
		aior_outcome_free(&own);
	}
	return ret;
}

int aior_restore(const pid_t *pids, size_t count, const struct aior_options *options,
    struct aior_outcome *outcomes, struct aior_error *error)
{
	/* cppcheck-suppress ctuuninitvar ; results */
	struct work work = {pids, count, options, outcomes, error};
	AIOR_UNCANCELLED;

	if (error)
		memset(error, 0, sizeof(*error));
	if (outcomes)
		memset(outcomes, 0, count * sizeof(*outcomes));
	return aior_as_tracer(restore_all, &work, pids, count, error);
}

void aior_outcome_free(struct aior_outcome *outcome)
{
	aior_report_free(&outcome->rings);
}

/* ---- for whoever has stopped the process already ---- */

static int run_traced(struct aior_parked *parked, unsigned long ptrace_options,
    const struct aior_options *options, struct aior_outcome *outcome, struct aior_error *error)
{
	const struct aior_table *table = table_of(parked);
	struct aior_args args = args_for(parked, options);
	struct aior_injection injection = {
	    .process = parked->process,
	    .calls = parked->stopped->calls,
	    .blob = aior_blob(parked->arch, AIOR_OP_RESTORE),
	    .thread = parked->injected,
	    .gate = aior_find_gate(parked->process, parked->arch),
	    .options = ptrace_options | PTRACE_O_TRACESYSGOOD,
	};
	size_t grown = 0;
	int ret;

	if (injection.thread->has_filter)
		injection.options |= PTRACE_O_SUSPEND_SECCOMP;
	injection.thread->has_moved = 1;
	if (aior_inject_begin(&injection, error))
		return -1;
	want_room(parked, &injection);
	ret = aior_inject_place(&injection, 0, error) ? -1 : 0;
	if (!ret) {
		aior_journal_write(parked->process, &injection);
		aior_set_mask(injection.thread->tid, ~0ull);
		ret = aior_inject_map(&injection, error);
	}
	if (!ret) {
		if (!aior_parked_is_live(parked))
			ret = restore_rings(parked, &injection, options, &args, &grown, error);
		if (!ret) {
			read_results(parked);
			aior_report_restore(&outcome->rings, table, parked->bytes);
			outcome->rings.grown_count = grown;
			aior_release_room(&injection, parked->capsule.addr, parked->bytes);
			aior_inject_unmap_capsule(
			    &injection, parked->capsule.addr, parked->capsule.room);
		}
		aior_inject_unmap(&injection);
	}
	aior_inject_end(&injection);
	return ret;
}

/* Reads the capsule of a process none of whose threads is parked. */
static int load_unparked(struct aior_parked *parked, struct aior_error *error)
{
	struct aior_table *table = &parked->capsule.table;

	parked->arch = aior_process_arch(parked->process);
	/* Who held the threads may have died right behind the blob. */
	aior_count_polls(table);
	if (aior_check_capsule(&parked->capsule, parked->arch, error))
		return -1;
	parked->bytes = malloc(table->total);
	if (!parked->bytes || aior_read_memory(parked->process->task, parked->capsule.addr,
				  parked->bytes, table->total))
		return aior_fail(error, errno, "capsule", "the capsule cannot be read: %s",
		    aior_errno_text(errno));
	*table_of(parked) = *table;
	return aior_parked_is_live(parked) ? 0 : check(parked, error);
}

/* All its threads are stopped. */
static int restore_unparked(struct aior_parked *parked, unsigned long ptrace_options,
    const struct aior_options *options, struct aior_outcome *outcome, struct aior_error *error)
{
	const struct aior_table *table = &parked->capsule.table;
	int ret;

	parked->injected = aior_choose_thread(parked->stopped);
	if (!aior_parked_is_live(parked))
		aior_reset_records(table, parked->bytes);
	ret = aior_reserve_lost(&outcome->rings, table->poll_count, error);
	if (!ret && aior_write_memory(
			parked->process->task, parked->capsule.addr, parked->bytes, table->total))
		ret = aior_fail(error, errno, "capsule", "the capsule cannot be written: %s",
		    aior_errno_text(errno));
	if (!ret)
		ret = run_traced(parked, ptrace_options, options, outcome, error);
	aior_release(parked->stopped);
	aior_journal_remove(parked->process);
	return ret;
}

static int restore_traced(struct aior_parked *parked, unsigned long ptrace_options,
    const struct aior_options *options, struct aior_outcome *outcome, struct aior_error *error)
{
	if (load_unparked(parked, error) ||
	    aior_adopt_stopped(parked->process, aior_calls_of(parked->arch), ptrace_options, NULL,
		&parked->stopped, error))
		return -1;
	return restore_unparked(parked, ptrace_options, options, outcome, error);
}

int aior_restore_left(const struct aior_process *process, const struct aior_capsule *capsule,
    const struct aior_options *options, struct aior_outcome *outcome, struct aior_error *error)
{
	struct aior_parked parked = {.process = process, .capsule = *capsule};
	uint64_t begin = aior_now(CLOCK_MONOTONIC), middle;
	int ret;

	if (!capsule->table.threads)
		return aior_fail(error, EBUSY, "capsule",
		    "process %d has staged itself, and has a capsule at 0x%llx: it must restore "
		    "itself (aior_restore_self())",
		    (int)process->pid, (unsigned long long)capsule->addr);
	ret = aior_stop(process, AIOR_TO_INJECT, &parked.stopped, error);
	if (ret)
		return ret;
	if (!aior_is_still_there(&parked)) {
		aior_leave_unchanged(process, parked.stopped);
		return 1;
	}
	ret = load_unparked(&parked, error);
	if (ret || aior_capture(parked.stopped, process, error)) {
		aior_release(parked.stopped);
		ret = -1;
	} else {
		middle = aior_now(CLOCK_MONOTONIC);
		outcome->stop_ns = middle - begin;
		outcome->thread_count = parked.stopped->count;
		ret = restore_unparked(&parked, PTRACE_O_TRACESYSGOOD, options, outcome, error);
		outcome->finish_ns = aior_now(CLOCK_MONOTONIC) - middle;
		outcome->stood_ns = outcome->stop_ns + outcome->finish_ns;
	}
	aior_parked_free(&parked);
	return ret;
}

int aior_restore_traced(pid_t pid, unsigned long ptrace_options, const struct aior_options *options,
    struct aior_outcome *outcome, struct aior_error *error)
{
	struct aior_outcome own = {0}, *said = outcome ? outcome : &own;
	struct aior_error unheard;
	struct aior_process process;
	struct aior_parked parked = {.process = &process};
	int ret;
	AIOR_UNCANCELLED;

	if (!error)
		error = &unheard;
	memset(error, 0, sizeof(*error));
	memset(said, 0, sizeof(*said));
	said->pid = pid;
	ret = aior_open_other(pid, 0, options, &process, &parked.capsule, error);
	if (!ret)
		said->was_so = 1;
	if (ret > 0)
		ret = parked.capsule.table.thread_count
			  ? restore_found(&parked, options, &ptrace_options, said, error)
			  : restore_traced(&parked, ptrace_options, options, said, error);
	if (ret)
		said->is_staged = error->is_unfinished;
	aior_parked_free(&parked);
	aior_outcome_free(&own);
	return ret;
}
