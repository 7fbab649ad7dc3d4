/* SPDX-License-Identifier: MIT */
/* Stages the rings of other processes: all of them, or none. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "staging.h"

/* ---- all of them ---- */

struct work {
	const pid_t *pids;
	size_t count;
	const struct aior_options *options;
	struct aior_outcome *outcomes;
	struct aior_staging *stagings;
	struct aior_fence fence;
	struct aior_error *error;
};

static int is_named_before(const struct work *work, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (work->pids[k] == work->pids[i])
			return 1;
	return 0;
}

/* If somebody else has staged it in between, it is opened anew, and that is found. */
static int prepare(struct aior_staging *staging, pid_t pid, struct aior_error *error)
{
	uint64_t begin = aior_now(CLOCK_MONOTONIC);
	int ret = 0;

	while (!staging->is_done && (ret = aior_staging_prepare(staging, 0, error)) > 0) {
		if (aior_gives_up(pid, begin, error))
			return -1;
		aior_staging_forget(staging);
		ret = aior_staging_open(staging, pid, error);
		if (ret)
			break;
	}
	return ret;
}

static int prepare_all(struct work *work)
{
	for (size_t i = 0; i < work->count; i++) {
		struct aior_staging *staging = &work->stagings[i];

		staging->options = work->options;
		staging->parks = 1;
		staging->fence = &work->fence;
		staging->outcome = &work->outcomes[i];
		if (is_named_before(work, i)) {
			staging->outcome->pid = work->pids[i];
			staging->is_done = staging->outcome->was_so = 1;
		} else if (aior_staging_open(staging, work->pids[i], work->error)) {
			return -1;
		}
	}
	for (size_t i = 0; i < work->count; i++)
		if (prepare(&work->stagings[i], work->pids[i], work->error))
			return -1;
	if (work->options && work->options->cancel && *work->options->cancel)
		return aior_fail(work->error, EINTR, "stop", "interrupted: nothing has been done");
	return aior_fence_wait(&work->fence, work->error);
}

static void tell_what_hangs(
    struct aior_error *error, const struct aior_staging *staging, uint64_t ring)
{
	const char *why =
	    staging->failed == EINTR ? "interrupted" : "its storage does not answer in time";
	int pid = (int)staging->process.pid;

	if (ring)
		aior_fail_ring(error, staging->failed, "drain", ring,
		    "%s: requests of process %d that are in flight have not ended", why, pid);
	else
		aior_fail(error, staging->failed, "drain",
		    "%s: requests of process %d that are in flight have not ended", why, pid);
}

/* What requests in flight do not let come to its end. */
static int leave_unfinished(struct work *work)
{
	char pids[256] = "";
	size_t used = 0;

	for (size_t i = 0; i < work->count; i++) {
		struct aior_staging *staging = &work->stagings[i];
		struct aior_capsule capsule = {
		    .addr = staging->injection.capsule, .room = staging->injection.capsule_len};
		uint64_t ring;

		if (!staging->stopped || staging->is_done)
			continue;
		if (used < sizeof(pids))
			used += (size_t)snprintf(
			    pids + used, sizeof(pids) - used, " %d", (int)staging->process.pid);
		if (!staging->is_running) {
			if (staging->is_staged)
				aior_staging_finish(staging, 0, NULL);
			else
				aior_staging_undo(staging);
			continue;
		}
		capsule.table = *staging->table;
		ring = aior_draining_ring(&staging->process, &capsule);
		tell_what_hangs(work->error, staging, ring);
		/* The one that runs is not ours to stop any more. */
		staging->injection.thread->is_stopped = 0;
		staging->outcome->is_staged = 1;
		aior_leave_parked(staging->stopped);
		staging->stopped = NULL;
	}
	if (work->error) {
		size_t at = strlen(work->error->message);

		work->error->is_unfinished = 1;
		snprintf(work->error->message + at, sizeof(work->error->message) - at,
		    "; what is staged stays parked, and the rest goes on: when its storage "
		    "answers, "
		    "`aio-restorer restore%s`",
		    pids);
	}
	return -1;
}

/* The first failure is the one that is told; those that are staged by then go on as they were. */
static int run_all(struct work *work)
{
	uint64_t begin = aior_now(CLOCK_MONOTONIC);
	struct aior_error error;
	int ret = 0, unfinished = 0;

	/* Where one cannot be started, it has changed nothing. */
	for (size_t i = 0; i < work->count; i++) {
		struct aior_staging *staging = &work->stagings[i];

		if (staging->is_done || !aior_staging_start(staging, ret ? &error : work->error))
			continue;
		staging->is_done = 1;
		ret = -1;
	}
	/* That waits for RCU, as the drain does at the same time. */
	aior_fence_close(&work->fence);
	for (size_t i = 0; i < work->count; i++) {
		struct aior_staging *staging = &work->stagings[i];

		if (staging->is_done)
			continue;
		aior_staging_wait(staging, begin);
		unfinished |= staging->is_running;
		if (!staging->is_running && aior_staging_judge(staging, ret ? &error : work->error))
			ret = -1;
	}
	if (unfinished)
		return leave_unfinished(work);
	for (size_t i = 0; i < work->count; i++) {
		struct aior_staging *staging = &work->stagings[i];

		if (!staging->is_done && staging->is_staged && staging->stopped &&
		    aior_staging_finish(staging, ret, ret ? &error : work->error))
			ret = -1;
	}
	return ret;
}

static int stage_all(void *data)
{
	struct work *work = data;
	int ret;

	aior_fence_open(&work->fence);
	ret = prepare_all(work);
	if (!ret) {
		for (size_t i = 0; i < work->count; i++)
			if (work->stagings[i].is_done)
				aior_staging_undo(&work->stagings[i]);
		ret = run_all(work);
	}
	for (size_t i = 0; i < work->count; i++) {
		struct aior_staging *staging = &work->stagings[i];

		aior_staging_undo(staging);
		aior_staging_free(staging);
	}
	aior_fence_close(&work->fence);
	return ret;
}

int aior_stage(const pid_t *pids, size_t count, const struct aior_options *options,
    struct aior_outcome *outcomes, struct aior_error *error)
{
	struct work work = {
	    .pids = pids, .count = count, .options = options, .outcomes = outcomes, .error = error};
	struct aior_outcome *own = NULL;
	int ret;
	AIOR_UNCANCELLED;

	if (error)
		memset(error, 0, sizeof(*error));
	work.stagings = calloc(count + 1, sizeof(*work.stagings));
	if (!outcomes)
		work.outcomes = own = calloc(count + 1, sizeof(*own));
	if (!work.stagings || !work.outcomes) {
		ret = aior_fail(error, ENOMEM, "stop", "out of memory");
	} else {
		memset(work.outcomes, 0, count * sizeof(*work.outcomes));
		ret = aior_as_tracer(stage_all, &work, pids, count, error);
	}
	for (size_t i = 0; own && i < count; i++)
		aior_outcome_free(&own[i]);
	free(own);
	free(work.stagings);
	return ret;
}

/* ---- for whoever has stopped the process already ---- */

/* The thread that runs the blob is not stopped, and goes on in there. */
static int leave_running(struct aior_staging *staging, struct aior_error *error)
{
	pid_t pid = staging->process.pid;

	aior_fail(error, staging->failed, "drain",
	    "requests of process %d that are in flight have not ended: the thread that waits for "
	    "them, %d, is left running",
	    (int)pid, (int)staging->injection.thread->tid);
	staging->injection.thread->has_moved = 0;
	aior_keep_parked(staging->stopped);
	staging->stopped = NULL;
	staging->outcome->is_staged = staging->parks;
	if (staging->parks)
		return aior_stays_parked(pid, error);
	if (error)
		error->is_unfinished = 1;
	return -1;
}

static int stage_traced(
    struct aior_staging *staging, pid_t pid, unsigned long ptrace_options, struct aior_error *error)
{
	uint64_t begin = aior_now(CLOCK_MONOTONIC);

	if (aior_staging_open(staging, pid, error))
		return -1;
	if (staging->is_done)
		return 0;
	if (aior_staging_prepare(staging, ptrace_options, error))
		return -1;
	if (staging->is_done)
		return 0;
	if (aior_fence_wait(staging->fence, error) || aior_staging_start(staging, error))
		return -1;
	aior_staging_wait(staging, begin);
	if (staging->is_running)
		return leave_running(staging, error);
	if (aior_staging_judge(staging, error))
		return -1;
	return staging->parks ? aior_staging_finish(staging, 0, error)
			      : aior_staging_finish_traced(staging, error);
}

int aior_stage_traced(pid_t pid, unsigned long ptrace_options, const struct aior_options *options,
    struct aior_outcome *outcome, struct aior_error *error)
{
	struct aior_outcome own = {0};
	struct aior_fence fence;
	struct aior_staging staging = {.options = options,
	    .fence = &fence,
	    .outcome = outcome ? outcome : &own,
	    .is_traced = 1,
	    .parks = options && options->parks};
	int ret;
	AIOR_UNCANCELLED;

	if (error)
		memset(error, 0, sizeof(*error));
	memset(staging.outcome, 0, sizeof(own));
	aior_fence_open(&fence);
	ret = stage_traced(&staging, pid, ptrace_options, error);
	aior_fence_close(&fence);
	aior_staging_undo(&staging);
	aior_staging_free(&staging);
	aior_outcome_free(&own);
	return ret;
}
