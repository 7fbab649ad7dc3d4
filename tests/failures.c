/* SPDX-License-Identifier: MIT */
/*
 * The restore blob, when something fails: all or nothing. The staged memory is as it was, byte for
 * byte, the new contexts are gone, nothing has leaked, the block says what failed, and once the
 * reason is gone the same call succeeds.
 */
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include "bad.h"

#ifndef __NR_mseal
#define __NR_mseal 462 /* the same on every architecture */
#endif

#define N 3
#define ROOM 16

static struct aior_ring_record *rings;
static struct aior_poll_record *polls;
static struct staged staged[ROOM];
static struct state before, after;
static struct iocb *iocbs;
static uint32_t cpus;
static int null_fd;
static int free_slots_aside; /* only what a program can tell must be as it was */

/* Three rings: in place, elsewhere, in place; wrapped and not. */
static void set_up(void)
{
	rings = map_guarded(ROOM * sizeof(*rings));
	polls = map_guarded(ROOM * sizeof(*polls));
	iocbs = map_guarded(ROOM * sizeof(*iocbs));
	state_prepare(&before);
	state_prepare(&after);
	arena_make(16 << 20);
	cpus = possible_cpus();
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (uint32_t i = 0; i < N; i++) {
		uint64_t len =
		    aio_ring_len(1 + 100 * i * (blob.page / 4096), cpus, (uint32_t)blob.page);

		stage(&rings[i], &staged[i], len, 100 - i, 90 + 10 * i, i != 1, i);
	}
}

/* The call must fail so, and leave everything as it was. */
static int fails_with(
    const char *name, struct aior_args *args, uint32_t err, uint32_t step, uint32_t ring)
{
	struct aior_args given = *args;
	const char *why = NULL;
	long nr = aio_nr();
	int ret;

	state_take(&before);
	ret = blob_call(args);
	state_take(&after);
	if (ret != -(int)err || args->err != err || args->step != step || args->ring != ring)
		why = "the results";
	else if (memcmp(args, &given, offsetof(struct aior_args, err)))
		why = "the block's input";
	else if (ring < args->ring_count && (rings[ring].err != err || rings[ring].step != step))
		why = "the ring's results";
	if (!why)
		why = state_differs(&before, &after, NULL, 0);
	for (uint32_t i = 0; i < N && !why; i++) {
		if (!is_intact(&rings[i], &staged[i])) {
			uint64_t at = 0;

			if (free_slots_aside && is_same_ring(&rings[i], &staged[i]))
				continue;
			while (
			    ((unsigned char *)(uintptr_t)rings[i].staged)[at] == staged[i].copy[at])
				at++;
			diag("ring %u differs at byte %llu", i, (unsigned long long)at);
			why = "the staged bytes";
		}
		if (rings[i].flags || rings[i].aside)
			why = "the record's results";
	}
	if (!why && !aio_nr_is_back(nr))
		why = "fs.aio-nr";
	if (why)
		diag("returned %d, errno %u, step %u, ring %u; expected errno %u, step %u, ring %u",
		    ret, args->err, args->step, (int)args->ring == -1 ? 999 : args->ring, err, step,
		    (int)ring == -1 ? 999 : ring);
	return ok(!why, "%s: %s", name, why ? why : "refused, and all is as it was");
}

static void succeeds(const char *name, struct aior_args *args)
{
	const char *why = NULL;

	state_take(&before);
	if (blob_call(args) || args->step != AIOR_STEP_DONE)
		why = "the results";
	state_take(&after);
	if (!why)
		why = state_differs(&before, &after, rings, N);
	for (uint32_t i = 0; i < N && !why; i++)
		why = why_not_live(&rings[i], &staged[i], args, null_fd);
	if (why)
		diag("errno %u, step %u, ring %d", args->err, args->step, (int)args->ring);
	ok(!why, "%s: then the same call succeeds (%s)", name, why ? why : "exact");
}

/* ---- the surroundings ---- */

static void test_taken(void)
{
	struct aior_args args;
	char *inside;

	set_up();
	args = blob_args(rings, N, NULL, 0);
	inside = (char *)(uintptr_t)rings[1].addr + rings[1].len - blob.page;
	map_at(inside, blob.page, PROT_READ);
	fails_with("destination taken", &args, EEXIST, AIOR_STEP_RESERVE, 1);
	munmap(inside, blob.page);
	succeeds("destination taken", &args);
}

static void test_no_address(void)
{
	struct aior_args args;
	uint64_t addr;

	set_up();
	args = blob_args(rings, N, NULL, 0);
	addr = rings[2].addr;
	rings[2].addr = -(uintptr_t)blob.page - rings[2].len;
	fails_with("an address that no process has", &args, ENOMEM, AIOR_STEP_RESERVE, 2);
	rings[2].addr = addr;
	succeeds("an address that no process has", &args);
}

static void test_no_descriptors(void)
{
	struct aior_args args;
	struct rlimit limit, none;
	int extra = -1, fd;

	set_up();
	getrlimit(RLIMIT_NOFILE, &limit);
	none = limit;
	none.rlim_cur = 64;
	setrlimit(RLIMIT_NOFILE, &none);
	while ((fd = dup(null_fd)) >= 0)
		extra = fd;
	/* state_take() itself needs one. */
	state_take(&before);
	close(extra);
	args = blob_args(rings, N, NULL, 0);
	none.rlim_cur = (rlim_t)extra;
	setrlimit(RLIMIT_NOFILE, &none);
	ok(blob_call(&args) == -EMFILE && args.err == EMFILE && args.step == AIOR_STEP_PIPE &&
		args.ring == AIOR_NO_RING && is_intact(&rings[0], &staged[0]) &&
		is_intact(&rings[1], &staged[1]),
	    "no descriptor left: EMFILE, making the eventfd");
	args.fd = null_fd;
	ok(!blob_call(&args), "no descriptor left: works with the caller's own");
	setrlimit(RLIMIT_NOFILE, &limit);
	for (uint32_t i = 0; i < N; i++) {
		const char *why = why_not_live(&rings[i], &staged[i], &args, null_fd);

		ok(!why, "no descriptor left: ring %u is %s", i, why ? why : "exact");
	}
	while (extra >= 32)
		close(extra--);
}

static void test_wrong_descriptor(void)
{
	struct aior_args args;

	set_up();
	args = blob_args(rings, N, NULL, 0);
	args.fd = 3999;
	fails_with("a descriptor that is closed", &args, EBADF, AIOR_STEP_ADVANCE, 0);
	args.fd = -1;
	succeeds("a descriptor that is closed", &args);
}

static void test_aio_max_nr(void)
{
	long left = aio_max_nr() - aio_nr();
	struct aior_args args;
	aio_context_t ctx;

	set_up();
	/* Room for two: 1 and about 64; the third asks for about 200 (with pages of 4 KiB). */
	if (left < 10000 || io_setup((unsigned)(left - 150 * (long)(blob.page / 4096)), &ctx)) {
		skip("fs.aio-max-nr reached", "fs.aio-max-nr leaves %ld", left);
		return;
	}
	args = blob_args(rings, N, NULL, 0);
	fails_with("fs.aio-max-nr reached", &args, EAGAIN, AIOR_STEP_SETUP, 2);
	io_destroy(ctx);
	succeeds("fs.aio-max-nr reached", &args);
}

/*
 * A host whose smallest ring is another: only one with many possible CPUs is, so this one is told
 * that its pages are larger than they are. Its rings are smaller then than the saved ones.
 */
static void test_size(void)
{
	struct aior_args args;
	uint64_t len = 16 * blob.page;
	uint32_t nr = aio_ring_nr((uint32_t)len);
	char *area = map_guarded(3 * len);

	set_up();
	stage(&rings[0], &staged[0], len, 5, nr - 2, 0, 1);
	/* All that the blob looks at lies in whole pages of that size. */
	area += -(uintptr_t)area & (len - 1);
	memcpy(area + len, (void *)(uintptr_t)rings[0].staged, len);
	rings[0].staged = (uintptr_t)area + len;
	rings[0].addr = 0x10000000;
	rings[0].n = 0;
	rings = memcpy(area, rings, N * sizeof(*rings));
	args = blob_args(rings, 1, NULL, 0);
	args.scratch = (uintptr_t)area + len - args.scratch_len;
	args.page_size = (uint32_t)len;
	fails_with("a ring of another size", &args, ERANGE, AIOR_STEP_SIZE, 0);
	if (possible_cpus() <= aio_ring_max_cpus(blob.page))
		skip("a host with more CPUs than the ring was made for",
		    "this one has %u possible CPUs, the smallest ring is for %u", possible_cpus(),
		    aio_ring_max_cpus(blob.page));
}

/* Whoever calls believes that more CPUs are possible than are: the smallest ring is not so large. */
static void test_wrong_n(void)
{
	struct aior_args args;

	set_up();
	for (uint32_t i = 0; i < N; i++)
		rings[i].n = 1;
	args = blob_args(rings, N, NULL, 0);
	succeeds("another number of CPUs than there are", &args);
}

/* More pending than the context admits: its owner moved the head. */
static void test_overfull(void)
{
	struct aior_args args;
	uint32_t nr = staged[0].nr;

	set_up();
	nr = staged[2].nr;
	stage(&rings[2], &staged[2], staged[2].len, 1, 0, 1, 9);
	args = blob_args(rings, N, NULL, 0);
	if (aio_ring_usable(nr, cpus) == nr - 1) {
		skip("more pending than fit", "here all %u fit", nr - 1);
		return;
	}
	fails_with("more pending events than fit", &args, EAGAIN, AIOR_STEP_ADVANCE, 2);
	ring_of(rings[2].staged)->head = 50;
	staged[2].head = ((struct aio_ring *)staged[2].copy)->head = 50;
	succeeds("more pending events than fit", &args);
}

/* A ring whose protection the kernel refuses: it has no executable rings. */
static void test_protection(void)
{
	struct aior_args args;

	set_up();
	args = blob_args(rings, N, NULL, 0);
	rings[2].prot = PROT_READ | PROT_WRITE | PROT_EXEC;
	fails_with("a protection that is refused", &args, EACCES, AIOR_STEP_PROTECT, 2);
	rings[2].prot = 0;
	succeeds("a protection that is refused", &args);
}

static void test_sealed(void)
{
	struct aior_args args;

	set_up();
	args = blob_args(rings, N, NULL, 0);
	if (syscall(__NR_mseal, rings[2].addr, rings[2].len, 0L)) {
		skip("a move that fails", "no mseal here: %s", strerror(errno));
		return;
	}
	fails_with("a move that fails when others are done", &args, EPERM, AIOR_STEP_MOVE, 2);
	/* The seal stays; the others come back without the third. */
	args.ring_count = 2;
	ok(!blob_call(&args) && !why_not_live(&rings[0], &staged[0], &args, null_fd) &&
		!why_not_live(&rings[1], &staged[1], &args, null_fd),
	    "a move that fails: the others come back");
}

/* ---- polls ---- */

static long eventfd_count(int fd)
{
	uint64_t count;

	return read(fd, &count, sizeof(count)) == (ssize_t)sizeof(count) ? (long)count : 0;
}

/*
 * Polls in flight, completed and lost when the failure comes, each with an eventfd; the failure is
 * that of the protection, or of the last move.
 */
static void polls_then(const char *name, uint32_t err, uint32_t step)
{
	enum { POLLS = 5 };
	struct aior_args args;
	int pipes[POLLS][2], fds[POLLS], innocent[2];
	char text[16] = "";
	uint32_t wrong = 0;

	set_up();
	if (pipe2(innocent, O_CLOEXEC | O_NONBLOCK) || write(innocent[1], "innocent", 8) != 8)
		abort();
	for (uint32_t i = 0; i < POLLS; i++) {
		if (pipe2(pipes[i], O_CLOEXEC | O_NONBLOCK))
			abort();
		fds[i] = eventfd(
		    i & 1 ? 3 : 0, EFD_NONBLOCK | EFD_CLOEXEC | (i == 3 ? EFD_SEMAPHORE : 0));
		iocb_poll(&iocbs[i], pipes[i][0], POLLIN, 100 + i);
		iocbs[i].aio_flags = IOCB_FLAG_RESFD;
		iocbs[i].aio_resfd = (uint32_t)fds[i];
		polls[i] = (struct aior_poll_record){
		    .ring = rings[i / 2].addr, .iocb = (uintptr_t)&iocbs[i], .data = 100 + i};
	}
	/* 0 and 3 stay in flight, 1 and 2 are ready, 4 is lost, and its eventfd is none any more. */
	if (write(pipes[1][1], "x", 1) != 1 || write(pipes[2][1], "x", 1) != 1)
		abort();
	iocbs[4].aio_resfd = (uint32_t)innocent[0];
	args = blob_args(rings, N, polls, POLLS);
	if (step == AIOR_STEP_PROTECT)
		rings[2].prot = PROT_READ | PROT_EXEC;
	else if (syscall(__NR_mseal, rings[2].addr, rings[2].len, 0L)) {
		skip(name, "no mseal here: %s", strerror(errno));
		return;
	}
	fails_with(name, &args, err, step, 2);
	for (uint32_t i = 0; i < POLLS; i++)
		wrong += polls[i].flags || polls[i].err;
	ok(!wrong && !args.polls_lost, "%s: no poll is said to be lost", name);
	ok(read(innocent[0], text, sizeof(text)) == 8 && !memcmp(text, "innocent", 8),
	    "%s: nothing was read from what is no eventfd", name);
	for (uint32_t i = 0; i < 4; i++) {
		long count = eventfd_count(fds[i]);

		/* A semaphore gives one each time. */
		while (i == 3 && eventfd_count(fds[i]))
			count++;
		ok(count == (i & 1 ? 3 : 0), "%s: eventfd %u is where it was (%ld)", name, i,
		    count);
	}
}

static void test_polls_protect(void)
{
	polls_then("failed with polls, at the protection", EACCES, AIOR_STEP_PROTECT);
}

static void test_polls_move(void)
{
	/* A ring that had moved already is staged again from its own content: see stage_again(). */
	free_slots_aside = 1;
	polls_then("failed with polls, at the last move", EPERM, AIOR_STEP_MOVE);
}

/* The ring is full: there is no slot for the poll. */
static void test_polls_full(void)
{
	struct aior_args args;
	int fds[2];
	uint32_t usable;

	set_up();
	if (pipe2(fds, O_CLOEXEC))
		abort();
	usable = aio_ring_usable(staged[2].nr, cpus);
	stage(&rings[2], &staged[2], staged[2].len, 50, (50 + usable) % staged[2].nr, 1, 7);
	iocb_poll(&iocbs[0], fds[0], POLLIN, 5);
	polls[0] = (struct aior_poll_record){
	    .ring = rings[2].addr, .iocb = (uintptr_t)&iocbs[0], .data = 5};
	args = blob_args(rings, N, polls, 1);
	fails_with("no slot for a poll", &args, EAGAIN, AIOR_STEP_POLL, 2);
	args.poll_count = 0;
	succeeds("no slot for a poll", &args);
}

/* ---- memory ---- */

/*
 * No mapping to spare, then one, then two and so on, until the call succeeds: with each it must have
 * left all as it was. Ring 2 and two more are staged inside of one mapping, which their moves split.
 */
static void test_no_mappings(void)
{
	long most = read_number("/proc/sys/vm/max_map_count");
	size_t page = blob.page, fill_len;
	struct aior_args args;
	const char *why = NULL;
	char *fill, *merged;
	unsigned spare, failed = 0;
	uint64_t len;
	size_t pieces = 0;
	struct aior_ring_record fresh[5];

	if (most <= 0 || most > 200000) {
		skip("no mapping to spare", "vm.max_map_count is %ld", most);
		return;
	}
	set_up();
	len = aio_ring_len(1, cpus, (uint32_t)page);
	merged = arena_take(7 * len);
	map_at(merged, 7 * len, PROT_READ | PROT_WRITE);
	for (uint32_t i = 2; i < 5; i++) {
		char *at = merged + (1 + 2 * (i - 2)) * len;

		ring_make(at, len, i, 3 * i, i);
		rings[i] = (struct aior_ring_record){
		    .addr = (uintptr_t)at, .len = len, .staged = (uintptr_t)at};
		staged[i] = (struct staged){malloc(len), len, i, 3 * i, (uint32_t)aio_ring_nr(len)};
		memcpy(staged[i].copy, at, len);
	}
	memcpy(fresh, rings, sizeof(fresh));
	fill_len = (size_t)(most + 16) * page;
	fill = mmap(NULL, fill_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (fill == MAP_FAILED)
		abort();
	for (size_t at = page; at < fill_len && !mprotect(fill + at, page, PROT_READ);
	     at += 2 * page)
		pieces++;
	/* One more fits if the last one would have needed two. */
	mprotect(fill + fill_len - page, page, PROT_READ);
	for (spare = 0; spare < 40 && !why; spare++) {
		int ret;

		memcpy(rings, fresh, sizeof(fresh));
		args = blob_args(rings, 5, NULL, 0);
		state_take(&before);
		ret = blob_call(&args);
		if (!ret)
			break;
		failed++;
		state_take(&after);
		why = state_differs(&before, &after, NULL, 0);
		if (args.err != ENOMEM)
			why = "the errno";
		for (uint32_t i = 0; i < 5 && !why; i++) {
			if (rings[i].flags & AIOR_RING_LIVE)
				why = "a ring is live";
			else if (!is_intact(&rings[i], &staged[i]))
				why = "the staged bytes";
		}
		if (why)
			diag("%u spare: errno %u, step %u, ring %d", spare, args.err, args.step,
			    (int)args.ring);
		/* The first piece gives back two, when the one before it is gone: one by one. */
		munmap(fill + spare * page, page);
	}
	ok(!why && failed && spare < 40, "no mapping to spare, and up to %u more: %s", spare,
	    why ? why : "each failure left all as it was");
	munmap(fill, fill_len);
	if (why)
		return;
	for (uint32_t i = 0; i < 5 && !why; i++)
		why = why_not_live(&rings[i], &staged[i], &args, null_fd);
	ok(!why, "no mapping to spare: the call that succeeded is %s", why ? why : "exact");
}

/* No address space to spare: RLIMIT_AS, a page more each time. */
static void test_no_memory(void)
{
	struct rlimit limit, none;
	struct aior_args args;
	struct aior_ring_record fresh[N];
	const char *why = NULL;
	unsigned failed = 0;
	long pages;
	int ret = -1;

	set_up();
	memcpy(fresh, rings, sizeof(fresh));
	getrlimit(RLIMIT_AS, &limit);
	none = limit;
	state_take(&before);
	state_take(&before);
	pages = read_number("/proc/self/statm");
	for (unsigned spare = 0; spare < 64 && !why; spare++) {
		memcpy(rings, fresh, sizeof(fresh));
		args = blob_args(rings, N, NULL, 0);
		none.rlim_cur = ((rlim_t)pages + spare) * blob.page;
		state_take(&before);
		setrlimit(RLIMIT_AS, &none);
		ret = blob_call(&args);
		setrlimit(RLIMIT_AS, &limit);
		if (!ret)
			break;
		failed++;
		state_take(&after);
		why = state_differs(&before, &after, NULL, 0);
		for (uint32_t i = 0; i < N && !why; i++)
			if (rings[i].flags || !is_intact(&rings[i], &staged[i]))
				why = "the staged bytes";
		if (why)
			diag("%u pages spare: errno %u, step %u, ring %d", spare, args.err,
			    args.step, (int)args.ring);
	}
	ok(!why && failed && !ret, "no address space to spare, %u amounts: %s", failed,
	    why ? why : "each failure left all as it was");
	for (uint32_t i = 0; i < N && !why; i++)
		why = why_not_live(&rings[i], &staged[i], &args, null_fd);
	ok(!why, "no address space to spare: the call that succeeded is %s", why ? why : "exact");
}

/* ---- bad input ---- */

/* A hole of a page: what lies there is not mapped. */
static uint64_t hole;

static void test_args(void)
{
	const struct bad_field bad[] = {
	    BAD_TABLES(blob.header, rings, polls, hole),
	    {"more polls than mapped", AT_ARGS(poll_count), ~0u, EFAULT},
	};
	struct aior_args args;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		polls[0] = (struct aior_poll_record){.ring = rings[1].addr};
		args = blob_args(rings, N, polls, 1);
		memcpy((char *)&args + bad[i].offset, &bad[i].value, bad[i].size);
		fails_with(bad[i].name, &args, bad[i].err, AIOR_STEP_ARGS, AIOR_NO_RING);
	}
	polls[0].ring++;
	args = blob_args(rings, N, polls, 1);
	fails_with("a poll of no ring", &args, EINVAL, AIOR_STEP_ARGS, AIOR_NO_RING);
	polls[0].ring = rings[1].addr;
	polls[1].ring = rings[0].addr;
	args = blob_args(rings, N, polls, 2);
	fails_with(
	    "polls not in the order of the rings", &args, EINVAL, AIOR_STEP_ARGS, AIOR_NO_RING);
}

static void test_records(void)
{
	const uint64_t page = blob.page;
	const struct bad_field bad[] = {
	    {"address not aligned", AT_RING(addr), rings[1].addr + 8, EINVAL},
	    {"address below the ring before", AT_RING(addr), rings[0].addr - page, EINVAL},
	    {"address of the ring before", AT_RING(addr), rings[0].addr, EINVAL},
	    {"address that wraps", AT_RING(addr), ~(page - 1), EINVAL},
	    {"over its own staged memory", AT_RING(addr), (rings[1].staged & ~(page - 1)) - page,
		EINVAL},
	    {"length 0", AT_RING(len), 0, EINVAL},
	    {"length not whole pages", AT_RING(len), rings[1].len + 32, EINVAL},
	    {"length of a page less", AT_RING(len), rings[1].len - page, EINVAL},
	    {"length absurd", AT_RING(len), 1ull << 46, EINVAL},
	    {"length that wraps", AT_RING(len), ~(page - 1), EINVAL},
	    {"staged memory not aligned", AT_RING(staged), rings[1].staged + 4, EINVAL},
	    {"staged memory not mapped", AT_RING(staged), hole, EFAULT},
	    {"staged memory that ends too soon", AT_RING(staged), hole - 64, EFAULT},
	    {"staged at 0", AT_RING(staged), 0, EFAULT},
	    {"staged at the end of the world", AT_RING(staged), ~7ull, EFAULT},
	    {"staged memory in its lower half", AT_RING(staged), FAR + rings[1].staged, EFAULT},
	    {"length in its lower half", AT_RING(len), FAR + rings[1].len, EINVAL},
	    {"flags", AT_RING(flags), AIOR_RING_LIVE, EINVAL},
	    {"unknown flags", AT_RING(flags), 1u << 31, EINVAL},
	    {"unknown protection", AT_RING(prot), 8, EINVAL},
	    {"reserved", AT_RING(reserved), 1, EINVAL},
	};
	const struct aior_ring_record good = rings[1];
	struct aior_args args;

	/* What else the record says must not matter: no step may come before the check of it all. */
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		unsigned char keep[4096];
		int ret;

		rings[1] = good;
		memcpy((char *)&rings[1] + bad[i].offset, &bad[i].value, bad[i].size);
		memcpy(keep, &rings[1], sizeof(rings[1]));
		args = blob_args(rings, N, NULL, 0);
		state_take(&before);
		ret = blob_call(&args);
		state_take(&after);
		ok(ret == -(int)bad[i].err && args.err == bad[i].err &&
			args.step == AIOR_STEP_RING && args.ring == 1 &&
			rings[1].step == AIOR_STEP_RING && rings[1].err == bad[i].err &&
			!state_differs(&before, &after, NULL, 0) &&
			is_intact(&rings[0], &staged[0]) && is_intact(&rings[2], &staged[2]) &&
			is_intact(&good, &staged[1]),
		    "ring record: %s (%d, step %u, ring %d)", bad[i].name, ret, args.step,
		    (int)args.ring);
	}
	rings[1] = good;
}

static void test_headers(void)
{
	const struct {
		const char *name;
		size_t offset;
		uint32_t value;
	} bad[] = {
	    {"nr 0", 4, 0},
	    {"nr one less", 4, staged[1].nr - 1},
	    {"nr one more", 4, staged[1].nr + 1},
	    {"nr all ones", 4, ~0u},
	    {"head nr", 8, staged[1].nr},
	    {"head all ones", 8, ~0u},
	    {"tail nr", 12, staged[1].nr},
	    {"tail all ones", 12, ~0u},
	    {"magic", 16, 0},
	    {"header length", 28, 64},
	};
	struct aior_args args;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint32_t *word = (uint32_t *)(uintptr_t)(rings[1].staged + bad[i].offset);
		uint32_t *copy = (uint32_t *)(staged[1].copy + bad[i].offset);
		uint32_t good = *word;

		*word = *copy = bad[i].value;
		args = blob_args(rings, N, NULL, 0);
		fails_with(bad[i].name, &args, EINVAL, AIOR_STEP_RING, 1);
		*word = *copy = good;
	}
}

static void test_bad_input(void)
{
	struct aior_args args;

	set_up();
	map_at(arena_take(3 * blob.page), 3 * blob.page, PROT_READ | PROT_WRITE);
	hole = (uintptr_t)arena.base + arena.used - blob.page;
	munmap((void *)(uintptr_t)hole, blob.page);
	blob.scratch = (unsigned char *)(uintptr_t)hole - blob.page;
	test_args();
	test_records();
	test_headers();
	/* Whatever stands in the fields that are not in use. */
	args = blob_args(rings, N, NULL, 0);
	args.err = args.step = args.ring = args.polls_lost = ~0u;
	args.sigmask = args.reserved_out[1] = ~0ull;
	args.poll_room = args.helpers = ~0u;
	args.capsule = args.sigframe = ~0ull;
	args.polls = 8;
	for (uint32_t i = 0; i < N; i++) {
		rings[i].aside = rings[i].new_len = ~0ull;
		rings[i].err = rings[i].step = rings[i].head = rings[i].tail = ~0u;
	}
	succeeds("bad input", &args);
	ok(!args.reserved_out[0] && !args.reserved_out[1] && !args.reserved_out[2],
	    "reserved results are 0");
}

int main(void)
{
	long nr = test_start();

	in_child("destination taken", test_taken);
	in_child("no address", test_no_address);
	in_child("no descriptors", test_no_descriptors);
	in_child("wrong descriptor", test_wrong_descriptor);
	in_child("fs.aio-max-nr", test_aio_max_nr);
	in_child("size", test_size);
	in_child("another number of CPUs", test_wrong_n);
	in_child("overfull", test_overfull);
	in_child("protection", test_protection);
	in_child("sealed", test_sealed);
	in_child("polls, protection", test_polls_protect);
	in_child("polls, move", test_polls_move);
	in_child("polls, full", test_polls_full);
	in_child("no mappings", test_no_mappings);
	in_child("no memory", test_no_memory);
	in_child("bad input", test_bad_input);
	test_stack();
	return test_end(nr);
}
