/* SPDX-License-Identifier: MIT */
#ifndef AIOR_IMAGES_H
#define AIOR_IMAGES_H

#include "aio-restorer.h"

/* The rings of one process or of several. */
struct images {
	struct aior_image *images;
	size_t count;
};

/* Reads an ELF core, or a folder of CRIU's images: as core_read() and criu_read(). */
int images_read(const char *path, struct images *images, struct aior_error *error);
/* The same of a running process: aior_list(). */
int images_list(pid_t pid, struct images *images, struct aior_error *error);
/* Runs each: aior_run(). */
int images_run(const struct images *images, struct images *results, struct aior_error *error);
/* The kinds of images that this build reads; others it refuses. */
const char *images_formats(void);
void images_free(struct images *images);

#endif
