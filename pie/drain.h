/* SPDX-License-Identifier: MIT */
/* Destroying contexts beside each other: written for each architecture, in arch/. */
#ifndef AIOR_PIE_DRAIN_H
#define AIOR_PIE_DRAIN_H

#include <stddef.h>
#include <stdint.h>

/* Handles that lie `stride` bytes apart; shared by all who work on them. */
struct drain {
	uint32_t next; /* whose turn it is; counted up atomically */
	uint32_t count;
	unsigned long first; /* address of the first handle */
	unsigned long stride;
};

_Static_assert(offsetof(struct drain, count) == 4, "struct drain");
_Static_assert(offsetof(struct drain, first) == 8, "struct drain");
_Static_assert(offsetof(struct drain, stride) == 8 + sizeof(long), "struct drain");

/*
 * Calls io_destroy of one handle after the other until none is left, and sets each that is gone to 0.
 * With `clone_flags` (CLONE_VM, at least) a new process does it and exits, and its pid or -errno is
 * returned at once. It runs on the stack of whoever made it, and does not touch it: so no memory
 * is needed for a helper.
 */
#pragma GCC visibility push(hidden)
long aior_drain(struct drain *drain, unsigned long clone_flags);
#pragma GCC visibility pop

#endif
