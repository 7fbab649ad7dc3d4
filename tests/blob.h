/* SPDX-License-Identifier: MIT */
/*
 * What the tests of a blob share: placing it, calling it on a painted stack, staged rings made by
 * hand, raw system calls (libaio would read the rings behind our back), and what a process looked
 * like before and after.
 */
#ifndef TEST_BLOB_H
#define TEST_BLOB_H

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "restorer.h"
#include "ring.h"
#include "tap.h"

#ifndef BLOB_DIR
#define BLOB_DIR "build"
#endif

static inline long result(long ret)
{
	return ret < 0 ? -errno : ret;
}

static inline long io_setup(unsigned n, aio_context_t *ctx)
{
	*ctx = 0;
	return result(syscall(__NR_io_setup, (long)n, ctx));
}

static inline long io_destroy(aio_context_t ctx)
{
	return result(syscall(__NR_io_destroy, ctx));
}

static inline long io_submit(aio_context_t ctx, long n, struct iocb **iocbs)
{
	return result(syscall(__NR_io_submit, ctx, n, iocbs));
}

static inline long io_cancel(aio_context_t ctx, struct iocb *iocb)
{
	struct aio_slot unused;

	return result(syscall(__NR_io_cancel, ctx, iocb, &unused));
}

/* Never waits. */
static inline long io_getevents(aio_context_t ctx, long max, struct aio_slot *events)
{
	struct timespec now = {0, 0};

	return result(syscall(__NR_io_getevents, ctx, 0L, max, events, &now));
}

static inline uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state * 0x2545f4914f6cdd1dull;
}

static inline uint32_t random_below(uint64_t *state, uint32_t limit)
{
	return limit ? (uint32_t)((random_next(state) >> 32) % limit) : 0;
}

static inline long read_number(const char *path)
{
	char text[64] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	return n > 0 ? atol(text) : -1;
}

static inline long aio_nr(void)
{
	return read_number("/proc/sys/fs/aio-nr");
}

static inline long aio_max_nr(void)
{
	return read_number("/proc/sys/fs/aio-max-nr");
}

/*
 * fs.aio-nr is the whole machine's: others may have contexts for a moment, and may have had some when
 * it was read before.
 */
static inline int aio_nr_is_back(long before)
{
	for (int tries = 0; aio_nr() > before && tries < 3000; tries++)
		usleep(10000);
	if (aio_nr() > before)
		diag("fs.aio-nr is %ld, was %ld", aio_nr(), before);
	return aio_nr() <= before;
}

/*
 * Those of our tests that spend or measure fs.aio-nr do so one at a time, wherever they were built. A
 * lock that children do not have (fcntl(2)), on a file that no test opens besides.
 */
static inline void aio_nr_lock(void)
{
	int fd = open("/proc/sys/fs/lease-break-time", O_RDWR | O_CLOEXEC);
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	alarm(0);
	if (fd >= 0)
		fcntl(fd, F_SETLKW, &lock);
	else if ((fd = open(BLOB_DIR, O_RDONLY | O_CLOEXEC)) >= 0)
		flock(fd, LOCK_EX);
	alarm(TAP_PATIENCE);
}

static inline uint32_t possible_cpus(void)
{
	char text[64] = "", *last;
	int fd = open("/sys/devices/system/cpu/possible", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		abort();
	close(fd);
	last = strrchr(text, '-');
	return (uint32_t)atoi(last ? last + 1 : text) + 1;
}

/* ---- mappings ---- */

struct mapping {
	uint64_t len, inode;
	int is_aio; /* it has the name and the device of a ring */
};

static inline struct mapping mapping_of(pid_t pid, aio_context_t ctx)
{
	unsigned long long start, end, inode;
	struct mapping mapping = {0};
	char path[64], line[512];
	unsigned major, minor;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	maps = fopen(path, "re");
	while (maps && fgets(line, sizeof(line), maps))
		if (sscanf(line, "%llx-%llx %*s %*x %x:%x %llu", &start, &end, &major, &minor,
			&inode) == 5 &&
		    start == ctx) {
			mapping.len = end - start;
			mapping.inode = inode;
			mapping.is_aio = !major && strstr(line, " /[aio]");
		}
	if (maps)
		fclose(maps);
	return mapping;
}

static inline uint64_t mapped_len(aio_context_t ctx)
{
	return mapping_of(getpid(), ctx).len;
}

static inline void pin_to(unsigned which)
{
	cpu_set_t cpus, one;
	unsigned cpu = 0, count;

	sched_getaffinity(0, sizeof(cpus), &cpus);
	count = (unsigned)CPU_COUNT(&cpus);
	which %= count;
	for (;; cpu++)
		if (CPU_ISSET(cpu, &cpus) && !which--)
			break;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	sched_setaffinity(0, sizeof(one), &one);
}

/* ---- the blob ---- */

#define STACK_BYTES 65536
#define STACK_PAINT 0xc5
#define STACK_SLACK 128 /* the trampoline's own frame */

/* What is called: as a rule the restore blob, which these tests began with. */
struct blob {
	const struct aior_blob *header;
	const char *base;
	size_t room;          /* bytes mapped */
	uint32_t *stack_used; /* the most of all calls, those of children too */
	unsigned char *stack; /* of all blobs, as what follows */
	unsigned char *scratch;
	size_t page;
};

static struct blob blob;
static struct blob stage_blob __attribute__((unused));

/* What one call is given and gives; passed to the other stack. */
static struct {
	const struct blob *blob;
	struct aior_args *args;
	ucontext_t back;
	unsigned char *top;
	int ret;
	sigset_t mask, mask_after;
} blob_calling;

static inline const char *blob_file(const char *op)
{
	static char path[4096];
	const char *dir = getenv("BLOB_DIR");

	snprintf(path, sizeof(path), "%s/blob-%s-%s.bin", dir ? dir : BLOB_DIR, op, HOST_ARCH_NAME);
	return path;
}

/* A mapping between two pages that nobody may touch. */
static inline void *map_guarded(size_t len)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *at;

	len = (len + page - 1) & ~(page - 1);
	at = mmap(NULL, len + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED || mprotect(at + page, len, PROT_READ | PROT_WRITE))
		abort();
	return at + page;
}

/* `offset` bytes into a page. */
static inline void blob_load(struct blob *loaded, const char *path, size_t offset)
{
	struct aior_blob header;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *at;

	if (fd < 0 || pread(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header)) {
		printf("Bail out! %s: no blob\n", path);
		exit(1);
	}
	blob.page = (size_t)sysconf(_SC_PAGESIZE);
	loaded->room = (offset + header.size + blob.page - 1) & ~(blob.page - 1);
	at = map_guarded(loaded->room);
	if (pread(fd, at + offset, header.size, 0) != (ssize_t)header.size)
		abort();
	close(fd);
	mprotect(at, loaded->room, PROT_READ | PROT_EXEC);
	loaded->base = at + offset;
	loaded->header = (const struct aior_blob *)loaded->base;
	if (!loaded->stack_used)
		loaded->stack_used =
		    mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (blob.stack)
		return;
	blob.stack = map_guarded(STACK_BYTES);
	blob.scratch = map_guarded(blob.page);
	memset(blob.stack, STACK_PAINT, STACK_BYTES);
}

static inline void blob_place_at(const char *path, size_t offset)
{
	blob_load(&blob, path, offset);
}

static inline void blob_place(const char *path)
{
	blob_place_at(path, 0);
}

typedef int blob_entry(struct aior_args *args);

static inline blob_entry *entry_of(const struct blob *called)
{
	return (blob_entry *)(uintptr_t)(called->base + called->header->call);
}

static inline blob_entry *blob_call_entry(void)
{
	return entry_of(&blob);
}

static inline void blob_trampoline(void)
{
	blob_calling.top = __builtin_frame_address(0);
	blob_calling.ret = entry_of(blob_calling.blob)(blob_calling.args);
	sigprocmask(SIG_BLOCK, NULL, &blob_calling.mask_after);
}

/*
 * Calls a blob, and remembers how much of the stack it used. The signal mask is compared right
 * there: swapcontext() would put it back.
 */
static inline int call(const struct blob *called, struct aior_args *args)
{
	static ucontext_t other;
	uint32_t lowest, used;

	blob_calling.blob = called;
	blob_calling.args = args;
	sigprocmask(SIG_BLOCK, NULL, &blob_calling.mask);
	getcontext(&other);
	other.uc_stack.ss_sp = blob.stack;
	other.uc_stack.ss_size = STACK_BYTES;
	other.uc_link = &blob_calling.back;
	makecontext(&other, blob_trampoline, 0);
	swapcontext(&blob_calling.back, &other);
	for (lowest = 0; blob.stack[lowest] == STACK_PAINT;)
		lowest++;
	used = (uint32_t)(blob_calling.top - blob.stack) - lowest;
	if (used > *called->stack_used)
		*called->stack_used = used;
	memset(blob.stack + lowest, STACK_PAINT, STACK_BYTES - lowest);
	if (memcmp(&blob_calling.mask, &blob_calling.mask_after, 8)) {
		diag("the blob did not put the signal mask back");
		return -EPROTO;
	}
	return blob_calling.ret;
}

static inline int blob_call(struct aior_args *args)
{
	return call(&blob, args);
}

static inline struct aior_args blob_args(struct aior_ring_record *rings, uint32_t ring_count,
    struct aior_poll_record *polls, uint32_t poll_count)
{
	struct aior_args args = {
	    .abi = AIOR_ABI,
	    .size = sizeof(args),
	    .rings = (uintptr_t)rings,
	    .ring_count = ring_count,
	    .ring_stride = sizeof(*rings),
	    .polls = (uintptr_t)polls,
	    .poll_count = poll_count,
	    .poll_stride = sizeof(*polls),
	    .page_size = (uint32_t)blob.page,
	    .scratch = (uintptr_t)blob.scratch,
	    .scratch_len = blob.header->scratch,
	    .fd = -1,
	};

	return args;
}

/* ---- staged rings ---- */

/* A staged ring, and a copy of what was staged. */
struct staged {
	unsigned char *copy;
	uint64_t len;
	uint32_t head, tail, nr;
};

/* Content no kernel made: every slot is other than every other. */
static inline void ring_make(void *at, uint64_t len, uint32_t head, uint32_t tail, uint64_t seed)
{
	struct aio_ring header = {
	    .id = 0x5eed,
	    .nr = (uint32_t)aio_ring_nr(len),
	    .head = head,
	    .tail = tail,
	    .magic = AIO_RING_MAGIC,
	    .compat_features = 1,
	    .header_length = AIO_RING_HEADER,
	};
	uint64_t *words = (uint64_t *)((char *)at + sizeof(header));

	seed = seed * 0x9e3779b97f4a7c15ull + 1;
	memcpy(at, &header, sizeof(header));
	for (uint64_t i = 0; i < (len - sizeof(header)) / sizeof(*words); i++)
		words[i] = random_next(&seed);
}

/* Where staged rings are put: every ring between guard pages, so that no mappings merge. */
static struct {
	char *base;
	size_t size, used;
} arena;

static inline void arena_make(size_t size)
{
	arena.base =
	    mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (arena.base == MAP_FAILED)
		abort();
	arena.size = size;
	arena.used = 0;
}

static inline char *arena_take(size_t len)
{
	char *at = arena.base + arena.used + blob.page;

	arena.used += blob.page + ((len + blob.page - 1) & ~(blob.page - 1));
	if (arena.used > arena.size - blob.page)
		abort();
	return at;
}

static inline void *map_at(void *at, size_t len, int prot)
{
	void *got = mmap(at, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (got != at)
		abort();
	return got;
}

/*
 * Stages a ring with that head and tail, in place or elsewhere. Elsewhere is not even aligned to a
 * page: an image may hold it anywhere.
 */
static inline void stage(struct aior_ring_record *ring, struct staged *staged, uint64_t len,
    uint32_t head, uint32_t tail, int in_place, uint64_t seed)
{
	char *at = arena_take(len);

	memset(ring, 0, sizeof(*ring));
	ring->addr = (uintptr_t)at;
	ring->len = len;
	ring->n = aio_ring_least_n((uint32_t)len, possible_cpus(), (uint32_t)blob.page);
	if (in_place) {
		map_at(at, len, PROT_READ | PROT_WRITE);
		ring->staged = ring->addr;
	} else {
		char *elsewhere = arena_take(len + 64);

		munmap(at, len);
		map_at(elsewhere, (len + 64 + blob.page - 1) & ~(blob.page - 1),
		    PROT_READ | PROT_WRITE);
		ring->staged = (uintptr_t)elsewhere + (seed & 7) * 8;
	}
	ring_make((void *)(uintptr_t)ring->staged, len, head, tail, seed);
	staged->copy = malloc(len);
	memcpy(staged->copy, (void *)(uintptr_t)ring->staged, len);
	staged->len = len;
	staged->head = head;
	staged->tail = tail;
	staged->nr = (uint32_t)aio_ring_nr(len);
}

static inline int is_intact(const struct aior_ring_record *ring, const struct staged *staged)
{
	return !memcmp((void *)(uintptr_t)ring->staged, staged->copy, staged->len);
}

static inline struct aio_ring *ring_of(aio_context_t ctx)
{
	return (struct aio_ring *)(uintptr_t)ctx;
}

static inline struct aio_slot *slots_of(void *ring)
{
	return (struct aio_slot *)((char *)ring + AIO_RING_HEADER);
}

/* The same but for free slots. */
static inline int is_same_ring(const struct aior_ring_record *ring, const struct staged *staged)
{
	char *at = (char *)(uintptr_t)ring->staged;

	if (memcmp(at, staged->copy, AIO_RING_HEADER))
		return 0;
	for (uint32_t s = staged->head; s != staged->tail; s = aio_ring_next(s, staged->nr))
		if (memcmp(&slots_of(at)[s], &slots_of(staged->copy)[s], AIO_RING_SLOT))
			return 0;
	return 1;
}

static inline void iocb_null_read(struct iocb *iocb, int fd, uint64_t data)
{
	memset(iocb, 0, sizeof(*iocb));
	iocb->aio_lio_opcode = IOCB_CMD_PREAD;
	iocb->aio_fildes = (uint32_t)fd;
	iocb->aio_data = data;
}

static inline void iocb_poll(struct iocb *iocb, int fd, uint16_t events, uint64_t data)
{
	memset(iocb, 0, sizeof(*iocb));
	iocb->aio_lio_opcode = IOCB_CMD_POLL;
	iocb->aio_fildes = (uint32_t)fd;
	iocb->aio_buf = events;
	iocb->aio_data = data;
}

/* An unnamed file that is read and written directly; -1: no file system here takes O_DIRECT. */
static inline int open_direct(void)
{
	const char *folders[] = {getenv("TMPDIR"), BLOB_DIR, "/tmp", "/var/tmp"};

	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		int fd = folders[i] ? open(folders[i], O_TMPFILE | O_RDWR | O_DIRECT, 0600) : -1;

		if (fd >= 0)
			return fd;
	}
	return -1;
}

/*
 * Slots that a CPU has taken for itself can be had from there only, so a nearly full ring admits a
 * request on one CPU and not on the other.
 */
static inline long submit_somewhere(aio_context_t ctx, struct iocb **iocbs)
{
	cpu_set_t cpus;
	long n = io_submit(ctx, 1, iocbs);

	sched_getaffinity(0, sizeof(cpus), &cpus);
	for (unsigned i = 0; n == -EAGAIN && i < (unsigned)CPU_COUNT(&cpus); i++) {
		pin_to(i);
		n = io_submit(ctx, 1, iocbs);
		sched_setaffinity(0, sizeof(cpus), &cpus);
	}
	return n;
}

/*
 * Whether `ring` is what was staged, brought to life: every byte but the id; the kernel's own tail
 * (a request that completes must land in slot `tail`); and through io_getevents the pending events
 * in order, then the new one. NULL, or what is wrong.
 */
static inline const char *why_not_live(const struct aior_ring_record *ring,
    const struct staged *staged, const struct aior_args *args, int null_fd)
{
	struct aio_ring *live = ring_of(ring->addr);
	const struct aio_slot *was = slots_of(staged->copy);
	uint32_t pending = aio_ring_pending(staged->head, staged->tail, staged->nr);
	struct iocb iocb, *iocbs[1] = {&iocb};
	struct aio_slot events[64];
	uint32_t slot = staged->head;

	if (args && (ring->flags != AIOR_RING_LIVE || ring->step != AIOR_STEP_DONE || ring->err ||
			ring->new_len != ring->len || ring->aside))
		return "the record's results";
	if (ring->head != staged->head || ring->tail != staged->tail)
		return "the record's head and tail";
	if (memcmp((char *)live + 4, staged->copy + 4, staged->len - 4))
		return "the ring's bytes";
	iocb_null_read(&iocb, null_fd, 0xfeed);
	if (pending < aio_ring_usable(staged->nr, possible_cpus())) {
		if (submit_somewhere(ring->addr, iocbs) != 1)
			return "a submission";
		if (live->tail != aio_ring_next(staged->tail, staged->nr))
			return "the kernel's tail";
		if (slots_of(live)[staged->tail].data != 0xfeed)
			return "the kernel's own tail: the event is not in that slot";
	} else if (io_submit(ring->addr, 1, iocbs) != -EAGAIN) {
		return "a full ring that takes another request";
	}
	while (pending) {
		long n = io_getevents(ring->addr, 64, events);

		if (n <= 0 || n > (long)pending + 1)
			return "io_getevents";
		for (long i = 0; i < n && pending; i++, pending--) {
			if (memcmp(&events[i], &was[slot], sizeof(events[i])))
				return "a pending event";
			slot = aio_ring_next(slot, staged->nr);
		}
	}
	io_getevents(ring->addr, 64, events);
	if (live->head != live->tail)
		return "events left over";
	if (io_submit(ring->addr, 1, iocbs) != 1 || io_getevents(ring->addr, 64, events) != 1 ||
	    events[0].data != 0xfeed || events[0].obj != (uintptr_t)&iocb || events[0].res)
		return "a request after all was reaped";
	return NULL;
}

/* How many more requests the context takes from this CPU. */
static inline uint32_t count_free(aio_context_t ctx, int null_fd)
{
	struct iocb iocb, *iocbs[64];
	uint32_t count = 0;
	long n;

	iocb_null_read(&iocb, null_fd, 1);
	for (int i = 0; i < 64; i++)
		iocbs[i] = &iocb;
	while ((n = io_submit(ctx, 64, iocbs)) > 0)
		count += (uint32_t)n;
	return count;
}

/* ---- what a process looks like ---- */

#define MAPS_ROOM (16u << 20)
#define FDS 4096

struct state {
	char *maps;
	size_t maps_len;
	unsigned char fds[FDS];
	sigset_t mask;
	cpu_set_t cpus;
};

static inline void state_prepare(struct state *state)
{
	memset(state, 0, sizeof(*state));
	state->maps = map_guarded(MAPS_ROOM);
	free(strdup("")); /* the heap is there from now on */
}

/* poll() says which descriptors are none, of as many at a time as any limit for them allows. */
static inline void take_descriptors(unsigned char fds[FDS])
{
	enum { AT_ONCE = 32 };
	struct pollfd polled[AT_ONCE];

	for (int first = 0; first < FDS; first += AT_ONCE) {
		for (int i = 0; i < AT_ONCE; i++)
			polled[i] = (struct pollfd){.fd = first + i};
		if (poll(polled, AT_ONCE, 0) < 0)
			abort();
		for (int i = 0; i < AT_ONCE; i++)
			fds[first + i] = !(polled[i].revents & POLLNVAL);
	}
}

static inline void state_take(struct state *state)
{
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	ssize_t n;

	state->maps_len = 0;
	while ((n = read(fd, state->maps + state->maps_len, MAPS_ROOM - state->maps_len - 1)) > 0)
		state->maps_len += (size_t)n;
	state->maps[state->maps_len] = '\0';
	close(fd);
	take_descriptors(state->fds);
	sigemptyset(&state->mask);
	sigprocmask(SIG_BLOCK, NULL, &state->mask);
	sched_getaffinity(0, sizeof(state->cpus), &state->cpus);
}

/* The next line of the maps that is not where a ring belongs. */
static inline const char *next_line(
    const char **at, size_t *len, const struct aior_ring_record *rings, uint32_t count)
{
	while (**at) {
		const char *line = *at, *end = strchrnul(line, '\n');
		uint64_t start = strtoull(line, NULL, 16);
		uint32_t i = 0;

		*at = *end ? end + 1 : end;
		while (
		    i < count && (start < rings[i].addr || start >= rings[i].addr + rings[i].len))
			i++;
		if (i < count)
			continue;
		*len = (size_t)(end - line);
		return line;
	}
	return NULL;
}

/* NULL, or what differs, the memory that rings belong to apart. */
static inline const char *state_differs(const struct state *a, const struct state *b,
    const struct aior_ring_record *rings, uint32_t count)
{
	const char *at_a = a->maps, *at_b = b->maps, *line_a, *line_b;
	size_t len_a = 0, len_b = 0;

	do {
		line_a = next_line(&at_a, &len_a, rings, count);
		line_b = next_line(&at_b, &len_b, rings, count);
		if (!line_a != !line_b || len_a != len_b ||
		    (line_a && memcmp(line_a, line_b, len_a))) {
			diag("was %.*s, is %.*s", (int)len_a, line_a ? line_a : "", (int)len_b,
			    line_b ? line_b : "");
			return "the mappings";
		}
	} while (line_a);
	if (memcmp(a->fds, b->fds, sizeof(a->fds)))
		return "the descriptors";
	if (memcmp(&a->mask, &b->mask, 8))
		return "the signal mask";
	if (memcmp(&a->cpus, &b->cpus, sizeof(a->cpus)))
		return "the CPU affinity";
	return NULL;
}

/* How a test of a blob starts: returns what test_end() compares with. */
static inline long test_start(void)
{
	tap_start();
	aio_nr_lock();
	blob_place(blob_file("restore"));
	return aio_nr();
}

/* No call so far has used more of the stack than the blob announces. */
static inline void test_stack_of(const char *op, const struct blob *called)
{
	ok(*called->stack_used <= called->header->stack + STACK_SLACK,
	    "stack of the %s blob: %u bytes used, %u announced", op, *called->stack_used,
	    called->header->stack);
}

static inline void test_stack(void)
{
	test_stack_of("restore", &blob);
}

static inline int test_end(long nr)
{
	ok(aio_nr_is_back(nr), "fs.aio-nr is where it was");
	return tap_end();
}

#endif
