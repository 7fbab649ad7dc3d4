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

#define ARCH_CALL_BYTES 4 /* of the instruction that makes a system call */

/* Where in `code` the next such instruction is, from `at` on; `size` if there is none. */
static inline size_t arch_find_call(
    const unsigned char *code, size_t size, size_t at, size_t regs_len)
{
	const uint32_t call = 0x00000073;

	(void)regs_len;
	for (at = (at + 1) & ~(size_t)1; at + ARCH_CALL_BYTES <= size; at += 2)
		if (!memcmp(code + at, &call, sizeof(call)))
			return at;
	return size;
}

/* Of a program of that architecture. */
static inline size_t arch_regs_len(uint32_t arch)
{
	(void)arch;
	return sizeof(arch_regs);
}

/* The same with a return behind it; `words`: how many words of the stack that takes. */
static inline size_t arch_find_gate(
    const unsigned char *code, size_t size, size_t regs_len, unsigned *words)
{
	const unsigned char gate[6] = {0x73, 0, 0, 0, 0x82, 0x80}; /* ecall; ret */
	const unsigned char *found = memmem(code, size, gate, sizeof(gate));

	(void)regs_len;
	*words = 0;
	return found && !((size_t)(found - code) & 1) ? (size_t)(found - code) : size;
}

static inline size_t arch_find_spin(const unsigned char *code, size_t size)
{
	(void)code;
	return size;
}

/*
 * The return can lead to the call again, which its result has made harmless: a mapping that is there already,
 * and then one at no address; an unmapping of the first page, which nobody has.
 */
#define ARCH_RETURNS_TO_SELF 1

/* Of its stack. */
static inline size_t arch_word_bytes(size_t len)
{
	(void)len;
	return 8;
}

static inline uint64_t arch_pc(const arch_regs *regs, size_t len)
{
	(void)len;
	return regs->pc;
}

static inline uint64_t arch_sp(const arch_regs *regs, size_t len)
{
	(void)len;
	return regs->sp;
}

static inline void arch_set_pc(arch_regs *regs, size_t len, uint64_t pc)
{
	(void)len;
	regs->pc = pc;
}

static inline void arch_set_sp(arch_regs *regs, size_t len, uint64_t sp)
{
	(void)len;
	regs->sp = sp;
}

/* What a C function may take for granted. */
static inline void arch_set_plain(arch_regs *regs, size_t len)
{
	(void)regs, (void)len;
}

static inline void arch_set_return(arch_regs *regs, size_t len, uint64_t to)
{
	(void)len;
	regs->ra = to;
}

static inline void arch_set_argument(arch_regs *regs, size_t len, uint64_t argument)
{
	(void)len;
	regs->a0 = argument;
}

static inline void arch_set_call_to(arch_regs *regs, size_t len, long nr, const uint64_t args[6])
{
	(void)len;
	memcpy((char *)regs + offsetof(arch_regs, a0), args, 6 * sizeof(args[0]));
	regs->a7 = (unsigned long)nr;
}

static inline int64_t arch_result(const arch_regs *regs, size_t len)
{
	(void)len;
	return (int64_t)regs->a0;
}

/* An argument of the call that the thread has just come back from: the first is number 0. */
static inline uint64_t arch_argument(const arch_regs *regs, size_t len, int which)
{
	(void)len;
	return (
	    (const unsigned long *)regs)[offsetof(arch_regs, a0) / sizeof(long) + (size_t)which];
}

/*
 * The number of the call that it has just come back from, with whatever result; -1: of none that is known.
 */
static inline int arch_last_call(pid_t tid, const arch_regs *regs, size_t len)
{
	const uint32_t call = 0x00000073;
	long word;

	if (len != sizeof(*regs))
		return -1;
	errno = 0;
	word = ptrace(PTRACE_PEEKTEXT, tid, (void *)(regs->pc - ARCH_CALL_BYTES), 0);
	return !errno && (uint32_t)word == call ? (int)regs->a7 : -1;
}

/*
 * The system call that the thread has just come back from with EINTR; -1 if there is none: the
 * instruction in front of its pc, and the number in a7, say so.
 */
static inline int arch_interrupted_call(pid_t tid, const arch_regs *regs, size_t len)
{
	return arch_result(regs, len) == -EINTR ? arch_last_call(tid, regs, len) : -1;
}

/* A call's result takes the place of its first argument, in a0. */
#define ARCH_LOSES_ARGUMENT 1

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

/*
 * Winds the thread back to the instruction that makes the call. What a signal that is about to run a
 * handler must do to the call was settled before the stop (arch/riscv/kernel/signal.c).
 */
static inline void arch_again(arch_regs *regs, size_t len, uint64_t first)
{
	(void)len;
	regs->a0 = first;
	regs->pc -= ARCH_CALL_BYTES;
}

/*
 * For a thread that the kernel has not stopped itself, but which is one of another host's: it does not
 * know how long the call has waited already, so the call is made anew.
 */
static inline void arch_anew(arch_regs *regs, size_t len, int nr)
{
	const unsigned long restart_syscall = 128;

	(void)len;
	if (regs->a7 == restart_syscall && nr >= 0)
		regs->a7 = (unsigned long)nr;
}

/* At the stop in front of a call: it will not be made. */
static inline void arch_cancel_call(pid_t tid, arch_regs *regs, size_t len)
{
	arch_regs cancelled = *regs;
	struct iovec vec = {.iov_base = &cancelled, .iov_len = len};

	cancelled.a7 = (unsigned long)-1;
	ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &vec);
}

/* The number of the call that is about to be made. */
static inline int arch_call_number(const arch_regs *regs, size_t len)
{
	(void)len;
	return (int)regs->a7;
}

static inline void arch_set_call_number(arch_regs *regs, size_t len, int nr)
{
	(void)len;
	regs->a7 = (unsigned long)nr;
}

static inline int arch_has_shadow_stack(pid_t tid)
{
	(void)tid;
	return 0;
}

#endif
