/* SPDX-License-Identifier: MIT */
/* The rings of a running process. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "names.h"
#include "others.h"

/* How long others may share a process's memory that is to be its own. */
#define MOMENT_NS (300 * AIOR_NS_PER_MS)

/*
 * How often, a millisecond apart, a process is listed that is being staged or restored; and how often, if only a ring
 * is not there which its capsule says is live: nobody may be at work on it any more.
 */
#define TRIES 3000
#define LOOKS 5

/* Reads all of [addr, addr + len) of the process; -1 with errno. */
static int read_memory(int mem, void *to, uint64_t addr, uint64_t len)
{
	uint64_t done = 0;

	while (done < len) {
		off_t at = (off_t)(addr + done);
		ssize_t n = pread(mem, (char *)to + done, len - done, at);

		if (n < 0) /* once more, like all that internal.h has for that */
			n = pread(mem, (char *)to + done, len - done, at);
		if (n <= 0) {
			if (!n)
				errno = EIO;
			return -1;
		}
		done += (uint64_t)n;
	}
	return 0;
}

/*
 * The header first, then the slots: an event that the tail counts is whole by then (aio_complete()
 * writes it before the tail), and one that comes meanwhile is not counted.
 */
static int read_content(int mem, struct aior_ring *ring)
{
	struct aio_ring header;

	ring->content = malloc(ring->len);
	if (!ring->content)
		return -1;
	if (read_memory(mem, &header, ring->addr, sizeof(header)) ||
	    read_memory(mem, ring->content, ring->addr, ring->len)) {
		free(ring->content);
		ring->content = NULL;
		return -1;
	}
	memcpy(ring->content, &header, sizeof(header));
	aior_take_header(ring, &header);
	return 0;
}

/*
 * Puts the mappings of one ring together that mprotect has split, and reads it. A ring whose file
 * nobody holds any more cannot be read: its maker has destroyed it or exited, and this process has
 * it by fork.
 */
static int read_ring(int mem, const struct aior_mapping *mapping, size_t parts,
    struct aior_image *image, struct aior_error *error)
{
	struct aior_ring *ring = aior_add_ring(image);

	if (!ring)
		return aior_fail(error, ENOMEM, "read", "out of memory");
	ring->addr = mapping->start;
	ring->len = mapping[parts - 1].end - mapping->start;
	ring->prot = mapping->prot;
	ring->state = AIOR_LIVE;
	ring->max_cpus = aio_ring_max_cpus(ring->len);
	if (ring->len > AIO_RING_MAX_LEN) {
		ring->state = AIOR_DAMAGED;
		ring->damage = aior_fault_text(AIO_RING_BAD_LENGTH);
		return 0;
	}
	if (read_content(mem, ring)) {
		if (errno == ENOMEM)
			return aior_fail(error, ENOMEM, "read", "out of memory");
		if (errno != EIO && errno != EFAULT)
			return aior_fail_ring(error, errno, "read", ring->addr,
			    "cannot be read: %s", strerror(errno));
		ring->state = AIOR_INHERITED;
	}
	if (mapping->offset) {
		ring->state = AIOR_DAMAGED;
		ring->damage = "its first pages are not mapped";
	}
	return 0;
}

static int is_ring(const struct aior_mapping *mapping, void *data)
{
	(void)data;
	return mapping->is_ring;
}

int aior_has_rings(const struct aior_process *process)
{
	return aior_each_mapping(process->task, is_ring, NULL) == 1;
}

int aior_ring_continues(const struct aior_mapping *mapping)
{
	return mapping[1].is_ring && mapping[1].start == mapping->end &&
	       mapping[1].inode == mapping->inode && mapping[1].minor == mapping->minor &&
	       mapping[1].offset == mapping->offset + (mapping->end - mapping->start);
}

struct relative_search {
	const struct aior_process *process;
	const struct aior_mapping *mappings;
	size_t count;
	void (*visit)(pid_t pid, int is_older, const struct aior_mapping *ring, void *data);
	void *data;
	struct stat exe;
};

static int stat_exe(pid_t pid, struct stat *stat_buf)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
	return stat(path, stat_buf);
}

static int same_memory(pid_t a, pid_t b)
{
	return syscall(SYS_kcmp, a, b, KCMP_VM, 0, 0) == 0;
}

/* A child comes after its parent; of the same clock tick, it knows who its parent is. */
static int is_older(const struct aior_process *other, const struct aior_process *process)
{
	if (other->start_time != process->start_time)
		return other->start_time < process->start_time;
	return process->parent == other->pid;
}

static const struct aior_mapping *find_ring(
    const struct relative_search *search, const struct aior_mapping *theirs)
{
	for (size_t i = 0; i < search->count; i++) {
		const struct aior_mapping *ours = &search->mappings[i];

		if (ours->is_ring && ours->inode == theirs->inode && ours->minor == theirs->minor)
			return ours;
	}
	return NULL;
}

static int visit_relative(pid_t pid, void *data)
{
	struct relative_search *search = data;
	struct aior_process other;
	struct aior_mapping *theirs;
	struct stat exe;
	size_t count;

	/* exec drops mappings, so whoever still has them runs the same program. */
	if (pid == search->process->pid || stat_exe(pid, &exe) ||
	    exe.st_ino != search->exe.st_ino || exe.st_dev != search->exe.st_dev ||
	    aior_process_open(pid, &other, NULL) || same_memory(pid, search->process->task) ||
	    aior_mappings(&other, &theirs, &count, NULL))
		return 0;
	for (size_t i = 0; i < count; i++) {
		const struct aior_mapping *ours =
		    theirs[i].is_ring ? find_ring(search, &theirs[i]) : NULL;

		if (ours)
			search->visit(pid, is_older(&other, search->process), ours, search->data);
	}
	free(theirs);
	return 0;
}

int aior_each_relative(const struct aior_process *process, const struct aior_mapping *mappings,
    size_t count,
    void (*visit)(pid_t pid, int is_older, const struct aior_mapping *ring, void *data), void *data)
{
	struct relative_search search = {process, mappings, count, visit, data, {0}};

	/* (The kernel's threads have no program, and one that has exited none any more.) */
	if (stat_exe(process->task, &search.exe) && stat_exe(process->task, &search.exe))
		return errno == ENOENT || errno == EACCES ? 0 : -1;
	return aior_each_task(0, visit_relative, &search);
}

/* The rings that an older process maps too: fork gave them to this one. */
static void mark_inherited(pid_t pid, int is_older, const struct aior_mapping *mapping, void *data)
{
	struct aior_image *image = data;

	(void)pid;
	for (size_t i = 0; is_older && i < image->ring_count; i++)
		if (image->rings[i].addr == mapping->start)
			image->rings[i].state = AIOR_INHERITED;
}

int aior_cannot_list(const struct aior_process *process, struct aior_error *error)
{
	return aior_fail(error, errno, "open",
	    "whose rings process %d has cannot be told, since not all processes can be listed: %s",
	    (int)process->pid, aior_errno_text(errno));
}

int aior_read_rings(
    const struct aior_process *process, struct aior_image *image, struct aior_error *error)
{
	struct aior_mapping *mappings;
	size_t count, parts;
	uint64_t bytes = 0;
	char path[64];
	int mem, ret = 0;

	if (process->is_kernel_thread)
		return aior_fail(
		    error, EINVAL, "open", "process %d is a kernel thread", (int)process->pid);
	if (aior_mappings(process, &mappings, &count, error))
		return -1;
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)process->task);
	mem = open(path, O_RDONLY | O_CLOEXEC);
	if (mem < 0) {
		int err = errno;

		free(mappings);
		if (err == EACCES || err == EPERM)
			return aior_not_allowed(process, err, error);
		return aior_fail(error, err == ENOENT ? ESRCH : err, "open",
		    "the memory of process %d cannot be read: %s", (int)process->pid,
		    strerror(err));
	}
	for (size_t i = 0; i < count && !ret; i += parts) {
		parts = 1;
		if (!mappings[i].is_ring)
			continue;
		while (i + parts < count && aior_ring_continues(&mappings[i + parts - 1]))
			parts++;
		/* It may not be ones of the kernel's that are called so. */
		bytes += mappings[i + parts - 1].end - mappings[i].start;
		if (bytes > AIOR_MOST_RING_BYTES)
			ret = aior_fail(error, E2BIG, "read",
			    "process %d has mappings named [aio] of more bytes than any rings take",
			    (int)process->pid);
		else
			ret = read_ring(mem, &mappings[i], parts, image, error);
	}
	if (!ret && image->ring_count &&
	    aior_each_relative(process, mappings, count, mark_inherited, image))
		ret = aior_cannot_list(process, error);
	close(mem);
	free(mappings);
	return ret;
}

static void describe(const struct aior_process *process, struct aior_image *image)
{
	memset(image, 0, sizeof(*image));
	image->pid = process->pid;
	image->arch = aior_process_arch(process);
	image->page_size = (uint32_t)sysconf(_SC_PAGESIZE);
	image->possible_cpus = aior_possible_cpus();
}

/* For aior_read_capsule(): of a running process. */
struct live_memory {
	struct aior_memory memory;
	pid_t task;
};

static int copy_live(struct aior_memory *memory, void *to, uint64_t addr, uint64_t len)
{
	const struct live_memory *live = (const struct live_memory *)memory;

	if (!aior_read_memory(live->task, addr, to, (size_t)len))
		return 0;
	snprintf(memory->why, sizeof(memory->why), "%s: its staged memory cannot be read: %s",
	    memory->name, strerror(errno));
	return -1;
}

/*
 * The rings of a staged process. What a host that has not come to the end has left is taken as it is. Returns 1 if some
 * have been restored meanwhile.
 */
static int read_staged(
    const struct aior_process *process, struct aior_image *image, struct aior_error *error)
{
	char name[32];
	struct live_memory live = {
	    .memory = {.image = image,
		.name = name,
		.held = AIOR_MOST_RING_BYTES,
		.takes_damaged = 1,
		.copy = copy_live},
	    .task = process->task,
	};
	struct aior_capsule capsule;
	int found = aior_find_capsule(process->task, &capsule, error);

	if (found <= 0)
		return found;
	snprintf(name, sizeof(name), "process %d", (int)process->pid);
	if (aior_read_capsule(&live.memory, &capsule, error))
		return -1;
	return !!live.memory.unseen;
}

/* Returns 1 as read_staged() does. */
static int list_once(
    const struct aior_process *process, struct aior_image *image, struct aior_error *error)
{
	int ret;

	describe(process, image);
	ret = aior_read_rings(process, image, error);
	if (!ret)
		ret = read_staged(process, image, error);
	if (ret >= 0 && !aior_sort_rings(image, error))
		return ret;
	aior_image_free(image);
	return -1;
}

static int is_anothers(pid_t tracer)
{
	return tracer && tracer != gettid();
}

static struct aior_capsule find_new(const struct aior_process *process)
{
	struct aior_capsule capsule;

	if (aior_find_new_capsule(process->task, &capsule, NULL) != 1)
		memset(&capsule, 0, sizeof(capsule));
	return capsule;
}

static int has_live(const struct aior_image *image)
{
	for (size_t i = 0; i < image->ring_count; i++)
		if (image->rings[i].state != AIOR_STAGED)
			return 1;
	return 0;
}

/*
 * Whether somebody is staging or restoring it, so that what has been read may be half of the one and half of the
 * other: its capsule has changed since, or there are rings besides in a process that another thread traces.
 */
static int is_on_its_way(const struct aior_process *process, const struct aior_capsule *before,
    const struct aior_image *image, int failed)
{
	struct aior_capsule now = find_new(process);
	struct aior_process again;

	if (now.addr != before->addr || memcmp(&now.table, &before->table, sizeof(now.table)) != 0)
		return 1;
	return now.addr && (failed || has_live(image)) &&
	       !aior_process_open(process->pid, &again, NULL) && is_anothers(again.tracer);
}

int aior_list(pid_t pid, struct aior_image *image, struct aior_error *error)
{
	struct aior_process process;
	struct aior_capsule before;
	int ret, tries = 0;
	AIOR_UNCANCELLED;

	memset(image, 0, sizeof(*image));
	do {
		if (tries) {
			aior_image_free(image);
			aior_nap(AIOR_NS_PER_MS);
		}
		if (aior_process_open(pid, &process, error))
			return -1;
		before = find_new(&process);
		ret = list_once(&process, image, error);
		tries++;
	} while ((tries < TRIES && is_on_its_way(&process, &before, image, ret < 0)) ||
		 (tries < LOOKS && ret > 0));
	return ret < 0 ? -1 : 0;
}

struct sharer_search {
	pid_t pid, task, sharer;
};

static int find_sharer(pid_t pid, void *data)
{
	struct sharer_search *search = data;

	if (pid == search->pid || !same_memory(pid, search->task))
		return 0;
	/* What has exited has no memory, as the kernel's threads have none. */
	if (aior_task_has_exited(search->task))
		return 1;
	search->sharer = pid;
	return 1;
}

/* Only sound rings that are this process's own; the others are named, or left out. */
static int keep_own_rings(
    const struct aior_process *process, struct aior_image *image, struct aior_error *error)
{
	struct aior_capsule capsule;
	size_t kept = 0;

	for (size_t i = 0; i < image->ring_count; i++)
		if (image->rings[i].state == AIOR_DAMAGED)
			return aior_fail_ring(error, EINVAL, "read", image->rings[i].addr,
			    "is damaged: %s; the program has written over it or changed its "
			    "mapping",
			    image->rings[i].damage);
	for (size_t i = 0; i < image->ring_count; i++) {
		struct aior_ring *ring = &image->rings[i];

		if (ring->state == AIOR_INHERITED) {
			free(ring->content);
			image->inherited_count++;
			continue;
		}
		image->rings[kept++] = *ring;
	}
	image->ring_count = kept;
	if (kept)
		return 0;
	if (image->inherited_count)
		return aior_fail(error, ENOENT, "read",
		    "process %d has no AIO rings of its own: it has inherited %zu by fork, without "
		    "their contexts",
		    (int)image->pid, image->inherited_count);
	if (aior_find_capsule(process->task, &capsule, NULL) > 0)
		return aior_fail(error, ENOENT, "read",
		    "process %d is staged, and its rings are plain memory: whatever dumps memory "
		    "dumps them",
		    (int)image->pid);
	return aior_fail(error, ENOENT, "read", "process %d has no AIO rings", (int)image->pid);
}

static int read_threads(const struct aior_stopped *stopped, struct aior_image *image)
{
	for (size_t i = 0; i < aior_stopped_count(stopped); i++) {
		struct aior_thread *thread = aior_add_thread(image);

		if (!thread)
			return -1;
		if (aior_stopped_thread(stopped, i, thread)) {
			if (errno == ENOMEM)
				return -1;
			image->thread_count--;
		}
	}
	return 0;
}

int aior_check_alone(const struct aior_process *process, struct aior_error *error)
{
	struct sharer_search search = {.pid = process->pid, .task = process->task};
	struct aior_process again;

	if (aior_each_task(0, find_sharer, &search) < 0)
		return aior_cannot_list(process, error);
	if (!search.sharer)
		return 0;
	/* The helpers of a blob share it, too, as long as somebody stages it. */
	if (is_anothers(process->tracer) ||
	    (!aior_process_open(process->pid, &again, NULL) && is_anothers(again.tracer)))
		return aior_fail(error, EBUSY, "open",
		    "process %d is traced, and shares its memory with process %d: wait until "
		    "whoever traces it (a debugger, or another call like this one) ends",
		    (int)process->pid, (int)search.sharer);
	return aior_fail(error, EINVAL, "open",
	    "process %d shares its memory with process %d: its rings are not its alone",
	    (int)process->pid, (int)search.sharer);
}

/* A child of vfork(2) shares it for a moment only. */
static int wait_to_be_alone(const struct aior_process *process, struct aior_error *error)
{
	uint64_t end = aior_now(CLOCK_MONOTONIC) + MOMENT_NS;
	int ret;

	while ((ret = aior_check_alone(process, error)) && aior_now(CLOCK_MONOTONIC) < end)
		aior_nap(MOMENT_NS / 100);
	return ret;
}

int aior_check_process(const struct aior_process *process, struct aior_error *error)
{
	uint32_t arch;

	if (process->is_kernel_thread)
		return aior_fail(
		    error, EINVAL, "open", "process %d is a kernel thread", (int)process->pid);
	if (aior_check_rights(process, error) || wait_to_be_alone(process, error))
		return -1;
	arch = aior_process_arch(process);
	if (!aior_calls_of(arch))
		return aior_refuse(error,
		    "process %d runs a program for %s: this host (%s) cannot stop it",
		    (int)process->pid, aior_arch_text(arch), aior_arch_name(aior_host_arch()));
	return 0;
}

struct snapshot {
	const struct aior_process *process;
	struct aior_image *image;
	struct aior_error *error;
};

static int take_snapshot(void *data)
{
	const struct snapshot *snapshot = data;
	struct aior_stopped *stopped;
	int ret;

	if (aior_stop(snapshot->process, AIOR_TO_READ, &stopped, snapshot->error))
		return -1;
	ret = aior_read_rings(snapshot->process, snapshot->image, snapshot->error);
	if (!ret && read_threads(stopped, snapshot->image))
		ret = aior_fail(snapshot->error, ENOMEM, "read", "out of memory");
	aior_continue(stopped);
	return ret;
}

int aior_snapshot(pid_t pid, struct aior_image *image, struct aior_error *error)
{
	struct aior_process process;
	struct snapshot snapshot = {&process, image, error};
	int ret;
	AIOR_UNCANCELLED;

	memset(image, 0, sizeof(*image));
	if (error)
		memset(error, 0, sizeof(*error));
	if (aior_process_open(pid, &process, error) || aior_check_process(&process, error))
		return -1;
	describe(&process, image);
	ret = aior_as_tracer(take_snapshot, &snapshot, &pid, 1, error);
	if (!ret)
		ret = keep_own_rings(&process, image, error);
	if (ret)
		aior_image_free(image);
	return ret;
}
