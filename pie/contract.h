/* SPDX-License-Identifier: MIT */
/* The contract (restorer.h) as data, for the formats that repeat it in other languages. */
#ifndef AIOR_CONTRACT_H
#define AIOR_CONTRACT_H

#include <stddef.h>
#include <stdint.h>

/* A field of one of the contract's structures. */
struct contract_field {
	const char *type, *field;
	size_t type_size, offset, size;
	size_t element; /* the size of one, if it is an array; else its own */
	int is_signed;
};

/* Structure by structure, in the order that they have there; the last has no type. */
extern const struct contract_field aior_contract_fields[];

struct contract_constant {
	const char *name;
	uint32_t value;
};

/* The last has no name. */
extern const struct contract_constant aior_contract_constants[];

/* What a blob's header says, as every format repeats it: X(field). */
#define CONTRACT_FACTS(X)                                                                          \
	X(abi)                                                                                     \
	X(size)                                                                                    \
	X(call)                                                                                    \
	X(jump)                                                                                    \
	X(park)                                                                                    \
	X(park_end)                                                                                \
	X(stack)                                                                                   \
	X(scratch)                                                                                 \
	X(flags)                                                                                   \
	X(crc32)

#endif
