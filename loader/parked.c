/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <unistd.h>

#include "grow.h"
#include "journal.h"
#include "names.h"
#include "parked.h"

/* ---- records of threads ---- */

void aior_thread_to_record(const struct aior_process *process, const struct aior_tracee *thread,
    struct aior_thread_record *record)
{
	*record = (struct aior_thread_record){
	    .stack = {~0ull, ~0ull},
	    .start_time = process->start_time,
	    .stopped_at = aior_now(CLOCK_REALTIME),
	    .sigmask = thread->mask,
	    .ring = thread->ring,
	    .events = thread->events,
	    .taken = thread->taken,
	    .tid = (uint32_t)thread->tid,
	    .call = thread->call,
	    .flags = thread->is_timed ? AIOR_THREAD_TIMED : 0,
	    .regs_len = (uint32_t)thread->regs_len,
	    .since = aior_now(CLOCK_MONOTONIC),
	};
	memcpy(record->regs, &thread->regs, thread->regs_len);
}

_Static_assert(sizeof(arch_regs) <= sizeof(((struct aior_thread_record *)0)->regs), "registers");
_Static_assert(
    4096 % AIOR_THREAD_STRIDE == 0 &&
	sizeof(struct aior_table) + offsetof(struct aior_thread_record, regs) + sizeof(arch_regs) <=
	    AIOR_THREAD_STRIDE,
    "the registers of a thread would lie in two pages");

/* A thread of another incarnation of the process does not know how long it has waited. */
static void take_record(const struct aior_process *process, struct aior_tracee *thread,
    const struct aior_thread_record *record)
{
	memcpy(&thread->regs, record->regs, record->regs_len);
	thread->mask = record->sigmask;
	thread->call = record->call;
	if (record->tid != (uint32_t)thread->tid || record->start_time != process->start_time)
		arch_anew(&thread->regs, thread->regs_len, record->call);
	else if (record->flags & AIOR_THREAD_TIMED)
		thread->since = record->since;
}

/* ---- whose record is whose ---- */

static int damaged(const struct aior_parked *parked, struct aior_error *error, const char *how)
{
	return aior_fail(error, EINVAL, "capsule",
	    "the capsule at 0x%llx of process %d is damaged: %s",
	    (unsigned long long)parked->capsule.addr, (int)parked->process->pid, how);
}

static int is_blob(const struct aior_parked *parked, const struct aior_blob *blob, uint32_t op)
{
	return !memcmp(blob->magic, AIOR_BLOB_MAGIC, sizeof(blob->magic)) && blob->op == op &&
	       blob->arch == parked->arch && blob->size <= AIOR_BLOB_MAX &&
	       blob->park < blob->park_end && blob->park_end <= blob->size;
}

const struct aior_blob *aior_parked_blob(const struct aior_parked *parked)
{
	return (const void *)parked->code_bytes;
}

/* Whether a thread's pc lies in a stage blob: the first that does says where that is. */
static int is_in_blob(struct aior_parked *parked, pid_t tid, uint64_t pc)
{
	uint64_t page = pc & ~((uint64_t)sysconf(_SC_PAGESIZE) - 1);

	if (!parked->code && !aior_read_memory(tid, page, parked->code_bytes, AIOR_BLOB_MAX) &&
	    is_blob(parked, aior_parked_blob(parked), AIOR_OP_STAGE))
		parked->code = page;
	return parked->code && pc - parked->code < aior_parked_blob(parked)->size;
}

static struct aior_thread_record *record_at(const struct aior_parked *parked, uint64_t sp)
{
	const struct aior_table *table = &parked->capsule.table;
	uint64_t offset = sp - parked->capsule.addr - table->threads;
	uint64_t i = offset / table->thread_stride;

	if (i >= table->thread_count || offset % table->thread_stride > 16)
		return NULL;
	return aior_capsule_thread(table, parked->bytes, (uint32_t)i);
}

/* Of the thread that has run the blob, on a stack of its own. */
static struct aior_thread_record *injected_record(const struct aior_parked *parked)
{
	const struct aior_table *table = &parked->capsule.table;

	for (uint32_t i = 0; i < table->thread_count; i++) {
		struct aior_thread_record *record = aior_capsule_thread(table, parked->bytes, i);

		if (record->flags & AIOR_THREAD_INJECTED)
			return record;
	}
	return NULL;
}

/*
 * Whether it is in a restore blob, in the memory that the record says is mapped for that: its host has died
 * meanwhile. 2: it sleeps there.
 */
static int is_astray(const struct aior_parked *parked, pid_t tid, uint64_t pc)
{
	const struct aior_thread_record *record = injected_record(parked);
	uint64_t page = pc & ~((uint64_t)sysconf(_SC_PAGESIZE) - 1);
	struct aior_blob blob;

	if (!record || page != record->scratch ||
	    aior_read_memory(tid, page, &blob, sizeof(blob)) ||
	    !is_blob(parked, &blob, AIOR_OP_RESTORE))
		return 0;
	return pc - page >= blob.park && pc - page < blob.park_end ? 2 : 1;
}

/* One whose mask alone is that of a parked thread: its host has died between the one and the other. */
static void mend_mask(const struct aior_parked *parked, const struct aior_tracee *thread)
{
	const struct aior_table *table = &parked->capsule.table;
	uint64_t mask;

	if (aior_get_mask(thread->tid, &mask) || !aior_is_all(mask))
		return;
	for (uint32_t i = 0; i < table->thread_count; i++) {
		const struct aior_thread_record *record =
		    aior_capsule_thread(table, parked->bytes, i);

		if (record->tid == (uint32_t)thread->tid &&
		    record->start_time == parked->process->start_time)
			aior_set_mask(thread->tid, record->sigmask);
	}
}

static int load_thread(
    struct aior_parked *parked, struct aior_tracee *thread, struct aior_error *error)
{
	const struct aior_blob *blob = aior_parked_blob(parked);
	struct aior_thread_record *record;
	arch_regs regs;
	uint64_t pc;
	size_t len;
	int astray;

	if (aior_get_regs(thread->tid, &regs, &len))
		return aior_fail(error, ESRCH, "stop", "thread %d has exited", (int)thread->tid);
	pc = arch_pc(&regs, len);
	astray = is_astray(parked, thread->tid, pc);
	if (!astray && !is_in_blob(parked, thread->tid, pc)) {
		mend_mask(parked, thread);
		return 0;
	}
	pc -= parked->code;
	if (astray == 1 || (!astray && (pc < blob->park || pc >= blob->park_end))) {
		parked->at_work = thread;
		return aior_fail(error, EAGAIN, "drain", "process %d is being %s at this moment",
		    (int)parked->process->pid, astray ? "restored" : "staged");
	}
	record = astray ? NULL : record_at(parked, arch_sp(&regs, len));
	if (!record)
		record = injected_record(parked);
	if (!record || record->regs_len != len)
		return damaged(parked, error, "it does not say what a parked thread was doing");
	thread->regs_len = len;
	thread->is_captured = 1;
	take_record(parked->process, thread, record);
	if (!parked->injected || record->flags & AIOR_THREAD_INJECTED) {
		parked->injected = thread;
		parked->record = record;
	}
	parked->count++;
	return 0;
}

/* The code that the threads sleep in lies behind the capsule; if the only one is astray, it has to be looked for. */
static int find_code(const struct aior_mapping *mapping, void *data)
{
	struct aior_parked *parked = data;

	if (mapping->start < parked->capsule.addr + parked->capsule.room ||
	    !mapping->is_private_memory || mapping->prot != (PROT_READ | PROT_EXEC))
		return 0;
	return is_in_blob(parked, parked->process->task, mapping->start);
}

int aior_parked_load(struct aior_parked *parked, struct aior_error *error)
{
	struct aior_table *table = &parked->capsule.table;

	aior_count_polls(table);
	if (aior_check_table(&parked->capsule, parked->arch, error))
		return -1;
	/* (It may have been read again since somebody has looked for that.) */
	if (!table->thread_count)
		return damaged(parked, error, "it names no thread");
	parked->bytes = malloc(table->total);
	parked->code_bytes = calloc(1, AIOR_BLOB_MAX);
	if (!parked->bytes || !parked->code_bytes)
		return aior_fail(error, ENOMEM, "capsule", "out of memory");
	if (aior_read_memory(
		parked->process->task, parked->capsule.addr, parked->bytes, table->total))
		return damaged(parked, error, "it cannot be read");
	*(struct aior_table *)parked->bytes = *table;
	for (uint32_t i = 0; i < table->thread_count; i++)
		if (aior_capsule_thread(table, parked->bytes, i)->regs_len !=
		    arch_regs_len(parked->arch))
			return damaged(parked, error,
			    "a thread's registers are not those of its architecture");
	for (size_t i = 0; i < parked->stopped->count; i++)
		if (parked->stopped->threads[i].is_stopped &&
		    load_thread(parked, &parked->stopped->threads[i], error))
			return -1;
	if (parked->count && !parked->code &&
	    aior_each_mapping(parked->process->task, find_code, parked) != 1)
		return damaged(
		    parked, error, "the code that its threads sleep in is not behind it");
	return 0;
}

void aior_parked_free(struct aior_parked *parked)
{
	free(parked->bytes);
	free(parked->code_bytes);
	parked->bytes = parked->code_bytes = NULL;
	parked->code = 0;
	parked->injected = NULL;
	parked->record = NULL;
	parked->at_work = NULL;
	parked->count = 0;
}

/* ---- what is left to do behind the blob ---- */

static int write_capsule(const struct aior_parked *parked, uint64_t from, uint64_t len)
{
	return aior_write_memory(
	    parked->process->task, parked->capsule.addr + from, parked->bytes + from, len);
}

static struct aior_ring_record *ring_named(const struct aior_parked *parked, uint64_t addr)
{
	const struct aior_table *table = &parked->capsule.table;

	for (uint32_t i = 0; i < table->ring_count; i++) {
		const struct aior_ring_record *ring = aior_capsule_ring(table, parked->bytes, i);

		if (ring->addr == addr)
			return (struct aior_ring_record *)ring;
	}
	return NULL;
}

static uint32_t polls_of(const struct aior_parked *parked, uint64_t ring)
{
	const struct aior_table *table = &parked->capsule.table;
	uint32_t count = 0;

	for (uint32_t i = 0; i < table->poll_count; i++)
		count += aior_capsule_poll(table, parked->bytes, i)->ring == ring;
	return count;
}

/*
 * Pieces of memory of the process, written by one system call. Who is killed meanwhile has written some of them, in
 * order, and one that lies in two pages may be half done (mm/process_vm_access.c; mm/gup.c, fatal_signal_pending()).
 */
struct pieces {
	struct iovec local[8], remote[8];
	unsigned long count;
};

static void add_piece(struct pieces *pieces, uint64_t addr, void *from, size_t len)
{
	pieces->local[pieces->count] = (struct iovec){from, len};
	pieces->remote[pieces->count++] = (struct iovec){(void *)(uintptr_t)addr, len};
}

static ssize_t pieces_len(const struct pieces *pieces)
{
	size_t len = 0;

	for (unsigned long i = 0; i < pieces->count; i++)
		len += pieces->local[i].iov_len;
	return (ssize_t)len;
}

/* Slots of a staged ring, from `at` on, which may go on at its beginning. */
static void add_slots(struct pieces *pieces, const struct aior_ring_record *ring, uint32_t nr,
    uint32_t at, struct aio_slot *slots, uint32_t count)
{
	uint32_t first = count < nr - at ? count : nr - at;

	add_piece(pieces, ring->addr + AIO_RING_HEADER + (uint64_t)at * sizeof(*slots), slots,
	    first * sizeof(*slots));
	if (count > first)
		add_piece(pieces, ring->addr + AIO_RING_HEADER, slots + first,
		    (count - first) * sizeof(*slots));
}

/*
 * Whether the events of a wait go back into its ring, in whose free slots they get their place: then the wait's record
 * says which head the ring gets. (One that says so already had a host that came so far: whatever of it is done.)
 */
static int places_events(const struct aior_parked *parked, struct aior_thread_record *record,
    const struct aior_ring_record *ring, const struct aio_ring *header, struct pieces *pieces,
    struct aio_slot **slots)
{
	uint32_t taken = record->taken, nr = header->nr, pending;
	pid_t task = parked->process->task;

	if (record->again)
		return record->again <= nr;
	pending = aio_ring_pending(header->head, header->tail, nr) + polls_of(parked, ring->addr);
	if (taken >= nr || pending + taken > aio_ring_usable(nr, aior_possible_cpus()))
		return 0;
	*slots = malloc(taken * sizeof(**slots));
	if (!*slots || aior_read_memory(task, record->events, *slots, taken * sizeof(**slots)))
		return 0;
	record->again = aio_ring_back(header->head, taken, nr) + 1;
	add_slots(pieces, ring, nr, record->again - 1, *slots, taken);
	return 1;
}

/*
 * Events that a wait had taken before the stop ended it go back in front of the head, and the wait is made
 * again. If they do not fit any more it has been ended. The record lies at `record_at` of the process, or
 * nowhere (0).
 *
 * What is written, in this order, can be written again by the next host if this one dies anywhere: slots that are still
 * free, the head that makes them pending, as a word of the record, that head, and then the record, for which all this
 * is done.
 */
static int put_events_back(
    struct aior_parked *parked, struct aior_thread_record *record, uint64_t record_at)
{
	struct aior_ring_record *ring = ring_named(parked, record->ring);
	struct aior_thread_record done = *record;
	pid_t task = parked->process->task;
	struct pieces pieces = {.count = 0};
	struct aio_slot *slots = NULL;
	struct aior_ring_record moved;
	struct aio_ring header;
	uint32_t head;
	arch_regs regs;
	ssize_t n = 0;

	done.taken = done.again = 0;
	if (ring && !aior_read_memory(task, ring->addr, &header, sizeof(header)) &&
	    aio_ring_check(&header, ring->len) == AIO_RING_OK &&
	    places_events(parked, record, ring, &header, &pieces, &slots)) {
		moved = *ring;
		moved.head = head = record->again - 1;
		memcpy(&regs, record->regs, record->regs_len);
		arch_again(&regs, record->regs_len, record->ring);
		memcpy(done.regs, &regs, record->regs_len);
		if (record_at)
			add_piece(&pieces, record_at + offsetof(struct aior_thread_record, again),
			    &record->again, sizeof(record->again));
		add_piece(
		    &pieces, ring->addr + offsetof(struct aio_ring, head), &head, sizeof(head));
		add_piece(&pieces,
		    parked->capsule.addr + (uint64_t)((unsigned char *)ring - parked->bytes),
		    &moved, sizeof(moved));
		if (record_at)
			add_piece(&pieces, record_at, &done,
			    offsetof(struct aior_thread_record, regs) + done.regs_len);
		n = aior_write_pieces(
		    task, pieces.local, pieces.count, pieces.remote, pieces.count);
		if (n == pieces_len(&pieces)) {
			*ring = moved;
			*record = done;
		}
	}
	free(slots);
	/* (A ring that the program itself may not write to takes none back.) */
	record->taken = record->again = 0;
	return n < 0 ? -1 : 0;
}

/* Its tracee, whose registers may be others now. */
static void take_again(struct aior_parked *parked, const struct aior_thread_record *record)
{
	for (size_t i = 0; i < parked->stopped->count; i++)
		if ((uint32_t)parked->stopped->threads[i].tid == record->tid)
			memcpy(&parked->stopped->threads[i].regs, record->regs, record->regs_len);
}

int aior_parked_finish(struct aior_parked *parked)
{
	struct aior_table *table = (void *)parked->bytes;

	for (uint32_t i = 0; i < table->thread_count; i++) {
		struct aior_thread_record *record = aior_capsule_thread(table, parked->bytes, i);

		if (!record->taken)
			continue;
		if (put_events_back(parked, record,
			parked->capsule.addr + (uint64_t)((unsigned char *)record - parked->bytes)))
			return -1;
		take_again(parked, record);
	}
	return write_capsule(parked, 0, table->polls);
}

int aior_parked_wait_again(struct aior_parked *parked)
{
	for (size_t i = 0; i < parked->stopped->count; i++) {
		const struct aior_tracee *thread = &parked->stopped->threads[i];
		struct aior_thread_record record;

		if (!thread->is_stopped || !thread->taken)
			continue;
		aior_thread_to_record(parked->process, thread, &record);
		if (put_events_back(parked, &record, 0))
			return -1;
		take_again(parked, &record);
	}
	return 0;
}

int aior_parked_is_live(const struct aior_parked *parked)
{
	const struct aior_table *table = (const void *)parked->bytes;

	for (uint32_t i = 0; i < table->ring_count; i++)
		if (!(aior_capsule_ring(table, parked->bytes, i)->flags & AIOR_RING_LIVE))
			return 0;
	return 1;
}

int aior_parked_note_scratch(struct aior_parked *parked, uint64_t at, uint64_t len)
{
	struct aior_thread_record *record = injected_record(parked);

	if (!record)
		return 0;
	record->scratch = at;
	record->scratch_len = len;
	return write_capsule(
	    parked, (uint64_t)((unsigned char *)record - parked->bytes), sizeof(*record));
}

/* ---- letting go ---- */

uint64_t aior_parked_record(const struct aior_parked *parked)
{
	return parked->capsule.addr +
	       (uint64_t)((const unsigned char *)parked->record - parked->bytes);
}

/* What is unmapped in one piece must be the capsule, its guards and the code, and nothing of the program's. */
static int is_one_piece(const struct aior_injection *injection)
{
	uint64_t at = injection->area;

	for (size_t i = 0; i < injection->mapping_count && at < injection->code; i++) {
		const struct aior_mapping *mapping = &injection->mappings[i];

		if (mapping->end <= at)
			continue;
		if (mapping->start > at || !mapping->is_private_memory ||
		    (mapping->prot && mapping->start != injection->capsule))
			return 0;
		at = mapping->end;
	}
	return at == injection->code;
}

int aior_parked_adopt(
    const struct aior_parked *parked, struct aior_injection *injection, struct aior_error *error)
{
	const struct aior_capsule *capsule = &parked->capsule;
	const struct aior_thread_record *record = injected_record(parked);

	*injection = (struct aior_injection){
	    .process = parked->process,
	    .calls = parked->stopped->calls,
	    .blob = aior_parked_blob(parked),
	    .thread = parked->injected,
	    .gate = parked->gate,
	};
	if (aior_inject_begin(injection, error))
		return -1;
	injection->capsule = capsule->addr;
	injection->capsule_len = capsule->room;
	injection->area = capsule->addr - injection->page_size;
	injection->code = parked->code;
	injection->area_len = parked->code + injection->page_size - injection->area;
	injection->has_code = 1;
	if (!is_one_piece(injection)) {
		aior_inject_end(injection);
		return damaged(parked, error, "something else lies between it and its code");
	}
	/* Where it is found, if we die behind a call, says whose record is its. */
	injection->sp = aior_parked_record(parked) + 8;
	injection->scratch = record ? record->scratch : 0;
	injection->scratch_len = record ? record->scratch_len : 0;
	return 0;
}

void aior_parked_trim(const struct aior_table *table, struct aior_injection *injection)
{
	uint64_t page = injection->page_size;
	uint64_t used = (table->total + page - 1) & ~(page - 1);

	if (used < injection->capsule_len)
		aior_inject_guard(
		    injection, injection->capsule + used, injection->capsule_len - used);
}

void aior_parked_tidy(struct aior_parked *parked, struct aior_injection *injection)
{
	arch_regs regs = injection->thread->regs;

	aior_parked_trim((const void *)parked->bytes, injection);
	aior_inject_unmap_scratch(injection);
	aior_parked_note_scratch(parked, 0, 0);
	aior_park_regs(aior_parked_blob(parked), parked->code, aior_parked_record(parked) + 16,
	    &regs, injection->thread->regs_len);
	aior_set_regs(injection->thread->tid, &regs, injection->thread->regs_len);
}

int aior_nobody_parked(struct aior_parked *parked, struct aior_error *error)
{
	aior_continue(parked->stopped);
	return aior_fail(error, EINVAL, "capsule",
	    "process %d has a capsule, and none of its threads is parked",
	    (int)parked->process->pid);
}

int aior_unpark(struct aior_parked *parked, struct aior_error *error)
{
	struct aior_injection injection;
	int ret;

	if (!parked->injected) {
		aior_continue(parked->stopped);
		return 0;
	}
	if (aior_parked_adopt(parked, &injection, error)) {
		aior_continue(parked->stopped);
		return -1;
	}
	aior_release_room(&injection, parked->capsule.addr, parked->bytes);
	for (size_t i = 0; i < parked->stopped->count; i++) {
		struct aior_tracee *thread = &parked->stopped->threads[i];

		if (thread->is_captured && thread != parked->injected) {
			aior_pass_time(thread, parked->stopped->calls);
			aior_put_back(thread);
		}
	}
	aior_pass_time(parked->injected, parked->stopped->calls);
	aior_inject_unmap_scratch(&injection);
	aior_journal_write(parked->process, &injection);
	ret = aior_inject_unmap(&injection);
	aior_inject_end(&injection);
	aior_put_back(parked->injected);
	aior_journal_remove(parked->process);
	aior_release(parked->stopped);
	if (ret)
		return aior_fail(error, EIO, "unmap",
		    "process %d goes on, but what was mapped in it could not be unmapped",
		    (int)parked->process->pid);
	return 0;
}
