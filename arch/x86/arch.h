/* SPDX-License-Identifier: MIT */
/*
 * What the host side must know of x86: which programs run here, and a stopped thread's registers as
 * ptrace's NT_PRSTATUS has them.
 */
#ifndef AIOR_ARCH_H
#define AIOR_ARCH_H

#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
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

/* Each register is in one of the two: reads it, or sets it. */
#ifdef __x86_64__
#define ARCH_GET(regs, len, name64, name32)                                                        \
	((len) == sizeof((regs)->ia32) ? (uint64_t)(regs)->ia32.name32 : (regs)->native.name64)
#define ARCH_SET(regs, len, name64, name32, value)                                                 \
	((len) == sizeof((regs)->ia32) ? (void)((regs)->ia32.name32 = (uint32_t)(value))           \
				       : (void)((regs)->native.name64 = (value)))
#else
#define ARCH_GET(regs, len, name64, name32) ((void)(len), (uint64_t)(regs)->ia32.name32)
#define ARCH_SET(regs, len, name64, name32, value)                                                 \
	((void)(len), (void)((regs)->ia32.name32 = (uint32_t)(value)))
#endif

#define ARCH_CALL_BYTES 2 /* of the instruction that makes a system call */

/* Where in `code` the next such instruction is, from `at` on; `size` if there is none. */
static inline size_t arch_find_call(
    const unsigned char *code, size_t size, size_t at, size_t regs_len)
{
	const unsigned char *call = (const unsigned char *)"\x0f\x05"; /* syscall */

	if (regs_len == sizeof(struct ia32_regs))
		call = (const unsigned char *)"\xcd\x80"; /* int 0x80 */
	for (; at + ARCH_CALL_BYTES <= size; at++)
		if (code[at] == call[0] && code[at + 1] == call[1])
			return at;
	return size;
}

/* Of a program of that architecture. */
static inline size_t arch_regs_len(uint32_t arch)
{
	return arch == AIOR_ARCH_I386 ? sizeof(struct ia32_regs) : sizeof(arch_regs);
}

/*
 * The same with a return behind it; `words`: how many words of the stack that takes, the last of which is
 * where it goes to.
 */
static inline size_t arch_find_gate(
    const unsigned char *code, size_t size, size_t regs_len, unsigned *words)
{
	static const struct {
		char code[8];
		unsigned char bytes, is_32, words;
	} gates[] = {
	    {"\x0f\x05\xc3", 3, 0, 1},             /* syscall; ret */
	    {"\xcd\x80\xc3", 3, 1, 1},             /* int 0x80; ret */
	    {"\xcd\x80\x5d\x5a\x59\xc3", 6, 1, 4}, /* int 0x80; pop, three times; ret */
	};

	for (size_t i = 0; i < sizeof(gates) / sizeof(gates[0]); i++) {
		const unsigned char *found = NULL;

		if (gates[i].is_32 == (regs_len == sizeof(struct ia32_regs)))
			found = memmem(code, size, gates[i].code, gates[i].bytes);
		*words = gates[i].words;
		if (found)
			return (size_t)(found - code);
	}
	return size;
}

/* Where in `code` an instruction is that jumps to itself. */
static inline size_t arch_find_spin(const unsigned char *code, size_t size)
{
	const unsigned char *found = memmem(code, size, "\xeb\xfe", 2);

	return found ? (size_t)(found - code) : size;
}

#define ARCH_RETURNS_TO_SELF 0 /* the return takes its address from the stack */

/* Of its stack. */
static inline size_t arch_word_bytes(size_t len)
{
	return len == sizeof(struct ia32_regs) ? 4 : 8;
}

static inline uint64_t arch_pc(const arch_regs *regs, size_t len)
{
	return ARCH_GET(regs, len, rip, eip);
}

static inline uint64_t arch_sp(const arch_regs *regs, size_t len)
{
	return ARCH_GET(regs, len, rsp, esp);
}

static inline void arch_set_pc(arch_regs *regs, size_t len, uint64_t pc)
{
	ARCH_SET(regs, len, rip, eip, pc);
}

static inline void arch_set_sp(arch_regs *regs, size_t len, uint64_t sp)
{
	ARCH_SET(regs, len, rsp, esp, sp);
}

/* What a C function may take for granted: and no system call that is to be made again. */
static inline void arch_set_plain(arch_regs *regs, size_t len)
{
	const unsigned clear = 0x44500; /* TF, DF, NT, AC */

	ARCH_SET(regs, len, orig_rax, orig_eax, (uint64_t)-1);
	ARCH_SET(regs, len, eflags, eflags, ARCH_GET(regs, len, eflags, eflags) & ~(uint64_t)clear);
}

static inline void arch_set_return(arch_regs *regs, size_t len, uint64_t to)
{
	(void)regs, (void)len, (void)to;
}

static inline void arch_set_argument(arch_regs *regs, size_t len, uint64_t argument)
{
	ARCH_SET(regs, len, rdi, ebx, argument); /* i386: on the stack */
}

static inline void arch_set_call_to(arch_regs *regs, size_t len, long nr, const uint64_t args[6])
{
	ARCH_SET(regs, len, rax, eax, (uint64_t)nr);
	ARCH_SET(regs, len, rdi, ebx, args[0]);
	ARCH_SET(regs, len, rsi, ecx, args[1]);
	ARCH_SET(regs, len, rdx, edx, args[2]);
	ARCH_SET(regs, len, r10, esi, args[3]);
	ARCH_SET(regs, len, r8, edi, args[4]);
	ARCH_SET(regs, len, r9, ebp, args[5]);
}

static inline int64_t arch_result(const arch_regs *regs, size_t len)
{
	return len == sizeof(regs->ia32) ? (int64_t)(int32_t)regs->ia32.eax
					 : (int64_t)ARCH_GET(regs, len, rax, eax);
}

/* An argument of the call that the thread has just come back from: the first is number 0. */
static inline uint64_t arch_argument(const arch_regs *regs, size_t len, int which)
{
	switch (which) {
	case 0:
		return ARCH_GET(regs, len, rdi, ebx);
	case 1:
		return ARCH_GET(regs, len, rsi, ecx);
	case 2:
		return ARCH_GET(regs, len, rdx, edx);
	case 3:
		return ARCH_GET(regs, len, r10, esi);
	default:
		return ARCH_GET(regs, len, r8, edi);
	}
}

/*
 * The number of the call that it has just come back from, with whatever result; -1: of none that is known.
 */
static inline int arch_last_call(pid_t tid, const arch_regs *regs, size_t len)
{
	(void)tid;
	return (int)ARCH_GET(regs, len, orig_rax, orig_eax);
}

/* A call's result leaves all of its arguments in their registers. */
#define ARCH_LOSES_ARGUMENT 0

/* The first argument of the call that it has just come back from; -1: that is not known. */
static inline int arch_first_argument(
    pid_t tid, int nr, const arch_regs *regs, size_t len, const uint64_t *sampled, uint64_t *first)
{
	(void)tid, (void)nr, (void)sampled;
	*first = ARCH_GET(regs, len, rdi, ebx);
	return 0;
}

static inline void arch_set_result(arch_regs *regs, size_t len, int64_t result)
{
	ARCH_SET(regs, len, rax, eax, (uint64_t)result);
}

/* In the registers of a thread that is to make a call again; include/linux/errno.h. */
#define ARCH_ERESTARTNOHAND 514
#define ARCH_ERESTART_RESTARTBLOCK 516

/*
 * Has the kernel make the call again when the thread goes on, unless a signal with a handler comes
 * first, which then ends the call with EINTR: arch_do_signal_or_restart() in arch/x86/kernel/signal.c
 * looks at rax after the stop.
 */
static inline void arch_again(arch_regs *regs, size_t len, uint64_t first)
{
	(void)first;
	arch_set_result(regs, len, -ARCH_ERESTARTNOHAND);
}

/* Whether the kernel makes a call again when the thread goes on: ERESTARTSYS is the first such result. */
static inline int arch_calls_again(const arch_regs *regs, size_t len)
{
	int64_t result = arch_result(regs, len);

	return result >= -ARCH_ERESTART_RESTARTBLOCK && result <= -512 &&
	       arch_last_call(0, regs, len) != -1;
}

/*
 * For a thread that the kernel has not stopped itself, but which is one of another host's: it does not
 * know how long the call has waited already, so the call is made anew.
 */
static inline void arch_anew(arch_regs *regs, size_t len, int nr)
{
	(void)nr;
	if (arch_result(regs, len) == -ARCH_ERESTART_RESTARTBLOCK)
		arch_set_result(regs, len, -ARCH_ERESTARTNOHAND);
}

/* Only where a call's result loses its argument. */
static inline void arch_cancel_call(pid_t tid, arch_regs *regs, size_t len)
{
	(void)tid, (void)regs, (void)len;
}

static inline int arch_call_number(const arch_regs *regs, size_t len)
{
	return (int)ARCH_GET(regs, len, rax, eax);
}

static inline void arch_set_call_number(arch_regs *regs, size_t len, int nr)
{
	(void)regs, (void)len, (void)nr;
}

/*
 * Whether the thread has a shadow stack, which would not fit any more when it has been elsewhere
 * (NT_X86_SHSTK; Documentation/arch/x86/shstk.rst).
 */
static inline int arch_has_shadow_stack(pid_t tid)
{
	uint64_t pointer;
	struct iovec vec = {.iov_base = &pointer, .iov_len = sizeof(pointer)};

	return !aior_trace(PTRACE_GETREGSET, tid, 0x204, &vec);
}

#endif
