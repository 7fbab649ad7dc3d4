/* SPDX-License-Identifier: MIT */
/* The arithmetic of pie/ring.h, for every header, every length and every number of CPUs. */
#include <stddef.h>

#include "proofs.h"
#include "ring.h"

#define MOST_NR ((AIO_RING_MAX_LEN - AIO_RING_HEADER) / AIO_RING_SLOT)

static uint32_t any_below(uint32_t end)
{
	uint32_t value = any_u32();

	suppose(value < end);
	return value;
}

static uint32_t any_nr(void)
{
	uint32_t nr = any_u32();

	suppose(nr >= 2 && nr <= MOST_NR);
	return nr;
}

/* ---- what is taken for a ring ---- */

void prove_check_takes_what_is_sound_and_nothing_else(void)
{
	struct aio_ring ring = {.nr = any_u32(),
	    .head = any_u32(),
	    .tail = any_u32(),
	    .magic = any_u32(),
	    .header_length = any_u32()};
	uint64_t len = any_u64();
	int is_sound = ring.magic == 0xa10a10a1 && ring.header_length == 32 && ring.nr >= 2 &&
		       len == 32 + 32 * (uint64_t)ring.nr && len <= AIO_RING_MAX_LEN &&
		       ring.head < ring.nr && ring.tail < ring.nr;

	holds((aio_ring_check(&ring, len) == AIO_RING_OK) == is_sound);
}

void prove_check_reads_nothing_of_what_is_too_short(void)
{
	uint64_t len = any_u64();

	suppose(len < sizeof(struct aio_ring) || len > AIO_RING_MAX_LEN);
	holds(aio_ring_check(NULL, len) == AIO_RING_BAD_LENGTH);
}

void prove_nr_slots_fit(void)
{
	uint32_t len = any_u32(), nr = aio_ring_nr(len);

	holds(!nr || 32 + 32 * (uint64_t)nr <= len);
	holds(len < 32 || 32 + 32 * ((uint64_t)nr + 1) > len);
}

/* ---- where the pending events are ---- */

void prove_pending_and_completions(void)
{
	uint32_t nr = any_nr(), head = any_below(nr), tail = any_below(nr);
	uint32_t pending = aio_ring_pending(head, tail, nr);
	uint32_t completions = aio_ring_completions(head, tail, nr);

	holds(pending < nr);
	holds((pending == 0) == (head == tail));
	holds(head + pending == tail || head + pending == tail + nr);
	holds(completions < 2 * nr);
	holds(completions == tail || completions == tail + nr);
	holds(completions == head + pending);
}

void prove_next_and_back(void)
{
	uint32_t nr = any_nr(), slot = any_below(nr), count = any_below(nr);
	uint32_t next = aio_ring_next(slot, nr), back = aio_ring_back(slot, count, nr);

	holds(next < nr && next != slot);
	holds(aio_ring_pending(slot, next, nr) == 1);
	holds(back < nr);
	holds(aio_ring_pending(back, slot, nr) == count);
	holds(aio_ring_back(next, 1, nr) == slot);
}

/* Two pieces, which lie in the mapping and not on each other. */
void prove_pieces_are_disjoint_and_inside(void)
{
	uint32_t nr = any_nr(), head = any_below(nr), tail = any_below(nr);
	uint32_t pending = aio_ring_pending(head, tail, nr);
	uint32_t first = aio_ring_first_piece(head, pending, nr), rest = pending - first;
	uint64_t len = 32 + 32 * (uint64_t)nr;

	holds(first <= pending);
	holds(head + first <= nr);
	holds(rest <= head && rest <= tail);
	holds(!rest || (head + first == nr && rest == tail));
	/* In bytes, as they are copied: 32 bits hold them. */
	holds(AIO_RING_HEADER + AIO_RING_SLOT * (head + first) <= len);
	holds(AIO_RING_HEADER + AIO_RING_SLOT * rest <= AIO_RING_HEADER + AIO_RING_SLOT * head);
}

/* Event by event they are the slots that a program comes to from the head on. */
void prove_pieces_are_in_order(void)
{
	uint32_t nr = any_nr(), head = any_below(nr), tail = any_below(nr);
	uint32_t pending = aio_ring_pending(head, tail, nr);
	uint32_t first = aio_ring_first_piece(head, pending, nr), i = any_u32();
	uint32_t at, behind;

	suppose(pending && i < pending);
	at = i < first ? head + i : i - first;
	behind = i + 1 < first ? head + i + 1 : i + 1 - first;
	holds(i != 0 || at == head);
	holds(i + 1 != pending || aio_ring_next(at, nr) == tail);
	holds(i + 1 == pending || aio_ring_next(at, nr) == behind);
}

/* In a larger ring they lie in one piece, from wherever the head goes. */
void prove_new_head(void)
{
	uint32_t nr = any_nr(), larger = any_nr(), head = any_below(nr), pending = any_below(nr);
	uint32_t new_head = aio_ring_new_head(head, pending, larger);

	suppose(larger >= nr);
	holds(new_head == head || new_head == 0);
	holds(new_head + pending < larger);
	holds(aio_ring_pending(new_head, new_head + pending, larger) == pending);
}

/* ---- how long rings are ---- */

void prove_len_never_overflows(void)
{
	uint32_t n = any_u32(), cpus = any_u32(), page = any_page_size();
	uint64_t len = aio_ring_len(n, cpus, page);

	holds(len % page == 0);
	holds(len >= 32 + 32 * (2 * (uint64_t)n + 2));
	holds(len >= 32 + 32 * (8 * (uint64_t)cpus + 2));
	holds(
	    len <
	    32 + 32 * (2 * (uint64_t)(n > 4 * (uint64_t)cpus ? n : 4 * (uint64_t)cpus) + 2) + page);
}

static uint32_t any_len(uint32_t page)
{
	uint32_t len = any_u32();

	suppose(len && len <= AIO_RING_MAX_LEN && len % page == 0);
	return len;
}

/* The first n that gives a length: it does, and none below does. */
void prove_smallest_n(void)
{
	uint32_t page = any_page_size(), len = any_len(page), fewer = any_u32();
	uint32_t n = aio_ring_smallest_n(len, page);

	holds(n >= 1);
	holds(aio_ring_len(n, 0, page) == len);
	suppose(fewer && fewer < n);
	holds(aio_ring_len(fewer, 0, page) < len);
}

/* Whatever the kernel made for an n, there: the least n makes it again, and is no more than that was. */
void prove_least_n(void)
{
	uint32_t page = any_page_size(), n = any_u32(), cpus = any_u32(), least;
	uint64_t len = aio_ring_len(n, cpus, page);

	suppose(n && len <= AIO_RING_MAX_LEN);
	least = aio_ring_least_n((uint32_t)len, cpus, page);
	holds(least >= 1 && least <= n);
	holds(aio_ring_len(least, cpus, page) == len);
}

/* The last number of CPUs with which a length is made. */
void prove_max_cpus(void)
{
	uint32_t page = any_page_size(), len = any_len(page), cpus = any_u32();
	uint32_t n = aio_ring_smallest_n(len, page);

	holds((aio_ring_len(n, cpus, page) == len) == (cpus <= aio_ring_max_cpus(len)));
}

void prove_any_length_has_its_numbers(void)
{
	uint32_t len = any_u32(), page = any_u32(), cpus = any_u32();

	suppose(page && !(page & (page - 1)));
	holds(aio_ring_smallest_n(len, page) >= 1);
	holds(aio_ring_least_n(len, cpus, page) >= 1);
	holds(8 * (uint64_t)aio_ring_max_cpus(len) * 32 <= len);
}
