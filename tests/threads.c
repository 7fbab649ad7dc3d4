/* SPDX-License-Identifier: MIT */
/*
 * The library in a program of several threads, all at once: each works on processes of its own, and fails on its
 * own; they meet on one process; and what else a program does meanwhile (it waits for children, forks, executes,
 * cancels threads) neither disturbs the library nor is disturbed by it.
 *
 * The processes are tests/worker.c, which checks that each of its requests has one event, and the right one.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "aio-restorer.h"
#include "tap.h"

#ifndef BLOB_DIR
#define BLOB_DIR "build"
#endif

#define THREADS 6
#define RINGS 3
#define DRIVERS 3 /* of the threads of a worker: the first is one more */
#define ROUNDS (4 + effort(36))
#define PATIENCE_MS 60000
#define NO_PROCESS 0x3ffffff0 /* and above: larger than any pid */

static char worker_path[PATH_MAX], self_path[PATH_MAX], folder[64];

/* ---- targets ---- */

struct target {
	pid_t pid;
	int out;
	int status; /* -1: it has not been waited for */
};

static struct target targets[THREADS];

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void tick(void)
{
	const struct timespec moment = {.tv_nsec = 1000000};

	nanosleep(&moment, NULL);
}

/* What a worker has said so far; the caller frees it. */
static char *said(const struct target *target)
{
	off_t size = lseek(target->out, 0, SEEK_END);
	char *text = calloc(1, (size_t)size + 1);

	if (pread(target->out, text, (size_t)size, 0) < 0)
		text[0] = 0;
	return text;
}

static int has_said(const struct target *target, const char *what)
{
	char *text = said(target);
	int found = strstr(text, what) != NULL;

	free(text);
	return found;
}

static unsigned long events_of(const struct target *target)
{
	char *text = said(target), *last = NULL;
	unsigned long count = 0;

	for (char *at = text; (at = strstr(at, "ok ")); at++)
		last = at;
	if (last)
		count = strtoul(last + 3, NULL, 10);
	free(text);
	return count;
}

static int start_target(struct target *target)
{
	int64_t end = now_ms() + PATIENCE_MS;

	*target = (struct target){.out = memfd_create("out", MFD_CLOEXEC), .status = -1};
	target->pid = fork_mortal();
	if (!target->pid) {
		dup2(target->out, STDOUT_FILENO);
		execl(worker_path, "worker", "--rings", "3", "--threads", "3", "--inflight",
		    "reads=4,polls=4,zeros=2", NULL);
		_exit(127);
	}
	while (!has_said(target, "ready") && now_ms() < end)
		tick();
	return has_said(target, "ready") ? 0 : -1;
}

/* Whether it goes on, with all threads, and without a trace of us. */
static const char *why_not_well(const struct target *target)
{
	unsigned long count = events_of(target);
	int64_t end = now_ms() + PATIENCE_MS;

	while (events_of(target) == count && now_ms() < end)
		tick();
	if (has_said(target, "VIOLATION"))
		return "it has found something wrong";
	return events_of(target) == count ? "it does not go on" : NULL;
}

/* Its end: each request must have had its event. */
static const char *end_target(struct target *target)
{
	int64_t end = now_ms() + PATIENCE_MS;
	char *text;

	kill(target->pid, SIGTERM);
	while (target->status < 0 && now_ms() < end) {
		int status;

		if (waitpid(target->pid, &status, WNOHANG) == target->pid)
			target->status = status;
		tick();
	}
	if (target->status < 0) {
		kill(target->pid, SIGKILL);
		waitpid(target->pid, NULL, 0);
	}
	text = said(target);
	close(target->out);
	if (!target->status && strstr(text, "done")) {
		free(text);
		return NULL;
	}
	diag("status 0x%x: %s", (unsigned)target->status,
	    strstr(text, "VIOLATION") ? strstr(text, "VIOLATION") : "no violation");
	free(text);
	return "it does not end well";
}

static void start_targets(size_t count)
{
	int started = 1;

	for (size_t i = 0; i < count; i++)
		started &= !start_target(&targets[i]);
	ok(started, "%zu processes are at work", count);
}

static void end_targets(size_t count, const char *name)
{
	const char *why = NULL;

	for (size_t i = 0; i < count; i++) {
		const char *wrong = why_not_well(&targets[i]);

		why = why ? why : wrong;
	}
	ok(!why, "%s: %s", name, why ? why : "all processes go on");
	why = NULL;
	for (size_t i = 0; i < count; i++) {
		const char *wrong = end_target(&targets[i]);

		why = why ? why : wrong;
	}
	ok(!why, "%s: %s", name, why ? why : "each request has had its event");
}

/* ---- threads, which say what was wrong first ---- */

struct thread {
	pthread_t thread;
	unsigned index, rounds;
	struct target *target;
	uint64_t seed;
	struct aior_error error;
	unsigned long done[3]; /* as a test counts */
	char why[1400];
};

static struct thread threads[THREADS];
static atomic_int is_over;

static unsigned random_below(struct thread *thread, unsigned n)
{
	thread->seed = thread->seed * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(thread->seed >> 33) % n;
}

/* Returns -1. The first reason is kept. */
__attribute__((format(printf, 2, 3))) static int wrong(
    struct thread *thread, const char *format, ...)
{
	va_list args;

	if (thread->why[0])
		return -1;
	va_start(args, format);
	vsnprintf(thread->why, sizeof(thread->why), format, args);
	va_end(args);
	return -1;
}

static void begin_threads(size_t count, unsigned rounds, void *(*run)(void *))
{
	for (size_t i = 0; i < count; i++) {
		threads[i] = (struct thread){.index = (unsigned)i,
		    .rounds = rounds,
		    .target = &targets[i],
		    .seed = (uint64_t)time(NULL) * 1000 + i};
		if (pthread_create(&threads[i].thread, NULL, run, &threads[i]))
			abort();
	}
}

static void join_threads(size_t count, const char *name)
{
	const char *why = NULL;

	for (size_t i = 0; i < count; i++) {
		pthread_join(threads[i].thread, NULL);
		if (!why && threads[i].why[0])
			why = threads[i].why;
	}
	ok(!why, "%s%s%s", name, why ? ": " : "", why ? why : "");
}

/* ---- what a thread does with a process ---- */

static int list(struct thread *thread, enum aior_state state)
{
	struct aior_image image;
	int ret = 0;

	if (aior_list(thread->target->pid, &image, &thread->error))
		return wrong(thread, "list: %s", thread->error.message);
	if (image.pid != thread->target->pid || image.ring_count != RINGS)
		ret = wrong(
		    thread, "list: %zu rings of process %d", image.ring_count, (int)image.pid);
	for (size_t i = 0; i < image.ring_count && !ret; i++)
		if (image.rings[i].state != state)
			ret = wrong(thread, "list: a ring is in state %d", image.rings[i].state);
	aior_image_free(&image);
	return ret;
}

static int is_same_event(struct aior_event a, struct aior_event b)
{
	return a.data == b.data && a.obj == b.obj && a.res == b.res && a.res2 == b.res2;
}

/* Restored in a fresh process it has the same events. */
static int run_image(struct thread *thread, const struct aior_image *image)
{
	struct aior_image result;
	int ret = 0;

	if (aior_check_host(image, &thread->error) || aior_run(image, &result, &thread->error))
		return wrong(thread, "run: %s", thread->error.message);
	if (result.ring_count != image->ring_count)
		ret = wrong(thread, "run: %zu rings", result.ring_count);
	for (size_t i = 0; i < result.ring_count && !ret; i++) {
		if (result.rings[i].pending != image->rings[i].pending)
			ret = wrong(thread, "run: other events");
		for (uint32_t k = 0; k < result.rings[i].pending && !ret; k++)
			if (!is_same_event(
				aior_event(&result.rings[i], k), aior_event(&image->rings[i], k)))
				ret = wrong(thread, "run: event %u is another", k);
	}
	aior_image_free(&result);
	return ret;
}

/* The same image has the same bytes as a core, whoever else writes one at the moment. */
static int write_cores(struct thread *thread, const struct aior_image *image)
{
	char paths[2][128], *texts[2] = {NULL, NULL};
	struct stat stats[2];
	int ret = 0;

	for (int i = 0; i < 2 && !ret; i++) {
		int fd;

		snprintf(paths[i], sizeof(paths[i]), "%s/%u.%d", folder, thread->index, i);
		if (aior_write_core(image, paths[i], &thread->error)) {
			ret = wrong(thread, "write: %s", thread->error.message);
			break;
		}
		fd = open(paths[i], O_RDONLY | O_CLOEXEC);
		fstat(fd, &stats[i]);
		texts[i] = malloc((size_t)stats[i].st_size + 1);
		if (read(fd, texts[i], (size_t)stats[i].st_size) != stats[i].st_size)
			ret = wrong(thread, "write: a core that cannot be read");
		close(fd);
		unlink(paths[i]);
	}
	if (!ret && (stats[0].st_size != stats[1].st_size ||
			memcmp(texts[0], texts[1], (size_t)stats[0].st_size) != 0))
		ret = wrong(thread, "write: two cores of one image differ");
	free(texts[0]);
	free(texts[1]);
	return ret;
}

static int snapshot(struct thread *thread)
{
	struct aior_image image;
	int ret = 0;

	if (aior_snapshot(thread->target->pid, &image, &thread->error))
		return wrong(thread, "snapshot: %s", thread->error.message);
	if (image.pid != thread->target->pid || image.ring_count != RINGS ||
	    image.thread_count != DRIVERS + 1)
		ret = wrong(thread, "snapshot: %zu rings and %zu threads of process %d",
		    image.ring_count, image.thread_count, (int)image.pid);
	if (!ret)
		ret = write_cores(thread, &image);
	if (!ret && random_below(thread, 2) && aior_compact_image(&image, &thread->error))
		ret = wrong(thread, "compact: %s", thread->error.message);
	if (!ret)
		ret = run_image(thread, &image);
	aior_image_free(&image);
	return ret;
}

static int is_parked(pid_t pid)
{
	char path[64], text[2048] = "";
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	return n > 0 && strstr(text, "\nTracerPid:\t0\n") &&
	       strstr(text, "\nSigBlk:\tfffffffffffbfeff\n");
}

static int check_outcome(
    struct thread *thread, const char *what, const struct aior_outcome *outcome, int is_staged)
{
	if (outcome->pid != thread->target->pid || outcome->was_so ||
	    outcome->is_staged != is_staged || outcome->rings.ring_count != RINGS ||
	    outcome->rings.lost_count || outcome->thread_count != DRIVERS + 1)
		return wrong(thread,
		    "%s: process %d, was_so %d, is_staged %d, %zu rings, %zu lost polls, %zu "
		    "threads",
		    what, (int)outcome->pid, outcome->was_so, outcome->is_staged,
		    outcome->rings.ring_count, outcome->rings.lost_count, outcome->thread_count);
	return 0;
}

static int stage_and_restore(struct thread *thread)
{
	struct aior_options options = {
	    .timeout_ms = PATIENCE_MS, .room_cpus = random_below(thread, 2) ? 64 : 0};
	pid_t pid = thread->target->pid;
	struct aior_outcome outcome;
	int ret;

	if (aior_stage(&pid, 1, &options, &outcome, &thread->error)) {
		aior_outcome_free(&outcome);
		return wrong(thread, "stage: %s", thread->error.message);
	}
	ret = check_outcome(thread, "stage", &outcome, 1);
	aior_outcome_free(&outcome);
	if (!ret && !is_parked(pid))
		ret = wrong(thread, "stage: it is not parked");
	if (!ret)
		ret = list(thread, AIOR_STAGED);
	if (aior_restore(&pid, 1, &options, &outcome, &thread->error))
		ret = wrong(thread, "restore: %s", thread->error.message);
	if (!ret)
		ret = check_outcome(thread, "restore", &outcome, 0);
	aior_outcome_free(&outcome);
	return ret;
}

/* ---- a thread that is a tracer itself ---- */

struct held {
	pid_t tids[64];
	size_t count;
};

static int is_held(const struct held *held, pid_t tid)
{
	for (size_t i = 0; i < held->count; i++)
		if (held->tids[i] == tid)
			return 1;
	return 0;
}

/* A signal on its way (there is none here) would have to be handed over. */
static void hold(struct held *held, pid_t tid)
{
	int status;

	if (ptrace(PTRACE_SEIZE, tid, 0, 0))
		return;
	ptrace(PTRACE_INTERRUPT, tid, 0, 0);
	if (waitpid(tid, &status, __WALL) == tid && WIFSTOPPED(status))
		held->tids[held->count++] = tid;
}

static void hold_all(struct held *held, pid_t pid)
{
	char path[64];
	size_t before;

	held->count = 0;
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	do {
		DIR *dir = opendir(path);
		struct dirent *entry;

		before = held->count;
		while (dir && (entry = readdir(dir)))
			if (atoi(entry->d_name) && !is_held(held, atoi(entry->d_name)))
				hold(held, atoi(entry->d_name));
		if (dir)
			closedir(dir);
	} while (held->count != before);
}

static int trace_and_stage(struct thread *thread)
{
	struct aior_options options = {.timeout_ms = PATIENCE_MS};
	pid_t pid = thread->target->pid;
	struct aior_samples *samples = NULL;
	struct aior_outcome outcome;
	struct held held;
	int ret = 0;

	if (aior_sample(pid, &samples, &thread->error))
		return wrong(thread, "sample: %s", thread->error.message);
	options.samples = samples;
	hold_all(&held, pid);
	if (aior_stage_traced(pid, 0, &options, &outcome, &thread->error))
		ret = wrong(thread, "stage_traced: %s", thread->error.message);
	else
		ret = check_outcome(thread, "stage_traced", &outcome, 0);
	aior_outcome_free(&outcome);
	if (!ret)
		ret = list(thread, AIOR_STAGED);
	if (aior_restore_traced(pid, 0, &options, &outcome, &thread->error))
		ret = wrong(thread, "restore_traced: %s", thread->error.message);
	aior_outcome_free(&outcome);
	for (size_t i = 0; i < held.count; i++)
		ptrace(PTRACE_DETACH, held.tids[i], 0, 0);
	aior_samples_free(samples);
	return ret;
}

static int look_at_host(struct thread *thread)
{
	struct aior_host host;

	if (aior_get_host(&host, &thread->error))
		return wrong(thread, "host: %s", thread->error.message);
	return host.aio_errno || !host.possible_cpus ? wrong(thread, "host: what it says") : 0;
}

static int do_anything(struct thread *thread)
{
	switch (random_below(thread, 8)) {
	case 0:
	case 1:
		return snapshot(thread);
	case 2:
	case 3:
	case 4:
		return stage_and_restore(thread);
	case 5:
		return trace_and_stage(thread);
	case 6:
		return look_at_host(thread);
	default:
		return list(thread, AIOR_LIVE);
	}
}

static void *work(void *data)
{
	struct thread *thread = data;

	while (thread->rounds-- && !thread->why[0])
		do_anything(thread);
	return NULL;
}

static void test_different_targets(void)
{
	start_targets(THREADS);
	begin_threads(THREADS, ROUNDS, work);
	join_threads(THREADS, "each thread works on a process of its own");
	end_targets(THREADS, "processes of their own");
}

/* ---- failures ---- */

/* A failure and what it must say: that it is about what this very thread has asked. */
static int fails(struct thread *thread, int ret, int err, const char *about)
{
	if (ret != -1 || thread->error.err != err || !strstr(thread->error.message, about))
		return wrong(thread, "wanted errno %d and \"%s\": %d, errno %d, %s", err, about,
		    ret, thread->error.err, thread->error.message);
	return 0;
}

static int fail_somehow(struct thread *thread)
{
	pid_t nobody = NO_PROCESS + (pid_t)thread->index, kernel = 2;
	struct aior_ring ring = {
	    .addr = 0x10000000u + 0x1000u * thread->index, .len = 4096, .nr = 127};
	struct aior_image image = {
	    .arch = aior_host_arch(), .page_size = 4096, .ring_count = 1, .rings = &ring};
	struct aior_image result;
	struct aior_samples *samples = NULL;
	char number[32], addr[32], path[64];

	snprintf(number, sizeof(number), "%d", (int)nobody);
	snprintf(addr, sizeof(addr), "ring 0x%llx", (unsigned long long)ring.addr);
	snprintf(path, sizeof(path), "/there/is/none/%u", thread->index);
	memset(&thread->error, 0x5a, sizeof(thread->error));
	switch (random_below(thread, 9)) {
	case 0:
		return fails(thread, aior_list(nobody, &result, &thread->error), ESRCH, number);
	case 1:
		return fails(thread, aior_snapshot(nobody, &result, &thread->error), ESRCH, number);
	case 2:
		return fails(
		    thread, aior_stage(&nobody, 1, NULL, NULL, &thread->error), ESRCH, number);
	case 3:
		return fails(
		    thread, aior_restore(&nobody, 1, NULL, NULL, &thread->error), ESRCH, number);
	case 4:
		return fails(thread, aior_sample(nobody, &samples, &thread->error), ESRCH, number);
	case 5:
		return fails(thread, aior_run(&image, &result, &thread->error), EINVAL, addr);
	case 6:
		return fails(thread, aior_write_core(&image, path, &thread->error), EINVAL, addr);
	case 7:
		return fails(thread, aior_stage(&kernel, 1, NULL, NULL, &thread->error), EINVAL,
		    "process 2 is a kernel thread");
	default:
		image.ring_count = 0;
		return fails(thread, aior_write_core(&image, path, &thread->error), ENOENT, path);
	}
}

static void *fail_often(void *data)
{
	struct thread *thread = data;

	while (thread->rounds-- && !thread->why[0])
		fail_somehow(thread);
	return NULL;
}

static void test_failures(void)
{
	begin_threads(THREADS, 20 * ROUNDS, fail_often);
	join_threads(THREADS, "each thread's failures are about what it has asked");
}

/* ---- one process ---- */

enum { DONE, WAS_SO, REFUSED };

/* The other one is at it: it is said to be busy, or found to be as it was to be made. */
static int stage_or_restore(struct thread *thread)
{
	struct aior_options options = {.timeout_ms = PATIENCE_MS};
	int stages = random_below(thread, 2) == 0;
	pid_t pid = targets[0].pid;
	struct aior_outcome outcome;
	int ret = stages ? aior_stage(&pid, 1, &options, &outcome, &thread->error)
			 : aior_restore(&pid, 1, &options, &outcome, &thread->error);

	if (!ret && outcome.was_so) {
		thread->done[WAS_SO]++;
		if (outcome.is_staged != stages)
			wrong(thread, "%s: was so, and is_staged is %d",
			    stages ? "stage" : "restore", outcome.is_staged);
	} else if (!ret) {
		thread->done[DONE]++;
		if (outcome.rings.ring_count != RINGS || outcome.rings.lost_count ||
		    outcome.thread_count != DRIVERS + 1)
			wrong(thread, "%s: %zu rings, %zu threads", stages ? "stage" : "restore",
			    outcome.rings.ring_count, outcome.thread_count);
	} else {
		thread->done[REFUSED]++;
		if (thread->error.err != EBUSY || thread->error.is_unfinished)
			wrong(thread, "%s: errno %d%s, %s", stages ? "stage" : "restore",
			    thread->error.err,
			    thread->error.is_unfinished ? ", and unfinished" : "",
			    thread->error.message);
	}
	aior_outcome_free(&outcome);
	return 0;
}

/* All its rings, each in some state; it may be on its way from one to another. */
static int look_at_it(struct thread *thread)
{
	struct aior_image image;

	if (random_below(thread, 2)) {
		if (aior_list(targets[0].pid, &image, &thread->error))
			return wrong(thread, "list: %s", thread->error.message);
		if (image.ring_count != RINGS)
			wrong(thread, "list: %zu rings", image.ring_count);
	} else {
		if (aior_snapshot(targets[0].pid, &image, &thread->error))
			return thread->error.err == EBUSY || thread->error.err == ENOENT
				   ? 0
				   : wrong(thread, "snapshot: errno %d, %s", thread->error.err,
					 thread->error.message);
		if (image.ring_count != RINGS)
			wrong(thread, "snapshot: %zu rings", image.ring_count);
	}
	aior_image_free(&image);
	return 0;
}

static void *meet(void *data)
{
	struct thread *thread = data;

	while (thread->rounds-- && !thread->why[0]) {
		if (thread->index < THREADS - 1)
			stage_or_restore(thread);
		else
			look_at_it(thread);
	}
	return NULL;
}

static void test_same_target(void)
{
	unsigned long sums[3] = {0};
	pid_t pid;

	start_targets(1);
	pid = targets[0].pid;
	begin_threads(THREADS, 4 * ROUNDS, meet);
	join_threads(THREADS, "all threads work on one process");
	for (size_t i = 0; i < THREADS; i++)
		for (int k = 0; k < 3; k++)
			sums[k] += threads[i].done[k];
	ok(sums[DONE] && sums[WAS_SO] && sums[REFUSED],
	    "%lu times something was done, %lu times it was so, %lu times it was refused",
	    sums[DONE], sums[WAS_SO], sums[REFUSED]);
	ok(!aior_restore(&pid, 1, NULL, NULL, &threads[0].error), "it is restored at the end");
	end_targets(1, "one process");
}

/* ---- what else a program does ---- */

/* Takes whatever any child, or anybody whom a thread traces, has to tell. */
static void take_all(int flags)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG | flags)) > 0)
		for (size_t i = 0; i < THREADS; i++)
			if (targets[i].pid == pid && !WIFSTOPPED(status))
				targets[i].status = status;
}

static void on_child(int signal)
{
	int err = errno;

	(void)signal;
	take_all(0);
	errno = err;
}

static void *reap(void *unused)
{
	(void)unused;
	while (!is_over) {
		take_all(__WALL);
		usleep(50);
	}
	return NULL;
}

/* In place of do_anything(): no tracer of our own, whose stops are taken too. */
static void *work_untraced(void *data)
{
	struct thread *thread = data;

	while (thread->rounds-- && !thread->why[0])
		switch (random_below(thread, 3)) {
		case 0:
			snapshot(thread);
			break;
		case 1:
			list(thread, AIOR_LIVE);
			break;
		default:
			stage_and_restore(thread);
		}
	return NULL;
}

/* A program that waits for all its children, in a thread and in a handler. */
static void test_waits(void)
{
	const struct sigaction action = {.sa_handler = on_child, .sa_flags = SA_RESTART};
	pthread_t reaper;

	start_targets(3);
	sigaction(SIGCHLD, &action, NULL);
	is_over = 0;
	pthread_create(&reaper, NULL, reap, NULL);
	begin_threads(3, ROUNDS, work_untraced);
	join_threads(3, "a program that waits for any child");
	is_over = 1;
	pthread_join(reaper, NULL);
	signal(SIGCHLD, SIG_DFL);
	end_targets(3, "waits for any child");
}

/* Nor does it matter that it does not want to hear of any. */
static void test_ignored_children(void)
{
	start_targets(1);
	signal(SIGCHLD, SIG_IGN);
	begin_threads(1, ROUNDS / 2 + 1, work_untraced);
	join_threads(1, "a program that ignores SIGCHLD");
	signal(SIGCHLD, SIG_DFL);
	end_targets(1, "SIGCHLD ignored");
}

#define MOST_CHILDREN 400

static pid_t children[MOST_CHILDREN];
static unsigned child_count;

/* Children that execute nothing, and hold what they have inherited. */
static void *fork_often(void *unused)
{
	(void)unused;
	while (!is_over && child_count < MOST_CHILDREN) {
		pid_t pid = fork();

		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
		if (pid > 0)
			children[child_count++] = pid;
		usleep(5000);
	}
	return NULL;
}

static void test_forks(void)
{
	pthread_t forker;
	int64_t begin;

	start_targets(2);
	is_over = 0;
	begin = now_ms();
	pthread_create(&forker, NULL, fork_often, NULL);
	begin_threads(2, ROUNDS, work_untraced);
	join_threads(2, "a program that forks");
	is_over = 1;
	pthread_join(forker, NULL);
	ok(child_count > 1 && now_ms() - begin < PATIENCE_MS, "%u children, %lld ms", child_count,
	    (long long)(now_ms() - begin));
	for (unsigned i = 0; i < child_count; i++) {
		kill(children[i], SIGKILL);
		waitpid(children[i], NULL, 0);
	}
	end_targets(2, "forks");
}

/* How many descriptors this program has, besides the standard ones. */
static int count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	int count = 0;

	while ((entry = readdir(dir)))
		count += atoi(entry->d_name) > 2 && atoi(entry->d_name) != dirfd(dir);
	closedir(dir);
	return count;
}

/* As we were executed, and as whoever we execute is. */
static int descriptors_given;

static void *execute_often(void *data)
{
	unsigned *count = data;
	char given[16];

	snprintf(given, sizeof(given), "%d", descriptors_given);
	while (!is_over) {
		int status;
		pid_t pid = fork();

		if (!pid) {
			execl(self_path, "threads.t", "--count-descriptors", given, NULL);
			_exit(127);
		}
		if (waitpid(pid, &status, 0) != pid || status)
			return (void *)(uintptr_t)(status ? (unsigned)status : 1u);
		++*count;
	}
	return NULL;
}

/* A program that is executed has no descriptor of the library's. */
static void test_executes(void)
{
	unsigned count = 0;
	pthread_t thread;
	void *status;

	start_targets(2);
	is_over = 0;
	pthread_create(&thread, NULL, execute_often, &count);
	begin_threads(2, ROUNDS, work_untraced);
	join_threads(2, "a program that executes others");
	is_over = 1;
	pthread_join(thread, &status);
	ok(!status && count, "%u were executed: none has a descriptor that is not its own", count);
	end_targets(2, "executes others");
}

/* ---- cancellation ---- */

/* Its end is asked for at any time; it comes between two rounds, in which there is no call but the library's. */
static void *work_until_cancelled(void *data)
{
	struct thread *thread = data;
	pid_t pid = thread->target->pid;
	struct aior_image image;

	for (;;) {
		if (aior_snapshot(pid, &image, &thread->error) ||
		    aior_stage(&pid, 1, NULL, NULL, &thread->error)) {
			wrong(thread, "%s", thread->error.message);
			return NULL;
		}
		aior_image_free(&image);
		if (aior_restore(&pid, 1, NULL, NULL, &thread->error)) {
			wrong(thread, "%s", thread->error.message);
			return NULL;
		}
		pthread_testcancel();
	}
}

static void test_cancellation(void)
{
	unsigned rounds = ROUNDS / 2 + 2, cancelled = 0;
	const char *why = NULL;
	int before;

	start_targets(1);
	before = count_descriptors();
	while (rounds-- && !why) {
		void *result;

		begin_threads(1, 1, work_until_cancelled);
		usleep(random_below(&threads[0], 150000));
		pthread_cancel(threads[0].thread);
		pthread_join(threads[0].thread, &result);
		cancelled += result == PTHREAD_CANCELED;
		if (threads[0].why[0])
			why = threads[0].why;
		else
			why = why_not_well(&targets[0]);
	}
	ok(!why && cancelled, "%u threads are cancelled%s%s", cancelled, why ? ": " : "",
	    why ? why : "");
	ok(count_descriptors() == before, "%d descriptors, and as many as before",
	    count_descriptors());
	end_targets(1, "cancelled");
}

int main(int argc, char **argv)
{
	const char *build = getenv("BUILD");
	static const struct {
		const char *name;
		void (*test)(void);
	} tests[] = {
	    {"different", test_different_targets},
	    {"failures", test_failures},
	    {"same", test_same_target},
	    {"waits", test_waits},
	    {"ignored", test_ignored_children},
	    {"forks", test_forks},
	    {"executes", test_executes},
	    {"cancellation", test_cancellation},
	};

	if (argc == 3 && !strcmp(argv[1], "--count-descriptors"))
		return count_descriptors() != atoi(argv[2]);
	descriptors_given = count_descriptors();
	snprintf(worker_path, sizeof(worker_path), "%s/tests/worker", build ? build : BLOB_DIR);
	if (readlink("/proc/self/exe", self_path, sizeof(self_path) - 1) < 0)
		return 1;
	snprintf(folder, sizeof(folder), "/tmp/aior-threads-XXXXXX");
	if (!mkdtemp(folder))
		return 1;
	tap_start();
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		if (argc == 2 && strcmp(argv[1], tests[i].name) != 0)
			continue;
		alarm(TAP_PATIENCE);
		in_child(tests[i].name, tests[i].test);
	}
	rmdir(folder);
	return tap_end();
}
