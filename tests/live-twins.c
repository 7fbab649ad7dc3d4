/* SPDX-License-Identifier: MIT */
/*
 * Two processes do the same random operations on AIO rings, in up to three threads each. The second is
 * staged and restored by another process meanwhile, at any moment, with requests in flight. No result, header,
 * event, descriptor's content or counter may ever tell which one it was.
 *
 * Some seeds are of the form for rings that come back compact (twins.h).
 *
 *	live-twins.t [--seed=N] [--rounds=COUNT] [--break=KIND] [--deaths]
 *
 * With --deaths, and in some seeds without, other hosts begin to stage or restore it too, and are killed at any moment.
 * --break spoils one round on purpose, to see that the comparison notices.
 */
#include <getopt.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include "internal.h"
#include "twins.h"

#define PARALLEL                                                                                   \
	12 /* hosts at once, each with a process that it stages: they share grace periods */
#define THREADS 3
#define ROUNDS 12 /* of one seed */
#define NOTES (1u << 20)
#define SPARE_NOTES (1u << 16) /* more than the end takes */
#define LIMIT 200              /* seconds: only there to end what hangs */

/* Ways to spoil what is staged, each as a sloppy stage or restore would. */
enum breakage {
	BREAK_NONE,
	BREAK_SLOT,    /* a bit of a slot is wrong */
	BREAK_HEAD,    /* the head lags behind */
	BREAK_LOST,    /* the last event is forgotten */
	BREAK_DOUBLE,  /* a cancelled poll stays among the events */
	BREAK_POLL,    /* a poll is forgotten */
	BREAK_TWICE,   /* one is submitted twice, and another not */
	BREAK_DATA,    /* a poll is not recognized as the program's own */
	BREAK_EVENTFD, /* an eventfd is raised for nothing */
	BREAK_KINDS
};

static const char *const break_names[BREAK_KINDS] = {
    "none", "slot", "head", "lost", "double", "poll", "twice", "data", "eventfd"};

/* What the host and the two processes share. */
struct common {
	struct side sides[2][THREADS]; /* the second process's threads are staged and restored */
	atomic_int is_ready;           /* the second process has all its rings */
	atomic_int is_over;            /* it comes to its end */
	atomic_int flights;            /* threads of it that have slow requests in flight */
	int event_fd;                  /* a descriptor of it: an eventfd */
};

/* One host's. */
static struct {
	struct common *common;
	unsigned threads;
	uint64_t seed, random;
	pid_t pid; /* of the second process */
	enum breakage breakage;
	int is_broken, is_real_time, is_compact, has_deaths;
	unsigned rounds;
	const char *what, *why;
} h;

/* What all hosts have done. */
static struct {
	atomic_long budget; /* that they may ask of fs.aio-nr */
	atomic_long rounds, in_flight_rounds, slow_rounds, polls, drained, stops, again, compact;
	atomic_long deaths, unfinished; /* of hosts; those that had begun, and left it to others */
	atomic_int all_have_deaths;
	atomic_long disks; /* files on file systems that are really asynchronous */
} * all;

static uint32_t any_below(uint32_t limit)
{
	return random_below(&h.random, limit);
}

/* ---- the processes ---- */

/* Threads of the first process do as many operations as those of the second did. */
static int goes_on(unsigned which, unsigned thread)
{
	if (which == 0)
		return self->op < h.common->sides[1][thread].op;
	while (self->note_count > NOTES - SPARE_NOTES && !h.common->is_over)
		usleep(1000);
	return !h.common->is_over;
}

/* Slow ones, with other things to do while they are in flight. */
static int do_slowly(int is_counted)
{
	int fails;

	hold_workers(1);
	fails = start_slow();
	h.common->flights += is_counted;
	for (uint32_t left = below(8); !fails && left; left--)
		fails = do_any_operation();
	hold_workers(0);
	fails = fails || settle_all();
	h.common->flights -= is_counted;
	return fails;
}

struct worker {
	pthread_t thread;
	unsigned which, index;
};

static void *work(void *data)
{
	struct worker *worker = data;

	self = &h.common->sides[worker->which][worker->index];
	for (self->op = 0; goes_on(worker->which, worker->index); self->op++)
		if (self->is_slow && below(3) == 0 ? do_slowly(worker->which) : do_any_operation())
			return NULL;
	finish();
	return NULL;
}

/* Others take O_DIRECT, but do everything at once. */
static int is_on_disk(int file)
{
	struct statfs fs;

	return self->can_direct && !fstatfs(file, &fs) && (unsigned long)fs.f_type != TMPFS_MAGIC &&
	       (unsigned long)fs.f_type != RAMFS_MAGIC;
}

static void make_side(void)
{
	self->null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	for (uint32_t i = 0; i < self->count; i++)
		if (make_twin(&self->twins[i])) {
			self->why = "io_setup";
			_exit(2);
		}
	if (!self->is_slow)
		return;
	make_file();
	all->disks += is_on_disk(self->file);
}

/* The whole of a process: all that it maps and opens is its own. */
static _Noreturn void run_process(unsigned which)
{
	struct worker workers[THREADS] = {0};

	alarm(LIMIT);
	pin_to((unsigned)h.seed);
	for (unsigned i = 0; i < h.threads; i++) {
		self = &h.common->sides[which][i];
		make_side();
		workers[i].which = which;
		workers[i].index = i;
	}
	if (which) {
		h.common->event_fd = self->twins[0].event_fd;
		h.common->is_ready = 1;
	}
	for (unsigned i = 1; i < h.threads; i++)
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			abort();
	work(&workers[0]);
	for (unsigned i = 1; i < h.threads; i++)
		pthread_join(workers[i].thread, NULL);
	_exit(0);
}

/* ---- spoiling ---- */

static int read_memory(uint64_t at, void *to, size_t len)
{
	/* cppcheck-suppress ctuuninitvar ; it is filled in there */
	struct iovec local = {to, len}, remote = {(void *)(uintptr_t)at, len};

	return process_vm_readv(h.pid, &local, 1, &remote, 1, 0) == (ssize_t)len;
}

static int write_memory(uint64_t at, const void *from, size_t len)
{
	char path[64];
	int fd, is_written;

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)h.pid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	is_written = fd >= 0 && pwrite64(fd, from, len, (off64_t)at) == (ssize_t)len;
	close(fd);
	return is_written;
}

/* Changes a staged ring, if it is such that this is a difference. */
static int spoil_ring(uint64_t at, const struct aior_poll_record *poll)
{
	struct aio_ring ring;
	struct aio_slot slot;
	uint64_t place;

	if (!read_memory(at, &ring, sizeof(ring)))
		return 0;
	if (h.breakage == BREAK_DOUBLE) {
		if (!poll || aio_ring_pending(ring.head, ring.tail, ring.nr) > ring.nr / 2)
			return 0;
		slot = (struct aio_slot){.data = poll->data, .obj = poll->iocb};
		place = at + AIO_RING_HEADER + (uint64_t)ring.tail * AIO_RING_SLOT;
		ring.tail = aio_ring_next(ring.tail, ring.nr);
		return write_memory(place, &slot, sizeof(slot)) &&
		       write_memory(at, &ring, sizeof(ring));
	}
	if (ring.head == ring.tail)
		return 0;
	if (h.breakage == BREAK_SLOT) {
		place = at + AIO_RING_HEADER + (uint64_t)ring.head * AIO_RING_SLOT;
		if (!read_memory(place, &slot, sizeof(slot)))
			return 0;
		slot.res2 ^= (int64_t)(1ull << any_below(64));
		return write_memory(place, &slot, sizeof(slot));
	}
	if (h.breakage == BREAK_HEAD && ring.head == 0)
		return 0;
	if (h.breakage == BREAK_HEAD)
		ring.head--;
	else
		ring.tail = (ring.tail + ring.nr - 1) % ring.nr;
	return write_memory(at, &ring, sizeof(ring));
}

static int spoil_polls(const struct aior_capsule *capsule, const char *bytes)
{
	struct aior_table table = capsule->table;
	struct aior_poll_record poll, next;
	uint64_t at = capsule->addr + table.polls;

	if (!table.poll_count)
		return 0;
	if (h.breakage == BREAK_POLL) {
		table.poll_count--;
		return write_memory(capsule->addr, &table, sizeof(table));
	}
	for (uint32_t i = 0; i < table.poll_count; i++, at += table.poll_stride) {
		poll = *aior_capsule_poll(&table, bytes, i);
		if (h.breakage == BREAK_DATA) {
			poll.data ^= 1ull << any_below(64);
			return write_memory(at, &poll, sizeof(poll));
		}
		if (i + 1 == table.poll_count)
			break;
		next = *aior_capsule_poll(&table, bytes, i + 1);
		if (next.ring == poll.ring)
			return write_memory(at + table.poll_stride, &poll, sizeof(poll));
	}
	return 0;
}

/* A poll of that ring, if there is one. */
static const struct aior_poll_record *poll_of(
    const struct aior_table *table, const char *bytes, uint64_t ring)
{
	for (uint32_t i = 0; i < table->poll_count; i++)
		if (aior_capsule_poll(table, bytes, i)->ring == ring)
			return aior_capsule_poll(table, bytes, i);
	return NULL;
}

static int spoil_any_ring(const struct aior_table *table, const char *bytes)
{
	for (uint32_t i = 0; i < table->ring_count; i++) {
		uint64_t ring = aior_capsule_ring(table, bytes, i)->addr;

		if (spoil_ring(ring, poll_of(table, bytes, ring)))
			return 1;
	}
	return 0;
}

static int spoil_capsule(void)
{
	struct aior_capsule capsule;
	char *bytes;
	int is_spoilt = 0;

	if (aior_find_capsule(h.pid, &capsule, NULL) != 1)
		return 0;
	bytes = malloc(capsule.table.total);
	if (read_memory(capsule.addr, bytes, capsule.table.total))
		is_spoilt = h.breakage >= BREAK_POLL ? spoil_polls(&capsule, bytes)
						     : spoil_any_ring(&capsule.table, bytes);
	free(bytes);
	return is_spoilt;
}

static int raise_eventfd(void)
{
	int process = (int)syscall(SYS_pidfd_open, h.pid, 0);
	int fd = (int)syscall(SYS_pidfd_getfd, process, h.common->event_fd, 0);
	uint64_t one = 1;
	int is_raised = write(fd, &one, sizeof(one)) == (ssize_t)sizeof(one);

	close(fd);
	close(process);
	return is_raised;
}

static int spoil(void)
{
	return h.breakage == BREAK_NONE      ? 0
	       : h.breakage == BREAK_EVENTFD ? raise_eventfd()
					     : spoil_capsule();
}

/* ---- the host ---- */

static int fails(const char *why)
{
	if (!h.why)
		h.why = why;
	return 1;
}

static int fails_so(const char *why, const struct aior_error *error)
{
	if (!h.breakage)
		diag("seed %llu, %s: errno %d: %s", (unsigned long long)h.seed, why, error->err,
		    error->message);
	return fails(why);
}

static uint32_t ring_count(void)
{
	uint32_t count = 0;

	for (unsigned i = 0; i < h.threads; i++)
		count += h.common->sides[1][i].count;
	return count;
}

/*
 * Where a thread of the other process keeps the workers from running, on the same CPU, so does the
 * host: else they had done everything when it comes to staging.
 */
static void be_real_time(int is_so)
{
	if (h.is_real_time)
		hold_workers(is_so ? 2 : 0);
}

/* Any moment; or one in which slow requests have just been submitted. */
static void wait_for_moment(void)
{
	uint32_t us = any_below(15000);

	for (int ms = 0; !h.common->is_ready && ms < 60000; ms++)
		usleep(1000);
	if (any_below(3) == 0)
		us = 0;
	if (us)
		usleep(us);
	if (h.is_real_time && any_below(3))
		for (int tries = 0; !h.common->flights && tries < 2000; tries++)
			usleep(20);
}

static int stage_it(size_t *polls)
{
	struct aior_outcome outcome = {0};
	struct aior_error error;
	const struct aior_report *rings = &outcome.rings;
	int ret;

	be_real_time(1);
	ret = aior_stage(&h.pid, 1, NULL, &outcome, &error);
	be_real_time(0);
	if (ret)
		return fails_so("a stage that fails", &error);
	*polls = rings->poll_count;
	if (outcome.was_so || rings->ring_count != ring_count() || rings->lost_count ||
	    rings->inherited_count || !outcome.thread_count || outcome.thread_count > h.threads)
		ret = fails("what a stage reports");
	h.rounds++;
	atomic_fetch_add(&all->rounds, 1);
	atomic_fetch_add(&all->in_flight_rounds, rings->poll_count || rings->drained);
	atomic_fetch_add(&all->slow_rounds, rings->drained != 0);
	atomic_fetch_add(&all->polls, (long)rings->poll_count);
	atomic_fetch_add(&all->drained, (long)rings->drained);
	aior_outcome_free(&outcome);
	return ret;
}

static int restore_all(struct aior_outcome *outcome)
{
	const struct aior_options options = {.timeout_ms = -1, .compacts = h.is_compact};
	struct aior_error error;

	memset(outcome, 0, sizeof(*outcome));
	for (int tries = 0; aior_restore(&h.pid, 1, &options, outcome, &error); tries++) {
		/* Where a host has died, its blob may still be at work: on a busy machine that takes a while. */
		if (error.err != EBUSY || !h.has_deaths || tries == 60)
			return fails_so("a restore that fails", &error);
		aior_outcome_free(outcome);
		usleep(1000);
	}
	return 0;
}

/* Another host that is killed at any moment. */
static void die_at_it(int stages)
{
	uint32_t us = any_below(any_below(2) ? 3000 : 80000);
	pid_t pid = fork_mortal();

	if (!pid) {
		struct aior_outcome outcome;
		struct aior_error error;

		_exit(
		    stages ? aior_stage(&h.pid, 1, NULL, &outcome, &error) : restore_all(&outcome));
	}
	usleep(us);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	atomic_fetch_add(&all->deaths, 1);
}

/* What it has begun comes to its end by whoever comes next. */
static int die_staging(void)
{
	struct aior_outcome outcome;
	int ret;

	die_at_it(1);
	if (any_below(4) == 0)
		die_at_it(0);
	ret = restore_all(&outcome);
	atomic_fetch_add(&all->unfinished, !ret && !outcome.was_so);
	if (!ret && outcome.rings.lost_count)
		ret = fails("a poll is lost when a host has died");
	aior_outcome_free(&outcome);
	return ret;
}

/* It is staged already: nothing is done. */
static int stage_again(void)
{
	struct aior_outcome outcome = {0};
	struct aior_error error;
	int was_so;

	if (aior_stage(&h.pid, 1, NULL, &outcome, &error))
		return fails_so("a second stage that fails", &error);
	was_so = outcome.was_so;
	aior_outcome_free(&outcome);
	atomic_fetch_add(&all->again, 1);
	return !was_so && fails("a second stage that does something");
}

/* Where another one may have done it, or a part of it, not all is said here. */
static int restore_it(size_t polls, int is_struck)
{
	struct aior_outcome outcome;
	int ret;

	atomic_fetch_add(&all->compact, h.is_compact);
	if (restore_all(&outcome))
		return 1;
	ret = outcome.rings.lost_count ||
	      (!is_struck && (outcome.was_so || outcome.rings.ring_count != ring_count() ||
				 outcome.rings.poll_count != polls));
	aior_outcome_free(&outcome);
	return ret && fails("what a restore reports");
}

/* What happens to it while it is parked. Returns whether it has yet to be continued. */
static int disturb(void)
{
	if (any_below(3) == 0)
		usleep(any_below(20000));
	if (any_below(4))
		return 0;
	atomic_fetch_add(&all->stops, 1);
	kill(h.pid, SIGSTOP);
	usleep(any_below(2) ? any_below(3000) : 0);
	if (any_below(4) == 0)
		return 1;
	kill(h.pid, SIGCONT);
	return 0;
}

static int do_round(void)
{
	size_t polls = 0;
	int is_stopped, is_struck;

	wait_for_moment();
	if (h.common->is_over)
		return 1;
	if (h.has_deaths && any_below(2) && die_staging())
		return 1;
	if (stage_it(&polls))
		return 1;
	is_stopped = disturb();
	if (any_below(8) == 0 && stage_again())
		return 1;
	h.is_broken = spoil();
	is_struck = h.has_deaths && any_below(3) == 0;
	if (is_struck)
		die_at_it(0);
	if (restore_it(polls, is_struck))
		return 1;
	if (is_stopped)
		kill(h.pid, SIGCONT);
	return 0;
}

/* Waits for a process to end by itself. */
static int ends_well(pid_t pid, const char *why)
{
	int status = -1;

	if (waitpid(pid, &status, 0) != pid || status) {
		if (!h.breakage)
			diag("seed %llu: %s 0x%x", (unsigned long long)h.seed, why,
			    (unsigned)status);
		fails(why);
		return 0;
	}
	return 1;
}

static void run_second(void)
{
	h.pid = fork_mortal();
	if (!h.pid)
		run_process(1);
	/* Another restore would heal some of what is broken. */
	while (h.rounds < ROUNDS && !h.is_broken)
		if (do_round())
			break;
	if (h.is_broken)
		usleep(20000);
	h.common->is_over = 1;
	if (h.why)
		kill(h.pid, SIGKILL);
	ends_well(h.pid, "the staged process: it ends with status");
}

static void run_first(void)
{
	pid_t pid = fork_mortal();

	if (!pid)
		run_process(0);
	ends_well(pid, "the other process: it ends with status");
}

static void compare_threads(void)
{
	for (unsigned i = 0; i < h.threads; i++) {
		const struct side *first = &h.common->sides[0][i], *second = &h.common->sides[1][i];
		size_t differing = compare_notes(first, second);
		const struct side *longer = differing < first->note_count ? first : second;

		if (differing != SIZE_MAX) {
			fails(longer->notes[differing].what);
			if (!h.breakage && differing < first->note_count &&
			    differing < second->note_count)
				diag("seed %llu, thread %u: %s: 0x%llx and %s: 0x%llx",
				    (unsigned long long)h.seed, i, first->notes[differing].what,
				    (unsigned long long)first->notes[differing].value,
				    second->notes[differing].what,
				    (unsigned long long)second->notes[differing].value);
		}
		if (first->why || second->why) {
			h.what = second->why ? second->what : first->what;
			fails(second->why ? second->why : first->why);
		}
	}
}

/* ---- a seed ---- */

static void *map_shared(size_t len)
{
	void *at = mmap(
	    NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		abort();
	return at;
}

/* Both processes draw the same numbers from now on. */
static void choose_side(unsigned thread)
{
	self->random = (h.seed * THREADS + thread) * 0x9e3779b97f4a7c15ull + 0x1234567;
	self->patience = h.breakage ? 2000 : 60000;
	self->can_wait = !h.breakage;
	self->may_be_short = h.has_deaths;
	self->is_by_call = h.is_compact;
	self->is_slow = (int)below(2);
	self->slow_bytes = 1u << 20;
	self->count = 1 + below(4);
	self->poll_room = POLLS;
	self->note_room = NOTES;
	self->notes = map_shared(NOTES * sizeof(*self->notes));
	self->twins = map_shared(self->count * sizeof(*self->twins));
	for (uint32_t i = 0; i < self->count; i++)
		self->twins[i].n = choose_n();
}

static void choose(void)
{
	h.random = h.seed + 1;
	h.threads = any_below(2) ? 1 : 1 + any_below(THREADS);
	h.is_compact = !h.breakage && any_below(3) == 0;
	h.has_deaths = !h.breakage && (any_below(4) == 0 || all->all_have_deaths);
	h.common = map_shared(sizeof(*h.common));
	for (unsigned which = 0; which < 2; which++)
		for (unsigned i = 0; i < h.threads; i++) {
			self = &h.common->sides[which][i];
			choose_side(i);
			h.is_real_time |= self->is_slow;
		}
}

/* Waits until as much of fs.aio-nr is left to this host as both processes may ask for. */
static long take_budget(void)
{
	long price = 0;

	for (unsigned i = 0; i < h.threads; i++)
		for (uint32_t k = 0; k < h.common->sides[1][i].count; k++)
			price += 2l * h.common->sides[1][i].twins[k].n;
	while (atomic_fetch_sub(&all->budget, price) < price) {
		atomic_fetch_add(&all->budget, price);
		usleep(5000);
	}
	return price;
}

/* One seed: this process is the host. Exit status: 0 the same, 1 told apart, 2 neither. */
static int run_seed(uint64_t seed, enum breakage breakage)
{
	long price;

	h.seed = seed;
	h.breakage = breakage;
	choose();
	price = take_budget();
	alarm(LIMIT);
	pin_to((unsigned)seed);
	run_second();
	if (!h.why)
		run_first();
	compare_threads();
	atomic_fetch_add(&all->budget, price);
	if (h.why && !breakage)
		diag("seed %llu (%u threads, %u rings%s%s%s), operation %u (%s), after %u rounds: "
		     "differs in %s",
		    (unsigned long long)seed, h.threads, ring_count(),
		    h.is_real_time ? ", slow" : "", h.is_compact ? ", compact" : "",
		    h.has_deaths ? ", deaths" : "", h.common->sides[1][0].op,
		    h.what ? h.what : h.common->sides[1][0].what, h.rounds, h.why);
	return h.why ? 1 : breakage && !h.is_broken ? 2 : 0;
}

/* ---- all seeds ---- */

struct seeds {
	uint64_t first;
	enum breakage breakage;
};

static int run_nth(unsigned i, const void *what)
{
	const struct seeds *seeds = what;

	return run_seed(seeds->first + i, seeds->breakage);
}

static struct tally run_seeds(uint64_t first, unsigned count, enum breakage breakage)
{
	struct seeds seeds = {first, breakage};
	struct tally tally = {0, 0, 0};

	each_in_child(count, PARALLEL, run_nth, &seeds, count_end, &tally);
	return tally;
}

static void run_sound(uint64_t seed, unsigned count)
{
	struct tally tally = run_seeds(seed, count, BREAK_NONE);

	ok(tally.same == count && all->rounds == (long)count * ROUNDS,
	    "%u seeds from %llu on: %ld rounds, %ld of them with requests in flight: %u told apart",
	    count, (unsigned long long)seed, (long)all->rounds, (long)all->in_flight_rounds,
	    tally.apart);
	diag("met in flight: %ld polls; %ld others, in %ld rounds", (long)all->polls,
	    (long)all->drained, (long)all->slow_rounds);
	diag("restored compact in %ld rounds", (long)all->compact);
	diag("%ld other hosts killed, %ld of them left something to finish", (long)all->deaths,
	    (long)all->unfinished);
	diag("stopped and continued while parked %ld times, staged when it was staged %ld times",
	    (long)all->stops, (long)all->again);
}

static void check_flights(unsigned seeds)
{
	static const char name[] = "not only polls";

	/* Which requests there are is the seed's choice: of a few, all may be quiet ones. */
	ok(all->in_flight_rounds > all->rounds / (seeds < 20 ? 10 : 2),
	    "requests were in flight in many rounds");
	if (!all->disks)
		skip(name, "no file system here is asynchronous and takes O_DIRECT");
	else if (seeds < 20)
		skip(name, "too few rounds to be sure of it");
	else
		ok(all->drained, "%s", name);
}

/*
 * Seeds in which there was nothing to spoil do not count; nor need each of the others tell: an operation may
 * have read a slot already when it is spoilt, or be about to write it. Of a few seeds that may be most: then more
 * of them decide.
 */
static void run_broken(uint64_t seed, unsigned count, enum breakage kind)
{
	struct tally tally = {0, 0, 0}, more;

	for (int tries = 0; tries < 10 && tally.apart <= tally.same; tries++) {
		more = run_seeds(seed + tries * count, count, kind);
		tally.apart += more.apart;
		tally.same += more.same;
	}
	ok(tally.apart > tally.same, "a round spoilt on purpose is noticed (%s): %u of %u",
	    break_names[kind], tally.apart, tally.apart + tally.same);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"seed", required_argument, NULL, 's'},
	    {"rounds", required_argument, NULL, 'r'}, {"break", required_argument, NULL, 'b'},
	    {"deaths", no_argument, NULL, 'd'}, {NULL, 0, NULL, 0}};
	const char *given = getenv("TWINS_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 1000;
	unsigned count = effort(40);
	enum breakage only = BREAK_NONE;
	int option, is_whole = 1, deaths = 0;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		is_whole = 0;
		if (option == 's')
			seed = strtoull(optarg, NULL, 0), count = 1;
		else if (option == 'r')
			count = ((unsigned)atoi(optarg) + ROUNDS - 1) / ROUNDS;
		else if (option == 'd')
			deaths = 1;
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
	if (!is_whole)
		alarm(0); /* as long as it takes; each host has a limit */
	all = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	all->all_have_deaths = deaths;
	all->budget = aio_max_nr() - aio_nr() - 2000;
	if (all->budget < 4000l * THREADS * 4) {
		skip("twins", "fs.aio-max-nr leaves too few requests: %ld", (long)all->budget);
		return tap_end();
	}
	if (only)
		run_broken(seed, count, only);
	else
		run_sound(seed, count);
	if (count > 1 && !only)
		check_flights(count);
	for (enum breakage kind = BREAK_SLOT; kind < BREAK_KINDS && is_whole; kind++)
		run_broken(seed, effort(5) < 2 ? 2 : effort(5), kind);
	return tap_end();
}
