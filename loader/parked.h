/* SPDX-License-Identifier: MIT */
/* A process that is parked, or about to be: its capsule, and what stands in it of its threads. */
#ifndef AIOR_PARKED_H
#define AIOR_PARKED_H

#include "inject.h"

/*
 * From one thread record to the next, in capsules that are made here. Where they begin right behind the table, what a
 * record says of registers lies in one page: so it is written whole, or not at all, however its writer ends.
 */
#define AIOR_THREAD_STRIDE 512u

struct aior_parked {
	const struct aior_process *process;
	uint32_t arch;
	struct aior_gate gate; /* of the process's own */
	struct aior_stopped *stopped;
	struct aior_capsule capsule;
	unsigned char *bytes;         /* a copy of it, `capsule.table.total` of them */
	unsigned char *code_bytes;    /* the blob that the threads sleep in, and ... */
	uint64_t code;                /* ... where it is */
	struct aior_tracee *injected; /* the thread that has run it; or one that is parked */
	const struct aior_thread_record *record; /* its own, in `bytes` */
	size_t count;                            /* of parked threads */
	struct aior_tracee *at_work; /* EAGAIN: the thread that the blob is at work in */
	int is_running; /* a restore blob goes on in `injected`, which is not ours to stop any more */
};

/* What a captured thread was doing, as a record. */
void aior_thread_to_record(const struct aior_process *process, const struct aior_tracee *thread,
    struct aior_thread_record *record);

/*
 * Reads the capsule of a process whose threads are stopped, and gives each parked thread what its record
 * says: aior_release() makes it go on with that. A thread that is not parked stays as it is. Fails with EINVAL
 * (damaged), EAGAIN (the blob is at work), ENOMEM, and as aior_check_capsule() if `state_matters`. Free with
 * aior_parked_free().
 */
int aior_parked_load(struct aior_parked *parked, struct aior_error *error);
void aior_parked_free(struct aior_parked *parked);

const struct aior_blob *aior_parked_blob(const struct aior_parked *parked);

/*
 * What is left to do when the blob has staged the rings, whoever started it: counts the polls in, and puts
 * back the events that a wait had taken too early. Writes the capsule. -1 with errno.
 */
int aior_parked_finish(struct aior_parked *parked);
/* The events alone, of threads that have no records, since they are not parked. */
int aior_parked_wait_again(struct aior_parked *parked);

/* Where in the process the record of the thread `injected` lies. */
uint64_t aior_parked_record(const struct aior_parked *parked);

/* Whether a host that has not come to the end has restored the rings already. */
int aior_parked_is_live(const struct aior_parked *parked);

/*
 * Memory that is mapped for the thread that has run the blob, and goes with the next call: its stack, or a
 * restore blob with all that this needs. Writes the capsule; -1 with errno.
 */
int aior_parked_note_scratch(struct aior_parked *parked, uint64_t at, uint64_t len);

/* An injection that owns what is mapped there already. */
int aior_parked_adopt(
    const struct aior_parked *parked, struct aior_injection *injection, struct aior_error *error);

/*
 * Behind aior_parked_finish(): gives back what the blob needed and a parked process does not, as far as it is
 * there. The thread that has run the blob sleeps like the others then, as soon as it goes on.
 */
void aior_parked_tidy(struct aior_parked *parked, struct aior_injection *injection);

/* The room for polls that there were not becomes a guard behind the capsule. */
void aior_parked_trim(const struct aior_table *table, struct aior_injection *injection);

/* It is not staged, whatever its capsule says, since none of its threads is parked: they go on. Returns -1. */
int aior_nobody_parked(struct aior_parked *parked, struct aior_error *error);

/* All threads as they were, and what was mapped is gone. Frees parked->stopped. */
int aior_unpark(struct aior_parked *parked, struct aior_error *error);

#endif
