/* SPDX-License-Identifier: MIT */
/*
 * The capsule of a staged process: found wherever it lies, in next to no time; whatever has damaged it,
 * it is never believed, and nothing is half restored.
 */
#include <glob.h>
#include <stddef.h>
#include <sys/uio.h>

#include "self.h"

#define PARALLEL 12

/* ---- the capsule ---- */

static struct aior_capsule capsule;

static struct aior_table *table(void)
{
	return (struct aior_table *)(uintptr_t)capsule.addr;
}

static struct aior_ring_record *ring_record_of(uint32_t i)
{
	return (void *)((char *)table() + capsule.table.rings + i * capsule.table.ring_stride);
}

static struct aior_poll_record *poll_record_of(uint32_t i)
{
	return (void *)((char *)table() + capsule.table.polls + i * capsule.table.poll_stride);
}

/* Three rings, and polls in them, staged. */
static int set_up_capsule(void)
{
	set_up();
	add_ring(1, 10, 50);
	add_ring(200, 100, 20);
	add_ring(1, 0, 0);
	add_polls();
	keep();
	return stage_self() || aior_find_capsule(0, &capsule, &error) != 1;
}

/* A field that is not what it was: as a number of that many bytes. */
struct field {
	size_t offset;
	unsigned bytes;
	uint64_t value;
	int err; /* 0: refused, because this host is another */
	const char *sentence;
};

#define TABLE(field, value, err, sentence)                                                         \
	{                                                                                          \
		offsetof(struct aior_table, field), sizeof(((struct aior_table *)0)->field),       \
		    value, err, sentence                                                           \
	}
#define RING(field, value, err, sentence)                                                          \
	{                                                                                          \
		offsetof(struct aior_ring_record, field),                                          \
		    sizeof(((struct aior_ring_record *)0)->field), value, err, sentence            \
	}
#define POLL(field, value, err, sentence)                                                          \
	{                                                                                          \
		offsetof(struct aior_poll_record, field),                                          \
		    sizeof(((struct aior_poll_record *)0)->field), value, err, sentence            \
	}

static const struct field table_fields[] = {
    TABLE(abi, 0, EINVAL, "version is 0"),
    TABLE(abi, 2, ENOTSUP, "of version 2, and this release knows versions up to 1"),
    TABLE(size, 112, EINVAL, "not that of its version"),
    TABLE(size, 0, EINVAL, "not that of its version"),
    TABLE(total, 1ull << 40, EINVAL, "longer than its mapping"),
    TABLE(total, ~0ull, EINVAL, "longer than its mapping"),
    TABLE(total, 104, EINVAL, "outside of it"),
    TABLE(total, 0, EINVAL, "outside of it"),
    TABLE(total, 104 + 3 * 80 + POLLS * 32 + 8, EINVAL, "not that of its records"),
    TABLE(state, AIOR_TABLE_IMAGE, EINVAL, "table of an image"),
    TABLE(state, AIOR_TABLE_PREPARED, EBUSY, "prepared and not filled"),
    TABLE(state, AIOR_TABLE_DRAINING, EBUSY, "being filled"),
    TABLE(state, 4, EINVAL, "no such state"),
    TABLE(arch, 0, EINVAL, "no such architecture"),
    TABLE(arch, 99, EINVAL, "no such architecture"),
    TABLE(page_size, 0, EINVAL, "no host has pages"),
    TABLE(page_size, 5000, EINVAL, "no host has pages"),
    TABLE(page_size, 2048, EINVAL, "no host has pages"),
    TABLE(page_size, 65536, 0, "pages of 65536 bytes"),
    TABLE(rings, 0, EINVAL, "ring records lie outside"),
    TABLE(rings, 100, EINVAL, "not aligned"),
    TABLE(rings, 112, EINVAL, "on other records"),
    TABLE(rings, 0xfffffff8, EINVAL, "ring records lie outside"),
    TABLE(ring_count, 0, EINVAL, "names no ring"),
    TABLE(ring_count, 2, EINVAL, "not that of its records"),
    TABLE(ring_count, 4, EINVAL, "on other records"),
    TABLE(ring_count, ~0u, EINVAL, "ring records lie outside"),
    TABLE(ring_stride, 0, EINVAL, "smaller than any"),
    TABLE(ring_stride, 72, EINVAL, "smaller than any"),
    TABLE(ring_stride, 84, EINVAL, "not aligned"),
    TABLE(ring_stride, 0xfffffff8, EINVAL, "ring records lie outside"),
    TABLE(polls, 0, EINVAL, "poll records lie outside"),
    TABLE(polls, 104, EINVAL, "on other records"),
    TABLE(polls, 0xfffffff8, EINVAL, "poll records lie outside"),
    TABLE(poll_count, 0, EINVAL, "not that of its records"),
    TABLE(poll_count, POLLS - 1, EINVAL, "not that of its records"),
    TABLE(poll_count, POLLS + 1, EINVAL, "poll records lie outside"),
    TABLE(poll_count, ~0u, EINVAL, "poll records lie outside"),
    TABLE(poll_stride, 24, EINVAL, "smaller than any"),
    TABLE(poll_stride, 40, EINVAL, "poll records lie outside"),
    TABLE(poll_stride, 36, EINVAL, "not aligned"),
    TABLE(threads, 104, EINVAL, "smaller than any"),
    TABLE(thread_count, 1, EINVAL, "smaller than any"),
    TABLE(thread_stride, 8, EINVAL, "smaller than any"),
    TABLE(thread_stride, 432, EINVAL, "thread records lie outside"),
    TABLE(reserved[0], 1, EINVAL, "reserved"),
    TABLE(reserved[2], 1ull << 63, EINVAL, "reserved"),
};

static const struct field ring_fields[] = {
    RING(addr, 0, EINVAL, "its address is none"),
    RING(addr, 0x10008, EINVAL, "its address is none"),
    RING(addr, ~0ull << 16, EINVAL, "before the ring before it ends|not end where|lie elsewhere"),
    RING(len, 0, EINVAL, "its length is none"),
    RING(len, 4095, EINVAL, "its length is none"),
    RING(len, 1ull << 40, EINVAL, "its length is none"),
    RING(staged, 0, EINVAL, "lie elsewhere"),
    RING(room, 8, EINVAL, "less room"),
    RING(flags, AIOR_RING_LIVE, EINVAL, "left it live"),
    RING(flags, 4, EINVAL, "a flag that there is not"),
    RING(prot, 8, EINVAL, "its protection is none"),
    RING(prot, PROT_WRITE, EINVAL, "its protection is none"),
    RING(reserved, 1, EINVAL, "reserved"),
};

static const struct field poll_fields[] = {
    POLL(ring, 0, EINVAL, "belongs to no ring"),
    POLL(ring, 0x10000, EINVAL, "belongs to no ring"),
    POLL(flags, 2, EINVAL, "a flag that there is not"),
};

static void set_field(void *at, unsigned bytes, uint64_t value)
{
	memcpy(at, &value, bytes); /* little-endian, all of them */
}

/* One of the sentences, which `|` separates. */
static int says(const char *sentences)
{
	char sentence[128];

	for (const char *at = sentences; *at;) {
		size_t len = strcspn(at, "|");

		snprintf(sentence, sizeof(sentence), "%.*s", (int)len, at);
		if (strstr(error.message, sentence))
			return 1;
		at += len + (at[len] == '|');
	}
	return 0;
}

static void refuses_field(const char *where, char *record, const struct field *field)
{
	char right[8];
	const char *why;
	int ret;

	memcpy(right, record + field->offset, sizeof(right));
	set_field(record + field->offset, field->bytes, field->value);
	state_take(&before);
	is_quiet = 1;
	ret = restore_self();
	is_quiet = 0;
	state_take(&after);
	memcpy(record + field->offset, right, sizeof(right));
	why = why_other_state(0);
	if (!why)
		why = why_not_staged();
	if (!ok(ret == -1 && error.err == field->err && error.is_refused == !field->err &&
		    says(field->sentence) && !why,
		"%s+%zu = 0x%llx: %s", where, field->offset, (unsigned long long)field->value,
		ret ? error.message : "not refused"))
		diag("errno %d, expected %d, `%s`; %s", error.err, field->err, field->sentence,
		    why ? why : "all is as it was");
}

/* What no constant says: values that depend on where rings are. */
static void refuses_value(const char *name, uint64_t *at, uint64_t value, const char *sentence)
{
	uint64_t right = *at;

	*at = value;
	ok(restore_self() == -1 && error.err && says(sentence) && !why_not_staged(), "%s: %s", name,
	    error.message);
	*at = right;
}

static void test_fields(void)
{
	uint32_t foreign =
	    aior_host_arch() == AIOR_ARCH_RISCV64 ? AIOR_ARCH_AARCH64 : AIOR_ARCH_RISCV64;
	const struct field other_arch = TABLE(arch, foreign, 0, "is that of a process on");
	uint8_t magic;

	if (!ok(!set_up_capsule(), "fields: staged"))
		return;
	for (size_t i = 0; i < COUNT(table_fields); i++)
		refuses_field("table", (char *)table(), &table_fields[i]);
	refuses_field("table", (char *)table(), &other_arch);
	for (uint32_t ring = 0; ring < count; ring += 2)
		for (size_t i = 0; i < COUNT(ring_fields); i++)
			refuses_field("ring", (char *)ring_record_of(ring), &ring_fields[i]);
	for (uint32_t poll = 0; poll < POLLS; poll += POLLS - 1)
		for (size_t i = 0; i < COUNT(poll_fields); i++)
			refuses_field("poll", (char *)poll_record_of(poll), &poll_fields[i]);
	refuses_value("a poll of a ring before", &poll_record_of(POLLS - 1)->ring,
	    ring_record_of(0)->addr, "not where the polls of its ring are");
	refuses_value("rings that overlap", &ring_record_of(1)->addr, ring_record_of(0)->addr,
	    "before the ring before it ends");
	refuses_value("a ring that is too long", &ring_record_of(2)->len,
	    ring_record_of(2)->len + page, "staged memory is gone|another number of slots|magic");
	refuses_value("a ring that is too short", &ring_record_of(1)->len, page,
	    "another number of slots|lie elsewhere");
	magic = table()->magic[3]++;
	ok(!restore_self() && !report.ring_count && !why_not_staged(),
	    "without its magic number it is none");
	table()->magic[3] = magic;
	ok(!restore_self() && report.ring_count == 3 && report.poll_count == POLLS &&
		!report.lost_count,
	    "undamaged: restored");
}

/* The staged memory itself. */
static void test_staged_memory(void)
{
	struct aio_ring *ring;
	void *copy;

	if (!ok(!set_up_capsule(), "staged memory: staged"))
		return;
	ring = ring_of(rings[1]);
	ring->magic ^= 1;
	refuses(restore_self, "staged content without its magic", EINVAL, 1, "magic number");
	ring->magic ^= 1;
	ring->head += was[1].nr;
	refuses(restore_self, "staged content with a wrong head", EINVAL, 1, "its head lies");
	ring->head -= was[1].nr;
	mprotect((char *)ring + page, page, PROT_NONE);
	refuses(restore_self, "staged content that cannot be read", EFAULT, 1, "memory is gone");
	mprotect((char *)ring + page, page, PROT_READ | PROT_WRITE);
	munmap((char *)ring + page, page);
	refuses(restore_self, "staged content that is unmapped", EFAULT, 1, "memory is gone");
	map_at((char *)ring + page, page, PROT_READ | PROT_WRITE);
	memcpy(ring, was[1].copy, was[1].len);
	mprotect(table(), page, PROT_READ);
	refuses(restore_self, "a capsule that cannot be written to", EACCES, 0, "PROT_WRITE");
	mprotect(table(), page, PROT_READ | PROT_WRITE);
	copy = map_guarded(page);
	memcpy(copy, table(), sizeof(struct aior_table));
	refuses(restore_self, "two capsules", EINVAL, 0, "there are 2 capsules, at 0x");
	ok(strstr(error.message, "nothing tells which"), "two capsules: %s", error.message);
	new_ring(1);
	refuses(stage_self, "two capsules, to stage", EINVAL, 0, "there are 2 capsules, at 0x");
	memset(copy, 0, page);
	ok(!restore_self() && report.ring_count == 3, "staged memory, repaired: restored");
}

/*
 * Some bytes of the capsule are other than they were: either it is refused, and nothing is touched, or
 * they were bytes that do not matter or cannot be told, and the rings are there, and their events.
 */
static int random_damage(uint64_t seed)
{
	size_t len = (size_t)capsule.table.total;
	unsigned char *bytes = (unsigned char *)table(), right[1024];
	uint32_t how_many;
	int ret, is_refused;

	seed = seed * 0x9e3779b97f4a7c15ull + 1;
	memcpy(right, bytes, len);
	how_many = 1 + random_below(&seed, random_below(&seed, 4) ? 2 : 24);
	is_quiet = 1;
	for (uint32_t i = 0; i < how_many; i++)
		bytes[random_below(&seed, (uint32_t)len)] ^= 1u << random_below(&seed, 8);
	ret = restore_self();
	if (ret && (!error.message[0] || why_not_staged()))
		return 1;
	is_refused = ret != 0;
	if (ret || !mapping_of(getpid(), rings[0]).is_aio) {
		if (why_not_staged())
			return 1;
		memcpy(bytes, right, len);
		/* fs.aio-max-nr is the whole machine's. */
		for (int tries = 0; (ret = restore_self()) &&
				    (error.is_refused || error.err == EAGAIN) && tries < 3000;)
			usleep(10000), tries++;
		if (ret || report.ring_count != 3 || report.lost_count)
			return 1;
	}
	for (uint32_t i = 0; i < count; i++) {
		struct aio_ring *ring = ring_of(rings[i]);

		if (!mapping_of(getpid(), rings[i]).is_aio || ring->head != was[i].head)
			return 1;
		for (uint32_t s = was[i].head; s != was[i].tail; s = aio_ring_next(s, was[i].nr))
			if (memcmp(slot(rings[i], s), &slots_of(was[i].copy)[s], AIO_RING_SLOT))
				return 1;
	}
	return is_refused ? 0 : 2;
}

struct random_ends {
	unsigned of[3], others;
};

static int run_random(unsigned i, const void *first)
{
	alarm(TAP_PATIENCE);
	return random_damage(*(const uint64_t *)first + i);
}

static int count_random(int status, void *tally)
{
	struct random_ends *ends = tally;

	if (WIFEXITED(status) && WEXITSTATUS(status) < 3)
		ends->of[WEXITSTATUS(status)]++;
	else
		ends->others++;
	return 0;
}

static void test_random(void)
{
	uint64_t first = (uint64_t)time(NULL) * 10000;
	struct random_ends ends = {{0}, 0};
	unsigned wanted = effort(2400);

	if (!ok(!set_up_capsule() && capsule.table.total <= 1024, "random damage: staged"))
		return;
	/* What is there in this process is not the children's. */
	each_in_child(wanted, PARALLEL, run_random, &first, count_random, &ends);
	ok(!ends.others && !ends.of[1] && ends.of[0] + ends.of[2] == wanted && ends.of[0],
	    "random damage, seeds from %llu: %u refused, %u not, %u half done, %u crashes",
	    (unsigned long long)first, ends.of[0], ends.of[2], ends.of[1], ends.others);
	ok(!restore_self() && report.ring_count == 3 && !report.lost_count,
	    "random damage of copies: restored");
}

/* ---- finding it ---- */

/* A tool has dropped the pages that guard it, and other memory has come to lie there. */
static void test_merged(void)
{
	size_t around = 4u << 20;
	struct aior_capsule found;
	struct mapping merged;
	char *area, *start;
	int64_t begun;

	set_up();
	add_ring(1, 10, 50);
	add_ring(200, 100, 20);
	keep();
	if (!ok(!stage_self() && aior_find_capsule(0, &capsule, &error) == 1, "merged: staged"))
		return;
	/* The same capsule, moved into the middle of memory like it. */
	area = mmap(NULL, 2 * around, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	start = area + around;
	memset(area, 1, 2 * around);
	memcpy(start, table(), (size_t)capsule.table.total);
	munmap((char *)table() - page, 3 * page);
	begun = now_ms();
	ok(aior_find_capsule(0, &found, &error) == 1 && found.addr == (uintptr_t)start,
	    "merged: found in %lld ms", (long long)(now_ms() - begun));
	merged = mapping_of(getpid(), (uintptr_t)start);
	ok(!merged.len, "merged: it begins no mapping");
	ok(!restore_self() && report.ring_count == 2 && !why_not_restored(), "merged: restored");
	ok(area[0] == 1 && start[-1] == 1 && start[page] == 1 && !is_mapped((uintptr_t)start, page),
	    "merged: no neighbour is touched");
	ok(aior_find_capsule(0, &found, &error) == 0, "merged: it is gone");
}

/* Its guards are ordinary memory: only the second look can find it. */
static void test_unguarded(void)
{
	set_up();
	add_ring(1, 10, 50);
	keep();
	ok(!stage_self() && aior_find_capsule(0, &capsule, &error) == 1, "unguarded: staged");
	ok(!is_writable((char *)table() - page) && !is_writable((char *)table() + page),
	    "a page that cannot be touched lies on each side");
	map_at((char *)table() - page, page, PROT_READ | PROT_WRITE);
	map_at((char *)table() + page, page, PROT_READ | PROT_WRITE);
	ok(!mapping_of(getpid(), capsule.addr).len, "unguarded: it begins no mapping");
	ok(!restore_self() && report.ring_count == 1 && !why_not_restored(), "unguarded: restored");
	ok(is_mapped(capsule.addr - page, page) && is_unmapped(capsule.addr, page) &&
		is_mapped(capsule.addr + page, page),
	    "unguarded: what lies beside it stays");
}

/* In another process: in a child that has a copy, while its parent has none any more. */
static void test_elsewhere(void)
{
	struct aior_capsule found;
	int status;
	pid_t pid;

	set_up();
	add_ring(1, 10, 50);
	keep();
	ok(!stage_self() && aior_find_capsule(0, &capsule, &error) == 1, "another's: staged");
	pid = fork_mortal();
	if (!pid)
		for (;;)
			pause();
	ok(!restore_self() && aior_find_capsule(0, &found, &error) == 0, "another's: own is gone");
	ok(aior_find_capsule(pid, &found, &error) == 1 && found.addr == capsule.addr &&
		!memcmp(&found.table, &capsule.table, sizeof(found.table)) &&
		!aior_check_capsule(&found, aior_host_arch(), &error),
	    "another's: found");
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	ok(aior_find_capsule(pid, &found, &error) == -1 && error.err, "nobody's: %s",
	    error.message);
}

/* A large process: much address space, many mappings. */
static void test_quickly(void)
{
	uint32_t most = (uint32_t)read_number("/proc/sys/vm/max_map_count") / 2;
	size_t len = sizeof(void *) > 4 ? (size_t)((uint64_t)100 << 30) : 256u << 20;
	uint32_t mappings = effort(30000);
	struct aior_capsule found;
	int64_t times[3];
	char *at;

	set_up();
	if (mappings > most)
		mappings = most;
	add_ring(1, 10, 50);
	keep();
	at = mmap(
	    NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED) {
		skip("found quickly", "%zu bytes of address space: %s", len, strerror(errno));
		return;
	}
	for (uint32_t i = 0; i < mappings; i++) {
		char *one = mmap(NULL, page, i & 1 ? PROT_READ : PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (one == MAP_FAILED)
			abort();
		if (!(i & 1) && i & 2)
			*one = 1;
	}
	times[0] = now_ms();
	ok(aior_find_capsule(0, &found, &error) == 0, "in a large process: there is none");
	times[0] = now_ms() - times[0];
	times[1] = now_ms();
	ok(!stage_self(), "in a large process: staged");
	times[1] = now_ms() - times[1];
	times[2] = now_ms();
	ok(aior_find_capsule(0, &found, &error) == 1, "in a large process: found");
	times[2] = now_ms() - times[2];
	diag("%zu GiB of address space, %u mappings: none found in %lld ms, staged in %lld ms, "
	     "found in %lld ms",
	    len >> 30, mappings, (long long)times[0], (long long)times[1], (long long)times[2]);
	ok(times[0] < PATIENCE_MS && times[2] < PATIENCE_MS, "in a large process: quickly");
	ok(!restore_self() && !why_not_restored(), "in a large process: restored, exact");
}

/* Much memory that is in use: the second look has its limit. */
static void test_bounded(void)
{
	size_t len = (size_t)effort(512) << 20;
	struct aior_capsule found;
	int64_t begun;
	char *at;

	set_up();
	at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED) {
		skip("the second look", "%zu MiB: %s", len >> 20, strerror(errno));
		return;
	}
	for (size_t i = 0; i < len; i += page)
		at[i] = 1;
	begun = now_ms();
	ok(aior_find_capsule(0, &found, &error) == 0, "the second look: there is none");
	diag(
	    "the second look at %zu MiB in use: %lld ms", len >> 20, (long long)(now_ms() - begun));
}

/* ---- what older releases have staged ---- */

/*
 * tests/corpus/NAME.capsule: a capsule, and behind it the content of its rings. Two of those, and a poll
 * whose iocb and descriptor must be where they were. Nothing in there is ever changed; a new version of
 * the records adds to it. `capsule.t --write=FILE` makes one.
 */
#define CORPUS_RING 0x30000000ul
#define CORPUS_IOCB 0x32000000ul
#define CORPUS_FD 200
#define CORPUS_DATA 0x5eedull

static int make_corpus_poll(void)
{
	struct iocb *iocb = map_at((void *)CORPUS_IOCB, page, PROT_READ | PROT_WRITE);
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) || dup2(fds[0], CORPUS_FD) != CORPUS_FD)
		abort();
	iocb_poll(iocb, CORPUS_FD, POLLIN, CORPUS_DATA);
	return fds[1];
}

static int write_corpus(const char *path)
{
	FILE *file = fopen(path, "we");
	struct iocb *iocb = (struct iocb *)CORPUS_IOCB;

	make_corpus_poll();
	for (uint32_t i = 0; i < 2; i++) {
		aio_context_t ctx = new_ring_of(i), at = CORPUS_RING + (i << 24);

		if (mremap((void *)(uintptr_t)ctx, len_of(ctx), len_of(ctx),
			MREMAP_MAYMOVE | MREMAP_FIXED, (void *)(uintptr_t)at) == MAP_FAILED)
			abort();
		add(at, 100, 10 + 70 * i);
	}
	keep();
	if (!file || submit_one(rings[1], iocb) != 1 || stage_self() ||
	    aior_find_capsule(0, &capsule, &error) != 1 ||
	    fwrite(table(), (size_t)capsule.table.total, 1, file) != 1)
		return 1;
	for (uint32_t i = 0; i < 2; i++)
		if (fwrite(ring_of(rings[i]), was[i].len, 1, file) != 1)
			return 1;
	return fclose(file) != 0;
}

/* The file into memory, as the process was that it comes from. */
static const struct aior_table *load_corpus(const char *path)
{
	static struct aior_table head;
	FILE *file = fopen(path, "re");
	char *at = map_guarded(16 * (size_t)page);

	if (!file || fread(&head, sizeof(head), 1, file) != 1 || head.total > 16 * page)
		abort();
	rewind(file);
	if (fread(at, (size_t)head.total, 1, file) != 1)
		abort();
	for (uint32_t i = 0; i < head.ring_count; i++) {
		struct aior_ring_record *ring = (void *)(at + head.rings + i * head.ring_stride);
		void *home = map_at((void *)(uintptr_t)ring->addr,
		    (ring->len + page - 1) & -(uint64_t)page, PROT_READ | PROT_WRITE);

		if (fread(home, ring->len, 1, file) != 1)
			abort();
		rings[count++] = ring->addr;
		keep();
	}
	fclose(file);
	return &head;
}

/* The pending events, as they were saved. */
static int gives_what_was_pending(uint32_t i)
{
	const struct aio_slot *saved = slots_of(was[i].copy);
	struct aio_slot event;

	for (uint32_t s = was[i].head; s != was[i].tail; s = aio_ring_next(s, was[i].nr))
		if (io_getevents(rings[i], 1, &event) != 1 ||
		    memcmp(&event, &saved[s], sizeof(event)))
			return 0;
	return 1;
}

static const char *corpus_path;

static void corpus_file(void)
{
	const struct aior_table *head = load_corpus(corpus_path);
	struct aio_slot event = {0};
	int fd = make_corpus_poll(), ret = restore_self();

	if (head->arch != aior_host_arch() || head->page_size != page) {
		ok(ret == -1 && error.is_refused &&
			(strstr(error.message, "is that of a process on") ||
			    strstr(error.message, "with pages of")),
		    "%s: %s", corpus_path, error.message);
		return;
	}
	if (ret && error.is_refused) {
		skip(corpus_path, "%s", error.message);
		return;
	}
	ok(!ret && report.ring_count == 2 && report.poll_count == 1 && !report.lost_count,
	    "%s: restored", corpus_path);
	ok(gives_what_was_pending(0) && write(fd, "x", 1) == 1 && gives_what_was_pending(1),
	    "%s: its events come", corpus_path);
	ok(io_getevents(rings[1], 1, &event) == 1 && event.data == CORPUS_DATA &&
		event.obj == CORPUS_IOCB && event.res & POLLIN,
	    "%s: and its poll", corpus_path);
}

static void test_corpus(void)
{
	const char *folder = getenv("CORPUS");
	char pattern[256];
	glob_t found;

	snprintf(pattern, sizeof(pattern), "%s/*.capsule", folder ? folder : "tests/corpus");
	if (glob(pattern, 0, NULL, &found))
		ok(0, "corpus: no file %s", pattern);
	for (size_t i = 0; i < found.gl_pathc; i++) {
		corpus_path = found.gl_pathv[i];
		in_child(corpus_path, corpus_file);
	}
}

int main(int argc, char **argv)
{
	static const struct self_test tests[] = {
	    {"capsule fields", test_fields},
	    {"staged memory", test_staged_memory},
	    {"random damage", test_random},
	    {"merged", test_merged},
	    {"unguarded", test_unguarded},
	    {"another process", test_elsewhere},
	    {"found quickly", test_quickly},
	    {"second look", test_bounded},
	    {"corpus", test_corpus},
	};
	long nr;

	if (facts_start())
		return 1;
	if (argc > 1 && !strncmp(argv[1], "--write=", 8))
		return write_corpus(argv[1] + 8);
	nr = aio_nr();
	run_tests(tests, COUNT(tests));
	return test_end(nr);
}
