/* SPDX-License-Identifier: MIT */
/*
 * The CRIU plugin, aio_restorer.so: in a folder where CRIU looks for plugins, it makes checkpoints of
 * processes with AIO rings whole. A dump stages their rings and parks their threads, so that CRIU finds ordinary
 * memory and sleeping threads, and restores them afterwards if they are to live on; a restore restores them.
 *
 * CRIU calls hooks of all plugins in turn until one says something else than -ENOTSUP, which it does not take
 * for an error. So a hook that has done its work says that, and leaves the next plugin its turn. What CRIU is
 * told at RESUME_DEVICES_LATE, and by an exit hook, it ignores.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <unistd.h>

#include <criu/criu-plugin.h>

#include "grow.h"
#include "internal.h"

#define NAME "aio_restorer"
#define DONE (-ENOTSUP)
#define IMAGE "aio-restorer-"
#define MOST_IMAGE (1u << 30) /* bytes */

/* Of CRIU itself: criu/log.c, and criu/image.c, which 4.0 has not. */
enum { LOG_ERROR = 1, LOG_WARN, LOG_INFO };
extern void print_on_level(unsigned int level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
extern int add_inventory_plugin(const char *name) __attribute__((weak));
extern bool check_and_remove_inventory_plugin(const char *name, size_t n) __attribute__((weak));

/* Each sentence of its own: CRIU's tools look for lines that begin with "Error". */
#define say_error(format, ...)                                                                     \
	print_on_level(LOG_ERROR, "Error (" NAME "): " format "\n", __VA_ARGS__)
#define say_warn(format, ...)                                                                      \
	print_on_level(LOG_WARN, "Warn  (" NAME "): " format "\n", __VA_ARGS__)
#define say_info(format, ...) print_on_level(LOG_INFO, NAME ": " format "\n", __VA_ARGS__)

struct member {
	pid_t pid;
	uint64_t start_time;
	int is_looked_at; /* and staged, if it has rings */
	int is_staged;
};

static struct {
	struct member *members; /* of the tree */
	size_t count;
	struct aior_samples *samples;
	int is_listed; /* in the inventory */
	size_t image_count;
} plugin;

/* ---- the processes of the tree ---- */

static struct member *find_member(pid_t pid)
{
	for (size_t i = 0; i < plugin.count; i++)
		if (plugin.members[i].pid == pid)
			return &plugin.members[i];
	return NULL;
}

static struct member *add_member(pid_t pid)
{
	struct aior_process process;
	struct member *larger;

	if (find_member(pid) || aior_process_open(pid, &process, NULL))
		return find_member(pid);
	larger = realloc(plugin.members, (plugin.count + 1) * sizeof(*larger));
	if (!larger)
		return NULL;
	plugin.members = larger;
	larger[plugin.count] = (struct member){.pid = pid, .start_time = process.start_time};
	return &larger[plugin.count++];
}

static void forget_all(void)
{
	free(plugin.members);
	aior_samples_free(plugin.samples);
	memset(&plugin, 0, sizeof(plugin));
}

/* The pid that a process has in the innermost of its pid namespaces: the one that its images are named after. */
static pid_t inner_pid(pid_t pid)
{
	char path[64], *line = NULL, *last;
	size_t room = 0;
	pid_t inner = pid;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	file = fopen(path, "re");
	while (file && getline(&line, &room, file) > 0) {
		last = strrchr(line, '\t');
		if (!strncmp(line, "NSpid:", 6) && last)
			inner = atoi(last);
	}
	free(line);
	if (file)
		fclose(file);
	return inner;
}

/* ---- our image: the tables of a capsule, without what threads were doing ---- */

static void name_image(pid_t pid, char name[64])
{
	snprintf(name, 64, IMAGE "%d.img", (int)inner_pid(pid));
}

/* Copies records of a capsule to `at`, and returns how many bytes they take. */
static uint64_t move_records(
    unsigned char *bytes, uint64_t at, const void *from, uint64_t count, uint64_t stride)
{
	memcpy(bytes + at, from, count * stride);
	return count * stride;
}

static void *make_image(const struct aior_table *table, const unsigned char *capsule, size_t *size)
{
	struct aior_table own = *table;
	unsigned char *bytes = malloc(table->total);

	if (!bytes)
		return NULL;
	own.state = AIOR_TABLE_IMAGE;
	own.thread_count = own.thread_stride = 0;
	own.threads = 0;
	own.rings = sizeof(own);
	own.polls = own.rings + move_records(bytes, own.rings, capsule + table->rings,
				    table->ring_count, table->ring_stride);
	own.total = own.polls + move_records(bytes, own.polls, capsule + table->polls,
				    table->poll_count, table->poll_stride);
	memcpy(bytes, &own, sizeof(own));
	*size = own.total;
	return bytes;
}

struct rooms {
	const struct aior_table *table;
	unsigned char *capsule; /* a copy */
};

static void note_room(uint32_t i, const struct aior_room *room, void *data)
{
	const struct rooms *rooms = data;
	struct aior_ring_record *record =
	    (void *)aior_capsule_ring(rooms->table, rooms->capsule, i);

	record->room = room->len < AIO_RING_MAX_LEN ? room->len : AIO_RING_MAX_LEN;
}

static void *image_of(pid_t pid, size_t *size, struct aior_error *error)
{
	struct aior_capsule capsule;
	struct aior_process process;
	struct rooms rooms;
	unsigned char *bytes;
	void *image;

	if (aior_process_open(pid, &process, error))
		return NULL;
	if (aior_find_capsule(process.task, &capsule, error) != 1 ||
	    aior_check_capsule(&capsule, aior_process_arch(&process), error))
		return NULL;
	bytes = malloc(capsule.table.total);
	if (!bytes || aior_read_memory(process.task, capsule.addr, bytes, capsule.table.total)) {
		aior_fail(error, errno, "capsule", "the capsule cannot be read: %s",
		    aior_errno_text(errno));
		free(bytes);
		return NULL;
	}
	rooms = (struct rooms){&capsule.table, bytes};
	if (aior_each_room(process.task, &capsule.table, bytes, note_room, &rooms)) {
		aior_fail(error, errno, "maps", "the mappings cannot be read: %s",
		    aior_errno_text(errno));
		free(bytes);
		return NULL;
	}
	image = make_image(&capsule.table, bytes, size);
	free(bytes);
	return image;
}

static int write_image(pid_t pid)
{
	struct aior_error error = {.message = "out of memory"};
	size_t size, done = 0;
	unsigned char *bytes = image_of(pid, &size, &error);
	char name[64];
	int fd;

	if (!bytes) {
		say_error("process %d: %s", (int)pid, error.message);
		return -1;
	}
	name_image(pid, name);
	fd = openat(criu_get_image_dir(), name,
	    O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	while (fd >= 0 && done < size) {
		ssize_t n = write(fd, bytes + done, size - done);

		if (n <= 0)
			break;
		done += (size_t)n;
	}
	if (done < size)
		say_error(
		    "%s cannot be written into the image folder: %s", name, aior_errno_text(errno));
	free(bytes);
	return (fd >= 0 && close(fd)) || done < size ? -1 : 0;
}

static int has_image(pid_t pid)
{
	char name[64];

	name_image(pid, name);
	return !faccessat(criu_get_image_dir(), name, F_OK, AT_SYMLINK_NOFOLLOW);
}

static int read_image(const char *name, unsigned char **bytes, uint64_t *size)
{
	struct stat status;
	int fd = openat(criu_get_image_dir(), name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	int ret = -1;

	*bytes = NULL;
	if (fd >= 0 && !fstat(fd, &status) && S_ISREG(status.st_mode) &&
	    status.st_size >= (off_t)sizeof(struct aior_table) && status.st_size <= MOST_IMAGE) {
		*size = (uint64_t)status.st_size;
		*bytes = malloc(*size);
		if (*bytes && read(fd, *bytes, *size) == (ssize_t)*size)
			ret = 0;
	}
	if (fd >= 0)
		close(fd);
	return ret;
}

/*
 * What comes back on restore takes a slot each: pending events, and polls. Those are grouped by ring, in ring
 * order, and `poll` is the first that is not looked at yet.
 */
static void check_ring(struct aior_host_check *check, const struct aior_table *table,
    const void *bytes, uint32_t i, uint32_t *poll)
{
	const struct aior_ring_record *record = aior_capsule_ring(table, bytes, i);
	uint32_t first = *poll;
	struct aior_ring ring = {.addr = record->addr,
	    .len = record->len,
	    .state = AIOR_STAGED,
	    .nr = aio_ring_nr((uint32_t)record->len),
	    .head = record->head,
	    .tail = record->tail,
	    .room = record->room,
	    .max_cpus = aio_ring_max_cpus(record->len)};

	while (*poll < table->poll_count &&
	       aior_capsule_poll(table, bytes, *poll)->ring == record->addr)
		++*poll;
	if (ring.head >= ring.nr || ring.tail >= ring.nr) {
		ring.state = AIOR_DAMAGED;
		ring.damage = "its head or its tail lies outside of it";
	} else {
		ring.pending = aio_ring_pending(ring.head, ring.tail, ring.nr);
		ring.polls = *poll - first;
	}
	aior_check_ring(check, &ring, 0);
}

static int check_image(const char *name, struct aior_host_check *check)
{
	struct aior_capsule capsule = {.page_size = (uint32_t)sysconf(_SC_PAGESIZE)};
	struct aior_error error = {.message = ""};
	unsigned char *bytes;
	uint32_t poll = 0;
	int ret = -1;

	if (read_image(name, &bytes, &capsule.room)) {
		say_error("%s cannot be read, or is not what a dump writes", name);
	} else {
		memcpy(&capsule.table, bytes, sizeof(capsule.table));
		if (aior_check_table(&capsule, capsule.table.arch, &error) ||
		    aior_check_records(&capsule, bytes, &error) ||
		    aior_check_arch(capsule.table.arch, &error))
			say_error("%s: %s", name, error.message);
		else
			ret = 0;
	}
	for (uint32_t i = 0; !ret && i < capsule.table.ring_count; i++)
		check_ring(check, &capsule.table, bytes, i, &poll);
	free(bytes);
	return ret;
}

static void say_lines(char *text)
{
	char *rest = NULL;

	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		say_error("%s", line);
}

/* All our images in the folder. Returns -1 if one is in the way, or this host is: `error` says so, if nobody has yet. */
static int check_images(DIR *folder, struct aior_error *error)
{
	struct aior_host_check check;
	struct dirent *entry;

	while ((entry = readdir(folder))) {
		if (strncmp(entry->d_name, IMAGE, strlen(IMAGE)))
			continue;
		/* Where there is no AIO, that matters only to who needs it. */
		if ((!plugin.image_count++ && aior_begin_check(&check, error)) ||
		    check_image(entry->d_name, &check))
			return -1;
	}
	return plugin.image_count ? aior_end_check(&check) : 0;
}

/* Whether this host can have all the rings of the dump: before CRIU has made the first process. */
static int check_host(void)
{
	struct aior_error error = {.message = ""};
	int fd = openat(criu_get_image_dir(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret;
	DIR *folder = fd < 0 ? NULL : fdopendir(fd);

	if (!folder) {
		say_error("the image folder cannot be read: %s", aior_errno_text(errno));
		return -1;
	}
	ret = check_images(folder, &error);
	closedir(folder);
	if (ret)
		say_lines(error.message);
	return ret;
}

/* ---- dump ---- */

static int timeout_ms(void)
{
	const char *text = getenv("AIO_RESTORER_TIMEOUT");
	char *end = NULL;
	double seconds = text ? strtod(text, &end) : -1;

	/* (So that no number at all is none, too.) */
	return text && end != text && !*end && seconds >= 0 && seconds <= INT32_MAX / 1000
		   ? (int)(seconds * 1000)
		   : -1;
}

/* Those that CRIU has set (compel/src/lib/infect.c); nobody can be asked for them. */
static unsigned long criu_options(pid_t pid)
{
	return PTRACE_O_TRACESYSGOOD |
	       (aior_status_number(pid, "\nSeccomp:") > 0 ? PTRACE_O_SUSPEND_SECCOMP : 0);
}

static void tell(const struct aior_outcome *outcome)
{
	const struct aior_report *rings = &outcome->rings;
	int pid = (int)outcome->pid;

	if (rings->inherited_count)
		say_warn("process %d: %zu rings that it has inherited by fork are plain copies "
			 "now, as their contexts are its parent's",
		    pid, rings->inherited_count);
	if (outcome->heir_count)
		say_warn(
		    "process %d: %zu processes map its rings by fork, process %d for one: those "
		    "outside of this dump are cut off from them",
		    pid, outcome->heir_count, (int)outcome->heirs[0]);
	for (size_t i = 0; i < rings->lost_count; i++)
		say_warn("process %d: the poll of iocb 0x%llx cannot be submitted again (%s): its "
			 "event will say POLLNVAL",
		    pid, (unsigned long long)rings->lost[i].iocb,
		    aior_errno_text(rings->lost[i].err));
	if (rings->ring_count)
		say_info("process %d: %zu rings are plain memory, with %zu events pending, %zu of "
			 "them of requests that were in flight, and %zu polls",
		    pid, rings->ring_count, rings->pending, rings->drained, rings->poll_count);
}

static int remember(struct member *member)
{
	member->is_staged = 1;
	if (!plugin.is_listed && add_inventory_plugin && add_inventory_plugin(NAME)) {
		say_error("%s", "this plugin cannot be noted in the inventory");
		return -1;
	}
	plugin.is_listed = 1;
	return write_image(member->pid);
}

static int stage(struct member *member)
{
	const struct aior_options options = {
	    .timeout_ms = timeout_ms(), .parks = 1, .samples = plugin.samples};
	struct aior_outcome outcome;
	struct aior_process process;
	struct aior_error error;
	int ret;

	member->is_looked_at = 1;
	/* It may have ended since it was seen, and be nobody or a zombie. */
	if (aior_process_open(member->pid, &process, NULL) || !aior_has_rings(&process))
		return 0;
	ret = aior_stage_traced(member->pid, criu_options(member->pid), &options, &outcome, &error);
	if (ret)
		say_error("process %d: %s", (int)member->pid, error.message);
	else
		tell(&outcome);
	if (!ret && outcome.rings.ring_count)
		ret = remember(member);
	aior_outcome_free(&outcome);
	return ret;
}

static void restore(const struct member *member)
{
	const char *compacts = getenv("AIO_RESTORER_COMPACT");
	const struct aior_options options = {
	    .timeout_ms = -1, .compacts = compacts && atoi(compacts)};
	struct aior_error error;

	if (aior_restore_traced(member->pid, criu_options(member->pid), &options, NULL, &error))
		say_error("process %d: %s; finish with: aio-restorer restore %d", (int)member->pid,
		    error.message, (int)member->pid);
}

/* The youngest first: a child comes after its parent, whose rings it may map. */
static int by_age(const void *left, const void *right)
{
	const struct member *a = left, *b = right;

	if (a->start_time != b->start_time)
		return a->start_time < b->start_time ? 1 : -1;
	return a->pid < b->pid ? 1 : -1;
}

#define MOST_DEPTH 1024

struct branch {
	pid_t pid;
	unsigned depth;
};

static int sample_tree(pid_t pid, unsigned depth);

/* The processes that a thread has made. */
static int sample_children(pid_t tid, void *data)
{
	const struct branch *branch = data;
	char path[64];
	FILE *file;
	int child, ret = 0;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)branch->pid, (int)tid);
	file = fopen(path, "re");
	while (!ret && file && fscanf(file, "%d", &child) == 1)
		ret = sample_tree(child, branch->depth + 1) ? 1 : 0;
	if (file)
		fclose(file);
	return ret;
}

/* Where CRIU freezes the whole tree at once, this is the last look at those below. */
static int sample_tree(pid_t pid, unsigned depth)
{
	struct branch branch = {pid, depth};
	struct aior_error error;

	if (add_member(pid) && aior_sample(pid, &plugin.samples, &error) && error.err != ESRCH) {
		say_error("process %d: %s", (int)pid, error.message);
		return -1;
	}
	if (depth < MOST_DEPTH && aior_each_task(pid, sample_children, &branch) > 0)
		return -1;
	return 0;
}

/* ---- hooks ---- */

static int pause_devices(int pid)
{
	return sample_tree(pid, 0) ? -1 : DONE;
}

static int checkpoint_devices(int pid)
{
	int ret = 0;

	if (!add_member(pid)) {
		say_error("process %d cannot be looked at", pid);
		return -1;
	}
	qsort(plugin.members, plugin.count, sizeof(*plugin.members), by_age);
	for (size_t i = 0; !ret && i < plugin.count; i++)
		if (!plugin.members[i].is_looked_at)
			ret = stage(&plugin.members[i]);
	return ret ? -1 : DONE;
}

static int resume_devices_late(int pid)
{
	const struct member member = {.pid = pid};

	/* What was staged by hand before the dump is restored by hand. */
	if (plugin.image_count && has_image(pid))
		restore(&member);
	return DONE;
}

static int init(int stage)
{
	forget_all();
	if (stage != CR_PLUGIN_STAGE__RESTORE)
		return 0;
	if (check_and_remove_inventory_plugin &&
	    !check_and_remove_inventory_plugin(NAME, strlen(NAME)))
		return 0;
	return check_host();
}

/* Those that CRIU is about to kill do not mind, and who they are it does not tell. */
static void finish(int stage, int ret)
{
	(void)ret;
	for (size_t i = 0; stage == CR_PLUGIN_STAGE__DUMP && i < plugin.count; i++)
		if (plugin.members[i].is_staged)
			restore(&plugin.members[i]);
	forget_all();
}

/* As many hooks as CRIU 4.0 knows: it refuses a plugin that has more. */
AIOR_PUBLIC cr_plugin_desc_t CR_PLUGIN_DESC = {
    .name = NAME,
    .init = init,
    .exit = finish,
    .version = CRIU_PLUGIN_VERSION,
    .max_hooks = CR_PLUGIN_HOOK__CHECKPOINT_DEVICES + 1,
    .hooks =
	{
	    [CR_PLUGIN_HOOK__RESUME_DEVICES_LATE] = resume_devices_late,
	    [CR_PLUGIN_HOOK__PAUSE_DEVICES] = pause_devices,
	    [CR_PLUGIN_HOOK__CHECKPOINT_DEVICES] = checkpoint_devices,
	},
};
