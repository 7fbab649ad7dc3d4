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
	void (*visit)(uint32_t i, const struct aior_room *room, void *data);
	void *data;
	uint32_t ring; /* the first whose room is not known yet */
	uint64_t kept; /* for that one, and nothing else lies there */
};

static void visit_room(struct room_search *search, uint64_t len)
{
	const struct aior_room room = {len, search->kept};

	search->kept = 0;
	search->visit(search->ring++, &room, search->data);
}

/*
 * Whether what lies there is what is kept for the ring in front of it, and perhaps something else behind that. Or
 * what has been mapped by one who was about to make the ring larger, and died: that is one piece with the ring.
 */
static int is_kept(const struct aior_ring_record *ring, const struct aior_mapping *mapping)
{
	uint64_t end = ring->addr + ring->len;

	return ring->room > ring->len && mapping->is_private_memory && mapping->start <= end &&
	       mapping->end - ring->addr >= ring->room &&
	       (mapping->prot == (PROT_READ | PROT_WRITE) ||
		   (!mapping->prot && mapping->start == end));
}

static int visit_mapping(const struct aior_mapping *mapping, void *data)
{
	struct room_search *search = data;

	while (search->ring < search->table->ring_count) {
		const struct aior_ring_record *ring =
		    aior_capsule_ring(search->table, search->bytes, search->ring);
		uint64_t end = ring->addr + ring->len;

		if (mapping->end <= end)
			return 0;
		if (!search->kept && is_kept(ring, mapping)) {
			search->kept = ring->room - ring->len;
			if (mapping->end == ring->addr + ring->room)
				return 0;
			visit_room(search, ring->room);
			continue;
		}
		visit_room(search, mapping->start > end ? mapping->start - ring->addr : ring->len);
	}
	return 0;
}

int aior_each_room(pid_t task, const struct aior_table *table, const void *bytes,
    void (*visit)(uint32_t i, const struct aior_room *room, void *data), void *data)
{
	struct room_search search = {table, bytes, visit, data, 0, 0};

	if (aior_each_mapping(task, visit_mapping, &search) < 0)
		return -1;
	while (search.ring < table->ring_count)
		visit_room(&search, AIO_RING_MAX_LEN);
	return 0;
}

/* ---- room that is kept ---- */

static int write_records(
    pid_t task, uint64_t capsule, const struct aior_table *table, const void *bytes)
{
	return aior_write_memory(task, capsule + table->rings, (const char *)bytes + table->rings,
	    (size_t)table->ring_count * table->ring_stride);
}

struct wanted_room {
	struct aior_injection *injection;
	const struct aior_table *table;
	void *bytes;
	uint32_t cpus;
	struct aior_report *report;
};

/* What the record says is there before it is: nothing lies there, and if we die it is looked for. */
static void want_room(uint32_t i, const struct aior_room *room, void *data)
{
	struct wanted_room *wanted = data;
	struct aior_ring_record *record =
	    (void *)aior_capsule_ring(wanted->table, wanted->bytes, i);
	uint64_t len = aior_len_for(wanted->cpus, record->len), kept = record->len + room->kept;

	if (len > room->len)
		wanted->report->no_room[wanted->report->no_room_count++] = record->addr;
	/* What was kept for others is kept still, as a part of it or alone. */
	if (len > room->len || len < kept)
		len = kept;
	if (room->kept)
		aior_inject_less(wanted->injection, record->addr + record->len, room->kept);
	record->room = len > record->len ? len : 0;
}

static void keep_one(
    struct aior_injection *injection, struct aior_ring_record *record, struct aior_report *report)
{
	uint64_t end = record->addr + record->len;

	if (!record->room || !aior_inject_reserve(injection, end, record->room - record->len))
		return;
	record->room = 0;
	if (!report->no_room_count || report->no_room[report->no_room_count - 1] != record->addr)
		report->no_room[report->no_room_count++] = record->addr;
}

void aior_keep_room(struct aior_injection *injection, uint64_t capsule, void *bytes, uint32_t cpus,
    struct aior_report *report)
{
	const struct aior_table *table = bytes;
	struct wanted_room wanted = {injection, table, bytes, cpus, report};
	pid_t task = injection->process->task;

	if (!aior_each_room(task, table, bytes, want_room, &wanted) &&
	    !write_records(task, capsule, table, bytes)) {
		for (uint32_t i = 0; i < table->ring_count; i++)
			keep_one(injection, (void *)aior_capsule_ring(table, bytes, i), report);
		write_records(task, capsule, table, bytes);
	}
	aior_trim_no_room(report);
}

struct kept_room {
	struct aior_injection *injection;
	const struct aior_table *table;
	void *bytes;
};

static void release_one(uint32_t i, const struct aior_room *room, void *data)
{
	struct kept_room *kept = data;
	struct aior_ring_record *record = (void *)aior_capsule_ring(kept->table, kept->bytes, i);

	if (room->kept)
		aior_inject_less(kept->injection, record->addr + record->len, room->kept);
	record->room = 0;
}

void aior_release_room(struct aior_injection *injection, uint64_t capsule, void *bytes)
{
	struct kept_room kept = {injection, bytes, bytes};
	pid_t task = injection->process->task;
	uint32_t i = 0;

	while (i < kept.table->ring_count && !aior_capsule_ring(kept.table, bytes, i)->room)
		i++;
	if (i == kept.table->ring_count)
		return;
	aior_each_room(task, kept.table, bytes, release_one, &kept);
	write_records(task, capsule, kept.table, bytes);
}

/* ---- in another process ---- */

static struct aior_ring_record *record_of(const struct aior_growth *growth, size_t i)
{
	return (void *)aior_capsule_ring(growth->table, growth->bytes, growth->rings[i].index);
}

static int write_all_records(const struct aior_growth *growth)
{
	return write_records(
	    growth->injection->process->task, growth->capsule, growth->table, growth->bytes);
}

/* What will lie there. Nothing of that memory is kept any more: it is free for a moment. */
static int prepare(struct aior_growth *growth, uint32_t index, uint64_t len, uint64_t kept,
    struct aior_error *error)
{
	struct aior_ring_record *record =
	    (void *)aior_capsule_ring(growth->table, growth->bytes, index);
	unsigned char *before = malloc((size_t)record->len), *after = calloc(1, (size_t)len);

	if (!before || !after ||
	    aior_read_memory(
		growth->injection->process->task, record->addr, before, (size_t)record->len)) {
		int err = errno;

		free(before);
		free(after);
		return aior_fail_ring(error, err, "memory", record->addr, "it cannot be read: %s",
		    aior_errno_text(err));
	}
	/* It was sound when it was looked at, and may have been written to since. */
	if (aio_ring_check((const void *)before, record->len) != AIO_RING_OK) {
		free(before);
		free(after);
		return aior_fail_ring(error, EINVAL, "memory", record->addr,
		    "its staged content has been damaged meanwhile");
	}
	memcpy(after, before, (size_t)record->len);
	aior_lay_out(after, record->len, len);
	growth->rings[growth->count++] = (struct aior_grown){
	    .index = index,
	    .old_len = record->len,
	    .len = len,
	    .kept = kept,
	    .before = before,
	    .after = after,
	};
	if (kept)
		aior_inject_less(growth->injection, record->addr + record->len, kept);
	record->room = len; /* -Wanalyzer-malloc-leak: both contents go with the growth */
	return 0;
}

static int take_room(struct aior_growth *growth, size_t i, struct aior_error *error)
{
	struct aior_grown *ring = &growth->rings[i];
	uint64_t addr = record_of(growth, i)->addr, more = ring->len - ring->old_len;
	int64_t err = aior_inject_more(growth->injection, addr + ring->old_len, more);

	ring->is_mapped = !err;
	if (err)
		return aior_fail_ring(error, (int)-err, "memory", addr,
		    "the %llu bytes behind it, which it takes on this host, cannot be had: %s",
		    (unsigned long long)more, aior_errno_text((int)-err));
	return 0;
}

/* Whether it is written over as it is: within a page nothing comes between, even if the host is killed. */
static int is_in_a_page(const struct aior_growth *growth, const struct aior_grown *ring)
{
	return ring->old_len <= growth->table->page_size;
}

/* Whether the events change places, or one behind the other stay, and the header alone says so. */
static int is_rotated(const struct aior_grown *ring)
{
	const struct aio_ring *before = (const void *)ring->before;
	const struct aio_ring *after = (const void *)ring->after;

	return before->head != after->head;
}

/* The whole ring is put together elsewhere in the process, and moved into its place by one call of its own. */
static int move_ring(
    const struct aior_growth *growth, uint64_t addr, const void *content, uint64_t len)
{
	struct aior_injection *injection = growth->injection;
	int64_t err = aior_inject_more(injection, injection->spare, len);

	if (err) {
		errno = (int)-err;
		return -1;
	}
	if (aior_write_memory(injection->process->task, injection->spare, content, (size_t)len))
		err = -errno;
	if (!err)
		err = aior_inject_move(injection, injection->spare, len, addr);
	if (err)
		aior_inject_less(injection, injection->spare, len);
	errno = (int)-err;
	return err ? -1 : 0;
}

/*
 * Whenever the host dies, the ring is as it was, or larger. What is new lies behind the old; then the header says
 * which of both counts. If events change places, that comes in the same moment.
 */
static int write_ring(const struct aior_growth *growth, size_t i)
{
	pid_t task = growth->injection->process->task;
	const struct aior_grown *ring = &growth->rings[i];
	struct aior_ring_record *record = record_of(growth, i);
	uint64_t old = ring->old_len;
	int err;

	if (is_rotated(ring) && !is_in_a_page(growth, ring))
		err = move_ring(growth, record->addr, ring->after, ring->len);
	else
		err = aior_write_memory(
			  task, record->addr + old, ring->after + old, (size_t)(ring->len - old)) ||
		      aior_write_memory(task, record->addr, ring->after,
			  is_rotated(ring) ? (size_t)old : AIO_RING_HEADER);
	if (!err)
		record->len = ring->len;
	return err ? -1 : 0;
}

uint64_t aior_grow_room(pid_t task, const struct aior_table *table, const void *bytes)
{
	struct aior_host host;
	uint64_t room = 0;

	if (aior_get_host(&host, NULL))
		return 0;
	for (uint32_t i = 0; i < table->ring_count; i++) {
		const struct aior_ring_record *record = aior_capsule_ring(table, bytes, i);
		uint64_t len = aior_len_on(&host, record->len);
		struct aio_ring header;

		if (len > record->len && len > room && record->len > table->page_size &&
		    !aior_read_memory(task, record->addr, &header, sizeof(header)) &&
		    header.tail < header.head)
			room = len;
	}
	return room;
}

static int cannot_write(struct aior_error *error)
{
	return aior_fail(
	    error, errno, "memory", "the rings cannot be written to: %s", aior_errno_text(errno));
}

static void note_kept(uint32_t i, const struct aior_room *room, void *data)
{
	uint64_t *kept = data;

	kept[i] = room->kept;
}

int aior_grow(struct aior_growth *growth, struct aior_error *error)
{
	const struct aior_table *table = growth->table;
	struct aior_host host;
	uint64_t *kept;
	int ret;

	growth->count = 0;
	growth->rings = calloc(table->ring_count + 1, sizeof(*growth->rings));
	kept = calloc(table->ring_count + 1, sizeof(*kept));
	if (!growth->rings || !kept) {
		free(growth->rings);
		free(kept);
		return aior_fail(error, ENOMEM, "memory", "out of memory");
	}
	ret = aior_get_host(&host, error);
	if (!ret &&
	    aior_each_room(growth->injection->process->task, table, growth->bytes, note_kept, kept))
		ret = aior_fail(error, errno, "maps", "the mappings cannot be read: %s",
		    aior_errno_text(errno));
	for (uint32_t i = 0; !ret && i < table->ring_count; i++) {
		uint64_t had = aior_capsule_ring(table, growth->bytes, i)->len;
		uint64_t len = aior_len_on(&host, had);

		if (len > had)
			ret = prepare(growth, i, len, kept[i], error);
	}
	/* Whoever comes next, if we die, knows by its record how large a ring may be found to be. */
	if (!ret && growth->count && write_all_records(growth))
		ret = cannot_write(error);
	for (size_t i = 0; !ret && i < growth->count; i++)
		ret = take_room(growth, i, error);
	for (size_t i = 0; !ret && i < growth->count; i++)
		if (write_ring(growth, i))
			ret = cannot_write(error);
	if (!ret && growth->count && write_all_records(growth))
		ret = cannot_write(error);
	free(kept);
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

		if (!is_rotated(ring) || is_in_a_page(growth, ring) ||
		    move_ring(growth, record->addr, ring->before, ring->old_len))
			aior_write_memory(task, record->addr, ring->before, (size_t)ring->old_len);
		record->len = ring->old_len;
		record->room = ring->kept ? ring->old_len + ring->kept : 0;
	}
	if (growth->count)
		write_all_records(growth);
	for (size_t i = 0; i < growth->count; i++) {
		const struct aior_grown *ring = &growth->rings[i];
		uint64_t end = record_of(growth, i)->addr + ring->old_len;

		if (ring->is_mapped)
			aior_inject_less(growth->injection, end, ring->len - ring->old_len);
		if (ring->kept)
			aior_inject_reserve(growth->injection, end, ring->kept);
	}
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

uint64_t aior_settled_len(const struct aior_ring_record *record, const struct aio_ring *header)
{
	return record->room > record->len && record->room <= AIO_RING_MAX_LEN &&
		       aio_ring_check(header, record->room) == AIO_RING_OK
		   ? record->room
		   : record->len;
}

void aior_settle(pid_t task, const struct aior_table *table, void *bytes)
{
	for (uint32_t i = 0; i < table->ring_count; i++) {
		struct aior_ring_record *record = (void *)aior_capsule_ring(table, bytes, i);
		struct aio_ring header;

		if (!aior_read_memory(task, record->addr, &header, sizeof(header)))
			record->len = aior_settled_len(record, &header);
	}
}
