/* SPDX-License-Identifier: MIT */
/*
 * Rings that were staged on one host and are restored on another: other kernels, more or fewer possible CPUs, other
 * pages. A program stages its rings and leaves what it is made of then in a file; another one makes itself of that.
 *
 *	CORPUS  a folder of such files, from the kernels of tests/fetch.sh: tests/corpus
 *	OUT     a folder in which this host's are left: none
 *
 * A file is lines of text, named RELEASE-ARCH-CPUS-KIND.staged:
 *
 *	mapping ADDRESS LENGTH       of memory
 *	capsule ADDRESS LENGTH       of memory, which may lie anywhere
 *	ring ADDRESS LENGTH POLLS
 *	pipe FD DATA                 FD is the end of it that a poll with this data waits for; FD + 1 is the other one
 *	ADDRESS BYTES [TIMES]        in hexadecimal: a block of the mapping before; zeros at its end, and blocks of
 *	                             nothing else, are left out
 */
#include <dirent.h>
#include <sys/utsname.h>

#include "names.h"
#include "relaid.h"

#define KINDS 3
#define APART                                                                                      \
	(1ull                                                                                      \
	    << 20) /* addresses of rings; behind each is room for a ring of any host's smallest size */
#define PIPE_FD 100
#define BLOCK 32

/* Below what a process of any of these machines has by itself, and above a program that is not position-independent. */
static uint64_t base_address(void)
{
	return sizeof(void *) == 8 ? 0x2000000000ull : 0x60000000ull;
}

/* What is special: nothing; something lies behind a ring; a ring that is full, and large enough everywhere. */
static const char *const kinds[KINDS] = {"free", "blocked", "full"};

/* ---- saving ---- */

static void place(uint32_t i, uint32_t at)
{
	uint64_t len = len_of(rings[i]);
	void *to = (void *)(uintptr_t)(base_address() + at * APART);

	if (mremap((void *)rings[i], len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		abort();
	rings[i] = (aio_context_t)to;
}

static uint32_t least_pages(uint32_t possible)
{
	return (uint32_t)(aio_ring_len(1, possible, (uint32_t)page) / page);
}

static void poll_pipe(uint32_t i)
{
	int ends[2];

	if (pipe2(ends, O_NONBLOCK) || dup2(ends[0], PIPE_FD) < 0 || dup2(ends[1], PIPE_FD + 1) < 0)
		abort();
	close(ends[0]);
	close(ends[1]);
	iocbs =
	    map_at((void *)(uintptr_t)(base_address() + 90 * APART), page, PROT_READ | PROT_WRITE);
	iocb_poll(iocbs, PIPE_FD, POLLIN, 0x901);
	if (submit_one(rings[i], iocbs) != 1)
		abort();
}

static void make_rings(unsigned kind)
{
	uint32_t least = least_pages(cpus), nr = aio_ring_nr(least * (uint32_t)page);
	uint32_t full = least_pages(64) > least ? least_pages(64) : least;

	if (kind == 1) {
		add_pages(least, nr - 3, 10);
		place(0, 0);
		map_at((void *)(uintptr_t)(rings[0] + len_of(rings[0])), page, PROT_READ);
		return;
	}
	if (kind == 2) {
		uint32_t large = aio_ring_nr(full * (uint32_t)page);

		add_pages(full, large - 7, aio_ring_usable(large, cpus));
		place(0, 0);
		return;
	}
	add_pages(least, 0, 0);
	add_pages(least, 10, 30);
	add_pages(least, nr - 5, 30);
	/* (Other hosts may admit a few less, since they hand slots out in other batches.) */
	add_pages(least, nr - 1, aio_ring_usable(nr, cpus) - 16);
	add_pages(least + 1, 7, 20);
	add_pages(least, 3, 2);
	for (uint32_t i = 0; i < count; i++)
		place(i, i);
	poll_pipe(count - 1);
}

static const unsigned char *block(uint64_t at)
{
	return (const void *)(uintptr_t)at;
}

static void save_memory(FILE *file, uint64_t addr, uint64_t len)
{
	uint64_t at = addr, end = addr + len, next;

	for (; at < end; at = next) {
		size_t n = BLOCK;

		while (n && !block(at)[n - 1])
			n--;
		next = at + BLOCK;
		while (n && next < end && !memcmp(block(at), block(next), BLOCK))
			next += BLOCK;
		if (!n)
			continue;
		fprintf(file, "%llx ", (unsigned long long)at);
		for (size_t i = 0; i < n; i++)
			fprintf(file, "%02x", block(at)[i]);
		if (next > at + BLOCK)
			fprintf(file, " %u", (unsigned)((next - at) / BLOCK));
		fprintf(file, "\n");
	}
}

static void save_mapping(FILE *file, const char *what, uint64_t addr, uint64_t len)
{
	fprintf(file, "%s %llx %llx\n", what, (unsigned long long)addr, (unsigned long long)len);
	save_memory(file, addr, len);
}

static void save(FILE *file, unsigned kind)
{
	struct aior_capsule capsule;

	if (aior_find_capsule(0, &capsule, &error) != 1)
		abort();
	for (uint32_t i = 0; i < count; i++) {
		save_mapping(file, "mapping", rings[i], len_of(rings[i]));
		fprintf(file, "ring %llx %llx %d\n", (unsigned long long)rings[i],
		    (unsigned long long)len_of(rings[i]), kind == 0 && i == count - 1);
	}
	if (kind == 1)
		save_mapping(file, "mapping", rings[0] + len_of(rings[0]), page);
	if (iocbs) {
		save_mapping(file, "mapping", (uintptr_t)iocbs, page);
		fprintf(file, "pipe %d 901\n", PIPE_FD);
	}
	save_mapping(file, "capsule", capsule.addr, capsule.room);
}

static unsigned kind_now;
static char path_now[4096];

static void save_one(void)
{
	FILE *file;

	set_up();
	pin_to(0);
	make_rings(kind_now);
	if (!ok(!stage_self(), "%s: staged", kinds[kind_now]))
		return;
	file = fopen(path_now, "we");
	ok(!!file, "%s: %s is written", kinds[kind_now], path_now);
	if (!file)
		return;
	save(file, kind_now);
	fclose(file);
}

/* ---- restoring ---- */

struct saved {
	uint64_t addr, len, polls;
	int has_room;
};

static struct saved saved[16];
static int pipe_fd;

static uint64_t hex_word(char **line)
{
	return strtoull(*line, line, 16);
}

static void put_bytes(char *line, int64_t shift)
{
	unsigned char *first = (void *)(uintptr_t)(hex_word(&line) + (uint64_t)shift), *to = first;
	unsigned byte;
	unsigned long times;

	for (line++; sscanf(line, "%2x", &byte) == 1 && *line != ' '; line += 2)
		*to++ = (unsigned char)byte;
	for (times = strtoul(line, NULL, 10); times > 1; times--)
		memcpy(first + (times - 1) * BLOCK, first, BLOCK);
}

static void make_pipe(int fd)
{
	int ends[2];

	if (pipe2(ends, O_NONBLOCK) || dup2(ends[0], fd) < 0 || dup2(ends[1], fd + 1) < 0)
		abort();
	close(ends[0]);
	close(ends[1]);
	pipe_fd = fd;
}

/* Becomes what the file says. Returns 0 if that cannot be had here. */
static int load(FILE *file)
{
	static char line[4096];
	uint64_t capsule = base_address() + 100 * APART;
	int64_t shift = 0;

	while (fgets(line, sizeof(line), file)) {
		char *rest = strchr(line, ' ');
		uint64_t addr, len;

		if (strncmp(line, "mapping ", 8) && strncmp(line, "capsule ", 8) &&
		    strncmp(line, "ring ", 5) && strncmp(line, "pipe ", 5)) {
			put_bytes(line, shift);
			continue;
		}
		if (*line == 'p') {
			make_pipe((int)strtol(rest, NULL, 10));
			continue;
		}
		addr = hex_word(&rest);
		len = hex_word(&rest);
		if (*line == 'r') {
			saved[count] = (struct saved){addr, len, strtoull(rest, NULL, 10), 1};
			rings[count++] = addr;
			continue;
		}
		shift = *line == 'c' ? (int64_t)(capsule - addr) : 0;
		if (len % page || addr % page) {
			if (*line == 'c')
				len = (len + page - 1) / page * page;
			else
				return 0;
		}
		if (map_at((void *)(uintptr_t)(addr + (uint64_t)shift), len,
			PROT_READ | PROT_WRITE) == MAP_FAILED)
			return 0;
	}
	return 1;
}

/* What must come of a ring here, by what its staged memory says; NULL: it must be restored. */
static const char *why_refused(const struct saved *ring, uint64_t *new_len)
{
	const struct aio_ring *header = (const void *)(uintptr_t)ring->addr;
	uint32_t nr = aio_ring_nr((uint32_t)ring->len);
	uint64_t pending = aio_ring_pending(header->head, header->tail, nr) + ring->polls;

	*new_len = aio_ring_len(
	    aio_ring_smallest_n((uint32_t)ring->len, (uint32_t)page), cpus, (uint32_t)page);
	if (*new_len > ring->len && is_mapped(ring->addr + ring->len, page))
		return "are free";
	if (pending > aio_ring_usable(aio_ring_nr((uint32_t)*new_len), cpus))
		return "admits";
	return NULL;
}

static const char *why_not_as_expected(uint32_t i, uint64_t len, uint32_t amount)
{
	const struct aio_ring *ring = ring_of(rings[i]);
	struct aio_slot event;

	if (!mapping_of(getpid(), rings[i]).is_aio || len_of(rings[i]) != len ||
	    ring->nr != aio_ring_nr((uint32_t)len))
		return "its size";
	if (take_pending(rings[i], events) != amount ||
	    memcmp(events, expected, amount * sizeof(*events)))
		return "its events";
	if (!saved[i].polls)
		return why_not_usable(rings[i], amount);
	for (uint32_t k = 0; k < amount; k++)
		if (io_getevents(rings[i], 1, &event) != 1)
			return "it lost an event";
	if (io_getevents(rings[i], 1, &event) || write(pipe_fd + 1, "x", 1) != 1)
		return "a poll is there too early";
	for (int64_t begun = now_ms(); now_ms() - begun < PATIENCE_MS; tick())
		if (io_getevents(rings[i], 1, &event) == 1)
			return event.data == 0x901 && event.res & POLLIN ? NULL : "its poll";
	return "its poll has not been submitted again";
}

/* All of a file's rings, or none: tells what became of them in the words of its name. */
static void restore_one(void)
{
	const char *name = strrchr(path_now, '/') + 1, *why = NULL;
	static struct aio_slot pending_events[16][4096];
	uint64_t lens[16], grown = 0;
	const struct aior_table *table = (void *)(uintptr_t)(base_address() + 100 * APART);
	uint32_t amounts[16];
	FILE *file = fopen(path_now, "re");

	set_up();
	pin_to(0);
	if (!file || !load(file)) {
		skip(name, "its addresses or pages are none of this host's");
		return;
	}
	fclose(file);
	if (table->page_size != page)
		why = "has pages of";
	for (uint32_t i = 0; i < count; i++) {
		const char *refused = why_refused(&saved[i], &lens[i]);

		why = why ? why : refused;
		grown += lens[i] > saved[i].len;
		amounts[i] = take_pending(rings[i], pending_events[i]);
	}
	if (why) {
		ok(restore_self() && error.is_refused && strstr(error.message, why),
		    "%s is refused: %s", name, error.message);
		return;
	}
	if (!ok(!restore_self() && report.ring_count == count && report.grown_count == grown,
		"%s is restored, %u of its %u rings larger", name, (unsigned)grown, count))
		return;
	for (uint32_t i = 0; i < count; i++) {
		memcpy(expected, pending_events[i], amounts[i] * sizeof(*expected));
		why = why_not_as_expected(i, lens[i], amounts[i]);
		ok(!why, "%s: ring %u: %s", name, i,
		    why ? why : "its events, and as many as it admits");
	}
}

/* ---- all of them ---- */

static void save_all(const char *folder, const char *arch)
{
	char size[32] = "";
	struct utsname host;
	unsigned major = 0, minor = 0;

	uname(&host);
	sscanf(host.release, "%u.%u", &major, &minor);
	if (page != 4096)
		snprintf(size, sizeof(size), "-%uk", (unsigned)(page / 1024));
	for (kind_now = 0; kind_now < KINDS; kind_now++) {
		snprintf(path_now, sizeof(path_now), "%s/%u.%u%s-%s-%u-%s.staged", folder, major,
		    minor, size, arch, cpus, kinds[kind_now]);
		in_child(kinds[kind_now], save_one);
		in_child(kinds[kind_now], restore_one);
	}
}

static int is_one(const struct dirent *entry)
{
	size_t len = strlen(entry->d_name);

	return len > 7 && !strcmp(entry->d_name + len - 7, ".staged");
}

int main(int argc, char **argv)
{
	const char *corpus = getenv("CORPUS"), *out = getenv("OUT");
	const char *arch = aior_arch_name(aior_host_arch());
	char own[] = "/tmp/aior-carried-XXXXXX", infix[32];
	struct dirent **entries;
	int n, met = 0;

	for (int i = 1; i < argc; i++)
		if (!strchr(argv[i], '=') || putenv(argv[i]))
			return 2;
	if (facts_start())
		return 1;
	relaid_start();
	if (!corpus)
		corpus = "tests/corpus";
	if (!out && !mkdtemp(own))
		return 1;
	save_all(out ? out : own, arch);
	snprintf(infix, sizeof(infix), "-%s-", arch);
	n = scandir(corpus, &entries, is_one, alphasort);
	for (int i = 0; i < n; i++)
		if (strstr(entries[i]->d_name, infix)) {
			snprintf(path_now, sizeof(path_now), "%s/%s", corpus, entries[i]->d_name);
			in_child(entries[i]->d_name, restore_one);
			met++;
		}
	ok(met > 0, "files of other hosts: %d", met);
	if (!out) {
		n = scandir(own, &entries, is_one, alphasort);
		for (int i = 0; i < n; i++) {
			snprintf(path_now, sizeof(path_now), "%s/%s", own, entries[i]->d_name);
			unlink(path_now);
		}
		rmdir(own);
	}
	return tap_end();
}
