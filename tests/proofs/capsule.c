/* SPDX-License-Identifier: MIT */
/* The checks of a capsule, whose table and records whoever carried it may have made up (loader/capsule.c). */
#include "../../loader/capsule.c"

#include "proofs.h"

#undef aior_fail
#undef aior_fail_ring
#undef aior_refuse
int aior_fail(struct aior_error *error, int err, const char *step, const char *format, ...)
{
	return -1;
}
int aior_fail_ring(
    struct aior_error *error, int err, const char *step, uint64_t ring, const char *format, ...)
{
	return -1;
}
int aior_refuse(struct aior_error *error, const char *format, ...)
{
	return -1;
}
const char *aior_arch_name(uint32_t arch)
{
	return arch && arch <= 4 ? "" : NULL;
}
const char *aior_arch_text(uint32_t arch)
{
	return "";
}
uint32_t aior_host_arch(void)
{
	return AIOR_ARCH_X86_64;
}

struct aior_capsule nondet_capsule(void);
struct aior_ring_record nondet_record(void);

/* Somewhere in memory, in a mapping that ends there, too. */
static struct aior_capsule any_capsule(void)
{
	struct aior_capsule capsule = nondet_capsule();

	suppose(capsule.addr <= UINT64_MAX - capsule.room);
	return capsule;
}

struct extent_of {
	uint64_t start, end;
};

static int are_apart(struct extent_of a, struct extent_of b)
{
	return a.end <= b.start || b.end <= a.start || a.start == a.end || b.start == b.end;
}

/*
 * Of a table that is taken, each set of records lies in the capsule, and on nothing else of it; and a stride that is too
 * small for a record is not taken. (So each record does, as n records of a stride take n strides. Products of numbers of 32
 * bits, which are the same here and there: Z3 sees that, bit by bit it would take hours.)
 */
void prove_records_are_inside_and_apart(void)
{
	struct aior_capsule capsule = any_capsule();
	const struct aior_table *table = &capsule.table;
	struct extent_of rings, polls, threads;

	suppose(!check_extents(&capsule, NULL));
	rings.start = table->rings;
	rings.end = rings.start + (uint64_t)table->ring_count * table->ring_stride;
	polls.start = table->polls;
	polls.end = polls.start + (uint64_t)table->poll_count * table->poll_stride;
	threads.start = table->threads;
	threads.end = threads.start + (uint64_t)table->thread_count * table->thread_stride;
	holds(table->ring_count > 0 && table->total <= capsule.room);
	holds(table->ring_stride >= sizeof(struct aior_ring_record));
	holds(table->poll_stride >= sizeof(struct aior_poll_record));
	holds(!table->thread_count || table->thread_stride >= sizeof(struct aior_thread_record));
	holds(rings.start >= sizeof(*table) && rings.end <= table->total);
	holds(polls.start >= sizeof(*table) && polls.end <= table->total);
	holds(!table->thread_count ||
	      (threads.start >= sizeof(*table) && threads.end <= table->total));
	holds(are_apart(rings, polls) && are_apart(rings, threads) && are_apart(polls, threads));
}

/* The same of one that nobody has checked yet. */
void prove_held_rings_are_inside(void)
{
	struct aior_capsule capsule = any_capsule();
	const struct aior_table *table = &capsule.table;

	suppose(aior_holds_rings(&capsule));
	holds(table->ring_stride >= sizeof(struct aior_ring_record));
	holds(table->rings + (uint64_t)table->ring_count * table->ring_stride <= capsule.room);
}

void prove_polls_are_counted_without_overflow(void)
{
	struct aior_capsule capsule = any_capsule();
	uint64_t before = capsule.table.total;

	aior_count_polls(&capsule.table);
	holds(capsule.table.total >= before);
}

/* Of a record that is taken: a ring that memory can hold, behind the one before, and not on the capsule. */
void prove_a_ring_is_where_one_can_be(void)
{
	struct aior_capsule capsule = any_capsule();
	struct aior_ring_record ring = nondet_record();
	uint64_t end = any_u64();

	suppose(capsule.table.page_size >= 4096 &&
		!(capsule.table.page_size & (capsule.table.page_size - 1)));
	suppose(capsule.table.total && capsule.table.total <= capsule.room);
	suppose(!check_ring_record(&capsule, &ring, end, NULL));
	holds(ring.addr && ring.addr >= end && ring.addr + ring.len - 1 >= ring.addr);
	holds(ring.len && ring.len <= AIO_RING_MAX_LEN && ring.len % capsule.table.page_size == 0);
	holds(ring.addr + ring.len - 1 < capsule.addr ||
	      ring.addr >= capsule.addr + capsule.table.total);
	holds(!ring.room || ring.room >= ring.len);
}

/* (Some are taken: or all of that would be true of nothing.) */
void refute_no_table_is_taken(void)
{
	struct aior_capsule capsule = any_capsule();

	suppose(!aior_check_table(&capsule, AIOR_ARCH_X86_64, NULL));
	holds(!capsule.table.poll_count || !capsule.table.thread_count);
}

void refute_no_record_is_taken(void)
{
	struct aior_capsule capsule = any_capsule();
	struct aior_ring_record ring = nondet_record();

	suppose(capsule.table.page_size == 4096 && capsule.table.total <= capsule.room);
	holds(check_ring_record(&capsule, &ring, 4096, NULL));
}
