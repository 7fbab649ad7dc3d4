/* SPDX-License-Identifier: MIT */
/* One process that is being staged. */
#ifndef AIOR_STAGING_H
#define AIOR_STAGING_H

#include "fence.h"
#include "others.h"

/* A ring of the process, as its mappings have it. */
struct aior_candidate {
	uint64_t addr, len;
	uint32_t prot, nr, pending;
	int is_readable;  /* else what is behind it is gone */
	int is_suspect;   /* an older relative maps it, too: it may be that one's */
	int is_inherited; /* it is */
	enum aio_ring_fault fault;
	unsigned parts;
	uint64_t offset;
};

struct aior_staging {
	struct aior_process process;
	uint32_t arch;
	const struct aior_options *options;
	struct aior_fence *fence;
	struct aior_outcome *outcome;
	struct aior_gate gate;
	struct aior_stopped *stopped;
	struct aior_injection injection;
	uint64_t *suspects;
	size_t suspect_count;
	int is_short; /* there was no memory for all suspects */
	struct aior_candidate *rings;
	size_t ring_count;
	uint32_t live_count;
	uint64_t newest_pid;     /* before its memory was found to be its own alone; 0: not known */
	uint64_t slots, pending; /* of the live ones */
	struct aior_table *table; /* what the capsule begins with: all but the polls */
	uint64_t prepared_at, started_at;
	int is_traced; /* by the caller, whose its threads stay */
	int parks;     /* its threads */
	int is_mapped, is_running, is_staged, is_done;
	int failed; /* what aior_inject_wait() said */
};

/* candidates.c: the rings that the mappings have, and what keeps one from being staged. */

int aior_list_candidates(struct aior_staging *staging, struct aior_error *error);
/* Those that may be a relative's are looked at later. Counts the slots. */
int aior_check_candidates(struct aior_staging *staging, struct aior_error *error);
/* Has the kernel look a handle up, in the process: 0 or -errno; -EINVAL: it is none. */
int64_t aior_look_context_up(struct aior_staging *staging, uint64_t addr);
/* Now those, by asking the kernel. */
int aior_judge_suspects(struct aior_staging *staging, struct aior_error *error);
/* Gives the process plain copies of a relative's rings. */
int aior_copy_inherited(struct aior_staging *staging, struct aior_error *error);

/* staging.c: in this order; each fills `error` and returns -1. */

/* Finds out what can be before anything stands still. With is_done set there is nothing to stage. */
int aior_staging_open(struct aior_staging *staging, pid_t pid, struct aior_error *error);
/*
 * Stops it, and does all that can fail but for the blob. `options`: the caller's own, of ptrace, who traces it.
 * Returns 1, and it is not stopped, if somebody else has staged it since it was opened.
 */
int aior_staging_prepare(
    struct aior_staging *staging, unsigned long options, struct aior_error *error);
int aior_staging_start(struct aior_staging *staging, struct aior_error *error);
/* What the options leave of their time, counted from `begin`; is_running: it was too little. */
void aior_staging_wait(struct aior_staging *staging, uint64_t begin);
/* What the blob says; is_staged: all is plain memory. */
int aior_staging_judge(struct aior_staging *staging, struct aior_error *error);
/* What is left is parked; or goes on at once (`go_on`), if others could not be staged. One that parks. */
int aior_staging_finish(struct aior_staging *staging, int go_on, struct aior_error *error);
/* The same for one that does not, and stays its tracer's. */
int aior_staging_finish_traced(struct aior_staging *staging, struct aior_error *error);

/* As long as it is not staged: all as it was. */
void aior_staging_undo(struct aior_staging *staging);
/* What aior_staging_open() has found, so that it can be called again. */
void aior_staging_forget(struct aior_staging *staging);
void aior_staging_free(struct aior_staging *staging);

#endif
