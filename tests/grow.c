/* SPDX-License-Identifier: MIT */
/*
 * Rings that come back on a host where more CPUs are possible, and whose smallest ring is larger. What a host
 * says of its CPUs is a file, and in a mount namespace of our own it may be another one; the rings that the kernel
 * makes for it are those that it would make there.
 */
#include <sys/mount.h>
#include <sys/resource.h>

#include "grow.h"
#include "relaid.h"

#define POSSIBLE "/sys/devices/system/cpu/possible"
#define MANY 256u /* CPUs */

/* Fewer or more of them, for everybody in this namespace. */
static int pretend(uint32_t count_of_cpus)
{
	char path[] = "/tmp/aior-grow-XXXXXX", text[32];
	int fd = mkstemp(path), len, ret;

	if (fd < 0)
		return -1;
	len = snprintf(text, sizeof(text), "0-%u\n", count_of_cpus - 1);
	ret = write(fd, text, (size_t)len) == len ? 0 : -1;
	close(fd);
	if (!ret)
		ret = mount(path, POSSIBLE, NULL, MS_BIND, NULL);
	unlink(path);
	return ret ? -1 : 0;
}

static int be_larger_host(void)
{
	return pretend(MANY);
}

static int be_this_host(void)
{
	return umount2(POSSIBLE, MNT_DETACH);
}

static int can_pretend(void)
{
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    be_larger_host())
		return 0;
	return possible_cpus() == MANY && !be_this_host() && possible_cpus() == cpus;
}

/* How long the smallest ring is there. */
static uint64_t smallest(void)
{
	return aio_ring_len(1, MANY, (uint32_t)page);
}

static const char *why_not_grown(uint32_t i, uint64_t len, uint32_t head, uint32_t amount)
{
	const struct aio_ring *ring = ring_of(rings[i]);
	uint32_t nr = aio_ring_nr((uint32_t)len);

	if (!mapping_of(getpid(), rings[i]).is_aio || len_of(rings[i]) != len)
		return "its mapping";
	if (ring->nr != nr || ring->head != head || ring->tail != head + amount)
		return "its header";
	if (take_pending(rings[i], events) != amount ||
	    memcmp(events, expected, amount * sizeof(*events)))
		return "its events";
	return NULL;
}

static int restore_without_heap(void)
{
	int ret;

	heap_is_forbidden = HAS_OWN_HEAP;
	ret = restore_self();
	heap_is_forbidden = 0;
	return ret;
}

/* A ring of so many pages: there, larger, and back. */
static void grows(
    const char *name, uint32_t pages, uint32_t head, uint32_t amount, uint32_t new_head)
{
	uint64_t len = smallest();
	const char *why;

	count = 0;
	add_pages(pages, head, amount);
	keep_room(0, len / page);
	take_pending(rings[0], expected);
	if (!ok(!stage_self(), "%s: staged", name))
		return;
	give_room(0, len / page);
	be_larger_host();
	state_take(&before);
	ok(!restore_without_heap() && report.ring_count == 1 && report.grown_count == 1 &&
		report.pending == amount,
	    "%s: restored, larger", name);
	why = why_not_grown(0, len, new_head, amount);
	ok(!why, "%s: %s", name,
	    why ? why : "the same events in order, the head where it should be");
	ok(!stage_self() && report.pending == amount && !restore_without_heap() &&
		!report.grown_count && !why_not_grown(0, len, new_head, amount),
	    "%s: staged and restored once more, as it is", name);
	ok(!stage_self(), "%s: staged again", name);
	be_this_host();
	ok(!restore_without_heap() && !report.grown_count &&
		!why_not_grown(0, len, new_head, amount),
	    "%s: restored where fewer CPUs are possible, as large", name);
	why = why_not_usable(rings[0], amount);
	ok(!why, "%s: %s", name, why ? why : "driven to the brim: nothing is lost");
	io_destroy(rings[0]);
}

static void test_grown(void)
{
	uint32_t least = (uint32_t)(smallest() / page) - 1;
	uint32_t nr = aio_ring_nr((uint32_t)page), large = aio_ring_nr((uint32_t)(least * page));

	set_up();
	pin_to(0);
	grows("empty", 1, 0, 0, 0);
	grows("in one piece", 1, 10, 30, 10);
	grows("wrapped", 1, nr - 5, 30, nr - 5);
	grows("wrapped and full", 1, nr - 1, aio_ring_usable(nr, cpus), nr - 1);
	grows("... from slot 0", 1, 0, aio_ring_usable(nr, cpus), 0);
	if (least > 1) {
		grows("a page larger, in one piece", least, large - 9, 20, large - 9);
		grows("a page larger, too much to be in one piece", least, large - 9,
		    aio_ring_usable(large, cpus), 0);
	}
}

/* A ring that has no room is named before anything is touched; the other one is told of, too. */
static void test_blocked(void)
{
	uint64_t len = smallest();
	char sentence[128];
	void *in_the_way;

	set_up();
	add_pages(1, 3, 4);
	add_pages(1, 5, 6);
	keep_room(0, len / page);
	keep_room(1, len / page);
	ok(!stage_self(), "no room: staged");
	give_room(0, len / page);
	give_room(1, len / page);
	be_larger_host();
	in_the_way = map_at((void *)(uintptr_t)(rings[1] + len - page), page, PROT_READ);
	snprintf(sentence, sizeof(sentence),
	    "needs %llu pages on this host (%u possible CPUs), has 1, and of the %llu behind it "
	    "%llu are free",
	    (unsigned long long)(len / page), MANY, (unsigned long long)(len / page - 1),
	    (unsigned long long)(len / page - 2));
	refuses(restore_self, "no room behind one of two", 0, 0, sentence);
	ok(error.is_refused && strstr(error.message, "possible_cpus="), "... it says what to do");
	munmap(in_the_way, page);
	ok(!restore_without_heap() && report.ring_count == 2 && report.grown_count == 2,
	    "... and when there is room, both come back");
	be_this_host();
}

/* A host that hands slots out in other batches, so that a ring of as many pages admits fewer. */
static int find_tighter(uint32_t *pages, uint32_t *others)
{
	for (*pages = 1; *pages < 5; ++*pages)
		for (*others = 1; *others < 16; ++*others) {
			uint32_t nr = aio_ring_nr(*pages * (uint32_t)page);

			if (*others <= aio_ring_max_cpus(*pages * (uint32_t)page) &&
			    aio_ring_usable(nr, *others) + 2 < aio_ring_usable(nr, cpus))
				return 1;
		}
	return 0;
}

/* Events that are pending and polls that are to be submitted again take a slot each. */
static void test_near_full(void)
{
	uint32_t pages, others, usable;

	set_up();
	pin_to(0);
	if (!find_tighter(&pages, &others)) {
		skip("near full", "no host admits fewer than this one");
		return;
	}
	usable = aio_ring_usable(aio_ring_nr(pages * (uint32_t)page), others);
	add_pages(pages, 5, usable - POLLS + 1);
	add_polls();
	ok(!stage_self() && report.poll_count == POLLS, "near full: staged, with polls");
	pretend(others);
	refuses(restore_self, "near full: one more than this host admits", 0, 0,
	    "polls are to be submitted again");
	ok(error.is_refused, "... refused");
	be_this_host();
	ok(!restore_without_heap() && report.poll_count == POLLS && !report.lost_count,
	    "... and restored where there is room");
}

static void test_failed(void)
{
	uint32_t least = (uint32_t)(smallest() / page) - 1;
	uint32_t nr = aio_ring_nr((uint32_t)page), large = aio_ring_nr((uint32_t)(least * page));

	set_up();
	add_pages(1, 3, 40);
	add_pages(1, nr - 2, 60);
	add_pages(least, large - 9, least > 1 ? aio_ring_usable(large, cpus) : 20);
	for (uint32_t i = 0; i < count; i++)
		keep_room(i, smallest() / page);
	keep();
	ok(!stage_self(), "a failure behind the growth: staged");
	for (uint32_t i = 0; i < count; i++)
		give_room(i, smallest() / page);
	be_larger_host();
	if (forbid_descriptors()) {
		skip("a failure behind the growth", "no seccomp");
		return;
	}
	refuses(restore_self, "a failure behind the growth", EMFILE, 0, "descriptor");
	for (uint32_t i = 0; i < count; i++)
		ok(!memcmp(ring_of(rings[i]), was[i].copy, was[i].len),
		    "... ring %u: the same bytes", i);
	be_this_host();
}

/* Both are undone. */
static void test_compact_failed(void)
{
	uint32_t nr = aio_ring_nr((uint32_t)page);
	uint64_t len = smallest();

	set_up();
	add_pages(1, nr - 20, 60);
	keep_room(0, len / page);
	keep();
	ok(!stage_self(), "compact, larger, and a failure behind that: staged");
	give_room(0, len / page);
	be_larger_host();
	if (forbid_descriptors()) {
		skip("a failure behind both", "no seccomp");
	} else {
		refuses(restore_compact, "a failure behind both", EMFILE, 0, "descriptor");
		ok(!memcmp(ring_of(rings[0]), was[0].copy, was[0].len), "... the same bytes");
	}
}

static void test_compact_larger(void)
{
	uint32_t nr = aio_ring_nr((uint32_t)page), amount = 60;
	uint64_t len = smallest();
	const char *why;

	set_up();
	pin_to(0);
	add_pages(1, nr - 20, amount);
	keep_room(0, len / page);
	take_pending(rings[0], expected);
	ok(!stage_self(), "compact and larger: staged");
	give_room(0, len / page);
	be_larger_host();
	ok(!restore_compact() && report.grown_count == 1, "compact and larger: restored");
	why = why_not_grown(0, len, 0, amount);
	ok(!why, "compact and larger: %s", why ? why : "the same events, from the first slot on");
	be_this_host();
	why = why_not_usable(rings[0], amount);
	ok(!why, "compact and larger: %s", why ? why : "driven to the brim: nothing is lost");
}

/* Whoever made a ring larger died in front of its record: whoever comes next takes it as it is. */
static void test_settled(void)
{
	uint64_t len = smallest();
	struct aior_capsule capsule;
	struct aior_ring_record *record;
	void *table;

	set_up();
	add_pages(1, 10, 30);
	keep_room(0, len / page);
	ok(!stage_self() && aior_find_capsule(0, &capsule, &error) == 1, "half grown: staged");
	give_room(0, len / page);
	table = (void *)(uintptr_t)capsule.addr;
	record = (void *)(uintptr_t)aior_capsule_ring(table, table, 0);
	map_at((void *)(rings[0] + page), len - page, PROT_READ | PROT_WRITE);
	record->room = len;
	aior_settle(getpid(), table, table);
	ok(record->len == page, "half grown: not laid out yet: its length is what it was");
	aior_lay_out(ring_of(rings[0]), page, len);
	aior_settle(getpid(), table, table);
	ok(record->len == len, "half grown: laid out: its record says so");
	be_larger_host();
	ok(!restore_without_heap() && len_of(rings[0]) == len, "half grown: restored");
	be_this_host();
}

/* ---- room that is kept ---- */

static int is_free(uint64_t addr, uint64_t len)
{
	void *at = mmap((void *)(uintptr_t)addr, len, PROT_NONE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

	if (at == MAP_FAILED)
		return 0;
	munmap(at, len);
	return at == (void *)(uintptr_t)addr;
}

static int stage_self_for(uint32_t room_cpus)
{
	int ret;

	aior_report_free(&report);
	heap_is_forbidden = HAS_OWN_HEAP;
	ret = aior_stage_self_with_room(room_cpus, &report, &error);
	heap_is_forbidden = 0;
	return ret;
}

/* What is kept is address space of nobody else's, as long as the ring is staged, and not a page longer. */
static void test_kept(void)
{
	uint64_t len = smallest();
	aio_context_t with, without;
	const char *why;

	set_up();
	pin_to(0);
	add_pages(1, 3, 4);
	add_pages(1, 5, 6);
	keep_room(0, len / page);
	keep_room(1, len / page);
	give_room(0, len / page);
	with = rings[0];
	without = rings[1];
	take_pending(with, expected);
	ok(!stage_self_for(MANY) && report.ring_count == 2 && report.no_room_count == 1 &&
		report.no_room[0] == without,
	    "room: staged; the ring that has none is named");
	ok(!is_free(with + page, len - page) && is_free(with + len, page),
	    "room: as much is kept as it takes");
	ok(!restore_without_heap() && !report.grown_count && len_of(with) == page &&
		is_free(with + page, len - page),
	    "room: restored where it is not needed: it is free again");
	ok(!stage_self_for(1) && !report.no_room_count && is_free(with + page, len - page) &&
		!restore_without_heap(),
	    "room: none is kept for a host on which both fit");
	ok(!stage_self_for(MANY), "room: staged again");
	aior_report_free(&report);
	be_larger_host();
	refuses(restore_self, "room: ... where one has none", 0, 0, "are free");
	ok(!is_free(with + page, len - page), "room: ... the other one's is kept");
	give_room(1, len / page);
	ok(!restore_without_heap() && report.grown_count == 2 && len_of(with) == len,
	    "room: restored, larger");
	be_this_host();
	why = why_not_usable(with, 4);
	ok(!why, "room: %s", why ? why : "driven to the brim: nothing is lost");
}

static void test_kept_failed(void)
{
	uint64_t len = smallest();

	set_up();
	add_pages(1, 3, 40);
	keep_room(0, len / page);
	give_room(0, len / page);
	keep();
	ok(!stage_self_for(MANY), "a failure where room is kept: staged");
	be_larger_host();
	if (forbid_descriptors()) {
		skip("a failure where room is kept", "no seccomp");
		return;
	}
	refuses(restore_self, "a failure where room is kept", EMFILE, 0, "descriptor");
	ok(!memcmp(ring_of(rings[0]), was[0].copy, was[0].len) &&
		!is_free(rings[0] + page, len - page),
	    "... the same bytes, and the room is kept");
	be_this_host();
}

static void test_kept_in_vain(void)
{
	uint64_t len = smallest();

	set_up();
	add_pages(1, 3, 40);
	keep_room(0, len / page);
	give_room(0, len / page);
	if (forbid_descriptors()) {
		skip("a stage that fails", "no seccomp");
		return;
	}
	ok(stage_self_for(MANY) && error.err == EMFILE && is_free(rings[0] + page, len - page),
	    "a stage that fails keeps no room");
}

/* ---- other processes ---- */

static void test_other(void)
{
	uint32_t nr = aio_ring_nr((uint32_t)page), head = nr - 5, amount = 30;
	struct aior_outcome outcome = {0};
	struct rlimit none = {0, 0}, files;
	struct aior_image image, result;
	int status = -1;
	uint64_t len = smallest();
	pid_t pid;

	set_up();
	pid = start_other(1, head, amount, smallest() / page);
	ok(!aior_snapshot(pid, &image, &error), "another process: its image is taken");
	ok(!aior_stage(&pid, 1, NULL, &outcome, &error) && outcome.is_staged, "... it is staged");
	aior_outcome_free(&outcome);
	ok(is_listed(pid, page, head, amount, AIOR_STAGED), "... and listed");
	be_larger_host();
	ok(!aior_check_host(&image, &error) && !aior_run(&image, &result, &error) &&
		result.ring_count == 1 && result.rings[0].len == len &&
		result.rings[0].head == head && result.rings[0].pending == amount &&
		result.rings[0].events[0].data == aior_event(&image.rings[0], 0).data,
	    "... the image is run where more CPUs are possible, and its ring is larger");
	aior_image_free(&result);
	image.rings[0].room = len - page;
	ok(aior_check_host(&image, &error) && error.is_refused && strstr(error.message, "are free"),
	    "... and refused, if it is known that there is no room");
	aior_image_free(&image);
	prlimit(pid, RLIMIT_NOFILE, NULL, &files);
	none.rlim_max = files.rlim_max;
	prlimit(pid, RLIMIT_NOFILE, &none, NULL);
	ok(aior_restore(&pid, 1, NULL, &outcome, &error) && error.err == EMFILE &&
		error.is_unfinished && is_listed(pid, page, head, amount, AIOR_STAGED),
	    "... a restore that fails behind the growth leaves it as it was");
	aior_outcome_free(&outcome);
	prlimit(pid, RLIMIT_NOFILE, &files, NULL);
	ok(!aior_restore(&pid, 1, NULL, &outcome, &error) && outcome.rings.grown_count == 1,
	    "... restored, larger");
	aior_outcome_free(&outcome);
	ok(is_listed(pid, len, head, amount, AIOR_LIVE), "... and listed");
	ok(!aior_stage(&pid, 1, NULL, &outcome, &error) &&
		is_listed(pid, len, head, amount, AIOR_STAGED),
	    "... staged again as it is");
	aior_outcome_free(&outcome);
	be_this_host();
	ok(!aior_restore(&pid, 1, NULL, &outcome, &error) && !outcome.rings.grown_count &&
		is_listed(pid, len, head, amount, AIOR_LIVE),
	    "... restored where fewer are possible");
	aior_outcome_free(&outcome);
	shared->may_go_on = 1;
	ok(waitpid(pid, &status, 0) == pid && !status,
	    "... it goes on, and driven to the brim nothing is lost");
}

/* Whether nothing is mapped there in it. */
static int is_free_in(pid_t pid, uint64_t addr)
{
	char path[64], line[512];
	unsigned long long from, to;
	int is_mapped = 0;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	maps = fopen(path, "re");
	while (maps && fgets(line, sizeof(line), maps))
		if (sscanf(line, "%llx-%llx", &from, &to) == 2)
			is_mapped |= from <= addr && addr < to;
	if (maps)
		fclose(maps);
	return maps && !is_mapped;
}

static void test_kept_in_other(void)
{
	const struct aior_options options = {.timeout_ms = -1, .room_cpus = MANY},
				  fewer = {.timeout_ms = -1, .room_cpus = MANY / 2};
	uint32_t head = 10, amount = 30;
	struct aior_outcome outcome = {0};
	struct rlimit none = {0, 0}, files;
	uint64_t len = smallest();
	int status = -1;
	pid_t pid;

	set_up();
	pid = start_other(1, head, amount, len / page);
	ok(!aior_stage(&pid, 1, NULL, &outcome, &error) && is_free_in(pid, shared->ring + page),
	    "room in another process: staged without");
	aior_outcome_free(&outcome);
	ok(!aior_stage(&pid, 1, &fewer, &outcome, &error) && !outcome.rings.no_room_count &&
		!is_free_in(pid, shared->ring + page) && is_free_in(pid, shared->ring + len - page),
	    "... with room for fewer CPUs");
	aior_outcome_free(&outcome);
	for (int i = 0; i < 2; i++) {
		ok(!aior_stage(&pid, 1, &options, &outcome, &error) &&
			!outcome.rings.no_room_count && !is_free_in(pid, shared->ring + page),
		    "... and for more, time %d", i);
		aior_outcome_free(&outcome);
	}
	ok(!aior_stage(&pid, 1, &options, &outcome, &error) && outcome.was_so &&
		!outcome.rings.no_room_count && !is_free_in(pid, shared->ring + page) &&
		!is_free_in(pid, shared->ring + len - page),
	    "... staged once more, with room");
	aior_outcome_free(&outcome);
	ok(!aior_restore(&pid, 1, NULL, &outcome, &error) && !outcome.rings.grown_count &&
		is_free_in(pid, shared->ring + page),
	    "... restored where it is not needed: it is free again");
	aior_outcome_free(&outcome);
	ok(!aior_stage(&pid, 1, &options, &outcome, &error) && !outcome.rings.no_room_count &&
		!is_free_in(pid, shared->ring + page),
	    "... staged with room");
	aior_outcome_free(&outcome);
	be_larger_host();
	prlimit(pid, RLIMIT_NOFILE, NULL, &files);
	none.rlim_max = files.rlim_max;
	prlimit(pid, RLIMIT_NOFILE, &none, NULL);
	ok(aior_restore(&pid, 1, NULL, &outcome, &error) && error.err == EMFILE &&
		is_listed(pid, page, head, amount, AIOR_STAGED) &&
		!is_free_in(pid, shared->ring + page),
	    "... a restore that fails leaves it as it was, with its room");
	aior_outcome_free(&outcome);
	prlimit(pid, RLIMIT_NOFILE, &files, NULL);
	ok(!aior_restore(&pid, 1, NULL, &outcome, &error) && outcome.rings.grown_count == 1 &&
		is_listed(pid, len, head, amount, AIOR_LIVE) && is_free_in(pid, shared->ring + len),
	    "... restored, larger, and not a page more");
	aior_outcome_free(&outcome);
	be_this_host();
	shared->may_go_on = 1;
	ok(waitpid(pid, &status, 0) == pid && !status,
	    "... it goes on, and driven to the brim nothing is lost");
}

int main(void)
{
	static const struct self_test tests[] = {
	    {"larger rings", test_grown},
	    {"no room", test_blocked},
	    {"near full", test_near_full},
	    {"a failure behind the growth", test_failed},
	    {"compact and larger", test_compact_larger},
	    {"compact, larger, and a failure behind that", test_compact_failed},
	    {"half grown", test_settled},
	    {"room", test_kept},
	    {"a failure where room is kept", test_kept_failed},
	    {"a stage that fails", test_kept_in_vain},
	    {"another process", test_other},
	    {"room in another process", test_kept_in_other},
	};
	long nr;

	if (facts_start())
		return 1;
	nr = aio_nr();
	relaid_start();
	if (cpus >= MANY)
		skip("a host where more CPUs are possible", "here are %u", cpus);
	else if (!can_pretend())
		skip("a host where more CPUs are possible",
		    "what this host says of its CPUs cannot be hidden: %s", strerror(errno));
	else
		run_tests(tests, sizeof(tests) / sizeof(tests[0]));
	return test_end(nr);
}
