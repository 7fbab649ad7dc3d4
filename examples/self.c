/* SPDX-License-Identifier: MIT */
/*
 * A process that checkpoints its own rings around a call. While the call runs its rings are ordinary
 * memory, so whatever saves memory saves them. Here that is fork(2): the child is the checkpoint. It
 * goes on from there as the parent does, with rings of its own.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <aio-restorer.h>

/* Everything that the program does with threads must stand still meanwhile; this one has none. */
static void with_staged_rings(void (*call)(void *), void *data)
{
	struct aior_report report;
	struct aior_error error;

	if (aior_stage_self(&report, &error))
		errx(1, "%s", error.message); /* all is as it was */
	printf("staged: %zu ring, %zu pending, %zu poll\n", report.ring_count, report.pending,
	    report.poll_count);
	fflush(stdout);
	aior_report_free(&report);
	call(data);
	if (aior_restore_self(&report, &error))
		errx(1, "%s", error.message); /* still staged: it can be called again */
	for (size_t i = 0; i < report.lost_count; i++)
		warnx("poll 0x%llx is lost", (unsigned long long)report.lost[i].data);
	aior_report_free(&report);
}

static void checkpoint(void *data)
{
	pid_t *child = data;

	*child = fork();
	if (*child < 0)
		err(1, "fork");
}

int main(void)
{
	static char byte;
	static struct iocb read_it, poll_it;
	struct iocb *iocbs[] = {&read_it, &poll_it};
	struct io_event events[2];
	aio_context_t ctx = 0;
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC), ends[2], status = 0;
	pid_t child;

	if (zero < 0 || pipe(ends) || syscall(SYS_io_setup, 8, &ctx))
		err(1, "a file, a pipe, and a ring");
	read_it = (struct iocb){.aio_data = 1,
	    .aio_lio_opcode = IOCB_CMD_PREAD,
	    .aio_fildes = (unsigned)zero,
	    .aio_buf = (unsigned long)&byte,
	    .aio_nbytes = 1};
	poll_it = (struct iocb){.aio_data = 2,
	    .aio_lio_opcode = IOCB_CMD_POLL,
	    .aio_fildes = (unsigned)ends[0],
	    .aio_buf = POLLIN};
	/* The read completes, and its event is pending; the poll stays in flight. */
	if (syscall(SYS_io_submit, ctx, 2, iocbs) != 2)
		err(1, "io_submit");

	with_staged_rings(checkpoint, &child);

	/* Both of them: the event is still there, and what was in flight is so again. */
	if (write(ends[1], "", 1) != 1 || syscall(SYS_io_getevents, ctx, 2, 2, events, NULL) != 2)
		err(1, "io_getevents");
	if (child && (waitpid(child, &status, 0) != child || status))
		errx(1, "the child has failed");
	for (int i = 0; i < 2; i++) {
		if (events[i].res <= 0)
			errx(1, "request %llu has failed", events[i].data);
		printf("%s: data %llu\n", child ? "parent" : "child", events[i].data);
	}
	return 0;
}
