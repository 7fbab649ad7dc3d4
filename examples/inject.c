/* SPDX-License-Identifier: MIT */
/*
 * A tool that traces a process, and stages and restores its rings with the library: what a checkpoint
 * tool does around saving the memory. `inject PID` does it to any process; without a PID it makes one
 * of its own, which waits in io_getevents and notices nothing.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <aio-restorer.h>

#define MOST_THREADS 1024

static pid_t threads[MOST_THREADS];
static int thread_count;

static int is_held(pid_t tid)
{
	for (int i = 0; i < thread_count; i++)
		if (threads[i] == tid)
			return 1;
	return 0;
}

/* A signal that is just being delivered must be through first. */
static void hold(pid_t tid)
{
	int status;

	if (ptrace(PTRACE_SEIZE, tid, 0, 0)) {
		if (errno == ESRCH)
			return; /* it has exited meanwhile */
		err(1, "thread %d cannot be traced", (int)tid);
	}
	if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) && errno != ESRCH)
		err(1, "thread %d cannot be stopped", (int)tid);
	for (;;) {
		if (waitpid(tid, &status, __WALL) != tid || !WIFSTOPPED(status))
			return;
		if (status >> 16 == PTRACE_EVENT_STOP)
			break;
		ptrace(PTRACE_CONT, tid, 0, (long)WSTOPSIG(status));
	}
	threads[thread_count++] = tid;
}

/* All threads, and those that they start until they stand still, too. */
static void hold_all(pid_t pid)
{
	char path[64];
	int before;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	do {
		struct dirent *entry;
		DIR *folder = opendir(path);

		if (!folder)
			err(1, "process %d", (int)pid);
		before = thread_count;
		while ((entry = readdir(folder)) && thread_count < MOST_THREADS)
			if (*entry->d_name != '.' && !is_held(atoi(entry->d_name)))
				hold(atoi(entry->d_name));
		closedir(folder);
	} while (thread_count != before);
}

static void let_all_go(void)
{
	while (thread_count)
		ptrace(PTRACE_DETACH, threads[--thread_count], 0, 0);
}

/* Mappings that only the kernel could make again. */
static int count_live(pid_t pid)
{
	char line[512];
	int count = 0;
	FILE *maps;

	snprintf(line, sizeof(line), "/proc/%d/maps", (int)pid);
	maps = fopen(line, "r");
	while (maps && fgets(line, sizeof(line), maps))
		count += strstr(line, "/[aio]") != NULL;
	if (maps)
		fclose(maps);
	return count;
}

static void checkpoint(pid_t pid)
{
	struct aior_samples *samples = NULL;
	struct aior_outcome outcome;
	struct aior_error error;

	/* What the threads are doing is asked before they stand still: afterwards nobody knows all of it. */
	if (aior_sample(pid, &samples, &error))
		errx(1, "%s", error.message);
	hold_all(pid);
	/* Parked: brought back elsewhere from what is saved, the threads sleep until the rings are restored. */
	struct aior_options options = {.timeout_ms = 10000, .parks = 1, .samples = samples};
	if (aior_stage_traced(pid, 0, &options, &outcome, &error)) {
		let_all_go(); /* all is as it was */
		errx(1, "%s", error.message);
	}
	printf("staged: %zu ring, %zu pending, %zu poll; %d live\n", outcome.rings.ring_count,
	    outcome.rings.pending, outcome.rings.poll_count, count_live(pid));
	aior_outcome_free(&outcome);

	/* Here a tool saves the memory. The process may also end here, and come back elsewhere. */

	if (aior_restore_traced(pid, 0, &options, &outcome, &error))
		errx(1, "%s", error.message);
	printf("restored: %zu ring; %d live\n", outcome.rings.ring_count, count_live(pid));
	fflush(stdout);
	aior_outcome_free(&outcome);
	aior_samples_free(samples);
	let_all_go();
}

/* A process that knows nothing of all this: it waits for two events, and one of them is there. */
static int work(int ready, int end)
{
	static char byte;
	struct iocb read_it = {.aio_data = 1,
	    .aio_lio_opcode = IOCB_CMD_PREAD,
	    .aio_fildes = (unsigned)open("/dev/zero", O_RDONLY),
	    .aio_buf = (unsigned long)&byte,
	    .aio_nbytes = 1};
	struct iocb poll_it = {.aio_data = 2,
	    .aio_lio_opcode = IOCB_CMD_POLL,
	    .aio_fildes = (unsigned)end,
	    .aio_buf = POLLIN};
	struct iocb *iocbs[] = {&read_it, &poll_it};
	struct io_event events[2];
	aio_context_t ctx = 0;

	if (syscall(SYS_io_setup, 8, &ctx) || syscall(SYS_io_submit, ctx, 2, iocbs) != 2 ||
	    write(ready, "", 1) != 1)
		err(1, "io_setup and io_submit");
	if (syscall(SYS_io_getevents, ctx, 2, 2, events, NULL) != 2)
		err(1, "io_getevents");
	for (int i = 0; i < 2; i++) {
		if (events[i].res <= 0)
			errx(1, "request %llu has failed", events[i].data);
		printf("process: data %llu\n", events[i].data);
	}
	return 0;
}

int main(int argc, char **argv)
{
	int ready[2], ends[2], status;
	pid_t child;
	char byte;

	if (argc > 1) {
		checkpoint((pid_t)atoi(argv[1]));
		return 0;
	}
	if (pipe(ready) || pipe(ends))
		err(1, "pipe");
	child = fork();
	if (!child)
		exit(work(ready[1], ends[0]));
	if (child < 0 || read(ready[0], &byte, 1) != 1)
		err(1, "the process has not started");
	checkpoint(child);
	if (write(ends[1], "", 1) != 1 || waitpid(child, &status, 0) != child)
		err(1, "the process");
	return status ? 1 : 0;
}
