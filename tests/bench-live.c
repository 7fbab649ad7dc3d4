/* SPDX-License-Identifier: MIT */
/*
 * How long a process stands still that is staged and restored by another one. Grace periods of RCU are most of
 * it, and no two are alike: so a process with one ring takes turns with those that are measured, and what its
 * drain takes is taken for the grace periods of all.
 *
 * usage: bench-live RESULTS.json
 */
#include <errno.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "aio-restorer.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MOST_ROUNDS 64u

struct row {
	const char *name;
	unsigned rings, requests, threads;
	double goal; /* ms beyond the grace periods; 0: none */
};

static const struct row rows[] = {
    {"1 ring, 1 thread", 1, 1, 1, 0},
    {"1 ring, 64 threads", 1, 1, 64, 0},
    /* So many make a ring as large as 1,024 do, and leave others some of fs.aio-max-nr. */
    {"64 rings of 1,024 requests, 64 threads", 64, 1023, 64, 10},
};

enum part {
	STOP,
	PREPARE,
	DRAIN,
	FINISH,
	STAGED,
	BACK_STOP,
	BACK_BLOB,
	BACK_FINISH,
	DOWN,
	BEYOND,
	PARTS
};

static const char *const part_names[PARTS] = {"stop", "prepare", "drain", "finish", "staged",
    "restore_stop", "restore_blob", "restore_finish", "down", "beyond"};

static double ms[COUNT(rows)][PARTS][MOST_ROUNDS];
static unsigned rounds = 48;
static const char *why_not[COUNT(rows)];

static void *sleep_on(void *data)
{
	(void)data;
	for (;;)
		pause();
	return NULL;
}

/* A process that has it all, and sleeps. */
static _Noreturn void be_target(const struct row *row, int ready)
{
	pthread_t thread;
	int err = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (unsigned i = 0; i < row->rings && !err; i++) {
		aio_context_t ctx = 0;

		if (syscall(SYS_io_setup, (long)row->requests, &ctx))
			err = errno;
	}
	for (unsigned i = 1; i < row->threads && !err; i++)
		err = pthread_create(&thread, NULL, sleep_on, NULL);
	if (write(ready, &err, sizeof(err)) != (ssize_t)sizeof(err))
		_exit(1);
	sleep_on(NULL);
	_exit(0);
}

static pid_t start(const struct row *row, const char **why)
{
	int ready[2], err = EIO;
	pid_t pid;

	if (pipe(ready))
		return -1;
	pid = fork();
	if (!pid)
		be_target(row, ready[1]);
	close(ready[1]);
	if (read(ready[0], &err, sizeof(err)) != (ssize_t)sizeof(err))
		err = EIO;
	close(ready[0]);
	*why = err ? strerror(err) : NULL;
	return pid;
}

static double in_ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

static int measure(pid_t pid, double samples[PARTS][MOST_ROUNDS], unsigned round)
{
	struct aior_outcome staged, restored;
	struct aior_error error;

	if (aior_stage(&pid, 1, NULL, &staged, &error) ||
	    aior_restore(&pid, 1, NULL, &restored, &error)) {
		fprintf(stderr, "bench-live: %s\n", error.message);
		return -1;
	}
	samples[STOP][round] = in_ms(staged.stop_ns);
	samples[PREPARE][round] = in_ms(staged.prepare_ns);
	samples[DRAIN][round] = in_ms(staged.blob_ns);
	samples[FINISH][round] = in_ms(staged.finish_ns);
	samples[STAGED][round] = in_ms(staged.stood_ns);
	samples[BACK_STOP][round] = in_ms(restored.stop_ns);
	samples[BACK_BLOB][round] = in_ms(restored.blob_ns);
	samples[BACK_FINISH][round] = in_ms(restored.finish_ns);
	samples[DOWN][round] = in_ms(staged.stood_ns + restored.stop_ns + restored.prepare_ns +
				     restored.blob_ns + restored.finish_ns);
	aior_outcome_free(&staged);
	aior_outcome_free(&restored);
	return 0;
}

static int by_size(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

static double median(double *values)
{
	qsort(values, rounds, sizeof(*values), by_size);
	return values[rounds / 2];
}

static int measure_all(const pid_t *pids)
{
	for (unsigned round = 0; round < rounds; round++) {
		size_t first = (size_t)rand() % COUNT(rows);

		for (size_t i = 0; i < COUNT(rows); i++) {
			size_t r = (first + i) % COUNT(rows);

			/* Grace periods have a beat, which the rounds must not fall in with. */
			usleep((useconds_t)(rand() % 40000));
			if (!why_not[r] && measure(pids[r], ms[r], round))
				return -1;
		}
		for (size_t r = 0; r < COUNT(rows); r++)
			ms[r][BEYOND][round] = ms[r][DOWN][round] - ms[0][DRAIN][round];
	}
	return 0;
}

static void print(FILE *json)
{
	printf("\nlive: ms that a process stands still, staged and restored by another one; "
	       "beyond: the grace periods\n  %-40s%9s%9s%9s%9s\n",
	    "", "staged", "restored", "in all", "beyond");
	fprintf(json, "{\"format\":1,\"rounds\":%u,\"rows\":[", rounds);
	for (size_t r = 0; r < COUNT(rows); r++) {
		double middle[PARTS];

		fprintf(json, "%s\n{\"name\":\"%s\"", r ? "," : "", rows[r].name);
		if (why_not[r]) {
			printf("  %-40s%s\n", rows[r].name, why_not[r]);
			fprintf(json, ",\"not_measured\":\"%s\"}", why_not[r]);
			continue;
		}
		for (int part = 0; part < PARTS; part++) {
			middle[part] = median(ms[r][part]);
			fprintf(json, ",\"%s\":%.3f", part_names[part], middle[part]);
		}
		printf("  %-40s%9.1f%9.1f%9.1f%9.1f", rows[r].name, middle[STAGED],
		    middle[DOWN] - middle[STAGED], middle[DOWN], middle[BEYOND]);
		if (rows[r].goal > 0) {
			printf(", goal %.0f: %s", rows[r].goal,
			    middle[BEYOND] <= rows[r].goal ? "reached" : "MISSED");
			fprintf(json, ",\"goal\":%g", rows[r].goal);
		}
		printf("\n");
		fprintf(json, "}");
	}
	fprintf(json, "]}\n");
}

int main(int argc, char **argv)
{
	const char *effort = getenv("TEST_EFFORT"); /* percent */
	pid_t pids[COUNT(rows)];
	FILE *json;
	int ret;

	if (argc != 2) {
		fprintf(stderr, "usage: bench-live RESULTS.json\n");
		return 2;
	}
	if (effort && atoi(effort) < 100)
		rounds = 1 + rounds * (unsigned)atoi(effort) / 100;
	for (size_t r = 0; r < COUNT(rows); r++)
		pids[r] = start(&rows[r], &why_not[r]);
	ret = measure_all(pids);
	for (size_t r = 0; r < COUNT(rows); r++) {
		kill(pids[r], SIGKILL);
		waitpid(pids[r], NULL, 0);
	}
	json = ret ? NULL : fopen(argv[1], "we");
	if (!json)
		return 1;
	print(json);
	return fclose(json) ? 1 : 0;
}
