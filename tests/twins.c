/* SPDX-License-Identifier: MIT */
/*
 * Pairs of contexts get the same random operations. Now and then the second of each pair is staged,
 * with requests in flight, and restored. No result, header, event, descriptor's content or counter may
 * ever tell which one it was.
 *
 * Some seeds are of the form for rings that come back compact (twins.h).
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
	struct side sides[2];           /* the second is staged and restored */
	struct aior_ring_record *rings; /* of the second side, in ascending order */
	struct twin **owners;           /* whose they are */
	struct aior_poll_record *polls;
	uint32_t poll_room;
	char *elsewhere; /* room for a staged ring */
	enum breakage breakage;
	int is_broken, is_compact;
	unsigned rounds, op;
	uint64_t seed, random; /* what the host leaves to chance */
	int silent_fd;
	long price; /* of fs.aio-nr, for both sides */
	const char *what, *why;
} s;

/* What all children have done. */
static struct {
	atomic_long budget; /* that they may ask of fs.aio-nr */
	atomic_long rounds, in_flight_rounds, polls, slow, drained, compact;
} * all;

static unsigned ops = 400;

static uint32_t any_below(uint32_t limit)
{
	return random_below(&s.random, limit);
}

static int fails(const char *why)
{
	if (!s.why)
		s.why = why;
	return 1;
}

/* ---- both sides ---- */

/* Has both do the same, and compares what they note. */
static int do_both(int (*what)(void))
{
	size_t differing;

	for (int side = 0; side < 2; side++) {
		self = &s.sides[side];
		self->note_count = 0;
		if (what())
			break;
	}
	s.what = self->what;
	if (self->why)
		return fails(self->why);
	differing = compare_notes(&s.sides[0], &s.sides[1]);
	if (differing == SIZE_MAX)
		return 0;
	self = &s.sides[differing >= s.sides[0].note_count];
	return fails(self->notes[differing].what);
}

/* ---- a round: stage and restore ---- */

static int compare_addresses(const void *a, const void *b)
{
	const struct twin *const *left = a, *const *right = b;

	return ((*left)->ctx > (*right)->ctx) - ((*left)->ctx < (*right)->ctx);
}

static void fill_records(void)
{
	memset(s.rings, 0, s.sides[1].count * sizeof(*s.rings));
	for (uint32_t i = 0; i < s.sides[1].count; i++)
		s.rings[i] = (struct aior_ring_record){.addr = s.owners[i]->ctx,
		    .len = s.owners[i]->len,
		    .flags = s.rounds ? AIOR_RING_LIVE : 0};
}

/* Each poll in flight has its record, and there is no other. */
static int check_polls(uint32_t count)
{
	uint32_t at = 0;

	for (uint32_t i = 0; i < s.sides[1].count; i++) {
		const struct twin *twin = s.owners[i];
		uint32_t left = twin->polls;

		for (; at < count && s.polls[at].ring == s.rings[i].addr; at++, left--) {
			uint32_t p = 0;

			while (p < twin->polls &&
			       (uintptr_t)&twin->iocbs[twin->order[p]] != s.polls[at].iocb)
				p++;
			if (p == twin->polls || s.polls[at].flags ||
			    s.polls[at].data != twin->iocbs[twin->order[p]].aio_data)
				return fails("a poll record");
		}
		if (left)
			return fails("the number of poll records");
	}
	return at != count && fails("a poll record of no ring");
}

/* How many events came with the drain. */
static uint32_t count_drained(const uint32_t *tails)
{
	uint32_t drained = 0;

	for (uint32_t i = 0; i < s.sides[1].count; i++)
		drained += aio_ring_pending(tails[i], s.rings[i].tail, s.owners[i]->nr);
	return drained;
}

static int stage_twins(uint32_t *polls)
{
	uint32_t *tails = calloc(s.sides[1].count, sizeof(*tails));
	struct aior_args args;
	uint32_t drained;

	fill_records();
	args = blob_args(s.rings, s.sides[1].count, s.polls, 0);
	args.poll_room = s.poll_room;
	for (uint32_t i = 0; i < s.sides[1].count; i++)
		tails[i] = ring_of(s.owners[i]->ctx)->tail;
	if (call(&stage_blob, &args)) {
		free(tails);
		diag("seed %llu: stage says errno %u, step %u", (unsigned long long)s.seed,
		    args.err, args.step);
		return fails("a stage that fails");
	}
	*polls = args.poll_count;
	drained = count_drained(tails);
	free(tails);
	atomic_fetch_add(&all->polls, *polls);
	atomic_fetch_add(&all->drained, drained);
	atomic_fetch_add(&all->in_flight_rounds, *polls || drained);
	atomic_fetch_add(&all->rounds, 1);
	s.rounds++;
	for (uint32_t i = 0; i < s.sides[1].count; i++) {
		if (s.rings[i].flags != AIOR_RING_DRAINED ||
		    io_submit(s.rings[i].addr, 0, NULL) != -EINVAL)
			return fails("a ring that is not staged");
	}
	return check_polls(*polls);
}

/* As from an image: the content lies somewhere else, and nothing where the ring belongs. */
static void put_elsewhere(struct aior_ring_record *ring)
{
	char *to = s.elsewhere + 8 * any_below(8);

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

static int spoil_live(const struct twin *twin)
{
	struct aio_ring *ring = ring_of(twin->ctx);
	struct aio_slot *slots = slots_of(ring), keep;
	struct iocb iocb, *iocbs[1] = {&iocb};
	uint32_t tail = ring->tail;
	uint64_t one = 1;

	switch (s.breakage) {
	case BREAK_SLOT:
		if (ring->head == tail)
			return 0;
		slots[ring->head].res2 ^= 1ull << any_below(64);
		return 1;
	case BREAK_TAIL:
		keep = slots[tail];
		iocb_null_read(&iocb, s.sides[1].null_fd, 1);
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
		iocb_poll(&iocb, s.silent_fd, POLLIN, 1);
		return io_submit(twin->ctx, 1, iocbs) == 1;
	case BREAK_EVENTFD:
		return write(twin->event_fd, &one, 8) == 8;
	default:
		return 0;
	}
}

static int restore_twins(uint32_t polls)
{
	struct aior_args args = blob_args(s.rings, s.sides[1].count, s.polls, polls);

	args.flags = s.is_compact ? AIOR_F_COMPACT : 0;
	s.what = "restore";
	if (blob_call(&args) || args.polls_lost) {
		diag("seed %llu: restore says errno %u, step %u, %u polls lost",
		    (unsigned long long)s.seed, args.err, args.step, args.polls_lost);
		return fails("a restore that fails");
	}
	for (uint32_t i = 0; i < s.sides[1].count; i++)
		if (s.rings[i].flags != AIOR_RING_LIVE)
			return fails("a ring that is not live");
	return 0;
}

static int op_round(void)
{
	uint32_t polls;

	/* Another restore would heal some of what is broken. */
	if (s.is_broken)
		return 0;
	if (s.sides[0].is_slow) {
		hold_workers(1);
		if (do_both(start_slow))
			return 1;
		atomic_fetch_add(&all->slow, s.sides[1].slow_used);
	}
	s.what = "stage";
	if (stage_twins(&polls))
		return 1;
	hold_workers(0);
	s.is_broken = spoil_staged(&polls);
	if (any_below(3) == 0)
		put_elsewhere(&s.rings[any_below(s.sides[1].count)]);
	atomic_fetch_add(&all->compact, s.is_compact);
	if (restore_twins(polls))
		return 1;
	if (!s.is_broken)
		s.is_broken = spoil_live(s.owners[0]);
	return do_both(settle_all);
}

/* ---- a seed ---- */

static void make_side(void)
{
	for (uint32_t i = 0; i < self->count; i++)
		if (make_twin(&self->twins[i])) {
			diag("seed %llu: io_setup(%u)", (unsigned long long)s.seed,
			    self->twins[i].n);
			atomic_fetch_add(&all->budget, s.price);
			exit(2);
		}
	if (self->is_slow)
		make_file();
}

static void make_sides(void)
{
	uint64_t slots = 0, longest = 0;

	for (int side = 0; side < 2; side++) {
		self = &s.sides[side];
		make_side();
	}
	s.rings = map_guarded(self->count * sizeof(*s.rings));
	s.owners = calloc(self->count, sizeof(*s.owners));
	for (uint32_t i = 0; i < self->count; i++) {
		struct twin *twin = &self->twins[i];

		s.owners[i] = twin;
		slots += twin->nr - 1;
		longest = twin->len > longest ? twin->len : longest;
	}
	qsort(s.owners, self->count, sizeof(*s.owners), compare_addresses);
	s.poll_room = (uint32_t)slots;
	s.polls = map_guarded((slots + 1) * sizeof(*s.polls));
	s.elsewhere = map_guarded(longest + 64);
}

static void run_ops(void)
{
	for (s.op = 0; s.op < ops; s.op++)
		if (any_below(100) < 10 ? op_round() : do_both(do_any_operation))
			return;
	do_both(finish);
}

/* Waits until that much of fs.aio-nr is left to this child. */
static long take_budget(void)
{
	long price = 0;

	for (uint32_t i = 0; i < s.sides[0].count; i++)
		price += 2l * s.sides[0].twins[i].n;
	while (atomic_fetch_sub(&all->budget, price) < price) {
		atomic_fetch_add(&all->budget, price);
		usleep(5000);
	}
	return price;
}

/* What a seed is like, where it is not left to chance. */
struct shape {
	uint32_t count, n;
	unsigned ops;
};

/* Both sides draw the same numbers from now on. */
static void choose_side(const struct shape *shape)
{
	self->random = s.seed * 0x9e3779b97f4a7c15ull + 0x1234567;
	self->patience = s.breakage ? 200 : 60000;
	self->is_by_call = s.is_compact;
	self->is_slow = (int)below(2);
	self->slow_bytes = 131072;
	self->count = shape ? shape->count : 1 + below(below(3) ? 1 : 4);
	self->poll_room = self->count > 10 ? 2 : POLLS;
	self->twins = calloc(self->count, sizeof(*self->twins));
	for (uint32_t i = 0; i < self->count; i++)
		self->twins[i].n = shape ? shape->n : choose_n();
	self->note_room = 1 << 16;
	self->notes = calloc(self->note_room, sizeof(*self->notes));
	self->null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* One seed, in this process. Exit status: 0 the same, 1 told apart, 2 neither. */
static int run_seed(uint64_t seed, enum breakage breakage, const struct shape *shape)
{
	struct rlimit files;
	int silent[2];

	s.seed = seed;
	s.random = seed + 1;
	s.breakage = breakage;
	s.is_compact = !breakage && any_below(3) == 0;
	for (int side = 0; side < 2; side++) {
		self = &s.sides[side];
		choose_side(shape);
	}
	if (shape)
		ops = shape->ops;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	s.price = take_budget();
	pin_to((unsigned)seed);
	if (pipe2(silent, O_CLOEXEC))
		abort();
	s.silent_fd = silent[0];
	make_sides();
	run_ops();
	if (s.why && !breakage)
		diag("seed %llu (%u pairs, n %u, nr %u%s%s), operation %u (%s), after %u rounds: "
		     "differs in %s",
		    (unsigned long long)seed, self->count, self->twins[0].n, self->twins[0].nr,
		    self->is_slow ? ", slow" : "", s.is_compact ? ", compact" : "", s.op, s.what,
		    s.rounds, s.why);
	atomic_fetch_add(&all->budget, s.price);
	return s.why ? 1 : breakage && !s.is_broken ? 2 : 0;
}

/* ---- all seeds ---- */

struct seeds {
	uint64_t first;
	enum breakage breakage;
	const struct shape *shape;
};

static int run_nth(unsigned i, const void *what)
{
	const struct seeds *seeds = what;

	return run_seed(seeds->first + i, seeds->breakage, seeds->shape);
}

static struct tally run_seeds(
    uint64_t first, unsigned count, enum breakage breakage, const struct shape *shape)
{
	struct seeds seeds = {first, breakage, shape};
	struct tally tally = {0, 0, 0};

	each_in_child(count, PARALLEL, run_nth, &seeds, count_end, &tally);
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
	diag("restored compact in %ld rounds", (long)all->compact);
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
