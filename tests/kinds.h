/* SPDX-License-Identifier: MIT */
/*
 * The ways to wait: those that a stop breaks with EINTR (loader/calls-table.h) and those that the kernel
 * takes up again by itself; and how each ends.
 */
#ifndef TEST_KINDS_H
#define TEST_KINDS_H

#include <limits.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/net.h>
#include <mqueue.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "waiting.h"

#define DATA 0xe7e7

/* Longer than any test: a wait that is over by then has failed. */
static const struct timeval hour = {.tv_sec = 3600};
static const struct timespec hour_ns = {.tv_sec = 3600};
static char full[65536]; /* a page of a pipe at least, whatever the page size */

/* 1, if a call has returned what it should, and given what it should; its errno if it failed. */
static inline long is_right(long result, int is_right)
{
	return result < 0 ? result : is_right ? 1 : -EBADMSG;
}

static inline sigset_t to_set(uint64_t mask)
{
	sigset_t set;

	sigemptyset(&set);
	memcpy(&set, &mask, sizeof(mask));
	return set;
}

/* For a call that takes the mask of signals that are blocked while it waits. */
static inline const sigset_t *mask_inside(void)
{
	static __thread sigset_t set;

	set = to_set(own_wait->inside);
	return &set;
}

/* ---- things to wait for, and how to bring them about ---- */

static inline int open_pipe(struct wait *wait)
{
	return pipe2(wait->fds, O_CLOEXEC);
}

static inline void send_byte(struct wait *wait)
{
	if (write(wait->fds[1], "x", 1) != 1)
		diag("write: %s", strerror(errno));
}

static inline int open_full_pipe(struct wait *wait)
{
	if (open_pipe(wait) || fcntl(wait->fds[1], F_SETFL, O_NONBLOCK))
		return -1;
	while (write(wait->fds[1], full, sizeof(full)) > 0)
		;
	return fcntl(wait->fds[1], F_SETFL, 0);
}

static inline void empty_pipe(struct wait *wait)
{
	if (read(wait->fds[0], full, sizeof(full)) < (long)page)
		diag("read: %s", strerror(errno));
}

static inline int open_eventfd(struct wait *wait)
{
	wait->fds[0] = eventfd(0, EFD_CLOEXEC);
	return wait->fds[0] < 0 ? -1 : 0;
}

static inline void raise_eventfd(struct wait *wait)
{
	eventfd_write(wait->fds[0], 5);
}

static inline int open_epoll(struct wait *wait)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = DATA};

	wait->object = epoll_create1(EPOLL_CLOEXEC);
	return wait->object < 0 || open_pipe(wait)
		   ? -1
		   : epoll_ctl(wait->object, EPOLL_CTL_ADD, wait->fds[0], &event);
}

static inline void close_object(struct wait *wait)
{
	close(wait->object);
}

/* A socket with time limits. */
static inline int open_sockets(struct wait *wait)
{
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wait->fds))
		return -1;
	return setsockopt(wait->fds[0], SOL_SOCKET, SO_RCVTIMEO, &hour, sizeof(hour)) ||
		       setsockopt(wait->fds[0], SOL_SOCKET, SO_SNDTIMEO, &hour, sizeof(hour))
		   ? -1
		   : 0;
}

static inline int open_sockets_without_limit(struct wait *wait)
{
	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wait->fds);
}

static inline int open_full_sockets(struct wait *wait)
{
	if (open_sockets(wait))
		return -1;
	while (send(wait->fds[0], full, sizeof(full), MSG_DONTWAIT) > 0)
		;
	return 0;
}

static inline void empty_socket(struct wait *wait)
{
	while (recv(wait->fds[1], full, sizeof(full), MSG_DONTWAIT) > 0)
		;
}

static inline int listen_somewhere(int backlog)
{
	const struct sockaddr_un any = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd < 0 || bind(fd, (const void *)&any, sizeof(any.sun_family)) || listen(fd, backlog)
		   ? -1
		   : fd;
}

static inline int connect_to(int fd, int listener)
{
	struct sockaddr_un address;
	socklen_t len = sizeof(address);

	return getsockname(listener, (void *)&address, &len) ||
		       connect(fd, (const void *)&address, len)
		   ? -1
		   : 0;
}

static inline int open_listener(struct wait *wait)
{
	wait->fds[0] = listen_somewhere(1);
	wait->fds[1] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return wait->fds[0] < 0 || wait->fds[1] < 0
		   ? -1
		   : setsockopt(wait->fds[0], SOL_SOCKET, SO_RCVTIMEO, &hour, sizeof(hour));
}

static inline void connect_now(struct wait *wait)
{
	if (connect_to(wait->fds[1], wait->fds[0]))
		diag("connect: %s", strerror(errno));
}

/* A listener that holds as many connections as it may, and a socket that is to be connected to it. */
static inline int open_full_listener(struct wait *wait)
{
	wait->fds[0] = listen_somewhere(0);
	wait->fds[1] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	wait->object = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return wait->fds[0] < 0 || wait->fds[1] < 0 || connect_to(wait->object, wait->fds[0])
		   ? -1
		   : setsockopt(wait->fds[1], SOL_SOCKET, SO_SNDTIMEO, &hour, sizeof(hour));
}

static inline void accept_one(struct wait *wait)
{
	close(accept(wait->fds[0], NULL, NULL));
}

static inline int open_semaphore(struct wait *wait)
{
	wait->object = semget(IPC_PRIVATE, 1, 0600);
	return wait->object < 0 ? -1 : 0;
}

static inline void raise_semaphore(struct wait *wait)
{
	struct sembuf give = {.sem_op = 1};

	semop(wait->object, &give, 1);
}

static inline void close_semaphore(struct wait *wait)
{
	semctl(wait->object, 0, IPC_RMID);
}

static inline int open_message_queue(struct wait *wait)
{
	wait->object = msgget(IPC_PRIVATE, 0600);
	return wait->object < 0 ? -1 : 0;
}

static inline void send_message(struct wait *wait)
{
	const struct {
		long type;
		char text[1];
	} message = {3, "x"};

	if (msgsnd(wait->object, &message, sizeof(message.text), 0))
		diag("msgsnd: %s", strerror(errno));
}

static inline void close_message_queue(struct wait *wait)
{
	msgctl(wait->object, IPC_RMID, NULL);
}

static inline int open_mqueue(struct wait *wait)
{
	struct mq_attr attr = {.mq_maxmsg = 1, .mq_msgsize = 8};
	char name[64];

	snprintf(name, sizeof(name), "/aior-waits-%d", (int)getpid());
	wait->object = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600, &attr);
	if (wait->object < 0)
		return -1;
	return mq_unlink(name);
}

static inline void send_to_mqueue(struct wait *wait)
{
	if (mq_send(wait->object, "x", 1, 0))
		diag("mq_send: %s", strerror(errno));
}

static inline int open_file(struct wait *wait)
{
	char path[64];

	wait->fds[0] = memfd_create("locked", MFD_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", wait->fds[0]);
	wait->fds[1] = open(path, O_RDWR | O_CLOEXEC);
	return wait->fds[0] < 0 || wait->fds[1] < 0 ? -1 : 0;
}

static inline int open_flocked(struct wait *wait)
{
	return open_file(wait) ? -1 : flock(wait->fds[0], LOCK_EX);
}

static inline void unlock_flock(struct wait *wait)
{
	flock(wait->fds[0], LOCK_UN);
}

static inline int set_lock(int fd, int how, short type)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET};

	return fcntl(fd, how, &lock);
}

static inline int open_locked(struct wait *wait)
{
	return open_file(wait) ? -1 : set_lock(wait->fds[0], F_SETLK, F_WRLCK);
}

static inline void unlock(struct wait *wait)
{
	set_lock(wait->fds[0], F_SETLK, F_UNLCK);
}

static inline void wake(struct wait *wait)
{
	wait->word = 1;
	syscall(SYS_futex, &wait->word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static inline void signal_it(struct wait *wait, int signal)
{
	syscall(SYS_tgkill, target, wait->tid, signal);
}

static inline void send_signal(struct wait *wait)
{
	signal_it(wait, WAITED);
}

static inline void send_handled(struct wait *wait)
{
	signal_it(wait, SIGUSR1);
}

/* A child that exits when there is something in the pipe. */
static inline void prepare_child(struct wait *wait)
{
	pid_t pid = fork_mortal();
	char byte;

	if (!pid)
		_exit(read(wait->fds[0], &byte, 1) == 1 ? 7 : 1);
	wait->object = pid;
}

/* A ring with a poll in flight, which completes when there is something in the pipe. */
static inline void prepare_poll(struct wait *wait)
{
	wait->ctx = new_ring(1);
	iocb_poll(&wait->iocb, wait->fds[0], POLLIN, DATA);
	if (submit_one(wait->ctx, &wait->iocb) != 1)
		abort();
}

/* The memory of an io_uring, mapped by the host. */
static struct {
	char *ring;
	struct io_uring_sqe *sqes;
	struct io_uring_params params;
} uring;

static inline int open_uring(struct wait *wait)
{
	memset(&uring, 0, sizeof(uring));
	wait->fds[0] = (int)syscall(SYS_io_uring_setup, 4, &uring.params);
	if (wait->fds[0] < 0)
		return -1;
	uring.ring =
	    mmap(NULL, uring.params.sq_off.array + uring.params.sq_entries * sizeof(uint32_t),
		PROT_READ | PROT_WRITE, MAP_SHARED, wait->fds[0], IORING_OFF_SQ_RING);
	uring.sqes = mmap(NULL, uring.params.sq_entries * sizeof(*uring.sqes),
	    PROT_READ | PROT_WRITE, MAP_SHARED, wait->fds[0], IORING_OFF_SQES);
	return uring.ring == MAP_FAILED || uring.sqes == MAP_FAILED ? -1 : 0;
}

/* A request that does nothing. */
static inline void complete_in_uring(struct wait *wait)
{
	uint32_t *tail = (void *)(uring.ring + uring.params.sq_off.tail);

	uring.sqes[0] = (struct io_uring_sqe){.opcode = IORING_OP_NOP};
	*(uint32_t *)(void *)(uring.ring + uring.params.sq_off.array) = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, wait->fds[0], 1, 0, 0, NULL, 0) != 1)
		diag("io_uring_enter: %s", strerror(errno));
}

/* ---- the calls ---- */

static inline long its_event(struct wait *wait, long n)
{
	return is_right(n, n == 1 && wait->events[0].data == DATA &&
			       wait->events[0].obj == (uintptr_t)&wait->iocb &&
			       wait->events[0].res & POLLIN);
}

static inline long in_getevents(struct wait *wait)
{
	return its_event(
	    wait, result(syscall(SYS_io_getevents, wait->ctx, 1L, 4L, wait->events, NULL)));
}

static inline long in_getevents_with_limit(struct wait *wait)
{
	struct timespec limit = hour_ns;

	return its_event(
	    wait, result(syscall(SYS_io_getevents, wait->ctx, 1L, 4L, wait->events, &limit)));
}

static inline long pgetevents(struct wait *wait, long min, long most)
{
	const struct {
		const sigset_t *set;
		size_t size;
	} mask = {mask_inside(), 8};

	return result(syscall(SYS_io_pgetevents, wait->ctx, min, most, wait->events, NULL, &mask));
}

static inline long in_pgetevents(struct wait *wait)
{
	return its_event(wait, pgetevents(wait, 1, 4));
}

static inline long in_uring(struct wait *wait)
{
	long n = result(
	    syscall(SYS_io_uring_enter, wait->fds[0], 0, 1, IORING_ENTER_GETEVENTS, NULL, 0));
	uint32_t *tail = (void *)(uring.ring + uring.params.cq_off.tail);

	return is_right(n, !n && __atomic_load_n(tail, __ATOMIC_ACQUIRE) == 1);
}

#ifdef SYS_epoll_wait
static inline long in_epoll_wait(struct wait *wait)
{
	struct epoll_event event = {0};
	long n = result(syscall(SYS_epoll_wait, wait->object, &event, 1, -1));

	return is_right(n, n == 1 && event.events == EPOLLIN && event.data.u64 == DATA);
}
#endif

static inline long in_epoll_pwait(struct wait *wait)
{
	struct epoll_event event = {0};
	long n = result(epoll_pwait(wait->object, &event, 1, 3600000, mask_inside()));

	return is_right(n, n == 1 && event.events == EPOLLIN && event.data.u64 == DATA);
}

#ifdef SYS_epoll_pwait2
struct long_time {
	int64_t seconds, ns;
};

static inline long in_epoll_pwait2(struct wait *wait)
{
	const struct long_time limit = {3600, 0};
	struct epoll_event event = {0};
	long n =
	    result(syscall(SYS_epoll_pwait2, wait->object, &event, 1, &limit, mask_inside(), 8));

	return is_right(n, n == 1 && event.events == EPOLLIN && event.data.u64 == DATA);
}

/* Of a kernel that does not have it (5.10) nothing can be tested. */
static inline int open_epoll_pwait2(struct wait *wait)
{
	syscall(SYS_epoll_pwait2, -1, NULL, 1, NULL, NULL, 0);
	return errno == ENOSYS ? -1 : open_epoll(wait);
}
#endif

static inline long in_sigtimedwait(struct wait *wait)
{
	sigset_t set;
	long n;

	(void)wait;
	sigemptyset(&set);
	sigaddset(&set, WAITED);
	n = result(sigtimedwait(&set, NULL, &hour_ns));
	return is_right(n, n == WAITED);
}

static inline long in_rt_sigtimedwait(struct wait *wait)
{
	siginfo_t info = {0};
	sigset_t set;
	long n;

	(void)wait;
	sigemptyset(&set);
	sigaddset(&set, WAITED);
	n = result(syscall(SYS_rt_sigtimedwait, &set, &info, NULL, 8));
	return is_right(n, n == WAITED && info.si_signo == n && info.si_code == SI_TKILL);
}

static inline long in_semop(struct wait *wait)
{
	struct sembuf take = {.sem_op = -1};

	return result(semop(wait->object, &take, 1));
}

static inline long in_semtimedop(struct wait *wait)
{
	struct sembuf take = {.sem_op = -1};

	return result(semtimedop(wait->object, &take, 1, &hour_ns));
}

/* What of a message that holds one byte is received, or sent. */
struct one_byte {
	char byte;
	struct iovec vec;
	struct mmsghdr message;
};

static inline struct one_byte *one_byte(void)
{
	static __thread struct one_byte one;

	one.byte = 'y';
	one.vec = (struct iovec){&one.byte, 1};
	memset(&one.message, 0, sizeof(one.message));
	one.message.msg_hdr.msg_iov = &one.vec;
	one.message.msg_hdr.msg_iovlen = 1;
	return &one;
}

static inline long is_received(long n, const struct one_byte *one)
{
	return is_right(n, n == 1 && one->byte == 'x');
}

static inline long in_read(struct wait *wait)
{
	struct one_byte *one = one_byte();

	return is_received(result(read(wait->fds[0], &one->byte, 1)), one);
}

static inline long in_readv(struct wait *wait)
{
	struct one_byte *one = one_byte();

	return is_received(result(readv(wait->fds[0], &one->vec, 1)), one);
}

static inline long in_recv(struct wait *wait)
{
	struct one_byte *one = one_byte();

	return is_received(result(recv(wait->fds[0], &one->byte, 1, 0)), one);
}

static inline long in_recvmsg(struct wait *wait)
{
	struct one_byte *one = one_byte();

	return is_received(result(recvmsg(wait->fds[0], &one->message.msg_hdr, 0)), one);
}

static inline long in_recvmmsg(struct wait *wait)
{
	struct one_byte *one = one_byte();

	return is_received(
	    result(recvmmsg(wait->fds[0], &one->message, 1, MSG_WAITFORONE, NULL)), one);
}

static inline long in_write(struct wait *wait)
{
	return result(write(wait->fds[0], &one_byte()->byte, 1));
}

static inline long in_writev(struct wait *wait)
{
	return result(writev(wait->fds[0], &one_byte()->vec, 1));
}

static inline long in_send(struct wait *wait)
{
	return result(send(wait->fds[0], &one_byte()->byte, 1, 0));
}

static inline long in_sendmsg(struct wait *wait)
{
	return result(sendmsg(wait->fds[0], &one_byte()->message.msg_hdr, 0));
}

static inline long in_sendmmsg(struct wait *wait)
{
	return result(sendmmsg(wait->fds[0], &one_byte()->message, 1, 0));
}

static inline long in_accept(struct wait *wait)
{
	long fd = result(accept(wait->fds[0], NULL, NULL));

	return is_right(fd, 1);
}

static inline long in_accept4(struct wait *wait)
{
	long fd = result(accept4(wait->fds[0], NULL, NULL, SOCK_CLOEXEC));

	return is_right(fd, fcntl((int)fd, F_GETFD) == FD_CLOEXEC);
}

static inline long in_connect(struct wait *wait)
{
	return result(connect_to(wait->fds[1], wait->fds[0]));
}

#ifdef SYS_socketcall
static inline long in_socketcall(struct wait *wait)
{
	struct one_byte *one = one_byte();
	unsigned long arguments[] = {(unsigned long)wait->fds[0], (uintptr_t)&one->byte, 1, 0};

	return is_received(result(syscall(SYS_socketcall, SYS_RECV, arguments)), one);
}
#endif

#ifdef SYS_ipc
static inline long in_ipc(struct wait *wait)
{
	struct sembuf take = {.sem_op = -1};

	return result(syscall(SYS_ipc, 4 /* SEMTIMEDOP */, wait->object, 1, 0, &take, &hour_ns));
}
#endif

static inline long in_pipe_write(struct wait *wait)
{
	return result(write(wait->fds[1], full, 1));
}

static inline long in_eventfd_read(struct wait *wait)
{
	eventfd_t value = 0;
	long n = result(eventfd_read(wait->fds[0], &value));

	return is_right(n, value == 5);
}

/* Made again, the call may find that it has been woken: then the word is another. */
static inline long is_woken(struct wait *wait, long err)
{
	return err == -EAGAIN && wait->word ? 0 : err;
}

static inline long in_futex(struct wait *wait)
{
	return is_woken(
	    wait, result(syscall(SYS_futex, &wait->word, FUTEX_WAIT, 0, NULL, NULL, 0)));
}

static inline long in_futex_with_limit(struct wait *wait)
{
	return is_woken(
	    wait, result(syscall(SYS_futex, &wait->word, FUTEX_WAIT, 0, &hour_ns, NULL, 0)));
}

static inline struct timespec after_ms(long ms)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	now.tv_sec += ms / 1000;
	now.tv_nsec += ms % 1000 * 1000000;
	if (now.tv_nsec >= 1000000000) {
		now.tv_nsec -= 1000000000;
		now.tv_sec++;
	}
	return now;
}

static inline long in_futex_until(struct wait *wait)
{
	struct timespec limit = after_ms(3600000);

	return is_woken(wait, result(syscall(SYS_futex, &wait->word, FUTEX_WAIT_BITSET, 0, &limit,
				  NULL, FUTEX_BITSET_MATCH_ANY)));
}

static inline long in_poll(struct wait *wait)
{
	struct pollfd fd = {.fd = wait->fds[0], .events = POLLIN};
	long n = result(poll(&fd, 1, 3600000));

	return is_right(n, n == 1 && fd.revents == POLLIN);
}

static inline long in_ppoll(struct wait *wait)
{
	struct pollfd fd = {.fd = wait->fds[0], .events = POLLIN};
	long n = result(ppoll(&fd, 1, &hour_ns, mask_inside()));

	return is_right(n, n == 1 && fd.revents == POLLIN);
}

static inline long in_select(struct wait *wait)
{
	struct timeval limit = hour;
	fd_set set;
	long n;

	FD_ZERO(&set);
	FD_SET(wait->fds[0], &set);
	n = result(select(wait->fds[0] + 1, &set, NULL, NULL, &limit));
	return is_right(n, n == 1 && FD_ISSET(wait->fds[0], &set));
}

static inline long in_pselect(struct wait *wait)
{
	fd_set set;
	long n;

	FD_ZERO(&set);
	FD_SET(wait->fds[0], &set);
	n = result(pselect(wait->fds[0] + 1, &set, NULL, NULL, &hour_ns, mask_inside()));
	return is_right(n, n == 1 && FD_ISSET(wait->fds[0], &set));
}

/* These end with EINTR when a handler has run, and never otherwise. */
static inline long in_sigsuspend(struct wait *wait)
{
	long err = result(sigsuspend(mask_inside()));

	return err == -EINTR && wait->handled == 1 ? 1 : err;
}

static inline long in_pause(struct wait *wait)
{
	long err = result(pause());

	return err == -EINTR && wait->handled == 1 ? 1 : err;
}

static inline long in_wait4(struct wait *wait)
{
	int status = 0;
	long pid = result(wait4(wait->object, &status, 0, NULL));

	return is_right(pid, pid == wait->object && status == 7 << 8);
}

static inline long in_waitid(struct wait *wait)
{
	siginfo_t info = {0};
	long err = result(waitid(P_PID, (id_t)wait->object, &info, WEXITED));

	return is_right(err, info.si_pid == wait->object && info.si_status == 7);
}

static inline long in_flock(struct wait *wait)
{
	return result(flock(wait->fds[1], LOCK_EX));
}

static inline long in_setlkw(struct wait *wait)
{
	return result(set_lock(wait->fds[0], F_SETLKW, F_WRLCK));
}

static inline long in_msgrcv(struct wait *wait)
{
	struct {
		long type;
		char text[8];
	} message = {0};
	long n = result(msgrcv(wait->object, &message, sizeof(message.text), 0, 0));

	return is_right(n, n == 1 && message.type == 3 && message.text[0] == 'x');
}

static inline long in_mq_timedreceive(struct wait *wait)
{
	struct timespec limit;
	char text[8] = "";
	long n;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 3600;
	n = result(mq_timedreceive(wait->object, text, sizeof(text), NULL, &limit));
	return is_right(n, n == 1 && text[0] == 'x');
}

/* ---- all of them ---- */

#define ON_SEMAPHORE open_semaphore, NULL
#define RECEIVES(name, in)                                                                         \
	{                                                                                          \
		name, open_sockets, NULL, in, send_byte, NULL, 1                                   \
	}
#define SENDS(name, in)                                                                            \
	{                                                                                          \
		name, open_full_sockets, NULL, in, empty_socket, NULL, 1                           \
	}
#define ON_PIPE(name, in)                                                                          \
	{                                                                                          \
		name, open_pipe, NULL, in, send_byte, NULL, 1                                      \
	}
#define ON_EPOLL(name, in)                                                                         \
	{                                                                                          \
		name, open_epoll, NULL, in, send_byte, close_object, 1                             \
	}

static const struct kind kinds[] = {
    {"io_getevents", open_pipe, prepare_poll, in_getevents, send_byte, NULL, 1},
    {"io_getevents with a time limit", open_pipe, prepare_poll, in_getevents_with_limit, send_byte,
	NULL, 1},
    {"io_pgetevents", open_pipe, prepare_poll, in_pgetevents, send_byte, NULL, 1},
    {"io_uring_enter", open_uring, NULL, in_uring, complete_in_uring, NULL, 1},
#ifdef SYS_epoll_wait
    ON_EPOLL("epoll_wait", in_epoll_wait),
#endif
    ON_EPOLL("epoll_pwait", in_epoll_pwait),
#ifdef SYS_epoll_pwait2
    {"epoll_pwait2", open_epoll_pwait2, NULL, in_epoll_pwait2, send_byte, close_object, 1},
#endif
    {"sigtimedwait", NULL, NULL, in_sigtimedwait, send_signal, NULL, 1},
    {"rt_sigtimedwait without a time limit", NULL, NULL, in_rt_sigtimedwait, send_signal, NULL, 1},
    {"semop", ON_SEMAPHORE, in_semop, raise_semaphore, close_semaphore, 0},
    {"semtimedop", ON_SEMAPHORE, in_semtimedop, raise_semaphore, close_semaphore, 0},
#ifdef SYS_ipc
    {"semtimedop through ipc", ON_SEMAPHORE, in_ipc, raise_semaphore, close_semaphore, 0},
#endif
    RECEIVES("read of a socket with SO_RCVTIMEO", in_read),
    RECEIVES("readv of a socket with SO_RCVTIMEO", in_readv),
    RECEIVES("recv with SO_RCVTIMEO", in_recv),
    RECEIVES("recvmsg with SO_RCVTIMEO", in_recvmsg),
    RECEIVES("recvmmsg with SO_RCVTIMEO", in_recvmmsg),
#ifdef SYS_socketcall
    RECEIVES("recv with SO_RCVTIMEO through socketcall", in_socketcall),
#endif
    {"accept with SO_RCVTIMEO", open_listener, NULL, in_accept, connect_now, NULL, 1},
    {"accept4 with SO_RCVTIMEO", open_listener, NULL, in_accept4, connect_now, NULL, 1},
    {"connect with SO_SNDTIMEO", open_full_listener, NULL, in_connect, accept_one, close_object, 0},
    SENDS("write to a socket with SO_SNDTIMEO", in_write),
    SENDS("writev to a socket with SO_SNDTIMEO", in_writev),
    SENDS("send with SO_SNDTIMEO", in_send),
    SENDS("sendmsg with SO_SNDTIMEO", in_sendmsg),
    SENDS("sendmmsg with SO_SNDTIMEO", in_sendmmsg),
    /* From here on the kernel takes them up again by itself. */
    {"recv", open_sockets_without_limit, NULL, in_recv, send_byte, NULL, 1},
    ON_PIPE("read of a pipe", in_read),
    {"write to a pipe", open_full_pipe, NULL, in_pipe_write, empty_pipe, NULL, 1},
    {"read of an eventfd", open_eventfd, NULL, in_eventfd_read, raise_eventfd, NULL, 1},
    {"futex", NULL, NULL, in_futex, wake, NULL, 0},
    {"futex with a time limit", NULL, NULL, in_futex_with_limit, wake, NULL, 0},
    {"futex until a time", NULL, NULL, in_futex_until, wake, NULL, 0},
    ON_PIPE("poll", in_poll),
    ON_PIPE("ppoll", in_ppoll),
    ON_PIPE("select", in_select),
    ON_PIPE("pselect", in_pselect),
    {"sigsuspend", NULL, NULL, in_sigsuspend, send_handled, NULL, 1},
    {"pause", NULL, NULL, in_pause, send_handled, NULL, 1},
    {"wait4", open_pipe, prepare_child, in_wait4, send_byte, NULL, 1},
    {"waitid", open_pipe, prepare_child, in_waitid, send_byte, NULL, 1},
    {"flock", open_flocked, NULL, in_flock, unlock_flock, NULL, 0},
    {"fcntl with F_SETLKW", open_locked, NULL, in_setlkw, unlock, NULL, 0},
    {"msgrcv", open_message_queue, NULL, in_msgrcv, send_message, close_message_queue, 1},
    {"mq_timedreceive", open_mqueue, NULL, in_mq_timedreceive, send_to_mqueue, close_object, 1},
};

static inline const struct kind *kind_named(const char *name)
{
	for (size_t i = 0; i < COUNT(kinds); i++)
		if (!strcmp(kinds[i].name, name))
			return &kinds[i];
	return NULL;
}

#endif
