/* SPDX-License-Identifier: MIT */
/*
 * Staging and restoring other processes: nothing that they do comes out otherwise, nothing that can be seen of
 * them from outside is other than before, and in between they are what a staged process must be.
 */
#include "internal.h"
#include "live.h"

#define ROUNDS (2 + effort(18))

static uint64_t seed;

/* ---- rings as the host sees them ---- */

/* The same ring: header but for the id, and pending events. */
static int is_same_content(const struct aior_ring *live, const unsigned char *content)
{
	const struct aior_ring_record at = {.staged = (uintptr_t)content};
	const struct staged as_it_was = {
	    .copy = live->content, .head = live->head, .tail = live->tail, .nr = live->nr};
	struct aio_ring *header = (struct aio_ring *)(uintptr_t)content;

	header->id = ((struct aio_ring *)(void *)live->content)->id;
	return is_same_ring(&at, &as_it_was);
}

static const char *why_not_same_ring(
    const struct aior_ring *live, const struct aior_ring *now, enum aior_state state, pid_t pid)
{
	unsigned char *content = malloc(live->len);
	struct iovec to = {content, live->len}, from = {(void *)(uintptr_t)live->addr, live->len};
	const char *why = NULL;

	if (now->state != state)
		why = "a ring's state";
	else if (now->addr != live->addr || now->len != live->len || now->nr != live->nr ||
		 now->head != live->head || now->tail != live->tail ||
		 now->pending != live->pending || now->prot != live->prot)
		why = "a ring's numbers";
	else if (process_vm_readv(pid, &to, 1, &from, 1, 0) != (ssize_t)live->len)
		why = "a ring that cannot be read";
	else if (!is_same_content(live, content))
		why = "a ring's bytes";
	free(content);
	return why;
}

/* NULL, or why a process has not the rings that it had, in that state, with so many polls. */
static const char *why_not_same_rings(
    const struct aior_image *live, enum aior_state state, size_t polls)
{
	struct aior_image now;
	const char *why = NULL;

	if (aior_list(live->pid, &now, &error)) {
		diag("%s", error.message);
		return "it cannot be listed";
	}
	if (now.ring_count != live->ring_count)
		why = "the number of rings";
	for (size_t i = 0; i < now.ring_count && !why; i++) {
		why = why_not_same_ring(&live->rings[i], &now.rings[i], state, live->pid);
		polls -= now.rings[i].polls;
	}
	if (!why && polls)
		why = "the number of polls";
	aior_image_free(&now);
	return why;
}

/* ---- many rounds ---- */

struct subject {
	struct target *targets;
	size_t count;
	struct aior_image live[TARGETS];
	char *look[TARGETS];
	const char *why; /* the first thing that was wrong */
};

static size_t polls_of(const struct target *target)
{
	size_t polls = 0;

	for (unsigned i = 0; i < target->shared->worker_count; i++)
		polls += target->shared->workers[i].kind->rings;
	return polls;
}

/* The numbers must be those of what was there. */
static const char *why_other_outcome(
    const struct target *target, const struct aior_outcome *outcome, const struct aior_image *live)
{
	pid_t tids[MOST_THREADS];
	size_t pending = 0;

	for (size_t i = 0; i < live->ring_count; i++)
		pending += live->rings[i].pending;
	if (outcome->was_so)
		return "it was so already";
	if (outcome->rings.ring_count != live->ring_count ||
	    outcome->rings.poll_count != polls_of(target) || outcome->rings.lost_count ||
	    outcome->rings.inherited_count || outcome->heir_count)
		return "the numbers of rings and polls";
	if (outcome->rings.pending != pending || outcome->rings.drained)
		return "the number of events";
	if (outcome->thread_count != threads_of(target->pid, tids))
		return "the number of threads";
	return outcome->stood_ns ? NULL : "the time that it stood still";
}

static void begin_subject(struct subject *subject, struct target *targets, size_t count)
{
	memset(subject, 0, sizeof(*subject));
	subject->targets = targets;
	subject->count = count;
	for (size_t i = 0; i < count; i++) {
		if (!settle_target(&targets[i]))
			subject->why = "a thread does not get to its call";
		else if (aior_list(targets[i].pid, &subject->live[i], &error)) {
			diag("%s", error.message);
			subject->why = "it cannot be listed";
		}
		subject->look[i] = look(targets[i].pid);
	}
}

/* All of them together; 0, or -1 and the reason. */
static int go_round(struct subject *subject)
{
	usleep(random_below(&seed, 3000));
	if (stage_all(subject->targets, subject->count)) {
		subject->why = "a stage has failed";
		return -1;
	}
	for (size_t i = 0; i < subject->count && !subject->why; i++) {
		const struct target *target = &subject->targets[i];

		subject->why = why_other_outcome(target, &outcomes[i], &subject->live[i]);
		if (!subject->why)
			subject->why = why_not_parked(target);
		if (!subject->why)
			subject->why =
			    why_not_same_rings(&subject->live[i], AIOR_STAGED, polls_of(target));
		if (!subject->why && !stands_still(target))
			subject->why = "somebody runs while parked";
	}
	usleep(random_below(&seed, 3000));
	if (restore_all(subject->targets, subject->count)) {
		subject->why = "a restore has failed";
		return -1;
	}
	for (size_t i = 0; i < subject->count && !subject->why; i++)
		subject->why =
		    why_other_outcome(&subject->targets[i], &outcomes[i], &subject->live[i]);
	return subject->why ? -1 : 0;
}

static void end_subject(struct subject *subject, const char *name)
{
	int is_same = 1, is_still = 1, is_secret = 1, goes = 1;
	const char *why = NULL;

	for (size_t i = 0; i < subject->count; i++) {
		const struct target *target = &subject->targets[i];

		goes &= settle_target(target) && goes_on(target);
		is_still &= none_is_back(target);
		is_same &= is_same_look(subject->look[i], look(target->pid));
		is_secret &= is_unseen(target);
		if (!why)
			why = why_not_same_rings(&subject->live[i], AIOR_LIVE, 0);
		aior_image_free(&subject->live[i]);
	}
	ok(goes, "%s: what computes goes on", name);
	ok(is_still, "%s: no thread has come back, and no result is wrong", name);
	ok(is_same,
	    "%s: mappings, descriptors, limits, threads, masks and affinities are as before", name);
	ok(!why, "%s: %s", name, why ? why : "the rings are as before");
	ok(is_secret, "%s: their parents have seen nothing", name);
	for (size_t i = 0; i < subject->count; i++) {
		why = end_workers(&subject->targets[i]);
		ok(!why, "%s: %s", name, why ? why : "all waits end with what they waited for");
	}
}

/* One thread, in whatever it does. */
static void run_single(struct target *target)
{
	(void)target;
	if (!own->workers[0].kind->rings)
		new_ring(1);
	own->is_ready = 1;
	run_worker(&own->workers[0]);
	for (;;)
		pause();
}

static void rounds_of(struct target *targets, size_t count, const char *name)
{
	struct subject subject;
	unsigned done = 0;

	begin_subject(&subject, targets, count);
	while (!subject.why && done < ROUNDS && !go_round(&subject))
		done++;
	if (!ok(!subject.why, "%s: staged and restored %u times: %s", name, done,
		subject.why ? subject.why : "parked, and back again"))
		return;
	end_subject(&subject, name);
}

static void test_singles(void)
{
	struct target targets[KINDS];
	int are_ready = 1;

	for (int i = 0; i < KINDS; i++) {
		make_target(&targets[i]);
		add_worker(&targets[i], i);
		are_ready &= begin_target(&targets[i], run_single);
	}
	if (are_ready)
		rounds_of(targets, KINDS, "8 processes of a thread");
	for (int i = 0; i < KINDS; i++)
		end_target(&targets[i]);
}

static void many_threads(unsigned count, const char *name)
{
	struct target target;
	const char *why;

	make_target(&target);
	for (unsigned i = 0; i + 1 < count; i++)
		add_worker(&target, (int)i % KINDS);
	if (begin_target(&target, run_many)) {
		rounds_of(&target, 1, name);
		why = ask_why(&target, why_other_rings, 0);
		ok(!why, "%s: %s", name, why ? why : "its rings of all shapes are exact");
	}
	end_target(&target);
}

static void test_8_threads(void)
{
	many_threads(8, "8 threads");
}

static void test_64_threads(void)
{
	many_threads(64, "64 threads");
}

/* ---- staged, and nothing to do ---- */

static void check_capsule(pid_t pid)
{
	struct aior_capsule capsule;

	ok(aior_find_capsule(pid, &capsule, &error) == 1, "there is one capsule");
	ok(capsule.table.thread_count == 2, "... with 2 threads");
}

static void test_staged(void)
{
	struct aior_image live;
	struct target target;
	const char *why;

	make_target(&target);
	add_worker(&target, GETEVENTS);
	if (begin_target(&target, run_many) && settle_target(&target) &&
	    !aior_list(target.pid, &live, &error)) {
		ok(!restore_all(&target, 1) && outcomes[0].was_so,
		    "what is not staged cannot be restored: nothing is done");
		ok(!stage_all(&target, 1) && !outcomes[0].was_so, "it is staged");
		ok(!stage_all(&target, 1) && outcomes[0].was_so,
		    "it is staged already: nothing is done");
		why = why_not_parked(&target);
		ok(!why, "%s", why ? why : "it is parked still");
		why = why_not_same_rings(&live, AIOR_STAGED, 1);
		ok(!why, "%s", why ? why : "its rings are listed, as staged, with one poll");
		check_capsule(target.pid);
		ok(!restore_all(&target, 1) && !outcomes[0].was_so, "it is restored");
		ok(!restore_all(&target, 1) && outcomes[0].was_so,
		    "it is restored already: nothing is done");
		why = end_workers(&target);
		ok(!why, "%s", why ? why : "its wait ends");
		why = ask_why(&target, why_other_rings, 0);
		ok(!why, "%s", why ? why : "its rings are exact");
	}
	end_target(&target);
}

/* A process that has what another one's capsule holds, and is not parked. */
static pid_t start_bearer(const struct target *target)
{
	struct aior_capsule capsule;
	aio_context_t ctx = 0;
	char *copy;
	pid_t pid;

	if (aior_find_capsule(target->pid, &capsule, &error) != 1)
		return 0;
	pid = fork_mortal();
	if (pid) {
		eventually(aior_find_capsule(pid, &capsule, &error) == 1);
		return pid;
	}
	copy = mmap(NULL, capsule.table.total + 2 * page, PROT_NONE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	mprotect(copy + page, capsule.table.total, PROT_READ | PROT_WRITE);
	if (io_setup(1, &ctx) ||
	    aior_read_memory(target->pid, capsule.addr, copy + page, capsule.table.total))
		_exit(1);
	for (;;)
		pause();
}

static void test_copied(void)
{
	struct target target;
	pid_t pid = 0;

	make_target(&target);
	if (begin_target(&target, run_many) && settle_target(&target) &&
	    ok(!stage_all(&target, 1) && (pid = start_bearer(&target)),
		"another process has a copy of a capsule")) {
		ok(aior_stage(&pid, 1, NULL, NULL, &error) && error.err == EINVAL,
		    "... it cannot be staged: %s", error.message);
		ok(aior_restore(&pid, 1, NULL, NULL, &error) && error.err == EINVAL,
		    "... nor restored: %s", error.message);
		ok(!kill(pid, 0) && aior_status_number(pid, "\nTracerPid:") == 0, "... it goes on");
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		ok(!restore_all(&target, 1), "... and the one that is staged is restored");
	}
	end_target(&target);
}

static void run_without_rings(struct target *target)
{
	start_workers();
	serve(target);
}

static void test_no_rings(void)
{
	struct target target;
	char *before_it;

	make_target(&target);
	add_worker(&target, INTEGERS);
	add_worker(&target, READ);
	if (begin_target(&target, run_without_rings) && settle_target(&target)) {
		before_it = look(target.pid);
		ok(!stage_all(&target, 1) && outcomes[0].was_so && !outcomes[0].rings.ring_count,
		    "a process without rings: nothing is done");
		ok(goes_on(&target), "... and it goes on");
		ok(!restore_all(&target, 1) && outcomes[0].was_so, "... nor at restore");
		ok(is_same_look(before_it, look(target.pid)), "... all is as it was");
		ok(is_unseen(&target), "... its parent has seen nothing");
	}
	end_target(&target);
}

/* Of several, one has nothing to do. */
static void test_some(void)
{
	struct target targets[2];

	for (int i = 0; i < 2; i++) {
		make_target(&targets[i]);
		add_worker(&targets[i], i ? GETEVENTS : INTEGERS);
	}
	if (begin_target(&targets[0], run_without_rings) && begin_target(&targets[1], run_many) &&
	    settle_target(&targets[0]) && settle_target(&targets[1])) {
		ok(!stage_all(targets, 2) && outcomes[0].was_so && !outcomes[1].was_so,
		    "of two processes, one is staged");
		ok(goes_on(&targets[0]) && !why_not_parked(&targets[1]),
		    "... the other one goes on");
		ok(!restore_all(targets, 2) && outcomes[0].was_so && !outcomes[1].was_so,
		    "... and restored");
		ok(!end_workers(&targets[1]), "... its wait ends");
	}
	for (int i = 0; i < 2; i++)
		end_target(&targets[i]);
}

/* ---- in flight ---- */

#define IN_FLIGHT_POLLS 6
#define DIRECT 16
#define DIRECT_BYTES (1u << 20)

static int poll_fds[IN_FLIGHT_POLLS]; /* the host raises them */
static int direct_fd = -1;
static char *direct_buffers;
static aio_context_t flying;

static void run_flight(struct target *target)
{
	set_up_flight();
	flying = new_ring(2 * (IN_FLIGHT_POLLS + DIRECT));
	new_ring(1);
	direct_fd = open_direct();
	direct_buffers = map_guarded(2 * DIRECT * (size_t)DIRECT_BYTES);
	memset(direct_buffers, 0x5a, DIRECT * (size_t)DIRECT_BYTES);
	serve(target);
}

/* Questions. */
static long has_direct(long unused)
{
	(void)unused;
	return direct_fd >= 0;
}

static long submit_polls(long unused)
{
	(void)unused;
	flight.total = flight.strangers = 0;
	memset(flight.seen, 0, sizeof(flight.seen));
	for (unsigned i = 0; i < IN_FLIGHT_POLLS; i++)
		must_submit(flying, poll_iocb(i, poll_fds[i], -1));
	return 0;
}

/* All are written, then all are read, then a sync: in the order in which they are submitted, or not. */
static long submit_direct(long opcode)
{
	for (unsigned i = 0; i < DIRECT; i++) {
		unsigned at = IN_FLIGHT_POLLS + i;
		struct iocb *iocb = &flight.iocbs[at];

		memset(iocb, 0, sizeof(*iocb));
		iocb->aio_lio_opcode = (uint16_t)opcode;
		iocb->aio_fildes = (uint32_t)direct_fd;
		iocb->aio_data = DATA + at;
		if (opcode != IOCB_CMD_FSYNC) {
			size_t buffer = opcode == IOCB_CMD_PREAD ? DIRECT + i : i;

			iocb->aio_buf = (uintptr_t)direct_buffers + buffer * DIRECT_BYTES;
			iocb->aio_nbytes = DIRECT_BYTES;
			iocb->aio_offset = (int64_t)i * DIRECT_BYTES;
		}
		must_submit(flying, iocb);
	}
	return 0;
}

static long reap_so_many(long total)
{
	return reap_until(flying, (unsigned)total);
}

static long polls_have_fired(long unused)
{
	(void)unused;
	return have_fired(0, IN_FLIGHT_POLLS);
}

static long direct_has_come(long res)
{
	return have_come(IN_FLIGHT_POLLS, IN_FLIGHT_POLLS + DIRECT, res);
}

static long is_as_written(long unused)
{
	(void)unused;
	return !memcmp(direct_buffers, direct_buffers + DIRECT * (size_t)DIRECT_BYTES,
	    DIRECT * (size_t)DIRECT_BYTES);
}

static void drain_polls(struct target *target)
{
	eventfd_t value;

	ask(target, submit_polls, 0);
	ok(!stage_all(target, 1) && outcomes[0].rings.poll_count == IN_FLIGHT_POLLS &&
		!outcomes[0].rings.drained && !outcomes[0].rings.pending,
	    "polls in flight are remembered");
	eventfd_write(poll_fds[0], 1);
	ok(!restore_all(target, 1) && outcomes[0].rings.poll_count == IN_FLIGHT_POLLS &&
		!outcomes[0].rings.lost_count,
	    "... and submitted again");
	ok(ask(target, reap_so_many, 1) == 1, "... that which was due meanwhile fires, no other");
	for (int i = 1; i < IN_FLIGHT_POLLS; i++)
		eventfd_write(poll_fds[i], 1);
	ok(ask(target, reap_so_many, IN_FLIGHT_POLLS) == 1 && ask(target, polls_have_fired, 0) == 1,
	    "... then the others, each once");
	for (int i = 0; i < IN_FLIGHT_POLLS; i++)
		eventfd_read(poll_fds[i], &value);
}

static void drain_direct(struct target *target, long opcode, const char *name)
{
	const unsigned rounds = 1 + effort(4);
	size_t drained = 0;
	int is_right = 1;
	eventfd_t value;

	for (unsigned i = 0; i < rounds && is_right; i++) {
		ask(target, submit_polls, 0);
		ask(target, submit_direct, opcode);
		is_right = !stage_all(target, 1) && outcomes[0].rings.pending == DIRECT &&
			   outcomes[0].rings.poll_count == IN_FLIGHT_POLLS;
		drained += outcomes[0].rings.drained;
		is_right &= !restore_all(target, 1) && outcomes[0].rings.pending == DIRECT;
		is_right &=
		    ask(target, reap_so_many, DIRECT) == 1 &&
		    ask(target, direct_has_come, opcode == IOCB_CMD_FSYNC ? 0 : DIRECT_BYTES) == 1;
		for (int j = 0; j < IN_FLIGHT_POLLS; j++)
			eventfd_write(poll_fds[j], 1);
		is_right &= ask(target, reap_so_many, DIRECT + IN_FLIGHT_POLLS) == 1 &&
			    ask(target, polls_have_fired, 0) == 1;
		for (int j = 0; j < IN_FLIGHT_POLLS; j++)
			eventfd_read(poll_fds[j], &value);
	}
	ok(is_right, "%s: %u times %d of them and %d polls, each with one event", name, rounds,
	    DIRECT, IN_FLIGHT_POLLS);
	diag("%s: %zu met in flight", name, drained);
}

static void test_flight(void)
{
	struct target target;

	for (int i = 0; i < IN_FLIGHT_POLLS; i++)
		poll_fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	make_target(&target);
	if (begin_target(&target, run_flight)) {
		drain_polls(&target);
		if (ask(&target, has_direct, 0) == 1) {
			drain_direct(&target, IOCB_CMD_PWRITE, "direct writes");
			drain_direct(&target, IOCB_CMD_FSYNC, "syncs");
			drain_direct(&target, IOCB_CMD_PREAD, "direct reads");
			ok(ask(&target, is_as_written, 0) == 1, "what is read is what was written");
		} else {
			skip("direct writes, syncs, direct reads",
			    "no file system here takes O_DIRECT");
		}
		ok(is_unseen(&target), "its parent has seen nothing");
	}
	end_target(&target);
}

int main(void)
{
	static const struct live_test tests[] = {
	    {"processes of a thread", test_singles},
	    {"8 threads", test_8_threads},
	    {"64 threads", test_64_threads},
	    {"staged", test_staged},
	    {"a copy of a capsule", test_copied},
	    {"no rings", test_no_rings},
	    {"some", test_some},
	    {"in flight", test_flight},
	};
	const char *given = getenv("SEED");

	seed = given ? strtoull(given, NULL, 0) : (uint64_t)now_ms() + (uint64_t)getpid();
	diag("SEED=%llu", (unsigned long long)seed);
	seed |= 1;
	return run_live_tests(tests, COUNT(tests));
}
