/* SPDX-License-Identifier: MIT */
#include <linux/aio_abi.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fence.h"

#define NS_PER_MS 1000000l
#define MOST_MS 100

void aior_fence_open(struct aior_fence *fence)
{
	*fence = (struct aior_fence){.file = memfd_create("aio-restorer", MFD_CLOEXEC)};
	if (fence->file < 0)
		return;
	if (syscall(__NR_io_setup, 1l, &fence->ctx)) {
		fence->ctx = 0;
		close(fence->file);
	}
}

/* Returns -1 if the worker has not come to it in time. */
static int fsync_here(const struct aior_fence *fence)
{
	struct iocb iocb = {.aio_lio_opcode = IOCB_CMD_FSYNC, .aio_fildes = (uint32_t)fence->file};
	struct iocb *iocbs[1] = {&iocb};
	struct timespec time = {.tv_nsec = MOST_MS * NS_PER_MS};
	struct io_event event;

	if (syscall(__NR_io_submit, fence->ctx, 1l, iocbs) != 1)
		return 0;
	return syscall(__NR_io_getevents, fence->ctx, 1l, 1l, &event, &time) == 1 ? 0 : -1;
}

void aior_fence_wait(const struct aior_fence *fence, const struct aior_stopped *stopped)
{
	cpu_set_t mine, done, one;

	if (!fence->ctx || sched_getaffinity(0, sizeof(mine), &mine))
		return;
	CPU_ZERO(&done);
	for (size_t i = 0; i < stopped->count; i++) {
		int cpu = aior_last_cpu(stopped->threads[i].tid);

		if (cpu < 0 || cpu >= CPU_SETSIZE || CPU_ISSET(cpu, &done))
			continue;
		CPU_SET(cpu, &done);
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (!sched_setaffinity(0, sizeof(one), &one) && fsync_here(fence))
			break;
	}
	sched_setaffinity(0, sizeof(mine), &mine);
}

void aior_fence_close(struct aior_fence *fence)
{
	if (!fence->ctx)
		return;
	syscall(__NR_io_destroy, fence->ctx);
	close(fence->file);
	fence->ctx = 0;
}
