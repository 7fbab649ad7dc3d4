/* SPDX-License-Identifier: MIT */
/*
 * A libaio program that leaves events behind. It makes rings, brings each to a wanted head and tail,
 * prints what is pending in them as one line of JSON, and waits for a line on its standard input.
 * Then it ends the waits of its threads, prints what each of them came back with, and goes on
 * waiting until its standard input ends.
 *
 *   --ring n=N,head=H,tail=T,addr=A,count=C   C rings of io_setup(N); T may be "full": as many
 *                                             events as the kernel admits. A: moved there
 *   --reap user|kernel|both                   how it reaps what is in front of the head
 *   --wait KIND                               a thread in that call
 *   --threads N                               and N idle ones
 *   --storm                                   threads come and go, signals arrive
 *   --fork, --clone-vm                        a child that inherits the rings, that shares them
 *   --scribble WORD=VALUE                     over that word of the first ring's header
 *   --leader-exits                            the first thread exits, the others go on
 *   --flight                                  a poll is in flight in the first ring
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libaio.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define FULL UINT32_MAX
#define MOST_RINGS 1200
#define BATCH 1024u
#define LONGEST_WRITE 1000u

/* The header of a ring: linux/fs/aio.c. */
struct header {
	uint32_t id, nr, head, tail, magic, compat, incompat, header_length;
};

struct ring {
	io_context_t ctx;
	uint32_t nr; /* as it was made, whatever is scribbled over it */
	uint64_t completed, reaped;
};

enum reap { USER, KERNEL, BOTH };

static struct ring rings[MOST_RINGS];
static size_t ring_count;
static enum reap reap_by = BOTH;
static struct iocb iocbs[BATCH];
static int null_fd, zero_fd;
static char buffer[LONGEST_WRITE];

static _Noreturn void die(const char *what, int err)
{
	fprintf(stderr, "leaver: %s: %s\n", what, strerror(err));
	exit(1);
}

static void check(int ok, const char *what)
{
	if (!ok)
		die(what, errno);
}

static struct header *header_of(const struct ring *ring)
{
	return (struct header *)(void *)ring->ctx;
}

/* What the event of the i-th request of a ring must be. */
static struct io_event expected(size_t ring, uint64_t i)
{
	struct io_event event = {
	    .data = (void *)(uintptr_t)(0xda7a000000000000ull + ((uint64_t)ring << 32) + i),
	    .obj = &iocbs[i % BATCH],
	    .res = i % 7 == 6 ? (unsigned long)-EFAULT : 1 + i % LONGEST_WRITE,
	};

	return event;
}

static struct iocb *request(size_t ring, uint64_t i)
{
	struct iocb *iocb = &iocbs[i % BATCH];

	if (i % 7 == 6)
		io_prep_pread(iocb, zero_fd, NULL, 1, 0);
	else
		io_prep_pwrite(iocb, null_fd, buffer, 1 + i % LONGEST_WRITE, 0);
	iocb->data = expected(ring, i).data;
	return iocb;
}

/* Submits up to `count` requests, all of which complete at once; returns how many were taken. */
static unsigned submit(size_t index, uint64_t count)
{
	struct iocb *batch[BATCH];
	struct ring *ring = &rings[index];
	int n;

	if (count > BATCH)
		count = BATCH;
	for (unsigned i = 0; i < count; i++)
		batch[i] = request(index, ring->completed + i);
	n = io_submit(ring->ctx, (long)count, batch);
	if (n == -EAGAIN)
		return 0;
	if (n < 0)
		die("io_submit", -n);
	ring->completed += (unsigned)n;
	return (unsigned)n;
}

static void reap(struct ring *ring, uint64_t count)
{
	struct header *header = header_of(ring);
	int by_kernel = reap_by == KERNEL || (reap_by == BOTH && ring->reaped % 2);

	if (by_kernel) {
		struct io_event events[BATCH];
		int n = io_getevents(
		    ring->ctx, 0, count < BATCH ? (long)count : (long)BATCH, events, NULL);

		if (n <= 0)
			die("io_getevents", -n);
		ring->reaped += (unsigned)n;
	} else {
		__atomic_store_n(&header->head, (header->head + 1) % ring->nr, __ATOMIC_RELEASE);
		ring->reaped++;
	}
}

static void move(struct ring *ring, uintptr_t to)
{
	size_t len = 32 + 32 * (size_t)ring->nr;
	void *at = mmap(
	    (void *)to, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	check(at == (void *)to, "the wanted address");
	at = mremap(ring->ctx, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at);
	check(at != MAP_FAILED, "mremap");
	ring->ctx = at;
}

/* What processes that have just ended had still counts for a moment (fs.aio-nr). */
static int setup(int n, io_context_t *ctx)
{
	const struct timespec tick = {.tv_nsec = 20000000};
	int err = -EAGAIN;

	for (int i = 0; i < 100 && err == -EAGAIN; i++) {
		if (i)
			nanosleep(&tick, NULL);
		err = io_setup(n, ctx);
	}
	return err;
}

static void make_ring(int n, uint32_t head, uint32_t tail, uint64_t to)
{
	size_t index = ring_count++;
	struct ring *ring = &rings[index];
	uint64_t total;
	int err;

	check(ring_count <= MOST_RINGS, "too many rings");
	err = setup(n, &ring->ctx);
	if (err)
		die("io_setup", -err);
	ring->nr = header_of(ring)->nr;
	if (to)
		move(ring, (uintptr_t)to);
	total = tail == FULL ? UINT64_MAX : tail < head ? tail + ring->nr : tail;
	while (ring->completed < total || ring->reaped < head) {
		unsigned n = submit(index, total - ring->completed);

		if (ring->reaped < head && ring->reaped < ring->completed)
			reap(ring, head - ring->reaped);
		else if (!n && tail == FULL)
			break;
		else if (!n)
			die("no slot for the wanted tail", EAGAIN);
	}
}

static void make_rings(char *spec)
{
	static char *const keys[] = {"n", "head", "tail", "addr", "count", NULL};
	uint64_t values[COUNT(keys)] = {[4] = 1};
	char *value;
	int key;

	while (*spec) {
		key = getsubopt(&spec, keys, &value);
		if (key < 0 || !value)
			die("--ring", EINVAL);
		values[key] = strcmp(value, "full") ? strtoull(value, NULL, 0) : FULL;
	}
	for (uint64_t i = 0; i < values[4]; i++)
		make_ring((int)values[0], (uint32_t)values[1], (uint32_t)values[2], values[3]);
}

/* ---- threads that wait ---- */

struct waiter {
	const struct kind *kind;
	pthread_t thread;
	atomic_int tid; /* 0 until it is about to wait */
	io_context_t ctx;
	int fds[2];
	int semaphore;
	uint32_t word;
	atomic_int is_back;
	long result;
	int err; /* of a result below zero */
};

/* A way to wait, and how to end it. The call returns a result above or equal 0, or -errno. */
struct kind {
	const char *name;
	void (*prepare)(struct waiter *waiter);
	long (*wait)(struct waiter *waiter);
	void (*end)(struct waiter *waiter);
};

static struct waiter waiters[64];
static size_t waiter_count;

static const struct timeval minute = {.tv_sec = 60};
static const struct timespec minute_ns = {.tv_sec = 60};

static long or_errno(long result)
{
	return result < 0 ? -errno : result;
}

static void make_context(struct waiter *waiter)
{
	int err = setup(1, &waiter->ctx);

	if (err)
		die("io_setup", -err);
}

static void complete_one(struct waiter *waiter)
{
	struct iocb iocb, *one = &iocb;

	io_prep_pwrite(&iocb, null_fd, buffer, 1, 0);
	if (io_submit(waiter->ctx, 1, &one) != 1)
		die("io_submit", EAGAIN);
}

static long in_getevents(struct waiter *waiter)
{
	struct io_event event;

	return io_getevents(waiter->ctx, 1, 1, &event, NULL);
}

static long in_pgetevents(struct waiter *waiter)
{
	struct io_event event;
	sigset_t none;

	sigemptyset(&none);
	return io_pgetevents(waiter->ctx, 1, 1, &event, NULL, &none);
}

static void make_eventfd(struct waiter *waiter)
{
	struct epoll_event event = {.events = EPOLLIN};

	waiter->fds[0] = epoll_create1(0);
	waiter->fds[1] = eventfd(0, 0);
	check(!epoll_ctl(waiter->fds[0], EPOLL_CTL_ADD, waiter->fds[1], &event), "epoll_ctl");
}

static void raise_eventfd(struct waiter *waiter)
{
	check(eventfd_write(waiter->fds[1], 1) == 0, "eventfd_write");
}

static long in_epoll_wait(struct waiter *waiter)
{
	struct epoll_event event;

	return or_errno(epoll_wait(waiter->fds[0], &event, 1, -1));
}

static long in_epoll_pwait(struct waiter *waiter)
{
	struct epoll_event event;
	sigset_t none;

	sigemptyset(&none);
	return or_errno(epoll_pwait(waiter->fds[0], &event, 1, 60000, &none));
}

static long in_poll(struct waiter *waiter)
{
	struct pollfd fd = {.fd = waiter->fds[1], .events = POLLIN};

	return or_errno(poll(&fd, 1, 60000));
}

static long in_eventfd_read(struct waiter *waiter)
{
	eventfd_t value;

	return or_errno(eventfd_read(waiter->fds[1], &value));
}

static void make_semaphore(struct waiter *waiter)
{
	waiter->semaphore = semget(IPC_PRIVATE, 1, 0600);
	check(waiter->semaphore >= 0, "semget");
}

static long in_semtimedop(struct waiter *waiter)
{
	struct sembuf take = {.sem_op = -1};
	long result = or_errno(semtimedop(waiter->semaphore, &take, 1, &minute_ns));

	semctl(waiter->semaphore, 0, IPC_RMID);
	return result;
}

static void raise_semaphore(struct waiter *waiter)
{
	struct sembuf give = {.sem_op = 1};

	check(!semop(waiter->semaphore, &give, 1), "semop");
}

static long in_sigtimedwait(struct waiter *waiter)
{
	sigset_t set;

	(void)waiter;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	return or_errno(sigtimedwait(&set, NULL, &minute_ns)) == SIGRTMIN + 1 ? 1 : -errno;
}

static void send_signal(struct waiter *waiter)
{
	pthread_kill(waiter->thread, SIGRTMIN + 1);
}

static void make_sockets(struct waiter *waiter)
{
	check(!socketpair(AF_UNIX, SOCK_STREAM, 0, waiter->fds), "socketpair");
	setsockopt(waiter->fds[0], SOL_SOCKET, SO_RCVTIMEO, &minute, sizeof(minute));
}

static long in_recv(struct waiter *waiter)
{
	char byte;

	return or_errno(recv(waiter->fds[0], &byte, 1, 0));
}

static long in_socket_read(struct waiter *waiter)
{
	char byte;

	return or_errno(read(waiter->fds[0], &byte, 1));
}

static void send_byte(struct waiter *waiter)
{
	check(write(waiter->fds[1], "x", 1) == 1, "write");
}

/* A socket whose peer does not read: full, with a time limit for sending. */
static void make_full_socket(struct waiter *waiter)
{
	make_sockets(waiter);
	setsockopt(waiter->fds[0], SOL_SOCKET, SO_SNDTIMEO, &minute, sizeof(minute));
	while (send(waiter->fds[0], buffer, sizeof(buffer), MSG_DONTWAIT) > 0)
		;
}

static long in_send(struct waiter *waiter)
{
	return or_errno(send(waiter->fds[0], buffer, 1, 0));
}

static void take_all(struct waiter *waiter)
{
	while (recv(waiter->fds[1], (char[65536]){0}, 65536, MSG_DONTWAIT) > 0)
		;
}

static void make_listener(struct waiter *waiter)
{
	struct sockaddr_un any = {.sun_family = AF_UNIX};

	waiter->fds[0] = socket(AF_UNIX, SOCK_STREAM, 0);
	check(!bind(waiter->fds[0], (void *)&any, sizeof(any.sun_family)), "bind");
	check(!listen(waiter->fds[0], 1), "listen");
	setsockopt(waiter->fds[0], SOL_SOCKET, SO_RCVTIMEO, &minute, sizeof(minute));
}

static long in_accept(struct waiter *waiter)
{
	return or_errno(accept(waiter->fds[0], NULL, NULL)) >= 0 ? 1 : -errno;
}

static void connect_to(struct waiter *waiter)
{
	struct sockaddr_un address;
	socklen_t len = sizeof(address);

	check(!getsockname(waiter->fds[0], (void *)&address, &len), "getsockname");
	check(!connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&address, len), "connect");
}

static long in_nanosleep(struct waiter *waiter)
{
	const struct timespec time = {.tv_sec = 1};
	struct timespec before, after;
	long result;

	(void)waiter;
	clock_gettime(CLOCK_MONOTONIC, &before);
	result = or_errno(nanosleep(&time, NULL));
	clock_gettime(CLOCK_MONOTONIC, &after);
	if (result)
		return result;
	return after.tv_sec - before.tv_sec + (after.tv_nsec >= before.tv_nsec ? 0 : -1) >= 1;
}

static long in_futex(struct waiter *waiter)
{
	long result =
	    or_errno(syscall(SYS_futex, &waiter->word, FUTEX_WAIT, 0, &minute_ns, NULL, 0));

	/* Made again after a stop, the call may find that it has been woken already. */
	return result && result != -EAGAIN ? result : 1;
}

static void wake(struct waiter *waiter)
{
	__atomic_store_n(&waiter->word, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &waiter->word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void make_pipe(struct waiter *waiter)
{
	check(!pipe(waiter->fds), "pipe");
}

static void make_context_and_pipe(struct waiter *waiter)
{
	make_context(waiter);
	make_pipe(waiter);
}

/* A pipe knows no asynchronous read: io_submit itself waits, and an interruption is its event. */
static long in_submit(struct waiter *waiter)
{
	struct io_event event;
	struct iocb iocb, *one = &iocb;
	char byte;

	io_prep_pread(&iocb, waiter->fds[0], &byte, 1, 0);
	if (io_submit(waiter->ctx, 1, &one) != 1 ||
	    io_getevents(waiter->ctx, 1, 1, &event, NULL) != 1)
		return -EIO;
	return (long)event.res;
}

/* The same work again and again: a register that changed would change what comes out. */
static uint64_t work(void)
{
	uint64_t a = 1, b = 2, c = 3, d = 5, e = 7, f = 11;
	double x = 1.5, y = 2.5, z = 3.5;

	for (unsigned i = 0; i < 200000; i++) {
		a = a * 6364136223846793005u + b;
		b ^= c + (a >> 7);
		c += d ^ (b << 3);
		d = d * 31 + e;
		e ^= f + d;
		f = (f << 1 | f >> 63) + a;
		x = x * 0.999 + y;
		y = y * 0.5 + z;
		z = z * 0.25 + (double)(i & 7);
	}
	return a ^ b ^ c ^ d ^ e ^ f ^ (uint64_t)(1000 * (x + y + z));
}

static long in_work(struct waiter *waiter)
{
	uint64_t right = work();

	while (!__atomic_load_n(&waiter->word, __ATOMIC_SEQ_CST))
		if (work() != right)
			return -EILSEQ;
	return 1;
}

static void nothing(struct waiter *waiter)
{
	(void)waiter;
}

static const struct kind kinds[] = {
    {"io_getevents", make_context, in_getevents, complete_one},
    {"io_submit", make_context_and_pipe, in_submit, send_byte},
    {"io_pgetevents", make_context, in_pgetevents, complete_one},
    {"epoll_wait", make_eventfd, in_epoll_wait, raise_eventfd},
    {"epoll_pwait", make_eventfd, in_epoll_pwait, raise_eventfd},
    {"poll", make_eventfd, in_poll, raise_eventfd},
    {"eventfd", make_eventfd, in_eventfd_read, raise_eventfd},
    {"semtimedop", make_semaphore, in_semtimedop, raise_semaphore},
    {"sigtimedwait", nothing, in_sigtimedwait, send_signal},
    {"recv", make_sockets, in_recv, send_byte},
    {"socket-read", make_sockets, in_socket_read, send_byte},
    {"send", make_full_socket, in_send, take_all},
    {"accept", make_listener, in_accept, connect_to},
    {"nanosleep", nothing, in_nanosleep, nothing},
    {"futex", nothing, in_futex, wake},
    {"pipe-read", make_pipe, in_socket_read, send_byte},
    {"work", nothing, in_work, wake},
};

static void *wait_thread(void *data)
{
	struct waiter *waiter = data;
	sigset_t storm;

	/* What ends a wait must not be the storm's signal. */
	sigemptyset(&storm);
	sigaddset(&storm, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &storm, NULL);
	atomic_store(&waiter->tid, gettid());
	waiter->result = waiter->kind->wait(waiter);
	atomic_store(&waiter->is_back, 1);
	return NULL;
}

static void add_waiter(const char *name)
{
	struct waiter *waiter = &waiters[waiter_count++];

	for (size_t i = 0; i < COUNT(kinds); i++)
		if (!strcmp(kinds[i].name, name))
			waiter->kind = &kinds[i];
	if (!waiter->kind)
		die(name, EINVAL);
	waiter->kind->prepare(waiter);
	check(!pthread_create(&waiter->thread, NULL, wait_thread, waiter), "pthread_create");
}

static void *idle_thread(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void add_idle_threads(int count)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, PTHREAD_STACK_MIN);
	while (count-- > 0)
		check(!pthread_create(&thread, &attr, idle_thread, NULL), "pthread_create");
}

static atomic_ulong storms, signals;

static void *come_and_go(void *unused)
{
	atomic_fetch_add(&storms, 1);
	return unused;
}

static void *storm_thread(void *unused)
{
	pthread_t threads[4];

	for (;;) {
		for (size_t i = 0; i < COUNT(threads); i++)
			check(!pthread_create(&threads[i], NULL, come_and_go, NULL),
			    "pthread_create");
		for (size_t i = 0; i < COUNT(threads); i++)
			pthread_join(threads[i], NULL);
	}
	return unused;
}

static void count_signal(int signal)
{
	(void)signal;
	atomic_fetch_add(&signals, 1);
}

static void start_storm(void)
{
	struct itimerval often = {.it_interval = {.tv_usec = 2000}, .it_value = {.tv_usec = 2000}};
	struct sigaction action = {.sa_handler = count_signal, .sa_flags = SA_RESTART};
	pthread_t thread;

	sigaction(SIGALRM, &action, NULL);
	check(!pthread_create(&thread, NULL, storm_thread, NULL), "pthread_create");
	setitimer(ITIMER_REAL, &often, NULL);
}

/* ---- relatives, and damage ---- */

static pid_t child;

static void end_with_parent(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
}

static int child_main(void *parent)
{
	end_with_parent(*(pid_t *)parent);
	for (;;)
		pause();
	return 0;
}

static void fork_child(int flags)
{
	static char stack[65536] __attribute__((aligned(16)));
	static pid_t parent;

	parent = getpid();
	if (flags) {
		child = clone(child_main, stack + sizeof(stack), flags | SIGCHLD, &parent);
	} else {
		child = fork();
		if (!child)
			child_main(&parent);
	}
	check(child > 0, "fork");
}

static void scribble(const char *what)
{
	static const char *const words[] = {
	    "id", "nr", "head", "tail", "magic", "compat", "incompat", "header_length"};
	const char *value = strchr(what, '=');

	for (size_t i = 0; value && i < COUNT(words); i++)
		if (strlen(words[i]) == (size_t)(value - what) &&
		    !memcmp(words[i], what, strlen(words[i])))
			((uint32_t *)(void *)rings[0].ctx)[i] =
			    (uint32_t)strtoul(value + 1, NULL, 0);
}

static void poll_in_flight(void)
{
	static struct iocb iocb;
	struct iocb *one = &iocb;

	io_prep_poll(&iocb, eventfd(0, 0), POLLIN);
	check(io_submit(rings[0].ctx, 1, &one) == 1, "io_submit of a poll");
}

/* ---- what it says ---- */

/* The same text as aio-restorer's own JSON has for the events. */
static void print_ring(size_t index)
{
	const struct ring *ring = &rings[index];
	struct header *header = header_of(ring);

	printf("%s{\"addr\":\"0x%lx\",\"id\":%u,\"nr\":%u,\"head\":%u,\"tail\":%u,\"events\":[",
	    index ? "," : "", (unsigned long)ring->ctx, header->id, ring->nr,
	    (unsigned)(ring->reaped % ring->nr), (unsigned)(ring->completed % ring->nr));
	for (uint64_t i = ring->reaped; i < ring->completed; i++) {
		struct io_event event = expected(index, i);

		printf("%s{\"data\":\"0x%lx\",\"obj\":\"0x%lx\",\"res\":%ld,\"res2\":%ld}",
		    i > ring->reaped ? "," : "", (unsigned long)event.data,
		    (unsigned long)event.obj, (long)event.res, (long)event.res2);
	}
	printf("]}");
}

static void print_rings(void)
{
	printf("{\"pid\":%d,\"child\":%d,\"rings\":[", getpid(), child);
	for (size_t i = 0; i < ring_count; i++)
		print_ring(i);
	printf("]}\n");
	fflush(stdout);
}

static int is_waiting(struct waiter *waiter)
{
	char path[64], text[512] = "", *state;
	int fd;

	if (!atomic_load(&waiter->tid))
		return 0;
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", atomic_load(&waiter->tid));
	fd = open(path, O_RDONLY);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return 1; /* back already */
	close(fd);
	state = strrchr(text, ')');
	return waiter->kind->wait == in_work || (state && state[2] == 'S');
}

/* Returns when all of them are in their calls. */
static void settle(void)
{
	const struct timespec tick = {.tv_nsec = 1000000};

	for (size_t i = 0; i < waiter_count; i++)
		while (!is_waiting(&waiters[i]))
			nanosleep(&tick, NULL);
}

static void end_waits(void)
{
	const struct timespec tick = {.tv_nsec = 1000000};

	for (size_t i = 0; i < waiter_count; i++)
		if (!atomic_load(&waiters[i].is_back))
			waiters[i].kind->end(&waiters[i]);
	printf("{");
	for (size_t i = 0; i < waiter_count; i++) {
		while (!atomic_load(&waiters[i].is_back))
			nanosleep(&tick, NULL);
		printf("\"%s\":%ld,", waiters[i].kind->name, waiters[i].result);
	}
	printf("\"signals\":%lu,\"storms\":%lu}\n", atomic_load(&signals), atomic_load(&storms));
	fflush(stdout);
}

/* Without stdio: a reader that has a buffer would hide the second line. */
static int read_line(void)
{
	char c = 0;

	while (c != '\n')
		if (read(STDIN_FILENO, &c, 1) != 1)
			return 0;
	return 1;
}

static void *serve(void *unused)
{
	settle();
	print_rings();
	if (read_line())
		end_waits();
	while (read_line())
		;
	exit(0);
	return unused;
}

static const struct option long_options[] = {
    {"ring", required_argument, NULL, 'r'},
    {"reap", required_argument, NULL, 'p'},
    {"wait", required_argument, NULL, 'w'},
    {"threads", required_argument, NULL, 't'},
    {"storm", no_argument, NULL, 's'},
    {"fork", no_argument, NULL, 'f'},
    {"clone-vm", no_argument, NULL, 'c'},
    {"scribble", required_argument, NULL, 'b'},
    {"leader-exits", no_argument, NULL, 'l'},
    {"flight", no_argument, NULL, 'i'},
    {0},
};

static void use_option(int letter, char *value)
{
	switch (letter) {
	case 'r':
		make_rings(value);
		break;
	case 'p':
		reap_by = *value == 'u' ? USER : *value == 'k' ? KERNEL : BOTH;
		break;
	case 'w':
		add_waiter(value);
		break;
	case 't':
		add_idle_threads(atoi(value));
		break;
	case 's':
		start_storm();
		break;
	case 'f':
		fork_child(0);
		break;
	case 'c':
		fork_child(CLONE_VM);
		break;
	case 'b':
		scribble(value);
		break;
	case 'i':
		poll_in_flight();
		break;
	default:
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = count_signal};
	int letter, leader_exits = 0;
	cpu_set_t all, one;
	sigset_t waited;
	pthread_t thread;

	/* Signals that a thread waits for must be blocked in all; SIGUSR1 interrupts. */
	sigemptyset(&waited);
	sigaddset(&waited, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &waited, NULL);
	sigaction(SIGUSR1, &action, NULL);
	null_fd = open("/dev/null", O_RDWR);
	zero_fd = open("/dev/zero", O_RDONLY);
	/* Slots are handed out to CPUs: all that the kernel admits are had from one. */
	sched_getaffinity(0, sizeof(all), &all);
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof(one), &one);
	while ((letter = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		if (letter != 'r')
			sched_setaffinity(0, sizeof(all), &all);
		if (letter == 'l')
			leader_exits = 1;
		else
			use_option(letter, optarg);
	}
	sched_setaffinity(0, sizeof(all), &all);
	if (!leader_exits)
		serve(NULL);
	check(!pthread_create(&thread, NULL, serve, NULL), "pthread_create");
	pthread_exit(NULL);
}
