/* SPDX-License-Identifier: MIT */
/*
 * The stage blob: live rings become plain memory, and nothing that is in flight is lost.
 *
 *	home    ring        memory, empty     memory              memory, final content
 *	aside               ring              ring, drained
 *	pipe    its pages   its pages         its pages
 *	        CHECK, PIN  MOVE              io_destroy of all   read back
 *
 * io_destroy waits for what is in flight, and those events still go into the ring's pages, but it
 * unmaps the ring first: so the pages are kept in a pipe, and read from there. Everything that can
 * fail comes before the first io_destroy, and is undone.
 */
#include <linux/fcntl.h>
#include <linux/sched.h>
#include <linux/wait.h>

#include "blob.h"
#include "drain.h"
#include "eventfd.h"
#include "records.h"

/*
 * Contexts that are destroyed beside each other: each io_destroy waits for grace periods of RCU, and
 * those that wait at once share them.
 */
#define MOST_HELPERS 1023

#define SCRATCH_BYTES 4096

/* include/uapi/linux/fcntl.h has it for libcs only (_GNU_SOURCE). */
#define SPLICE_F_NONBLOCK 2

/* What a pipe may hold without a privilege: fs.pipe-max-size. */
#define PIPE_BYTES 0x100000ul

/* After the point of no return: calls that may be refused, by a filter say, and are made again. */
#define CALL_TRIES 16

/* Iocbs lie together as a rule: so much is read at once. */
#define WINDOW 1024u

/* The caller's scratch memory. */
struct scratch {
	char window[WINDOW]; /* a copy of what lies at and behind an iocb */
	int32_t pipes[];     /* the ends to read from, in the order of what they hold */
};

_Static_assert(sizeof(struct scratch) <= SCRATCH_BYTES / 2, "room for pipes");

/* What is done with all rings before the next thing is done with any. */
enum phase { CHECK, PIN, MOVE, PHASES };

struct work {
	struct aior_args *args;
	struct scratch *scratch;
	unsigned long end;    /* CHECK: where the ring before ends */
	unsigned long bytes;  /* of all rings */
	unsigned long pinned; /* of them, so far */
	unsigned long slots;  /* as many polls may be in flight */
	unsigned long aside;  /* MOVE: where the next ring goes */
	unsigned long area;   /* where all that memory begins; 0: there is none */
	uint32_t moved;       /* rings that are not at home */
	uint32_t pipes;       /* in scratch->pipes */
	uint32_t reading;     /* which of them */
	uint32_t tries;       /* left, for reads */
	unsigned long window; /* address of what scratch->window is a copy of */
	unsigned long copied; /* how much of it */
	int into;             /* the end to write to of the last pipe; -1: it is closed */
};

const struct aior_blob header __attribute__((section(".header"), used)) = {
    .magic = AIOR_BLOB_MAGIC,
    .abi = AIOR_ABI,
    .op = AIOR_OP_STAGE,
    .scratch = SCRATCH_BYTES,
    .flags = 0,
};

/*
 * Whether that is the handle of a context: a submission of nothing looks it up, and does no more
 * (lookup_ioctx(), fs/aio.c).
 */
static int is_handle(unsigned long addr)
{
	return !sys_io_submit((aio_context_t)addr, 0, 0);
}

/* A ring record, and the ring. The header is touched last: in a child's inherited ring it faults. */
static long check(struct work *work, struct aior_ring_record *ring)
{
	unsigned long addr = ring->addr, len = ring->len;
	const struct aio_ring *live = ring_at(addr);
	uint32_t page = work->args->page_size;

	ring->step = AIOR_STEP_RING;
	if (!is_sound(ring, AIOR_RING_LIVE, page, work->end))
		return -EINVAL;
	if (!is_mapped(addr, len, page))
		return -EFAULT;
	if (!is_handle(addr) || aio_ring_check(live, len) != AIO_RING_OK)
		return -EINVAL;
	work->end = addr + len;
	work->bytes += len;
	work->slots += aio_ring_nr((uint32_t)len) - 1;
	ring->head = live->head;
	ring->aside = 0;
	ring->new_len = 0;
	ring->err = 0;
	return 0;
}

/* A pipe as large as it may be, or as what is left for it. Its end to write to is `into`. */
static long open_pipe(struct work *work)
{
	unsigned long left = work->bytes - work->pinned;
	unsigned long room =
	    ((unsigned long)work->args->scratch_len - sizeof(struct scratch)) / sizeof(int32_t);
	int fds[2];
	long err;

	if (work->pipes >= room)
		return -ENOBUFS;
	err = sys_pipe2(fds, O_CLOEXEC);
	if (err)
		return err;
	work->scratch->pipes[work->pipes++] = fds[0];
	work->into = fds[1];
	sys_fcntl(fds[1], F_SETPIPE_SZ, (long)(left < PIPE_BYTES ? left : PIPE_BYTES));
	return 0;
}

static void close_into(struct work *work)
{
	if (work->into >= 0)
		sys_close(work->into);
	work->into = -1;
}

/* Keeps a ring's pages: from here on they are neither freed nor migrated. */
static long pin(struct work *work, struct aior_ring_record *ring)
{
	struct sys_iovec left = {(void *)(unsigned long)ring->addr, (unsigned long)ring->len};

	while (left.len) {
		long n;

		if (work->into < 0) {
			ring->step = AIOR_STEP_PIPE;
			n = open_pipe(work);
			if (n)
				return n;
		}
		ring->step = AIOR_STEP_PIN;
		n = sys_vmsplice(work->into, &left, SPLICE_F_NONBLOCK);
		if (n == -EAGAIN) {
			close_into(work); /* full */
			continue;
		}
		if (n <= 0)
			return n ? n : -EFAULT;
		left.base = (char *)left.base + n;
		left.len -= (unsigned long)n;
		work->pinned += (unsigned long)n;
	}
	return 0;
}

/* Addresses for all rings in one piece, which the moves use up from its start: none splits it. */
static long reserve(struct work *work)
{
	long at = sys_mmap(0, work->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);

	if (is_errno(at))
		return at;
	work->area = work->aside = (unsigned long)at;
	return 0;
}

static long move_ring(unsigned long from, unsigned long len, unsigned long to)
{
	long at = sys_mremap(from, len, MREMAP_MAYMOVE | MREMAP_FIXED, to);

	return (unsigned long)at == to ? 0 : at;
}

/*
 * Has the pages of the memory at home, which the rings are read back into. The contexts are being destroyed
 * meanwhile, and that takes grace periods. No failure is put off by that: a page that cannot be had is no error
 * that anybody is told of, but the end of a process, now or then.
 */
static void touch(const struct aior_args *args)
{
	for (uint32_t i = 0; i < args->ring_count; i++) {
		const struct aior_ring_record *ring = ring_record(args, i);
		unsigned long end = (unsigned long)(ring->addr + ring->len);

		for (unsigned long at = (unsigned long)ring->addr; at < end; at += args->page_size)
			*(volatile uint32_t *)at = 0;
	}
}

/*
 * The ring aside, its handle with it, and memory in its place.
 * (A ring that is more than one mapping moves on some kernels, but then its handle does not follow.)
 */
static long move(struct work *work, struct aior_ring_record *ring)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
	unsigned long aside = work->aside;
	long err;

	ring->step = AIOR_STEP_MOVE;
	err = move_ring(ring->addr, ring->len, aside);
	if (err)
		return err;
	ring->aside = aside;
	work->aside += ring->len;
	work->moved++;
	if (!is_handle(aside))
		return -EINVAL;
	ring->step = AIOR_STEP_MEMORY;
	err = sys_mmap(ring->addr, ring->len, PROT_READ | PROT_WRITE, flags);
	if ((unsigned long)err != ring->addr)
		return err;
	/*
	 * Events in front of this tail are not of the drain. As late as it can be had: a poll that the
	 * program has cancelled itself, right before, may only now give its event.
	 */
	ring->tail = ring_at(aside)->tail;
	return ring->tail < aio_ring_nr((uint32_t)ring->len) ? 0 : -EINVAL;
}

/*
 * After a failure: everything as it was, but for the results. In reverse order, so that there are as
 * many mappings to spare for each move as there were on the way out.
 */
static void undo(struct work *work)
{
	while (work->moved) {
		struct aior_ring_record *ring = ring_record(work->args, --work->moved);
		unsigned long addr = ring->addr, aside = ring->aside;

		sys_munmap(addr, ring->len);
		if (move_ring(aside, ring->len, addr))
			continue; /* the record says where it lies */
		ring->aside = 0;
		if (is_handle(addr))
			continue;
		/*
		 * It was in parts, and the last has become the handle: it goes with the first. (Its
		 * first page is a mapping of its own from now on.)
		 */
		move_ring(addr, work->args->page_size, aside);
		move_ring(aside, work->args->page_size, addr);
	}
	if (work->area)
		sys_munmap(work->area, work->bytes);
}

static void set_state(const struct aior_args *args, uint32_t state)
{
	struct aior_table *capsule = (void *)(unsigned long)args->capsule;

	if (!capsule)
		return;
	capsule->poll_count = args->poll_count;
	/* Whoever looks sees the records first. */
	__atomic_store_n(&capsule->state, state, __ATOMIC_RELEASE);
}

/*
 * Destroys all contexts. The more helpers the faster; where none can be had, or not waited for, this
 * thread does it alone.
 */
static void drain(struct work *work)
{
	const struct aior_args *args = work->args;
	struct drain drain = {
	    .count = args->ring_count,
	    .first = (unsigned long)&ring_record(args, 0)->aside,
	    .stride = args->ring_stride,
	};
	uint32_t most = MOST_HELPERS, helpers = 0;

	if (args->helpers && args->helpers < most)
		most = args->helpers;
	if (sys_wait4(sys_getpid(), WNOHANG | __WALL) != -ECHILD)
		most = 0;
	while (helpers < most && helpers < args->ring_count) {
		long pid = aior_drain(&drain, CLONE_VM | CLONE_FILES | CLONE_FS);

		if (pid < 0)
			break;
		/* There are no more helpers than rings: their pids need no memory of their own. */
		ring_record(args, helpers++)->new_len = (uint64_t)pid;
	}
	touch(args);
	aior_drain(&drain, 0);
	while (helpers--) {
		long pid = (long)ring_record(args, helpers)->new_len;

		while (sys_wait4(pid, __WALL) != pid)
			;
		ring_record(args, helpers)->new_len = 0;
	}
	/* Once more, for whatever was refused. */
	drain.next = 0;
	aior_drain(&drain, 0);
}

/* The next `left` bytes out of the pipes. */
static long read_back(struct work *work, unsigned long to, unsigned long left)
{
	while (left) {
		int fd = work->scratch->pipes[work->reading];
		long n = sys_read(fd, (void *)to, left);

		if (n > 0) {
			to += (unsigned long)n;
			left -= (unsigned long)n;
		} else if (!n && work->reading + 1 < work->pipes) {
			work->reading++;
		} else if (work->tries) {
			work->tries--;
		} else {
			return n ? n : -EIO;
		}
	}
	return 0;
}

/*
 * Reads an iocb, and what lies behind it in the same page, which is as good as touched: the next one
 * costs no system call then.
 */
static int read_near(struct work *work, uint64_t addr, struct iocb *iocb)
{
	unsigned long at = (unsigned long)addr, offset = at - work->window;
	struct sys_iovec to = {work->scratch->window, WINDOW}, from = {(void *)at, WINDOW};

	if (!fits_pointer(addr))
		return 0;
	if (at < work->window || offset + sizeof(*iocb) > work->copied) {
		unsigned long left = work->args->page_size - (at & (work->args->page_size - 1));
		long n;

		if (left < WINDOW)
			from.len = left;
		n = sys_process_vm_readv(sys_getpid(), &to, &from);
		work->window = at;
		work->copied = n < 0 ? 0 : (unsigned long)n;
		offset = 0;
	}
	if (offset + sizeof(*iocb) > work->copied)
		return read_iocb(work->args, addr, iocb);
	copy((unsigned long)iocb, (unsigned long)work->scratch->window + offset, sizeof(*iocb));
	return 1;
}

/*
 * Whether an event that came with the drain says that a poll was cancelled: its result is 0, which
 * no poll that completes has. If its iocb is unchanged and says that it is another kind of request,
 * that is its own result (an fsync's, say). If the iocb is not there any more, or used for something
 * else, nothing can tell. Polls are what stays in flight for so long, so it is taken for one; which
 * cannot be submitted again, and restore reports it.
 */
static int is_cancelled(struct work *work, const struct aio_slot *event)
{
	struct iocb iocb;

	if (event->res || event->res2)
		return 0;
	if (!read_near(work, event->obj, &iocb) || iocb.aio_data != event->data)
		return 1;
	if (iocb.aio_lio_opcode != IOCB_CMD_POLL)
		return 0;
	if (iocb.aio_flags & IOCB_FLAG_RESFD && is_eventfd((int)iocb.aio_resfd, CALL_TRIES))
		eventfd_take_back((int)iocb.aio_resfd, CALL_TRIES);
	return 1;
}

/*
 * Takes the cancelled polls out of the events that came with the drain, and the others together. The
 * tail is what the ring's owner can write to, so no more slots are looked at than the ring has.
 */
static void take_polls(struct work *work, struct aior_ring_record *ring)
{
	struct aio_ring *staged = ring_at(ring->addr);
	struct aio_slot *slots = slots_at(ring->addr);
	uint32_t nr = aio_ring_nr((uint32_t)ring->len);
	uint32_t at = ring->tail, end = staged->tail;

	for (uint32_t left = nr - 1; at != end && left; left--, at = aio_ring_next(at, nr)) {
		struct aio_slot *event = &slots[at], *to = &slots[ring->tail];

		if (is_cancelled(work, event)) {
			struct aior_poll_record *poll =
			    poll_record(work->args, work->args->poll_count++);

			poll->ring = ring->addr;
			poll->iocb = event->obj;
			poll->data = event->data;
			poll->flags = 0;
			poll->err = 0;
			continue;
		}
		if (to != event)
			copy((unsigned long)to, (unsigned long)event, sizeof(*to));
		ring->tail = aio_ring_next(ring->tail, nr);
	}
	staged->tail = ring->tail;
	ring->head = staged->head;
}

/* A drained ring into the memory at its home. */
static long collect(struct work *work, struct aior_ring_record *ring)
{
	long err;

	ring->step = AIOR_STEP_READ;
	err = read_back(work, ring->addr, ring->len);
	if (err)
		return err;
	ring->step = AIOR_STEP_DRAIN;
	if (ring->aside)
		return -EINVAL; /* the kernel has not taken it for the handle that it was */
	take_polls(work, ring);
	ring->staged = ring->addr;
	ring->new_len = ring->len;
	ring->flags = AIOR_RING_DRAINED;
	ring->step = AIOR_STEP_DONE;
	return 0;
}

static long do_phase(struct work *work, enum phase phase, struct aior_ring_record *ring)
{
	switch (phase) {
	case CHECK:
		return check(work, ring);
	case PIN:
		return pin(work, ring);
	default:
		return move(work, ring);
	}
}

static int failed(struct work *work, uint32_t i, long err)
{
	struct aior_ring_record *ring = ring_record(work->args, i);

	ring->err = (uint32_t)-err;
	work->args->ring = i;
	return fail(work->args, ring->step, err);
}

/* All that can fail. What a ring's record names as its step is what did. */
static int prepare(struct work *work)
{
	/* cppcheck-suppress ctuuninitvar ; the caller has set what counts */
	struct aior_args *args = work->args;
	long err;

	for (enum phase phase = CHECK; phase < PHASES; phase++) {
		if (phase == PIN && work->slots > args->poll_room)
			return fail(args, AIOR_STEP_ARGS, -ENOSPC);
		if (phase == MOVE && work->bytes) {
			err = reserve(work);
			if (err)
				return fail(args, AIOR_STEP_MEMORY, err);
		}
		for (uint32_t i = 0; i < args->ring_count; i++) {
			err = do_phase(work, phase, ring_record(args, i));
			if (err)
				return failed(work, i, err);
		}
	}
	close_into(work);
	/* No context has the handle 0: whatever else this says, a filter of system calls does. */
	err = sys_io_destroy(0);
	return err == -EINVAL ? 0 : fail(args, AIOR_STEP_DRAIN, err ? err : -EIO);
}

/* Behind the point of no return. What fails here all the same is reported, and the rest is done. */
static int finish(struct work *work)
{
	struct aior_args *args = work->args;
	int ret = 0;

	args->poll_count = 0;
	set_state(args, AIOR_TABLE_DRAINING);
	drain(work);
	for (uint32_t i = 0; i < args->ring_count; i++) {
		long err = collect(work, ring_record(args, i));

		if (err)
			ret = failed(work, i, err);
		if (args->step == AIOR_STEP_READ)
			break; /* what comes next in the pipes is not known */
	}
	if (ret)
		return ret;
	args->step = AIOR_STEP_DONE;
	set_state(args, AIOR_TABLE_STAGED);
	return 0;
}

static void close_pipes(struct work *work)
{
	close_into(work);
	for (uint32_t i = 0; i < work->pipes; i++)
		sys_close(work->scratch->pipes[i]);
}

static int stage(struct aior_args *args)
{
	struct work work;
	long err = check_tables(args, args->poll_room, SCRATCH_BYTES);

	if (!err && args->capsule & 7)
		err = -EINVAL;
	if (!err && (!fits_pointer(args->capsule) ||
			(args->capsule && !is_mapped((unsigned long)args->capsule,
					      sizeof(struct aior_table), args->page_size))))
		err = -EFAULT;
	if (err)
		return fail(args, AIOR_STEP_ARGS, err);
	/* Field by field: of an initializer, some compilers make a call of memset. */
	work.args = args;
	work.scratch = (void *)(unsigned long)args->scratch;
	work.end = work.bytes = work.pinned = work.slots = work.area = work.copied = 0;
	work.moved = work.pipes = work.reading = 0;
	work.tries = CALL_TRIES;
	work.into = -1;
	err = prepare(&work);
	if (err)
		undo(&work);
	else
		err = finish(&work);
	close_pipes(&work);
	return (int)err;
}

int aior_main(struct aior_args *args, int jumped)
{
	return blob_run(args, jumped, header.flags, stage);
}
