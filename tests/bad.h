/* SPDX-License-Identifier: MIT */
/* Argument blocks that each blob must refuse, before it touches anything. */
#ifndef TEST_BAD_H
#define TEST_BAD_H

#include "blob.h"

#define FAR (1ull << 52) /* no address that any process has */

#define AT_ARGS(field) offsetof(struct aior_args, field), sizeof(((struct aior_args *)0)->field)
#define AT_RING(field)                                                                             \
	offsetof(struct aior_ring_record, field), sizeof(((struct aior_ring_record *)0)->field)

/* A field of a sound block or record, and what is wrong in it. */
struct bad_field {
	const char *name;
	size_t offset, size;
	uint64_t value;
	uint32_t err;
};

/* Rows of struct bad_field; `header` is the blob's, `rings`, `polls` and `hole` are addresses. */
#define BAD_TABLES(header, rings, polls, hole)                                                     \
	{"page size 0", AT_ARGS(page_size), 0, EINVAL},                                            \
	    {"page size 1", AT_ARGS(page_size), 1, EINVAL},                                        \
	    {"page size 2048", AT_ARGS(page_size), 2048, EINVAL},                                  \
	    {"page size 4097", AT_ARGS(page_size), 4097, EINVAL},                                  \
	    {"page size 12288", AT_ARGS(page_size), 12288, EINVAL},                                \
	    {"page size all ones", AT_ARGS(page_size), ~0ull, EINVAL},                             \
	    {"page size 2 GiB", AT_ARGS(page_size), 1ull << 31, EFAULT},                           \
	    {"no scratch", AT_ARGS(scratch), 0, EFAULT},                                           \
	    {"scratch not aligned", AT_ARGS(scratch), (uintptr_t)blob.scratch + 8, EINVAL},        \
	    {"scratch not mapped", AT_ARGS(scratch), hole, EFAULT},                                \
	    {"scratch at the end of the world", AT_ARGS(scratch), ~0xfull, EFAULT},                \
	    {"no scratch length", AT_ARGS(scratch_len), 0, EINVAL},                                \
	    {"scratch too short", AT_ARGS(scratch_len), (header)->scratch - 1, EINVAL},            \
	    {"scratch shorter than it says", AT_ARGS(scratch_len), 65536, EFAULT},                 \
	    {"scratch length absurd", AT_ARGS(scratch_len), ~0ull, EFAULT},                        \
	    {"rings not aligned", AT_ARGS(rings), (uintptr_t)(rings) + 4, EINVAL},                 \
	    {"rings not mapped", AT_ARGS(rings), hole, EFAULT},                                    \
	    {"rings at 0", AT_ARGS(rings), 0, EFAULT},                                             \
	    {"rings at the end of the world", AT_ARGS(rings), ~7ull, EFAULT},                      \
	    {"more rings than mapped", AT_ARGS(ring_count), 1 << 20, EFAULT},                      \
	    {"ring count all ones", AT_ARGS(ring_count), ~0u, EFAULT},                             \
	    {"ring stride 0", AT_ARGS(ring_stride), 0, EINVAL},                                    \
	    {"ring stride too short", AT_ARGS(ring_stride), 72, EINVAL},                           \
	    {"ring stride not aligned", AT_ARGS(ring_stride), 84, EINVAL},                         \
	    {"ring stride all ones", AT_ARGS(ring_stride), ~7u, EFAULT},                           \
	    {"polls not aligned", AT_ARGS(polls), (uintptr_t)(polls) + 1, EINVAL},                 \
	    {"polls not mapped", AT_ARGS(polls), hole, EFAULT},                                    \
	    {"poll stride 0", AT_ARGS(poll_stride), 0, EINVAL},                                    \
	    {"poll stride too short", AT_ARGS(poll_stride), 24, EINVAL},                           \
	    {"poll stride not aligned", AT_ARGS(poll_stride), 36,                                  \
		EINVAL}, /* Right if nobody looked at more than 32 bits. */                        \
	    {"scratch in its lower half", AT_ARGS(scratch), FAR + (uintptr_t)blob.scratch,         \
		EFAULT},                                                                           \
	    {"scratch length in its lower half", AT_ARGS(scratch_len), FAR + (header)->scratch,    \
		EFAULT},                                                                           \
	    {"rings in their lower half", AT_ARGS(rings), FAR + (uintptr_t)(rings), EFAULT},       \
	{                                                                                          \
		"polls in their lower half", AT_ARGS(polls), FAR + (uintptr_t)(polls), EFAULT      \
	}

#endif
