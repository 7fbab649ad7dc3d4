/* SPDX-License-Identifier: MIT */
/*
 * mkblob: makes a blob of a linked ELF file.
 *
 * The linker script pie/blob.lds has laid everything into one section. A blob is that section's
 * bytes and nothing else, so what the section would need besides (something relocated, zeroed,
 * mapped or resolved) must not exist. Everything that a blob must not have is refused here, not
 * documented. Then the header is completed: what only the linked file knows (entries, size,
 * architecture), and the stack bound, which comes from the compiler's call graphs.
 */
#include <elf.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "callgraph.h"
#include "emit.h"
#include "names.h"
#include "restorer.h"

/*
 * Bytes that gcc does not count in a frame: a constant may pass through the stack on its way into a
 * register (-Oz), and the stack pointer is aligned once.
 */
#define STACK_MARGIN 24

/* What every host has to spare, even on a stack that is not its own. */
#define STACK_MAX 1024u

static const char *output; /* removed by fail() */
static const char *input;

#define fail(...)                                                                                  \
	do {                                                                                       \
		fprintf(stderr, "mkblob: %s: ", input);                                            \
		fprintf(stderr, __VA_ARGS__);                                                      \
		fprintf(stderr, "\n");                                                             \
		if (output)                                                                        \
			unlink(output);                                                            \
		exit(1);                                                                           \
	} while (0)

/* An ELF file of either class, its headers widened to 64 bits. */
struct elf {
	unsigned char *data;
	size_t size;
	int is_64;
	Elf64_Ehdr header;
};

static unsigned char *read_file(const char *path, size_t *size)
{
	FILE *file = fopen(path, "rb");
	unsigned char *data = NULL;
	size_t room = 0, n;

	input = path;
	if (!file)
		fail("%s", strerror(errno));
	*size = 0;
	do {
		if (*size + 1 >= room) {
			unsigned char *larger;

			room = room ? 2 * room : 65536;
			larger = realloc(data, room);
			if (!larger)
				fail("out of memory");
			data = larger;
		}
		n = fread(data + *size, 1, room - *size - 1, file);
		*size += n;
	} while (n);
	if (ferror(file))
		fail("cannot be read");
	fclose(file);
	data[*size] = '\0';
	return data;
}

/* `len` bytes at `offset` of the file, or the end of it all. */
static const void *at(const struct elf *elf, uint64_t offset, uint64_t len)
{
	if (offset > elf->size || len > elf->size - offset)
		fail("truncated, or not a sound ELF file");
	return elf->data + offset;
}

/* Copies the fields of a 32-bit structure into the 64-bit one of the same fields. */
#define WIDEN(to, from, field) ((to).field = (from).field)

static Elf64_Shdr section(const struct elf *elf, unsigned i)
{
	uint64_t offset = elf->header.e_shoff + (uint64_t)i * elf->header.e_shentsize;
	Elf64_Shdr wide = {0};
	Elf32_Shdr narrow;

	if (elf->is_64) {
		memcpy(&wide, at(elf, offset, sizeof(wide)), sizeof(wide));
		return wide;
	}
	memcpy(&narrow, at(elf, offset, sizeof(narrow)), sizeof(narrow));
	WIDEN(wide, narrow, sh_name);
	WIDEN(wide, narrow, sh_type);
	WIDEN(wide, narrow, sh_flags);
	WIDEN(wide, narrow, sh_addr);
	WIDEN(wide, narrow, sh_offset);
	WIDEN(wide, narrow, sh_size);
	WIDEN(wide, narrow, sh_link);
	WIDEN(wide, narrow, sh_entsize);
	return wide;
}

static Elf64_Phdr segment(const struct elf *elf, unsigned i)
{
	uint64_t offset = elf->header.e_phoff + (uint64_t)i * elf->header.e_phentsize;
	Elf64_Phdr wide = {0};
	Elf32_Phdr narrow;

	if (elf->is_64) {
		memcpy(&wide, at(elf, offset, sizeof(wide)), sizeof(wide));
		return wide;
	}
	memcpy(&narrow, at(elf, offset, sizeof(narrow)), sizeof(narrow));
	WIDEN(wide, narrow, p_type);
	WIDEN(wide, narrow, p_flags);
	return wide;
}

static Elf64_Sym symbol(const struct elf *elf, const Elf64_Shdr *table, uint64_t i)
{
	Elf64_Sym wide = {0};
	Elf32_Sym narrow;

	if (elf->is_64) {
		memcpy(&wide, at(elf, table->sh_offset + i * sizeof(wide), sizeof(wide)),
		    sizeof(wide));
		return wide;
	}
	memcpy(&narrow, at(elf, table->sh_offset + i * sizeof(narrow), sizeof(narrow)),
	    sizeof(narrow));
	WIDEN(wide, narrow, st_name);
	WIDEN(wide, narrow, st_info);
	WIDEN(wide, narrow, st_shndx);
	WIDEN(wide, narrow, st_value);
	WIDEN(wide, narrow, st_size);
	return wide;
}

/* A string of the string table in section `table`. */
static const char *string(const struct elf *elf, unsigned table, uint32_t offset)
{
	Elf64_Shdr strings = section(elf, table);
	const char *text = at(elf, strings.sh_offset, strings.sh_size);

	if (offset >= strings.sh_size || !memchr(text + offset, '\0', strings.sh_size - offset))
		fail("a name lies outside of its string table");
	return text + offset;
}

static void open_elf(struct elf *elf, const char *path)
{
	Elf32_Ehdr narrow;
	const unsigned char *ident;

	elf->data = read_file(path, &elf->size);
	ident = at(elf, 0, EI_NIDENT);
	if (memcmp(ident, ELFMAG, SELFMAG) || ident[EI_DATA] != ELFDATA2LSB)
		fail("not a little-endian ELF file");
	elf->is_64 = ident[EI_CLASS] == ELFCLASS64;
	if (elf->is_64) {
		memcpy(&elf->header, at(elf, 0, sizeof(elf->header)), sizeof(elf->header));
		return;
	}
	memcpy(&narrow, at(elf, 0, sizeof(narrow)), sizeof(narrow));
	WIDEN(elf->header, narrow, e_type);
	WIDEN(elf->header, narrow, e_machine);
	WIDEN(elf->header, narrow, e_phoff);
	WIDEN(elf->header, narrow, e_shoff);
	WIDEN(elf->header, narrow, e_phentsize);
	WIDEN(elf->header, narrow, e_phnum);
	WIDEN(elf->header, narrow, e_shentsize);
	WIDEN(elf->header, narrow, e_shnum);
	WIDEN(elf->header, narrow, e_shstrndx);
	memcpy(elf->header.e_ident, ident, EI_NIDENT);
}

static uint32_t arch_of(const struct elf *elf)
{
	uint32_t arch = aior_arch_of_elf(elf->header.e_machine, elf->header.e_ident[EI_CLASS]);

	if (!arch)
		fail(
		    "for a machine that no blob is made for (e_machine %u)", elf->header.e_machine);
	return arch;
}

static void refuse_section(const char *name, const Elf64_Shdr *shdr)
{
	if (shdr->sh_type == SHT_REL || shdr->sh_type == SHT_RELA)
		fail("holds relocations (%s): nobody would apply them", name);
	if (!(shdr->sh_flags & SHF_ALLOC) || !shdr->sh_size)
		return;
	if (!strncmp(name, ".plt", 4))
		fail("has a procedure linkage table (%s): nobody would fill it", name);
	if (shdr->sh_type == SHT_NOBITS)
		fail("has zeroed data (%s): nobody would zero it", name);
	if (shdr->sh_flags & SHF_WRITE)
		fail("has writable data (%s): the pages it lies in are not writable", name);
	fail("has a section besides .blob (%s): link it with pie/blob.lds", name);
}

/*
 * Finds the one section that becomes the blob, and refuses all others that would need a loader; the
 * global offset table's bytes are counted in `got`.
 */
static Elf64_Shdr blob_section(const struct elf *elf, uint64_t *got)
{
	Elf64_Shdr blob = {0};

	if (elf->header.e_type != ET_DYN && elf->header.e_type != ET_EXEC)
		fail("not linked yet");
	for (unsigned i = 0; i < elf->header.e_shnum; i++) {
		Elf64_Shdr shdr = section(elf, i);
		const char *name = string(elf, elf->header.e_shstrndx, shdr.sh_name);

		if (!strncmp(name, ".got", 4))
			*got += shdr.sh_size;
		else if (strcmp(name, ".blob") || blob.sh_size || shdr.sh_flags & SHF_WRITE ||
			 shdr.sh_type != SHT_PROGBITS)
			refuse_section(name, &shdr);
		else
			blob = shdr;
	}
	if (blob.sh_size < sizeof(struct aior_blob))
		fail("has no .blob section that holds a header");
	if (blob.sh_size > AIOR_BLOB_MAX)
		fail("is %llu bytes large: a blob has at most %u", (unsigned long long)blob.sh_size,
		    AIOR_BLOB_MAX);
	return blob;
}

static void refuse_executable_stack(const struct elf *elf)
{
	for (unsigned i = 0; i < elf->header.e_phnum; i++) {
		Elf64_Phdr phdr = segment(elf, i);

		if (phdr.p_type == PT_GNU_STACK && !(phdr.p_flags & PF_X))
			return;
	}
	fail("asks for an executable stack, or does not say that it needs none");
}

/* What the header takes from the symbols. */
struct symbols {
	uint32_t call, jump, park, park_end;
	uint32_t entry_stack; /* the larger of what the two entries need */
	uint64_t got;         /* bytes of a global offset table that the linker always makes */
	int found;            /* how many of the first three */
};

static void read_symbol(struct symbols *symbols, const char *name, uint64_t value, uint64_t size)
{
	if (!strcmp(name, "enter_call"))
		symbols->call = (uint32_t)value;
	else if (!strcmp(name, "enter_jump"))
		symbols->jump = (uint32_t)value;
	else if (!strcmp(name, "aior_park"))
		symbols->park = (uint32_t)value, symbols->park_end = (uint32_t)(value + size);
	else
		return;
	symbols->found++;
}

/* NAME.stack, an absolute symbol: what the assembly function NAME needs. */
static void read_stack_symbol(
    struct symbols *symbols, struct callgraph *graph, const char *name, size_t len, uint64_t bytes)
{
	char function[256];

	if (len >= sizeof(function) || bytes > AIOR_BLOB_MAX)
		fail("symbol %s makes no sense", name);
	memcpy(function, name, len);
	function[len] = '\0';
	if (strncmp(function, "enter_", 6))
		callgraph_set_frame(graph, function, (uint32_t)bytes);
	else if (symbols->entry_stack < bytes)
		symbols->entry_stack = (uint32_t)bytes;
}

static struct symbols read_symbols(
    const struct elf *elf, const Elf64_Shdr *blob, struct callgraph *graph)
{
	struct symbols symbols = {0};
	static const char suffix[] = ".stack";

	for (unsigned i = 0; i < elf->header.e_shnum; i++) {
		Elf64_Shdr table = section(elf, i);

		if (table.sh_type != SHT_SYMTAB || !table.sh_entsize)
			continue;
		for (uint64_t s = 1; s < table.sh_size / table.sh_entsize; s++) {
			Elf64_Sym sym = symbol(elf, &table, s);
			const char *name = string(elf, table.sh_link, sym.st_name);
			size_t len = strlen(name);

			if (sym.st_shndx == SHN_UNDEF && len)
				fail("symbol %s is undefined", name);
			if (sym.st_shndx == SHN_ABS && len > sizeof(suffix) - 1 &&
			    !strcmp(name + len - (sizeof(suffix) - 1), suffix))
				read_stack_symbol(&symbols, graph, name, len - (sizeof(suffix) - 1),
				    sym.st_value);
			else if (!strcmp(name, "got_reserved"))
				symbols.got = sym.st_value;
			else
				read_symbol(
				    &symbols, name, sym.st_value - blob->sh_addr, sym.st_size);
		}
	}
	if (symbols.found != 3)
		fail("lacks one of the symbols enter_call, enter_jump, aior_park");
	return symbols;
}

static void write_output(const char *path, const void *data, size_t size)
{
	FILE *file = fopen(path, "wb");

	input = path;
	if (!file)
		fail("%s", strerror(errno));
	output = path;
	if (fwrite(data, 1, size, file) != size || fclose(file))
		fail("cannot be written: %s", strerror(errno));
}

/* A symbol may have any value: what is entered must be the blob. */
static void check_entries(const struct aior_blob *header)
{
	const uint32_t first = sizeof(*header), end = header->size;

	if (header->call < first || header->call >= end || header->jump < first ||
	    header->jump >= end || header->park < first || header->park >= header->park_end ||
	    header->park_end > end)
		fail("one of the symbols enter_call, enter_jump, aior_park lies outside of it");
}

static void make(const char *path, struct callgraph *graph)
{
	unsigned char bytes[AIOR_BLOB_MAX];
	struct elf elf = {0};
	struct aior_blob header;
	struct symbols symbols;
	Elf64_Shdr blob;
	uint64_t got = 0;
	const char *why;

	open_elf(&elf, path);
	blob = blob_section(&elf, &got);
	refuse_executable_stack(&elf);
	symbols = read_symbols(&elf, &blob, graph);
	if (got > symbols.got)
		fail("has a global offset table: nobody would fill it");
	memcpy(bytes, at(&elf, blob.sh_offset, blob.sh_size), blob.sh_size);
	memcpy(&header, bytes, sizeof(header));
	if (memcmp(header.magic, AIOR_BLOB_MAGIC, sizeof(header.magic)))
		fail("does not start with a blob header");
	header.arch = arch_of(&elf);
	header.size = (uint32_t)blob.sh_size;
	header.call = symbols.call;
	header.jump = symbols.jump;
	header.park = symbols.park;
	header.park_end = symbols.park_end;
	check_entries(&header);
	why = callgraph_worst(graph, "aior_main", &header.stack);
	if (why)
		fail("has no known stack bound: %s", why);
	header.stack = (header.stack + symbols.entry_stack + STACK_MARGIN + 15) & ~15u;
	if (header.stack > STACK_MAX)
		fail("needs %u bytes of stack: a blob may need %u", header.stack, STACK_MAX);
	header.crc32 = 0;
	memcpy(bytes, &header, sizeof(header));
	header.crc32 = aior_blob_crc32(bytes, header.size);
	memcpy(bytes, &header, sizeof(header));
	why = aior_blob_check(bytes, header.size);
	if (why)
		fail("makes no blob: %s", why);
	free(elf.data);
	write_output(output, bytes, header.size);
}

/* Calls through a pointer lead into this other blob, whose header says what it needs. */
static void read_called_blob(struct callgraph *graph, const char *path)
{
	struct aior_blob header;
	const char *why;
	size_t size;
	unsigned char *bytes = read_file(path, &size);

	why = aior_blob_check(bytes, size);
	if (why)
		fail("%s", why);
	memcpy(&header, bytes, sizeof(header));
	callgraph_set_frame(graph, CALLGRAPH_INDIRECT, header.stack);
	free(bytes);
}

int main(int argc, char **argv)
{
	struct callgraph graph = {0};
	const char *path = NULL;
	char *text;
	size_t size;
	int option;

	while ((option = getopt(argc, argv, "c:g:o:")) != -1) {
		switch (option) {
		case 'c':
			read_called_blob(&graph, optarg);
			break;
		case 'g':
			text = (char *)read_file(optarg, &size);
			if (callgraph_read(&graph, text))
				fail("not a call graph of gcc's (-fcallgraph-info=su)");
			free(text);
			break;
		case 'o':
			path = optarg;
			break;
		default:
			optind = argc;
		}
	}
	if (!path || optind + 1 != argc) {
		fprintf(stderr, "usage: mkblob [-g CALLGRAPH]... [-c CALLED-BLOB] -o BLOB ELF\n");
		return 2;
	}
	output = path;
	make(argv[optind], &graph);
	callgraph_free(&graph);
	return 0;
}
