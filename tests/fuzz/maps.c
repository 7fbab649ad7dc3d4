/* SPDX-License-Identifier: MIT */
/*
 * The text of /proc/PID/maps. It is the kernel's, but the names in it are anybody's. Read in one piece and in
 * many it says the same; and what has the form that proc(5) tells of is taken for what it is.
 */
#include <sys/socket.h>

#include "fuzz.h"

#define LONGEST 3500 /* of a line: the reader cuts longer ones, and where depends on the pieces */

/* Each mapping once more, as a number. */
struct seen {
	uint64_t hash;
	size_t count;
};

static int see(const struct aior_mapping *mapping, void *data)
{
	struct seen *seen = data;
	const uint64_t fields[] = {mapping->start, mapping->end, mapping->offset, mapping->inode,
	    mapping->prot, mapping->major, mapping->minor,
	    (uint64_t)(mapping->is_ring | mapping->is_private_memory << 1 | mapping->is_stack << 2 |
		       mapping->is_vdso << 3)};

	PROMISE(mapping->start < mapping->end, "a mapping that ends before it begins");
	PROMISE(!mapping->is_ring || !mapping->is_private_memory, "both a ring and plain memory");
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		seen->hash = (seen->hash ^ fields[i]) * 0x9e3779b97f4a7c15u;
	seen->count++;
	return 0;
}

/* In pieces of a few bytes, each a packet. */
static void in_pieces(const uint8_t *data, size_t size, struct seen *seen)
{
	size_t step = 1 + size % 97, at = 0;
	int fds[2], room = 1 << 20;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
		abort();
	setsockopt(fds[0], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	while (at < size) {
		size_t len = size - at < step ? size - at : step;

		if (send(fds[0], data + at, len, MSG_DONTWAIT) != (ssize_t)len)
			break;
		at += len;
	}
	close(fds[0]);
	if (at >= size)
		aior_each_mapping_in(fds[1], see, seen);
	else
		seen->count = SIZE_MAX; /* more packets than it takes */
	close(fds[1]);
}

static int has_long_line(const uint8_t *data, size_t size)
{
	size_t len = 0;

	for (size_t i = 0; i < size; i++) {
		len = data[i] == '\n' ? 0 : len + 1;
		if (len > LONGEST || !data[i])
			return 1;
	}
	return 0;
}

/* Whether a line is one that the kernel could have written, and what it says then. */
static int read_line(const char *line, struct aior_mapping *mapping)
{
	unsigned long long start, end, offset, inode;
	char perms[8], again[256];
	unsigned major, minor;
	const char *name;

	if (sscanf(line, "%llx-%llx %7s %llx %x:%x %llu", &start, &end, perms, &offset, &major,
		&minor, &inode) != 7)
		return 0;
	snprintf(again, sizeof(again), "%08llx-%08llx %s %08llx %02x:%02x %llu ", start, end, perms,
	    offset, major, minor, inode);
	if (start >= end || strlen(perms) != 4 || strspn(perms, "rwxps-") != 4 ||
	    strncmp(line, again, strlen(again)))
		return 0;
	name = line + strlen(again);
	name += strspn(name, " ");
	*mapping = (struct aior_mapping){
	    .start = start,
	    .end = end,
	    .offset = offset,
	    .inode = inode,
	    .major = major,
	    .minor = minor,
	    .prot = (perms[0] == 'r' ? PROT_READ : 0u) | (perms[1] == 'w' ? PROT_WRITE : 0u) |
		    (perms[2] == 'x' ? PROT_EXEC : 0u),
	    .is_ring = !major && (!strcmp(name, "/[aio]") || !strcmp(name, "/[aio] (deleted)")),
	    .is_private_memory =
		perms[3] == 'p' && !major && !minor && !inode &&
		(!*name || !strcmp(name, "[heap]") || !strncmp(name, "[anon:", strlen("[anon:"))),
	    .is_stack = !strcmp(name, "[stack]"),
	    .is_vdso = !strcmp(name, "[vdso]"),
	};
	return 1;
}

/* The lines one by one: what the kernel could have written is seen as it is meant. */
static void check_lines(const uint8_t *data, size_t size)
{
	static struct fuzz_file file;
	char line[LONGEST + 2];

	for (size_t len; size; data += len, size -= len) {
		const uint8_t *end = memchr(data, '\n', size);
		struct seen seen = {0}, wanted = {0};
		struct aior_mapping mapping;

		len = end ? (size_t)(end + 1 - data) : size;
		memcpy(line, data, len);
		line[end ? len - 1 : len] = '\0';
		if (!end || !read_line(line, &mapping))
			continue;
		see(&mapping, &wanted);
		fuzz_write(&file, data, len);
		lseek(file.fd, 0, SEEK_SET);
		aior_each_mapping_in(file.fd, see, &seen);
		PROMISE(seen.count == 1 && seen.hash == wanted.hash, "taken for another: %s", line);
	}
}

#define CUT 300 /* longer than what stands in front of a name, and than each name that matters */

/* A name that is longer than all that is read at once is a name nevertheless: nothing in it is a line. */
static void check_long_names(const uint8_t *data, size_t size, const struct seen *whole)
{
	static struct fuzz_file file;
	uint8_t *cut = malloc(size + 1);
	struct aior_mapping mapping;
	struct seen seen = {0};
	size_t kept = 0;

	for (size_t len; cut && size; data += len, size -= len) {
		const uint8_t *end = memchr(data, '\n', size);
		char line[CUT + 1] = "";
		size_t some;

		len = end ? (size_t)(end + 1 - data) : size;
		some = len - !!end < CUT ? len - !!end : CUT;
		memcpy(line, data, some);
		if (!end || strlen(line) != some || memchr(data, 0, len) ||
		    !read_line(line, &mapping)) {
			free(cut);
			return;
		}
		memcpy(cut + kept, line, some);
		kept += some;
		cut[kept++] = '\n';
	}
	if (!cut)
		return;
	fuzz_write(&file, cut, kept);
	lseek(file.fd, 0, SEEK_SET);
	aior_each_mapping_in(file.fd, see, &seen);
	PROMISE(seen.count == whole->count && seen.hash == whole->hash,
	    "%zu mappings with long names, and %zu without", whole->count, seen.count);
	free(cut);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct fuzz_file file;
	struct seen whole = {0}, pieces = {0};

	fuzz_write(&file, data, size);
	lseek(file.fd, 0, SEEK_SET);
	PROMISE(aior_each_mapping_in(file.fd, see, &whole) >= 0, "what is there cannot be read");
	check_long_names(data, size, &whole);
	if (has_long_line(data, size))
		return 0;
	in_pieces(data, size, &pieces);
	PROMISE(
	    pieces.count == SIZE_MAX || (pieces.count == whole.count && pieces.hash == whole.hash),
	    "%zu mappings in one piece, and %zu in many", whole.count, pieces.count);
	check_lines(data, size);
	return 0;
}
