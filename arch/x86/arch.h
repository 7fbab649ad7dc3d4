/* SPDX-License-Identifier: MIT */
/*
 * What the host side must know of x86: which programs run here, and a stopped thread's registers as
 * ptrace's NT_PRSTATUS has them.
 */
#ifndef AIOR_ARCH_H
#define AIOR_ARCH_H

#include <errno.h>
#include <sys/user.h>

#include "internal.h"

/* On an x86_64 kernel 32-bit programs run too (if it has IA32_EMULATION), and can be traced. */
#ifdef __x86_64__
#define ARCH_LOCAL(X)                                                                              \
	X(AIOR_ARCH_X86_64, aior_calls_native)                                                     \
	X(AIOR_ARCH_I386, aior_calls_i386)
extern const struct aior_calls aior_calls_i386;
#else
#define ARCH_LOCAL(X) X(AIOR_ARCH_I386, aior_calls_native)
#endif

/* struct user_regs_struct of a 32-bit program. */
struct ia32_regs {
	uint32_t ebx, ecx, edx, esi, edi, ebp, eax, ds, es, fs, gs, orig_eax, eip, cs, eflags, esp,
	    ss;
};

typedef union {
	struct user_regs_struct native;
	struct ia32_regs ia32;
} arch_regs;

/* The system call that the thread has just come back from with EINTR; -1 if there is none. */
static inline int arch_interrupted_call(pid_t tid, const arch_regs *regs, size_t len)
{
	(void)tid;
	if (len == sizeof(regs->ia32))
		return regs->ia32.eax == (uint32_t)-EINTR ? (int)regs->ia32.orig_eax : -1;
#ifdef __x86_64__
	if (len == sizeof(regs->native))
		return (long)regs->native.rax == -EINTR ? (int)regs->native.orig_rax : -1;
#endif
	return -1;
}

/* A call's result leaves all of its arguments in their registers. */
#define ARCH_LOSES_ARGUMENT 0

/*
 * Has the kernel make the call again when the thread goes on, unless a signal with a handler comes
 * first, which then ends the call with EINTR: arch_do_signal_or_restart() in
 * arch/x86/kernel/signal.c looks at rax after the stop. Returns whether the registers are to be set.
 */
static inline int arch_restart(
    pid_t tid, int nr, arch_regs *regs, size_t len, const uint64_t *first, int handler_is_near)
{
	const long ERESTARTNOHAND = 514;

	(void)tid, (void)nr, (void)first, (void)handler_is_near;
	if (len == sizeof(regs->ia32))
		regs->ia32.eax = (uint32_t)-ERESTARTNOHAND;
#ifdef __x86_64__
	else
		regs->native.rax = (unsigned long)-ERESTARTNOHAND;
#endif
	return 1;
}

#endif
