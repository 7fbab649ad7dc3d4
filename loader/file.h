/* SPDX-License-Identifier: MIT */
#ifndef AIOR_FILE_H
#define AIOR_FILE_H

#include "aio-restorer.h"

/* The name of a file for messages: it may hold any byte, and be long, and a message must stay a line. */
#define FILE_NAME 256
const char *file_name(char name[FILE_NAME], const char *path);

/* A file that is read as if it were memory. */
struct file {
	const unsigned char *data; /* NULL: it is empty */
	uint64_t size;
};

/*
 * Maps a file that lies in `folder` (AT_FDCWD: where the caller is), opened with further `flags` of open(2).
 * Fails with its errno, and with EINVAL if it is no regular file; `name` is for the message.
 */
int file_map(int folder, const char *path, int flags, const char *name, struct file *file,
    struct aior_error *error);
void file_unmap(struct file *file);

#endif
