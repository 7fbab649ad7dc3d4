/* SPDX-License-Identifier: MIT */
/*
 * Twins: contexts that get the same random operations on two sides. An operation knows one side only, and
 * notes all that a program can see of it; the notes of both sides must be the same. So the sides can be in
 * one process, or in one each.
 *
 * Some of what is submitted is slow: its events come when they come, and not in the same order on both
 * sides. They are put into one order, which a ring's owner may do.
 *
 * There is a form for rings that come back compact: events are taken by system calls only, and nothing is noted of
 * where they lie.
 */
#ifndef TEST_TWINS_H
#define TEST_TWINS_H

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/utsname.h>

#include "blob.h"

#define POLLS 8
#define SLOW 8    /* slow requests in flight at once, over all rings of a side */
#define POOL 2048 /* iocbs of reads and writes, used in turn */
#define IOCBS (POLLS + SLOW + POOL)

/* A context of one side. */
struct twin {
	aio_context_t ctx;
	struct iocb *iocbs; /* POLLS for polls, SLOW for slow ones, then POOL others */
	int pipe[2];
	int poll_pipes[POLLS][2];
	int event_fd;
	uint32_t n, nr;
	uint64_t len;
	uint32_t next;                /* of the pool */
	uint32_t order[POLLS], polls; /* polls in flight, in the order of their submission */
	uint32_t slow;                /* slow requests in flight */
	uint32_t others;              /* events pending before them */
	uint64_t raised; /* how often the eventfd has been, or is about to be, since it was read */
};

/* What was seen, and what of. */
struct note {
	const char *what;
	uint64_t value;
};

struct side {
	struct twin *twins, *twin; /* `twin`: the one that operations are done to */
	uint32_t count, poll_room;
	int is_by_call;      /* nothing is read from a ring but how many are pending */
	int is_slow;         /* there are slow requests: not to the brim, then */
	int can_direct;      /* the file takes O_DIRECT */
	int may_be_short;    /* an io_getevents that waits may come back with fewer events */
	int can_wait;        /* a call that does not return is noticed */
	int file;            /* what slow requests read and write */
	char *buffer;        /* their memory: SLOW pieces */
	uint32_t slow_bytes; /* of such a piece */
	uint32_t slow_used;  /* how many of them are in use */
	uint64_t random;
	int patience; /* for what must come, in ms */
	int null_fd;
	struct note *notes;
	size_t note_count, note_room;
	unsigned op;
	const char *what; /* the operation */
	const char *why;  /* it cannot go on, and differs from a sound one in that */
};

static __thread struct side *self; /* that does the operations */

static uint32_t below(uint32_t limit)
{
	return random_below(&self->random, limit);
}

static int differs(const char *why)
{
	if (!self->why)
		self->why = why;
	return 1;
}

/* ---- notes ---- */

static void note(const char *what, uint64_t value)
{
	if (self->note_count == self->note_room)
		abort();
	self->notes[self->note_count++] = (struct note){what, value};
}

/* A difference in one of the values is one in the result, if all before are the same. */
static uint64_t mix(uint64_t hash, uint64_t value)
{
	hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
	return hash ^ hash >> 29;
}

/* An iocb's address, relative to its twin's; those of count_free() lie on some stack. */
static uint64_t relative(const struct twin *twin, uint64_t obj)
{
	uint64_t base = (uintptr_t)twin->iocbs;

	return obj - base < IOCBS * sizeof(struct iocb) ? obj - base : UINT64_MAX;
}

static uint64_t mix_event(uint64_t hash, const struct twin *twin, const struct aio_slot *event)
{
	hash = mix(hash, event->data);
	hash = mix(hash, relative(twin, event->obj));
	hash = mix(hash, (uint64_t)event->res);
	return mix(hash, (uint64_t)event->res2);
}

static void note_events(const char *what, const struct aio_slot *events, long count)
{
	uint64_t hash = 0;

	for (long i = 0; i < count; i++)
		hash = mix_event(hash, self->twin, &events[i]);
	note(what, hash);
}

static void note_ring(const struct twin *twin)
{
	struct aio_ring *ring = ring_of(twin->ctx);
	uint32_t words[(sizeof(*ring) - 16) / 4];
	uint64_t hash = ring->nr;

	if (self->is_by_call)
		return;
	note("the head", ring->head);
	note("the tail", ring->tail);
	memcpy(words, &ring->magic, sizeof(words));
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		hash = mix(hash, words[i]);
	note("the header", hash);
	hash = 0;
	if (ring->head < twin->nr && ring->tail < twin->nr)
		for (uint32_t s = ring->head; s != ring->tail; s = aio_ring_next(s, twin->nr))
			hash = mix_event(hash, twin, &slots_of(ring)[s]);
	note("the pending events", hash);
}

/* All rings but those whose next events come when they come. */
static void note_rings(void)
{
	for (uint32_t i = 0; i < self->count; i++)
		if (!self->twins[i].slow)
			note_ring(&self->twins[i]);
}

/* One operation, on a ring that chance chooses, and what can be seen after it. */
static int do_operation(int (*operation)(void))
{
	struct twin *twin = &self->twins[below(self->count)];

	if (twin->slow)
		return 0;
	self->twin = twin;
	if (operation())
		return 1;
	note_rings();
	return 0;
}

/*
 * The first notes that are not the same on both sides: their index. SIZE_MAX: there are none. Nothing is
 * noted twice in one place, so that an end that comes too early is one.
 */
static size_t compare_notes(const struct side *a, const struct side *b)
{
	for (size_t i = 0; i < a->note_count || i < b->note_count; i++)
		if (i >= a->note_count || i >= b->note_count ||
		    a->notes[i].what != b->notes[i].what || a->notes[i].value != b->notes[i].value)
			return i;
	return SIZE_MAX;
}

/* ---- what operations need ---- */

/* (A ring that comes back compact has another head, and another tail, from one moment to the next.) */
static uint32_t pending_of(const struct twin *twin)
{
	volatile struct aio_ring *ring = ring_of(twin->ctx);
	uint32_t head, tail;

	do {
		head = ring->head;
		tail = ring->tail;
	} while (ring->head != head);
	return aio_ring_pending(head, tail, twin->nr);
}

/* Nobody takes any meanwhile. */
static int wait_pending(const struct twin *twin, uint32_t count)
{
	for (int tries = 0; pending_of(twin) != count; tries++) {
		if (tries > self->patience)
			return differs("an event that does not come");
		if (tries > 100)
			usleep(1000);
	}
	return 0;
}

/*
 * How many may be submitted. What completes on another CPU leaves its slot there, which is another
 * one on each side: where there are slow requests, a part of the slots is not used.
 */
static uint32_t room(void)
{
	uint32_t used = pending_of(self->twin) + self->twin->polls + self->twin->slow;
	uint32_t most = self->is_slow ? self->twin->nr / 3 : UINT32_MAX;

	return used < most ? most - used : 0;
}

/* ---- operations ---- */

static void fill_iocb(struct iocb *iocb, const struct twin *twin, unsigned kind, uint64_t data)
{
	static __thread char bytes[64] = "twins";

	iocb_null_read(iocb, self->null_fd, data);
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

static uint64_t raises(const struct iocb *iocb)
{
	return iocb->aio_flags & IOCB_FLAG_RESFD ? 1 : 0;
}

static void submit(uint32_t count)
{
	static __thread struct iocb *iocbs[POOL];
	struct twin *twin = self->twin;
	long n;

	for (uint32_t i = 0; i < count; i++) {
		unsigned kind = below(12);

		iocbs[i] = &twin->iocbs[POLLS + SLOW + (twin->next + i) % POOL];
		fill_iocb(iocbs[i], twin, kind, random_next(&self->random));
	}
	twin->next = (twin->next + count) % POOL;
	n = io_submit(twin->ctx, (long)count, iocbs);
	for (long i = 0; i < n; i++)
		twin->raised += raises(iocbs[i]);
	note("io_submit's result", (uint64_t)n);
}

static int op_submit(void)
{
	uint32_t count = 1 + below(below(4) ? 20 : 100);

	self->what = "submit";
	submit(count < room() ? count : room());
	return 0;
}

/* Until none is taken any more. */
static int op_brim(void)
{
	self->what = "submit to the brim";
	for (uint32_t done = 0; done < self->twin->nr && !self->is_slow; done += 200)
		submit(200);
	return 0;
}

/*
 * Where nobody knows the first argument of a call that a stop ends the moment it begins, it ends with EINTR, and is made
 * again by who knows that: aio-restorer(1) says where.
 */
static int may_end_with_eintr(void)
{
	static int is_known, may;
	struct utsname host;

	if (!is_known && !uname(&host))
		may = !strcmp(host.machine, "aarch64") && atoi(host.release) >= 7;
	is_known = 1;
	return may;
}

static long get_events(struct twin *twin, long least, long most, struct aio_slot *events)
{
	long n;

	do
		n = least ? result(syscall(__NR_io_getevents, twin->ctx, least, most, events, NULL))
			  : io_getevents(twin->ctx, most, events);
	while (n == -EINTR && may_end_with_eintr());
	return n;
}

static int op_getevents(void)
{
	static __thread struct aio_slot events[4096];
	uint32_t max = 1 + below(below(4) ? 16 : 4096);
	long n;

	self->what = "io_getevents";
	n = get_events(self->twin, 0, max, events);
	note("io_getevents' result", (uint64_t)n);
	note_events("an event", events, n);
	return 0;
}

/* As fio does it: without a system call. */
static int op_reap(void)
{
	struct aio_ring *ring = ring_of(self->twin->ctx);
	uint32_t pending = pending_of(self->twin), count;

	if (self->is_by_call)
		return op_getevents();
	self->what = "reap from the ring";
	note("the number of pending events", pending);
	count = below(3) ? below(pending + 1) : pending;
	ring->head = (ring->head + count) % self->twin->nr;
	return 0;
}

static int op_poll(void)
{
	struct twin *twin = self->twin;
	uint32_t which = below(self->poll_room);
	int with_eventfd = below(3) == 0;
	uint64_t data = random_next(&self->random);
	struct iocb *iocb = &twin->iocbs[which];
	long n;

	self->what = "poll";
	for (uint32_t i = 0; i < twin->polls; i++)
		if (twin->order[i] == which)
			return 0;
	if (!room())
		return 0;
	iocb_poll(iocb, twin->poll_pipes[which][0], POLLIN, data);
	if (with_eventfd) {
		iocb->aio_flags = IOCB_FLAG_RESFD;
		iocb->aio_resfd = (uint32_t)twin->event_fd;
	}
	n = io_submit(twin->ctx, 1, &iocb);
	if (n == 1)
		twin->order[twin->polls++] = which;
	note("io_submit's result for a poll", (uint64_t)n);
	return 0;
}

static uint32_t take_poll(uint32_t at)
{
	struct twin *twin = self->twin;
	uint32_t which = twin->order[at];

	twin->raised += raises(&twin->iocbs[which]);
	twin->polls--;
	memmove(
	    &twin->order[at], &twin->order[at + 1], (twin->polls - at) * sizeof(twin->order[0]));
	return which;
}

static int op_ready(void)
{
	uint32_t count = pending_of(self->twin) + 1;
	char byte = 'x';
	int *fds;

	self->what = "make a descriptor ready";
	if (!self->twin->polls)
		return 0;
	fds = self->twin->poll_pipes[take_poll(below(self->twin->polls))];
	if (write(fds[1], &byte, 1) != 1 || wait_pending(self->twin, count) ||
	    read(fds[0], &byte, 1) != 1)
		return differs("a poll's event");
	return 0;
}

static int op_cancel(void)
{
	struct twin *twin = self->twin;
	uint32_t count = pending_of(twin) + 1;

	self->what = "io_cancel";
	if (!twin->polls)
		return 0;
	note("io_cancel's result",
	    (uint64_t)io_cancel(twin->ctx, &twin->iocbs[take_poll(below(twin->polls))]));
	return wait_pending(twin, count);
}

/* A request raises it behind its event, and may not have done so yet when the event is there (aio_complete, fs/aio.c). */
static int op_eventfd(void)
{
	struct twin *twin = self->twin;
	uint64_t count = 0, more;

	self->what = "read the eventfd";
	for (int tries = 0; !tries || (count < twin->raised && tries <= self->patience); tries++) {
		if (read(twin->event_fd, &more, 8) == 8)
			count += more;
		if (tries > 100)
			usleep(1000);
	}
	twin->raised = 0;
	note("the eventfd's count", count);
	return 0;
}

static int (*const operations[])(void) = {op_submit, op_submit, op_submit, op_submit, op_getevents,
    op_getevents, op_getevents, op_reap, op_reap, op_poll, op_poll, op_ready, op_cancel,
    op_eventfd};

static int do_any_operation(void)
{
	if (below(100) < 3)
		return do_operation(op_brim);
	return do_operation(operations[below(sizeof(operations) / sizeof(operations[0]))]);
}

/* ---- slow requests ---- */

/* Each has a piece of the file and of the buffer to itself. */
static void fill_slow(struct iocb *iocb, uint32_t piece, uint32_t kind, uint64_t data)
{
	char *buffer = self->buffer + (size_t)piece * self->slow_bytes;
	uint32_t bytes = self->slow_bytes >> data % 3;

	memset(iocb, 0, sizeof(*iocb));
	iocb->aio_data = data;
	iocb->aio_fildes = (uint32_t)self->file;
	if (data % 3 == 0) {
		iocb->aio_flags = IOCB_FLAG_RESFD;
		iocb->aio_resfd = (uint32_t)self->twin->event_fd;
	}
	if (kind == 0 || !self->can_direct) {
		iocb->aio_lio_opcode = data & 1 ? IOCB_CMD_FSYNC : IOCB_CMD_FDSYNC;
		return;
	}
	iocb->aio_lio_opcode = kind == 1 ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
	iocb->aio_buf = (uintptr_t)buffer;
	iocb->aio_nbytes = bytes;
	iocb->aio_offset = (int64_t)piece * self->slow_bytes;
	for (uint32_t i = 0; kind == 1 && i < bytes; i += 512)
		memcpy(buffer + i, &data, sizeof(data));
}

static int submit_slow(uint32_t count)
{
	struct twin *twin = self->twin;
	struct iocb *iocbs[SLOW];

	self->what = "submit slow requests";
	if (count > SLOW - self->slow_used)
		count = SLOW - self->slow_used;
	if (twin->slow || !count || count > room())
		return 0;
	twin->others = pending_of(twin);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t kind = below(5) % 3;

		iocbs[i] = &twin->iocbs[POLLS + i];
		fill_slow(iocbs[i], self->slow_used + i, kind, random_next(&self->random));
	}
	if (io_submit(twin->ctx, (long)count, iocbs) != (long)count)
		return differs("slow ones are not taken");
	twin->slow = count;
	self->slow_used += count;
	return 0;
}

/*
 * While this thread is a real-time one, the worker that does its fsyncs, on the same CPU, does not
 * run before it sleeps: in the drain. Where that is not allowed, fewer are met in flight.
 */
static void hold_workers(int priority)
{
	struct sched_param param = {.sched_priority = priority};

	sched_setscheduler(0, priority ? SCHED_FIFO : SCHED_OTHER, &param);
}

/* Some, in up to three rings; nothing is noted, for what can be seen depends on the moment. */
static int start_slow(void)
{
	for (uint32_t left = 1 + below(3); left; left--) {
		self->twin = &self->twins[below(self->count)];
		if (submit_slow(1 + below(4)))
			return 1;
	}
	return 0;
}

static int compare_objects(const void *a, const void *b)
{
	const struct aio_slot *left = a, *right = b;

	return (left->obj > right->obj) - (left->obj < right->obj);
}

/* Slots of a ring, which may wrap. */
static void sort_slots(struct twin *twin, uint32_t from, uint32_t count)
{
	struct aio_slot *slots = slots_of(ring_of(twin->ctx)), sorted[SLOW];

	for (uint32_t i = 0; i < count; i++)
		sorted[i] = slots[(from + i) % twin->nr];
	/* cppcheck-suppress uninitvar ; the loop above has set them */
	qsort(sorted, count, sizeof(sorted[0]), compare_objects);
	for (uint32_t i = 0; i < count; i++)
		slots[(from + i) % twin->nr] = sorted[i];
}

/* Takes all events of a ring in one call, and waits for them there, or has done so. */
static void settle_in_call(struct twin *twin, struct aio_slot *events, int waits)
{
	long all = (long)(twin->others + twin->slow), n;

	/* Stopped by whoever is killed before it could mend the wait, it makes it again. */
	do
		n = get_events(twin, waits ? all : 0, all, events);
	while (self->may_be_short && waits && n == -EINTR);
	/* Stopped by whoever is killed then, it has what it had taken: like any program, it waits for the others. */
	while (self->may_be_short && waits && n > 0 && n < all) {
		long more = get_events(twin, all - n, all - n, events + n);

		if (more < 0 && more != -EINTR)
			n = more;
		else if (more > 0)
			n += more;
	}
	note("the result of an io_getevents that takes all", (uint64_t)n);
	if (n == all)
		qsort(events + twin->others, twin->slow, sizeof(*events), compare_objects);
	note_events("an event that was waited for", events, n);
}

/* Waits for a ring's slow requests, and puts their events into one order. */
static int settle(struct twin *twin)
{
	static __thread struct aio_slot events[4096];
	int waits = self->can_wait && below(2) && twin->others < 4096 - SLOW;

	self->twin = twin;
	self->what = "the events of slow requests";
	/* The call is interrupted now and then, and must not show it. */
	if (waits)
		settle_in_call(twin, events, 1);
	if (wait_pending(twin, waits ? 0 : twin->others + twin->slow))
		return 1;
	if (!waits && self->is_by_call)
		settle_in_call(twin, events, 0);
	else if (!waits)
		sort_slots(twin, (ring_of(twin->ctx)->head + twin->others) % twin->nr, twin->slow);
	for (uint32_t i = 0; i < twin->slow; i++)
		twin->raised += raises(&twin->iocbs[POLLS + i]);
	twin->slow = 0;
	return 0;
}

static int settle_all(void)
{
	uint64_t hash = 0, word;

	for (uint32_t i = 0; i < self->count; i++)
		if (self->twins[i].slow && settle(&self->twins[i]))
			return 1;
	for (size_t at = 0; at < (size_t)self->slow_used * self->slow_bytes; at += 512) {
		memcpy(&word, self->buffer + at, sizeof(word));
		hash = mix(hash, word);
	}
	note("what was read", hash);
	self->slow_used = 0;
	note_rings();
	return 0;
}

/* ---- the end ---- */

static int reap_all(void)
{
	/* At most nr events, of which each call takes at least one. */
	for (uint32_t i = 0; i < self->twin->nr && pending_of(self->twin); i++)
		op_getevents();
	note_ring(self->twin);
	return 0;
}

/* How many more requests a context takes: from this CPU, or from each in turn. */
static uint32_t count_all_free(aio_context_t ctx)
{
	uint32_t count = 0;
	cpu_set_t mine;

	if (!self->is_slow)
		return count_free(ctx, self->null_fd);
	sched_getaffinity(0, sizeof(mine), &mine);
	for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		cpu_set_t one;

		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (!sched_setaffinity(0, sizeof(one), &one))
			count += count_free(ctx, self->null_fd);
	}
	sched_setaffinity(0, sizeof(mine), &mine);
	return count;
}

/* A ring takes as many requests as its twin, twice, and gives the same. */
static int finish_ring(void)
{
	static const char *const names[2] = {
	    "the number of requests until EAGAIN", "that number when all is reaped"};

	op_eventfd();
	for (int round = 0; round < 2; round++) {
		self->what = "the end";
		note(names[round], count_all_free(self->twin->ctx));
		reap_all();
		while (self->twin->polls)
			if (op_ready())
				return 1;
		reap_all();
	}
	return 0;
}

static int finish(void)
{
	for (uint32_t i = 0; i < self->count; i++) {
		self->twin = &self->twins[i];
		if (finish_ring())
			return 1;
	}
	note_rings();
	return 0;
}

/* ---- making them ---- */

/* A ring may have as many slots as chance says. */
static uint32_t choose_n(void)
{
	switch (below(16)) {
	case 0:
		return 1000 + below(1000);
	case 1:
	case 2:
	case 3:
		return 1 + below(500);
	default:
		return 1 + below(70);
	}
}

static int make_twin(struct twin *twin)
{
	twin->len = aio_ring_len(twin->n, possible_cpus(), (uint32_t)sysconf(_SC_PAGESIZE));
	twin->nr = aio_ring_nr((uint32_t)twin->len);
	if (io_setup(twin->n, &twin->ctx))
		return -1;
	twin->iocbs = map_guarded(IOCBS * sizeof(struct iocb));
	if (pipe2(twin->pipe, O_CLOEXEC | O_NONBLOCK))
		abort();
	for (uint32_t i = 0; i < self->poll_room; i++)
		if (pipe2(twin->poll_pipes[i], O_CLOEXEC | O_NONBLOCK))
			abort();
	twin->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return 0;
}

/* A file that nobody else sees, and memory to read it into. */
static void make_file(void)
{
	size_t len = (size_t)SLOW * self->slow_bytes;
	int fd = open_direct();

	self->can_direct = fd >= 0;
	if (fd < 0)
		fd = memfd_create("twins", MFD_CLOEXEC);
	self->buffer = map_guarded(len);
	if (write(fd, self->buffer, len) != (ssize_t)len)
		abort();
	self->file = fd;
}

/* ---- how seeds have ended ---- */

/* What a seed's child says: 0, the sides were the same; 1, they could be told apart; 2, neither, as there was nothing to spoil. */
struct tally {
	unsigned same, apart, neither;
};

static int count_end(int status, void *tally)
{
	struct tally *seeds = tally;

	if (!WIFEXITED(status) || WEXITSTATUS(status) > 2) {
		diag("a child ended with status 0x%x", (unsigned)status);
		seeds->apart++;
	} else if (WEXITSTATUS(status) == 2) {
		seeds->neither++;
	} else if (WEXITSTATUS(status) == 1) {
		seeds->apart++;
	} else {
		seeds->same++;
	}
	return 0;
}

#endif
