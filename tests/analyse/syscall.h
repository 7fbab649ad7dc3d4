/* SPDX-License-Identifier: MIT */
/*
 * In place of an architecture's, for analysers that do not follow assembly: calls that may do anything, and write into
 * any memory whose address they have.
 */
#ifndef AIOR_ARCH_SYSCALL_H
#define AIOR_ARCH_SYSCALL_H

#include <asm/unistd.h>

long syscall1(long nr, long a);
long syscall2(long nr, long a, long b);
long syscall3(long nr, long a, long b, long c);
long syscall4(long nr, long a, long b, long c, long d);
long syscall6(long nr, long a, long b, long c, long d, long e, long f);

#endif
