/* SPDX-License-Identifier: MIT */
/*
 * Reads rings out of ELF cores; core(5), elf(5). Whoever made the file may be an enemy: nothing of
 * it is believed that was not compared with the file's size, and nothing is allocated that the file
 * does not hold.
 */
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core.h"
#include "file.h"
#include "internal.h"
#include "names.h"

/* More than any process's core has; a file with holes may well say, and hold, more. */
#define MOST_SEGMENTS (1u << 20)
#define MOST_NOTES (1ull << 30) /* bytes of all of them */

struct segment {
	uint64_t addr, len, offset;
	uint64_t in_file; /* bytes of it that the core holds */
	uint32_t flags;
};

/* What the notes say. */
struct notes {
	struct aior_table table;       /* of ours; size 0: there is none */
	const unsigned char *table_at; /* where it lies */
	const unsigned char *files;    /* NT_FILE: which file is mapped where */
	size_t files_len;
	pid_t pid;
};

struct core {
	struct aior_memory memory;
	const char *path; /* for messages: see file_name() */
	Elf *elf;
	GElf_Ehdr header;
	const unsigned char *data; /* the whole file */
	uint64_t size;
	struct segment *segments; /* PT_LOAD, in order of address */
	size_t segment_count;
	struct notes notes;
	uint64_t noted; /* bytes of notes so far */
	struct aior_image *image;
	struct aior_error *error;
};

#define bad(core, ...) aior_fail_image((core)->error, (core)->path, __VA_ARGS__)

static int open_elf(struct core *core)
{
	elf_version(EV_CURRENT);
	core->elf = elf_memory((char *)(uintptr_t)core->data, core->size);
	if (!core->elf)
		return bad(core, "cannot be read as an ELF file: %s", elf_errmsg(-1));
	if (elf_kind(core->elf) != ELF_K_ELF || !gelf_getehdr(core->elf, &core->header))
		return bad(core, "not an ELF file, or truncated");
	if (core->header.e_type != ET_CORE)
		return bad(core, "an ELF file, but not a core");
	if (core->header.e_ident[EI_DATA] != ELFDATA2LSB)
		return bad(core, "of a big-endian machine; none is known that has rings");
	core->image->arch =
	    aior_arch_of_elf(core->header.e_machine, core->header.e_ident[EI_CLASS]);
	if (!core->image->arch)
		return bad(core, "of a machine that is not known (e_machine %u, class %u)",
		    core->header.e_machine, core->header.e_ident[EI_CLASS]);
	return 0;
}

static int by_address(const void *a, const void *b)
{
	uint64_t left = ((const struct segment *)a)->addr;
	uint64_t right = ((const struct segment *)b)->addr;

	return (left > right) - (left < right);
}

static int read_notes(struct core *core, const GElf_Phdr *phdr);

/* All program headers: notes are read, loads are collected. */
static int read_segments(struct core *core)
{
	size_t count;

	if (elf_getphdrnum(core->elf, &count))
		return bad(core, "its program headers cannot be read");
	if (core->header.e_phentsize != gelf_fsize(core->elf, ELF_T_PHDR, 1, EV_CURRENT))
		return bad(core, "says that a program header has %u bytes",
		    (unsigned)core->header.e_phentsize);
	if (count > core->size / sizeof(Elf32_Phdr) || count > MOST_SEGMENTS)
		return bad(core, "says that it has %zu program headers", count);
	core->segments = calloc(count + 1, sizeof(*core->segments));
	if (!core->segments)
		return aior_fail(
		    core->error, ENOMEM, "image", "there is no memory for its segments");
	for (size_t i = 0; i < count; i++) {
		struct segment *segment = &core->segments[core->segment_count];
		GElf_Phdr phdr;

		if (!gelf_getphdr(core->elf, (int)i, &phdr))
			return bad(core, "truncated in its program headers");
		if (phdr.p_type != PT_LOAD && phdr.p_type != PT_NOTE)
			continue;
		if (phdr.p_offset > core->size || phdr.p_filesz > core->size - phdr.p_offset)
			return bad(core, "truncated: segment %zu lies behind its end", i);
		if (phdr.p_type == PT_NOTE) {
			if (read_notes(core, &phdr))
				return -1;
			continue;
		}
		if (phdr.p_filesz > phdr.p_memsz || phdr.p_vaddr + phdr.p_memsz < phdr.p_vaddr)
			return bad(core, "segment %zu makes no sense", i);
		segment->addr = phdr.p_vaddr;
		segment->len = phdr.p_memsz;
		segment->offset = phdr.p_offset;
		segment->in_file = phdr.p_filesz;
		segment->flags = phdr.p_flags;
		core->segment_count++;
	}
	qsort(core->segments, core->segment_count, sizeof(*core->segments), by_address);
	for (size_t i = 1; i < core->segment_count; i++)
		if (core->segments[i - 1].addr + core->segments[i - 1].len > core->segments[i].addr)
			return bad(core, "segments overlap at 0x%llx",
			    (unsigned long long)core->segments[i].addr);
	return 0;
}

static void take_note(
    struct core *core, const GElf_Nhdr *note, const char *name, const unsigned char *desc)
{
	struct notes *notes = &core->notes;
	/* struct elf_prpsinfo, pr_pid: the process, where NT_PRSTATUS names a thread. */
	size_t pr_pid = core->header.e_ident[EI_CLASS] == ELFCLASS64 ? 24 : 12;
	int32_t pid;

	if (note->n_namesz == sizeof("CORE") && !memcmp(name, "CORE", sizeof("CORE"))) {
		if (note->n_type == NT_PRPSINFO && note->n_descsz >= pr_pid + sizeof(pid)) {
			memcpy(&pid, desc + pr_pid, sizeof(pid));
			notes->pid = pid > 0 ? pid : 0;
		}
		if (note->n_type == NT_FILE) {
			notes->files = desc;
			notes->files_len = note->n_descsz;
		}
	}
	if (note->n_namesz == sizeof(AIOR_NOTE_NAME) && note->n_type == AIOR_NOTE_TABLE &&
	    !memcmp(name, AIOR_NOTE_NAME, sizeof(AIOR_NOTE_NAME)) && !notes->table_at) {
		size_t len = note->n_descsz;

		notes->table_at = desc;
		memcpy(
		    &notes->table, desc, len < sizeof(notes->table) ? len : sizeof(notes->table));
		if (notes->table.total > len)
			notes->table.total = 0; /* which check_table() refuses */
	}
}

static int read_notes(struct core *core, const GElf_Phdr *phdr)
{
	size_t at = 0, name, desc;
	Elf_Data *data;
	GElf_Nhdr note;

	if (!phdr->p_filesz)
		return 0;
	/* Segments may name the same bytes again and again. */
	core->noted += phdr->p_filesz;
	if (core->noted > MOST_NOTES)
		return bad(core, "says that it has more than %llu MiB of notes", MOST_NOTES >> 20);
	data = elf_getdata_rawchunk(core->elf, (int64_t)phdr->p_offset, phdr->p_filesz,
	    phdr->p_align == 8 ? ELF_T_NHDR8 : ELF_T_NHDR);
	if (!data)
		return bad(core, "its notes cannot be read");
	/* Straight from the file: libelf may have copied the chunk. */
	while ((at = gelf_getnote(data, at, &note, &name, &desc)))
		take_note(core, &note, (const char *)core->data + phdr->p_offset + name,
		    core->data + phdr->p_offset + desc);
	return 0;
}

/* The segment that `addr` lies in; NULL if there is none. */
static const struct segment *segment_at(const struct core *core, uint64_t addr)
{
	size_t low = 0, high = core->segment_count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		const struct segment *segment = &core->segments[middle];

		if (addr < segment->addr)
			high = middle;
		else if (addr - segment->addr >= segment->len)
			low = middle + 1;
		else
			return segment;
	}
	return NULL;
}

/*
 * Where the file holds [addr, addr + len); NULL if it does not. What mprotect has split lies in
 * several segments, which follow each other in the file as they do in memory.
 */
static const unsigned char *content_of(const struct core *core, uint64_t addr, uint64_t len)
{
	const struct segment *last = core->segments + core->segment_count;
	const struct segment *segment = segment_at(core, addr);
	uint64_t skip = segment ? addr - segment->addr : 0, found;
	const unsigned char *content;

	if (!segment || segment->in_file < skip)
		return NULL;
	content = core->data + segment->offset + skip;
	for (found = segment->in_file - skip; found < len; found += segment->in_file) {
		const struct segment *next = segment + 1;

		if (segment->in_file < segment->len || next == last ||
		    next->addr != segment->addr + segment->len ||
		    next->offset != segment->offset + segment->in_file)
			return NULL;
		segment = next;
	}
	return content;
}

static int copy_of(struct aior_memory *memory, void *to, uint64_t addr, uint64_t len)
{
	const unsigned char *content = content_of((const struct core *)memory, addr, len);

	if (content) {
		memcpy(to, content, (size_t)len);
		return 0;
	}
	snprintf(memory->why, sizeof(memory->why),
	    "%s does not hold its memory: before the core is made, write 0x7f to "
	    "/proc/PID/coredump_filter",
	    memory->name);
	return -1;
}

static int add_ring(struct core *core, uint64_t addr, uint64_t len, uint32_t prot)
{
	return aior_read_ring(&core->memory, addr, len, prot, AIOR_LIVE, core->error);
}

static uint32_t prot_of(uint32_t flags)
{
	return (flags & PF_R ? PROT_READ : 0u) | (flags & PF_W ? PROT_WRITE : 0u) |
	       (flags & PF_X ? PROT_EXEC : 0u);
}

static int check_table(struct core *core)
{
	const struct aior_table *table = &core->notes.table;

	if (memcmp(table->magic, AIOR_TABLE_MAGIC, sizeof(table->magic)) ||
	    table->size < sizeof(*table) || table->total < sizeof(*table))
		return bad(core, "its AIOR note is damaged");
	if (!table->abi || table->abi > AIOR_ABI)
		return bad(core, "made by a newer release (version %u, this one knows %u)",
		    table->abi, AIOR_ABI);
	if (table->state != AIOR_TABLE_IMAGE || table->arch != core->image->arch ||
	    table->page_size < 4096 || table->page_size > 65536 ||
	    table->page_size & (table->page_size - 1) ||
	    table->ring_stride < sizeof(struct aior_ring_record) || table->rings > table->total ||
	    (uint64_t)table->ring_count * table->ring_stride > table->total - table->rings)
		return bad(core, "its AIOR note makes no sense");
	return 0;
}

static int read_table(struct core *core)
{
	const struct aior_table *table = &core->notes.table;
	const unsigned char *at = core->notes.table_at + table->rings;

	if (check_table(core))
		return -1;
	core->image->page_size = table->page_size;
	core->image->possible_cpus = table->possible_cpus;
	core->image->pid = (pid_t)(table->pid > INT32_MAX ? 0 : table->pid);
	for (uint32_t i = 0; i < table->ring_count; i++, at += table->ring_stride) {
		struct aior_ring_record record;

		memcpy(&record, at, sizeof(record));
		if (record.prot & ~(uint32_t)(PROT_READ | PROT_WRITE | PROT_EXEC) || record.flags)
			return bad(core, "its AIOR note has a record that makes no sense");
		if (add_ring(core, record.addr, record.len, record.prot))
			return -1;
	}
	return 0;
}

/* A word of NT_FILE, as large as the process's. */
static uint64_t word(const unsigned char *at, size_t size)
{
	uint64_t wide = 0;

	memcpy(&wide, at, size);
	return wide;
}

/*
 * NT_FILE (fs/binfmt_elf.c, fill_files_note): count, page size, (start, end, offset in pages) for
 * each file mapping, then their names. Adds the rings among them; what mprotect has split lies in
 * several entries.
 */
static int read_files(struct core *core)
{
	const struct notes *notes = &core->notes;
	size_t size = core->header.e_ident[EI_CLASS] == ELFCLASS64 ? 8 : 4;
	const unsigned char *end = notes->files + notes->files_len, *at;
	const char *name;
	uint64_t count, page, start = 0, stop = 0;

	if (notes->files_len < 2 * size)
		return bad(core, "its NT_FILE note is truncated");
	count = word(notes->files, size);
	page = word(notes->files + size, size);
	if (count > (notes->files_len - 2 * size) / (3 * size))
		return bad(core, "its NT_FILE note is truncated");
	/* gdb writes 1 for a page size: its offsets are in bytes. */
	if (page >= 4096 && page <= 65536 && !(page & (page - 1)))
		core->image->page_size = (uint32_t)page;
	else if (page != 1)
		return bad(core, "says that its pages have %llu bytes", (unsigned long long)page);
	at = notes->files + 2 * size;
	name = (const char *)at + count * 3 * size;
	for (uint64_t i = 0; i < count; i++, at += 3 * size) {
		size_t left = (size_t)((const char *)end - name), len = strnlen(name, left);
		int is_ring;

		if (len == left)
			return bad(core, "its NT_FILE note is truncated");
		is_ring = !strcmp(name, "/[aio] (deleted)") || !strcmp(name, "/[aio]");
		name += len + 1;
		if (!is_ring)
			continue;
		if (stop && (word(at, size) != stop || !word(at + 2 * size, size))) {
			if (add_ring(core, start, stop - start, 0))
				return -1;
			stop = 0;
		}
		if (!stop)
			start = word(at, size);
		stop = word(at + size, size);
		if (stop <= start)
			return bad(core, "its NT_FILE note makes no sense");
	}
	return stop ? add_ring(core, start, stop - start, 0) : 0;
}

/* Without a word about files, a ring is a segment that starts like one. */
static int find_rings(struct core *core)
{
	for (size_t i = 0; i < core->segment_count; i++) {
		const struct segment *segment = &core->segments[i];
		struct aio_ring header;

		if (segment->in_file < sizeof(header) || segment->in_file < segment->len)
			continue;
		memcpy(&header, core->data + segment->offset, sizeof(header));
		if (aio_ring_check(&header, segment->len) != AIO_RING_OK)
			continue;
		if (add_ring(core, segment->addr, segment->len, prot_of(segment->flags)))
			return -1;
	}
	return 0;
}

/* The process may be a staged one: then its capsule is where a segment begins. */
static int find_staged(struct core *core)
{
	struct aior_capsule capsule = {.addr = 0};

	for (size_t i = 0; i < core->segment_count; i++) {
		const struct segment *segment = &core->segments[i];

		if (aior_read_capsule_at(&core->memory, segment->addr, segment->in_file,
			prot_of(segment->flags), &capsule, core->error))
			return -1;
	}
	return 0;
}

static int read_rings(struct core *core)
{
	core->image->pid = core->notes.pid;
	core->image->page_size = 4096;
	if (core->notes.table_at)
		return read_table(core);
	if (core->notes.files)
		return read_files(core) || find_staged(core) ? -1 : 0;
	if (find_staged(core))
		return -1;
	return core->image->ring_count ? 0 : find_rings(core);
}

int core_read(const char *path, struct aior_image *image, struct aior_error *error)
{
	char name[FILE_NAME];
	struct file file;
	struct core core = {
	    .memory = {.image = image, .name = file_name(name, path), .copy = copy_of},
	    .path = name,
	    .image = image,
	    .error = error,
	};
	int ret;

	memset(image, 0, sizeof(*image));
	if (file_map(AT_FDCWD, path, 0, name, &file, error))
		return -1;
	core.data = file.data;
	core.size = file.size;
	core.memory.held = file.size < AIOR_MOST_RING_BYTES ? file.size : AIOR_MOST_RING_BYTES;
	ret = file.size ? open_elf(&core) : bad(&core, "an empty file");
	if (!ret)
		ret = read_segments(&core);
	if (!ret)
		ret = read_rings(&core);
	if (!ret)
		ret = aior_sort_rings(image, error);
	elf_end(core.elf);
	free(core.segments);
	file_unmap(&file);
	if (ret)
		aior_image_free(image);
	return ret;
}
