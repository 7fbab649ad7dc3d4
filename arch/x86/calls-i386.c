/* SPDX-License-Identifier: MIT */
/* The system calls of 32-bit programs, which have numbers of their own. */
#include <asm/unistd_32.h>

#define CALLS aior_calls_i386
#include "calls-table.h"
