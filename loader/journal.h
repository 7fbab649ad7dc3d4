/* SPDX-License-Identifier: MIT */
/*
 * What survives us: as long as one thread of a process is not itself, and its own state is not in a capsule
 * (yet, or any more), it stands in a file under /run, or for others than root in XDG_RUNTIME_DIR.
 */
#ifndef AIOR_JOURNAL_H
#define AIOR_JOURNAL_H

#include "inject.h"

/* Nothing fails without it: it is for the case that we do not come to the end. */
void aior_journal_write(const struct aior_process *process, const struct aior_injection *injection);
void aior_journal_remove(const struct aior_process *process);

/* Where it is, or would be; NULL: nowhere. `path` has room for it. */
#define AIOR_JOURNAL_PATH 4096
const char *aior_journal_folder(char path[AIOR_JOURNAL_PATH]);

/* If there is one, whoever wrote it has not come to the end: what it says is done now. -1: that failed. */
int aior_journal_recover(const struct aior_process *process, struct aior_error *error);

#endif
