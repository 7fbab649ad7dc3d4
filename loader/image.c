/* SPDX-License-Identifier: MIT */
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "names.h"

/* One more element of `size` bytes, zeroed, at the end of an array that doubles as it grows. */
static void *add(void **array, size_t *count, size_t size)
{
	char *element;

	if (!(*count & (*count - 1))) {
		void *larger = reallocarray(*array, *count ? 2 * *count : 1, size);

		if (!larger)
			return NULL;
		*array = larger;
	}
	element = (char *)*array + *count * size;
	++*count;
	memset(element, 0, size);
	return element;
}

struct aior_ring *aior_add_ring(struct aior_image *image)
{
	return add((void **)&image->rings, &image->ring_count, sizeof(*image->rings));
}

struct aior_thread *aior_add_thread(struct aior_image *image)
{
	return add((void **)&image->threads, &image->thread_count, sizeof(*image->threads));
}

const char *aior_fault_text(enum aio_ring_fault fault)
{
	static const char *const texts[] = {
	    [AIO_RING_OK] = NULL,
	    [AIO_RING_BAD_LENGTH] = "no ring has the length of its mapping",
	    [AIO_RING_BAD_MAGIC] = "its header has lost its magic number",
	    [AIO_RING_BAD_HEADER_LENGTH] = "its header says another header length than 32",
	    [AIO_RING_BAD_NR] = "its header says another number of slots than its mapping holds",
	    [AIO_RING_BAD_HEAD] = "its head lies outside of the ring",
	    [AIO_RING_BAD_TAIL] = "its tail lies outside of the ring",
	};

	return texts[fault];
}

void aior_take_header(struct aior_ring *ring, const struct aio_ring *header)
{
	enum aio_ring_fault fault = aio_ring_check(header, ring->len);

	ring->id = header->id;
	ring->nr = header->nr;
	ring->head = header->head;
	ring->tail = header->tail;
	ring->max_cpus = aio_ring_max_cpus(ring->len);
	if (fault == AIO_RING_OK) {
		ring->pending = aio_ring_pending(ring->head, ring->tail, ring->nr);
		return;
	}
	ring->state = AIOR_DAMAGED;
	ring->damage = aior_fault_text(fault);
}

static int by_address(const void *a, const void *b)
{
	uint64_t left = ((const struct aior_ring *)a)->addr;
	uint64_t right = ((const struct aior_ring *)b)->addr;

	return (left > right) - (left < right);
}

int aior_sort_rings(struct aior_image *image, struct aior_error *error)
{
	const struct aior_arch_elf *elf = aior_arch_elf(image->arch);
	const struct aior_ring *last;

	if (image->ring_count)
		qsort(image->rings, image->ring_count, sizeof(*image->rings), by_address);
	for (size_t i = 1; i < image->ring_count; i++) {
		const struct aior_ring *before = &image->rings[i - 1];

		if (before->addr + before->len > image->rings[i].addr)
			return aior_fail_ring(error, EINVAL, "image", image->rings[i].addr,
			    "overlaps the ring at 0x%llx", (unsigned long long)before->addr);
	}
	last = image->ring_count ? &image->rings[image->ring_count - 1] : NULL;
	if (last && elf && elf->class == ELFCLASS32 && last->addr + last->len - 1 > UINT32_MAX)
		return aior_fail_ring(error, EINVAL, "image", last->addr,
		    "lies where a process of 32 bits has no memory");
	return 0;
}

int aior_check_image(const struct aior_image *image, struct aior_error *error)
{
	for (size_t i = 0; i < image->ring_count; i++) {
		const struct aior_ring *ring = &image->rings[i];

		if (ring->state == AIOR_DAMAGED)
			return aior_fail_ring(
			    error, EINVAL, "image", ring->addr, "is damaged: %s", ring->damage);
		if (ring->state == AIOR_INHERITED || !ring->content)
			return aior_fail_ring(error, EINVAL, "image", ring->addr,
			    "is not a ring of this process's own, or was not read");
	}
	return 0;
}

struct aior_event aior_event(const struct aior_ring *ring, uint32_t i)
{
	struct aior_event event;
	uint64_t slot = ((uint64_t)ring->head + i) % ring->nr;

	if (ring->events)
		return ring->events[i];
	memcpy(&event, ring->content + AIO_RING_HEADER + slot * AIO_RING_SLOT, sizeof(event));
	return event;
}

void aior_image_free(struct aior_image *image)
{
	for (size_t i = 0; i < image->ring_count; i++) {
		free(image->rings[i].content);
		free(image->rings[i].events);
	}
	for (size_t i = 0; i < image->thread_count; i++)
		free(image->threads[i].regs);
	free(image->rings);
	free(image->threads);
	memset(image, 0, sizeof(*image));
}

_Static_assert(sizeof(struct aior_event) == AIO_RING_SLOT, "struct aior_event");
