/* SPDX-License-Identifier: MIT */
/*
 * Every system call of the stage blob fails in turn: the first, the second, until none is left to
 * fail. In front of the point of no return it must leave everything as it was, with requests still in
 * flight; behind it, succeed all the same. (Shortages and bad arguments: stage-failures.c.)
 */
#include <poll.h>

#include "stage.h"
#include "watch.h"

#define N 3
#define POLLS 4
#define READS 4
#define SYNCS 2
#define ALL (POLLS + READS + SYNCS)
#define READ_BYTES 65536u

static int pipes[POLLS][2], event_fds[POLLS];
static const unsigned counts[POLLS] = {0, 5, 2, 0}; /* of the eventfds; the first is not used */
static struct aior_table *capsule;
static unsigned direct; /* reads: none where no file system takes O_DIRECT */

static void submit_polls(void)
{
	for (unsigned i = 0; i < POLLS; i++) {
		new_pipe(pipes[i]);
		event_fds[i] =
		    eventfd(counts[i], EFD_CLOEXEC | EFD_NONBLOCK | (i == 2 ? EFD_SEMAPHORE : 0));
		must_submit(
		    rings[i < 2 ? 0 : 2].addr, poll_iocb(i, pipes[i][0], i ? event_fds[i] : -1));
	}
}

static void submit_reads(void)
{
	char *buffer = map_guarded(READ_BYTES);
	int fd = open_direct(), synced = memfd_create("synced", MFD_CLOEXEC);

	direct = fd >= 0 && pwrite(fd, buffer, READ_BYTES, 0) == READ_BYTES ? READS : 0;
	for (unsigned i = POLLS; i < POLLS + direct + SYNCS; i++) {
		int is_sync = i >= POLLS + direct;
		struct iocb *iocb = &flight.iocbs[i];

		iocb_null_read(iocb, is_sync ? synced : fd, DATA + i);
		iocb->aio_lio_opcode = is_sync ? IOCB_CMD_FSYNC : IOCB_CMD_PREAD;
		iocb->aio_buf = is_sync ? 0 : (uintptr_t)buffer;
		iocb->aio_nbytes = is_sync ? 0 : READ_BYTES;
		must_submit(rings[is_sync ? 2 : 1].addr, iocb);
	}
}

/* Three rings of different sizes with nothing pending, so that what comes is what was in flight. */
static void set_up(void)
{
	set_up_stage(16 << 20);
	set_up_flight();
	capsule = map_guarded(sizeof(*capsule));
	capsule->state = AIOR_TABLE_PREPARED;
	make_live(0, smallest_len(), aio_ring_nr((uint32_t)smallest_len()) - 1, 0);
	make_live(1, smallest_len() + page, 8, 0);
	make_live(2, smallest_len() + 81920 / page * (uint64_t)page, 99, 0);
	if (watch(&stage_blob) < 0)
		_exit(RUN_NO_FILTER);
	start_supervisor();
	submit_polls();
	submit_reads();
}

static struct aior_args args_here(void)
{
	struct aior_args args = stage_args(N);

	args.capsule = (uintptr_t)capsule;
	return args;
}

/* What is read is put back. */
static const char *why_not_counted(unsigned more)
{
	for (unsigned i = 1; i < POLLS; i++) {
		uint64_t count = take_count(event_fds[i]);

		if (count && write(event_fds[i], &count, sizeof(count)) != sizeof(count))
			abort();
		if (count != counts[i] + more) {
			diag("eventfd %u counts %llu, not %u", i, (unsigned long long)count,
			    counts[i] + more);
			return "an eventfd";
		}
	}
	return NULL;
}

/* The rings are at home, live, with the same handles; nothing is left over. */
static const char *why_not_as_before(void)
{
	const char *why = state_differs(&before, &after, NULL, 0);

	for (uint32_t i = 0; i < N && !why; i++) {
		const struct aio_ring *ring = ring_of(rings[i].addr);
		const struct aio_ring *old = (const struct aio_ring *)was[i].copy;

		if (rings[i].flags || rings[i].aside)
			return "a record's results";
		if (!is_handle(rings[i].addr))
			return "a ring is no handle any more";
		if (ring->id != old->id || ring->nr != old->nr || ring->head != old->head)
			return "a header";
	}
	if (!why && (capsule->state != AIOR_TABLE_PREPARED || capsule->poll_count))
		return "the capsule";
	if (!why && has_child())
		return "a child is left";
	return why ? why : why_not_counted(0);
}

static const char *why_not_staged_well(const struct aior_args *args, int is_closed)
{
	const char *why = state_differs(&before, &after, rings, N);

	if (why && !(is_closed && !strcmp(why, "the descriptors")))
		return why;
	why = NULL;
	for (uint32_t i = 0; i < N && !why; i++)
		why = why_not_plain(i);
	if (!why && (args->poll_count != POLLS || capsule->poll_count != POLLS ||
			capsule->state != AIOR_TABLE_STAGED))
		return "the polls";
	if (!why && has_child())
		return "a child is left";
	return why ? why : why_not_counted(0);
}

/* Each request that was in flight gives one event in the end, its own, and the rings work. */
static const char *why_not_delivered(void)
{
	const unsigned reads = POLLS + direct, all = reads + SYNCS;

	for (unsigned i = 0; i < POLLS; i++)
		fire(pipes[i]);
	for (int ms = 0; ms < PATIENCE_MS && flight.total < all; ms++, tick())
		for (uint32_t i = 0; i < N; i++)
			reap(rings[i].addr);
	if (flight.total != all || flight.strangers || !have_fired(0, POLLS) ||
	    !have_come(POLLS, reads, READ_BYTES) || !have_come(reads, all, 0))
		return "an event";
	for (uint32_t i = 0; i < N; i++)
		if (!works(rings[i].addr))
			return "a ring does not work";
	return why_not_counted(1);
}

/* Once more, with nothing failing; and back. */
static const char *why_not_next(void)
{
	struct aior_args args = args_here(), restored;
	const char *why = call_stage(&args);

	return why ? why : call_restore(&args, &restored);
}

/* EFAULT of an iocb says that it is not there any more: what it was cannot be told then. */
static int says_it_is_gone(int err)
{
	return faults.nr == __NR_process_vm_readv && err == EFAULT;
}

/* Even calls that have failed are made again, the others are not. */
static int run(int nth, int err, int forever)
{
	struct aior_args args, restored;
	const char *why = NULL;
	int ret, is_past;

	set_up();
	args = args_here();
	faults.nth = nth;
	faults.err = err;
	faults.forever = forever;
	state_take(&before);
	ret = call(&stage_blob, &args);
	state_take(&after);
	faults.nth = faults.forever = 0;
	if (faults.calls < nth)
		return RUN_NO_CALL;
	if (faults.has_none)
		return RUN_NO_ERRNO;
	err = faults.err;
	is_past = capsule->state != AIOR_TABLE_PREPARED;
	if (!ret && says_it_is_gone(err))
		return RUN_SUCCEEDED;
	if (!ret)
		why = why_not_staged_well(&args, faults.nr == __NR_close);
	else if (is_past)
		why = "it fails behind the point of no return";
	else if (ret != -(int)args.err || args.step == AIOR_STEP_NONE ||
		 args.step >= AIOR_STEP_DONE)
		why = "the results";
	else
		why = why_not_as_before();
	if (!why && !ret)
		why = call_restore(&args, &restored);
	else if (!why && nth % 2 == 0)
		why = why_not_next();
	if (!why)
		why = why_not_delivered();
	if (why)
		diag("call %d (number %ld) fails with %s: errno %u, step %u, ring %d%s: %s", nth,
		    faults.nr, strerror(err), args.err, args.step, (int)args.ring,
		    is_past ? ", past the point of no return" : "", why);
	return why ? RUN_BROKE : ret ? RUN_FAILED : RUN_SUCCEEDED;
}

/* ---- when so much fails that not all can be undone ---- */

static void stop_at_no_return(const struct seccomp_data *call)
{
	(void)call;
	if (capsule->state != AIOR_TABLE_PREPARED)
		faults.forever = 0;
}

/* Each ring still lives where its record says, with all that is in flight. */
static int run_on(int nth, int err, int further)
{
	struct aior_args args, restored;
	const char *why = NULL;
	int ret;

	set_up();
	args = args_here();
	faults.nth = nth;
	faults.err = err;
	faults.forever = further;
	faults.before_call = stop_at_no_return;
	ret = call(&stage_blob, &args);
	faults.nth = faults.forever = 0;
	if (faults.calls < nth || (!ret && capsule->state != AIOR_TABLE_STAGED))
		return faults.calls < nth ? RUN_NO_CALL : RUN_BROKE;
	if (!ret) {
		why = call_restore(&args, &restored);
	} else {
		if (capsule->state != AIOR_TABLE_PREPARED)
			why = "it fails behind the point of no return";
		for (uint32_t i = 0; i < N && !why; i++) {
			if (rings[i].aside)
				rings[i].addr = rings[i].aside;
			if (!is_handle(rings[i].addr))
				why = "a ring is not where its record says";
		}
	}
	if (!why)
		why = why_not_delivered();
	if (why)
		diag("call %d (number %ld) fails, and all from %d on: %s", nth, faults.nr,
		    nth + further, why);
	return why ? RUN_BROKE : ret && rings[2].aside ? RUN_SUCCEEDED : RUN_FAILED;
}

/* How often a ring had to be left aside. */
static unsigned aside;

static void test_all_from(int further)
{
	struct outcome outcome = fail_each(run_on, ENOMEM, further);

	if (outcome.count[RUN_NO_FILTER]) {
		skip("all fail from somewhere on", "no seccomp user notification here");
		return;
	}
	aside += outcome.count[RUN_SUCCEEDED];
	ok(!outcome.crashed && !outcome.count[RUN_BROKE] && outcome.count[RUN_FAILED],
	    "ENOMEM in the n-th call, and in all from %d further on: no ring is lost", further);
}

/* ---- what a filter refuses always ---- */

static long refused;
static unsigned clones;

static void refuse(const struct seccomp_data *call)
{
	clones += call->nr == __NR_clone;
	if (call->nr == refused)
		faults.nth = faults.calls + 1;
}

/* With that call refused each time, and that many helpers at most. */
static int run_refused(struct aior_args *args, long nr, uint32_t helpers)
{
	int ret;

	set_up();
	*args = args_here();
	args->helpers = helpers;
	refused = nr;
	clones = 0;
	faults.err = EPERM;
	faults.before_call = refuse;
	state_take(&before);
	ret = call(&stage_blob, args);
	state_take(&after);
	faults.before_call = NULL;
	faults.nth = 0;
	return ret;
}

/* It is found out in time. */
static void test_no_destroy(void)
{
	struct aior_args args;
	int ret = run_refused(&args, __NR_io_destroy, 0);
	const char *why =
	    ret == -EPERM && args.step == AIOR_STEP_DRAIN ? why_not_as_before() : "the results";

	if (!why)
		why = why_not_delivered();
	ok(!why, "io_destroy is refused: %s", why ? why : "the stage fails, and all is as it was");
}

/* Slower, and nothing else; and no helper is started that could not be waited for. */
static void stage_without(const char *name, long nr, uint32_t helpers, unsigned expected)
{
	struct aior_args args, restored;
	int ret = run_refused(&args, nr, helpers);
	const char *why = ret ? "the results" : why_not_staged_well(&args, 0);

	if (!why && clones != expected)
		why = "the number of helpers";
	if (!why)
		why = call_restore(&args, &restored);
	if (!why)
		why = why_not_delivered();
	ok(!why, "%s: %s, %u calls of clone", name, or_so(why), clones);
}

static void test_no_clone(void)
{
	stage_without("clone is refused", __NR_clone, 0, 1);
}

static void test_no_wait(void)
{
	stage_without("wait4 is refused", __NR_wait4, 0, 0);
}

static void test_as_needed(void)
{
	stage_without("helpers as needed", -1, 0, N);
}

static void test_one_helper(void)
{
	stage_without("one helper at most", -1, 1, 1);
}

/* In a child, whose status says when there is no seccomp: set_up() ends it then. */
static void in_filtered_child(const char *name, void (*test)(void))
{
	pid_t pid = fork_mortal();
	int status = -1;

	if (!pid) {
		test();
		fflush(stdout);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	if (status == RUN_NO_FILTER << 8)
		skip(name, "no seccomp user notification here");
	else if (status)
		ok(0, "%s: status 0x%x", name, (unsigned)status);
}

/* ---- the events that come with the drain ---- */

#define PAIRS 6

/*
 * What completes between the move and the drain, made by the supervisor: reads of one byte, and,
 * between them, reads of nothing whose iocbs are polls afterwards, as cancelled polls look. So their
 * order is known.
 */
static struct {
	int ready[2];
	char bytes[2 * PAIRS];
	uint32_t state, at_drain;
	long taken;
} racer;

static void complete_aside(const struct seccomp_data *call)
{
	struct iocb *iocbs[2 * PAIRS];

	if (call->nr == __NR_io_destroy && call->args[0] && !racer.at_drain)
		racer.at_drain = capsule->state;
	if (call->nr != __NR_io_destroy || call->args[0] || racer.taken)
		return;
	racer.state = capsule->state;
	for (unsigned i = 0; i < 2 * PAIRS; i++) {
		iocbs[i] = &flight.iocbs[i];
		iocb_null_read(iocbs[i], racer.ready[0], DATA + i);
		iocbs[i]->aio_buf = (uintptr_t)&racer.bytes[i];
		iocbs[i]->aio_nbytes = i & 1;
	}
	racer.taken = io_submit(rings[0].aside, 2 * PAIRS, iocbs);
	for (unsigned i = 0; i < 2 * PAIRS; i += 2)
		iocb_poll(iocbs[i], silent[0], POLLIN, DATA + i);
}

/* What is left of them: the reads of a byte, in order; the others are remembered as polls. */
static const char *why_not_compacted(const struct aior_args *args)
{
	uint32_t slot = was[0].tail;

	if (args->poll_count != PAIRS)
		return "the number of polls";
	for (unsigned i = 1; i < 2 * PAIRS; i += 2) {
		const struct aio_slot *event = &slots_of(ring_of(rings[0].addr))[slot];

		if (event->data != DATA + i || event->obj != (uintptr_t)&flight.iocbs[i] ||
		    event->res != 1 || event->res2)
			return "an event, or its place";
		if (polls[i / 2].data != DATA + i - 1 || polls[i / 2].ring != rings[0].addr)
			return "a poll";
		slot = aio_ring_next(slot, was[0].nr);
	}
	if (rings[0].tail != slot || rings[0].head != was[0].head)
		return "head and tail";
	return memcmp(&slots_of(ring_of(rings[0].addr))[was[0].head],
		   &slots_of(was[0].copy)[was[0].head], AIO_RING_SLOT)
		   ? "what was pending"
		   : NULL;
}

/* With the tail there; in a child, since a filter stays. */
static void compact(uint32_t tail)
{
	struct aior_args args, restored;
	const char *why;

	set_up_stage(16 << 20);
	set_up_flight();
	capsule = map_guarded(sizeof(*capsule));
	capsule->state = AIOR_TABLE_PREPARED;
	new_pipe(racer.ready);
	if (write(racer.ready[1], "0123456789ab", 12) != 12)
		abort();
	make_live(0, smallest_len(), tail - 4, 4);
	make_live(1, smallest_len(), 0, 0);
	if (watch(&stage_blob) < 0) {
		skip("polls between other events", "no seccomp user notification here");
		return;
	}
	faults.before_call = complete_aside;
	start_supervisor();
	args = stage_args(2);
	args.capsule = (uintptr_t)capsule;
	why = call_stage(&args);
	if (!why && racer.taken != 2 * PAIRS)
		why = "what should complete meanwhile";
	if (!why)
		why = why_not_compacted(&args);
	ok(!why, "polls are taken out from between other events, the tail at %u: %s", tail,
	    why ? why : "those keep their order");
	ok(racer.state == AIOR_TABLE_PREPARED && racer.at_drain == AIOR_TABLE_DRAINING &&
		capsule->state == AIOR_TABLE_STAGED,
	    "... the capsule says when there is no way back");
	why = call_restore(&args, &restored);
	ok(!why && !restored.polls_lost && ring_of(rings[0].addr)->tail == rings[0].tail,
	    "... and they are submitted again: %s", or_so(why));
}

static void test_compacted(void)
{
	uint32_t nr = aio_ring_nr((uint32_t)smallest_len());
	const uint32_t tails[] = {nr - 3, 5, nr - 1, nr - 8};

	for (size_t i = 0; i < COUNT(tails); i++) {
		pid_t pid = fork_mortal();
		int status = -1;

		if (!pid) {
			compact(tails[i]);
			fflush(stdout);
			_exit(0);
		}
		if (waitpid(pid, &status, 0) != pid || status)
			ok(0, "polls between other events: status 0x%x", (unsigned)status);
	}
}

static void test_errno(int err)
{
	struct outcome outcome = fail_each(run, err, 0);
	const unsigned *count = outcome.count;

	if (count[RUN_NO_FILTER]) {
		skip(strerror(err), "no seccomp user notification here");
		return;
	}
	ok(!count[RUN_BROKE] && !outcome.crashed && count[RUN_FAILED] > 20 &&
		count[RUN_SUCCEEDED] > 10 && count[RUN_NO_CALL],
	    "%s: %u calls fail in turn; %u times all is as it was, %u times it succeeds, %u times "
	    "neither, %u crashes",
	    strerror(err), count[RUN_FAILED] + count[RUN_BROKE] + count[RUN_SUCCEEDED],
	    count[RUN_FAILED], count[RUN_SUCCEEDED], count[RUN_BROKE], outcome.crashed);
}

int main(void)
{
	const int errors[] = {ENOMEM, EPERM, EAGAIN, EINVAL, EMFILE, ENOSYS, EINTR, EFAULT};
	long nr = stage_test_start();

	for (size_t i = 0; i < effort(COUNT(errors)); i++)
		test_errno(errors[i]);
	fail_in_all_ways(run);
	for (int further = 1; further <= (int)effort(12); further++)
		test_all_from(further);
	ok(aside, "%u times a ring had to stay aside", aside);
	in_filtered_child("io_destroy is refused", test_no_destroy);
	in_filtered_child("clone is refused", test_no_clone);
	in_filtered_child("wait4 is refused", test_no_wait);
	in_filtered_child("helpers as needed", test_as_needed);
	in_filtered_child("one helper at most", test_one_helper);
	test_compacted();
	test_stack_of("stage", &stage_blob);
	return test_end(nr);
}
