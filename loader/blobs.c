/* SPDX-License-Identifier: MIT */
/* The blobs of all architectures, as data; and which architectures are at home here. */
#include "arch.h"
#include "internal.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const union {
	unsigned char bytes[AIOR_BLOB_MAX];
	struct aior_blob header;
} blobs[] = {
#include "blobs.inc"
};

const struct aior_blob *aior_blob(uint32_t arch, uint32_t op)
{
	for (size_t i = 0; i < COUNT(blobs); i++)
		if (blobs[i].header.arch == arch && blobs[i].header.op == op)
			return &blobs[i].header;
	return NULL;
}

/* The host's own comes first. */
static const struct {
	uint32_t arch;
	const struct aior_calls *calls;
} local[] = {
#define ROW(arch, calls) {(arch), &(calls)},
    ARCH_LOCAL(ROW)
#undef ROW
};

uint32_t aior_host_arch(void)
{
	return local[0].arch;
}

const struct aior_calls *aior_calls_of(uint32_t arch)
{
	for (size_t i = 0; i < COUNT(local); i++)
		if (local[i].arch == arch)
			return local[i].calls;
	return NULL;
}
