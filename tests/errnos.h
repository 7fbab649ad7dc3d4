/* SPDX-License-Identifier: MIT */
/*
 * What each system call that is made here can fail with: what its manual page allows, as far as it can come
 * over a caller that gives sound arguments. Calls that are not listed cannot fail then.
 */
#ifndef TEST_ERRNOS_H
#define TEST_ERRNOS_H

#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>

#define MOST_ERRNOS 7 /* of one call */

struct fallible {
	long nr;
	int errnos[MOST_ERRNOS + 1]; /* 0 ends them */
};

static const struct fallible fallibles[] = {
    /* files */
    {SYS_openat, {EMFILE, ENFILE, ENOMEM, EACCES, ENOENT, EINTR}},
    {SYS_read, {EIO, EINTR}},
    {SYS_pread64, {EIO, EINTR}},
    {SYS_preadv2, {EIO, EINTR, EAGAIN, EOPNOTSUPP}},
    {SYS_write, {ENOSPC, EIO, EINTR}},
    {SYS_writev, {ENOSPC, EIO, EINTR}},
    {SYS_pwrite64, {ENOSPC, EIO, EINTR}},
    {SYS_close, {EIO, EINTR}},
    {SYS_fstat, {ENOMEM}},
    {SYS_statx, {ENOMEM, EACCES, ENOENT}},
    {SYS_faccessat, {EACCES, ENOENT, ENOMEM, EIO}},
    {SYS_faccessat2, {EACCES, ENOENT, ENOMEM, EIO}},
    {SYS_readlinkat, {EACCES, EIO, ENOENT, ENOMEM}},
    {SYS_getdents64, {ENOENT}},
    {SYS_lseek, {ESPIPE}},
    {SYS_mkdirat, {EACCES, EROFS, ENOSPC, ENOMEM}},
    {SYS_unlinkat, {EACCES, EIO, EROFS, ENOMEM}},
    {SYS_renameat2, {EACCES, ENOSPC, ENOMEM, EROFS}},
    {SYS_fchmod, {EIO, EPERM, EROFS, ENOMEM}},
    {SYS_ftruncate, {EIO, EINTR, EPERM}},
    {SYS_fsync, {EIO, ENOSPC, EINTR}},
    {SYS_fdatasync, {EIO, ENOSPC, EINTR}},
    {SYS_fcntl, {EACCES, EPERM, EBUSY}},
    {SYS_ioctl, {EFAULT, EINVAL, ENOTTY}},
    {SYS_pipe2, {EMFILE, ENFILE}},
    {SYS_vmsplice, {EAGAIN, ENOMEM, EINVAL}},
    {SYS_memfd_create, {EMFILE, ENFILE, ENOMEM, EINVAL, EPERM}},
    {SYS_ppoll, {EINTR, ENOMEM}},
    /* memory */
    {SYS_mmap, {ENOMEM, EAGAIN, EEXIST, ENFILE, EPERM}},
    {SYS_mprotect, {ENOMEM, EACCES}},
    {SYS_munmap, {ENOMEM, EINVAL}},
    {SYS_mremap, {ENOMEM, EAGAIN, EFAULT, EINVAL}},
    {SYS_madvise, {ENOMEM, EAGAIN, EIO, EINVAL}},
    {SYS_brk, {ENOMEM}},
    {SYS_mlock2, {ENOMEM, EAGAIN, EPERM}},
    {SYS_process_vm_readv, {EFAULT, ENOMEM, EPERM, ESRCH}},
    {SYS_process_vm_writev, {EFAULT, ENOMEM, EPERM, ESRCH}},
    /* processes */
    {SYS_clone, {EAGAIN, ENOMEM, EPERM}},
    {SYS_clone3, {EAGAIN, ENOMEM, EPERM, ENOSYS}},
    {SYS_execve, {ENOMEM, EACCES, ENOENT, EIO}},
    {SYS_execveat, {ENOMEM, EACCES, ENOENT, EIO, EMFILE}},
    {SYS_wait4, {ECHILD, EINTR}},
    {SYS_waitid, {ECHILD, EINTR}},
    {SYS_ptrace, {ESRCH, EPERM, EIO, EBUSY}},
    {SYS_kcmp, {EPERM, ESRCH}},
    {SYS_kill, {EPERM, ESRCH}},
    {SYS_tgkill, {EPERM, ESRCH, EAGAIN}},
    {SYS_tkill, {EPERM, ESRCH, EAGAIN}},
    {SYS_futex, {EINTR, EAGAIN}},
    {SYS_nanosleep, {EINTR}},
    {SYS_clock_nanosleep, {EINTR}},
    {SYS_sched_getaffinity, {EINVAL, ESRCH}},
    {SYS_sched_setaffinity, {EINVAL, EPERM, ESRCH}},
    {SYS_prlimit64, {EPERM, ESRCH}},
    {SYS_personality, {EINVAL}},
    {SYS_getrandom, {EAGAIN, EINTR, ENOSYS}},
    /* AIO */
    {SYS_io_setup, {EAGAIN, ENOMEM, EINVAL, ENOSYS}},
    {SYS_io_submit, {EAGAIN, EBADF, EFAULT, EINVAL, ENOSYS}},
    {SYS_io_getevents, {EINTR, EFAULT, EINVAL, ENOSYS}},
    {SYS_io_destroy, {EFAULT, EINVAL, ENOSYS}},
    {SYS_io_cancel, {EAGAIN, EFAULT, EINVAL, ENOSYS}},
/* What some architectures have besides. */
#ifdef SYS_open
    {SYS_open, {EMFILE, ENFILE, ENOMEM, EACCES, ENOENT, EINTR}},
    {SYS_stat, {ENOMEM, EACCES, ENOENT}},
    {SYS_mkdir, {EACCES, EROFS, ENOSPC, ENOMEM}},
    {SYS_unlink, {EACCES, EIO, EROFS, ENOMEM}},
    {SYS_fork, {EAGAIN, ENOMEM}},
    {SYS_vfork, {EAGAIN, ENOMEM}},
    {SYS_pause, {EINTR}},
    {SYS_readlink, {EACCES, EIO, ENOENT, ENOMEM}},
#endif
#ifdef SYS_newfstatat
    {SYS_newfstatat, {ENOMEM, EACCES, ENOENT}},
#endif
#ifdef SYS_mmap2
    {SYS_mmap2, {ENOMEM, EAGAIN, EEXIST, ENFILE, EPERM}},
#endif
#ifdef SYS_fcntl64
    {SYS_fcntl64, {EACCES, EPERM, EBUSY}},
#endif
#ifdef SYS_rename
    {SYS_rename, {EACCES, ENOSPC, ENOMEM, EROFS}},
#endif
};

/* How many errors the call can have. */
static inline unsigned count_errnos(long nr)
{
	unsigned count = 0;

	for (size_t i = 0; i < sizeof(fallibles) / sizeof(fallibles[0]); i++)
		while (fallibles[i].nr == nr && fallibles[i].errnos[count])
			count++;
	return count;
}

/* One of them, whatever `i` is; 0: it cannot fail. */
static inline int errno_of(long nr, unsigned i)
{
	unsigned count = count_errnos(nr);

	for (size_t k = 0; count && k < sizeof(fallibles) / sizeof(fallibles[0]); k++)
		if (fallibles[k].nr == nr)
			return fallibles[k].errnos[i % count];
	return 0;
}

/* close(2): it has always been closed; so the call is made. */
static inline int fails_having_been_made(long nr)
{
	return nr == SYS_close;
}

#endif
