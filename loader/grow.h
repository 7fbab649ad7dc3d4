/* SPDX-License-Identifier: MIT */
/* Staged rings made larger, for a host that has no smaller ones. */
#ifndef AIOR_GROW_H
#define AIOR_GROW_H

#include "inject.h"

/* In memory of `len` bytes whose first `old_len` are a sound ring: the same events in a ring of that length. */
void aior_lay_out(void *content, uint64_t old_len, uint64_t len);
/* Undoes it; `head` and `tail` are what they were. */
void aior_lay_back(void *content, uint64_t old_len, uint32_t head, uint32_t tail);

/*
 * Calls `visit` for each ring of a capsule of a thread's process (0: the caller's): `room` is how many bytes
 * from its address on are its own or nobody's. Without the heap. Returns -1 with errno if the mappings cannot be read.
 */
int aior_each_room(pid_t task, const struct aior_table *table, const void *bytes,
    void (*visit)(uint32_t i, uint64_t room, void *data), void *data);

struct aior_grown {
	uint32_t index; /* of the ring */
	uint64_t old_len, len;
	unsigned char *before, *after; /* its content */
};

struct aior_growth {
	struct aior_injection *injection; /* that can make calls */
	const struct aior_table *table;
	void *bytes;      /* of the capsule: a copy, which is kept as the capsule is */
	uint64_t capsule; /* its address */
	struct aior_grown *rings;
	size_t count;
};

/*
 * Makes those staged rings of another process larger that this host has no smaller ones for, in their
 * memory and in their records; the first four fields are set. What fails leaves nothing changed. Then either aior_shrink(), after
 * which all is as it was, or aior_growth_free().
 */
int aior_grow(struct aior_growth *growth, struct aior_error *error);
void aior_shrink(struct aior_growth *growth);
void aior_growth_free(struct aior_growth *growth);

/* If whoever made a ring larger died before its record said so: it says so now, in `bytes`. */
void aior_settle(pid_t task, const struct aior_table *table, void *bytes);

#endif
