/* SPDX-License-Identifier: MIT */
#ifndef AIOR_CORE_H
#define AIOR_CORE_H

#include "aio-restorer.h"

/*
 * Reads the rings of an ELF core: one of aior_write_core(), gdb's gcore or the kernel. The image
 * points into a mapping of the file. Fails with the errno of the file operation, and with EINVAL
 * and a sentence about what is wrong with the file. Free with aior_image_free().
 */
int core_read(const char *path, struct aior_image *image, struct aior_error *error);

#endif
