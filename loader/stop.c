/* SPDX-License-Identifier: MIT */
/*
 * Stops all threads of a process, so that nobody but the process itself could tell: ptrace's SEIZE
 * and INTERRUPT send no signal and show the parent nothing; ptrace(2).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "arch.h"
#include "internal.h"

#define PATIENCE_MS 10000
/* How long some threads may stand still because another one is not out of io_submit. */
#define HOLD_MS 100

struct stopped_thread {
	pid_t tid;
	int signal;     /* it was about to take this one; it gets it when it goes on */
	int is_stopped; /* it has stopped, and not exited */
};

struct aior_stopped {
	struct stopped_thread *threads;
	size_t count, room;
};

/*
 * Calls that a stop breaks with EINTR where nothing had to end; signal(7), "Interruption of system
 * calls and library functions by stop signals". It names most of them; the calls on sockets are
 * broken only if the socket has a time limit (SO_RCVTIMEO, SO_SNDTIMEO). EINTR says that nothing
 * was transferred, so all of them can be made again. All others the kernel restarts by itself.
 */
static const int broken_by_stop[] = {
    SYS_io_getevents,
    SYS_io_pgetevents,
    SYS_io_uring_enter,
    SYS_epoll_pwait,
    SYS_rt_sigtimedwait,
    SYS_recvmsg,
    SYS_recvmmsg,
    SYS_sendmsg,
    SYS_sendmmsg,
    SYS_accept4,
    SYS_read,
    SYS_readv,
    SYS_write,
    SYS_writev,
#ifdef SYS_epoll_wait
    SYS_epoll_wait,
#endif
#ifdef SYS_epoll_pwait2
    SYS_epoll_pwait2,
#endif
#ifdef SYS_semop
    SYS_semop,
#endif
#ifdef SYS_semtimedop
    SYS_semtimedop,
#endif
#ifdef SYS_recvfrom
    SYS_recvfrom,
#endif
#ifdef SYS_sendto
    SYS_sendto,
#endif
#ifdef SYS_connect
    SYS_connect,
#endif
#ifdef SYS_accept
    SYS_accept,
#endif
};

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Sleeps a little, and a little longer each time. */
static void nap(unsigned *naps)
{
	struct timespec time = {.tv_nsec = *naps < 20 ? 20000 : 1000000};

	++*naps;
	nanosleep(&time, NULL);
}

static int is_in_io_submit(pid_t tid)
{
	char path[64], text[32];
	ssize_t n = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/syscall", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	return text[0] != 'r' && strtol(text, NULL, 10) == SYS_io_submit;
}

/*
 * A synchronous request that is interrupted inside io_submit delivers EINTR as its event, so a
 * thread is let out of it first. Returns 0 if that takes longer.
 */
static int leaves_io_submit(pid_t tid, int64_t ms)
{
	int64_t end = now_ms() + ms;
	unsigned naps = 0;

	while (is_in_io_submit(tid)) {
		if (now_ms() >= end)
			return 0;
		nap(&naps);
	}
	return 1;
}

static int wait_for_stop(struct stopped_thread *thread, struct aior_error *error)
{
	int64_t end = now_ms() + PATIENCE_MS;
	unsigned naps = 0;
	int status;
	pid_t pid;

	for (;;) {
		pid = waitpid(thread->tid, &status, __WALL | WNOHANG);
		if (pid < 0 && errno == EINTR)
			continue;
		if (pid)
			break;
		if (now_ms() > end)
			return aior_fail(error, ETIMEDOUT, "stop",
			    "thread %d cannot be stopped: it is in vfork, or waits for "
			    "a device; try again when it goes on",
			    (int)thread->tid);
		nap(&naps);
	}
	if (pid < 0 || !WIFSTOPPED(status))
		return 0; /* it has exited meanwhile */
	thread->is_stopped = 1;
	/* A stop before a signal's delivery: the signal is ours to hand over. */
	if (status >> 16 == 0)
		thread->signal = WSTOPSIG(status);
	return 0;
}

static struct stopped_thread *add_thread(struct aior_stopped *stopped, pid_t tid)
{
	if (stopped->count == stopped->room) {
		size_t room = stopped->room ? 2 * stopped->room : 16;
		void *larger = reallocarray(stopped->threads, room, sizeof(*stopped->threads));

		if (!larger)
			return NULL;
		stopped->threads = larger;
		stopped->room = room;
	}
	stopped->threads[stopped->count] = (struct stopped_thread){.tid = tid};
	return &stopped->threads[stopped->count++];
}

struct stopping {
	struct aior_stopped *stopped;
	const struct aior_process *process;
	struct aior_error *error;
	int found;       /* threads that this pass found */
	int has_failed;  /* and `error` says why */
	pid_t in_submit; /* it does not come out of io_submit while others are stopped */
};

static int refuse_seize(const struct aior_process *process, int err, struct aior_error *error)
{
	struct aior_process again;

	if (process->is_kernel_thread)
		return aior_fail(
		    error, EINVAL, "stop", "process %d is a kernel thread", (int)process->pid);
	if (!aior_process_open(process->pid, &again, NULL) && again.tracer)
		return aior_fail(error, EBUSY, "stop",
		    "process %d is traced by process %d (a debugger?): end that first",
		    (int)process->pid, (int)again.tracer);
	return aior_fail(error, err, "stop",
	    "process %d may not be traced by you: be its owner or root (and see ptrace(2), "
	    "\"Ptrace access mode checking\")",
	    (int)process->pid);
}

static int stop_task(pid_t tid, void *data)
{
	struct stopping *stopping = data;
	struct aior_stopped *stopped = stopping->stopped;
	struct stopped_thread *thread;

	for (size_t i = 0; i < stopped->count; i++)
		if (stopped->threads[i].tid == tid)
			return 0;
	if (!leaves_io_submit(tid, HOLD_MS)) {
		stopping->in_submit = tid;
		return -1;
	}
	if (ptrace(PTRACE_SEIZE, tid, 0, 0)) {
		int err = errno;

		/* An exited thread that is still listed says EPERM too. */
		if (err == ESRCH || aior_task_has_exited(tid))
			return 0;
		stopping->has_failed = 1;
		return refuse_seize(stopping->process, err, stopping->error);
	}
	stopping->found++;
	ptrace(PTRACE_INTERRUPT, tid, 0, 0);
	thread = add_thread(stopped, tid);
	if (!thread)
		aior_fail(stopping->error, ENOMEM, "stop", "out of memory");
	stopping->has_failed = !thread || wait_for_stop(thread, stopping->error);
	return stopping->has_failed ? -1 : 0;
}

/* Stops all threads, or none. */
static int try_to_stop(struct stopping *stopping)
{
	struct aior_stopped *stopped = calloc(1, sizeof(*stopped));
	const struct aior_process *process = stopping->process;
	int ret;

	if (!stopped)
		return aior_fail(stopping->error, ENOMEM, "stop", "out of memory");
	stopping->stopped = stopped;
	stopping->in_submit = 0;
	/* Until a pass finds no new thread: stopped threads make none. */
	do {
		stopping->found = 0;
		ret = aior_each_task(process->pid, stop_task, stopping);
	} while (!ret && stopping->found);
	if (!ret && stopped->count)
		return 0;
	aior_continue(stopped);
	if (!stopping->has_failed && !stopping->in_submit)
		aior_fail(
		    stopping->error, ESRCH, "stop", "process %d has exited", (int)process->pid);
	return -1;
}

int aior_stop(
    const struct aior_process *process, struct aior_stopped **stopped, struct aior_error *error)
{
	struct stopping stopping = {.process = process, .error = error};
	int64_t end = now_ms() + PATIENCE_MS, left;

	while (try_to_stop(&stopping)) {
		if (!stopping.in_submit)
			return -1;
		/* What it waits for may be up to a thread that we had stopped. */
		left = end - now_ms();
		if (left <= 0 || !leaves_io_submit(stopping.in_submit, left))
			return aior_fail(error, ETIMEDOUT, "stop",
			    "thread %d does not come out of io_submit: try again when its storage "
			    "answers",
			    (int)stopping.in_submit);
	}
	*stopped = stopping.stopped;
	return 0;
}

size_t aior_stopped_count(const struct aior_stopped *stopped)
{
	return stopped->count;
}

static int get_regs(pid_t tid, void *regs, size_t *len)
{
	struct iovec vec = {.iov_base = regs, .iov_len = *len};

	if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &vec))
		return -1;
	*len = vec.iov_len;
	return 0;
}

/* The signal sets in /proc/TID/status, hexadecimal. */
static void read_signals(struct aior_thread *thread)
{
	char path[64], *line = NULL;
	size_t room = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)thread->tid);
	file = fopen(path, "re");
	if (!file)
		return;
	while (getline(&line, &room, file) > 0) {
		if (!strncmp(line, "SigPnd:", 7))
			thread->pending = strtoull(line + 7, NULL, 16);
		else if (!strncmp(line, "SigBlk:", 7))
			thread->blocked = strtoull(line + 7, NULL, 16);
	}
	free(line);
	fclose(file);
}

int aior_stopped_thread(const struct aior_stopped *stopped, size_t i, struct aior_thread *thread)
{
	unsigned char regs[1024];
	size_t len = sizeof(regs);

	if (!stopped->threads[i].is_stopped)
		return -1;
	thread->tid = stopped->threads[i].tid;
	thread->stop_signal = stopped->threads[i].signal;
	if (get_regs(thread->tid, regs, &len))
		return -1;
	thread->regs = malloc(len);
	if (!thread->regs)
		return -1;
	memcpy(thread->regs, regs, len);
	thread->regs_len = len;
	read_signals(thread);
	return 0;
}

/* A wait that the stop broke is made again. */
static void restart_wait(pid_t tid)
{
	arch_regs regs;
	struct iovec vec = {.iov_base = &regs, .iov_len = sizeof(regs)};

	if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &vec) || vec.iov_len != sizeof(regs) ||
	    arch_result(&regs) != -EINTR)
		return;
	for (size_t i = 0; i < sizeof(broken_by_stop) / sizeof(broken_by_stop[0]); i++) {
		if (arch_syscall(&regs) != broken_by_stop[i])
			continue;
		arch_restart(&regs);
		ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &vec);
		return;
	}
}

void aior_continue(struct aior_stopped *stopped)
{
	for (size_t i = 0; i < stopped->count; i++) {
		struct stopped_thread *thread = &stopped->threads[i];

		if (!thread->is_stopped)
			continue;
		restart_wait(thread->tid);
		ptrace(PTRACE_DETACH, thread->tid, 0, thread->signal);
	}
	free(stopped->threads);
	free(stopped);
}
