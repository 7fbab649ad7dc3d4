/* SPDX-License-Identifier: MIT */
/*
 * What the tests of staging other processes share: targets, which are forked and answer questions; threads
 * that wait or compute, and notice if anything comes out otherwise; and what a staged process must be.
 *
 * A target's parent is not the host, but a process between them, which notes all that a parent can see.
 * (The host is the tracer, and a tracer sees more.)
 */
#ifndef TEST_LIVE_H
#define TEST_LIVE_H

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "aio-restorer.h"
#include "look.h"
#include "stage.h"

#define WORKERS 64
#define RECEIVED 256
#define NO_ANSWER LONG_MIN

/* ---- what a target and the host share ---- */

/* A thread of a target, and the ends of what it waits for, which the host has too. */
struct worker {
	const struct kind *kind;
	int fds[2];
	atomic_int tid; /* 0 until it is about to begin */
	atomic_int word;
	atomic_ulong passes;
	atomic_int is_back;
	long result; /* 1: all was right */
	aio_context_t ctx;
	struct iocb iocb;
};

/* What a thread does, and how the host makes it end. */
struct kind {
	const char *name;
	void (*prepare)(struct worker *worker);
	long (*work)(struct worker *worker); /* 1, -errno, or 0 if something else was wrong */
	void (*end)(struct worker *worker);
	int is_one_call; /* it sleeps in one system call until the end */
	unsigned rings;
};

/* A signal that a handler was called for. */
struct received {
	int signal, code, pid, tid, value;
};

struct shared {
	atomic_int pid, is_ready, stop;
	/* What the parent of the target has seen. */
	atomic_int reports, child_signals, last_code, last_status;
	unsigned worker_count;
	struct worker workers[WORKERS];
	atomic_uint received_count;
	struct received received[RECEIVED];
	atomic_ulong counts[4]; /* as a test needs them */
};

struct target {
	pid_t parent, pid;
	int to[2], from[2];
	struct shared *shared;
};

static struct shared *own; /* of this process, if it is a target */

/* ---- targets ---- */

struct question {
	long (*ask)(long argument);
	long argument;
};

/* Main thread of a target: answers until somebody ends it. */
static inline _Noreturn void serve(const struct target *target)
{
	struct question question;

	own->is_ready = 1;
	for (;;) {
		ssize_t n = read(target->to[0], &question, sizeof(question));
		long answer;

		if (n < 0 && errno == EINTR)
			continue;
		if (n != (ssize_t)sizeof(question))
			_exit(0);
		answer = question.ask(question.argument);
		if (write(target->from[1], &answer, sizeof(answer)) < 0)
			_exit(1);
	}
}

/* Has the target run a function, and returns what that returns; NO_ANSWER if none comes. */
static inline long ask(const struct target *target, long (*what)(long), long argument)
{
	struct question question = {what, argument};
	struct pollfd answered = {.fd = target->from[0], .events = POLLIN};
	long answer;

	if (write(target->to[1], &question, sizeof(question)) < 0 ||
	    poll(&answered, 1, PATIENCE_MS) != 1 ||
	    read(target->from[0], &answer, sizeof(answer)) != (ssize_t)sizeof(answer))
		return NO_ANSWER;
	return answer;
}

/* The same of a function that returns what is wrong, or NULL. */
static inline const char *ask_why(const struct target *target, long (*what)(long), long argument)
{
	long answer = ask(target, what, argument);

	return answer == NO_ANSWER ? "the target does not answer" : (const char *)answer;
}

/* Waits for it as any parent may, and notes what it is told. */
static inline _Noreturn void watch_child(pid_t pid, struct shared *seen)
{
	const struct timespec moment = {.tv_nsec = 1000000};
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	for (;;) {
		siginfo_t info = {0};

		if (sigtimedwait(&child, NULL, &moment) == SIGCHLD)
			seen->child_signals++;
		if (waitid(P_PID, (id_t)pid, &info, WEXITED | WSTOPPED | WCONTINUED | WNOHANG) ||
		    !info.si_pid)
			continue;
		seen->last_code = info.si_code;
		seen->last_status = info.si_status;
		seen->reports++;
		if (info.si_code != CLD_STOPPED && info.si_code != CLD_CONTINUED)
			_exit(0);
	}
}

static inline _Noreturn void be_parent(const struct target *target, void (*run)(struct target *))
{
	struct target of_child = *target;
	sigset_t child;
	pid_t pid;

	own = target->shared;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	pid = fork_mortal();
	if (!pid) {
		sigprocmask(SIG_UNBLOCK, &child, NULL);
		run(&of_child);
		_exit(0);
	}
	own->pid = pid;
	close(target->from[1]);
	watch_child(pid, own);
}

/* For a target that is to be begun: what it will share, and workers. */
static inline void make_target(struct target *target)
{
	memset(target, 0, sizeof(*target));
	target->shared = mmap(NULL, sizeof(*target->shared), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (target->shared == MAP_FAILED || pipe2(target->to, O_CLOEXEC) ||
	    pipe2(target->from, O_CLOEXEC))
		abort();
}

/* Forks it; it runs `run`, and is ready when it calls serve() or begins to work. */
static inline int begin_target(struct target *target, void (*run)(struct target *))
{
	target->parent = fork_mortal();
	if (!target->parent)
		be_parent(target, run);
	close(target->to[0]);
	close(target->from[1]);
	eventually((target->shared->pid && target->shared->is_ready) || target->shared->reports);
	target->pid = target->shared->pid;
	return ok(target->pid && target->shared->is_ready, "a target is ready");
}

static inline void end_target(struct target *target)
{
	struct shared *shared = target->shared;

	kill(target->parent, SIGKILL); /* the target ends with it */
	waitpid(target->parent, NULL, 0);
	eventually(!target->pid || (kill(target->pid, 0) && errno == ESRCH));
	for (unsigned i = 0; i < shared->worker_count; i++)
		for (int end = 0; end < 2; end++)
			if (shared->workers[i].fds[end] > 0)
				close(shared->workers[i].fds[end]);
	close(target->to[1]);
	close(target->from[0]);
	munmap(shared, sizeof(*shared));
}

/* ---- computations whose results are known: a register that changed would change them ---- */

static __attribute__((noinline, unused)) uint64_t mix_integers(void)
{
	uint64_t a = 1, b = 2, c = 3, d = 5, e = 7, f = 11, g = 13, h = 17;
	volatile uint64_t below[6] = {0}; /* where compilers leave the stack pointer as it is */

	for (unsigned i = 0; i < 20000; i++) {
		a = a * 6364136223846793005u + b;
		b ^= c + (a >> 7);
		c += d ^ (b << 3);
		d = d * 31 + e;
		e ^= f + d;
		f = (f << 1 | f >> 63) + g;
		g += h ^ (a >> 11);
		h = (h << 5 | h >> 59) ^ i;
		below[i % 6] += h;
	}
	return a ^ b ^ c ^ d ^ e ^ f ^ g ^ h ^ below[0] ^ below[3] ^ below[5];
}

typedef double reals __attribute__((vector_size(32)));

static __attribute__((noinline, unused)) uint64_t mix_reals(void)
{
	reals v = {1.5, 2.5, 3.5, 4.5}, w = {.25, .5, .75, 1}, x = {5, 6, 7, 8}, y = {9, 8, 7, 6};
	double a = 1.25, b = .625, all[4];
	long double c = 3.75L;
	uint64_t words[5], sum = 0;

	for (unsigned i = 0; i < 5000; i++) {
		v = v * 0.75 + x * 0.125;
		w = w * 0.5 + v * y * 0.0625;
		x = x * 0.25 + w + (double)(i & 7);
		y = y * 0.875 - w * 0.03125;
		a = a * 0.999 + b;
		b = b * 0.5 + (double)(i & 3);
		c = c * 0.5L + (long double)a;
	}
	for (int i = 0; i < 4; i++)
		all[i] = v[i] + 2 * w[i] + 3 * x[i] + 5 * y[i];
	memcpy(words, all, sizeof(all));
	all[0] = a + b + (double)c;
	memcpy(&words[4], all, sizeof(words[4]));
	for (int i = 0; i < 5; i++)
		sum = sum * 31 + words[i];
	return sum;
}

static inline long compute(struct worker *worker, uint64_t (*mix)(void))
{
	uint64_t right = mix();

	while (!own->stop) {
		if (mix() != right)
			return -EILSEQ;
		worker->passes++;
	}
	return 1;
}

static inline long in_integers(struct worker *worker)
{
	return compute(worker, mix_integers);
}

static inline long in_reals(struct worker *worker)
{
	return compute(worker, mix_reals);
}

/* ---- waits ---- */

static inline void make_eventfd(struct worker *worker)
{
	worker->fds[0] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

static inline void make_pipe(struct worker *worker)
{
	if (pipe2(worker->fds, O_CLOEXEC))
		abort();
}

static inline void make_nothing(struct worker *worker)
{
	(void)worker;
}

static inline void raise_eventfd(struct worker *worker)
{
	eventfd_write(worker->fds[0], 1);
}

static inline void send_byte(struct worker *worker)
{
	if (write(worker->fds[1], "x", 1) != 1)
		abort();
}

static inline void wake(struct worker *worker)
{
	worker->word = 1;
	syscall(SYS_futex, &worker->word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* A poll that is in flight until the end: what the thread waits for. */
static inline void submit_poll(struct worker *worker)
{
	worker->ctx = new_ring(1);
	iocb_poll(&worker->iocb, worker->fds[0], POLLIN, 0xe0e0);
	if (submit_one(worker->ctx, &worker->iocb) != 1)
		abort();
}

static inline long is_its_event(const struct worker *worker, long n, const struct aio_slot *event)
{
	if (n < 0)
		return n;
	return n == 1 && event->data == 0xe0e0 && event->obj == (uintptr_t)&worker->iocb &&
	       event->res == POLLIN && !event->res2;
}

static inline long in_getevents(struct worker *worker)
{
	struct aio_slot event = {0};

	submit_poll(worker);
	worker->tid = (int)syscall(SYS_gettid);
	return is_its_event(
	    worker, result(syscall(SYS_io_getevents, worker->ctx, 1L, 1L, &event, NULL)), &event);
}

static inline long in_pgetevents(struct worker *worker)
{
	struct aio_slot event = {0};
	unsigned long mask[8 / sizeof(long)] = {1ul << (SIGUSR2 - 1)};
	struct {
		void *mask;
		size_t size;
	} sigmask = {mask, sizeof(mask)};

	submit_poll(worker);
	worker->tid = (int)syscall(SYS_gettid);
	return is_its_event(worker,
	    result(syscall(SYS_io_pgetevents, worker->ctx, 1L, 1L, &event, NULL, &sigmask)),
	    &event);
}

static inline long in_futex(struct worker *worker)
{
	long ret;

	worker->tid = (int)syscall(SYS_gettid);
	ret = result(syscall(SYS_futex, &worker->word, FUTEX_WAIT, 0, NULL, NULL, 0));
	/* Made again, the call may find that it has been woken already. */
	return ret && ret != -EAGAIN ? ret : worker->word == 1;
}

static inline long in_nanosleep(struct worker *worker)
{
	const struct timespec time = {.tv_nsec = 2000000};

	worker->tid = (int)syscall(SYS_gettid);
	while (!own->stop) {
		struct timespec before, after;
		long ret;

		clock_gettime(CLOCK_MONOTONIC, &before);
		ret = result(nanosleep(&time, NULL));
		clock_gettime(CLOCK_MONOTONIC, &after);
		if (ret)
			return ret;
		if ((after.tv_sec - before.tv_sec) * 1000000000ll + after.tv_nsec - before.tv_nsec <
		    time.tv_nsec)
			return 0;
		worker->passes++;
	}
	return 1;
}

static inline long in_epoll_wait(struct worker *worker)
{
	struct epoll_event event = {.events = EPOLLIN};
	int fd = epoll_create1(EPOLL_CLOEXEC);
	long n;

	if (epoll_ctl(fd, EPOLL_CTL_ADD, worker->fds[0], &event))
		return -errno;
	worker->tid = (int)syscall(SYS_gettid);
	n = result(epoll_wait(fd, &event, 1, -1));
	return n < 0 ? n : n == 1 && event.events == EPOLLIN;
}

static inline long in_read(struct worker *worker)
{
	char byte = 0;
	long n;

	worker->tid = (int)syscall(SYS_gettid);
	n = result(read(worker->fds[0], &byte, 1));
	return n < 0 ? n : n == 1 && byte == 'x';
}

enum { GETEVENTS, PGETEVENTS, FUTEX, EPOLL, READ, NANOSLEEP, INTEGERS, REALS, KINDS };

static const struct kind kinds[KINDS] = {
    [GETEVENTS] = {"io_getevents", make_eventfd, in_getevents, raise_eventfd, 1, 1},
    [PGETEVENTS] = {"io_pgetevents", make_eventfd, in_pgetevents, raise_eventfd, 1, 1},
    [FUTEX] = {"futex", make_nothing, in_futex, wake, 1, 0},
    [EPOLL] = {"epoll_wait", make_eventfd, in_epoll_wait, raise_eventfd, 1, 0},
    [READ] = {"read", make_pipe, in_read, send_byte, 1, 0},
    [NANOSLEEP] = {"nanosleep", make_nothing, in_nanosleep, make_nothing, 0, 0},
    [INTEGERS] = {"integers", make_nothing, in_integers, make_nothing, 0, 0},
    [REALS] = {"reals", make_nothing, in_reals, make_nothing, 0, 0},
};

/* ---- workers ---- */

/* By the host, before the target is forked. */
static inline struct worker *add_worker(struct target *target, int kind)
{
	struct worker *worker = &target->shared->workers[target->shared->worker_count++];

	worker->kind = &kinds[kind];
	worker->kind->prepare(worker);
	return worker;
}

static inline void *run_worker(void *data)
{
	struct worker *worker = data;

	prctl(PR_SET_NAME, worker->kind->name);
	if (!worker->kind->is_one_call)
		worker->tid = (int)syscall(SYS_gettid);
	worker->result = worker->kind->work(worker);
	worker->is_back = 1;
	return NULL;
}

/* By the target: threads with masks of their own, and every third on a CPU of its own. */
static inline void start_workers(void)
{
	sigset_t mask, old;
	cpu_set_t all;

	sched_getaffinity(0, sizeof(all), &all);
	pthread_sigmask(SIG_BLOCK, NULL, &old);
	for (unsigned i = 0; i < own->worker_count; i++) {
		pthread_t thread;

		mask = old;
		sigaddset(&mask, SIGRTMIN + 8 + (int)i % 16);
		pthread_sigmask(SIG_SETMASK, &mask, NULL);
		if (i % 3 == 2)
			pin_to(i);
		if (pthread_create(&thread, NULL, run_worker, &own->workers[i]))
			abort();
		sched_setaffinity(0, sizeof(all), &all);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static inline int is_at_work(const struct worker *worker)
{
	return worker->is_back ||
	       (worker->tid && (!worker->kind->is_one_call || state_of(worker->tid) == 'S'));
}

/* Waits until all threads are in their calls. */
static inline int settle_target(const struct target *target)
{
	const struct shared *shared = target->shared;

	for (unsigned i = 0; i < shared->worker_count; i++)
		if (!eventually(is_at_work(&shared->workers[i])))
			return 0;
	return shared->worker_count || eventually(state_of(target->pid) == 'S');
}

/* Whether those that compute or sleep in a loop do so still. */
static inline int goes_on(const struct target *target)
{
	for (unsigned i = 0; i < target->shared->worker_count; i++) {
		struct worker *worker = &target->shared->workers[i];
		unsigned long passes = worker->passes;

		if (!worker->kind->is_one_call &&
		    !eventually(worker->passes > passes || worker->is_back))
			return 0;
	}
	return 1;
}

static inline int none_is_back(const struct target *target)
{
	for (unsigned i = 0; i < target->shared->worker_count; i++) {
		const struct worker *worker = &target->shared->workers[i];

		if (worker->is_back) {
			diag("%s has come back with %ld", worker->kind->name, worker->result);
			return 0;
		}
	}
	return 1;
}

/* Ends all that they do; NULL, or what was wrong. */
static inline const char *end_workers(const struct target *target)
{
	struct shared *shared = target->shared;

	if (!none_is_back(target))
		return "a thread came back too early";
	shared->stop = 1;
	for (unsigned i = 0; i < shared->worker_count; i++) {
		struct worker *worker = &shared->workers[i];

		worker->kind->end(worker);
		if (!eventually(worker->is_back)) {
			diag("%s does not end", worker->kind->name);
			return "a thread does not end";
		}
		if (worker->result != 1) {
			diag("%s: %ld", worker->kind->name, worker->result);
			return "what a thread has got";
		}
	}
	return NULL;
}

/* ---- rings of a target ---- */

#define SHAPES 8

/* In the target: rings of all shapes, with nothing in flight. */
static inline void make_rings(void)
{
	const uint64_t small = smallest_len(), large = small + 2 * page;
	const uint32_t nr = (uint32_t)aio_ring_nr(small), usable = aio_ring_usable(nr, cpus);
	cpu_set_t all;

	sched_getaffinity(0, sizeof(all), &all);
	set_up_stage(SHAPES * (large + page) + page);
	make_live(0, small, 0, 0);
	make_live(1, small, 5, 0);
	make_live(2, small, 0, 9);
	make_live(3, large, 3, 6);
	make_live(4, small, nr - 7, 18);
	make_live(5, small, nr - 1, 2);
	make_live(6, small, 0, usable);
	make_live(7, large, 7, aio_ring_usable((uint32_t)aio_ring_nr(large), cpus) / 2);
	sched_setaffinity(0, sizeof(all), &all);
}

/* A question: what is wrong with the rings, or NULL. It uses them. */
static inline long why_other_rings(long unused)
{
	const char *why = NULL;

	(void)unused;
	for (uint32_t i = 0; i < SHAPES && !why; i++) {
		rings[i].head = was[i].head;
		rings[i].tail = was[i].tail;
		why = why_not_live(&rings[i], &was[i], NULL, silent[0]);
		if (why)
			diag("ring %u: %s", i, why);
	}
	return (long)why;
}

/* What most targets are: rings of all shapes, workers, and a main thread that answers. */
static inline void run_many(struct target *target)
{
	make_rings();
	start_workers();
	serve(target);
}

/* ---- staging and restoring ---- */

#define TARGETS 8

static const struct aior_options patient = {.timeout_ms = PATIENCE_MS};
static struct aior_outcome outcomes[TARGETS];
static struct aior_error error;

typedef int operation(const pid_t *pids, size_t count, const struct aior_options *options,
    struct aior_outcome *outcomes, struct aior_error *error);

static inline int operate(operation *what, const struct target *targets, size_t count)
{
	pid_t pids[TARGETS];
	int ret;

	for (size_t i = 0; i < TARGETS; i++)
		aior_outcome_free(&outcomes[i]);
	memset(outcomes, 0, sizeof(outcomes));
	memset(&error, 0x5a, sizeof(error));
	for (size_t i = 0; i < count; i++)
		pids[i] = targets[i].pid;
	ret = what(pids, count, &patient, outcomes, &error);
	if (ret)
		diag("%s", error.message);
	for (size_t i = 0; i < count && !ret; i++)
		if (outcomes[i].pid != pids[i]) {
			diag("outcome %zu is that of process %d", i, (int)outcomes[i].pid);
			return -1;
		}
	return ret;
}

/* 0, or -1, having said why. */
static inline int stage_all(const struct target *targets, size_t count)
{
	return operate(aior_stage, targets, count);
}

static inline int restore_all(const struct target *targets, size_t count)
{
	return operate(aior_restore, targets, count);
}

/* ---- what a staged process is ---- */

static inline void find_forbidden(FILE *out, const char *path, const char *line)
{
	if (strstr(line, "[aio]") || strstr(line, "rwx"))
		put_line(out, path, line);
}

/* NULL, or why it is not what a staged process must be: asleep, untraced, of plain memory. */
static inline const char *why_not_parked(const struct target *target)
{
	pid_t tids[MOST_THREADS];
	unsigned count = threads_of(target->pid, tids);
	char path[64], *lines = NULL;
	size_t len;
	FILE *out;

	if (!count)
		return "it is gone";
	for (unsigned i = 0; i < count; i++) {
		if (status_number(tids[i], "TracerPid:"))
			return "it is traced";
		if (!eventually(state_of(tids[i]) == 'S'))
			return "a thread does not sleep";
	}
	out = open_memstream(&lines, &len);
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)target->pid);
	each_line(out, path, find_forbidden);
	fclose(out);
	if (len)
		diag("%.*s", (int)strcspn(lines, "\n"), lines);
	free(lines);
	return len ? "its mappings" : NULL;
}

/* Whether nobody runs: no thread gets on for a while. */
static inline int stands_still(const struct target *target)
{
	unsigned long sums[2] = {0};

	for (int i = 0; i < 2; i++) {
		for (unsigned j = 0; j < target->shared->worker_count; j++)
			sums[i] += target->shared->workers[j].passes;
		if (!i)
			usleep(20000);
	}
	return sums[0] == sums[1];
}

/* Nothing has been seen by its parent. */
static inline int is_unseen(const struct target *target)
{
	const struct shared *shared = target->shared;

	usleep(5000); /* it looks every millisecond */
	if (shared->reports || shared->child_signals)
		diag("%d reports (the last: %d, %d), %d SIGCHLD", shared->reports,
		    shared->last_code, shared->last_status, shared->child_signals);
	return !shared->reports && !shared->child_signals;
}

/* ---- how such a test runs ---- */

struct live_test {
	const char *name;
	void (*test)(void);
};

static inline int run_live_tests(const struct live_test *tests, size_t count)
{
	long nr = stage_test_start();

	signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; i < count; i++) {
		alarm(TAP_PATIENCE);
		in_child(tests[i].name, tests[i].test);
	}
	return test_end(nr);
}

#endif
