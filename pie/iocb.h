/* SPDX-License-Identifier: MIT */
/* The iocbs of a program, which it may have changed or unmapped since it submitted them. */
#ifndef AIOR_PIE_IOCB_H
#define AIOR_PIE_IOCB_H

#include "blob.h"

/*
 * Reads an iocb: 1, or 0 if it is not there any more, which process_vm_readv answers with EFAULT.
 * Where that cannot be had, at least what is not mapped is not touched.
 */
static inline int read_iocb(const struct aior_args *args, uint64_t addr, struct iocb *iocb)
{
	struct sys_iovec to = {iocb, sizeof(*iocb)};
	struct sys_iovec from = {(void *)(unsigned long)addr, sizeof(*iocb)};
	long n;

	if (!fits_pointer(addr))
		return 0;
	n = sys_process_vm_readv(sys_getpid(), &to, &from);
	if (n == (long)sizeof(*iocb))
		return 1;
	if (n >= 0 || n == -EFAULT || addr & 7 || !is_mapped(addr, sizeof(*iocb), args->page_size))
		return 0;
	copy((unsigned long)iocb, addr, sizeof(*iocb));
	return 1;
}

/* Whether an iocb still is that of the poll with this data. */
static inline int is_poll(const struct iocb *iocb, uint64_t data)
{
	return iocb->aio_lio_opcode == IOCB_CMD_POLL && iocb->aio_data == data;
}

#endif
