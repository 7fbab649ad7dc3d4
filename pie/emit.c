/* SPDX-License-Identifier: MIT */
/*
 * A blob in the forms that embedders take it in. All of them say the same: the bytes, where to
 * enter, what it needs, which contract it keeps.
 */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "emit.h"
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

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* What the header says, as every form repeats it. */
#define FACTS(X)                                                                                   \
	X(abi)                                                                                     \
	X(size)                                                                                    \
	X(call)                                                                                    \
	X(jump)                                                                                    \
	X(park)                                                                                    \
	X(park_end)                                                                                \
	X(stack)                                                                                   \
	X(scratch)                                                                                 \
	X(flags)                                                                                   \
	X(crc32)

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
	FACTS(ROW)
#undef ROW
	fprintf(out, "\nstatic const unsigned char aior_%s_%s[%u] = {", op, arch, header->size);
	for (uint32_t i = 0; i < header->size; i++)
		fprintf(out, "%s0x%02x,", i % 16 ? " " : "\n\t", byte[i]);
	fprintf(out, "\n};\n\n#endif\n");
	return done(out);
}

/* The fields of the contract's structures: X(structure, field). */
#define ARGS(X)                                                                                    \
	X(aior_args, abi)                                                                          \
	X(aior_args, size)                                                                         \
	X(aior_args, flags)                                                                        \
	X(aior_args, end)                                                                          \
	X(aior_args, rings)                                                                        \
	X(aior_args, ring_count)                                                                   \
	X(aior_args, ring_stride)                                                                  \
	X(aior_args, polls)                                                                        \
	X(aior_args, poll_count)                                                                   \
	X(aior_args, poll_room)                                                                    \
	X(aior_args, poll_stride)                                                                  \
	X(aior_args, page_size)                                                                    \
	X(aior_args, scratch)                                                                      \
	X(aior_args, scratch_len)                                                                  \
	X(aior_args, sigframe)                                                                     \
	X(aior_args, fd)                                                                           \
	X(aior_args, helpers)                                                                      \
	X(aior_args, capsule)                                                                      \
	X(aior_args, reserved)                                                                     \
	X(aior_args, err)                                                                          \
	X(aior_args, step)                                                                         \
	X(aior_args, ring)                                                                         \
	X(aior_args, polls_lost)                                                                   \
	X(aior_args, sigmask)                                                                      \
	X(aior_args, reserved_out)

#define RING(X)                                                                                    \
	X(aior_ring_record, addr)                                                                  \
	X(aior_ring_record, len)                                                                   \
	X(aior_ring_record, staged)                                                                \
	X(aior_ring_record, aside)                                                                 \
	X(aior_ring_record, room)                                                                  \
	X(aior_ring_record, new_len)                                                               \
	X(aior_ring_record, flags)                                                                 \
	X(aior_ring_record, prot)                                                                  \
	X(aior_ring_record, err)                                                                   \
	X(aior_ring_record, step)                                                                  \
	X(aior_ring_record, head)                                                                  \
	X(aior_ring_record, tail)                                                                  \
	X(aior_ring_record, n)                                                                     \
	X(aior_ring_record, reserved)

#define POLL(X)                                                                                    \
	X(aior_poll_record, ring)                                                                  \
	X(aior_poll_record, iocb)                                                                  \
	X(aior_poll_record, data)                                                                  \
	X(aior_poll_record, flags)                                                                 \
	X(aior_poll_record, err)

#define THREAD(X)                                                                                  \
	X(aior_thread_record, stack)                                                               \
	X(aior_thread_record, start_time)                                                          \
	X(aior_thread_record, stopped_at)                                                          \
	X(aior_thread_record, sigmask)                                                             \
	X(aior_thread_record, scratch)                                                             \
	X(aior_thread_record, scratch_len)                                                         \
	X(aior_thread_record, ring)                                                                \
	X(aior_thread_record, events)                                                              \
	X(aior_thread_record, taken)                                                               \
	X(aior_thread_record, tid)                                                                 \
	X(aior_thread_record, flags)                                                               \
	X(aior_thread_record, call)                                                                \
	X(aior_thread_record, regs_len)                                                            \
	X(aior_thread_record, reserved)                                                            \
	X(aior_thread_record, since)                                                               \
	X(aior_thread_record, regs)

#define TABLE(X)                                                                                   \
	X(aior_table, magic)                                                                       \
	X(aior_table, abi)                                                                         \
	X(aior_table, size)                                                                        \
	X(aior_table, total)                                                                       \
	X(aior_table, state)                                                                       \
	X(aior_table, arch)                                                                        \
	X(aior_table, page_size)                                                                   \
	X(aior_table, pid)                                                                         \
	X(aior_table, rings)                                                                       \
	X(aior_table, ring_count)                                                                  \
	X(aior_table, ring_stride)                                                                 \
	X(aior_table, polls)                                                                       \
	X(aior_table, poll_count)                                                                  \
	X(aior_table, poll_stride)                                                                 \
	X(aior_table, threads)                                                                     \
	X(aior_table, thread_count)                                                                \
	X(aior_table, thread_stride)                                                               \
	X(aior_table, possible_cpus)                                                               \
	X(aior_table, reserved)

#define BLOB(X)                                                                                    \
	X(aior_blob, magic)                                                                        \
	X(aior_blob, abi)                                                                          \
	X(aior_blob, arch)                                                                         \
	X(aior_blob, op)                                                                           \
	X(aior_blob, size)                                                                         \
	X(aior_blob, call)                                                                         \
	X(aior_blob, jump)                                                                         \
	X(aior_blob, park)                                                                         \
	X(aior_blob, park_end)                                                                     \
	X(aior_blob, stack)                                                                        \
	X(aior_blob, scratch)                                                                      \
	X(aior_blob, flags)                                                                        \
	X(aior_blob, crc32)                                                                        \
	X(aior_blob, reserved)

/* No field is missing from the lists above: their sizes add up. */
#define SIZE(type, field) +sizeof(((struct type *)0)->field)
_Static_assert(0 ARGS(SIZE) == sizeof(struct aior_args), "ARGS");
_Static_assert(0 RING(SIZE) == sizeof(struct aior_ring_record), "RING");
_Static_assert(0 POLL(SIZE) == sizeof(struct aior_poll_record), "POLL");
_Static_assert(0 THREAD(SIZE) == sizeof(struct aior_thread_record), "THREAD");
_Static_assert(0 TABLE(SIZE) == sizeof(struct aior_table), "TABLE");
_Static_assert(0 BLOB(SIZE) == sizeof(struct aior_blob), "BLOB");

static const struct {
	const char *type, *field;
	size_t type_size, offset, size;
} fields[] = {
#define FIELD(type, field)                                                                         \
	{#type, #field, sizeof(struct type), offsetof(struct type, field),                         \
	    sizeof(((struct type *)0)->field)},
    ARGS(FIELD) RING(FIELD) POLL(FIELD) THREAD(FIELD) TABLE(FIELD) BLOB(FIELD)
#undef FIELD
};

static const struct {
	const char *name;
	uint32_t value;
} constants[] = {
#define CONSTANT(name)                                                                             \
	{                                                                                          \
#name, name                                                                        \
	}
    CONSTANT(AIOR_ABI),
    CONSTANT(AIOR_F_GROW),
    CONSTANT(AIOR_F_COMPACT),
    CONSTANT(AIOR_END_RETURN),
    CONSTANT(AIOR_END_PARK),
    CONSTANT(AIOR_END_SIGRETURN),
    CONSTANT(AIOR_STEP_NONE),
    CONSTANT(AIOR_STEP_ARGS),
    CONSTANT(AIOR_STEP_RING),
    CONSTANT(AIOR_STEP_RESERVE),
    CONSTANT(AIOR_STEP_PIPE),
    CONSTANT(AIOR_STEP_SETUP),
    CONSTANT(AIOR_STEP_SIZE),
    CONSTANT(AIOR_STEP_ADVANCE),
    CONSTANT(AIOR_STEP_POLL),
    CONSTANT(AIOR_STEP_MOVE),
    CONSTANT(AIOR_STEP_PROTECT),
    CONSTANT(AIOR_STEP_MEMORY),
    CONSTANT(AIOR_STEP_PIN),
    CONSTANT(AIOR_STEP_HELPER),
    CONSTANT(AIOR_STEP_DRAIN),
    CONSTANT(AIOR_STEP_READ),
    CONSTANT(AIOR_STEP_DONE),
    CONSTANT(AIOR_NO_RING),
    CONSTANT(AIOR_RING_LIVE),
    CONSTANT(AIOR_RING_DRAINED),
    CONSTANT(AIOR_POLL_LOST),
    CONSTANT(AIOR_THREAD_INJECTED),
    CONSTANT(AIOR_THREAD_TIMED),
    CONSTANT(AIOR_TABLE_IMAGE),
    CONSTANT(AIOR_TABLE_PREPARED),
    CONSTANT(AIOR_TABLE_DRAINING),
    CONSTANT(AIOR_TABLE_STAGED),
    CONSTANT(AIOR_NOTE_TABLE),
    CONSTANT(AIOR_ARCH_X86_64),
    CONSTANT(AIOR_ARCH_I386),
    CONSTANT(AIOR_ARCH_AARCH64),
    CONSTANT(AIOR_ARCH_RISCV64),
    CONSTANT(AIOR_OP_RESTORE),
    CONSTANT(AIOR_OP_STAGE),
#undef CONSTANT
};

static void write_structures(FILE *out)
{
	const char *type = "";

	fprintf(out, "  \"structures\": {");
	for (size_t i = 0; i < COUNT(fields); i++) {
		if (strcmp(type, fields[i].type)) {
			fprintf(out, "%s\n    \"%s\": {\"size\": %zu, \"fields\": {",
			    *type ? "}}," : "", fields[i].type, fields[i].type_size);
			type = fields[i].type;
		} else {
			fprintf(out, ",");
		}
		fprintf(out, "\n      \"%s\": {\"offset\": %zu, \"size\": %zu}", fields[i].field,
		    fields[i].offset, fields[i].size);
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
	FACTS(ROW)
#undef ROW
	fprintf(out, "  \"constants\": {");
	for (size_t i = 0; i < COUNT(constants); i++)
		fprintf(out, "%s\n    \"%s\": %u", i ? "," : "", constants[i].name,
		    (unsigned)constants[i].value);
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
    {NULL, NULL, NULL},
};
