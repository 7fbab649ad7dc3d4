/* SPDX-License-Identifier: MIT */
/* What a core says of itself, against what it holds (loader/core.c). */
#include "../../loader/core.c"

#include "proofs.h"

#undef aior_fail_image
int aior_fail_image(struct aior_error *error, const char *file, const char *format, ...)
{
	return -1;
}

struct aior_table nondet_table(void);

/* The records of an AIOR note that is taken lie in it. */
void prove_noted_records_are_inside(void)
{
	struct aior_image image = {.arch = any_u32()};
	struct core core = {.notes = {.table = nondet_table()}, .image = &image};
	const struct aior_table *table = &core.notes.table;

	suppose(!check_table(&core));
	holds(table->ring_stride >= sizeof(struct aior_ring_record));
	holds(table->rings <= table->total);
	holds((uint64_t)table->ring_count * table->ring_stride <= table->total - table->rings);
	holds(table->page_size >= 4096);
}

/* The descriptor of a note, and no byte behind it; of the length that it claims, no more than it has. */
void prove_a_note_is_taken_up_to_its_end(void)
{
	struct core core = {.header = {.e_ident = {[EI_CLASS] = ELFCLASS64}}};
	uint32_t len = any_u32();
	GElf_Nhdr note = {.n_namesz = any_u32(), .n_descsz = len, .n_type = any_u32()};
	unsigned char desc[112];
	const char name[8];

	suppose(len <= sizeof(desc));
	take_note(&core, &note, name, desc + sizeof(desc) - len);
	holds(core.notes.table.total <= len);
	holds(core.notes.files_len <= len);
}

#define SEGMENTS 2

/*
 * What is read of the file for an address of the process lies in the file, for all segments that read_segments() lets
 * pass.
 */
void prove_content_is_inside(void)
{
	struct segment segments[SEGMENTS];
	unsigned char file[4096];
	struct core core = {.size = any_u64(), .segment_count = any_u32()};
	uint64_t addr = any_u64(), len = any_u64();
	const unsigned char *content;

	core.segments = segments;
	core.data = file;
	suppose(core.segment_count <= SEGMENTS && core.size <= sizeof(file));
	for (size_t i = 0; i < SEGMENTS; i++) {
		struct segment *it = &segments[i];

		it->addr = any_u64();
		it->len = any_u64();
		it->offset = any_u64();
		it->in_file = any_u64();
		suppose(it->offset <= core.size && it->in_file <= core.size - it->offset);
		suppose(it->in_file <= it->len && it->addr + it->len >= it->addr);
		suppose(!i || segments[i - 1].addr + segments[i - 1].len <= it->addr);
	}
	content = content_of(&core, addr, len);
	if (content)
		holds(content >= file && len <= core.size - (uint64_t)(content - file));
}

/* (Some are taken: or all of that would be true of nothing.) */
void refute_no_note_is_taken(void)
{
	struct aior_image image = {.arch = any_u32()};
	struct core core = {.notes = {.table = nondet_table()}, .image = &image};

	holds(check_table(&core) || !core.notes.table.ring_count);
}
