/* SPDX-License-Identifier: MIT */
/*
 * The restore blob: staged memory becomes live rings.
 *
 * New contexts are made, advanced and filled at whatever addresses the kernel gives them; until all
 * of them are ready nothing of the program's is touched. Only then does each ring move onto its
 * address. A failure on the way destroys what was made and leaves the staged memory as it was.
 */
#include "blob.h"
#include "eventfd.h"
#include "records.h"

#define POLLNVAL 0x20

/* 8192 CPUs, the most that any kernel is built for. */
#define CPU_WORDS (8192 / (8 * sizeof(long)))

#define SCRATCH_BYTES 4096

/* struct aior_poll_record, flags, only while at work: its eventfd has been or will be raised. */
#define POLL_RAISES 0x80000000u

/* The caller's scratch memory. */
struct scratch {
	struct iocb null_read;         /* a read of zero bytes: completes inside io_submit */
	unsigned long cpus[CPU_WORDS]; /* where the thread may run, put back at the end */
	unsigned long mask[CPU_WORDS];
	struct iocb *batch[]; /* pointers to the one iocb above */
};

_Static_assert(sizeof(struct scratch) <= SCRATCH_BYTES / 2 + 256, "room for a batch");

/* What is done with all rings before the next thing is done with any. */
enum phase { CHECK, RESERVE, CREATE, POLL, PROTECT, MOVE, PHASES };

struct work {
	struct aior_args *args;
	struct scratch *scratch;
	uint32_t batch;        /* room for pointers in scratch->batch */
	uint32_t pointers;     /* how many are there */
	uint32_t done[PHASES]; /* how many rings are through with each phase */
	uint32_t polls;        /* how many polls are through with this one */
	unsigned long end;     /* CHECK: where the ring before ends */
	long cpu_bytes;        /* of scratch->cpus; 0: the thread was not pinned */
	int fd;                /* of our own; -1: there is none */
};

const struct aior_blob header __attribute__((section(".header"), used)) = {
    .magic = AIOR_BLOB_MAGIC,
    .abi = AIOR_ABI,
    .op = AIOR_OP_RESTORE,
    .scratch = SCRATCH_BYTES,
    .flags = AIOR_F_COMPACT,
};

static inline int is_in_place(const struct aior_ring_record *ring)
{
	return ring->staged == ring->addr;
}

/* The next poll of that ring, in this phase; NULL when there is none left. */
static struct aior_poll_record *next_poll(struct work *work, const struct aior_ring_record *ring)
{
	struct aior_poll_record *poll = poll_record(work->args, work->polls);

	if (work->polls == work->args->poll_count || poll->ring != ring->addr)
		return 0;
	work->polls++;
	return poll;
}

/* A ring record and the staged content that it names. */
static long check(struct work *work, struct aior_ring_record *ring)
{
	unsigned long addr = ring->addr, len = ring->len, at = ring->staged;
	uint32_t page = work->args->page_size;
	const struct aio_ring *staged = ring_at(at);
	struct aior_poll_record *poll;

	ring->step = AIOR_STEP_RING;
	if (!is_sound(ring, AIOR_RING_DRAINED, page, work->end) || at & 7)
		return -EINVAL;
	if (at != addr && at < addr + len && addr < at + len)
		return -EINVAL;
	if (!fits_pointer(ring->staged) || !is_mapped(at, len, page))
		return -EFAULT;
	if (aio_ring_check(staged, len) != AIO_RING_OK)
		return -EINVAL;
	work->end = addr + len;
	ring->head = staged->head;
	ring->tail = staged->tail;
	ring->aside = 0;
	ring->new_len = 0;
	ring->err = 0;
	while ((poll = next_poll(work, ring))) {
		poll->flags = 0;
		poll->err = 0;
	}
	return 0;
}

/*
 * Keeps the destination of a ring that is staged elsewhere, so that no new ring, and nothing else,
 * can come to lie there. Kernels before 4.17 take MAP_FIXED_NOREPLACE for a hint.
 */
static long reserve(struct aior_ring_record *ring)
{
	long at;

	if (is_in_place(ring))
		return 0;
	ring->step = AIOR_STEP_RESERVE;
	at = sys_mmap(ring->addr, ring->len, PROT_NONE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE);
	if (is_errno(at))
		return at;
	if ((unsigned long)at == ring->addr)
		return 0;
	sys_munmap((unsigned long)at, ring->len);
	return -EEXIST;
}

/*
 * Makes ready what the advance needs: the one iocb, pointers to it, a descriptor to read. An eventfd is made and closed
 * in less time than a pipe; a read of zero bytes from one ends with an error (eventfd_read, fs/eventfd.c), and completes
 * by that: nobody sees its result.
 */
static long prepare(struct work *work)
{
	struct aior_args *args = work->args;
	struct scratch *scratch = work->scratch;
	struct iocb *null_read = &scratch->null_read;
	unsigned long room =
	    ((unsigned long)args->scratch_len - sizeof(*scratch)) / sizeof(struct iocb *);
	unsigned long *words = (unsigned long *)null_read;
	int fd = args->fd;

	for (unsigned i = 0; i < sizeof(*null_read) / sizeof(*words); i++)
		words[i] = 0;
	if (fd < 0) {
		fd = (int)sys_eventfd2(0, O_CLOEXEC);
		if (fd < 0)
			return fd;
		work->fd = fd;
	}
	null_read->aio_lio_opcode = IOCB_CMD_PREAD;
	null_read->aio_fildes = (uint32_t)fd;
	work->batch = room > SCRATCH_BYTES ? SCRATCH_BYTES : (uint32_t)room;
	scratch->batch[0] = null_read;
	work->pointers = 1;
	return 0;
}

/*
 * Stays on the CPU that the thread is on, for all rings from here on: a context hands its slots to CPUs in
 * batches, and those that were left on another CPU cannot be had from here. Where the thread may
 * not be pinned, it goes on unpinned, and a ring that needs its very last slots may be refused.
 */
static void pin(struct work *work)
{
	struct scratch *scratch = work->scratch;
	const unsigned bits = 8 * sizeof(long);
	unsigned cpu;
	long bytes;

	bytes = sys_sched_getaffinity(sizeof(scratch->cpus), scratch->cpus);
	if (bytes <= 0 || sys_getcpu(&cpu) || cpu / bits >= CPU_WORDS)
		return;
	for (unsigned i = 0; i < CPU_WORDS; i++)
		scratch->mask[i] = 0;
	scratch->mask[cpu / bits] = 1ul << cpu % bits;
	if (!sys_sched_setaffinity((unsigned long)bytes, scratch->mask))
		work->cpu_bytes = bytes;
}

/*
 * Puts the affinity back. A thread that never asked for one follows its cpuset when that grows, and
 * so it does again if "all CPUs" gives what it had; otherwise it gets what it had by name.
 */
static void unpin(struct work *work)
{
	struct scratch *scratch = work->scratch;
	unsigned long bytes = (unsigned long)work->cpu_bytes;
	unsigned long differs = 0;

	if (!bytes)
		return;
	for (unsigned i = 0; i < CPU_WORDS; i++)
		scratch->mask[i] = ~0ul;
	sys_sched_setaffinity(bytes, scratch->mask);
	sys_sched_getaffinity(bytes, scratch->mask);
	for (unsigned i = 0; i < bytes / sizeof(long); i++)
		differs |= scratch->mask[i] ^ scratch->cpus[i];
	if (differs)
		sys_sched_setaffinity(bytes, scratch->cpus);
	work->cpu_bytes = 0;
}

/*
 * Completes requests in the new ring until the kernel's tail is the saved one. The head moves along
 * and gives slots back, but never past the saved head: the kernel must count each pending event, or
 * it would overwrite it later.
 */
static long advance(struct work *work, struct aior_ring_record *ring)
{
	volatile struct aio_ring *fresh = ring_at(ring->aside);
	uint32_t left = aio_ring_completions(ring->head, ring->tail, fresh->nr);
	uint32_t done = 0;

	if (aio_ring_may_lack(
		aio_ring_pending(ring->head, ring->tail, fresh->nr) + work->args->poll_count,
		fresh->nr) &&
	    !work->cpu_bytes)
		pin(work);
	while (left) {
		long n = left < work->batch ? left : work->batch;
		uint32_t head;

		while (work->pointers < (uint32_t)n)
			work->scratch->batch[work->pointers++] = &work->scratch->null_read;
		n = sys_io_submit((aio_context_t)ring->aside, n, work->scratch->batch);
		if (n < 0)
			return n;
		if (!n)
			return -EAGAIN;
		done += (uint32_t)n;
		left -= (uint32_t)n;
		head = done < ring->head ? done : ring->head;
		fresh->head = head;
	}
	return fresh->tail == ring->tail ? 0 : -EIO;
}

/*
 * The content of the new ring. All but the first four fields: id, nr and tail are the kernel's in the
 * new ring (it looks a context up by the id that it reads there), and the head stands already. Where
 * another slot is the first one now, the pending events, and what lies behind them is nobody's.
 */
static void fill(const struct aior_ring_record *ring, uint32_t head)
{
	const uint32_t skipped = offsetof(struct aio_ring, magic);
	unsigned long to = ring->aside, from = ring->staged;
	uint32_t piece;

	if (head == ring->head) {
		copy(to + skipped, from + skipped, ring->len - skipped);
		return;
	}
	to += AIO_RING_HEADER;
	from += AIO_RING_HEADER;
	piece = AIO_RING_SLOT * aio_ring_first_piece(head, ring->tail, ring_at(ring->aside)->nr);
	copy(to, from + AIO_RING_SLOT * (unsigned long)head, piece);
	copy(to + piece, from, AIO_RING_SLOT * ring->tail - piece);
}

static long create(struct work *work, struct aior_ring_record *ring)
{
	aio_context_t ctx = 0;
	uint32_t first;
	long err;

	for (;;) {
		ring->step = AIOR_STEP_SETUP;
		err = sys_io_setup(
		    ring->n ? ring->n
			    : aio_ring_smallest_n((uint32_t)ring->len, work->args->page_size),
		    &ctx);
		if (err)
			return err;
		ring->aside = ctx;
		ring->step = AIOR_STEP_SIZE;
		if (ring_at(ctx)->nr == aio_ring_nr((uint32_t)ring->len))
			break;
		if (!ring->n)
			return -ERANGE;
		/* Whoever has said so was wrong about this host's CPUs. */
		ring->n = 0;
		sys_io_destroy(ctx);
		ring->aside = ctx = 0;
	}
	ring->step = AIOR_STEP_ADVANCE;
	first = ring->head;
	if (work->args->flags & AIOR_F_COMPACT) {
		ring->tail = aio_ring_pending(first, ring->tail, ring_at(ctx)->nr);
		ring->head = 0;
	}
	err = advance(work, ring);
	if (!err)
		fill(ring, first);
	return err;
}

/* Whether the iocb that a poll record names still is that poll's. */
static int is_poll(const struct aior_poll_record *poll, const struct iocb *iocb)
{
	return iocb->aio_lio_opcode == IOCB_CMD_POLL && iocb->aio_data == poll->data;
}

/*
 * Delivers a poll that cannot be submitted again as an event with res POLLNVAL: one more request
 * completes, and its event is made the poll's. It raises the poll's eventfd, if the iocb (NULL: what it names is not the
 * poll's) says one, and that is still there.
 * Polls submitted before may complete meanwhile, so the event need not be where the tail was.
 */
static long lose_poll(struct work *work, struct aior_ring_record *ring,
    struct aior_poll_record *poll, const struct iocb *iocb, long why)
{
	volatile struct aio_ring *fresh = ring_at(ring->aside);
	struct iocb *null_read = &work->scratch->null_read;
	uint32_t at = fresh->tail;
	struct aio_slot *slot;
	long n = -EBADF;

	if (iocb && iocb->aio_flags & IOCB_FLAG_RESFD) {
		null_read->aio_flags = IOCB_FLAG_RESFD;
		null_read->aio_resfd = iocb->aio_resfd;
		n = sys_io_submit((aio_context_t)ring->aside, 1, work->scratch->batch);
		null_read->aio_flags = 0;
		if (n == 1)
			poll->flags = POLL_RAISES;
	}
	if (n == -EBADF || n == -EINVAL)
		n = sys_io_submit((aio_context_t)ring->aside, 1, work->scratch->batch);
	if (n != 1)
		return n ? n : -EAGAIN;
	while ((slot = slots_at(ring->aside) + at)->obj != (unsigned long)null_read)
		at = aio_ring_next(at, fresh->nr);
	slot->data = poll->data;
	slot->obj = poll->iocb;
	slot->res = POLLNVAL;
	slot->res2 = 0;
	poll->flags |= AIOR_POLL_LOST;
	poll->err = (uint32_t)-why;
	work->args->polls_lost++;
	return 0;
}

/* A descriptor, or an eventfd, that the program has closed may have its number taken by our own. */
static inline int has_own(const struct work *work, const struct iocb *iocb)
{
	uint32_t fd = (uint32_t)work->fd;

	return iocb->aio_fildes == fd ||
	       (iocb->aio_flags & IOCB_FLAG_RESFD && iocb->aio_resfd == fd);
}

static long submit_poll(
    struct work *work, struct aior_ring_record *ring, struct aior_poll_record *poll)
{
	struct iocb *again = (struct iocb *)(unsigned long)poll->iocb;
	const struct iocb *known = 0;
	struct iocb iocb;
	long n = -EFAULT;

	if (read_iocb(work->args, poll->iocb, &iocb)) {
		n = -ESTALE;
		if (is_poll(poll, &iocb)) {
			known = &iocb;
			n = -EBADF;
		}
	}
	if (known && !has_own(work, known)) {
		n = sys_io_submit((aio_context_t)ring->aside, 1, &again);
		if (n == 1) {
			if (iocb.aio_flags & IOCB_FLAG_RESFD)
				poll->flags = POLL_RAISES;
			return 0;
		}
		if (!n || n == -EAGAIN || n == -ENOMEM)
			return n ? n : -EAGAIN;
	}
	return lose_poll(work, ring, poll, known, n);
}

static long submit_polls(struct work *work, struct aior_ring_record *ring)
{
	struct aior_poll_record *poll;
	long err = 0;

	ring->step = AIOR_STEP_POLL;
	while (!err && (poll = next_poll(work, ring)))
		err = submit_poll(work, ring, poll);
	return err;
}

/* A ring that its owner had protected; before the move, while it can still be refused. */
static long protect(struct aior_ring_record *ring)
{
	ring->step = AIOR_STEP_PROTECT;
	if (!ring->prot || ring->prot == (PROT_READ | PROT_WRITE))
		return 0;
	return sys_mprotect(ring->aside, ring->len, (int)ring->prot);
}

/*
 * A ring onto its address: its handle goes with it (aio_ring_mremap, fs/aio.c). A move that would
 * split a mapping when none is to spare fails with ENOMEM, and then the destination is untouched
 * (mremap_to, mm/mremap.c).
 */
static long move(struct aior_ring_record *ring)
{
	long at;

	ring->step = AIOR_STEP_MOVE;
	if (is_in_place(ring))
		ring->new_len = ring_at(ring->addr)->id; /* kept for stage_again() */
	at = sys_mremap(ring->aside, ring->len, MREMAP_MAYMOVE | MREMAP_FIXED, ring->addr);
	return (unsigned long)at == ring->addr ? 0 : at;
}

/*
 * A poll of a ring that is gone: completed in it, or cancelled with it, it raised its eventfd once,
 * for nothing, since it stays in its record. In a ring that had to stay live it did so rightly.
 */
static void forget_poll(
    struct work *work, const struct aior_ring_record *ring, struct aior_poll_record *poll)
{
	struct iocb iocb;

	if (!(ring->flags & AIOR_RING_LIVE) && poll->flags & POLL_RAISES &&
	    read_iocb(work->args, poll->iocb, &iocb))
		eventfd_take_back((int)iocb.aio_resfd, 1);
	poll->flags = 0;
	poll->err = 0;
}

/*
 * Stages a ring again that is at its address already: its content is saved elsewhere, with the old
 * id and without the polls that have completed in it, the context destroyed, and memory with that
 * content put in its place. mremap wants six mappings to spare where this needs one, so it succeeds
 * after mremap has failed. If memory is so short that even this is refused, the record tells: the
 * ring stays live, or its content stays staged elsewhere.
 */
static void stage_again(struct aior_ring_record *ring)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	long saved = sys_mmap(0, ring->len, PROT_READ | PROT_WRITE, flags), at;

	if (is_errno(saved)) {
		ring->flags = AIOR_RING_LIVE;
		return;
	}
	copy((unsigned long)saved, ring->addr, ring->len);
	ring_at((unsigned long)saved)->id = (uint32_t)ring->new_len;
	ring_at((unsigned long)saved)->tail = ring->tail;
	sys_io_destroy((aio_context_t)ring->addr);
	at = sys_mmap(ring->addr, ring->len, PROT_READ | PROT_WRITE, flags | MAP_FIXED);
	if ((unsigned long)at != ring->addr) {
		ring->staged = (unsigned long)saved;
		return;
	}
	copy(ring->addr, (unsigned long)saved, ring->len);
	sys_munmap((unsigned long)saved, ring->len);
}

/* After a failure: everything as it was, but for the results. */
static void undo(struct work *work)
{
	struct aior_args *args = work->args;

	work->polls = 0;
	for (uint32_t i = 0; i < work->done[RESERVE]; i++) {
		struct aior_ring_record *ring = ring_record(args, i);
		int has_moved = i < work->done[MOVE];
		unsigned long at = has_moved ? ring->addr : ring->aside;
		struct aior_poll_record *poll;

		/* The kernel looks a context up by what it reads in its ring. */
		if (i < work->done[PROTECT])
			sys_mprotect(at, ring->len, PROT_READ | PROT_WRITE);
		if (has_moved && is_in_place(ring))
			stage_again(ring);
		else if (at)
			sys_io_destroy((aio_context_t)at);
		if (!has_moved && !is_in_place(ring))
			sys_munmap(ring->addr, ring->len);
		ring->aside = 0;
		ring->new_len = 0;
		while ((poll = next_poll(work, ring)))
			forget_poll(work, ring, poll);
	}
	args->polls_lost = 0;
}

static void done(struct aior_args *args)
{
	for (uint32_t i = 0; i < args->ring_count; i++) {
		struct aior_ring_record *ring = ring_record(args, i);

		ring->aside = 0;
		ring->new_len = ring->len;
		ring->flags = AIOR_RING_LIVE;
		ring->step = AIOR_STEP_DONE;
	}
	for (uint32_t p = 0; p < args->poll_count; p++)
		poll_record(args, p)->flags &= AIOR_POLL_LOST;
	args->step = AIOR_STEP_DONE;
}

static long do_phase(struct work *work, enum phase phase, struct aior_ring_record *ring)
{
	switch (phase) {
	case CHECK:
		return check(work, ring);
	case RESERVE:
		return reserve(ring);
	case CREATE:
		return create(work, ring);
	case POLL:
		return submit_polls(work, ring);
	case PROTECT:
		return protect(ring);
	default:
		return move(ring);
	}
}

/* All phases, each for all rings. What a ring's record names as its step is what failed. */
static int do_all(struct work *work)
{
	/* cppcheck-suppress ctuuninitvar ; the caller has set what counts */
	struct aior_args *args = work->args;

	for (enum phase phase = CHECK; phase < PHASES; phase++) {
		work->polls = 0;
		for (uint32_t i = 0; i < args->ring_count; i++) {
			struct aior_ring_record *ring = ring_record(args, i);
			long err = do_phase(work, phase, ring);

			if (err) {
				ring->err = (uint32_t)-err;
				args->ring = i;
				return fail(args, ring->step, err);
			}
			work->done[phase]++;
		}
		if (phase == CHECK && work->polls < args->poll_count)
			return fail(args, AIOR_STEP_ARGS, -EINVAL);
		if (phase == RESERVE) {
			long err = prepare(work);

			if (err)
				return fail(args, AIOR_STEP_PIPE, err);
		}
	}
	return 0;
}

static int restore(struct aior_args *args)
{
	struct work work;
	long err = check_tables(args, args->poll_count, SCRATCH_BYTES);

	if (err)
		return fail(args, AIOR_STEP_ARGS, err);
	/* Field by field: of an initializer, some compilers make a call of memset. */
	work.args = args;
	work.scratch = (void *)(unsigned long)args->scratch;
	for (enum phase phase = CHECK; phase < PHASES; phase++)
		work.done[phase] = 0;
	work.end = 0;
	work.cpu_bytes = 0;
	work.fd = -1;
	err = do_all(&work);
	if (err)
		undo(&work);
	else
		done(args);
	unpin(&work);
	if (work.fd >= 0)
		sys_close(work.fd);
	return (int)err;
}

int aior_main(struct aior_args *args, int jumped)
{
	return blob_run(args, jumped, header.flags, restore);
}
