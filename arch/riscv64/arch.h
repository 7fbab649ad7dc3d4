/* SPDX-License-Identifier: MIT */
/*
 * What the host side must know of riscv64: which programs run here, and a stopped thread's registers
 * as ptrace's NT_PRSTATUS has them.
 */
#ifndef AIOR_ARCH_H
#define AIOR_ARCH_H

#include <asm/ptrace.h>
#include <errno.h>
#include <sys/ptrace.h>

#include "internal.h"

#define ARCH_LOCAL(X) X(AIOR_ARCH_RISCV64, aior_calls_native)

typedef struct user_regs_struct arch_regs;

/*
 * The system call that the thread has just come back from with EINTR; -1 if there is none: the
 * instruction in front of its pc, and the number in a7, say so.
 */
static inline int arch_interrupted_call(pid_t tid, const arch_regs *regs, size_t len)
{
	const uint32_t ecall = 0x00000073;
	long word;

	if (len != sizeof(*regs) || (long)regs->a0 != -EINTR)
		return -1;
	errno = 0;
	word = ptrace(PTRACE_PEEKTEXT, tid, (void *)(regs->pc - 4), 0);
	return !errno && (uint32_t)word == ecall ? (int)regs->a7 : -1;
}

/* A call's result takes the place of its first argument, in a0. */
#define ARCH_LOSES_ARGUMENT 1

/*
 * Winds the thread back to the instruction that makes the call, with its first argument: the one that
 * the kernel keeps (orig_a0), if /proc/TID/syscall shows it, or `first`, if that is known. What a signal
 * that is about to run a handler must do to the call was settled before the stop
 * (arch/riscv/kernel/signal.c): EINTR is right then, and stays. Returns whether the registers are to be
 * set.
 */
static inline int arch_restart(
    pid_t tid, int nr, arch_regs *regs, size_t len, const uint64_t *first, int handler_is_near)
{
	uint64_t kept;

	(void)len;
	if (handler_is_near)
		return 0;
	if (aior_current_call(tid, &kept) == nr && kept != (uint64_t)-EINTR)
		first = &kept;
	if (!first)
		return 0;
	regs->a0 = *first;
	regs->pc -= 4;
	return 1;
}

#endif
