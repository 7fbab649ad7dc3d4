/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "headers.h"

/* The fields of both classes' structures have the same names, in another order and size. */
#define NARROW(field) .field = (__typeof__(((narrow *)0)->field))wide.field

static size_t put(void *to, unsigned char class, const void *wide, size_t wide_size,
    const void *narrow, size_t narrow_size)
{
	size_t size = class == ELFCLASS64 ? wide_size : narrow_size;

	memcpy(to, class == ELFCLASS64 ? wide : narrow, size);
	return size;
}

size_t aior_elf_header(void *to, unsigned char class, Elf64_Ehdr wide)
{
	typedef Elf32_Ehdr narrow;
	int is_64 = class == ELFCLASS64;

	memcpy(wide.e_ident, ELFMAG, SELFMAG);
	wide.e_ident[EI_CLASS] = class;
	wide.e_ident[EI_DATA] = ELFDATA2LSB;
	wide.e_ident[EI_VERSION] = EV_CURRENT;
	wide.e_version = EV_CURRENT;
	wide.e_ehsize = is_64 ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr);
	if (wide.e_phoff)
		wide.e_phentsize = is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	if (wide.e_shoff)
		wide.e_shentsize = is_64 ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr);

	narrow header = {NARROW(e_type), NARROW(e_machine), NARROW(e_version), NARROW(e_entry),
	    NARROW(e_phoff), NARROW(e_shoff), NARROW(e_flags), NARROW(e_ehsize),
	    NARROW(e_phentsize), NARROW(e_phnum), NARROW(e_shentsize), NARROW(e_shnum),
	    NARROW(e_shstrndx)};
	memcpy(header.e_ident, wide.e_ident, EI_NIDENT);
	return put(to, class, &wide, sizeof(wide), &header, sizeof(header));
}

size_t aior_elf_segment(void *to, unsigned char class, Elf64_Phdr wide)
{
	typedef Elf32_Phdr narrow;
	narrow segment = {NARROW(p_type), NARROW(p_offset), NARROW(p_vaddr), NARROW(p_paddr),
	    NARROW(p_filesz), NARROW(p_memsz), NARROW(p_flags), NARROW(p_align)};

	return put(to, class, &wide, sizeof(wide), &segment, sizeof(segment));
}

size_t aior_elf_section(void *to, unsigned char class, Elf64_Shdr wide)
{
	typedef Elf32_Shdr narrow;
	narrow section = {NARROW(sh_name), NARROW(sh_type), NARROW(sh_flags), NARROW(sh_addr),
	    NARROW(sh_offset), NARROW(sh_size), NARROW(sh_link), NARROW(sh_info),
	    NARROW(sh_addralign), NARROW(sh_entsize)};

	return put(to, class, &wide, sizeof(wide), &section, sizeof(section));
}

size_t aior_elf_symbol(void *to, unsigned char class, Elf64_Sym wide)
{
	typedef Elf32_Sym narrow;
	narrow symbol = {NARROW(st_name), NARROW(st_value), NARROW(st_size), NARROW(st_info),
	    NARROW(st_other), NARROW(st_shndx)};

	return put(to, class, &wide, sizeof(wide), &symbol, sizeof(symbol));
}
