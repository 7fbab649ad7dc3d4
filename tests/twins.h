/* SPDX-License-Identifier: MIT */
/*
 * Twins: two contexts that get the same operations, and the operations. Some of what is submitted
 * is slow: its events come when they come, and not in the same order in both twins. They are compared
 * one by one then, and put into one order, which a ring's owner may do.
 */
#ifndef TEST_TWINS_H
#define TEST_TWINS_H

#include <poll.h>
#include <sys/eventfd.h>

#include "blob.h"

#define POLLS 8
#define SLOW 8    /* slow requests in flight at once, over all pairs */
#define POOL 2048 /* iocbs of reads and writes, used in turn */
#define IOCBS (POLLS + SLOW + POOL)
#define SLOW_BYTES 131072u /* at most, of one slow request */

struct twin {
	aio_context_t ctx;
	struct iocb *iocbs; /* POLLS for polls, SLOW for slow ones, then POOL others */
	int pipe[2];
	int poll_pipes[POLLS][2];
	int event_fd;
};

struct pair {
	struct twin twins[2]; /* the second is staged and restored */
	uint32_t n, nr;
	uint64_t len;
	uint32_t next;                /* of the pool */
	uint32_t order[POLLS], polls; /* polls in flight, in the order of their submission */
	uint32_t slow;                /* slow requests of this round */
	uint32_t slow_tail;           /* the tail before them */
};

/* What all pairs have in common. */
static struct {
	struct pair *pairs, *pair; /* the one that operations are done to */
	uint32_t pair_count, poll_room;
	int is_slow;        /* there are slow requests: not to the brim, then */
	int can_direct;     /* the files take O_DIRECT */
	int files[2];       /* what slow requests read and write, for each side */
	char *buffers[2];   /* their memory: SLOW pieces */
	uint32_t slow_used; /* how many of them are in use */
	uint64_t seed, random;
	int patience; /* for what must come, in ms */
	int null_fd, silent_fd;
	unsigned op;
	const char *what, *why;
} t;

static uint32_t below(uint32_t limit)
{
	return random_below(&t.random, limit);
}

static int differs(const char *why)
{
	if (!t.why)
		t.why = why;
	return 1;
}

/* ---- comparing ---- */

/* An iocb's address, relative to its twin's. */
static uint64_t relative(const struct twin *twin, uint64_t obj)
{
	uint64_t base = (uintptr_t)twin->iocbs;

	return obj - base < IOCBS * sizeof(struct iocb) ? obj - base : obj;
}

static int same_event(const struct aio_slot *a, const struct aio_slot *b)
{
	return a->data == b->data && a->res == b->res && a->res2 == b->res2 &&
	       relative(&t.pair->twins[0], a->obj) == relative(&t.pair->twins[1], b->obj);
}

static int same_events(const struct aio_slot *a, const struct aio_slot *b, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (!same_event(&a[i], &b[i]))
			return 0;
	return 1;
}

static int compare_pair(void)
{
	struct aio_ring *a = ring_of(t.pair->twins[0].ctx), *b = ring_of(t.pair->twins[1].ctx);

	if (a->head != b->head)
		return differs("the head");
	if (a->tail != b->tail)
		return differs("the tail");
	if (a->nr != b->nr || memcmp(&a->magic, &b->magic, sizeof(*a) - 16))
		return differs("the header");
	for (uint32_t s = a->head; s != a->tail; s = aio_ring_next(s, t.pair->nr))
		if (!same_event(&slots_of(a)[s], &slots_of(b)[s]))
			return differs("the pending events");
	return 0;
}

static int compare(void)
{
	for (uint32_t i = 0; i < t.pair_count; i++) {
		t.pair = &t.pairs[i];
		if (compare_pair())
			return 1;
	}
	t.pair = &t.pairs[below(t.pair_count)];
	return 0;
}

static int wait_tail(aio_context_t ctx, uint32_t tail)
{
	volatile struct aio_ring *ring = ring_of(ctx);

	for (int tries = 0; ring->tail != tail; tries++) {
		if (tries > t.patience)
			return differs("an event that does not come");
		if (tries > 100)
			usleep(1000);
	}
	return 0;
}

static uint32_t tail_plus(uint32_t count)
{
	return (ring_of(t.pair->twins[0].ctx)->tail + count) % t.pair->nr;
}

static uint32_t pending_of(aio_context_t ctx)
{
	return aio_ring_pending(ring_of(ctx)->head, ring_of(ctx)->tail, t.pair->nr);
}

/* ---- operations: each does the same to both ---- */

/*
 * How many may be submitted. What completes on another CPU leaves its slot there, which is another
 * one in each twin: where there are slow requests, a part of the slots is not used.
 */
static uint32_t room(void)
{
	uint32_t used = pending_of(t.pair->twins[0].ctx) + t.pair->polls + t.pair->slow;
	uint32_t most = t.is_slow ? t.pair->nr / 3 : UINT32_MAX;

	return used < most ? most - used : 0;
}

static void fill_iocb(struct iocb *iocb, const struct twin *twin, unsigned kind, uint64_t data)
{
	static char bytes[64] = "twins";

	iocb_null_read(iocb, t.null_fd, data);
	switch (kind) {
	case 0:
		iocb->aio_lio_opcode = IOCB_CMD_PWRITE;
		iocb->aio_fildes = (uint32_t)twin->pipe[1];
		iocb->aio_buf = (uintptr_t)bytes;
		iocb->aio_nbytes = 1 + data % sizeof(bytes);
		break;
	case 1:
		iocb->aio_fildes = (uint32_t)twin->pipe[0];
		iocb->aio_buf = (uintptr_t)bytes;
		iocb->aio_nbytes = 1 + data % sizeof(bytes);
		break;
	case 2:
		iocb->aio_flags = IOCB_FLAG_RESFD;
		iocb->aio_resfd = (uint32_t)twin->event_fd;
		break;
	case 3: /* refused: the batch ends here */
		if (!(data % 8))
			iocb->aio_fildes = 1u << 20;
		break;
	}
}

static int submit(uint32_t count)
{
	static struct iocb *iocbs[2][POOL];
	unsigned kinds[POOL];
	uint64_t data[POOL];
	long n[2];

	for (uint32_t i = 0; i < count; i++) {
		kinds[i] = below(12);
		data[i] = random_next(&t.random);
	}
	for (int side = 0; side < 2; side++) {
		struct twin *twin = &t.pair->twins[side];

		for (uint32_t i = 0; i < count; i++) {
			iocbs[side][i] = &twin->iocbs[POLLS + SLOW + (t.pair->next + i) % POOL];
			fill_iocb(iocbs[side][i], twin, kinds[i], data[i]);
		}
		n[side] = io_submit(twin->ctx, (long)count, iocbs[side]);
	}
	t.pair->next = (t.pair->next + count) % POOL;
	return n[0] != n[1] && differs("io_submit's result");
}

static int op_submit(void)
{
	uint32_t count = 1 + below(below(4) ? 20 : 100);

	t.what = "submit";
	return submit(count < room() ? count : room());
}

/* Until none is taken any more. */
static int op_brim(void)
{
	t.what = "submit to the brim";
	for (uint32_t done = 0; done < t.pair->nr && !t.is_slow; done += 200)
		if (submit(200))
			return 1;
	return 0;
}

static int op_getevents(void)
{
	static struct aio_slot events[2][4096];
	uint32_t max = 1 + below(below(4) ? 16 : 4096);
	long n[2];

	t.what = "io_getevents";
	for (int side = 0; side < 2; side++)
		n[side] = io_getevents(t.pair->twins[side].ctx, max, events[side]);
	if (n[0] != n[1])
		return differs("io_getevents' result");
	return n[0] > 0 && !same_events(events[0], events[1], (uint32_t)n[0]) &&
	       differs("an event");
}

/* As fio does it: without a system call. */
static int op_reap(void)
{
	uint32_t pending[2], count;

	t.what = "reap from the ring";
	for (int side = 0; side < 2; side++)
		pending[side] = pending_of(t.pair->twins[side].ctx);
	if (pending[0] != pending[1])
		return differs("the number of pending events");
	count = below(3) ? below(pending[0] + 1) : pending[0];
	for (int side = 0; side < 2; side++) {
		struct aio_ring *ring = ring_of(t.pair->twins[side].ctx);

		ring->head = (ring->head + count) % t.pair->nr;
	}
	return 0;
}

static int op_poll(void)
{
	uint32_t which = below(t.poll_room);
	int with_eventfd = below(3) == 0;
	uint64_t data = random_next(&t.random);
	long n[2];

	t.what = "poll";
	for (uint32_t i = 0; i < t.pair->polls; i++)
		if (t.pair->order[i] == which)
			return 0;
	if (!room())
		return 0;
	for (int side = 0; side < 2; side++) {
		struct twin *twin = &t.pair->twins[side];
		struct iocb *iocb = &twin->iocbs[which];

		iocb_poll(iocb, twin->poll_pipes[which][0], POLLIN, data);
		if (with_eventfd) {
			iocb->aio_flags = IOCB_FLAG_RESFD;
			iocb->aio_resfd = (uint32_t)twin->event_fd;
		}
		n[side] = io_submit(twin->ctx, 1, &iocb);
	}
	if (n[0] == 1)
		t.pair->order[t.pair->polls++] = which;
	return n[0] != n[1] && differs("io_submit's result for a poll");
}

static uint32_t take_poll(uint32_t at)
{
	uint32_t which = t.pair->order[at];

	t.pair->polls--;
	memmove(&t.pair->order[at], &t.pair->order[at + 1],
	    (t.pair->polls - at) * sizeof(t.pair->order[0]));
	return which;
}

static int op_ready(void)
{
	uint32_t which, tail = tail_plus(1);
	char byte = 'x';

	t.what = "make a descriptor ready";
	if (!t.pair->polls)
		return 0;
	which = take_poll(below(t.pair->polls));
	for (int side = 0; side < 2; side++) {
		int *fds = t.pair->twins[side].poll_pipes[which];

		if (write(fds[1], &byte, 1) != 1 || wait_tail(t.pair->twins[side].ctx, tail) ||
		    read(fds[0], &byte, 1) != 1)
			return differs("a poll's event");
	}
	return 0;
}

static int op_cancel(void)
{
	uint32_t which, tail = tail_plus(1);
	long ret[2];

	t.what = "io_cancel";
	if (!t.pair->polls)
		return 0;
	which = take_poll(below(t.pair->polls));
	for (int side = 0; side < 2; side++) {
		struct twin *twin = &t.pair->twins[side];

		ret[side] = io_cancel(twin->ctx, &twin->iocbs[which]);
		if (wait_tail(twin->ctx, tail))
			return 1;
	}
	return ret[0] != ret[1] && differs("io_cancel's result");
}

static int op_eventfd(void)
{
	uint64_t counts[2] = {0, 0};

	t.what = "read the eventfd";
	for (int side = 0; side < 2; side++)
		if (read(t.pair->twins[side].event_fd, &counts[side], 8) != 8)
			counts[side] = 0;
	return counts[0] != counts[1] && differs("the eventfd's count");
}

/* ---- slow requests ---- */

/* Each has a piece of the file and of the buffer to itself. */
static void fill_slow(struct iocb *iocb, int side, uint32_t piece, uint32_t kind, uint64_t data)
{
	char *buffer = t.buffers[side] + piece * SLOW_BYTES;
	uint32_t bytes = 4096u << data % 6;

	memset(iocb, 0, sizeof(*iocb));
	iocb->aio_data = data;
	iocb->aio_fildes = (uint32_t)t.files[side];
	if (data % 3 == 0) {
		iocb->aio_flags = IOCB_FLAG_RESFD;
		iocb->aio_resfd = (uint32_t)t.pair->twins[side].event_fd;
	}
	if (kind == 0 || !t.can_direct) {
		iocb->aio_lio_opcode = data & 1 ? IOCB_CMD_FSYNC : IOCB_CMD_FDSYNC;
		return;
	}
	iocb->aio_lio_opcode = kind == 1 ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
	iocb->aio_buf = (uintptr_t)buffer;
	iocb->aio_nbytes = bytes;
	iocb->aio_offset = (int64_t)piece * SLOW_BYTES;
	for (uint32_t i = 0; kind == 1 && i < bytes; i += 512)
		memcpy(buffer + i, &data, sizeof(data));
}

static int submit_slow(uint32_t count)
{
	struct pair *pair = t.pair;
	uint32_t kinds[SLOW];
	uint64_t data[SLOW];
	long n[2];

	t.what = "submit slow requests";
	if (count > SLOW - t.slow_used)
		count = SLOW - t.slow_used;
	if (pair->slow || !count || count > room())
		return 0;
	for (uint32_t i = 0; i < count; i++) {
		kinds[i] = below(5) % 3;
		data[i] = random_next(&t.random);
	}
	pair->slow_tail = ring_of(pair->twins[0].ctx)->tail;
	for (int side = 0; side < 2; side++) {
		struct twin *twin = &pair->twins[side];
		struct iocb *iocbs[SLOW];

		for (uint32_t i = 0; i < count; i++) {
			iocbs[i] = &twin->iocbs[POLLS + i];
			fill_slow(iocbs[i], side, t.slow_used + i, kinds[i], data[i]);
		}
		n[side] = io_submit(twin->ctx, (long)count, iocbs);
	}
	pair->slow = count;
	t.slow_used += count;
	return (n[0] != (long)count || n[1] != (long)count) && differs("slow ones are not taken");
}

/* Waits for a pair's slow requests, compares their events, and puts those into one order. */
static int settle(struct pair *pair)
{
	uint32_t end = (pair->slow_tail + pair->slow) % pair->nr, at = pair->slow_tail;
	struct aio_slot *a = slots_of(ring_of(pair->twins[0].ctx));
	struct aio_slot *b = slots_of(ring_of(pair->twins[1].ctx));

	t.pair = pair;
	t.what = "the events of slow requests";
	for (int side = 0; side < 2; side++)
		if (wait_tail(pair->twins[side].ctx, end))
			return 1;
	for (; at != end; at = aio_ring_next(at, pair->nr)) {
		struct aio_slot found;
		uint32_t other = at;

		while (other != end && !same_event(&a[other], &b[at]))
			other = aio_ring_next(other, pair->nr);
		if (other == end)
			return differs("an event of a slow request");
		found = a[other];
		a[other] = a[at];
		a[at] = found;
	}
	pair->slow = 0;
	return 0;
}

static int settle_all(void)
{
	for (uint32_t i = 0; i < t.pair_count; i++)
		if (t.pairs[i].slow && settle(&t.pairs[i]))
			return 1;
	if (t.slow_used && memcmp(t.buffers[0], t.buffers[1], SLOW * SLOW_BYTES))
		return differs("what was read");
	t.slow_used = 0;
	return 0;
}

#endif
