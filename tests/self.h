/* SPDX-License-Identifier: MIT */
/*
 * What the tests of the in-process library share: its functions called without a heap, rings that are
 * compared with what they were, polls, and refusals that change nothing.
 */
#ifndef TEST_SELF_H
#define TEST_SELF_H

#include <poll.h>
#include <stdatomic.h>
#include <sys/eventfd.h>

#include "facts.h"
#include "internal.h"

#define MOST 1000 /* rings of one process */

#ifdef __SANITIZE_ADDRESS__
#define HAS_OWN_HEAP 0 /* the sanitizer's it is */
#else
#define HAS_OWN_HEAP 1
#endif

/* ---- the heap, which the library must not use ---- */

static volatile int heap_is_forbidden;

#if HAS_OWN_HEAP

#define HEAP_BYTES (64u << 20)

static char heap[HEAP_BYTES] __attribute__((aligned(16)));
static atomic_size_t heap_used;

static size_t *size_of(void *at)
{
	return (size_t *)((char *)at - 16);
}

static void *take_from_heap(size_t alignment, size_t size)
{
	size_t at;

	if (heap_is_forbidden)
		abort();
	if (alignment < 16)
		alignment = 16;
	at = atomic_fetch_add(&heap_used, size + 2 * alignment + 32);
	if (at + size + 2 * alignment + 32 > HEAP_BYTES)
		return NULL;
	at = ((uintptr_t)heap + at + 16 + alignment - 1) & -(uintptr_t)alignment;
	*size_of((void *)at) = size;
	return (void *)at;
}

void *malloc(size_t size)
{
	return take_from_heap(16, size);
}

void free(void *at)
{
	if (at && heap_is_forbidden)
		abort();
}

void *calloc(size_t count, size_t size)
{
	return take_from_heap(16, count * size); /* never used twice: zero */
}

void *realloc(void *at, size_t size)
{
	void *larger = take_from_heap(16, size);

	if (at && larger)
		memcpy(larger, at, *size_of(at) < size ? *size_of(at) : size);
	return larger;
}

void *memalign(size_t alignment, size_t size)
{
	return take_from_heap(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
	return take_from_heap(alignment, size);
}

int posix_memalign(void **at, size_t alignment, size_t size)
{
	*at = take_from_heap(alignment, size);
	return *at ? 0 : ENOMEM;
}

#endif

/* ---- what every test needs ---- */

static struct aior_report report;
static struct aior_error error;
static struct state before, after;
static aio_context_t rings[MOST];
static struct staged was[MOST];
static struct aior_ring_record records[MOST]; /* where rings are, for state_differs() */
static uint32_t count;
static struct iocb *iocbs; /* of polls, a page of its own for each */

/* The stack that all calls need is there from now on: it is a mapping that grows. */
static void __attribute__((noinline, unused)) touch_stack(void)
{
	volatile char stack[256 << 10];

	for (size_t i = 0; i < sizeof(stack); i += 1024)
		stack[i] = 1;
}

static volatile int is_quiet; /* nothing may be printed, or need be */

/* A failure that a test expects is printed with it, and here once more. */
static inline int say(int ret)
{
	if (ret && !is_quiet && !heap_is_forbidden)
		diag("%s", error.message);
	return ret;
}

static inline int stage_self(void)
{
	aior_report_free(&report);
	memset(&error, 0x5a, sizeof(error));
	return say(aior_stage_self(&report, &error));
}

static inline int restore_self(void)
{
	aior_report_free(&report);
	memset(&error, 0x5a, sizeof(error));
	return say(aior_restore_self(&report, &error));
}

/* Brings a ring to that head and that tail. */
static inline aio_context_t add(aio_context_t ctx, uint32_t head, uint32_t tail)
{
	uint32_t nr = ring_of(ctx)->nr;

	run_through(ctx, head);
	for (uint32_t left = (tail + nr - head) % nr; left;) {
		long done = complete(ctx, left < BATCH ? left : BATCH, 0x100 + left);

		if (done <= 0)
			_exit(1);
		left -= (uint32_t)done;
	}
	rings[count++] = ctx;
	return ctx;
}

/* A new one, of as many pages, whatever their size, as it would have of 4 KiB. */
static inline aio_context_t add_ring(unsigned n, uint32_t head, uint32_t tail)
{
	return add(new_ring(n > 1 ? n * (page / 4096) : n), head, tail);
}

/* All rings as they are, to be compared with. */
static inline void keep(void)
{
	for (uint32_t i = 0; i < count; i++) {
		struct aio_ring *ring = ring_of(rings[i]);
		uint64_t len = len_of(rings[i]);

		if (!was[i].copy)
			was[i].copy = malloc(len);
		memcpy(was[i].copy, ring, len);
		was[i].len = len;
		was[i].nr = ring->nr;
		was[i].head = ring->head;
		was[i].tail = ring->tail;
		records[i] = (struct aior_ring_record){
		    .addr = rings[i], .len = len, .head = ring->head, .tail = ring->tail};
	}
}

static inline uint32_t pending(void)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < count; i++)
		sum += aio_ring_pending(was[i].head, was[i].tail, was[i].nr);
	return sum;
}

/*
 * What the program sees while they are staged: the same bytes, in memory like any other. (Where polls
 * were cancelled, free slots have held their events.)
 */
static inline const char *why_not_staged(void)
{
	for (uint32_t i = 0; i < count; i++) {
		struct aior_ring_record at = {.staged = rings[i]};

		if (mapping_of(getpid(), rings[i]).is_aio)
			return "a ring is live";
		if (iocbs ? !is_same_ring(&at, &was[i])
			  : memcmp(ring_of(rings[i]), was[i].copy, was[i].len))
			return "the bytes of a ring";
		if (io_submit(rings[i], 0, NULL) != -EINVAL)
			return "a handle that still works";
	}
	return NULL;
}

static inline const char *why_not_restored(void)
{
	const char *why = NULL;

	for (uint32_t i = 0; i < count && !why; i++)
		why = why_not_live(&records[i], &was[i], NULL, silent[0]);
	return why;
}

/* Sanitizers map memory of their own between. */
static inline const char *why_other_state(int with_rings)
{
	if (!HAS_OWN_HEAP)
		after.maps[0] = before.maps[0] = '\0';
	return state_differs(&before, &after, records, with_rings ? count : 0);
}

static inline void set_up(void)
{
	touch_stack();
	state_prepare(&before);
	state_prepare(&after);
}

/* Writes a zero there, if that can be done. */
static inline int is_writable(void *at)
{
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	long n = read(zero, at, 1);

	close(zero);
	return n == 1;
}

/* Stages and restores what there is; nothing may tell. */
static inline void there_and_back(const char *name)
{
	uint32_t expected;
	const char *why;

	keep();
	expected = pending();
	state_take(&before);
	if (!ok(!stage_self(), "%s: staged", name))
		return;
	ok(report.ring_count == count && report.pending == expected && !report.drained &&
		!report.poll_count && !report.lost_count && !report.inherited_count && !report.lost,
	    "%s: %u rings, %u events pending, no more", name, count, expected);
	why = why_not_staged();
	ok(!why, "%s: %s", name, why ? why : "the same bytes, as plain memory");
	ok(!stage_self() && !report.ring_count, "%s: staged already: nothing is done", name);
	if (!ok(!restore_self(), "%s: restored", name))
		return;
	ok(report.ring_count == count && report.pending == expected && !report.lost_count,
	    "%s: ... and reported", name);
	state_take(&after);
	why = why_other_state(1);
	ok(!why, "%s: %s", name,
	    why ? why : "mappings, descriptors, mask and affinity are as before");
	why = why_not_restored();
	ok(!why, "%s: %s", name, why ? why : "exact");
	ok(!restore_self() && !report.ring_count, "%s: restored already: nothing is done", name);
}

/* ---- polls ---- */

#define POLLS 6

static int pipes[POLLS][2], event_fds[POLLS];

static inline struct iocb *iocb_of(unsigned i)
{
	return (struct iocb *)((char *)iocbs + (size_t)i * 2 * page);
}

static inline uint64_t raised(int fd)
{
	uint64_t value = 0;

	return read(fd, &value, sizeof(value)) == (ssize_t)sizeof(value) ? value : 0;
}

/* A poll in flight for each; every other has an eventfd, the last of them a semaphore. */
static inline void add_polls(void)
{
	iocbs = mmap(NULL, (size_t)POLLS * 2 * page, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (unsigned i = 0; i < POLLS; i++) {
		struct iocb *iocb = iocb_of(i);

		if (pipe2(pipes[i], O_CLOEXEC | O_NONBLOCK))
			abort();
		event_fds[i] =
		    eventfd(i, EFD_CLOEXEC | EFD_NONBLOCK | (i == 5 ? EFD_SEMAPHORE : 0));
		iocb_poll(iocb, pipes[i][0], POLLIN, 0x900 + i);
		if (i & 1) {
			iocb->aio_flags = IOCB_FLAG_RESFD;
			iocb->aio_resfd = (uint32_t)event_fds[i];
		}
		if (submit_one(rings[i % count], iocb) != 1)
			abort();
	}
}

/* The event of that poll, if it comes. */
static inline int comes(aio_context_t ctx, unsigned i, int64_t res)
{
	struct aio_slot event;
	int64_t begun = now_ms();
	long n;

	while (!(n = io_getevents(ctx, 1, &event)) && now_ms() - begun < PATIENCE_MS)
		tick();
	return n == 1 && event.data == 0x900 + i && event.obj == (uintptr_t)iocb_of(i) &&
	       (event.res & res) == res && !event.res2;
}

static inline int is_raised_by(unsigned i, uint64_t more)
{
	uint64_t value = 0, n;

	while ((n = raised(event_fds[i])))
		value += n;
	if (value != i + more)
		diag("eventfd %u: %llu", i, (unsigned long long)value);
	return value == i + more;
}

/* ---- refusals ---- */

/* The call must fail so, with a sentence that says so, and leave all as it was. */
static inline void refuses(
    int (*call_it)(void), const char *name, int err, int has_ring, const char *sentence)
{
	const char *why;
	int ret;

	state_take(&before);
	is_quiet = 1;
	ret = call_it();
	is_quiet = 0;
	state_take(&after);
	why = why_other_state(0);
	if (!ok(ret == -1 && error.err == err && error.has_ring == has_ring && error.step &&
		    strstr(error.message, sentence) && !report.ring_count && !report.lost,
		"%s: %s", name, ret ? error.message : "not refused"))
		diag("errno %d, expected %d; `%s`", error.err, err, sentence);
	ok(!why, "%s: %s", name, why ? why : "all is as it was");
}

static inline void refuses_stage(const char *name, int err, int has_ring, const char *sentence)
{
	keep();
	refuses(stage_self, name, err, has_ring, sentence);
	for (uint32_t i = 0; i < count; i++)
		if (memcmp(ring_of(rings[i]), was[i].copy, was[i].len))
			ok(0, "%s: a ring has changed", name);
}

/* ---- running them ---- */

struct self_test {
	const char *name;
	void (*test)(void);
};

static inline void run_tests(const struct self_test *tests, size_t n)
{
	if (!HAS_OWN_HEAP)
		skip("mappings are as before, the heap is not used",
		    "a sanitizer has the heap, and maps memory of its own between");
	for (size_t i = 0; i < n; i++)
		in_child(tests[i].name, tests[i].test);
}

#endif
