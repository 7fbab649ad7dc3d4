/* SPDX-License-Identifier: MIT */
/*
 * What the tests of the stage blob share: live rings whose content is noted, requests in flight that
 * are told apart, and what must be true of a ring that is staged.
 */
#ifndef TEST_STAGE_H
#define TEST_STAGE_H

#include <sys/eventfd.h>

#include "facts.h"

#define ROOM 1700            /* rings */
#define POLL_ROOM (1u << 18) /* poll records: as many as all rings of a test have slots */

static struct aior_ring_record *rings;
static struct aior_poll_record *polls;
static struct staged was[ROOM];
static struct state before, after;

static inline void set_up_stage(size_t arena_size)
{
	rings = map_guarded(ROOM * sizeof(*rings));
	polls = map_guarded(POLL_ROOM * sizeof(*polls));
	state_prepare(&before);
	state_prepare(&after);
	arena_make(arena_size);
	pin_to(0);
}

/* How such a test starts. */
static inline long stage_test_start(void)
{
	long nr = test_start();

	blob_load(&stage_blob, blob_file("stage"), 0);
	page = (uint32_t)blob.page;
	cpus = possible_cpus();
	if (pipe2(silent, O_CLOEXEC))
		abort();
	return nr;
}

static inline struct aior_args stage_args(uint32_t count)
{
	struct aior_args args = blob_args(rings, count, polls, 0);

	args.scratch_len = stage_blob.header->scratch;
	for (uint32_t i = 0; i < count; i++)
		args.poll_room += aio_ring_nr((uint32_t)rings[i].len) - 1;
	return args;
}

/* ---- live rings ---- */

static inline void note(uint32_t i)
{
	const struct aio_ring *ring = ring_of(rings[i].addr);

	free(was[i].copy);
	was[i].copy = malloc(rings[i].len);
	memcpy(was[i].copy, ring, rings[i].len);
	was[i].len = rings[i].len;
	was[i].head = ring->head;
	was[i].tail = ring->tail;
	was[i].nr = ring->nr;
}

static inline void scribble(aio_context_t ctx, uint64_t len, uint64_t seed)
{
	uint64_t *words = (uint64_t *)slots_of(ring_of(ctx));

	seed = seed * 0x9e3779b97f4a7c15ull + 1;
	for (uint64_t i = 0; i < (len - AIO_RING_HEADER) / sizeof(*words); i++)
		words[i] = random_next(&seed);
}

/* A ring at that address with so many events pending from `head` on, all slots of random content. */
static inline void make_live_at(void *at, uint32_t i, uint64_t len, uint32_t head, uint32_t pending)
{
	aio_context_t ctx = new_ring(aio_ring_smallest_n((uint32_t)len, page));

	if (len_of(ctx) != len ||
	    mremap(ring_of(ctx), len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at) != at)
		abort();
	ctx = (uintptr_t)at;
	run_through(ctx, head);
	while (pending) {
		long n = complete(ctx, pending < BATCH ? pending : BATCH, 0);

		if (n <= 0)
			abort();
		pending -= (uint32_t)n;
	}
	scribble(ctx, len, i + 1);
	rings[i] = (struct aior_ring_record){.addr = ctx, .len = len};
	note(i);
}

static inline void make_live(uint32_t i, uint64_t len, uint32_t head, uint32_t pending)
{
	make_live_at(arena_take(len), i, len, head, pending);
}

static inline uint64_t smallest_len(void)
{
	return aio_ring_len(1, cpus, page);
}

/* ---- what is staged ---- */

/* Whether that is the handle of a context, which a submission of nothing looks up. */
static inline int is_handle(uint64_t addr)
{
	return !io_submit(addr, 0, NULL);
}

/* Whether [at, at + len) is private anonymous memory that can be read and written. */
static inline int is_plain(uint64_t at, uint64_t len)
{
	unsigned long long start, end, inode;
	char line[512], prot[5];
	FILE *maps = fopen("/proc/self/maps", "re");

	while (len && maps && fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%llx-%llx %4s %*x %*s %llu", &start, &end, prot, &inode) != 4 ||
		    at < start || at >= end)
			continue;
		if (strcmp(prot, "rw-p") || inode || strstr(line, "aio"))
			break;
		len -= len < end - at ? len : end - at;
		at = end;
	}
	if (maps)
		fclose(maps);
	return !len;
}

/* What must be true whatever was in flight: NULL, or what is wrong. */
static inline const char *why_not_plain(uint32_t i)
{
	const struct aior_ring_record *ring = &rings[i];
	const struct aio_ring *staged = ring_of(ring->addr);

	if (ring->flags != AIOR_RING_DRAINED || ring->step != AIOR_STEP_DONE || ring->err ||
	    ring->staged != ring->addr || ring->aside || ring->new_len != ring->len)
		return "the record's results";
	if (is_handle(ring->addr))
		return "the context is still there";
	if (!is_plain(ring->addr, ring->len))
		return "what it is staged in is not plain memory";
	if (ring->head != staged->head || ring->tail != staged->tail)
		return "the record's head and tail";
	return NULL;
}

/* The same of a ring that had nothing in flight: it has every byte but the id. */
static inline const char *why_not_staged(uint32_t i)
{
	const char *why = why_not_plain(i);

	if (why)
		return why;
	if (rings[i].head != was[i].head || rings[i].tail != was[i].tail)
		return "head and tail";
	if (memcmp((char *)(uintptr_t)rings[i].addr + 4, was[i].copy + 4, was[i].len - 4))
		return "the staged bytes";
	return NULL;
}

static inline int has_child(void)
{
	return waitpid(-1, NULL, __WALL | WNOHANG) != -1 || errno != ECHILD;
}

/* Calls the stage blob; it must succeed, and leave nothing behind but staged rings. */
static inline const char *call_stage(struct aior_args *args)
{
	const char *why;

	state_take(&before);
	if (call(&stage_blob, args) || args->err || args->step != AIOR_STEP_DONE ||
	    args->ring != AIOR_NO_RING) {
		diag("stage: errno %u, step %u, ring %d", args->err, args->step, (int)args->ring);
		return "the results";
	}
	state_take(&after);
	why = state_differs(&before, &after, rings, args->ring_count);
	if (why)
		return why;
	if (has_child())
		return "a child is left";
	return memcmp(&args->sigmask, &before.mask, 8) ? "the signal mask in the results" : NULL;
}

/* Calls the restore blob on what was staged. */
static inline const char *call_restore(const struct aior_args *staged, struct aior_args *args)
{
	*args = blob_args(rings, staged->ring_count, polls, staged->poll_count);
	state_take(&before);
	if (call(&blob, args) || args->step != AIOR_STEP_DONE) {
		diag("restore: errno %u, step %u, ring %d", args->err, args->step, (int)args->ring);
		return "restore's results";
	}
	state_take(&after);
	return state_differs(&before, &after, rings, staged->ring_count);
}

/* Stages rings with nothing in flight, and restores them. They need not be where no mapping merges. */
static inline const char *there_and_back(uint32_t count)
{
	struct aior_args args = stage_args(count), restored;
	const char *why = call_stage(&args);

	if (!why && args.poll_count)
		why = "polls of nobody";
	for (uint32_t i = 0; i < count && !why; i++)
		why = why_not_staged(i);
	if (!why)
		why = call_restore(&args, &restored);
	for (uint32_t i = 0; i < count && !why; i++) {
		why = why_not_live(&rings[i], &was[i], &restored, silent[0]);
		if (why)
			diag("ring %u: nr %u, head %u, tail %u", i, was[i].nr, was[i].head,
			    was[i].tail);
	}
	return why;
}

static inline const char *or_so(const char *why)
{
	return why ? why : "exact";
}

/* ---- requests in flight ---- */

#define FLIGHT 512
#define DATA 0x1000u

/* Requests that are told apart by their iocbs and data: data is DATA plus the index. */
static struct {
	struct iocb *iocbs;
	unsigned seen[FLIGHT], total;
	unsigned strangers; /* events of none of them */
	int64_t res[FLIGHT];
} flight;

static inline void set_up_flight(void)
{
	memset(&flight, 0, sizeof(flight));
	flight.iocbs = map_guarded(FLIGHT * sizeof(*flight.iocbs));
}

/* An event is that of a request if its data says so, wherever its iocb was. */
static inline void take_event(const struct aio_slot *event)
{
	uint64_t i = event->data - DATA;

	if (i >= FLIGHT || event->res2) {
		flight.strangers++;
		return;
	}
	flight.strangers += event->obj != (uintptr_t)&flight.iocbs[i];
	flight.seen[i]++;
	flight.total++;
	flight.res[i] = event->res;
}

static inline void reap(aio_context_t ctx)
{
	struct aio_slot events[64];
	long n;

	while ((n = io_getevents(ctx, 64, events)) > 0)
		for (long i = 0; i < n; i++)
			take_event(&events[i]);
}

/* Until so many have come in all, and a moment more for what comes too often. */
static inline int reap_until(aio_context_t ctx, unsigned total)
{
	for (int ms = 0; ms < PATIENCE_MS; ms++) {
		reap(ctx);
		if (flight.total >= total)
			break;
		tick();
	}
	tick();
	reap(ctx);
	return flight.total == total && !flight.strangers;
}

/* Whether each of [from, to) has had one event, with that result. */
static inline int have_come(unsigned from, unsigned to, int64_t res)
{
	for (unsigned i = from; i < to; i++)
		if (flight.seen[i] != 1 || flight.res[i] != res) {
			diag("request %u: %u events, res %lld", i, flight.seen[i],
			    (long long)flight.res[i]);
			return 0;
		}
	return 1;
}

/* The same of polls that find their descriptors ready to be read. */
static inline int have_fired(unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i++)
		if (flight.res[i] > 0 && flight.res[i] & POLLIN)
			flight.res[i] = POLLIN;
	return have_come(from, to, POLLIN);
}

static inline struct iocb *poll_iocb(unsigned i, int fd, int event_fd)
{
	struct iocb *iocb = &flight.iocbs[i];

	iocb_poll(iocb, fd, POLLIN, DATA + i);
	if (event_fd >= 0) {
		iocb->aio_flags = IOCB_FLAG_RESFD;
		iocb->aio_resfd = (uint32_t)event_fd;
	}
	return iocb;
}

static inline void must_submit(aio_context_t ctx, struct iocb *iocb)
{
	long n = submit_one(ctx, iocb);

	if (n != 1) {
		diag("io_submit: %s", strerror((int)-n));
		abort();
	}
}

static inline void new_pipe(int fds[2])
{
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK))
		abort();
}

static inline void fire(int fds[2])
{
	if (write(fds[1], "x", 1) != 1)
		abort();
}

/* All that an eventfd counts, semaphore or not. */
static inline unsigned take_count(int fd)
{
	uint64_t count;
	unsigned sum = 0;

	while (read(fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
		sum += (unsigned)count;
	return sum;
}

#endif
