/* SPDX-License-Identifier: MIT */
/*
 * What the loader and the program that it executes for `run` share. The program is an ELF file that
 * the loader makes for one image: the run blob and the restore blob as one segment, and as another
 * this block, the records, the staged memory, and room to work in.
 */
#ifndef AIOR_PIE_RUN_H
#define AIOR_PIE_RUN_H

#include "restorer.h"

/* From the run blob's first byte to the restore blob's, and to the block's. */
#define RUN_RESTORE 0x1000
#define RUN_BLOCK 0x10000

struct run_block {
	uint64_t stack;   /* the end of the program's stack; first: see arch/ */
	uint64_t restore; /* the restore blob's entry, a C function */
	uint64_t args;    /* the argument block for it */
	uint64_t buffer;  /* room for what is on its way to the loader */
	uint32_t room;    /* its length in bytes; holds several slots */
	int32_t out;      /* the pipe to the loader */
};

/*
 * What goes through the pipe: the argument block and the ring records, as the blob left them; then
 * for each ring, if it succeeded, its header and what io_getevents returned, call by call, each with
 * that many events behind it, until one returned no event.
 */

#endif
