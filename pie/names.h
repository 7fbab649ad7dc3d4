/* SPDX-License-Identifier: MIT */
/* The names of architectures and operations, and what an ELF file says of an architecture. */
#ifndef AIOR_NAMES_H
#define AIOR_NAMES_H

#include <stdint.h>

/* The name of an AIOR_ARCH_… or AIOR_OP_… number; NULL if it has none. And back; 0 if none. */
const char *aior_arch_name(uint32_t arch);
const char *aior_op_name(uint32_t op);
uint32_t aior_arch_number(const char *name);
uint32_t aior_op_number(const char *name);

/* The name for messages: never NULL. */
const char *aior_arch_text(uint32_t arch);

/* What the ELF files of an architecture say of themselves. */
struct aior_arch_elf {
	uint16_t machine;    /* e_machine */
	unsigned char class; /* EI_CLASS */
	uint32_t flags;      /* e_flags */
};

/* NULL if the architecture is not known. And back; 0 if none. */
const struct aior_arch_elf *aior_arch_elf(uint32_t arch);
uint32_t aior_arch_of_elf(uint16_t machine, unsigned char class);

#endif
