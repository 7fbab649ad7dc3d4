/* SPDX-License-Identifier: MIT */
/*
 * Every system call of the restore blob fails in turn: the first, the second, until none is left
 * to fail. Each time it must either succeed all the same, or leave everything as it was; and the next
 * call, with nothing failing, must succeed. The same with rings that are laid out anew on the way (AIOR_F_COMPACT): of these
 * "as it was" means each event, in order.
 */
#include <poll.h>
#include <sys/eventfd.h>

#include "watch.h"

#define N 3
#define POLLS 4

static struct aior_ring_record *rings;
static struct aior_poll_record *polls;
static struct iocb *iocbs;
static struct staged staged[N];
static struct staged relaid[N]; /* what becomes of them: the same, or from slot 0 on */
static uint32_t flags;          /* of the calls */
static struct state before, after;
static int null_fd, pipes[POLLS][2], event_fds[POLLS];

/* Its pending events from slot 0 on, and no others. */
static void lay_out_anew(struct staged *to, const struct staged *from)
{
	struct aio_ring *header;
	uint32_t slot = from->head;

	*to = *from;
	if (!(flags & AIOR_F_COMPACT))
		return;
	to->copy = calloc(1, from->len);
	header = (struct aio_ring *)to->copy;
	memcpy(header, from->copy, AIO_RING_HEADER);
	to->head = header->head = 0;
	for (to->tail = 0; slot != from->tail; slot = aio_ring_next(slot, from->nr))
		slots_of(to->copy)[to->tail++] = slots_of(from->copy)[slot];
	header->tail = to->tail;
}

/* In place and elsewhere; one read-only; polls in flight, ready, and lost, with eventfds. */
static void set_up(void)
{
	rings = map_guarded(N * sizeof(*rings));
	polls = map_guarded(POLLS * sizeof(*polls));
	iocbs = map_guarded(POLLS * sizeof(*iocbs));
	state_prepare(&before);
	state_prepare(&after);
	arena_make(16 << 20);
	pin_to(0);
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (uint32_t i = 0; i < N; i++)
		stage(&rings[i], &staged[i],
		    aio_ring_len(1 + 60 * i, possible_cpus(), (uint32_t)blob.page), 110 - i,
		    20 + 40 * i, i == 1, i);
	for (uint32_t i = 0; i < N; i++)
		lay_out_anew(&relaid[i], &staged[i]);
	for (uint32_t i = 0; i < POLLS; i++) {
		if (pipe2(pipes[i], O_CLOEXEC | O_NONBLOCK))
			abort();
		event_fds[i] = eventfd(i, EFD_CLOEXEC | EFD_NONBLOCK);
		iocb_poll(&iocbs[i], pipes[i][0], POLLIN, i);
		iocbs[i].aio_flags = IOCB_FLAG_RESFD;
		iocbs[i].aio_resfd = (uint32_t)event_fds[i];
		polls[i] = (struct aior_poll_record){
		    .ring = rings[i / 2].addr, .iocb = (uintptr_t)&iocbs[i], .data = i};
	}
	if (write(pipes[1][1], "x", 1) != 1)
		abort();
	if (watch(&blob) < 0)
		_exit(RUN_NO_FILTER);
	close(pipes[3][0]);
	start_supervisor();
}

static int has_content(const struct aior_ring_record *ring, uint32_t i)
{
	return is_same_ring(ring, &staged[i]) || is_same_ring(ring, &relaid[i]);
}

static struct aior_args args_of_all(void)
{
	struct aior_args args = blob_args(rings, N, polls, POLLS);

	args.flags = flags;
	return args;
}

/* A ring that had moved already is staged again from its own content: free slots may be others. */
static const char *why_not_intact(int had_moved, uint64_t counts[POLLS])
{
	const char *why = state_differs(&before, &after, NULL, 0);

	for (uint32_t i = 0; i < N && !why; i++) {
		if (rings[i].flags)
			return "a ring is live";
		if (had_moved ? !has_content(&rings[i], i) : !is_intact(&rings[i], &staged[i]))
			return "the staged bytes";
	}
	for (uint32_t i = 0; i < POLLS && !why; i++) {
		if (read(event_fds[i], &counts[i], 8) != 8)
			counts[i] = 0;
		if (counts[i] != i) {
			diag("eventfd %u: %llu", i, (unsigned long long)counts[i]);
			return "an eventfd";
		}
		if (i && write(event_fds[i], &counts[i], 8) != 8)
			abort();
	}
	return why;
}

/*
 * A refused submission loses the poll, and says so; a lack of memory or slots must not. So does an iocb that is said
 * not to be mapped.
 */
static int may_lose_another(int err)
{
	if (faults.nr == __NR_process_vm_readv && err == EFAULT)
		return 1;
	return err && faults.nr == __NR_io_submit && err != EAGAIN && err != ENOMEM;
}

/* Pending events, and one more for each poll that was ready or lost. */
static const char *why_not_restored(const struct aior_args *args, int err)
{
	uint32_t lost = 0, completed[N] = {0};

	for (uint32_t i = 0; i < POLLS; i++) {
		int is_lost = polls[i].flags == AIOR_POLL_LOST;

		lost += is_lost;
		completed[i / 2] += is_lost || i == 1;
		if (is_lost != (i == 3) && !may_lose_another(err))
			return "a lost poll";
	}
	if (args->polls_lost != lost || polls[3].flags != AIOR_POLL_LOST || lost > 2)
		return "the lost polls";
	for (uint32_t i = 0; i < N; i++) {
		struct aio_ring *live = ring_of(rings[i].addr);
		uint32_t slot = relaid[i].head;

		if (rings[i].flags != AIOR_RING_LIVE || live->head != relaid[i].head ||
		    live->tail != (relaid[i].tail + completed[i]) % relaid[i].nr)
			return "a header";
		for (; slot != relaid[i].tail; slot = aio_ring_next(slot, relaid[i].nr))
			if (memcmp(&slots_of(live)[slot], &slots_of(relaid[i].copy)[slot], 32))
				return "an event";
	}
	return NULL;
}

/* When so much fails that not all can be undone, each ring's content still is where its record says. */
static const char *why_lost(void)
{
	for (uint32_t i = 0; i < N; i++) {
		struct aior_ring_record at = rings[i];

		if (at.flags & AIOR_RING_LIVE) {
			struct aio_ring *live = ring_of(at.addr);
			const struct aio_ring *was = (const struct aio_ring *)relaid[i].copy;

			/* Polls may have completed in it. */
			live->id = was->id;
			live->tail = was->tail;
			at.staged = at.addr;
		}
		if (!has_content(&at, i))
			return "a ring's content is lost";
	}
	return NULL;
}

static int run(int nth, int err, int forever)
{
	struct aior_ring_record fresh[N];
	struct aior_args args;
	const char *why = NULL;
	uint64_t counts[POLLS];
	int ret;

	set_up();
	memcpy(fresh, rings, sizeof(fresh));
	args = args_of_all();
	faults.nth = nth;
	faults.err = err;
	faults.forever = forever;
	state_take(&before);
	ret = blob_call(&args);
	state_take(&after);
	faults.nth = 0;
	faults.forever = 0;
	if (faults.calls < nth)
		return RUN_NO_CALL;
	if (faults.has_none)
		return RUN_NO_ERRNO;
	err = faults.err;
	if (forever) {
		why = ret ? why_lost() : NULL;
		if (why)
			diag("call %d fails, and all from %d on: %s", nth, nth + forever, why);
		if (why)
			return RUN_BROKE;
		return rings[1].staged == rings[1].addr ? RUN_FAILED : RUN_SUCCEEDED;
	}
	if (!ret) {
		why = why_not_restored(&args, err);
		if (!why)
			return RUN_SUCCEEDED;
	} else if (ret != -(int)args.err || args.step == AIOR_STEP_NONE ||
		   args.step >= AIOR_STEP_DONE) {
		why = "the results";
	} else {
		why = why_not_intact(args.step == AIOR_STEP_MOVE, counts);
	}
	if (!why && ret) {
		args = args_of_all();
		if (blob_call(&args))
			why = "the next call fails";
		else
			why = why_not_restored(&args, 0);
	}
	if (why)
		diag("call %d (number %ld) fails with %s: errno %u, step %u, ring %d: %s", nth,
		    faults.nr, strerror(err), args.err, args.step, (int)args.ring, why);
	return why ? RUN_BROKE : RUN_FAILED;
}

/* How often a ring's content was left where it had been saved. */
static unsigned elsewhere;

static void test_errno(int err, int forever)
{
	struct outcome outcome = fail_each(run, err, forever);
	const unsigned *count = outcome.count;

	if (count[RUN_NO_FILTER]) {
		skip(strerror(err), "no seccomp user notification here");
		return;
	}
	if (forever) {
		elsewhere += count[RUN_SUCCEEDED];
		ok(!outcome.crashed && !count[RUN_BROKE] && count[RUN_FAILED],
		    "%s%s in the n-th call, and in all from %d further on: no content is lost",
		    flags ? "compact: " : "", strerror(err), forever);
	} else {
		ok(!count[RUN_BROKE] && !outcome.crashed && count[RUN_FAILED] && count[RUN_NO_CALL],
		    "%s%s: %u calls fail in turn; %u times all is as it was, %u times it succeeds, "
		    "%u times neither, %u crashes",
		    flags ? "compact: " : "", strerror(err),
		    count[RUN_FAILED] + count[RUN_BROKE] + count[RUN_SUCCEEDED], count[RUN_FAILED],
		    count[RUN_SUCCEEDED], count[RUN_BROKE], outcome.crashed);
	}
}

int main(void)
{
	const int errors[] = {ENOMEM, EPERM, EAGAIN, EMFILE, EINVAL, ENOSYS};
	/* Those first that leave a ring elsewhere. */
	const int further[] = {
	    12, 1, 13, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 15, 16, 17, 18, 19, 20};
	long nr = test_start();

	for (flags = 0;; flags = AIOR_F_COMPACT) {
		for (size_t i = 0; i < effort(sizeof(errors) / sizeof(errors[0])); i++)
			test_errno(errors[i], 0);
		fail_in_all_ways(run);
		for (size_t i = 0; i < effort(sizeof(further) / sizeof(further[0])); i++)
			test_errno(ENOMEM, further[i]);
		if (flags)
			break;
	}
	ok(elsewhere, "%u times a ring that had moved stays staged elsewhere", elsewhere);
	test_stack();
	return test_end(nr);
}
