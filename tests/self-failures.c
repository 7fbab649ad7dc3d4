/* SPDX-License-Identifier: MIT */
/*
 * A process that cannot stage or restore its own rings: it is told why, in a sentence, and all is as it
 * was.
 */
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/resource.h>

#include "self.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

/* ---- refusals ---- */

static void test_damaged(void)
{
	static const struct {
		size_t offset;
		const char *sentence;
	} fields[] = {
	    {offsetof(struct aio_ring, magic), "lost its magic number"},
	    {offsetof(struct aio_ring, header_length), "another header length"},
	    {offsetof(struct aio_ring, head), "its head lies outside"},
	    {offsetof(struct aio_ring, tail), "its tail lies outside"},
	};
	uint32_t *nr;

	set_up();
	add_ring(1, 3, 9);
	add_ring(1, 3, 9);
	for (size_t i = 0; i < COUNT(fields); i++) {
		uint32_t *field = (uint32_t *)((char *)ring_of(rings[1]) + fields[i].offset);
		uint32_t right = *field;

		*field = 0x7fffffff;
		refuses_stage("a damaged header", EINVAL, 1, fields[i].sentence);
		*field = right;
	}
	keep();
	nr = &ring_of(rings[0])->nr;
	++*nr;
	refuses(stage_self, "another number of slots", EINVAL, 1, "another number of slots");
	--*nr;
	ok(error.ring == rings[0], "a damaged header: its ring is named");
	there_and_back("headers repaired");
}

static void test_split(void)
{
	char *second;

	set_up();
	add_ring(1, 3, 9);
	add_ring(300, 3, 9);
	keep();
	mprotect(ring_of(rings[0]), was[0].len, PROT_NONE);
	state_take(&before);
	ok(stage_self() == -1 && error.err == EINVAL && error.ring == rings[0] &&
		strstr(error.message, "PROT_READ"),
	    "a ring that nobody can read: %s", error.message);
	state_take(&after);
	ok(!why_other_state(0), "a ring that nobody can read: all is as it was");
	mprotect(ring_of(rings[0]), was[0].len, PROT_READ | PROT_WRITE);
	second = (char *)ring_of(rings[1]) + page;
	mprotect(second, page, PROT_READ);
	refuses_stage("a ring in three mappings", EINVAL, 1, "in 3 parts");
	mprotect(second, page, PROT_READ | PROT_WRITE);
	ok(stage_self() == -1, "a ring that was split once stays so: %s", error.message);
	munmap(second, was[1].len - page);
	ok(stage_self() == -1 && error.err == EINVAL && error.ring == rings[1] &&
		strstr(error.message, "another number of slots"),
	    "a ring whose end is unmapped: %s", error.message);
}

static void test_headless(void)
{
	set_up();
	add_ring(300, 3, 9);
	munmap(ring_of(rings[0]), page);
	state_take(&before);
	ok(stage_self() == -1 && error.err == EINVAL && error.ring == rings[0] + page &&
		strstr(error.message, "first pages"),
	    "a ring whose beginning is unmapped: %s", error.message);
	state_take(&after);
	ok(!why_other_state(0), "a ring whose beginning is unmapped: all is as it was");
}

static void test_busy(void)
{
	aio_context_t another;

	set_up();
	add_ring(1, 10, 50);
	keep();
	ok(!stage_self(), "live rings besides a capsule: staged");
	another = new_ring(1);
	refuses(stage_self, "live rings besides a capsule", EBUSY, 0, "restore them first");
	ok(works(another) && !why_not_staged(), "live rings besides a capsule: neither is touched");
	ok(!restore_self() && report.ring_count == 1 && !why_not_restored() && works(another),
	    "live rings besides a capsule: restored, all of them live");
	ok(!stage_self() && report.ring_count == 2 && !restore_self(), "... and staged together");
}

/* ---- limits ---- */

static void limit(int which, rlim_t value)
{
	struct rlimit limits;

	getrlimit((__rlimit_resource_t)which, &limits);
	limits.rlim_cur = value;
	setrlimit((__rlimit_resource_t)which, &limits);
}

/* Descriptors up to a low limit are taken; returns the last of them. */
static int take_all_descriptors(void)
{
	int last = -1, fd;

	limit(RLIMIT_NOFILE, 64);
	while ((fd = dup(silent[0])) >= 0)
		last = fd;
	return last;
}

static void test_no_descriptors(void)
{
	int last;

	set_up();
	add_ring(1, 10, 50);
	keep();
	last = take_all_descriptors();
	ok(stage_self() == -1 && error.err == EMFILE && strstr(error.message, "a free descriptor"),
	    "no descriptor: %s", error.message);
	close(last);
	ok(stage_self() == -1 && error.err == EMFILE && !strcmp(error.step, "descriptor") &&
		strstr(error.message, "RLIMIT_NOFILE"),
	    "one descriptor: %s", error.message);
	refuses(stage_self, "one descriptor", EMFILE, 1, "RLIMIT_NOFILE");
	close(last - 1);
	ok(!stage_self() && !why_not_staged(), "two descriptors are enough");
	if (dup(silent[0]) < 0 || dup(silent[0]) < 0)
		abort();
	refuses(restore_self, "no descriptor, to restore", EMFILE, 0, "a free descriptor");
	ok(!why_not_staged(), "no descriptor, to restore: it stays staged");
	close(last - 1);
	ok(!restore_self() && !why_not_restored(), "one descriptor: restored, exact");
}

/* Bytes of address space. */
static rlim_t address_space(void)
{
	char text[64] = "";
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, text, sizeof(text) - 1);

	close(fd);
	return n > 0 ? (rlim_t)strtoull(text, NULL, 10) * page : 0;
}

/* As much more as that, step by step until it is enough: each time all or nothing. */
static void test_address_space(void)
{
	unsigned refused = 0, tries = 0;
	const char *why = NULL;
	rlim_t used;

	if (!HAS_OWN_HEAP) {
		skip("RLIMIT_AS", "a sanitizer has all of the address space");
		return;
	}
	set_up();
	add_ring(1, 10, 50);
	add_ring(200, 10, 50);
	keep();
	state_take(&before);
	used = address_space();
	for (; tries < 400 && !why; tries++) {
		limit(RLIMIT_AS, used + (rlim_t)tries * page);
		is_quiet = 1;
		if (!stage_self())
			break;
		refused++;
		state_take(&after);
		why = why_other_state(0);
		if (error.err != ENOMEM || !strstr(error.message, "emory"))
			why = error.message;
	}
	is_quiet = 0;
	ok(!why && refused && tries < 400 && !why_not_staged(),
	    "RLIMIT_AS: refused %u times, and each time %s", refused,
	    why ? why : "all is as it was");
	limit(RLIMIT_AS, address_space());
	ok(restore_self() == -1 && error.err == ENOMEM && !why_not_staged(),
	    "RLIMIT_AS, to restore: %s", error.message);
	limit(RLIMIT_AS, RLIM_INFINITY);
	ok(!restore_self() && !why_not_restored(), "RLIMIT_AS: restored, exact");
}

static void test_aio_max_nr(void)
{
	aio_context_t greedy;
	long left;

	set_up();
	add_ring(200, 10, 50);
	keep();
	ok(!stage_self(), "fs.aio-max-nr: staged");
	aio_nr_is_back(0);
	left = aio_max_nr() - aio_nr();
	if (left < 10000 || left > 1000000 || io_setup((unsigned)left - 20, &greedy)) {
		skip("fs.aio-max-nr", "it leaves %ld", left);
		return;
	}
	state_take(&before);
	ok(restore_self() == -1 && error.is_refused && strstr(error.message, "fs.aio-max-nr=") &&
		!why_not_staged(),
	    "fs.aio-max-nr: %s", error.message);
	state_take(&after);
	ok(!why_other_state(0), "fs.aio-max-nr: all is as it was");
	io_destroy(greedy);
	ok(!restore_self() && !why_not_restored(), "fs.aio-max-nr: restored, exact");
}

/* ---- sandboxes ---- */

/* From now on that system call fails with EPERM. */
static int forbid(long nr)
{
	struct sock_filter filter[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {COUNT(filter), filter};

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static const struct {
	long nr;
	const char *name, *step;
} forbidden[] = {
    {__NR_io_submit, "io_submit", "ring"},
    {__NR_io_destroy, "io_destroy", "drain"},
    {__NR_vmsplice, "vmsplice", "pin"},
    {__NR_pipe2, "pipe2", "descriptor"},
    {__NR_mremap, "mremap", "move"},
    {__NR_process_vm_readv, "process_vm_readv", "capsule"},
};
static size_t which;

static void forbidden_call(void)
{
	const char *name = forbidden[which].name;

	set_up();
	add_ring(1, 10, 50);
	add_ring(1, 10, 50);
	keep();
	if (forbid(forbidden[which].nr)) {
		skip(name, "no seccomp filter here: %s", strerror(errno));
		return;
	}
	state_take(&before);
	ok(stage_self() == -1 && error.err == EPERM && !strcmp(error.step, forbidden[which].step),
	    "%s is forbidden: %s", name, error.message);
	state_take(&after);
	ok(!why_other_state(0) && mapping_of(getpid(), rings[0]).is_aio &&
		mapping_of(getpid(), rings[1]).is_aio,
	    "%s is forbidden: all is as it was", name);
}

/* Without helpers it is slower, and that is all. */
static void test_no_clone(void)
{
	set_up();
	for (int i = 0; i < 4; i++)
		add_ring(1, 10, 50);
	keep();
	if (forbid(__NR_clone)) {
		skip("clone is forbidden", "no seccomp filter here: %s", strerror(errno));
		return;
	}
	ok(!stage_self() && !why_not_staged() && !restore_self() && !why_not_restored(),
	    "clone is forbidden: staged and restored all the same");
}

static void test_mdwe(void)
{
	void *at;

	set_up();
	add_ring(1, 10, 50);
	if (prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)) {
		skip("PR_SET_MDWE", "this kernel has none (6.3): %s", strerror(errno));
		return;
	}
	at = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ok(mprotect(at, page, PROT_READ | PROT_EXEC), "PR_SET_MDWE: nothing becomes executable");
	munmap(at, page);
	there_and_back("PR_SET_MDWE");
}

int main(void)
{
	static const struct self_test tests[] = {
	    {"damaged headers", test_damaged},
	    {"split rings", test_split},
	    {"headless rings", test_headless},
	    {"a capsule and live rings", test_busy},
	    {"no descriptors", test_no_descriptors},
	    {"address space", test_address_space},
	    {"fs.aio-max-nr", test_aio_max_nr},
	    {"clone forbidden", test_no_clone},
	    {"PR_SET_MDWE", test_mdwe},
	};
	long nr;

	if (facts_start())
		return 1;
	nr = aio_nr();
	run_tests(tests, COUNT(tests));
	for (which = 0; which < COUNT(forbidden); which++)
		in_child(forbidden[which].name, forbidden_call);
	return test_end(nr);
}
