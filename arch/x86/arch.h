/* SPDX-License-Identifier: MIT */
/*
 * What the host side must know of x86: its number, and a stopped thread's registers as ptrace's
 * NT_PRSTATUS has them.
 */
#ifndef AIOR_ARCH_H
#define AIOR_ARCH_H

#include <elf.h>
#include <sys/user.h>

#include "restorer.h"

#ifdef __x86_64__
#define HOST_ARCH AIOR_ARCH_X86_64
#define HOST_MACHINE EM_X86_64
#else
#define HOST_ARCH AIOR_ARCH_I386
#define HOST_MACHINE EM_386
#endif

typedef struct user_regs_struct arch_regs;

#ifdef __x86_64__

/* The system call that the thread has just come back from; -1 if it is not behind one. */
static inline long arch_syscall(const arch_regs *regs)
{
	return (long)regs->orig_rax;
}

static inline long arch_result(const arch_regs *regs)
{
	return (long)regs->rax;
}

/*
 * Has the kernel make the call again when the thread goes on, unless a signal with a handler comes
 * first, which then ends the call with EINTR: arch_do_signal_or_restart() in
 * arch/x86/kernel/signal.c looks at rax after the stop.
 */
static inline void arch_restart(arch_regs *regs)
{
	const long ERESTARTNOHAND = 514;

	regs->rax = (unsigned long)-ERESTARTNOHAND;
}

#endif

#endif
