/* SPDX-License-Identifier: MIT */
/* Rings, shown: as a picture, and as JSON. */
#include <langinfo.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "internal.h"
#include "names.h"
#include "show.h"

static const char *const states[] = {
    [AIOR_LIVE] = "live",
    [AIOR_STAGED] = "staged",
    [AIOR_INHERITED] = "inherited?",
    [AIOR_DAMAGED] = "damaged",
};

/* How full a cell of the picture is. */
enum { EMPTY, PARTLY, FULL };

static const char *const ascii_cells[] = {".", "+", "#"};
static const char *const utf8_cells[] = {"\u00b7", "\u2592", "\u2588"};

/* Columns in front of a picture. */
#define INDENT 4u

static unsigned columns(FILE *out)
{
	struct winsize size;
	const char *variable = getenv("COLUMNS");
	int n = variable ? atoi(variable) : 0;

	if (!ioctl(fileno(out), TIOCGWINSZ, &size) && size.ws_col)
		n = size.ws_col;
	return n < 40 ? (n > 0 ? 40 : 80) : n > 1000 ? 1000 : (unsigned)n;
}

static int is_pending(const struct aior_ring *ring, uint64_t slot)
{
	return ring->head <= ring->tail ? slot >= ring->head && slot < ring->tail
					: slot >= ring->head || slot < ring->tail;
}

/* The slots [first, end) as one cell. */
static int cell(const struct aior_ring *ring, uint64_t first, uint64_t end)
{
	uint64_t count = 0;

	for (uint64_t slot = first; slot < end; slot++)
		count += (unsigned)is_pending(ring, slot);
	return !count ? EMPTY : count == end - first ? FULL : PARTLY;
}

static void spaces(FILE *out, unsigned n)
{
	fprintf(out, "%*s", (int)n, "");
}

/*
 * A line with a mark under column `column` of the picture, and `label` to the right of it, or to the
 * left where it would stick out of `room` columns. In 40 columns one of them fits, whatever head and
 * tail a ring has.
 */
static void mark(FILE *out, unsigned column, unsigned room, const char *label)
{
	unsigned len = (unsigned)strlen(label) + 2;

	if (column + len <= room) {
		spaces(out, INDENT + column);
		fprintf(out, "^ %s\n", label);
	} else {
		spaces(out, INDENT + column + 1 - len);
		fprintf(out, "%s ^\n", label);
	}
}

/* The slots from first to last, what is pending in them, and where head and tail are. */
static void draw(FILE *out, const struct aior_ring *ring)
{
	int is_utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
	const char *const *cells = is_utf8 ? utf8_cells : ascii_cells;
	unsigned last = (unsigned)snprintf(NULL, 0, " %u", ring->nr - 1);
	unsigned room = columns(out) - INDENT, width = room - last;
	unsigned head, tail;
	char label[64];

	if (width > ring->nr)
		width = ring->nr;
	head = (unsigned)((uint64_t)ring->head * width / ring->nr);
	tail = (unsigned)((uint64_t)ring->tail * width / ring->nr);
	fprintf(out, "  0 ");
	for (uint64_t i = 0; i < width; i++) {
		uint64_t first = i * ring->nr / width, end = (i + 1) * ring->nr / width;

		fputs(cells[cell(ring, first, end)], out);
	}
	fprintf(out, " %u\n", ring->nr - 1);
	if (ring->head == ring->tail) {
		snprintf(label, sizeof(label), "head, tail %u", ring->head);
		mark(out, head, room, label);
		return;
	}
	snprintf(label, sizeof(label), "head %u", ring->head);
	mark(out, head, room, label);
	snprintf(label, sizeof(label), "tail %u", ring->tail);
	mark(out, tail, room, label);
}

static void show_events(FILE *out, const struct aior_ring *ring)
{
	for (uint32_t i = 0; i < ring->pending; i++) {
		struct aior_event event = aior_event(ring, i);

		fprintf(out, "    slot %llu: data 0x%llx, obj 0x%llx, res %lld, res2 %lld\n",
		    (unsigned long long)((ring->head + (uint64_t)i) % ring->nr),
		    (unsigned long long)event.data, (unsigned long long)event.obj,
		    (long long)event.res, (long long)event.res2);
	}
}

/* What a ring is, on one line, or on two if the terminal is narrow. */
static void show_facts(FILE *out, const struct aior_ring *ring, const char *state)
{
	static const char separator[] = "; ", line_end[] = "\n  ";
	char facts[128], fits[128];
	int used = snprintf(facts, sizeof(facts), "ring 0x%llx, %s: %u slots, %u pending",
	    (unsigned long long)ring->addr, state, ring->nr, ring->pending);

	used += snprintf(fits, sizeof(fits), "fits where at most %u CPU%s possible", ring->max_cpus,
	    ring->max_cpus == 1 ? " is" : "s are");
	used += (int)strlen(separator);
	fprintf(
	    out, "\n%s%s%s\n", facts, (unsigned)used > columns(out) ? line_end : separator, fits);
}

static void show_ring(FILE *out, const struct aior_ring *ring, int events)
{
	const char *state = ring->is_restored ? "restored" : states[ring->state];

	if (ring->state == AIOR_DAMAGED) {
		fprintf(out, "\nring 0x%llx, %s: %s\n", (unsigned long long)ring->addr, state,
		    ring->damage);
		return;
	}
	if (!ring->content && !ring->events) {
		fprintf(out,
		    "\nring 0x%llx, %s: mapped here, but its process has destroyed it or exited\n",
		    (unsigned long long)ring->addr, state);
		return;
	}
	show_facts(out, ring, state);
	draw(out, ring);
	if (events)
		show_events(out, ring);
}

void show_image(FILE *out, const struct aior_image *image, int events)
{
	fprintf(out, "process %d, %s: ", (int)image->pid, aior_arch_text(image->arch));
	if (image->ring_count)
		fprintf(out, "%zu ring%s\n", image->ring_count, image->ring_count == 1 ? "" : "s");
	else
		fprintf(out, "no AIO rings\n");
	for (size_t i = 0; i < image->ring_count; i++)
		show_ring(out, &image->rings[i], events);
}

static void ring_json(FILE *out, const struct aior_ring *ring)
{
	fprintf(out,
	    "{\"addr\":\"0x%llx\",\"len\":%llu,\"state\":\"%s\",\"id\":%u,\"nr\":%u,\"head\":%u,"
	    "\"tail\":%u,\"pending\":%u,\"polls\":%u,\"max_possible_cpus\":%u,",
	    (unsigned long long)ring->addr, (unsigned long long)ring->len, states[ring->state],
	    ring->id, ring->nr, ring->head, ring->tail, ring->pending, ring->polls, ring->max_cpus);
	if (ring->damage)
		fprintf(out, "\"damage\":\"%s\",", ring->damage);
	if (ring->is_restored)
		fprintf(out, "\"restored\":true,");
	fprintf(out, "\"events\":[");
	for (uint32_t i = 0; i < ring->pending; i++) {
		struct aior_event event = aior_event(ring, i);

		fprintf(out,
		    "%s{\"data\":\"0x%llx\",\"obj\":\"0x%llx\",\"res\":%lld,\"res2\":%lld}",
		    i ? "," : "", (unsigned long long)event.data, (unsigned long long)event.obj,
		    (long long)event.res, (long long)event.res2);
	}
	fprintf(out, "]}");
}

void show_image_json(FILE *out, const struct aior_image *image)
{
	const char *arch = aior_arch_name(image->arch);

	fprintf(out, "{\"format\":1,\"pid\":%d,\"machine\":\"%s\",\"page_size\":%u,\"rings\":[",
	    (int)image->pid, arch ? arch : "unknown", image->page_size);
	for (size_t i = 0; i < image->ring_count; i++) {
		fputs(i ? "," : "", out);
		ring_json(out, &image->rings[i]);
	}
	fprintf(out, "]}\n");
}

/* Text may hold a file's name, which may hold any byte: what is not plain ASCII becomes '?'. */
static void string_json(FILE *out, const char *text)
{
	fputc('"', out);
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c == '\n')
			fprintf(out, "\\n");
		else
			fputc(c < ' ' || c > '~' ? '?' : c, out);
	}
	fputc('"', out);
}

void show_error_json(FILE *out, const struct aior_error *error)
{
	const char *name = error->err ? strerrorname_np(error->err) : NULL;

	fprintf(out, "{\"format\":1,\"error\":{");
	if (error->has_ring)
		fprintf(out, "\"ring\":\"0x%llx\",", (unsigned long long)error->ring);
	else
		fprintf(out, "\"ring\":null,");
	fprintf(out, "\"step\":");
	string_json(out, error->step ? error->step : "");
	fprintf(out, ",\"errno\":");
	if (name)
		string_json(out, name);
	else
		fprintf(out, "null");
	fprintf(out, ",\"message\":");
	string_json(out, error->message);
	fprintf(out, "}}\n");
}
