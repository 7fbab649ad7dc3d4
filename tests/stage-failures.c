/* SPDX-License-Identifier: MIT */
/*
 * The stage blob, when it is given what it cannot stage, or less than it needs: all or nothing. The
 * rings are where they were, live, with their handles, content and what is in flight; nothing has
 * leaked; the block says what failed; and once the reason is gone the same call succeeds.
 */
#include <poll.h>
#include <sys/resource.h>
#include <sys/uio.h>

#include "bad.h"
#include "stage.h"

#ifndef __NR_mseal
#define __NR_mseal 462 /* the same on every architecture */
#endif

#define N 3

static int watched[2], event_fd; /* of the poll that is in flight all the time */
static struct aior_table *capsule, capsule_given;
static uint64_t hole; /* a page that is not mapped, behind one that is */

static uint32_t more_pages[N] = {0, 1, 2}; /* than the smallest ring has */

/* Three rings of different sizes; the last has a poll in flight. */
static void set_up(void)
{
	set_up_stage(32 << 20);
	set_up_flight();
	capsule = map_guarded(sizeof(*capsule));
	memset(capsule, 0x66, sizeof(*capsule));
	capsule->state = AIOR_TABLE_PREPARED;
	capsule_given = *capsule;
	for (uint32_t i = 0; i < N; i++)
		make_live(i, smallest_len() + more_pages[i] * (uint64_t)page, 100 - i, 20 + 20 * i);
	new_pipe(watched);
	event_fd = eventfd(7, EFD_CLOEXEC | EFD_NONBLOCK);
	must_submit(rings[2].addr, poll_iocb(0, watched[0], event_fd));
}

static struct aior_args args_here(void)
{
	struct aior_args args = stage_args(N);

	args.capsule = (uintptr_t)capsule;
	return args;
}

/* Whether all that the blob was given is live, and as it was; the mappings of a ring apart, if any. */
static const char *why_touched_but(const struct aior_ring_record *apart)
{
	const char *why = state_differs(&before, &after, apart, apart != NULL);

	for (uint32_t i = 0; i < N && !why; i++) {
		if (rings[i].flags || rings[i].aside)
			return "a record's results";
		if (memcmp(ring_of(rings[i].addr), was[i].copy, was[i].len))
			return "a ring's bytes";
		if (!is_handle(rings[i].addr))
			return "a ring is no handle any more";
	}
	if (!why && memcmp(capsule, &capsule_given, sizeof(*capsule)))
		return "the capsule";
	return !why && has_child() ? "a child is left" : why;
}

static const char *why_touched(void)
{
	return why_touched_but(NULL);
}

/* The call must fail so, and leave everything as it was. */
static int fails_with(
    const char *name, struct aior_args *args, uint32_t err, uint32_t step, uint32_t ring)
{
	struct aior_args given = *args;
	const char *why;
	int ret;

	state_take(&before);
	ret = call(&stage_blob, args);
	state_take(&after);
	why = why_touched();
	if (ret != -(int)err || args->err != err || args->step != step || args->ring != ring)
		why = "the results";
	else if (memcmp(args, &given, offsetof(struct aior_args, err)))
		why = "the block's input";
	else if (ring < N && (rings[ring].err != err || rings[ring].step != step))
		why = "the ring's results";
	if (why)
		diag("returned %d, errno %u, step %u, ring %d; expected errno %u, step %u, ring %d",
		    ret, args->err, args->step, (int)args->ring, err, step, (int)ring);
	return ok(!why, "%s: %s", name, why ? why : "refused, and all is as it was");
}

/* After a call that has succeeded: what was in flight all the time comes after restore, once. */
static const char *why_not_done(const struct aior_args *args)
{
	const char *why = NULL;
	struct aior_args restored;

	for (uint32_t i = 0; i < N && !why; i++)
		why = i == 2 ? why_not_plain(i) : why_not_staged(i);
	if (why)
		return why;
	if (args->poll_count != 1 || polls[0].ring != rings[2].addr ||
	    capsule->state != AIOR_TABLE_STAGED)
		return "the poll";
	if (take_count(event_fd) != 7)
		return "the poll's eventfd";
	why = call_restore(args, &restored);
	for (uint32_t i = 0; i < 2 && !why; i++)
		why = why_not_live(&rings[i], &was[i], &restored, silent[0]);
	if (why)
		return why;
	ring_of(rings[2].addr)->head = was[2].tail;
	fire(watched);
	if (!reap_until(rings[2].addr, 1) || !have_fired(0, 1) || take_count(event_fd) != 1)
		return "the poll's event";
	return works(rings[2].addr) ? NULL : "a ring does not work";
}

static void succeeds(const char *name, struct aior_args *args)
{
	const char *why = call_stage(args);

	if (!why)
		why = why_not_done(args);
	ok(!why, "%s: then the same call succeeds (%s)", name, or_so(why));
}

/* ---- the arguments ---- */

static void test_args(void)
{
	const struct bad_field bad[] = {
	    BAD_TABLES(stage_blob.header, rings, polls, hole),
	    {"room for more polls than mapped", AT_ARGS(poll_room), ~0u, EFAULT},
	    {"capsule not aligned", AT_ARGS(capsule), (uintptr_t)capsule + 4, EINVAL},
	    {"capsule not mapped", AT_ARGS(capsule), hole, EFAULT},
	    {"a capsule that ends too soon", AT_ARGS(capsule), hole - 64, EFAULT},
	    {"capsule at the end of the world", AT_ARGS(capsule), ~7ull, EFAULT},
	    {"capsule in its lower half", AT_ARGS(capsule), FAR + (uintptr_t)capsule, EFAULT},
	};
	struct aior_args args;

	for (size_t i = 0; i < COUNT(bad); i++) {
		args = args_here();
		memcpy((char *)&args + bad[i].offset, &bad[i].value, bad[i].size);
		fails_with(bad[i].name, &args, bad[i].err, AIOR_STEP_ARGS, AIOR_NO_RING);
	}
	args = args_here();
	args.poll_room--;
	fails_with("room for one poll too few", &args, ENOSPC, AIOR_STEP_ARGS, AIOR_NO_RING);
	args.poll_room = 0;
	fails_with("no room for polls", &args, ENOSPC, AIOR_STEP_ARGS, AIOR_NO_RING);
}

/* A version, size, flag or end that is not known: nothing is touched, not even the results. */
static void test_unknown(void)
{
	const struct {
		const char *name;
		size_t offset, size;
		uint64_t value;
	} bad[] = {
	    {"version 0", AT_ARGS(abi), 0},
	    {"a later version", AT_ARGS(abi), AIOR_ABI + 1},
	    {"another size", AT_ARGS(size), AIOR_ARGS_SIZE_1 + 8},
	    {"a flag of restore's", AT_ARGS(flags), AIOR_F_GROW},
	    {"an unknown flag", AT_ARGS(flags), 1u << 31},
	    {"an unknown end", AT_ARGS(end), 3},
	    {"a reserved field", AT_ARGS(reserved), 1},
	};

	for (size_t i = 0; i < COUNT(bad); i++) {
		struct aior_args args = args_here(), given;
		const char *why;

		args.err = args.step = args.ring = 77;
		memcpy((char *)&args + bad[i].offset, &bad[i].value, bad[i].size);
		given = args;
		state_take(&before);
		why = call(&stage_blob, &args) == -ENOSYS ? NULL : "the result";
		state_take(&after);
		if (!why && memcmp(&args, &given, sizeof(args)))
			why = "the block";
		if (!why)
			why = why_touched();
		ok(!why, "%s: %s", bad[i].name, why ? why : "ENOSYS, and nothing is touched");
	}
}

/* ---- the records ---- */

static void test_records(void)
{
	const uint64_t len = rings[1].len;
	const struct bad_field bad[] = {
	    {"address not aligned", AT_RING(addr), rings[1].addr + 8, EINVAL},
	    {"address below the ring before", AT_RING(addr), rings[0].addr - page, EINVAL},
	    {"address of the ring before", AT_RING(addr), rings[0].addr, EINVAL},
	    {"address that wraps", AT_RING(addr), ~(uint64_t)(page - 1), EINVAL},
	    {"address in its lower half", AT_RING(addr), FAR + rings[1].addr, EFAULT},
	    {"an address inside of a ring", AT_RING(addr), rings[1].addr + page, EINVAL},
	    {"an address where nothing is", AT_RING(addr), hole, EFAULT},
	    {"length 0", AT_RING(len), 0, EINVAL},
	    {"length not whole pages", AT_RING(len), len + 32, EINVAL},
	    {"a page less", AT_RING(len), len - page, EINVAL},
	    {"a page more, which is mapped", AT_RING(len), len + page, EINVAL},
	    {"length absurd", AT_RING(len), 1ull << 46, EFAULT},
	    {"length that wraps", AT_RING(len), ~(uint64_t)(page - 1), EINVAL},
	    {"length in its lower half", AT_RING(len), FAR + len, EFAULT},
	    {"flags", AT_RING(flags), AIOR_RING_DRAINED, EINVAL},
	    {"unknown flags", AT_RING(flags), 1u << 31, EINVAL},
	    {"unknown protection", AT_RING(prot), 8, EINVAL},
	    {"reserved", AT_RING(reserved), 1, EINVAL},
	};
	const struct aior_ring_record good = rings[1];

	for (size_t i = 0; i < COUNT(bad); i++) {
		struct aior_args args = args_here();
		struct aior_ring_record given = good;
		uint32_t err = bad[i].err;
		const char *why;
		int ret;

		/* Where addresses have 32 bits, these do not fit one. */
		if (sizeof(long) < 8 && bad[i].value >> 32)
			err = EINVAL;
		memcpy((char *)&given + bad[i].offset, &bad[i].value, bad[i].size);
		rings[1] = given;
		state_take(&before);
		ret = call(&stage_blob, &args);
		state_take(&after);
		why = ret == -(int)err && args.err == err && args.step == AIOR_STEP_RING &&
			      args.ring == 1 && rings[1].step == AIOR_STEP_RING &&
			      rings[1].err == err
			  ? NULL
			  : "the results";
		rings[1] = good;
		if (!why)
			why = why_touched();
		ok(!why, "ring record: %s: %s (%d, step %u, ring %d)", bad[i].name,
		    why ? why : "refused, and all is as it was", ret, args.step, (int)args.ring);
	}
}

/* In descending order, and the same ring twice: each record for itself is sound. */
static void test_order(void)
{
	const struct aior_ring_record first = rings[0], second = rings[1];
	struct aior_args args;
	const char *why;
	int ret;

	for (int is_twice = 0; is_twice < 2; is_twice++) {
		args = args_here();
		rings[1] = first;
		if (!is_twice)
			rings[0] = second;
		state_take(&before);
		ret = call(&stage_blob, &args);
		state_take(&after);
		rings[0] = first;
		rings[1] = second;
		why = ret == -EINVAL && args.step == AIOR_STEP_RING && args.ring == 1
			  ? why_touched()
			  : "the results";
		ok(!why, "%s: %s", is_twice ? "a ring twice" : "records in descending order",
		    why ? why : "refused, and all is as it was");
	}
}

static void test_headers(void)
{
	const struct {
		const char *name;
		size_t offset;
		uint32_t value;
	} bad[] = {
	    {"an id of no context", 0, 0x7fffffff},
	    {"another context's id", 0, ring_of(rings[0].addr)->id},
	    {"nr 0", 4, 0},
	    {"nr one less", 4, was[1].nr - 1},
	    {"nr one more", 4, was[1].nr + 1},
	    {"nr all ones", 4, ~0u},
	    {"head nr", 8, was[1].nr},
	    {"head all ones", 8, ~0u},
	    {"tail nr", 12, was[1].nr},
	    {"tail all ones", 12, ~0u},
	    {"magic", 16, 0},
	    {"header length", 28, 64},
	};

	for (size_t i = 0; i < COUNT(bad); i++) {
		uint32_t *word = (uint32_t *)(uintptr_t)(rings[1].addr + bad[i].offset);
		struct aior_args args = args_here();
		uint32_t good = *word;
		const char *why;
		int ret;

		*word = bad[i].value;
		state_take(&before);
		ret = call(&stage_blob, &args);
		state_take(&after);
		*word = good;
		why = ret == -EINVAL && args.step == AIOR_STEP_RING && args.ring == 1
			  ? why_touched()
			  : "the results";
		ok(!why, "a ring with %s: %s", bad[i].name,
		    why ? why : "refused, and all is as it was");
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
	test_unknown();
	test_records();
	test_order();
	test_headers();
	/* Whatever stands in the fields that are not in use. */
	args = args_here();
	args.err = args.step = args.ring = args.polls_lost = args.poll_count = ~0u;
	args.sigmask = args.reserved_out[1] = args.sigframe = ~0ull;
	args.fd = 3999;
	for (uint32_t i = 0; i < N; i++) {
		rings[i].flags = AIOR_RING_LIVE;
		rings[i].aside = rings[i].new_len = rings[i].staged = rings[i].room = ~0ull;
		rings[i].err = rings[i].step = rings[i].head = rings[i].tail = ~0u;
	}
	succeeds("bad input", &args);
	ok(!args.reserved_out[0] && !args.reserved_out[1] && !args.reserved_out[2],
	    "reserved results are 0");
}

/* ---- what is no ring, or no ring of this process ---- */

/* The second record is made to name that; the call must be refused for it. */
static void is_refused(const char *name, uint64_t addr, uint64_t len, uint32_t err)
{
	struct aior_args args = args_here();
	struct aior_ring_record good[N];
	const char *why;
	int ret;

	memcpy(good, rings, sizeof(good));
	/* In ascending order: the first stays the first, the last is left out. */
	rings[1].addr = addr;
	rings[1].len = len;
	args.ring_count = 2;
	state_take(&before);
	ret = call(&stage_blob, &args);
	state_take(&after);
	why = ret == -(int)err && args.step == AIOR_STEP_RING && args.ring == 1 ? NULL
										: "the results";
	memcpy(rings, good, sizeof(good));
	if (!why)
		why = why_touched();
	ok(!why, "%s: %s (%d, step %u)", name, why ? why : "refused, and all is as it was", ret,
	    args.step);
}

static void test_no_rings(void)
{
	struct aior_args args;
	uint64_t len;
	char *at, *file;
	int fd;

	set_up();
	len = rings[1].len;
	at = map_at(arena_take(len), len, PROT_READ | PROT_WRITE);
	is_refused("empty memory", (uintptr_t)at, len, EINVAL);
	memcpy(at, ring_of(rings[1].addr), len);
	is_refused("a copy of a ring", (uintptr_t)at, len, EINVAL);
	mprotect(at, len, PROT_NONE);
	is_refused("memory that cannot be read", (uintptr_t)at, len, EINVAL);
	munmap(at + page, page);
	is_refused("memory with a hole", (uintptr_t)at, len, EFAULT);
	fd = memfd_create("ring", MFD_CLOEXEC);
	file = arena_take(len);
	if (write(fd, ring_of(rings[1].addr), len) != (ssize_t)len ||
	    mmap(file, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != file)
		abort();
	is_refused("a file that looks like a ring", (uintptr_t)file, len, EINVAL);
	make_live(3, len, 1, 1);
	io_destroy(rings[3].addr);
	is_refused("a ring that is destroyed", rings[3].addr, len, EFAULT);
	map_at(ring_of(rings[3].addr), len, PROT_READ | PROT_WRITE);
	memcpy(ring_of(rings[3].addr), was[3].copy, len);
	is_refused("... with its content put back", rings[3].addr, len, EINVAL);
	args = args_here();
	succeeds("what is no ring", &args);
}

/* A page of it is unmapped, or something else by now. */
static void test_shortened(void)
{
	struct aior_args args;
	char *last;

	set_up();
	make_live(3, smallest_len() + 2 * (uint64_t)page, 4, 4);
	last = (char *)(uintptr_t)rings[3].addr + rings[3].len - page;
	munmap(last, page);
	is_refused("a ring that was shortened", rings[3].addr, rings[3].len, EFAULT);
	is_refused("... and says so", rings[3].addr, rings[3].len - page, EINVAL);
	args = args_here();
	succeeds("a shortened ring", &args);
}

/* In a child: when it is its turn, its parent's ring must be refused. */
static pid_t fork_heir(volatile int *turn)
{
	pid_t pid = fork_mortal();
	struct aior_args args;
	int ret;

	if (pid)
		return pid;
	while (!*turn)
		tick();
	args = args_here();
	ret = call(&stage_blob, &args);
	_exit((ret == -EINVAL || ret == -EFAULT) && args.step == AIOR_STEP_RING && !args.ring ? 0
											      : 1);
}

/* It is mapped there before 7.2, and is no ring of the child's. */
static void test_inherited(void)
{
	volatile int *turn =
	    mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct aior_args args;
	int status = 1;
	pid_t pid;

	set_up();
	*turn = 1;
	pid = fork_heir(turn);
	ok(waitpid(pid, &status, 0) == pid && !status, "a child's inherited rings are refused");
	args = args_here();
	succeeds("a child's inherited rings: its parent's", &args);
	*turn = 0;
	pid = fork_heir(turn);
	for (uint32_t i = 0; i < N; i++)
		io_destroy(rings[i].addr);
	/* The kernel truncates their files a moment later. */
	usleep(100000);
	*turn = 1;
	ok(waitpid(pid, &status, 0) == pid && !status,
	    "... even when their contexts are gone, and to touch them is SIGBUS (0x%x)",
	    (unsigned)status);
}

/* ---- rings that cannot be moved ---- */

static void split_at(unsigned first, unsigned pages)
{
	if (mprotect((char *)(uintptr_t)rings[1].addr + first * (size_t)page, pages * (size_t)page,
		PROT_READ))
		abort();
}

/* Which pages of the second ring cannot be written to, a bit each. */
static unsigned read_only_pages(void)
{
	unsigned pages = 0;

	for (unsigned i = 0; i < rings[1].len / page; i++) {
		char *at = (char *)(uintptr_t)rings[1].addr + i * (size_t)page;
		struct iovec byte = {at, 1};

		/* A write to it, which stops at what cannot be written. */
		if (process_vm_writev(getpid(), &byte, 1, &byte, 1, 0) != 1)
			pages |= 1u << i;
	}
	return pages;
}

/*
 * Some kernels refuse to move it, others move it and lose the handle: it must come back. (On the way
 * its first page may become a mapping of its own: the kernel does not merge a ring's mappings.)
 */
static void stage_split(const char *name, unsigned first, unsigned pages)
{
	struct aior_args args;
	const char *why = NULL;
	int ret;

	more_pages[1] = 3;
	set_up();
	must_submit(rings[1].addr, poll_iocb(1, watched[0], -1));
	split_at(first, pages);
	args = args_here();
	state_take(&before);
	ret = call(&stage_blob, &args);
	state_take(&after);
	if (ret != -(int)args.err || (args.err != EINVAL && args.err != EFAULT) ||
	    args.step != AIOR_STEP_MOVE || args.ring != 1)
		why = "the results";
	else if (read_only_pages() != ((1u << pages) - 1) << first)
		why = "the protection";
	else
		why = why_touched_but(&rings[1]);
	mprotect((char *)(uintptr_t)rings[1].addr, rings[1].len, PROT_READ | PROT_WRITE);
	if (!why) {
		ring_of(rings[1].addr)->head = ring_of(rings[1].addr)->tail;
		fire(watched);
		for (int ms = 0; ms < PATIENCE_MS && !flight.seen[1]; ms++, tick())
			reap(rings[1].addr);
		why = have_fired(1, 2) && works(rings[1].addr) ? NULL : "its poll, or its events";
	}
	ok(!why, "a ring that mprotect has split, %s: %s (errno %u, step %u, ring %d)", name,
	    why ? why : "refused, and works as before", args.err, args.step, (int)args.ring);
}

static void test_split_first(void)
{
	stage_split("behind the first page", 0, 1);
}

static void test_split_middle(void)
{
	stage_split("in the middle", 1, 1);
}

static void test_split_last(void)
{
	stage_split("in front of the last page", 3, 1);
}

static void test_split_half(void)
{
	stage_split("behind the second page", 2, 2);
}

static void test_sealed(void)
{
	struct aior_args args;

	set_up();
	if (syscall(__NR_mseal, rings[1].addr, rings[1].len, 0L)) {
		skip("a sealed ring", "mseal: %s", strerror(errno));
		return;
	}
	args = args_here();
	fails_with("a sealed ring", &args, EPERM, AIOR_STEP_MOVE, 1);
	rings[1] = rings[2];
	args.ring_count = 2;
	ok(!call(&stage_blob, &args) && !why_not_staged(0) && !why_not_plain(1),
	    "a sealed ring: the others are staged without it");
}

/* ---- shortages ---- */

/* Two pipes are needed; when the second is made, the first one's end to write to is closed. */
static void test_no_descriptors(void)
{
	enum { LIMIT = 64 };
	struct rlimit limit, low;

	more_pages[1] = 300 * 4096 / page;
	set_up();
	getrlimit(RLIMIT_NOFILE, &limit);
	low = limit;
	low.rlim_cur = LIMIT;
	setrlimit(RLIMIT_NOFILE, &low);
	while (dup(silent[0]) >= 0)
		;
	setrlimit(RLIMIT_NOFILE, &limit);
	for (uint32_t spare = 0; spare < 4; spare++) {
		struct aior_args args = args_here();
		const char *why;
		int ret;

		state_take(&before);
		setrlimit(RLIMIT_NOFILE, &low);
		ret = call(&stage_blob, &args);
		setrlimit(RLIMIT_NOFILE, &limit);
		state_take(&after);
		if (spare < 3) {
			why = ret == -EMFILE && args.step == AIOR_STEP_PIPE &&
				      args.ring == (spare == 2)
				  ? why_touched()
				  : "the results";
			ok(!why, "%u descriptors left: %s", spare,
			    why ? why : "EMFILE, making a pipe, and all is as it was");
		} else {
			why = ret ? "the results" : why_not_done(&args);
			ok(!why, "%u descriptors left: enough for two pipes (%s)", spare,
			    or_so(why));
		}
		close(LIMIT - 1 - (int)spare);
	}
}

/* A limit of memory, a page more each time, until the call succeeds. */
static void grow(const char *name, int resource, rlim_t base, int err)
{
	struct aior_args args;
	struct rlimit limit, low;
	const char *why = NULL;
	unsigned failed = 0;
	int ret = -1;

	getrlimit(resource, &limit);
	low = limit;
	for (unsigned spare = 0; spare < 64 && !why; spare++) {
		args = args_here();
		low.rlim_cur = base + spare * (rlim_t)page;
		state_take(&before);
		setrlimit(resource, &low);
		ret = call(&stage_blob, &args);
		setrlimit(resource, &limit);
		if (!ret)
			break;
		failed++;
		state_take(&after);
		why = ret != -err || args.err != (uint32_t)err ? "the errno" : why_touched();
		if (why)
			diag("%u pages spare: errno %u, step %u, ring %d", spare, args.err,
			    args.step, (int)args.ring);
	}
	ok(!why && failed && !ret, "%s, %u amounts: %s", name, failed,
	    why ? why : "each failure left all as it was");
	if (!why && !ret)
		why = why_not_done(&args);
	ok(!why, "%s: the call that succeeded is %s", name, or_so(why));
}

/* A number in KiB of /proc/self/status. */
static rlim_t status_bytes(const char *key)
{
	static char text[8192];
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, text, sizeof(text) - 1);
	char *at;

	close(fd);
	text[n > 0 ? n : 0] = '\0';
	at = strstr(text, key);
	return at ? strtoull(at + strlen(key), NULL, 10) * 1024 : 0;
}

static void test_no_address_space(void)
{
	set_up();
	state_take(&before);
	grow("no address space to spare", RLIMIT_AS, status_bytes("VmSize:"), ENOMEM);
}

static void test_no_data(void)
{
	set_up();
	state_take(&before);
	grow("no data memory to spare", RLIMIT_DATA, status_bytes("VmData:"), ENOMEM);
}

/* Whoever is not privileged may lock so much, and all that is mapped is locked. */
static void test_no_locked_memory(void)
{
	set_up();
	state_take(&before);
	if (setgroups(0, NULL) || setresgid(65534, 65534, 65534) ||
	    setresuid(65534, 65534, 65534) || mlockall(MCL_FUTURE)) {
		skip("no memory to lock", "mlockall: %s", strerror(errno));
		return;
	}
	grow("no memory to lock", RLIMIT_MEMLOCK, status_bytes("VmLck:"), EAGAIN);
}

/* No mapping to spare, then one, then two and so on, until the call succeeds. */
static void test_no_mappings(void)
{
	long most = read_number("/proc/sys/vm/max_map_count");
	struct aior_args args;
	const char *why = NULL;
	unsigned spare, failed = 0;
	size_t fill_len;
	int ret = -1;
	char *fill;

	if (most <= 0 || most > 200000) {
		skip("no mapping to spare", "vm.max_map_count is %ld", most);
		return;
	}
	set_up();
	fill_len = (size_t)(most + 16) * page;
	fill = mmap(NULL, fill_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (fill == MAP_FAILED)
		abort();
	for (size_t at = page; at < fill_len && !mprotect(fill + at, page, PROT_READ);
	     at += 2 * page)
		;
	/* One more fits if the last one would have needed two. */
	mprotect(fill + fill_len - page, page, PROT_READ);
	for (spare = 0; spare < 40 && !why; spare++) {
		args = args_here();
		state_take(&before);
		ret = call(&stage_blob, &args);
		if (!ret)
			break;
		failed++;
		state_take(&after);
		why = args.err != ENOMEM ? "the errno" : why_touched();
		if (why)
			diag("%u spare: errno %u, step %u, ring %d", spare, args.err, args.step,
			    (int)args.ring);
		munmap(fill + spare * (size_t)page, page);
	}
	ok(!why && failed && !ret, "no mapping to spare, and up to %u more: %s", spare,
	    why ? why : "each failure left all as it was");
	munmap(fill, fill_len);
	if (!why && !ret)
		why = why_not_done(&args);
	ok(!why, "no mapping to spare: the call that succeeded is %s", or_so(why));
}

/* ---- small pipes ---- */

#define SMALL 1600 /* rings: more than pipes of two pages can take that a page of scratch names */

static void test_small_pipes(void)
{
	const uint64_t len = smallest_len();
	struct aior_args args;
	const char *why;

	if (len != page || aio_max_nr() - aio_nr() < SMALL + 1000) {
		skip("small pipes", "fs.aio-max-nr leaves %ld, the smallest ring has %llu bytes",
		    aio_max_nr() - aio_nr(), (unsigned long long)len);
		return;
	}
	set_up_stage((SMALL + 10) * 2 * (size_t)page);
	polls = map_guarded(SMALL * aio_ring_nr(page) * sizeof(*polls));
	for (uint32_t i = 0; i < SMALL; i++)
		make_live(i, len, i % 127, i % 50);
	if (use_up_pipes()) {
		skip("small pipes", "the limit of a user's pipes cannot be reached here");
		return;
	}
	args = stage_args(SMALL);
	state_take(&before);
	why = call(&stage_blob, &args) == -ENOBUFS && args.step == AIOR_STEP_PIPE ? NULL
										  : "the results";
	state_take(&after);
	if (!why)
		why = state_differs(&before, &after, NULL, 0);
	for (uint32_t i = 0; i < SMALL && !why; i++)
		if (rings[i].flags || !is_handle(rings[i].addr) ||
		    memcmp(ring_of(rings[i].addr), was[i].copy, len))
			why = "a ring";
	ok(!why, "more pipes than scratch memory has room for: %s (errno %u, step %u, ring %d)",
	    why ? why : "ENOBUFS, and all is as it was", args.err, args.step, (int)args.ring);
	args = stage_args(SMALL);
	args.scratch_len = 65536;
	args.scratch = (uintptr_t)map_guarded(args.scratch_len);
	why = call_stage(&args);
	for (uint32_t i = 0; i < SMALL && !why; i++)
		if (rings[i].flags != AIOR_RING_DRAINED || is_handle(rings[i].addr) ||
		    memcmp((char *)(uintptr_t)rings[i].addr + 4, was[i].copy + 4, len - 4))
			why = "a ring";
	ok(!why, "... with more of it, %d rings are staged through %d pipes of two pages: %s",
	    SMALL, SMALL / 2, or_so(why));
}

int main(void)
{
	long nr = stage_test_start();

	in_child("bad input", test_bad_input);
	in_child("no rings", test_no_rings);
	in_child("a shortened ring", test_shortened);
	in_child("inherited rings", test_inherited);
	in_child("split, first", test_split_first);
	in_child("split, middle", test_split_middle);
	in_child("split, last", test_split_last);
	in_child("split, half", test_split_half);
	in_child("sealed", test_sealed);
	in_child("no descriptors", test_no_descriptors);
	in_child("no address space", test_no_address_space);
	in_child("no data", test_no_data);
	in_child("no locked memory", test_no_locked_memory);
	in_child("no mappings", test_no_mappings);
	in_child("small pipes", test_small_pipes);
	test_stack_of("stage", &stage_blob);
	return test_end(nr);
}
