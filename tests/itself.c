/* SPDX-License-Identifier: MIT */
/*
 * A program that stages its own rings and restores them, for tests that let a system call fail meanwhile
 * (tests/strike.c). Says on its standard output what came of it; ends with 0 if each of its requests has had its
 * event, once, whatever has failed.
 *
 * usage: itself [room | compact]...
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
#include <unistd.h>

#include "aio-restorer.h"
#include "strike.h"

#define EVENTS 6 /* of the first ring; then those of the second: */
#define POLLS 2
#define ALL (EVENTS + 1 + POLLS)

static aio_context_t rings[2];
static struct iocb iocbs[ALL];
static int fds[POLLS];
static unsigned counts[ALL];
static int lost;

static _Noreturn void fail(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(2);
}

/* An event that is there at once: nothing is read. */
static void submit(aio_context_t ring, unsigned i, struct iocb iocb)
{
	struct iocb *one = &iocbs[i];

	iocbs[i] = iocb;
	iocbs[i].aio_data = i;
	if (syscall(SYS_io_submit, ring, 1l, &one) != 1)
		fail("io_submit");
}

static void set_up(void)
{
	struct iocb at_once = {.aio_lio_opcode = IOCB_CMD_PREAD};

	at_once.aio_fildes = (uint32_t)open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (syscall(SYS_io_setup, 40, &rings[0]) || syscall(SYS_io_setup, 3, &rings[1]))
		fail("io_setup");
	for (unsigned i = 0; i < EVENTS; i++)
		submit(rings[0], i, at_once);
	submit(rings[1], EVENTS, at_once);
	for (unsigned i = 0; i < POLLS; i++) {
		fds[i] = eventfd(0, EFD_CLOEXEC);
		submit(rings[1], EVENTS + 1 + i,
		    (struct iocb){.aio_lio_opcode = IOCB_CMD_POLL,
			.aio_fildes = (uint32_t)fds[i],
			.aio_buf = POLLIN});
	}
}

static int is_right(const struct io_event *event)
{
	if (event->data >= ALL || event->obj != (uintptr_t)&iocbs[event->data])
		return 0;
	if (event->data <= EVENTS)
		return !event->res;
	return event->res == POLLIN || (lost && event->res == POLLNVAL);
}

/* What comes from a ring, until nothing does. */
static int reap(aio_context_t ring, long most)
{
	struct timespec no_time = {0};
	struct io_event events[ALL];
	long n;

	while ((n = syscall(SYS_io_getevents, ring, 0l, most, events, &no_time)) > 0) {
		for (long i = 0; i < n; i++) {
			if (!is_right(&events[i])) {
				printf("a wrong event: data %llu, res %lld\n",
				    (unsigned long long)events[i].data, (long long)events[i].res);
				return -1;
			}
			counts[events[i].data]++;
		}
		if (most == 1)
			return 0;
	}
	if (n < 0)
		printf("io_getevents: %s\n", strerror(errno));
	return (int)n;
}

static int is_live(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512];
	int count = 0;

	while (maps && fgets(line, sizeof(line), maps))
		count += strstr(line, "[aio]") != NULL;
	if (maps)
		fclose(maps);
	return count == 2;
}

static const char *name_of(int ret, const struct aior_error *error)
{
	return ret ? error->message : "done";
}

int main(int argc, char **argv)
{
	int has_room = 0, is_compact = 0, ret, wrong = 0;
	struct aior_report report = {0};
	struct aior_error error = {.message = ""};
	uint64_t one = 1;

	for (int i = 1; i < argc; i++) {
		has_room |= !strcmp(argv[i], "room");
		is_compact |= !strcmp(argv[i], "compact");
	}
	set_up();
	wrong |= reap(rings[0], 1);
	syscall(STRIKE_FROM_HERE);
	ret = has_room ? aior_stage_self_with_room(256, &report, &error)
		       : aior_stage_self(&report, &error);
	syscall(STRIKE_NO_MORE);
	printf("stage: %s\n", name_of(ret, &error));
	wrong |= ret && !error.message[0];
	/* (A context that the kernel does not know is its parent's.) */
	wrong |= !ret && is_live() && !report.inherited_count;
	lost |= !ret && report.lost_count;
	for (int tries = 0; !is_live(); tries++) {
		syscall(tries ? STRIKE_NO_MORE : STRIKE_FROM_HERE);
		ret = is_compact ? aior_restore_self_compact(&report, &error)
				 : aior_restore_self(&report, &error);
		syscall(STRIKE_NO_MORE);
		printf("restore: %s\n", name_of(ret, &error));
		wrong |= ret && !error.message[0];
		lost |= !ret && report.lost_count;
		if (tries && ret) {
			printf("it cannot be restored any more\n");
			return 1;
		}
	}
	for (unsigned i = 0; i < POLLS; i++)
		wrong |= write(fds[i], &one, sizeof(one)) != sizeof(one);
	wrong |= reap(rings[0], ALL) | reap(rings[1], ALL);
	for (unsigned i = 0; i < ALL; i++)
		if (counts[i] != 1)
			wrong |= printf("request %u has had %u events\n", i, counts[i]) > 0;
	/* They are what they have been, too. */
	memset(counts, 0, sizeof(counts));
	submit(rings[0], 0, iocbs[0]);
	submit(rings[1], EVENTS, iocbs[EVENTS]);
	wrong |= reap(rings[0], ALL) | reap(rings[1], ALL);
	wrong |= counts[0] != 1 || counts[EVENTS] != 1;
	return wrong != 0;
}
