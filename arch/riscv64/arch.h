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

/*
 * Winds the thread back to the instruction that makes the call, with its first argument, which the
 * result has replaced; the kernel keeps it (orig_a0), and /proc/TID/syscall shows it. What a signal
 * that is about to run a handler must do to the call was settled before the stop: EINTR is right
 * then, and stays (arch/riscv/kernel/signal.c). Returns whether the registers are to be set.
 */
static inline int arch_restart(pid_t tid, int nr, arch_regs *regs, size_t len, int handler_is_near)
{
	uint64_t first;

	(void)len;
	if (handler_is_near || aior_current_call(tid, &first) != nr)
		return 0;
	regs->a0 = first;
	regs->pc -= 4;
	return 1;
}

#endif
