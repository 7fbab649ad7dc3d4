/* SPDX-License-Identifier: MIT */
/*
 * For an architecture on which one kind of program runs, whose instructions have a fixed place, whose first
 * arguments are in registers, and a call's result in that of the first one. Its arch.h defines before:
 *
 *	arch_regs            struct user_regs_struct
 *	CALL                 the instruction that makes a system call, ARCH_CALL_BYTES long, and ...
 *	CALL_STEP            ... what its address is a multiple of
 *	GATE                 the bytes of it and of a return behind it, as a string
 *	REG_FIRST            where the registers of the first six arguments begin, in arch_regs
 *	REG_NUMBER           the register of a call's number
 *	REG_LINK             the register that a return goes to
 */
#ifndef AIOR_ONE_ABI_H
#define AIOR_ONE_ABI_H

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>

/* Where in `code` the next such instruction is, from `at` on; `size` if there is none. */
static inline size_t arch_find_call(
    const unsigned char *code, size_t size, size_t at, size_t regs_len)
{
	const uint32_t call = CALL;

	(void)regs_len;
	at = (at + CALL_STEP - 1) & ~(size_t)(CALL_STEP - 1);
	for (; at + ARCH_CALL_BYTES <= size; at += CALL_STEP)
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
	const unsigned char *found = memmem(code, size, GATE, sizeof(GATE) - 1);

	(void)regs_len;
	*words = 0;
	return found && !((size_t)(found - code) % CALL_STEP) ? (size_t)(found - code) : size;
}

/* None is needed. */
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
	return sizeof(long);
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

static inline void arch_set_return(arch_regs *regs, size_t len, uint64_t to)
{
	(void)len;
	regs->REG_LINK = to;
}

/* An argument of the call that the thread has just come back from: the first is number 0. */
static inline uint64_t arch_argument(const arch_regs *regs, size_t len, int which)
{
	(void)len;
	return ((const unsigned long *)regs)[REG_FIRST / sizeof(long) + (size_t)which];
}

static inline void arch_set_argument(arch_regs *regs, size_t len, uint64_t argument)
{
	(void)len;
	((unsigned long *)regs)[REG_FIRST / sizeof(long)] = argument;
}

static inline int64_t arch_result(const arch_regs *regs, size_t len)
{
	return (int64_t)arch_argument(regs, len, 0);
}

static inline void arch_set_call_to(arch_regs *regs, size_t len, long nr, const uint64_t args[6])
{
	(void)len;
	memcpy((char *)regs + REG_FIRST, args, 6 * sizeof(args[0]));
	regs->REG_NUMBER = (unsigned long)nr;
}

/* The number of the call that is about to be made. */
static inline int arch_call_number(const arch_regs *regs, size_t len)
{
	(void)len;
	return (int)regs->REG_NUMBER;
}

static inline void arch_set_call_number(arch_regs *regs, size_t len, int nr)
{
	(void)len;
	regs->REG_NUMBER = (unsigned long)nr;
}

/*
 * The number of the call that it has just come back from, with whatever result; -1: of none. The kernel may
 * have forgotten by then that it was in one, but the instruction in front of its pc, and the number, still say
 * so.
 */
static inline int arch_last_call(pid_t tid, const arch_regs *regs, size_t len)
{
	long word;

	if (len != sizeof(*regs))
		return -1;
	errno = 0;
	word = aior_trace(PTRACE_PEEKTEXT, tid, (void *)(regs->pc - ARCH_CALL_BYTES), 0);
	return !errno && (uint32_t)word == CALL ? (int)regs->REG_NUMBER : -1;
}

/* The system call that the thread has just come back from with EINTR; -1 if there is none. */
static inline int arch_interrupted_call(pid_t tid, const arch_regs *regs, size_t len)
{
	return arch_result(regs, len) == -EINTR ? arch_last_call(tid, regs, len) : -1;
}

/* A call's result takes the place of its first argument. */
#define ARCH_LOSES_ARGUMENT 1

/*
 * Winds the thread back to the instruction that makes the call. What a signal that is about to run a
 * handler must do to the call was settled before the stop (arch/ARCH/kernel/signal.c).
 */
static inline void arch_again(arch_regs *regs, size_t len, uint64_t first)
{
	arch_set_argument(regs, len, first);
	regs->pc -= ARCH_CALL_BYTES;
}

/* Only where a call's result does not lose its argument. */
static inline int arch_calls_again(const arch_regs *regs, size_t len)
{
	(void)regs, (void)len;
	return 0;
}

/*
 * For a thread that the kernel has not stopped itself, but which is one of another host's: it does not
 * know how long the call has waited already, so the call is made anew. (include/uapi/asm-generic/unistd.h)
 */
static inline void arch_anew(arch_regs *regs, size_t len, int nr)
{
	const unsigned long restart_syscall = 128;

	(void)len;
	if (regs->REG_NUMBER == restart_syscall && nr >= 0)
		regs->REG_NUMBER = (unsigned long)nr;
}

#endif
