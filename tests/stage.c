/* SPDX-License-Identifier: MIT */
/*
 * The stage blob, when all goes well: live rings become plain memory with the same content, nothing
 * that is in flight is lost or comes twice, and nothing else changes. (When something fails:
 * stage-faults.c.)
 */
#include <grp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "stage.h"

/* ---- nothing in flight ---- */

static void test_one(void)
{
	const char *why;

	set_up_stage(16 << 20);
	make_live(0, smallest_len(), 100, 40);
	why = there_and_back(1);
	ok(!why, "one ring, wrapped: %s", or_so(why));
	make_live(1, smallest_len() + page, 3, 0);
	make_live(2, smallest_len() + 4 * (uint64_t)page, 0, 77);
	memmove(rings, rings + 1, 2 * sizeof(*rings));
	memmove(was, was + 1, 2 * sizeof(*was));
	why = there_and_back(2);
	ok(!why, "two rings of different sizes: %s", or_so(why));
}

/* Every position of head and tail, in rings of two sizes: a hundred rings in one call. */
static void test_positions(void)
{
	uint32_t count = 0;
	const char *why;

	set_up_stage(64 << 20);
	for (uint32_t pages = 0; pages < effort(2); pages++) {
		uint64_t len = smallest_len() + pages * (uint64_t)page;
		uint32_t nr = aio_ring_nr((uint32_t)len), usable = aio_ring_usable(nr, cpus);
		const uint32_t heads[] = {0, 1, 2, nr / 3, nr / 2, nr - 2, nr - 1};
		const uint32_t pendings[] = {0, 1, 2, nr / 4, nr / 2, usable - 1, usable};

		for (size_t h = 0; h < COUNT(heads); h++)
			for (size_t p = 0; p < COUNT(pendings); p++)
				make_live(count++, len, heads[h], pendings[p]);
		/* The last slot filled: the tail is 0. */
		make_live(count++, len, nr - 3, 3);
	}
	why = there_and_back(count);
	ok(!why, "%u rings in one call, full, empty and wrapped: %s", count, or_so(why));
}

/* Small ones share a pipe, large ones take several. */
static void test_sizes(void)
{
	const uint32_t sizes[] = {1, 64, 65, 500, 1000, 4095, 1, 10000, 3};
	const char *why;

	set_up_stage(64 << 20);
	for (uint32_t i = 0; i < COUNT(sizes); i++) {
		uint64_t len = aio_ring_len(sizes[i], cpus, page);
		uint32_t nr = aio_ring_nr((uint32_t)len);

		make_live(i, len, nr - 3, aio_ring_usable(nr, cpus));
	}
	why = there_and_back(COUNT(sizes));
	ok(!why, "sizes from io_setup(1) to io_setup(10000), all full: %s", or_so(why));
}

static void test_large(void)
{
	const int n = 30014; /* of 60,031 slots, with pages of 4 KiB: 1.9 MB */
	uint64_t len = aio_ring_len(n, cpus, page);
	uint32_t nr = aio_ring_nr((uint32_t)len);
	const char *why;

	if (aio_max_nr() - aio_nr() < n + 1000) {
		skip("a large ring", "fs.aio-max-nr leaves %ld", aio_max_nr() - aio_nr());
		return;
	}
	set_up_stage(64 << 20);
	make_live(0, smallest_len(), 5, 6);
	make_live(1, len, nr / 2, aio_ring_usable(nr, cpus));
	make_live(2, smallest_len(), 120, 10);
	why = there_and_back(3);
	ok(!why, "a ring of %u slots, full and wrapped, between small ones: %s", nr, or_so(why));
}

static void test_nothing_to_do(void)
{
	struct aior_args args;
	const char *why;

	set_up_stage(1 << 20);
	args = stage_args(0);
	why = call_stage(&args);
	ok(!why && !args.poll_count, "no rings: %s", why ? why : "success, nothing changed");
	args.rings = args.polls = 8;
	why = call_stage(&args);
	ok(!why, "no rings, at an address not mapped: %s", why ? why : "success");
}

/* It may lie at any 16-byte aligned address, also across the end of a page. */
static void test_anywhere(void)
{
	const size_t offsets[] = {16, 48, 2064, 4080};

	set_up_stage(16 << 20);
	for (size_t i = 0; i < COUNT(offsets); i++) {
		const char *why;

		blob_load(&stage_blob, blob_file("stage"), offsets[i]);
		make_live(0, smallest_len(), 120, 20);
		make_live(1, smallest_len() + page, 5, 100);
		why = there_and_back(2);
		ok(!why, "a blob %zu bytes into a page: %s", offsets[i], or_so(why));
	}
}

/* Records and polls may be farther apart than they are long; masks and affinities are the caller's. */
static void test_surroundings(void)
{
	struct wide {
		struct aior_ring_record ring;
		uint64_t more[3];
	} * wide;
	struct aior_args args;
	sigset_t mask;
	const char *why;

	set_up_stage(16 << 20);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigaddset(&mask, SIGRTMAX);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	wide = map_guarded(2 * sizeof(*wide));
	for (uint32_t i = 0; i < 2; i++) {
		make_live(i, smallest_len(), 9, 3);
		wide[i] = (struct wide){rings[i], {1, 2, 3}};
	}
	args = stage_args(2);
	args.rings = (uintptr_t)wide;
	args.ring_stride = sizeof(*wide);
	why = call_stage(&args);
	for (uint32_t i = 0; i < 2 && !why; i++) {
		rings[i] = wide[i].ring;
		why = why_not_staged(i);
		if (wide[i].more[0] != 1 || wide[i].more[2] != 3)
			why = "what lies behind a record";
	}
	ok(!why, "records of a later version, with a signal mask of its own: %s", or_so(why));
}

/* ---- where rings lie ---- */

static void test_adjacent(void)
{
	uint64_t len = smallest_len();
	const char *why;
	char *at;

	set_up_stage(16 << 20);
	at = arena_take(4 * len);
	for (uint32_t i = 0; i < 4; i++)
		make_live_at(at + i * len, i, len, 30 * i, 20 * i);
	why = there_and_back(4);
	ok(!why, "rings beside each other: %s", or_so(why));
}

/* What it is staged in merges with the memory around it, and restore takes it out again. */
static void test_neighbours(void)
{
	unsigned rounds = effort(50), round;
	uint64_t len = smallest_len();
	const char *why = NULL;
	char *at;

	set_up_stage(16 << 20);
	at = arena_take(5 * len);
	map_at(at, 5 * len, PROT_READ | PROT_WRITE);
	memset(at, 0x5a, 5 * len);
	make_live_at(at + len, 0, len, 100, 0);
	make_live_at(at + 3 * len, 1, len, 50, 0);
	for (round = 0; round < rounds && !why; round++) {
		struct aior_args args = stage_args(2), restored;

		note(0);
		note(1);
		state_take(&before);
		if (call(&stage_blob, &args))
			why = "the results";
		for (uint32_t i = 0; i < 2 && !why; i++)
			why = why_not_staged(i);
		restored = blob_args(rings, 2, NULL, 0);
		if (!why && call(&blob, &restored))
			why = "restore's results";
		state_take(&after);
		/* All of the maps, rings too; but each has another inode now. */
		if (!why)
			why = state_differs(&before, &after, rings, 2);
		for (uint32_t i = 0; i < 2 && !why; i++)
			why = why_not_live(&rings[i], &was[i], &restored, silent[0]);
	}
	for (uint64_t i = 0; i < 5 * len; i++)
		if (i / len % 2 == 0 && at[i] != 0x5a)
			why = "the memory beside it";
	ok(!why, "rings in the middle of other memory, %u rounds: %s", round, or_so(why));
}

/* Its handle has been elsewhere before; make_live_at() moves each ring. Here, back and forth. */
static void test_moved(void)
{
	uint64_t len = smallest_len() + page;
	const char *why;
	char *at[2];

	set_up_stage(16 << 20);
	for (int i = 0; i < 2; i++)
		at[i] = arena_take(len);
	make_live_at(at[0], 0, len, 44, 55);
	for (int i = 1; i < 6; i++)
		if (mremap(at[!(i & 1)], len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at[i & 1]) !=
		    at[i & 1])
			abort();
	rings[0].addr = (uintptr_t)at[1];
	why = there_and_back(1);
	ok(!why, "a ring that its program has moved: %s", or_so(why));
}

static void test_read_only(void)
{
	struct aior_args args, restored;
	struct aio_slot event;
	const char *why;

	set_up_stage(16 << 20);
	make_live(0, smallest_len() + page, 7, 1);
	rings[0].prot = PROT_READ;
	if (mprotect(ring_of(rings[0].addr), rings[0].len, PROT_READ))
		abort();
	args = stage_args(1);
	why = call_stage(&args);
	if (!why)
		why = why_not_staged(0);
	ok(!why, "a read-only ring is staged into memory that can be written: %s", or_so(why));
	why = call_restore(&args, &restored);
	ok(!why && io_getevents(rings[0].addr, 1, &event) == 1 && works(rings[0].addr),
	    "... and restored: %s", or_so(why));
	ok(mprotect(ring_of(rings[0].addr), rings[0].len, PROT_READ | PROT_WRITE) == 0 &&
		mapped_len(rings[0].addr) == rings[0].len,
	    "... in one mapping");
}

/* ---- polls ---- */

#define POLLS 12

static int pipes[POLLS][2], event_fds[POLLS];

/* Half of them have eventfds, of which some are semaphores; these count 0, 1, 2 ... before. */
static void submit_polls(aio_context_t ctx)
{
	for (unsigned i = 0; i < POLLS; i++) {
		new_pipe(pipes[i]);
		event_fds[i] = eventfd(i, EFD_CLOEXEC | EFD_NONBLOCK | (i & 2 ? EFD_SEMAPHORE : 0));
		must_submit(ctx, poll_iocb(i, pipes[i][0], i & 1 ? event_fds[i] : -1));
	}
}

/* Puts back what it reads. */
static int count_differs(unsigned i, unsigned expected)
{
	uint64_t count = take_count(event_fds[i]);

	if (count != expected)
		diag("eventfd %u counts %llu, not %u", i, (unsigned long long)count, expected);
	if (count && write(event_fds[i], &count, sizeof(count)) != sizeof(count))
		abort();
	return count != expected;
}

static unsigned counts_differ(unsigned more)
{
	unsigned wrong = 0;

	for (unsigned i = 0; i < POLLS; i++)
		wrong += count_differs(i, i & 1 ? i + more : i);
	return wrong;
}

static void test_polls(void)
{
	struct aior_args args, restored;
	unsigned wrong = 0;
	const char *why;

	set_up_stage(16 << 20);
	set_up_flight();
	make_live(0, smallest_len(), 120, 10);
	submit_polls(rings[0].addr);
	args = stage_args(1);
	why = call_stage(&args);
	if (!why)
		why = why_not_plain(0);
	ok(!why && args.poll_count == POLLS, "%d polls in flight: %s, %u remembered", POLLS,
	    why ? why : "staged", args.poll_count);
	ok(rings[0].tail == was[0].tail && rings[0].head == was[0].head,
	    "polls: the pending events are as before, and no more");
	for (unsigned i = 0; i < POLLS; i++)
		wrong += polls[i].ring != rings[0].addr || polls[i].flags || polls[i].err ||
			 polls[i].data - DATA >= POLLS ||
			 polls[i].iocb != (uintptr_t)&flight.iocbs[polls[i].data - DATA];
	ok(!wrong, "polls: each record names the ring, the iocb and its data");
	ok(!counts_differ(0), "polls: no eventfd has been raised");
	why = call_restore(&args, &restored);
	ok(!why && !restored.polls_lost && ring_of(rings[0].addr)->tail == was[0].tail,
	    "polls: %s, none has fired", why ? why : "restored");
	ring_of(rings[0].addr)->head = was[0].tail;
	for (unsigned i = 0; i < POLLS; i++)
		fire(pipes[i]);
	ok(reap_until(rings[0].addr, POLLS) && have_fired(0, POLLS), "polls: each fires, once");
	ok(!counts_differ(1), "polls: and raises its eventfd, once");
	ok(works(rings[0].addr), "polls: nothing else comes");
}

/* Staged and restored again and again, with the same polls in flight. */
static void test_polls_again(void)
{
	unsigned rounds = effort(20), round;
	const char *why = NULL;

	set_up_stage(16 << 20);
	set_up_flight();
	make_live(0, smallest_len(), 120, 0);
	make_live(1, smallest_len(), 3, 0);
	submit_polls(rings[0].addr);
	for (round = 0; round < rounds && !why; round++) {
		struct aior_args args = stage_args(2), restored;

		why = call_stage(&args);
		if (!why && args.poll_count != POLLS)
			why = "the number of polls";
		if (!why)
			why = call_restore(&args, &restored);
	}
	for (unsigned i = 0; i < POLLS; i++)
		fire(pipes[i]);
	ok(!why && reap_until(rings[0].addr, POLLS) && have_fired(0, POLLS) && !counts_differ(1),
	    "polls that are staged %u times fire once: %s", round, or_so(why));
	ok(works(rings[1].addr), "... in their own ring");
}

/* Two that share an iocb: the same poll twice; and one whose iocb is another poll's by now. */
static void test_polls_shared(void)
{
	struct aior_args args, restored;
	struct aio_slot events[8];
	struct iocb *iocb, *reused;
	const char *why;
	int fds[3][2], lost = 0;

	set_up_stage(16 << 20);
	set_up_flight();
	make_live(0, smallest_len(), 0, 0);
	for (int i = 0; i < 3; i++)
		new_pipe(fds[i]);
	iocb = poll_iocb(0, fds[0][0], -1);
	must_submit(rings[0].addr, iocb);
	must_submit(rings[0].addr, iocb);
	reused = poll_iocb(1, fds[1][0], -1);
	must_submit(rings[0].addr, reused);
	iocb_poll(reused, fds[2][0], POLLIN, DATA + 2);
	must_submit(rings[0].addr, reused);
	args = stage_args(1);
	why = call_stage(&args);
	ok(!why && args.poll_count == 4, "polls that share iocbs: %s, %u remembered", or_so(why),
	    args.poll_count);
	why = call_restore(&args, &restored);
	for (unsigned i = 0; i < 4; i++)
		if (polls[i].flags == AIOR_POLL_LOST && polls[i].err == ESTALE &&
		    polls[i].data == DATA + 1)
			lost++;
	ok(!why && restored.polls_lost == 1 && lost == 1,
	    "... the one whose iocb another has is lost, and said to be: %s", or_so(why));
	ok(io_getevents(rings[0].addr, 8, events) == 1 && events[0].data == DATA + 1 &&
		events[0].res == POLLNVAL && events[0].obj == (uintptr_t)reused,
	    "... its event says POLLNVAL");
	fire(fds[0]);
	fire(fds[1]);
	fire(fds[2]);
	reap_until(rings[0].addr, 3);
	ok(flight.seen[0] == 2 && flight.seen[2] == 1 && flight.total == 3 &&
		flight.res[0] & POLLIN && flight.res[2] & POLLIN,
	    "... the same poll twice fires twice, the other once");
}

/* What programs do that forget a poll: its iocb is unmapped, or overwritten, or its descriptor closed. */
static void test_polls_forgotten(void)
{
	struct aior_args args, restored;
	struct iocb *elsewhere = map_guarded(page);
	unsigned lost[4] = {0};
	const char *why;
	int fds[5][2];

	set_up_stage(16 << 20);
	set_up_flight();
	make_live(0, smallest_len(), 0, 0);
	for (unsigned i = 0; i < 5; i++) {
		new_pipe(fds[i]);
		poll_iocb(i, fds[i][0], -1);
	}
	*elsewhere = flight.iocbs[0];
	must_submit(rings[0].addr, elsewhere);
	for (unsigned i = 1; i < 5; i++)
		must_submit(rings[0].addr, &flight.iocbs[i]);
	munmap(elsewhere, page);
	memset(&flight.iocbs[1], 0, sizeof(struct iocb));
	close(fds[2][0]);
	args = stage_args(1);
	why = call_stage(&args);
	close(fds[3][0]);
	ok(!why && args.poll_count == 5, "polls that were forgotten: %s, %u remembered",
	    why ? why : "staged", args.poll_count);
	why = call_restore(&args, &restored);
	for (unsigned i = 0; i < 5; i++)
		if (polls[i].data - DATA < 4 && polls[i].flags == AIOR_POLL_LOST)
			lost[polls[i].data - DATA] = polls[i].err;
	/* What has been unmapped may be something else's by now. */
	ok(!why && restored.polls_lost == 4 && (lost[0] == EFAULT || lost[0] == ESTALE) &&
		lost[1] == ESTALE && lost[2] == EBADF && lost[3] == EBADF,
	    "... four are lost, and the records say why: %s", or_so(why));
	fire(fds[4]);
	reap_until(rings[0].addr, 5);
	ok(flight.total == 5 && flight.strangers == 1 && have_come(0, 4, POLLNVAL) &&
		have_fired(4, 5),
	    "... their events say POLLNVAL; the one that was not forgotten fires");
}

/*
 * An eventfd has been closed while polls were to raise it, and its number is that of a pipe or a file by
 * now, or of none, so that the blob's own pipe has it: nothing is taken from those.
 */
static void test_eventfd_closed(void)
{
	int fds[2], innocent[2], event_fds[3], file = memfd_create("file", MFD_CLOEXEC);
	struct aior_args args, restored;
	char text[16] = "";
	const char *why;

	set_up_stage(16 << 20);
	set_up_flight();
	new_pipe(fds);
	new_pipe(innocent);
	if (write(innocent[1], "innocent", 8) != 8 || write(file, "innocent innocent", 17) != 17 ||
	    lseek(file, 1, SEEK_SET) != 1)
		abort();
	make_live(0, smallest_len(), 0, 0);
	make_live(1, smallest_len(), 100, 80);
	for (unsigned i = 0; i < 3; i++)
		event_fds[i] = eventfd(0, EFD_CLOEXEC);
	for (unsigned i = 0; i < 3; i++)
		must_submit(rings[0].addr, poll_iocb(i, fds[0], event_fds[i]));
	close(event_fds[0]);
	if (dup2(innocent[0], event_fds[1]) < 0 || dup2(file, event_fds[2]) < 0)
		abort();
	args = stage_args(2);
	why = call_stage(&args);
	if (!why)
		why = why_not_staged(1);
	ok(!why && args.poll_count == 3, "eventfds that are closed: %s", why ? why : "staged");
	ok(read(innocent[0], text, sizeof(text)) == 8 && !memcmp(text, "innocent", 8) &&
		lseek(file, 0, SEEK_CUR) == 1,
	    "... nothing is taken from what has their numbers");
	why = call_restore(&args, &restored);
	ok(!why && restored.polls_lost == 3, "... %u polls are lost: %s", restored.polls_lost,
	    or_so(why));
	ok(reap_until(rings[0].addr, 3) && have_come(0, 3, POLLNVAL), "... and say so, once");
}

/* What the program has cancelled itself is no poll to submit again: res 0, in front of the drain. */
static void test_polls_cancelled(void)
{
	struct aior_args args, restored;
	const char *why;

	set_up_stage(16 << 20);
	set_up_flight();
	make_live(0, smallest_len(), aio_ring_nr((uint32_t)smallest_len()) - 2, 0);
	submit_polls(rings[0].addr);
	for (unsigned i = 0; i < 5; i++)
		if (io_cancel(rings[0].addr, &flight.iocbs[i]) != -EINPROGRESS)
			abort();
	for (int ms = 0; ms < PATIENCE_MS && ring_of(rings[0].addr)->tail != 3; ms++)
		tick();
	args = stage_args(1);
	why = call_stage(&args);
	ok(!why && args.poll_count == POLLS - 5 &&
		aio_ring_pending(rings[0].head, rings[0].tail, was[0].nr) == 5,
	    "polls that the program had cancelled stay as they are: %s", or_so(why));
	why = call_restore(&args, &restored);
	for (unsigned i = 5; i < POLLS; i++)
		fire(pipes[i]);
	ok(!why && reap_until(rings[0].addr, POLLS) && have_come(0, 5, 0) && have_fired(5, POLLS),
	    "... their events come, and the others' when they fire: %s", or_so(why));
	for (unsigned i = 0; i < 5; i++)
		why = count_differs(i, i & 1 ? i + 1 : i) ? "an eventfd" : why;
	ok(!why, "... and they have raised their eventfds: %s", or_so(why));
}

/* Another process makes descriptors ready meanwhile: a poll fires in the ring, or after restore. */
static void test_polls_raced(void)
{
	unsigned rounds = effort(30), early = 0, late = 0;
	const char *why = NULL;
	uint64_t seed = 17;

	set_up_stage(16 << 20);
	make_live(0, smallest_len(), 120, 0);
	set_up_flight();
	submit_polls(rings[0].addr);
	for (unsigned round = 0; round < rounds && !why; round++) {
		struct aior_args args = stage_args(1), restored;
		unsigned pause = random_below(&seed, 3000);
		char bytes[8];
		pid_t pid = fork_mortal();

		if (!pid) {
			for (unsigned i = 0; i < POLLS; i++) {
				usleep(pause);
				fire(pipes[i]);
			}
			_exit(0);
		}
		usleep(random_below(&seed, 10000));
		if (call(&stage_blob, &args))
			why = "the results";
		early += POLLS - args.poll_count;
		late += args.poll_count;
		waitpid(pid, NULL, 0);
		if (!why)
			why = call_restore(&args, &restored);
		if (!why && (!reap_until(rings[0].addr, POLLS) || !have_fired(0, POLLS)))
			why = "an event";
		for (unsigned i = 0; i < POLLS && !why; i++)
			if (read(pipes[i][0], bytes, sizeof(bytes)) != 1)
				abort();
		if (!why && counts_differ(round + 1))
			why = "an eventfd";
		memset(flight.seen, 0, sizeof(flight.seen));
		flight.total = 0;
		for (unsigned i = 0; i < POLLS && !why; i++)
			must_submit(rings[0].addr, &flight.iocbs[i]);
	}
	ok(!why, "polls that fire meanwhile, %u rounds (%u had fired, %u were cancelled): %s",
	    rounds, early, late, why ? why : "each has one event");
}

/* ---- files ---- */

#define SYNCS 40u
#define BLOCKS 24u
#define BLOCK_BYTES (1u << 18)

static void submit_sync(aio_context_t ctx, unsigned i, int fd, int event_fd)
{
	struct iocb *iocb = &flight.iocbs[i];

	*iocb = (struct iocb){
	    .aio_lio_opcode = i & 1 ? IOCB_CMD_FDSYNC : IOCB_CMD_FSYNC,
	    .aio_fildes = (uint32_t)fd,
	    .aio_data = DATA + i,
	    .aio_flags = event_fd >= 0 ? IOCB_FLAG_RESFD : 0,
	    .aio_resfd = event_fd >= 0 ? (uint32_t)event_fd : 0,
	};
	must_submit(ctx, iocb);
}

static void submit_block(
    aio_context_t ctx, unsigned i, int fd, uint16_t opcode, char *buffer, uint64_t offset)
{
	struct iocb *iocb = &flight.iocbs[i];

	*iocb = (struct iocb){
	    .aio_lio_opcode = opcode,
	    .aio_fildes = (uint32_t)fd,
	    .aio_buf = (uintptr_t)buffer,
	    .aio_nbytes = BLOCK_BYTES,
	    .aio_offset = (int64_t)offset,
	    .aio_data = DATA + i,
	};
	must_submit(ctx, iocb);
}

/* With nobody else on this CPU, what its workqueues have to do waits for us to sleep. */
static void keep_the_cpu(void)
{
	struct sched_param first = {.sched_priority = 1};

	if (sched_setscheduler(0, SCHED_FIFO, &first))
		diag("not allowed to keep the CPU: %s", strerror(errno));
}

static uint32_t in_flight(uint32_t i, unsigned submitted)
{
	return submitted - (ring_of(rings[i].addr)->tail + was[i].nr - was[i].tail) % was[i].nr;
}

/* An fsync's result is 0, too; and it is no poll. The ring wraps while it is drained. */
static void test_syncs(void)
{
	struct aior_args args, restored;
	int fd = memfd_create("synced", MFD_CLOEXEC), event_fd;
	uint32_t flying;
	const char *why;

	set_up_stage(16 << 20);
	set_up_flight();
	event_fd = eventfd(3, EFD_CLOEXEC | EFD_NONBLOCK);
	make_live(0, smallest_len(), aio_ring_nr((uint32_t)smallest_len()) - 7, 5);
	keep_the_cpu();
	for (unsigned i = 0; i < SYNCS; i++)
		submit_sync(rings[0].addr, i, fd, i % 4 == 0 ? event_fd : -1);
	args = stage_args(1);
	flying = in_flight(0, SYNCS);
	why = call_stage(&args);
	if (!why)
		why = why_not_plain(0);
	ok(!why && !args.poll_count, "fsyncs, %u of %u in flight at the stage: %s, %u polls",
	    flying, SYNCS, why ? why : "staged", args.poll_count);
	ok(rings[0].tail == (was[0].tail + SYNCS) % was[0].nr && rings[0].head == was[0].head,
	    "... an event for each is pending, the ring has wrapped");
	ok(!memcmp(&slots_of(ring_of(rings[0].addr))[was[0].head],
	       &slots_of(was[0].copy)[was[0].head], 5 * AIO_RING_SLOT),
	    "... behind those that were pending");
	why = call_restore(&args, &restored);
	ring_of(rings[0].addr)->head = was[0].tail;
	ok(!why && reap_until(rings[0].addr, SYNCS) && have_come(0, SYNCS, 0),
	    "... and each comes: %s", or_so(why));
	ok(take_count(event_fd) == 3 + SYNCS / 4, "... the eventfd counts each of its own, once");
}

static char *block(char *buffer, unsigned i)
{
	return buffer + (size_t)i * BLOCK_BYTES;
}

/* Half of them read what is in the file, the others write behind it. */
static void submit_blocks(aio_context_t ctx, int fd, char *buffer, unsigned from)
{
	for (unsigned i = 0; i < BLOCKS; i++) {
		memset(block(buffer, i), i & 1 ? 0x40 + (int)i : 0, BLOCK_BYTES);
		submit_block(ctx, from + i, fd, i & 1 ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
		    block(buffer, i), (uint64_t)i * BLOCK_BYTES);
	}
}

static int blocks_are_right(int fd, char *buffer)
{
	char *read_back = map_guarded(BLOCK_BYTES);

	for (unsigned i = 0; i < BLOCKS; i++) {
		char *at = block(buffer, i);
		char byte = i & 1 ? (char)(0x40 + i) : 0x11;

		if (i & 1 &&
		    pread(fd, at = read_back, BLOCK_BYTES, (off_t)i * BLOCK_BYTES) != BLOCK_BYTES)
			return 0;
		if (at[0] != byte || memcmp(at, at + 1, BLOCK_BYTES - 1))
			return 0;
	}
	return 1;
}

static void test_blocks(void)
{
	char *buffer = map_guarded(BLOCKS * BLOCK_BYTES);
	struct aior_args args, restored;
	int fd = open_direct();
	uint32_t flying;
	const char *why;

	memset(buffer, 0x11, BLOCKS * BLOCK_BYTES);
	if (fd < 0 || pwrite(fd, buffer, BLOCKS * BLOCK_BYTES, 0) != BLOCKS * BLOCK_BYTES) {
		skip("direct reads and writes", "no file system here takes O_DIRECT");
		return;
	}
	set_up_stage(16 << 20);
	set_up_flight();
	make_live(0, smallest_len(), 100, 0);
	submit_blocks(rings[0].addr, fd, buffer, 0);
	args = stage_args(1);
	flying = in_flight(0, BLOCKS);
	why = call_stage(&args);
	ok(!why && !args.poll_count && rings[0].tail == (100 + BLOCKS) % was[0].nr,
	    "direct reads and writes of %u KiB, %u of %u in flight at the stage: %s",
	    BLOCK_BYTES >> 10, flying, BLOCKS, why ? why : "staged");
	ok(blocks_are_right(fd, buffer), "... all data is there when it has returned");
	why = call_restore(&args, &restored);
	ok(!why && reap_until(rings[0].addr, BLOCKS) && have_come(0, BLOCKS, BLOCK_BYTES),
	    "... and each event comes, with its result: %s", or_so(why));
}

/* A file with much to write takes longer than the drain takes to cancel polls. */
static int dirty_file(char *buffer)
{
	int fd = open(BLOB_DIR, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0)
		fd = memfd_create("dirty", MFD_CLOEXEC);
	if (write(fd, buffer, BLOCKS * BLOCK_BYTES) != BLOCKS * BLOCK_BYTES)
		abort();
	return fd;
}

/*
 * Of all kinds, in two rings, one of which wraps; polls lie between, and their events are taken out
 * from between the others.
 */
static void test_mixed(void)
{
	char *buffer = map_guarded(BLOCKS * BLOCK_BYTES);
	struct aior_args args, restored;
	unsigned syncs = POLLS, blocks = POLLS + 8, all = blocks + BLOCKS;
	int direct = open_direct(), dirty, eight;
	uint32_t flying = 0;
	const char *why;

	memset(buffer, 0x11, BLOCKS * BLOCK_BYTES);
	dirty = dirty_file(buffer);
	if (direct >= 0 && pwrite(direct, buffer, BLOCKS * BLOCK_BYTES, 0) != BLOCKS * BLOCK_BYTES)
		direct = -1;
	if (direct < 0)
		all = blocks;
	set_up_stage(16 << 20);
	set_up_flight();
	make_live(0, smallest_len(), 120, 0);
	make_live(1, smallest_len(), 10, 0);
	eight = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	submit_polls(rings[0].addr);
	for (unsigned i = 0; i < 8; i++)
		submit_sync(rings[0].addr, syncs + i, dirty, eight);
	if (direct >= 0)
		submit_blocks(rings[1].addr, direct, buffer, blocks);
	args = stage_args(2);
	flying = in_flight(0, blocks) + in_flight(1, all - blocks);
	why = call_stage(&args);
	if (!why)
		why = why_not_plain(0);
	ok(!why && args.poll_count == POLLS, "%u requests of all kinds, %u in flight: %s, %u polls",
	    all, flying, or_so(why), args.poll_count);
	why = call_restore(&args, &restored);
	reap(rings[0].addr);
	reap(rings[1].addr);
	ok(!why && flight.total == all - POLLS && have_come(syncs, blocks, 0) &&
		have_come(blocks, all, BLOCK_BYTES),
	    "... what was drained is there at once: %s", or_so(why));
	for (unsigned i = 0; i < POLLS; i++)
		fire(pipes[i]);
	ok(reap_until(rings[0].addr, all) && have_fired(0, POLLS), "... and the polls fire");
	ok(!counts_differ(1) && take_count(eight) == 8, "... eventfds count each, once");
	ok(direct < 0 || blocks_are_right(direct, buffer), "... and the data is right");
}

/* ---- the capsule ---- */

static void test_capsule(void)
{
	struct aior_table *capsule = map_guarded(sizeof(*capsule));
	struct aior_table given;
	struct aior_args args;
	const char *why;

	set_up_stage(16 << 20);
	set_up_flight();
	make_live(0, smallest_len(), 0, 0);
	make_live(1, smallest_len(), 0, 0);
	submit_polls(rings[0].addr);
	memset(capsule, 0x77, sizeof(*capsule));
	capsule->state = AIOR_TABLE_PREPARED;
	given = *capsule;
	args = stage_args(2);
	args.capsule = (uintptr_t)capsule;
	args.poll_room--;
	ok(call(&stage_blob, &args) == -ENOSPC && !memcmp(capsule, &given, sizeof(given)),
	    "a stage that fails does not touch the capsule");
	args.poll_room++;
	why = call_stage(&args);
	ok(!why && capsule->state == AIOR_TABLE_STAGED && capsule->poll_count == POLLS,
	    "one that succeeds: the capsule says so, and counts the polls: %s", or_so(why));
	given.state = capsule->state;
	given.poll_count = capsule->poll_count;
	ok(!memcmp(capsule, &given, sizeof(given)), "... all else in it is as it was");
}

/* ---- signals ---- */

static volatile sig_atomic_t caught, children;

static void count_signal(int signal)
{
	if (signal == SIGCHLD)
		children++;
	else
		caught++;
}

/* Elsewhere than on the stack that a blob is called on, whose use is measured. */
static void catch (int signal, int flags)
{
	static stack_t stack;
	struct sigaction action = {.sa_handler = count_signal, .sa_flags = flags | SA_ONSTACK};

	if (!stack.ss_sp) {
		stack.ss_size = 65536;
		stack.ss_sp = map_guarded(stack.ss_size);
		sigaltstack(&stack, NULL);
	}
	sigaction(signal, &action, NULL);
}

/* Whatever becomes of children's signals here, a helper's end is nobody's business. */
static void test_sigchld(void)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	const char *names[] = {"a handler", "SIG_IGN", "SA_NOCLDWAIT and a handler"};

	set_up_stage(16 << 20);
	for (uint32_t i = 0; i < 8; i++)
		make_live(i, smallest_len(), i, i);
	for (size_t a = 0; a < COUNT(names); a++) {
		const char *why;

		if (a == 1)
			sigaction(SIGCHLD, &ignore, NULL);
		else
			catch (SIGCHLD, a ? SA_NOCLDWAIT : 0);
		for (uint32_t i = 0; i < 8; i++)
			note(i);
		why = there_and_back(8);
		ok(!why && !children, "SIGCHLD with %s: %s, %d signals", names[a], or_so(why),
		    (int)children);
	}
}

/* What comes from outside while rings are drained; of each signal, to the process and to its group. */
static _Noreturn void send_signals(pid_t pid, const int *go_on)
{
	const int signals[] = {SIGSTOP, SIGCONT, SIGUSR1, SIGTSTP, SIGCONT, SIGTERM, SIGRTMIN};
	char byte;

	setpgid(0, 0);
	for (unsigned i = 0; read(*go_on, &byte, 1) < 0; i++) {
		kill(i & 1 ? -pid : pid, signals[i / 2 % COUNT(signals)]);
		usleep(300);
	}
	kill(pid, SIGCONT);
	_exit(0);
}

static void test_signals(void)
{
	const int handled[] = {SIGUSR1, SIGTERM, SIGRTMIN, SIGTSTP};
	unsigned rounds = effort(10), round;
	const char *why = NULL;
	int go_on[2];
	pid_t pid;

	set_up_stage(16 << 20);
	setpgid(0, 0);
	for (size_t i = 0; i < COUNT(handled); i++)
		catch (handled[i], 0);
	new_pipe(go_on);
	for (uint32_t i = 0; i < 8; i++)
		make_live(i, smallest_len(), 5 * i, 0);
	pid = fork_mortal();
	if (!pid) {
		close(go_on[1]);
		send_signals(getppid(), &go_on[0]);
	}
	for (round = 0; round < rounds && !why; round++) {
		struct aior_args args = stage_args(8), restored;

		for (uint32_t i = 0; i < 8; i++)
			note(i);
		if (call(&stage_blob, &args))
			why = "the results";
		for (uint32_t i = 0; i < 8 && !why; i++)
			why = why_not_staged(i);
		if (!why)
			why = call_restore(&args, &restored);
	}
	close(go_on[1]);
	if (waitpid(pid, NULL, 0) != pid)
		why = "the sender";
	ok(!why && caught, "signals and stops during %u drains: %s, %d signals caught", round,
	    or_so(why), (int)caught);
	ok(!has_child(), "... and no helper is left");
}

/* Sent during a stage, it is delivered when that has returned. */
static void test_signal_delivered(void)
{
	struct aior_args args;
	sigset_t mask;
	int wrong;

	set_up_stage(16 << 20);
	make_live(0, smallest_len(), 5, 0);
	catch (SIGUSR1, 0);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	raise(SIGUSR1);
	args = stage_args(1);
	wrong = call(&stage_blob, &args) || caught;
	sigprocmask(SIG_UNBLOCK, &mask, NULL);
	ok(!wrong && caught == 1,
	    "a signal that was blocked stays so, and is delivered afterwards");
}

/* ---- helpers ---- */

#define HELPED 20

static void make_helped(void)
{
	for (uint32_t i = 0; i < HELPED; i++)
		make_live(i, smallest_len(), i, 2 * i);
}

static void test_helpers(void)
{
	const uint32_t most[] = {0, 1, 2, 19, 20, 300, ~0u};

	set_up_stage(16 << 20);
	make_helped();
	for (size_t m = 0; m < COUNT(most); m++) {
		struct aior_args args = stage_args(HELPED), restored;
		int64_t begun = now_ms();
		const char *why;

		args.helpers = most[m];
		why = call_stage(&args);
		begun = now_ms() - begun;
		for (uint32_t i = 0; i < HELPED && !why; i++)
			why = why_not_staged(i);
		if (!why)
			why = call_restore(&args, &restored);
		ok(!why, "%d rings with %u helpers at most: %s", HELPED, most[m], or_so(why));
		diag("%u helpers at most: %d ms", most[m], (int)begun);
	}
}

static const char *stage_alone(void)
{
	struct aior_args args = stage_args(HELPED);
	const char *why = call_stage(&args);

	for (uint32_t i = 0; i < HELPED && !why; i++)
		why = why_not_staged(i);
	return why;
}

/* clone() says EAGAIN to whoever has as many processes as he may. */
static void test_no_process(void)
{
	struct rlimit none = {0, 0};
	const char *why;
	pid_t pid;

	set_up_stage(16 << 20);
	make_helped();
	if (setgroups(0, NULL) || setresgid(65534, 65534, 65534) ||
	    setresuid(65534, 65534, 65534)) {
		skip("no process to be had", "privileges cannot be dropped: %s", strerror(errno));
		return;
	}
	setrlimit(RLIMIT_NPROC, &none);
	pid = fork();
	if (!pid)
		_exit(0);
	if (pid > 0) {
		waitpid(pid, NULL, 0);
		skip("no process to be had", "RLIMIT_NPROC is no limit here");
		return;
	}
	why = stage_alone();
	ok(!why, "%d rings, and no helper to be had (RLIMIT_NPROC): %s", HELPED, or_so(why));
}

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : write(fd, text, strlen(text));

	if (fd >= 0)
		close(fd);
	return n == (ssize_t)strlen(text) ? 0 : -1;
}

/* Into a group of its own, which may have one process. */
static int enter_group(const char *group)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/pids.max", group);
	if (write_text(path, "1"))
		return -1;
	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	return write_text(path, "0");
}

static void test_pids_group(void)
{
	const char *roots[] = {"/sys/fs/cgroup/pids", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
	char group[256] = "";
	pid_t pid;

	for (size_t i = 0; i < COUNT(roots) && !*group; i++) {
		char path[sizeof(group) + 16];

		snprintf(group, sizeof(group), "%s/aio-restorer-%d", roots[i], (int)getpid());
		snprintf(path, sizeof(path), "%s/pids.max", group);
		if (mkdir(group, 0755) || access(path, W_OK)) {
			rmdir(group);
			*group = '\0';
		}
	}
	if (!*group) {
		skip("a group with room for one process", "no pids controller can be had here");
		return;
	}
	pid = fork_mortal();
	if (!pid) {
		const char *why;

		set_up_stage(16 << 20);
		make_helped();
		if (enter_group(group)) {
			skip("a group with room for one process", "%s: %s", group, strerror(errno));
			_exit(0);
		}
		why = stage_alone();
		ok(!why, "%d rings in a group with room for one process: %s", HELPED, or_so(why));
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	for (int ms = 0; rmdir(group) && errno == EBUSY && ms < PATIENCE_MS; ms++)
		tick();
}

int main(void)
{
	long nr = stage_test_start();

	in_child("one ring", test_one);
	in_child("positions", test_positions);
	in_child("sizes", test_sizes);
	in_child("a large ring", test_large);
	in_child("nothing to do", test_nothing_to_do);
	in_child("anywhere", test_anywhere);
	in_child("surroundings", test_surroundings);
	in_child("adjacent", test_adjacent);
	in_child("neighbours", test_neighbours);
	in_child("moved", test_moved);
	in_child("read-only", test_read_only);
	in_child("polls", test_polls);
	in_child("polls again", test_polls_again);
	in_child("polls that share iocbs", test_polls_shared);
	in_child("polls forgotten", test_polls_forgotten);
	in_child("eventfds closed", test_eventfd_closed);
	in_child("polls cancelled", test_polls_cancelled);
	in_child("polls raced", test_polls_raced);
	in_child("fsyncs", test_syncs);
	in_child("direct reads and writes", test_blocks);
	in_child("mixed", test_mixed);
	in_child("the capsule", test_capsule);
	in_child("SIGCHLD", test_sigchld);
	in_child("signals", test_signals);
	in_child("a signal delivered", test_signal_delivered);
	in_child("helpers", test_helpers);
	in_child("no process", test_no_process);
	in_child("a pids group", test_pids_group);
	test_stack_of("stage", &stage_blob);
	return test_end(nr);
}
