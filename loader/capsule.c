/* SPDX-License-Identifier: MIT */
/*
 * The capsule of a staged process: where it is, and whether what it says can be believed. Whatever
 * carried the process may have damaged it, so nothing in it is used unchecked.
 *
 * All of this runs while the caller's own threads stand still (aior_restore_self()): no heap, no lock.
 */
#include <errno.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "grow.h"
#include "internal.h"
#include "names.h"

/* ---- whether it can be believed ---- */

static int damaged(const struct aior_capsule *capsule, struct aior_error *error, const char *how)
{
	return aior_fail(error, EINVAL, "capsule", "the capsule at 0x%llx is damaged: %s",
	    (unsigned long long)capsule->addr, how);
}

static int check_version(const struct aior_capsule *capsule, struct aior_error *error)
{
	const struct aior_table *table = &capsule->table;

	if (capsule->room < sizeof(*table))
		return damaged(capsule, error, "it is cut off");
	if (memcmp(table->magic, AIOR_TABLE_MAGIC, sizeof(table->magic)))
		return damaged(capsule, error, "it has lost its magic number");
	if (table->abi > AIOR_ABI)
		return aior_fail(error, ENOTSUP, "capsule",
		    "the capsule at 0x%llx is of version %u, and this release knows versions up to "
		    "%u: restore it with the release that has staged it, or a newer one",
		    (unsigned long long)capsule->addr, table->abi, AIOR_ABI);
	if (!table->abi)
		return damaged(capsule, error, "its version is 0");
	if (table->size != sizeof(*table))
		return damaged(capsule, error, "the size of its table is not that of its version");
	if (table->reserved[0] | table->reserved[1] | table->reserved[2])
		return damaged(capsule, error, "a reserved field is not 0");
	return 0;
}

static int check_state(const struct aior_capsule *capsule, struct aior_error *error)
{
	unsigned long long addr = capsule->addr;

	switch (capsule->table.state) {
	case AIOR_TABLE_STAGED:
		return 0;
	case AIOR_TABLE_PREPARED:
		return aior_fail(error, EBUSY, "capsule",
		    "the capsule at 0x%llx is prepared and not filled: whoever began to stage this "
		    "process has not gone on, and its rings are live",
		    addr);
	case AIOR_TABLE_DRAINING:
		return aior_fail(error, EBUSY, "capsule",
		    "the capsule at 0x%llx is being filled: wait until the requests in flight have "
		    "ended",
		    addr);
	case AIOR_TABLE_IMAGE:
		return aior_fail(error, EINVAL, "capsule",
		    "at 0x%llx lies the table of an image, no capsule: unmap it", addr);
	default:
		return damaged(capsule, error, "there is no such state as it says");
	}
}

static int check_home(const struct aior_capsule *capsule, uint32_t arch, struct aior_error *error)
{
	const struct aior_table *table = &capsule->table;
	unsigned long long addr = capsule->addr;

	if (!aior_arch_name(table->arch))
		return damaged(capsule, error, "there is no such architecture as it says");
	if (table->arch != arch)
		return aior_refuse(error,
		    "the capsule at 0x%llx is that of a process on %s, and this process is one on "
		    "%s",
		    addr, aior_arch_name(table->arch), aior_arch_text(arch));
	if (table->page_size < 4096 || table->page_size > 65536 ||
	    table->page_size & (table->page_size - 1))
		return damaged(capsule, error, "no host has pages of the size that it says");
	if (capsule->page_size && table->page_size != capsule->page_size)
		return aior_refuse(error,
		    "the capsule at 0x%llx comes from a host with pages of %u bytes, and this one "
		    "has pages of %u",
		    addr, table->page_size, capsule->page_size);
	return 0;
}

/* A table of records: where it is, how many, bytes from one to the next. */
struct extent {
	uint64_t offset, count, stride, smallest;
	const char *size_fault, *place_fault;
};

static uint64_t extent_end(const struct extent *extent)
{
	return extent->offset + extent->count * extent->stride;
}

/* Where the records are: in any order, but one table behind the other, and nothing else. */
static int check_extents(const struct aior_capsule *capsule, struct aior_error *error)
{
	const struct aior_table *table = &capsule->table;
	const struct extent extents[] = {
	    {table->rings, table->ring_count, table->ring_stride, sizeof(struct aior_ring_record),
		"its ring records are smaller than any, or not aligned",
		"its ring records lie outside of it, or on other records"},
	    {table->polls, table->poll_count, table->poll_stride, sizeof(struct aior_poll_record),
		"its poll records are smaller than any, or not aligned",
		"its poll records lie outside of it, or on other records"},
	    {table->threads, table->thread_count, table->thread_stride,
		sizeof(struct aior_thread_record),
		"its thread records are smaller than any, or not aligned",
		"its thread records lie outside of it, or on other records"},
	};
	const size_t n = table->threads || table->thread_count || table->thread_stride ? 3 : 2;
	uint64_t bytes = sizeof(*table);

	if (table->total > capsule->room)
		return damaged(capsule, error, "it is longer than its mapping");
	if (!table->ring_count)
		return damaged(capsule, error, "it names no ring");
	for (size_t i = 0; i < n; i++) {
		const struct extent *it = &extents[i];

		if (it->stride < it->smallest || it->stride & 7 || it->offset & 7)
			return damaged(capsule, error, it->size_fault);
		if (it->offset < sizeof(*table) || extent_end(it) > table->total)
			return damaged(capsule, error, it->place_fault);
		for (size_t k = 0; k < i; k++)
			if (it->offset < extent_end(&extents[k]) &&
			    extents[k].offset < extent_end(it))
				return damaged(capsule, error, it->place_fault);
		bytes += it->count * it->stride;
	}
	return bytes == table->total
		   ? 0
		   : damaged(capsule, error, "its length is not that of its records");
}

int aior_check_table(const struct aior_capsule *capsule, uint32_t arch, struct aior_error *error)
{
	if (check_version(capsule, error) || check_home(capsule, arch, error) ||
	    check_extents(capsule, error))
		return -1;
	return 0;
}

int aior_check_capsule(const struct aior_capsule *capsule, uint32_t arch, struct aior_error *error)
{
	if (check_version(capsule, error) || check_state(capsule, error))
		return -1;
	return aior_check_table(capsule, arch, error);
}

int aior_holds_rings(const struct aior_capsule *capsule)
{
	const struct aior_table *table = &capsule->table;

	return table->ring_stride >= sizeof(struct aior_ring_record) &&
	       table->rings + (uint64_t)table->ring_count * table->ring_stride <= capsule->room;
}

const struct aior_ring_record *aior_capsule_ring(
    const struct aior_table *table, const void *bytes, uint32_t i)
{
	return (const void *)((const char *)bytes + table->rings + (size_t)i * table->ring_stride);
}

const struct aior_poll_record *aior_capsule_poll(
    const struct aior_table *table, const void *bytes, uint32_t i)
{
	return (const void *)((const char *)bytes + table->polls + (size_t)i * table->poll_stride);
}

struct aior_thread_record *aior_capsule_thread(
    const struct aior_table *table, const void *bytes, uint32_t i)
{
	return (void *)((uintptr_t)bytes + table->threads + (size_t)i * table->thread_stride);
}

struct aior_args aior_capsule_args(const struct aior_table *table, uint64_t addr)
{
	return (struct aior_args){
	    .abi = AIOR_ABI,
	    .size = sizeof(struct aior_args),
	    .end = AIOR_END_PARK,
	    .rings = addr + table->rings,
	    .ring_count = table->ring_count,
	    .ring_stride = table->ring_stride,
	    .polls = addr + table->polls,
	    .poll_count = table->poll_count,
	    .poll_stride = table->poll_stride,
	    .page_size = table->page_size,
	    .fd = -1,
	};
}

void aior_count_polls(struct aior_table *table)
{
	if (table->state == AIOR_TABLE_STAGED && table->total == table->polls)
		table->total += (uint64_t)table->poll_count * table->poll_stride;
}

/* A ring record; `end` is where the ring before it ends. */
static int check_ring_record(const struct aior_capsule *capsule,
    const struct aior_ring_record *ring, uint64_t end, struct aior_error *error)
{
	uint64_t page_size = capsule->table.page_size, last = ring->addr + ring->len - 1;
	const char *how = NULL;

	if (!ring->addr || ring->addr % page_size)
		how = "its address is none that a ring can have";
	else if (ring->len % page_size || ring->len < page_size || ring->len > AIO_RING_MAX_LEN)
		how = "its length is none that a ring can have";
	else if (last < ring->addr ||
		 (capsule->table.arch == aior_host_arch() && (uintptr_t)last != last))
		how = "it does not end where a process's memory does";
	else if (ring->addr < end)
		how = "it begins before the ring before it ends";
	else if (ring->addr < capsule->addr + capsule->table.total && capsule->addr <= last)
		how = "it lies on the capsule itself";
	else if (ring->flags & AIOR_RING_LIVE && !capsule->may_be_live)
		how = "a restore has left it live";
	else if (ring->flags & ~(AIOR_RING_DRAINED | AIOR_RING_LIVE))
		how = "it has a flag that there is not";
	else if (ring->staged != ring->addr)
		how = "its content is said to lie elsewhere than at its address";
	else if (ring->room && ring->room < ring->len)
		how = "there is less room for it than it takes";
	else if (ring->prot & ~(uint32_t)(PROT_READ | PROT_WRITE | PROT_EXEC) ||
		 (ring->prot && !(ring->prot & PROT_READ)))
		how = "its protection is none that it can have been staged with";
	else if (ring->reserved)
		how = "a reserved field is not 0";
	if (!how)
		return 0;
	return aior_fail_ring(error, EINVAL, "capsule", ring->addr,
	    "the capsule at 0x%llx has a damaged record of it: %s",
	    (unsigned long long)capsule->addr, how);
}

/* Polls are grouped by ring, in ring order: so each is one of that ring's or of one behind it. */
static int check_poll_records(
    const struct aior_capsule *capsule, const void *bytes, struct aior_error *error)
{
	const struct aior_table *table = &capsule->table;
	uint32_t ring = 0;

	for (uint32_t i = 0; i < table->poll_count; i++) {
		const struct aior_poll_record *poll = aior_capsule_poll(table, bytes, i);

		while (ring < table->ring_count &&
		       aior_capsule_ring(table, bytes, ring)->addr != poll->ring)
			ring++;
		if (ring == table->ring_count)
			return aior_fail(error, EINVAL, "capsule",
			    "the capsule at 0x%llx is damaged: poll %u belongs to no ring of it, "
			    "or is not where the polls of its ring are",
			    (unsigned long long)capsule->addr, i);
		if (poll->flags & ~AIOR_POLL_LOST)
			return aior_fail(error, EINVAL, "capsule",
			    "the capsule at 0x%llx is damaged: poll %u has a flag that there is "
			    "not",
			    (unsigned long long)capsule->addr, i);
	}
	return 0;
}

int aior_check_records(
    const struct aior_capsule *capsule, const void *bytes, struct aior_error *error)
{
	const struct aior_table *table = &capsule->table;
	uint64_t end = 0;

	for (uint32_t i = 0; i < table->ring_count; i++) {
		const struct aior_ring_record *ring = aior_capsule_ring(table, bytes, i);

		if (check_ring_record(capsule, ring, end, error))
			return -1;
		end = ring->addr + ring->len;
	}
	return check_poll_records(capsule, bytes, error);
}

/* ---- whether its rings are there ---- */

/* The part of the rings that a mapping holds, which may be several, or a part of one. */
static void see_rings(struct aior_survey *survey, const struct aior_mapping *mapping)
{
	const struct aior_table *table = survey->table;

	while (survey->ring < table->ring_count && mapping->start <= survey->seen &&
	       survey->seen < mapping->end) {
		const struct aior_ring_record *ring =
		    aior_capsule_ring(table, survey->bytes, survey->ring);

		if (mapping->end < ring->addr + ring->len) {
			survey->seen = mapping->end;
		} else if (++survey->ring < table->ring_count) {
			ring = aior_capsule_ring(table, survey->bytes, survey->ring);
			survey->seen = ring->addr;
		}
	}
}

static int visit_staged(const struct aior_mapping *mapping, void *data)
{
	struct aior_survey *survey = data;

	if (!mapping->is_private_memory)
		return 0;
	if (mapping->prot & PROT_READ)
		see_rings(survey, mapping);
	if (!mapping->prot) {
		survey->is_guarded_before |= mapping->end == survey->start;
		survey->is_guarded_behind |= mapping->start == survey->end;
	}
	return 0;
}

int aior_survey(pid_t task, const struct aior_capsule *capsule, const void *bytes,
    struct aior_survey *survey, struct aior_error *error)
{
	const struct aior_table *table = &capsule->table;

	*survey = (struct aior_survey){
	    .table = table,
	    .bytes = bytes,
	    .seen = aior_capsule_ring(table, bytes, 0)->addr,
	    .start = capsule->addr,
	    .end = capsule->addr +
		   ((table->total + table->page_size - 1) & ~((uint64_t)table->page_size - 1)),
	};
	if (aior_each_mapping(task, visit_staged, survey) < 0)
		return aior_fail(error, errno, "maps",
		    "the mappings cannot be read: %s (it takes /proc, and a free descriptor)",
		    aior_errno_text(errno));
	if (survey->ring < table->ring_count)
		return aior_fail_ring(error, EFAULT, "ring",
		    aior_capsule_ring(table, bytes, survey->ring)->addr,
		    "its staged memory is gone, or is not the private memory that it was: the "
		    "capsule is damaged, or something has unmapped it");
	return 0;
}

/* A header that cannot be read is not sound. */
static struct aior_ring staged_ring(pid_t tid, const struct aior_ring_record *record)
{
	struct aior_ring ring = {.addr = record->addr, .len = record->len, .state = AIOR_STAGED};
	struct aio_ring header = {.nr = 0};

	aior_read_memory(tid, record->addr, &header, sizeof(header));
	aior_take_header(&ring, &header);
	return ring;
}

struct staged_check {
	struct aior_host_check check;
	pid_t tid;
	const struct aior_table *table;
	const void *bytes;
	uint32_t poll;
};

static void check_staged_ring(uint32_t i, const struct aior_room *room, void *data)
{
	struct staged_check *staged = data;
	struct aior_ring ring =
	    staged_ring(staged->tid, aior_capsule_ring(staged->table, staged->bytes, i));

	ring.room = room->len;
	while (staged->poll < staged->table->poll_count &&
	       aior_capsule_poll(staged->table, staged->bytes, staged->poll)->ring == ring.addr) {
		ring.polls++;
		staged->poll++;
	}
	aior_check_ring(&staged->check, &ring, 0);
}

int aior_check_staged(
    pid_t tid, const struct aior_table *table, const void *bytes, struct aior_error *error)
{
	struct staged_check staged = {.tid = tid, .table = table, .bytes = bytes};

	for (uint32_t i = 0; i < table->ring_count; i++) {
		struct aior_ring ring = staged_ring(tid, aior_capsule_ring(table, bytes, i));

		if (ring.state == AIOR_DAMAGED)
			return aior_fail_ring(error, EINVAL, "ring", ring.addr,
			    "its staged content is damaged: %s", ring.damage);
	}
	if (aior_begin_check(&staged.check, error))
		return -1;
	if (aior_each_room(tid, table, bytes, check_staged_ring, &staged))
		return aior_fail(error, errno, "maps",
		    "the mappings cannot be read: %s (it takes /proc, and a free descriptor)",
		    aior_errno_text(errno));
	return aior_end_check(&staged.check);
}

void aior_reset_records(const struct aior_table *table, void *bytes)
{
	uint32_t cpus = aior_possible_cpus();

	for (uint32_t i = 0; i < table->ring_count; i++) {
		struct aior_ring_record *record = (void *)aior_capsule_ring(table, bytes, i);

		record->flags = 0;
		record->n = aior_least_n(cpus, record->len);
	}
}

/* ---- finding it ---- */

/* Mappings that are looked into at once; process_vm_readv takes 1,024 (UIO_MAXIOV). */
#define BATCH 128

/*
 * The bounds of the second look: pages that are read, in all and of one mapping (so that one large
 * buffer does not use up all), and, where the kernel cannot skip what is not there, entries of the
 * pagemap: 128 MiB, 32 MiB, and 4 GiB of address space. Each is some milliseconds.
 */
#define MOST_PAGES 32768u
#define MOST_OF_ONE 8192u
#define MOST_ENTRIES (1u << 20)

/* Entries of the pagemap: Documentation/admin-guide/mm/pagemap.rst. */
#define ENTRY_PRESENT (1ull << 63)
#define ENTRY_SWAPPED (1ull << 62)
#define ENTRIES 512
#define WINDOW 64

/* Linux 6.7; include/uapi/linux/fs.h. */
#ifndef PAGEMAP_SCAN
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#define PAGE_IS_PRESENT (1 << 3)
#define PAGE_IS_SWAPPED (1 << 4)
struct page_region {
	uint64_t start, end, categories;
};
struct pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted,
	    category_mask, category_anyof_mask, return_mask;
};
#endif
#define REGIONS 32

#define NOT_OPEN (-2)

struct candidate {
	uint64_t addr;
	uint64_t end; /* of its mapping */
	uint32_t prot;
};

struct search {
	pid_t task;  /* 0: the caller, */
	pid_t tid;   /* ... who is this */
	int pagemap; /* -1: it cannot be had; NOT_OPEN: nobody has wanted it yet */
	uint32_t page_size;
	int is_second;       /* look: any page may be it */
	int can_scan;        /* PAGEMAP_SCAN */
	uint32_t pages_left; /* second look */
	uint32_t entries_left;
	uint64_t window_at;
	size_t window_count;
	uint64_t window[WINDOW]; /* entries of the pagemap: mappings lie close to each other */
	int err;
	size_t batched;
	struct candidate batch[BATCH];
	size_t found; /* how many; the first two are */
	struct candidate capsules[2];
};

static ssize_t read_task(pid_t tid, void *to, uint64_t addr, size_t len)
{
	struct iovec local = {to, len}, remote = {(void *)(uintptr_t)addr, len};

	return aior_read_pieces(tid, &local, 1, &remote, 1);
}

static int read_table(const struct search *search, struct aior_capsule *capsule)
{
	memset(&capsule->table, 0, sizeof(capsule->table));
	return read_task(search->tid, &capsule->table, capsule->addr,
		   capsule->room < sizeof(capsule->table) ? capsule->room
							  : sizeof(capsule->table)) < 0;
}

static struct aior_capsule capsule_at(const struct candidate *candidate)
{
	return (struct aior_capsule){
	    .addr = candidate->addr,
	    .room = candidate->end - candidate->addr,
	    .prot = candidate->prot,
	    .page_size = (uint32_t)sysconf(_SC_PAGESIZE),
	};
}

/*
 * In the first look the magic number at the very beginning of a mapping is enough. In the second it
 * may be anything, a copy of a capsule in a buffer of the program's, so it must be a sound table.
 */
static void consider(struct search *search, const struct candidate *candidate)
{
	struct aior_capsule capsule = capsule_at(candidate);

	if (search->is_second && (read_table(search, &capsule) || check_version(&capsule, NULL) ||
				     check_state(&capsule, NULL) || check_extents(&capsule, NULL)))
		return;
	if (search->found < 2)
		search->capsules[search->found] = *candidate;
	search->found++;
}

/* Reads the first bytes of all that are in the batch; what cannot be read is none. */
static void look(struct search *search)
{
	struct iovec remote[BATCH];
	uint64_t magic[BATCH];
	size_t i = 0;

	for (size_t n = 0; n < search->batched; n++)
		remote[n] =
		    (struct iovec){(void *)(uintptr_t)search->batch[n].addr, sizeof(magic[0])};
	while (i < search->batched && !search->err) {
		size_t left = search->batched - i;
		struct iovec local = {&magic[i], left * sizeof(magic[0])};
		ssize_t n = aior_read_pieces(search->tid, &local, 1, &remote[i], left);
		size_t end = i + (n < 0 ? 0 : (size_t)n / sizeof(magic[0]));

		if (n < 0 && errno != EFAULT)
			search->err = errno;
		for (; i < end; i++)
			if (!memcmp(&magic[i], AIOR_TABLE_MAGIC, sizeof(magic[i])))
				consider(search, &search->batch[i]);
		i++; /* where it stopped is one that cannot be read */
	}
	search->batched = 0;
}

static void add(struct search *search, uint64_t addr, const struct aior_mapping *mapping)
{
	search->batch[search->batched++] = (struct candidate){addr, mapping->end, mapping->prot};
	if (search->batched == BATCH)
		look(search);
}

/* The pagemap's entries from an address on; how many. */
static size_t read_entries(
    const struct search *search, uint64_t addr, uint64_t *entries, size_t count)
{
	ssize_t n = pread(search->pagemap, entries, count * sizeof(*entries),
	    (off_t)(addr / search->page_size * sizeof(*entries)));

	return n < 0 ? 0 : (size_t)n / sizeof(*entries);
}

static int is_there(uint64_t entry)
{
	return !!(entry & (ENTRY_PRESENT | ENTRY_SWAPPED));
}

/* Whether a page is there, or nobody can tell. */
static int may_be_there(struct search *search, uint64_t addr)
{
	uint64_t at = (addr - search->window_at) / search->page_size;

	if (search->pagemap < 0)
		return 1;
	if (addr < search->window_at || at >= search->window_count) {
		search->window_at = addr;
		search->window_count = read_entries(search, addr, search->window, WINDOW);
		at = 0;
	}
	return !search->window_count || is_there(search->window[at]);
}

/*
 * Only pages that are there are read: others hold nothing, reading them would make page tables, and
 * where they belong to a userfaultfd it would wait for somebody who may be standing still.
 */
static int first_look(struct search *search, const struct aior_mapping *mapping)
{
	if (may_be_there(search, mapping->start))
		add(search, mapping->start, mapping);
	return search->err;
}

/* The regions of pages that are there, from `start` on; -1 if the kernel cannot say. */
static int scan(struct search *search, uint64_t *start, uint64_t end, uint64_t most,
    struct page_region regions[REGIONS])
{
	const uint64_t there = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
	struct pm_scan_arg scan = {
	    .size = sizeof(scan),
	    .start = *start,
	    .end = end,
	    .vec = (uintptr_t)regions,
	    .vec_len = REGIONS,
	    .max_pages = most,
	    .category_anyof_mask = there,
	    .return_mask = there,
	};
	int n = search->can_scan ? ioctl(search->pagemap, PAGEMAP_SCAN, &scan) : -1;

	if (n >= 0)
		*start = scan.walk_end;
	return n;
}

/* The same, where the kernel has no PAGEMAP_SCAN. */
static int scan_entries(
    struct search *search, uint64_t *start, uint64_t end, struct page_region regions[REGIONS])
{
	uint64_t entries[ENTRIES];
	size_t room = (end - *start) / search->page_size, count;
	int n = 0;

	if (room > ENTRIES)
		room = ENTRIES;
	if (room > search->entries_left)
		room = search->entries_left;
	count = read_entries(search, *start, entries, room);
	if (!count)
		*start = end;
	for (size_t i = 0; i < count; i++, *start += search->page_size, search->entries_left--) {
		if (!is_there(entries[i]))
			continue;
		if (!n || regions[n - 1].end != *start) {
			if (n == REGIONS)
				break;
			regions[n++].start = *start;
		}
		regions[n - 1].end = *start + search->page_size;
	}
	return n;
}

/* Every page of a mapping that is there, but the first, which has been read. */
static int second_look(struct search *search, const struct aior_mapping *mapping)
{
	struct page_region regions[REGIONS];
	uint64_t at = mapping->start + search->page_size;
	uint32_t left = search->pages_left < MOST_OF_ONE ? search->pages_left : MOST_OF_ONE;

	while (left && at < mapping->end && !search->err) {
		int n = scan(search, &at, mapping->end, left, regions);

		if (n < 0) {
			search->can_scan = 0;
			n = scan_entries(search, &at, mapping->end, regions);
		}
		for (int i = 0; i < n; i++)
			for (uint64_t page = regions[i].start; left && page < regions[i].end;
			     page += search->page_size, left--, search->pages_left--)
				add(search, page, mapping);
	}
	return search->err;
}

/* The pagemap is opened behind the maps: where there is but one descriptor, it is done without. */
static int visit(const struct aior_mapping *mapping, void *data)
{
	struct search *search = data;

	if (!mapping->is_private_memory || !(mapping->prot & PROT_READ))
		return 0;
	if (search->pagemap == NOT_OPEN)
		search->pagemap = aior_open_pagemap(search->task);
	return search->is_second ? second_look(search, mapping) : first_look(search, mapping);
}

/* All mappings. 0, or an errno. */
static int look_everywhere(struct search *search)
{
	int err = aior_each_mapping(search->task, visit, search);

	if (err)
		return err < 0 ? errno : err;
	look(search);
	return search->err;
}

/* Returns 1 if there is one, 0 if not, -1 with EFAULT if it has gone since it was seen, or is broken. */
static int search_once(
    pid_t task, int looks_twice, struct aior_capsule *capsule, struct aior_error *error)
{
	struct search search = {
	    .task = task,
	    .tid = task ? task : (pid_t)syscall(SYS_gettid),
	    .pagemap = NOT_OPEN,
	    .page_size = (uint32_t)sysconf(_SC_PAGESIZE),
	    .can_scan = 1,
	    .pages_left = MOST_PAGES,
	    .entries_left = MOST_ENTRIES,
	};
	int err;

	err = look_everywhere(&search);
	if (!err && !search.found && search.pagemap >= 0 && looks_twice) {
		search.is_second = 1;
		err = look_everywhere(&search);
	}
	if (search.pagemap >= 0)
		close(search.pagemap);
	if (err)
		return aior_fail(error, err, "capsule",
		    "the process's memory cannot be searched for a capsule: %s (it takes /proc, "
		    "a free descriptor, and process_vm_readv)",
		    aior_errno_text(err));
	if (search.found > 1)
		return aior_fail(error, EINVAL, "capsule",
		    "there are %zu capsules, at 0x%llx and 0x%llx: nothing tells which one is "
		    "right",
		    search.found, (unsigned long long)search.capsules[0].addr,
		    (unsigned long long)search.capsules[1].addr);
	if (!search.found)
		return 0;
	*capsule = capsule_at(&search.capsules[0]);
	if (read_table(&search, capsule))
		return aior_fail(error, errno, "capsule",
		    "the capsule at 0x%llx cannot be read: %s", (unsigned long long)capsule->addr,
		    aior_errno_text(errno));
	return 1;
}

/* (A process that runs may be restored by others meanwhile: what was seen is gone then, and is looked for again.) */
static int find_capsule(
    pid_t task, int looks_twice, struct aior_capsule *capsule, struct aior_error *error)
{
	struct aior_error unwanted;
	int ret, tries = 4;

	if (!error)
		error = &unwanted;
	do
		ret = search_once(task, looks_twice, capsule, error);
	while (ret < 0 && error->err == EFAULT && --tries);
	return ret;
}

int aior_find_capsule(pid_t task, struct aior_capsule *capsule, struct aior_error *error)
{
	return find_capsule(task, 1, capsule, error);
}

int aior_find_new_capsule(pid_t task, struct aior_capsule *capsule, struct aior_error *error)
{
	return find_capsule(task, 0, capsule, error);
}
