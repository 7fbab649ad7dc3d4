/* SPDX-License-Identifier: MIT */
/*
 * What the tests of rings that come back otherwise than they were share: how they are compared then, and another
 * process that has one.
 */
#ifndef TEST_RELAID_H
#define TEST_RELAID_H

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/resource.h>

#include "self.h"

static struct aio_slot *events, *expected;

/*
 * Moves a ring to where so many pages may become free behind it. (As soon as they are, the kernel may put
 * there what anybody maps: a capsule, say.)
 */
static inline void keep_room(uint32_t i, uint64_t pages)
{
	uint64_t len = len_of(rings[i]);
	char *at = mmap(NULL, len + (pages + 2) * page, PROT_NONE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mremap((void *)rings[i], len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at + page) !=
	    at + page)
		abort();
	rings[i] = (aio_context_t)(at + page);
}

static inline void give_room(uint32_t i, uint64_t pages)
{
	munmap((char *)rings[i] + len_of(rings[i]), pages * page);
}

/* One of so many pages, however large those are. */
static inline void add_pages(uint32_t pages, uint32_t head, uint32_t amount)
{
	uint64_t len = pages * page;
	uint32_t nr = aio_ring_nr((uint32_t)len);

	add(new_ring(aio_ring_smallest_n((uint32_t)len, (uint32_t)page)), head,
	    (head + amount) % nr);
	if (len_of(rings[count - 1]) != len)
		abort();
}

/* The pending events of a ring, as its content has them, oldest first. */
static inline uint32_t take_pending(aio_context_t ctx, struct aio_slot *to)
{
	const struct aio_ring *ring = ring_of(ctx);
	uint32_t n = 0;

	for (uint32_t at = ring->head; at != ring->tail; at = aio_ring_next(at, ring->nr))
		to[n++] = slots_of((void *)ctx)[at];
	return n;
}

/* It admits as many as one of its size does, and no event is lost or overwritten by that. */
static inline const char *why_not_usable(aio_context_t ctx, uint32_t amount)
{
	uint32_t nr = ring_of(ctx)->nr, more = 0, n = 0;
	struct iocb iocb;
	long got;

	iocb_null_read(&iocb, silent[0], 0x777);
	while (submit_one(ctx, &iocb) == 1)
		more++;
	if (amount + more != aio_ring_usable(nr, cpus)) {
		diag("%u pending, %u more, of %u", amount, more, aio_ring_usable(nr, cpus));
		return "it admits another number of requests";
	}
	while ((got = io_getevents(ctx, 64, events + n)) > 0)
		n += (uint32_t)got;
	if (n != amount + more)
		return "another number of events comes";
	if (memcmp(events, expected, amount * sizeof(*events)))
		return "other events come";
	for (uint32_t i = amount; i < n; i++)
		if (events[i].data != 0x777)
			return "a new event is another";
	return NULL;
}

static inline int restore_compact(void)
{
	int ret;

	aior_report_free(&report);
	memset(&error, 0x5a, sizeof(error));
	heap_is_forbidden = HAS_OWN_HEAP;
	ret = aior_restore_self_compact(&report, &error);
	heap_is_forbidden = 0;
	return say(ret);
}

/* The next pipe, or eventfd, cannot be made. */
static inline int forbid_descriptors(void)
{
	struct sock_filter code[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_pipe2, 1, 0),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_eventfd2, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EMFILE),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

/* ---- another process ---- */

static struct shared {
	volatile int may_go_on;
	volatile uint64_t ring;
} * shared;

/* A process with a ring, and so many free pages behind that. */
static inline pid_t start_other(uint32_t pages, uint32_t head, uint32_t amount, uint64_t room)
{
	const char *why;
	pid_t pid;

	shared->may_go_on = 0;
	shared->ring = 0;
	pid = fork_mortal();
	for (int i = 0; pid && i < 20000 && !shared->ring; i++)
		usleep(1000);
	if (pid) {
		usleep(10000);
		return pid;
	}
	/* (Slots that a context has handed to one CPU cannot be had on another.) */
	pin_to(0);
	count = 0;
	add_pages(pages, head, amount);
	keep_room(0, room);
	give_room(0, room);
	take_pending(rings[0], expected);
	shared->ring = rings[0];
	while (!shared->may_go_on)
		usleep(1000);
	why = why_not_usable(rings[0], amount);
	if (why)
		diag("%s", why);
	fflush(stdout);
	_exit(why ? 1 : 0);
}

static inline int is_listed(
    pid_t pid, uint64_t len, uint32_t head, uint32_t amount, enum aior_state state)
{
	struct aior_image image;
	int is_right = !aior_list(pid, &image, &error) && image.ring_count == 1 &&
		       image.rings[0].len == len && image.rings[0].head == head &&
		       image.rings[0].pending == amount && image.rings[0].state == state;

	aior_image_free(&image);
	return is_right;
}

static inline void relaid_start(void)
{
	events = calloc(65536, sizeof(*events));
	expected = calloc(65536, sizeof(*expected));
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

#endif
