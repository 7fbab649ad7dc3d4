/* SPDX-License-Identifier: MIT */
/*
 * A process is staged and restored while its threads wait, in every kind of call that waits: none of them
 * may tell, and each comes back with what it waited for.
 */
#include "kinds.h"

/* ---- each kind ---- */

/* Ends all waits; they come back when the target runs. */
static void end_waits(void)
{
	for (unsigned i = 0; i < wait_count; i++)
		waits[i].kind->end(&waits[i]);
}

static void check_results(const char *when)
{
	for (unsigned i = 0; i < wait_count; i++)
		ok(comes_back(&waits[i], waits[i].kind->right),
		    "%s comes back with what it waited for%s", waits[i].kind->name, when);
}

static void add_all(void)
{
	for (size_t i = 0; i < COUNT(kinds); i++)
		add_wait(&kinds[i]);
}

static void test_all(void)
{
	const char *name = "a thread in each kind of wait";

	add_all();
	if (!start_target(name))
		return;
	ok(!there_and_back() && all_wait(), "%s: staged and restored, they wait", name);
	ok(!there_and_back() && all_wait(), "%s: ... once more", name);
	ok(outcome.thread_count == wait_count + 1, "%s: %zu threads", name, outcome.thread_count);
	end_waits();
	check_results("");
	check_rings(name);
	end_target();
}

static void test_all_while_parked(void)
{
	const char *name = "a thread in each kind of wait, which end while it is parked";

	add_all();
	if (!start_target(name))
		return;
	if (ok(!stage_target(), "%s: staged", name)) {
		end_waits();
		ok(!restore_target(), "%s: restored", name);
		check_results(" while it was parked");
		check_rings(name);
	}
	end_target();
}

static void test_all_held(void)
{
	is_held_by_tool = 1;
	test_all();
	test_all_while_parked();
}

static const struct kind *kind;

/* The thread and the rings, alone. */
static void test_one(void)
{
	if (!add_wait(kind) || !start_target(kind->name))
		return;
	ok(!there_and_back() && all_wait(), "%s alone: it waits", kind->name);
	if (ok(!stage_target(), "%s alone: staged", kind->name)) {
		end_waits();
		ok(!restore_target(), "%s alone: restored", kind->name);
		check_results(", alone");
		check_rings(kind->name);
	}
	end_target();
}

/* ---- waits that end by themselves ---- */

static int open_timed_sockets(struct wait *wait)
{
	const struct timeval limit = {wait->time_ms / 1000, wait->time_ms % 1000 * 1000};

	return open_sockets(wait)
		   ? -1
		   : setsockopt(wait->fds[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

static void prepare_ring(struct wait *wait)
{
	wait->ctx = new_ring(1);
}

static struct timespec time_of(const struct wait *wait)
{
	return (struct timespec){wait->time_ms / 1000, wait->time_ms % 1000 * 1000000};
}

static long for_nanosleep(struct wait *wait)
{
	struct timespec time = time_of(wait);

	return result(nanosleep(&time, &time));
}

static long for_clock_nanosleep(struct wait *wait)
{
	struct timespec time = time_of(wait);

	return -clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
}

static long until_clock_nanosleep(struct wait *wait)
{
	struct timespec time = after_ms(wait->time_ms);

	return -clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

static long for_poll(struct wait *wait)
{
	return result(poll(NULL, 0, (int)wait->time_ms));
}

static long for_ppoll(struct wait *wait)
{
	struct timespec time = time_of(wait);

	return result(ppoll(NULL, 0, &time, mask_inside()));
}

static long for_select(struct wait *wait)
{
	struct timeval time = {wait->time_ms / 1000, wait->time_ms % 1000 * 1000};

	return result(select(0, NULL, NULL, NULL, &time));
}

static long for_pselect(struct wait *wait)
{
	struct timespec time = time_of(wait);

	return result(pselect(0, NULL, NULL, NULL, &time, mask_inside()));
}

static long for_futex(struct wait *wait)
{
	struct timespec time = time_of(wait);

	return result(syscall(SYS_futex, &wait->word, FUTEX_WAIT, 0, &time, NULL, 0));
}

static long until_futex(struct wait *wait)
{
	struct timespec time = after_ms(wait->time_ms);

	return result(syscall(
	    SYS_futex, &wait->word, FUTEX_WAIT_BITSET, 0, &time, NULL, FUTEX_BITSET_MATCH_ANY));
}

static long for_getevents(struct wait *wait)
{
	struct timespec time = time_of(wait);

	return result(syscall(SYS_io_getevents, wait->ctx, 1L, 4L, wait->events, &time));
}

static long for_epoll_pwait(struct wait *wait)
{
	struct epoll_event event;

	return result(epoll_pwait(wait->object, &event, 1, (int)wait->time_ms, mask_inside()));
}

static long for_sigtimedwait(struct wait *wait)
{
	const sigset_t set = to_set(bit(WAITED));
	struct timespec time = time_of(wait);

	return result(sigtimedwait(&set, NULL, &time));
}

static long for_semtimedop(struct wait *wait)
{
	struct sembuf take = {.sem_op = -1};
	struct timespec time = time_of(wait);

	return result(semtimedop(wait->object, &take, 1, &time));
}

#define TIMED(name, in, right)                                                                     \
	{                                                                                          \
		name, NULL, NULL, in, NULL, NULL, right                                            \
	}

/* Time goes on for these while they are parked. */
static const struct kind keeping_time[] = {
    TIMED("nanosleep", for_nanosleep, 0),
    TIMED("clock_nanosleep", for_clock_nanosleep, 0),
    TIMED("clock_nanosleep until a time", until_clock_nanosleep, 0),
    TIMED("poll of nothing", for_poll, 0),
    TIMED("futex that nobody wakes", for_futex, -ETIMEDOUT),
    TIMED("futex until a time, that nobody wakes", until_futex, -ETIMEDOUT),
    TIMED("ppoll of nothing", for_ppoll, 0),
    TIMED("select of nothing", for_select, 0),
    TIMED("pselect of nothing", for_pselect, 0),
};

/* Time starts anew for these. */
static const struct kind starting_anew[] = {
    {"io_getevents of nothing", NULL, prepare_ring, for_getevents, NULL, NULL, 0},
    {"epoll_pwait of nothing", open_epoll, NULL, for_epoll_pwait, NULL, close_object, 0},
    TIMED("sigtimedwait of nothing", for_sigtimedwait, -EAGAIN),
    {"semtimedop of nothing", ON_SEMAPHORE, for_semtimedop, NULL, close_semaphore, -EAGAIN},
    {"recv of nothing", open_timed_sockets, NULL, in_recv, NULL, NULL, -EAGAIN},
};

/* How time passes for a wait of the target. */
enum passing { GOES_ON, STARTS_ANEW };

static enum passing passing[MOST_WAITS];

static void add_times(enum passing how, const struct kind *kinds, size_t count, long ms)
{
	for (size_t i = 0; i < count; i++) {
		passing[wait_count] = how;
		add_timed_wait(&kinds[i], ms);
	}
}

static void sleep_until(int64_t ms)
{
	while (now_ms() < ms)
		tick();
}

/* When the target was staged, and restored for the first time. */
static struct {
	int64_t staged, restored;
} parked;

/*
 * Parks it when a third of the shorter waits is over, until they should have ended; and stages it once more
 * as soon as it is restored.
 */
static int park(long ms)
{
	int64_t begun = now_ms();

	sleep_until(begun + ms / 6);
	if (stage_target())
		return -1;
	parked.staged = now_ms();
	sleep_until(begun + ms * 7 / 10);
	parked.restored = now_ms();
	return restore_target() || there_and_back() ? -1 : 0;
}

/* When it would end at the earliest, if more time were left than is right. */
static int64_t limit_of(const struct wait *wait, enum passing how)
{
	if (how == STARTS_ANEW)
		return INT64_MAX;
	/* If time had stood still while it was parked. */
	return parked.restored + wait->time_ms - (parked.staged - wait->begun_ms);
}

static int are_in_time(void)
{
	int in_time = 1;

	for (unsigned i = 0; i < wait_count; i++) {
		const struct wait *wait = &waits[i];

		if (wait->ended_ms < limit_of(wait, passing[i]))
			continue;
		diag("%s for %ld ms took %lld, of them %lld behind the first restore",
		    wait->kind->name, wait->time_ms, (long long)(wait->ended_ms - wait->begun_ms),
		    (long long)(wait->ended_ms - parked.restored));
		in_time = 0;
	}
	return in_time;
}

/* Whether none ends early, and all with the right result. Milliseconds are cut off on both sides. */
static int are_right(void)
{
	int right = 1;

	for (unsigned i = 0; i < wait_count; i++) {
		const struct wait *wait = &waits[i];

		right &= comes_back(wait, wait->kind->right);
		if (wait->ended_ms - wait->begun_ms < wait->time_ms - 1) {
			diag("%s for %ld ms took %lld", wait->kind->name, wait->time_ms,
			    (long long)(wait->ended_ms - wait->begun_ms));
			right = 0;
		}
	}
	return right;
}

/* Returns whether all ended in time. */
static int park_waits_of(long ms)
{
	int in_time = 0;

	add_times(GOES_ON, keeping_time, COUNT(keeping_time), ms);
	add_times(GOES_ON, keeping_time, COUNT(keeping_time), ms / 2);
	add_times(STARTS_ANEW, starting_anew, COUNT(starting_anew), ms / 2);
	if (!start_target("waits for a time"))
		return 0;
	if (ok(!park(ms), "waits for %ld ms, and for %ld: staged, restored, and again", ms,
		ms / 2)) {
		ok(are_right(), "... none ends early, and all with the right result");
		in_time = are_in_time();
		check_rings("waits for a time");
	}
	end_target();
	return in_time;
}

/* On a slow machine all may be late; but what has too much time left is late however long it takes. */
static void test_times(void)
{
	int in_time = 0;

	for (long ms = 3000; ms <= 12000 && !in_time; ms *= 2)
		in_time = park_waits_of(ms);
	ok(in_time, "no wait has more time left than it should");
}

int main(void)
{
	const size_t step = COUNT(kinds) / effort(COUNT(kinds));

	if (facts_start())
		return 1;
	in_child("all", test_all);
	in_child("all, parked", test_all_while_parked);
	in_child("all, stopped by another tool", test_all_held);
	in_child("times", test_times);
	for (size_t i = 0; i < COUNT(kinds); i += step) {
		kind = &kinds[i];
		alarm(TAP_PATIENCE);
		in_child(kind->name, test_one);
	}
	return tap_end();
}
