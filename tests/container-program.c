/* SPDX-License-Identifier: MIT */
/*
 * The program in a container that is checkpointed: appends the numbers 1, 2, 3... to a file, a line each, with AIO.
 *
 *   container-program FILE
 *
 * It reaps late: as soon as it has begun, LATE completed events are in the ring at every moment that it sleeps. Of its
 * two polls, which are fired in turn and submitted again when their event has come, one at least is in flight. When an event
 * is missing, or is another than the expected, it says so in FILE.failed and ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LATE 7u
#define FIRES_EVERY                                                                                \
	(LATE + 1) /* lines, so that the event of one poll has been reaped when the next is fired */
#define POLLS 2u
#define LINES 16u
#define LINE_BYTES 16u
#define POLL_DATA (1ull << 32)
#define PATIENCE_S 20

static char failed[4096];
static aio_context_t ctx;

static struct {
	char text[LINE_BYTES];
	struct iocb iocb;
} lines[LINES]; /* that of number n is n % LINES */

static struct {
	struct iocb iocb;
	int is_fired;
} polls[POLLS];

static uint64_t written, reaped; /* numbers */
static unsigned pending;

static void fail(const char *what)
{
	FILE *file = fopen(failed, "we");

	if (file) {
		fprintf(
		    file, "%s after number %ju: %s\n", what, (uintmax_t)written, strerror(errno));
		fclose(file);
	}
	exit(1);
}

static void submit(struct iocb *iocb)
{
	if (syscall(SYS_io_submit, ctx, 1l, &iocb) != 1)
		fail("io_submit");
}

static void submit_poll(unsigned i)
{
	polls[i].iocb.aio_lio_opcode = IOCB_CMD_POLL;
	polls[i].iocb.aio_buf = POLLIN;
	polls[i].iocb.aio_data = POLL_DATA + i;
	submit(&polls[i].iocb);
}

/* One whose event is still missing would be fired twice. */
static void fire(unsigned i)
{
	uint64_t one = 1;

	errno = 0;
	if (polls[i].is_fired)
		fail("the event of a poll is missing");
	polls[i].is_fired = 1;
	if (write((int)polls[i].iocb.aio_fildes, &one, sizeof(one)) != sizeof(one))
		fail("eventfd");
	pending++;
}

static void take_poll(unsigned i, const struct io_event *event)
{
	uint64_t count;

	errno = 0;
	if (!polls[i].is_fired || event->res != POLLIN)
		fail("a poll's event that nothing has fired");
	polls[i].is_fired = 0;
	if (read((int)polls[i].iocb.aio_fildes, &count, sizeof(count)) != sizeof(count))
		fail("eventfd");
	submit_poll(i);
}

static void append(int fd)
{
	static long long at;
	unsigned i = ++written % LINES;
	int size = snprintf(lines[i].text, LINE_BYTES, "%ju\n", (uintmax_t)written);

	lines[i].iocb = (struct iocb){.aio_lio_opcode = IOCB_CMD_PWRITE,
	    .aio_fildes = (uint32_t)fd,
	    .aio_buf = (uintptr_t)lines[i].text,
	    .aio_nbytes = (uint64_t)size,
	    .aio_offset = at,
	    .aio_data = written};
	submit(&lines[i].iocb);
	at += size;
	pending++;
}

/* Writes complete in the order they were submitted in, as long as they are not direct; polls when they like. */
static void reap(void)
{
	struct timespec patience = {.tv_sec = PATIENCE_S};
	struct io_event event;
	unsigned i;

	if (syscall(SYS_io_getevents, ctx, 1l, 1l, &event, &patience) != 1)
		fail("io_getevents");
	pending--;
	if (event.data >= POLL_DATA && event.data < POLL_DATA + POLLS) {
		take_poll((unsigned)(event.data - POLL_DATA), &event);
		return;
	}
	errno = 0;
	i = ++reaped % LINES;
	if (event.data != reaped || event.obj != (uintptr_t)&lines[i].iocb ||
	    event.res != (int64_t)strlen(lines[i].text) || event.res2)
		fail("another event than the expected");
}

int main(int argc, char **argv)
{
	const struct timespec tick = {.tv_nsec = 50000000};
	int fd = argc == 2 ? open(argv[1], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644) : -1;

	snprintf(failed, sizeof(failed), "%s.failed", argc == 2 ? argv[1] : "");
	if (fd < 0 || syscall(SYS_io_setup, 64l, &ctx))
		fail("io_setup");
	for (unsigned i = 0; i < POLLS; i++) {
		polls[i].iocb.aio_fildes = (uint32_t)eventfd(0, EFD_CLOEXEC);
		submit_poll(i);
	}
	for (;;) {
		append(fd);
		if (written % FIRES_EVERY == 0)
			fire((unsigned)(written / FIRES_EVERY % POLLS));
		while (pending > LATE)
			reap();
		nanosleep(&tick, NULL);
	}
}
