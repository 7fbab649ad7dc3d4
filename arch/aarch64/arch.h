/* SPDX-License-Identifier: MIT */
/*
 * What the host side must know of aarch64: which programs run here, and a stopped thread's registers
 * as ptrace's NT_PRSTATUS has them.
 */
#ifndef AIOR_ARCH_H
#define AIOR_ARCH_H

#include <elf.h>
#include <errno.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>

#include "internal.h"

#define ARCH_LOCAL(X) X(AIOR_ARCH_AARCH64, aior_calls_native)

typedef struct user_regs_struct arch_regs;

/*
 * The system call that the thread has just come back from with EINTR; -1 if there is none. The kernel
 * has forgotten by then that it was in one (forget_syscall(), arch/arm64/kernel/signal.c), but the
 * instruction in front of its pc, and the number in x8, still say so.
 */
static inline int arch_interrupted_call(pid_t tid, const arch_regs *regs, size_t len)
{
	const uint32_t svc_0 = 0xd4000001;
	long word;

	if (len != sizeof(*regs) || (long)regs->regs[0] != -EINTR)
		return -1;
	errno = 0;
	word = ptrace(PTRACE_PEEKTEXT, tid, (void *)(regs->pc - 4), 0);
	return !errno && (uint32_t)word == svc_0 ? (int)regs->regs[8] : -1;
}

/* What the kernel takes for the number of the call that the thread is in; -1: it is in none. */
static inline int arch_set_call(pid_t tid, int nr)
{
	struct iovec vec = {.iov_base = &nr, .iov_len = sizeof(nr)};

	return ptrace(PTRACE_SETREGSET, tid, NT_ARM_SYSTEM_CALL, &vec) ? -1 : 0;
}

/* A call's result takes the place of its first argument, in x0. */
#define ARCH_LOSES_ARGUMENT 1

/*
 * The first argument of the call, which the kernel keeps (orig_x0). /proc/TID/syscall shows it, though
 * not for a thread that is in no call: so we say for a moment that it is. Newer kernels (7.2; not 6.12)
 * show x0 there as it is now, so that they do not tell. Returns -1 then.
 */
static inline int arch_kept_argument(pid_t tid, int nr, uint64_t *first)
{
	int shown;

	if (arch_set_call(tid, nr))
		return -1;
	shown = aior_current_call(tid, first);
	arch_set_call(tid, -1);
	return shown == nr && *first != (uint64_t)-EINTR ? 0 : -1;
}

/*
 * Winds the thread back to the instruction that makes the call, with its first argument: the kernel's,
 * or `first`, if that is known. What a signal that is about to run a handler must do to the call was
 * settled before the stop (arch/arm64/kernel/signal.c): EINTR is right then, and stays. Returns
 * whether the registers are to be set.
 */
static inline int arch_restart(
    pid_t tid, int nr, arch_regs *regs, size_t len, const uint64_t *first, int handler_is_near)
{
	uint64_t kept;

	(void)len;
	if (handler_is_near)
		return 0;
	if (!arch_kept_argument(tid, nr, &kept))
		first = &kept;
	if (!first)
		return 0;
	regs->regs[0] = *first;
	regs->pc -= 4;
	return 1;
}

#endif
