/* SPDX-License-Identifier: MIT */
/*
 * What the fuzz targets share. Each is one function, which is given bytes that an enemy may have written: under
 * libFuzzer it is called with ever new ones (`make fuzz`), in a plain program with those of files (plain.c).
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Where an input is an ELF file, so many bytes stand in front: nobody takes what is in the corpus for programs then (lintian does). */
#define FUZZ_MARK 1u

/* A promise that no input may break: if it is broken, that is a finding, as a crash is. */
#define PROMISE(holds, ...)                                                                        \
	do {                                                                                       \
		if (!(holds)) {                                                                    \
			fprintf(stderr, "broken promise: " __VA_ARGS__);                           \
			fputc('\n', stderr);                                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* A file in memory that is written anew for each input. */
struct fuzz_file {
	int fd; /* 0: there is none yet */
	char path[64];
};

static inline const char *fuzz_write(struct fuzz_file *file, const void *data, size_t size)
{
	if (!file->fd) {
		file->fd = memfd_create("fuzz", MFD_CLOEXEC);
		snprintf(file->path, sizeof(file->path), "/proc/self/fd/%d", file->fd);
	}
	if (ftruncate(file->fd, 0) || pwrite(file->fd, data, size, 0) != (ssize_t)size)
		abort();
	return file->path;
}

/* What is shown must be computed and formatted, and need not be seen. */
static inline FILE *fuzz_nowhere(void)
{
	static FILE *nowhere;

	if (!nowhere)
		nowhere = fopen("/dev/null", "w");
	return nowhere ? nowhere : stderr;
}

/* What is refused is refused in a sentence: one line, or a few if this host is the reason. */
static inline void fuzz_check_error(const struct aior_error *error)
{
	size_t len = strnlen(error->message, sizeof(error->message));

	PROMISE(len && len < sizeof(error->message), "a failure without a message");
	PROMISE(
	    error->is_refused || error->err > 0, "a failure without an errno: %s", error->message);
	PROMISE(error->is_refused || !strchr(error->message, '\n'),
	    "a message of several lines: %s", error->message);
}

#endif
