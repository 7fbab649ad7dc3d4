/* SPDX-License-Identifier: MIT */
#ifndef AIOR_CRIU_H
#define AIOR_CRIU_H

#include "aio-restorer.h"

/*
 * Reads the rings of all processes in a folder of CRIU's images, live and staged ones: an image for each
 * process, in order of their pids. Fails with the errno of the file operation, and with EINVAL and a sentence
 * about which file is wrong, and how. Free each with aior_image_free(), and `images` with free().
 */
int criu_read(
    const char *path, struct aior_image **images, size_t *count, struct aior_error *error);

#endif
