/* SPDX-License-Identifier: MIT */
/*
 * One process that is being staged. Until the blob has destroyed the first context all can be undone; by then all
 * threads are parked but the one that runs it, which parks when it has ended, whatever becomes of us.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <unistd.h>

#include "grow.h"
#include "journal.h"
#include "names.h"
#include "staging.h"

static uint64_t since(uint64_t *mark)
{
	uint64_t now = aior_now(CLOCK_MONOTONIC), passed = now - *mark;

	*mark = now;
	return passed;
}

/* ---- before anything stands still ---- */

static void note_relative(pid_t pid, int is_older, const struct aior_mapping *ring, void *data)
{
	struct aior_staging *staging = data;
	struct aior_outcome *outcome = staging->outcome;
	uint64_t *larger;

	if (is_older) {
		larger = reallocarray(
		    staging->suspects, staging->suspect_count + 1, sizeof(*staging->suspects));
		if (!larger) {
			staging->is_short = 1;
			return;
		}
		staging->suspects = larger;
		staging->suspects[staging->suspect_count++] = ring->start;
		return;
	}
	for (size_t i = 0; i < outcome->heir_count && i < 8; i++)
		if (outcome->heirs[i] == pid)
			return;
	if (outcome->heir_count < sizeof(outcome->heirs) / sizeof(outcome->heirs[0]))
		outcome->heirs[outcome->heir_count] = pid;
	outcome->heir_count++;
}

/* Somebody else has been at it meanwhile. */
#define ANEW 2

/* It has had no capsule, and then no rings: somebody may have staged it in between, and even restored it. */
static int is_elsewhere(const struct aior_process *process)
{
	struct aior_capsule capsule;

	return aior_find_new_capsule(process->task, &capsule, NULL) == 1 || aior_has_rings(process);
}

/* Finds out whether it has rings at all: a process that has none need not be stopped. Or returns ANEW. */
static int find_relatives(struct aior_staging *staging, struct aior_error *error)
{
	struct aior_mapping *mappings;
	size_t count;
	int has_rings = 0, ret = 0;

	if (aior_mappings(&staging->process, &mappings, &count, error))
		return -1;
	for (size_t i = 0; i < count; i++)
		has_rings |= mappings[i].is_ring;
	if (!has_rings && is_elsewhere(&staging->process))
		ret = ANEW;
	else if (!has_rings)
		staging->is_done = staging->outcome->was_so = 1;
	else if (aior_each_relative(&staging->process, mappings, count, note_relative, staging))
		ret = aior_cannot_list(&staging->process, error);
	else if (staging->is_short)
		ret = aior_fail(error, ENOMEM, "open", "out of memory");
	free(mappings);
	return ret;
}

static uint32_t room_cpus(const struct aior_staging *staging)
{
	return staging->options ? staging->options->room_cpus : 0;
}

/* The list of those that have none (each may be named twice); behind the point of no return nothing fails. */
static int prepare_room(struct aior_staging *staging, size_t rings, struct aior_error *error)
{
	return room_cpus(staging)
		   ? aior_reserve_no_room(&staging->outcome->rings, 2 * rings, NULL, error)
		   : 0;
}

static void keep_room(struct aior_staging *staging, struct aior_injection *injection,
    const struct aior_parked *parked)
{
	if (room_cpus(staging))
		aior_keep_room(injection, parked->capsule.addr, parked->bytes, room_cpus(staging),
		    &staging->outcome->rings);
}

/* It has a capsule: whoever began to stage it has come to the end, or has not. Returns 1 if it is staged; ANEW. */
static int take_up(
    struct aior_staging *staging, struct aior_capsule *capsule, struct aior_error *error)
{
	struct aior_parked parked = {
	    .process = &staging->process,
	    .arch = staging->arch,
	    .gate = aior_find_gate(&staging->process, staging->arch),
	    .capsule = *capsule,
	};
	struct aior_injection injection;
	struct aior_outcome own = {0};
	uint32_t state;
	int ret;

	if (!capsule->table.thread_count) {
		ret = aior_restore_left(&staging->process, capsule, NULL, &own, error);
		aior_outcome_free(&own);
		return ret > 0 ? ANEW : ret;
	}
	if (capsule->table.state > AIOR_TABLE_STAGED || capsule->table.state == AIOR_TABLE_IMAGE)
		return aior_check_capsule(capsule, staging->arch, error);
	ret = aior_stop_parked(&parked, staging->options, error);
	if (ret)
		return ret > 0 ? ANEW : -1;
	if (prepare_room(staging, parked.capsule.table.ring_count, error)) {
		aior_leave_parked(parked.stopped);
		aior_parked_free(&parked);
		return -1;
	}
	/* (It may have come to the end since `capsule` was read.) */
	state = parked.capsule.table.state;
	ret = 1;
	if (state != AIOR_TABLE_PREPARED && !parked.injected) {
		ret = aior_nobody_parked(&parked, error);
		aior_parked_free(&parked);
		return ret;
	}
	if (state == AIOR_TABLE_PREPARED || aior_parked_is_live(&parked)) {
		ret = aior_unpark(&parked, error);
	} else if (aior_parked_finish(&parked) || aior_parked_adopt(&parked, &injection, NULL)) {
		aior_leave_parked(parked.stopped);
	} else {
		keep_room(staging, &injection, &parked);
		aior_parked_tidy(&parked, &injection);
		aior_inject_end(&injection);
		aior_leave_parked(parked.stopped);
	}
	aior_parked_free(&parked);
	return ret;
}

/* The same of one that its tracer holds, who has to end what others have begun before that. */
static int look_at_capsule(const struct aior_process *process, const struct aior_capsule *capsule,
    struct aior_error *error)
{
	int pid = (int)process->pid;

	if (capsule->table.state != AIOR_TABLE_STAGED ||
	    (capsule->table.threads && aior_has_rings(process)))
		return aior_fail(error, EBUSY, "capsule",
		    "process %d has a capsule at 0x%llx, of a stage or a restore that has not come "
		    "to its end: `aio-restorer restore %d` first",
		    pid, (unsigned long long)capsule->addr, pid);
	if (aior_has_rings(process))
		return aior_fail(error, EBUSY, "capsule",
		    "process %d has staged itself, and has a capsule at 0x%llx and live rings: it "
		    "must restore itself first",
		    pid, (unsigned long long)capsule->addr);
	return 1;
}

/* As aior_staging_open(), or returns ANEW. */
static int open_once(struct aior_staging *staging, pid_t pid, struct aior_error *error)
{
	struct aior_capsule capsule;
	int found, is_staged = 0;

	staging->newest_pid = aior_newest_pid();
	found = aior_open_other(pid, 1, staging->options, &staging->process, &capsule, error);
	if (found < 0)
		return -1;
	staging->arch = aior_process_arch(&staging->process);
	if (found)
		is_staged = staging->is_traced ? look_at_capsule(&staging->process, &capsule, error)
					       : take_up(staging, &capsule, error);
	if (is_staged < 0 || is_staged == ANEW)
		return is_staged;
	if (is_staged)
		staging->is_done = staging->outcome->was_so = staging->outcome->is_staged = 1;
	if (!aior_blob(staging->arch, AIOR_OP_STAGE) || !aior_blob(staging->arch, AIOR_OP_RESTORE))
		return aior_refuse(error,
		    "process %d runs a program for %s: this build has no blobs for it (see `make "
		    "blobs`)",
		    (int)pid, aior_arch_text(staging->arch));
	return staging->is_done ? 0 : find_relatives(staging, error);
}

int aior_staging_open(struct aior_staging *staging, pid_t pid, struct aior_error *error)
{
	uint64_t begin = aior_now(CLOCK_MONOTONIC);
	int ret;

	staging->outcome->pid = pid;
	do
		ret = open_once(staging, pid, error);
	while (ret == ANEW && !aior_gives_up(pid, begin, error));
	if (ret)
		return -1;
	staging->gate = aior_find_gate(&staging->process, staging->arch);
	return 0;
}

/* ---- the capsule ---- */

static uint64_t table_bytes(const struct aior_staging *staging, size_t rings)
{
	return sizeof(struct aior_table) + rings * sizeof(struct aior_ring_record) +
	       staging->stopped->count * AIOR_THREAD_STRIDE;
}

static uint32_t fill_threads(const struct aior_staging *staging, unsigned char *records)
{
	const struct aior_stopped *stopped = staging->stopped;
	uint32_t count = 0;

	for (size_t i = 0; i < stopped->count; i++) {
		struct aior_thread_record *record = (void *)(records + count * AIOR_THREAD_STRIDE);

		if (!stopped->threads[i].is_stopped)
			continue;
		aior_thread_to_record(&staging->process, &stopped->threads[i], record);
		if (&stopped->threads[i] == staging->injection.thread) {
			record->flags |= AIOR_THREAD_INJECTED;
			record->scratch = staging->injection.scratch;
			record->scratch_len = staging->injection.scratch_len;
		}
		count++;
	}
	return count;
}

static int fill_capsule(struct aior_staging *staging, struct aior_error *error)
{
	struct aior_table *table = calloc(1, table_bytes(staging, staging->ring_count));
	struct aior_ring_record *records;

	if (!table)
		return aior_fail(error, ENOMEM, "capsule", "out of memory");
	staging->table = table;
	/* One that a process has made of itself says nothing of threads; this one says so if none is parked. */
	table->threads = sizeof(*table);
	table->thread_stride = AIOR_THREAD_STRIDE;
	if (staging->parks)
		table->thread_count = fill_threads(staging, (void *)(table + 1));
	table->rings = table->threads + table->thread_count * table->thread_stride;
	records = (void *)((char *)table + table->rings);
	staging->slots = 0;
	for (size_t i = 0; i < staging->ring_count; i++) {
		const struct aior_candidate *ring = &staging->rings[i];

		if (ring->is_inherited)
			continue;
		records[table->ring_count++] = (struct aior_ring_record){
		    .addr = ring->addr, .len = ring->len, .prot = ring->prot};
		staging->slots += ring->nr - 1;
		staging->pending += ring->pending;
	}
	staging->live_count = table->ring_count;
	memcpy(table->magic, AIOR_TABLE_MAGIC, sizeof(table->magic));
	table->abi = AIOR_ABI;
	table->size = sizeof(*table);
	table->state = AIOR_TABLE_PREPARED;
	table->arch = staging->arch;
	table->page_size = (uint32_t)staging->injection.page_size;
	table->pid = (uint32_t)staging->process.pid;
	table->possible_cpus = aior_possible_cpus();
	table->ring_stride = sizeof(struct aior_ring_record);
	table->polls = table->rings + table->ring_count * table->ring_stride;
	table->poll_stride = sizeof(struct aior_poll_record);
	table->total = table->polls;
	return 0;
}

static struct aior_args args_for(const struct aior_staging *staging)
{
	uint64_t at = staging->injection.capsule;
	struct aior_args args = aior_capsule_args(staging->table, at);

	args.poll_room = (uint32_t)staging->slots;
	args.capsule = at;
	return args;
}

/* ---- up to the point of no return ---- */

/*
 * Until it stands still somebody else may have staged it (who has a right to it as good as ours): what has no capsule
 * when it is opened has one then. It goes on as it was.
 */
static int has_been_staged(struct aior_staging *staging)
{
	struct aior_capsule capsule;

	if (aior_find_new_capsule(staging->process.task, &capsule, NULL) != 1)
		return 0;
	aior_leave_unchanged(&staging->process, staging->stopped);
	staging->stopped = NULL;
	return 1;
}

/* Returns 1 if it is to be opened anew. */
static int stop(struct aior_staging *staging, unsigned long options, struct aior_error *error)
{
	const struct aior_samples *samples = staging->options ? staging->options->samples : NULL;
	int ret;

	if (staging->is_traced)
		ret = aior_adopt_stopped(&staging->process, aior_calls_of(staging->arch), options,
		    samples, &staging->stopped, error);
	else
		ret = aior_stop(&staging->process, AIOR_TO_INJECT, &staging->stopped, error);
	if (!ret && !staging->is_traced && has_been_staged(staging))
		return 1;
	/* Whoever shares its memory may have come since that was looked at: that takes a new process. */
	if (!ret && (!staging->newest_pid || aior_newest_pid() != staging->newest_pid))
		ret = aior_check_alone(&staging->process, error);
	if (!ret && staging->parks)
		ret = aior_capture(staging->stopped, &staging->process, error);
	return ret;
}

static int freeze(struct aior_staging *staging, unsigned long options, struct aior_error *error)
{
	struct aior_injection *injection = &staging->injection;
	int ret = stop(staging, options, error);

	if (ret)
		return ret;
	aior_fence_add(staging->fence, staging->stopped);
	staging->prepared_at = aior_now(CLOCK_MONOTONIC);
	staging->outcome->stop_ns = staging->prepared_at - staging->stopped->stopped_at;
	staging->outcome->thread_count = staging->stopped->count;
	*injection = (struct aior_injection){
	    .process = &staging->process,
	    .calls = staging->stopped->calls,
	    .blob = aior_blob(staging->arch, AIOR_OP_STAGE),
	    .thread = aior_choose_thread(staging->stopped),
	    .gate = staging->gate,
	    .options = options | PTRACE_O_TRACESYSGOOD,
	    .traces_helpers = staging->stopped->has_filter,
	    .is_for_staging = 1,
	};
	if (injection->thread->has_filter)
		injection->options |= PTRACE_O_SUSPEND_SECCOMP;
	injection->thread->has_moved = 1;
	return aior_inject_begin(injection, error) || aior_list_candidates(staging, error) ||
		       aior_check_candidates(staging, error)
		   ? -1
		   : 0;
}

static int map_all(struct aior_staging *staging, struct aior_error *error)
{
	struct aior_injection *injection = &staging->injection;
	uint64_t len = table_bytes(staging, staging->ring_count) +
		       staging->slots * sizeof(struct aior_poll_record);

	if (staging->slots > UINT32_MAX || table_bytes(staging, staging->ring_count) > UINT32_MAX)
		return aior_fail(error, E2BIG, "memory",
		    "process %d has more slots than a capsule has room for: %llu",
		    (int)staging->process.pid, (unsigned long long)staging->slots);
	if (aior_inject_place(injection, len, error))
		return -1;
	aior_journal_write(&staging->process, injection);
	aior_set_mask(injection->thread->tid, ~0ull);
	staging->is_mapped = 1;
	if (aior_inject_map(injection, error)) {
		staging->is_mapped = 0;
		return -1;
	}
	return 0;
}

/* All threads but the one that runs the blob go to sleep, as soon as somebody lets them go. */
static void park_others(const struct aior_staging *staging)
{
	const struct aior_injection *injection = &staging->injection;
	uint64_t sp = injection->capsule + staging->table->threads + 16;

	for (size_t i = 0; i < staging->stopped->count; i++) {
		const struct aior_tracee *thread = &staging->stopped->threads[i];
		arch_regs regs = thread->regs;

		if (!thread->is_stopped)
			continue;
		if (thread != injection->thread) {
			aior_park_regs(
			    injection->blob, injection->code, sp, &regs, thread->regs_len);
			aior_set_mask(thread->tid, ~0ull);
			aior_set_regs(thread->tid, &regs, thread->regs_len);
		}
		sp += staging->table->thread_stride;
	}
}

static int has_own_rings(const struct aior_staging *staging)
{
	for (size_t i = 0; i < staging->ring_count; i++)
		if (!staging->rings[i].is_inherited)
			return 1;
	return 0;
}

static int has_copies_to_make(const struct aior_staging *staging)
{
	for (size_t i = 0; i < staging->ring_count; i++)
		if (staging->rings[i].is_suspect && staging->rings[i].is_readable)
			return 1;
	return 0;
}

/* Everything that can fail, but what the blob does. */
int aior_staging_prepare(
    struct aior_staging *staging, unsigned long options, struct aior_error *error)
{
	struct aior_injection *injection = &staging->injection;
	int ret = freeze(staging, options, error);

	if (ret)
		return ret;
	if (!has_own_rings(staging) && !has_copies_to_make(staging)) {
		staging->is_done = staging->outcome->was_so = 1;
		return 0;
	}
	if (map_all(staging, error) || aior_judge_suspects(staging, error) ||
	    aior_copy_inherited(staging, error))
		return -1;
	if (!has_own_rings(staging)) {
		staging->is_done = staging->outcome->was_so = 1;
		return 0;
	}
	if (fill_capsule(staging, error) || prepare_room(staging, staging->live_count, error))
		return -1;
	if (aior_write_memory(
		staging->process.task, injection->capsule, staging->table, staging->table->total))
		return aior_fail(error, errno, "capsule", "the capsule cannot be written: %s",
		    aior_errno_text(errno));
	if (staging->parks)
		injection->sp = injection->capsule + staging->table->threads + 8;
	return 0;
}

void aior_staging_undo(struct aior_staging *staging)
{
	int is_adopted;

	if (!staging->stopped)
		return;
	if (staging->is_mapped) {
		/* Those that sleep in what is to be unmapped come first. */
		for (size_t i = 0; staging->parks && i < staging->stopped->count; i++) {
			const struct aior_tracee *thread = &staging->stopped->threads[i];

			if (thread->is_captured && thread != staging->injection.thread)
				aior_put_back(thread);
		}
		aior_journal_write(&staging->process, &staging->injection);
		aior_inject_unmap(&staging->injection);
		aior_put_back(staging->injection.thread);
	}
	/* Threads that stay in their tracer's hands are not given back before that. */
	is_adopted = staging->stopped->is_adopted;
	if (!is_adopted)
		aior_journal_remove(&staging->process);
	aior_release(staging->stopped);
	if (is_adopted)
		aior_journal_remove(&staging->process);
	staging->stopped = NULL;
}

/* ---- the blob ---- */

int aior_staging_start(struct aior_staging *staging, struct aior_error *error)
{
	struct aior_args args = args_for(staging);

	/* From here on the capsule tells whoever comes next: with the journal he would unmap what the others sleep in. */
	if (staging->parks) {
		aior_journal_remove(&staging->process);
		park_others(staging);
	}
	staging->started_at = aior_now(CLOCK_MONOTONIC);
	staging->outcome->prepare_ns = staging->started_at - staging->prepared_at;
	if (aior_inject_start(&staging->injection, &args))
		return aior_fail(error, errno, "inject", "process %d cannot be gone on with: %s",
		    (int)staging->process.pid, aior_errno_text(errno));
	staging->is_running = 1;
	return 0;
}

/* What the options leave of their time, for the next process. */
void aior_staging_wait(struct aior_staging *staging, uint64_t begin)
{
	struct aior_options left = {.timeout_ms = -1};

	/* Nobody but its tracer keeps a filter from ending it. */
	if (staging->options && !staging->stopped->has_filter) {
		left = *staging->options;
		if (left.timeout_ms >= 0) {
			uint64_t passed = (aior_now(CLOCK_MONOTONIC) - begin) / AIOR_NS_PER_MS;

			left.timeout_ms =
			    passed < (uint64_t)left.timeout_ms ? left.timeout_ms - (int)passed : 0;
		}
	}
	staging->failed = aior_inject_wait(&staging->injection, &left);
	staging->is_running = staging->failed == ETIMEDOUT || staging->failed == EINTR;
	staging->outcome->blob_ns = aior_now(CLOCK_MONOTONIC) - staging->started_at;
}

/*
 * Of the table, what the blob writes is read back, and nothing else: whoever may write to the process's memory may
 * have changed the rest.
 */
static int read_results(struct aior_staging *staging)
{
	struct aior_table now;

	if (aior_read_memory(staging->process.task, staging->injection.capsule, &now, sizeof(now)))
		return -1;
	errno = EINVAL;
	if (now.poll_count > staging->slots)
		return -1;
	staging->table->state = now.state;
	staging->table->poll_count = now.poll_count;
	return 0;
}

/*
 * Nobody knows what the blob has done, so nothing that it has to do with may be taken from under it. Its threads sleep,
 * or will, and the capsule says to whoever comes next where; threads that are not parked are given back all the same.
 */
static int leave_unknown(struct aior_staging *staging, struct aior_error *error)
{
	staging->is_mapped = 0;
	if (!staging->parks)
		return -1;
	aior_leave_parked(staging->stopped);
	staging->stopped = NULL;
	return aior_stays_parked(staging->process.pid, error);
}

static int read_outcome(
    struct aior_staging *staging, struct aior_args *args, struct aior_error *error)
{
	const struct aior_injection *injection = &staging->injection;
	pid_t task = staging->process.task;

	if (staging->failed)
		return aior_fail(error, ESRCH, "drain", "thread %d cannot be waited for",
		    (int)injection->thread->tid);
	if (aior_read_memory(task, aior_inject_args(injection), args, sizeof(*args)) ||
	    read_results(staging))
		return aior_fail(error, errno, "capsule", "what came of it cannot be read: %s",
		    aior_errno_text(errno));
	return 0;
}

/* What the blob says. 0: all is staged. */
int aior_staging_judge(struct aior_staging *staging, struct aior_error *error)
{
	const struct aior_ring_record *ring = NULL;
	struct aior_args args;

	if (staging->failed && aior_task_has_exited(staging->process.task))
		return aior_fail(error, ESRCH, "drain", "process %d has exited while it was staged",
		    (int)staging->process.pid);
	if (read_outcome(staging, &args, error))
		return leave_unknown(staging, error);
	staging->is_staged = staging->table->state == AIOR_TABLE_STAGED;
	if (!args.err && staging->is_staged)
		return 0;
	if (args.ring < staging->table->ring_count)
		ring = aior_capsule_ring(staging->table, staging->table, args.ring);
	if (ring && args.err == EINVAL && args.step == AIOR_STEP_RING &&
	    aior_look_context_up(staging, ring->addr) == -EINVAL)
		return aior_fail_ring(error, EINVAL, "ring", ring->addr,
		    "is damaged: its header names no context of the process; the program has "
		    "written over it");
	aior_fail_blob(error, &args, ring ? &ring->addr : NULL);
	return -1;
}

/* ---- behind it ---- */

/* Why a poll that has been remembered cannot be submitted again as things are; 0 if it can. */
static int why_lost(const struct aior_staging *staging, const struct aior_poll_record *poll)
{
	struct iocb iocb;
	char path[64];

	if (aior_read_memory(staging->process.task, poll->iocb, &iocb, sizeof(iocb)))
		return EFAULT;
	if (iocb.aio_lio_opcode != IOCB_CMD_POLL || iocb.aio_data != poll->data)
		return ESTALE;
	snprintf(path, sizeof(path), "/proc/%d/fd/%u", (int)staging->process.task, iocb.aio_fildes);
	return faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) && errno == ENOENT ? EBADF : 0;
}

static void report(struct aior_staging *staging, const struct aior_parked *parked)
{
	const struct aior_table *table = (const void *)parked->bytes;
	struct aior_report *rings = &staging->outcome->rings;

	rings->ring_count = table->ring_count;
	rings->poll_count = table->poll_count;
	for (uint32_t i = 0; i < table->ring_count; i++) {
		const struct aior_ring_record *ring = aior_capsule_ring(table, parked->bytes, i);

		rings->pending +=
		    aio_ring_pending(ring->head, ring->tail, aio_ring_nr((uint32_t)ring->len));
	}
	rings->drained = rings->pending - (size_t)staging->pending;
	for (size_t i = 0; i < staging->stopped->count; i++)
		if (staging->stopped->threads[i].taken)
			rings->drained -= staging->stopped->threads[i].taken;
}

static void report_lost(struct aior_staging *staging, const struct aior_parked *parked)
{
	const struct aior_table *table = (const void *)parked->bytes;
	struct aior_report *rings = &staging->outcome->rings;

	if (aior_reserve_lost(rings, table->poll_count, NULL))
		return;
	for (uint32_t i = 0; i < table->poll_count; i++) {
		const struct aior_poll_record *poll = aior_capsule_poll(table, parked->bytes, i);
		int err = why_lost(staging, poll);

		if (err)
			aior_add_lost(rings, poll, err);
	}
	aior_trim_lost(rings);
}

/* All is plain memory: what is left is parked, or goes on at once if others could not be staged. */
int aior_staging_finish(struct aior_staging *staging, int go_on, struct aior_error *error)
{
	struct aior_parked parked = {
	    .process = &staging->process,
	    .arch = staging->arch,
	    .gate = staging->gate,
	    .stopped = staging->stopped,
	    .capsule = {.addr = staging->injection.capsule,
		.room = staging->injection.capsule_len,
		.prot = PROT_READ | PROT_WRITE,
		.table = *staging->table},
	};
	uint64_t mark = aior_now(CLOCK_MONOTONIC);
	struct aior_outcome own = {0};
	int ret;

	parked.capsule.table.total +=
	    (uint64_t)staging->table->poll_count * staging->table->poll_stride;
	ret = aior_parked_load(&parked, error);
	if (!ret && aior_parked_finish(&parked))
		ret = aior_fail(error, errno, "capsule", "the capsule cannot be written: %s",
		    aior_errno_text(errno));
	if (!ret && !go_on)
		report(staging, &parked);
	if (!ret && go_on) {
		ret = aior_restore_parked(&parked, NULL, &own, error);
		aior_outcome_free(&own);
	} else {
		if (!ret)
			keep_room(staging, &staging->injection, &parked);
		if (!ret)
			aior_parked_tidy(&parked, &staging->injection);
		staging->outcome->is_staged = 1;
		staging->outcome->stood_ns =
		    aior_now(CLOCK_MONOTONIC) - staging->stopped->stopped_at;
		aior_leave_parked(staging->stopped);
	}
	staging->stopped = NULL;
	if (!go_on)
		staging->outcome->finish_ns = since(&mark);
	if (!ret && !go_on)
		report_lost(staging, &parked);
	aior_parked_free(&parked);
	return ret ? aior_stays_parked(staging->process.pid, error) : 0;
}

int aior_staging_finish_traced(struct aior_staging *staging, struct aior_error *error)
{
	struct aior_parked parked = {
	    .process = &staging->process,
	    .stopped = staging->stopped,
	    .capsule = {.addr = staging->injection.capsule, .table = *staging->table},
	};
	uint64_t used;
	int ret;

	aior_count_polls(&parked.capsule.table);
	used = parked.capsule.table.total;
	parked.bytes = malloc(used);
	if (!parked.bytes)
		ret = aior_fail(error, ENOMEM, "capsule", "out of memory");
	else if (aior_read_memory(staging->process.task, parked.capsule.addr, parked.bytes, used))
		ret = aior_fail(error, errno, "capsule", "the capsule cannot be read: %s",
		    aior_errno_text(errno));
	else
		ret = 0;
	if (!ret) {
		*(struct aior_table *)parked.bytes = parked.capsule.table;
		aior_write_memory(staging->process.task, parked.capsule.addr, parked.bytes,
		    sizeof(struct aior_table));
		if (aior_parked_wait_again(&parked))
			ret = aior_fail(error, errno, "capsule",
			    "the capsule cannot be written: %s", aior_errno_text(errno));
		report(staging, &parked);
		report_lost(staging, &parked);
		keep_room(staging, &staging->injection, &parked);
	}
	aior_parked_trim(&parked.capsule.table, &staging->injection);
	aior_journal_write(&staging->process, &staging->injection);
	aior_inject_unmap_code(&staging->injection);
	aior_parked_free(&parked);
	staging->is_mapped = 0;
	staging->outcome->stood_ns = aior_now(CLOCK_MONOTONIC) - staging->stopped->stopped_at;
	return ret;
}

void aior_staging_forget(struct aior_staging *staging)
{
	struct aior_outcome *outcome = staging->outcome;

	free(staging->suspects);
	staging->suspects = NULL;
	staging->suspect_count = 0;
	staging->is_short = 0;
	aior_outcome_free(outcome);
	memset(outcome, 0, sizeof(*outcome));
}

void aior_staging_free(struct aior_staging *staging)
{
	aior_inject_end(&staging->injection);
	free(staging->table);
	free(staging->rings);
	free(staging->suspects);
}
