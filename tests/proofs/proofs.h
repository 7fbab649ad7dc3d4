/* SPDX-License-Identifier: MIT */
/*
 * For what CBMC proves: each function prove_…() holds for every value that any_…() can have. `suppose` says which of
 * them are looked at, and `holds` what must be true of them. What a refute_…() says does not hold.
 */
#ifndef PROOFS_H
#define PROOFS_H

#include <stdint.h>

/* (CBMC gives what is called so any value.) */
uint32_t nondet_u32(void);
uint64_t nondet_u64(void);

#define any_u32 nondet_u32
#define any_u64 nondet_u64

#define suppose(condition) __CPROVER_assume(condition)
#define holds(condition) __CPROVER_assert(condition, #condition)

/* As small as a page is anywhere, and as large. */
static inline uint32_t any_page_size(void)
{
	uint32_t page = any_u32();

	suppose(page == 4096 || page == 16384 || page == 65536);
	return page;
}

#endif
