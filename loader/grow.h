/* SPDX-License-Identifier: MIT */
/* Staged rings made larger, for a host that has no smaller ones. */
#ifndef AIOR_GROW_H
#define AIOR_GROW_H

#include "inject.h"

/* In memory of `len` bytes whose first `old_len` are a sound ring: the same events in a ring of that length. */
void aior_lay_out(void *content, uint64_t old_len, uint64_t len);
/* Undoes it; `head` and `tail` are what they were. */
void aior_lay_back(void *content, uint64_t old_len, uint32_t head, uint32_t tail);

struct aior_room {
	uint64_t
	    len; /* bytes from the ring's address on that are its own, kept for it, or nobody's */
	uint64_t kept; /* behind its end: address space that is kept for it, as its record says */
};

/*
 * Calls `visit` for each ring of a capsule of a thread's process (0: the caller's), in their order, and says how
 * much room it has. Without the heap. Returns -1 with errno if the mappings cannot be read.
 */
int aior_each_room(pid_t task, const struct aior_table *table, const void *bytes,
    void (*visit)(uint32_t i, const struct aior_room *room, void *data), void *data);

struct aior_grown {
	uint32_t index; /* of the ring */
	uint64_t old_len, len;
	uint64_t kept; /* behind the old one, and again when it is back */
	int is_mapped;
	unsigned char *before, *after; /* its content */
};

struct aior_growth {
	struct aior_injection
	    *injection; /* that can make calls, with room as aior_grow_room() says */
	const struct aior_table *table;
	void *bytes;      /* of the capsule: a copy, which is kept as the capsule is */
	uint64_t capsule; /* its address */
	struct aior_grown *rings;
	size_t count;
};

/* How many addresses it takes besides, in a process with these staged rings. */
uint64_t aior_grow_room(pid_t task, const struct aior_table *table, const void *bytes);
/*
 * Makes those staged rings of another process larger that this host has no smaller ones for, in their
 * memory and in their records; the first four fields are set. What fails leaves nothing changed; and whenever this
 * host dies, each ring is as it was, or larger. Then either aior_shrink(), after which all is as it was, or
 * aior_growth_free().
 */
int aior_grow(struct aior_growth *growth, struct aior_error *error);
void aior_shrink(struct aior_growth *growth);
void aior_growth_free(struct aior_growth *growth);

/*
 * Keeps address space behind each ring of a process whose injection can make calls, so that it may be restored
 * where `cpus` CPUs are possible, and says so in its records: those in `bytes`, a copy of the capsule at that
 * address. Rings that have no room are named in `report`, which has a list for that (aior_reserve_no_room()).
 */
void aior_keep_room(struct aior_injection *injection, uint64_t capsule, void *bytes, uint32_t cpus,
    struct aior_report *report);
/* Gives it back, while nobody runs in there yet. */
void aior_release_room(struct aior_injection *injection, uint64_t capsule, void *bytes);

/*
 * How long a staged ring is, by its record and its header: whoever has made it larger may have died before he could
 * write that into the record.
 */
uint64_t aior_settled_len(const struct aior_ring_record *record, const struct aio_ring *header);
/* If whoever made a ring larger died before its record said so: it says so now, in `bytes`. */
void aior_settle(pid_t task, const struct aior_table *table, void *bytes);

#endif
