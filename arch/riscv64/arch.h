/* SPDX-License-Identifier: MIT */
/*
 * What the host side must know of riscv64: which programs run here, and a stopped thread's registers
 * as ptrace's NT_PRSTATUS has them.
 */
#ifndef AIOR_ARCH_H
#define AIOR_ARCH_H

#include <asm/ptrace.h>
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "internal.h"

#define ARCH_LOCAL(X) X(AIOR_ARCH_RISCV64, aior_calls_native)

typedef struct user_regs_struct arch_regs;

#define ARCH_CALL_BYTES 4
#define CALL 0x00000073u /* ecall */
#define CALL_STEP 2
#define GATE "\x73\x00\x00\x00\x82\x80" /* ecall; ret */
#define REG_FIRST offsetof(arch_regs, a0)
#define REG_NUMBER a7
#define REG_LINK ra
#include "one-abi.h"

/* What a C function may take for granted. */
static inline void arch_set_plain(arch_regs *regs, size_t len)
{
	(void)regs, (void)len;
}

/*
 * The first argument of the call that it has just come back from: the kernel keeps it (orig_a0), and
 * /proc/TID/syscall may show it. -1: that is not known.
 */
static inline int arch_first_argument(
    pid_t tid, int nr, const arch_regs *regs, size_t len, const uint64_t *sampled, uint64_t *first)
{
	(void)len;
	if (aior_current_call(tid, first) == nr && *first != regs->a0)
		return 0;
	if (!sampled)
		return -1;
	*first = *sampled;
	return 0;
}

/* At the stop in front of a call: it will not be made. */
static inline void arch_cancel_call(pid_t tid, arch_regs *regs, size_t len)
{
	arch_regs cancelled = *regs;
	struct iovec vec = {.iov_base = &cancelled, .iov_len = len};

	cancelled.a7 = (unsigned long)-1;
	aior_trace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &vec);
}

static inline int arch_has_shadow_stack(pid_t tid)
{
	(void)tid;
	return 0;
}

#endif
