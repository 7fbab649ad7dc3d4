/* SPDX-License-Identifier: MIT */
/*
 * Raw system calls on x86 (System V ABI supplements; syscall(2)). All registers that are not named
 * here are kept.
 *
 *	        number  arguments                result, -errno on failure  lost
 *	x86_64  rax     rdi rsi rdx r10 r8 r9    rax                        rcx r11
 *	i386    eax     ebx ecx edx esi edi ebp  eax                        none
 */
#ifndef AIOR_ARCH_SYSCALL_H
#define AIOR_ARCH_SYSCALL_H

#include <asm/unistd.h>

#ifdef __x86_64__

static inline long syscall1(long nr, long a)
{
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a) : "rcx", "r11", "memory");
	return ret;
}

static inline long syscall2(long nr, long a, long b)
{
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b) : "rcx", "r11", "memory");
	return ret;
}

static inline long syscall3(long nr, long a, long b, long c)
{
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return ret;
}

static inline long syscall4(long nr, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
}

static inline long syscall6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

#else

/* The blob's own functions take their arguments in registers (arch.mk), its entries do not. */
#define ARCH_ENTRY __attribute__((regparm(0)))

static inline long syscall1(long nr, long a)
{
	long ret;

	__asm__ volatile("int $0x80" : "=a"(ret) : "a"(nr), "b"(a) : "memory");
	return ret;
}

static inline long syscall2(long nr, long a, long b)
{
	long ret;

	__asm__ volatile("int $0x80" : "=a"(ret) : "a"(nr), "b"(a), "c"(b) : "memory");
	return ret;
}

static inline long syscall3(long nr, long a, long b, long c)
{
	long ret;

	__asm__ volatile("int $0x80" : "=a"(ret) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory");
	return ret;
}

static inline long syscall4(long nr, long a, long b, long c, long d)
{
	long ret;

	__asm__ volatile("int $0x80"
			 : "=a"(ret)
			 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d)
			 : "memory");
	return ret;
}

/*
 * The sixth argument's register may be the frame pointer, which no constraint can ask for: it goes
 * there by way of the stack (eight bytes, which STACK_MARGIN of pie/mkblob.c has room for).
 */
static inline long syscall6(long nr, long a, long b, long c, long d, long e, long f)
{
	long ret;

	__asm__ volatile("push %7\n\t"
			 "push %%ebp\n\t"
			 "mov 4(%%esp), %%ebp\n\t"
			 "int $0x80\n\t"
			 "pop %%ebp\n\t"
			 "pop %%ebx"
			 : "=a"(ret), "+b"(a)
			 : "a"(nr), "c"(b), "d"(c), "S"(d), "D"(e), "g"(f)
			 : "memory");
	return ret;
}

#endif

/*
 * What pie/records.h copies with: as fast as words in a loop, and a few bytes long. The direction flag is clear, by
 * the calling convention and by the entries.
 */
#define ARCH_COPY(to, from, len)                                                                   \
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory")

#endif
