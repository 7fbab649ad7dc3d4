/* SPDX-License-Identifier: MIT */
/*
 * Restoring a ring takes as many completions as its tail says. Laid out anew it takes as many as are pending:
 *
 *	before   | header, head 4, tail 2 | 6 7 . . 4 5 |        (4 to 7: the events that are pending)
 *	after    | header, head 0, tail 4 | 4 5 6 7 4 5 |
 *
 * For rings of processes the restore blob does that (AIOR_F_COMPACT), in the new ring. Here it is done in an image.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* The pending events of a sound ring, the oldest first; `to` has room for all. Returns how many. */
static uint32_t take_pending(const struct aio_ring *ring, struct aio_slot *to)
{
	const struct aio_slot *slots = (const void *)(ring + 1);
	uint32_t pending = aio_ring_pending(ring->head, ring->tail, ring->nr);
	uint32_t first = aio_ring_first_piece(ring->head, pending, ring->nr);

	memcpy(to, slots + ring->head, first * sizeof(*to));
	memcpy(to + first, slots, (pending - first) * sizeof(*to));
	return pending;
}

int aior_compact_image(struct aior_image *image, struct aior_error *error)
{
	if (aior_check_image(image, error))
		return -1;
	for (size_t i = 0; i < image->ring_count; i++) {
		struct aior_ring *ring = &image->rings[i];
		struct aio_ring *header = (void *)ring->content;
		struct aio_slot *events = malloc((size_t)ring->len);

		if (!events)
			return aior_fail(error, ENOMEM, "memory", "out of memory");
		header->tail = take_pending(header, events);
		header->head = 0;
		memcpy(header + 1, events, header->tail * sizeof(*events));
		free(events);
		aior_take_header(ring, header);
	}
	return 0;
}
