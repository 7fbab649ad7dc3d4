/* SPDX-License-Identifier: MIT */
#ifndef AIOR_OBJECT_H
#define AIOR_OBJECT_H

#include <stdio.h>

#include "names.h"
#include "restorer.h"

/*
 * Writes a blob as a relocatable object of architecture `arch`, with symbols for its
 * entries and for what it needs. Returns 0, or -1 if `out` cannot be written.
 */
int aior_object_write(FILE *out, const struct aior_blob *header, const struct aior_arch_elf *arch);

#endif
