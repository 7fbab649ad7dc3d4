/* SPDX-License-Identifier: MIT */
/* A blob as a relocatable object: what `ld -r` would make of it, of either ELF class. */
#include <elf.h>
#include <string.h>

#include "emit.h"
#include "object.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* The sections of a relocatable object, in file order. */
enum { NONE, TEXT, SYMTAB, STRTAB, SHSTRTAB, NOTE, SECTIONS };

/* An object being laid out: both classes have the same parts, with the same fields. */
struct object {
	unsigned char bytes[AIOR_BLOB_MAX + 4096];
	size_t size;
	int is_64;
	Elf64_Shdr sections[SECTIONS];
	char names[512];
	uint32_t names_size;
};

static void append(struct object *object, const void *data, size_t size)
{
	memcpy(object->bytes + object->size, data, size);
	object->size += size;
}

static void align(struct object *object, size_t to)
{
	while (object->size % to)
		object->bytes[object->size++] = 0;
}

static uint32_t add_name(struct object *object, const char *prefix, const char *name)
{
	uint32_t at = object->names_size;

	object->names_size += 1 + (uint32_t)snprintf(object->names + at, sizeof(object->names) - at,
				      "%s%s", prefix, name);
	return at;
}

#define NARROW(to, from, field, type) ((to).field = (type)(from).field)

static void append_symbol(struct object *object, Elf64_Sym wide)
{
	Elf32_Sym narrow;

	NARROW(narrow, wide, st_name, Elf32_Word);
	NARROW(narrow, wide, st_value, Elf32_Addr);
	NARROW(narrow, wide, st_size, Elf32_Word);
	NARROW(narrow, wide, st_info, unsigned char);
	NARROW(narrow, wide, st_other, unsigned char);
	NARROW(narrow, wide, st_shndx, Elf32_Section);
	if (object->is_64)
		append(object, &wide, sizeof(wide));
	else
		append(object, &narrow, sizeof(narrow));
}

static void append_section(struct object *object, Elf64_Shdr wide)
{
	Elf32_Shdr narrow;

	NARROW(narrow, wide, sh_name, Elf32_Word);
	NARROW(narrow, wide, sh_type, Elf32_Word);
	NARROW(narrow, wide, sh_flags, Elf32_Word);
	NARROW(narrow, wide, sh_addr, Elf32_Addr);
	NARROW(narrow, wide, sh_offset, Elf32_Off);
	NARROW(narrow, wide, sh_size, Elf32_Word);
	NARROW(narrow, wide, sh_link, Elf32_Word);
	NARROW(narrow, wide, sh_info, Elf32_Word);
	NARROW(narrow, wide, sh_addralign, Elf32_Word);
	NARROW(narrow, wide, sh_entsize, Elf32_Word);
	if (object->is_64)
		append(object, &wide, sizeof(wide));
	else
		append(object, &narrow, sizeof(narrow));
}

static void put_header(struct object *object, uint16_t machine, unsigned char class, size_t shoff)
{
	Elf64_Ehdr wide = {
	    .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, class, ELFDATA2LSB, EV_CURRENT},
	    .e_type = ET_REL,
	    .e_machine = machine,
	    .e_version = EV_CURRENT,
	    .e_shoff = shoff,
	    .e_ehsize = sizeof(Elf64_Ehdr),
	    .e_shentsize = sizeof(Elf64_Shdr),
	    .e_shnum = SECTIONS,
	    .e_shstrndx = SHSTRTAB,
	};
	Elf32_Ehdr narrow = {
	    .e_type = ET_REL,
	    .e_machine = machine,
	    .e_version = EV_CURRENT,
	    .e_shoff = (Elf32_Off)shoff,
	    .e_ehsize = sizeof(Elf32_Ehdr),
	    .e_shentsize = sizeof(Elf32_Shdr),
	    .e_shnum = SECTIONS,
	    .e_shstrndx = SHSTRTAB,
	};

	memcpy(narrow.e_ident, wide.e_ident, sizeof(narrow.e_ident));
	if (object->is_64)
		memcpy(object->bytes, &wide, sizeof(wide));
	else
		memcpy(object->bytes, &narrow, sizeof(narrow));
}

/*
 * Symbols: the blob, its entries, and as absolute symbols what it needs. All are hidden, so that
 * another position-independent blob can be linked with it and needs no global offset table.
 */
static void add_symbols(struct object *object, const struct aior_blob *header)
{
	const struct {
		const char *suffix;
		uint32_t value, size;
		unsigned char type;
		uint16_t section;
	} symbols[] = {
	    {"blob", 0, header->size, STT_OBJECT, TEXT},
	    {"call", header->call, header->jump - header->call, STT_FUNC, TEXT},
	    {"jump", header->jump, 0, STT_FUNC, TEXT},
	    {"park", header->park, header->park_end - header->park, STT_FUNC, TEXT},
	    {"size", header->size, 0, STT_NOTYPE, SHN_ABS},
	    {"stack", header->stack, 0, STT_NOTYPE, SHN_ABS},
	    {"scratch", header->scratch, 0, STT_NOTYPE, SHN_ABS},
	};
	Elf64_Shdr *table = &object->sections[SYMTAB];
	char prefix[32];

	snprintf(prefix, sizeof(prefix), "aior_%s_", aior_op_name(header->op));
	table->sh_offset = object->size;
	append_symbol(object, (Elf64_Sym){0});
	for (size_t i = 0; i < COUNT(symbols); i++) {
		Elf64_Sym sym = {
		    .st_name = add_name(object, prefix, symbols[i].suffix),
		    .st_info = ELF64_ST_INFO(STB_GLOBAL, symbols[i].type),
		    .st_other = STV_HIDDEN,
		    .st_shndx = symbols[i].section,
		    .st_value = symbols[i].value,
		    .st_size = symbols[i].size,
		};

		append_symbol(object, sym);
	}
	table->sh_size = object->size - table->sh_offset;
	table->sh_link = STRTAB;
	table->sh_info = 1; /* the first global one */
	table->sh_addralign = 8;
	table->sh_entsize = object->is_64 ? sizeof(Elf64_Sym) : sizeof(Elf32_Sym);
}

static void add_names(struct object *object, unsigned i)
{
	object->sections[i].sh_offset = object->size;
	object->sections[i].sh_size = object->names_size;
	object->sections[i].sh_addralign = 1;
	append(object, object->names, object->names_size);
}

int aior_object_write(
    FILE *out, const struct aior_blob *header, uint16_t machine, unsigned char class)
{
	static const struct {
		const char *name;
		uint32_t type;
	} sections[SECTIONS] = {
	    [TEXT] = {".text.aior_", SHT_PROGBITS},
	    [SYMTAB] = {".symtab", SHT_SYMTAB},
	    [STRTAB] = {".strtab", SHT_STRTAB},
	    [SHSTRTAB] = {".shstrtab", SHT_STRTAB},
	    [NOTE] = {".note.GNU-stack", SHT_PROGBITS},
	};
	struct object object = {.names_size = 1, .is_64 = class == ELFCLASS64};
	size_t shoff;

	object.size = sizeof(Elf64_Ehdr);
	object.sections[TEXT] = (Elf64_Shdr){.sh_flags = SHF_ALLOC | SHF_EXECINSTR,
	    .sh_offset = object.size,
	    .sh_size = header->size,
	    .sh_addralign = 16};
	append(&object, header, header->size);
	align(&object, 8);
	add_symbols(&object, header);
	add_names(&object, STRTAB);
	object.names_size = 1;
	for (unsigned i = 1; i < SECTIONS; i++) {
		object.sections[i].sh_type = sections[i].type;
		object.sections[i].sh_name =
		    add_name(&object, sections[i].name, i == TEXT ? aior_op_name(header->op) : "");
	}
	object.sections[NOTE].sh_addralign = 1;
	add_names(&object, SHSTRTAB);
	align(&object, 8);
	shoff = object.size;
	for (unsigned i = 0; i < SECTIONS; i++)
		append_section(&object, object.sections[i]);
	put_header(&object, machine, class, shoff);
	fwrite(object.bytes, 1, object.size, out);
	return ferror(out) ? -1 : 0;
}
