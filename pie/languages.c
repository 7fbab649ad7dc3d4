/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <string.h>

#include "contract.h"
#include "languages.h"
#include "names.h"
#include "restorer.h"

/* What is written of each fact, constant or structure differs; the walks over them do not. */

#define EACH_CONSTANT(c) (const struct contract_constant *c = aior_contract_constants; c->name; c++)
#define EACH_FIELD(f) (const struct contract_field *f = aior_contract_fields; f->type; f++)

static int is_first(const struct contract_field *field)
{
	return field == aior_contract_fields || strcmp(field[-1].type, field->type);
}

static int is_last(const struct contract_field *field)
{
	return !field[1].type || strcmp(field[1].type, field->type);
}

/* How many elements an array has; 0: it is none. */
static unsigned elements(const struct contract_field *field)
{
	return field->element == field->size ? 0 : (unsigned)(field->size / field->element);
}

struct name {
	char text[64];
};

/* aior_ring_record: AiorRingRecord. */
static struct name camel(const char *name)
{
	struct name to;
	size_t len = 0;

	for (int starts = 1; *name && len < sizeof(to.text) - 1; name++) {
		if (*name != '_')
			to.text[len++] = (char)(starts ? toupper((unsigned char)*name) : *name);
		starts = *name == '_';
	}
	to.text[len] = '\0';
	return to;
}

/* What the blob and all that is said of it is called: aior_restore_x86_64, in small letters or large. */
static struct name blob_name(const struct aior_blob *header, int (*convert)(int))
{
	struct name to;

	snprintf(to.text, sizeof(to.text), "aior_%s_%s", aior_op_name(header->op),
	    aior_arch_name(header->arch));
	for (char *c = to.text; *c; c++)
		*c = (char)convert((unsigned char)*c);
	return to;
}

static struct name upper(const char *name)
{
	struct name to;
	size_t len = 0;

	for (; *name && len < sizeof(to.text) - 1; name++)
		to.text[len++] = (char)toupper((unsigned char)*name);
	to.text[len] = '\0';
	return to;
}

static void write_bytes(FILE *out, const struct aior_blob *header, const char *indent)
{
	const unsigned char *byte = (const unsigned char *)header;

	for (uint32_t i = 0; i < header->size; i++)
		fprintf(out, "%s0x%02x%s", i % 16 ? " " : indent, byte[i],
		    i % 16 == 15 || i + 1 == header->size ? ",\n" : ",");
}

/* The same for assemblers, which want no comma at a line's end. */
static void write_byte_lines(FILE *out, const struct aior_blob *header, const char *directive)
{
	const unsigned char *byte = (const unsigned char *)header;

	for (uint32_t i = 0; i < header->size; i++)
		fprintf(out, "%s0x%02x%s", i % 16 ? ", " : directive, byte[i],
		    i % 16 == 15 || i + 1 == header->size ? "\n" : "");
}

/* ---- Rust ---- */

static void rust_type(
    FILE *out, const struct contract_field *field, const char *scalar, const char *array)
{
	char element[16];

	snprintf(element, sizeof(element), "%c%u", field->is_signed ? 'i' : 'u',
	    (unsigned)field->element * 8);
	fprintf(out, elements(field) ? array : scalar, element, elements(field));
}

/* A structure that is all zero, which is what its user begins with: not every array has a Default. */
static void rust_zero(FILE *out, const struct contract_field *field)
{
	const char *type = field->type;

	fprintf(out, "#[allow(dead_code)]\nimpl %s {\n    pub const ZERO: Self = Self {\n",
	    camel(type).text);
	for (; field->type && !strcmp(field->type, type); field++)
		fprintf(out, elements(field) ? "        %s: [0; %u],\n" : "        %s: 0,\n",
		    field->field, elements(field));
	fprintf(out, "    };\n}\n");
}

int aior_write_rust(FILE *out, const void *blob)
{
	const struct aior_blob *header = blob;
	const struct contract_field *first = aior_contract_fields;

	fprintf(out,
	    "// SPDX-License-Identifier: MIT\n"
	    "// The %s blob for %s, and the contract, made by aio-restorer; see "
	    "aio-restorer-blob(7).\n"
	    "// A module: `mod blob;`, or include!() in one. It needs no std.\n\n",
	    aior_op_name(header->op), aior_arch_name(header->arch));
	for
		EACH_CONSTANT(c)
	fprintf(out, "#[allow(dead_code)]\npub const %s: u32 = 0x%x;\n", c->name, c->value);
	for
		EACH_FIELD(field)
		{
			if (is_first(field)) {
				first = field;
				fprintf(out,
				    "\n#[allow(dead_code)]\n#[repr(C)]\n#[derive(Clone, Copy, "
				    "Debug)]\n"
				    "pub struct %s {\n",
				    camel(field->type).text);
			}
			fprintf(out, "    pub %s: ", field->field);
			rust_type(out, field, "%s,\n", "[%s; %u],\n");
			if (!is_last(field))
				continue;
			/* The fields come one behind the other, without a gap: so their sum says all. */
			fprintf(out,
			    "}\nconst _: () = assert!(core::mem::size_of::<%s>() == %zu);\n",
			    camel(field->type).text, field->type_size);
			rust_zero(out, first);
		}
	fprintf(out, "\n");
#define WRITE_FACT(field)                                                                          \
	fprintf(out, "#[allow(dead_code)]\npub const %s_%s: u32 = 0x%x;\n",                        \
	    blob_name(header, toupper).text, upper(#field).text, (unsigned)header->field);
	CONTRACT_FACTS(WRITE_FACT)
#undef WRITE_FACT
	fprintf(out, "\n#[allow(dead_code)]\npub static %s: [u8; %u] = [\n",
	    blob_name(header, toupper).text, header->size);
	write_bytes(out, header, "    ");
	fprintf(out,
	    "];\n// By a name that is the same on every architecture.\n"
	    "#[allow(unused_imports)]\npub use self::%s as BLOB;\n",
	    blob_name(header, toupper).text);
	return ferror(out) ? -1 : 0;
}

/* ---- Go ---- */

/* The width that gofmt gives the names of a structure's fields. */
static int go_width(const struct contract_field *field)
{
	const char *type = field->type;
	size_t width = 0;

	for (; field->type && !strcmp(field->type, type); field++)
		if (width < strlen(camel(field->field).text))
			width = strlen(camel(field->field).text);
	return (int)width;
}

static void go_field(FILE *out, const struct contract_field *field, int width)
{
	fprintf(out, "\t%-*s ", width, camel(field->field).text);
	if (elements(field))
		fprintf(out, "[%u]", elements(field));
	fprintf(out, "%s%u\n", field->is_signed ? "int" : "uint", (unsigned)field->element * 8);
}

int aior_write_go(FILE *out, const void *blob)
{
	const struct aior_blob *header = blob;
	int width = 0;

	fprintf(out,
	    "// Code generated by aio-restorer emit; DO NOT EDIT.\n"
	    "// SPDX-License-Identifier: MIT\n\n"
	    "// Package aior%s is the %s blob for %s, and the contract; see "
	    "aio-restorer-blob(7).\n"
	    "package aior%s\n\nimport \"unsafe\"\n\n",
	    aior_op_name(header->op), aior_op_name(header->op), aior_arch_name(header->arch),
	    aior_op_name(header->op));
	for
		EACH_CONSTANT(c)
	fprintf(out, "const %s = 0x%x\n", c->name, c->value);
	for
		EACH_FIELD(field)
		{
			if (is_first(field)) {
				width = go_width(field);
				fprintf(out, "\ntype %s struct {\n", camel(field->type).text);
			}
			go_field(out, field, width);
			if (is_last(field))
				fprintf(out, "}\n");
		}
	fprintf(out, "\n// What does not lie where a blob looks for it does not compile.\n");
	for
		EACH_FIELD(field)
		{
			struct name type = camel(field->type);

			if (is_first(field))
				fprintf(out, "var _ [%zu]byte = [unsafe.Sizeof(%s{})]byte{}\n",
				    field->type_size, type.text);
			fprintf(out, "var _ [%zu]byte = [unsafe.Offsetof(%s{}.%s)]byte{}\n",
			    field->offset, type.text, camel(field->field).text);
		}
	fprintf(out, "\n");
#define WRITE_FACT(field)                                                                          \
	fprintf(out, "const %s_%s = 0x%x\n", blob_name(header, toupper).text, upper(#field).text,  \
	    (unsigned)header->field);
	CONTRACT_FACTS(WRITE_FACT)
#undef WRITE_FACT
	fprintf(out, "\nvar %s = [%u]byte{\n", blob_name(header, toupper).text, header->size);
	write_bytes(out, header, "\t");
	fprintf(out,
	    "}\n\n// Blob is the same, by a name that every architecture has.\n"
	    "var Blob = %s[:]\n",
	    blob_name(header, toupper).text);
	return ferror(out) ? -1 : 0;
}

/* ---- assemblers ---- */

int aior_write_gas(FILE *out, const void *blob)
{
	const struct aior_blob *header = blob;
	struct name small = blob_name(header, tolower);

	fprintf(out,
	    "/* SPDX-License-Identifier: MIT */\n"
	    "/*\n"
	    " * The %s blob for %s, and the contract, made by aio-restorer; see "
	    "aio-restorer-blob(7).\n"
	    " * STRUCTURE.FIELD is a field's offset, STRUCTURE_size the structure's size. The "
	    "bytes "
	    "go where this\n"
	    " * is included, from %s up to %s_end.\n"
	    " */\n\n"
	    "\t.ifndef AIOR_ABI\n",
	    aior_op_name(header->op), aior_arch_name(header->arch), small.text, small.text);
	for
		EACH_CONSTANT(c)
	fprintf(out, "\t.equ %s, 0x%x\n", c->name, c->value);
	for
		EACH_FIELD(field)
		{
			fprintf(out, "%s\t.equ %s.%s, %zu\n", is_first(field) ? "\n" : "",
			    field->type, field->field, field->offset);
			if (is_last(field))
				fprintf(
				    out, "\t.equ %s_size, %zu\n", field->type, field->type_size);
		}
	fprintf(out, "\t.endif\n\n");
#define WRITE_FACT(field)                                                                          \
	fprintf(out, "\t.equ %s_%s, 0x%x\n", blob_name(header, toupper).text, upper(#field).text,  \
	    (unsigned)header->field);
	CONTRACT_FACTS(WRITE_FACT)
#undef WRITE_FACT
	fprintf(out, "\n\t.balign 16\n%s:\n", small.text);
	write_byte_lines(out, header, "\t.byte ");
	fprintf(out, "%s_end:\n", small.text);
	return ferror(out) ? -1 : 0;
}

static void nasm_field(FILE *out, const struct contract_field *field)
{
	static const char reserve[] = {[1] = 'b', [4] = 'd', [8] = 'q'};

	fprintf(out, ".%s: res%c %u\n", field->field, reserve[field->element],
	    elements(field) ? elements(field) : 1);
}

int aior_write_nasm(FILE *out, const void *blob)
{
	const struct aior_blob *header = blob;
	struct name small = blob_name(header, tolower);

	fprintf(out,
	    "; SPDX-License-Identifier: MIT\n"
	    "; The %s blob for %s, and the contract, made by aio-restorer; see "
	    "aio-restorer-blob(7).\n"
	    "; STRUCTURE.FIELD is a field's offset, STRUCTURE_size the structure's size. The bytes "
	    "go where this\n"
	    "; is included, from %s up to %s_end.\n\n"
	    "%%ifndef AIOR_CONTRACT\n%%define AIOR_CONTRACT\n\n",
	    aior_op_name(header->op), aior_arch_name(header->arch), small.text, small.text);
	for
		EACH_CONSTANT(c)
	fprintf(out, "%s equ 0x%x\n", c->name, c->value);
	for
		EACH_FIELD(field)
		{
			if (is_first(field))
				fprintf(out, "\nstruc %s\n", field->type);
			nasm_field(out, field);
			if (is_last(field))
				fprintf(out, "endstruc\n");
		}
	fprintf(out, "\n; What does not lie where a blob looks for it is not assembled.\n");
	for
		EACH_FIELD(field)
		{
			if (is_first(field))
				fprintf(out, "times -!!(%s_size - %zu) nop\n", field->type,
				    field->type_size);
			fprintf(out, "times -!!(%s.%s - %zu) nop\n", field->type, field->field,
			    field->offset);
		}
	fprintf(out, "\n%%endif\n\n");
#define WRITE_FACT(field)                                                                          \
	fprintf(out, "%s_%s equ 0x%x\n", blob_name(header, toupper).text, upper(#field).text,      \
	    (unsigned)header->field);
	CONTRACT_FACTS(WRITE_FACT)
#undef WRITE_FACT
	fprintf(out, "\nalign 16\n%s:\n", small.text);
	write_byte_lines(out, header, "\tdb ");
	fprintf(out, "%s_end:\n", small.text);
	return ferror(out) ? -1 : 0;
}
