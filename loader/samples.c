/* SPDX-License-Identifier: MIT */
/* What threads are doing right before another tool stops them. */
#include <errno.h>
#include <stdlib.h>

#include "stop.h"

struct aior_samples {
	size_t count, room;
	struct sampled {
		pid_t tid;
		struct aior_sample sample;
	} * threads;
};

static struct sampled *find(const struct aior_samples *samples, pid_t tid)
{
	for (size_t i = 0; samples && i < samples->count; i++)
		if (samples->threads[i].tid == tid)
			return &samples->threads[i];
	return NULL;
}

struct aior_sample aior_find_sample(const struct aior_samples *samples, pid_t tid)
{
	const struct sampled *found = find(samples, tid);

	return found ? found->sample : (struct aior_sample){.nr = -1};
}

static struct sampled *add(struct aior_samples *samples, pid_t tid)
{
	if (samples->count == samples->room) {
		size_t room = samples->room ? 2 * samples->room : 16;
		struct sampled *larger =
		    reallocarray(samples->threads, room, sizeof(*samples->threads));

		if (!larger)
			return NULL;
		samples->threads = larger;
		samples->room = room;
	}
	samples->threads[samples->count] = (struct sampled){.tid = tid, .sample = {.nr = -1}};
	return &samples->threads[samples->count++];
}

struct sampling {
	const struct aior_calls *calls;
	struct aior_samples *samples;
	uint64_t end;
	pid_t in_submit; /* it does not come out */
};

/*
 * A thread that is frozen already (by its cgroup) shows no call on some: then an earlier look knows better. One
 * that is out of date does no harm: see aior_is_of_this_wait().
 */
static int sample_task(pid_t tid, void *data)
{
	struct sampling *sampling = data;
	struct aior_sample sample;
	struct sampled *thread;

	if (!aior_leaves_io_submit(tid, sampling->calls, sampling->end)) {
		sampling->in_submit = tid;
		return -1;
	}
	if (!ARCH_LOSES_ARGUMENT)
		return 0;
	thread = find(sampling->samples, tid);
	if (!thread)
		thread = add(sampling->samples, tid);
	if (!thread)
		return -1;
	sample = aior_sample_thread(tid);
	if (sample.nr >= 0)
		thread->sample = sample;
	return 0;
}

int aior_sample(pid_t pid, struct aior_samples **samples, struct aior_error *error)
{
	struct sampling sampling = {.end = aior_now(CLOCK_MONOTONIC) + AIOR_PATIENCE_NS};
	struct aior_process process;
	AIOR_UNCANCELLED;

	if (error)
		memset(error, 0, sizeof(*error));
	if (aior_process_open(pid, &process, error))
		return -1;
	sampling.calls = aior_calls_of(aior_process_arch(&process));
	if (process.is_kernel_thread || !sampling.calls || !aior_has_rings(&process))
		return 0;
	if (ARCH_LOSES_ARGUMENT && !*samples)
		*samples = calloc(1, sizeof(**samples));
	sampling.samples = *samples;
	if (ARCH_LOSES_ARGUMENT && !*samples)
		return aior_fail(error, ENOMEM, "stop", "out of memory");
	if (!aior_each_task(pid, sample_task, &sampling))
		return 0;
	if (!sampling.in_submit)
		return aior_not_allowed(&process, errno, error);
	return aior_fail(error, ETIMEDOUT, "stop",
	    "thread %d does not come out of io_submit: try again when its storage answers",
	    (int)sampling.in_submit);
}

void aior_samples_free(struct aior_samples *samples)
{
	if (samples)
		free(samples->threads);
	free(samples);
}
