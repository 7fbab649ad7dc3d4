/* SPDX-License-Identifier: MIT */
/*
 * Included once for each system-call ABI, behind its numbers; defines the structure CALLS.
 *
 * The list: calls that a stop breaks with EINTR where nothing had to end; signal(7), "Interruption of
 * system calls and library functions by stop signals". It names most of them; the calls on sockets
 * are broken only if the socket has a time limit (SO_RCVTIMEO, SO_SNDTIMEO). EINTR says that nothing
 * was transferred, so all of them can be made again. All others the kernel restarts by itself.
 */
#include "calls.h"

static const int broken_by_stop[] = {
    __NR_io_getevents,
    __NR_io_pgetevents,
    __NR_io_uring_enter,
    __NR_epoll_pwait,
    __NR_rt_sigtimedwait,
    __NR_recvmsg,
    __NR_recvmmsg,
    __NR_sendmsg,
    __NR_sendmmsg,
    __NR_accept4,
    __NR_connect,
    __NR_recvfrom,
    __NR_sendto,
    __NR_read,
    __NR_readv,
    __NR_write,
    __NR_writev,
#ifdef __NR_epoll_wait
    __NR_epoll_wait,
#endif
#ifdef __NR_epoll_pwait2
    __NR_epoll_pwait2,
#endif
#ifdef __NR_semop
    __NR_semop,
#endif
#ifdef __NR_semtimedop
    __NR_semtimedop,
#endif
#ifdef __NR_accept
    __NR_accept,
#endif
/* 32-bit: calls that hold many, and those with 64-bit times. */
#ifdef __NR_socketcall
    __NR_socketcall,
#endif
#ifdef __NR_ipc
    __NR_ipc,
#endif
#ifdef __NR_io_pgetevents_time64
    __NR_io_pgetevents_time64,
#endif
#ifdef __NR_rt_sigtimedwait_time64
    __NR_rt_sigtimedwait_time64,
#endif
#ifdef __NR_recvmmsg_time64
    __NR_recvmmsg_time64,
#endif
#ifdef __NR_semtimedop_time64
    __NR_semtimedop_time64,
#endif
};

static const int takes_events[] = {
    __NR_io_getevents,
    __NR_io_pgetevents,
#ifdef __NR_io_pgetevents_time64
    __NR_io_pgetevents_time64,
#endif
};

static const int keeps_time[] = {
    __NR_nanosleep,
    __NR_clock_nanosleep,
    __NR_futex,
#ifdef __NR_poll
    __NR_poll,
#endif
#ifdef __NR_clock_nanosleep_time64
    __NR_clock_nanosleep_time64,
#endif
#ifdef __NR_futex_time64
    __NR_futex_time64,
#endif
};

/* 32-bit: two sizes of times. */
#ifdef __NR_ppoll_time64
#define OLD_TIME 4
#else
#define OLD_TIME 8
#endif

static const struct aior_timed_call notes_time[] = {
    {__NR_ppoll, 2, OLD_TIME, 1000000000},
    {__NR_pselect6, 4, OLD_TIME, 1000000000},
#ifdef __NR__newselect
    {__NR__newselect, 4, OLD_TIME, 1000000},
#elif defined __NR_select
    {__NR_select, 4, OLD_TIME, 1000000},
#endif
#ifdef __NR_ppoll_time64
    {__NR_ppoll_time64, 2, 8, 1000000000},
    {__NR_pselect6_time64, 4, 8, 1000000000},
#endif
};

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

const struct aior_calls CALLS = {
    .io_submit = __NR_io_submit,
#ifdef __NR_mmap2
    .mmap = __NR_mmap2,
#else
    .mmap = __NR_mmap,
#endif
    .munmap = __NR_munmap,
    .mprotect = __NR_mprotect,
    .mremap = __NR_mremap,
    .rt_sigprocmask = __NR_rt_sigprocmask,
    .rt_sigsuspend = __NR_rt_sigsuspend,
    .takes_events = takes_events,
    .takes_events_count = COUNT_OF(takes_events),
    .notes_time = notes_time,
    .notes_time_count = COUNT_OF(notes_time),
    .keeps_time = keeps_time,
    .keeps_time_count = COUNT_OF(keeps_time),
    .broken_by_stop = broken_by_stop,
    .broken_count = COUNT_OF(broken_by_stop),
};
