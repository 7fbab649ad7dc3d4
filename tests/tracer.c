/* SPDX-License-Identifier: MIT */
/*
 * A tool that stops the threads of a process itself, and stages its rings by the library: so it can be killed in the
 * middle of that.
 *
 *   tracer PID [--parks] [--restores]
 *
 * --parks     the threads are parked, and left so
 * --restores  the rings are restored before the threads go on. Without either it ends with the threads in its hands
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "aio-restorer.h"
#include "internal.h"

#define MOST_THREADS 256

static pid_t tids[MOST_THREADS];
static size_t count;

static int seize(pid_t tid, void *data)
{
	int status;

	(void)data;
	for (size_t i = 0; i < count; i++)
		if (tids[i] == tid)
			return 0;
	if (count == MOST_THREADS || ptrace(PTRACE_SEIZE, tid, 0, 0))
		return 0;
	ptrace(PTRACE_INTERRUPT, tid, 0, 0);
	waitpid(tid, &status, __WALL);
	tids[count++] = tid;
	return 0;
}

static _Noreturn void fail(const char *what, const struct aior_error *error)
{
	fprintf(stderr, "tracer: %s: %s\n", what, error->message);
	exit(1);
}

int main(int argc, char **argv)
{
	struct aior_samples *samples = NULL;
	struct aior_options options = {.timeout_ms = -1};
	struct aior_error error;
	int restores = 0;
	size_t before;
	pid_t pid = argc > 1 ? atoi(argv[1]) : 0;

	for (int i = 2; i < argc; i++) {
		options.parks |= !strcmp(argv[i], "--parks");
		restores |= !strcmp(argv[i], "--restores");
	}
	if (aior_sample(pid, &samples, &error))
		fail("sample", &error);
	options.samples = samples;
	do {
		before = count;
		aior_each_task(pid, seize, NULL);
	} while (count > before);
	if (aior_stage_traced(pid, 0, &options, NULL, &error))
		fail("stage", &error);
	if (restores && aior_restore_traced(pid, 0, &options, NULL, &error))
		fail("restore", &error);
	for (size_t i = 0; (restores || options.parks) && i < count; i++)
		ptrace(PTRACE_DETACH, tids[i], 0, 0);
	aior_samples_free(samples);
	return 0;
}
