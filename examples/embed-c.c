/* SPDX-License-Identifier: MIT */
/*
 * A restorer in a hundred lines: how a checkpoint tool embeds the restore blob. It knows the contract
 * (restorer.h) and what `aio-restorer emit --format c` wrote (blob.h), nothing else of aio-restorer.
 *
 * It makes a ring with pending events, saves it, loses it, and brings it back the way a restorer ends:
 * by rt_sigreturn into the restored state, here that of main() when the signal came.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <aio-restorer/restorer.h>

#include "blob.h"

#define EVENTS 5
#define REAPED 2

static _Alignas(16) char stack[16384], scratch[65536];
static struct aior_ring_record ring;
static struct aior_args args = {
    .abi = AIOR_ABI,
    .size = sizeof(args),
    .end = AIOR_END_SIGRETURN,
    .ring_count = 1,
    .ring_stride = sizeof(ring),
    .scratch_len = sizeof(scratch),
    .fd = -1,
};

static void *map(void *at, size_t len)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED_NOREPLACE : 0);
	void *got = mmap(at, len, PROT_READ | PROT_WRITE, flags, -1, 0);

	if (got == MAP_FAILED || (at && got != at))
		err(1, "mmap");
	return got;
}

/* A program's work: reads that have completed, some of them reaped. */
static aio_context_t make_ring(void)
{
	static struct iocb iocbs[EVENTS];
	struct iocb *pointers[EVENTS];
	struct io_event reaped[REAPED];
	static char byte;
	aio_context_t ctx = 0;
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	for (int i = 0; i < EVENTS; i++) {
		iocbs[i].aio_lio_opcode = IOCB_CMD_PREAD;
		iocbs[i].aio_fildes = (unsigned)fd;
		iocbs[i].aio_buf = (unsigned long)&byte;
		iocbs[i].aio_nbytes = 1;
		iocbs[i].aio_data = 100 + (unsigned)i;
		pointers[i] = &iocbs[i];
	}
	if (syscall(SYS_io_setup, 8, &ctx) ||
	    syscall(SYS_io_submit, ctx, EVENTS, pointers) != EVENTS)
		err(1, "io_setup and io_submit");
	if (syscall(SYS_io_getevents, ctx, REAPED, REAPED, reaped, NULL) != REAPED)
		err(1, "io_getevents");
	return ctx;
}

/*
 * What a checkpoint and the first half of a restore do, in this one process: the ring's bytes are
 * saved, the ring is gone, and they lie at its address as plain memory.
 */
static void stage(aio_context_t ctx)
{
	void *home = (void *)ctx, *saved;

	ring.addr = ring.staged = ctx;
	ring.len = 32 + 32 * (uint64_t)((uint32_t *)home)[1]; /* the header, and `nr` slots */
	saved = memcpy(map(NULL, ring.len), home, ring.len);
	if (syscall(SYS_io_destroy, ctx))
		err(1, "io_destroy");
	memcpy(map(home, ring.len), saved, ring.len);
	munmap(saved, ring.len);
}

/* A copy of the blob that can be executed, and never was executable and writable at once. */
static const struct aior_blob *place(const unsigned char *bytes)
{
	size_t size = ((const struct aior_blob *)bytes)->size;
	struct aior_blob *blob = memcpy(map(NULL, size), bytes, size);

	if (blob->abi < AIOR_ABI || blob->stack + 64 > sizeof(stack) ||
	    blob->scratch > sizeof(scratch))
		errx(1, "the blob needs more than it is given");
	if (mprotect(blob, size, PROT_READ | PROT_EXEC))
		err(1, "mprotect");
	return blob;
}

/*
 * The signal frame holds what the interrupted code goes on with. A restorer would build one from its
 * image; the kernel has built this one. rt_sigreturn wants the stack pointer where a handler that
 * returns leaves it: at its canonical frame address.
 */
static void enter(int signal, siginfo_t *info, void *context)
{
	const struct aior_blob *blob = place(BLOB);
	ucontext_t blobs;

	(void)signal, (void)info, (void)context;
	args.rings = (unsigned long)&ring;
	args.scratch = (unsigned long)scratch;
	args.page_size = (uint32_t)sysconf(_SC_PAGESIZE);
	args.sigframe = (unsigned long)__builtin_dwarf_cfa();
	getcontext(&blobs);
	blobs.uc_stack.ss_sp = stack;
	blobs.uc_stack.ss_size = sizeof(stack);
	makecontext(&blobs, (void (*)(void))((const char *)blob + blob->jump), 1, &args);
	setcontext(&blobs);
}

int main(void)
{
	struct sigaction action = {.sa_sigaction = enter, .sa_flags = SA_SIGINFO};
	struct io_event events[EVENTS];
	struct timespec now = {0, 0};
	aio_context_t ctx = make_ring();
	long n;

	alarm(60); /* a blob that fails parks */
	stage(ctx);
	sigaction(SIGUSR1, &action, NULL);
	raise(SIGUSR1);
	n = syscall(SYS_io_getevents, ctx, 1, EVENTS, events, &now);
	for (long i = 0; i < n; i++)
		printf("data %llu res %lld\n", events[i].data, events[i].res);
	return n == EVENTS - REAPED ? 0 : 1;
}
