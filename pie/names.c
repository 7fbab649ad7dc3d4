/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "archs.h"
#include "names.h"
#include "restorer.h"

static const struct {
	const char *name;
	uint32_t number;
	struct aior_arch_elf elf;
} archs[] = {
#define ROW(name, number, machine, class, flags) {#name, number, {machine, class, flags}},
    AIOR_ARCHS(ROW)
#undef ROW
};

static const char *const ops[] = {
    [AIOR_OP_RESTORE] = "restore",
    [AIOR_OP_STAGE] = "stage",
    [AIOR_OP_RUN] = "run",
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

const char *aior_arch_name(uint32_t arch)
{
	for (size_t i = 0; i < COUNT(archs); i++)
		if (archs[i].number == arch)
			return archs[i].name;
	return NULL;
}

const char *aior_arch_text(uint32_t arch)
{
	const char *name = aior_arch_name(arch);

	return name ? name : "an unknown machine";
}

const struct aior_arch_elf *aior_arch_elf(uint32_t arch)
{
	for (size_t i = 0; i < COUNT(archs); i++)
		if (archs[i].number == arch)
			return &archs[i].elf;
	return NULL;
}

uint32_t aior_arch_of_elf(uint16_t machine, unsigned char class)
{
	for (size_t i = 0; i < COUNT(archs); i++)
		if (archs[i].elf.machine == machine && archs[i].elf.class == class)
			return archs[i].number;
	return 0;
}

uint32_t aior_arch_number(const char *name)
{
	for (size_t i = 0; i < COUNT(archs); i++)
		if (!strcmp(archs[i].name, name))
			return archs[i].number;
	return 0;
}

const char *aior_op_name(uint32_t op)
{
	return op < COUNT(ops) ? ops[op] : NULL;
}

uint32_t aior_op_number(const char *name)
{
	for (uint32_t op = 0; op < COUNT(ops); op++)
		if (ops[op] && !strcmp(ops[op], name))
			return op;
	return 0;
}
