/* SPDX-License-Identifier: MIT */
/* What staging and restoring other processes have in common. */
#ifndef AIOR_OTHERS_H
#define AIOR_OTHERS_H

#include "parked.h"

/*
 * Opens a process for being staged or restored: what an earlier host has left undone is done, if requests
 * in flight allow it. Returns 1 if it has a capsule (`capsule`), 0 if it has none, -1.
 */
int aior_open_other(pid_t pid, const struct aior_options *options, struct aior_process *process,
    struct aior_capsule *capsule, struct aior_error *error);

/*
 * Stops a process that has a capsule, and loads that; waits for a blob that is just ending. Returns 1, and it
 * is not stopped, if another capsule is there by then, or none: somebody else has been at it, and it is to
 * be opened anew.
 */
int aior_stop_parked(
    struct aior_parked *parked, const struct aior_options *options, struct aior_error *error);

/*
 * Lets the threads of a staged process go, which sleep in the park loop. Where a filter of system calls
 * comes back then, the threads must be asleep by then: they are, and stay traced until the calling thread
 * ends. Frees `stopped`.
 */
void aior_leave_parked(struct aior_stopped *stopped);

/* A staged process, loaded and finished, goes on. If that fails it is parked still, and is_unfinished set. */
int aior_restore_parked(struct aior_parked *parked, const struct aior_options *options,
    struct aior_outcome *outcome, struct aior_error *error);

/* The ring whose requests are not at their end, by its address; 0: that is not known. */
uint64_t aior_draining_ring(const struct aior_process *process, const struct aior_capsule *capsule);

/* Adds to a failure's message that the process is parked still, and how to go on. Returns -1. */
int aior_stays_parked(pid_t pid, struct aior_error *error);

/* Runs in a thread of its own, which is the tracer of all that it stops; no signal disturbs it. */
int aior_as_tracer(int (*function)(void *data), void *data, struct aior_error *error);

#endif
