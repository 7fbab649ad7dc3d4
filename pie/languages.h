/* SPDX-License-Identifier: MIT */
/*
 * A blob and the contract in other languages than C: the same names (in Rust and Go those of
 * structures, and in Go those of fields, are written LikeThis), the same offsets.
 */
#ifndef AIOR_LANGUAGES_H
#define AIOR_LANGUAGES_H

#include <stdio.h>

/* Each returns 0, or -1 with errno. */
int aior_write_rust(FILE *out, const void *blob);
int aior_write_go(FILE *out, const void *blob);
int aior_write_gas(FILE *out, const void *blob);
int aior_write_nasm(FILE *out, const void *blob);

#endif
