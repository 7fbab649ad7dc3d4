/* SPDX-License-Identifier: MIT */
/*
 * Versions of the contract: what a blob does with a block that is newer, and a newer blob with one
 * that is older. The newer blob (restore-abi2-ARCH.bin, see tests.mk) is built from a contract
 * whose version 2 has one field more.
 */
#include "blob.h"

#define N 2
#define SIZE_2 (AIOR_ARGS_SIZE_1 + 8)

static struct aior_ring_record *rings;
static struct staged staged[N];
static struct state before, after;
static int null_fd;

static void set_up(void)
{
	uint64_t len = aio_ring_len(1, possible_cpus(), (uint32_t)blob.page);

	rings = map_guarded(N * sizeof(*rings));
	state_prepare(&before);
	state_prepare(&after);
	arena_make(1 << 20);
	null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	for (uint32_t i = 0; i < N; i++)
		stage(&rings[i], &staged[i], len, 50, 40, i & 1, i);
}

/* -ENOSYS, and not a byte of anything has changed. */
static void refuses(const char *name, const struct aior_args *args)
{
	struct aior_ring_record records[N];
	unsigned char block[SIZE_2 + 64], given[SIZE_2 + 64];
	int ret;

	memset(block, 0xa5, sizeof(block));
	memcpy(block, args, sizeof(*args));
	memcpy(given, block, sizeof(block));
	memcpy(records, rings, sizeof(records));
	state_take(&before);
	ret = blob_call((struct aior_args *)block);
	state_take(&after);
	ok(ret == -ENOSYS && !memcmp(block, given, sizeof(block)) &&
		!memcmp(records, rings, sizeof(records)) && is_intact(&rings[0], &staged[0]) &&
		is_intact(&rings[1], &staged[1]) && !state_differs(&before, &after, NULL, 0),
	    "%s: -ENOSYS, nothing touched", name);
}

/* A block of that version and size, with rubbish behind it. */
static void takes(const char *name, uint32_t abi, uint32_t size)
{
	struct aior_args plain = blob_args(rings, N, NULL, 0);
	unsigned char block[SIZE_2 + 64], expected[SIZE_2 + 64];
	struct aior_args *args = (struct aior_args *)block;
	const char *why = NULL;

	memset(block, 0xa5, sizeof(block));
	memset(expected, 0xa5, sizeof(expected));
	memcpy(block, &plain, sizeof(plain));
	args->abi = abi;
	args->size = size;
	if (blob_call(args) || args->step != AIOR_STEP_DONE)
		why = "refused";
	if (memcmp(block + size, expected, sizeof(block) - size))
		why = "written behind its end";
	for (uint32_t i = 0; i < N && !why; i++)
		why = why_not_live(&rings[i], &staged[i], args, null_fd);
	ok(!why, "%s: %s", name, why ? why : "taken");
}

static void test_newer_blocks(void)
{
	const struct {
		const char *name;
		size_t offset;
		uint64_t value;
		size_t size;
	} bad[] = {
	    {"a newer version", offsetof(struct aior_args, abi), AIOR_ABI + 1, 4},
	    {"version 0", offsetof(struct aior_args, abi), 0, 4},
	    {"version all ones", offsetof(struct aior_args, abi), ~0u, 4},
	    {"a larger size", offsetof(struct aior_args, size), SIZE_2, 4},
	    {"a smaller size", offsetof(struct aior_args, size), AIOR_ARGS_SIZE_1 - 8, 4},
	    {"size 0", offsetof(struct aior_args, size), 0, 4},
	    {"an unknown flag", offsetof(struct aior_args, flags), 1u << 31, 4},
	    {"a flag this blob does not know", offsetof(struct aior_args, flags),
		~blob.header->flags & -~blob.header->flags, 4},
	    {"an unknown end", offsetof(struct aior_args, end), AIOR_END_SIGRETURN + 1, 4},
	    {"end all ones", offsetof(struct aior_args, end), ~0u, 4},
	    {"reserved, first", offsetof(struct aior_args, reserved), 1, 8},
	    {"reserved, last", offsetof(struct aior_args, reserved) + 24, 1ull << 63, 8},
	};

	set_up();
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct aior_args args = blob_args(rings, N, NULL, 0);

		memcpy((char *)&args + bad[i].offset, &bad[i].value, bad[i].size);
		refuses(bad[i].name, &args);
	}
	takes("its own version", AIOR_ABI, AIOR_ARGS_SIZE_1);
}

/* Records of a later version are longer. */
static void test_strides(void)
{
	enum { STRIDE = sizeof(struct aior_ring_record) + 24 };
	struct aior_ring_record *last;
	unsigned char *wide, tail[24];
	struct aior_args args;
	const char *why = NULL;

	set_up();
	wide = map_guarded(N * STRIDE);
	memset(wide, 0x77, N * STRIDE);
	memset(tail, 0x77, sizeof(tail));
	for (uint32_t i = 0; i < N; i++)
		memcpy(wide + i * STRIDE, &rings[i], sizeof(rings[i]));
	args = blob_args(rings, N, NULL, 0);
	args.rings = (uintptr_t)wide;
	args.ring_stride = STRIDE;
	if (blob_call(&args))
		why = "refused";
	for (uint32_t i = 0; i < N && !why; i++) {
		last = (struct aior_ring_record *)(wide + i * STRIDE);
		why = why_not_live(last, &staged[i], &args, null_fd);
		if (memcmp(last + 1, tail, sizeof(tail)))
			why = "written behind the record";
	}
	ok(!why, "records longer than known: %s", why ? why : "taken");
}

static void test_newer_blob(void)
{
	const char *dir = getenv("BLOB_DIR");
	struct aior_args args;
	char path[4096];

	snprintf(path, sizeof(path), "%s/tests/restore-abi2-%s.bin", dir ? dir : BLOB_DIR,
	    HOST_ARCH_NAME);
	blob_place(path);
	ok(blob.header->abi == 2, "a newer blob: version 2");
	set_up();
	args = blob_args(rings, N, NULL, 0);
	args.size = SIZE_2;
	refuses("a newer blob, version 1 in the size of 2", &args);
	args.abi = 2;
	args.size = AIOR_ARGS_SIZE_1;
	refuses("a newer blob, version 2 in the size of 1", &args);
	args.abi = 3;
	args.size = SIZE_2;
	refuses("a newer blob, a version newer still", &args);
	takes("a newer blob, a block of version 1", 1, AIOR_ARGS_SIZE_1);
	set_up();
	takes("a newer blob, a block of version 2", 2, SIZE_2);
}

int main(void)
{
	tap_start();
	aio_nr_lock();
	blob_place(blob_file("restore"));
	in_child("newer blocks", test_newer_blocks);
	in_child("strides", test_strides);
	in_child("newer blob", test_newer_blob);
	test_stack();
	return tap_end();
}
