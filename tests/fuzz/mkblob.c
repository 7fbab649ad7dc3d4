/* SPDX-License-Identifier: MIT */
/* The linked file that mkblob makes a blob of. It ends at the first thing that is wrong: here it comes back instead. */
#include <setjmp.h>

#include "emit.h"
#include "fuzz.h"

static jmp_buf refused;
static void *buffer; /* the one that is there when it ends */

static _Noreturn void come_back(int status)
{
	longjmp(refused, 1 + !status);
}

static void *keep(void *old, size_t size)
{
	return buffer = realloc(old, size);
}

static void let_go(void *old)
{
	if (old == buffer)
		buffer = NULL;
	free(old);
}

#define exit come_back
#define realloc keep
#define free let_go
#define main mkblob_main
#define unlink(path) ((void)(path))
#undef stderr
#define stderr fuzz_nowhere()
#include "../../pie/mkblob.c"
#undef exit
#undef realloc
#undef free
#undef main
#undef unlink
#undef stderr

static void promise_entries(const struct aior_blob *blob)
{
	PROMISE(blob->call >= sizeof(*blob) && blob->call < blob->size &&
		    blob->jump >= sizeof(*blob) && blob->jump < blob->size &&
		    blob->park >= sizeof(*blob) && blob->park < blob->park_end &&
		    blob->park_end <= blob->size,
	    "a blob is entered where it is not");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct fuzz_file in, out;
	static struct callgraph graph;
	_Alignas(struct aior_blob) unsigned char bytes[AIOR_BLOB_MAX];
	const char *why;
	ssize_t len;

	if (size < FUZZ_MARK)
		return 0;
	fuzz_write(&in, data + FUZZ_MARK, size - FUZZ_MARK);
	fuzz_write(&out, NULL, 0);
	memset(&graph, 0, sizeof(graph));
	callgraph_set_frame(&graph, "aior_main", 512);
	output = out.path;
	if (!setjmp(refused))
		make(in.path, &graph);
	callgraph_free(&graph);
	free(buffer);
	buffer = NULL;
	len = pread(out.fd, bytes, sizeof(bytes), 0);
	why = len > 0 ? aior_blob_check(bytes, (size_t)len) : NULL;
	PROMISE(!why, "a blob is made that is none: %s", why);
	if (len > 0)
		promise_entries((const struct aior_blob *)bytes);
	return 0;
}
