/* SPDX-License-Identifier: MIT */
/* What is done with an image that a reader has taken: as `list`, `check`, `run` and `dump` do it. */
#ifndef FUZZ_IMAGE_H
#define FUZZ_IMAGE_H

#include <fcntl.h>

#include "core.h"
#include "fuzz.h"
#include "grow.h"
#include "images.h"
#include "show.h"

/* Rings larger than that are not copied: it would only take time. */
#define FUZZ_MOST_BYTES (1u << 20)

static inline uint64_t fuzz_sum(const struct aior_ring *ring)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < ring->pending; i++) {
		struct aior_event event = aior_event(ring, i);

		sum =
		    sum * 31 + event.data + event.obj + (uint64_t)event.res + (uint64_t)event.res2;
	}
	return sum;
}

/* A ring that is laid out for a host with more CPUs has the same events, and comes back as it was. */
static inline void fuzz_grow(const struct aior_ring *ring)
{
	uint64_t len = aior_len_for(ring->max_cpus + 1 + ring->head % 64, ring->len);
	struct aior_ring larger = *ring, again = *ring;

	if (len > FUZZ_MOST_BYTES || len <= ring->len)
		return;
	larger.content = calloc(1, len);
	if (!larger.content)
		return;
	memcpy(larger.content, ring->content, ring->len);
	larger.len = len;
	aior_lay_out(larger.content, ring->len, len);
	aior_take_header(&larger, (const struct aio_ring *)larger.content);
	PROMISE(!larger.damage, "a ring that is made larger is damaged: %s", larger.damage);
	PROMISE(larger.pending == ring->pending && fuzz_sum(&larger) == fuzz_sum(ring),
	    "a ring that is made larger has other events");
	aior_lay_back(larger.content, ring->len, ring->head, ring->tail);
	again.content = larger.content;
	aior_take_header(&again, (const struct aio_ring *)again.content);
	PROMISE(!again.damage && fuzz_sum(&again) == fuzz_sum(ring),
	    "a ring that is made larger does not come back");
	free(larger.content);
}

static inline void fuzz_same_rings(const struct aior_image *image, const struct aior_image *again)
{
	PROMISE(image->ring_count == again->ring_count, "%zu rings are written, and %zu read",
	    image->ring_count, again->ring_count);
	for (size_t i = 0; i < image->ring_count; i++) {
		const struct aior_ring *a = &image->rings[i], *b = &again->rings[i];

		PROMISE(a->addr == b->addr && a->len == b->len && a->prot == b->prot &&
			    !memcmp(a->content, b->content, a->len),
		    "the ring at 0x%llx is written, and another read", (unsigned long long)a->addr);
	}
}

/* What is written as a core is read back as it was. */
static inline void fuzz_write_core(const struct aior_image *image)
{
	static char folder[] = "/dev/shm/aior-fuzz-XXXXXX", path[sizeof(folder) + 8];
	struct aior_error error = {0};
	struct aior_image again;

	if (!*path) {
		if (!mkdtemp(folder))
			return;
		snprintf(path, sizeof(path), "%s/core", folder);
	}
	if (aior_write_core(image, path, &error)) {
		fuzz_check_error(&error);
		return;
	}
	PROMISE(!core_read(path, &again, &error), "a core that was written is not read: %s",
	    error.message);
	fuzz_same_rings(image, &again);
	aior_image_free(&again);
	unlink(path);
	/* Made anew each time: nothing is left behind, however this ends. */
	rmdir(folder);
	memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
	*path = '\0';
}

static inline void fuzz_image(struct aior_image *image)
{
	struct images images = {image, 1};
	struct aior_error error = {0};
	uint64_t bytes = 0;

	PROMISE(image->page_size >= 4096 && image->page_size <= 65536, "pages of %u bytes",
	    image->page_size);
	show_images_text(fuzz_nowhere(), &images, 1);
	show_images_json(fuzz_nowhere(), &images);
	/* (Whether others' programs run here takes a process to find out.) */
	if (image->arch == aior_host_arch() && aior_check_images(image, 1, &error))
		fuzz_check_error(&error);
	for (size_t i = 0; i < image->ring_count; i++)
		bytes += image->rings[i].len;
	memset(&error, 0, sizeof(error));
	if (aior_check_image(image, &error)) {
		fuzz_check_error(&error);
		return;
	}
	if (bytes > FUZZ_MOST_BYTES)
		return;
	for (size_t i = 0; i < image->ring_count; i++)
		fuzz_grow(&image->rings[i]);
	fuzz_write_core(image);
	for (size_t i = 0; i < image->ring_count; i++)
		bytes += fuzz_sum(&image->rings[i]);
	PROMISE(!aior_compact_image(image, &error), "what is sound is not made compact: %s",
	    error.message);
	for (size_t i = 0; i < image->ring_count; i++) {
		PROMISE(
		    !image->rings[i].damage && !image->rings[i].head, "a compact ring is damaged");
		bytes -= fuzz_sum(&image->rings[i]);
	}
	show_images_text(fuzz_nowhere(), &images, 1);
}

#endif
