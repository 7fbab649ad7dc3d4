/* SPDX-License-Identifier: MIT */
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

#define MAGIC "AIORJRN2"

#define NS_PER_MS 1000000ull
/* How long a blob that nobody traces any more is waited for. */
#define PATIENCE_NS (10000 * NS_PER_MS)

struct journal {
	AIOR_NONSTRING char magic[8];
	uint64_t start_time; /* of the process */
	uint64_t tid;        /* the thread that is not itself */
	uint64_t mask, regs_len;
	uint64_t area, area_len, code, scratch, scratch_len; /* what may be mapped by then */
	uint64_t is_for_staging; /* the capsule in there is needed as soon as the blob has begun */
	unsigned char regs[sizeof(arch_regs)];
};

/* The folder, which must be ours alone: whoever can write to it could have us set any registers. */
static int open_folder(int create)
{
	const char *run = geteuid() ? getenv("XDG_RUNTIME_DIR") : "/run";
	char path[4096];
	struct stat stat;
	int fd;

	if (!run || *run != '/' ||
	    snprintf(path, sizeof(path), "%s/aio-restorer", run) >= (int)sizeof(path))
		return -1;
	if (create)
		mkdir(path, 0700);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && (fstat(fd, &stat) || stat.st_uid != geteuid() || stat.st_mode & 022)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* The journal's, and that under which it is written. */
struct names {
	char whole[64], partial[64];
};

static struct names name_journal(const struct aior_process *process)
{
	unsigned long long start = process->start_time;
	struct names names;

	snprintf(names.whole, sizeof(names.whole), "%d-%llu", (int)process->pid, start);
	snprintf(names.partial, sizeof(names.partial), "%d-%llu.new", (int)process->pid, start);
	return names;
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
	};
	struct names names = name_journal(process);
	int folder = open_folder(1), fd;

	if (folder < 0)
		return;
	memcpy(journal.regs, &thread->regs, thread->regs_len);
	fd = openat(
	    folder, names.partial, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd >= 0) {
		/* At no moment it is half there, nor missing where there has been one. */
		if (write(fd, &journal, sizeof(journal)) != (ssize_t)sizeof(journal) ||
		    renameat(folder, names.partial, folder, names.whole)) {
			unlinkat(folder, names.partial, 0);
			unlinkat(folder, names.whole, 0);
		}
		close(fd);
	}
	close(folder);
}

void aior_journal_remove(const struct aior_process *process)
{
	struct names names = name_journal(process);
	int folder = open_folder(0);

	if (folder < 0)
		return;
	unlinkat(folder, names.partial, 0);
	unlinkat(folder, names.whole, 0);
	close(folder);
}

/* Whether there is one, or one that is being written. */
static int has_journal(const struct aior_process *process)
{
	struct names names = name_journal(process);
	int folder = open_folder(0), has;

	if (folder < 0)
		return 0;
	has = !faccessat(folder, names.whole, F_OK, AT_SYMLINK_NOFOLLOW) ||
	      !faccessat(folder, names.partial, F_OK, AT_SYMLINK_NOFOLLOW);
	close(folder);
	return has;
}

static int read_journal(const struct aior_process *process, struct journal *journal)
{
	struct names names = name_journal(process);
	int folder = open_folder(0), fd;
	ssize_t n = -1;

	if (folder < 0)
		return -1;
	fd = openat(folder, names.whole, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, journal, sizeof(*journal));
		close(fd);
	}
	close(folder);
	return n == (ssize_t)sizeof(*journal) &&
		       !memcmp(journal->magic, MAGIC, sizeof(journal->magic)) &&
		       journal->start_time == process->start_time &&
		       journal->regs_len <= sizeof(journal->regs)
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
}

int aior_journal_recover(const struct aior_process *process, struct aior_error *error)
{
	uint64_t end = aior_now(CLOCK_MONOTONIC) + PATIENCE_NS;
	struct aior_stopped *stopped;
	struct aior_tracee *thread;
	struct journal journal;

	if (!has_journal(process))
		return 0;
	/* Its tracer has it to himself already: what is half there is of one who has died. */
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
		aior_continue(stopped);
		if (aior_now(CLOCK_MONOTONIC) >= end)
			return aior_fail(error, EBUSY, "drain",
			    "process %d is being staged, or restored, at this moment",
			    (int)process->pid);
		aior_nap(NS_PER_MS);
	} while (1);
	if (thread)
		finish(process, stopped, thread, &journal);
	aior_journal_remove(process);
	aior_release(stopped);
	return 0;
}
