/* SPDX-License-Identifier: MIT */
/*
 * A program that is checkpointed in the middle of something, and says what came of it: one of those that lose
 * something there. Prints "ready" when it is in the middle; SIGUSR1 tells it that it has been checkpointed and
 * restored; then it prints one line, and ends.
 *
 *   polls      four polls are in flight, which are then fired: how many events come
 *   file       a poll of a file (argument) is in flight, which is then cancelled: how many events come
 *   wait       a thread waits in io_getevents, for an event which then comes: what the call returns
 *   four       the same for four events, of which two are there; and which they are, if each is not another one
 *   beside     the same for one event, beside a thread, the first one, that reads and reads (argument: the file)
 *   contexts   1,100 contexts of one request: how many still work
 *   reads      sixteen reads with O_DIRECT are in flight (argument: the file): how many events come, and of those
 *              how many once and with the right data
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define POLLS 4
#define CONTEXTS 1100
#define READS 16
#define READ_BYTES 262144u
#define PATIENCE_S 20

static int fds[POLLS];
static struct iocb iocbs[READS];
static aio_context_t contexts[CONTEXTS];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static long submit(aio_context_t ctx, struct iocb *iocb)
{
	return syscall(SYS_io_submit, ctx, 1l, &iocb);
}

static long get_events(
    aio_context_t ctx, long least, long most, struct io_event *events, unsigned seconds)
{
	struct timespec time = {.tv_sec = seconds};

	return syscall(SYS_io_getevents, ctx, least, most, events, seconds ? &time : NULL);
}

static void submit_poll_of(int fd, aio_context_t ctx, unsigned i)
{
	iocbs[i] = (struct iocb){.aio_lio_opcode = IOCB_CMD_POLL,
	    .aio_fildes = (uint32_t)fd,
	    .aio_buf = POLLIN,
	    .aio_data = i + 1};
	if (submit(ctx, &iocbs[i]) != 1)
		fail("io_submit");
}

static void submit_poll(aio_context_t ctx, unsigned i)
{
	fds[i] = eventfd(0, EFD_CLOEXEC);
	submit_poll_of(fds[i], ctx, i);
}

static void fire(unsigned i)
{
	uint64_t one = 1;

	if (write(fds[i], &one, sizeof(one)) != sizeof(one))
		fail("eventfd");
}

static void make_context(aio_context_t *ctx, unsigned requests)
{
	const struct timespec tick = {.tv_nsec = 20000000};

	/* What processes that have just ended had still counts for a moment. */
	for (int i = 0; i < 100 && syscall(SYS_io_setup, requests, ctx); i++)
		nanosleep(&tick, NULL);
	if (!*ctx)
		fail("io_setup");
}

static void be_checkpointed(void)
{
	sigset_t set;
	int signal;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	puts("ready");
	fflush(stdout);
	while (sigwait(&set, &signal) || signal != SIGUSR1)
		;
}

static void run_polls(const char *file)
{
	struct io_event events[2 * POLLS];

	(void)file;
	make_context(&contexts[0], POLLS);
	for (unsigned i = 0; i < POLLS; i++)
		submit_poll(contexts[0], i);
	be_checkpointed();
	for (unsigned i = 0; i < POLLS; i++)
		fire(i);
	printf("%ld of %d events\n", get_events(contexts[0], POLLS, 2 * POLLS, events, 2), POLLS);
}

static void run_file(const char *path)
{
	struct io_event events[2];
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		fail(path);
	make_context(&contexts[0], 1);
	submit_poll_of(fd, contexts[0], 0);
	be_checkpointed();
	if (syscall(SYS_io_cancel, contexts[0], &iocbs[0], &events[0]) && errno != EINPROGRESS)
		fail("io_cancel");
	printf("%ld of 1 events\n", get_events(contexts[0], 1, 2, events, 2));
}

static long wanted;

static void *wait_for_events(void *unused)
{
	struct io_event events[POLLS];
	unsigned seen = 0;
	long n;

	(void)unused;
	n = get_events(contexts[0], wanted, POLLS, events, 0);
	if (n < 0)
		printf("%s", errno == EINTR ? "EINTR" : strerror(errno));
	else
		printf("%ld of %ld events", n, wanted);
	for (long i = 0; i < n; i++)
		seen |= 1u << events[i].data;
	for (long i = 0; i < n && __builtin_popcount(seen) != n; i++)
		printf("%s %llu", i ? "," : ":", (unsigned long long)events[i].data);
	puts("");
	fflush(stdout);
	_exit(0);
}

static void start_thread(void *(*run)(void *))
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, run, NULL))
		fail("pthread_create");
}

static void start_wait(unsigned events)
{
	wanted = events;
	make_context(&contexts[0], POLLS);
	for (unsigned i = 0; i < events; i++)
		submit_poll(contexts[0], i);
	start_thread(wait_for_events);
}

/* So many events come before the checkpoint, and the others behind it. */
static void go_on(unsigned before, unsigned all)
{
	const struct timespec moment = {.tv_nsec = 100000000};

	nanosleep(&moment, NULL);
	for (unsigned i = 0; i < before; i++)
		fire(i);
	nanosleep(&moment, NULL);
	be_checkpointed();
	for (unsigned i = before; i < all; i++)
		fire(i);
	sleep(2);
	printf("no event\n");
}

static void run_wait(const char *file)
{
	(void)file;
	start_wait(1);
	go_on(0, 1);
}

static void run_four(const char *file)
{
	(void)file;
	start_wait(4);
	go_on(2, 4);
}

static void *go_on_with_one(void *unused)
{
	go_on(0, 1);
	return unused;
}

static void run_beside(const char *path)
{
	void *bytes = aligned_alloc(4096, 4096);
	int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);

	if (fd < 0 || !bytes)
		fail(path);
	start_wait(1);
	start_thread(go_on_with_one);
	while (pread(fd, bytes, 4096, 0) >= 0)
		;
	fail("pread");
}

static void run_contexts(const char *file)
{
	struct iocb iocb = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_data = 7};
	struct io_event event;
	unsigned good = 0;

	(void)file;
	iocb.aio_fildes = (uint32_t)open("/dev/null", O_RDONLY | O_CLOEXEC);
	for (unsigned i = 0; i < CONTEXTS; i++)
		make_context(&contexts[i], 1);
	be_checkpointed();
	for (unsigned i = 0; i < CONTEXTS; i++)
		good += submit(contexts[i], &iocb) == 1 &&
			get_events(contexts[i], 1, 1, &event, 1) == 1 && event.data == 7;
	printf("%u of %d contexts\n", good, CONTEXTS);
}

/* Each byte of the file is the number of its block of READ_BYTES. */
static void run_reads(const char *path)
{
	static unsigned counts[READS];
	unsigned char *bytes = aligned_alloc(4096, READS * READ_BYTES);
	unsigned good = 0, got = 0;
	struct io_event event;
	int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);

	if (fd < 0 || !bytes)
		fail(path);
	memset(bytes, 0xff, READS * READ_BYTES);
	make_context(&contexts[0], READS);
	for (unsigned i = 0; i < READS; i++) {
		iocbs[i] = (struct iocb){.aio_lio_opcode = IOCB_CMD_PREAD,
		    .aio_fildes = (uint32_t)fd,
		    .aio_buf = (uintptr_t)(bytes + (size_t)i * READ_BYTES),
		    .aio_nbytes = READ_BYTES,
		    .aio_offset = (int64_t)i * READ_BYTES,
		    .aio_data = i};
		if (submit(contexts[0], &iocbs[i]) != 1)
			fail("io_submit");
	}
	be_checkpointed();
	while (get_events(contexts[0], 1, 1, &event, got ? 2 : PATIENCE_S) == 1) {
		got++;
		if (event.data < READS && event.res == READ_BYTES)
			counts[event.data]++;
	}
	for (unsigned i = 0; i < READS; i++) {
		const unsigned char *block = bytes + (size_t)i * READ_BYTES;

		good +=
		    counts[i] == 1 && block[0] == i && !memcmp(block, block + 1, READ_BYTES - 1);
	}
	printf("%u of %d reads, %u events\n", good, READS, got);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(const char *file);
	} kinds[] = {
	    {"polls", run_polls},
	    {"file", run_file},
	    {"wait", run_wait},
	    {"four", run_four},
	    {"beside", run_beside},
	    {"contexts", run_contexts},
	    {"reads", run_reads},
	};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (size_t i = 0; argc > 1 && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(argv[1], kinds[i].name))
			continue;
		kinds[i].run(argv[2]);
		return 0;
	}
	return 2;
}
