/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <unistd.h>

#include "journal.h"
#include "others.h"

#define MAGIC "AIORJRN3"

struct journal {
	AIOR_NONSTRING char magic[8];
	uint64_t start_time; /* of the process */
	uint64_t tid;        /* the thread that is not itself */
	uint64_t mask, regs_len;
	uint64_t area, area_len, code, scratch, scratch_len; /* what may be mapped by then */
	uint64_t is_for_staging; /* the capsule in there is needed as soon as the blob has begun */
	uint64_t pids, times;    /* the namespaces that pid and start time are of */
	unsigned char regs[sizeof(arch_regs)];
};

/*
 * Whoever can write a journal could have us set any registers: so it, and the folder that it lies in, must be ours, and
 * nobody else may write to them. What may have been planted there is none.
 */
static int is_ours_alone(int fd, mode_t kind)
{
	struct stat stat;

	return !fstat(fd, &stat) && (stat.st_mode & S_IFMT) == kind && stat.st_uid == geteuid() &&
	       !(stat.st_mode & 022) && (kind == S_IFDIR || stat.st_nlink == 1);
}

/* (A program that has more rights than its caller does not look where that tells it to.) */
static const char *run_folder(void)
{
	const char *run = geteuid() ? secure_getenv("XDG_RUNTIME_DIR") : "/run";

	return run && *run == '/' ? run : NULL;
}

static int name_folder(char path[AIOR_JOURNAL_PATH])
{
	const char *run = run_folder();

	return run && snprintf(path, AIOR_JOURNAL_PATH, "%s/aio-restorer", run) < AIOR_JOURNAL_PATH
		   ? 0
		   : -1;
}

static int open_folder(int create)
{
	char path[AIOR_JOURNAL_PATH];
	int fd;

	if (name_folder(path))
		return -1;
	if (create)
		mkdir(path, 0700);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && !is_ours_alone(fd, S_IFDIR)) {
		close(fd);
		return -1;
	}
	return fd;
}

const char *aior_journal_folder(char path[AIOR_JOURNAL_PATH])
{
	int fd = open_folder(0);

	if (fd >= 0)
		close(fd);
	if (name_folder(path))
		return NULL;
	return fd >= 0 || (faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) &&
			      errno == ENOENT && !access(run_folder(), W_OK | X_OK))
		   ? path
		   : NULL;
}

static void name_journal(pid_t pid, uint64_t start_time, char name[64])
{
	snprintf(name, 64, "%d-%llu", (int)pid, (unsigned long long)start_time);
}

/* The inode of a namespace of ours; 0: there are none of that kind here. */
static uint64_t own_namespace(const char *kind)
{
	char path[64];
	struct stat stat_buf;

	snprintf(path, sizeof(path), "/proc/self/ns/%s", kind);
	return stat(path, &stat_buf) ? 0 : stat_buf.st_ino;
}

/*
 * A file that has its name only when it is whole: if we die meanwhile, none is there. Where there are no nameless
 * files, one that is cut off says nothing.
 */
static int create(int folder, const char *name, const struct journal *journal)
{
	int fd = openat(folder, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600), has_name = 0;
	char path[64];
	int ret;

	if (fd < 0) {
		fd = openat(
		    folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		has_name = 1;
	}
	if (fd < 0)
		return -1;
	ret = write(fd, journal, sizeof(*journal)) == (ssize_t)sizeof(*journal) ? 0 : -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (!ret && !has_name)
		ret = linkat(AT_FDCWD, path, folder, name, AT_SYMLINK_FOLLOW);
	if (ret && has_name)
		unlinkat(folder, name, 0);
	close(fd);
	return ret;
}

/* One that is there already is written over, in one piece: a moment without any would be one too many. */
static int overwrite(int folder, const char *name, const struct journal *journal)
{
	int fd = openat(folder, name, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	int ret;

	if (fd < 0 && errno != ELOOP && errno != ENXIO)
		return -1;
	if (fd < 0 || !is_ours_alone(fd, S_IFREG)) {
		if (fd >= 0)
			close(fd);
		unlinkat(folder, name, 0);
		return -1;
	}
	ret = pwrite(fd, journal, sizeof(*journal), 0) == (ssize_t)sizeof(*journal) ? 0 : -1;
	if (ret)
		unlinkat(folder, name, 0);
	close(fd);
	return ret;
}

void aior_journal_write(const struct aior_process *process, const struct aior_injection *injection)
{
	const struct aior_tracee *thread = injection->thread;
	struct journal journal = {
	    .magic = MAGIC,
	    .start_time = process->start_time,
	    .tid = (uint64_t)thread->tid,
	    .mask = thread->mask,
	    .regs_len = thread->regs_len,
	    .area = injection->area,
	    .area_len = injection->area_len,
	    .code = injection->code,
	    .scratch = injection->scratch,
	    .scratch_len = injection->scratch_len,
	    .is_for_staging = (uint64_t)injection->is_for_staging,
	    .pids = own_namespace("pid"),
	    .times = own_namespace("time"),
	};
	int folder = open_folder(1);
	char name[64];

	if (folder < 0)
		return;
	memcpy(journal.regs, &thread->regs, thread->regs_len);
	name_journal(process->pid, process->start_time, name);
	if (overwrite(folder, name, &journal))
		create(folder, name, &journal);
	close(folder);
}

void aior_journal_remove(const struct aior_process *process)
{
	int folder = open_folder(0);
	char name[64];

	if (folder < 0)
		folder = open_folder(0);
	if (folder < 0)
		return;
	name_journal(process->pid, process->start_time, name);
	if (unlinkat(folder, name, 0) && errno != ENOENT)
		unlinkat(folder, name, 0);
	close(folder);
}

static int read_named(int folder, const char *name, struct journal *journal)
{
	int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = is_ours_alone(fd, S_IFREG) ? read(fd, journal, sizeof(*journal)) : -1;
	close(fd);
	return n == (ssize_t)sizeof(*journal) &&
		       !memcmp(journal->magic, MAGIC, sizeof(journal->magic)) &&
		       journal->regs_len <= sizeof(journal->regs)
		   ? 0
		   : -1;
}

/* ---- those of processes that have ended ---- */

/* Whether it is certain that there is no such process any more. One that may not be looked at is one. */
static int has_ended(pid_t pid, uint64_t start_time)
{
	struct aior_process process;

	if (kill(pid, 0) && errno == ESRCH)
		return 1;
	return !aior_process_open(pid, &process, NULL) && process.start_time != start_time;
}

/* What another namespace calls that pid may be alive, and nobody here can tell. */
static void remove_if_stale(
    int folder, const char *name, const struct journal *ours, const struct journal *theirs)
{
	unsigned long long start_time;
	char same[64];
	int pid;

	if (sscanf(name, "%d-%llu", &pid, &start_time) != 2 || pid <= 0)
		return;
	name_journal(pid, start_time, same);
	if (!strcmp(name, same) && theirs->start_time == start_time && theirs->pids == ours->pids &&
	    theirs->times == ours->times && has_ended(pid, start_time))
		unlinkat(folder, name, 0);
}

/* Whether /proc has our own pids. */
static int is_own_proc(void)
{
	char text[32];
	ssize_t n = readlink("/proc/self", text, sizeof(text) - 1);

	if (n <= 0)
		return 0;
	text[n] = 0;
	return atoi(text) == getpid();
}

/* A process may end while it waits for whoever finishes: nobody asks for its journal then. */
static void remove_stale(int folder)
{
	const struct journal ours = {.pids = own_namespace("pid"), .times = own_namespace("time")};
	int fd = ours.pids && is_own_proc()
		     ? openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
		     : -1;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct journal theirs;
	struct dirent *entry;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.' && !read_named(folder, entry->d_name, &theirs))
			remove_if_stale(folder, entry->d_name, &ours, &theirs);
	closedir(dir);
}

/* Whether there is one. Those of processes that have ended go. */
static int has_journal(const struct aior_process *process)
{
	int folder = open_folder(0), has;
	char name[64];

	if (folder < 0)
		return 0;
	remove_stale(folder);
	name_journal(process->pid, process->start_time, name);
	has = !faccessat(folder, name, F_OK, AT_SYMLINK_NOFOLLOW) || errno != ENOENT;
	close(folder);
	return has;
}

/* Returns -1 if there is none of that process. */
static int read_journal(const struct aior_process *process, struct journal *journal)
{
	int folder = open_folder(0), ret;
	char name[64];

	if (folder < 0)
		return -1;
	name_journal(process->pid, process->start_time, name);
	ret = read_named(folder, name, journal);
	close(folder);
	return !ret && journal->start_time == process->start_time &&
		       journal->pids == own_namespace("pid")
		   ? 0
		   : -1;
}

/* Whether the thread that the journal tells of may be anywhere but where it says. */
static struct aior_tracee *find_thread(
    const struct aior_stopped *stopped, const struct journal *journal)
{
	for (size_t i = 0; i < stopped->count; i++) {
		struct aior_tracee *thread = &stopped->threads[i];

		if (thread->is_stopped && (uint64_t)thread->tid == journal->tid)
			return thread;
	}
	return NULL;
}

/*
 * Whether it is still where we have had it. The host may also have died when it had given everything back, and
 * then the thread has run on: what it was doing by then is not what it does now.
 */
static int is_held(const struct aior_tracee *thread, const struct aior_gate *gate,
    const struct journal *journal, uint64_t mask)
{
	uint64_t pc;
	arch_regs regs;
	size_t len;

	if (!aior_is_all(mask) || aior_get_regs(thread->tid, &regs, &len))
		return 0;
	pc = arch_pc(&regs, len);
	return (journal->code && pc - journal->code < AIOR_BLOB_MAX) || pc == gate->call ||
	       pc == gate->call + ARCH_CALL_BYTES || (gate->spin && pc == gate->spin);
}

static int is_ours(const struct aior_injection *injection, uint64_t start, uint32_t prot)
{
	for (size_t i = 0; i < injection->mapping_count; i++) {
		const struct aior_mapping *mapping = &injection->mappings[i];

		if (mapping->start == start)
			return mapping->is_private_memory && mapping->prot == prot;
	}
	return 0;
}

/* Whether the stage blob has begun: then the rings are in there. */
static int is_capsule_needed(const struct aior_injection *injection, const struct journal *journal)
{
	struct aior_table table;
	uint64_t at = journal->area + injection->page_size;

	return journal->is_for_staging &&
	       !aior_read_memory(injection->thread->tid, at, &table, sizeof(table)) &&
	       !memcmp(table.magic, AIOR_TABLE_MAGIC, sizeof(table.magic)) &&
	       table.state != AIOR_TABLE_PREPARED;
}

/* One that could not be removed when the capsule took its place: the threads sleep in what it says is mapped. */
static int is_outdated(const struct aior_tracee *thread, const struct journal *journal)
{
	struct aior_table table;
	uint64_t at = journal->area + (uint64_t)sysconf(_SC_PAGESIZE);

	return journal->is_for_staging &&
	       !aior_read_memory(thread->tid, at, &table, sizeof(table)) &&
	       !memcmp(table.magic, AIOR_TABLE_MAGIC, sizeof(table.magic)) &&
	       table.state != AIOR_TABLE_PREPARED && table.thread_count;
}

/* Whether it is in a blob's code that is not where such a thread sleeps. */
static int is_at_work(const struct aior_tracee *thread, const struct journal *journal)
{
	struct aior_blob blob;
	arch_regs regs;
	size_t len;
	uint64_t at;

	if (!journal->code || aior_get_regs(thread->tid, &regs, &len) ||
	    aior_read_memory(thread->tid, journal->code, &blob, sizeof(blob)) ||
	    memcmp(blob.magic, AIOR_BLOB_MAGIC, sizeof(blob.magic)))
		return 0;
	at = arch_pc(&regs, len) - journal->code;
	return at < blob.size && (at < blob.park || at >= blob.park_end);
}

/*
 * The code is mapped first and unmapped last: where it is not, nothing is left of ours, and the other threads, which
 * have run since, may have mapped something there.
 */
static void unmap_ours(struct aior_injection *injection, const struct journal *journal)
{
	if (!journal->code || !is_ours(injection, journal->code, PROT_READ | PROT_EXEC)) {
		aior_leave_call(injection->thread);
		return;
	}
	injection->code = injection->area = journal->code;
	injection->area_len = journal->area + journal->area_len - journal->code;
	if (journal->area && is_ours(injection, journal->area, PROT_NONE) &&
	    !is_capsule_needed(injection, journal)) {
		injection->area = journal->area;
		injection->area_len = journal->area_len;
	}
	if (journal->scratch && is_ours(injection, journal->scratch, PROT_READ | PROT_WRITE)) {
		injection->scratch = journal->scratch;
		injection->scratch_len = journal->scratch_len;
	}
	aior_inject_unmap(injection);
}

static void finish(const struct aior_process *process, struct aior_stopped *stopped,
    struct aior_tracee *thread, const struct journal *journal)
{
	struct aior_injection injection = {
	    .process = process,
	    .calls = stopped->calls,
	    .thread = thread,
	    .gate = aior_find_gate(process, aior_process_arch(process)),
	};

	uint64_t mask;

	if (aior_get_mask(thread->tid, &mask))
		return;
	if (!is_held(thread, &injection.gate, journal, mask)) {
		/* Registers are given back first. */
		if (aior_is_all(mask))
			aior_set_mask(thread->tid, journal->mask);
		return;
	}
	memcpy(&thread->regs, journal->regs, journal->regs_len);
	thread->regs_len = journal->regs_len;
	thread->mask = journal->mask;
	thread->is_captured = 1;
	if (!aior_inject_begin(&injection, NULL)) {
		unmap_ours(&injection, journal);
		aior_inject_end(&injection);
	}
	/* As long as the journal says how: whoever comes next, if we die, does not know. */
	aior_put_back(thread);
}

int aior_journal_recover(const struct aior_process *process, struct aior_error *error)
{
	uint64_t end = aior_now(CLOCK_MONOTONIC) + AIOR_PATIENCE_NS;
	struct aior_stopped *stopped;
	struct aior_tracee *thread;
	struct journal journal;

	if (!has_journal(process))
		return 0;
	/* Its tracer has it to himself already: one that says nothing is of who has died. */
	if (process->tracer == gettid() && read_journal(process, &journal)) {
		aior_journal_remove(process);
		return 0;
	}
	do {
		/* Whoever is at work on the process traces it. So nobody is when this succeeds: his journal is read then. */
		if (aior_stop(process, AIOR_TO_INJECT, &stopped, error))
			return -1;
		/* Its host may have died when it had not written it yet, and so had changed nothing. */
		thread = read_journal(process, &journal) ? NULL : find_thread(stopped, &journal);
		if (!thread || !is_at_work(thread, &journal))
			break;
		aior_let_work(thread);
		aior_continue(stopped);
		if (aior_now(CLOCK_MONOTONIC) >= end)
			return aior_fail(error, EBUSY, "drain",
			    "process %d is being staged, or restored, at this moment",
			    (int)process->pid);
		aior_nap(AIOR_NS_PER_MS);
	} while (1);
	if (thread && is_outdated(thread, &journal)) {
		aior_leave_parked(stopped);
		aior_journal_remove(process);
		return 0;
	}
	if (thread)
		finish(process, stopped, thread, &journal);
	aior_journal_remove(process);
	if (thread)
		aior_release(stopped);
	else
		aior_leave_unchanged(process, stopped);
	return 0;
}
