/* SPDX-License-Identifier: MIT */
/*
 * Waits until the kernel has done what a stopped process has asked of it. The event of a poll that
 * io_cancel() has cancelled comes from a worker (aio_poll_cancel(), fs/aio.c). If it were still on its way when
 * the drain begins, it would look like one of the drain's own, and the poll would come to life again.
 *
 * A fsync of ours is done by a worker, too: after all that was asked for on the same CPU before.
 */
#ifndef AIOR_FENCE_H
#define AIOR_FENCE_H

#include <sched.h>

#include "stop.h"

struct aior_fence {
	unsigned long
	    ctx; /* an AIO context of ours; 0: none could be had, and nothing is waited for */
	int file;
	cpu_set_t cpus; /* where stopped threads may have asked for something */
};

void aior_fence_open(struct aior_fence *fence);
/* Notes the CPUs that these threads ran on last. */
void aior_fence_add(struct aior_fence *fence, const struct aior_stopped *stopped);
/*
 * Waits for the workers of all these CPUs; of all of ours, where those are few, since a thread may have gone to
 * another one since. When everything that is to be staged stands still: what computes there keeps workers from
 * running. Fails with ETIMEDOUT if they have not run in ten seconds: they may have an event yet.
 */
int aior_fence_wait(const struct aior_fence *fence, struct aior_error *error);
/* Takes some 30 ms, as io_destroy() does. */
void aior_fence_close(struct aior_fence *fence);

#endif
