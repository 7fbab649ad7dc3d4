/* SPDX-License-Identifier: MIT */
/*
 * Stages the rings of other processes. Until the blob has destroyed the first context all can be undone; by
 * then all threads are parked but the one that runs it, which parks when it has ended, whatever becomes of us.
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

#include "fence.h"
#include "journal.h"
#include "names.h"
#include "others.h"

#define NS_PER_MS 1000000ull

/* A ring of the process, as its mappings have it. */
struct candidate {
	uint64_t addr, len;
	uint32_t prot, nr, pending;
	int is_readable;  /* else what is behind it is gone */
	int is_suspect;   /* an older relative maps it, too: it may be that one's */
	int is_inherited; /* it is */
	enum aio_ring_fault fault;
	unsigned parts;
	uint64_t offset;
};

struct staging {
	struct aior_process process;
	uint32_t arch;
	const struct aior_options *options;
	const struct aior_fence *fence;
	struct aior_outcome *outcome;
	struct aior_gate gate;
	struct aior_stopped *stopped;
	struct aior_injection injection;
	uint64_t *suspects;
	size_t suspect_count;
	struct candidate *rings;
	size_t ring_count;
	uint32_t live_count;
	uint64_t slots, pending;  /* of the live ones */
	struct aior_table *table; /* what the capsule begins with: all but the polls */
	uint64_t prepared_at, started_at;
	int is_traced; /* by the caller, whose its threads stay */
	int is_mapped, is_running, is_staged, is_done;
	int failed; /* what aior_inject_wait() said */
};

static uint64_t since(uint64_t *mark)
{
	uint64_t now = aior_now(CLOCK_MONOTONIC), passed = now - *mark;

	*mark = now;
	return passed;
}

/* ---- before anything stands still ---- */

static void note_relative(pid_t pid, int is_older, const struct aior_mapping *ring, void *data)
{
	struct staging *staging = data;
	struct aior_outcome *outcome = staging->outcome;
	uint64_t *larger;

	if (is_older) {
		larger = reallocarray(
		    staging->suspects, staging->suspect_count + 1, sizeof(*staging->suspects));
		if (!larger)
			return;
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

/* Returns whether it has rings at all: a process that has none need not be stopped. */
static int find_relatives(struct staging *staging)
{
	struct aior_mapping *mappings;
	size_t count;
	int has_rings = 0;

	if (aior_mappings(&staging->process, &mappings, &count, NULL))
		return 1;
	for (size_t i = 0; i < count; i++)
		has_rings |= mappings[i].is_ring;
	if (has_rings)
		aior_each_relative(&staging->process, mappings, count, note_relative, staging);
	free(mappings);
	return has_rings;
}

/* It has a capsule: whoever began to stage it has come to the end, or has not. Returns 1 if it is staged. */
static int take_up(struct staging *staging, struct aior_capsule *capsule, struct aior_error *error)
{
	struct aior_parked parked = {
	    .process = &staging->process,
	    .arch = staging->arch,
	    .gate = aior_find_gate(&staging->process, staging->arch),
	    .capsule = *capsule,
	};
	struct aior_injection injection;
	int ret = 1;

	if (!capsule->table.thread_count)
		return aior_fail(error, EBUSY, "capsule",
		    "process %d has staged itself, and has a capsule at 0x%llx: it must restore "
		    "itself first",
		    (int)staging->process.pid, (unsigned long long)capsule->addr);
	if (capsule->table.state > AIOR_TABLE_STAGED || capsule->table.state == AIOR_TABLE_IMAGE)
		return aior_check_capsule(capsule, staging->arch, error);
	if (aior_stop_parked(&parked, staging->options, error))
		return -1;
	if (capsule->table.state == AIOR_TABLE_PREPARED || aior_parked_is_live(&parked)) {
		ret = aior_unpark(&parked, error);
	} else if (aior_parked_finish(&parked) || aior_parked_adopt(&parked, &injection, NULL)) {
		aior_leave_parked(parked.stopped);
	} else {
		aior_parked_tidy(&parked, &injection);
		aior_inject_end(&injection);
		aior_leave_parked(parked.stopped);
	}
	aior_parked_free(&parked);
	return ret;
}

static int open_process(struct staging *staging, pid_t pid, struct aior_error *error)
{
	struct aior_capsule capsule;
	int found;

	staging->outcome->pid = pid;
	found = aior_open_other(pid, staging->options, &staging->process, &capsule, error);
	if (found < 0)
		return -1;
	staging->arch = aior_process_arch(&staging->process);
	if (found) {
		found = take_up(staging, &capsule, error);
		if (found)
			staging->is_done = staging->outcome->was_so = staging->outcome->is_staged =
			    found > 0;
		if (found < 0)
			return -1;
	}
	if (!aior_blob(staging->arch, AIOR_OP_STAGE) || !aior_blob(staging->arch, AIOR_OP_RESTORE))
		return aior_refuse(error,
		    "process %d runs a program for %s: this build has no blobs for it (see `make "
		    "blobs`)",
		    (int)pid, aior_arch_text(staging->arch));
	if (!staging->is_done && !find_relatives(staging))
		staging->is_done = staging->outcome->was_so = 1;
	staging->gate = aior_find_gate(&staging->process, staging->arch);
	return 0;
}

/* ---- its rings ---- */

static int is_suspect(const struct staging *staging, uint64_t addr)
{
	for (size_t i = 0; i < staging->suspect_count; i++)
		if (staging->suspects[i] == addr)
			return 1;
	return 0;
}

static void look_at_ring(
    const struct staging *staging, const struct aior_mapping *mapping, struct candidate *ring)
{
	struct aio_ring header;

	*ring = (struct candidate){
	    .addr = mapping->start,
	    .len = mapping->end - mapping->start,
	    .prot = mapping->prot,
	    .offset = mapping->offset,
	    .parts = 1,
	    .is_suspect = is_suspect(staging, mapping->start),
	};
	for (; aior_ring_continues(mapping); mapping++, ring->parts++)
		ring->len += mapping[1].end - mapping[1].start;
	ring->is_readable =
	    !aior_read_memory(staging->process.task, ring->addr, &header, sizeof(header));
	if (!ring->is_readable)
		return;
	ring->fault = aio_ring_check(&header, ring->len);
	ring->nr = header.nr;
	if (ring->fault == AIO_RING_OK)
		ring->pending = aio_ring_pending(header.head, header.tail, header.nr);
}

/* The last mapping has one behind it that is nothing: so it never goes on. */
static int list_rings(struct staging *staging, struct aior_error *error)
{
	const struct aior_mapping *mappings = staging->injection.mappings;
	size_t count = staging->injection.mapping_count, i = 0;

	staging->rings = calloc(count + 1, sizeof(*staging->rings));
	if (!staging->rings)
		return aior_fail(error, ENOMEM, "read", "out of memory");
	while (i < count) {
		struct candidate *ring = &staging->rings[staging->ring_count];

		if (!mappings[i].is_ring) {
			i++;
			continue;
		}
		look_at_ring(staging, &mappings[i], ring);
		i += ring->parts;
		staging->ring_count++;
	}
	return 0;
}

/* What keeps a ring that is the process's own from being staged. */
static int check_ring(const struct candidate *ring, struct aior_error *error)
{
	if (!(ring->prot & PROT_READ))
		return aior_fail_ring(error, EINVAL, "ring", ring->addr,
		    "cannot be read, by the kernel neither: give it PROT_READ back (mprotect)");
	if (ring->offset)
		return aior_fail_ring(error, EINVAL, "ring", ring->addr,
		    "is a part of one whose first pages are not mapped: the program must unmap it");
	if (ring->fault != AIO_RING_OK)
		return aior_fail_ring(error, EINVAL, "ring", ring->addr,
		    "is damaged: %s; the program has written over it, or changed its mapping",
		    aior_fault_text(ring->fault));
	if (ring->parts > 1)
		return aior_fail_ring(error, EINVAL, "ring", ring->addr,
		    "its mapping is in %u parts (mprotect has split it), and the kernel does not "
		    "move such a ring whole",
		    ring->parts);
	return 0;
}

/* Those that may be a relative's are looked at later. */
static int check_rings(struct staging *staging, struct aior_error *error)
{
	for (size_t i = 0; i < staging->ring_count; i++) {
		struct candidate *ring = &staging->rings[i];

		if (ring->prot & PROT_READ && !ring->is_readable) {
			ring->is_inherited = 1;
			continue;
		}
		if (!ring->is_suspect && check_ring(ring, error))
			return -1;
		staging->slots += ring->nr ? ring->nr - 1 : 0;
	}
	return 0;
}

/*
 * A submission of nothing looks the context up, and does no more (lookup_ioctx(), fs/aio.c). The program
 * reads the header's `id` for that, too.
 */
static int64_t look_context_up(struct staging *staging, uint64_t addr)
{
	const uint64_t args[6] = {addr};

	return aior_inject_call(&staging->injection, staging->injection.calls->io_submit, args);
}

static int judge_suspects(struct staging *staging, struct aior_error *error)
{
	for (size_t i = 0; i < staging->ring_count; i++) {
		struct candidate *ring = &staging->rings[i];
		int64_t err;

		if (!ring->is_suspect || ring->is_inherited)
			continue;
		err = look_context_up(staging, ring->addr);
		if (err == -EINVAL)
			ring->is_inherited = 1;
		else if (err)
			return aior_fail_ring(error, (int)-err, "ring", ring->addr,
			    "io_submit says %s", aior_errno_text((int)-err));
		else if (check_ring(ring, error))
			return -1;
	}
	return 0;
}

/* ---- what fork has given it ---- */

static int no_copy(const struct candidate *ring, int64_t err, struct aior_error *error)
{
	return aior_fail_ring(error, (int)-err, "memory", ring->addr,
	    "is a relative's, and there is no memory for a plain copy of it: %s",
	    aior_errno_text((int)-err));
}

/*
 * A relative's ring goes with that one's context, and takes its pages away from everybody. So the process gets
 * memory with the same content instead, in one step.
 */
static int copy_ring(
    struct staging *staging, const struct candidate *ring, struct aior_error *error)
{
	struct aior_injection *injection = &staging->injection;
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;
	const uint64_t make[6] = {
	    0, ring->len, PROT_READ | PROT_WRITE, (uint64_t)flags, (uint64_t)-1, 0};
	void *content = malloc(ring->len);
	int64_t at, err = 0;

	if (!content)
		return aior_fail(error, ENOMEM, "read", "out of memory");
	at = aior_inject_call(injection, injection->calls->mmap, make);
	if (at < 0 && at >= -4095) {
		free(content);
		return no_copy(ring, at, error);
	}
	if (staging->stopped->threads[0].regs_len < sizeof(arch_regs))
		at = (uint32_t)at;
	if (aior_read_memory(staging->process.task, ring->addr, content, ring->len) ||
	    aior_write_memory(staging->process.task, (uint64_t)at, content, ring->len))
		err = -errno;
	free(content);
	if (!err && ring->prot != (PROT_READ | PROT_WRITE)) {
		const uint64_t protect[6] = {(uint64_t)at, ring->len, ring->prot};

		err = aior_inject_call(injection, injection->calls->mprotect, protect);
	}
	if (!err) {
		const uint64_t move[6] = {
		    (uint64_t)at, ring->len, ring->len, MREMAP_MAYMOVE | MREMAP_FIXED, ring->addr};

		err = aior_inject_call(injection, injection->calls->mremap, move);
		if (err >= 0 || err < -4095)
			return 0;
	}
	{
		const uint64_t unmap[6] = {(uint64_t)at, ring->len};

		aior_inject_call(injection, injection->calls->munmap, unmap);
	}
	return no_copy(ring, err, error);
}

static int copy_inherited(struct staging *staging, struct aior_error *error)
{
	for (size_t i = 0; i < staging->ring_count; i++) {
		const struct candidate *ring = &staging->rings[i];

		if (!ring->is_inherited || !ring->is_readable || ring->parts > 1)
			continue;
		if (copy_ring(staging, ring, error))
			return -1;
		staging->outcome->rings.inherited_count++;
	}
	return 0;
}

/* ---- the capsule ---- */

static uint64_t table_bytes(const struct staging *staging, size_t rings)
{
	return sizeof(struct aior_table) + rings * sizeof(struct aior_ring_record) +
	       staging->stopped->count * sizeof(struct aior_thread_record);
}

static uint32_t fill_threads(const struct staging *staging, struct aior_thread_record *records)
{
	const struct aior_stopped *stopped = staging->stopped;
	uint32_t count = 0;

	for (size_t i = 0; i < stopped->count; i++) {
		struct aior_thread_record *record = &records[count];

		if (!stopped->threads[i].is_stopped)
			continue;
		aior_thread_to_record(&staging->process, &stopped->threads[i], record);
		if (&stopped->threads[i] == staging->injection.thread) {
			record->flags = AIOR_THREAD_INJECTED;
			record->scratch = staging->injection.scratch;
			record->scratch_len = staging->injection.scratch_len;
		}
		count++;
	}
	return count;
}

static int fill_capsule(struct staging *staging, struct aior_error *error)
{
	struct aior_table *table = calloc(1, table_bytes(staging, staging->ring_count));
	struct aior_ring_record *records = (void *)(table + 1);

	if (!table)
		return aior_fail(error, ENOMEM, "capsule", "out of memory");
	staging->table = table;
	staging->slots = 0;
	for (size_t i = 0; i < staging->ring_count; i++) {
		const struct candidate *ring = &staging->rings[i];

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
	table->rings = sizeof(*table);
	table->ring_stride = sizeof(struct aior_ring_record);
	table->polls = table->rings + table->ring_count * table->ring_stride;
	table->poll_stride = sizeof(struct aior_poll_record);
	table->total = table->polls;
	if (staging->is_traced)
		return 0;
	table->threads = table->polls;
	table->thread_stride = sizeof(struct aior_thread_record);
	table->thread_count = fill_threads(staging, (void *)((char *)table + table->threads));
	table->polls = table->threads + table->thread_count * table->thread_stride;
	table->total = table->polls;
	return 0;
}

static struct aior_args args_for(const struct staging *staging)
{
	uint64_t at = staging->injection.capsule;
	struct aior_args args = aior_capsule_args(staging->table, at);

	args.poll_room = (uint32_t)staging->slots;
	args.capsule = at;
	return args;
}

/* ---- up to the point of no return ---- */

static int stop(struct staging *staging, struct aior_error *error)
{
	const struct aior_calls *calls = aior_calls_of(staging->arch);

	if (staging->is_traced)
		return aior_adopt_stopped(&staging->process, calls, &staging->stopped, error);
	if (aior_stop(&staging->process, AIOR_TO_INJECT, &staging->stopped, error))
		return -1;
	return aior_capture(staging->stopped, &staging->process, error);
}

static int freeze(struct staging *staging, unsigned long options, struct aior_error *error)
{
	struct aior_injection *injection = &staging->injection;

	if (stop(staging, error))
		return -1;
	aior_fence_wait(staging->fence, staging->stopped);
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
	};
	if (injection->thread->has_filter)
		injection->options |= PTRACE_O_SUSPEND_SECCOMP;
	if (staging->is_traced &&
	    ptrace(PTRACE_SETOPTIONS, injection->thread->tid, 0, injection->options))
		return aior_fail(error, errno, "stop",
		    "thread %d is not in a ptrace-stop of the calling thread",
		    (int)injection->thread->tid);
	return aior_inject_begin(injection, error) || list_rings(staging, error) ||
		       check_rings(staging, error)
		   ? -1
		   : 0;
}

static int map_all(struct staging *staging, struct aior_error *error)
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
static void park_others(const struct staging *staging)
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

static int has_own_rings(const struct staging *staging)
{
	for (size_t i = 0; i < staging->ring_count; i++)
		if (!staging->rings[i].is_inherited)
			return 1;
	return 0;
}

static int has_copies_to_make(const struct staging *staging)
{
	for (size_t i = 0; i < staging->ring_count; i++)
		if (staging->rings[i].is_suspect && staging->rings[i].is_readable)
			return 1;
	return 0;
}

/* Everything that can fail, but what the blob does. */
static int prepare(struct staging *staging, unsigned long options, struct aior_error *error)
{
	struct aior_injection *injection = &staging->injection;

	if (freeze(staging, options, error))
		return -1;
	if (!has_own_rings(staging) && !has_copies_to_make(staging)) {
		staging->is_done = staging->outcome->was_so = 1;
		return 0;
	}
	if (map_all(staging, error) || judge_suspects(staging, error) ||
	    copy_inherited(staging, error))
		return -1;
	if (!has_own_rings(staging)) {
		staging->is_done = staging->outcome->was_so = 1;
		return 0;
	}
	if (fill_capsule(staging, error))
		return -1;
	if (aior_write_memory(
		staging->process.task, injection->capsule, staging->table, staging->table->total))
		return aior_fail(error, errno, "capsule", "the capsule cannot be written: %s",
		    aior_errno_text(errno));
	if (!staging->is_traced)
		injection->sp = injection->capsule + staging->table->threads + 8;
	return 0;
}

static void undo(struct staging *staging)
{
	if (!staging->stopped)
		return;
	if (staging->is_mapped) {
		aior_journal_write(&staging->process, &staging->injection);
		aior_inject_unmap(&staging->injection);
		aior_put_back(staging->injection.thread);
	}
	aior_journal_remove(&staging->process);
	if (staging->is_traced)
		aior_return_stopped(staging->stopped, staging->injection.thread);
	else
		aior_release(staging->stopped);
	staging->stopped = NULL;
}

/* ---- the blob ---- */

static int start(struct staging *staging, struct aior_error *error)
{
	struct aior_args args = args_for(staging);

	if (!staging->is_traced) {
		park_others(staging);
		aior_journal_remove(&staging->process);
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
static void wait_for_blob(struct staging *staging, uint64_t begin)
{
	struct aior_options left = {.timeout_ms = -1};

	/* Nobody but its tracer keeps a filter from ending it. */
	if (staging->options && !staging->stopped->has_filter) {
		left = *staging->options;
		if (left.timeout_ms >= 0) {
			uint64_t passed = (aior_now(CLOCK_MONOTONIC) - begin) / NS_PER_MS;

			left.timeout_ms =
			    passed < (uint64_t)left.timeout_ms ? left.timeout_ms - (int)passed : 0;
		}
	}
	staging->failed = aior_inject_wait(&staging->injection, &left);
	staging->is_running = staging->failed == ETIMEDOUT || staging->failed == EINTR;
	staging->outcome->blob_ns = aior_now(CLOCK_MONOTONIC) - staging->started_at;
}

/* What the blob says. 0: all is staged. */
static int judge(struct staging *staging, struct aior_error *error)
{
	struct aior_injection *injection = &staging->injection;
	const struct aior_ring_record *ring = NULL;
	struct aior_args args;

	if (staging->failed == ESRCH)
		return aior_fail(error, ESRCH, "drain", "process %d has exited while it was staged",
		    (int)staging->process.pid);
	if (aior_read_memory(
		staging->process.task, aior_inject_args(injection), &args, sizeof(args)) ||
	    aior_read_memory(
		staging->process.task, injection->capsule, staging->table, staging->table->polls))
		return aior_fail(error, errno, "capsule", "what came of it cannot be read: %s",
		    aior_errno_text(errno));
	staging->is_staged = staging->table->state == AIOR_TABLE_STAGED;
	if (!args.err && staging->is_staged)
		return 0;
	if (args.ring < staging->table->ring_count)
		ring = aior_capsule_ring(staging->table, staging->table, args.ring);
	if (ring && args.err == EINVAL && args.step == AIOR_STEP_RING &&
	    look_context_up(staging, ring->addr) == -EINVAL)
		return aior_fail_ring(error, EINVAL, "ring", ring->addr,
		    "is damaged: its header names no context of the process; the program has "
		    "written over it");
	aior_fail_blob(error, &args, ring ? &ring->addr : NULL);
	return -1;
}

/* ---- behind it ---- */

/* Why a poll that has been remembered cannot be submitted again as things are; 0 if it can. */
static int why_lost(const struct staging *staging, const struct aior_poll_record *poll)
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

static void report(struct staging *staging, const struct aior_parked *parked)
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

static void report_lost(struct staging *staging, const struct aior_parked *parked)
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
static int finish(struct staging *staging, int go_on, struct aior_error *error)
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
	if (!ret)
		report(staging, &parked);
	if (!ret && go_on) {
		ret = aior_restore_parked(&parked, &own, error);
		aior_outcome_free(&own);
	} else {
		if (!ret)
			aior_parked_tidy(&parked, &staging->injection);
		staging->outcome->is_staged = 1;
		staging->outcome->stood_ns =
		    aior_now(CLOCK_MONOTONIC) - staging->stopped->stopped_at;
		aior_leave_parked(staging->stopped);
	}
	staging->stopped = NULL;
	staging->outcome->finish_ns = since(&mark);
	if (!ret && !go_on)
		report_lost(staging, &parked);
	aior_parked_free(&parked);
	return ret ? aior_stays_parked(staging->process.pid, error) : 0;
}

/* ---- all of them ---- */

struct work {
	const pid_t *pids;
	size_t count;
	const struct aior_options *options;
	struct aior_outcome *outcomes;
	struct staging *stagings;
	struct aior_fence fence;
	struct aior_error *error;
};

static int is_named_before(const struct work *work, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (work->pids[k] == work->pids[i])
			return 1;
	return 0;
}

static int prepare_all(struct work *work)
{
	for (size_t i = 0; i < work->count; i++) {
		struct staging *staging = &work->stagings[i];

		staging->options = work->options;
		staging->fence = &work->fence;
		staging->outcome = &work->outcomes[i];
		if (is_named_before(work, i)) {
			staging->outcome->pid = work->pids[i];
			staging->is_done = staging->outcome->was_so = 1;
		} else if (open_process(staging, work->pids[i], work->error)) {
			return -1;
		}
	}
	for (size_t i = 0; i < work->count; i++)
		if (!work->stagings[i].is_done && prepare(&work->stagings[i], 0, work->error))
			return -1;
	if (work->options && work->options->cancel && *work->options->cancel)
		return aior_fail(work->error, EINTR, "stop", "interrupted: nothing has been done");
	return 0;
}

/* What requests in flight do not let come to its end. */
static int leave_unfinished(struct work *work)
{
	char pids[256] = "";
	size_t used = 0;

	for (size_t i = 0; i < work->count; i++) {
		struct staging *staging = &work->stagings[i];
		struct aior_capsule capsule = {.addr = staging->injection.capsule};
		uint64_t ring;

		if (!staging->stopped || staging->is_done)
			continue;
		if (used < sizeof(pids))
			used += (size_t)snprintf(
			    pids + used, sizeof(pids) - used, " %d", (int)staging->process.pid);
		if (!staging->is_running) {
			if (staging->is_staged)
				finish(staging, 0, NULL);
			else
				undo(staging);
			continue;
		}
		capsule.table = *staging->table;
		ring = aior_draining_ring(&staging->process, &capsule);
		aior_fail_ring(work->error, staging->failed, "drain", ring,
		    "%s: requests of process %d that are in flight have not ended",
		    staging->failed == EINTR ? "interrupted"
					     : "its storage does not answer in time",
		    (int)staging->process.pid);
		/* The one that runs is not ours to stop any more. */
		staging->injection.thread->is_stopped = 0;
		aior_leave_parked(staging->stopped);
		staging->stopped = NULL;
	}
	if (work->error) {
		size_t at = strlen(work->error->message);

		work->error->is_unfinished = 1;
		snprintf(work->error->message + at, sizeof(work->error->message) - at,
		    "; what is staged stays parked, and the rest goes on: when its storage "
		    "answers, "
		    "`aio-restorer restore%s`",
		    pids);
	}
	return -1;
}

/* The first failure is the one that is told; those that are staged by then go on as they were. */
static int run_all(struct work *work)
{
	uint64_t begin = aior_now(CLOCK_MONOTONIC);
	struct aior_error error;
	int ret = 0, unfinished = 0;

	for (size_t i = 0; i < work->count; i++)
		if (!work->stagings[i].is_done && start(&work->stagings[i], work->error))
			work->stagings[i].failed = ESRCH;
	/* That waits for RCU, as the drain does at the same time. */
	aior_fence_close(&work->fence);
	for (size_t i = 0; i < work->count; i++) {
		struct staging *staging = &work->stagings[i];

		if (staging->is_done)
			continue;
		if (!staging->failed)
			wait_for_blob(staging, begin);
		unfinished |= staging->is_running;
		if (!staging->is_running && judge(staging, ret ? &error : work->error))
			ret = -1;
	}
	if (unfinished)
		return leave_unfinished(work);
	for (size_t i = 0; i < work->count; i++) {
		struct staging *staging = &work->stagings[i];

		if (!staging->is_done && staging->is_staged && staging->stopped &&
		    finish(staging, ret, ret ? &error : work->error))
			ret = -1;
	}
	return ret;
}

static int stage_all(void *data)
{
	struct work *work = data;
	int ret;

	aior_fence_open(&work->fence);
	ret = prepare_all(work);
	if (!ret) {
		for (size_t i = 0; i < work->count; i++)
			if (work->stagings[i].is_done)
				undo(&work->stagings[i]);
		ret = run_all(work);
	}
	for (size_t i = 0; i < work->count; i++) {
		struct staging *staging = &work->stagings[i];

		undo(staging);
		aior_inject_end(&staging->injection);
		free(staging->table);
		free(staging->rings);
		free(staging->suspects);
	}
	aior_fence_close(&work->fence);
	return ret;
}

int aior_stage(const pid_t *pids, size_t count, const struct aior_options *options,
    struct aior_outcome *outcomes, struct aior_error *error)
{
	struct work work = {
	    .pids = pids, .count = count, .options = options, .outcomes = outcomes, .error = error};
	struct aior_outcome *own = NULL;
	int ret;

	if (error)
		memset(error, 0, sizeof(*error));
	work.stagings = calloc(count + 1, sizeof(*work.stagings));
	if (!outcomes)
		work.outcomes = own = calloc(count + 1, sizeof(*own));
	if (!work.stagings || !work.outcomes) {
		ret = aior_fail(error, ENOMEM, "stop", "out of memory");
	} else {
		memset(work.outcomes, 0, count * sizeof(*work.outcomes));
		ret = aior_as_tracer(stage_all, &work, error);
	}
	for (size_t i = 0; own && i < count; i++)
		aior_outcome_free(&own[i]);
	free(own);
	free(work.stagings);
	return ret;
}

/* ---- for whoever has stopped the process already ---- */

static int finish_traced(struct staging *staging, struct aior_error *error)
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
		report(staging, &parked);
		report_lost(staging, &parked);
	}
	aior_parked_trim(&parked.capsule.table, &staging->injection);
	aior_journal_write(&staging->process, &staging->injection);
	aior_inject_unmap_code(&staging->injection);
	aior_parked_free(&parked);
	staging->is_mapped = 0;
	staging->outcome->stood_ns = aior_now(CLOCK_MONOTONIC) - staging->stopped->stopped_at;
	return ret;
}

static int stage_traced(
    struct staging *staging, pid_t pid, unsigned long ptrace_options, struct aior_error *error)
{
	uint64_t begin = aior_now(CLOCK_MONOTONIC);

	if (open_process(staging, pid, error))
		return -1;
	if (staging->is_done)
		return 0;
	if (prepare(staging, ptrace_options, error))
		return -1;
	if (staging->is_done)
		return 0;
	if (start(staging, error))
		return -1;
	wait_for_blob(staging, begin);
	if (staging->is_running) {
		aior_fail(error, staging->failed, "drain",
		    "requests of process %d that are in flight have not ended: the thread that "
		    "waits "
		    "for them, %d, is left running",
		    (int)pid, (int)staging->injection.thread->tid);
		if (error)
			error->is_unfinished = 1;
		return -1;
	}
	return judge(staging, error) || finish_traced(staging, error) ? -1 : 0;
}

int aior_stage_traced(pid_t pid, unsigned long ptrace_options, const struct aior_options *options,
    struct aior_outcome *outcome, struct aior_error *error)
{
	struct aior_outcome own = {0};
	struct aior_fence fence;
	struct staging staging = {.options = options,
	    .fence = &fence,
	    .outcome = outcome ? outcome : &own,
	    .is_traced = 1};
	pid_t injected = 0;
	int ret;

	if (error)
		memset(error, 0, sizeof(*error));
	memset(staging.outcome, 0, sizeof(own));
	aior_fence_open(&fence);
	ret = stage_traced(&staging, pid, ptrace_options, error);
	aior_fence_close(&fence);
	if (staging.injection.thread)
		injected = staging.injection.thread->tid;
	/* It may have system calls to make, in our way. */
	if (!staging.is_running)
		undo(&staging);
	if (injected && !staging.is_running)
		ptrace(PTRACE_SETOPTIONS, injected, 0, ptrace_options);
	aior_inject_end(&staging.injection);
	free(staging.table);
	free(staging.rings);
	free(staging.suspects);
	aior_outcome_free(&own);
	return ret;
}
