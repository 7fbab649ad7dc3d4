/* SPDX-License-Identifier: MIT */
#ifndef AIOR_OBJECT_H
#define AIOR_OBJECT_H

#include <stdint.h>
#include <stdio.h>

#include "restorer.h"

/*
 * Writes a blob as a relocatable object for a machine (e_machine, ELF class), with symbols for its
 * entries and for what it needs. Returns 0, or -1 if `out` cannot be written.
 */
int aior_object_write(
    FILE *out, const struct aior_blob *header, uint16_t machine, unsigned char class);

#endif
