/* SPDX-License-Identifier: MIT */
#ifndef AIOR_CALLGRAPH_H
#define AIOR_CALLGRAPH_H

#include <stddef.h>
#include <stdint.h>

/* gcc's name for whatever is called through a pointer. */
#define CALLGRAPH_INDIRECT "__indirect_call"

/* A function: what it needs of the stack itself, its return address included. */
struct callgraph_node {
	char *name;
	uint32_t frame;
	int is_known;     /* `frame` is */
	int is_unbounded; /* the compiler says that the frame has no bound */
	int state;        /* of the walk */
	uint32_t worst;   /* with all that it calls, once walked */
};

struct callgraph_edge {
	size_t from, to;
};

struct callgraph {
	struct callgraph_node *nodes;
	struct callgraph_edge *edges;
	size_t node_count, edge_count;
};

/*
 * Adds what gcc wrote about one compilation with -fcallgraph-info=su: `text`, zero-terminated, is
 * changed by it. Returns 0, or -1 when that is not such a file.
 */
int callgraph_read(struct callgraph *graph, char *text);

/* Says what a function needs that no compiler told of: one written in assembly, or elsewhere. */
void callgraph_set_frame(struct callgraph *graph, const char *name, uint32_t frame);

/*
 * The most stack that `root` and all it calls can need. Returns NULL and sets `*bytes`; or the
 * reason why there is no known bound, in a static buffer.
 */
const char *callgraph_worst(struct callgraph *graph, const char *root, uint32_t *bytes);

void callgraph_free(struct callgraph *graph);

#endif
