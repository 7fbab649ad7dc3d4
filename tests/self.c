/* SPDX-License-Identifier: MIT */
/*
 * A process stages and restores its own rings: aior_stage_self() and aior_restore_self(), as a program
 * that is linked with the library calls them. Nothing may tell such a ring from one that was never
 * touched. (What fails: self-failures.c. The capsule: capsule.c.)
 */
#include <pthread.h>
#include <semaphore.h>

#include "self.h"

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

int main(void)
{
	static const struct self_test tests[] = {
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
	    {"locks", test_locks},
	    {"cancellation", test_cancel},
	    {"threads", test_threads},
	};
	long nr;

	if (facts_start())
		return 1;
	nr = aio_nr();
	run_tests(tests, COUNT(tests));
	return test_end(nr);
}
