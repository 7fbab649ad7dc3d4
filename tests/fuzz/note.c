/* SPDX-License-Identifier: MIT */
/*
 * The notes of a core whose headers and rings are sound: those of tests/corpus, of each architecture. The first byte
 * says which; the others are its notes, or, if bit 7 is set, what our own one holds.
 */
#include <elf.h>

#include "image.h"

#define CORES 4
#define NOTE_HEADER 20 /* with the name, AIOR */

static struct core {
	uint8_t *bytes;
	size_t size;
	int is_64;
} cores[CORES];

static void read_core(struct core *core, const char *arch)
{
	const char *folder = getenv("FUZZ_CORES");
	char path[4096];
	FILE *file;

	snprintf(path, sizeof(path), "%s/abi1-%s.core", folder ? folder : "tests/corpus", arch);
	file = fopen(path, "rb");
	core->bytes = malloc(1 << 16);
	core->size = file && core->bytes ? fread(core->bytes, 1, 1 << 16, file) : 0;
	if (!core->size) {
		perror(path);
		exit(2);
	}
	fclose(file);
	core->is_64 = core->bytes[EI_CLASS] == ELFCLASS64;
}

/* The first segment of each holds its notes. */
static void name_notes(const struct core *core, uint8_t *bytes, uint64_t offset, uint64_t size)
{
	Elf64_Phdr *wide = (void *)(bytes + sizeof(Elf64_Ehdr));
	Elf32_Phdr *narrow = (void *)(bytes + sizeof(Elf32_Ehdr));

	if (core->is_64) {
		wide->p_offset = offset;
		wide->p_filesz = size;
	} else {
		narrow->p_offset = (uint32_t)offset;
		narrow->p_filesz = (uint32_t)size;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[CORES] = {"x86_64", "i386", "aarch64", "riscv64"};
	static struct fuzz_file file;
	struct aior_error error = {0};
	const struct core *core;
	struct aior_image image;
	size_t at, header;
	uint8_t *bytes;

	for (int i = 0; !cores[CORES - 1].size && i < CORES; i++)
		read_core(&cores[i], names[i]);
	if (!size)
		return 0;
	core = &cores[data[0] % CORES];
	header = data[0] & 0x80 ? NOTE_HEADER : 0;
	at = core->size;
	data++;
	size--;
	bytes = malloc(at + header + size + 4);
	if (!bytes)
		return 0;
	memcpy(bytes, core->bytes, at);
	if (header) {
		const Elf64_Nhdr note = {sizeof(AIOR_NOTE_NAME), (uint32_t)size, AIOR_NOTE_TABLE};

		memset(bytes + at, 0, header);
		memcpy(bytes + at, &note, sizeof(note));
		memcpy(bytes + at + sizeof(note), AIOR_NOTE_NAME, sizeof(AIOR_NOTE_NAME));
	}
	memcpy(bytes + at + header, data, size);
	memset(bytes + at + header + size, 0, 4);
	name_notes(core, bytes, at, header + size + (header ? 3 & (0 - size) : 0));
	if (core_read(fuzz_write(&file, bytes, at + header + size + 4), &image, &error)) {
		fuzz_check_error(&error);
	} else {
		fuzz_image(&image);
		aior_image_free(&image);
	}
	free(bytes);
	return 0;
}
