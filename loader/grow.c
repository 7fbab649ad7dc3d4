/* SPDX-License-Identifier: MIT */
/*
 * Staged rings that are to come back on a host whose smallest ring is larger: before they are restored, their
 * content is laid out for that size, and the memory behind it, where that is free, becomes a part of it.
 *
 *	before   | header | 6 7 . . 4 5 |                        (4 to 7: the events that are pending)
 *	after    | header | . . . . 4 5   6 7 . . . . . . . . |
 *
 * What is staged then is what the restore blob brings back. The head stays where it was, unless the events
 * would have to wrap in the larger ring, too: then they begin at the first slot.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "grow.h"

/* ---- the content ---- */

static struct aio_slot *slots_of(void *content)
{
	return (void *)((char *)content + AIO_RING_HEADER);
}

static void reverse(struct aio_slot *slots, uint32_t from, uint32_t end)
{
	while (from + 1 < end) {
		struct aio_slot slot = slots[from];

		slots[from++] = slots[--end];
		slots[end] = slot;
	}
}

/* Slot `first` becomes the first one, and those in front of it the last. */
static void rotate(struct aio_slot *slots, uint32_t nr, uint32_t first)
{
	reverse(slots, 0, first);
	reverse(slots, first, nr);
	reverse(slots, 0, nr);
}

void aior_lay_out(void *content, uint64_t old_len, uint64_t len)
{
	uint32_t old = aio_ring_nr((uint32_t)old_len), nr = aio_ring_nr((uint32_t)len);
	struct aio_ring *ring = content;
	uint32_t pending = aio_ring_pending(ring->head, ring->tail, old);
	uint32_t head = aio_ring_new_head(ring->head, pending, nr);
	struct aio_slot *slots = slots_of(content);

	if (head != ring->head)
		rotate(slots, old, ring->head);
	else if (ring->tail < head)
		memcpy(slots + old, slots, ring->tail * sizeof(*slots));
	ring->nr = nr;
	ring->head = head;
	ring->tail = head + pending;
}

void aior_lay_back(void *content, uint64_t old_len, uint32_t head, uint32_t tail)
{
	uint32_t old = aio_ring_nr((uint32_t)old_len);
	struct aio_ring *ring = content;

	if (ring->head != head)
		rotate(slots_of(content), old, old - head);
	ring->nr = old;
	ring->head = head;
	ring->tail = tail;
}

/* ---- the room behind ---- */

struct room_search {
	const struct aior_table *table;
	const void *bytes;
	void (*visit)(uint32_t i, uint64_t room, void *data);
	void *data;
	uint32_t ring; /* the first whose room is not known yet */
};

static int visit_mapping(const struct aior_mapping *mapping, void *data)
{
	struct room_search *search = data;

	while (search->ring < search->table->ring_count) {
		const struct aior_ring_record *ring =
		    aior_capsule_ring(search->table, search->bytes, search->ring);
		uint64_t end = ring->addr + ring->len;

		if (mapping->end <= end)
			return 0;
		search->visit(search->ring++,
		    mapping->start > end ? mapping->start - ring->addr : ring->len, search->data);
	}
	return 0;
}

int aior_each_room(pid_t task, const struct aior_table *table, const void *bytes,
    void (*visit)(uint32_t i, uint64_t room, void *data), void *data)
{
	struct room_search search = {table, bytes, visit, data, 0};

	if (aior_each_mapping(task, visit_mapping, &search) < 0)
		return -1;
	for (; search.ring < table->ring_count; search.ring++)
		visit(search.ring, AIO_RING_MAX_LEN, data);
	return 0;
}

/* ---- in another process ---- */

static struct aior_ring_record *record_of(const struct aior_growth *growth, size_t i)
{
	return (void *)aior_capsule_ring(growth->table, growth->bytes, growth->rings[i].index);
}

static int write_records(const struct aior_growth *growth)
{
	const struct aior_table *table = growth->table;

	return aior_write_memory(growth->injection->process->task, growth->capsule + table->rings,
	    (const char *)growth->bytes + table->rings,
	    (size_t)table->ring_count * table->ring_stride);
}

/* The memory, and what will lie there. The record says first how long the ring may be found to be. */
static int prepare(
    struct aior_growth *growth, uint32_t index, uint64_t len, struct aior_error *error)
{
	struct aior_ring_record *record =
	    (void *)aior_capsule_ring(growth->table, growth->bytes, index);
	struct aior_grown *ring = &growth->rings[growth->count];
	int64_t err;

	*ring = (struct aior_grown){.index = index, .old_len = record->len, .len = len};
	ring->before = malloc((size_t)record->len);
	ring->after = calloc(1, (size_t)len);
	if (!ring->before || !ring->after ||
	    aior_read_memory(growth->injection->process->task, record->addr, ring->before,
		(size_t)record->len)) {
		err = errno;
		free(ring->before);
		free(ring->after);
		return aior_fail_ring(error, (int)err, "memory", record->addr,
		    "it cannot be read: %s", aior_errno_text((int)err));
	}
	memcpy(ring->after, ring->before, (size_t)record->len);
	aior_lay_out(ring->after, record->len, len);
	err = aior_inject_more(growth->injection, record->addr + record->len, len - record->len);
	if (err) {
		free(ring->before);
		free(ring->after);
		return aior_fail_ring(error, (int)-err, "memory", record->addr,
		    "the %llu bytes behind it, which it takes on this host, cannot be had: %s",
		    (unsigned long long)(len - record->len), aior_errno_text((int)-err));
	}
	record->room = len;
	growth->count++;
	return 0;
}

/* What is new lies behind the old; the header comes last, and says which of both counts. */
static int write_ring(const struct aior_growth *growth, size_t i)
{
	pid_t task = growth->injection->process->task;
	const struct aior_grown *ring = &growth->rings[i];
	struct aior_ring_record *record = record_of(growth, i);
	const struct aio_ring *before = (void *)ring->before, *after = (void *)ring->after;
	uint64_t old = ring->old_len;

	if (aior_write_memory(
		task, record->addr + old, ring->after + old, (size_t)(ring->len - old)))
		return -1;
	if (before->head != after->head &&
	    aior_write_memory(task, record->addr + AIO_RING_HEADER, ring->after + AIO_RING_HEADER,
		(size_t)(old - AIO_RING_HEADER)))
		return -1;
	if (aior_write_memory(task, record->addr, ring->after, AIO_RING_HEADER))
		return -1;
	record->len = ring->len;
	return 0;
}

int aior_grow(struct aior_growth *growth, struct aior_error *error)
{
	const struct aior_table *table = growth->table;
	struct aior_host host;
	int ret;

	growth->count = 0;
	growth->rings = calloc(table->ring_count + 1, sizeof(*growth->rings));
	if (!growth->rings)
		return aior_fail(error, ENOMEM, "memory", "out of memory");
	ret = aior_get_host(&host, error);
	for (uint32_t i = 0; !ret && i < table->ring_count; i++) {
		uint64_t had = aior_capsule_ring(table, growth->bytes, i)->len;
		uint64_t len = aior_len_on(&host, had);

		if (len > had)
			ret = prepare(growth, i, len, error);
	}
	if (!ret && growth->count) {
		ret = write_records(growth);
		for (size_t i = 0; !ret && i < growth->count; i++)
			ret = write_ring(growth, i);
		if (ret || write_records(growth))
			ret = aior_fail(error, errno, "memory",
			    "the rings cannot be written to: %s", aior_errno_text(errno));
	}
	if (ret)
		aior_shrink(growth);
	return ret;
}

void aior_shrink(struct aior_growth *growth)
{
	pid_t task = growth->injection->process->task;

	for (size_t i = 0; i < growth->count; i++) {
		const struct aior_grown *ring = &growth->rings[i];
		struct aior_ring_record *record = record_of(growth, i);

		aior_write_memory(task, record->addr, ring->before, (size_t)ring->old_len);
		record->len = ring->old_len;
		record->room = 0;
	}
	if (growth->count)
		write_records(growth);
	for (size_t i = 0; i < growth->count; i++)
		aior_inject_less(growth->injection,
		    record_of(growth, i)->addr + growth->rings[i].old_len,
		    growth->rings[i].len - growth->rings[i].old_len);
	aior_growth_free(growth);
}

void aior_growth_free(struct aior_growth *growth)
{
	for (size_t i = 0; i < growth->count; i++) {
		free(growth->rings[i].before);
		free(growth->rings[i].after);
	}
	free(growth->rings);
	growth->rings = NULL;
	growth->count = 0;
}

void aior_settle(pid_t task, const struct aior_table *table, void *bytes)
{
	for (uint32_t i = 0; i < table->ring_count; i++) {
		struct aior_ring_record *record = (void *)aior_capsule_ring(table, bytes, i);
		struct aio_ring header;

		if (record->room > record->len && record->room <= AIO_RING_MAX_LEN &&
		    !aior_read_memory(task, record->addr, &header, sizeof(header)) &&
		    aio_ring_check(&header, record->room) == AIO_RING_OK)
			record->len = record->room;
	}
}
