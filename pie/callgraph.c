/* SPDX-License-Identifier: MIT */
/*
 * The stack bound of a blob, from what gcc says of each function's frame and of who calls whom
 * (-fcallgraph-info=su, a file in the VCG format: a node or an edge a line).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "callgraph.h"

enum { UNSEEN, OPEN, WALKED };

static void __attribute__((noreturn)) out_of_memory(void)
{
	fprintf(stderr, "mkblob: out of memory\n");
	exit(1);
}

static void *grow(void *array, size_t count, size_t size)
{
	if (count & (count - 1))
		return array;
	array = realloc(array, (count ? 2 * count : 1) * size);
	if (!array)
		out_of_memory();
	return array;
}

static size_t node_named(struct callgraph *graph, const char *name)
{
	struct callgraph_node *node;
	char *copy;

	for (size_t i = 0; i < graph->node_count; i++)
		if (!strcmp(graph->nodes[i].name, name))
			return i;
	graph->nodes = grow(graph->nodes, graph->node_count, sizeof(*node));
	node = &graph->nodes[graph->node_count];
	copy = strdup(name);
	if (!copy)
		out_of_memory();
	*node = (struct callgraph_node){.name = copy};
	return graph->node_count++;
}

/* The text between the quotes behind `key`, cut out of `line`; NULL if there is none. */
static char *quoted(char *line, const char *key)
{
	char *start = strstr(line, key), *end;

	if (!start)
		return NULL;
	start += strlen(key);
	end = strchr(start, '"');
	if (!end)
		return NULL;
	*end = '\0';
	return start;
}

/* label: "function\nfile:line:column\nN bytes (static)", or without the last part. */
static void read_label(struct callgraph_node *node, const char *label)
{
	const char *bytes = strstr(label, " bytes (");
	const char *digits = bytes;

	if (!bytes)
		return;
	while (digits > label && digits[-1] >= '0' && digits[-1] <= '9')
		digits--;
	node->frame = (uint32_t)strtoul(digits, NULL, 10);
	node->is_known = 1;
	node->is_unbounded = !strstr(bytes, "static") && !strstr(bytes, "bounded");
}

int callgraph_read(struct callgraph *graph, char *text)
{
	if (strncmp(text, "graph:", 6))
		return -1;
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		/* The last first: each cut ends the line there. */
		char *label = quoted(line, "label: \"");

		if (!strncmp(line, "node:", 5)) {
			char *title = quoted(line, "title: \"");
			size_t node;

			if (!title)
				return -1;
			node = node_named(graph, title);
			read_label(&graph->nodes[node], label ? label : "");
		} else if (!strncmp(line, "edge:", 5)) {
			char *to = quoted(line, "targetname: \"");
			char *from = quoted(line, "sourcename: \"");
			struct callgraph_edge edge;

			if (!to || !from)
				return -1;
			edge.from = node_named(graph, from);
			edge.to = node_named(graph, to);
			graph->edges = grow(graph->edges, graph->edge_count, sizeof(edge));
			graph->edges[graph->edge_count++] = edge;
		}
	}
	return 0;
}

void callgraph_set_frame(struct callgraph *graph, const char *name, uint32_t frame)
{
	size_t node = node_named(graph, name);

	graph->nodes[node].frame = frame;
	graph->nodes[node].is_known = 1;
}

static const char *walk(struct callgraph *graph, size_t at)
{
	static char reason[512];
	struct callgraph_node *node = &graph->nodes[at];
	uint32_t deepest = 0;

	if (node->state == WALKED)
		return NULL;
	if (node->state == OPEN)
		snprintf(reason, sizeof(reason), "%s calls itself, by whatever way", node->name);
	else if (!node->is_known && !strcmp(node->name, CALLGRAPH_INDIRECT))
		snprintf(reason, sizeof(reason), "a function is called through a pointer");
	else if (!node->is_known)
		snprintf(reason, sizeof(reason), "nothing says what %s needs", node->name);
	else if (node->is_unbounded)
		snprintf(reason, sizeof(reason), "the frame of %s has no fixed size", node->name);
	else
		reason[0] = '\0';
	if (reason[0])
		return reason;
	node->state = OPEN;
	for (size_t i = 0; i < graph->edge_count; i++) {
		const char *why;

		if (graph->edges[i].from != at)
			continue;
		why = walk(graph, graph->edges[i].to);
		if (why)
			return why;
		if (graph->nodes[graph->edges[i].to].worst > deepest)
			deepest = graph->nodes[graph->edges[i].to].worst;
	}
	node->worst = node->frame + deepest;
	node->state = WALKED;
	return NULL;
}

const char *callgraph_worst(struct callgraph *graph, const char *root, uint32_t *bytes)
{
	size_t at = node_named(graph, root);
	const char *why = walk(graph, at);

	*bytes = graph->nodes[at].worst;
	return why; /* -Wanalyzer-malloc-leak: a name is its node's, and goes with the graph */
}

void callgraph_free(struct callgraph *graph)
{
	for (size_t i = 0; i < graph->node_count; i++)
		free(graph->nodes[i].name);
	free(graph->nodes);
	free(graph->edges);
}
