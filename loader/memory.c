/* SPDX-License-Identifier: MIT */
/*
 * Rings and capsules, read out of the memory of a process: a running one, or one that a core or CRIU's
 * images hold. Whoever made those may be an enemy: nothing is allocated that they do not hold.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "grow.h"

/* Whether so many bytes more may be what they are said to be; -1, and memory->why says why not. */
static int may_be_held(struct aior_memory *memory, uint64_t len)
{
	if (len <= memory->held - memory->claimed)
		return 0;
	snprintf(memory->why, sizeof(memory->why),
	    "%s: its rings are said to be larger than the file", memory->name);
	return -1;
}

/* Allocates and reads it; NULL, and memory->why says why. The caller frees it. */
static void *read_bytes(struct aior_memory *memory, uint64_t addr, uint64_t len)
{
	void *bytes;

	if (may_be_held(memory, len))
		return NULL;
	bytes = malloc((size_t)len);
	if (!bytes) {
		snprintf(memory->why, sizeof(memory->why), "there is no memory for its rings");
		return NULL;
	}
	if (memory->copy(memory, bytes, addr, len)) {
		free(bytes);
		return NULL;
	}
	memory->claimed += len;
	return bytes;
}

int aior_read_ring(struct aior_memory *memory, uint64_t addr, uint64_t len, uint32_t prot,
    enum aior_state state, struct aior_error *error)
{
	uint32_t page = memory->image->page_size;
	struct aior_ring *ring = aior_add_ring(memory->image);
	struct aio_ring header;

	if (!ring)
		return aior_fail(error, ENOMEM, "read", "there is no memory for its rings");
	ring->addr = addr;
	ring->len = len;
	ring->prot = prot;
	ring->state = state;
	ring->max_cpus = aio_ring_max_cpus(len);
	if (addr % page || len % page || len < sizeof(header))
		return aior_fail_ring(error, EINVAL, "read", addr,
		    "%s: it is not made of whole pages of %u bytes", memory->name, page);
	if (prot & ~(uint32_t)(PROT_READ | PROT_WRITE | PROT_EXEC))
		return aior_fail_ring(error, EINVAL, "read", addr,
		    "%s: no mapping has the protection that it is said to have (0x%x)",
		    memory->name, prot);
	/* Only what looks like a ring is worth the memory. */
	if (memory->copy(memory, &header, addr, sizeof(header)))
		return aior_fail_ring(error, EINVAL, "read", addr, "%s", memory->why);
	aior_take_header(ring, &header);
	if (ring->damage && memory->takes_damaged)
		return 0;
	if (ring->damage)
		return aior_fail_ring(
		    error, EINVAL, "read", addr, "%s: %s", memory->name, ring->damage);
	ring->content = read_bytes(memory, addr, len);
	return ring->content ? 0 : aior_fail_ring(error, EINVAL, "read", addr, "%s", memory->why);
}

/*
 * A restore that has not come to its end, or whose host has died, has left it live: then it is where rings are. What
 * runs may be between the one and the other.
 */
static int is_live(struct aior_memory *memory, const struct aior_ring_record *record)
{
	for (size_t i = 0; i < memory->image->ring_count; i++) {
		const struct aior_ring *ring = &memory->image->rings[i];

		if (ring->addr == record->addr && ring->state != AIOR_STAGED)
			return 1;
	}
	if (!(record->flags & AIOR_RING_LIVE))
		return 0;
	memory->unseen++;
	return 1;
}

/* The rings of a sound capsule that are staged; polls are grouped by ring, in ring order. */
static int read_staged(struct aior_memory *memory, const struct aior_table *table,
    const void *bytes, struct aior_error *error)
{
	uint32_t poll = 0;

	for (uint32_t i = 0; i < table->ring_count; i++) {
		const struct aior_ring_record *record = aior_capsule_ring(table, bytes, i);
		int is_staged = !is_live(memory, record);
		struct aio_ring header;
		uint32_t polls = 0;
		uint64_t len = record->len;

		for (; poll < table->poll_count &&
		       aior_capsule_poll(table, bytes, poll)->ring == record->addr;
		     poll++)
			polls++;
		if (is_staged && !memory->copy(memory, &header, record->addr, sizeof(header)))
			len = aior_settled_len(record, &header);
		if (is_staged &&
		    aior_read_ring(memory, record->addr, len, record->prot, AIOR_STAGED, error))
			return -1;
		if (is_staged)
			memory->image->rings[memory->image->ring_count - 1].polls = polls;
	}
	return 0;
}

/* As long as requests in flight are waited for, what will lie there is not there yet. */
static int read_draining(
    struct aior_memory *memory, const struct aior_capsule *capsule, struct aior_error *error)
{
	const struct aior_table *table = &capsule->table;
	uint64_t records = (uint64_t)table->ring_count * table->ring_stride;

	if (!aior_holds_rings(capsule))
		return 0;
	/* A mapping may be far larger than what the image holds of it: the rest is zeros. */
	if (may_be_held(memory, records))
		return aior_fail(error, EINVAL, "read", "the capsule at 0x%llx cannot be read: %s",
		    (unsigned long long)capsule->addr, memory->why);
	memory->claimed += records;
	for (uint32_t i = 0; i < table->ring_count; i++) {
		uint64_t at = table->rings + (uint64_t)i * table->ring_stride;
		struct aior_ring_record record;
		struct aior_ring *ring;

		if (memory->copy(memory, &record, capsule->addr + at, sizeof(record)))
			return 0;
		ring = aior_add_ring(memory->image);
		if (!ring)
			return aior_fail(error, ENOMEM, "read", "there is no memory for its rings");
		ring->addr = record.addr;
		ring->len = record.len;
		ring->prot = record.prot;
		ring->state = AIOR_STAGED;
		ring->nr = aio_ring_nr((uint32_t)record.len);
		ring->max_cpus = aio_ring_max_cpus(record.len);
	}
	return 0;
}

int aior_read_capsule(
    struct aior_memory *memory, struct aior_capsule *capsule, struct aior_error *error)
{
	struct aior_table *table = &capsule->table;
	void *bytes;
	int ret;

	capsule->may_be_live = 1;
	if (table->state == AIOR_TABLE_DRAINING)
		return read_draining(memory, capsule, error);
	if (table->state == AIOR_TABLE_PREPARED)
		return 0;
	aior_count_polls(table);
	if (aior_check_capsule(capsule, memory->image->arch, error))
		return -1;
	bytes = read_bytes(memory, capsule->addr, table->total);
	if (!bytes)
		return aior_fail(error, EINVAL, "read", "the capsule at 0x%llx cannot be read: %s",
		    (unsigned long long)capsule->addr, memory->why);
	memory->image->page_size = table->page_size;
	memory->image->possible_cpus = table->possible_cpus;
	ret = aior_check_records(capsule, bytes, error);
	if (!ret)
		ret = read_staged(memory, table, bytes, error);
	free(bytes);
	return ret;
}

int aior_read_capsule_at(struct aior_memory *memory, uint64_t addr, uint64_t room, uint32_t prot,
    struct aior_capsule *found, struct aior_error *error)
{
	struct aior_capsule capsule = {.addr = addr, .room = room, .prot = prot};

	capsule.page_size = found->page_size;
	if (room < sizeof(capsule.table))
		return 0;
	if (memory->copy(memory, &capsule.table, addr, sizeof(capsule.table)))
		return aior_fail(error, EINVAL, "image", "%s", memory->why);
	if (memcmp(capsule.table.magic, AIOR_TABLE_MAGIC, sizeof(capsule.table.magic)))
		return 0;
	if (found->addr)
		return aior_fail_image(error, memory->name,
		    "there are two capsules, at 0x%llx and 0x%llx: nothing tells which one is "
		    "right",
		    (unsigned long long)found->addr, (unsigned long long)addr);
	*found = capsule;
	return aior_read_capsule(memory, found, error);
}
