/* SPDX-License-Identifier: MIT */
/* The arithmetic of pie/ring.h, against itself by brute force and against the kernel. */
#include "blob.h"

#define MOST_N 70000u

static const uint32_t pages[] = {4096, 16384, 65536};
static const uint32_t cpu_counts[] = {1, 2, 3, 4, 8, 15, 16, 17, 64, 127, 256, 1024, 8192};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* As fs/aio.c says it, step by step: ioctx_alloc(), aio_setup_ring(). */
static uint64_t kernel_len(uint64_t n, uint32_t cpus, uint32_t page)
{
	uint64_t nr_events = n;
	uint64_t pages_needed, size;

	if (nr_events < 4ull * cpus)
		nr_events = 4ull * cpus;
	nr_events *= 2;
	nr_events += 2;
	size = sizeof(struct aio_ring) + sizeof(struct aio_slot) * nr_events;
	pages_needed = (size + page - 1) / page;
	return pages_needed * page;
}

static void test_formula(uint32_t page)
{
	unsigned wrong = 0, wrong_cpus = 0;

	for (size_t c = 0; c < COUNT(cpu_counts); c++) {
		uint32_t cpus = cpu_counts[c];
		uint64_t last = 0;

		for (uint32_t n = 1; n < MOST_N; n++) {
			uint64_t len = aio_ring_len(n, cpus, page);
			uint32_t smallest;

			wrong += len != kernel_len(n, cpus, page);
			if (len == last)
				continue;
			/* The first n of this length is the smallest, unless the CPUs ask for more. */
			smallest = aio_ring_smallest_n(len, page);
			wrong += n > 1 ? smallest != n : aio_ring_len(smallest, cpus, page) != len;
			wrong_cpus += cpus > aio_ring_max_cpus(len);
			last = len;
		}
	}
	ok(!wrong, "page size %u: lengths and smallest n, for every n below %u (%u wrong)", page,
	    MOST_N, wrong);
	ok(!wrong_cpus, "page size %u: a ring fits the host that it was made on (%u wrong)", page,
	    wrong_cpus);
}

/* The first n that gives a length, found by trying each; and that one less gives another. */
static void test_smallest(uint32_t page)
{
	unsigned wrong = 0;
	uint64_t len;
	uint32_t n = 1;

	for (len = page; len < 600ull * page && len < (64ull << 20); len += page) {
		uint32_t smallest = aio_ring_smallest_n(len, page);

		/* What n alone asks for, without the CPUs' share. */
		while (kernel_len(n, 0, page) < len)
			n++;
		if (smallest != n)
			wrong++;
	}
	ok(!wrong, "page size %u: smallest_n is the first n, tried one by one (%u wrong)", page,
	    wrong);
}

static void test_max_cpus(uint32_t page)
{
	unsigned wrong = 0;

	for (uint64_t len = page; len < 300ull * page; len += page) {
		uint32_t most = aio_ring_max_cpus(len);
		uint32_t n = aio_ring_smallest_n(len, page);

		wrong += !most || aio_ring_len(n, most, page) != len;
		wrong += aio_ring_len(n, most + 1, page) <= len;
	}
	ok(!wrong, "page size %u: max_cpus is the last count that gives the length (%u wrong)",
	    page, wrong);
}

/* Every n up to 64, then fewer and fewer; several contexts live at once, ended by exit. */
static void test_kernel(void)
{
	uint32_t cpus = possible_cpus(), page = (uint32_t)sysconf(_SC_PAGESIZE);
	long most = aio_max_nr() - aio_nr(), asked = 0;
	unsigned wrong = 0, tried = 0;
	int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	pin_to(0);
	for (long n = 1; n <= most; n = n < 64 ? n + 1 : n + n / 5 + (n & 7)) {
		aio_context_t ctx;
		struct aio_ring *ring;
		uint64_t len = aio_ring_len((uint64_t)n, cpus, page);
		uint32_t smallest = aio_ring_least_n(len, cpus, page);

		asked += n;
		if (asked > most)
			break;
		if (io_setup((unsigned)n, &ctx)) {
			wrong++;
			break;
		}
		ring = ring_of(ctx);
		tried++;
		if (mapped_len(ctx) != len || ring->nr != aio_ring_nr(len) ||
		    aio_ring_check(ring, len) != AIO_RING_OK || (long)smallest > n ||
		    aio_ring_len(smallest, cpus, page) != len || cpus > aio_ring_max_cpus(len) ||
		    count_free(ctx, null_fd) != aio_ring_usable(ring->nr, cpus)) {
			diag("n %ld: length %llu, nr %u", n, (unsigned long long)mapped_len(ctx),
			    ring->nr);
			wrong++;
		}
	}
	ok(!wrong && tried, "the kernel's rings: length, nr, usable slots of %u rings", tried);
}

static void test_kernel_largest(void)
{
	uint32_t cpus = possible_cpus(), page = (uint32_t)sysconf(_SC_PAGESIZE);
	long most = aio_max_nr() - aio_nr();
	int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	uint64_t len;
	aio_context_t ctx;

	pin_to(0);
	if (most <= 0 || most > 1 << 22) {
		skip("the largest ring", "fs.aio-max-nr leaves %ld", most);
		return;
	}
	len = aio_ring_len((uint64_t)most, cpus, page);
	ok(!io_setup((unsigned)most, &ctx) && mapped_len(ctx) == len &&
		aio_ring_check(ring_of(ctx), len) == AIO_RING_OK &&
		count_free(ctx, null_fd) == aio_ring_usable(ring_of(ctx)->nr, cpus),
	    "the largest ring, io_setup(%ld)", most);
}

static void test_check(void)
{
	struct aio_ring good = {
	    .nr = 127,
	    .magic = AIO_RING_MAGIC,
	    .header_length = AIO_RING_HEADER,
	};
	const struct {
		const char *name;
		size_t offset;
		uint32_t value;
		enum aio_ring_fault fault;
	} scribbles[] = {
	    {"id", 0, 0xffffffff, AIO_RING_OK},
	    {"nr one less", 4, 126, AIO_RING_BAD_NR},
	    {"nr one more", 4, 128, AIO_RING_BAD_NR},
	    {"nr 0", 4, 0, AIO_RING_BAD_NR},
	    {"nr all ones", 4, 0xffffffff, AIO_RING_BAD_NR},
	    {"head nr - 1", 8, 126, AIO_RING_OK},
	    {"head nr", 8, 127, AIO_RING_BAD_HEAD},
	    {"head all ones", 8, 0xffffffff, AIO_RING_BAD_HEAD},
	    {"tail nr - 1", 12, 126, AIO_RING_OK},
	    {"tail nr", 12, 127, AIO_RING_BAD_TAIL},
	    {"tail negative", 12, 0x80000000, AIO_RING_BAD_TAIL},
	    {"magic 0", 16, 0, AIO_RING_BAD_MAGIC},
	    {"magic off by one", 16, AIO_RING_MAGIC + 1, AIO_RING_BAD_MAGIC},
	    {"header length 0", 28, 0, AIO_RING_BAD_HEADER_LENGTH},
	    {"header length 64", 28, 64, AIO_RING_BAD_HEADER_LENGTH},
	};
	const uint64_t lengths[] = {
	    0, 1, 31, 32, 64, 95, 4095, 4097, AIO_RING_MAX_LEN + 32, 1ull << 32, ~0ull, ~31ull};

	ok(aio_ring_check(&good, 4096) == AIO_RING_OK, "check: a sound header");
	ok(aio_ring_check(NULL, 0) == AIO_RING_BAD_LENGTH, "check: length 0, and nothing is read");
	for (size_t i = 0; i < COUNT(scribbles); i++) {
		struct aio_ring ring = good;

		memcpy((char *)&ring + scribbles[i].offset, &scribbles[i].value, 4);
		ok(aio_ring_check(&ring, 4096) == scribbles[i].fault, "check: %s",
		    scribbles[i].name);
	}
	for (size_t i = 0; i < COUNT(lengths); i++) {
		struct aio_ring ring = good;

		ring.nr = (uint32_t)aio_ring_nr(lengths[i]);
		ok(aio_ring_check(&ring, lengths[i]) == AIO_RING_BAD_LENGTH, "check: length 0x%llx",
		    (unsigned long long)lengths[i]);
	}
}

/* A ring is a queue: walk one, and compare. */
static void test_wrap(void)
{
	unsigned wrong = 0;

	for (uint32_t nr = 2; nr < 40; nr++) {
		for (uint32_t reaped = 0; reaped < 2 * nr; reaped++) {
			for (uint32_t pending = 0; pending < nr; pending++) {
				uint32_t head = 0, tail = 0, completions;

				for (uint32_t i = 0; i < reaped; i++)
					head = aio_ring_next(head, nr);
				for (uint32_t i = 0; i < reaped + pending; i++)
					tail = aio_ring_next(tail, nr);
				completions = aio_ring_completions(head, tail, nr);
				wrong += head != reaped % nr || tail != (reaped + pending) % nr;
				wrong += aio_ring_pending(head, tail, nr) != pending;
				wrong += completions % nr != tail || completions < head ||
					 completions - head != pending || completions >= 2 * nr;
			}
		}
	}
	ok(!wrong, "pending, completions and next, for every head and tail (%u wrong)", wrong);
}

int main(void)
{
	tap_start();
	aio_nr_lock();
	for (size_t i = 0; i < COUNT(pages); i++) {
		test_formula(pages[i]);
		test_smallest(pages[i]);
		test_max_cpus(pages[i]);
	}
	in_child("kernel", test_kernel);
	in_child("largest", test_kernel_largest);
	test_check();
	test_wrap();
	return tap_end();
}
