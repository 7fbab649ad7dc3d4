/* SPDX-License-Identifier: MIT */
/*
 * A process stages and restores its own rings: aior_stage_self() and aior_restore_self(), as a program
 * that is linked with the library calls them. Nothing may tell such a ring from one that was never
 * touched; what fails leaves all as it was; a capsule that is damaged is never believed.
 */
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/uio.h>

#include "facts.h"
#include "internal.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

#define MOST 1000 /* rings of one process */
#define PARALLEL 12

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
static void __attribute__((noinline)) touch_stack(void)
{
	volatile char stack[256 << 10];

	for (size_t i = 0; i < sizeof(stack); i += 1024)
		stack[i] = 1;
}

static volatile int is_quiet; /* nothing may be printed, or need be */

/* A failure that a test expects is printed with it, and here once more. */
static int say(int ret)
{
	if (ret && !is_quiet && !heap_is_forbidden)
		diag("%s", error.message);
	return ret;
}

static int stage_self(void)
{
	aior_report_free(&report);
	memset(&error, 0x5a, sizeof(error));
	return say(aior_stage_self(&report, &error));
}

static int restore_self(void)
{
	aior_report_free(&report);
	memset(&error, 0x5a, sizeof(error));
	return say(aior_restore_self(&report, &error));
}

/* Brings a ring to that head and that tail. */
static aio_context_t add(aio_context_t ctx, uint32_t head, uint32_t tail)
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
static aio_context_t add_ring(unsigned n, uint32_t head, uint32_t tail)
{
	return add(new_ring(n > 1 ? n * (page / 4096) : n), head, tail);
}

/* All rings as they are, to be compared with. */
static void keep(void)
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

static uint32_t pending(void)
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
static const char *why_not_staged(void)
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

static const char *why_not_restored(void)
{
	const char *why = NULL;

	for (uint32_t i = 0; i < count && !why; i++)
		why = why_not_live(&records[i], &was[i], NULL, silent[0]);
	return why;
}

/* Sanitizers map memory of their own between. */
static const char *why_other_state(int with_rings)
{
	if (!HAS_OWN_HEAP)
		after.maps[0] = before.maps[0] = '\0';
	return state_differs(&before, &after, records, with_rings ? count : 0);
}

static void set_up(void)
{
	touch_stack();
	state_prepare(&before);
	state_prepare(&after);
}

/* Stages and restores what there is; nothing may tell. */
static void there_and_back(const char *name)
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

/* ---- rings ---- */

static void test_nothing(void)
{
	set_up();
	state_take(&before);
	ok(!stage_self() && !report.ring_count && !report.pending && !report.lost,
	    "no rings: staged");
	ok(!restore_self() && !report.ring_count, "no rings: restored");
	state_take(&after);
	ok(!why_other_state(0), "no rings: all is as it was");
	ok(!aior_stage_self(NULL, NULL) && !aior_restore_self(NULL, NULL), "no rings, no report");
	add_ring(1, 3, 5);
	keep();
	ok(!aior_stage_self(NULL, NULL) && !why_not_staged() && !aior_restore_self(NULL, NULL) &&
		!why_not_restored(),
	    "a ring, no report");
}

static void test_idle(void)
{
	set_up();
	for (int i = 0; i < 3; i++)
		add_ring(1 + 70 * i, 0, 0);
	there_and_back("idle rings");
}

static void test_pending(void)
{
	uint32_t nr = aio_ring_nr((uint32_t)aio_ring_len(1, cpus, page));
	uint32_t most = aio_ring_usable(nr, cpus);

	set_up();
	add_ring(1, 0, 1);
	add_ring(1, 7, 90);
	add_ring(1, nr - 1, 0);
	add_ring(1, nr - 10, 30);
	add_ring(1, 40, (40 + most / 2) % nr);
	add_ring(300, 17, 400);
	there_and_back("pending and wrapped rings");
}

/* Writes a zero there, if that can be done. */
static int is_writable(void *at)
{
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	long n = read(zero, at, 1);

	close(zero);
	return n == 1;
}

static struct aio_slot *last_slot(uint32_t ring)
{
	return slot(rings[ring], was[ring].nr - 1);
}

static void test_read_only(void)
{
	set_up();
	add_ring(1, 20, 30);
	add_ring(150, 20, 30);
	keep();
	mprotect(ring_of(rings[1]), len_of(rings[1]), PROT_READ);
	ok(!stage_self() && !why_not_staged(), "a read-only ring: staged");
	ok(!restore_self() && !is_writable(last_slot(1)),
	    "a read-only ring: it still is, restored");
	ok(is_writable(last_slot(0)), "... and the one beside it is not");
	mprotect(ring_of(rings[1]), len_of(rings[1]), PROT_READ | PROT_WRITE);
	*last_slot(0) = slots_of(was[0].copy)[was[0].nr - 1];
	ok(!why_not_restored(), "a read-only ring: exact");
}

/* As many as the kernel's budget for all of them allows. */
static void test_many(void)
{
	uint32_t wanted = effort(MOST);
	long left = aio_max_nr() - aio_nr();
	int64_t begun, staged;

	if (left / 2 < (long)wanted) {
		skip("many rings", "fs.aio-max-nr leaves %ld", left);
		return;
	}
	set_up();
	for (uint32_t i = 0; i < wanted; i++)
		add_ring(1, i % 97, (i + i % 13) % 97);
	begun = now_ms();
	keep();
	ok(!stage_self() && report.ring_count == count && report.pending == pending(),
	    "%u rings: staged", count);
	staged = now_ms();
	ok(!why_not_staged(), "%u rings: the same bytes", count);
	ok(!restore_self() && report.ring_count == count, "%u rings: restored", count);
	ok(!why_not_restored(), "%u rings: exact", count);
	diag("%u rings: staged in %lld ms", count, (long long)(staged - begun));
}

static void test_large(void)
{
	const uint32_t nr = 60031; /* with pages of 4096 bytes, just what a ring can have */
	uint64_t bytes = AIO_RING_HEADER + (uint64_t)AIO_RING_SLOT * nr;
	uint64_t len = (bytes + page - 1) & ~(uint64_t)(page - 1);
	unsigned n = aio_ring_smallest_n((uint32_t)len, page);

	if (aio_max_nr() - aio_nr() < (long)n + 1000) {
		skip("a large ring", "fs.aio-max-nr leaves %ld", aio_max_nr() - aio_nr());
		return;
	}
	set_up();
	add(new_ring(n), 59000, 900);
	ok(ring_of(rings[0])->nr >= nr, "a ring of %u slots", ring_of(rings[0])->nr);
	there_and_back("a large ring, wrapped");
}

static void test_again_and_again(void)
{
	unsigned rounds = effort(40), done = 0;
	const char *why = NULL;
	uint64_t seed = 42;

	set_up();
	add_ring(1, 0, 0);
	add_ring(200, 0, 0);
	for (; done < rounds; done++) {
		for (uint32_t i = 0; i < count; i++) {
			struct aio_ring *ring = ring_of(rings[i]);

			ring->head = ring->tail;
			run_through(rings[i], random_below(&seed, 100));
			complete(rings[i], random_below(&seed, 60), done);
		}
		keep();
		if (stage_self() || (why = why_not_staged()) || restore_self() ||
		    (why = why_not_restored()))
			break;
	}
	ok(done == rounds, "%u times staged and restored: %s", done, why ? why : error.message);
}

/* ---- polls ---- */

#define POLLS 6

static int pipes[POLLS][2], event_fds[POLLS];

static struct iocb *iocb_of(unsigned i)
{
	return (struct iocb *)((char *)iocbs + (size_t)i * 2 * page);
}

static uint64_t raised(int fd)
{
	uint64_t value = 0;

	return read(fd, &value, sizeof(value)) == (ssize_t)sizeof(value) ? value : 0;
}

/* A poll in flight for each; every other has an eventfd, the last of them a semaphore. */
static void add_polls(void)
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
static int comes(aio_context_t ctx, unsigned i, int64_t res)
{
	struct aio_slot event;
	int64_t begun = now_ms();
	long n;

	while (!(n = io_getevents(ctx, 1, &event)) && now_ms() - begun < PATIENCE_MS)
		tick();
	return n == 1 && event.data == 0x900 + i && event.obj == (uintptr_t)iocb_of(i) &&
	       (event.res & res) == res && !event.res2;
}

static int is_raised_by(unsigned i, uint64_t more)
{
	uint64_t value = 0, n;

	while ((n = raised(event_fds[i])))
		value += n;
	if (value != i + more)
		diag("eventfd %u: %llu", i, (unsigned long long)value);
	return value == i + more;
}

static void test_polls(void)
{
	struct aio_slot event;
	unsigned good = 0, exact = 0;

	set_up();
	add_ring(1, 5, 9);
	add_ring(1, 0, 0);
	add_polls();
	keep();
	state_take(&before);
	ok(!stage_self() && report.poll_count == POLLS && !report.lost_count && !report.drained &&
		report.pending == pending(),
	    "polls: remembered");
	ok(!why_not_staged(), "polls: the same bytes");
	ok(!restore_self() && report.poll_count == POLLS && !report.lost_count,
	    "polls: submitted again");
	state_take(&after);
	ok(!why_other_state(1), "polls: all else is as before");
	ok(io_getevents(rings[0], 4, (struct aio_slot[4]){0}) == 4 &&
		!io_getevents(rings[0], 1, &event) && !io_getevents(rings[1], 1, &event),
	    "polls: none has completed");
	for (unsigned i = 0; i < POLLS; i++)
		if (write(pipes[i][1], "x", 1) == 1)
			good += comes(rings[i % count], i, POLLIN);
	ok(good == POLLS, "polls: each of them completes when its descriptor is ready: %u of %u",
	    good, POLLS);
	for (unsigned i = 0; i < POLLS; i++)
		exact += is_raised_by(i, i & 1);
	ok(exact == POLLS, "polls: eventfds are raised once");
}

/* What becomes ready meanwhile is seen when the poll is submitted again. */
static void test_ready_meanwhile(void)
{
	unsigned good = 0;

	set_up();
	add_ring(1, 0, 0);
	add_polls();
	ok(!stage_self() && report.poll_count == POLLS, "ready meanwhile: staged");
	for (unsigned i = 0; i < POLLS; i++)
		if (write(pipes[i][1], "x", 1) != 1)
			abort();
	ok(!restore_self() && !report.lost_count, "ready meanwhile: restored");
	for (unsigned i = 0; i < POLLS; i++)
		good += comes(rings[0], i, POLLIN) && is_raised_by(i, i & 1);
	ok(good == POLLS, "ready meanwhile: all events are there");
}

/* Polls whose memory or descriptor is not what it was: one each way, and two that are well. */
static const int ways[POLLS] = {ESTALE, EFAULT, EBADF, 0, ESTALE, 0};

static void lose_polls(void)
{
	iocb_of(0)->aio_data++;
	/* Not to be read, and nothing else can come to lie there. */
	if (mmap(iocb_of(1), page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	    MAP_FAILED)
		abort();
	close(pipes[2][0]);
	iocb_of(4)->aio_lio_opcode = IOCB_CMD_FSYNC;
	iocb_of(4)->aio_data = 1;
}

static int are_reported(void)
{
	size_t at = 0;

	for (unsigned i = 0; i < POLLS; i++) {
		const struct aior_lost_poll *lost = &report.lost[at];

		if (!ways[i])
			continue;
		if (at == report.lost_count || lost->err != ways[i] || lost->ring != rings[0] ||
		    lost->iocb != (uintptr_t)iocb_of(i) || lost->data != 0x900 + i)
			return 0;
		at++;
	}
	return at == report.lost_count;
}

static void test_lost(void)
{
	for (int meanwhile = 0; meanwhile < 2; meanwhile++) {
		const char *when = meanwhile ? "lost after staging" : "lost before";
		struct aio_slot events[POLLS];
		unsigned good = 0;

		set_up();
		count = 0;
		add_ring(1, 0, 0);
		add_polls();
		if (!meanwhile)
			lose_polls();
		ok(!stage_self() && report.poll_count == POLLS &&
			(meanwhile ? !report.lost_count : are_reported()),
		    "%s: staged, and %s", when, meanwhile ? "no poll is lost" : "it is known");
		if (meanwhile)
			lose_polls();
		ok(!restore_self() && report.poll_count == POLLS && report.lost_count == 4 &&
			are_reported(),
		    "%s: restored, and reported one by one", when);
		aior_report_free(&report);
		ok(!report.lost && !report.lost_count, "%s: the report is free", when);
		if (io_getevents(rings[0], POLLS, events) == 4)
			for (int i = 0; i < 4; i++)
				good += events[i].res == POLLNVAL && !events[i].res2 &&
					ways[events[i].data - 0x900];
		ok(good == 4, "%s: each is an event with res POLLNVAL", when);
		ok(write(pipes[3][1], "x", 1) == 1 && comes(rings[0], 3, POLLIN),
		    "%s: the others are not", when);
		io_destroy(rings[0]);
	}
}

/* ---- requests in flight ---- */

#define WRITES 48
#define WRITE_BYTES (256u << 10)

/* Each event once, with what was asked for, out of staged memory and then out of the live ring. */
static int are_all_there(aio_context_t ctx, int64_t res)
{
	struct aio_ring *ring = ring_of(ctx);
	unsigned char seen[WRITES] = {0};
	unsigned n = 0;

	for (uint32_t at = ring->head; at != ring->tail; at = aio_ring_next(at, ring->nr), n++) {
		struct aio_slot *event = slot(ctx, at);

		if (event->data >= WRITES || seen[event->data]++ || event->res != res)
			return 0;
	}
	return n == WRITES;
}

/* Writes to blocks that are there already are not waited for: those behind the end are. */
static void fill(int fd)
{
	char *data =
	    mmap(NULL, WRITE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (unsigned i = 0; i < WRITES; i++)
		if (write(fd, data, WRITE_BYTES) != WRITE_BYTES)
			abort();
	munmap(data, WRITE_BYTES);
}

static void flight(const char *name, int fd, unsigned opcode, int64_t res)
{
	static struct iocb flying[WRITES];
	struct iocb *batch[WRITES];
	struct aio_slot events[WRITES];
	int event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	char *data =
	    mmap(NULL, WRITE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t already;
	size_t drained;
	long n;

	set_up();
	add_ring(1 + WRITES, 30, 30);
	memset(data, 'x', WRITE_BYTES);
	for (unsigned i = 0; i < WRITES; i++) {
		memset(&flying[i], 0, sizeof(flying[i]));
		flying[i].aio_lio_opcode = (uint16_t)opcode;
		flying[i].aio_fildes = (uint32_t)fd;
		flying[i].aio_data = i;
		flying[i].aio_flags = IOCB_FLAG_RESFD;
		flying[i].aio_resfd = (uint32_t)event_fd;
		if (opcode == IOCB_CMD_PWRITE) {
			flying[i].aio_buf = (uintptr_t)data;
			flying[i].aio_nbytes = WRITE_BYTES;
			flying[i].aio_offset = (int64_t)i * WRITE_BYTES;
		}
		batch[i] = &flying[i];
	}
	n = io_submit(rings[0], WRITES, batch);
	already = (ring_of(rings[0])->tail + ring_of(rings[0])->nr - 30) % ring_of(rings[0])->nr;
	ok(n == WRITES, "%s: %ld submitted", name, n);
	if (!ok(!stage_self(), "%s: staged", name))
		return;
	drained = report.drained;
	ok(report.pending == WRITES && drained <= WRITES - already && !report.poll_count,
	    "%s: %zu events pending, %zu of them were in flight", name, report.pending, drained);
	ok(are_all_there(rings[0], res), "%s: each has its event, staged", name);
	ok(raised(event_fd) == WRITES, "%s: ... and has raised its eventfd", name);
	ok(!restore_self() && are_all_there(rings[0], res) && !raised(event_fd),
	    "%s: each has its event, restored", name);
	ok(io_getevents(rings[0], WRITES, events) == WRITES && works(rings[0]),
	    "%s: and the kernel gives them out", name);
	diag("%s: %u had completed when all were submitted, %zu were in flight at the drain", name,
	    already, drained);
}

static int new_file(int flags)
{
	char path[] = "self-XXXXXX";
	int fd = mkostemp(path, flags | O_CLOEXEC);

	if (fd >= 0)
		unlink(path);
	return fd;
}

/* Where the file system is one with O_DIRECT; in guests it lives in memory. */
static void test_direct(void)
{
	int fd = new_file(O_DIRECT);

	if (fd < 0) {
		skip("writes in flight", "no O_DIRECT in this folder: %s", strerror(errno));
		return;
	}
	fill(fd);
	fsync(fd);
	flight("writes in flight", fd, IOCB_CMD_PWRITE, WRITE_BYTES);
}

static void test_fsync(void)
{
	int fd = new_file(0);

	if (fd < 0) {
		skip("fsync in flight", "no file can be made here: %s", strerror(errno));
		return;
	}
	fill(fd);
	flight("fsync in flight", fd, IOCB_CMD_FSYNC, 0);
}

/* ---- fork ---- */

/* Before Linux 7.2 a child has its parent's mappings, and no context. */
static void test_inherited(void)
{
	pid_t pid;
	int status;

	set_up();
	add_ring(1, 10, 20);
	add_ring(100, 10, 20);
	keep();
	pid = fork_mortal();
	if (!pid) {
		size_t has = mapping_of(getpid(), rings[0]).is_aio ? 2 : 0;
		aio_context_t own;

		touch_stack();
		state_take(&before);
		ok(!stage_self() && !report.ring_count && report.inherited_count == has,
		    "inherited rings: there are %zu, left alone", report.inherited_count);
		state_take(&after);
		ok(!why_other_state(0), "inherited rings: all is as it was");
		own = new_ring(1);
		ok(!stage_self() && report.ring_count == 1 && report.inherited_count == has &&
			!mapping_of(getpid(), own).is_aio &&
			mapping_of(getpid(), rings[0]).is_aio == (has != 0),
		    "inherited rings, and one of its own: that is staged");
		ok(!restore_self() && report.ring_count == 1 && works(own),
		    "... and restored, and works");
		fflush(stdout);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	ok(!status && !why_not_restored(), "inherited rings: their owner's are untouched");
}

static void test_child_restores(void)
{
	pid_t pid;
	int status;

	set_up();
	add_ring(1, 10, 20);
	add_ring(100, 110, 20);
	keep();
	ok(!stage_self(), "staged memory is inherited: staged");
	pid = fork_mortal();
	if (!pid) {
		ok(!restore_self() && report.ring_count == 2 && !why_not_restored(),
		    "staged memory is inherited: the child's rings are its own, exact");
		fflush(stdout);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	ok(!status && !restore_self() && !why_not_restored(),
	    "staged memory is inherited: its parent's, too");
}

/* ---- refusals ---- */

/* The call must fail so, with a sentence that says so, and leave all as it was. */
static void refuses(
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

static void refuses_stage(const char *name, int err, int has_ring, const char *sentence)
{
	keep();
	refuses(stage_self, name, err, has_ring, sentence);
	for (uint32_t i = 0; i < count; i++)
		if (memcmp(ring_of(rings[i]), was[i].copy, was[i].len))
			ok(0, "%s: a ring has changed", name);
}

static void test_damaged(void)
{
	static const struct {
		size_t offset;
		const char *sentence;
	} fields[] = {
	    {offsetof(struct aio_ring, magic), "lost its magic number"},
	    {offsetof(struct aio_ring, header_length), "another header length"},
	    {offsetof(struct aio_ring, head), "its head lies outside"},
	    {offsetof(struct aio_ring, tail), "its tail lies outside"},
	};
	uint32_t *nr;

	set_up();
	add_ring(1, 3, 9);
	add_ring(1, 3, 9);
	for (size_t i = 0; i < COUNT(fields); i++) {
		uint32_t *field = (uint32_t *)((char *)ring_of(rings[1]) + fields[i].offset);
		uint32_t right = *field;

		*field = 0x7fffffff;
		refuses_stage("a damaged header", EINVAL, 1, fields[i].sentence);
		*field = right;
	}
	keep();
	nr = &ring_of(rings[0])->nr;
	++*nr;
	refuses(stage_self, "another number of slots", EINVAL, 1, "another number of slots");
	--*nr;
	ok(error.ring == rings[0], "a damaged header: its ring is named");
	there_and_back("headers repaired");
}

static void test_split(void)
{
	char *second;

	set_up();
	add_ring(1, 3, 9);
	add_ring(300, 3, 9);
	keep();
	mprotect(ring_of(rings[0]), was[0].len, PROT_NONE);
	state_take(&before);
	ok(stage_self() == -1 && error.err == EINVAL && error.ring == rings[0] &&
		strstr(error.message, "PROT_READ"),
	    "a ring that nobody can read: %s", error.message);
	state_take(&after);
	ok(!why_other_state(0), "a ring that nobody can read: all is as it was");
	mprotect(ring_of(rings[0]), was[0].len, PROT_READ | PROT_WRITE);
	second = (char *)ring_of(rings[1]) + page;
	mprotect(second, page, PROT_READ);
	refuses_stage("a ring in three mappings", EINVAL, 1, "in 3 parts");
	mprotect(second, page, PROT_READ | PROT_WRITE);
	ok(stage_self() == -1, "a ring that was split once stays so: %s", error.message);
	munmap(second, was[1].len - page);
	ok(stage_self() == -1 && error.err == EINVAL && error.ring == rings[1] &&
		strstr(error.message, "another number of slots"),
	    "a ring whose end is unmapped: %s", error.message);
}

static void test_headless(void)
{
	set_up();
	add_ring(300, 3, 9);
	munmap(ring_of(rings[0]), page);
	state_take(&before);
	ok(stage_self() == -1 && error.err == EINVAL && error.ring == rings[0] + page &&
		strstr(error.message, "first pages"),
	    "a ring whose beginning is unmapped: %s", error.message);
	state_take(&after);
	ok(!why_other_state(0), "a ring whose beginning is unmapped: all is as it was");
}

static void test_busy(void)
{
	aio_context_t another;

	set_up();
	add_ring(1, 10, 50);
	keep();
	ok(!stage_self(), "live rings besides a capsule: staged");
	another = new_ring(1);
	refuses(stage_self, "live rings besides a capsule", EBUSY, 0, "restore them first");
	ok(works(another) && !why_not_staged(), "live rings besides a capsule: neither is touched");
	ok(!restore_self() && report.ring_count == 1 && !why_not_restored() && works(another),
	    "live rings besides a capsule: restored, all of them live");
	ok(!stage_self() && report.ring_count == 2 && !restore_self(), "... and staged together");
}

/* ---- limits ---- */

static void limit(int which, rlim_t value)
{
	struct rlimit limits;

	getrlimit((__rlimit_resource_t)which, &limits);
	limits.rlim_cur = value;
	setrlimit((__rlimit_resource_t)which, &limits);
}

/* Descriptors up to a low limit are taken; returns the last of them. */
static int take_all_descriptors(void)
{
	int last = -1, fd;

	limit(RLIMIT_NOFILE, 64);
	while ((fd = dup(silent[0])) >= 0)
		last = fd;
	return last;
}

static void test_no_descriptors(void)
{
	int last;

	set_up();
	add_ring(1, 10, 50);
	keep();
	last = take_all_descriptors();
	ok(stage_self() == -1 && error.err == EMFILE && strstr(error.message, "a free descriptor"),
	    "no descriptor: %s", error.message);
	close(last);
	ok(stage_self() == -1 && error.err == EMFILE && !strcmp(error.step, "pipe") &&
		strstr(error.message, "RLIMIT_NOFILE"),
	    "one descriptor: %s", error.message);
	refuses(stage_self, "one descriptor", EMFILE, 1, "RLIMIT_NOFILE");
	close(last - 1);
	ok(!stage_self() && !why_not_staged(), "two descriptors are enough");
	if (dup(silent[0]) < 0)
		abort();
	refuses(restore_self, "one descriptor, to restore", EMFILE, 0, "RLIMIT_NOFILE");
	ok(!why_not_staged(), "one descriptor, to restore: it stays staged");
	close(last - 1);
	ok(!restore_self() && !why_not_restored(), "two descriptors: restored, exact");
}

/* Bytes of address space. */
static rlim_t address_space(void)
{
	char text[64] = "";
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, text, sizeof(text) - 1);

	close(fd);
	return n > 0 ? (rlim_t)strtoull(text, NULL, 10) * page : 0;
}

/* As much more as that, step by step until it is enough: each time all or nothing. */
static void test_address_space(void)
{
	unsigned refused = 0, tries = 0;
	const char *why = NULL;
	rlim_t used;

	if (!HAS_OWN_HEAP) {
		skip("RLIMIT_AS", "a sanitizer has all of the address space");
		return;
	}
	set_up();
	add_ring(1, 10, 50);
	add_ring(200, 10, 50);
	keep();
	state_take(&before);
	used = address_space();
	for (; tries < 400 && !why; tries++) {
		limit(RLIMIT_AS, used + (rlim_t)tries * page);
		is_quiet = 1;
		if (!stage_self())
			break;
		refused++;
		state_take(&after);
		why = why_other_state(0);
		if (error.err != ENOMEM || !strstr(error.message, "emory"))
			why = error.message;
	}
	is_quiet = 0;
	ok(!why && refused && tries < 400 && !why_not_staged(),
	    "RLIMIT_AS: refused %u times, and each time %s", refused,
	    why ? why : "all is as it was");
	limit(RLIMIT_AS, address_space());
	ok(restore_self() == -1 && error.err == ENOMEM && !why_not_staged(),
	    "RLIMIT_AS, to restore: %s", error.message);
	limit(RLIMIT_AS, RLIM_INFINITY);
	ok(!restore_self() && !why_not_restored(), "RLIMIT_AS: restored, exact");
}

static void test_aio_max_nr(void)
{
	aio_context_t greedy;
	long left;

	set_up();
	add_ring(200, 10, 50);
	keep();
	ok(!stage_self(), "fs.aio-max-nr: staged");
	aio_nr_is_back(0);
	left = aio_max_nr() - aio_nr();
	if (left < 10000 || left > 1000000 || io_setup((unsigned)left - 20, &greedy)) {
		skip("fs.aio-max-nr", "it leaves %ld", left);
		return;
	}
	state_take(&before);
	ok(restore_self() == -1 && error.is_refused && strstr(error.message, "fs.aio-max-nr=") &&
		!why_not_staged(),
	    "fs.aio-max-nr: %s", error.message);
	state_take(&after);
	ok(!why_other_state(0), "fs.aio-max-nr: all is as it was");
	io_destroy(greedy);
	ok(!restore_self() && !why_not_restored(), "fs.aio-max-nr: restored, exact");
}

/* ---- sandboxes ---- */

/* From now on that system call fails with EPERM. */
static int forbid(long nr)
{
	struct sock_filter filter[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {COUNT(filter), filter};

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static const struct {
	long nr;
	const char *name, *step;
} forbidden[] = {
    {__NR_io_submit, "io_submit", "ring"},
    {__NR_io_destroy, "io_destroy", "drain"},
    {__NR_vmsplice, "vmsplice", "pin"},
    {__NR_pipe2, "pipe2", "pipe"},
    {__NR_mremap, "mremap", "move"},
    {__NR_process_vm_readv, "process_vm_readv", "capsule"},
};
static size_t which;

static void forbidden_call(void)
{
	const char *name = forbidden[which].name;

	set_up();
	add_ring(1, 10, 50);
	add_ring(1, 10, 50);
	keep();
	if (forbid(forbidden[which].nr)) {
		skip(name, "no seccomp filter here: %s", strerror(errno));
		return;
	}
	state_take(&before);
	ok(stage_self() == -1 && error.err == EPERM && !strcmp(error.step, forbidden[which].step),
	    "%s is forbidden: %s", name, error.message);
	state_take(&after);
	ok(!why_other_state(0) && mapping_of(getpid(), rings[0]).is_aio &&
		mapping_of(getpid(), rings[1]).is_aio,
	    "%s is forbidden: all is as it was", name);
}

/* Without helpers it is slower, and that is all. */
static void test_no_clone(void)
{
	set_up();
	for (int i = 0; i < 4; i++)
		add_ring(1, 10, 50);
	keep();
	if (forbid(__NR_clone)) {
		skip("clone is forbidden", "no seccomp filter here: %s", strerror(errno));
		return;
	}
	ok(!stage_self() && !why_not_staged() && !restore_self() && !why_not_restored(),
	    "clone is forbidden: staged and restored all the same");
}

static void test_mdwe(void)
{
	void *at;

	set_up();
	add_ring(1, 10, 50);
	if (prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)) {
		skip("PR_SET_MDWE", "this kernel has none (6.3): %s", strerror(errno));
		return;
	}
	at = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ok(mprotect(at, page, PROT_READ | PROT_EXEC), "PR_SET_MDWE: nothing becomes executable");
	munmap(at, page);
	there_and_back("PR_SET_MDWE");
}

/* ---- locks ---- */

static pthread_barrier_t barrier;

/* Stands still with every lock that it can get. */
static void *lock_holder(void *unused)
{
	flockfile(stdout);
	flockfile(stderr);
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	funlockfile(stderr);
	funlockfile(stdout);
	return unused;
}

/* What fails, and what does not, with the heap forbidden and the streams' locks held. */
static void test_locks(void)
{
	int ret[6];
	char messages[2][sizeof(error.message)];
	aio_context_t another;
	pthread_t thread;

	if (!HAS_OWN_HEAP) {
		skip("no heap, no lock", "a sanitizer has a heap of its own");
		return;
	}
	set_up();
	add_ring(1, 10, 50);
	add_ring(200, 10, 50);
	add_polls();
	close(pipes[2][0]);
	keep();
	pthread_barrier_init(&barrier, NULL, 2);
	if (pthread_create(&thread, NULL, lock_holder, NULL))
		abort();
	pthread_barrier_wait(&barrier);
	heap_is_forbidden = 1;
	ring_of(rings[0])->magic = 0;
	ret[0] = stage_self();
	memcpy(messages[0], error.message, sizeof(messages[0]));
	ring_of(rings[0])->magic = AIO_RING_MAGIC;
	ret[1] = stage_self();
	ret[2] = (int)report.lost_count;
	another = new_ring(1);
	ret[3] = stage_self();
	memcpy(messages[1], error.message, sizeof(messages[1]));
	ret[4] = restore_self();
	ret[5] = (int)report.lost_count;
	heap_is_forbidden = 0;
	pthread_barrier_wait(&barrier);
	pthread_join(thread, NULL);
	ok(ret[0] == -1, "no heap, no lock: refused (%s)", messages[0]);
	ok(!ret[1] && ret[2] == 1, "no heap, no lock: staged");
	ok(ret[3] == -1, "no heap, no lock: refused (%s)", messages[1]);
	ok(!ret[4] && ret[5] == 1, "no heap, no lock: restored");
	ok(works(another), "no heap, no lock: the others work");
}

/*
 * Cancelled, it makes both calls, and then is not cancelled any more: a thread of a static program
 * cannot end so.
 */
static void *cancelled(void *through)
{
	int was_enabled;

	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	*(int *)through = !aior_stage_self(NULL, NULL) && !aior_restore_self(NULL, NULL);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &was_enabled);
	*(int *)through &= was_enabled == PTHREAD_CANCEL_ENABLE;
	return through;
}

/* A cancellation that is under way waits until both are through. */
static void test_cancel(void)
{
	int through = 0;
	pthread_t thread;
	void *ret;

	set_up();
	add_ring(1, 10, 50);
	keep();
	pthread_barrier_init(&barrier, NULL, 2);
	if (pthread_create(&thread, NULL, cancelled, &through))
		abort();
	pthread_barrier_wait(&barrier);
	pthread_cancel(thread);
	pthread_barrier_wait(&barrier);
	pthread_join(thread, &ret);
	ok(ret == &through && through, "a cancelled thread is not, in the midst of it");
	ok(!why_not_restored(), "a cancelled thread: the ring is live, and exact");
}

/* ---- threads ---- */

#define THREADS 4

static sem_t standing, leaving;
static volatile sig_atomic_t is_over, is_enough;
static atomic_ulong requests, wrong;

/* As aio-restorer(3) has it. */
static void stand_still(int signal)
{
	sigset_t others;

	if (is_over)
		return; /* this is what ends the wait below */
	sigfillset(&others);
	sigdelset(&others, signal);
	sem_post(&standing);
	while (!is_over)
		sigsuspend(&others);
	sem_post(&leaving);
}

/* One request at a time, each of which must come back once; and the heap, for its locks. */
static void *use_a_ring(void *unused)
{
	aio_context_t ctx = new_ring(10);

	for (uint64_t n = 0; !is_enough; n++, requests++) {
		struct aio_slot event = {0};
		struct iocb iocb;
		long got;

		if (!(n % 64))
			free(calloc(1, 16));
		iocb_null_read(&iocb, silent[0], n);
		if (submit_one(ctx, &iocb) != 1)
			wrong++;
		do {
			got = result(syscall(__NR_io_getevents, ctx, 1L, 1L, &event, NULL));
		} while (got == -EINTR);
		if (got != 1 || event.data != n || event.obj != (uintptr_t)&iocb || event.res)
			wrong++;
	}
	io_destroy(ctx);
	return unused;
}

static void signal_all(const pthread_t threads[THREADS], sem_t *semaphore)
{
	for (int i = 0; i < THREADS; i++)
		pthread_kill(threads[i], SIGRTMIN);
	for (int i = 0; i < THREADS; i++)
		while (sem_wait(semaphore))
			;
}

/* Threads that use AIO without pause are stopped, wherever they are, and notice nothing. */
static void test_threads(void)
{
	struct sigaction action = {.sa_handler = stand_still, .sa_flags = SA_RESTART};
	unsigned rounds = effort(60), done = 0;
	pthread_t threads[THREADS];

	set_up();
	sigfillset(&action.sa_mask);
	sigaction(SIGRTMIN, &action, NULL);
	sem_init(&standing, 0, 0);
	sem_init(&leaving, 0, 0);
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, use_a_ring, NULL))
			abort();
	for (; done < rounds; done++) {
		unsigned long before_it = requests;
		int ret;

		while (requests < before_it + 100)
			usleep(500);
		is_over = 0;
		signal_all(threads, &standing);
		heap_is_forbidden = 1;
		ret = stage_self() || restore_self();
		heap_is_forbidden = 0;
		is_over = 1;
		signal_all(threads, &leaving);
		if (ret) {
			diag("%s", error.message);
			break;
		}
	}
	is_enough = 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	ok(done == rounds && !wrong,
	    "%d threads, stopped %u times: %lu requests, %lu of them went wrong", THREADS, done,
	    requests, wrong);
}

/* ---- the capsule ---- */

static struct aior_capsule capsule;

static struct aior_table *table(void)
{
	return (struct aior_table *)(uintptr_t)capsule.addr;
}

static struct aior_ring_record *ring_record_of(uint32_t i)
{
	return (void *)((char *)table() + capsule.table.rings + i * capsule.table.ring_stride);
}

static struct aior_poll_record *poll_record_of(uint32_t i)
{
	return (void *)((char *)table() + capsule.table.polls + i * capsule.table.poll_stride);
}

/* Three rings, and polls in them, staged. */
static int set_up_capsule(void)
{
	set_up();
	add_ring(1, 10, 50);
	add_ring(200, 100, 20);
	add_ring(1, 0, 0);
	add_polls();
	keep();
	return stage_self() || aior_find_capsule(0, &capsule, &error) != 1;
}

/* A field that is not what it was: as a number of that many bytes. */
struct field {
	size_t offset;
	unsigned bytes;
	uint64_t value;
	int err; /* 0: refused, because this host is another */
	const char *sentence;
};

#define TABLE(field, value, err, sentence)                                                         \
	{                                                                                          \
		offsetof(struct aior_table, field), sizeof(((struct aior_table *)0)->field),       \
		    value, err, sentence                                                           \
	}
#define RING(field, value, err, sentence)                                                          \
	{                                                                                          \
		offsetof(struct aior_ring_record, field),                                          \
		    sizeof(((struct aior_ring_record *)0)->field), value, err, sentence            \
	}
#define POLL(field, value, err, sentence)                                                          \
	{                                                                                          \
		offsetof(struct aior_poll_record, field),                                          \
		    sizeof(((struct aior_poll_record *)0)->field), value, err, sentence            \
	}

static const struct field table_fields[] = {
    TABLE(abi, 0, EINVAL, "version is 0"),
    TABLE(abi, 2, ENOTSUP, "of version 2, and this release knows versions up to 1"),
    TABLE(size, 112, EINVAL, "not that of its version"),
    TABLE(size, 0, EINVAL, "not that of its version"),
    TABLE(total, 1ull << 40, EINVAL, "longer than its mapping"),
    TABLE(total, ~0ull, EINVAL, "longer than its mapping"),
    TABLE(total, 104, EINVAL, "outside of it"),
    TABLE(total, 0, EINVAL, "outside of it"),
    TABLE(total, 104 + 3 * 80 + POLLS * 32 + 8, EINVAL, "not that of its records"),
    TABLE(state, AIOR_TABLE_IMAGE, EINVAL, "table of an image"),
    TABLE(state, AIOR_TABLE_PREPARED, EBUSY, "prepared and not filled"),
    TABLE(state, AIOR_TABLE_DRAINING, EBUSY, "being filled"),
    TABLE(state, 4, EINVAL, "no such state"),
    TABLE(arch, 0, EINVAL, "no such architecture"),
    TABLE(arch, 99, EINVAL, "no such architecture"),
    TABLE(page_size, 0, EINVAL, "no host has pages"),
    TABLE(page_size, 5000, EINVAL, "no host has pages"),
    TABLE(page_size, 2048, EINVAL, "no host has pages"),
    TABLE(page_size, 65536, 0, "pages of 65536 bytes"),
    TABLE(rings, 0, EINVAL, "ring records lie outside"),
    TABLE(rings, 100, EINVAL, "not aligned"),
    TABLE(rings, 112, EINVAL, "on other records"),
    TABLE(rings, 0xfffffff8, EINVAL, "ring records lie outside"),
    TABLE(ring_count, 0, EINVAL, "names no ring"),
    TABLE(ring_count, 2, EINVAL, "not that of its records"),
    TABLE(ring_count, 4, EINVAL, "on other records"),
    TABLE(ring_count, ~0u, EINVAL, "ring records lie outside"),
    TABLE(ring_stride, 0, EINVAL, "smaller than any"),
    TABLE(ring_stride, 72, EINVAL, "smaller than any"),
    TABLE(ring_stride, 84, EINVAL, "not aligned"),
    TABLE(ring_stride, 0xfffffff8, EINVAL, "ring records lie outside"),
    TABLE(polls, 0, EINVAL, "poll records lie outside"),
    TABLE(polls, 104, EINVAL, "on other records"),
    TABLE(polls, 0xfffffff8, EINVAL, "poll records lie outside"),
    TABLE(poll_count, 0, EINVAL, "not that of its records"),
    TABLE(poll_count, POLLS - 1, EINVAL, "not that of its records"),
    TABLE(poll_count, POLLS + 1, EINVAL, "poll records lie outside"),
    TABLE(poll_count, ~0u, EINVAL, "poll records lie outside"),
    TABLE(poll_stride, 24, EINVAL, "smaller than any"),
    TABLE(poll_stride, 40, EINVAL, "poll records lie outside"),
    TABLE(poll_stride, 36, EINVAL, "not aligned"),
    TABLE(threads, 104, EINVAL, "smaller than any"),
    TABLE(thread_count, 1, EINVAL, "smaller than any"),
    TABLE(thread_stride, 8, EINVAL, "thread records lie outside"),
    TABLE(reserved[0], 1, EINVAL, "reserved"),
    TABLE(reserved[2], 1ull << 63, EINVAL, "reserved"),
};

static const struct field ring_fields[] = {
    RING(addr, 0, EINVAL, "its address is none"),
    RING(addr, 0x10008, EINVAL, "its address is none"),
    RING(addr, ~0ull << 16, EINVAL, "before the ring before it ends|not end where|lie elsewhere"),
    RING(len, 0, EINVAL, "its length is none"),
    RING(len, 4095, EINVAL, "its length is none"),
    RING(len, 1ull << 40, EINVAL, "its length is none"),
    RING(staged, 0, EINVAL, "lie elsewhere"),
    RING(room, 8, EINVAL, "less room"),
    RING(flags, AIOR_RING_LIVE, EINVAL, "left it live"),
    RING(flags, 4, EINVAL, "a flag that there is not"),
    RING(prot, 8, EINVAL, "its protection is none"),
    RING(prot, PROT_WRITE, EINVAL, "its protection is none"),
    RING(reserved, 1, EINVAL, "reserved"),
};

static const struct field poll_fields[] = {
    POLL(ring, 0, EINVAL, "belongs to no ring"),
    POLL(ring, 0x10000, EINVAL, "belongs to no ring"),
    POLL(flags, 2, EINVAL, "a flag that there is not"),
};

static void set_field(void *at, unsigned bytes, uint64_t value)
{
	memcpy(at, &value, bytes); /* little-endian, all of them */
}

/* One of the sentences, which `|` separates. */
static int says(const char *sentences)
{
	char sentence[128];

	for (const char *at = sentences; *at;) {
		size_t len = strcspn(at, "|");

		snprintf(sentence, sizeof(sentence), "%.*s", (int)len, at);
		if (strstr(error.message, sentence))
			return 1;
		at += len + (at[len] == '|');
	}
	return 0;
}

static void refuses_field(const char *where, char *record, const struct field *field)
{
	char right[8];
	const char *why;
	int ret;

	memcpy(right, record + field->offset, sizeof(right));
	set_field(record + field->offset, field->bytes, field->value);
	state_take(&before);
	is_quiet = 1;
	ret = restore_self();
	is_quiet = 0;
	state_take(&after);
	memcpy(record + field->offset, right, sizeof(right));
	why = why_other_state(0);
	if (!why)
		why = why_not_staged();
	if (!ok(ret == -1 && error.err == field->err && error.is_refused == !field->err &&
		    says(field->sentence) && !why,
		"%s+%zu = 0x%llx: %s", where, field->offset, (unsigned long long)field->value,
		ret ? error.message : "not refused"))
		diag("errno %d, expected %d, `%s`; %s", error.err, field->err, field->sentence,
		    why ? why : "all is as it was");
}

/* What no constant says: values that depend on where rings are. */
static void refuses_value(const char *name, uint64_t *at, uint64_t value, const char *sentence)
{
	uint64_t right = *at;

	*at = value;
	ok(restore_self() == -1 && error.err && says(sentence) && !why_not_staged(), "%s: %s", name,
	    error.message);
	*at = right;
}

static void test_fields(void)
{
	uint32_t foreign =
	    aior_host_arch() == AIOR_ARCH_RISCV64 ? AIOR_ARCH_AARCH64 : AIOR_ARCH_RISCV64;
	const struct field other_arch = TABLE(arch, foreign, 0, "is that of a process on");
	uint8_t magic;

	if (!ok(!set_up_capsule(), "fields: staged"))
		return;
	for (size_t i = 0; i < COUNT(table_fields); i++)
		refuses_field("table", (char *)table(), &table_fields[i]);
	refuses_field("table", (char *)table(), &other_arch);
	for (uint32_t ring = 0; ring < count; ring += 2)
		for (size_t i = 0; i < COUNT(ring_fields); i++)
			refuses_field("ring", (char *)ring_record_of(ring), &ring_fields[i]);
	for (uint32_t poll = 0; poll < POLLS; poll += POLLS - 1)
		for (size_t i = 0; i < COUNT(poll_fields); i++)
			refuses_field("poll", (char *)poll_record_of(poll), &poll_fields[i]);
	refuses_value("a poll of a ring before", &poll_record_of(POLLS - 1)->ring,
	    ring_record_of(0)->addr, "not where the polls of its ring are");
	refuses_value("rings that overlap", &ring_record_of(1)->addr, ring_record_of(0)->addr,
	    "before the ring before it ends");
	refuses_value("a ring that is too long", &ring_record_of(2)->len,
	    ring_record_of(2)->len + page, "staged memory is gone|another number of slots|magic");
	refuses_value("a ring that is too short", &ring_record_of(1)->len, page,
	    "another number of slots|lie elsewhere");
	magic = table()->magic[3]++;
	ok(!restore_self() && !report.ring_count && !why_not_staged(),
	    "without its magic number it is none");
	table()->magic[3] = magic;
	ok(!restore_self() && report.ring_count == 3 && report.poll_count == POLLS &&
		!report.lost_count,
	    "undamaged: restored");
}

/* The staged memory itself. */
static void test_staged_memory(void)
{
	struct aio_ring *ring;
	void *copy;

	if (!ok(!set_up_capsule(), "staged memory: staged"))
		return;
	ring = ring_of(rings[1]);
	ring->magic ^= 1;
	refuses(restore_self, "staged content without its magic", EINVAL, 1, "magic number");
	ring->magic ^= 1;
	ring->head += was[1].nr;
	refuses(restore_self, "staged content with a wrong head", EINVAL, 1, "its head lies");
	ring->head -= was[1].nr;
	mprotect((char *)ring + page, page, PROT_NONE);
	refuses(restore_self, "staged content that cannot be read", EFAULT, 1, "memory is gone");
	mprotect((char *)ring + page, page, PROT_READ | PROT_WRITE);
	munmap((char *)ring + page, page);
	refuses(restore_self, "staged content that is unmapped", EFAULT, 1, "memory is gone");
	map_at((char *)ring + page, page, PROT_READ | PROT_WRITE);
	memcpy(ring, was[1].copy, was[1].len);
	mprotect(table(), page, PROT_READ);
	refuses(restore_self, "a capsule that cannot be written to", EACCES, 0, "PROT_WRITE");
	mprotect(table(), page, PROT_READ | PROT_WRITE);
	copy = map_guarded(page);
	memcpy(copy, table(), sizeof(struct aior_table));
	refuses(restore_self, "two capsules", EINVAL, 0, "there are 2 capsules, at 0x");
	ok(strstr(error.message, "nothing tells which"), "two capsules: %s", error.message);
	new_ring(1);
	refuses(stage_self, "two capsules, to stage", EINVAL, 0, "there are 2 capsules, at 0x");
	memset(copy, 0, page);
	ok(!restore_self() && report.ring_count == 3, "staged memory, repaired: restored");
}

/*
 * Some bytes of the capsule are other than they were: either it is refused, and nothing is touched, or
 * they were bytes that do not matter or cannot be told, and the rings are there, and their events.
 */
static int random_damage(uint64_t seed)
{
	size_t len = (size_t)capsule.table.total;
	unsigned char *bytes = (unsigned char *)table(), right[1024];
	uint32_t how_many;
	int ret, is_refused;

	seed = seed * 0x9e3779b97f4a7c15ull + 1;
	memcpy(right, bytes, len);
	how_many = 1 + random_below(&seed, random_below(&seed, 4) ? 2 : 24);
	is_quiet = 1;
	for (uint32_t i = 0; i < how_many; i++)
		bytes[random_below(&seed, (uint32_t)len)] ^= 1u << random_below(&seed, 8);
	ret = restore_self();
	if (ret && (!error.message[0] || why_not_staged()))
		return 1;
	is_refused = ret != 0;
	if (ret || !mapping_of(getpid(), rings[0]).is_aio) {
		if (why_not_staged())
			return 1;
		memcpy(bytes, right, len);
		/* fs.aio-max-nr is the whole machine's. */
		for (int tries = 0; (ret = restore_self()) &&
				    (error.is_refused || error.err == EAGAIN) && tries < 3000;)
			usleep(10000), tries++;
		if (ret || report.ring_count != 3 || report.lost_count)
			return 1;
	}
	for (uint32_t i = 0; i < count; i++) {
		struct aio_ring *ring = ring_of(rings[i]);

		if (!mapping_of(getpid(), rings[i]).is_aio || ring->head != was[i].head)
			return 1;
		for (uint32_t s = was[i].head; s != was[i].tail; s = aio_ring_next(s, was[i].nr))
			if (memcmp(slot(rings[i], s), &slots_of(was[i].copy)[s], AIO_RING_SLOT))
				return 1;
	}
	return is_refused ? 0 : 2;
}

static void test_random(void)
{
	unsigned wanted = effort(2400), started = 0, running = 0;
	unsigned ended[3] = {0}, others = 0;
	uint64_t first = (uint64_t)time(NULL) * 10000;
	int status;

	if (!ok(!set_up_capsule() && capsule.table.total <= 1024, "random damage: staged"))
		return;
	/* What is there in this process is not the children's. */
	while (started < wanted || running) {
		if (started < wanted && running < PARALLEL) {
			pid_t pid = fork_mortal();

			if (!pid) {
				alarm(TAP_PATIENCE);
				_exit(random_damage(first + started));
			}
			started++;
			running++;
			continue;
		}
		if (wait(&status) < 0)
			break;
		running--;
		if (WIFEXITED(status) && WEXITSTATUS(status) < 3)
			ended[WEXITSTATUS(status)]++;
		else
			others++;
	}
	ok(!others && !ended[1] && ended[0] + ended[2] == wanted && ended[0],
	    "random damage, seeds from %llu: %u refused, %u not, %u half done, %u crashes",
	    (unsigned long long)first, ended[0], ended[2], ended[1], others);
	ok(!restore_self() && report.ring_count == 3 && !report.lost_count,
	    "random damage of copies: restored");
}

/* ---- finding it ---- */

/* A tool has dropped the pages that guard it, and other memory has come to lie there. */
static void test_merged(void)
{
	size_t around = 4u << 20;
	struct aior_capsule found;
	struct mapping merged;
	char *area, *start;
	int64_t begun;

	set_up();
	add_ring(1, 10, 50);
	add_ring(200, 100, 20);
	keep();
	if (!ok(!stage_self() && aior_find_capsule(0, &capsule, &error) == 1, "merged: staged"))
		return;
	/* The same capsule, moved into the middle of memory like it. */
	area = mmap(NULL, 2 * around, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	start = area + around;
	memset(area, 1, 2 * around);
	memcpy(start, table(), (size_t)capsule.table.total);
	munmap((char *)table() - page, 3 * page);
	begun = now_ms();
	ok(aior_find_capsule(0, &found, &error) == 1 && found.addr == (uintptr_t)start,
	    "merged: found in %lld ms", (long long)(now_ms() - begun));
	merged = mapping_of(getpid(), (uintptr_t)start);
	ok(!merged.len, "merged: it begins no mapping");
	ok(!restore_self() && report.ring_count == 2 && !why_not_restored(), "merged: restored");
	ok(area[0] == 1 && start[-1] == 1 && start[page] == 1 && !is_mapped((uintptr_t)start, page),
	    "merged: no neighbour is touched");
	ok(aior_find_capsule(0, &found, &error) == 0, "merged: it is gone");
}

/* Its guards are ordinary memory: only the second look can find it. */
static void test_unguarded(void)
{
	set_up();
	add_ring(1, 10, 50);
	keep();
	ok(!stage_self() && aior_find_capsule(0, &capsule, &error) == 1, "unguarded: staged");
	ok(!is_writable((char *)table() - page) && !is_writable((char *)table() + page),
	    "a page that cannot be touched lies on each side");
	map_at((char *)table() - page, page, PROT_READ | PROT_WRITE);
	map_at((char *)table() + page, page, PROT_READ | PROT_WRITE);
	ok(!mapping_of(getpid(), capsule.addr).len, "unguarded: it begins no mapping");
	ok(!restore_self() && report.ring_count == 1 && !why_not_restored(), "unguarded: restored");
	ok(is_mapped(capsule.addr - page, page) && is_unmapped(capsule.addr, page) &&
		is_mapped(capsule.addr + page, page),
	    "unguarded: what lies beside it stays");
}

/* In another process: in a child that has a copy, while its parent has none any more. */
static void test_elsewhere(void)
{
	struct aior_capsule found;
	int status;
	pid_t pid;

	set_up();
	add_ring(1, 10, 50);
	keep();
	ok(!stage_self() && aior_find_capsule(0, &capsule, &error) == 1, "another's: staged");
	pid = fork_mortal();
	if (!pid)
		for (;;)
			pause();
	ok(!restore_self() && aior_find_capsule(0, &found, &error) == 0, "another's: own is gone");
	ok(aior_find_capsule(pid, &found, &error) == 1 && found.addr == capsule.addr &&
		!memcmp(&found.table, &capsule.table, sizeof(found.table)) &&
		!aior_check_capsule(&found, aior_host_arch(), &error),
	    "another's: found");
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	ok(aior_find_capsule(pid, &found, &error) == -1 && error.err, "nobody's: %s",
	    error.message);
}

/* A large process: much address space, many mappings. */
static void test_quickly(void)
{
	uint32_t most = (uint32_t)read_number("/proc/sys/vm/max_map_count") / 2;
	size_t len = sizeof(void *) > 4 ? (size_t)((uint64_t)100 << 30) : 256u << 20;
	uint32_t mappings = effort(30000);
	struct aior_capsule found;
	int64_t times[3];
	char *at;

	set_up();
	if (mappings > most)
		mappings = most;
	add_ring(1, 10, 50);
	keep();
	at = mmap(
	    NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED) {
		skip("found quickly", "%zu bytes of address space: %s", len, strerror(errno));
		return;
	}
	for (uint32_t i = 0; i < mappings; i++) {
		char *one = mmap(NULL, page, i & 1 ? PROT_READ : PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (one == MAP_FAILED)
			abort();
		if (!(i & 1) && i & 2)
			*one = 1;
	}
	times[0] = now_ms();
	ok(aior_find_capsule(0, &found, &error) == 0, "in a large process: there is none");
	times[0] = now_ms() - times[0];
	times[1] = now_ms();
	ok(!stage_self(), "in a large process: staged");
	times[1] = now_ms() - times[1];
	times[2] = now_ms();
	ok(aior_find_capsule(0, &found, &error) == 1, "in a large process: found");
	times[2] = now_ms() - times[2];
	diag("%zu GiB of address space, %u mappings: none found in %lld ms, staged in %lld ms, "
	     "found in %lld ms",
	    len >> 30, mappings, (long long)times[0], (long long)times[1], (long long)times[2]);
	ok(times[0] < PATIENCE_MS && times[2] < PATIENCE_MS, "in a large process: quickly");
	ok(!restore_self() && !why_not_restored(), "in a large process: restored, exact");
}

/* Much memory that is in use: the second look has its limit. */
static void test_bounded(void)
{
	size_t len = (size_t)effort(512) << 20;
	struct aior_capsule found;
	int64_t begun;
	char *at;

	set_up();
	at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED) {
		skip("the second look", "%zu MiB: %s", len >> 20, strerror(errno));
		return;
	}
	for (size_t i = 0; i < len; i += page)
		at[i] = 1;
	begun = now_ms();
	ok(aior_find_capsule(0, &found, &error) == 0, "the second look: there is none");
	diag(
	    "the second look at %zu MiB in use: %lld ms", len >> 20, (long long)(now_ms() - begun));
}

int main(void)
{
	static const struct {
		const char *name;
		void (*test)(void);
	} tests[] = {
	    {"no rings", test_nothing},
	    {"idle rings", test_idle},
	    {"pending events", test_pending},
	    {"read-only rings", test_read_only},
	    {"many rings", test_many},
	    {"a large ring", test_large},
	    {"again and again", test_again_and_again},
	    {"polls", test_polls},
	    {"ready meanwhile", test_ready_meanwhile},
	    {"lost polls", test_lost},
	    {"writes in flight", test_direct},
	    {"fsync in flight", test_fsync},
	    {"inherited rings", test_inherited},
	    {"a child restores", test_child_restores},
	    {"damaged headers", test_damaged},
	    {"split rings", test_split},
	    {"headless rings", test_headless},
	    {"a capsule and live rings", test_busy},
	    {"no descriptors", test_no_descriptors},
	    {"address space", test_address_space},
	    {"fs.aio-max-nr", test_aio_max_nr},
	    {"clone forbidden", test_no_clone},
	    {"PR_SET_MDWE", test_mdwe},
	    {"locks", test_locks},
	    {"cancellation", test_cancel},
	    {"threads", test_threads},
	    {"capsule fields", test_fields},
	    {"staged memory", test_staged_memory},
	    {"random damage", test_random},
	    {"merged", test_merged},
	    {"unguarded", test_unguarded},
	    {"another process", test_elsewhere},
	    {"found quickly", test_quickly},
	    {"second look", test_bounded},
	};
	long nr;

	if (facts_start())
		return 1;
	nr = aio_nr();
	for (size_t i = 0; i < COUNT(tests); i++)
		in_child(tests[i].name, tests[i].test);
	for (which = 0; which < COUNT(forbidden); which++)
		in_child(forbidden[which].name, forbidden_call);
	return test_end(nr);
}
