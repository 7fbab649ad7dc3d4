/* SPDX-License-Identifier: MIT */
#ifndef AIOR_PIE_EVENTFD_H
#define AIOR_PIE_EVENTFD_H

#include <linux/fs.h>

#include "sys.h"

/*
 * Takes one back that an eventfd was raised by for nothing. A read takes all there is (or one, with
 * EFD_SEMAPHORE), so the rest is written again; fs/eventfd.c. RWF_NOWAIT: somebody may have read
 * it meanwhile, and then there is nothing to wait for.
 *
 * The program may have closed it, and its number may be that of a pipe or a file by now, from which
 * nothing must be taken: those refuse to seek to -1, which an eventfd answers with 0 (noop_llseek()).
 * `tries`: how many calls may be refused, less one.
 */
static inline void eventfd_take_back(int fd, int tries)
{
	uint64_t count = 0;
	struct sys_iovec to = {&count, sizeof(count)};

	while (
	    sys_lseek(fd, -1, SEEK_SET) || sys_preadv2(fd, &to, RWF_NOWAIT) != (long)sizeof(count))
		if (!--tries)
			return;
	count--;
	while (count && tries && sys_write(fd, &count, sizeof(count)) != (long)sizeof(count))
		tries--;
}

#endif
