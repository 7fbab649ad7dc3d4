/* SPDX-License-Identifier: MIT */
/* The rings of a process that is to be staged: which are its own, and which fork has given it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "staging.h"

static int is_suspect(const struct aior_staging *staging, uint64_t addr)
{
	for (size_t i = 0; i < staging->suspect_count; i++)
		if (staging->suspects[i] == addr)
			return 1;
	return 0;
}

static void look_at_ring(const struct aior_staging *staging, const struct aior_mapping *mapping,
    struct aior_candidate *ring)
{
	struct aio_ring header;

	*ring = (struct aior_candidate){
	    .addr = mapping->start,
	    .len = mapping->end - mapping->start,
	    .prot = mapping->prot,
	    .offset = mapping->offset,
	    .parts = 1,
	    .is_suspect = is_suspect(staging, mapping->start),
	};
	for (; aior_ring_continues(mapping); mapping++, ring->parts++)
		ring->len += mapping[1].end - mapping[1].start;
	ring->is_readable =
	    !aior_read_memory(staging->process.task, ring->addr, &header, sizeof(header));
	if (!ring->is_readable)
		return;
	ring->fault = aio_ring_check(&header, ring->len);
	ring->nr = header.nr;
	if (ring->fault == AIO_RING_OK)
		ring->pending = aio_ring_pending(header.head, header.tail, header.nr);
}

/* The last mapping has one behind it that is nothing: so it never goes on. */
int aior_list_candidates(struct aior_staging *staging, struct aior_error *error)
{
	const struct aior_mapping *mappings = staging->injection.mappings;
	size_t count = staging->injection.mapping_count, i = 0;

	staging->rings = calloc(count + 1, sizeof(*staging->rings));
	if (!staging->rings)
		return aior_fail(error, ENOMEM, "read", "out of memory");
	while (i < count) {
		struct aior_candidate *ring = &staging->rings[staging->ring_count];

		if (!mappings[i].is_ring) {
			i++;
			continue;
		}
		look_at_ring(staging, &mappings[i], ring);
		i += ring->parts;
		staging->ring_count++;
	}
	return 0;
}

/* What keeps a ring that is the process's own from being staged. */
static int check_ring(const struct aior_candidate *ring, struct aior_error *error)
{
	if (!(ring->prot & PROT_READ))
		return aior_fail_ring(error, EINVAL, "ring", ring->addr,
		    "cannot be read, by the kernel neither: give it PROT_READ back (mprotect)");
	if (ring->offset)
		return aior_fail_ring(error, EINVAL, "ring", ring->addr,
		    "is a part of one whose first pages are not mapped: the program must unmap it");
	if (ring->fault != AIO_RING_OK)
		return aior_fail_ring(error, EINVAL, "ring", ring->addr,
		    "is damaged: %s; the program has written over it, or changed its mapping",
		    aior_fault_text(ring->fault));
	if (ring->parts > 1)
		return aior_fail_ring(error, EINVAL, "ring", ring->addr,
		    "its mapping is in %u parts (mprotect has split it), and the kernel does not "
		    "move such a ring whole",
		    ring->parts);
	return 0;
}

/* Those that may be a relative's are looked at later. */
int aior_check_candidates(struct aior_staging *staging, struct aior_error *error)
{
	for (size_t i = 0; i < staging->ring_count; i++) {
		struct aior_candidate *ring = &staging->rings[i];

		if (ring->prot & PROT_READ && !ring->is_readable) {
			ring->is_inherited = 1;
			continue;
		}
		if (!ring->is_suspect && check_ring(ring, error))
			return -1;
		staging->slots += ring->nr ? ring->nr - 1 : 0;
	}
	return 0;
}

/*
 * A submission of nothing looks the context up, and does no more (lookup_ioctx(), fs/aio.c). The program
 * reads the header's `id` for that, too.
 */
int64_t aior_look_context_up(struct aior_staging *staging, uint64_t addr)
{
	const uint64_t args[6] = {addr};

	return aior_inject_call(&staging->injection, staging->injection.calls->io_submit, args);
}

int aior_judge_suspects(struct aior_staging *staging, struct aior_error *error)
{
	for (size_t i = 0; i < staging->ring_count; i++) {
		struct aior_candidate *ring = &staging->rings[i];
		int64_t err;

		if (!ring->is_suspect || ring->is_inherited)
			continue;
		err = aior_look_context_up(staging, ring->addr);
		if (err == -EINVAL)
			ring->is_inherited = 1;
		else if (err)
			return aior_fail_ring(error, (int)-err, "ring", ring->addr,
			    "io_submit says %s", aior_errno_text((int)-err));
		else if (check_ring(ring, error))
			return -1;
	}
	return 0;
}

/* ---- what fork has given it ---- */

static int no_copy(const struct aior_candidate *ring, int64_t err, struct aior_error *error)
{
	return aior_fail_ring(error, (int)-err, "memory", ring->addr,
	    "is a relative's, and there is no memory for a plain copy of it: %s",
	    aior_errno_text((int)-err));
}

/*
 * A relative's ring goes with that one's context, and takes its pages away from everybody. So the process gets
 * memory with the same content instead, in one step.
 */
static int copy_ring(
    struct aior_staging *staging, const struct aior_candidate *ring, struct aior_error *error)
{
	struct aior_injection *injection = &staging->injection;
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;
	const uint64_t make[6] = {
	    0, ring->len, PROT_READ | PROT_WRITE, (uint64_t)flags, (uint64_t)-1, 0};
	void *content = malloc(ring->len);
	int64_t at, err = 0;

	if (!content)
		return aior_fail(error, ENOMEM, "read", "out of memory");
	at = aior_inject_call(injection, injection->calls->mmap, make);
	if (at < 0 && at >= -4095) {
		free(content);
		return no_copy(ring, at, error);
	}
	if (injection->thread->regs_len < sizeof(arch_regs))
		at = (uint32_t)at;
	if (aior_read_memory(staging->process.task, ring->addr, content, ring->len) ||
	    aior_write_memory(staging->process.task, (uint64_t)at, content, ring->len))
		err = -errno;
	free(content);
	if (!err && ring->prot != (PROT_READ | PROT_WRITE)) {
		const uint64_t protect[6] = {(uint64_t)at, ring->len, ring->prot};

		err = aior_inject_call(injection, injection->calls->mprotect, protect);
	}
	if (!err) {
		const uint64_t move[6] = {
		    (uint64_t)at, ring->len, ring->len, MREMAP_MAYMOVE | MREMAP_FIXED, ring->addr};

		err = aior_inject_call(injection, injection->calls->mremap, move);
		if (err >= 0 || err < -4095)
			return 0;
	}
	{
		const uint64_t unmap[6] = {(uint64_t)at, ring->len};

		aior_inject_call(injection, injection->calls->munmap, unmap);
	}
	return no_copy(ring, err, error);
}

int aior_copy_inherited(struct aior_staging *staging, struct aior_error *error)
{
	for (size_t i = 0; i < staging->ring_count; i++) {
		const struct aior_candidate *ring = &staging->rings[i];

		if (!ring->is_inherited || !ring->is_readable || ring->parts > 1)
			continue;
		if (copy_ring(staging, ring, error))
			return -1;
		staging->outcome->rings.inherited_count++;
	}
	return 0;
}
