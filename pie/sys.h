/* SPDX-License-Identifier: MIT */
/*
 * The system calls a blob makes, by their names. Each returns -errno on failure (section 2 of the
 * manual says which), and none needs a libc.
 */
#ifndef AIOR_SYS_H
#define AIOR_SYS_H

#include <stdint.h>
#include <linux/aio_abi.h>

#include "syscall.h"

#define SIGSET_BYTES 8 /* the kernel's sigset_t */

static inline long sys_io_setup(uint32_t n, aio_context_t *ctx)
{
	return syscall2(__NR_io_setup, (long)n, (long)ctx);
}

static inline long sys_io_destroy(aio_context_t ctx)
{
	return syscall1(__NR_io_destroy, (long)ctx);
}

static inline long sys_io_submit(aio_context_t ctx, long n, struct iocb **iocbs)
{
	return syscall3(__NR_io_submit, (long)ctx, n, (long)iocbs);
}

static inline long sys_mmap(unsigned long addr, unsigned long len, int prot, int flags)
{
#ifdef __NR_mmap2
	return syscall6(__NR_mmap2, (long)addr, (long)len, prot, flags, -1, 0);
#else
	return syscall6(__NR_mmap, (long)addr, (long)len, prot, flags, -1, 0);
#endif
}

static inline long sys_munmap(unsigned long addr, unsigned long len)
{
	return syscall2(__NR_munmap, (long)addr, (long)len);
}

static inline long sys_mremap(unsigned long from, unsigned long len, int flags, unsigned long to)
{
	return syscall6(__NR_mremap, (long)from, (long)len, (long)len, flags, (long)to, 0);
}

static inline long sys_mprotect(unsigned long addr, unsigned long len, int prot)
{
	return syscall3(__NR_mprotect, (long)addr, (long)len, prot);
}

static inline long sys_msync(unsigned long addr, unsigned long len, int flags)
{
	return syscall3(__NR_msync, (long)addr, (long)len, flags);
}

static inline long sys_pipe2(int fds[2], int flags)
{
	return syscall2(__NR_pipe2, (long)fds, flags);
}

static inline long sys_eventfd2(unsigned initial, int flags)
{
	return syscall2(__NR_eventfd2, (long)initial, flags);
}

static inline long sys_ioctl(int fd, unsigned long request, void *argument)
{
	return syscall3(__NR_ioctl, fd, (long)request, (long)argument);
}

static inline long sys_fcntl(int fd, int command, long argument)
{
#ifdef __NR_fcntl64
	return syscall3(__NR_fcntl64, fd, command, argument);
#else
	return syscall3(__NR_fcntl, fd, command, argument);
#endif
}

static inline long sys_close(int fd)
{
	return syscall1(__NR_close, fd);
}

static inline long sys_read(int fd, void *data, unsigned long len)
{
	return syscall3(__NR_read, fd, (long)data, (long)len);
}

static inline long sys_write(int fd, const void *data, unsigned long len)
{
	return syscall3(__NR_write, fd, (long)data, (long)len);
}

static inline long sys_getpid(void)
{
	return syscall1(__NR_getpid, 0);
}

static inline long sys_wait4(long pid, int options)
{
	return syscall4(__NR_wait4, pid, 0, options, 0);
}

static inline long sys_rt_sigprocmask(int how, const uint64_t *set, uint64_t *old)
{
	return syscall4(__NR_rt_sigprocmask, how, (long)set, (long)old, SIGSET_BYTES);
}

static inline long sys_getcpu(unsigned *cpu)
{
	return syscall3(__NR_getcpu, (long)cpu, 0, 0);
}

static inline long sys_sched_getaffinity(unsigned long bytes, unsigned long *cpus)
{
	return syscall3(__NR_sched_getaffinity, 0, (long)bytes, (long)cpus);
}

static inline long sys_sched_setaffinity(unsigned long bytes, const unsigned long *cpus)
{
	return syscall3(__NR_sched_setaffinity, 0, (long)bytes, (long)cpus);
}

struct sys_iovec {
	void *base;
	unsigned long len;
};

static inline long sys_process_vm_readv(
    long pid, const struct sys_iovec *to, const struct sys_iovec *from)
{
	return syscall6(__NR_process_vm_readv, pid, (long)to, 1, (long)from, 1, 0);
}

static inline long sys_vmsplice(int fd, const struct sys_iovec *from, unsigned flags)
{
	return syscall4(__NR_vmsplice, fd, (long)from, 1, (long)flags);
}

/* Reads at the file's position, which a descriptor that cannot seek has none of. */
static inline long sys_preadv2(int fd, const struct sys_iovec *to, int flags)
{
	return syscall6(__NR_preadv2, fd, (long)to, 1, -1, -1, flags);
}

#endif
