/* SPDX-License-Identifier: MIT */
/*
 * What both operations do with what the argument block points to: the records, and the iocbs of the
 * program, which it may have changed or unmapped since it submitted them.
 */
#ifndef AIOR_PIE_RECORDS_H
#define AIOR_PIE_RECORDS_H

#include "blob.h"

/* Whole words, both aligned as such. */
static void copy(unsigned long to, unsigned long from, unsigned long len)
{
#ifdef ARCH_COPY
	ARCH_COPY(to, from, len);
#else
	unsigned long *words = (unsigned long *)to;
	const unsigned long *source = (const unsigned long *)from;

	for (unsigned long i = 0; i < len / sizeof(*words); i++)
		words[i] = source[i];
#endif
}

/*
 * The arguments themselves: what can be said without touching what they point to. `poll_records` is
 * how many of those there are, or have room; `scratch`, how much of that memory is needed.
 */
static long check_tables(const struct aior_args *args, uint32_t poll_records, uint32_t scratch)
{
	uint32_t page = args->page_size;
	uint64_t rings = (uint64_t)args->ring_count * args->ring_stride;
	uint64_t polls = (uint64_t)poll_records * args->poll_stride;
	uint32_t tables =
	    (uint32_t)args->rings | (uint32_t)args->polls | args->ring_stride | args->poll_stride;
	uint32_t misaligned = (page & (page - 1)) | ((uint32_t)args->scratch & 15) | (tables & 7);

	if (misaligned || page < 4096 || args->scratch_len < scratch ||
	    (args->ring_count && args->ring_stride < sizeof(struct aior_ring_record)) ||
	    (poll_records && args->poll_stride < sizeof(struct aior_poll_record)))
		return -EINVAL;
	if (!fits_pointer(
		args->scratch | args->scratch_len | args->rings | args->polls | rings | polls) ||
	    !is_mapped(args->scratch, args->scratch_len, page) ||
	    !is_mapped(args->rings, rings, page) || !is_mapped(args->polls, polls, page))
		return -EFAULT;
	return 0;
}

/*
 * Whether a record's own fields are in order; the one before it ends at `end`, and `flags` are those
 * that the other operation leaves.
 */
static int is_sound(
    const struct aior_ring_record *ring, uint32_t flags, uint32_t page, unsigned long end)
{
	unsigned long addr = ring->addr, len = ring->len;

	if (!fits_pointer(ring->addr | ring->len) || (addr | len) & (page - 1) ||
	    ring->flags & ~flags || ring->prot & ~(uint32_t)(PROT_READ | PROT_WRITE | PROT_EXEC) ||
	    ring->reserved || addr + len < addr || addr < end)
		return 0;
	return 1;
}

/*
 * Reads an iocb: 1, or 0 if it is not there any more, which process_vm_readv answers with EFAULT.
 * Where that cannot be had, at least what is not mapped is not touched.
 */
static int read_iocb(const struct aior_args *args, uint64_t addr, struct iocb *iocb)
{
	/* cppcheck-suppress ctuuninitvar ; it is filled in there */
	struct sys_iovec to = {iocb, sizeof(*iocb)};
	struct sys_iovec from = {(void *)(unsigned long)addr, sizeof(*iocb)};
	long n;

	if (!fits_pointer(addr))
		return 0;
	n = sys_process_vm_readv(sys_getpid(), &to, &from);
	if (n == (long)sizeof(*iocb))
		return 1;
	if (n >= 0 || n == -EFAULT || addr & 7 || !is_mapped(addr, sizeof(*iocb), args->page_size))
		return 0;
	copy((unsigned long)iocb, addr, sizeof(*iocb));
	return 1;
}

#endif
