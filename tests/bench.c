/* SPDX-License-Identifier: MIT */
/*
 * What stage and restore cost, beside the least that any way could cost on the same kernel in the
 * same minute: its floor. Each measurement is made in a fresh process, and those that are compared
 * take turns, round after round. What is printed are medians; the ratios are what to look at.
 *
 * usage: bench RESULTS.json
 */
#include <glob.h>
#include <sys/eventfd.h>
#include <time.h>

#include "facts.h"

#define MOST_ROUNDS 48u
#define MOST_ROWS 24u
#define SCRATCH_BYTES 65536u /* as the library has it */
#define NAME_WIDTH 52
#define MOST_TRIES 20       /* for want of room */
#define NO_ROOM 75          /* exit status: others have too many contexts */
#define PLAIN_EVERY 10u     /* rounds */
#define MOST_HELPERS 1023u  /* of the stage blob: pie/stage.c */
#define IN_FLIGHT 32u       /* requests of each ring, where there are any */
#define READ_BYTES 65536u   /* of a direct read */
#define ONE_BY_ONE 16u      /* contexts destroyed one after the other; more are reckoned from it */
#define HELPER_STACK 4096ul /* for what a helper of the floor calls: io_destroy */

/* What is in flight while a ring is staged. */
enum flight { IDLE, POLLS, READS };

/* Lives in memory that a child shares. */
struct result {
	double us;
	unsigned in_flight; /* requests, when the clock started */
	int is_good;
};

struct row;
typedef void way(const struct row *row, struct result *result);

enum which { OURS, FLOOR, PLAIN, EXACT, BEYOND, CPU, WAYS };

static const char *const way_names[WAYS] = {"ours", "floor", "plain way", "exact", "beyond", "cpu"};

/* What a goal is a limit of. */
enum goal_of { NO_GOAL, MS, TIMES_FIRST, TIMES_FLOOR, TIMES_FASTER, MS_BEYOND };

struct row {
	const char *name;
	way *ways[WAYS]; /* NULL: that is not measured */
	enum goal_of goal_of;
	double goal;
	uint32_t rings, slots, head, tail; /* restore: what is staged */
	uint32_t requests;                 /* stage: of io_setup, for each ring */
	uint32_t helpers;                  /* 0: as many as the blob takes */
	enum flight flight;
	unsigned every; /* it takes part in every so-manieth round; 0: in each */
};

struct table {
	const char *name, *title;
	const struct row *rows;
	unsigned row_count, rounds;
	double unit; /* that times are printed in: microseconds */
	const char *unit_name;
	int is_pinned; /* to one CPU */
	const char *notes;
};

struct samples {
	double us[WAYS][MOST_ROUNDS];
	unsigned count[WAYS];
	unsigned in_flight;  /* the fewest of all rounds */
	const char *why_not; /* measured; NULL: it is */
};

static double clock_us(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static double now_us(void)
{
	return clock_us(CLOCK_MONOTONIC);
}

static void *map_memory(size_t len, int flags)
{
	void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0);

	if (at == MAP_FAILED)
		abort();
	return at;
}

/* ---- restore ---- */

static char scratch[SCRATCH_BYTES] __attribute__((aligned(16)));

/* A restore waits for nothing: the time that its thread has computed is free of what others do meanwhile. */
static double busy_us(void)
{
	return clock_us(CLOCK_THREAD_CPUTIME_ID);
}

/* Staged rings, made by hand, in memory that is there. */
static struct aior_ring_record *make_staged(const struct row *row)
{
	struct aior_ring_record *rings =
	    map_memory(row->rings * sizeof(*rings), MAP_PRIVATE | MAP_POPULATE);
	uint64_t len = AIO_RING_HEADER + (uint64_t)row->slots * AIO_RING_SLOT;
	struct staged staged;

	arena_make((len + page) * row->rings + page);
	for (uint32_t i = 0; i < row->rings; i++) {
		stage(&rings[i], &staged, len, row->head, row->tail, 1, i);
		free(staged.copy);
	}
	/* What a blob comes in has just been written. */
	memset(scratch, 0, sizeof(scratch));
	(void)*(volatile const char *)blob.base;
	return rings;
}

/* Whether the kernel's tail is where it belongs: the next event says. */
static int is_live(const struct row *row, uint64_t addr)
{
	struct aio_ring *ring = ring_of(addr);
	uint32_t pending = aio_ring_pending(row->head, row->tail, row->slots);

	if (ring->head != row->head || ring->tail != row->tail)
		return 0;
	if (pending == aio_ring_usable(row->slots, cpus))
		return complete(addr, 1, 0) == -EAGAIN;
	return complete(addr, 1, 0x77) == 1 && slot(addr, row->tail)->data == 0x77;
}

static int are_live(const struct row *row, const struct aior_ring_record *rings)
{
	for (uint32_t i = 0; i < row->rings; i++)
		if (!is_live(row, rings[i].addr))
			return 0;
	return 1;
}

static struct aior_args restore_args(struct aior_ring_record *rings, uint32_t count)
{
	struct aior_args args = blob_args(rings, count, NULL, 0);

	args.scratch = (uintptr_t)scratch;
	args.scratch_len = sizeof(scratch);
	return args;
}

static void restore_ours(const struct row *row, struct result *result)
{
	struct aior_ring_record *rings = make_staged(row);
	struct aior_args args = restore_args(rings, row->rings);
	double start = busy_us();
	int err = entry_of(&blob)(&args);

	result->us = busy_us() - start;
	result->is_good = !err && are_live(row, rings);
}

static struct row compact_row(const struct row *row)
{
	struct row compact = *row;

	compact.head = 0;
	compact.tail = aio_ring_pending(row->head, row->tail, row->slots);
	return compact;
}

static void restore_compact(const struct row *row, struct result *result)
{
	struct aior_ring_record *rings = make_staged(row);
	struct aior_args args = restore_args(rings, row->rings);
	struct row compact = compact_row(row);
	double start = busy_us();
	int err;

	args.flags = AIOR_F_COMPACT;
	err = entry_of(&blob)(&args);
	result->us = busy_us() - start;
	result->is_good = !err && are_live(&compact, rings);
}

/* The largest batches there can be, a pointer for each slot, of what completes in the least time. */
static struct iocb **make_batch(struct iocb *iocb, uint32_t count)
{
	struct iocb **batch = map_memory(count * sizeof(*batch), MAP_PRIVATE | MAP_POPULATE);

	iocb_null_read(iocb, eventfd(0, EFD_CLOEXEC), 0);
	for (uint32_t i = 0; i < count; i++)
		batch[i] = iocb;
	return batch;
}

/*
 * One ring by the calls that no way can do without, and no check of anything. So many of its slots are copied.
 */
static int restore_one(const struct row *row, uint64_t addr, uint32_t copied, struct iocb **batch)
{
	const size_t skipped = offsetof(struct aio_ring, magic);
	size_t len = AIO_RING_HEADER + (size_t)row->slots * AIO_RING_SLOT;
	uint32_t left = aio_ring_completions(row->head, row->tail, row->slots), done = 0;
	aio_context_t ctx;

	if (io_setup(aio_ring_smallest_n((uint32_t)len, page), &ctx))
		return 0;
	while (left) {
		long n = io_submit(ctx, left < row->slots ? left : row->slots, batch);

		if (n <= 0)
			return 0;
		left -= (uint32_t)n;
		done += (uint32_t)n;
		ring_of(ctx)->head = done < row->head ? done : row->head;
	}
	memcpy((char *)ring_of(ctx) + skipped, (char *)ring_of(addr) + skipped,
	    AIO_RING_HEADER + (size_t)copied * AIO_RING_SLOT - skipped);
	return mremap(ring_of(ctx), len, len, MREMAP_MAYMOVE | MREMAP_FIXED, ring_of(addr)) ==
	       ring_of(addr);
}

static void restore_all(const struct row *row, uint32_t copied, struct result *result)
{
	struct aior_ring_record *rings = make_staged(row);
	struct iocb iocb, **batch = make_batch(&iocb, row->slots);
	double start = busy_us();
	int is_good = 1;

	for (uint32_t i = 0; i < row->rings; i++)
		is_good &= restore_one(row, rings[i].addr, copied, batch);
	result->us = busy_us() - start;
	result->is_good = is_good && are_live(row, rings);
}

static void restore_floor(const struct row *row, struct result *result)
{
	restore_all(row, row->slots, result);
}

static void compact_floor(const struct row *row, struct result *result)
{
	struct row compact = compact_row(row);

	restore_all(&compact, compact.tail, result);
}

/* A ring with all that it takes for itself, mapped and opened for it, and an iocb for each completion. */
static int restore_plainly(const struct row *row, uint64_t addr)
{
	const size_t skipped = offsetof(struct aio_ring, magic);
	size_t len = AIO_RING_HEADER + (size_t)row->slots * AIO_RING_SLOT;
	uint32_t count = aio_ring_completions(row->head, row->tail, row->slots);
	size_t room = (count + 1) * (sizeof(struct iocb) + sizeof(struct iocb *));
	struct iocb *iocbs = map_memory(room, MAP_PRIVATE), **batch = (void *)(iocbs + count + 1);
	int fd = open("/dev/null", O_RDONLY);
	aio_context_t ctx;

	if (io_setup(aio_ring_smallest_n((uint32_t)len, page), &ctx))
		return 0;
	for (uint32_t i = 0; i < count; i++) {
		iocb_null_read(&iocbs[i], fd, 0);
		batch[i] = &iocbs[i];
	}
	for (uint32_t done = 0; done < count;) {
		long n = io_submit(ctx, count - done, batch + done);

		if (n <= 0)
			return 0;
		done += (uint32_t)n;
		ring_of(ctx)->head = done < row->head ? done : row->head;
	}
	memcpy((char *)ring_of(ctx) + skipped, (char *)ring_of(addr) + skipped, len - skipped);
	close(fd);
	munmap(iocbs, room);
	return mremap(ring_of(ctx), len, len, MREMAP_MAYMOVE | MREMAP_FIXED, ring_of(addr)) ==
	       ring_of(addr);
}

static void restore_plain(const struct row *row, struct result *result)
{
	struct aior_ring_record *rings = make_staged(row);
	double start = busy_us();
	int is_good = 1;

	for (uint32_t i = 0; i < row->rings; i++)
		is_good &= restore_plainly(row, rings[i].addr);
	result->us = busy_us() - start;
	result->is_good = is_good && are_live(row, rings);
}

/* ---- live rings ---- */

struct live {
	aio_context_t *ctxs;
	unsigned in_flight;
};

static int direct_fd = -1;

static void make_direct_file(void)
{
	size_t len = IN_FLIGHT * READ_BYTES;
	char *content = map_memory(len, MAP_PRIVATE);

	memset(content, 0x44, len);
	direct_fd = open_direct();
	if (direct_fd >= 0 && pwrite(direct_fd, content, len, 0) != (ssize_t)len) {
		close(direct_fd);
		direct_fd = -1;
	}
	munmap(content, len);
}

static void prepare_request(const struct row *row, struct iocb *iocb, unsigned i, char *buffer)
{
	if (row->flight == POLLS) {
		iocb_poll(iocb, silent[0], POLLIN, i);
		return;
	}
	iocb_null_read(iocb, direct_fd, i);
	iocb->aio_buf = (uintptr_t)buffer + (uint64_t)i * READ_BYTES;
	iocb->aio_nbytes = READ_BYTES;
	iocb->aio_offset = (int64_t)i * READ_BYTES;
}

/* Gives every ring its requests, and counts what the kernel has not completed yet. */
static void submit_all(const struct row *row, struct live *live)
{
	char *buffer = map_memory(IN_FLIGHT * READ_BYTES, MAP_PRIVATE | MAP_POPULATE);
	struct iocb *iocb =
	    map_memory(row->rings * IN_FLIGHT * sizeof(*iocb), MAP_PRIVATE | MAP_POPULATE);

	for (uint32_t r = 0; r < row->rings; r++) {
		struct iocb *batch[IN_FLIGHT];

		for (unsigned i = 0; i < IN_FLIGHT; i++) {
			batch[i] = iocb++;
			prepare_request(row, batch[i], i, buffer);
		}
		if (io_submit(live->ctxs[r], IN_FLIGHT, batch) != IN_FLIGHT)
			_exit(1);
	}
	for (uint32_t r = 0; r < row->rings; r++)
		live->in_flight += IN_FLIGHT - ring_of(live->ctxs[r])->tail;
}

static struct live make_live(const struct row *row)
{
	struct live live = {
	    .ctxs = map_memory(row->rings * sizeof(*live.ctxs), MAP_PRIVATE),
	};

	for (uint32_t i = 0; i < row->rings; i++)
		if (io_setup(row->requests, &live.ctxs[i]))
			_exit(NO_ROOM); /* and what there is is free again */
	if (row->flight != IDLE)
		submit_all(row, &live);
	return live;
}

/* ---- stage ---- */

static int compare_records(const void *a, const void *b)
{
	const struct aior_ring_record *one = a, *other = b;

	return one->addr < other->addr ? -1 : one->addr > other->addr;
}

/* What a stage is called with; shared, for whoever watches it. */
struct staging {
	struct aior_args args;
	struct aior_table capsule;
	volatile double draining, drained; /* when a watcher saw it; 0: not yet */
	struct aior_ring_record rings[];
};

static struct staging *make_staging(const struct row *row)
{
	struct staging *staging = map_memory(
	    sizeof(*staging) + row->rings * sizeof(staging->rings[0]), MAP_SHARED | MAP_POPULATE);

	memset(blob.scratch, 0, page);
	(void)*(volatile const char *)stage_blob.base;
	return staging;
}

static void fill_staging(const struct row *row, const struct live *live, struct staging *staging)
{
	uint32_t slots = 0;

	for (uint32_t i = 0; i < row->rings; i++) {
		staging->rings[i].addr = live->ctxs[i];
		staging->rings[i].len = len_of(live->ctxs[i]);
		slots += ring_of(live->ctxs[i])->nr - 1;
	}
	qsort(staging->rings, row->rings, sizeof(staging->rings[0]), compare_records);
	staging->args = blob_args(staging->rings, row->rings,
	    map_memory(slots * sizeof(struct aior_poll_record), MAP_PRIVATE | MAP_NORESERVE), 0);
	staging->args.poll_room = slots;
	staging->args.scratch_len = page;
	staging->args.helpers = row->helpers;
	staging->args.capsule = (uintptr_t)&staging->capsule;
}

static int is_staged(const struct row *row, const struct staging *staging)
{
	uint32_t polls = row->flight == POLLS ? row->rings * IN_FLIGHT : 0;

	for (uint32_t i = 0; i < row->rings; i++)
		if (staging->rings[i].flags != AIOR_RING_DRAINED ||
		    ring_of(staging->rings[i].addr)->tail != (row->flight == READS ? IN_FLIGHT : 0))
			return 0;
	return staging->capsule.state == AIOR_TABLE_STAGED && staging->args.poll_count == polls;
}

static void stage_by(clockid_t clock, const struct row *row, struct result *result)
{
	struct staging *staging = make_staging(row);
	struct live live = make_live(row);
	double start;
	int err;

	fill_staging(row, &live, staging);
	result->in_flight = live.in_flight;
	start = clock_us(clock);
	err = entry_of(&stage_blob)(&staging->args);
	result->us = clock_us(clock) - start;
	result->is_good = !err && is_staged(row, staging);
}

static void stage_ours(const struct row *row, struct result *result)
{
	stage_by(CLOCK_MONOTONIC, row, result);
}

static void stage_cpu(const struct row *row, struct result *result)
{
	stage_by(CLOCK_THREAD_CPUTIME_ID, row, result);
}

/* ---- the floor of a drain ---- */

/* Contexts that are destroyed by as many helpers as there are, beside each other. */
struct crew {
	const aio_context_t *ctxs;
	unsigned count, helpers, next, failed;
	char *stacks;
};

static unsigned helpers_for(const struct row *row)
{
	unsigned most = row->helpers ? row->helpers : MOST_HELPERS;

	return row->rings - 1 < most ? row->rings - 1 : most;
}

static struct crew make_crew(const struct row *row, const aio_context_t *ctxs, unsigned count)
{
	return (struct crew){
	    .ctxs = ctxs,
	    .count = count,
	    .helpers = helpers_for(row),
	    .stacks = map_memory((helpers_for(row) + 1) * HELPER_STACK, MAP_PRIVATE | MAP_POPULATE),
	};
}

static int destroy_next(void *arg)
{
	struct crew *crew = arg;
	unsigned i;

	while ((i = __atomic_fetch_add(&crew->next, 1, __ATOMIC_RELAXED)) < crew->count)
		if (syscall(__NR_io_destroy, crew->ctxs[i]))
			__atomic_fetch_add(&crew->failed, 1, __ATOMIC_RELAXED);
	return 0;
}

/* Starts the helpers, works beside them, and reaps them: what the stage blob does between. */
static void run_crew(struct crew *crew, struct result *result)
{
	const int flags = CLONE_VM | CLONE_FILES | CLONE_FS;
	pid_t pids[MOST_HELPERS];
	double start = now_us();

	for (unsigned i = 0; i < crew->helpers; i++)
		pids[i] = clone(destroy_next, crew->stacks + (i + 1) * HELPER_STACK, flags, crew);
	destroy_next(crew);
	for (unsigned i = 0; i < crew->helpers; i++)
		if (pids[i] < 0 || waitpid(pids[i], NULL, __WALL) != pids[i])
			crew->failed++;
	result->us = now_us() - start;
	result->is_good = !crew->failed;
}

static void drain_floor(const struct row *row, struct result *result)
{
	struct live live = make_live(row);
	struct crew crew = make_crew(row, live.ctxs, row->rings);

	result->in_flight = live.in_flight;
	run_crew(&crew, result);
}

static void helpers_only(const struct row *row, struct result *result)
{
	struct crew crew = make_crew(row, NULL, 0);

	run_crew(&crew, result);
}

static int is_drained(const struct row *row, const struct staging *staging)
{
	for (uint32_t i = 0; i < row->rings; i++)
		if (*(const volatile uint64_t *)&staging->rings[i].aside)
			return 0;
	return 1;
}

/*
 * Looks at what the blob writes for everyone to see: the capsule's state, right before the first
 * io_destroy, and each ring's `aside`, when its io_destroy has returned. It sleeps in between, since
 * it shares the CPUs: what it says is late by some ten microseconds.
 */
static _Noreturn void watch(const struct row *row, struct staging *staging)
{
	const volatile uint32_t *state = &staging->capsule.state;
	const struct timespec moment = {0, 10000};

	prctl(PR_SET_TIMERSLACK, 1);
	while (*state == AIOR_TABLE_IMAGE)
		nanosleep(&moment, NULL);
	staging->draining = now_us();
	while (!is_drained(row, staging))
		nanosleep(&moment, NULL);
	staging->drained = now_us();
	_exit(0);
}

/*
 * All that a stage does but to wait for the kernel: what comes before the first io_destroy and after
 * the last, and to start and reap as many helpers. (Most of them start while the first wait already,
 * so this is the most that it can be.)
 */
static void stage_beyond(const struct row *row, struct result *result)
{
	struct staging *staging = make_staging(row);
	double start, end;
	struct live live;
	int err;
	pid_t pid = fork_mortal();

	if (!pid)
		watch(row, staging);
	live = make_live(row);
	fill_staging(row, &live, staging);
	start = now_us();
	err = entry_of(&stage_blob)(&staging->args);
	end = now_us();
	if (err)
		kill(pid, SIGKILL); /* it would wait for ever */
	waitpid(pid, NULL, 0);
	helpers_only(row, result);
	result->us += staging->draining - start + end - staging->drained;
	result->is_good &= !err && staging->drained != 0 && is_staged(row, staging);
}

static void drain_one_by_one(const struct row *row, struct result *result)
{
	struct row some = *row;
	struct live live;
	double start;
	long failed = 0;

	if (some.rings > ONE_BY_ONE)
		some.rings = ONE_BY_ONE;
	live = make_live(&some);
	start = now_us();
	for (uint32_t i = 0; i < some.rings; i++)
		failed |= io_destroy(live.ctxs[i]);
	result->us = (now_us() - start) * row->rings / some.rings;
	result->is_good = !failed;
}

/* ---- both ---- */

static void trip_by(clockid_t clock, const struct row *row, struct result *result)
{
	struct staging *staging = make_staging(row);
	struct live live = make_live(row);
	struct aior_args args = blob_args(staging->rings, row->rings, NULL, 0);
	double start;
	int err;

	fill_staging(row, &live, staging);
	start = clock_us(clock);
	err = entry_of(&stage_blob)(&staging->args);
	for (uint32_t i = 0; i < row->rings; i++)
		staging->rings[i].flags = 0;
	if (!err)
		err = entry_of(&blob)(&args);
	result->us = clock_us(clock) - start;
	result->is_good = !err;
	for (uint32_t i = 0; i < row->rings; i++)
		result->is_good &= works(staging->rings[i].addr);
}

static void trip_ours(const struct row *row, struct result *result)
{
	trip_by(CLOCK_MONOTONIC, row, result);
}

static void trip_cpu(const struct row *row, struct result *result)
{
	trip_by(CLOCK_THREAD_CPUTIME_ID, row, result);
}

/* ---- run ---- */

#define TOOL BLOB_DIR "/aio-restorer"
#define RUN_CORE BLOB_DIR "/bench-%u.core"

/* A process of our own, whose output goes nowhere; 1 if it ends well. */
static int execute(const char *const argv[])
{
	int status = -1, null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	pid_t pid = vfork();

	if (!pid) {
		dup2(null, STDOUT_FILENO);
		execv(argv[0], (char *const *)argv);
		_exit(127);
	}
	if (pid > 0)
		waitpid(pid, &status, 0);
	close(null);
	return !status;
}

/* The image: a dump of a process that has such rings. */
static int make_core(const struct row *row)
{
	char path[64], text[16];
	const char *const dump[] = {TOOL, "dump", text, "-o", path, NULL};
	int ready[2], is_made;
	pid_t pid;

	snprintf(path, sizeof(path), RUN_CORE, row->rings);
	if (pipe2(ready, O_CLOEXEC))
		return 0;
	pid = fork_mortal();
	if (!pid) {
		for (uint32_t i = 0; i < row->rings; i++)
			if (complete(new_ring(1), row->tail, i) != (long)row->tail)
				_exit(1);
		close(ready[1]);
		pause();
	}
	close(ready[1]);
	if (read(ready[0], text, 1))
		abort();
	close(ready[0]);
	snprintf(text, sizeof(text), "%d", (int)pid);
	is_made = execute(dump);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return is_made;
}

static void run_program(const char *const argv[], struct result *result)
{
	double start = now_us();

	result->is_good = execute(argv);
	result->us = now_us() - start;
}

static void run_ours(const struct row *row, struct result *result)
{
	char path[64];
	const char *const run[] = {TOOL, "run", path, "--json", NULL};

	snprintf(path, sizeof(path), RUN_CORE, row->rings);
	run_program(run, result);
}

static const char *own_path;

static void run_floor(const struct row *row, struct result *result)
{
	char rings[16], tail[16];
	const char *const floor[] = {own_path, "--floor", rings, tail, NULL};

	snprintf(rings, sizeof(rings), "%u", row->rings);
	snprintf(tail, sizeof(tail), "%u", row->tail);
	run_program(floor, result);
}

/* That program: it makes the rings where they belong, and takes what is pending. */
static int be_floor(uint32_t rings, uint32_t tail)
{
	struct aio_slot events[64];
	struct iocb iocb, *batch[64];
	size_t len;

	page = (uint32_t)sysconf(_SC_PAGESIZE);
	if (pipe2(silent, O_CLOEXEC) || tail > 64)
		return 1;
	iocb_null_read(&iocb, silent[0], 0);
	for (uint32_t i = 0; i < tail; i++)
		batch[i] = &iocb;
	for (uint32_t i = 0; i < rings; i++) {
		aio_context_t ctx;
		char *home;

		if (io_setup(1, &ctx) || io_submit(ctx, tail, batch) != (long)tail)
			return 1;
		len = len_of(ctx);
		home = map_memory(len, MAP_PRIVATE);
		if (mremap(ring_of(ctx), len, len, MREMAP_MAYMOVE | MREMAP_FIXED, home) != home ||
		    io_getevents((uintptr_t)home, 64, events) != (long)tail)
			return 1;
	}
	return 0;
}

/* ---- the rows ---- */

#define RESTORE .ways = {restore_ours, restore_floor, restore_plain}, TIMES_FLOOR, 1.1
#define COMPACT .ways = {restore_compact, compact_floor, [EXACT] = restore_ours}
#define RUN .ways = {run_ours, run_floor}
#define GROWTH .ways = {restore_ours, restore_floor}
#define GROWTH_STAGE .ways = {stage_ours}
#define STAGE .ways = {stage_ours, drain_floor, drain_one_by_one}
#define DRAIN .ways = {stage_ours, drain_floor, [BEYOND] = stage_beyond, [CPU] = stage_cpu}
#define TRIP .ways = {trip_ours, drain_floor, [CPU] = trip_cpu}

static const struct row restore_rows[] = {
    {"383 slots, head 100, tail 110", RESTORE, .rings = 1, .slots = 383, .head = 100, .tail = 110},
    {"127 slots, wrapped, 120 pending", RESTORE, .rings = 1, .slots = 127, .head = 50, .tail = 43},
    {"8,319 slots, head 4,000, tail 4,001", RESTORE, .rings = 1, .slots = 8319, .head = 4000,
	.tail = 4001},
    {"60,031 slots, head 60,000, tail 60,010", RESTORE, .rings = 1, .slots = 60031, .head = 60000,
	.tail = 60010},
    {"256 rings of 127 slots, three pending in each", RESTORE, .rings = 256, .slots = 127,
	.head = 7, .tail = 10},
};

static const struct row compact_rows[] = {
    {"60,031 slots, tail 60,011, one pending", COMPACT, TIMES_FASTER, 20, .rings = 1,
	.slots = 60031, .head = 60010, .tail = 60011},
    {"8,319 slots, wrapped, 100 pending", COMPACT, .rings = 1, .slots = 8319, .head = 8269,
	.tail = 50},
    {"256 rings of 127 slots, tail 100, three pending", COMPACT, .rings = 256, .slots = 127,
	.head = 97, .tail = 100},
};

static const struct row run_rows[] = {
    {"1 ring", RUN, .rings = 1, .requests = 1, .tail = 3},
    {"1,000 rings", RUN, TIMES_FLOOR, 1.5, .rings = 1000, .requests = 1, .tail = 3},
};

#define BY_RINGS(count)                                                                            \
	{                                                                                          \
#count, GROWTH, .rings = count, .slots = 127, .head = 7, .tail = 10                \
	}
#define BY_SLOTS(count)                                                                            \
	{                                                                                          \
#count, GROWTH, .rings = 1, .slots = count, .head = count / 2,                     \
				.tail = count / 2 + 3                                              \
	}
#define BY_RINGS_STAGED(count)                                                                     \
	{                                                                                          \
#count, GROWTH_STAGE, .rings = count, .requests = 1                                \
	}

static const struct row growth_rings_rows[] = {BY_RINGS(1), BY_RINGS(4), BY_RINGS(16), BY_RINGS(64),
    BY_RINGS(256), BY_RINGS(1024), BY_RINGS(2048), BY_RINGS(4096)};
static const struct row growth_stage_rows[] = {BY_RINGS_STAGED(1), BY_RINGS_STAGED(16),
    BY_RINGS_STAGED(64), BY_RINGS_STAGED(256), BY_RINGS_STAGED(1024), BY_RINGS_STAGED(2048),
    BY_RINGS_STAGED(4096)};
static const struct row growth_slots_rows[] = {BY_SLOTS(127), BY_SLOTS(383), BY_SLOTS(1023),
    BY_SLOTS(4095), BY_SLOTS(8319), BY_SLOTS(16383), BY_SLOTS(32767), BY_SLOTS(60031)};

static const struct row stage_rows[] = {
    {"1 idle ring", STAGE, .rings = 1, .requests = 1},
    {"16 idle rings", STAGE, .rings = 16, .requests = 1},
    {"64 idle rings", STAGE, TIMES_FIRST, 2, .rings = 64, .requests = 1},
    {"1,000 idle rings, 63 helpers", STAGE, .rings = 1000, .requests = 1, .helpers = 63,
	.every = 6},
    {"1,000 idle rings, 127 helpers", STAGE, .rings = 1000, .requests = 1, .helpers = 127,
	.every = 6},
    {"1,000 idle rings, as many as the blob takes", STAGE, MS, 1000, .rings = 1000, .requests = 1},
};

/* 1,023 make the same ring as 1,024, and 64 of those would be all that fs.aio-max-nr has. */
static const struct row drain_rows[] = {
    {"64 idle rings of 1,024", DRAIN, MS_BEYOND, 5, .rings = 64, .requests = 1023},
    {"64 rings of 1,024, 32 polls in each", DRAIN, MS_BEYOND, 5, .rings = 64, .requests = 1023,
	.flight = POLLS},
    {"64 rings of 1,024, 32 direct reads in each", DRAIN, MS_BEYOND, 5, .rings = 64,
	.requests = 1023, .flight = READS},
    {"63 helpers that have nothing to do", .ways = {helpers_only}, .rings = 64},
};

static const struct row trip_rows[] = {
    {"64 idle rings", TRIP, .rings = 64, .requests = 1},
    {"64 idle rings of 256", TRIP, .rings = 64, .requests = 256},
};

#define TABLE(list) .rows = list, .row_count = COUNT(list)

static const struct table tables[] = {
    {"restore", "staged rings become live ones, in one process on one CPU", TABLE(restore_rows),
	.rounds = 47, .unit = 1, .unit_name = "us", .is_pinned = 1,
	.notes =
	    "floor: only the system calls that no way can do without (io_setup, completions in\n"
	    "the largest batches, mremap) and one copy, with no check of anything.\n"
	    "plain way: ring by ring, /dev/null opened and an iocb for each completion mapped.\n"
	    "Times are what the thread has computed; there is nothing that it waits for."},
    {"compact", "the same, laid out from slot 0 on", TABLE(compact_rows), .rounds = 41, .unit = 1,
	.unit_name = "us", .is_pinned = 1,
	.notes =
	    "floor: that of a ring with head 0 and as many pending, of which no more is copied.\n"
	    "exact: as it was, by the same blob."},
    {"run", "an image in a fresh process, from exec to exit", TABLE(run_rows), .rounds = 21,
	.unit = 1000, .unit_name = "ms", .is_pinned = 1,
	.notes =
	    "floor: a program that makes as many rings, three events in each, moves them, takes\n"
	    "the events and ends."},
    {"stage", "live rings become plain memory", TABLE(stage_rows), .rounds = 31, .unit = 1000,
	.unit_name = "ms",
	.notes =
	    "floor: as many contexts destroyed by as many helper processes at once, nothing else.\n"
	    "plain way: io_destroy of one after the other; of more than 16, reckoned from 16."},
    {"drain", "what a stage costs beside the drain itself", TABLE(drain_rows), .rounds = 15,
	.unit = 1000, .unit_name = "ms",
	.notes =
	    "floor: the same contexts, requests and helpers, and nothing else. It waits for RCU's\n"
	    "grace periods, which differ by tens of ms from one run to the next. So what a stage\n"
	    "adds is measured by itself too, in two ways that should agree:\n"
	    "beyond: time before the first io_destroy and after the last, plus starting helpers;\n"
	    "cpu: what the staging thread has computed, its share of the drain included."},
    {"round trip", "stage, and restore of the same rings: how long a program stands still",
	TABLE(trip_rows), .rounds = 21, .unit = 1000, .unit_name = "ms",
	.notes = "floor: the drain alone, which is nearly all grace periods.\n"
		 "cpu: what the thread has computed for both; the rest of ours is waiting."},
    {"growth, rings", "restore of so many rings of 127 slots", TABLE(growth_rings_rows),
	.rounds = 9, .unit = 1, .unit_name = "us", .is_pinned = 1, .notes = "See the plot."},
    {"growth, stage", "stage of so many idle rings", TABLE(growth_stage_rows), .rounds = 3,
	.unit = 1000, .unit_name = "ms", .notes = "See the plot."},
    {"growth, slots", "restore of one ring of so many slots", TABLE(growth_slots_rows), .rounds = 9,
	.unit = 1, .unit_name = "us", .is_pinned = 1, .notes = "See the plot."},
};

/* ---- measuring ---- */

static struct samples samples[COUNT(tables)][MOST_ROWS];
static double load; /* average of a minute, when it began */

/* Contexts are counted for the whole machine, and others may have some for a moment. */
static int has_room(const struct row *row)
{
	long wanted = (long)row->rings * row->requests;

	for (int tries = 0; wanted > aio_max_nr() - aio_nr() && tries < 1000; tries++)
		usleep(10000);
	return wanted <= aio_max_nr() - aio_nr();
}

/* What keeps a row from being measured here; NULL if nothing does. */
static const char *why_not(const struct row *row)
{
	uint64_t staged = AIO_RING_HEADER + (uint64_t)row->slots * AIO_RING_SLOT;

	if (row->slots && (staged % page || aio_ring_max_cpus((uint32_t)staged) < cpus))
		return "no ring of this host has that size";
	if (row->flight == READS && direct_fd < 0)
		return "no file system here takes O_DIRECT";
	if (row->ways[OURS] == run_ours && !make_core(row))
		return "there is no image to run: see `aio-restorer check`";
	if (!has_room(row))
		return "fs.aio-max-nr leaves too few requests, beside those of other programs";
	return NULL;
}

/* One measurement, in a process of its own; returns how that ended. */
static int run_way(const struct row *row, way *run, int is_pinned, struct result *result)
{
	int status = -1;
	pid_t pid;

	memset(result, 0, sizeof(*result));
	pid = fork_mortal();
	if (!pid) {
		if (is_pinned)
			pin_to(0);
		run(row, result);
		_exit(0);
	}
	return pid < 0 || waitpid(pid, &status, 0) != pid ? -1 : status;
}

static int measure(const struct row *row, enum which which, int is_pinned, struct samples *to)
{
	static struct result *result;
	int status, tries = 0;

	if (!result)
		result = map_memory(sizeof(*result), MAP_SHARED);
	if (!is_pinned) /* What waits for grace periods must not fall in with their beat. */
		usleep((useconds_t)(rand() % 40000));
	do {
		has_room(row);
		status = run_way(row, row->ways[which], is_pinned, result);
	} while (status > 0 && WEXITSTATUS(status) == NO_ROOM && ++tries < MOST_TRIES);
	if (status || !result->is_good) {
		fprintf(stderr,
		    "bench: %s (%s): %s, so its time says nothing. If other programs use AIO "
		    "meanwhile, let them end first\n",
		    row->name, way_names[which],
		    status ? "the measuring process failed"
			   : "the rings are not what they should be afterwards");
		return 0;
	}
	if (which == OURS && (!to->count[OURS] || result->in_flight < to->in_flight))
		to->in_flight = result->in_flight;
	to->us[which][to->count[which]++] = result->us;
	return 1;
}

/*
 * All ways once, the first of them last in every other round. What takes seconds, and varies little,
 * takes part in some rounds only.
 */
static int measure_row(
    const struct table *table, const struct row *row, unsigned round, struct samples *to)
{
	for (unsigned turn = 0; turn < WAYS; turn++) {
		enum which which = round & 1 ? WAYS - 1 - turn : turn;

		if (!row->ways[which] || (which == PLAIN && round % PLAIN_EVERY))
			continue;
		if (!measure(row, which, table->is_pinned, to))
			return 0;
	}
	return 1;
}

/* All that is compared takes turns. */
static int measure_table(const struct table *table, struct samples *to)
{
	for (unsigned r = 0; r < table->row_count; r++)
		to[r].why_not = why_not(&table->rows[r]);
	for (unsigned round = 0; round < effort(table->rounds); round++)
		for (unsigned r = 0; r < table->row_count; r++)
			if (!to[r].why_not &&
			    (!table->rows[r].every || round % table->rows[r].every == 0) &&
			    !measure_row(table, &table->rows[r], round, &to[r]))
				return 0;
	return 1;
}

static int compare_doubles(const void *a, const void *b)
{
	double one = *(const double *)a, other = *(const double *)b;

	return one < other ? -1 : one > other;
}

static double median(struct samples *of, enum which which)
{
	unsigned count = of->count[which];

	qsort(of->us[which], count, sizeof(double), compare_doubles);
	return count ? (of->us[which][count / 2] + of->us[which][(count - 1) / 2]) / 2 : 0;
}

/* ---- saying it ---- */

static double ratio(struct samples *own)
{
	return median(own, OURS) / median(own, FLOOR);
}

/* What the goal limits; in microseconds, or times. */
static double reached(const struct row *row, struct samples *first, struct samples *own)
{
	switch (row->goal_of) {
	case MS:
		return median(own, OURS) / 1000;
	case TIMES_FIRST:
		return median(own, OURS) / median(first, OURS);
	case TIMES_FLOOR:
		return ratio(own);
	case TIMES_FASTER:
		return median(own, EXACT) / median(own, OURS);
	case MS_BEYOND:
		return median(own, BEYOND) / 1000;
	default:
		return 0;
	}
}

static int has_way(const struct table *table, enum which which)
{
	for (unsigned r = 0; r < table->row_count; r++)
		if (table->rows[r].ways[which])
			return 1;
	return 0;
}

static void print_heads(const struct table *table)
{
	printf("\n%s: %s\n%*s", table->name, table->title, NAME_WIDTH, "");
	for (enum which which = OURS; which < WAYS; which++)
		if (has_way(table, which))
			printf(which == FLOOR ? "%11s  ratio" : "%11s", way_names[which]);
	printf("  (%s)\n", table->unit_name);
}

static void print_times(const struct table *table, struct samples *own)
{
	for (enum which which = OURS; which < WAYS; which++) {
		double time = median(own, which) / table->unit;

		if (!has_way(table, which))
			continue;
		if (own->count[which])
			printf("%11.*f", time < 100 ? 1 : 0, time);
		else
			printf("%11s", "");
		if (which == FLOOR && own->count[FLOOR])
			printf("%7.2f", ratio(own));
		else if (which == FLOOR)
			printf("%7s", "");
	}
	printf("\n");
}

static void print_goal(const struct row *row, struct samples *first, struct samples *own)
{
	static const char *const goals[] = {
	    [MS] = "ours at most %g ms",
	    [TIMES_FIRST] = "ours at most %g times that of the first row",
	    [TIMES_FLOOR] = "ours at most %g times the floor",
	    [TIMES_FASTER] = "ours at least %g times as fast as exact",
	    [MS_BEYOND] = "beyond at most %g ms",
	};
	double is = reached(row, first, own);

	printf("    goal: ");
	printf(goals[row->goal_of], row->goal);
	printf("; is %.2f, %s", is,
	    (row->goal_of == TIMES_FASTER ? is >= row->goal : is <= row->goal) ? "reached"
									       : "MISSED");
	if (row->goal_of == MS_BEYOND)
		printf(" (%.2f in the best round)", own->us[BEYOND][0] / 1000);
	printf("\n");
}

static void print_table(const struct table *table, struct samples *own)
{
	print_heads(table);
	for (unsigned r = 0; r < table->row_count; r++) {
		const struct row *row = &table->rows[r];

		printf("  %-*s", NAME_WIDTH - 2, row->name);
		if (own[r].why_not) {
			printf("  not measured: %s\n", own[r].why_not);
			continue;
		}
		print_times(table, &own[r]);
		if (row->flight != IDLE)
			printf("    %u of %u in flight at the start, at least\n", own[r].in_flight,
			    row->rings * IN_FLIGHT);
		if (row->goal_of != NO_GOAL && !own->why_not)
			print_goal(row, own, &own[r]);
	}
	printf("%s\n", table->notes);
}

static long file_size(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	long size = fd < 0 ? -1 : (long)lseek(fd, 0, SEEK_END);

	if (fd >= 0)
		close(fd);
	return size;
}

static glob_t blobs;

static void print_sizes(void)
{
	printf("\nsizes: bytes of each blob; the goal is %u at most\n", AIOR_BLOB_MAX);
	if (glob(BLOB_DIR "/blob-*.bin", 0, NULL, &blobs))
		blobs.gl_pathc = 0;
	for (size_t i = 0; i < blobs.gl_pathc; i++) {
		long size = file_size(blobs.gl_pathv[i]);

		printf("  %-28s%5ld%s\n", strrchr(blobs.gl_pathv[i], '/') + 1, size,
		    size > (long)AIOR_BLOB_MAX ? ", MISSED" : "");
	}
}

static void write_way(FILE *json, enum which which, struct samples *own)
{
	double middle = median(own, which); /* they are in order now */
	unsigned count = own->count[which];

	if (count)
		fprintf(json, ",\"%s\":{\"us\":%.2f,\"least\":%.2f,\"most\":%.2f,\"rounds\":%u}",
		    way_names[which], middle, own->us[which][0], own->us[which][count - 1], count);
}

static void write_row(FILE *json, const struct row *row, struct samples *first, struct samples *own)
{
	fprintf(json, "{\"name\":\"%s\"", row->name);
	if (own->why_not)
		fprintf(json, ",\"not_measured\":\"%s\"", own->why_not);
	for (enum which which = OURS; which < WAYS; which++)
		write_way(json, which, own);
	if (own->count[FLOOR])
		fprintf(json, ",\"ratio\":%.3f", ratio(own));
	if (row->flight != IDLE)
		fprintf(json, ",\"in_flight\":%u", own->in_flight);
	if (row->goal_of != NO_GOAL && own->count[OURS] && first->count[OURS])
		fprintf(json, ",\"goal\":%g,\"reached\":%.3f", row->goal, reached(row, first, own));
	fprintf(json, "}");
}

static void write_table(FILE *json, const struct table *table, struct samples *own)
{
	fprintf(json, "{\"name\":\"%s\",\"rows\":[", table->name);
	for (unsigned r = 0; r < table->row_count; r++) {
		fprintf(json, r ? ",\n" : "\n");
		write_row(json, &table->rows[r], own, &own[r]);
	}
	fprintf(json, "]}");
}

static int write_results(const char *path)
{
	struct utsname system;
	FILE *json = fopen(path, "we");

	if (!json)
		return 0;
	uname(&system);
	fprintf(json,
	    "{\"format\":1,\"kernel\":\"%s\",\"machine\":\"%s\",\"possible_cpus\":%u,\"load\":%.2f,"
	    "\n\"tables\":[",
	    system.release, system.machine, cpus, load);
	for (size_t t = 0; t < COUNT(tables); t++) {
		fprintf(json, t ? ",\n" : "\n");
		write_table(json, &tables[t], samples[t]);
	}
	fprintf(json, "],\n\"sizes\":{");
	for (size_t i = 0; i < blobs.gl_pathc; i++)
		fprintf(json, "%s\"%s\":%ld", i ? "," : "", strrchr(blobs.gl_pathv[i], '/') + 1,
		    file_size(blobs.gl_pathv[i]));
	fprintf(json, "}}\n");
	return !fclose(json);
}

/* ---- the whole ---- */

/* What others do on these CPUs is in every time. */
static void say_where(void)
{
	struct utsname system;

	uname(&system);
	if (getloadavg(&load, 1) != 1)
		load = 0;
	printf("%s %s, %u possible CPUs. Medians of rounds in which all that is compared takes "
	       "turns.\n",
	    system.release, system.machine, cpus);
	if (load > 0.5)
		printf("Something else runs here too (load average %.1f), and is in every time but "
		       "those of cpu: only a quiet\nmachine says what is reached.\n",
		    load);
}

static int start(void)
{
	page = (uint32_t)sysconf(_SC_PAGESIZE);
	cpus = possible_cpus();
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (pipe2(silent, O_CLOEXEC))
		return 0;
	aio_nr_lock();
	alarm(0);
	blob_place(blob_file("restore"));
	blob_load(&stage_blob, blob_file("stage"), 0);
	make_direct_file();
	return 1;
}

int main(int argc, char **argv)
{
	own_path = argv[0];
	if (argc == 4 && !strcmp(argv[1], "--floor"))
		return be_floor((uint32_t)atoi(argv[2]), (uint32_t)atoi(argv[3]));
	if (argc != 2) {
		fprintf(stderr, "usage: bench RESULTS.json\n");
		return 2;
	}
	if (!start())
		return 1;
	say_where();
	for (size_t t = 0; t < COUNT(tables); t++) {
		if (!measure_table(&tables[t], samples[t]))
			return 1;
		print_table(&tables[t], samples[t]);
	}
	print_sizes();
	if (!write_results(argv[1])) {
		fprintf(stderr, "bench: cannot write %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	return 0;
}
