/* SPDX-License-Identifier: MIT */
/*
 * Signals of a process that is parked, stopped, or hit by them all the time: none is lost, none comes twice, none
 * wakes who is parked, and its parent sees no more than it would without a stage.
 */
#include <sys/time.h>

#include "live.h"

#define ROUNDS (2 + effort(18))

/* Real-time signals that the main thread alone takes, and one that a worker takes. */
#define QUEUED_1 (SIGRTMIN + 1)
#define QUEUED_2 (SIGRTMIN + 2)
#define FOR_THREAD (SIGRTMIN + 3)
#define FOR_TIMER (SIGRTMIN + 4)

/* ---- targets ---- */

static void note_signal(int signal, siginfo_t *info, void *context)
{
	unsigned i = atomic_fetch_add(&own->received_count, 1);

	(void)context;
	if (i < RECEIVED)
		own->received[i] = (struct received){.signal = signal,
		    .code = info->si_code,
		    .pid = (int)info->si_pid,
		    .tid = (int)syscall(SYS_gettid),
		    .value = info->si_value.sival_int};
}

/* One handler at a time: so they note signals in the order in which these are taken. */
static void handle(int signal, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};

	sigfillset(&action.sa_mask);
	sigaction(signal, &action, NULL);
}

static void block(int how, int first, int last)
{
	sigset_t set;

	sigemptyset(&set);
	for (int signal = first; signal <= last; signal++)
		sigaddset(&set, signal);
	pthread_sigmask(how, &set, NULL);
}

static void run_handling(struct target *target)
{
	const int signals[] = {SIGUSR1, SIGUSR2, SIGTERM, SIGCONT, QUEUED_1, QUEUED_2, FOR_THREAD};

	for (size_t i = 0; i < COUNT(signals); i++)
		handle(signals[i], note_signal);
	make_rings();
	block(SIG_BLOCK, QUEUED_1, QUEUED_2);
	start_workers();
	block(SIG_UNBLOCK, QUEUED_1, QUEUED_2);
	serve(target);
}

/* One in a computation, and one in each wait that a handler may interrupt. */
static int begin_handling(struct target *target)
{
	make_target(target);
	add_worker(target, INTEGERS);
	add_worker(target, READ);
	add_worker(target, FUTEX);
	return begin_target(target, run_handling) && settle_target(target);
}

static void end_handling(struct target *target)
{
	const char *why = ask_why(target, why_other_rings, 0);

	ok(!why, "... %s", why ? why : "its rings are exact");
	ok(goes_on(target), "... what computes goes on");
	why = end_workers(target);
	ok(!why, "... %s", why ? why : "its waits go on");
	end_target(target);
}

/* How many handlers were called for a signal that so looks. */
static unsigned count_received(
    const struct target *target, int signal, int code, int value, pid_t tid)
{
	const struct shared *shared = target->shared;
	unsigned count = 0;

	for (unsigned i = 0; i < shared->received_count && i < RECEIVED; i++) {
		const struct received *one = &shared->received[i];

		count += one->signal == signal && one->code == code && one->pid == getpid() &&
			 (code != SI_QUEUE || one->value == value) && (!tid || one->tid == tid);
	}
	return count;
}

/* So many in all, and no more. */
static int have_been_received(const struct target *target, unsigned count)
{
	int ret = eventually(target->shared->received_count >= count);

	usleep(20000);
	if (target->shared->received_count != count)
		diag("%u signals were received", target->shared->received_count);
	return ret && target->shared->received_count == count;
}

static void queue(pid_t pid, int signal, int value)
{
	if (sigqueue(pid, signal, (union sigval){.sival_int = value}))
		abort();
}

static void queue_to_thread(pid_t pid, pid_t tid, int signal, int value)
{
	siginfo_t info = {.si_code = SI_QUEUE};

	info.si_pid = getpid();
	info.si_uid = getuid();
	info.si_value.sival_int = value;
	if (syscall(SYS_rt_tgsigqueueinfo, pid, tid, signal, &info))
		abort();
}

/* ---- sent while parked ---- */

#define QUEUED 5

static unsigned send_all(const struct target *target)
{
	const struct worker *workers = target->shared->workers;

	kill(target->pid, SIGTERM);
	for (int i = 0; i < 3; i++)
		queue(target->pid, SIGUSR1, 0x51); /* pending already: once is enough */
	for (int i = 0; i < QUEUED; i++) {
		queue(target->pid, QUEUED_2, 0x200 + i);
		queue(target->pid, QUEUED_1, 0x100 + i);
	}
	syscall(SYS_tgkill, target->pid, workers[0].tid, SIGUSR2);
	queue_to_thread(target->pid, workers[1].tid, FOR_THREAD, 0x301);
	queue_to_thread(target->pid, workers[1].tid, FOR_THREAD, 0x302);
	kill(target->pid, SIGCONT);
	return 1 + 1 + 2 * QUEUED + 1 + 2 + 1;
}

static int are_in_order(const struct target *target, int signal, int first)
{
	const struct shared *shared = target->shared;

	for (unsigned i = 0; i < shared->received_count && i < RECEIVED; i++)
		if (shared->received[i].signal == signal && shared->received[i].value != first++)
			return 0;
	return 1;
}

static void check_received(const struct target *target)
{
	const struct worker *workers = target->shared->workers;
	int is_right = 1;

	ok(count_received(target, SIGTERM, SI_USER, 0, 0) == 1, "... SIGTERM from us");
	ok(count_received(target, SIGUSR1, SI_QUEUE, 0x51, 0) == 1, "... SIGUSR1, with its value");
	ok(count_received(target, SIGCONT, SI_USER, 0, 0) == 1, "... SIGCONT");
	ok(count_received(target, SIGUSR2, SI_TKILL, 0, workers[0].tid) == 1,
	    "... SIGUSR2 for one thread, there");
	for (int i = 0; i < QUEUED; i++)
		is_right &=
		    count_received(target, QUEUED_1, SI_QUEUE, 0x100 + i, target->pid) == 1 &&
		    count_received(target, QUEUED_2, SI_QUEUE, 0x200 + i, target->pid) == 1;
	ok(is_right, "... all that were queued, each once, with its value");
	ok(are_in_order(target, QUEUED_1, 0x100) && are_in_order(target, QUEUED_2, 0x200),
	    "... in order");
	ok(count_received(target, FOR_THREAD, SI_QUEUE, 0x301, workers[1].tid) == 1 &&
		count_received(target, FOR_THREAD, SI_QUEUE, 0x302, workers[1].tid) == 1 &&
		are_in_order(target, FOR_THREAD, 0x301),
	    "... what was queued for one thread, there");
}

static void test_parked(void)
{
	struct target target;
	const char *why;
	unsigned count;

	if (begin_handling(&target)) {
		ok(!stage_all(&target, 1), "it is staged");
		count = send_all(&target);
		ok(stands_still(&target) && !target.shared->received_count,
		    "signals sent while parked run nothing");
		why = why_not_parked(&target);
		ok(!why, "... %s", why ? why : "it is parked still");
		ok(!restore_all(&target, 1), "... and is restored");
		ok(have_been_received(&target, count), "... all come then, none twice");
		check_received(&target);
		ok(is_unseen(&target), "... its parent has seen nothing");
	}
	end_handling(&target);
}

/* The same signals again and again, in the middle of stage and restore. */
static void *send_often(void *data)
{
	const struct target *target = data;

	for (int i = 0; i < RECEIVED / 2; i++) {
		queue(target->pid, QUEUED_1, 0x100 + i);
		usleep(1000);
	}
	return NULL;
}

static void test_sent_meanwhile(void)
{
	struct target target;
	pthread_t thread;
	int are_done = 1;

	if (begin_handling(&target)) {
		if (pthread_create(&thread, NULL, send_often, &target))
			abort();
		for (int i = 0; i < 4; i++)
			are_done &= !stage_all(&target, 1) && !restore_all(&target, 1);
		pthread_join(thread, NULL);
		ok(are_done, "staged and restored while signals come in");
		ok(have_been_received(&target, RECEIVED / 2) &&
			are_in_order(&target, QUEUED_1, 0x100),
		    "... each is received once, in order");
		ok(is_unseen(&target), "... its parent has seen nothing");
	}
	end_handling(&target);
}

/* ---- pending and blocked at the stage ---- */

static long block_pending(long how)
{
	block((int)how, SIGUSR1, SIGUSR1);
	block((int)how, QUEUED_1, QUEUED_2);
	return 0;
}

/* SIGUSR1 is sent to the main thread, the queued signals to the process: nobody else takes them. */
static void test_pending(void)
{
	struct target target;
	char *before_it;
	int are_done = 1;

	if (begin_handling(&target)) {
		ask(&target, block_pending, SIG_BLOCK);
		queue_to_thread(target.pid, target.pid, SIGUSR1, 0x51);
		for (int i = 0; i < QUEUED; i++)
			queue(target.pid, QUEUED_1, 0x100 + i);
		settle_target(&target);
		before_it = look(target.pid);
		for (int i = 0; i < 3; i++)
			are_done &= !stage_all(&target, 1) && !restore_all(&target, 1);
		ok(are_done, "staged and restored with signals pending");
		ok(is_same_look(before_it, look(target.pid)), "... they are pending still");
		ok(!target.shared->received_count, "... and not taken");
		ask(&target, block_pending, SIG_UNBLOCK);
		ok(have_been_received(&target, 1 + QUEUED), "... until they are unblocked");
		ok(count_received(&target, SIGUSR1, SI_QUEUE, 0x51, target.pid) == 1 &&
			count_received(&target, QUEUED_1, SI_QUEUE, 0x100, target.pid) == 1 &&
			are_in_order(&target, QUEUED_1, 0x100),
		    "... with their values, in order");
		ok(is_unseen(&target), "... its parent has seen nothing");
	}
	end_handling(&target);
}

/* ---- stopped ---- */

static int has_reported(const struct target *target, int reports, int code)
{
	int ret = eventually(target->shared->reports >= reports);

	usleep(20000);
	if (target->shared->reports != reports || target->shared->last_code != code)
		diag(
		    "%d reports, the last: %d", target->shared->reports, target->shared->last_code);
	return ret && target->shared->reports == reports && target->shared->last_code == code;
}

static int all_are(const struct target *target, char state)
{
	pid_t tids[MOST_THREADS];
	unsigned count = threads_of(target->pid, tids);

	for (unsigned i = 0; i < count; i++)
		if (!eventually(state_of(tids[i]) == state))
			return 0;
	return count != 0;
}

static void test_stopped_while_parked(void)
{
	struct target target;
	const char *why;

	if (begin_handling(&target)) {
		ok(!stage_all(&target, 1), "it is staged");
		kill(target.pid, SIGSTOP);
		ok(has_reported(&target, 1, CLD_STOPPED) && all_are(&target, 'T'),
		    "SIGSTOP stops it");
		kill(target.pid, SIGCONT);
		ok(has_reported(&target, 2, CLD_CONTINUED), "... SIGCONT ends that");
		why = why_not_parked(&target);
		ok(!why && stands_still(&target) && !target.shared->received_count, "... %s",
		    why ? why : "it is parked still");
		ok(!restore_all(&target, 1), "... it is restored");
		ok(has_reported(&target, 2, CLD_CONTINUED), "... its parent sees nothing of that");
		ok(have_been_received(&target, 1) &&
			count_received(&target, SIGCONT, SI_USER, 0, 0) == 1,
		    "... SIGCONT is handled then");
	}
	end_handling(&target);
}

static void test_restored_while_stopped(void)
{
	struct target target;

	if (begin_handling(&target)) {
		ok(!stage_all(&target, 1), "it is staged");
		kill(target.pid, SIGSTOP);
		ok(has_reported(&target, 1, CLD_STOPPED), "SIGSTOP stops it");
		ok(!restore_all(&target, 1), "... it is restored");
		ok(all_are(&target, 'T') && stands_still(&target), "... and stopped still");
		ok(has_reported(&target, 1, CLD_STOPPED), "... its parent sees nothing of that");
		kill(target.pid, SIGCONT);
		ok(has_reported(&target, 2, CLD_CONTINUED) && have_been_received(&target, 1),
		    "... SIGCONT lets it go on");
	}
	end_handling(&target);
}

static void test_staged_while_stopped(void)
{
	struct target target;
	char *before_it;
	int are_done = 1;

	if (begin_handling(&target)) {
		kill(target.pid, SIGSTOP);
		ok(has_reported(&target, 1, CLD_STOPPED) && all_are(&target, 'T'),
		    "SIGSTOP stops it");
		before_it = look(target.pid);
		for (int i = 0; i < 3; i++) {
			are_done &= !stage_all(&target, 1) && stands_still(&target);
			are_done &= !restore_all(&target, 1);
		}
		ok(are_done, "... staged and restored");
		ok(all_are(&target, 'T') && stands_still(&target), "... it is stopped still");
		ok(is_same_look(before_it, look(target.pid)), "... all is as it was");
		ok(has_reported(&target, 1, CLD_STOPPED), "... its parent sees nothing of that");
		kill(target.pid, SIGCONT);
		ok(has_reported(&target, 2, CLD_CONTINUED) && have_been_received(&target, 1),
		    "... SIGCONT lets it go on");
	}
	end_handling(&target);
}

static void test_continued_while_parked(void)
{
	struct target target;
	const char *why;

	if (begin_handling(&target)) {
		kill(target.pid, SIGSTOP);
		ok(has_reported(&target, 1, CLD_STOPPED), "SIGSTOP stops it");
		ok(!stage_all(&target, 1), "... it is staged");
		kill(target.pid, SIGCONT);
		ok(has_reported(&target, 2, CLD_CONTINUED), "... SIGCONT ends the stop");
		why = why_not_parked(&target);
		ok(!why && stands_still(&target) && !target.shared->received_count, "... %s",
		    why ? why : "it is parked");
		ok(!restore_all(&target, 1), "... it is restored");
		ok(have_been_received(&target, 1), "... SIGCONT is handled then");
		ok(has_reported(&target, 2, CLD_CONTINUED), "... its parent sees nothing of that");
	}
	end_handling(&target);
}

/* ---- killed ---- */

static void test_killed(void)
{
	struct target target;

	if (begin_handling(&target)) {
		ok(!stage_all(&target, 1), "it is staged");
		kill(target.pid, SIGKILL);
		ok(eventually(target.shared->reports) && target.shared->last_code == CLD_KILLED &&
			target.shared->last_status == SIGKILL,
		    "SIGKILL ends a parked process");
	}
	end_target(&target);
}

/* ---- a storm ---- */

enum { ALARMS, TICKS, BROKEN };

/* Per thread: a handler that is entered again, or left in the middle, finds them different. */
static __thread volatile unsigned long begun, ended;

static void count_tick(int signal, siginfo_t *info, void *context)
{
	(void)info, (void)context;
	own->counts[BROKEN] += begun != ended;
	begun++;
	own->counts[signal == SIGALRM ? ALARMS : TICKS]++;
	for (volatile int i = 0; i < 100; i++)
		;
	ended++;
}

/* Its own thread is sent a signal a thousand times a second. */
static long start_timer(long unused)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = FOR_TIMER};
	const struct itimerspec often = {{0, 1000000}, {0, 1000000}};
	timer_t timer;

	(void)unused;
	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &often, NULL))
		return -errno;
	return 0;
}

static void run_in_storm(struct target *target)
{
	const struct itimerval often = {{0, 1000}, {0, 1000}};

	handle(SIGALRM, count_tick);
	handle(FOR_TIMER, count_tick);
	make_rings();
	start_workers();
	if (start_timer(0))
		abort();
	setitimer(ITIMER_REAL, &often, NULL);
	serve(target);
}

static void test_storm(void)
{
	struct target target;
	unsigned long alarms, ticks;
	int are_done = 1;

	make_target(&target);
	for (int i = 0; i < 2; i++) {
		add_worker(&target, INTEGERS);
		add_worker(&target, REALS);
		add_worker(&target, READ);
	}
	if (begin_target(&target, run_in_storm) && settle_target(&target)) {
		for (unsigned i = 0; i < ROUNDS && are_done; i++) {
			are_done &= !stage_all(&target, 1) && stands_still(&target);
			are_done &= !restore_all(&target, 1) && goes_on(&target);
		}
		ok(are_done, "staged and restored in a storm of SIGALRM and timers' signals");
		alarms = target.shared->counts[ALARMS];
		ticks = target.shared->counts[TICKS];
		ok(eventually(target.shared->counts[ALARMS] > alarms + 3 &&
			      target.shared->counts[TICKS] > ticks + 3),
		    "... which goes on");
		ok(!target.shared->counts[BROKEN], "... every handler comes to its end");
		ok(is_unseen(&target), "... its parent has seen nothing");
		diag("%lu SIGALRM, %lu of a timer", target.shared->counts[ALARMS],
		    target.shared->counts[TICKS]);
	}
	end_handling(&target);
}

int main(void)
{
	static const struct live_test tests[] = {
	    {"parked", test_parked},
	    {"sent meanwhile", test_sent_meanwhile},
	    {"pending", test_pending},
	    {"stopped while parked", test_stopped_while_parked},
	    {"restored while stopped", test_restored_while_stopped},
	    {"staged while stopped", test_staged_while_stopped},
	    {"continued while parked", test_continued_while_parked},
	    {"killed", test_killed},
	    {"a storm", test_storm},
	};

	return run_live_tests(tests, COUNT(tests));
}
