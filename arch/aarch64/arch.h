/* SPDX-License-Identifier: MIT */
/*
 * What the host side must know of aarch64: which programs run here, and a stopped thread's registers
 * as ptrace's NT_PRSTATUS has them.
 */
#ifndef AIOR_ARCH_H
#define AIOR_ARCH_H

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>

#include "internal.h"

#define ARCH_LOCAL(X) X(AIOR_ARCH_AARCH64, aior_calls_native)

typedef struct user_regs_struct arch_regs;

#define ARCH_CALL_BYTES 4
#define CALL 0xd4000001u /* svc 0 */
#define CALL_STEP 4
#define GATE "\x01\x00\x00\xd4\xc0\x03\x5f\xd6" /* svc 0; ret */
#define REG_FIRST offsetof(arch_regs, regs)
#define REG_NUMBER regs[8]
#define REG_LINK regs[30]
#include "one-abi.h"

/* What a C function may take for granted. */
static inline void arch_set_plain(arch_regs *regs, size_t len)
{
	(void)len;
	regs->pstate &= ~0x200c00ul; /* SS, BTYPE */
}

/* What the kernel takes for the number of the call that the thread is in; -1: it is in none. */
static inline int arch_set_call(pid_t tid, int nr)
{
	struct iovec vec = {.iov_base = &nr, .iov_len = sizeof(nr)};

	return aior_trace(PTRACE_SETREGSET, tid, NT_ARM_SYSTEM_CALL, &vec) ? -1 : 0;
}

/*
 * The first argument of the call, which the kernel keeps (orig_x0). /proc/TID/syscall shows it, though
 * not for a thread that is in no call: so we say for a moment that it is. Newer kernels (7.2; not 6.12)
 * show x0 there as it is now, so that they do not tell. Returns -1 then.
 */
static inline int arch_kept_argument(pid_t tid, int nr, uint64_t result, uint64_t *first)
{
	int shown;

	if (arch_set_call(tid, nr))
		return -1;
	shown = aior_current_call(tid, first);
	arch_set_call(tid, -1);
	return shown == nr && *first != result ? 0 : -1;
}

/* The first argument of the call that it has just come back from; -1: that is not known. */
static inline int arch_first_argument(
    pid_t tid, int nr, const arch_regs *regs, size_t len, const uint64_t *sampled, uint64_t *first)
{
	(void)len;
	if (!arch_kept_argument(tid, nr, regs->regs[0], first))
		return 0;
	if (!sampled)
		return -1;
	*first = *sampled;
	return 0;
}

/* At the stop in front of a call: it will not be made. */
static inline void arch_cancel_call(pid_t tid, arch_regs *regs, size_t len)
{
	(void)regs, (void)len;
	arch_set_call(tid, -1);
}

/*
 * Whether the thread has a shadow stack, which would not fit any more when it has been elsewhere
 * (NT_ARM_GCS; Documentation/arch/arm64/gcs.rst).
 */
static inline int arch_has_shadow_stack(pid_t tid)
{
	uint64_t gcs[3] = {0}; /* features enabled, features locked, pointer */
	struct iovec vec = {.iov_base = gcs, .iov_len = sizeof(gcs)};

	return !aior_trace(PTRACE_GETREGSET, tid, 0x410, &vec) && gcs[0] & 1;
}

#endif
