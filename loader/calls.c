/* SPDX-License-Identifier: MIT */
/* The system calls of this host's own programs. */
#include <asm/unistd.h>

#define CALLS aior_calls_native
#include "calls-table.h"
