/* SPDX-License-Identifier: MIT */
/*
 * A process stages and restores its own rings. Its other threads stand still wherever they were, with
 * whatever lock of libc: so nothing here, nor what it calls, takes memory from the heap, uses stdio's
 * streams, or waits for a lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "grow.h"
#include "internal.h"

/*
 * This architecture's blobs as code of the library, so that nothing need be made executable, which
 * not every process may do (PR_SET_MDWE, SELinux's execmem). BLOB_DIR and BLOB_ARCH are the Makefile's.
 */
#define OWN_BLOB(op)                                                                               \
	__asm__(".pushsection .text.aior_blobs, \"ax\", %progbits\n"                               \
		".balign 16\n"                                                                     \
		".globl aior_own_" op "\n"                                                         \
		".hidden aior_own_" op "\n"                                                        \
		".type aior_own_" op ", %object\n"                                                 \
		"aior_own_" op ":\n"                                                               \
		".incbin \"" BLOB_DIR "/blob-" op "-" BLOB_ARCH ".bin\"\n"                         \
		".size aior_own_" op ", . - aior_own_" op "\n"                                     \
		".popsection\n")

OWN_BLOB("stage");
OWN_BLOB("restore");
extern const struct aior_blob aior_own_stage __attribute__((visibility("hidden")));
extern const struct aior_blob aior_own_restore __attribute__((visibility("hidden")));

/* The more, the more pipes may be had for staging, and the larger are the batches of restoring. */
#define SCRATCH_BYTES 65536

static size_t page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

static uint64_t whole_pages(uint64_t bytes)
{
	return (bytes + page_size() - 1) & ~(uint64_t)(page_size() - 1);
}

/* Memory, or NULL with errno. */
static void *map(void *at, uint64_t len, int prot, int flags)
{
	void *got = MAP_FAILED;

	if (len <= SIZE_MAX)
		got = mmap(at, (size_t)len, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
	else
		errno = ENOMEM;
	return got == MAP_FAILED ? NULL : got;
}

/*
 * Where memory of ours is in nobody's way: the kernel's own choice may be the pages right behind a ring, which that
 * ring needs where more CPUs are possible. Below the mappings above the largest gap, at some distance.
 */
struct gap_search {
	uint64_t end, gap,
	    above; /* of the mapping before; the largest so far, and what lies above that */
};

static int visit_gap(const struct aior_mapping *mapping, void *data)
{
	struct gap_search *search = data;

	if (search->end && mapping->start > search->end && !(mapping->start >> 63) &&
	    !mapping->is_stack && mapping->start - search->end > search->gap) {
		search->gap = mapping->start - search->end;
		search->above = mapping->start;
	}
	search->end = mapping->end;
	return 0;
}

/* A hint for mmap; NULL if there is none. */
static void *find_apart(uint64_t len)
{
	struct gap_search search = {0, 0, 0};
	uint64_t apart = 16 * page_size() + whole_pages(len);

	if (aior_each_mapping(0, visit_gap, &search) < 0 || search.gap < 2 * apart)
		return NULL;
	return (void *)(uintptr_t)(search.above - apart);
}

static int call_blob(const struct aior_blob *blob, struct aior_args *args)
{
	int (*entry)(struct aior_args *) =
	    (int (*)(struct aior_args *))((uintptr_t)blob + blob->call);

	args->err = ENOSYS; /* a blob that does not know the block does not touch it */
	return entry(args);
}

/*
 * What neither a signal's handler nor a cancellation may come between, since both could find half of
 * the rings gone. The calls in between are points of cancellation.
 */
struct quiet {
	sigset_t mask;
	int cancel_state;
};

static void begin_quiet(struct quiet *quiet)
{
	sigset_t all;

	sigfillset(&all);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &quiet->cancel_state);
	pthread_sigmask(SIG_SETMASK, &all, &quiet->mask);
}

static void end_quiet(const struct quiet *quiet)
{
	pthread_sigmask(SIG_SETMASK, &quiet->mask, NULL);
	pthread_setcancelstate(quiet->cancel_state, NULL);
}

/* ---- finding the rings ---- */

struct ring_search {
	struct aior_mapping ring;         /* that is being put together */
	unsigned parts;                   /* of it; 0: there is none */
	struct aior_ring_record *records; /* where they are listed; NULL: they are only counted */
	uint32_t room, count;
	uint64_t slots, pending;
	size_t inherited;
	struct aior_error *error;
};

static int list_ring(struct ring_search *search)
{
	const struct aior_mapping *mapping = &search->ring;
	const struct aio_ring *ring = (const void *)(uintptr_t)mapping->start;
	uint64_t len = mapping->end - mapping->start;
	enum aio_ring_fault fault = aio_ring_check(ring, len);

	if (fault != AIO_RING_OK)
		return aior_fail_ring(search->error, EINVAL, "ring", mapping->start,
		    "is damaged: %s", aior_fault_text(fault));
	search->slots += ring->nr - 1;
	search->pending += aio_ring_pending(ring->head, ring->tail, ring->nr);
	if (search->records) {
		if (search->count == search->room)
			return aior_fail_ring(search->error, EBUSY, "ring", mapping->start,
			    "has just been made: all other threads must stand still");
		search->records[search->count] = (struct aior_ring_record){
		    .addr = mapping->start, .len = len, .prot = mapping->prot};
	}
	search->count++;
	return 0;
}

/*
 * A submission of nothing looks the context up, and does no more (lookup_ioctx(), fs/aio.c). The kernel
 * reads the header's `id` for that: so a ring whose owner has written over its `id` is nobody's, too;
 * it cannot be used any more.
 */
static int judge_ring(struct ring_search *search)
{
	const struct aior_mapping *ring = &search->ring;
	unsigned parts = search->parts;

	search->parts = 0;
	if (!parts)
		return 0;
	if (!(ring->prot & PROT_READ))
		return aior_fail_ring(search->error, EINVAL, "ring", ring->start,
		    "cannot be read, by the kernel neither: give it PROT_READ back (mprotect)");
	if (ring->offset)
		return aior_fail_ring(search->error, EINVAL, "ring", ring->start,
		    "is a part of one whose first pages are not mapped: unmap it");
	if (syscall(SYS_io_submit, (aio_context_t)ring->start, 0L, NULL)) {
		if (errno != EINVAL)
			return aior_fail_ring(search->error, errno, "ring", ring->start,
			    "io_submit says %s: does a filter of system calls forbid it?",
			    aior_errno_text(errno));
		search->inherited++;
		return 0;
	}
	if (parts > 1)
		return aior_fail_ring(search->error, EINVAL, "ring", ring->start,
		    "its mapping is in %u parts (mprotect has split it), and the kernel does not "
		    "move such a ring whole: destroy it, and make another",
		    parts);
	return list_ring(search);
}

static int visit_ring(const struct aior_mapping *mapping, void *data)
{
	struct ring_search *search = data;
	struct aior_mapping *ring = &search->ring;

	if (!mapping->is_ring)
		return 0;
	if (search->parts && mapping->start == ring->end && mapping->inode == ring->inode &&
	    mapping->minor == ring->minor &&
	    mapping->offset == ring->offset + (ring->end - ring->start)) {
		ring->end = mapping->end;
		search->parts++;
		return 0;
	}
	if (judge_ring(search))
		return 1;
	*ring = *mapping;
	search->parts = 1;
	return 0;
}

static int find_rings(struct ring_search *search)
{
	int ret = aior_each_mapping(0, visit_ring, search);

	if (ret < 0)
		return aior_fail(search->error, errno, "maps",
		    "/proc/thread-self/maps cannot be read: %s (it takes /proc, and a free "
		    "descriptor)",
		    aior_errno_text(errno));
	return ret || judge_ring(search) ? -1 : 0;
}

/* ---- stage ---- */

/* A capsule that is being made. */
struct making {
	struct aior_table *table;
	uint64_t len; /* whole pages; before and behind them, one that nobody may touch */
	void *scratch;
	uint32_t poll_room;
};

static char *guards_of(const struct making *making)
{
	return (char *)making->table - page_size();
}

static void unmake(const struct making *making)
{
	if (making->scratch)
		munmap(making->scratch, SCRATCH_BYTES);
	if (making->table)
		munmap(guards_of(making), (size_t)making->len + 2 * page_size());
}

/*
 * Everything that needs memory, before anything is touched, and the pages of it: the stage blob writes
 * poll records behind the point of no return.
 */
static int make(struct making *making, const struct ring_search *search, struct aior_error *error)
{
	uint64_t polls =
	    sizeof(struct aior_table) + (uint64_t)search->count * sizeof(struct aior_ring_record);
	const int populated = MAP_FIXED | MAP_POPULATE;
	char *area;

	memset(making, 0, sizeof(*making));
	making->poll_room = (uint32_t)search->slots;
	making->len = whole_pages(polls + search->slots * sizeof(struct aior_poll_record));
	if (making->poll_room != search->slots || polls > UINT32_MAX)
		return aior_fail(error, E2BIG, "memory",
		    "there are more slots than a capsule has room for: %llu",
		    (unsigned long long)search->slots);
	making->scratch =
	    map(find_apart(SCRATCH_BYTES), SCRATCH_BYTES, PROT_READ | PROT_WRITE, MAP_POPULATE);
	area = map(find_apart(making->len + 2 * page_size()), making->len + 2 * page_size(),
	    PROT_NONE, MAP_NORESERVE);
	if (area)
		making->table = (void *)(area + page_size());
	if (!making->scratch || !area ||
	    !map(making->table, making->len, PROT_READ | PROT_WRITE, populated)) {
		int err = errno;

		unmake(making);
		return aior_fail(error, err, "memory",
		    "there is no memory for a capsule of %llu bytes: %s (free some, or raise "
		    "RLIMIT_AS, RLIMIT_MEMLOCK or vm.max_map_count)",
		    (unsigned long long)making->len, aior_errno_text(err));
	}
	*making->table = (struct aior_table){
	    .magic = AIOR_TABLE_MAGIC,
	    .abi = AIOR_ABI,
	    .size = sizeof(struct aior_table),
	    .total = polls,
	    .state = AIOR_TABLE_PREPARED,
	    .arch = aior_host_arch(),
	    .page_size = (uint32_t)page_size(),
	    .pid = (uint32_t)getpid(),
	    .rings = sizeof(struct aior_table),
	    .ring_count = search->count,
	    .ring_stride = sizeof(struct aior_ring_record),
	    .polls = (uint32_t)polls,
	    .poll_stride = sizeof(struct aior_poll_record),
	    .possible_cpus = aior_possible_cpus(),
	};
	return 0;
}

static struct aior_args args_for(struct aior_table *table, void *scratch)
{
	struct aior_args args = aior_capsule_args(table, (uintptr_t)table);

	args.end = AIOR_END_RETURN;
	args.scratch = (uintptr_t)scratch;
	args.scratch_len = SCRATCH_BYTES;
	return args;
}

/* Reads an iocb of the program's, which need not be there any more. */
static int read_iocb(uint64_t addr, struct iocb *iocb)
{
	/* cppcheck-suppress ctuuninitvar ; it is filled in there */
	struct iovec to = {iocb, sizeof(*iocb)};
	struct iovec from = {(void *)(uintptr_t)addr, sizeof(*iocb)};

	return process_vm_readv((pid_t)syscall(SYS_gettid), &to, 1, &from, 1, 0) ==
	       (ssize_t)sizeof(*iocb);
}

/* Why a poll that has been remembered cannot be submitted again as things are; 0 if it can. */
static int why_lost(const struct aior_poll_record *poll)
{
	struct iocb iocb;

	if (!read_iocb(poll->iocb, &iocb))
		return EFAULT;
	if (iocb.aio_lio_opcode != IOCB_CMD_POLL || iocb.aio_data != poll->data)
		return ESTALE;
	if (fcntl((int)iocb.aio_fildes, F_GETFD) < 0 ||
	    (iocb.aio_flags & IOCB_FLAG_RESFD && fcntl((int)iocb.aio_resfd, F_GETFD) < 0))
		return EBADF;
	return 0;
}

/* Gives the room of polls that there were not back, but for a page behind the last record. */
static void trim(const struct making *making)
{
	char *end = (char *)making->table + making->len;
	char *last = (char *)making->table + whole_pages(making->table->total);

	if (last == end)
		return;
	/* One mapping less, or as many: nothing is split. */
	if (map(last, (uint64_t)(end - last), PROT_NONE, MAP_FIXED | MAP_NORESERVE))
		munmap(last + page_size(), (size_t)(end - last));
}

/* What the blob has left behind after a failure. Returns -1. */
static int stage_failed(const struct making *making, const struct aior_args *args, uint32_t state,
    struct aior_error *error)
{
	const struct aior_table *table = making->table;
	const struct aior_ring_record *named = NULL;

	if (args->ring < table->ring_count)
		named = aior_capsule_ring(table, table, args->ring);
	aior_fail_blob(error, args, named ? &named->addr : NULL);
	if (state != AIOR_TABLE_PREPARED) {
		/* Behind the point of no return; there the blob reads pipes, and no more. */
		aior_fail(error, (int)args->err, aior_step_name(args->step),
		    "ring 0x%llx: could not be read back (%s), and all contexts are gone: what "
		    "could be saved is in the capsule at 0x%llx",
		    (unsigned long long)(named ? named->addr : 0), aior_errno_text((int)args->err),
		    (unsigned long long)(uintptr_t)table);
		return -1;
	}
	for (uint32_t i = 0; i < table->ring_count; i++) {
		const struct aior_ring_record *ring = aior_capsule_ring(table, table, i);

		if (ring->aside)
			aior_fail_ring(error, (int)args->err, aior_step_name(args->step),
			    ring->addr,
			    "was moved aside, and could not be moved back: it lies at 0x%llx, and "
			    "this is its handle now (raise vm.max_map_count)",
			    (unsigned long long)ring->aside);
	}
	unmake(making);
	return -1;
}

static void report_stage(
    struct aior_report *report, const struct aior_table *table, uint64_t pending_before)
{
	report->ring_count = table->ring_count;
	report->poll_count = table->poll_count;
	for (uint32_t i = 0; i < table->ring_count; i++) {
		const struct aior_ring_record *ring = aior_capsule_ring(table, table, i);

		report->pending +=
		    aio_ring_pending(ring->head, ring->tail, aio_ring_nr((uint32_t)ring->len));
	}
	report->drained = report->pending - (size_t)pending_before;
	for (uint32_t i = 0; i < table->poll_count; i++) {
		const struct aior_poll_record *poll = aior_capsule_poll(table, table, i);
		int err = why_lost(poll);

		if (err)
			aior_add_lost(report, poll, err);
	}
	aior_trim_lost(report);
}

static int stage_rings(struct making *making, struct aior_report *report, struct aior_error *error)
{
	struct aior_table *table = making->table;
	struct ring_search search = {
	    .records = (void *)((char *)table + table->rings),
	    .room = table->ring_count,
	    .error = error,
	};
	struct aior_args args = args_for(table, making->scratch);

	if (find_rings(&search) ||
	    (search.count < table->ring_count &&
		aior_fail(error, EBUSY, "ring",
		    "a ring has just been destroyed: all other threads must stand still"))) {
		unmake(making);
		return -1;
	}
	args.ring_count = search.count;
	args.poll_room = making->poll_room;
	args.capsule = (uintptr_t)table;
	if (call_blob(&aior_own_stage, &args))
		return stage_failed(making, &args, table->state, error);
	table->total += (uint64_t)table->poll_count * table->poll_stride;
	munmap(making->scratch, SCRATCH_BYTES);
	trim(making);
	report_stage(report, table, search.pending);
	return 0;
}

/* Address space behind live rings. */
struct keeping {
	uint32_t cpus; /* that it is for; 0: none is wanted */
	uint32_t count;
	struct aior_ring_record *records; /* `room`: their length with what is kept; or 0 */
	uint64_t bytes;
};

static void keep_behind(
    const struct keeping *keeping, struct aior_ring_record *record, struct aior_report *report)
{
	char *end = (char *)(uintptr_t)(record->addr + record->len);
	uint64_t wanted = aior_len_for(keeping->cpus, record->len);
	void *got;

	if (wanted <= record->len)
		return;
	got = map(end, wanted - record->len, PROT_NONE, MAP_FIXED_NOREPLACE | MAP_NORESERVE);
	if (got == end) {
		record->room = wanted;
		return;
	}
	if (got)
		munmap(got, (size_t)(wanted - record->len));
	report->no_room[report->no_room_count++] = record->addr;
}

/* Of so many rings. Whether it fails or not, end_keeping() comes after it. */
static int keep_room(
    struct keeping *keeping, uint32_t count, struct aior_report *report, struct aior_error *error)
{
	struct ring_search search = {.room = count, .error = error};

	if (!keeping->cpus)
		return 0;
	keeping->bytes = whole_pages((uint64_t)count * sizeof(*keeping->records));
	keeping->records =
	    map(find_apart(keeping->bytes), keeping->bytes, PROT_READ | PROT_WRITE, 0);
	if (!keeping->records)
		return aior_fail(error, errno, "memory", "there is no memory to list %u rings: %s",
		    count, aior_errno_text(errno));
	search.records = keeping->records;
	if (find_rings(&search))
		return -1;
	keeping->count = search.count;
	for (uint32_t i = 0; i < keeping->count; i++)
		keep_behind(keeping, &keeping->records[i], report);
	return 0;
}

/* What is kept stays, as the records of a capsule then say; or, without one, goes. */
static void end_keeping(struct keeping *keeping, struct aior_table *table)
{
	for (uint32_t i = 0, k = 0; i < keeping->count; i++) {
		const struct aior_ring_record *kept = &keeping->records[i];
		struct aior_ring_record *record;

		if (!kept->room)
			continue;
		while (table && k < table->ring_count &&
		       aior_capsule_ring(table, table, k)->addr < kept->addr)
			k++;
		record = table && k < table->ring_count
			     ? (struct aior_ring_record *)aior_capsule_ring(table, table, k)
			     : NULL;
		if (record && record->addr == kept->addr)
			record->room = kept->room;
		else
			munmap((char *)(uintptr_t)kept->addr + kept->len,
			    (size_t)(kept->room - kept->len));
	}
	if (keeping->records)
		munmap(keeping->records, (size_t)keeping->bytes);
}

static int stage(uint32_t cpus, struct aior_report *report, struct aior_error *error)
{
	struct keeping keeping = {.cpus = cpus};
	struct ring_search search = {.error = error};
	struct aior_capsule capsule;
	struct making making;
	int found;

	if (find_rings(&search))
		return -1;
	if (!search.count) {
		report->inherited_count = search.inherited;
		return 0;
	}
	found = aior_find_capsule(0, &capsule, error);
	if (found < 0)
		return -1;
	if (found)
		return aior_fail(error, EBUSY, "capsule",
		    "there is a capsule already, at 0x%llx, of rings that were staged before: "
		    "restore them first",
		    (unsigned long long)capsule.addr);
	if ((cpus && aior_reserve_no_room(report, search.count,
			 find_apart(search.count * sizeof(*report->no_room)), error)) ||
	    aior_reserve_lost(report, search.slots, error))
		return -1;
	if (keep_room(&keeping, search.count, report, error) || make(&making, &search, error) ||
	    stage_rings(&making, report, error)) {
		end_keeping(&keeping, NULL);
		return -1;
	}
	end_keeping(&keeping, making.table);
	aior_trim_no_room(report);
	report->inherited_count = search.inherited;
	return 0;
}

/* ---- restore ---- */

/* All that can be said before anything is touched. */
static int check_capsule(const struct aior_capsule *capsule, const void *bytes,
    struct aior_survey *survey, struct aior_error *error)
{
	unsigned long long addr = capsule->addr;

	if (aior_check_capsule(capsule, aior_host_arch(), error))
		return -1;
	if (!(capsule->prot & PROT_WRITE))
		return aior_fail(error, EACCES, "capsule",
		    "the capsule at 0x%llx cannot be written to: give it PROT_WRITE back "
		    "(mprotect)",
		    addr);
	if (aior_check_records(capsule, bytes, error))
		return -1;
	if (capsule->table.thread_count)
		return aior_fail(error, EBUSY, "capsule",
		    "the capsule at 0x%llx holds threads that are parked: only another process "
		    "can restore them (aio-restorer restore)",
		    addr);
	if (aior_survey(0, capsule, bytes, survey, error))
		return -1;
	return aior_check_staged(gettid(), &capsule->table, bytes, error);
}

/* If a mapping too many would come of it, it stays; but even so it is a capsule no more. */
static void unmap_capsule(const struct aior_survey *survey)
{
	uint64_t from = survey->start - (survey->is_guarded_before ? page_size() : 0);
	uint64_t to = survey->end + (survey->is_guarded_behind ? page_size() : 0);

	memset((void *)(uintptr_t)survey->start, 0, sizeof(struct aior_table));
	munmap((void *)(uintptr_t)from, (size_t)(to - from));
}

/* What a ring was before it was made larger. */
struct grown {
	struct aior_ring_record *record;
	uint64_t old_len, len;
	uint64_t kept; /* behind it, and again when it is back */
	uint32_t head, tail;
};

struct growth {
	struct grown *rings; /* a mapping of its own; NULL: there are none */
	uint64_t room;       /* its length */
	uint32_t count;
	struct aior_table *table;
	struct aior_host host;
	int ret;
	struct aior_error *error;
};

static struct aior_ring_record *record_of(struct aior_table *table, uint32_t i)
{
	return (void *)(uintptr_t)aior_capsule_ring(table, table, i);
}

static char *end_of(const struct grown *ring)
{
	return (char *)(uintptr_t)ring->record->addr + ring->old_len;
}

static void keep_again(const struct grown *ring)
{
	if (ring->kept)
		map(end_of(ring), ring->kept, PROT_NONE, MAP_FIXED_NOREPLACE | MAP_NORESERVE);
}

/* Gives back what lies behind rings that have not been laid out anew, or not any more. */
static void give_back(struct growth *growth)
{
	while (growth->count) {
		const struct grown *ring = &growth->rings[--growth->count];

		munmap(end_of(ring), (size_t)(ring->len - ring->old_len));
		keep_again(ring);
	}
}

static void shrink(struct growth *growth)
{
	for (uint32_t i = 0; i < growth->count; i++) {
		const struct grown *ring = &growth->rings[i];

		aior_lay_back(
		    (void *)(uintptr_t)ring->record->addr, ring->old_len, ring->head, ring->tail);
		ring->record->len = ring->old_len;
	}
	give_back(growth);
}

static int take(struct growth *growth, const struct grown *ring)
{
	uint64_t len = ring->len - ring->old_len;
	char *end = end_of(ring);
	void *more;
	int err;

	if (ring->kept)
		munmap(end, (size_t)ring->kept);
	more = map(end, len, PROT_READ | PROT_WRITE, MAP_FIXED_NOREPLACE);
	err = more ? EEXIST : errno;
	if (more == end)
		return 0;
	if (more)
		munmap(more, (size_t)len);
	keep_again(ring);
	return aior_fail_ring(growth->error, err, "memory", ring->record->addr,
	    "the %llu bytes behind it, which it takes on this host, cannot be had: %s",
	    (unsigned long long)len, aior_errno_text(err));
}

static void grow_one(uint32_t i, const struct aior_room *room, void *data)
{
	struct growth *growth = data;
	struct aior_ring_record *record = record_of(growth->table, i);
	const struct aio_ring *ring = (void *)(uintptr_t)record->addr;
	struct grown *grown = &growth->rings[growth->count];
	uint64_t len = aior_len_on(&growth->host, record->len);

	if (len <= record->len || growth->ret)
		return;
	*grown = (struct grown){record, record->len, len, room->kept, ring->head, ring->tail};
	growth->ret = take(growth, grown);
	growth->count += !growth->ret;
}

/* Those that this host has no smaller rings for: see grow.c. */
static int grow(struct growth *growth)
{
	struct aior_table *table = growth->table;
	uint32_t count = 0;

	if (aior_get_host(&growth->host, growth->error))
		return -1;
	for (uint32_t i = 0; i < table->ring_count; i++)
		count +=
		    aior_len_on(&growth->host, record_of(table, i)->len) > record_of(table, i)->len;
	if (!count)
		return 0;
	growth->room = whole_pages((uint64_t)count * sizeof(*growth->rings));
	growth->rings = map(find_apart(growth->room), growth->room, PROT_READ | PROT_WRITE, 0);
	if (!growth->rings)
		return aior_fail(growth->error, errno, "memory",
		    "there is no memory to work in: %s", aior_errno_text(errno));
	if (aior_each_room(0, table, table, grow_one, growth))
		growth->ret = aior_fail(growth->error, errno, "maps",
		    "the mappings cannot be read: %s", aior_errno_text(errno));
	if (growth->ret)
		give_back(growth);
	for (uint32_t i = 0; i < growth->count; i++) {
		const struct grown *ring = &growth->rings[i];

		aior_lay_out((void *)(uintptr_t)ring->record->addr, ring->old_len, ring->len);
		ring->record->len = ring->len;
	}
	return growth->ret;
}

static void release_one(uint32_t i, const struct aior_room *room, void *data)
{
	const struct aior_ring_record *record = record_of(data, i);

	if (room->kept)
		munmap((char *)(uintptr_t)record->addr + record->len, (size_t)room->kept);
}

/* All are live again: what is still kept behind them is not needed. */
static void release_room(struct aior_table *table)
{
	uint32_t i = 0;

	while (i < table->ring_count && record_of(table, i)->room <= record_of(table, i)->len)
		i++;
	if (i < table->ring_count)
		aior_each_room(0, table, table, release_one, table);
}

static int run_blob(struct aior_table *table, uint32_t flags, struct aior_error *error)
{
	struct aior_args args;
	void *scratch = map(find_apart(SCRATCH_BYTES), SCRATCH_BYTES, PROT_READ | PROT_WRITE, 0);
	int failed;

	if (!scratch)
		return aior_fail(error, errno, "memory", "there is no memory to work in: %s",
		    aior_errno_text(errno));
	args = args_for(table, scratch);
	args.flags = flags;
	failed = call_blob(&aior_own_restore, &args);
	munmap(scratch, SCRATCH_BYTES);
	if (failed)
		aior_fail_blob(error, &args,
		    args.ring < args.ring_count ? &record_of(table, args.ring)->addr : NULL);
	return failed ? -1 : 0;
}

/* On rings that are as large as they must be here. */
static int restore_rings(
    struct aior_table *table, uint32_t flags, struct aior_report *report, struct aior_error *error)
{
	struct growth growth = {.table = table, .error = error};
	uint32_t grown;
	int ret;

	ret = grow(&growth);
	grown = growth.count;
	if (!ret) {
		ret = aior_reserve_lost(report, table->poll_count, error) ||
			      run_blob(table, flags, error)
			  ? -1
			  : 0;
		if (ret)
			shrink(&growth);
	}
	if (growth.rings)
		munmap(growth.rings, (size_t)growth.room);
	if (ret)
		return ret;
	aior_report_restore(report, table, table);
	report->grown_count = grown;
	release_room(table);
	return 0;
}

static int restore(uint32_t flags, struct aior_report *report, struct aior_error *error)
{
	struct aior_capsule capsule;
	struct aior_survey survey;
	struct aior_table *table;
	int found = aior_find_capsule(0, &capsule, error);

	if (found <= 0)
		return found;
	table = (void *)(uintptr_t)capsule.addr;
	if (check_capsule(&capsule, table, &survey, error))
		return -1;
	aior_reset_records(&capsule.table, table);
	if (restore_rings(table, flags, report, error))
		return -1;
	unmap_capsule(&survey);
	return 0;
}

/* ---- both ---- */

static int run(int (*operation)(uint32_t how, struct aior_report *report, struct aior_error *error),
    uint32_t how, struct aior_report *wanted, struct aior_error *error)
{
	struct aior_report report = {0};
	struct quiet quiet;
	int ret;

	if (error)
		memset(error, 0, sizeof(*error));
	begin_quiet(&quiet);
	ret = operation(how, &report, error);
	if (ret || !wanted)
		aior_report_free(&report);
	if (wanted)
		*wanted = report;
	end_quiet(&quiet);
	return ret;
}

int aior_stage_self(struct aior_report *report, struct aior_error *error)
{
	return run(stage, 0, report, error);
}

int aior_stage_self_with_room(
    uint32_t room_cpus, struct aior_report *report, struct aior_error *error)
{
	return run(stage, room_cpus, report, error);
}

int aior_restore_self(struct aior_report *report, struct aior_error *error)
{
	return run(restore, 0, report, error);
}

int aior_restore_self_compact(struct aior_report *report, struct aior_error *error)
{
	return run(restore, AIOR_F_COMPACT, report, error);
}
