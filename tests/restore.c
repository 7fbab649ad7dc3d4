/* SPDX-License-Identifier: MIT */
/* The restore blob, when all goes well: rings and polls come back exactly, and nothing else changes. */
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include "blob.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MANY 1000
#define MOST 1100

static struct aior_ring_record *rings; /* room for MOST */
static struct aior_poll_record *polls;
static struct staged staged[MOST];
static struct state before, after;
static uint32_t cpus;
static int null_fd;

static void set_up(size_t arena_size)
{
	rings = map_guarded(MOST * sizeof(*rings));
	polls = map_guarded(MOST * sizeof(*polls));
	state_prepare(&before);
	state_prepare(&after);
	arena_make(arena_size);
	cpus = possible_cpus();
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
}

/* A ring of the length that io_setup(n) makes, with so many pending events. */
static void stage_n(uint32_t i, uint32_t n, uint32_t head, uint32_t pending, int in_place)
{
	uint64_t len = aio_ring_len(n, cpus, (uint32_t)blob.page);
	uint32_t nr = (uint32_t)aio_ring_nr(len);

	stage(&rings[i], &staged[i], len, head, (head + pending) % nr, in_place, i + 1);
}

/* Calls the blob on the first `count` rings; all must come back, and nothing else change. */
static const char *restore(uint32_t count, struct aior_args *args)
{
	const char *why;

	state_take(&before);
	if (blob_call(args) || args->err || args->step != AIOR_STEP_DONE ||
	    args->ring != AIOR_NO_RING) {
		diag("errno %u, step %u, ring %u", args->err, args->step, args->ring);
		return "the results";
	}
	state_take(&after);
	why = state_differs(&before, &after, rings, count);
	if (why)
		return why;
	if (memcmp(&args->sigmask, &before.mask, 8))
		return "the signal mask in the results";
	for (uint32_t i = 0; i < count; i++) {
		why = why_not_live(&rings[i], &staged[i], args, null_fd);
		if (why) {
			diag("ring %u: nr %u, head %u, tail %u, %s", i, staged[i].nr,
			    staged[i].head, staged[i].tail,
			    rings[i].staged == rings[i].addr ? "in place" : "elsewhere");
			return why;
		}
	}
	return NULL;
}

static const char *restore_simply(uint32_t count)
{
	struct aior_args args = blob_args(rings, count, NULL, 0);

	return restore(count, &args);
}

static const char *or_so(const char *why)
{
	return why ? why : "exact";
}

/* Every position: one ring a call. */
static void test_positions(uint32_t n, int in_place)
{
	uint32_t nr = (uint32_t)aio_ring_nr(aio_ring_len(n, cpus, (uint32_t)blob.page));
	uint32_t usable = aio_ring_usable(nr, cpus);
	const uint32_t heads[] = {0, 1, 2, nr / 3, nr / 2, nr - 2, nr - 1};
	const uint32_t pendings[] = {0, 1, 2, nr / 4, nr / 2, usable - 1, usable};
	const char *why = NULL;
	unsigned count = 0;

	for (size_t h = 0; h < COUNT(heads) && !why; h++)
		for (size_t p = 0; p < COUNT(pendings) && !why; p++, count++) {
			stage_n(0, n, heads[h], pendings[p], in_place);
			why = restore_simply(1);
		}
	/* The last slot filled: the tail is 0. */
	for (uint32_t head = nr - 3; head < nr && !why; head++, count++) {
		stage_n(0, n, head, nr - head, in_place);
		why = restore_simply(1);
	}
	ok(!why, "one ring of %u slots, %s, %u positions of head and tail: %s", nr,
	    in_place ? "in place" : "elsewhere", count, or_so(why));
}

static void test_one(void)
{
	set_up(64 << 20);
	pin_to(0);
	for (int in_place = 0; in_place < 2; in_place++) {
		test_positions(1, in_place);
		test_positions(80, in_place);
	}
}

/* As many more requests as the untouched ring would take. */
static void test_free_slots(void)
{
	uint32_t nr, usable, wrong = 0, count = 0;

	set_up(64 << 20);
	pin_to(1);
	nr = (uint32_t)aio_ring_nr(aio_ring_len(1, cpus, (uint32_t)blob.page));
	usable = aio_ring_usable(nr, cpus);
	for (uint32_t pending = 0; pending <= usable; pending += 1 + pending / 4) {
		struct aior_args args = blob_args(rings, 1, NULL, 0);

		stage_n(0, 1, (pending * 7) % nr, pending, pending & 1);
		wrong += blob_call(&args) || count_free(rings[0].addr, null_fd) != usable - pending;
		count++;
	}
	ok(!wrong, "as many requests as before fit, %u fillings", count);
}

static void test_many(void)
{
	uint64_t seed = 42;
	const char *why;

	set_up(256 << 20);
	for (uint32_t i = 0; i < MANY; i++) {
		uint32_t n = 1 + random_below(&seed, i % 50 ? 4 : 80);
		uint32_t nr = (uint32_t)aio_ring_nr(aio_ring_len(n, cpus, (uint32_t)blob.page));

		stage_n(i, n, random_below(&seed, nr),
		    random_below(&seed, aio_ring_usable(nr, cpus) + 1), random_below(&seed, 2));
	}
	why = restore_simply(MANY);
	ok(!why, "%d rings in one call, in place and elsewhere: %s", MANY, or_so(why));
}

/* Staged one behind the other in one mapping, some in place, some copied into the mapping's end. */
static void test_neighbours(void)
{
	enum { N = 16 };
	const char *why = NULL;
	uint64_t len;
	char *at;

	set_up(16 << 20);
	len = aio_ring_len(1, cpus, (uint32_t)blob.page);
	at = arena_take((N + 1) * len);
	map_at(at, N * len, PROT_READ | PROT_WRITE);
	for (uint32_t i = 0; i < N; i++) {
		ring_make(at + i * len, len, i, 2 * i, i);
		rings[i] = (struct aior_ring_record){
		    .addr = (uintptr_t)at + i * len, .len = len, .staged = (uintptr_t)at + i * len};
		staged[i] = (struct staged){malloc(len), len, i, 2 * i, (uint32_t)aio_ring_nr(len)};
		memcpy(staged[i].copy, at + i * len, len);
	}
	why = restore_simply(N);
	ok(!why, "rings staged in place side by side: %s", or_so(why));
}

static void test_sizes(void)
{
	const uint32_t sizes[] = {1, 8, 63, 64, 100, 500, 1000, 4095, 10000};
	const char *why;

	set_up(64 << 20);
	for (uint32_t i = 0; i < COUNT(sizes); i++) {
		uint64_t len = aio_ring_len(sizes[i], cpus, (uint32_t)blob.page);
		uint32_t nr = (uint32_t)aio_ring_nr(len);

		stage_n(i, sizes[i], nr - 3, aio_ring_usable(nr, cpus), i & 1);
	}
	why = restore_simply(COUNT(sizes));
	ok(!why, "sizes from io_setup(1) to io_setup(10000), all full: %s", or_so(why));
}

static void test_largest(void)
{
	long most = aio_max_nr() - aio_nr();
	uint32_t nr;
	const char *why;

	if (most <= 0 || most > 1 << 20) {
		skip("the largest ring", "fs.aio-max-nr leaves %ld", most);
		return;
	}
	set_up(256 << 20);
	nr = (uint32_t)aio_ring_nr(aio_ring_len((uint64_t)most, cpus, (uint32_t)blob.page));
	stage_n(0, (uint32_t)most, nr / 2, aio_ring_usable(nr, cpus), 1);
	why = restore_simply(1);
	ok(!why, "the largest ring that fs.aio-max-nr allows, io_setup(%ld), full and wrapped: %s",
	    most, or_so(why));
}

/* More than all CPUs busy: the thread is moved about. */
static void test_busy(void)
{
	long count = 2 * sysconf(_SC_NPROCESSORS_ONLN);
	unsigned rounds = effort(60);
	pid_t spinners[64];
	const char *why = NULL;
	uint64_t seed = 7;

	set_up(64 << 20);
	if (count > (long)COUNT(spinners))
		count = COUNT(spinners);
	for (long i = 0; i < count; i++) {
		spinners[i] = fork_mortal();
		while (!spinners[i])
			;
	}
	/* Large ones too: they take long enough for the scheduler to think of moving the thread. */
	for (unsigned round = 0; round < rounds && !why; round++) {
		arena.used = 0;
		map_at(arena.base, arena.size, PROT_NONE);
		for (uint32_t i = 0; i < 10; i++) {
			uint32_t n = i ? 1 + random_below(&seed, 40) : 4000;
			uint32_t nr =
			    (uint32_t)aio_ring_nr(aio_ring_len(n, cpus, (uint32_t)blob.page));

			/* Every other one full: then each slot is wanted. */
			stage_n(i, n, random_below(&seed, nr),
			    !i || i & 1 ? aio_ring_usable(nr, cpus) : random_below(&seed, nr / 2),
			    random_below(&seed, 2));
		}
		why = restore_simply(10);
		/* The next round's mappings replace these; the large one would use up fs.aio-max-nr. */
		io_destroy(rings[0].addr);
		for (uint32_t i = 0; i < 10; i++)
			free(staged[i].copy);
	}
	for (long i = 0; i < count; i++) {
		kill(spinners[i], SIGKILL);
		waitpid(spinners[i], NULL, 0);
	}
	ok(!why, "while %ld processes keep the CPUs busy, %u rings: %s", count, 10 * rounds,
	    or_so(why));
}

/* Exit status: 0 if fs.aio-nr grew by one a ring, 1 if by another number, 2 if the blob failed. */
static int account(void)
{
	struct aior_args args;
	long nr;

	set_up(64 << 20);
	for (uint32_t i = 0; i < MOST; i++)
		stage_n(i, 1, i % 127, i % 100, i & 1);
	args = blob_args(rings, MOST, NULL, 0);
	nr = aio_nr();
	if (blob_call(&args))
		return 2;
	return aio_nr() != nr + MOST;
}

/*
 * fs.aio-nr must be charged as it was: with one for each ring of io_setup(1). Others on this machine
 * may be charged in the same moment, but not each time.
 */
static void test_accounting(void)
{
	int status = 0;

	if (aio_max_nr() - aio_nr() < 2 * MOST) {
		skip("1,100 rings", "fs.aio-max-nr leaves too few");
		return;
	}
	for (int tries = 0; tries < 20; tries++) {
		pid_t pid = fork_mortal();

		if (!pid)
			_exit(account());
		waitpid(pid, &status, 0);
		if (status != 1 << 8)
			break;
	}
	ok(!status, "%d rings of io_setup(1): fs.aio-nr has grown by as many", MOST);
}

static void test_nothing_to_do(void)
{
	struct aior_args args = blob_args(NULL, 0, NULL, 0);

	set_up(1 << 20);
	state_take(&before);
	ok(!blob_call(&args) && args.step == AIOR_STEP_DONE && !args.err, "no rings: success");
	/* Whatever stands where nothing is to be read. */
	args.rings = args.polls = 8;
	ok(!blob_call(&args) && args.step == AIOR_STEP_DONE, "no rings, at an address not mapped");
	state_take(&after);
	ok(!state_differs(&before, &after, NULL, 0), "no rings: nothing changed");
}

/* It may lie at any 16-byte aligned address, also across the end of a page. */
static void test_anywhere(void)
{
	const size_t offsets[] = {16, 48, 2064, 4080};

	set_up(16 << 20);
	for (size_t i = 0; i < COUNT(offsets); i++) {
		const char *why;

		blob_place_at(blob_file("restore"), offsets[i]);
		stage_n(0, 1, 120, 20, 1);
		stage_n(1, 60, 5, 100, 0);
		why = restore_simply(2);
		ok(!why, "a blob %zu bytes into a page: %s", offsets[i], or_so(why));
	}
}

/* The caller's descriptor instead of a pipe; an affinity of its own; its own signal mask. */
static void test_surroundings(void)
{
	struct aior_args args;
	const char *why;
	sigset_t mask;

	set_up(16 << 20);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigaddset(&mask, SIGRTMAX);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	stage_n(0, 1, 100, 100, 0);
	args = blob_args(rings, 1, NULL, 0);
	args.fd = null_fd;
	why = restore(1, &args);
	ok(!why, "reads of the caller's own descriptor: %s", or_so(why));
	for (unsigned cpu = 0; cpu < 2; cpu++) {
		pin_to(cpu);
		stage_n(0, 1, 5, 100, 1);
		why = restore_simply(1);
		ok(!why, "pinned to the CPU by the caller: %s", or_so(why));
		sched_setaffinity(0, sizeof(before.cpus), &before.cpus);
	}
	/* More scratch memory: larger batches. */
	stage_n(0, 1000, 1500, 900, 1);
	args = blob_args(rings, 1, NULL, 0);
	args.scratch_len = 65536;
	args.scratch = (uintptr_t)map_guarded(args.scratch_len);
	why = restore(1, &args);
	ok(!why, "64 KiB of scratch memory: %s", or_so(why));
	/* What the program wrote into fields that nobody reads stays there. */
	stage_n(0, 1, 3, 20, 1);
	((struct aio_ring *)(uintptr_t)rings[0].staged)->compat_features = 77;
	((struct aio_ring *)staged[0].copy)->compat_features = 77;
	why = restore_simply(1);
	ok(!why, "a header field that nobody reads: %s", or_so(why));
	/* A ring that its owner had made read-only. */
	stage_n(0, 1, 3, 20, 0);
	rings[0].prot = PROT_READ;
	args = blob_args(rings, 1, NULL, 0);
	ok(!blob_call(&args), "a read-only ring");
	ok(!memcmp((char *)(uintptr_t)rings[0].addr + 4, staged[0].copy + 4, staged[0].len - 4),
	    "it has its bytes");
	if (!fork_mortal()) {
		alarm(0);
		*(volatile uint32_t *)(uintptr_t)rings[0].addr = 0;
		_exit(0);
	} else {
		int status = 0;

		wait(&status);
		ok(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "it is read-only");
	}
}

/* ---- polls ---- */

#define POLLS 8

static struct iocb *iocbs;
static int pipes[POLLS][2];

static void set_up_polls(void)
{
	set_up(16 << 20);
	iocbs = map_guarded(POLLS * sizeof(*iocbs));
	for (int i = 0; i < POLLS; i++) {
		if (pipe2(pipes[i], O_CLOEXEC | O_NONBLOCK))
			abort();
		iocb_poll(&iocbs[i], pipes[i][0], POLLIN, 0x1000u + (unsigned)i);
	}
}

static void record_poll(uint32_t i, uint32_t ring, uint32_t iocb)
{
	polls[i] = (struct aior_poll_record){
	    .ring = rings[ring].addr,
	    .iocb = (uintptr_t)&iocbs[iocb],
	    .data = iocbs[iocb].aio_data,
	};
}

/* A poll's completion may be a moment behind what made its descriptor ready. */
static int wait_tail(uint64_t ring, uint32_t tail)
{
	volatile struct aio_ring *live = ring_of(ring);

	for (int tries = 0; live->tail != tail && tries < 10000; tries++)
		usleep(1000);
	return live->tail == tail;
}

static int is_event(const struct aio_slot *event, uint32_t iocb, int64_t res)
{
	return event->data == 0x1000u + iocb && event->obj == (uintptr_t)&iocbs[iocb] &&
	       (event->res & res) && !event->res2;
}

static void test_polls(void)
{
	struct aior_args args;
	struct aio_slot events[64];
	uint32_t tail, fired = 0;

	set_up_polls();
	stage_n(0, 1, 120, 10, 0);
	stage_n(1, 1, 3, 0, 1);
	for (uint32_t i = 0; i < POLLS; i++)
		record_poll(i, i >= 5, i);
	args = blob_args(rings, 2, polls, POLLS);
	state_take(&before);
	ok(!blob_call(&args) && !args.polls_lost, "%d polls of two rings", POLLS);
	state_take(&after);
	ok(!state_differs(&before, &after, rings, 2), "polls: nothing else changed");
	ok(ring_of(rings[0].addr)->tail == staged[0].tail &&
		ring_of(rings[1].addr)->tail == staged[1].tail,
	    "polls: none has fired");
	ok(io_getevents(rings[0].addr, 64, events) == 10 &&
		!memcmp(&events[9], &slots_of(staged[0].copy)[(120 + 9) % staged[0].nr],
		    sizeof(events[0])),
	    "polls: the pending events are there");
	tail = ring_of(rings[0].addr)->tail;
	for (uint32_t i = 5; i-- > 0;) {
		if (write(pipes[i][1], "x", 1) != 1)
			abort();
		tail = aio_ring_next(tail, staged[0].nr);
		fired += wait_tail(rings[0].addr, tail) &&
			 io_getevents(rings[0].addr, 64, events) == 1 &&
			 is_event(&events[0], i, POLLIN);
	}
	ok(fired == 5, "polls: each fires, once");
	for (uint32_t i = 5; i < POLLS; i++)
		if (write(pipes[i][1], "x", 1) != 1)
			abort();
	ok(wait_tail(rings[1].addr, 6) && io_getevents(rings[1].addr, 64, events) == 3 &&
		is_event(&events[0], 5, POLLIN) && is_event(&events[2], 7, POLLIN),
	    "polls: the other ring's too");
	ok(io_getevents(rings[0].addr, 64, events) == 0 &&
		io_getevents(rings[1].addr, 64, events) == 0,
	    "polls: and no more");
	ok(count_free(rings[0].addr, null_fd) == aio_ring_usable(staged[0].nr, cpus) ||
		sched_getcpu() < 0 || CPU_COUNT(&before.cpus) > 1,
	    "polls: their slots are free again");
}

/* Ready while they were staged: they fire at once, behind what was pending. */
static void test_polls_ready(void)
{
	struct aior_args args;
	struct aio_slot events[64], *slots;
	uint32_t head, tail;
	int wrong;

	set_up_polls();
	head = aio_ring_nr((uint32_t)aio_ring_len(1, cpus, (uint32_t)blob.page)) - 2;
	stage_n(0, 1, head, 4, 1);
	tail = staged[0].tail;
	slots = slots_of(staged[0].copy);
	for (uint32_t i = 0; i < POLLS; i++) {
		record_poll(i, 0, i);
		if (write(pipes[i][1], "x", 1) != 1)
			abort();
	}
	args = blob_args(rings, 1, polls, POLLS);
	ok(!blob_call(&args) && !args.polls_lost && rings[0].tail == tail, "%d polls, all ready",
	    POLLS);
	wrong = !wait_tail(rings[0].addr, tail + POLLS);
	wrong += io_getevents(rings[0].addr, 64, events) != 4 + POLLS;
	wrong += !!memcmp(&events[0], &slots[head], 2 * sizeof(events[0]));
	wrong += !!memcmp(&events[2], &slots[0], 2 * sizeof(events[0]));
	for (uint32_t i = 0; i < POLLS; i++)
		wrong += !is_event(&events[4 + i], i, POLLIN);
	ok(!wrong, "their events, in order, behind the pending ones");
}

static void test_polls_lost(void)
{
	struct aior_args args;
	struct aio_slot events[64];
	uint64_t count = 0;
	int wrong, event_fd = eventfd(5, EFD_NONBLOCK | EFD_CLOEXEC);

	set_up_polls();
	stage_n(0, 1, aio_ring_nr(blob.page) - 1, 2, 0);
	for (uint32_t i = 0; i < 7; i++)
		record_poll(i, 0, i);
	iocbs[0].aio_data++; /* another request by now */
	polls[1].iocb = (uintptr_t)(iocbs + blob.page / sizeof(*iocbs)); /* unmapped */
	close(pipes[2][0]);                                              /* closed */
	iocbs[3].aio_lio_opcode = IOCB_CMD_PREAD;                        /* another request */
	iocbs[4].aio_flags = IOCB_FLAG_RESFD; /* closed, with an eventfd */
	iocbs[4].aio_resfd = (uint32_t)event_fd;
	close(pipes[4][0]);
	iocbs[5].aio_flags = IOCB_FLAG_RESFD; /* an eventfd that is none any more */
	iocbs[5].aio_resfd = (uint32_t)null_fd;
	args = blob_args(rings, 1, polls, 7);
	blob_call(&args);
	if (args.err)
		diag("errno %u, step %u, ring %u", args.err, args.step, args.ring);
	ok(!args.err && args.step == AIOR_STEP_DONE && args.polls_lost == 6,
	    "polls that cannot be submitted again: success, 6 lost (%u)", args.polls_lost);
	wrong = 0;
	for (uint32_t i = 0; i < 7; i++)
		wrong +=
		    polls[i].flags != (i == 6 ? 0 : AIOR_POLL_LOST) || !polls[i].err != (i == 6);
	ok(!wrong && polls[1].err == EFAULT && polls[2].err == EBADF,
	    "each record says so, and why");
	ok(io_getevents(rings[0].addr, 64, events) == 2 + 6, "an event for each");
	wrong = 0;
	for (uint32_t i = 0; i < 6; i++)
		wrong += events[2 + i].data != 0x1000 + i || events[2 + i].obj != polls[i].iocb ||
			 events[2 + i].res != POLLNVAL || events[2 + i].res2;
	ok(!wrong, "it says POLLNVAL, with the poll's data and iocb");
	ok(read(event_fd, &count, sizeof(count)) == 8 && count == 6,
	    "and raised its eventfd, once");
	if (write(pipes[6][1], "x", 1) != 1)
		abort();
	ok(wait_tail(rings[0].addr, staged[0].tail + 7) &&
		io_getevents(rings[0].addr, 64, events) == 1 && is_event(&events[0], 6, POLLIN),
	    "the one that is left fires");
}

static volatile int has_returned;

/* Poll 0 is submitted, 1 is lost, 2 is submitted ...: aims between each two. */
static void *make_ready(void *unused)
{
	static uint64_t seed = 11;

	for (int i = 0; i < POLLS; i += 2) {
		volatile struct aior_ring_record *ring = &rings[0];
		volatile struct aior_poll_record *before_it = &polls[i ? i - 1 : 0];

		while (!has_returned && !(i ? before_it->flags : ring->aside))
			;
		for (volatile uint32_t spin = random_below(&seed, 3000); spin; spin--)
			;
		if (write(pipes[i][1], "x", 1) != 1)
			abort();
	}
	return unused;
}

/*
 * Another thread makes descriptors ready meanwhile, so that polls complete between those that are
 * submitted and those that are lost: each still has one event, its own.
 */
static void test_polls_raced(void)
{
	unsigned rounds = effort(200), wrong = 0;

	set_up_polls();
	for (unsigned round = 0; round < rounds; round++) {
		struct aio_slot events[64];
		struct aior_args args;
		pthread_t thread;
		unsigned seen = 0;
		char bytes[8];
		long n;

		arena.used = 0;
		map_at(arena.base, arena.size, PROT_NONE);
		stage_n(0, 1, 120, 10, round & 1);
		free(staged[0].copy);
		for (uint32_t i = 0; i < POLLS; i++) {
			iocbs[i].aio_data = 0x1000 + i;
			record_poll(i, 0, i);
			polls[i].data ^= i & 1; /* lost, every other one */
		}
		args = blob_args(rings, 1, polls, POLLS);
		has_returned = 0;
		if (pthread_create(&thread, NULL, make_ready, NULL))
			abort();
		wrong += blob_call(&args) || args.polls_lost != POLLS / 2;
		has_returned = 1;
		pthread_join(thread, NULL);
		wrong += !wait_tail(rings[0].addr, (staged[0].tail + POLLS) % staged[0].nr);
		n = io_getevents(rings[0].addr, 64, events);
		wrong += n != 10 + POLLS;
		for (long i = 10; i < n; i++) {
			uint64_t which = (events[i].obj - (uintptr_t)iocbs) / sizeof(*iocbs);

			if (which >= POLLS || events[i].data != polls[which].data ||
			    !(events[i].res & (which & 1 ? POLLNVAL : POLLIN)))
				wrong++;
			else
				seen |= 1u << which;
		}
		wrong += seen != (1u << POLLS) - 1;
		for (int i = 0; i < POLLS; i += 2)
			wrong += read(pipes[i][0], bytes, sizeof(bytes)) != 1;
	}
	ok(!wrong, "polls that complete while others are lost, %u rounds (%u wrong)", rounds,
	    wrong);
}

static long eventfd_count(int fd)
{
	uint64_t count;

	return read(fd, &count, sizeof(count)) == (ssize_t)sizeof(count) ? (long)count : 0;
}

/* IOCB_FLAG_RESFD: the eventfd counts each event once, whatever it had before. */
static void test_polls_eventfd(void)
{
	struct aior_args args;
	int fds[4];

	set_up_polls();
	stage_n(0, 1, 7, 0, 1);
	for (uint32_t i = 0; i < 4; i++) {
		fds[i] = eventfd(i, EFD_NONBLOCK | EFD_CLOEXEC | (i & 1 ? EFD_SEMAPHORE : 0));
		iocbs[i].aio_flags = IOCB_FLAG_RESFD;
		iocbs[i].aio_resfd = (uint32_t)fds[i];
		record_poll(i, 0, i);
	}
	if (write(pipes[2][1], "x", 1) != 1)
		abort();
	args = blob_args(rings, 1, polls, 4);
	ok(!blob_call(&args) && wait_tail(rings[0].addr, 8), "polls with eventfds, one ready");
	ok(eventfd_count(fds[0]) == 0 && eventfd_count(fds[1]) == 1 && !eventfd_count(fds[1]) &&
		eventfd_count(fds[2]) == 3,
	    "the ready one raised its eventfd, the others did not");
	for (int i = 0; i < 4; i++)
		if (i != 2 && write(pipes[i][1], "x", 1) != 1)
			abort();
	ok(wait_tail(rings[0].addr, 11), "the others fire");
	ok(eventfd_count(fds[0]) == 1 && eventfd_count(fds[1]) == 1 && !eventfd_count(fds[2]),
	    "and raise theirs by one");
	for (int i = 0; i < 4; i++)
		ok(eventfd_count(fds[3]) == 1, "a semaphore of 3 counts 4: %d", i);
	ok(!eventfd_count(fds[3]), "and no more");
}

int main(void)
{
	long nr = test_start();

	in_child("one ring", test_one);
	in_child("free slots", test_free_slots);
	in_child("many", test_many);
	in_child("neighbours", test_neighbours);
	in_child("sizes", test_sizes);
	in_child("largest", test_largest);
	in_child("busy", test_busy);
	in_child("accounting", test_accounting);
	in_child("nothing to do", test_nothing_to_do);
	in_child("anywhere", test_anywhere);
	in_child("surroundings", test_surroundings);
	in_child("polls", test_polls);
	in_child("polls ready", test_polls_ready);
	in_child("polls lost", test_polls_lost);
	in_child("polls raced", test_polls_raced);
	in_child("polls with eventfds", test_polls_eventfd);
	test_stack();
	return test_end(nr);
}
