/* SPDX-License-Identifier: MIT */
/* What staging and restoring other processes have in common. */
#ifndef AIOR_OTHERS_H
#define AIOR_OTHERS_H

#include "parked.h"

/*
 * Opens a process for being staged or restored: what an earlier host has left undone is done, if requests
 * in flight allow it. Returns 1 if it has a capsule (`capsule`), 0 if it has none, -1. One that has none, and is
 * not to be staged, may be whatever it is.
 */
int aior_open_other(pid_t pid, int is_to_stage, const struct aior_options *options,
    struct aior_process *process, struct aior_capsule *capsule, struct aior_error *error);

/*
 * Until a process stands still others may stage and restore it, who have a right to it as good as ours. What is
 * in the capsule then must be what we have read before: whether it is.
 */
int aior_is_still_there(const struct aior_parked *parked);
/* All go on as they were, whether or not somebody has parked them since. Frees `stopped`. */
void aior_leave_unchanged(const struct aior_process *process, struct aior_stopped *stopped);
/* Whether a process has been opened anew for so long, since `begin`, that it is not once more: fails with EBUSY. */
int aior_gives_up(pid_t pid, uint64_t begin, struct aior_error *error);

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

/*
 * The same of one whose threads are not parked, though it is staged: who held them (aior_stage_traced()) has died. Fails with
 * EBUSY if it has staged itself. Returns 1 as aior_stop_parked() does.
 */
int aior_restore_left(const struct aior_process *process, const struct aior_capsule *capsule,
    const struct aior_options *options, struct aior_outcome *outcome, struct aior_error *error);

/* The ring whose requests are not at their end, by its address; 0: that is not known. */
uint64_t aior_draining_ring(const struct aior_process *process, const struct aior_capsule *capsule);

/* Adds to a failure's message that the process is parked still, and how to go on. Returns -1. */
int aior_stays_parked(pid_t pid, struct aior_error *error);

/*
 * Runs in a thread of its own, which is the tracer of all that it stops: threads of these processes. No signal disturbs
 * it.
 */
int aior_as_tracer(int (*function)(void *data), void *data, const pid_t *pids, size_t count,
    struct aior_error *error);

#endif
