/* SPDX-License-Identifier: MIT */
#ifndef AIOR_PIE_EVENTFD_H
#define AIOR_PIE_EVENTFD_H

#include <asm/ioctls.h>
#include <linux/fs.h>

#include "sys.h"

/*
 * Whether a descriptor that was an eventfd still is one. The program may have closed it, and its number
 * may be that of a pipe, a socket or a file by now, from which nothing must be taken: those can be asked
 * how much there is to read, an eventfd cannot. `tries`: how often that may be refused, and one.
 */
static inline int is_eventfd(int fd, int tries)
{
	int ready;

	while (sys_ioctl(fd, FIONREAD, &ready) != -ENOTTY)
		if (!--tries)
			return 0;
	return 1;
}

/*
 * Takes one back that an eventfd was raised by for nothing. A read takes all there is (or one, with
 * EFD_SEMAPHORE), so the rest is written again; fs/eventfd.c. RWF_NOWAIT: somebody may have read
 * it meanwhile, and then there is nothing to wait for. `tries` as above.
 */
static inline void eventfd_take_back(int fd, int tries)
{
	uint64_t count = 0;
	struct sys_iovec to = {&count, sizeof(count)};

	while (sys_preadv2(fd, &to, RWF_NOWAIT) != (long)sizeof(count))
		if (!--tries)
			return;
	count--;
	while (count && tries && sys_write(fd, &count, sizeof(count)) != (long)sizeof(count))
		tries--;
}

#endif
