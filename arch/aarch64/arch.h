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

#define ARCH_CALL_BYTES 4 /* of the instruction that makes a system call */

/* Where in `code` the next such instruction is, from `at` on; `size` if there is none. */
static inline size_t arch_find_call(
    const unsigned char *code, size_t size, size_t at, size_t regs_len)
{
	const uint32_t call = 0xd4000001;

	(void)regs_len;
	for (at = (at + 3) & ~(size_t)3; at + ARCH_CALL_BYTES <= size; at += 4)
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
	const uint32_t gate[2] = {0xd4000001, 0xd65f03c0}; /* svc 0; ret */
	const unsigned char *found = memmem(code, size, gate, sizeof(gate));

	(void)regs_len;
	*words = 0;
	return found && !((size_t)(found - code) & 3) ? (size_t)(found - code) : size;
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
	(void)len;
	regs->pstate &= ~0x200c00ul; /* SS, BTYPE */
}

static inline void arch_set_return(arch_regs *regs, size_t len, uint64_t to)
{
	(void)len;
	regs->regs[30] = to;
}

static inline void arch_set_argument(arch_regs *regs, size_t len, uint64_t argument)
{
	(void)len;
	regs->regs[0] = argument;
}

static inline void arch_set_call_to(arch_regs *regs, size_t len, long nr, const uint64_t args[6])
{
	(void)len;
	memcpy(regs->regs, args, 6 * sizeof(args[0]));
	regs->regs[8] = (unsigned long)nr;
}

static inline int64_t arch_result(const arch_regs *regs, size_t len)
{
	(void)len;
	return (int64_t)regs->regs[0];
}

/* An argument of the call that the thread has just come back from: the first is number 0. */
static inline uint64_t arch_argument(const arch_regs *regs, size_t len, int which)
{
	(void)len;
	return regs->regs[which];
}

/*
 * The number of the call that it has just come back from, with whatever result; -1: of none that is known.
 */
static inline int arch_last_call(pid_t tid, const arch_regs *regs, size_t len)
{
	const uint32_t call = 0xd4000001;
	long word;

	if (len != sizeof(*regs))
		return -1;
	errno = 0;
	word = ptrace(PTRACE_PEEKTEXT, tid, (void *)(regs->pc - ARCH_CALL_BYTES), 0);
	return !errno && (uint32_t)word == call ? (int)regs->regs[8] : -1;
}

/*
 * The system call that the thread has just come back from with EINTR; -1 if there is none. The kernel
 * has forgotten by then that it was in one (forget_syscall(), arch/arm64/kernel/signal.c), but the
 * instruction in front of its pc, and the number in x8, still say so.
 */
static inline int arch_interrupted_call(pid_t tid, const arch_regs *regs, size_t len)
{
	return arch_result(regs, len) == -EINTR ? arch_last_call(tid, regs, len) : -1;
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

/*
 * Winds the thread back to the instruction that makes the call. What a signal that is about to run a
 * handler must do to the call was settled before the stop (arch/arm64/kernel/signal.c).
 */
static inline void arch_again(arch_regs *regs, size_t len, uint64_t first)
{
	(void)len;
	regs->regs[0] = first;
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
	if (regs->regs[8] == restart_syscall && nr >= 0)
		regs->regs[8] = (unsigned long)nr;
}

/* At the stop in front of a call: it will not be made. */
static inline void arch_cancel_call(pid_t tid, arch_regs *regs, size_t len)
{
	(void)regs, (void)len;
	arch_set_call(tid, -1);
}

/* The number of the call that is about to be made. */
static inline int arch_call_number(const arch_regs *regs, size_t len)
{
	(void)len;
	return (int)regs->regs[8];
}

static inline void arch_set_call_number(arch_regs *regs, size_t len, int nr)
{
	(void)len;
	regs->regs[8] = (unsigned long)nr;
}

/*
 * Whether the thread has a shadow stack, which would not fit any more when it has been elsewhere
 * (NT_ARM_GCS; Documentation/arch/arm64/gcs.rst).
 */
static inline int arch_has_shadow_stack(pid_t tid)
{
	uint64_t gcs[3] = {0}; /* features enabled, features locked, pointer */
	struct iovec vec = {.iov_base = gcs, .iov_len = sizeof(gcs)};

	return !ptrace(PTRACE_GETREGSET, tid, 0x410, &vec) && gcs[0] & 1;
}

#endif
