/* SPDX-License-Identifier: MIT */
/* What this host can do, and whether the rings of an image can be restored on it. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"
#include "names.h"

/* Lines about rings in one refusal; the others are counted. */
#define MOST_LINES 4

int aior_get_host(struct aior_host *host, struct aior_error *error)
{
	static const char nr[] = "/proc/sys/fs/aio-nr", max_nr[] = "/proc/sys/fs/aio-max-nr";
	AIOR_UNCANCELLED;

	memset(host, 0, sizeof(*host));
	host->possible_cpus = aior_possible_cpus();
	host->page_size = (uint32_t)sysconf(_SC_PAGESIZE);
	/* No context has the handle 0. (Making one to destroy it would cost an RCU grace period.) */
	syscall(SYS_io_destroy, 0);
	host->aio_errno = errno == EINVAL ? 0 : errno;
	if (host->aio_errno)
		return 0;
	if (aior_read_number(nr, &host->aio_nr))
		return aior_fail(error, errno, "host", "%s: %s", nr, aior_errno_text(errno));
	if (aior_read_number(max_nr, &host->aio_max_nr))
		return aior_fail(error, errno, "host", "%s: %s", max_nr, aior_errno_text(errno));
	return 0;
}

/*
 * Whether a process of this host can have something at that address at all: address spaces are of
 * different sizes, with 32-bit kernels and with five levels of page tables. Ours is as large as others.
 */
static int is_addressable(const struct aior_ring *ring)
{
	void *wanted = (void *)(uintptr_t)ring->addr, *at;

	if ((uintptr_t)ring->addr != ring->addr)
		return 0;
	at = mmap(wanted, ring->len, PROT_NONE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	if (at == MAP_FAILED)
		return errno != ENOMEM;
	munmap(at, ring->len);
	return 1;
}

uint64_t aior_len_on(const struct aior_host *host, uint64_t len)
{
	return aio_ring_len(aio_ring_smallest_n((uint32_t)len, host->page_size),
	    host->possible_cpus, host->page_size);
}

uint64_t aior_len_for(uint32_t cpus, uint64_t len)
{
	const struct aior_host host = {
	    .possible_cpus = cpus, .page_size = (uint32_t)sysconf(_SC_PAGESIZE)};

	return aior_len_on(&host, len);
}

uint32_t aior_least_n(uint32_t cpus, uint64_t len)
{
	return aio_ring_least_n(
	    (uint32_t)aior_len_for(cpus, len), cpus, (uint32_t)sysconf(_SC_PAGESIZE));
}

static int refuse_size(const struct aior_ring *ring, uint64_t len, const struct aior_host *host,
    struct aior_error *error)
{
	uint64_t page = host->page_size;
	unsigned long long wanted = (len - ring->len) / page,
			   is_free = ring->room > ring->len ? (ring->room - ring->len) / page : 0;

	return aior_refuse(error,
	    "ring 0x%llx: needs %llu pages on this host (%u possible CPUs), has %llu, and of the "
	    "%llu "
	    "behind it %llu are free; it fits where at most %u CPUs are possible (kernel command "
	    "line: possible_cpus=%u)",
	    (unsigned long long)ring->addr, (unsigned long long)(len / page), host->possible_cpus,
	    (unsigned long long)(ring->len / page), wanted, is_free, ring->max_cpus,
	    ring->max_cpus);
}

/* What keeps one ring from being restored here; 0 if nothing does. */
static int check_ring(
    const struct aior_ring *ring, const struct aior_host *host, struct aior_error *error)
{
	uint64_t len = aior_len_on(host, ring->len);
	uint32_t usable = aio_ring_usable(aio_ring_nr((uint32_t)len), host->possible_cpus);
	unsigned long long addr = ring->addr;

	if (ring->state == AIOR_DAMAGED)
		return aior_refuse(error, "ring 0x%llx: is damaged: %s", addr, ring->damage);
	if (ring->len % host->page_size || ring->addr % host->page_size)
		return aior_refuse(error,
		    "ring 0x%llx: it is not made of this host's pages of %u bytes", addr,
		    host->page_size);
	if (len != ring->len && len > ring->room)
		return refuse_size(ring, len, host, error);
	/* What comes back takes a slot each: a poll, too, whether it can be submitted again or not. */
	if (ring->polls && (uint64_t)ring->pending + ring->polls > usable)
		return aior_refuse(error,
		    "ring 0x%llx: %u events are pending and %u polls are to be submitted again, "
		    "and "
		    "this host (%u possible CPUs) admits %u together in a ring of its size: "
		    "restore "
		    "it where it was saved, and save it again when there are fewer",
		    addr, ring->pending, ring->polls, host->possible_cpus, usable);
	if (ring->pending > usable)
		return aior_refuse(error,
		    "ring 0x%llx: %u events are pending, and this host (%u possible CPUs) admits "
		    "%u in a ring of its size: restore it where it was saved, and save it again "
		    "when fewer are pending",
		    addr, ring->pending, host->possible_cpus, usable);
	return 0;
}

int aior_check_arch(uint32_t arch, struct aior_error *error)
{
	const char *host = aior_arch_name(aior_host_arch());

	if (!aior_calls_of(arch))
		return aior_refuse(error, "the rings are those of a process on %s: this host is %s",
		    aior_arch_text(arch), host);
	if (!aior_blob(arch, AIOR_OP_RESTORE))
		return aior_refuse(error,
		    "the rings are those of a process on %s: this build has no blobs for it (see "
		    "`make blobs`)",
		    aior_arch_text(arch));
	if (!aior_can_execute(arch))
		return aior_refuse(error,
		    "the rings are those of a process on %s, and the kernel of this host (%s) runs "
		    "no such programs",
		    aior_arch_text(arch), host);
	return 0;
}

int aior_begin_check(struct aior_host_check *check, struct aior_error *error)
{
	const struct aior_host *host = &check->host;

	memset(check, 0, sizeof(*check));
	check->error = error;
	if (error)
		memset(error, 0, sizeof(*error));
	if (aior_get_host(&check->host, error))
		return -1;
	if (host->aio_errno)
		return aior_refuse(error,
		    "AIO does not work here: io_destroy says %s (a kernel without CONFIG_AIO, or a "
		    "sandbox that forbids it)",
		    aior_errno_text(host->aio_errno));
	return 0;
}

void aior_check_ring(
    struct aior_host_check *check, const struct aior_ring *ring, int may_lie_nowhere)
{
	struct aior_error *where = check->refused < MOST_LINES ? check->error : NULL;

	check->requests += aio_ring_least_n((uint32_t)aior_len_on(&check->host, ring->len),
	    check->host.possible_cpus, check->host.page_size);
	if (may_lie_nowhere && ring->state != AIOR_DAMAGED && !is_addressable(ring)) {
		aior_refuse(where,
		    "ring 0x%llx: no process of this host can have that address: it comes from a "
		    "kernel with a larger address space",
		    (unsigned long long)ring->addr);
		check->refused++;
	} else {
		check->refused += !!check_ring(ring, &check->host, where);
	}
}

int aior_end_check(struct aior_host_check *check)
{
	const struct aior_host *host = &check->host;

	if (check->refused > MOST_LINES)
		aior_refuse(check->error, "... and %zu more rings", check->refused - MOST_LINES);
	if (host->aio_nr + check->requests > host->aio_max_nr) {
		aior_refuse(check->error,
		    "the rings need %llu of fs.aio-max-nr, and %llu of its %llu are in use: "
		    "raise it (sysctl fs.aio-max-nr=%llu)",
		    (unsigned long long)check->requests, (unsigned long long)host->aio_nr,
		    (unsigned long long)host->aio_max_nr,
		    (unsigned long long)host->aio_nr + check->requests);
		check->refused++;
	}
	return check->refused ? -1 : 0;
}

/* In a process that has nothing but these rings, or what is known of it. */
static uint64_t room_of(const struct aior_image *image, size_t i)
{
	const struct aior_ring *ring = &image->rings[i];
	uint64_t room = i + 1 < image->ring_count ? ring[1].addr - ring->addr : 0 - ring->addr;

	return ring->room && ring->room < room ? ring->room : room;
}

int aior_check_images(const struct aior_image *images, size_t count, struct aior_error *error)
{
	struct aior_host_check check;
	AIOR_UNCANCELLED;

	if (error)
		memset(error, 0, sizeof(*error));
	for (size_t i = 0; i < count; i++)
		if (aior_check_arch(images[i].arch, error))
			return -1;
	if (aior_begin_check(&check, error))
		return -1;
	for (size_t i = 0; i < count; i++)
		for (size_t k = 0; k < images[i].ring_count; k++) {
			struct aior_ring ring = images[i].rings[k];

			ring.room = room_of(&images[i], k);
			aior_check_ring(&check, &ring, images[i].arch == aior_host_arch());
		}
	return aior_end_check(&check);
}

int aior_check_host(const struct aior_image *image, struct aior_error *error)
{
	return aior_check_images(image, 1, error);
}
