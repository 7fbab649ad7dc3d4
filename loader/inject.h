/* SPDX-License-Identifier: MIT */
/*
 * Code in a stopped process: system calls that one of its threads makes for us, and a blob that it runs.
 *
 * What is mapped lies in one piece, which is unmapped in one piece, and the blob's scratch memory apart:
 *
 *	    guard | capsule | guard | code           scratch, stack, arguments
 *
 * The code page is readable and executable, never writable. Its park loop makes all system calls but the
 * first and the last: a thread that nobody holds any more goes on there, and sleeps.
 */
#ifndef AIOR_INJECT_H
#define AIOR_INJECT_H

#include "stop.h"

/*
 * An instruction of the program's own that makes system calls. If nobody holds the thread any more behind it,
 * it must not run into what the program has there: so if the program has one with a return behind it, and
 * somewhere an instruction that jumps to itself, that is where it ends.
 */
struct aior_gate {
	uint64_t call;
	uint64_t spin;  /* 0: none */
	unsigned words; /* of the stack, the last of which is where it returns to */
};

/* Finds one; it is looked at again before it is used, so the program may run on. `call` 0: there is none. */
struct aior_gate aior_find_gate(const struct aior_process *process, uint32_t arch);

struct aior_injection {
	const struct aior_process *process;
	const struct aior_calls *calls;
	const struct aior_blob *blob;
	struct aior_tracee *thread; /* that runs it, captured */
	unsigned long options;      /* of ptrace, for that thread */
	struct aior_mapping *mappings;
	size_t mapping_count;
	int is_for_staging; /* what is mapped will hold rings */
	uint64_t page_size;
	struct aior_gate gate; /* from aior_find_gate() */
	uint64_t area;         /* 0: nothing is mapped */
	uint64_t area_len;
	uint64_t capsule, capsule_len; /* in it; 0: there is none */
	uint64_t code;
	int has_code;                  /* the blob is there */
	uint64_t scratch, scratch_len; /* 0: there is none */
	uint64_t spare,
	    spare_len; /* addresses where nothing is mapped, behind the scratch memory */
	int is_parked; /* the gate is that of a park loop */
	uint64_t
	    stacked_at; /* what lay there is in `stacked`, for as long as the gate needs the place */
	unsigned char stacked[32];
	uint64_t sp; /* for the park loop */
	/* Where a filter of system calls would end them, the blob's helpers are traced, too. */
	int traces_helpers;
	pid_t *helpers;
	size_t helper_count, helper_room;
};

/*
 * Reads the mappings, and looks at the gate: the injection has process, calls, blob, thread and gate set, and all else
 * 0. Fails with ENOEXEC (no gate), and as aior_mappings(). End with aior_inject_end().
 */
int aior_inject_begin(struct aior_injection *injection, struct aior_error *error);
/*
 * Chooses where all will lie. `capsule_len`: room for a capsule, in bytes; 0: none is made. injection->spare_len
 * is how many addresses are wanted besides. Fails with ENOMEM. Nothing is changed by that.
 */
int aior_inject_place(
    struct aior_injection *injection, uint64_t capsule_len, struct aior_error *error);
void aior_inject_end(struct aior_injection *injection);

/* Maps it, and writes the blob. What fails leaves nothing behind. */
int aior_inject_map(struct aior_injection *injection, struct aior_error *error);

/* Unmaps the scratch memory; the thread is in a ptrace-stop, in the park loop. */
void aior_inject_unmap_scratch(struct aior_injection *injection);
/* Memory at that address, or address space only, where there must be none; 0 or -errno. Unmaps it. */
int64_t aior_inject_more(struct aior_injection *injection, uint64_t addr, uint64_t len);
int64_t aior_inject_reserve(struct aior_injection *injection, uint64_t addr, uint64_t len);
void aior_inject_less(struct aior_injection *injection, uint64_t addr, uint64_t len);
/* Moves memory of a mapping of its own over other memory, all at once; 0 or -errno. */
int64_t aior_inject_move(
    struct aior_injection *injection, uint64_t from, uint64_t len, uint64_t to);
/* Nobody may touch that memory any more, and it takes none. */
void aior_inject_guard(struct aior_injection *injection, uint64_t addr, uint64_t len);
/* Unmaps the code and the scratch memory, and leaves the capsule. */
int aior_inject_unmap_code(struct aior_injection *injection);
/* Unmaps a capsule that nothing else was mapped with, and the guards beside it. */
void aior_inject_unmap_capsule(struct aior_injection *injection, uint64_t addr, uint64_t len);
/* Unmaps all; the thread's registers are nobody's then. Returns -1 if something is left. */
int aior_inject_unmap(struct aior_injection *injection);

/*
 * Makes one system call in the thread: through the park loop if there is one, else through the gate. Returns
 * its result; -EINTR - and nothing is known - if the thread has exited.
 */
int64_t aior_inject_call(struct aior_injection *injection, int nr, const uint64_t args[6]);

/* Has the thread enter the blob; it runs when it returns. Returns -1 if it cannot. */
int aior_inject_start(struct aior_injection *injection, const struct aior_args *args);
/*
 * Waits until the blob has parked, and the thread is in a ptrace-stop again. 0; or an errno: ESRCH, it has
 * exited; ETIMEDOUT; EINTR (cancel): the blob goes on then. `options` may be NULL.
 */
int aior_inject_wait(struct aior_injection *injection, const struct aior_options *options);
/* The instruction of the blob's park loop that makes system calls. */
uint64_t aior_park_gate(const struct aior_injection *injection);
/* Where the argument block is, that it has been started with. */
uint64_t aior_inject_args(const struct aior_injection *injection);

/* Registers of a thread that is to sleep in the park loop of a blob at `code`. */
void aior_park_regs(
    const struct aior_blob *blob, uint64_t code, uint64_t sp, arch_regs *regs, size_t len);

#endif
