/* SPDX-License-Identifier: MIT */
/*
 * A blob in the forms that embedders take it in. All of them say the same: the bytes, where to
 * enter, what it needs, which contract it keeps.
 */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "contract.h"
#include "emit.h"
#include "languages.h"
#include "names.h"
#include "object.h"
#include "restorer.h"

uint32_t aior_blob_crc32(const void *bytes, size_t size)
{
	const unsigned char *byte = bytes;
	uint32_t crc = ~0u;

	for (size_t i = 0; i < size; i++) {
		crc ^= byte[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return ~crc;
}

const char *aior_blob_check(const void *bytes, size_t size)
{
	unsigned char copy[AIOR_BLOB_MAX];
	struct aior_blob header;
	uint32_t crc32;

	if (size < sizeof(header) || memcmp(bytes, AIOR_BLOB_MAGIC, sizeof(header.magic)))
		return "not a blob";
	memcpy(&header, bytes, sizeof(header));
	if (header.size != size || size > sizeof(copy))
		return "not of the size that its header says";
	if (!aior_arch_name(header.arch) || !aior_op_name(header.op))
		return "of an architecture or operation that is not known";
	crc32 = header.crc32;
	header.crc32 = 0;
	memcpy(copy, bytes, size);
	memcpy(copy, &header, sizeof(header));
	if (aior_blob_crc32(copy, size) != crc32)
		return "damaged: its checksum is another";
	return NULL;
}

static int done(FILE *out)
{
	return ferror(out) ? -1 : 0;
}

static int write_bin(FILE *out, const void *blob)
{
	const struct aior_blob *header = blob;

	fwrite(blob, 1, header->size, out);
	return done(out);
}

static void upper(char *to, size_t room, const char *op, const char *arch)
{
	snprintf(to, room, "AIOR_%s_%s", op, arch);
	for (; *to; to++)
		*to = (char)toupper((unsigned char)*to);
}

static int write_c(FILE *out, const void *blob)
{
	const struct aior_blob *header = blob;
	const char *op = aior_op_name(header->op), *arch = aior_arch_name(header->arch);
	const unsigned char *byte = blob;
	char prefix[64];

	upper(prefix, sizeof(prefix), op, arch);
	fprintf(out,
	    "/* SPDX-License-Identifier: MIT */\n"
	    "/* The %s blob for %s, made by aio-restorer; see aio-restorer-blob(7). */\n"
	    "#ifndef %s_H\n#define %s_H\n\n",
	    op, arch, prefix, prefix);
#define ROW(field)                                                                                 \
	{                                                                                          \
		char name[sizeof(prefix)];                                                         \
		upper(name, sizeof(name), #field, "");                                             \
		fprintf(out, "#define %s_%.*s 0x%xu\n", prefix, (int)strlen(name) - 6, name + 5,   \
		    (unsigned)header->field);                                                      \
	}
	CONTRACT_FACTS(ROW)
#undef ROW
	fprintf(out, "\nstatic const unsigned char aior_%s_%s[%u] = {", op, arch, header->size);
	for (uint32_t i = 0; i < header->size; i++)
		fprintf(out, "%s0x%02x,", i % 16 ? " " : "\n\t", byte[i]);
	fprintf(out, "\n};\n\n#endif\n");
	return done(out);
}

static void write_structures(FILE *out)
{
	const char *type = "";

	fprintf(out, "  \"structures\": {");
	for (const struct contract_field *field = aior_contract_fields; field->type; field++) {
		if (strcmp(type, field->type)) {
			fprintf(out, "%s\n    \"%s\": {\"size\": %zu, \"fields\": {",
			    *type ? "}}," : "", field->type, field->type_size);
			type = field->type;
		} else {
			fprintf(out, ",");
		}
		fprintf(out, "\n      \"%s\": {\"offset\": %zu, \"size\": %zu}", field->field,
		    field->offset, field->size);
	}
	fprintf(out, "}}\n  },\n");
}

static int write_json(FILE *out, const void *blob)
{
	const struct aior_blob *header = blob;
	const unsigned char *byte = blob;

	fprintf(out, "{\n  \"format\": 1,\n  \"arch\": \"%s\",\n  \"blob\": \"%s\",\n",
	    aior_arch_name(header->arch), aior_op_name(header->op));
#define ROW(field) fprintf(out, "  \"" #field "\": %u,\n", (unsigned)header->field);
	CONTRACT_FACTS(ROW)
#undef ROW
	fprintf(out, "  \"constants\": {");
	for (const struct contract_constant *constant = aior_contract_constants; constant->name;
	     constant++)
		fprintf(out, "%s\n    \"%s\": %u", constant == aior_contract_constants ? "" : ",",
		    constant->name, (unsigned)constant->value);
	fprintf(out, "\n  },\n");
	write_structures(out);
	fprintf(out, "  \"bytes\": \"");
	for (uint32_t i = 0; i < header->size; i++)
		fprintf(out, "%02x", byte[i]);
	fprintf(out, "\"\n}\n");
	return done(out);
}

static int write_obj(FILE *out, const void *blob)
{
	const struct aior_blob *header = blob;

	return aior_object_write(out, header, aior_arch_elf(header->arch));
}

const struct blob_format aior_blob_formats[] = {
    {"bin", "the bytes, to be copied into a target", write_bin},
    {"c", "a C header: the bytes, and what an embedder must know of them", write_c},
    {"obj", "a relocatable object, to be linked into another blob or program", write_obj},
    {"json", "the bytes and all facts, with every field's offset, for other languages", write_json},
    {"rust", "a Rust module: the bytes, the structures and constants", aior_write_rust},
    {"go", "the same as a Go package", aior_write_go},
    {"asm", "the same as an include file for GNU as", aior_write_gas},
    {"nasm", "the same as an include file for NASM", aior_write_nasm},
    {NULL, NULL, NULL},
};
