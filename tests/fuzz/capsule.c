/* SPDX-License-Identifier: MIT */
/*
 * A capsule in the memory of a process. The input: its architecture, flags, the header of the rings (slots, head,
 * tail), and the capsule. Where that ends there is nothing, or, with FLAG_ROOM, zeros, as far as anybody likes: so
 * CRIU's images have it. Whatever a record names is such a ring.
 */
#include "image.h"

#define FLAG_ROOM 1
#define FLAG_PAGES 2 /* of 16 KiB */
#define FLAG_DAMAGED 4
#define FLAG_OWN 8 /* it lies in this process, too, and one such ring */
#define HEADER 16
#define NULL_PAGES 0x10000u

struct memory {
	struct aior_memory memory;
	struct aio_ring ring;
	const uint8_t *data;
	size_t size;
	uint64_t addr, room;
};

static uint8_t byte_at(const struct memory *memory, uint64_t addr)
{
	uint64_t at = addr - memory->addr, offset = addr % 4096;

	if (at < memory->room)
		return at < memory->size ? memory->data[at] : 0;
	return offset < sizeof(memory->ring) ? ((const uint8_t *)&memory->ring)[offset] : 0;
}

static int copy_out(struct aior_memory *from, void *to, uint64_t addr, uint64_t len)
{
	struct memory *memory = (struct memory *)from;

	if (addr < NULL_PAGES || len > UINT64_MAX - addr) {
		snprintf(from->why, sizeof(from->why), "nothing is there");
		return -1;
	}
	for (uint64_t i = 0; i < len; i++)
		((uint8_t *)to)[i] = byte_at(memory, addr + i);
	return 0;
}

/* A capsule that is taken for sound: all its records lie in it, and what is said of them holds. */
static void check_sound(const struct memory *memory, uint32_t arch)
{
	struct aior_capsule capsule = {
	    .addr = memory->addr, .room = memory->room, .may_be_live = 1};
	struct aior_error error = {0};
	struct aior_survey survey;
	struct aior_args args;
	uint64_t sum = 0;
	uint8_t *bytes;

	if (memory->size < sizeof(capsule.table))
		return;
	memcpy(&capsule.table, memory->data, sizeof(capsule.table));
	aior_count_polls(&capsule.table);
	if (aior_check_capsule(&capsule, arch, &error)) {
		fuzz_check_error(&error);
		return;
	}
	if (capsule.table.total > memory->size)
		return;
	bytes = malloc(capsule.table.total);
	if (!bytes)
		return;
	memcpy(bytes, memory->data, capsule.table.total);
	if (aior_check_records(&capsule, bytes, &error)) {
		fuzz_check_error(&error);
		free(bytes);
		return;
	}
	PROMISE(aior_holds_rings(&capsule), "a sound capsule does not hold its rings");
	args = aior_capsule_args(&capsule.table, capsule.addr);
	for (uint32_t i = 0; i < args.ring_count; i++) {
		const struct aior_ring_record *ring = aior_capsule_ring(&capsule.table, bytes, i);

		sum += ring->addr ^ aior_settled_len(ring, &memory->ring);
		PROMISE(ring->addr + ring->len <= capsule.addr ||
			    ring->addr >= capsule.addr + capsule.table.total,
		    "a sound capsule has a ring on itself");
	}
	for (uint32_t i = 0; i < args.poll_count; i++)
		sum += aior_capsule_poll(&capsule.table, bytes, i)->data;
	for (uint32_t i = 0; i < capsule.table.thread_count; i++)
		for (size_t k = 0; k < sizeof(struct aior_thread_record); k++)
			sum += ((uint8_t *)aior_capsule_thread(&capsule.table, bytes, i))[k];
	PROMISE(
	    aior_survey(0, &capsule, bytes, &survey, &error), "rings are seen that are not there");
	fuzz_check_error(&error);
	aior_reset_records(&capsule.table, bytes);
	fprintf(fuzz_nowhere(), "%llu", (unsigned long long)sum);
	free(bytes);
}

/* Where nothing of ours lies, nor of the sanitizers'. */
#define OWN ((uintptr_t)(sizeof(void *) == 8 ? 0x200000000000ull : 0x50000000ull))
#define OWN_RING (OWN + 0x1000000)

static void see_room(uint32_t i, const struct aior_room *room, void *data)
{
	PROMISE(room->kept <= room->len, "more is kept for ring %u than there is", i);
	++*(uint32_t *)data;
}

/* A capsule that has been found: whoever restores the caller's own process looks at all this before he does anything. */
static void check_own(struct aior_capsule *capsule)
{
	struct aior_error error = {0};
	struct aior_survey survey;
	uint32_t rooms = 0;
	uint8_t *bytes;

	aior_count_polls(&capsule->table);
	if (aior_check_capsule(capsule, aior_host_arch(), &error)) {
		fuzz_check_error(&error);
		return;
	}
	PROMISE(
	    capsule->table.total <= capsule->room, "a sound capsule is longer than its mapping");
	bytes = malloc(capsule->table.total);
	if (!bytes)
		return;
	memcpy(bytes, (void *)(uintptr_t)capsule->addr, capsule->table.total);
	if (aior_check_records(capsule, bytes, &error) ||
	    aior_survey(0, capsule, bytes, &survey, &error) ||
	    aior_check_staged(getpid(), &capsule->table, bytes, &error)) {
		fuzz_check_error(&error);
	} else {
		aior_settle(getpid(), &capsule->table, bytes);
		PROMISE(!aior_each_room(0, &capsule->table, bytes, see_room, &rooms) &&
			    rooms == capsule->table.ring_count,
		    "room of %u rings, and there are %u", rooms, capsule->table.ring_count);
	}
	free(bytes);
}

/* The input as memory of this process, between pages that nobody may touch. */
static void find_own(const struct aio_ring *ring, const uint8_t *data, size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), len = (size + page - 1) & ~(page - 1);
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
	struct aior_capsule capsule = {.addr = 0};
	uint8_t *at = mmap((void *)OWN, len + 2 * page, PROT_NONE, flags, -1, 0);
	void *own_ring = mmap((void *)OWN_RING, page, PROT_READ | PROT_WRITE, flags, -1, 0);
	struct aior_error error = {0};
	int ret;

	PROMISE(at != MAP_FAILED && own_ring != MAP_FAILED &&
		    !mprotect(at + page, len, PROT_READ | PROT_WRITE),
	    "no memory at %p", (void *)OWN);
	memcpy(own_ring, ring, sizeof(*ring));
	memcpy(at + page, data, size);
	ret = aior_find_new_capsule(0, &capsule, &error);
	if (ret == 1) {
		PROMISE(capsule.addr == (uintptr_t)at + page && capsule.room == len,
		    "the capsule is found elsewhere");
		check_own(&capsule);
	}
	PROMISE(ret >= 0, "%s", error.message);
	PROMISE(ret || size < 8 || memcmp(data, AIOR_TABLE_MAGIC, 8), "no capsule is found");
	munmap(at, len + 2 * page);
	munmap(own_ring, page);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct aior_error error = {0};
	struct aior_capsule found = {.addr = 0};
	struct aior_image image = {0};
	struct memory memory = {
	    .memory = {.image = &image, .name = "memory", .copy = copy_out},
	    .ring = {.magic = AIO_RING_MAGIC,
		.compat_features = 1,
		.header_length = AIO_RING_HEADER},
	};
	uint8_t flags;

	if (size < HEADER)
		return 0;
	image.arch = 1 + data[0] % 4;
	flags = data[1];
	memcpy(&memory.ring.nr, data + 2, 12);
	memory.data = data + HEADER;
	memory.size = size - HEADER;
	memory.addr = image.arch == AIOR_ARCH_I386 ? 0xb0200000 : 0x7f0000200000;
	memory.room = flags & FLAG_ROOM ? UINT64_MAX / 2 : memory.size;
	memory.memory.held = FUZZ_MOST_BYTES + (flags & FLAG_ROOM ? 0 : memory.size);
	memory.memory.takes_damaged = !!(flags & FLAG_DAMAGED);
	image.page_size = 4096;
	found.page_size = flags & FLAG_PAGES ? 16384 : 4096;
	check_sound(&memory, image.arch);
	if (flags & FLAG_OWN && memory.size)
		find_own(&memory.ring, memory.data, memory.size);
	if (aior_read_capsule_at(
		&memory.memory, memory.addr, memory.room, PROT_READ | PROT_WRITE, &found, &error) ||
	    aior_sort_rings(&image, &error)) {
		fuzz_check_error(&error);
	} else {
		fuzz_image(&image);
	}
	aior_image_free(&image);
	return 0;
}
