/* SPDX-License-Identifier: MIT */
/*
 * The facts about the kernel that the code relies on, a test for each, before anything is asked of
 * the code: when a kernel changes one of them, this is the test that says which. What kernels differ
 * in, and the code copes with, is only told. (What a stop does to a thread that waits: waits.c.)
 */
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/resource.h>
#include <sys/uio.h>

#include "facts.h"

/* The number is the same on every architecture; libc's headers may be older than the call. */
#ifndef __NR_mseal
#define __NR_mseal 462
#endif

/* ---- size and accounting ---- */

static int is_ring_of(aio_context_t ctx, unsigned n)
{
	uint64_t len = aio_ring_len(n, cpus, page);
	struct aio_ring *ring = ring_of(ctx);

	if (mapped_len(ctx) == len && aio_ring_check(ring, len) == AIO_RING_OK)
		return 1;
	diag("io_setup(%u): length %llu, nr %u; computed: length %llu, nr %llu", n,
	    (unsigned long long)mapped_len(ctx), ring->nr, (unsigned long long)len,
	    (unsigned long long)aio_ring_nr(len));
	return 0;
}

static void test_size(void)
{
	const char *least = "no ring is smaller than one of 4 requests for each possible CPU";
	unsigned tried = 0, wrong = 0;

	for (unsigned n = 1; n < 3000; n += n < 40 ? 1 : n / 3, tried++)
		wrong += !is_ring_of(new_ring(n), n);
	ok(!wrong && tried > 50,
	    "a ring has the length and the nr that are computed from n, the page size and the "
	    "possible CPUs (%u of %u wrong)",
	    wrong, tried);
	if (aio_ring_len(1, cpus, page) == aio_ring_len(1, 1, page))
		skip(least, "the smallest ring of all is enough for %u", cpus);
	else
		ok(mapped_len(new_ring(1)) == mapped_len(new_ring(4 * cpus)) &&
			mapped_len(new_ring(1)) > aio_ring_len(1, 1, page),
		    "%s", least);
}

static void test_smallest_n(void)
{
	uint64_t least = aio_ring_len(1, cpus, page);
	unsigned wrong = 0, less = 0;

	for (uint32_t i = 0; i < 8; i++) {
		uint64_t len = least + (uint64_t)i * page;
		uint32_t n = aio_ring_smallest_n(len, page);

		wrong += mapped_len(new_ring(n)) != len;
		if (i) {
			wrong += mapped_len(new_ring(n - 1)) != len - page;
			less++;
		}
	}
	ok(!wrong && less == 7,
	    "the smallest n of a ring makes that ring, and one less a ring of a page less");
}

/* Others may make and end contexts meanwhile, so it may take more than one look. */
static int grows_by(unsigned n)
{
	for (int tries = 0; tries < 200; tries++) {
		long before = aio_nr(), between, after;
		aio_context_t ctx = new_ring(n);

		between = aio_nr();
		io_destroy(ctx);
		after = aio_nr();
		if (between - before == (long)n && after == before)
			return 1;
		tick();
	}
	return 0;
}

static void test_accounting(void)
{
	long most = aio_max_nr() - aio_nr() + 1;
	aio_context_t ctx;

	ok(grows_by(1) && grows_by(1000),
	    "fs.aio-nr grows by the n that was asked for, and io_destroy takes it back");
	if (most > 1 << 22)
		skip("fs.aio-max-nr is a limit", "fs.aio-max-nr leaves %ld", most);
	else
		ok(io_setup((unsigned)most + 100000, &ctx) == -EAGAIN,
		    "asking for more than fs.aio-max-nr leaves ends in EAGAIN");
}

static void test_name(void)
{
	aio_context_t one = new_ring(1), two = new_ring(1);
	struct mapping first = mapping_of(getpid(), one), second = mapping_of(getpid(), two);

	ok(first.is_aio && second.is_aio,
	    "a ring is a mapping of /[aio], on a device of no driver's");
	ok(first.inode && second.inode && first.inode != second.inode,
	    "each ring has an inode of its own");
}

/* ---- the kernel's tail ---- */

static void test_tail(void)
{
	aio_context_t ctx = new_ring(1);
	struct aio_ring *ring = ring_of(ctx);
	struct iocb poll;
	int same = 1;

	ok(!ring->head && !ring->tail, "a new ring is empty: its head and its tail are 0");
	ok(complete(ctx, 1, 7) == 1 && ring->tail == 1 && slot(ctx, 0)->data == 7 &&
		!slot(ctx, 0)->res && !slot(ctx, 0)->res2,
	    "a read of zero bytes from an empty pipe completes inside io_submit");
	ok(complete(ctx, 20, 8) == 20 && ring->tail == 21, "one iocb can be submitted many times "
							   "in one call");
	for (uint32_t i = 1; i < 21; i++)
		same &= slot(ctx, i)->data == 8 && slot(ctx, i)->obj == slot(ctx, 1)->obj;
	ok(same, "... and each time gives an event of its own");
	iocb_poll(&poll, silent[0], POLLIN, 9);
	ok(submit_one(ctx, &poll) == 1 && ring->tail == 21,
	    "the tail does not move with what is submitted, only with what completes");
	ring->tail = 25;
	ok(complete(ctx, 1, 10) == 1 && ring->tail == 22 && slot(ctx, 21)->data == 10,
	    "the kernel's tail is its own: what is stored over the ring's is not looked at");
}

static void test_wrap(void)
{
	aio_context_t ctx = new_ring(1);
	struct aio_ring *ring = ring_of(ctx);
	uint32_t nr = ring->nr;

	pin_to(0);
	run_through(ctx, aio_ring_completions(nr - 3, 1, nr) - 2);
	ok(ring->tail == nr - 1 && complete(ctx, 2, 11) == 2 && ring->tail == 1 &&
		slot(ctx, nr - 1)->data == 11 && slot(ctx, 0)->data == 11,
	    "behind the last slot comes the first: nr + t completions make a tail of t");
}

static void test_reaping(void)
{
	aio_context_t ctx = new_ring(1);
	struct aio_ring *ring = ring_of(ctx);
	struct aio_slot events[8];

	complete(ctx, 6, 12);
	slot(ctx, 1)->data = 0xda7a;
	slot(ctx, 1)->res = -77;
	ok(io_getevents(ctx, 2, events) == 2 && ring->head == 2 && events[1].data == 0xda7a &&
		events[1].res == -77,
	    "io_getevents hands out what stands in the slots, and moves the ring's head");
	ring->head = 4;
	ok(io_getevents(ctx, 8, events) == 2 && ring->head == 6,
	    "... and starts from the head that the program has stored");
	slot(ctx, 5)->data = 0xbac4;
	ring->head = 5;
	ok(io_getevents(ctx, 8, events) == 1 && events[0].data == 0xbac4,
	    "an event that is put back in front of the head is handed out again");
}

/* ---- slots ---- */

/* On one CPU after the other, until one takes it; the thread is on the first one again then. */
static long submit_everywhere(aio_context_t ctx)
{
	cpu_set_t all;
	long n;

	CPU_ZERO(&all);
	for (unsigned cpu = 0; cpu < cpus && cpu < CPU_SETSIZE; cpu++)
		CPU_SET(cpu, &all);
	sched_setaffinity(0, sizeof(all), &all);
	sched_getaffinity(0, sizeof(all), &all);
	n = -EAGAIN;
	for (unsigned i = 0; n == -EAGAIN && i < (unsigned)CPU_COUNT(&all); i++) {
		pin_to(i);
		n = complete(ctx, 1, 0);
		sched_setaffinity(0, sizeof(all), &all);
	}
	pin_to(0);
	return n;
}

static void test_usable(void)
{
	aio_context_t ctx = new_ring(1);
	struct aio_ring *ring = ring_of(ctx);
	uint32_t usable = aio_ring_usable(ring->nr, cpus);
	struct aio_slot events[16];

	pin_to(0);
	ok(count_free(ctx, silent[0]) == usable && ring->tail == usable &&
		complete(ctx, 1, 0) == -EAGAIN,
	    "one CPU gets as many of the %u slots as is computed: %u; then EAGAIN", ring->nr,
	    usable);
	ok(submit_everywhere(ctx) == -EAGAIN, "... from every CPU, so never more than nr - 1");
	ring->head = 10;
	ok(count_free(ctx, silent[0]) == 10,
	    "a head that is stored gives as many slots back, at the next submission");
	ok(io_getevents(ctx, 16, events) == 16, "io_getevents reaps from a full ring");
	ring->head -= 16;
	ok(complete(ctx, 1, 0) == -EAGAIN,
	    "events that are put back before the next submission take their slots again");
	ring->head += 16;
	ok(count_free(ctx, silent[0]) == 16, "... and give them back when they are reaped");
}

static void test_usable_polls(void)
{
	aio_context_t ctx = new_ring(1);
	uint32_t usable = aio_ring_usable(ring_of(ctx)->nr, cpus), count = 0;
	struct iocb poll;

	pin_to(0);
	iocb_poll(&poll, silent[0], POLLIN, 0);
	while (submit_one(ctx, &poll) == 1)
		count++;
	ok(count == usable && complete(ctx, 1, 0) == -EAGAIN,
	    "requests in flight take slots like pending events do");
}

/* How many requests a context takes on the n-th CPU of those; the thread stays there. */
static uint32_t free_on(unsigned n, const cpu_set_t *all, aio_context_t ctx)
{
	sched_setaffinity(0, sizeof(*all), all);
	pin_to(n);
	return count_free(ctx, silent[0]);
}

static void test_usable_of_two(void)
{
	aio_context_t ctx = new_ring(1);
	struct aio_ring *ring = ring_of(ctx);
	uint32_t usable = aio_ring_usable(ring->nr, cpus), here, there;
	cpu_set_t all;

	sched_getaffinity(0, sizeof(all), &all);
	if (CPU_COUNT(&all) < 2) {
		skip("slots belong to CPUs", "there is one CPU");
		return;
	}
	pin_to(0);
	complete(ctx, 1, 0);
	there = free_on(1, &all, ctx);
	here = free_on(0, &all, ctx);
	ok(there < usable - 1 && here + there == usable - 1,
	    "slots that one CPU has taken are out of another one's reach (%u; %u)", there, here);
	ring->head = ring->tail;
	complete(ctx, 1, 0);
	there = free_on(1, &all, ctx);
	here = free_on(0, &all, ctx);
	ok(there < usable - 1 && here + there == usable - 1,
	    "slots that come back stay with the CPU that they came back on (%u; %u)", there, here);
}

/* ---- the id ---- */

static int refuses(aio_context_t ctx)
{
	struct aio_slot event;
	struct iocb iocb = {0};

	return complete(ctx, 1, 0) == -EINVAL && io_getevents(ctx, 1, &event) == -EINVAL &&
	       io_cancel(ctx, &iocb) == -EINVAL && io_destroy(ctx) == -EINVAL;
}

static void test_id(void)
{
	aio_context_t ctx = new_ring(1), other = new_ring(1);
	struct aio_ring *ring = ring_of(ctx);

	ok(ring->id == 0 && ring_of(other)->id == 1,
	    "the id is the index in the table of the process's contexts");
	ring->id = 1;
	ok(refuses(ctx), "with the id of another context every call says EINVAL");
	ring->id = 0x7fffffff;
	ok(refuses(ctx), "with an id that there is not, too");
	ring->id = 0;
	ok(works(ctx), "with its own id put back the context works again");
	io_destroy(ctx);
	ok(ring_of(new_ring(1))->id == 0, "the id of a context that is gone is given again");
}

/* ---- moving ---- */

static void *reserve(size_t len)
{
	void *at = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		_exit(1);
	return at;
}

static void *filled(size_t len, int byte)
{
	void *at = map_guarded(len);

	memset(at, byte, len);
	return at;
}

static void *move(aio_context_t ctx, size_t len, void *to)
{
	return mremap(ring_of(ctx), len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to);
}

static void test_move(void)
{
	aio_context_t ctx = new_ring_of(2), old = ctx;
	size_t len = (size_t)len_of(ctx);
	void *to = filled(len, 0x55);
	struct aio_slot event;
	struct iocb poll;
	int pipe_fds[2];

	if (pipe(pipe_fds))
		_exit(1);
	iocb_poll(&poll, pipe_fds[0], POLLIN, 14);
	complete(ctx, 3, 13);
	submit_one(ctx, &poll);
	ok(move(ctx, len, to) == to, "a whole ring can be moved onto other memory, which it "
				     "replaces");
	ctx = (uintptr_t)to;
	ok(ring_of(ctx)->tail == 3 && slot(ctx, 2)->data == 13 && mapped_len(ctx) == len &&
		mapping_of(getpid(), ctx).is_aio,
	    "... with its content and its name");
	ok(is_unmapped(old, len), "... nothing is left where it was");
	ok(refuses(old), "... the old handle says EINVAL");
	map_at(ring_of(old), len, PROT_READ | PROT_WRITE);
	memcpy(ring_of(old), ring_of(ctx), AIO_RING_HEADER);
	ok(refuses(old), "... even with the ring's header copied there");
	for (int i = 0; i < 3; i++)
		io_getevents(ctx, 1, &event);
	ok(works(ctx), "... and the new address is the handle");
	ok(write(pipe_fds[1], "x", 1) == 1 && io_getevents(ctx, 1, &event) == 1 &&
		event.data == 14 && event.res & POLLIN,
	    "... what was in flight completes there");
}

static void test_length_stays(void)
{
	aio_context_t ctx = new_ring_of(1);
	size_t len = (size_t)len_of(ctx);
	void *at = reserve(len + page);

	errno = 0;
	ok(mremap(ring_of(ctx), len, len + page, MREMAP_MAYMOVE) == MAP_FAILED && errno == EFAULT,
	    "a ring cannot grow");
	ok(mremap(ring_of(ctx), len, len + page, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED,
	    "... nor while it is moved");
	ok(works(ctx), "... and goes on as it was");
}

static void test_move_part(void)
{
	aio_context_t ctx = new_ring_of(1);
	size_t len = (size_t)len_of(ctx);
	char *part = (char *)ring_of(ctx) + len - page;
	void *at = mremap(part, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, reserve(page));
	int err = at == MAP_FAILED ? errno : 0;

	diag("moving a part of a ring: %s", err ? strerror(err) : "done");
	ok(!err || (err == EINVAL && mapped_len(ctx) == len && works(ctx)),
	    "moving a part of a ring is done, or refused with EINVAL and the ring is as it was");
}

/* Where it is moved at all, each of its mappings takes the handle with it, and the last one keeps it. */
static void test_move_split(void)
{
	aio_context_t ctx = new_ring_of(2);
	size_t len = (size_t)len_of(ctx), at = 0;
	char *to = reserve(len);
	int err;

	mprotect((char *)ring_of(ctx) + page, page, PROT_READ);
	err = move(ctx, len, to) == to ? 0 : errno;
	if (err) {
		diag("moving a ring that mprotect has split: %s", strerror(err));
		ok(is_mapped(ctx, len) && works(ctx),
		    "a ring that mprotect has split is not moved, and is as it was");
		return;
	}
	while (at < len && !works((uintptr_t)to + at))
		at += page;
	diag("moving a ring that mprotect has split: done, the handle is at page %zu", at / page);
	ok(at < len, "a ring that mprotect has split is moved, and a page of it is its handle");
}

static void test_protection(void)
{
	aio_context_t ctx = new_ring_of(2);
	size_t len = (size_t)len_of(ctx);
	char *ring = (char *)ring_of(ctx);

	ok(!mprotect(ring + page, page, PROT_READ) && mapped_len(ctx) == page && works(ctx),
	    "a ring that mprotect has split goes on");
	mprotect(ring + page, page, PROT_READ | PROT_WRITE);
	diag("with the protection put back it is %s again",
	    mapped_len(ctx) == len ? "one mapping" : "not one mapping");
	ok(!mprotect(ring, len, PROT_READ) && works(ctx) && ring_of(ctx)->head == 2,
	    "a read-only ring still gets its events");
	ok(!mprotect(ring, len, PROT_NONE) && refuses(ctx),
	    "a ring that cannot be read is no handle: EINVAL");
	errno = 0;
	ok(mprotect(ring, len, PROT_READ | PROT_EXEC) && errno == EACCES,
	    "a ring cannot be made executable: EACCES");
	ok(!mprotect(ring, len, PROT_READ | PROT_WRITE) && works(ctx),
	    "... and goes on when it can be read again");
}

static void test_hole(void)
{
	aio_context_t ctx = new_ring_of(2);
	size_t len = (size_t)len_of(ctx);
	struct aio_slot event;

	pin_to(0);
	ok(!munmap((char *)ring_of(ctx) + page, len - page) && complete(ctx, 5, 15) == 5 &&
		io_getevents(ctx, 1, &event) == 1 && event.data == 15,
	    "a ring whose last pages are unmapped goes on");
	run_through(ctx, ring_of(ctx)->nr - 10);
	ok(ring_of(ctx)->tail == ring_of(ctx)->nr - 5, "... into the slots that are not mapped");
}

static void test_move_back(void)
{
	aio_context_t ctx = new_ring_of(1);
	size_t len = (size_t)len_of(ctx);
	void *aside = reserve(len);
	struct aio_slot event;
	struct iocb poll;
	unsigned wrong = 0;
	int fds[2];

	if (pipe(fds))
		_exit(1);
	iocb_poll(&poll, fds[0], POLLIN, 21);
	submit_one(ctx, &poll);
	for (int i = 0; i < 10; i++) {
		wrong += move(ctx, len, aside) != aside || !works((uintptr_t)aside);
		wrong += move((uintptr_t)aside, len, ring_of(ctx)) != ring_of(ctx) || !works(ctx);
	}
	ok(!wrong, "a ring can be moved back and forth, and goes on");
	ok(write(fds[1], "x", 1) == 1 && io_getevents(ctx, 1, &event) == 1 && event.data == 21,
	    "... with what is in flight in it");
}

/* ---- looking a context up ---- */

static long submit_nothing(uint64_t ctx)
{
	return io_submit(ctx, 0, NULL);
}

static void test_lookup(void)
{
	aio_context_t ctx = new_ring(1), gone = new_ring(1);
	uint32_t tail = ring_of(ctx)->tail;
	void *memory = filled(page, 0);
	int status = 1;
	pid_t pid;

	ok(submit_nothing(ctx) == 0 && ring_of(ctx)->tail == tail && works(ctx),
	    "io_submit of no requests says 0 of a context, and does nothing");
	memcpy(memory, ring_of(ctx), page);
	ok(submit_nothing((uintptr_t)memory) == -EINVAL && submit_nothing(ctx + page) == -EINVAL &&
		submit_nothing(0) == -EINVAL,
	    "... EINVAL of memory that looks like one, of what lies behind one, and of 0");
	io_destroy(gone);
	ok(submit_nothing(gone) == -EINVAL, "... of one that is destroyed");
	pid = fork_mortal();
	if (!pid)
		_exit(submit_nothing(ctx) != -EINVAL);
	ok(waitpid(pid, &status, 0) == pid && !status, "... and of one that is only inherited");
}

/* ---- the end ---- */

static void test_destroy_neighbour(void)
{
	aio_context_t ctx = new_ring_of(1);
	size_t len = (size_t)len_of(ctx);
	char *ring = (char *)ring_of(ctx);

	munmap(ring + len - page, page);
	map_at(ring + len - page, page, PROT_READ | PROT_WRITE);
	ok(!io_destroy(ctx) && is_unmapped(ctx, len),
	    "io_destroy unmaps as much as the ring once was long, whatever is mapped there");
	ok(io_destroy(ctx) == -EINVAL, "... and the handle is none any more");
}

/* What is sealed stays until the process ends. */
static void test_destroy_sealed(void)
{
	aio_context_t ctx = new_ring_of(2);
	size_t len = (size_t)len_of(ctx);
	char *ring = (char *)ring_of(ctx);

	munmap(ring + page, page);
	map_at(ring + page, page, PROT_READ | PROT_WRITE);
	if (syscall(__NR_mseal, ring + page, (size_t)page, 0L)) {
		skip("a sealed page keeps io_destroy from unmapping", "mseal: %s", strerror(errno));
		return;
	}
	ok(!io_destroy(ctx) && is_mapped(ctx, len),
	    "with a sealed page in its range io_destroy unmaps nothing, and succeeds");
	ok(io_destroy(ctx) == -EINVAL, "... the handle is none any more");
}

#define HELPERS 8

static aio_context_t doomed[HELPERS];

static int destroy_one(void *which)
{
	return io_destroy(*(aio_context_t *)which) ? 1 : 0;
}

static void test_helpers(void)
{
	const size_t stack = 65536;
	unsigned reaped = 0, hidden = 0, gone = 0;
	char *stacks = map_guarded(HELPERS * stack);
	int64_t before;
	pid_t pids[HELPERS];
	int status;

	for (unsigned i = 0; i < HELPERS; i++)
		doomed[i] = new_ring(1);
	before = now_ms();
	for (unsigned i = 0; i < HELPERS; i++)
		pids[i] = clone(destroy_one, stacks + (i + 1) * stack,
		    CLONE_VM | CLONE_FILES | CLONE_FS, &doomed[i]);
	for (unsigned i = 0; i < HELPERS; i++) {
		hidden += waitpid(pids[i], &status, 0) < 0 && errno == ECHILD;
		reaped += waitpid(pids[i], &status, __WALL) == pids[i] && !status;
	}
	diag("%d contexts destroyed at once: %d ms", HELPERS, (int)(now_ms() - before));
	for (unsigned i = 0; i < HELPERS; i++)
		gone += is_unmapped(doomed[i], page) && io_destroy(doomed[i]) == -EINVAL;
	ok(reaped == HELPERS && gone == HELPERS,
	    "processes that share its memory destroy a process's contexts, all at once");
	ok(hidden == HELPERS, "... and with exit signal 0 only __WALL shows them to wait");
}

static volatile sig_atomic_t children;

static void count_child(int signal)
{
	children += signal == SIGCHLD;
}

/* A process that ends at once, with exit signal 0: 1 if it must be waited for, and can be. */
static int is_silent(char *stack)
{
	pid_t pid = clone(destroy_one, stack, CLONE_VM | CLONE_FILES | CLONE_FS, &doomed[0]);
	int status;

	/* A while, in which it would have been reaped if it were like others. */
	for (int ms = 0; ms < 20; ms++)
		tick();
	return pid > 0 && waitpid(pid, &status, __WALL) == pid && WIFEXITED(status);
}

static void test_silent_helpers(void)
{
	struct sigaction count = {.sa_handler = count_child}, none = {.sa_flags = SA_NOCLDWAIT};
	char *stack = (char *)map_guarded(65536) + 65536;
	int status;
	pid_t pid;

	sigaction(SIGCHLD, &count, NULL);
	ok(is_silent(stack) && !children, "a process with exit signal 0 ends without SIGCHLD");
	signal(SIGCHLD, SIG_IGN);
	ok(is_silent(stack), "... and is there to be waited for with SIGCHLD ignored");
	none.sa_handler = SIG_DFL;
	sigaction(SIGCHLD, &none, NULL);
	ok(is_silent(stack), "... and with SA_NOCLDWAIT");
	pid = (pid_t)syscall(__NR_clone, 0L, 0L, 0L, 0L, 0L);
	if (!pid)
		_exit(7);
	ok(pid > 0 && waitpid(pid, &status, __WALL) == pid && status == 7 << 8,
	    "a stack pointer of 0 gives it the caller's");
	errno = 0;
	ok(waitpid(getpid(), NULL, WNOHANG | __WALL) < 0 && errno == ECHILD,
	    "waiting for oneself ends in ECHILD");
}

/* ---- draining ---- */

#define SYNCS 40u
#define POLLS 8u
#define READS 16u
#define READ_BYTES 65536u

/*
 * A ring with requests in flight is drained through a pipe. `pinned` is the tail that was seen when
 * its pages were pinned; `content` is what the pipe has in the end.
 */
struct drain {
	aio_context_t ctx;
	uint32_t pinned;
	struct aio_ring *content;
	struct iocb iocbs[SYNCS + POLLS + READS];
};

/* Pins the ring's pages in a pipe, destroys the context, and reads the pages back. */
static int run_drain(struct drain *drain)
{
	size_t len = (size_t)len_of(drain->ctx), done = 0;
	struct iovec vec = {ring_of(drain->ctx), len};
	int fds[2];

	if (pipe(fds) || fcntl(fds[0], F_SETPIPE_SZ, len) < (int)len)
		return 0;
	drain->content = filled(len, 0x33);
	if (vmsplice(fds[1], &vec, 1, SPLICE_F_NONBLOCK) != (ssize_t)len)
		return 0;
	drain->pinned = ring_of(drain->ctx)->tail;
	if (io_destroy(drain->ctx) || !is_unmapped(drain->ctx, len))
		return 0;
	while (done < len) {
		ssize_t n = read(fds[0], (char *)drain->content + done, len - done);

		if (n <= 0)
			return 0;
		done += (size_t)n;
	}
	close(fds[0]);
	close(fds[1]);
	return 1;
}

/* How many events the drained ring has of an iocb, from slot `from` on, and with that result. */
static unsigned events_of(
    const struct drain *drain, const struct iocb *iocb, uint32_t from, int64_t res)
{
	const struct aio_slot *slots = slots_of(drain->content);
	unsigned count = 0;

	for (uint32_t i = from; i < drain->content->tail; i++)
		count += slots[i].obj == (uintptr_t)iocb && slots[i].data == iocb->aio_data &&
			 slots[i].res == res && !slots[i].res2;
	return count;
}

/* With nobody else on this CPU, what its workqueues have to do waits for us to sleep. */
static void keep_the_cpu(void)
{
	struct sched_param first = {.sched_priority = 1};

	pin_to(0);
	if (sched_setscheduler(0, SCHED_FIFO, &first))
		diag("not allowed to keep the CPU: %s", strerror(errno));
}

static void submit_syncs(struct drain *drain, struct iocb *iocbs)
{
	int fd = memfd_create("synced", MFD_CLOEXEC);

	for (unsigned i = 0; i < SYNCS; i++) {
		iocbs[i] = (struct iocb){
		    .aio_lio_opcode = i & 1 ? IOCB_CMD_FDSYNC : IOCB_CMD_FSYNC,
		    .aio_fildes = (uint32_t)fd,
		    .aio_data = 0x5000 + i,
		};
		if (submit_one(drain->ctx, &iocbs[i]) != 1)
			_exit(1);
	}
}

static void submit_polls(struct drain *drain, struct iocb *iocbs)
{
	for (unsigned i = 0; i < POLLS; i++) {
		iocb_poll(&iocbs[i], silent[0], POLLIN, 0x9000 + i);
		if (submit_one(drain->ctx, &iocbs[i]) != 1)
			_exit(1);
	}
}

static void test_drain(void)
{
	static struct drain drain;
	struct iocb *syncs = drain.iocbs, *polls = drain.iocbs + SYNCS;
	unsigned synced = 0, cancelled = 0, kept = 0;

	keep_the_cpu();
	drain.ctx = new_ring_of(2);
	complete(drain.ctx, 5, 16);
	submit_polls(&drain, polls);
	submit_syncs(&drain, syncs);
	ok(run_drain(&drain), "a ring's pages can be pinned in a pipe, and read when its context "
			      "is destroyed and its mapping gone");
	if (!drain.content)
		return;
	diag("%u of %u fsyncs in flight at the pin", 5 + SYNCS - drain.pinned, SYNCS);
	for (unsigned i = 0; i < 5; i++)
		kept += slots_of(drain.content)[i].data == 16;
	for (unsigned i = 0; i < SYNCS; i++)
		synced += events_of(&drain, &syncs[i], 5, 0) == 1;
	for (unsigned i = 0; i < POLLS; i++)
		cancelled += events_of(&drain, &polls[i], drain.pinned, 0) == 1;
	ok(kept == 5, "... what was pending is there");
	ok(synced == SYNCS, "... and an event of each fsync that was in flight");
	ok(cancelled == POLLS, "... and of each poll, which io_destroy cancels: behind the tail "
			       "that was seen, res 0, with its iocb and its data");
	ok(drain.content->tail == 5 + SYNCS + POLLS && !drain.content->head,
	    "... and nothing else");
}

/* Two rings in one pipe whose end to write to is closed when they are destroyed. */
static void test_drain_shared(void)
{
	static struct iocb iocbs[2 * POLLS];
	char *content = filled(2 * (size_t)len_of(new_ring(1)), 0x33);
	unsigned cancelled = 0;
	size_t len = 0, done = 0;
	aio_context_t ctx[2];
	int fds[2];

	if (pipe(fds))
		_exit(1);
	for (unsigned r = 0; r < 2; r++) {
		struct iovec vec;

		ctx[r] = new_ring(1);
		len = (size_t)len_of(ctx[r]);
		complete(ctx[r], 3 + r, 40 + r);
		for (unsigned i = 0; i < POLLS; i++) {
			struct iocb *poll = &iocbs[r * POLLS + i];

			iocb_poll(poll, silent[0], POLLIN, r * POLLS + i);
			submit_one(ctx[r], poll);
		}
		vec = (struct iovec){ring_of(ctx[r]), len};
		if (vmsplice(fds[1], &vec, 1, SPLICE_F_NONBLOCK) != (ssize_t)len)
			_exit(1);
		ctx[r] = (uintptr_t)move(ctx[r], len, reserve(len));
	}
	close(fds[1]);
	if (io_destroy(ctx[0]) || io_destroy(ctx[1]))
		_exit(1);
	while (done < 2 * len) {
		ssize_t n = read(fds[0], content + done, 2 * len - done);

		if (n <= 0)
			_exit(1);
		done += (size_t)n;
	}
	for (unsigned r = 0; r < 2; r++)
		for (uint32_t i = 3 + r; i < 3 + r + POLLS; i++)
			cancelled += slots_of(content + r * len)[i].data / POLLS == r;
	ok(cancelled == 2 * POLLS && read(fds[0], content, 1) == 0,
	    "rings share a pipe, whose end to write to may be closed, and may be moved meanwhile");
}

static void test_drain_reads(void)
{
	static struct drain drain;
	char *buffer = filled(READS * READ_BYTES, 0x44);
	int fd = open_direct();
	unsigned read = 0;

	if (fd < 0 || pwrite(fd, buffer, READS * READ_BYTES, 0) != READS * READ_BYTES) {
		skip("direct reads are drained", "no file system here takes O_DIRECT");
		return;
	}
	drain.ctx = new_ring(1);
	for (unsigned i = 0; i < READS; i++) {
		drain.iocbs[i] = (struct iocb){
		    .aio_lio_opcode = IOCB_CMD_PREAD,
		    .aio_fildes = (uint32_t)fd,
		    .aio_buf = (uintptr_t)buffer + i * READ_BYTES,
		    .aio_nbytes = READ_BYTES,
		    .aio_offset = i * READ_BYTES,
		    .aio_data = i,
		};
		if (submit_one(drain.ctx, &drain.iocbs[i]) != 1)
			_exit(1);
	}
	if (!run_drain(&drain))
		_exit(1);
	diag("%u of %u direct reads in flight at the pin", READS - drain.pinned, READS);
	for (unsigned i = 0; i < READS; i++)
		read += events_of(&drain, &drain.iocbs[i], 0, READ_BYTES) == 1;
	ok(read == READS && drain.content->tail == READS,
	    "direct reads that were in flight have their events in the drained ring");
}

/* -errno, or what is taken from an eventfd without ever waiting. */
static long take_now(int fd)
{
	uint64_t count = 0;
	struct iovec vec = {&count, sizeof(count)};
	long n = result(preadv2(fd, &vec, 1, -1, RWF_NOWAIT));

	return n < 0 ? n : (long)count;
}

/* The drain cancels a poll that has an eventfd with that count; returns the eventfd. */
static int drain_with_eventfd(int count, int flags)
{
	static struct drain drain;
	int fd = eventfd((unsigned)count, flags);

	drain.ctx = new_ring(1);
	iocb_poll(&drain.iocbs[0], silent[0], POLLIN, 0);
	drain.iocbs[0].aio_flags = IOCB_FLAG_RESFD;
	drain.iocbs[0].aio_resfd = (uint32_t)fd;
	if (submit_one(drain.ctx, &drain.iocbs[0]) != 1 || !run_drain(&drain))
		_exit(1);
	return fd;
}

/* A descriptor that was an eventfd may be another by now, from which nothing may be taken. */
static void test_ready_to_read(void)
{
	int fds[2], sockets[2], ready, file = memfd_create("file", MFD_CLOEXEC);

	if (pipe2(fds, O_CLOEXEC) || socketpair(AF_UNIX, SOCK_DGRAM, 0, sockets))
		_exit(1);
	ok(ioctl(eventfd(0, EFD_CLOEXEC), FIONREAD, &ready) && errno == ENOTTY,
	    "an eventfd cannot be asked how much there is to read");
	ok(!ioctl(fds[0], FIONREAD, &ready) && !ioctl(fds[1], FIONREAD, &ready) &&
		!ioctl(file, FIONREAD, &ready) && !ioctl(sockets[0], FIONREAD, &ready),
	    "a pipe, a file and a socket can");
}

static void test_eventfd(void)
{
	int fd = drain_with_eventfd(5, 0);
	uint64_t rest = 5;

	ok(take_now(fd) == 6, "a poll that io_destroy cancels raises its eventfd by one");
	ok(take_now(fd) == -EAGAIN, "a read with RWF_NOWAIT of an eventfd takes what there is, "
				    "and never waits");
	ok(write(fd, &rest, sizeof(rest)) == sizeof(rest) && take_now(fd) == 5,
	    "... and the rest can be written again");
	fd = drain_with_eventfd(2, EFD_SEMAPHORE);
	ok(take_now(fd) == 1 && take_now(fd) == 1 && take_now(fd) == 1 && take_now(fd) == -EAGAIN,
	    "... of one with EFD_SEMAPHORE it takes one");
}

static void test_cancel(void)
{
	aio_context_t ctx = new_ring(1);
	struct aio_slot event = {0};
	struct iocb poll;
	long err;

	complete(ctx, 1, 17);
	io_getevents(ctx, 1, &event);
	iocb_poll(&poll, silent[0], POLLIN, 18);
	submit_one(ctx, &poll);
	err = io_cancel(ctx, &poll);
	ok(err == -EINPROGRESS, "io_cancel of a poll says EINPROGRESS");
	for (int ms = 0; ms < PATIENCE_MS && ring_of(ctx)->tail == 1; ms++)
		tick();
	ok(io_getevents(ctx, 1, &event) == 1 && event.data == 18 && event.obj == (uintptr_t)&poll &&
		!event.res && !event.res2,
	    "... and its event is at the tail: res 0, with its iocb and its data");
}

/* ---- pipes ---- */

static void test_pipe_size(void)
{
	const size_t most = 16 * (size_t)page;
	void *memory = filled(2 * most, 1);
	struct iovec vec = {memory, most + page};
	long limit = read_number("/proc/sys/fs/pipe-max-size");
	int fds[2];

	if (pipe(fds))
		_exit(1);
	ok(fcntl(fds[0], F_GETPIPE_SZ) == (int)most &&
		vmsplice(fds[1], &vec, 1, SPLICE_F_NONBLOCK) == (ssize_t)most,
	    "a pipe holds 16 pages");
	vec.iov_base = (char *)memory + most;
	vec.iov_len = page;
	ok(fcntl(fds[0], F_SETPIPE_SZ, 2 * most) == (int)(2 * most) &&
		vmsplice(fds[1], &vec, 1, SPLICE_F_NONBLOCK) == (ssize_t)page,
	    "... and more when F_SETPIPE_SZ says so, while it holds some");
	if (setresuid(65534, 65534, 65534) && geteuid() == 0)
		skip("the limit of pipes", "privileges cannot be dropped: %s", strerror(errno));
	else
		ok(fcntl(fds[0], F_SETPIPE_SZ, limit) == (int)limit &&
			fcntl(fds[0], F_SETPIPE_SZ, 2 * limit) == -1 && errno == EPERM,
		    "... up to fs.pipe-max-size without privileges");
}

static void test_pipe_pages(void)
{
	int fds[2];

	if (use_up_pipes()) {
		skip("pipes of two pages", "the limit of a user's pipes cannot be reached here");
		return;
	}
	ok(!pipe(fds) && fcntl(fds[0], F_GETPIPE_SZ) == 2 * (int)page,
	    "whoever has as many pages in pipes as he may have gets pipes of two pages");
	ok(fcntl(fds[0], F_SETPIPE_SZ, 16 * page) == -1 && errno == EPERM,
	    "... and none that is larger: EPERM");
}

/* ---- memory ---- */

static void test_memory(void)
{
	char *at = reserve(3 * (size_t)page), byte;
	struct iovec to = {&byte, 1}, from = {at + page, 1};

	munmap(at + page, page);
	ok(!msync(at, page, MS_ASYNC) && !msync(at + 2 * page, page, MS_ASYNC),
	    "msync with MS_ASYNC says 0 of what is mapped, readable or not");
	errno = 0;
	ok(msync(at, 3 * (size_t)page, MS_ASYNC) && errno == ENOMEM,
	    "... and ENOMEM of what is not mapped, in part or whole");
	errno = 0;
	ok(mmap(at, 2 * (size_t)page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
	       -1, 0) == MAP_FAILED &&
		errno == EEXIST && is_unmapped((uintptr_t)at + page, page),
	    "MAP_FIXED_NOREPLACE says EEXIST where something is mapped, in part or whole");
	ok(mmap(at + page, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
	       0) == at + page,
	    "... and takes what is free");
	errno = 0;
	ok(process_vm_readv(getpid(), &to, 1, &from, 1, 0) < 0 && errno == EFAULT,
	    "process_vm_readv says EFAULT of what cannot be read");
}

/* ---- fork ---- */

/* What the child found out, and how far both are. */
static struct {
	volatile int turn, is_refused, maps_it, sees_it;
} * family;

static int is_turn(int turn)
{
	for (int ms = 0; ms < PATIENCE_MS && family->turn != turn; ms++)
		tick();
	return family->turn == turn;
}

static _Noreturn void inherit(aio_context_t ctx, size_t len)
{
	const struct rlimit no_core = {0, 0};
	volatile struct aio_ring *ring = ring_of(ctx);

	setrlimit(RLIMIT_CORE, &no_core);
	family->maps_it = is_mapped(ctx, len);
	family->is_refused = refuses(ctx) && is_mapped(ctx, len) == family->maps_it;
	if (family->maps_it)
		family->sees_it = ring->tail == 2;
	family->turn = 1;
	is_turn(2);
	if (!family->maps_it)
		_exit(0);
	family->sees_it &= ring->tail == 3;
	family->turn = 3;
	is_turn(4);
	/* The kernel truncates the ring's file a moment after io_destroy has returned. */
	for (int ms = 0; ms < PATIENCE_MS && ring->nr; ms++)
		tick();
	_exit(1);
}

static void test_inherited(aio_context_t ctx, pid_t pid)
{
	uint64_t inode = mapping_of(getpid(), ctx).inode;
	int status = 0;

	ok(is_turn(3) && family->sees_it && inode && mapping_of(pid, ctx).inode == inode,
	    "... what it maps is the parent's ring: the same inode, and it sees events come");
	io_destroy(ctx);
	family->turn = 4;
	waitpid(pid, &status, 0);
	ok(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS,
	    "... and to touch it is SIGBUS when the parent has destroyed the context");
}

static void test_fork(void)
{
	aio_context_t ctx = new_ring(1);
	size_t len = (size_t)len_of(ctx);
	pid_t pid;

	family = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	complete(ctx, 2, 0);
	pid = fork_mortal();
	if (!pid)
		inherit(ctx, len);
	ok(is_turn(1) && family->is_refused,
	    "a child has none of its parent's contexts: every call says EINVAL");
	ok(complete(ctx, 1, 0) == 1 && ring_of(ctx)->tail == 3,
	    "... which its parent does not notice");
	family->turn = 2;
	diag("a child %s its parent's rings", family->maps_it ? "maps" : "does not map");
	if (family->maps_it)
		test_inherited(ctx, pid);
	else
		waitpid(pid, NULL, 0);
}

static const struct {
	const char *name;
	void (*test)(void);
} facts[] = {
    {"size", test_size},
    {"the smallest n", test_smallest_n},
    {"accounting", test_accounting},
    {"the name", test_name},
    {"the tail", test_tail},
    {"wrapping", test_wrap},
    {"reaping", test_reaping},
    {"slots", test_usable},
    {"slots of polls", test_usable_polls},
    {"slots of two CPUs", test_usable_of_two},
    {"the id", test_id},
    {"moving", test_move},
    {"moving back", test_move_back},
    {"looking up", test_lookup},
    {"the length", test_length_stays},
    {"moving a part", test_move_part},
    {"moving a split ring", test_move_split},
    {"protection", test_protection},
    {"unmapped pages", test_hole},
    {"io_destroy and a neighbour", test_destroy_neighbour},
    {"io_destroy and a sealed page", test_destroy_sealed},
    {"helpers", test_helpers},
    {"silent helpers", test_silent_helpers},
    {"draining", test_drain},
    {"draining through one pipe", test_drain_shared},
    {"draining direct reads", test_drain_reads},
    {"draining and eventfds", test_eventfd},
    {"what is ready to read", test_ready_to_read},
    {"io_cancel", test_cancel},
    {"pipes", test_pipe_size},
    {"pipes of two pages", test_pipe_pages},
    {"memory", test_memory},
    {"fork", test_fork},
};

int main(void)
{
	if (facts_start())
		return 1;
	for (size_t i = 0; i < COUNT(facts); i++)
		in_child(facts[i].name, facts[i].test);
	return tap_end();
}
