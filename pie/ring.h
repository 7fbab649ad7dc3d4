/* SPDX-License-Identifier: MIT */
/*
 * The ring of an AIO context, and all arithmetic on it, for blob and host alike.
 *
 * The layout is the kernel's private struct aio_ring (fs/aio.c); libaio and fio rely on it too, so
 * it has not changed since 2.6. The arithmetic is that of ioctx_alloc(), aio_setup_ring() and
 * aio_complete() there.
 */
#ifndef AIOR_RING_H
#define AIOR_RING_H

#include <stdint.h>

#define AIO_RING_MAGIC 0xa10a10a1u
#define AIO_RING_HEADER 32u /* bytes of the header; the slots follow */
#define AIO_RING_SLOT 32u   /* bytes of a slot, a struct io_event */

struct aio_ring {
	uint32_t id; /* index in the kernel's table of the process's contexts */
	uint32_t nr; /* slots */
	uint32_t head;
	uint32_t tail;
	uint32_t magic;
	uint32_t compat_features;
	uint32_t incompat_features;
	uint32_t header_length;
};

struct aio_slot {
	uint64_t data;
	uint64_t obj;
	int64_t res;
	int64_t res2;
};

_Static_assert(sizeof(struct aio_ring) == AIO_RING_HEADER, "struct aio_ring");
_Static_assert(sizeof(struct aio_slot) == AIO_RING_SLOT, "struct io_event");

/* What can be wrong with a header. */
enum aio_ring_fault {
	AIO_RING_OK,
	AIO_RING_BAD_LENGTH, /* the mapping: no ring has this length */
	AIO_RING_BAD_MAGIC,
	AIO_RING_BAD_HEADER_LENGTH,
	AIO_RING_BAD_NR, /* not what the mapping holds */
	AIO_RING_BAD_HEAD,
	AIO_RING_BAD_TAIL,
};

/*
 * The largest ring the kernel makes: ioctx_alloc() refuses more than 0x10000000 bytes of events, and
 * doubles what it was asked for before it checks.
 */
#define AIO_RING_MAX_LEN (0x10000000u + 0x20000u)

/* How many slots a ring of `len` bytes has. (No ring is so long that 32 bits would not hold it.) */
static inline uint32_t aio_ring_nr(uint32_t len)
{
	return len < AIO_RING_HEADER ? 0 : (len - AIO_RING_HEADER) / AIO_RING_SLOT;
}

/*
 * The length in bytes of the ring that io_setup(n) makes on a host with that page size and that many
 * possible CPUs (/sys/devices/system/cpu/possible).
 */
static inline uint64_t aio_ring_len(uint64_t n, uint32_t possible_cpus, uint32_t page_size)
{
	uint64_t smallest = 4ull * possible_cpus;
	uint64_t slots = 2 * (n > smallest ? n : smallest) + 2;
	uint64_t bytes = AIO_RING_HEADER + AIO_RING_SLOT * slots;

	return (bytes + page_size - 1) & ~(uint64_t)(page_size - 1);
}

/*
 * The smallest n for which io_setup(n) makes a ring of `len` bytes, on a host that has few enough
 * CPUs. fs.aio-nr grows by n, so asking for more than this spends a budget that others need.
 */
static inline uint32_t aio_ring_smallest_n(uint32_t len, uint32_t page_size)
{
	/* One slot more than a page less can hold: 2 n + 3 > (len - page_size) / AIO_RING_SLOT. */
	uint32_t less = len <= page_size ? 0 : (len - page_size) / AIO_RING_SLOT;

	return less < 3 ? 1 : (less - 3) / 2 + 1;
}

/*
 * The smallest n for which io_setup(n) makes a ring of `len` bytes where so many CPUs are possible, if it
 * makes one there. What every context has at least is had for 1.
 */
static inline uint32_t aio_ring_least_n(uint32_t len, uint32_t possible_cpus, uint32_t page_size)
{
	return aio_ring_len(1, possible_cpus, page_size) == len
		   ? 1
		   : aio_ring_smallest_n(len, page_size);
}

/*
 * How many possible CPUs a host may have for a ring of `len` bytes to be made on it; 0 if none.
 * (The kernel makes no ring for fewer than four requests per possible CPU.)
 */
static inline uint32_t aio_ring_max_cpus(uint32_t len)
{
	uint32_t slots = len / AIO_RING_SLOT;

	return slots < 3 ? 0 : (slots - 3) / 8;
}

/* Events completed and not yet reaped, for a `head` and a `tail` below `nr`. */
static inline uint32_t aio_ring_pending(uint32_t head, uint32_t tail, uint32_t nr)
{
	return head <= tail ? tail - head : nr - head + tail;
}

/*
 * How many requests must complete in a new ring until it has this `head` and this `tail`: the
 * kernel's own tail starts at 0 and moves with completions only. A ring whose tail is below its
 * head has wrapped.
 */
static inline uint32_t aio_ring_completions(uint32_t head, uint32_t tail, uint32_t nr)
{
	return tail < head ? nr + tail : tail;
}

/* The slot behind `slot`. */
static inline uint32_t aio_ring_next(uint32_t slot, uint32_t nr)
{
	return slot + 1 == nr ? 0 : slot + 1;
}

/*
 * Where the head goes when a ring is laid out anew in `nr` slots: it stays, if the pending events lie in one
 * piece from there on; else they begin at the first slot.
 */
static inline uint32_t aio_ring_new_head(uint32_t head, uint32_t pending, uint32_t nr)
{
	return head + pending < nr ? head : 0;
}

/*
 * How many of the pending events lie in one piece from the head on; the others follow from the first slot on.
 */
static inline uint32_t aio_ring_first_piece(uint32_t head, uint32_t pending, uint32_t nr)
{
	return pending < nr - head ? pending : nr - head;
}

/* The slot that lies `count` in front of a slot, count being below nr. */
static inline uint32_t aio_ring_back(uint32_t slot, uint32_t count, uint32_t nr)
{
	return slot >= count ? slot - count : slot + nr - count;
}

/*
 * How many requests a context admits at once from one CPU, pending events included: it hands its
 * nr - 1 slots to CPUs in whole batches.
 */
static inline uint32_t aio_ring_usable(uint32_t nr, uint32_t possible_cpus)
{
	uint32_t batch = possible_cpus ? (nr - 1) / 4 / possible_cpus : 1;

	return batch <= 1 ? nr - 1 : (nr - 1) / batch * batch;
}

/*
 * Whether a thread that moves from CPU to CPU may lack slots for `count` requests. Each CPU keeps fewer than two batches
 * (put_reqs_available, fs/aio.c), so that all together never keep more than half of the slots.
 */
static inline int aio_ring_may_lack(uint32_t count, uint32_t nr)
{
	return count > (nr - 1) / 2;
}

/*
 * Whether `ring`, which its owner may have scribbled on, is the header of a sound ring in a mapping
 * of `len` bytes. Reads each field once: the owner may still be running.
 */
static inline enum aio_ring_fault aio_ring_check(const volatile struct aio_ring *ring, uint64_t len)
{
	uint32_t bytes = (uint32_t)len, nr;

	if (bytes != len || bytes % AIO_RING_SLOT || bytes < AIO_RING_HEADER + 2 * AIO_RING_SLOT ||
	    bytes > AIO_RING_MAX_LEN)
		return AIO_RING_BAD_LENGTH; /* nothing need be there to be read */
	nr = ring->nr;
	if (ring->magic != AIO_RING_MAGIC)
		return AIO_RING_BAD_MAGIC;
	if (ring->header_length != AIO_RING_HEADER)
		return AIO_RING_BAD_HEADER_LENGTH;
	if (nr != aio_ring_nr(bytes))
		return AIO_RING_BAD_NR;
	if (ring->head >= nr)
		return AIO_RING_BAD_HEAD;
	if (ring->tail >= nr)
		return AIO_RING_BAD_TAIL;
	return AIO_RING_OK;
}

#endif
