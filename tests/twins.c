/* SPDX-License-Identifier: MIT */
/*
 * Twins: two contexts of the same size get the same random operations. One of them is staged and
 * restored now and then. No result, header, event or slot may ever tell which one.
 *
 *	twins.t [--seed=N] [--seeds=COUNT] [--break=KIND] [--ops=COUNT]
 *
 * --break spoils one restore on purpose, to see that the comparison notices.
 */
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>

#include "blob.h"

#define POLLS 8
#define POOL 2048                /* iocbs of reads and writes, used in turn */
#define UNDERTAKERS 8            /* threads that destroy what was left behind: each waits for RCU */
#define PARALLEL 12              /* children at once */
#define BUDGET (UNDERTAKERS + 6) /* contexts of one child that count for fs.aio-nr at once */

struct twin {
	aio_context_t ctx;
	struct iocb *iocbs; /* POLLS for polls, then POOL others */
	int pipe[2];
	int poll_pipes[POLLS][2];
	int event_fd;
};

/* Ways to spoil a restored ring, each as a sloppy restore would. */
enum breakage {
	BREAK_NONE,
	BREAK_SLOT,    /* a bit of a slot is wrong */
	BREAK_TAIL,    /* the kernel's own tail is one further */
	BREAK_HEAD,    /* the head lags behind */
	BREAK_REQUEST, /* one slot is never given back */
	BREAK_POLL,    /* a poll is forgotten */
	BREAK_TWICE,   /* a poll is submitted twice */
	BREAK_EVENTFD, /* an eventfd is raised for nothing */
	BREAK_KINDS
};

static const char *const break_names[BREAK_KINDS] = {
    "none", "slot", "tail", "head", "request", "poll", "twice", "eventfd"};

static struct {
	struct twin twins[2];
	uint32_t n, nr, usable;
	uint64_t len, random;
	uint32_t next;                /* of the pool */
	uint32_t order[POLLS], polls; /* polls in flight, in the order of their submission */
	enum breakage breakage;
	int broken, patience;
	unsigned op, restores;
	const char *what, *why;
	int null_fd, silent_fd;
	uint64_t seed;
	struct aior_ring_record *ring;
	struct aior_poll_record *records;
	unsigned char *staged, *copy;
} t;

static unsigned ops = 400;

/* What all children together may ask of fs.aio-nr. */
static atomic_long *budget;

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

/* ---- getting rid of contexts, without waiting for it ---- */

static int graves[2];
static atomic_int undertaken;

static void *undertaker(void *unused)
{
	aio_context_t ctx;

	while (read(graves[0], &ctx, sizeof(ctx)) == sizeof(ctx)) {
		io_destroy(ctx);
		undertaken--;
	}
	return unused;
}

static void hire_undertakers(void)
{
	pthread_attr_t attr;
	pthread_t thread;

	if (pipe2(graves, O_CLOEXEC))
		abort();
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	for (int i = 0; i < UNDERTAKERS; i++)
		if (pthread_create(&thread, &attr, undertaker, NULL))
			abort();
}

static void bury(aio_context_t ctx)
{
	while (undertaken >= UNDERTAKERS)
		usleep(500);
	undertaken++;
	if (write(graves[1], &ctx, sizeof(ctx)) != sizeof(ctx))
		abort();
}

/* ---- comparing ---- */

/* An iocb's address, relative to its twin's. */
static uint64_t relative(const struct twin *twin, uint64_t obj)
{
	uint64_t base = (uintptr_t)twin->iocbs;

	return obj - base < (POLLS + POOL) * sizeof(struct iocb) ? obj - base : obj;
}

static int same_events(const struct aio_slot *a, const struct aio_slot *b, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (a[i].data != b[i].data || a[i].res != b[i].res || a[i].res2 != b[i].res2 ||
		    relative(&t.twins[0], a[i].obj) != relative(&t.twins[1], b[i].obj))
			return 0;
	return 1;
}

static int compare(void)
{
	struct aio_ring *a = ring_of(t.twins[0].ctx), *b = ring_of(t.twins[1].ctx);

	if (a->head != b->head)
		return differs("the head");
	if (a->tail != b->tail)
		return differs("the tail");
	if (a->nr != b->nr || memcmp(&a->magic, &b->magic, sizeof(*a) - 16))
		return differs("the header");
	if (!same_events(slots_of(a), slots_of(b), t.nr))
		return differs("the slots");
	return 0;
}

/* ---- operations: each does the same to both ---- */

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
	return (ring_of(t.twins[0].ctx)->tail + count) % t.nr;
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
		struct twin *twin = &t.twins[side];

		for (uint32_t i = 0; i < count; i++) {
			iocbs[side][i] = &twin->iocbs[POLLS + (t.next + i) % POOL];
			fill_iocb(iocbs[side][i], twin, kinds[i], data[i]);
		}
		n[side] = io_submit(twin->ctx, (long)count, iocbs[side]);
	}
	t.next = (t.next + count) % POOL;
	return n[0] != n[1] && differs("io_submit's result");
}

static int op_submit(void)
{
	t.what = "submit";
	return submit(1 + below(below(4) ? 20 : 100));
}

/* Until none is taken any more. */
static int op_brim(void)
{
	t.what = "submit to the brim";
	for (uint32_t done = 0; done < t.nr; done += 200)
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
		n[side] = io_getevents(t.twins[side].ctx, max, events[side]);
	if (n[0] != n[1])
		return differs("io_getevents' result");
	return n[0] > 0 && !same_events(events[0], events[1], (uint32_t)n[0]) &&
	       differs("an event");
}

/* As fio does it: without a system call. */
static int op_reap(void)
{
	struct aio_ring *rings[2] = {ring_of(t.twins[0].ctx), ring_of(t.twins[1].ctx)};
	uint32_t pending[2], count;

	t.what = "reap from the ring";
	for (int side = 0; side < 2; side++)
		pending[side] = aio_ring_pending(rings[side]->head, rings[side]->tail, t.nr);
	if (pending[0] != pending[1])
		return differs("the number of pending events");
	count = below(3) ? below(pending[0] + 1) : pending[0];
	for (int side = 0; side < 2; side++)
		rings[side]->head = (rings[side]->head + count) % t.nr;
	return 0;
}

static int op_poll(void)
{
	uint32_t which = below(POLLS);
	int with_eventfd = below(3) == 0;
	uint64_t data = random_next(&t.random);
	long n[2];

	t.what = "poll";
	for (uint32_t i = 0; i < t.polls; i++)
		if (t.order[i] == which)
			return 0;
	for (int side = 0; side < 2; side++) {
		struct twin *twin = &t.twins[side];
		struct iocb *iocb = &twin->iocbs[which];

		iocb_poll(iocb, twin->poll_pipes[which][0], POLLIN, data);
		if (with_eventfd) {
			iocb->aio_flags = IOCB_FLAG_RESFD;
			iocb->aio_resfd = (uint32_t)twin->event_fd;
		}
		n[side] = io_submit(twin->ctx, 1, &iocb);
	}
	if (n[0] == 1)
		t.order[t.polls++] = which;
	return n[0] != n[1] && differs("io_submit's result for a poll");
}

static uint32_t take_poll(uint32_t at)
{
	uint32_t which = t.order[at];

	t.polls--;
	memmove(&t.order[at], &t.order[at + 1], (t.polls - at) * sizeof(t.order[0]));
	return which;
}

static int op_ready(void)
{
	uint32_t which, tail = tail_plus(1);
	char byte = 'x';

	t.what = "make a descriptor ready";
	if (!t.polls)
		return 0;
	which = take_poll(below(t.polls));
	for (int side = 0; side < 2; side++) {
		int *fds = t.twins[side].poll_pipes[which];

		if (write(fds[1], &byte, 1) != 1 || wait_tail(t.twins[side].ctx, tail) ||
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
	if (!t.polls)
		return 0;
	which = take_poll(below(t.polls));
	for (int side = 0; side < 2; side++) {
		ret[side] = io_cancel(t.twins[side].ctx, &t.twins[side].iocbs[which]);
		if (wait_tail(t.twins[side].ctx, tail))
			return 1;
	}
	return ret[0] != ret[1] && differs("io_cancel's result");
}

static int op_eventfd(void)
{
	uint64_t counts[2] = {0, 0};

	t.what = "read the eventfd";
	for (int side = 0; side < 2; side++)
		if (read(t.twins[side].event_fd, &counts[side], 8) != 8)
			counts[side] = 0;
	return counts[0] != counts[1] && differs("the eventfd's count");
}

/* ---- staging by hand, and restoring by the blob ---- */

/* What the drain does to polls: cancelled, their eventfds raised, and those lowered again. */
static int cancel_polls(struct twin *twin, aio_context_t ctx)
{
	uint32_t tail = (ring_of(ctx)->tail + t.polls) % t.nr;
	uint64_t raised = 0, count = 0;

	for (uint32_t i = 0; i < t.polls; i++) {
		io_cancel(ctx, &twin->iocbs[t.order[i]]);
		raised += twin->iocbs[t.order[i]].aio_flags & IOCB_FLAG_RESFD;
	}
	if (wait_tail(ctx, tail))
		return 1;
	if (raised && read(twin->event_fd, &count, 8) == 8 && count > raised) {
		count -= raised;
		if (write(twin->event_fd, &count, 8) != 8)
			abort();
	}
	return 0;
}

static int stage_twin(struct twin *twin)
{
	aio_context_t old = twin->ctx;
	int in_place = (int)below(2);
	void *aside = mmap(NULL, t.len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *home = (void *)(uintptr_t)old;

	memcpy(t.copy, home, t.len);
	if (mremap(home, t.len, t.len, MREMAP_MAYMOVE | MREMAP_FIXED, aside) != aside)
		abort();
	if (cancel_polls(twin, (uintptr_t)aside))
		return 1;
	*t.ring = (struct aior_ring_record){.addr = old, .len = t.len, .staged = old};
	if (in_place)
		map_at(home, t.len, PROT_READ | PROT_WRITE);
	else
		t.ring->staged = (uintptr_t)t.staged + 8 * below(8);
	memcpy((void *)(uintptr_t)t.ring->staged, t.copy, t.len);
	bury((uintptr_t)aside);
	for (uint32_t i = 0; i < t.polls; i++)
		t.records[i] = (struct aior_poll_record){
		    .ring = old,
		    .iocb = (uintptr_t)&twin->iocbs[t.order[i]],
		    .data = twin->iocbs[t.order[i]].aio_data,
		};
	return 0;
}

static int spoil_poll_records(uint32_t *count)
{
	if (!*count || t.broken)
		return 0;
	if (t.breakage == BREAK_POLL) {
		--*count;
		return 1;
	}
	if (t.breakage == BREAK_TWICE) {
		t.records[*count] = t.records[0];
		++*count;
		return 1;
	}
	return 0;
}

static int spoil(struct twin *twin)
{
	struct aio_ring *ring = ring_of(twin->ctx);
	struct aio_slot *slots = slots_of(ring), keep;
	struct iocb iocb, *iocbs[1] = {&iocb};
	uint32_t tail = ring->tail;
	uint64_t one = 1;

	switch (t.breakage) {
	case BREAK_SLOT:
		slots[below(t.nr)].res2 ^= 1ull << below(64);
		return 1;
	case BREAK_TAIL:
		keep = slots[tail];
		iocb_null_read(&iocb, t.null_fd, 1);
		if (io_submit(twin->ctx, 1, iocbs) != 1)
			return 0;
		slots[tail] = keep;
		ring->tail = tail;
		return 1;
	case BREAK_HEAD:
		if (ring->head == 0 || ring->head == tail)
			return 0;
		ring->head--;
		return 1;
	case BREAK_REQUEST:
		iocb_poll(&iocb, t.silent_fd, POLLIN, 1);
		return io_submit(twin->ctx, 1, iocbs) == 1;
	case BREAK_EVENTFD:
		return write(twin->event_fd, &one, 8) == 8;
	default:
		return 0;
	}
}

static int op_restore(void)
{
	struct twin *twin = &t.twins[1];
	struct aior_args args;
	uint32_t polls = t.polls;
	int ret;

	t.what = "stage and restore";
	/* Another restore would heal some of what is broken. */
	if (t.broken)
		return 0;
	if (stage_twin(twin))
		return 1;
	t.broken |= spoil_poll_records(&polls);
	args = blob_args(t.ring, 1, t.records, polls);
	ret = blob_call(&args);
	if (ret || args.polls_lost || t.ring->flags != AIOR_RING_LIVE) {
		diag("seed %llu: the blob says errno %u, step %u", (unsigned long long)t.seed,
		    args.err, args.step);
		return differs("a restore that fails");
	}
	t.restores++;
	if (!t.broken)
		t.broken = spoil(twin);
	return 0;
}

static int (*const operations[])(void) = {op_submit, op_submit, op_submit, op_submit, op_getevents,
    op_getevents, op_getevents, op_reap, op_reap, op_poll, op_poll, op_ready, op_cancel,
    op_eventfd};

static int drain(void)
{
	/* At most nr events, of which each call takes at least one. */
	for (uint32_t i = 0; i < t.nr; i++)
		if (op_getevents())
			return 1;
	return compare();
}

/* Both take as many requests as each other, and drain alike. */
static int finish(void)
{
	static const char *const names[2] = {
	    "the number of requests until EAGAIN", "that number when all is reaped"};

	t.what = "the end";
	if (op_eventfd())
		return 1;
	for (int round = 0; round < 2; round++) {
		uint32_t room[2];

		for (int side = 0; side < 2; side++)
			room[side] = count_free(t.twins[side].ctx, t.null_fd);
		if (room[0] != room[1]) {
			diag("%u and %u", room[0], room[1]);
			return differs(names[round]);
		}
		if (drain())
			return 1;
		while (t.polls)
			if (op_ready())
				return 1;
		if (drain())
			return 1;
	}
	return 0;
}

static void make_twin(struct twin *twin)
{
	if (io_setup(t.n, &twin->ctx)) {
		diag("seed %llu: io_setup(%u)", (unsigned long long)t.seed, t.n);
		exit(2);
	}
	twin->iocbs = map_guarded((POLLS + POOL) * sizeof(struct iocb));
	if (pipe2(twin->pipe, O_CLOEXEC | O_NONBLOCK))
		abort();
	for (int i = 0; i < POLLS; i++)
		if (pipe2(twin->poll_pipes[i], O_CLOEXEC | O_NONBLOCK))
			abort();
	twin->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

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

static void run_ops(void)
{
	if (compare())
		return;
	for (t.op = 0; t.op < ops; t.op++) {
		uint32_t chance = below(100);

		if (chance < 5   ? op_restore()
		    : chance < 8 ? op_brim()
				 : operations[below(sizeof(operations) / sizeof(operations[0]))]())
			return;
		if (compare())
			return;
	}
	if (!finish())
		compare();
}

/* One seed, in this process. Exit status: 0 the same, 1 told apart, 2 neither. */
static int run_seed(uint64_t seed, enum breakage breakage)
{
	int silent[2];
	long price;

	t.seed = seed;
	t.random = seed * 0x9e3779b97f4a7c15ull + 0x1234567;
	t.breakage = breakage;
	t.patience = breakage ? 200 : 60000;
	t.n = choose_n();
	price = (long)t.n * BUDGET;
	while (atomic_fetch_sub(budget, price) < price) {
		atomic_fetch_add(budget, price);
		usleep(5000);
	}
	pin_to((unsigned)seed);
	t.len = aio_ring_len(t.n, possible_cpus(), (uint32_t)blob.page);
	t.nr = (uint32_t)aio_ring_nr(t.len);
	t.null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (pipe2(silent, O_CLOEXEC))
		abort();
	t.silent_fd = silent[0];
	t.ring = map_guarded(sizeof(*t.ring));
	t.records = map_guarded((POLLS + 1) * sizeof(*t.records));
	t.staged = map_guarded(t.len + 64);
	t.copy = map_guarded(t.len);
	hire_undertakers();
	make_twin(&t.twins[0]);
	make_twin(&t.twins[1]);
	run_ops();
	if (t.why && !breakage)
		diag("seed %llu (n %u, nr %u), operation %u (%s), after %u restores: differs in %s",
		    (unsigned long long)seed, t.n, t.nr, t.op, t.what, t.restores, t.why);
	atomic_fetch_add(budget, price);
	return t.why ? 1 : breakage && !t.broken ? 2 : 0;
}

struct tally {
	unsigned same, apart, neither;
};

static struct tally run_seeds(uint64_t first, unsigned count, enum breakage breakage)
{
	struct tally tally = {0, 0, 0};
	unsigned started = 0, running = 0;
	int status;

	while (started < count || running) {
		if (started < count && running < PARALLEL) {
			pid_t pid = fork_mortal();

			if (!pid) {
				status = run_seed(first + started, breakage);
				fflush(stdout);
				_exit(status);
			}
			started++;
			running++;
			continue;
		}
		if (wait(&status) < 0)
			break;
		running--;
		if (!WIFEXITED(status) || WEXITSTATUS(status) > 2) {
			diag("a child ended with status 0x%x", (unsigned)status);
			tally.apart++;
		} else if (WEXITSTATUS(status) == 2) {
			tally.neither++;
		} else if (WEXITSTATUS(status) == 1) {
			tally.apart++;
		} else {
			tally.same++;
		}
	}
	return tally;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"seed", required_argument, NULL, 's'},
	    {"seeds", required_argument, NULL, 'n'}, {"break", required_argument, NULL, 'b'},
	    {"ops", required_argument, NULL, 'o'}, {NULL, 0, NULL, 0}};
	const char *given = getenv("TWINS_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 1000;
	unsigned count = effort(240);
	enum breakage only = BREAK_NONE;
	struct tally tally;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 's')
			seed = strtoull(optarg, NULL, 0), count = 1;
		else if (option == 'n')
			count = (unsigned)atoi(optarg);
		else if (option == 'o')
			ops = (unsigned)atoi(optarg);
		else if (option == 'b')
			while (++only < BREAK_KINDS && strcmp(break_names[only], optarg))
				;
		else
			return 2;
	}
	if (only == BREAK_KINDS)
		return 2;
	tap_start();
	aio_nr_lock();
	blob_place(blob_file("restore"));
	budget = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	*budget = (aio_max_nr() - aio_nr()) / 10 * 9;
	if (*budget < 2000L * BUDGET) {
		skip(
		    "twins", "fs.aio-max-nr leaves too few requests: %ld", aio_max_nr() - aio_nr());
		return tap_end();
	}
	tally = run_seeds(seed, count, only);
	ok(tally.same == count, "%u seeds from %llu on, %u operations each: %u told apart%s", count,
	    (unsigned long long)seed, ops, tally.apart, only ? " (spoilt on purpose)" : "");
	if (count > 1 && !only) {
		for (enum breakage kind = BREAK_SLOT; kind < BREAK_KINDS; kind++) {
			tally = run_seeds(seed, 12, kind);
			ok(!tally.same && tally.apart >= 6,
			    "a restore spoilt on purpose is noticed (%s): %u of %u",
			    break_names[kind], tally.apart, 12 - tally.neither);
		}
	}
	test_stack();
	return tap_end();
}
