/* SPDX-License-Identifier: MIT */
/* What stopping a thread has to know of the system call that it is in, for each system-call ABI. */
#ifndef AIOR_CALLS_H
#define AIOR_CALLS_H

#include <stddef.h>

struct aior_calls {
	int io_submit;
	const int *broken_by_stop; /* see calls-table.h */
	size_t broken_count;
};

/* Those of this host's own programs, and in arch/ of others that it runs. */
extern const struct aior_calls aior_calls_native;

#endif
