/* SPDX-License-Identifier: MIT */
/*
 * Rings that come back compact: from the first slot on, with nothing but their pending events. What fails leaves
 * every staged byte as it was.
 */
#include "relaid.h"

static const char *why_not_compact(aio_context_t ctx, uint64_t len, uint32_t amount)
{
	const struct aio_ring *ring = ring_of(ctx);

	if (!mapping_of(getpid(), ctx).is_aio || len_of(ctx) != len)
		return "its mapping";
	if (ring->nr != aio_ring_nr((uint32_t)len) || ring->head || ring->tail != amount)
		return "its header";
	if (take_pending(ctx, events) != amount ||
	    memcmp(events, expected, amount * sizeof(*events)))
		return "its events";
	return NULL;
}

static void comes_back(const char *name, uint32_t pages, uint32_t head, uint32_t amount)
{
	const char *why;

	count = 0;
	add_pages(pages, head, amount);
	take_pending(rings[0], expected);
	keep();
	if (!ok(!stage_self(), "%s: staged", name))
		return;
	state_take(&before);
	ok(!restore_compact() && report.ring_count == 1 && report.pending == amount &&
		!report.grown_count,
	    "%s: restored", name);
	why = why_not_compact(rings[0], was[0].len, amount);
	ok(!why, "%s: %s", name, why ? why : "the same events in order, from the first slot on");
	why = why_not_usable(rings[0], amount);
	ok(!why, "%s: %s", name, why ? why : "driven to the brim: nothing is lost");
	io_destroy(rings[0]);
	free(was[0].copy);
	was[0].copy = NULL;
}

static void test_shapes(void)
{
	uint32_t nr = aio_ring_nr((uint32_t)page), large = aio_ring_nr((uint32_t)(5 * page));
	uint32_t full = aio_ring_usable(nr, cpus), most = aio_ring_usable(large, cpus);

	set_up();
	pin_to(0);
	comes_back("new", 1, 0, 0);
	comes_back("empty", 1, 9, 0);
	comes_back("compact already", 1, 0, 20);
	comes_back("in one piece", 1, 40, 30);
	comes_back("in one piece, over itself", 1, 10, 30);
	comes_back("up to the last slot", 1, nr - 30, 29);
	comes_back("wrapped", 1, nr - 5, 30);
	comes_back("wrapped, up to the first slot", 1, nr - 5, 5);
	comes_back("full", 1, 0, full);
	comes_back("wrapped and full", 1, nr - 1, full);
	comes_back("larger, over itself", 5, 100, large / 2);
	comes_back("larger, wrapped", 5, large - 3, large / 2);
	comes_back("larger, wrapped and full", 5, large - 1, most);
	comes_back("larger, one event", 5, large - 2, 1);
}

static void test_several(void)
{
	uint64_t pending_before;
	const char *why = NULL;

	set_up();
	for (uint32_t i = 0; i < 40; i++)
		add_pages(1 + i % 3, 50 + i, i);
	keep();
	pending_before = pending();
	ok(!stage_self(), "several: staged");
	ok(!restore_compact() && report.ring_count == count && report.pending == pending_before,
	    "several: restored");
	for (uint32_t i = 0; i < count && !why; i++) {
		const struct aio_slot *slots = (void *)((char *)was[i].copy + AIO_RING_HEADER);

		for (uint32_t k = 0; k < i; k++)
			expected[k] = slots[(was[i].head + k) % was[i].nr];
		why = why_not_compact(rings[i], was[i].len, i);
	}
	ok(!why, "several: %s", why ? why : "each with its events");
	ok(!stage_self() && !restore_self() && report.pending == pending_before,
	    "several: staged and restored as they are");
}

static void test_polls(void)
{
	set_up();
	add_pages(1, 60, 9);
	add_polls();
	take_pending(rings[0], expected);
	ok(!stage_self() && report.poll_count == POLLS, "polls: staged");
	ok(!restore_compact() && report.poll_count == POLLS && !report.lost_count,
	    "polls: restored");
	ok(io_getevents(rings[0], 9, events) == 9 && !memcmp(events, expected, 9 * sizeof(*events)),
	    "polls: what was pending comes");
	for (unsigned i = 0; i < POLLS; i++)
		ok(write(pipes[i][1], "x", 1) == 1 && comes(rings[0], i, POLLIN),
		    "polls: poll %u comes", i);
}

static void fill_several(void)
{
	uint32_t nr = aio_ring_nr((uint32_t)page), large = aio_ring_nr((uint32_t)(5 * page));

	add_pages(1, 3, 40);
	add_pages(1, nr - 2, 60);
	add_pages(5, large - 9, large / 2);
	add_pages(5, 0, 7);
	add_pages(1, 9, 0);
	keep();
}

static void is_as_it_was(void)
{
	for (uint32_t k = 0; k < count; k++)
		ok(!memcmp(ring_of(rings[k]), was[k].copy, was[k].len),
		    "... ring %u: the same bytes", k);
}

static void test_failed(void)
{
	set_up();
	fill_several();
	ok(!stage_self(), "a failure: staged");
	if (forbid_descriptors()) {
		skip("a failure", "no seccomp");
		return;
	}
	refuses(restore_compact, "a failure", EMFILE, 0, "descriptor");
	is_as_it_was();
}

/* Its own program has forbidden that the staged memory be written to: nobody does. */
static void test_read_only(void)
{
	set_up();
	fill_several();
	ok(!stage_self(), "read-only: staged");
	for (uint32_t i = 0; i < count; i++)
		mprotect(ring_of(rings[i]), was[i].len, PROT_READ);
	ok(!restore_compact() && report.ring_count == count, "read-only: restored");
}

/* ---- another process ---- */

static const struct aior_options how = {.timeout_ms = -1, .compacts = 1};

static void *content_of(pid_t pid, uint64_t at, uint64_t len)
{
	void *content = malloc(len);

	if (aior_read_memory(pid, at, content, len))
		abort();
	return content;
}

static struct shape {
	const char *name;
	uint32_t pages, head, amount;
} shape;

/* A restore that fails, and one that does not. */
static void test_other(void)
{
	uint64_t len = shape.pages * page;
	uint32_t head = shape.head, amount = shape.amount;
	struct aior_outcome outcome = {0};
	struct rlimit none = {0, 0}, files;
	void *is, *staged;
	int status = -1;
	pid_t pid;

	set_up();
	pid = start_other(shape.pages, head, amount, 1);
	ok(!aior_stage(&pid, 1, NULL, &outcome, &error) && outcome.is_staged, "%s: staged",
	    shape.name);
	aior_outcome_free(&outcome);
	staged = content_of(pid, shared->ring, len);
	prlimit(pid, RLIMIT_NOFILE, NULL, &files);
	none.rlim_max = files.rlim_max;
	prlimit(pid, RLIMIT_NOFILE, &none, NULL);
	ok(aior_restore(&pid, 1, &how, &outcome, &error) && error.err == EMFILE &&
		error.is_unfinished && is_listed(pid, len, head, amount, AIOR_STAGED),
	    "%s: a failure leaves it staged", shape.name);
	aior_outcome_free(&outcome);
	is = content_of(pid, shared->ring, len);
	ok(!memcmp(is, staged, len), "%s: ... and the same bytes", shape.name);
	prlimit(pid, RLIMIT_NOFILE, &files, NULL);
	ok(!aior_restore(&pid, 1, &how, &outcome, &error) && outcome.rings.ring_count == 1 &&
		outcome.rings.pending == amount,
	    "%s: restored", shape.name);
	aior_outcome_free(&outcome);
	ok(is_listed(pid, len, 0, amount, AIOR_LIVE), "%s: from the first slot on", shape.name);
	shared->may_go_on = 1;
	ok(waitpid(pid, &status, 0) == pid && !status,
	    "%s: it goes on, and driven to the brim nothing is lost", shape.name);
	free(staged);
	free(is);
}

/* Each in a child of its own: what it is forked from has no copy of another one's capsule. */
static void test_others(void)
{
	uint32_t nr = aio_ring_nr((uint32_t)page), large = aio_ring_nr((uint32_t)(5 * page));
	const struct shape shapes[] = {
	    {"another process, empty", 1, 9, 0},
	    {"another process, in one piece", 1, 40, 30},
	    {"another process, over itself", 1, 10, 50},
	    {"another process, wrapped", 1, nr - 5, 30},
	    {"another process, wrapped and full", 1, nr - 1, aio_ring_usable(nr, cpus)},
	    {"another process, larger, over itself", 5, 20, large / 2},
	    {"another process, larger, wrapped", 5, large - 5, large / 2},
	    {"another process, larger and full", 5, large - 1, aio_ring_usable(large, cpus)},
	};

	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		shape = shapes[i];
		in_child(shape.name, test_other);
	}
}

static void test_image(void)
{
	uint32_t large = aio_ring_nr((uint32_t)(5 * page)), amount = large / 2;
	struct aior_image image, result;
	pid_t pid;

	set_up();
	pid = start_other(5, large - 5, amount, 1);
	ok(!aior_snapshot(pid, &image, &error), "an image: taken");
	ok(!aior_run(&image, &result, &error) && result.rings[0].head == large - 5,
	    "an image: run as it is");
	for (uint32_t i = 0; i < amount; i++)
		expected[i] =
		    (struct aio_slot){result.rings[0].events[i].data, result.rings[0].events[i].obj,
			result.rings[0].events[i].res, result.rings[0].events[i].res2};
	aior_image_free(&result);
	ok(!aior_compact_image(&image, &error) && image.rings[0].head == 0 &&
		image.rings[0].tail == amount && image.rings[0].pending == amount,
	    "an image: compact");
	ok(!aior_run(&image, &result, &error) && result.rings[0].head == 0 &&
		result.rings[0].pending == amount && result.rings[0].is_restored &&
		!memcmp(result.rings[0].events, expected, amount * sizeof(*expected)),
	    "an image: run, with the same events");
	aior_image_free(&result);
	image.rings[0].content[offsetof(struct aio_ring, magic)] ^= 1;
	aior_take_header(&image.rings[0], (void *)image.rings[0].content);
	ok(aior_compact_image(&image, &error) && error.err == EINVAL,
	    "an image with a damaged ring: refused");
	aior_image_free(&image);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

int main(void)
{
	static const struct self_test tests[] = {
	    {"shapes", test_shapes},
	    {"several", test_several},
	    {"polls", test_polls},
	    {"a failure", test_failed},
	    {"read-only", test_read_only},
	    {"an image", test_image},
	};
	long nr;

	if (facts_start())
		return 1;
	nr = aio_nr();
	relaid_start();
	run_tests(tests, sizeof(tests) / sizeof(tests[0]));
	test_others();
	return test_end(nr);
}
