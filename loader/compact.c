/* SPDX-License-Identifier: MIT */
/*
 * Restoring a ring takes as many completions as its tail says. One that is staged may be laid out anew before that:
 *
 *	before   | header, head 4, tail 2 | 6 7 . . 4 5 |        (4 to 7: the events that are pending)
 *	after    | header, head 0, tail 4 | 4 5 6 7 4 5 |
 *
 * and then it takes as many as are pending. A program that keeps a head of its own would notice; one that has its
 * events from io_getevents does not.
 *
 * The new events may lie where the old ones do, so there must be no moment in which a part of them is written: the host
 * may be killed in it. Within a page nothing comes between. What is longer is put together elsewhere in the
 * process, as a whole ring, and moved into its place by one system call of the process's own.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "compact.h"

/* ---- the content ---- */

uint32_t aior_take_pending(const void *content, struct aio_slot *to)
{
	const struct aio_ring *ring = content;
	const struct aio_slot *slots = (const void *)((const char *)content + AIO_RING_HEADER);
	uint32_t pending = aio_ring_pending(ring->head, ring->tail, ring->nr);
	uint32_t first = aio_ring_first_piece(ring->head, pending, ring->nr);

	memcpy(to, slots + ring->head, first * sizeof(*to));
	memcpy(to + first, slots, (pending - first) * sizeof(*to));
	return pending;
}

static uint64_t end_of(uint32_t pending)
{
	return AIO_RING_HEADER + (uint64_t)pending * AIO_RING_SLOT;
}

uint64_t aior_compact_len(const struct aio_ring *ring)
{
	return end_of(aio_ring_pending(ring->head, ring->tail, ring->nr));
}

void aior_lay_compact(void *to, const void *content)
{
	struct aio_ring *ring = to;

	*ring = *(const struct aio_ring *)content;
	ring->tail = aior_take_pending(content, (void *)((char *)to + AIO_RING_HEADER));
	ring->head = 0;
}

int aior_compact_image(struct aior_image *image, struct aior_error *error)
{
	if (aior_check_image(image, error))
		return -1;
	for (size_t i = 0; i < image->ring_count; i++) {
		struct aior_ring *ring = &image->rings[i];
		uint64_t len = aior_compact_len((const void *)ring->content);
		void *compact = malloc((size_t)len);

		if (!compact)
			return aior_fail(error, ENOMEM, "memory", "out of memory");
		aior_lay_compact(compact, ring->content);
		memcpy(ring->content, compact, (size_t)len);
		free(compact);
		aior_take_header(ring, (const void *)ring->content);
	}
	return 0;
}

/* ---- in another process ---- */

static int read_header(pid_t task, const struct aior_ring_record *record, struct aio_ring *header)
{
	if (aior_read_memory(task, record->addr, header, sizeof(*header)))
		return -1;
	errno = EINVAL;
	return aio_ring_check(header, record->len) == AIO_RING_OK ? 0 : -1;
}

/* Whether so many bytes of a ring are replaced in one piece. */
static int is_in_a_page(const struct aior_table *table, uint64_t len)
{
	return len <= table->page_size;
}

uint64_t aior_compact_room(pid_t task, const struct aior_table *table, const void *bytes)
{
	uint64_t room = 0;

	for (uint32_t i = 0; i < table->ring_count; i++) {
		const struct aior_ring_record *record = aior_capsule_ring(table, bytes, i);
		struct aio_ring header;

		if (record->len > room && !read_header(task, record, &header) && header.head &&
		    !is_in_a_page(table, aior_compact_len(&header)))
			room = record->len;
	}
	return room;
}

/* Of a ring that is replaced in part: that part as it is, and as it will be. Other events lie behind it. */
static int read_part(pid_t task, const struct aio_ring *header, struct aior_compacted *ring)
{
	uint32_t pending = aio_ring_pending(header->head, header->tail, header->nr);
	uint32_t first = aio_ring_first_piece(header->head, pending, header->nr);
	struct aio_ring *after = (void *)ring->after;
	struct aio_slot *slots = (void *)(after + 1);

	*after = *header;
	after->head = 0;
	after->tail = pending;
	memcpy(slots + first, ring->before + AIO_RING_HEADER, (pending - first) * sizeof(*slots));
	return first ? aior_read_memory(task,
			   ring->addr + AIO_RING_HEADER + (uint64_t)header->head * AIO_RING_SLOT,
			   slots, first * sizeof(*slots))
		     : 0;
}

static int read_ring(struct aior_compaction *compaction, const struct aior_ring_record *record,
    const struct aio_ring *header, struct aior_compacted *ring)
{
	pid_t task = compaction->injection->process->task;
	int is_part;

	ring->addr = record->addr;
	ring->len = aior_compact_len(header);
	is_part = is_in_a_page(compaction->table, ring->len);
	if (!is_part)
		ring->len = record->len;
	ring->before = malloc((size_t)ring->len);
	ring->after = malloc((size_t)ring->len);
	if (!ring->before || !ring->after ||
	    aior_read_memory(task, ring->addr, ring->before, (size_t)ring->len))
		return -1;
	if (is_part)
		return read_part(task, header, ring);
	/* It has been read again: not only by us may it be written to. */
	errno = EINVAL;
	if (aio_ring_check((const void *)ring->before, ring->len) != AIO_RING_OK)
		return -1;
	memcpy(ring->after, ring->before, (size_t)ring->len);
	aior_lay_compact(ring->after, ring->before);
	return 0;
}

/* At once, or not at all; 0 or an errno. */
static int replace(
    struct aior_compaction *compaction, const struct aior_compacted *ring, const void *content)
{
	struct aior_injection *injection = compaction->injection;
	pid_t task = injection->process->task;
	int64_t err;

	if (is_in_a_page(compaction->table, ring->len))
		return aior_write_memory(task, ring->addr, content, (size_t)ring->len) ? errno : 0;
	err = aior_inject_more(injection, injection->spare, ring->len);
	if (err)
		return (int)-err;
	if (aior_write_memory(task, injection->spare, content, (size_t)ring->len))
		err = -errno;
	if (!err)
		err = aior_inject_move(injection, injection->spare, ring->len, ring->addr);
	if (err)
		aior_inject_less(injection, injection->spare, ring->len);
	return (int)-err;
}

static int compact_ring(struct aior_compaction *compaction, const struct aior_ring_record *record)
{
	struct aior_compacted *ring = &compaction->rings[compaction->count];
	struct aio_ring header;
	int err;

	if (read_header(compaction->injection->process->task, record, &header))
		return errno;
	if (!header.head)
		return 0;
	err = read_ring(compaction, record, &header, ring) ? errno
							   : replace(compaction, ring, ring->after);
	if (!err) {
		compaction->count++;
		return 0;
	}
	free(ring->before);
	free(ring->after);
	return err;
}

int aior_compact(struct aior_compaction *compaction, struct aior_error *error)
{
	const struct aior_table *table = compaction->table;

	compaction->count = 0;
	compaction->rings = calloc(table->ring_count + 1, sizeof(*compaction->rings));
	if (!compaction->rings)
		return aior_fail(error, ENOMEM, "memory", "out of memory");
	for (uint32_t i = 0; i < table->ring_count; i++) {
		const struct aior_ring_record *record =
		    aior_capsule_ring(table, compaction->bytes, i);
		int err = compact_ring(compaction, record);

		if (!err)
			continue;
		aior_compact_undo(compaction);
		return aior_fail_ring(error, err, "memory", record->addr,
		    "it cannot be laid out anew: %s", aior_errno_text(err));
	}
	return 0;
}

void aior_compact_undo(struct aior_compaction *compaction)
{
	const struct aior_table *table = compaction->table;
	pid_t task = compaction->injection->process->task;

	for (size_t i = 0; i < compaction->count; i++) {
		const struct aior_compacted *ring = &compaction->rings[i];

		if (replace(compaction, ring, ring->before))
			aior_write_memory(task, ring->addr, ring->before, (size_t)ring->len);
	}
	/* Where the blob has noted another head and another tail. */
	if (compaction->count)
		aior_write_memory(task, compaction->capsule + table->rings,
		    (const char *)compaction->bytes + table->rings,
		    (size_t)table->ring_count * table->ring_stride);
	aior_compact_free(compaction);
}

void aior_compact_free(struct aior_compaction *compaction)
{
	for (size_t i = 0; i < compaction->count; i++) {
		free(compaction->rings[i].before);
		free(compaction->rings[i].after);
	}
	free(compaction->rings);
	compaction->rings = NULL;
	compaction->count = 0;
}
