/* SPDX-License-Identifier: MIT */
/* Staged rings laid out anew from the first slot on, with nothing but their pending events. */
#ifndef AIOR_COMPACT_H
#define AIOR_COMPACT_H

#include "inject.h"

/* The pending events of a sound ring, the oldest first; `to` has room for all. Returns how many. */
uint32_t aior_take_pending(const void *content, struct aio_slot *to);
/* Of a ring with so many pending: what lies from its first byte up to the end of them, when it is compact. */
uint64_t aior_compact_len(const struct aio_ring *ring);
/* Makes that, from the content of the ring. */
void aior_lay_compact(void *to, const void *content);

struct aior_compacted {
	uint64_t addr, len; /* of what is replaced, from the ring's first byte on */
	unsigned char *before, *after;
};

struct aior_compaction {
	struct aior_injection
	    *injection; /* that can make calls, with room as aior_compact_room() says */
	const struct aior_table *table;
	const void *bytes; /* of the capsule: a copy */
	uint64_t capsule;  /* its address */
	struct aior_compacted *rings;
	size_t count;
};

/* How many addresses it takes besides, in a process with these staged rings. */
uint64_t aior_compact_room(pid_t task, const struct aior_table *table, const void *bytes);
/*
 * Makes the staged rings of another process compact, in their memory; the first four fields are set. What fails
 * leaves nothing changed; and whenever this host dies, each ring is as it was, or compact. Then either
 * aior_compact_undo(), after which all is as it was, or aior_compact_free().
 */
int aior_compact(struct aior_compaction *compaction, struct aior_error *error);
void aior_compact_undo(struct aior_compaction *compaction);
void aior_compact_free(struct aior_compaction *compaction);

#endif
