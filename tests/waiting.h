/* SPDX-License-Identifier: MIT */
/*
 * What the tests of staging a process whose threads wait share: a target with a thread in each of some
 * waits, its main thread in another one; and the host, which stages and restores it, brings about what is
 * waited for, and sees what the waits came back with.
 *
 * All descriptors are made before the fork, so that the host has them too.
 */
#ifndef TEST_WAITING_H
#define TEST_WAITING_H

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ptrace.h>

#include "aio-restorer.h"
#include "facts.h"

#define MOST_WAITS 96
#define MOST_EVENTS 1024
#define NO_ANSWER LONG_MIN
#define WAITED (SIGRTMIN + 1)  /* the signal that some wait for */
#define BLOCKED (SIGRTMIN + 2) /* in all that wait */

/* A thread that waits. Shared by host and target, as is what it waits for. */
struct wait {
	const struct kind *kind;
	int fds[2];
	int object;   /* a semaphore, a queue, an epoll, a child */
	int flags;    /* of the handlers of SIGUSR1 and SIGUSR2: the target's last wait sets them */
	long time_ms; /* that it is to take, if it is to end by itself */
	uint64_t mask,
	    inside; /* signals that are blocked, and those while a call waits that takes a mask */
	int min, start, before, done; /* events: waited for; slot of the first; completed */
	atomic_int tid;               /* 0 until it is about to make its call */
	atomic_int is_back, handled;
	atomic_uint word;
	long result; /* of the call, -errno if it failed; -EBADMSG if it gave what it should not */
	int64_t begun_ms, ended_ms;
	uint64_t blocked;    /* signals, in truth, while it waits */
	uint64_t mask_after; /* the call */
	aio_context_t ctx;
	struct iocb iocb;
	struct aio_slot events[MOST_EVENTS];
};

/* A way to wait. What there is none of is NULL. */
struct kind {
	const char *name;
	int (*open)(struct wait *wait);     /* in the host before the fork: 0, or -1 with errno */
	void (*prepare)(struct wait *wait); /* in the target, before it has threads */
	long (*wait)(struct wait *wait);
	void (*end)(struct wait *wait); /* in the host: brings about what is waited for */
	void (*close)(struct wait *wait);
	long right; /* the result */
};

static struct wait *waits;
static unsigned wait_count;
static pid_t target;
static int to_target[2], from_target[2];
static __thread struct wait *own_wait; /* of this thread of the target */

static inline uint64_t bit(int signal)
{
	return 1ull << (signal - 1);
}

/* ---- the target ---- */

static inline uint64_t mask_now(void)
{
	uint64_t mask = 0;

	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, sizeof(mask));
	return mask;
}

static inline void set_mask(uint64_t mask)
{
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof(mask));
}

static inline void count_signal(int signal)
{
	(void)signal;
	atomic_fetch_add(&own_wait->handled, 1);
}

static inline void handle_signals(int flags)
{
	struct sigaction action = {.sa_handler = count_signal, .sa_flags = flags};

	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	sigaction(BLOCKED, &action, NULL);
}

static inline void *run_wait(void *data)
{
	struct wait *wait = data;

	own_wait = wait;
	set_mask(wait->mask);
	wait->begun_ms = now_ms();
	wait->tid = (int)syscall(SYS_gettid);
	wait->result = wait->kind->wait(wait);
	wait->ended_ms = now_ms();
	wait->mask_after = mask_now();
	wait->is_back = 1;
	return NULL;
}

/* Rings with events pending: so many, from there on. Negative: from there before the end. */
static const struct {
	int head, pending;
} shapes[] = {{0, 0}, {3, 6}, {-3, 8}};

static aio_context_t rings[COUNT(shapes)];

static inline void make_rings(void)
{
	for (unsigned i = 0; i < COUNT(shapes); i++) {
		rings[i] = new_ring(1);
		run_through(rings[i], shapes[i].head < 0
					  ? ring_of(rings[i])->nr - (unsigned)-shapes[i].head
					  : (unsigned)shapes[i].head);
		for (int j = 0; j < shapes[i].pending; j++)
			if (complete(rings[i], 1, 0x1000 * i + (unsigned)j) != 1)
				abort();
	}
}

/* A request of the host: the target's main thread makes a call. */
struct request {
	long (*what)(struct wait *wait, long argument);
	struct wait *wait;
	long argument;
};

/* Whether the rings have all that was pending, in order, and take another request. */
static inline long reap_rings(struct wait *unused, long unused_too)
{
	struct aio_slot events[16];

	(void)unused, (void)unused_too;
	for (unsigned i = 0; i < COUNT(shapes); i++) {
		if (io_getevents(rings[i], 16, events) != shapes[i].pending)
			return 0;
		for (int j = 0; j < shapes[i].pending; j++)
			if (events[j].data != 0x1000 * i + (unsigned)j || events[j].res)
				return 0;
		if (!works(rings[i]))
			return 0;
	}
	return 1;
}

static inline _Noreturn void serve(void)
{
	struct request request;

	for (;;) {
		ssize_t n = result(read(to_target[0], &request, sizeof(request)));
		long answer;

		/* No signal comes for this thread: it must not see EINTR either. */
		if (n != (ssize_t)sizeof(request))
			_exit(1);
		answer = request.what(request.wait, request.argument);
		if (write(from_target[1], &answer, sizeof(answer)) != (ssize_t)sizeof(answer))
			_exit(1);
	}
}

static inline _Noreturn void be_target(void)
{
	for (unsigned i = 0; i < wait_count; i++) {
		if (waits[i].kind->prepare)
			waits[i].kind->prepare(&waits[i]);
		handle_signals(waits[i].flags);
	}
	make_rings();
	for (unsigned i = 0; i < wait_count; i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, run_wait, &waits[i]))
			abort();
	}
	serve();
}

/* ---- the host ---- */

/* The line of /proc/TID/NAME that starts with `key` (which may be empty), behind that; or "". */
static inline const char *proc_line(pid_t tid, const char *name, const char *key)
{
	static char line[512];
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)tid, name);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, key, strlen(key))) {
			fclose(file);
			return line + strlen(key);
		}
	if (file)
		fclose(file);
	return "";
}

static inline int sleeps(pid_t tid)
{
	const char *behind = strrchr(proc_line(tid, "stat", ""), ')');

	return behind && behind[2] == 'S';
}

static inline uint64_t blocked_by(pid_t tid)
{
	return strtoull(proc_line(tid, "status", "SigBlk:"), NULL, 16);
}

/* The state last: one that sleeps does not come back by itself. */
static inline int is_waiting(const struct wait *wait)
{
	return wait->tid && sleeps(wait->tid) && !wait->is_back;
}

/* A wait of the target that is to be started. NULL: there is none of that kind here. */
static inline struct wait *add_timed_wait(const struct kind *kind, long time_ms)
{
	struct wait *wait;

	if (!waits)
		waits = mmap(NULL, MOST_WAITS * sizeof(*waits), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (waits == MAP_FAILED || wait_count == MOST_WAITS)
		abort();
	wait = &waits[wait_count];
	memset(wait, 0, sizeof(*wait));
	wait->kind = kind;
	wait->object = -1;
	wait->time_ms = time_ms;
	wait->mask = bit(WAITED) | bit(BLOCKED);
	wait->inside = wait->mask | bit(SIGUSR2);
	if (kind->open && kind->open(wait)) {
		skip(kind->name, "%s", strerror(errno));
		return NULL;
	}
	wait_count++;
	return wait;
}

static inline struct wait *add_wait(const struct kind *kind)
{
	return add_timed_wait(kind, 0);
}

/* Until all of them wait. */
static inline int settle(void)
{
	for (unsigned i = 0; i < wait_count; i++)
		if (!eventually(is_waiting(&waits[i]) || waits[i].is_back))
			return 0;
	return eventually(sleeps(target));
}

/* Forks the target, and returns when all its threads wait. */
static inline int start_target(const char *name)
{
	if (pipe2(to_target, O_CLOEXEC) || pipe2(from_target, O_CLOEXEC))
		abort();
	target = fork_mortal();
	if (!target)
		be_target();
	close(to_target[0]);
	close(from_target[1]);
	if (!settle())
		return ok(0, "%s: it waits", name);
	for (unsigned i = 0; i < wait_count; i++)
		waits[i].blocked = blocked_by(waits[i].tid);
	return 1;
}

static inline void end_target(void)
{
	kill(target, SIGKILL);
	waitpid(target, NULL, 0);
	for (unsigned i = 0; i < wait_count; i++) {
		if (waits[i].kind->close)
			waits[i].kind->close(&waits[i]);
		for (int end = 0; end < 2; end++)
			if (waits[i].fds[end] > 0)
				close(waits[i].fds[end]);
	}
	close(to_target[1]);
	close(from_target[0]);
	wait_count = 0;
}

static inline void request(
    long (*what)(struct wait *wait, long argument), struct wait *wait, long argument)
{
	struct request request = {what, wait, argument};

	if (write(to_target[1], &request, sizeof(request)) != (ssize_t)sizeof(request))
		abort();
}

static inline long answer(void)
{
	struct pollfd answered = {.fd = from_target[0], .events = POLLIN};
	long answer;

	if (poll(&answered, 1, PATIENCE_MS) != 1 ||
	    read(from_target[0], &answer, sizeof(answer)) != (ssize_t)sizeof(answer))
		return NO_ANSWER;
	return answer;
}

static inline long ask(
    long (*what)(struct wait *wait, long argument), struct wait *wait, long argument)
{
	request(what, wait, argument);
	return answer();
}

/* ---- there and back ---- */

typedef int operation(const pid_t *pids, size_t count, const struct aior_options *options,
    struct aior_outcome *outcomes, struct aior_error *error);

static struct aior_outcome outcome;

static inline int operate(operation *what)
{
	const struct aior_options patient = {.timeout_ms = PATIENCE_MS};
	struct aior_error error = {0};
	int ret;

	aior_outcome_free(&outcome);
	memset(&outcome, 0, sizeof(outcome));
	ret = what(&target, 1, &patient, &outcome, &error);
	if (ret)
		diag("%s", error.message);
	else if (outcome.pid != target || outcome.was_so)
		diag("nothing was done");
	return ret || outcome.pid != target || outcome.was_so;
}

/* Calls `what` for each thread of the target. */
static inline int each_thread(int (*what)(pid_t tid))
{
	struct dirent *entry;
	char path[64];
	int ret = 0;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)target);
	tasks = opendir(path);
	while (tasks && !ret && (entry = readdir(tasks)))
		if (entry->d_name[0] != '.')
			ret = what(atoi(entry->d_name));
	if (tasks)
		closedir(tasks);
	return ret;
}

static inline int hold_thread(pid_t tid)
{
	int status;

	return ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACESYSGOOD) ||
	       ptrace(PTRACE_INTERRUPT, tid, 0, 0) || waitpid(tid, &status, __WALL) != tid;
}

static inline int let_thread_go(pid_t tid)
{
	return ptrace(PTRACE_DETACH, tid, 0, 0) ? -1 : 0;
}

/* Another tool stops the target itself, as CRIU does for its plugins. */
static int is_held_by_tool;

static inline int stage_held(const pid_t *pids, size_t count, const struct aior_options *options,
    struct aior_outcome *outcomes, struct aior_error *error)
{
	struct aior_options parking = *options;
	struct aior_samples *samples = NULL;
	int ret = aior_sample(*pids, &samples, error);

	(void)count;
	parking.parks = 1;
	parking.samples = samples;
	if (!ret && !(ret = each_thread(hold_thread)))
		ret = aior_stage_traced(*pids, PTRACE_O_TRACESYSGOOD, &parking, outcomes, error);
	aior_samples_free(samples);
	return ret || each_thread(let_thread_go) ? -1 : 0;
}

static inline int restore_held(const pid_t *pids, size_t count, const struct aior_options *options,
    struct aior_outcome *outcomes, struct aior_error *error)
{
	int ret = each_thread(hold_thread);

	(void)count;
	if (!ret)
		ret = aior_restore_traced(*pids, PTRACE_O_TRACESYSGOOD, options, outcomes, error);
	return ret || each_thread(let_thread_go) ? -1 : 0;
}

/* 0, or -1, having said why. */
static inline int stage_target(void)
{
	return operate(is_held_by_tool ? stage_held : aior_stage) || !outcome.is_staged ? -1 : 0;
}

static inline int restore_target(void)
{
	return operate(is_held_by_tool ? restore_held : aior_restore) || outcome.is_staged ||
		       outcome.rings.lost_count
		   ? -1
		   : 0;
}

static inline int there_and_back(void)
{
	return stage_target() || restore_target() ? -1 : 0;
}

/* Whether the waits are as they were: none is back, and the same signals are blocked meanwhile. */
static inline int all_wait(void)
{
	int all = settle();

	for (unsigned i = 0; i < wait_count; i++) {
		const struct wait *wait = &waits[i];
		const char *name = wait->kind->name;

		if (wait->is_back) {
			diag("%s came back with %ld", name, wait->result);
			all = 0;
		} else if (blocked_by(wait->tid) != wait->blocked) {
			diag("%s blocks the signals %llx, not %llx", name,
			    (unsigned long long)blocked_by(wait->tid),
			    (unsigned long long)wait->blocked);
			all = 0;
		}
	}
	return all;
}

/* Whether it comes back, with that result, and its signal mask is what it was. */
static inline int comes_back(const struct wait *wait, long right)
{
	if (!eventually(wait->is_back)) {
		diag("%s does not come back", wait->kind->name);
		return 0;
	}
	if (wait->result != right)
		diag("%s: its result is %ld, not %ld", wait->kind->name, wait->result, right);
	if (wait->mask_after != wait->mask)
		diag("%s: the signal mask was %llx, is %llx", wait->kind->name,
		    (unsigned long long)wait->mask, (unsigned long long)wait->mask_after);
	return wait->result == right && wait->mask_after == wait->mask;
}

static inline void check_rings(const char *name)
{
	ok(ask(reap_rings, NULL, 0) == 1, "%s: the rings have all their events", name);
}

#endif
