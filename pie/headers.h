/* SPDX-License-Identifier: MIT */
/*
 * ELF headers of either class, written from their 64-bit form. Each function puts one at `to`, which
 * has room for the 64-bit one, and returns its size in bytes. What does not fit into 32 bits is cut
 * off: the caller knows that it fits.
 */
#ifndef AIOR_HEADERS_H
#define AIOR_HEADERS_H

#include <elf.h>
#include <stddef.h>

/* Fills e_ident, e_version and the sizes of all headers. */
size_t aior_elf_header(void *to, unsigned char class, Elf64_Ehdr wide);
size_t aior_elf_segment(void *to, unsigned char class, Elf64_Phdr wide);
size_t aior_elf_section(void *to, unsigned char class, Elf64_Shdr wide);
size_t aior_elf_symbol(void *to, unsigned char class, Elf64_Sym wide);

#endif
