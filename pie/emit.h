/* SPDX-License-Identifier: MIT */
#ifndef AIOR_EMIT_H
#define AIOR_EMIT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* CRC-32 (IEEE 802.3) of `size` bytes. */
uint32_t aior_blob_crc32(const void *bytes, size_t size);

/*
 * Whether `size` bytes are a whole blob: its header, size and checksum agree. Returns NULL, or what
 * is wrong.
 */
const char *aior_blob_check(const void *bytes, size_t size);

/* A form that a blob is written in. */
struct blob_format {
	const char *name;
	const char *help;
	int (*write)(FILE *out, const void *blob); /* 0, or -1 with errno */
};

/* All of them; the last has no name. */
extern const struct blob_format aior_blob_formats[];

#endif
