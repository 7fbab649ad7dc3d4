/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inject.h"

/* The more, the more pipes may be had for staging, and the larger are the batches of restoring. */
#define SCRATCH_BYTES 65536u
#define STACK_BYTES 8192u
/* Behind the stack: the argument block, with the words that an entry finds on its stack before it. */
#define ARGS_BYTES 512u

static uint64_t whole_pages(const struct aior_injection *injection, uint64_t bytes)
{
	return (bytes + injection->page_size - 1) & ~(injection->page_size - 1);
}

/* ---- the gate ---- */

struct gate_search {
	pid_t task;
	size_t regs_len;
	struct aior_gate plain, gate; /* the first that there is, and the first with a way back */
	uint64_t spin;
	int is_vdso; /* where it is looked for now */
};

static void look_into_code(
    struct gate_search *search, const unsigned char *code, size_t size, uint64_t addr)
{
	size_t at;

	if (!search->plain.call) {
		at = arch_find_call(code, size, 0, search->regs_len);
		if (at < size)
			search->plain.call = addr + at;
	}
	if (!search->gate.call) {
		at = arch_find_gate(code, size, search->regs_len, &search->gate.words);
		if (at < size)
			search->gate.call = addr + at;
	}
	if (!search->spin && !search->is_vdso) {
		at = arch_find_spin(code, size);
		if (at < size)
			search->spin = addr + at;
	}
}

static int is_found(const struct gate_search *search)
{
	return search->gate.call && (search->spin || ARCH_RETURNS_TO_SELF);
}

static int visit_code(const struct aior_mapping *mapping, void *data)
{
	struct gate_search *search = data;
	unsigned char code[16384];
	uint64_t at = mapping->start;

	if (mapping->is_vdso != search->is_vdso || mapping->start >> 63 ||
	    (mapping->prot & (PROT_READ | PROT_WRITE | PROT_EXEC)) != (PROT_READ | PROT_EXEC))
		return 0;
	while (at < mapping->end && !is_found(search)) {
		size_t len = sizeof(code);

		if (mapping->end - at < len)
			len = (size_t)(mapping->end - at);
		if (aior_read_memory(search->task, at, code, len))
			return 0;
		look_into_code(search, code, len, at);
		/* One may lie across the end. */
		at += len == sizeof(code) ? len - 8 : len;
	}
	return is_found(search);
}

struct aior_gate aior_find_gate(const struct aior_process *process, uint32_t arch)
{
	struct gate_search search = {.task = process->task, .regs_len = arch_regs_len(arch)};

	/* The vDSO has a plain one as a rule, which no program unmaps. */
	for (search.is_vdso = 1; search.is_vdso >= 0; search.is_vdso--)
		aior_each_mapping(process->task, visit_code, &search);
	if (!is_found(&search))
		return search.plain;
	search.gate.spin = ARCH_RETURNS_TO_SELF ? search.gate.call : search.spin;
	return search.gate;
}

static int has_bytes(const struct aior_injection *injection, uint64_t addr, int is_spin)
{
	unsigned char code[8];
	unsigned words;

	if (aior_read_memory(injection->thread->tid, addr, code, sizeof(code)))
		return 0;
	if (is_spin && !ARCH_RETURNS_TO_SELF)
		return !arch_find_spin(code, sizeof(code));
	if (injection->gate.spin &&
	    arch_find_gate(code, sizeof(code), injection->thread->regs_len, &words))
		return 0;
	return !arch_find_call(code, sizeof(code), 0, injection->thread->regs_len);
}

/* Whether it is still what it was. */
static int is_gate(const struct aior_injection *injection)
{
	const struct aior_gate *gate = &injection->gate;

	return gate->call && has_bytes(injection, gate->call, 0) &&
	       (!gate->spin || has_bytes(injection, gate->spin, 1));
}

/* Where the thread goes behind the gate, if nobody holds it any more: to what jumps to itself, for ever. */
static void lead_back(struct aior_injection *injection, arch_regs *regs, size_t len)
{
	const struct aior_gate *gate = &injection->gate;
	size_t word = arch_word_bytes(len);
	unsigned char words[sizeof(injection->stacked)] = {0};
	/* Below what a program may use without moving its stack pointer (x86-64: 128 bytes). */
	uint64_t at = (arch_sp(regs, len) - 256) & ~15ull;

	if (!gate->spin)
		return;
	if (ARCH_RETURNS_TO_SELF) {
		arch_set_return(regs, len, gate->spin);
		return;
	}
	if (!injection->stacked_at) {
		if (aior_read_memory(
			injection->thread->tid, at, injection->stacked, sizeof(injection->stacked)))
			return;
		injection->stacked_at = at;
	}
	for (unsigned i = 0; i < gate->words; i++)
		memcpy(words + i * word, &gate->spin, word);
	if (!aior_write_memory(injection->thread->tid, at, words, sizeof(words)))
		arch_set_sp(regs, len, at);
}

/* The thread stands behind the call, and before what needs those words: from here on it must not need them. */
static void put_stack_back(struct aior_injection *injection)
{
	const struct aior_tracee *thread = injection->thread;
	arch_regs regs = thread->regs;

	if (!injection->stacked_at)
		return;
	arch_set_plain(&regs, thread->regs_len);
	arch_set_pc(&regs, thread->regs_len, injection->gate.spin);
	aior_set_regs(thread->tid, &regs, thread->regs_len);
	aior_write_memory(
	    thread->tid, injection->stacked_at, injection->stacked, sizeof(injection->stacked));
	injection->stacked_at = 0;
}

/* ---- where ---- */

/*
 * Room between two mappings, at the upper end of the largest gap, where the kernel's own choices lie too;
 * not below a stack, which may grow. Some pages stay free on both sides.
 */
static uint64_t find_room(const struct aior_injection *injection, uint64_t len)
{
	const uint64_t apart = 16 * injection->page_size;
	uint64_t largest = 0, at = 0;

	for (size_t i = 1; i < injection->mapping_count; i++) {
		const struct aior_mapping *below = &injection->mappings[i - 1], *above = below + 1;
		uint64_t gap = above->start - below->end;

		/* In the upper half is the kernel, which lists a page of its own on some. */
		if (above->start >> 63 || above->is_stack || gap < len + 2 * apart ||
		    gap <= largest)
			continue;
		largest = gap;
		at = above->start - apart - len;
	}
	return at & ~(injection->page_size - 1);
}

int aior_inject_begin(struct aior_injection *injection, struct aior_error *error)
{
	injection->page_size = (uint64_t)sysconf(_SC_PAGESIZE);
	if (aior_mappings(
		injection->process, &injection->mappings, &injection->mapping_count, error))
		return -1;
	if (!is_gate(injection)) {
		aior_inject_end(injection);
		return aior_fail(error, ENOEXEC, "inject",
		    "process %d has no instruction that makes a system call, in its vDSO neither",
		    (int)injection->process->pid);
	}
	return 0;
}

int aior_inject_place(
    struct aior_injection *injection, uint64_t capsule_len, struct aior_error *error)
{
	uint64_t page = injection->page_size, code_len = whole_pages(injection, AIOR_BLOB_MAX),
		 room;

	injection->capsule_len = whole_pages(injection, capsule_len);
	injection->scratch_len = whole_pages(injection, SCRATCH_BYTES + STACK_BYTES + ARGS_BYTES);
	injection->area_len = code_len + (capsule_len ? injection->capsule_len + 2 * page : 0);
	/* A page lies between, so that none of it is one mapping with its neighbour. */
	injection->spare_len = whole_pages(injection, injection->spare_len);
	room = find_room(injection, injection->area_len + page + injection->scratch_len +
					(injection->spare_len ? page + injection->spare_len : 0));
	if (!room)
		return aior_fail(error, ENOMEM, "inject",
		    "process %d has no room for %llu bytes between its mappings",
		    (int)injection->process->pid, (unsigned long long)injection->area_len);
	injection->area = room;
	injection->capsule = capsule_len ? room + page : 0;
	injection->code = room + injection->area_len - code_len;
	injection->scratch = room + injection->area_len + page;
	injection->spare = injection->scratch + injection->scratch_len + page;
	return 0;
}

void aior_inject_end(struct aior_injection *injection)
{
	free(injection->mappings);
	free(injection->helpers);
	injection->mappings = NULL;
	injection->helpers = NULL;
}

/* ---- system calls ---- */

/* The instruction in the park loop that makes the call in which it sleeps: the last one. */
uint64_t aior_park_gate(const struct aior_injection *injection)
{
	const struct aior_blob *blob = injection->blob;
	const unsigned char *code = (const unsigned char *)blob;
	size_t len = injection->thread->regs_len, at = blob->park, last = 0;

	while ((at = arch_find_call(code, blob->park_end, at, len)) < blob->park_end)
		last = at++;
	return injection->code + last;
}

/* Goes on to the next stop at a system call. Returns -1 if it has exited. */
static int next_call_stop(const struct aior_injection *injection)
{
	int status, signal = 0;

	do {
		if (aior_trace(PTRACE_SYSCALL, injection->thread->tid, 0, signal) ||
		    aior_wait_stop(injection->thread->tid, &status, UINT64_MAX) != 1)
			return -1;
		/* All signals are blocked, but for one that stops the process, by and by. */
		signal = status >> 16 ? 0 : WSTOPSIG(status);
	} while (signal != (SIGTRAP | 0x80));
	return 0;
}

int64_t aior_inject_call(struct aior_injection *injection, int nr, const uint64_t args[6])
{
	const struct aior_tracee *thread = injection->thread;
	arch_regs regs = thread->regs;
	size_t len = thread->regs_len;

	arch_set_plain(&regs, len);
	if (injection->has_code || injection->is_parked) {
		if (injection->sp)
			arch_set_sp(&regs, len, injection->sp);
	} else {
		lead_back(injection, &regs, len);
	}
	arch_set_pc(
	    &regs, len, injection->has_code ? aior_park_gate(injection) : injection->gate.call);
	arch_set_call_to(&regs, len, nr, args);
	if (aior_set_regs(thread->tid, &regs, len) || next_call_stop(injection) ||
	    next_call_stop(injection) || aior_get_regs(thread->tid, &regs, &len))
		return -EINTR;
	return arch_result(&regs, len);
}

static int64_t map(
    struct aior_injection *injection, uint64_t addr, uint64_t len, int prot, int flags)
{
	const uint64_t args[6] = {addr, len, (uint64_t)prot,
	    (uint64_t)(MAP_PRIVATE | MAP_ANONYMOUS | flags), (uint64_t)-1, 0};
	int64_t at = aior_inject_call(injection, injection->calls->mmap, args);

	/* A 32-bit address is no negative number. */
	if (at >= -4095 && at < 0)
		return at;
	return at == (int64_t)addr || (uint32_t)at == addr ? 0 : -EEXIST;
}

static int64_t unmap(struct aior_injection *injection, uint64_t addr, uint64_t len)
{
	const uint64_t args[6] = {addr, len};
	int64_t err = aior_inject_call(injection, injection->calls->munmap, args);

	/* Nothing of ours may stay behind: what it lacked may be there by now. */
	return err ? aior_inject_call(injection, injection->calls->munmap, args) : 0;
}

/* ---- mapping ---- */

/* The code is written as a debugger writes a breakpoint, though nobody may write there. */
static int write_code(const struct aior_injection *injection)
{
	const unsigned char *code = (const unsigned char *)injection->blob;
	pid_t tid = injection->thread->tid;
	char path[64];
	size_t at = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)tid);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		ssize_t n = pwrite(fd, code, injection->blob->size, (off_t)injection->code);

		close(fd);
		if (n == (ssize_t)injection->blob->size)
			return 0;
	}
	for (; at < injection->blob->size; at += sizeof(long)) {
		size_t left = injection->blob->size - at;
		long word = 0;

		memcpy(&word, code + at, left < sizeof(word) ? left : sizeof(word));
		if (aior_trace(PTRACE_POKETEXT, tid, (void *)(uintptr_t)(injection->code + at),
			(void *)word))
			return -1;
	}
	return 0;
}

static int no_memory(const struct aior_injection *injection, int64_t err, struct aior_error *error)
{
	if (err == -EINTR)
		return aior_fail(
		    error, ESRCH, "inject", "process %d has exited", (int)injection->process->pid);
	return aior_fail(error, (int)-err, "inject",
	    "process %d cannot be given memory to work in (%llu bytes): %s (free some, or raise "
	    "its RLIMIT_AS or RLIMIT_MEMLOCK, or vm.max_map_count)",
	    (int)injection->process->pid,
	    (unsigned long long)injection->area_len + injection->scratch_len,
	    aior_errno_text((int)-err));
}

int aior_inject_map(struct aior_injection *injection, struct aior_error *error)
{
	const uint64_t page = injection->page_size;
	const int exact = MAP_FIXED_NOREPLACE;
	const int rw = PROT_READ | PROT_WRITE;
	int64_t err;

	err = map(injection, injection->code, whole_pages(injection, AIOR_BLOB_MAX),
	    PROT_READ | PROT_EXEC, exact);
	if (err) {
		put_stack_back(injection);
		aior_leave_call(injection->thread);
		injection->area = injection->scratch = 0;
		return no_memory(injection, err, error);
	}
	if (write_code(injection)) {
		err = -errno;
		goto fail;
	}
	injection->has_code = 1;
	put_stack_back(injection);
	if (injection->capsule)
		err = map(injection, injection->area, injection->capsule_len + 2 * page, PROT_NONE,
		    exact | MAP_NORESERVE);
	if (injection->capsule && !err)
		err = map(injection, injection->capsule, injection->capsule_len, rw, MAP_FIXED);
	if (!err)
		err = map(injection, injection->scratch, injection->scratch_len, rw,
		    exact | MAP_POPULATE);
	if (!err)
		return 0;
fail:
	aior_inject_unmap(injection);
	return no_memory(injection, err, error);
}

void aior_inject_unmap_scratch(struct aior_injection *injection)
{
	if (injection->scratch)
		unmap(injection, injection->scratch, injection->scratch_len);
	injection->scratch = 0;
}

int64_t aior_inject_more(struct aior_injection *injection, uint64_t addr, uint64_t len)
{
	return map(injection, addr, len, PROT_READ | PROT_WRITE, MAP_FIXED_NOREPLACE);
}

int64_t aior_inject_reserve(struct aior_injection *injection, uint64_t addr, uint64_t len)
{
	return map(injection, addr, len, PROT_NONE, MAP_FIXED_NOREPLACE | MAP_NORESERVE);
}

void aior_inject_less(struct aior_injection *injection, uint64_t addr, uint64_t len)
{
	unmap(injection, addr, len);
}

int64_t aior_inject_move(struct aior_injection *injection, uint64_t from, uint64_t len, uint64_t to)
{
	const uint64_t args[6] = {from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to};
	int64_t at = aior_inject_call(injection, injection->calls->mremap, args);

	if (at >= -4095 && at < 0)
		return at;
	return at == (int64_t)to || (uint32_t)at == to ? 0 : -EFAULT;
}

void aior_inject_guard(struct aior_injection *injection, uint64_t addr, uint64_t len)
{
	map(injection, addr, len, PROT_NONE, MAP_FIXED | MAP_NORESERVE);
}

/* The guard behind it may have grown by what the capsule did not need. */
void aior_inject_unmap_capsule(struct aior_injection *injection, uint64_t addr, uint64_t len)
{
	uint64_t from = addr, to = addr + len;

	for (size_t i = 0; i < injection->mapping_count; i++) {
		const struct aior_mapping *mapping = &injection->mappings[i];

		if (mapping->prot || !mapping->is_private_memory)
			continue;
		if (mapping->end == addr)
			from = addr - injection->page_size;
		if (mapping->start == addr + len)
			to = mapping->end;
	}
	unmap(injection, from, to - from);
}

int aior_inject_unmap_code(struct aior_injection *injection)
{
	uint64_t len = whole_pages(injection, AIOR_BLOB_MAX);

	aior_inject_unmap_scratch(injection);
	injection->has_code = 0;
	injection->area_len -= len;
	len = (uint64_t)unmap(injection, injection->code, len);
	put_stack_back(injection);
	return len ? -1 : 0;
}

/*
 * The code goes last, and it is not the code that makes that call. By then it is a page alone: see
 * ARCH_RETURNS_TO_SELF.
 */
int aior_inject_unmap(struct aior_injection *injection)
{
	uint64_t code_len = whole_pages(injection, AIOR_BLOB_MAX);
	int64_t err = 0;

	aior_inject_unmap_scratch(injection);
	if (injection->area && injection->area != injection->code)
		err = unmap(injection, injection->area, injection->area_len - code_len);
	injection->has_code = 0;
	if (injection->area)
		err |= unmap(injection, injection->code, code_len);
	put_stack_back(injection);
	injection->area = 0;
	aior_leave_call(injection->thread);
	return err ? -1 : 0;
}

/* ---- running the blob ---- */

uint64_t aior_inject_args(const struct aior_injection *injection)
{
	return injection->scratch + SCRATCH_BYTES + STACK_BYTES + 64;
}

void aior_park_regs(
    const struct aior_blob *blob, uint64_t code, uint64_t sp, arch_regs *regs, size_t len)
{
	arch_set_plain(regs, len);
	arch_set_pc(regs, len, code + blob->park);
	arch_set_sp(regs, len, sp);
}

int aior_inject_start(struct aior_injection *injection, const struct aior_args *args)
{
	const struct aior_tracee *thread = injection->thread;
	uint64_t at = aior_inject_args(injection), sp = at - 64;
	struct aior_args own = *args;
	arch_regs regs = thread->regs;
	size_t len = thread->regs_len;
	/* Where an architecture's arguments are on the stack, it is the word behind the first one. */
	const uint64_t stacked[2] = {at << 32, at >> 32};

	own.scratch = injection->scratch;
	own.scratch_len = SCRATCH_BYTES;
	own.err = ENOSYS; /* a blob that does not know the block does not touch it */
	if (aior_write_memory(thread->tid, at, &own, sizeof(own)) ||
	    aior_write_memory(thread->tid, sp, stacked, sizeof(stacked)))
		return -1;
	if (injection->traces_helpers &&
	    aior_trace(PTRACE_SETOPTIONS, thread->tid, 0, injection->options | PTRACE_O_TRACECLONE))
		return -1;
	arch_set_plain(&regs, len);
	arch_set_pc(&regs, len, injection->code + injection->blob->jump);
	arch_set_sp(&regs, len, sp);
	arch_set_argument(&regs, len, at);
	if (aior_set_regs(thread->tid, &regs, len) || aior_set_mask(thread->tid, ~0ull) ||
	    aior_trace(PTRACE_CONT, thread->tid, 0, 0))
		return -1;
	return 0;
}

/* Whether it sleeps in the park loop: 1, 0; -1: it has exited. */
static int is_parked(const struct aior_injection *injection)
{
	uint64_t first, pc, from = injection->code + injection->blob->park;
	pid_t tid = injection->thread->tid;

	if (aior_current_place(tid, &first, &pc) >= 0)
		return pc >= from && pc < injection->code + injection->blob->park_end;
	/* Of a first thread nobody is told while there are others. */
	return pc || !aior_task_has_exited(tid) ? 0 : -1;
}

static void add_helper(struct aior_injection *injection)
{
	unsigned long pid;
	pid_t *larger;

	if (aior_trace(PTRACE_GETEVENTMSG, injection->thread->tid, 0, &pid))
		return;
	if (injection->helper_count == injection->helper_room) {
		size_t room = injection->helper_room ? 2 * injection->helper_room : 64;

		larger = reallocarray(injection->helpers, room, sizeof(*larger));
		if (!larger)
			return; /* it does not run, and its parent waits for it: no worse than slow */
		injection->helpers = larger;
		injection->helper_room = room;
	}
	injection->helpers[injection->helper_count++] = (pid_t)pid;
}

/* They stop once, when they are new, and end. */
static void look_at_helpers(struct aior_injection *injection)
{
	size_t i = 0;

	while (i < injection->helper_count) {
		pid_t pid = injection->helpers[i];
		int status, found = aior_poll_stop(pid, &status);

		if (found > 0)
			aior_trace(PTRACE_CONT, pid, 0, 0);
		else if (found)
			injection->helpers[i--] = injection->helpers[--injection->helper_count];
		i++;
	}
}

/* A stop that is not ours, or the thread's end. */
static int look_at_stop(struct aior_injection *injection)
{
	pid_t tid = injection->thread->tid;
	int status, found;

	look_at_helpers(injection);
	found = aior_poll_stop(tid, &status);
	if (found <= 0)
		return found;
	if (status >> 16 == PTRACE_EVENT_CLONE)
		add_helper(injection);
	aior_trace(PTRACE_CONT, tid, 0,
	    status >> 16 || WSTOPSIG(status) == (SIGTRAP | 0x80) ? 0 : WSTOPSIG(status));
	return 0;
}

int aior_inject_wait(struct aior_injection *injection, const struct aior_options *options)
{
	uint64_t begin = aior_now(CLOCK_MONOTONIC), now = begin, end = UINT64_MAX;
	pid_t tid = injection->thread->tid;
	struct timespec nap = {.tv_nsec = 50000};
	int status, parked;

	if (options && options->timeout_ms >= 0)
		end = begin + (uint64_t)options->timeout_ms * AIOR_NS_PER_MS;
	while ((parked = is_parked(injection)) != 1) {
		if (parked < 0 || look_at_stop(injection))
			return ESRCH;
		now = aior_now(CLOCK_MONOTONIC);
		if (options && options->cancel && *options->cancel)
			return EINTR;
		if (now >= end)
			return ETIMEDOUT;
		if (now - begin > 1000 * AIOR_NS_PER_MS)
			nap.tv_nsec = 2 * AIOR_NS_PER_MS;
		nanosleep(&nap, NULL);
	}
	aior_trace(PTRACE_INTERRUPT, tid, 0, 0);
	return aior_wait_stop(tid, &status, now + AIOR_PATIENCE_NS) == 1 ? 0 : ESRCH;
}
