/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fence.h"

#define MOST_S 10
#define FEW_CPUS 16 /* so many take a millisecond */

void aior_fence_open(struct aior_fence *fence)
{
	*fence = (struct aior_fence){.file = memfd_create("aio-restorer", MFD_CLOEXEC)};
	if (fence->file < 0)
		return;
	if (syscall(__NR_io_setup, 1L, &fence->ctx)) {
		fence->ctx = 0;
		close(fence->file);
	}
}

/* Returns -1 if the worker has not come to it in time. */
static int fsync_here(const struct aior_fence *fence)
{
	struct iocb iocb = {.aio_lio_opcode = IOCB_CMD_FSYNC, .aio_fildes = (uint32_t)fence->file};
	struct iocb *iocbs[1] = {&iocb};
	uint64_t end = aior_now(CLOCK_MONOTONIC) + MOST_S * 1000000000ull, now;
	struct timespec time = {.tv_sec = MOST_S};
	struct io_event event;
	long n;

	if (syscall(__NR_io_submit, fence->ctx, 1L, iocbs) != 1)
		return 0;
	/* A signal may be delivered to us, the caller's own or one of a stop: the wait is for what is left. */
	while ((n = syscall(__NR_io_getevents, fence->ctx, 1L, 1L, &event, &time)) < 0 &&
	       errno == EINTR && (now = aior_now(CLOCK_MONOTONIC)) < end)
		time = (struct timespec){
		    (time_t)((end - now) / 1000000000u), (long)((end - now) % 1000000000u)};
	return n == 1 ? 0 : -1;
}

void aior_fence_add(struct aior_fence *fence, const struct aior_stopped *stopped)
{
	for (size_t i = 0; i < stopped->count; i++) {
		int cpu = aior_last_cpu(stopped->threads[i].tid);

		if (cpu >= 0 && cpu < CPU_SETSIZE)
			CPU_SET(cpu, &fence->cpus);
	}
}

int aior_fence_wait(const struct aior_fence *fence, struct aior_error *error)
{
	cpu_set_t ours, cpus = fence->cpus, one;
	int is_late = 0;

	if (!fence->ctx || sched_getaffinity(0, sizeof(ours), &ours))
		return 0;
	if (CPU_COUNT(&ours) <= FEW_CPUS)
		CPU_OR(&cpus, &cpus, &ours);
	for (int cpu = 0; cpu < CPU_SETSIZE && !is_late; cpu++) {
		if (!CPU_ISSET(cpu, &cpus))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		is_late = !sched_setaffinity(0, sizeof(one), &one) && fsync_here(fence);
	}
	sched_setaffinity(0, sizeof(ours), &ours);
	if (!is_late)
		return 0;
	return aior_fail(error, ETIMEDOUT, "stop",
	    "the kernel's workers have not run for %d seconds, and may have an event yet: try "
	    "again "
	    "when a real-time program, or whatever keeps a CPU from them, has less to do",
	    MOST_S);
}

void aior_fence_close(struct aior_fence *fence)
{
	if (!fence->ctx)
		return;
	syscall(__NR_io_destroy, fence->ctx);
	close(fence->file);
	fence->ctx = 0;
}
