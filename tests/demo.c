/* SPDX-License-Identifier: MIT */
/*
 * An ordinary libaio program for the demo: reads a file with up to 64 requests in flight, and stops
 * in the middle of its work. By then its ring has wrapped, and events that it has not reaped lie at
 * both ends of it.
 */
#include <fcntl.h>
#include <libaio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096
#define DEPTH 64

static struct iocb iocbs[DEPTH];
static char buffers[DEPTH][BLOCK];

static void submit(io_context_t ctx, int fd, int count, long *next)
{
	for (int i = 0; i < count; i++) {
		struct iocb *iocb = &iocbs[*next % DEPTH];

		io_prep_pread(iocb, fd, buffers[*next % DEPTH], BLOCK, *next % 256 * BLOCK);
		iocb->data = (void *)(*next)++;
		if (io_submit(ctx, 1, &iocb) != 1) {
			fprintf(stderr, "io_submit failed\n");
			exit(1);
		}
	}
}

static void reap(io_context_t ctx, int count)
{
	struct io_event events[DEPTH];

	if (io_getevents(ctx, count, count, events, NULL) != count) {
		fprintf(stderr, "io_getevents failed\n");
		exit(1);
	}
}

int main(void)
{
	char name[] = "/tmp/aio-demo.XXXXXX";
	int fd = mkstemp(name);
	io_context_t ctx = NULL;
	long next = 0;
	uint32_t nr;

	if (fd < 0 || unlink(name) || ftruncate(fd, 256 * BLOCK) || io_setup(DEPTH, &ctx)) {
		perror("demo");
		return 1;
	}
	nr = ((const uint32_t *)ctx)[1];
	/* Up to 8 slots before the end of the ring; then 24 events more, which nobody reaps. */
	while (next < (long)nr - 8) {
		submit(ctx, fd, 1, &next);
		reap(ctx, 1);
	}
	submit(ctx, fd, 24, &next);
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}
