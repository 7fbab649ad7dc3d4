/* SPDX-License-Identifier: MIT */
/*
 * The program of the process that `aio-restorer run` starts: makes room where the rings belong,
 * calls the restore blob, reaps through io_getevents and tells the loader what came. Nothing of a
 * libc is in its process, and no mapping but its own that it needs: rings may lie anywhere.
 */
#include "blob.h"
#include "run.h"

const struct aior_blob header __attribute__((section(".header"), used)) = {
    .magic = AIOR_BLOB_MAGIC,
    .abi = AIOR_ABI,
    .op = AIOR_OP_RUN,
};

struct output {
	const struct run_block *block;
	uint32_t used;
};

static void flush(struct output *output)
{
	const char *at = (const char *)(unsigned long)output->block->buffer;

	while (output->used) {
		long n = sys_write(output->block->out, at, output->used);

		if (n <= 0)
			syscall1(__NR_exit_group, 1);
		at += n;
		output->used -= (uint32_t)n;
	}
}

static void *room_for(struct output *output, uint32_t bytes)
{
	if (output->block->room - output->used < bytes)
		flush(output);
	return (void *)(unsigned long)(output->block->buffer + output->used);
}

static void put(struct output *output, const void *data, uint32_t bytes)
{
	const uint64_t *from = data;
	uint64_t *to = room_for(output, bytes);

	for (uint32_t i = 0; i < bytes / sizeof(*to); i++)
		to[i] = from[i];
	output->used += bytes;
}

/* Reaps all that is pending, the way a program does. */
static void reap(struct output *output, uint64_t ring)
{
	const uint64_t no_time[2] = {0, 0};
	int64_t n;

	put(output, ring_at(ring), sizeof(struct aio_ring));
	do {
		int64_t *count = room_for(output, sizeof(*count) + 2 * sizeof(struct aio_slot));
		uint64_t most =
		    (output->block->room - output->used - sizeof(*count)) / sizeof(struct aio_slot);

		n = syscall6(__NR_io_getevents, (long)ring, 0, (long)most, (long)(count + 1),
		    (long)no_time, 0);
		*count = n;
		output->used += sizeof(*count);
		if (n > 0)
			output->used += (uint32_t)n * sizeof(struct aio_slot);
	} while (n > 0);
}

int aior_main(struct aior_args *start, int jumped)
{
	struct output output = {.block = (const void *)start};
	struct aior_args *args = (void *)(unsigned long)output.block->args;
	blob_entry *restore = (blob_entry *)(unsigned long)output.block->restore;
	uint64_t stride = args->ring_stride;
	int err;

	(void)jumped;
	for (uint32_t i = 0; i < args->ring_count; i++)
		sys_munmap(ring_record(args, i)->addr, ring_record(args, i)->len);
	err = restore(args);
	if (err == -ENOSYS)
		args->err = ENOSYS;
	put(&output, args, sizeof(*args));
	for (uint32_t i = 0; i < args->ring_count; i++)
		put(&output, ring_record(args, i), (uint32_t)stride);
	for (uint32_t i = 0; i < args->ring_count && !err; i++)
		reap(&output, ring_record(args, i)->addr);
	flush(&output);
	syscall1(__NR_exit_group, 0);
	__builtin_unreachable();
}
