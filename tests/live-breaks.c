/* SPDX-License-Identifier: MIT */
/*
 * Waits that something has come between, or comes between, when their process is staged: events that
 * io_getevents has taken already, signals, requests that io_submit itself waits for.
 */
#include "kinds.h"

/* ---- events that are taken already ---- */

/* Completes requests, one after the other, until none is admitted; the data of their events count on. */
static long complete_more(struct wait *wait, long count)
{
	struct iocb iocb, *iocbs[1] = {&iocb};

	for (; count > 0; count--) {
		iocb_null_read(&iocb, silent[0], DATA + (uint64_t)wait->done);
		if (submit_somewhere(wait->ctx, iocbs) != 1)
			break;
		wait->done++;
	}
	return wait->done;
}

/* A ring whose next event lands in that slot (negative: of the last ones), and events that are there. */
static void prepare_events(struct wait *wait)
{
	wait->ctx = new_ring(1);
	run_through(wait->ctx, wait->start < 0 ? ring_of(wait->ctx)->nr - (uint32_t)-wait->start
					       : (uint32_t)wait->start);
	complete_more(wait, wait->before);
}

/* What is in the ring, behind what the wait has given. */
static long reap_rest(struct wait *wait, long from)
{
	return io_getevents(wait->ctx, MOST_EVENTS - from, &wait->events[from]);
}

static long in_getevents_of_some(struct wait *wait)
{
	return result(
	    syscall(SYS_io_getevents, wait->ctx, wait->min, (long)MOST_EVENTS, wait->events, NULL));
}

static long in_getevents_of_some_with_limit(struct wait *wait)
{
	struct timespec limit = hour_ns;

	return result(syscall(
	    SYS_io_getevents, wait->ctx, wait->min, (long)MOST_EVENTS, wait->events, &limit));
}

static long in_pgetevents_of_some(struct wait *wait)
{
	return pgetevents(wait, wait->min, MOST_EVENTS);
}

#define OF_SOME(name, in)                                                                          \
	{                                                                                          \
		name, NULL, prepare_events, in, NULL, NULL, 4                                      \
	}

static const struct kind of_some[] = {
    OF_SOME("io_getevents of four", in_getevents_of_some),
    OF_SOME("io_pgetevents of four", in_pgetevents_of_some),
    OF_SOME("io_getevents of four with a time limit", in_getevents_of_some_with_limit),
};

#define WITHOUT_LIMIT 2 /* of them */

static struct wait *add_events(const struct kind *kind, int start, int before)
{
	struct wait *wait = add_wait(kind);

	wait->start = start;
	wait->before = before;
	wait->min = kind->right;
	return wait;
}

/* Whether the first `count` events are those that completed first, in their order. */
static int are_in_order(const struct wait *wait, long count)
{
	for (long i = 0; i < count; i++)
		if (wait->events[i].data != DATA + (uint64_t)i || wait->events[i].res) {
			diag("%s: event %ld is 0x%llx", wait->kind->name, i,
			    (unsigned long long)wait->events[i].data);
			return 0;
		}
	return 1;
}

/* Whether it has given the first events, and all others are in the ring, once. */
static int has_all(struct wait *wait)
{
	long rest = ask(reap_rest, wait, wait->result);

	if (rest < 0 || wait->result + rest != wait->done)
		diag("%s: %ld events and %ld more, of %d", wait->kind->name, wait->result, rest,
		    wait->done);
	return wait->result + rest == wait->done && are_in_order(wait, wait->done);
}

static const int starts[] = {0, -1, -3, -4};

/* Completed before the wait began, and while it waits: together never enough. */
static const struct {
	int before, within;
} taken[] = {{2, 0}, {0, 2}, {1, 1}, {2, 1}, {3, 0}};

/* Each of these waits has taken some of its events when it is stopped. */
static void add_all_events(size_t kinds_used, const struct kind *kinds)
{
	for (size_t i = 0; i < kinds_used; i++)
		for (size_t j = 0; j < COUNT(starts); j++)
			for (size_t k = 0; k < COUNT(taken); k++)
				add_events(&kinds[i], starts[j], taken[k].before);
}

static int complete_within(void)
{
	for (unsigned i = 0; i < wait_count; i++) {
		int more = taken[i % COUNT(taken)].within;

		if (ask(complete_more, &waits[i], more) != waits[i].before + more)
			return 0;
	}
	return settle();
}

/* One more than there must be: it stays in the ring, or is given too. */
static void complete_rest(void)
{
	for (unsigned i = 0; i < wait_count; i++)
		if (ask(complete_more, &waits[i], waits[i].min - waits[i].done) != waits[i].min)
			ok(0, "the remaining requests complete");
}

static void test_taken(void)
{
	const char *name = "waits for four events, of which there are some";
	int right = 1, alone = 1;

	add_all_events(WITHOUT_LIMIT, of_some);
	if (!start_target(name))
		return;
	ok(complete_within(), "%s: they wait", name);
	ok(!there_and_back() && all_wait(), "%s: staged and restored, they wait", name);
	ok(!there_and_back() && all_wait(), "%s: ... once more", name);
	complete_rest();
	for (unsigned i = 0; i < wait_count; i++) {
		right &= comes_back(&waits[i], 4) && are_in_order(&waits[i], 4);
		alone &= !ask(reap_rest, &waits[i], 4);
	}
	ok(right, "%s: each gets all four in their order", name);
	ok(alone, "%s: ... and no event twice", name);
	check_rings(name);
	end_target();
}

static void test_taken_held(void)
{
	is_held_by_tool = 1;
	test_taken();
}

/* These may come back with what they had: their time could have run out. */
static void test_taken_with_limit(void)
{
	const char *name = "waits for four events with a time limit";
	int right = 1;

	add_all_events(1, &of_some[WITHOUT_LIMIT]);
	if (!start_target(name))
		return;
	ok(complete_within(), "%s: they wait", name);
	ok(!there_and_back(), "%s: staged and restored", name);
	ok(!there_and_back(), "%s: ... once more", name);
	complete_rest();
	for (unsigned i = 0; i < wait_count; i++)
		right &= comes_back(&waits[i], waits[i].result) && waits[i].result >= 0 &&
			 has_all(&waits[i]);
	ok(right, "%s: each event comes once, in order", name);
	end_target();
}

/*
 * A wait that has taken some, and behind them the ring is full: they do not fit in front of the others. No
 * event may be lost. It waits for more than the ring holds: only a signal ends it, or that it was stopped.
 */
static void test_no_room(void)
{
	const char *name = "a wait for more events than the ring holds";
	struct wait *wait = add_events(&of_some[0], -2, 4);

	wait->min = MOST_EVENTS;
	if (!start_target(name))
		return;
	ok(ask(complete_more, wait, MOST_EVENTS / 2) > 4 && settle(), "%s: the ring is full", name);
	diag("%d events", wait->done);
	ok(!there_and_back() && settle(), "%s: staged and restored", name);
	if (!wait->is_back)
		signal_it(wait, SIGUSR1);
	ok(eventually(wait->is_back) && (wait->result > 0 || wait->result == -EINTR),
	    "%s: it ends with %ld", name, wait->result);
	if (wait->result < 0)
		wait->result = 0;
	ok(has_all(wait), "%s: each event comes once, in order", name);
	end_target();
}

/* Two threads wait on one ring, and each has taken some events. Neither takes more than four. */
static long in_getevents_of_four(struct wait *wait)
{
	return result(syscall(SYS_io_getevents, wait->ctx, 4L, 4L, wait->events, NULL));
}

static void prepare_same_ring(struct wait *wait)
{
	wait->ctx = waits[0].ctx;
}

static int count_event(unsigned char *seen, const struct aio_slot *event, long of)
{
	uint64_t i = event->data - DATA;

	return i < (uint64_t)of && !seen[i]++;
}

static void test_two(void)
{
	static const struct kind first = OF_SOME("one of four", in_getevents_of_four),
				 second = {"the other", NULL, prepare_same_ring,
				     in_getevents_of_four, NULL, NULL, 4};
	const char *name = "two waits for four events in one ring";
	unsigned char seen[8] = {0};
	int once = 1;

	add_events(&first, -3, 2);
	add_events(&second, 0, 0);
	if (!start_target(name))
		return;
	ok(ask(complete_more, &waits[0], 1) == 3 && settle(), "%s: they wait", name);
	ok(!there_and_back() && all_wait(), "%s: staged and restored, they wait", name);
	ask(complete_more, &waits[0], 5);
	for (int i = 0; i < 2; i++) {
		once &= comes_back(&waits[i], 4);
		for (int j = 0; j < 4; j++)
			once &= count_event(seen, &waits[i].events[j], 8);
	}
	ok(once && !ask(reap_rest, &waits[0], 4), "%s: each event comes once", name);
	end_target();
}

/* A handler runs before it waits again: it comes back, and nothing is lost. */
static void test_taken_and_signal(void)
{
	const char *name = "waits for four events, and a signal";
	int right = 1;

	add_all_events(COUNT(of_some), of_some);
	if (!start_target(name))
		return;
	ok(complete_within() && !stage_target(), "%s: staged", name);
	for (unsigned i = 0; i < wait_count; i++)
		signal_it(&waits[i], SIGUSR1);
	ok(!restore_target(), "%s: restored", name);
	for (unsigned i = 0; i < wait_count; i++) {
		struct wait *wait = &waits[i];

		right &= eventually(wait->is_back) && wait->handled == 1 &&
			 (wait->result == -EINTR || wait->result > 0);
		if (!right)
			diag("%s: %ld, %d signals", wait->kind->name, wait->result, wait->handled);
		if (wait->result == -EINTR)
			wait->result = 0;
		right &= has_all(wait);
	}
	ok(right, "%s: each ends, its handler has run once, and each event comes once", name);
	end_target();
}

/* ---- signals ---- */

/* How a wait goes on when a signal has come: whether it is back, and with what. */
struct end {
	int is_back, handled;
	long result;
};

/* Until it is back, or has had its handler called and waits again. */
static struct end end_of(const struct wait *wait)
{
	eventually(wait->is_back || (wait->handled && is_waiting(wait)));
	return (struct end){wait->is_back, wait->handled, wait->is_back ? wait->result : 0};
}

/* A thread in each kind of wait, whose signals have that handler. */
static int start_all(const char *name, int flags)
{
	for (size_t i = 0; i < COUNT(kinds); i++) {
		struct wait *wait = add_wait(&kinds[i]);

		if (wait)
			wait->flags = flags;
	}
	return start_target(name);
}

static void signal_all(int signal)
{
	for (unsigned i = 0; i < wait_count; i++)
		signal_it(&waits[i], signal);
}

/* What happens to each wait in a process that nobody stages. */
static int learn_ends(struct end *ends, int flags)
{
	if (!start_all("a process that is not staged", flags))
		return 0;
	signal_all(SIGUSR1);
	for (unsigned i = 0; i < wait_count; i++)
		ends[i] = end_of(&waits[i]);
	end_target();
	return 1;
}

static void check_end(struct wait *wait, const struct end *right, const char *flags)
{
	struct end end = end_of(wait);

	if (!ok(end.is_back == right->is_back && end.result == right->result && end.handled == 1,
		"a signal with a handler (%s) comes while %s is parked, which then %s", flags,
		wait->kind->name, right->is_back ? "ends" : "waits on"))
		diag("it %s, %ld, %d signals", end.is_back ? "ended" : "waits", end.result,
		    end.handled);
	if (end.is_back)
		return;
	wait->kind->end(wait);
	ok(comes_back(wait, wait->kind->right) && wait->handled == 1,
	    "... and then comes back with what it waited for");
}

static void test_handlers(int flags, const char *name)
{
	struct end ends[MOST_WAITS];

	if (!learn_ends(ends, flags) || !start_all(name, flags))
		return;
	ok(!stage_target(), "%s: staged", name);
	signal_all(SIGUSR1);
	ok(!restore_target(), "%s: restored", name);
	for (unsigned i = 0; i < wait_count; i++)
		check_end(&waits[i], &ends[i], name);
	check_rings(name);
	end_target();
}

static void test_handlers_that_restart(void)
{
	test_handlers(SA_RESTART, "SA_RESTART");
}

static void test_handlers_that_do_not(void)
{
	test_handlers(0, "no SA_RESTART");
}

/* The signal is on its way when the process is stopped: as if it had not been staged. */
static void test_handlers_before(void)
{
	const char *name = "a signal with a handler comes in front of the stage";
	struct end ends[MOST_WAITS];

	if (!learn_ends(ends, SA_RESTART) || !start_all(name, SA_RESTART))
		return;
	signal_all(SIGUSR1);
	ok(!there_and_back(), "%s: staged and restored", name);
	for (unsigned i = 0; i < wait_count; i++)
		check_end(&waits[i], &ends[i], name);
	end_target();
}

static int is_pending(const struct wait *wait, int signal)
{
	return !!(strtoull(proc_line(wait->tid, "status", "SigPnd:"), NULL, 16) & bit(signal));
}

static void test_blocked(void)
{
	const char *name = "a signal that is blocked";
	int is_there = 1;

	if (!start_all(name, 0))
		return;
	ok(!stage_target(), "%s: staged", name);
	signal_all(BLOCKED);
	ok(!restore_target() && all_wait(), "%s comes while they are parked: they wait", name);
	for (unsigned i = 0; i < wait_count; i++)
		is_there &= is_pending(&waits[i], BLOCKED);
	ok(is_there, "%s: it is pending", name);
	ok(!there_and_back() && all_wait(), "%s is pending when they are staged: they wait", name);
	for (unsigned i = 0; i < wait_count; i++) {
		waits[i].kind->end(&waits[i]);
		ok(comes_back(&waits[i], waits[i].kind->right) &&
			waits[i].handled == (waits[i].kind->end == send_handled),
		    "%s: %s comes back with what it waited for", name, waits[i].kind->name);
	}
	end_target();
}

/* Calls that take a mask of signals. */
static const char *const masked[] = {
    "io_pgetevents", "epoll_pwait", "epoll_pwait2", "ppoll", "pselect", "sigsuspend"};

static int add_masked(uint64_t mask, uint64_t inside)
{
	for (size_t i = 0; i < COUNT(masked); i++) {
		const struct kind *kind = kind_named(masked[i]);
		struct wait *wait = kind ? add_wait(kind) : NULL;

		if (!wait)
			continue;
		wait->mask = mask;
		wait->inside = inside;
	}
	return start_target("waits that take a mask");
}

/* What such calls are for: a signal that is blocked but while they wait. */
static void test_mask_lets_in(void)
{
	if (!add_masked(bit(BLOCKED) | bit(SIGUSR2), bit(BLOCKED)))
		return;
	ok(!stage_target(), "waits that let a signal in: staged");
	signal_all(SIGUSR2);
	ok(!restore_target(), "... restored");
	for (unsigned i = 0; i < wait_count; i++)
		ok(comes_back(&waits[i], waits[i].kind->end == send_handled ? 1 : -EINTR) &&
			waits[i].handled == 1,
		    "%s lets in a signal that comes while it is parked", waits[i].kind->name);
	end_target();
}

/*
 * The other way round: a signal that is blocked only while they wait. It does not end them, and its handler
 * runs behind them; where sigsuspend is concerned, behind the handler that ends it.
 */
static void test_mask_keeps_out(void)
{
	if (!add_masked(bit(BLOCKED), bit(BLOCKED) | bit(SIGUSR2)))
		return;
	ok(!stage_target(), "waits that keep a signal out: staged");
	signal_all(SIGUSR2);
	ok(!restore_target() && all_wait(), "... restored, they wait");
	ok(!there_and_back() && all_wait(), "... and once more, with the signal pending");
	for (unsigned i = 0; i < wait_count; i++) {
		int is_suspended = waits[i].kind->end == send_handled;

		waits[i].kind->end(&waits[i]);
		ok(comes_back(&waits[i], is_suspended ? -EINTR : 1) &&
			waits[i].handled == 1 + is_suspended,
		    "%s keeps out a signal that comes while it is parked", waits[i].kind->name);
	}
	end_target();
}

/* ---- inside io_submit ---- */

/* A pipe knows no asynchronous read: io_submit waits, and an interruption would be its event. */
static long in_submit(struct wait *wait)
{
	struct iocb iocb;
	char byte = 0;

	iocb_null_read(&iocb, wait->fds[0], DATA);
	iocb.aio_buf = (uintptr_t)&byte;
	iocb.aio_nbytes = 1;
	if (submit_one(wait->ctx, &iocb) != 1 || io_getevents(wait->ctx, 4, wait->events) != 1)
		return -EPROTO;
	return is_right((long)wait->events[0].res, byte == 'x');
}

static void prepare_ring(struct wait *wait)
{
	wait->ctx = new_ring(1);
}

static const struct kind submits = {
    "io_submit", open_pipe, prepare_ring, in_submit, send_byte, NULL, 1};

/* Stages meanwhile. */
static void *stage_thread(void *staged)
{
	*(atomic_int *)staged = stage_target() ? -1 : 1;
	return NULL;
}

#define LATER_MS 300

static void test_submit(void)
{
	const char *name = "a thread waits inside io_submit";
	struct wait *other, *wait = add_wait(&submits);
	atomic_int staged = 0;
	pthread_t thread;

	other = add_wait(kind_named("io_getevents"));
	if (!start_target(name) || pthread_create(&thread, NULL, stage_thread, &staged))
		return;
	usleep(LATER_MS * 1000);
	ok(!staged && !wait->is_back, "%s: the stage waits for it", name);
	wait->kind->end(wait);
	pthread_join(thread, NULL);
	ok(staged == 1, "%s: staged when it is out", name);
	ok(!restore_target() && comes_back(wait, 1), "%s: restored, its event is right", name);
	other->kind->end(other);
	ok(comes_back(other, 1), "%s: another one waits on", name);
	end_target();
}

/* What it waits for is up to another thread of the same process, which must go on for that. */
static long helps(struct wait *wait)
{
	usleep(LATER_MS * 1000);
	send_byte(wait - 1);
	return 1;
}

static void test_submit_and_helper(void)
{
	static const struct kind helper = {"the other thread", NULL, NULL, helps, NULL, NULL, 1};
	const char *name = "a thread waits inside io_submit for another thread";
	struct wait *wait = add_wait(&submits);

	add_wait(&helper);
	if (!start_target(name))
		return;
	ok(!there_and_back(), "%s: staged and restored", name);
	ok(comes_back(wait, 1) && comes_back(wait + 1, 1), "%s: both come back", name);
	end_target();
}

static void (*const tests[])(void) = {
    test_taken,
    test_taken_held,
    test_taken_with_limit,
    test_no_room,
    test_two,
    test_taken_and_signal,
    test_handlers_that_restart,
    test_handlers_that_do_not,
    test_handlers_before,
    test_blocked,
    test_mask_lets_in,
    test_mask_keeps_out,
    test_submit,
    test_submit_and_helper,
};

int main(void)
{
	if (facts_start())
		return 1;
	for (size_t i = 0; i < COUNT(tests); i++)
		in_child("waits", tests[i]);
	return tap_end();
}
