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

/* The name of an AIOR_ARCH_… or AIOR_OP_… number; NULL if it has none. And back; 0 if none. */
const char *aior_arch_name(uint32_t arch);
const char *aior_op_name(uint32_t op);
uint32_t aior_arch_number(const char *name);
uint32_t aior_op_number(const char *name);

/* A form that a blob is written in. */
struct blob_format {
	const char *name;
	const char *help;
	int (*write)(FILE *out, const void *blob); /* 0, or -1 with errno */
};

/* All of them; the last has no name. */
extern const struct blob_format aior_blob_formats[];

#endif
