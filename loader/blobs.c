/* SPDX-License-Identifier: MIT */
/* The blobs of all architectures, as data. */
#include "internal.h"
#include "arch.h"

static const union {
	unsigned char bytes[AIOR_BLOB_MAX];
	struct aior_blob header;
} blobs[] = {
#include "blobs.inc"
};

const struct aior_blob *aior_blob(uint32_t arch, uint32_t op)
{
	for (size_t i = 0; i < sizeof(blobs) / sizeof(blobs[0]); i++)
		if (blobs[i].header.arch == arch && blobs[i].header.op == op)
			return &blobs[i].header;
	return NULL;
}

uint32_t aior_host_arch(void)
{
	return HOST_ARCH;
}
