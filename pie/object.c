/* SPDX-License-Identifier: MIT */
/* A blob as a relocatable object: what `ld -r` would make of it, of either ELF class. */
#include <string.h>

#include "headers.h"
#include "names.h"
#include "object.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* The sections of a relocatable object, in file order. */
enum { NONE, TEXT, SYMTAB, STRTAB, SHSTRTAB, NOTE, SECTIONS };

/* An object being laid out: both classes have the same parts, with the same fields. */
struct object {
	unsigned char bytes[AIOR_BLOB_MAX + 4096];
	size_t size;
	unsigned char class;
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
	object->size +=
	    aior_elf_symbol(object->bytes + object->size, object->class, (Elf64_Sym){0});
	for (size_t i = 0; i < COUNT(symbols); i++) {
		Elf64_Sym sym = {
		    .st_name = add_name(object, prefix, symbols[i].suffix),
		    .st_info = ELF64_ST_INFO(STB_GLOBAL, symbols[i].type),
		    .st_other = STV_HIDDEN,
		    .st_shndx = symbols[i].section,
		    .st_value = symbols[i].value,
		    .st_size = symbols[i].size,
		};

		object->size += aior_elf_symbol(object->bytes + object->size, object->class, sym);
	}
	table->sh_size = object->size - table->sh_offset;
	table->sh_link = STRTAB;
	table->sh_info = 1; /* the first global one */
	table->sh_addralign = 8;
	table->sh_entsize = object->class == ELFCLASS64 ? sizeof(Elf64_Sym) : sizeof(Elf32_Sym);
}

static void add_names(struct object *object, unsigned i)
{
	object->sections[i].sh_offset = object->size;
	object->sections[i].sh_size = object->names_size;
	object->sections[i].sh_addralign = 1;
	append(object, object->names, object->names_size);
}

int aior_object_write(FILE *out, const struct aior_blob *header, const struct aior_arch_elf *arch)
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
	struct object object = {.names_size = 1, .class = arch->class};
	Elf64_Ehdr elf = {
	    .e_type = ET_REL,
	    .e_machine = arch->machine,
	    .e_flags = arch->flags,
	    .e_shnum = SECTIONS,
	    .e_shstrndx = SHSTRTAB,
	};

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
	elf.e_shoff = object.size;
	for (unsigned i = 0; i < SECTIONS; i++)
		object.size +=
		    aior_elf_section(object.bytes + object.size, arch->class, object.sections[i]);
	aior_elf_header(object.bytes, arch->class, elf);
	fwrite(object.bytes, 1, object.size, out);
	return ferror(out) ? -1 : 0;
}
