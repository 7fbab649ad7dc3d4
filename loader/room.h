/* SPDX-License-Identifier: MIT */
/* Address space behind staged rings, kept for a host whose smallest ring is larger. */
#ifndef AIOR_ROOM_H
#define AIOR_ROOM_H

#include "inject.h"

/* How long a ring of `len` bytes must be where so many CPUs are possible; never less than `len`. */
uint64_t aior_len_for(uint32_t cpus, uint32_t page_size, uint64_t len);

/*
 * How many bytes behind a staged ring are kept for it, as its record says, and nothing else: 0 if the mapping
 * that begins there, which may be NULL, is another one.
 */
uint64_t aior_kept(const struct aior_ring_record *record, const struct aior_mapping *behind);

/*
 * Keeps room behind each ring of a capsule, in a parked process whose injection can make calls, so that it
 * may be restored where `cpus` CPUs are possible: address space without memory. Its records, in `bytes`, a copy
 * of the capsule at `capsule`, say so. Those that have none are named in `report`. Fails with ENOMEM or what the
 * mappings cannot be read with, and has done nothing.
 */
int aior_keep_room(struct aior_injection *injection, uint64_t capsule, void *bytes, uint32_t cpus,
    struct aior_report *report, struct aior_error *error);

/* Gives all of it back, while nobody runs in the process yet. */
void aior_release_room(struct aior_injection *injection, uint64_t capsule, void *bytes);

/* The same for the caller's own process, without the heap: before its rings are staged ... */
int aior_keep_own_room(struct aior_ring_record *records, uint32_t count, uint32_t cpus,
    struct aior_report *report, struct aior_error *error);
/* ... and of staged rings; their records say no more that there is any. */
void aior_release_own_room(struct aior_table *table);

#endif
