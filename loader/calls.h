/* SPDX-License-Identifier: MIT */
/* What stopping a thread has to know of the system call that it is in, for each system-call ABI. */
#ifndef AIOR_CALLS_H
#define AIOR_CALLS_H

#include <stddef.h>

/* A call whose timeout the kernel overwrites with what is left of it (poll_select_finish(), fs/select.c). */
struct aior_timed_call {
	int nr, argument; /* the argument that leads to it, from 0 */
	unsigned bytes;   /* of each of its two fields */
	unsigned parts;   /* the second one counts: so many are a second */
};

struct aior_calls {
	int io_submit;
	int mmap; /* the one that takes its offset in pages, where there are two; ours is 0 */
	int munmap, mprotect, mremap;
	int rt_sigprocmask, rt_sigsuspend; /* those of the park loop */
	/* Calls that io_getevents' arguments go to: context, least, most, events, timeout. */
	const int *takes_events;
	size_t takes_events_count;
	const struct aior_timed_call *notes_time;
	size_t notes_time_count;
	/* Calls whose time goes on when they are made again: see restart_syscall(2). */
	const int *keeps_time;
	size_t keeps_time_count;
	const int *broken_by_stop; /* see calls-table.h */
	size_t broken_count;
};

/* Those of this host's own programs, and in arch/ of others that it runs. */
extern const struct aior_calls aior_calls_native;

#endif
