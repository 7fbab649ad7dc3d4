/* SPDX-License-Identifier: MIT */
/*
 * What every blob does before and after its operation: answer versions it does not know, keep
 * signals out, and end where the argument block says.
 */
#ifndef AIOR_PIE_BLOB_H
#define AIOR_PIE_BLOB_H

#include <asm/errno.h>
#include <asm/fcntl.h>
#include <asm/mman.h>
#include <asm/signal.h>
#include <linux/mman.h>

#include "restorer.h"
#include "ring.h"
#include "sys.h"

/* In arch/: see the entry file there. Hidden, or calls would need a table that nobody fills. */
#pragma GCC visibility push(hidden)
int aior_main(struct aior_args *args, int jumped);
_Noreturn void aior_park(void);
_Noreturn void aior_sigreturn(unsigned long stack_pointer);
#pragma GCC visibility pop

/* A blob's entry is called as everybody's C functions are, whatever its own are like. */
#ifndef ARCH_ENTRY
#define ARCH_ENTRY
#endif
typedef int ARCH_ENTRY blob_entry(struct aior_args *args);

/*
 * Addresses in the contract have 64 bits everywhere. Here they have those of the architecture's
 * pointers: what does not fit is refused first (fits_pointer), and the rest is exact.
 */
static inline int fits_pointer(uint64_t addr)
{
	return addr == (unsigned long)addr;
}

static inline struct aior_ring_record *ring_record(const struct aior_args *args, uint32_t i)
{
	return (void *)((unsigned long)args->rings + (unsigned long)i * args->ring_stride);
}

static inline struct aior_poll_record *poll_record(const struct aior_args *args, uint32_t i)
{
	return (void *)((unsigned long)args->polls + (unsigned long)i * args->poll_stride);
}

static inline struct aio_ring *ring_at(unsigned long addr)
{
	return (struct aio_ring *)addr;
}

static inline struct aio_slot *slots_at(unsigned long addr)
{
	return (struct aio_slot *)(addr + AIO_RING_HEADER);
}

/* Writes down what failed, and returns it as the blob does: -errno. */
static inline int fail(struct aior_args *args, uint32_t step, long err)
{
	args->step = step;
	args->err = (uint32_t)-err;
	return (int)err;
}

/* Whether what a system call has returned is -errno, where success may be any address. */
static inline int is_errno(long ret)
{
	return (unsigned long)ret > -4096ul;
}

/*
 * Whether all of [addr, addr + len) is mapped, so that touching it does not end in SIGSEGV (unless
 * it is mapped without access). msync(MS_ASYNC) does nothing but look: mm/msync.c. It takes a length
 * that wraps for 0.
 */
static inline int is_mapped(unsigned long addr, unsigned long len, uint32_t page_size)
{
	unsigned long start = addr & -(unsigned long)page_size;

	return !len || (addr + len > addr && !sys_msync(start, addr + len - start, MS_ASYNC));
}

/* Whether this release knows the block's version, size, flags and end. */
static inline int is_known(const struct aior_args *args, uint32_t flags_known)
{
	uint64_t reserved = 0;

	if (!args->abi || args->abi > AIOR_ABI || args->size != aior_args_size(args->abi))
		return 0;
	for (unsigned i = 0; i < sizeof(args->reserved) / sizeof(args->reserved[0]); i++)
		reserved |= args->reserved[i];
	return !reserved && !(args->flags & ~flags_known) && args->end <= AIOR_END_SIGRETURN;
}

static inline void clear_results(struct aior_args *args)
{
	args->err = 0;
	args->step = AIOR_STEP_NONE;
	args->ring = AIOR_NO_RING;
	args->polls_lost = 0;
	for (unsigned i = 0; i < sizeof(args->reserved_out) / sizeof(args->reserved_out[0]); i++)
		args->reserved_out[i] = 0;
}

static inline __attribute__((always_inline)) int blob_run(
    struct aior_args *args, int jumped, uint32_t flags_known, int (*operation)(struct aior_args *))
{
	uint64_t every_signal = ~0ull;
	int ret;

	if (!is_known(args, flags_known)) {
		if (jumped)
			aior_park();
		return -ENOSYS;
	}
	clear_results(args);
	sys_rt_sigprocmask(SIG_SETMASK, &every_signal, &args->sigmask);
	if (jumped && args->end == AIOR_END_RETURN)
		ret = fail(args, AIOR_STEP_ARGS, -EINVAL);
	else
		ret = operation(args);
	if (jumped || !ret) {
		if (!ret && args->end == AIOR_END_SIGRETURN)
			aior_sigreturn(args->sigframe);
		if (jumped || args->end == AIOR_END_PARK)
			aior_park();
	}
	sys_rt_sigprocmask(SIG_SETMASK, &args->sigmask, 0);
	return ret;
}

#endif
