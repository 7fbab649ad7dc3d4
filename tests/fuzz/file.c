/* SPDX-License-Identifier: MIT */
/*
 * loader/file.c for the fuzz targets: what it maps is copied into the heap, where the sanitizers see who reads behind a
 * file's end.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static void *copy_of(size_t len, int fd)
{
	void *copy = malloc(len);

	if (copy && pread(fd, copy, len, 0) == (ssize_t)len)
		return copy;
	free(copy);
	return MAP_FAILED;
}

#define mmap(addr, len, prot, flags, fd, offset) copy_of(len, fd)
#define munmap(addr, len) free(addr)
#include "../../loader/file.c"
