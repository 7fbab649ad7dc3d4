/* SPDX-License-Identifier: MIT */
/* Rings, shown: as a picture, and as JSON. */
#include <errno.h>
#include <langinfo.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "images.h"
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

	if (ring->polls)
		used += snprintf(facts + used, sizeof(facts) - (size_t)used,
		    ", %u poll%s remembered", ring->polls, ring->polls == 1 ? "" : "s");
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
		fprintf(out, "\nring 0x%llx, %s: %s\n", (unsigned long long)ring->addr, state,
		    ring->state == AIOR_STAGED
			? "its requests in flight are still waited for"
			: "mapped here, but its process has destroyed it or exited");
		return;
	}
	show_facts(out, ring, state);
	draw(out, ring);
	if (events)
		show_events(out, ring);
}

static void show_image(FILE *out, const struct aior_image *image, int events)
{
	fprintf(out, "process %d, %s: ", (int)image->pid, aior_arch_text(image->arch));
	if (image->ring_count)
		fprintf(out, "%zu ring%s\n", image->ring_count, image->ring_count == 1 ? "" : "s");
	else
		fprintf(out, "no AIO rings\n");
	for (size_t i = 0; i < image->ring_count; i++)
		show_ring(out, &image->rings[i], events);
}

void show_images_text(FILE *out, const struct images *images, int events)
{
	for (size_t i = 0; i < images->count; i++) {
		fputs(i ? "\n" : "", out);
		show_image(out, &images->images[i], events);
	}
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

/* What an object says of one process. */
static void image_json(FILE *out, const struct aior_image *image)
{
	const char *arch = aior_arch_name(image->arch);

	fprintf(out, "\"pid\":%d,\"machine\":\"%s\",\"page_size\":%u,\"rings\":[", (int)image->pid,
	    arch ? arch : "unknown", image->page_size);
	for (size_t i = 0; i < image->ring_count; i++) {
		fputs(i ? "," : "", out);
		ring_json(out, &image->rings[i]);
	}
	fprintf(out, "]");
}

void show_images_json(FILE *out, const struct images *images)
{
	fprintf(out, "{\"format\":1,");
	if (images->count == 1) {
		image_json(out, images->images);
	} else {
		fprintf(out, "\"processes\":[");
		for (size_t i = 0; i < images->count; i++) {
			fputs(i ? ",{" : "{", out);
			image_json(out, &images->images[i]);
			fputs("}", out);
		}
		fprintf(out, "]");
	}
	fprintf(out, "}\n");
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

/* ---- what stage and restore have done ---- */

static const char *plural(size_t count)
{
	return count == 1 ? "" : "s";
}

static void print_duration(FILE *out, uint64_t ns)
{
	if (ns < 1000000000u)
		fprintf(out, "%.1f ms", (double)ns / 1e6);
	else
		fprintf(out, "%.3f s", (double)ns / 1e9);
}

/* One line for each part of the time, in the order in which they came. */
static void show_times(FILE *out, const struct aior_outcome *outcome, const char *blob)
{
	const struct {
		const char *what;
		uint64_t ns;
	} rows[] = {
	    {"stopping its threads", outcome->stop_ns},
	    {"finding its rings, making room", outcome->prepare_ns},
	    {blob, outcome->blob_ns},
	    {"the rest", outcome->finish_ns},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (rows[i].ns)
			fprintf(out, "  %8.3f ms  %s\n", (double)rows[i].ns / 1e6, rows[i].what);
}

void show_staged(FILE *out, const struct aior_outcome *outcome, int verbose)
{
	const struct aior_report *rings = &outcome->rings;

	fprintf(out, "process %d: ", (int)outcome->pid);
	if (outcome->was_so && outcome->is_staged) {
		fprintf(out, "staged already, and parked\n");
		return;
	}
	if (outcome->was_so) {
		fprintf(out, "no rings of its own to stage; it goes on\n");
		return;
	}
	fprintf(out,
	    "%zu ring%s staged, %zu event%s pending (%zu of them of requests in flight), %zu "
	    "poll%s "
	    "remembered; it stood still for ",
	    rings->ring_count, plural(rings->ring_count), rings->pending, plural(rings->pending),
	    rings->drained, rings->poll_count, plural(rings->poll_count));
	print_duration(out, outcome->stood_ns);
	fprintf(out, " and is parked\n");
	if (verbose)
		show_times(out, outcome, "the stage blob: the drain, above all");
}

void show_restored(FILE *out, const struct aior_outcome *outcome, int verbose)
{
	const struct aior_report *rings = &outcome->rings;

	fprintf(out, "process %d: ", (int)outcome->pid);
	if (outcome->was_so) {
		fprintf(out, "nothing to restore; it goes on\n");
		return;
	}
	fprintf(out, "%zu ring%s restored, %zu poll%s submitted again; restored in ",
	    rings->ring_count, plural(rings->ring_count), rings->poll_count - rings->lost_count,
	    plural(rings->poll_count - rings->lost_count));
	print_duration(
	    out, outcome->stop_ns + outcome->prepare_ns + outcome->blob_ns + outcome->finish_ns);
	fprintf(out, ", it stood still for ");
	print_duration(out, outcome->stood_ns);
	fprintf(out, " in all");
	if (rings->grown_count)
		fprintf(out, "; %zu of the rings %s larger now: more CPUs are possible here",
		    rings->grown_count, rings->grown_count == 1 ? "is" : "are");
	fprintf(out, "\n");
	if (verbose)
		show_times(out, outcome, "the restore blob");
}

void show_warnings(FILE *out, const struct aior_outcome *outcome)
{
	const size_t most = sizeof(outcome->heirs) / sizeof(outcome->heirs[0]);

	for (size_t i = 0; i < outcome->rings.lost_count; i++) {
		const struct aior_lost_poll *poll = &outcome->rings.lost[i];

		fprintf(out,
		    "aio-restorer: process %d: ring 0x%llx: the poll of iocb 0x%llx is lost: %s; "
		    "its "
		    "event says POLLNVAL\n",
		    (int)outcome->pid, (unsigned long long)poll->ring,
		    (unsigned long long)poll->iocb,
		    poll->err == EFAULT   ? "the iocb is not mapped any more"
		    : poll->err == ESTALE ? "the iocb holds something else now"
					  : aior_errno_text(poll->err));
	}
	if (outcome->rings.inherited_count)
		fprintf(out,
		    "aio-restorer: process %d has %zu ring%s from a relative, by fork: now as "
		    "plain "
		    "copies\n",
		    (int)outcome->pid, outcome->rings.inherited_count,
		    plural(outcome->rings.inherited_count));
	if (outcome->rings.no_room_count) {
		fprintf(out,
		    "aio-restorer: process %d: %zu ring%s would not fit there, since something "
		    "lies behind:",
		    (int)outcome->pid, outcome->rings.no_room_count,
		    plural(outcome->rings.no_room_count));
		for (size_t i = 0; i < outcome->rings.no_room_count; i++)
			fprintf(out, " 0x%llx", (unsigned long long)outcome->rings.no_room[i]);
		fprintf(out, "\n");
	}
	if (!outcome->heir_count || outcome->was_so)
		return;
	fprintf(out,
	    "aio-restorer: process %d has passed rings on by fork; where these map them, there is "
	    "nothing now, and touching it ends in SIGBUS:",
	    (int)outcome->pid);
	for (size_t i = 0; i < outcome->heir_count && i < most; i++)
		fprintf(out, " %d", (int)outcome->heirs[i]);
	fprintf(out, "%s (stage those in the same call, and they keep a copy)\n",
	    outcome->heir_count > most ? " ..." : "");
}

static void outcome_json(FILE *out, const struct aior_outcome *outcome, const char *verb)
{
	const struct aior_report *rings = &outcome->rings;

	fprintf(out,
	    "\"pid\":%d,\"%s\":%s,\"rings\":%zu,\"pending\":%zu,\"drained\":%zu,\"polls\":%zu,"
	    "\"grown\":%zu,"
	    "\"copied\":%zu,\"threads\":%zu,\"stood_ms\":%.3f,\"stop_ms\":%.3f,\"prepare_ms\":%.3f,"
	    "\"blob_ms\":%.3f,\"finish_ms\":%.3f,\"lost\":[",
	    (int)outcome->pid, verb, outcome->was_so ? "false" : "true", rings->ring_count,
	    rings->pending, rings->drained, rings->poll_count, rings->grown_count,
	    rings->inherited_count, outcome->thread_count, (double)outcome->stood_ns / 1e6,
	    (double)outcome->stop_ns / 1e6, (double)outcome->prepare_ns / 1e6,
	    (double)outcome->blob_ns / 1e6, (double)outcome->finish_ns / 1e6);
	for (size_t i = 0; i < rings->lost_count; i++)
		fprintf(out, "%s{\"ring\":\"0x%llx\",\"iocb\":\"0x%llx\",\"data\":\"0x%llx\"}",
		    i ? "," : "", (unsigned long long)rings->lost[i].ring,
		    (unsigned long long)rings->lost[i].iocb,
		    (unsigned long long)rings->lost[i].data);
	fprintf(out, "],\"no_room\":[");
	for (size_t i = 0; i < rings->no_room_count; i++)
		fprintf(out, "%s\"0x%llx\"", i ? "," : "", (unsigned long long)rings->no_room[i]);
	fprintf(out, "]");
}

void show_outcomes_json(
    FILE *out, const struct aior_outcome *outcomes, size_t count, const char *verb)
{
	fprintf(out, "{\"format\":1,");
	if (count == 1) {
		outcome_json(out, outcomes, verb);
	} else {
		fprintf(out, "\"processes\":[");
		for (size_t i = 0; i < count; i++) {
			fputs(i ? ",{" : "{", out);
			outcome_json(out, &outcomes[i], verb);
			fputs("}", out);
		}
		fprintf(out, "]");
	}
	fprintf(out, "}\n");
}
