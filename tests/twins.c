/* SPDX-License-Identifier: MIT */
/*
 * Pairs of contexts get the same random operations. Now and then the second of each pair is staged,
 * with requests in flight, and restored. No result, header, event, descriptor's content or counter may
 * ever tell which one it was.
 *
 *	twins.t [--seed=N] [--seeds=COUNT] [--break=KIND] [--ops=COUNT]
 *
 * --break spoils one round on purpose, to see that the comparison notices.
 */
#include <getopt.h>
#include <stdatomic.h>
#include <sys/resource.h>

#include "twins.h"

#define PARALLEL 24 /* children at once: they share grace periods */

/* Ways to spoil a ring, each as a sloppy stage or restore would. */
enum breakage {
	BREAK_NONE,
	BREAK_SLOT,    /* a bit of a slot is wrong */
	BREAK_TAIL,    /* the kernel's own tail is one further */
	BREAK_HEAD,    /* the head lags behind */
	BREAK_REQUEST, /* one slot is never given back */
	BREAK_POLL,    /* a poll is forgotten */
	BREAK_TWICE,   /* a poll is submitted twice */
	BREAK_EVENTFD, /* an eventfd is raised for nothing */
	BREAK_LOST,    /* the last event of the drain is forgotten */
	BREAK_DOUBLE,  /* a cancelled poll stays among the events */
	BREAK_KINDS
};

static const char *const break_names[BREAK_KINDS] = {
    "none", "slot", "tail", "head", "request", "poll", "twice", "eventfd", "lost", "double"};

static struct {
	struct aior_ring_record *rings; /* of the second twins, in ascending order */
	struct pair **owners;           /* whose they are */
	struct aior_poll_record *polls;
	uint32_t poll_room;
	char *elsewhere; /* room for a staged ring */
	enum breakage breakage;
	int is_broken;
	unsigned rounds;
} s;

/* What all children have done. */
static struct {
	atomic_long budget; /* that they may ask of fs.aio-nr */
	atomic_long rounds, in_flight_rounds, polls, slow, drained;
} * all;

static unsigned ops = 400;

/* ---- a round: stage and restore ---- */

static int compare_addresses(const void *a, const void *b)
{
	const struct pair *const *left = a, *const *right = b;

	return ((*left)->twins[1].ctx > (*right)->twins[1].ctx) -
	       ((*left)->twins[1].ctx < (*right)->twins[1].ctx);
}

static void fill_records(void)
{
	memset(s.rings, 0, t.pair_count * sizeof(*s.rings));
	for (uint32_t i = 0; i < t.pair_count; i++)
		s.rings[i] = (struct aior_ring_record){.addr = s.owners[i]->twins[1].ctx,
		    .len = s.owners[i]->len,
		    .flags = s.rounds ? AIOR_RING_LIVE : 0};
}

/* Each poll in flight has its record, and there is no other. */
static int check_polls(uint32_t count)
{
	uint32_t at = 0;

	for (uint32_t i = 0; i < t.pair_count; i++) {
		const struct pair *pair = s.owners[i];
		uint32_t left = pair->polls;

		for (; at < count && s.polls[at].ring == s.rings[i].addr; at++, left--) {
			uint32_t p = 0;

			while (p < pair->polls &&
			       (uintptr_t)&pair->twins[1].iocbs[pair->order[p]] != s.polls[at].iocb)
				p++;
			if (p == pair->polls || s.polls[at].flags ||
			    s.polls[at].data != pair->twins[1].iocbs[pair->order[p]].aio_data)
				return differs("a poll record");
		}
		if (left)
			return differs("the number of poll records");
	}
	return at != count && differs("a poll record of no ring");
}

/* How many events came with the drain. */
static uint32_t count_drained(const uint32_t *tails)
{
	uint32_t drained = 0;

	for (uint32_t i = 0; i < t.pair_count; i++)
		drained += aio_ring_pending(tails[i], s.rings[i].tail, s.owners[i]->nr);
	return drained;
}

static int stage_twins(uint32_t *polls)
{
	uint32_t *tails = alloca(t.pair_count * sizeof(*tails));
	struct aior_args args;
	uint32_t drained;

	fill_records();
	args = blob_args(s.rings, t.pair_count, s.polls, 0);
	args.poll_room = s.poll_room;
	for (uint32_t i = 0; i < t.pair_count; i++)
		tails[i] = ring_of(s.owners[i]->twins[1].ctx)->tail;
	if (call(&stage_blob, &args)) {
		diag("seed %llu: stage says errno %u, step %u", (unsigned long long)t.seed,
		    args.err, args.step);
		return differs("a stage that fails");
	}
	*polls = args.poll_count;
	drained = count_drained(tails);
	atomic_fetch_add(&all->polls, *polls);
	atomic_fetch_add(&all->drained, drained);
	atomic_fetch_add(&all->in_flight_rounds, *polls || drained);
	atomic_fetch_add(&all->rounds, 1);
	s.rounds++;
	for (uint32_t i = 0; i < t.pair_count; i++) {
		if (s.rings[i].flags != AIOR_RING_DRAINED ||
		    io_submit(s.rings[i].addr, 0, NULL) != -EINVAL)
			return differs("a ring that is not staged");
	}
	return check_polls(*polls);
}

/* As from an image: the content lies somewhere else, and nothing where the ring belongs. */
static void put_elsewhere(struct aior_ring_record *ring)
{
	char *to = s.elsewhere + 8 * below(8);

	memcpy(to, (void *)(uintptr_t)ring->addr, ring->len);
	munmap((void *)(uintptr_t)ring->addr, ring->len);
	ring->staged = (uintptr_t)to;
}

static int spoil_staged(uint32_t *polls)
{
	struct aior_ring_record *ring = &s.rings[0];
	struct aio_ring *staged = ring_of(ring->staged);
	uint32_t nr = s.owners[0]->nr;

	switch (s.breakage) {
	case BREAK_POLL:
		if (!*polls)
			return 0;
		--*polls;
		return 1;
	case BREAK_TWICE:
		if (!*polls)
			return 0;
		memmove(&s.polls[1], &s.polls[0], *polls * sizeof(s.polls[0]));
		++*polls;
		return 1;
	case BREAK_LOST:
		if (staged->head == staged->tail)
			return 0;
		staged->tail = (staged->tail + nr - 1) % nr;
		return 1;
	case BREAK_DOUBLE:
		if (!*polls || s.polls[0].ring != ring->addr ||
		    aio_ring_pending(staged->head, staged->tail, nr) > nr / 2)
			return 0;
		slots_of(staged)[staged->tail] =
		    (struct aio_slot){s.polls[0].data, s.polls[0].iocb, 0, 0};
		staged->tail = aio_ring_next(staged->tail, nr);
		return 1;
	default:
		return 0;
	}
}

static int spoil_live(const struct pair *pair)
{
	const struct twin *twin = &pair->twins[1];
	struct aio_ring *ring = ring_of(twin->ctx);
	struct aio_slot *slots = slots_of(ring), keep;
	struct iocb iocb, *iocbs[1] = {&iocb};
	uint32_t tail = ring->tail;
	uint64_t one = 1;

	switch (s.breakage) {
	case BREAK_SLOT:
		if (ring->head == tail)
			return 0;
		slots[ring->head].res2 ^= 1ull << below(64);
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

static int restore_twins(uint32_t polls)
{
	struct aior_args args = blob_args(s.rings, t.pair_count, s.polls, polls);

	t.what = "restore";
	if (blob_call(&args) || args.polls_lost) {
		diag("seed %llu: restore says errno %u, step %u, %u polls lost",
		    (unsigned long long)t.seed, args.err, args.step, args.polls_lost);
		return differs("a restore that fails");
	}
	for (uint32_t i = 0; i < t.pair_count; i++)
		if (s.rings[i].flags != AIOR_RING_LIVE)
			return differs("a ring that is not live");
	return 0;
}

/*
 * While this thread is a real-time one, the worker that does its fsyncs, on the same CPU, does not
 * run before it sleeps: in the drain. Where that is not allowed, fewer are met in flight.
 */
static void hold_workers(int is_held)
{
	struct sched_param param = {.sched_priority = is_held};

	sched_setscheduler(0, is_held ? SCHED_FIFO : SCHED_OTHER, &param);
}

static int op_round(void)
{
	uint32_t polls, slow = t.is_slow ? 1 + below(3) : 0;

	/* Another restore would heal some of what is broken. */
	if (s.is_broken)
		return 0;
	hold_workers(t.is_slow);
	for (uint32_t i = 0; i < slow; i++) {
		t.pair = &t.pairs[below(t.pair_count)];
		if (submit_slow(1 + below(4)))
			return 1;
	}
	atomic_fetch_add(&all->slow, t.slow_used);
	t.what = "stage";
	if (stage_twins(&polls))
		return 1;
	hold_workers(0);
	s.is_broken = spoil_staged(&polls);
	if (below(3) == 0)
		put_elsewhere(&s.rings[below(t.pair_count)]);
	if (restore_twins(polls))
		return 1;
	if (!s.is_broken)
		s.is_broken = spoil_live(s.owners[0]);
	return settle_all();
}

/* ---- a seed ---- */

static int (*const operations[])(void) = {op_submit, op_submit, op_submit, op_submit, op_getevents,
    op_getevents, op_getevents, op_reap, op_reap, op_poll, op_poll, op_ready, op_cancel,
    op_eventfd};

static int reap_all(void)
{
	/* At most nr events, of which each call takes at least one. */
	for (uint32_t i = 0; i < t.pair->nr; i++) {
		if (!pending_of(t.pair->twins[0].ctx))
			break;
		if (op_getevents())
			return 1;
	}
	return compare_pair();
}

/* How many more requests a context takes: from this CPU, or from each in turn. */
static uint32_t count_all_free(aio_context_t ctx)
{
	uint32_t count = 0;
	cpu_set_t mine;

	if (!t.is_slow)
		return count_free(ctx, t.null_fd);
	sched_getaffinity(0, sizeof(mine), &mine);
	for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		cpu_set_t one;

		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (!sched_setaffinity(0, sizeof(one), &one))
			count += count_free(ctx, t.null_fd);
	}
	sched_setaffinity(0, sizeof(mine), &mine);
	return count;
}

/* Both of a pair take as many requests as each other, and give the same. */
static int finish_pair(void)
{
	static const char *const names[2] = {
	    "the number of requests until EAGAIN", "that number when all is reaped"};

	t.what = "the end";
	if (op_eventfd())
		return 1;
	for (int round = 0; round < 2; round++) {
		uint32_t free_slots[2];

		for (int side = 0; side < 2; side++)
			free_slots[side] = count_all_free(t.pair->twins[side].ctx);
		if (free_slots[0] != free_slots[1]) {
			diag("%u and %u", free_slots[0], free_slots[1]);
			return differs(names[round]);
		}
		if (reap_all())
			return 1;
		while (t.pair->polls)
			if (op_ready())
				return 1;
		if (reap_all())
			return 1;
	}
	return 0;
}

static int finish(void)
{
	for (uint32_t i = 0; i < t.pair_count; i++) {
		t.pair = &t.pairs[i];
		if (finish_pair())
			return 1;
	}
	return 0;
}

static void make_twin(struct twin *twin, uint32_t n)
{
	if (io_setup(n, &twin->ctx)) {
		diag("seed %llu: io_setup(%u)", (unsigned long long)t.seed, n);
		exit(2);
	}
	twin->iocbs = map_guarded(IOCBS * sizeof(struct iocb));
	if (pipe2(twin->pipe, O_CLOEXEC | O_NONBLOCK))
		abort();
	for (uint32_t i = 0; i < t.poll_room; i++)
		if (pipe2(twin->poll_pipes[i], O_CLOEXEC | O_NONBLOCK))
			abort();
	twin->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

static void make_pairs(void)
{
	uint64_t slots = 0, longest = 0;

	s.rings = map_guarded(t.pair_count * sizeof(*s.rings));
	s.owners = calloc(t.pair_count, sizeof(*s.owners));
	for (uint32_t i = 0; i < t.pair_count; i++) {
		struct pair *pair = &t.pairs[i];

		pair->len = aio_ring_len(pair->n, possible_cpus(), (uint32_t)blob.page);
		pair->nr = aio_ring_nr((uint32_t)pair->len);
		make_twin(&pair->twins[0], pair->n);
		make_twin(&pair->twins[1], pair->n);
		s.owners[i] = pair;
		slots += pair->nr - 1;
		longest = pair->len > longest ? pair->len : longest;
	}
	qsort(s.owners, t.pair_count, sizeof(*s.owners), compare_addresses);
	s.poll_room = (uint32_t)slots;
	s.polls = map_guarded((slots + 1) * sizeof(*s.polls));
	s.elsewhere = map_guarded(longest + 64);
}

/* Two files of the same content, which nobody else sees, and memory to read them into. */
static void make_files(void)
{
	for (int side = 0; side < 2; side++) {
		int fd = open_direct();

		t.can_direct = fd >= 0;
		if (fd < 0)
			fd = memfd_create("twins", MFD_CLOEXEC);
		t.buffers[side] = map_guarded(SLOW * SLOW_BYTES);
		if (write(fd, t.buffers[side], SLOW * SLOW_BYTES) != SLOW * SLOW_BYTES)
			abort();
		t.files[side] = fd;
	}
}

static void run_ops(void)
{
	if (compare())
		return;
	for (t.op = 0; t.op < ops; t.op++) {
		uint32_t chance = below(100);

		if (chance < 10   ? op_round()
		    : chance < 13 ? op_brim()
				  : operations[below(sizeof(operations) / sizeof(operations[0]))]())
			return;
		if (compare())
			return;
	}
	if (!finish())
		compare();
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

/* Waits until that much of fs.aio-nr is left to this child. */
static long take_budget(void)
{
	long price = 0;

	for (uint32_t i = 0; i < t.pair_count; i++)
		price += 2l * t.pairs[i].n;
	while (atomic_fetch_sub(&all->budget, price) < price) {
		atomic_fetch_add(&all->budget, price);
		usleep(5000);
	}
	return price;
}

/* What a seed is like, where it is not left to chance. */
struct shape {
	uint32_t pairs, n;
	unsigned ops;
};

/* One seed, in this process. Exit status: 0 the same, 1 told apart, 2 neither. */
static int run_seed(uint64_t seed, enum breakage breakage, const struct shape *shape)
{
	struct rlimit files;
	int silent[2];
	long price;

	t.seed = seed;
	t.random = seed * 0x9e3779b97f4a7c15ull + 0x1234567;
	t.patience = breakage ? 200 : 60000;
	s.breakage = breakage;
	t.is_slow = (int)below(2);
	t.pair_count = shape ? shape->pairs : 1 + below(below(3) ? 1 : 4);
	t.poll_room = t.pair_count > 10 ? 2 : POLLS;
	t.pairs = calloc(t.pair_count, sizeof(*t.pairs));
	t.pair = t.pairs;
	for (uint32_t i = 0; i < t.pair_count; i++)
		t.pairs[i].n = shape ? shape->n : choose_n();
	if (shape)
		ops = shape->ops;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	price = take_budget();
	pin_to((unsigned)seed);
	t.null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (pipe2(silent, O_CLOEXEC))
		abort();
	t.silent_fd = silent[0];
	if (t.is_slow)
		make_files();
	make_pairs();
	run_ops();
	if (t.why && !breakage)
		diag("seed %llu (%u pairs, n %u, nr %u%s), operation %u (%s), after %u rounds: "
		     "differs "
		     "in %s",
		    (unsigned long long)seed, t.pair_count, t.pair->n, t.pair->nr,
		    t.is_slow ? ", slow" : "", t.op, t.what, s.rounds, t.why);
	atomic_fetch_add(&all->budget, price);
	return t.why ? 1 : breakage && !s.is_broken ? 2 : 0;
}

/* ---- all seeds ---- */

struct tally {
	unsigned same, apart, neither;
};

static struct tally run_seeds(
    uint64_t first, unsigned count, enum breakage breakage, const struct shape *shape)
{
	struct tally tally = {0, 0, 0};
	unsigned started = 0, running = 0;
	int status;

	while (started < count || running) {
		if (started < count && running < PARALLEL) {
			pid_t pid = fork_mortal();

			if (!pid) {
				status = run_seed(first + started, breakage, shape);
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

static void run_shape(const char *name, uint64_t seed, struct shape shape)
{
	long rounds = all->rounds, met = all->polls + all->drained;
	unsigned count = effort(4);
	struct tally tally = run_seeds(seed, count, BREAK_NONE, &shape);

	ok(tally.same == count,
	    "%s: %u seeds, %ld rounds, %ld requests met in flight: %u told apart", name, count,
	    all->rounds - rounds, all->polls + all->drained - met, tally.apart);
}

static void run_special(uint64_t seed)
{
	uint32_t large = aio_ring_smallest_n(
	    (uint32_t)((AIO_RING_HEADER + 60031ull * AIO_RING_SLOT + blob.page - 1) &
		       ~(blob.page - 1)),
	    (uint32_t)blob.page);

	run_shape("a hundred rings at once", seed, (struct shape){100, 1, 200});
	if (2l * (long)large > all->budget)
		skip("a ring of 60,031 slots", "fs.aio-max-nr leaves too few requests: %ld",
		    (long)all->budget);
	else
		run_shape("a ring of 60,031 slots", seed, (struct shape){1, large, 100});
}

static void run_broken(uint64_t seed)
{
	unsigned count = effort(12) < 3 ? 3 : effort(12);

	for (enum breakage kind = BREAK_SLOT; kind < BREAK_KINDS; kind++) {
		struct tally tally = run_seeds(seed, count, kind, NULL);

		ok(!tally.same && tally.apart >= count / 2,
		    "a round spoilt on purpose is noticed (%s): %u of %u", break_names[kind],
		    tally.apart, count - tally.neither);
	}
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"seed", required_argument, NULL, 's'},
	    {"seeds", required_argument, NULL, 'n'}, {"break", required_argument, NULL, 'b'},
	    {"ops", required_argument, NULL, 'o'}, {NULL, 0, NULL, 0}};
	const char *given = getenv("TWINS_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 1000;
	unsigned count = effort(340);
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
	blob_load(&stage_blob, blob_file("stage"), 0);
	all = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	all->budget = aio_max_nr() - aio_nr() - 2000;
	if (all->budget < 20000) {
		skip("twins", "fs.aio-max-nr leaves too few requests: %ld", (long)all->budget);
		return tap_end();
	}
	tally = run_seeds(seed, count, only, NULL);
	ok(tally.same == count,
	    "%u seeds from %llu on, %u operations each; %ld rounds, %ld of them with requests in "
	    "flight "
	    "(%ld polls, %ld of %ld others): %u told apart%s",
	    count, (unsigned long long)seed, ops, (long)all->rounds, (long)all->in_flight_rounds,
	    (long)all->polls, (long)all->drained, (long)all->slow, tally.apart,
	    only ? " (spoilt on purpose)" : "");
	if (count > 1 && !only) {
		ok(all->in_flight_rounds > all->rounds / 2 && all->drained,
		    "requests were in flight in most rounds, and not only polls");
		run_special(seed);
		run_broken(seed);
	}
	test_stack();
	test_stack_of("stage", &stage_blob);
	return tap_end();
}
