/* SPDX-License-Identifier: MIT */
/* What the tests of kernel facts share: contexts, and requests that complete at once. */
#ifndef TEST_FACTS_H
#define TEST_FACTS_H

#include <grp.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include "blob.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define BATCH 512u
#define PATIENCE_MS 60000 /* for what must happen; no sound kernel on any machine comes near it */

/* Whether it becomes true, sooner or later. */
#define eventually(condition)                                                                      \
	({                                                                                         \
		int64_t begun_ = now_ms();                                                         \
		while (!(condition) && now_ms() - begun_ < PATIENCE_MS)                            \
			tick();                                                                    \
		!!(condition);                                                                     \
	})

static uint32_t page, cpus;
static int silent[2]; /* a pipe that nobody writes to */

static inline void tick(void)
{
	usleep(1000);
}

static inline int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- rings ---- */

/* What processes that have just ended had may still count (fs.aio-nr). */
static inline aio_context_t new_ring(unsigned n)
{
	int64_t begun = now_ms();
	aio_context_t ctx;
	long err = io_setup(n, &ctx);

	while (err == -EAGAIN && now_ms() - begun < PATIENCE_MS) {
		tick();
		err = io_setup(n, &ctx);
	}
	if (err) {
		diag("io_setup(%u): %s", n, strerror((int)-err));
		_exit(1);
	}
	return ctx;
}

static inline uint64_t len_of(aio_context_t ctx)
{
	return AIO_RING_HEADER + (uint64_t)AIO_RING_SLOT * ring_of(ctx)->nr;
}

static inline struct aio_slot *slot(aio_context_t ctx, uint32_t i)
{
	return &slots_of(ring_of(ctx))[i];
}

/* The smallest ring that this host makes, plus so many pages. */
static inline aio_context_t new_ring_of(uint32_t more_pages)
{
	uint64_t len = aio_ring_len(1, cpus, page) + (uint64_t)more_pages * page;

	return new_ring(aio_ring_smallest_n(len, page));
}

/* Submits one request `count` times in one call; all that are taken complete at once. */
static inline long complete(aio_context_t ctx, unsigned count, uint64_t data)
{
	struct iocb iocb, *iocbs[BATCH];

	iocb_null_read(&iocb, silent[0], data);
	for (unsigned i = 0; i < count && i < BATCH; i++)
		iocbs[i] = &iocb;
	return io_submit(ctx, count, iocbs);
}

/* Completes that many more, with the head behind the tail. */
static inline void run_through(aio_context_t ctx, uint32_t count)
{
	struct aio_ring *ring = ring_of(ctx);

	while (count) {
		long n = complete(ctx, count < BATCH ? count : BATCH, 0);

		if (n <= 0)
			_exit(1);
		count -= (uint32_t)n;
		ring->head = ring->tail;
	}
}

/* Whether it is a live ring that takes a request and hands its event out, and holds nothing else. */
static inline int works(aio_context_t ctx)
{
	struct aio_slot event;

	return complete(ctx, 1, 0x77) == 1 && io_getevents(ctx, 1, &event) == 1 &&
	       event.data == 0x77 && !io_getevents(ctx, 1, &event);
}

static inline long submit_one(aio_context_t ctx, struct iocb *iocb)
{
	return io_submit(ctx, 1, &iocb);
}

static inline int is_mapped(uint64_t at, size_t len)
{
	return !msync((void *)(uintptr_t)at, len, MS_ASYNC);
}

static inline int is_unmapped(uint64_t at, size_t len)
{
	for (size_t i = 0; i < len; i += page)
		if (!msync((char *)(uintptr_t)at + i, page, MS_ASYNC) || errno != ENOMEM)
			return 0;
	return 1;
}

/*
 * Becomes a user without privileges who has as many pages in pipes as he may have
 * (fs.pipe-user-pages-soft): his next pipes have two pages. -1: that cannot be had here.
 */
static inline int use_up_pipes(void)
{
	long soft = read_number("/proc/sys/fs/pipe-user-pages-soft");
	long most = read_number("/proc/sys/fs/pipe-max-size");
	uid_t user = 50000 + (uid_t)getpid() % 10000; /* has none yet */
	const struct rlimit many = {4096, 4096};
	int fds[2], size = 0;

	if (soft <= 0 || most <= 0 || soft > 1000 * (most / (long)page) ||
	    setrlimit(RLIMIT_NOFILE, &many) || setgroups(0, NULL) || setresgid(user, user, user) ||
	    setresuid(user, user, user))
		return -1;
	do
		if (pipe(fds))
			return -1;
	while (fcntl(fds[0], F_SETPIPE_SZ, most) >= 0);
	for (int tries = 0; tries < 40 && size != 2 * (int)page; tries++) {
		if (pipe(fds))
			return -1;
		size = fcntl(fds[0], F_GETPIPE_SZ);
	}
	return size == 2 * (int)page ? 0 : -1;
}

/* How such a test starts; returns -1 if it cannot. */
static inline int facts_start(void)
{
	struct utsname name;

	tap_start();
	aio_nr_lock();
	uname(&name);
	page = (uint32_t)sysconf(_SC_PAGESIZE);
	cpus = possible_cpus();
	diag("%s %s, page size %u, %u possible CPUs", name.release, name.machine, page, cpus);
	return pipe2(silent, O_CLOEXEC);
}

#endif
