/* SPDX-License-Identifier: MIT */
/*
 * aio_ring_usable() for each ring that the kernel makes, whatever its pages are, and each number of CPUs that it can be
 * built for: tried one by one, since what divides by a variable takes CBMC too long.
 */
#include <stdio.h>

#include "ring.h"

#define MOST_CPUS 8192

int main(void)
{
	unsigned long wrong = 0, tried = 0;

	for (uint32_t len = 4096; len <= AIO_RING_MAX_LEN; len += 4096) {
		uint32_t nr = aio_ring_nr(len), all = nr - 1;

		for (uint32_t cpus = 0; cpus <= MOST_CPUS; cpus++, tried++) {
			uint32_t usable = aio_ring_usable(nr, cpus);
			/* As the kernel has it: ioctx_alloc(), `req_batch`. */
			uint32_t batch = cpus ? all / (4 * cpus) : 1;

			if (batch < 1)
				batch = 1;
			wrong += !usable || usable > all || usable % batch || all - usable >= batch;
		}
	}
	/* No number of CPUs, however absurd, makes it divide by 0. */
	for (uint32_t bit = 0; bit < 32; bit++, tried++)
		wrong += aio_ring_usable(127, 1u << bit) > 126 || !aio_ring_usable(127, 1u << bit);
	printf("%lu of %lu wrong\n", wrong, tried);
	return !tried || wrong != 0;
}
