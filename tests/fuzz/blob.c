/* SPDX-License-Identifier: MIT */
/*
 * The blobs' argument blocks. No compiler looks into a blob, so this is a fuzzer of its own: what is new is what a
 * blob answers that it has not answered before. Each input runs in a child, which may make no system call but those
 * that aio-restorer-blob(7) names.
 *
 * usage: blob [-t SECONDS] [-s SEED] [-o FOLDER] FILE|FOLDER...
 *
 * Without -t the inputs are run, no more. With it they are changed for so long; what is new goes into the first
 * folder, and what breaks a promise into that of -o.
 *
 * An input: a byte that says what there is, and places in it that are given other values (struct change).
 */
#include <dirent.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "../blob.h"

/* The world: addresses that every process here has. */
#define WORLD ((uintptr_t)(sizeof(void *) == 8 ? 0x2000000000ull : 0x50000000ull))
#define ARGS (WORLD + 0x10000)
#define RECORDS (WORLD + 0x20000)
#define POLLS (WORLD + 0x30000)
#define IOCBS (WORLD + 0x50000)
#define CAPSULE (WORLD + 0x60000)
#define SCRATCH (WORLD + 0x70000)
#define NO_ACCESS (WORLD + 0x80000)
#define READ_ONLY (WORLD + 0x90000)
#define HOLE (WORLD + 0xa0000)
#define ELSEWHERE (WORLD + 0x100000) /* where ring 1 is staged */
#define RING(i) (WORLD + 0x200000 + (uintptr_t)(i)*0x100000)

#define RINGS 3
#define POLL_BYTES 0x10000
#define NULL_READS(i) (3 + (i)) /* events that are pending in a live ring */
#define POLLED 3
#define FD_EVENT 50
#define FD_PIPE 51
#define FD_NULL 53

/* The first byte of an input. */
#define IS_STAGE 1
#define RING_COUNT(byte) (((byte) >> 1) & 3)
#define HAS_POLLS 8
#define HAS_EVENTFD 16
#define END(byte) (((byte) >> 5) & 3)
#define IS_COMPACT 128

struct change {
	uint16_t at;  /* in what can be changed: see place_of() */
	uint8_t size; /* 1, 2, 4 or 8, as a power of 2 */
	uint8_t adds; /* or else it replaces */
	uint32_t unused;
	uint64_t value;
};

#define MOST_CHANGES 8

struct input {
	uint8_t what;
	size_t count;
	struct change changes[MOST_CHANGES];
};

enum verdict { RUNNING, IN_BLOB, HELD, BROKEN };

struct range {
	uint64_t start, end;
};

/* Answers of those that have none of their own. */
#define FAULT 0x5e60u
#define ELSEWHERE_END 0x9a50u

#define NO_CONTEXT 4 /* what a child ends with, if it may have none */

/* What a child and its parent share; the second half is its argument block's page. */
struct slot {
	enum verdict verdict;
	char why[256];
	int overlaps, has_no_world;
	size_t named_count;
	struct range named[4 + 2 * 64];
	uint64_t answer; /* what it was, as a number */
};

static const char *blobs[] = {"restore", "stage"};
static struct blob *loaded[] = {&blob, &stage_blob};
static size_t page;
static uint32_t cpus;
static uint64_t seed = 1;

/* ---- what can be changed ---- */

static const struct {
	uintptr_t addr;
	uint16_t len;
} places[] = {
    {ARGS, offsetof(struct aior_args, reserved_out)},
    {RECORDS, RINGS * sizeof(struct aior_ring_record)},
    {POLLS, POLLED * sizeof(struct aior_poll_record)},
    {IOCBS, POLLED * sizeof(struct iocb)},
    {CAPSULE, sizeof(struct aior_table)},
    {RING(0), AIO_RING_HEADER},
    {ELSEWHERE, AIO_RING_HEADER},
    {RING(2), AIO_RING_HEADER},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static unsigned places_len(void)
{
	unsigned len = 0;

	for (size_t i = 0; i < COUNT(places); i++)
		len += places[i].len;
	return len;
}

/* Where that is; 0: it is not there, or not in one piece. */
static uintptr_t place_of(unsigned at, unsigned size)
{
	for (size_t i = 0; i < COUNT(places); at -= places[i++].len)
		if (at < places[i].len)
			return at + size <= places[i].len ? places[i].addr + at : 0;
	return 0;
}

static int is_there(uintptr_t at, size_t len)
{
	return !msync((void *)(at & ~(page - 1)), len + (at & (page - 1)), MS_ASYNC);
}

static void apply(const struct change *change)
{
	unsigned size = 1u << (change->size & 3);
	uintptr_t at = place_of(change->at, size);
	uint64_t value = 0;

	if (!at || !is_there(at, size))
		return;
	if (change->adds)
		memcpy(&value, (void *)at, size);
	value += change->value;
	memcpy((void *)at, &value, size);
}

/* ---- the world, sound ---- */

static void *put(uintptr_t at, size_t len, int prot)
{
	void *got =
	    mmap((void *)at, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (got != (void *)at)
		_exit(3);
	return got;
}

static uint64_t ring_len(uint32_t i)
{
	return aio_ring_len(1 + 100 * i * (page / 4096), cpus, (uint32_t)page);
}

static void make_iocbs(const struct input *input)
{
	struct iocb *iocbs = (struct iocb *)IOCBS;

	for (uint32_t i = 0; i < POLLED; i++) {
		iocb_poll(&iocbs[i], FD_PIPE, POLLIN, 0x1000 + i);
		if (input->what & HAS_EVENTFD) {
			iocbs[i].aio_flags = IOCB_FLAG_RESFD;
			iocbs[i].aio_resfd = FD_EVENT;
		}
	}
}

/* Poll 0 and 1 are of the first ring, 2 is of the last. */
static uint32_t ring_of_poll(uint32_t poll, uint32_t rings)
{
	return poll < 2 ? 0 : rings - 1;
}

static void make_staged(const struct input *input, struct aior_ring_record *records)
{
	struct aior_poll_record *polls = (struct aior_poll_record *)POLLS;
	uint32_t rings = RING_COUNT(input->what);

	for (uint32_t i = 0; i < rings; i++) {
		uint64_t len = ring_len(i);

		records[i].staged = i == 1 ? ELSEWHERE : RING(i);
		put((uintptr_t)records[i].staged, len, PROT_READ | PROT_WRITE);
		ring_make((void *)(uintptr_t)records[i].staged, len, 20 - i, 10 + 10 * i, i);
	}
	for (uint32_t i = 0; rings && input->what & HAS_POLLS && i < POLLED; i++)
		polls[i] = (struct aior_poll_record){.ring = RING(ring_of_poll(i, rings)),
		    .iocb = IOCBS + i * sizeof(struct iocb),
		    .data = 0x1000 + i};
}

static void make_live(const struct input *input)
{
	uint32_t rings = RING_COUNT(input->what);
	struct iocb null, *iocbs[] = {&null};

	iocb_null_read(&null, FD_NULL, 7);
	for (uint32_t i = 0; i < rings; i++) {
		uint64_t len = ring_len(i);
		aio_context_t ctx;

		if (io_setup(aio_ring_least_n((uint32_t)len, cpus, (uint32_t)page), &ctx) ||
		    mremap((void *)(uintptr_t)ctx, len, len, MREMAP_MAYMOVE | MREMAP_FIXED,
			RING(i)) != (void *)RING(i))
			_exit(NO_CONTEXT);
		for (uint32_t k = 0; k < NULL_READS(i); k++)
			io_submit(RING(i), 1, iocbs);
	}
	for (uint32_t i = 0; rings && input->what & HAS_POLLS && i < POLLED; i++) {
		struct iocb *poll[] = {(struct iocb *)IOCBS + i};

		io_submit(RING(ring_of_poll(i, rings)), 1, poll);
	}
}

static struct aior_args *make_world(const struct input *input)
{
	struct aior_ring_record *records = put(RECORDS, page, PROT_READ | PROT_WRITE);
	struct aior_args *args = (struct aior_args *)ARGS;
	struct aior_table *capsule = put(CAPSULE, page, PROT_READ | PROT_WRITE);
	uint32_t rings = RING_COUNT(input->what);
	int fds[2];

	put(POLLS, POLL_BYTES, PROT_READ | PROT_WRITE);
	put(IOCBS, page, PROT_READ | PROT_WRITE);
	put(SCRATCH, page, PROT_READ | PROT_WRITE);
	put(NO_ACCESS, page, PROT_NONE);
	ring_make(put(READ_ONLY, ring_len(0), PROT_READ | PROT_WRITE), ring_len(0), 1, 2, 9);
	mprotect((void *)READ_ONLY, ring_len(0), PROT_READ);
	if (pipe2(fds, O_CLOEXEC) || dup2(fds[0], FD_PIPE) < 0 || dup2(fds[1], FD_PIPE + 1) < 0 ||
	    dup2(eventfd(5, EFD_NONBLOCK), FD_EVENT) < 0 ||
	    dup2(open("/dev/null", O_RDWR), FD_NULL) < 0)
		_exit(5);
	make_iocbs(input);
	for (uint32_t i = 0; i < rings; i++) {
		records[i].addr = RING(i);
		records[i].len = ring_len(i);
		records[i].n = aio_ring_least_n((uint32_t)ring_len(i), cpus, (uint32_t)page);
	}
	*args = blob_args(records, rings, (struct aior_poll_record *)POLLS, 0);
	args->scratch = SCRATCH;
	args->scratch_len = page;
	args->end = END(input->what);
	if (input->what & IS_STAGE) {
		make_live(input);
		args->capsule = CAPSULE;
		args->poll_room = POLL_BYTES / sizeof(struct aior_poll_record);
		args->helpers = 2;
		capsule->state = AIOR_TABLE_PREPARED;
	} else {
		make_staged(input, records);
		args->flags = input->what & IS_COMPACT ? AIOR_F_COMPACT : 0;
		args->poll_count = rings && input->what & HAS_POLLS ? POLLED : 0;
	}
	return args;
}

/* ---- what the arguments name ---- */

static void name(struct slot *slot, uint64_t start, uint64_t len)
{
	struct range range = {start, len > UINT64_MAX - start ? UINT64_MAX : start + len};

	if (!len || slot->named_count == COUNT(slot->named))
		return;
	for (size_t i = 0; i < slot->named_count; i++)
		if (start < slot->named[i].end && slot->named[i].start < range.end)
			slot->overlaps = 1;
	slot->named[slot->named_count++] = range;
}

/* A ring at its place is one range. Records that cannot be read name nothing: nobody reads them. */
static void name_all(struct slot *slot, const struct input *input, const struct aior_args *args)
{
	const int is_stage = input->what & IS_STAGE;
	uint64_t polls = is_stage ? args->poll_room : args->poll_count;

	name(slot, ARGS, sizeof(*args));
	name(slot, args->scratch, args->scratch_len);
	name(slot, args->rings, (uint64_t)args->ring_count * args->ring_stride);
	name(slot, args->polls, polls * args->poll_stride);
	if (is_stage && args->capsule)
		name(slot, args->capsule, sizeof(struct aior_table));
	for (uint32_t i = 0; i < args->ring_count && i < 64; i++) {
		uint64_t at = args->rings + (uint64_t)i * args->ring_stride;
		const struct aior_ring_record *ring = (void *)(uintptr_t)at;

		if (at != (uintptr_t)at || !is_there((uintptr_t)at, sizeof(*ring)) ||
		    (at >= NO_ACCESS && at < NO_ACCESS + page))
			return;
		name(slot, ring->addr, ring->len);
		if (!is_stage && ring->staged != ring->addr)
			name(slot, ring->staged, ring->len);
	}
}

/* ---- what must hold afterwards ---- */

static _Noreturn void end(struct slot *slot, enum verdict verdict, const char *why)
{
	snprintf(slot->why, sizeof(slot->why), "%s", why ? why : "");
	slot->verdict = verdict;
	_exit(0);
}

static struct {
	struct aior_args args;
	unsigned char records[RINGS * sizeof(struct aior_ring_record)];
	unsigned char polls[POLLED * sizeof(struct aior_poll_record)];
	unsigned char iocbs[POLLED * sizeof(struct iocb)];
	struct aior_table capsule;
	unsigned char *rings[RINGS]; /* what is staged there, or live */
	unsigned long long raised;   /* what the eventfd counts */
	struct state state;
} was;

/* proc_pid_fdinfo(5) */
static unsigned long long raised(void)
{
	unsigned long long count = 0;
	char text[256] = "", *at;
	int fd = open("/proc/self/fdinfo/50", O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 &&
	    (at = strstr(text, "eventfd-count:")))
		count = strtoull(at + strlen("eventfd-count:"), NULL, 16);
	close(fd);
	return count;
}

static uintptr_t content_at(const struct input *input, uint32_t i)
{
	return input->what & IS_STAGE || i != 1 ? RING(i) : ELSEWHERE;
}

static void remember(const struct input *input, const struct aior_args *args)
{
	was.args = *args;
	memcpy(was.records, (void *)RECORDS, sizeof(was.records));
	memcpy(was.polls, (void *)POLLS, sizeof(was.polls));
	memcpy(was.iocbs, (void *)IOCBS, sizeof(was.iocbs));
	memcpy(&was.capsule, (void *)CAPSULE, sizeof(was.capsule));
	for (uint32_t i = 0; i < RING_COUNT(input->what); i++)
		memcpy(was.rings[i], (void *)content_at(input, i), ring_len(i));
	was.raised = raised();
	state_take(&was.state);
}

/* The results in a record, which a failure may write. */
static void forget_results(struct aior_ring_record *record)
{
	record->aside = record->new_len = record->flags = record->err = record->step = 0;
	record->head = record->tail = record->n = 0;
}

static const char *records_differ(const struct input *input)
{
	for (uint32_t i = 0; i < RINGS; i++) {
		struct aior_ring_record before, after;

		memcpy(&before, was.records + i * sizeof(before), sizeof(before));
		memcpy(&after, (char *)RECORDS + i * sizeof(after), sizeof(after));
		forget_results(&before);
		forget_results(&after);
		if (memcmp(&before, &after, sizeof(before)))
			return "a failure changes a record";
	}
	for (uint32_t i = 0; i < POLLED && !(input->what & IS_STAGE); i++)
		if (memcmp(was.polls + i * sizeof(struct aior_poll_record),
			(char *)POLLS + i * sizeof(struct aior_poll_record),
			offsetof(struct aior_poll_record, flags)))
			return "a failure changes a poll's record";
	return NULL;
}

/* A record or a table may lie anywhere, and results go there: what is compared is only what lies where it lay. */
static int is_moved(const struct aior_args *args)
{
	return args->rings != RECORDS || args->ring_stride != sizeof(struct aior_ring_record) ||
	       args->polls != POLLS || args->poll_stride != sizeof(struct aior_poll_record);
}

static const char *why_not_as_it_was(const struct input *input, const struct aior_args *args)
{
	const char *why;

	if (memcmp(args, &was.args, offsetof(struct aior_args, err)))
		return "the block's input is changed";
	if (raised() != was.raised)
		return "a failure raises an eventfd";
	if (is_moved(&was.args))
		return NULL;
	why = records_differ(input);
	for (uint32_t i = 0; i < RING_COUNT(input->what) && !why; i++)
		if (memcmp(was.rings[i], (void *)content_at(input, i), ring_len(i)))
			why = "a failure changes a ring";
	return why;
}

/* The record has been changed, so that the content is another one. */
static int staged_where_it_was(const struct input *input, uint32_t i)
{
	struct aior_ring_record before;

	if (i >= RINGS)
		return 0;
	memcpy(&before, was.records + i * sizeof(before), sizeof(before));
	return input->what & IS_STAGE || before.staged == content_at(input, i);
}

/* The events that were pending are, in their order; there may be others behind them. */
static int has_events(const struct input *input, uint32_t i, const struct aior_ring_record *ring)
{
	struct aio_ring *before = (struct aio_ring *)was.rings[i], *now = ring_of(ring->addr);
	uint32_t count;

	if (i >= RING_COUNT(input->what) || ring->addr != RING(i) || ring->len != ring_len(i) ||
	    aio_ring_check(before, ring->len) != AIO_RING_OK)
		return 1;
	/* Who has written to a live ring's tail has that written over by the next event: the kernel keeps its own. */
	if (input->what & IS_STAGE && before->tail != NULL_READS(i))
		return 1;
	count = aio_ring_pending(before->head, before->tail, before->nr);
	for (uint32_t k = 0; k < count; k++)
		if (memcmp(slots_of(before) + (before->head + k) % before->nr,
			slots_of(now) + (now->head + k) % now->nr, AIO_RING_SLOT))
			return 0;
	return 1;
}

/* Restored: the record's head and tail are the ring's, which is sound. Staged: the same. */
static const char *why_not_done(const struct input *input, const struct aior_args *args)
{
	for (uint32_t i = 0; i < args->ring_count && i < 64; i++) {
		const struct aior_ring_record *ring =
		    (void *)(uintptr_t)(args->rings + (uint64_t)i * args->ring_stride);
		struct aio_ring *header = ring_of(ring->addr);
		int is_stage = input->what & IS_STAGE;
		long handle = io_submit(ring->addr, 0, NULL);

		if (ring->step != AIOR_STEP_DONE || ring->err || ring->aside)
			return "the record's results";
		if (!!handle != !!is_stage)
			return is_stage ? "a staged ring is a handle" : "a restored ring is none";
		if (ring->flags != (is_stage ? AIOR_RING_DRAINED : AIOR_RING_LIVE))
			return "the record's flags";
		if (ring->prot && !(ring->prot & PROT_READ))
			continue;
		if (header->magic != AIO_RING_MAGIC ||
		    header->nr != aio_ring_nr((uint32_t)ring->len))
			return "the ring is not sound";
		if (header->head != ring->head && !is_stage)
			return "the ring's head is not the record's";
		if (!is_moved(&was.args) && staged_where_it_was(input, i) &&
		    !has_events(input, i, ring))
			return "the ring has other events";
	}
	return NULL;
}

/* ---- the sandbox ---- */

#define ALLOW(call)                                                                                \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##call, 0, 1),                                    \
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* Some architectures have these calls in another form, or besides. */
#ifdef __NR_poll
#define POLL_CALL ALLOW(poll),
#else
#define POLL_CALL
#endif
#ifdef __NR_mmap2
#define MMAP_CALL ALLOW(mmap2),
#else
#define MMAP_CALL ALLOW(mmap),
#endif

#define AT_THE_END                                                                                 \
	ALLOW(rt_sigsuspend), ALLOW(rt_sigreturn), ALLOW(openat), ALLOW(read),                     \
	    POLL_CALL ALLOW(ppoll), ALLOW(exit_group),                                             \
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

/* Those that the manual page names; where it ends; and those that the child makes itself afterwards. */
static struct sock_filter restore_filter[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    ALLOW(io_setup),
    ALLOW(io_submit),
    ALLOW(io_destroy),
    MMAP_CALL ALLOW(munmap),
    ALLOW(mremap),
    ALLOW(mprotect),
    ALLOW(msync),
    ALLOW(eventfd2),
    ALLOW(close),
    ALLOW(getpid),
    ALLOW(process_vm_readv),
    ALLOW(preadv2),
    ALLOW(write),
    ALLOW(getcpu),
    ALLOW(sched_getaffinity),
    ALLOW(sched_setaffinity),
    ALLOW(rt_sigprocmask),
    AT_THE_END,
};

static struct sock_filter stage_filter[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    ALLOW(io_submit),
    ALLOW(io_destroy),
    MMAP_CALL ALLOW(munmap),
    ALLOW(mremap),
    ALLOW(msync),
    ALLOW(pipe2),
    ALLOW(fcntl),
    ALLOW(vmsplice),
    ALLOW(close),
    ALLOW(clone),
    ALLOW(exit),
    ALLOW(wait4),
    ALLOW(getpid),
    ALLOW(process_vm_readv),
    ALLOW(ioctl),
    ALLOW(preadv2),
    ALLOW(write),
    ALLOW(rt_sigprocmask),
    ALLOW(sched_getaffinity),
    AT_THE_END,
};

static void shut_in(const struct input *input)
{
	const int is_stage = input->what & IS_STAGE;
	struct sock_fprog program = {
	    .len = is_stage ? COUNT(stage_filter) : COUNT(restore_filter),
	    .filter = is_stage ? stage_filter : restore_filter,
	};
	struct rlimit none = {0, 0}, files = {256, 256};

	setrlimit(RLIMIT_CORE, &none);
	setrlimit(RLIMIT_NOFILE, &files);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		_exit(6);
}

/* ---- a run ---- */

static struct state after;

/* What has come of it, so that what is new can be told: results, and how far each ring has come. */
static uint64_t answer_of(const struct input *input, const struct aior_args *args, int ret)
{
	uint64_t answer = (uint64_t)(input->what & (IS_STAGE | HAS_POLLS)) + 1;

	answer = answer * 1021 + (uint64_t)-ret;
	answer = answer * 1021 + (ret == -ENOSYS ? 0 : args->step);
	answer = answer * 1021 + (ret == -ENOSYS ? 0 : args->ring & 3);
	answer = answer * 1021 + args->end % 4 + 4 * (args->flags & 7);
	if (ret == -ENOSYS || is_moved(args))
		return answer;
	/* (How far the rings have come follows from the step but for the first.) */
	if (args->ring_count)
		answer = answer * 1021 + ((struct aior_ring_record *)RECORDS)->step * 8 +
			 ((struct aior_ring_record *)RECORDS)->flags % 8;
	return answer * 1021 + (args->polls_lost & 3);
}

static _Noreturn void run_child(const struct input *input, struct slot *slot)
{
	const struct blob *called = loaded[input->what & IS_STAGE];
	struct aior_args *args;
	const char *why = NULL;
	int ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ptrace(PTRACE_TRACEME, 0, 0, 0);
	if (mmap((void *)ARGS, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE,
		(int)((intptr_t)slot->answer), (off_t)page) != (void *)ARGS)
		_exit(3);
	args = make_world(input);
	for (size_t i = 0; i < input->count; i++)
		apply(&input->changes[i]);
	remember(input, args);
	name_all(slot, input, args);
	shut_in(input);
	slot->verdict = IN_BLOB;
	ret = call(called, args);
	slot->answer = answer_of(input, args, ret);
	if (slot->overlaps)
		end(slot, HELD, "overlaps");
	state_take(&after);
	if (ret == -EPROTO)
		why = "the signal mask is another";
	else if (*called->stack_used > called->header->stack + STACK_SLACK)
		why = "it needs more stack than it says";
	else if (ret == -ENOSYS)
		why = memcmp(args, &was.args, sizeof(*args)) ? "the block is touched" : NULL;
	else if (ret ? args->err != (uint32_t)-ret || args->step == AIOR_STEP_DONE
		     : args->err || args->step != AIOR_STEP_DONE)
		why = "the results do not fit what it returns";
	if (!why && ret)
		why = why_not_as_it_was(input, args);
	else if (!why)
		why = why_not_done(input, args);
	if (!why && !is_moved(&was.args))
		why = state_differs(
		    &was.state, &after, (struct aior_ring_record *)RECORDS, ret ? 0 : RINGS);
	end(slot, why ? BROKEN : HELD, why);
}

static int is_named(const struct slot *slot, uint64_t addr)
{
	for (size_t i = 0; i < slot->named_count; i++)
		if (addr >= slot->named[i].start && addr < slot->named[i].end)
			return 1;
	return 0;
}

/*
 * A child has been stopped by a fault. What is not mapped is answered with EFAULT, so no address leads there. But
 * nobody finds out what protection there is without touching it: what the arguments name and may not be touched is
 * theirs.
 */
static void judge_fault(struct slot *slot, const struct aior_args *args, pid_t pid)
{
	siginfo_t info = {0};

	ptrace(PTRACE_GETSIGINFO, pid, 0, &info);
	if (slot->verdict != IN_BLOB || slot->overlaps)
		slot->verdict = HELD;
	else if (args->step == AIOR_STEP_DONE && args->end == AIOR_END_SIGRETURN)
		slot->verdict = HELD; /* it has ended where the block says */
	else if (info.si_signo == SIGSEGV && info.si_code == SEGV_ACCERR &&
		 is_named(slot, (uintptr_t)info.si_addr))
		slot->verdict = HELD;
	else
		slot->verdict = BROKEN;
	slot->answer = FAULT + (info.si_code & 15);
	snprintf(slot->why, sizeof(slot->why), "%s at %p (code %d)", strsignal(info.si_signo),
	    info.si_addr, info.si_code);
}

#define DEADLINE_MS 20000

/* Waits until a child has come to an end, or sleeps where it should. */
static void watch(struct slot *slot, const struct aior_args *args, pid_t pid)
{
	int status;

	for (int ms = 0;; ms++) {
		pid_t got = waitpid(pid, &status, WNOHANG | __WALL);

		if (got == pid && WIFSTOPPED(status)) {
			int signal = WSTOPSIG(status);

			if (signal != SIGSEGV && signal != SIGBUS && signal != SIGILL &&
			    signal != SIGFPE && signal != SIGTRAP) {
				ptrace(PTRACE_CONT, pid, 0, signal);
				continue;
			}
			judge_fault(slot, args, pid);
			break;
		}
		if (got == pid) {
			if (WIFSIGNALED(status) && slot->verdict == IN_BLOB) {
				slot->verdict = slot->overlaps ? HELD : BROKEN;
				snprintf(slot->why, sizeof(slot->why), "ended by signal %d (%s)",
				    WTERMSIG(status), strsignal(WTERMSIG(status)));
			} else if (WIFEXITED(status) && WEXITSTATUS(status)) {
				slot->has_no_world = WEXITSTATUS(status);
				slot->verdict = BROKEN;
				snprintf(slot->why, sizeof(slot->why), "no world (%d)",
				    WEXITSTATUS(status));
			}
			return;
		}
		if (slot->verdict == IN_BLOB && args->step == AIOR_STEP_DONE &&
		    args->end != AIOR_END_RETURN && ms % 50 == 49) {
			slot->verdict = HELD;
			slot->answer = ELSEWHERE_END + args->end;
			break;
		}
		if (ms >= DEADLINE_MS) {
			slot->verdict = slot->overlaps ? HELD : BROKEN;
			snprintf(slot->why, sizeof(slot->why), "does not end");
			break;
		}
		usleep(ms < 5 ? 200 : 1000);
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, __WALL);
}

static struct slot *slot;
static int slot_fd;

static unsigned long done, refused, faults, overlapping, elsewhere;

static void count(void)
{
	const struct aior_args *args = (struct aior_args *)((char *)slot + page);

	if (slot->overlaps)
		overlapping++;
	else if (slot->answer >> 4 == FAULT >> 4)
		faults++;
	else if (slot->answer >> 4 == ELSEWHERE_END >> 4)
		elsewhere++;
	else if (args->step == AIOR_STEP_DONE)
		done++;
	else
		refused++;
}

static int run(const struct input *input)
{
	/* (fs.aio-max-nr is everybody's, and what has been destroyed comes back late.) */
	for (int tries = 0; tries < 100; tries++) {
		pid_t pid;

		memset(slot, 0, 2 * page);
		slot->answer = (uint64_t)slot_fd;
		pid = fork();
		if (!pid)
			run_child(input, slot);
		if (pid < 0)
			abort();
		watch(slot, (struct aior_args *)((char *)slot + page), pid);
		if (slot->has_no_world != NO_CONTEXT)
			break;
		usleep(100000);
	}
	count();
	return slot->verdict == HELD ? 0 : -1;
}

/* ---- inputs ---- */

static int read_input(struct input *input, const char *path)
{
	FILE *file = fopen(path, "rb");

	memset(input, 0, sizeof(*input));
	if (!file || fread(&input->what, 1, 1, file) != 1) {
		if (file)
			fclose(file);
		return -1;
	}
	input->count = fread(input->changes, sizeof(*input->changes), MOST_CHANGES, file);
	fclose(file);
	return 0;
}

static void write_input(const struct input *input, const char *folder, const char *name)
{
	char path[4096];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = fopen(path, "wb");
	if (!file)
		return;
	fwrite(&input->what, 1, 1, file);
	fwrite(input->changes, sizeof(*input->changes), input->count, file);
	fclose(file);
}

static uint64_t random_value(void)
{
	static const uintptr_t addresses[] = {ARGS, RECORDS, POLLS, IOCBS, CAPSULE, SCRATCH,
	    NO_ACCESS, READ_ONLY, HOLE, ELSEWHERE, RING(0), RING(1), RING(2), RING(3), WORLD};
	static const uint64_t numbers[] = {0, 1, 2, 3, 4, 7, 8, 16, 31, 32, 64, 80, 104, 127, 128,
	    176, 4095, 4096, 8192, 65536, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
	    0x7ffffffff000, 0x800000000000, 0x8000000000000000, 0xfffffffffffff000, ~0ull, ~7ull};
	const int steps[] = {0, 0, 0, 0, 8, 16, -8, -16, 1, -1, 4, (int)page, -(int)page,
	    (int)page - 8, (int)page - 32};
	uint64_t value = random_below(&seed, 3) ? addresses[random_below(&seed, COUNT(addresses))]
						: numbers[random_below(&seed, COUNT(numbers))];

	if (!random_below(&seed, 16))
		return random_next(&seed);
	return value + (uint64_t)(int64_t)steps[random_below(&seed, COUNT(steps))];
}

#define FIELD(type, field)                                                                         \
	{                                                                                          \
		offsetof(struct type, field), sizeof(((struct type *)0)->field)                    \
	}

/* Most changes are of a whole field. */
static const struct field {
	size_t at, size;
} args_fields[] = {FIELD(aior_args, abi), FIELD(aior_args, size), FIELD(aior_args, flags),
    FIELD(aior_args, end), FIELD(aior_args, rings), FIELD(aior_args, ring_count),
    FIELD(aior_args, ring_stride), FIELD(aior_args, polls), FIELD(aior_args, poll_count),
    FIELD(aior_args, poll_room), FIELD(aior_args, poll_stride), FIELD(aior_args, page_size),
    FIELD(aior_args, scratch), FIELD(aior_args, scratch_len), FIELD(aior_args, sigframe),
    FIELD(aior_args, fd), FIELD(aior_args, helpers), FIELD(aior_args, capsule)},
  ring_fields[] = {FIELD(aior_ring_record, addr), FIELD(aior_ring_record, len),
      FIELD(aior_ring_record, staged), FIELD(aior_ring_record, aside),
      FIELD(aior_ring_record, room), FIELD(aior_ring_record, flags), FIELD(aior_ring_record, prot),
      FIELD(aior_ring_record, n), FIELD(aior_ring_record, reserved)},
  poll_fields[] = {FIELD(aior_poll_record, ring), FIELD(aior_poll_record, iocb),
      FIELD(aior_poll_record, data), FIELD(aior_poll_record, flags)},
  iocb_fields[] = {FIELD(iocb, aio_data), FIELD(iocb, aio_lio_opcode), FIELD(iocb, aio_fildes),
      FIELD(iocb, aio_flags), FIELD(iocb, aio_resfd), FIELD(iocb, aio_buf)},
  header_fields[] = {FIELD(aio_ring, id), FIELD(aio_ring, nr), FIELD(aio_ring, head),
      FIELD(aio_ring, tail), FIELD(aio_ring, magic), FIELD(aio_ring, header_length)};

/* Field by field, in the order of `places`. */
static const struct {
	const struct field *fields;
	size_t count, stride, repeats;
} kinds[] = {
    {args_fields, COUNT(args_fields), 0, 1},
    {ring_fields, COUNT(ring_fields), sizeof(struct aior_ring_record), RINGS},
    {poll_fields, COUNT(poll_fields), sizeof(struct aior_poll_record), POLLED},
    {iocb_fields, COUNT(iocb_fields), sizeof(struct iocb), POLLED},
    {args_fields, 0, 0, 1}, /* the capsule is not read */
    {header_fields, COUNT(header_fields), 0, 1},
    {header_fields, COUNT(header_fields), 0, 1},
    {header_fields, COUNT(header_fields), 0, 1},
};

static struct change change_of_field(void)
{
	static const uint8_t powers[] = {[1] = 0, [2] = 1, [4] = 2, [8] = 3};
	size_t kind = random_below(&seed, COUNT(kinds)), at = 0;
	const struct field *field;

	if (random_below(&seed, 3) || !kinds[kind].count)
		kind = random_below(&seed, 2);
	field = &kinds[kind].fields[random_below(&seed, (uint32_t)kinds[kind].count)];
	for (size_t i = 0; i < kind; i++)
		at += places[i].len;
	at += kinds[kind].stride * random_below(&seed, (uint32_t)kinds[kind].repeats) + field->at;
	return (struct change){.at = (uint16_t)at,
	    .size = powers[field->size],
	    .value = field->size == 8 || !random_below(&seed, 4) ? random_value()
								 : random_below(&seed, 40)};
}

static struct change random_change(void)
{
	struct change change = change_of_field();

	if (!random_below(&seed, 6))
		change = (struct change){.at = (uint16_t)random_below(&seed, places_len()),
		    .size = (uint8_t)random_below(&seed, 4),
		    .value = random_value()};
	change.adds = !random_below(&seed, 4);
	if (change.adds && random_below(&seed, 2))
		change.value = (uint64_t)(int64_t)((int)random_below(&seed, 65) - 32);
	return change;
}

static void mutate(struct input *input)
{
	unsigned times = 1 + random_below(&seed, 3);

	while (times--) {
		uint32_t i = random_below(&seed, (uint32_t)input->count);

		switch (random_below(&seed, 6)) {
		case 0:
			input->what ^= (uint8_t)(1u << random_below(&seed, 8));
			break;
		case 1:
			if (input->count)
				input->changes[i] = input->changes[--input->count];
			break;
		case 2:
			if (input->count)
				input->changes[i].value = random_value();
			break;
		default:
			if (input->count < MOST_CHANGES)
				input->changes[input->count++] = random_change();
		}
	}
}

/* ---- all of it ---- */

#define MOST_KEPT 4096

static struct input kept[MOST_KEPT];
static uint64_t answers[MOST_KEPT];
static size_t kept_count;
static unsigned long runs, findings;
static const char *findings_folder = ".";

static int is_new(uint64_t answer)
{
	for (size_t i = 0; i < kept_count; i++)
		if (answers[i] == answer)
			return 0;
	return kept_count < MOST_KEPT;
}

static void keep(const struct input *input)
{
	kept[kept_count] = *input;
	answers[kept_count++] = slot->answer;
}

static void complain(const struct input *input, const char *path)
{
	char text[64];

	findings++;
	snprintf(text, sizeof(text), "blob-%lx-%lu", (unsigned long)seed, findings);
	fprintf(stderr, "broken promise: %s: %s blob: %s\n", path ? path : text,
	    blobs[input->what & IS_STAGE], slot->why);
	if (!path)
		write_input(input, findings_folder, text);
}

static void run_file(const char *path)
{
	struct input input;

	if (read_input(&input, path))
		return;
	runs++;
	if (run(&input))
		complain(&input, path);
	else if (is_new(slot->answer))
		keep(&input);
}

static void run_folder(const char *path)
{
	struct dirent **names;
	int n = scandir(path, &names, NULL, alphasort);
	char file[4096];

	for (int i = 0; i < n; i++) {
		snprintf(file, sizeof(file), "%s/%s", path, names[i]->d_name);
		if (*names[i]->d_name != '.')
			run_file(file);
		free(names[i]);
	}
	free(names);
}

static void fuzz(unsigned seconds, const char *folder)
{
	time_t until = time(NULL) + (time_t)seconds;
	char text[64];

	while (time(NULL) < until) {
		struct input input = {.what = (uint8_t)random_below(&seed, 32)};

		if (kept_count && random_below(&seed, 8))
			input = kept[random_below(&seed, (uint32_t)kept_count)];
		mutate(&input);
		runs++;
		if (run(&input)) {
			complain(&input, NULL);
		} else if (is_new(slot->answer)) {
			keep(&input);
			snprintf(text, sizeof(text), "%016llx", (unsigned long long)slot->answer);
			write_input(&input, folder, text);
		}
	}
}

int main(int argc, char **argv)
{
	static char printed[BUFSIZ]; /* by children, too, who may not ask what standard output is */
	const char *folder = NULL;
	unsigned seconds = 0;
	struct stat status;
	int option;

	while ((option = getopt(argc, argv, "t:s:o:")) != -1) {
		if (option == 't')
			seconds = (unsigned)atoi(optarg);
		else if (option == 's')
			seed = strtoull(optarg, NULL, 0) | 1;
		else if (option == 'o')
			findings_folder = optarg;
		else
			return 2;
	}
	setvbuf(stdout, printed, _IOLBF, sizeof(printed));
	cpus = possible_cpus();
	blob_place(blob_file("restore"));
	blob_load(&stage_blob, blob_file("stage"), 0);
	page = blob.page;
	state_prepare(&was.state);
	state_prepare(&after);
	for (uint32_t i = 0; i < RINGS; i++)
		was.rings[i] = map_guarded(ring_len(i));
	slot_fd = memfd_create("slot", MFD_CLOEXEC);
	if (slot_fd < 0 || ftruncate(slot_fd, (off_t)(2 * page)))
		return 2;
	slot = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, slot_fd, 0);
	if (slot == MAP_FAILED || sizeof(*slot) > page)
		return 2;
	for (int i = optind; i < argc; i++) {
		if (!stat(argv[i], &status) && S_ISDIR(status.st_mode)) {
			folder = folder ? folder : argv[i];
			run_folder(argv[i]);
		} else {
			run_file(argv[i]);
		}
	}
	if (seconds)
		fuzz(seconds, folder ? folder : ".");
	printf("%lu inputs\n", runs);
	printf("# %zu answers: %lu done, %lu done and ended elsewhere, %lu refused, %lu overlap, "
	       "%lu may not be "
	       "touched; %lu findings\n",
	    kept_count, done, elsewhere, refused, overlapping, faults, findings);
	return findings ? 1 : 0;
}
