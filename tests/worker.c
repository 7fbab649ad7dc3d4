/* SPDX-License-Identifier: MIT */
/*
 * A program that uses AIO without pause, and checks all that it gets: each request has one event, with
 * the right result and the right data, and no call fails. It knows nothing of being staged. Raw system
 * calls: it needs no library.
 *
 * When it is under way it prints "ready" and its rings, then "ok COUNT" now and then: so many requests
 * have had their event. SIGTERM ends it: it waits for what is in flight, prints "done COUNT" and
 * exits with 0. Whatever is not as it must be, it says so on both outputs, and exits with 1.
 *
 *   --rings N, --threads N   rings, and the threads that drive them; those above N rings idle
 *   --entries N              of io_setup()
 *   --inflight KIND=N,...    how many requests of each kind it keeps in flight in each ring: reads
 *                            (O_DIRECT, of a file), polls (of an eventfd; every other one raises an eventfd),
 *                            zeros (reads of no byte)
 *   --file PATH              what is read: a file that --make PATH has made; otherwise one of its own
 *   --make PATH              makes that file, and no more
 *   --by-call                events are taken by io_getevents, never from the ring itself
 *   --alone                  it does not end with its parent
 *   --quiet                  requests are submitted once, and nothing is done until SIGTERM
 *   --heir idle|ring         a child that has inherited the rings, and has none of its own or one
 *                            that it drives. SIGUSR1 makes it read the inherited ones. It prints to the same
 *                            file, its pid before each line, and ends with its parent
 *   --state STATE            something is special about it: see the table in tests/states.h. What damages
 *                            a ring damages a further one, which is not driven
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"
#include "states.h"

#define MOST_RINGS 64
#define MOST_REQUESTS 64
#define BLOCKS 256u     /* of the file */
#define MOST_AT_ONCE 8u /* blocks of one read */
#define ROUND_US 300    /* what a thread sleeps between its rounds */
#define PATIENCE_S 100  /* for the last events; the storage may be a slow one */
#define TRIES 20000     /* of a submission to an empty ring, whose slots are on another CPU */

struct request {
	struct iocb iocb;
	const struct kind *kind;
	uint32_t generation; /* how often it has been submitted */
	int is_in_flight;
	int is_fired; /* polls: it has been given what it waits for */
	int fd;       /* polls: their eventfd */
	uint32_t block, blocks;
	uint64_t *buffer;
};

struct ring {
	aio_context_t ctx;
	unsigned index;
	uint32_t nr;
	unsigned count, in_flight;
	struct request requests[MOST_REQUESTS];
	int raised_fd; /* eventfd of the requests with IOCB_FLAG_RESFD, and how many of them ended */
	uint64_t raises;
	uint64_t random;
};

/* A kind of request: how one is made, and what is wrong with its event; NULL: nothing. */
struct kind {
	const char *name;
	void (*set_up)(struct request *request);
	void (*make)(struct ring *ring, struct request *request);
	const char *(*check)(struct request *request, int64_t res);
};

static struct ring rings[MOST_RINGS];
static unsigned ring_count = 2, thread_count = 1, entries = 16;
static unsigned wanted[] = {4, 3, 2};
static int file_fd = -1, silent[2];
static int is_quiet, is_alone, is_by_call;
static atomic_ulong events_seen;
static volatile sig_atomic_t must_end, must_look;
static char prefix[32]; /* of each line: a child's pid */

/* ---- what it says ---- */

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	char line[4096];
	va_list args;
	int len = snprintf(line, sizeof(line), "%s", prefix);

	va_start(args, format);
	len += vsnprintf(line + len, sizeof(line) - (size_t)len - 1, format, args);
	va_end(args);
	strcat(line, "\n");
	if (write(STDOUT_FILENO, line, strlen(line)) < 0)
		_exit(3);
}

__attribute__((format(printf, 1, 2))) static _Noreturn void violation(const char *format, ...)
{
	char line[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	say("VIOLATION %s", line);
	fprintf(stderr, "worker %d: %s\n", (int)getpid(), line);
	_exit(1);
}

static void check(int ok, const char *what)
{
	if (!ok)
		violation("%s: %s", what, strerror(errno));
}

/* ---- system calls ---- */

static int io_setup(unsigned n, aio_context_t *ctx)
{
	const struct timespec tick = {.tv_nsec = 20000000};
	long ret = -1;

	/* What processes that have just ended had still counts for a moment (fs.aio-nr). */
	for (int i = 0; i < 100 && (ret = syscall(SYS_io_setup, n, ctx)) && errno == EAGAIN; i++)
		nanosleep(&tick, NULL);
	return (int)ret;
}

static int io_submit(aio_context_t ctx, long n, struct iocb **iocbs)
{
	return (int)syscall(SYS_io_submit, ctx, n, iocbs);
}

static int io_getevents(aio_context_t ctx, long least, long most, struct io_event *events)
{
	return (int)syscall(SYS_io_getevents, ctx, least, most, events, NULL);
}

static void tick(void)
{
	const struct timespec time = {.tv_nsec = ROUND_US * 1000};

	if (nanosleep(&time, NULL))
		violation("nanosleep: %s", strerror(errno));
}

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* ---- the file ---- */

static uint64_t word_of(uint32_t block, uint32_t i)
{
	return (block + 1) * 0x9e3779b97f4a7c15ull + i;
}

static void fill_file(int fd)
{
	uint64_t words[BLOCK / 8];

	for (uint32_t block = 0; block < BLOCKS; block++) {
		for (uint32_t i = 0; i < COUNT(words); i++)
			words[i] = word_of(block, i);
		check(write(fd, words, BLOCK) == BLOCK, "write");
	}
	check(!fsync(fd) || errno == EINVAL, "fsync"); /* no regular file */
}

static int make_file(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	check(fd >= 0, path);
	fill_file(fd);
	return 0;
}

/* A file of its own, where one can be read directly. */
static int open_own_file(void)
{
	const char *folders[] = {getenv("TMPDIR"), "/var/tmp", "/tmp", "."};
	char path[PATH_MAX];

	for (size_t i = 0; i < COUNT(folders); i++) {
		int direct, fd;

		if (!folders[i])
			continue;
		snprintf(path, sizeof(path), "%s/worker-XXXXXX", folders[i]);
		fd = mkstemp(path);
		if (fd < 0)
			continue;
		direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
		unlink(path);
		if (direct >= 0)
			fill_file(fd);
		close(fd);
		if (direct >= 0)
			return direct;
	}
	violation("no folder here has files that can be read directly");
}

/* ---- kinds of requests ---- */

static void set_up_read(struct request *request)
{
	request->buffer = mmap(NULL, MOST_AT_ONCE * BLOCK, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	check(request->buffer != MAP_FAILED, "mmap");
}

static void make_read(struct ring *ring, struct request *request)
{
	request->blocks = 1 + (uint32_t)(random_next(&ring->random) % MOST_AT_ONCE);
	request->block = (uint32_t)(random_next(&ring->random) % (BLOCKS - request->blocks + 1));
	memset(request->buffer, 0xee, request->blocks * BLOCK);
	request->iocb.aio_lio_opcode = IOCB_CMD_PREAD;
	request->iocb.aio_fildes = (uint32_t)file_fd;
	request->iocb.aio_buf = (uintptr_t)request->buffer;
	request->iocb.aio_nbytes = request->blocks * BLOCK;
	request->iocb.aio_offset = (int64_t)request->block * BLOCK;
}

static const char *check_read(struct request *request, int64_t res)
{
	if (res != (int64_t)request->blocks * BLOCK)
		return "a read of another length";
	for (uint32_t i = 0; i < request->blocks * BLOCK / 8; i++)
		if (request->buffer[i] !=
		    word_of(request->block + i / (BLOCK / 8), i % (BLOCK / 8)))
			return "a read that brings other data";
	return NULL;
}

static void set_up_poll(struct request *request)
{
	request->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	check(request->fd >= 0, "eventfd");
}

static void make_poll(struct ring *ring, struct request *request)
{
	request->is_fired = 0;
	request->iocb.aio_lio_opcode = IOCB_CMD_POLL;
	request->iocb.aio_fildes = (uint32_t)request->fd;
	request->iocb.aio_buf = POLLIN;
	if ((request - ring->requests) % 2) {
		request->iocb.aio_flags = IOCB_FLAG_RESFD;
		request->iocb.aio_resfd = (uint32_t)ring->raised_fd;
	}
}

static const char *check_poll(struct request *request, int64_t res)
{
	uint64_t value = 0;

	if (!request->is_fired)
		return "a poll that ends before its eventfd is raised";
	if (res != POLLIN)
		return "a poll with another result";
	if (read(request->fd, &value, sizeof(value)) != sizeof(value) || value != 1)
		return "a poll whose eventfd does not say 1";
	return NULL;
}

static void set_up_zero(struct request *request)
{
	request->fd = silent[0];
}

static void make_zero(struct ring *ring, struct request *request)
{
	(void)ring;
	request->iocb.aio_lio_opcode = IOCB_CMD_PREAD;
	request->iocb.aio_fildes = (uint32_t)silent[0];
}

static const char *check_zero(struct request *request, int64_t res)
{
	(void)request;
	return res ? "a read of no byte with another result" : NULL;
}

enum { READS, POLLS, ZEROS };

static const struct kind kinds[] = {
    [READS] = {"reads", set_up_read, make_read, check_read},
    [POLLS] = {"polls", set_up_poll, make_poll, check_poll},
    [ZEROS] = {"zeros", set_up_zero, make_zero, check_zero},
};

/* ---- rings ---- */

static void make_ring(struct ring *ring, unsigned index)
{
	memset(ring, 0, sizeof(*ring));
	ring->index = index;
	ring->random = 0x1234567 + index;
	ring->raised_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	check(!io_setup(entries, &ring->ctx), "io_setup");
	ring->nr = ((struct aio_ring *)ring->ctx)->nr;
	for (size_t k = 0; k < COUNT(kinds); k++)
		for (unsigned i = 0; i < wanted[k]; i++) {
			struct request *request = &ring->requests[ring->count++];

			check(ring->count <= MOST_REQUESTS, "too many requests");
			request->kind = &kinds[k];
			kinds[k].set_up(request);
		}
}

static uint64_t data_of(const struct ring *ring, const struct request *request)
{
	return (uint64_t)ring->index << 48 | (uint64_t)(request - ring->requests) << 32 |
	       request->generation;
}

static void make_request(struct ring *ring, struct request *request)
{
	memset(&request->iocb, 0, sizeof(request->iocb));
	request->generation++;
	request->iocb.aio_data = data_of(ring, request);
	request->kind->make(ring, request);
}

/* Slots may be on another CPU, so fewer may be taken than asked for; of an empty ring, one at last. */
static void submit_idle(struct ring *ring)
{
	struct iocb *batch[MOST_REQUESTS];
	int n = 0, taken = 0;

	for (unsigned i = 0; i < ring->count; i++)
		if (!ring->requests[i].is_in_flight) {
			make_request(ring, &ring->requests[i]);
			batch[n++] = &ring->requests[i].iocb;
		}
	if (!n)
		return;
	/* From the call on, an event may come. */
	for (int tries = 0; tries < TRIES; tries++) {
		taken = io_submit(ring->ctx, n, batch);
		if (taken >= 0 || errno != EAGAIN || ring->in_flight)
			break;
		sched_yield();
	}
	if (taken < 0 && (errno != EAGAIN || !ring->in_flight))
		violation("ring %u: io_submit: %s, %u in flight", ring->index, strerror(errno),
		    ring->in_flight);
	for (int i = 0; i < taken; i++) {
		struct request *request =
		    (struct request *)((char *)batch[i] - offsetof(struct request, iocb));

		request->is_in_flight = 1;
		ring->in_flight++;
	}
}

static void fire(struct request *request)
{
	uint64_t one = 1;

	if (request->kind != &kinds[POLLS] || !request->is_in_flight || request->is_fired)
		return;
	request->is_fired = 1;
	check(write(request->fd, &one, sizeof(one)) == sizeof(one), "write to an eventfd");
}

static void take(struct ring *ring, const struct io_event *event)
{
	unsigned i = (unsigned)(event->data >> 32) & 0xffff;
	struct request *request = &ring->requests[i];
	const char *wrong = NULL;

	if (i >= ring->count || event->data >> 48 != ring->index)
		violation("ring %u: an event of no request: data 0x%llx, obj 0x%llx, res %lld",
		    ring->index, (unsigned long long)event->data, (unsigned long long)event->obj,
		    (long long)event->res);
	if (!request->is_in_flight || event->data != data_of(ring, request))
		wrong = "a second event";
	else if (event->obj != (uintptr_t)&request->iocb || event->res2)
		wrong = "another obj, or res2";
	else
		wrong = request->kind->check(request, event->res);
	if (wrong)
		violation("ring %u, request %u of %s: %s (data 0x%llx, generation %u, res %lld)",
		    ring->index, i, request->kind->name, wrong, (unsigned long long)event->data,
		    request->generation, (long long)event->res);
	ring->raises += (request->iocb.aio_flags & IOCB_FLAG_RESFD) != 0;
	request->is_in_flight = 0;
	ring->in_flight--;
	atomic_fetch_add(&events_seen, 1);
}

/* As programs do that save a system call: from the ring itself. */
static int reap_one(struct ring *ring, struct io_event *event)
{
	struct aio_ring *header = (struct aio_ring *)ring->ctx;
	uint32_t head = header->head;

	if (header->nr != ring->nr || header->magic != AIO_RING_MAGIC || head >= ring->nr)
		violation("ring %u: its header: nr %u, head %u, magic 0x%x", ring->index,
		    header->nr, head, header->magic);
	if (head == __atomic_load_n(&header->tail, __ATOMIC_ACQUIRE))
		return 0;
	memcpy(event, (struct io_event *)(header + 1) + head, sizeof(*event));
	__atomic_store_n(&header->head, (head + 1) % ring->nr, __ATOMIC_RELEASE);
	return 1;
}

static void reap(struct ring *ring, int wait)
{
	struct io_event events[8];
	int n = 0;

	if (ring->index % 2 && !is_by_call)
		while (n < (int)COUNT(events) && reap_one(ring, &events[n]))
			n++;
	if (!n)
		n = io_getevents(ring->ctx, wait, COUNT(events), events);
	if (n < wait)
		violation("ring %u: io_getevents of at least %d: %s", ring->index, wait,
		    n < 0 ? strerror(errno) : "none");
	for (int i = 0; i < n; i++)
		take(ring, &events[i]);
}

/* Whether an event comes for sure. */
static int has_to_come(const struct ring *ring)
{
	for (unsigned i = 0; i < ring->count; i++)
		if (ring->requests[i].is_in_flight &&
		    (ring->requests[i].kind != &kinds[POLLS] || ring->requests[i].is_fired))
			return 1;
	return 0;
}

static void drive(struct ring *ring)
{
	submit_idle(ring);
	for (unsigned i = 0; i < ring->count; i++)
		if (!(random_next(&ring->random) & 3))
			fire(&ring->requests[i]);
	reap(ring, has_to_come(ring));
}

/* What is in flight comes, and nothing else. */
static void finish(struct ring *ring)
{
	time_t end = time(NULL) + PATIENCE_S;
	uint64_t raised = 0, value;

	for (unsigned i = 0; i < ring->count; i++)
		fire(&ring->requests[i]);
	while (ring->in_flight && time(NULL) < end) {
		reap(ring, 0);
		tick();
	}
	for (unsigned i = 0; i < ring->count; i++)
		if (ring->requests[i].is_in_flight)
			violation("ring %u, request %u of %s: no event", ring->index, i,
			    ring->requests[i].kind->name);
	for (int i = 0; i < 10; i++, tick())
		reap(ring, 0);
	while (read(ring->raised_fd, &value, sizeof(value)) == sizeof(value))
		raised += value;
	if (raised != ring->raises)
		violation("ring %u: its eventfd was raised %llu times, by %llu requests",
		    ring->index, (unsigned long long)raised, (unsigned long long)ring->raises);
}

/* ---- threads ---- */

static pthread_t threads[MOST_RINGS];

static void *drive_rings(void *first)
{
	unsigned start = (unsigned)(uintptr_t)first;

	while (!must_end) {
		for (unsigned i = start; i < ring_count; i += thread_count)
			drive(&rings[i]);
		tick();
	}
	for (unsigned i = start; i < ring_count; i += thread_count)
		finish(&rings[i]);
	return NULL;
}

static void *do_nothing(void *first)
{
	unsigned start = (unsigned)(uintptr_t)first;

	for (unsigned i = start; i < ring_count; i += thread_count)
		submit_idle(&rings[i]);
	while (!must_end)
		tick();
	for (unsigned i = start; i < ring_count; i += thread_count)
		finish(&rings[i]);
	return NULL;
}

/* Signals are the first thread's: in the others nothing may end with EINTR. */
static void start_threads(void)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	for (unsigned i = 0; i < thread_count; i++)
		check(!pthread_create(&threads[i], NULL, is_quiet ? do_nothing : drive_rings,
			  (void *)(uintptr_t)i),
		    "pthread_create");
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void on_signal(int signal)
{
	if (signal == SIGTERM)
		must_end = 1;
	else
		must_look = 1;
}

static aio_context_t inherited[MOST_RINGS];
static unsigned inherited_count;

/* Reads all of them: whoever has them no more gets SIGBUS. */
static void look_at_inherited(void)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < inherited_count; i++) {
		const volatile struct aio_ring *ring = (struct aio_ring *)inherited[i];
		const volatile uint64_t *words = (const uint64_t *)ring;

		for (size_t w = 0; w < (ring->nr + 1) * (size_t)AIO_RING_SLOT / 8; w++)
			sum += words[w];
	}
	say("inherited %u, sum %llu", inherited_count, (unsigned long long)sum);
}

/* Tells how far it is, and ends it. */
static void *report(void *unused)
{
	const struct timespec often = {.tv_nsec = 50000000};

	(void)unused;
	while (!must_end) {
		say("ok %lu", atomic_load(&events_seen));
		if (must_look) {
			must_look = 0;
			look_at_inherited();
		}
		nanosleep(&often, NULL);
	}
	for (unsigned i = 0; i < thread_count; i++)
		pthread_join(threads[i], NULL);
	say("done %lu", atomic_load(&events_seen));
	_exit(0);
}

/* ---- children ---- */

static void make_heir(const char *kind)
{
	pid_t parent = getpid(), child = fork();

	check(child >= 0, "fork");
	if (child) {
		say("heir %d", (int)child);
		return;
	}
	end_with_parent(parent);
	snprintf(prefix, sizeof(prefix), "%d: ", (int)getpid());
	for (unsigned i = 0; i < ring_count; i++)
		inherited[i] = rings[i].ctx;
	inherited_count = ring_count;
	ring_count = strcmp(kind, "ring") ? 0 : 1;
	thread_count = ring_count;
	if (ring_count)
		make_ring(&rings[0], MOST_RINGS);
}

/* ---- options ---- */

static const struct option long_options[] = {
    {"rings", required_argument, NULL, 'r'},
    {"threads", required_argument, NULL, 't'},
    {"entries", required_argument, NULL, 'e'},
    {"inflight", required_argument, NULL, 'i'},
    {"file", required_argument, NULL, 'f'},
    {"make", required_argument, NULL, 'm'},
    {"alone", no_argument, NULL, 'a'},
    {"quiet", no_argument, NULL, 'q'},
    {"by-call", no_argument, NULL, 'b'},
    {"heir", required_argument, NULL, 'h'},
    {"state", required_argument, NULL, 's'},
    {0},
};

static void set_in_flight(char *spec)
{
	char *const keys[] = {"reads", "polls", "zeros", NULL};
	char *value;

	memset(wanted, 0, sizeof(wanted));
	while (*spec) {
		int key = getsubopt(&spec, keys, &value);

		if (key < 0 || !value)
			exit(2);
		wanted[key] = (unsigned)atoi(value);
	}
}

static unsigned number(const char *text, unsigned most)
{
	unsigned long value = strtoul(text, NULL, 10);

	if (value > most)
		exit(2);
	return (unsigned)value;
}

static void say_ready(void)
{
	char line[2048] = "";

	for (unsigned i = 0; i < ring_count; i++)
		snprintf(line + strlen(line), sizeof(line) - strlen(line), " 0x%lx", rings[i].ctx);
	say("ready%s", line);
}

static void serve(void)
{
	pthread_t reporter;

	start_threads();
	enter_states(1);
	say_ready();
	if (!leader_exits)
		report(NULL);
	check(!pthread_create(&reporter, NULL, report, NULL), "pthread_create");
	pthread_exit(NULL);
}

int main(int argc, char **argv)
{
	const struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	const char *heir = NULL;
	int letter;

	while ((letter = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (letter) {
		case 'r':
			ring_count = number(optarg, MOST_RINGS);
			break;
		case 't':
			thread_count = number(optarg, MOST_RINGS);
			break;
		case 'e':
			entries = number(optarg, 1 << 20);
			break;
		case 'i':
			set_in_flight(optarg);
			break;
		case 'f':
			file_fd = open(optarg, O_RDONLY | O_DIRECT | O_CLOEXEC);
			check(file_fd >= 0, optarg);
			break;
		case 'm':
			return make_file(optarg);
		case 'a':
			is_alone = 1;
			break;
		case 'q':
			is_quiet = 1;
			break;
		case 'b':
			is_by_call = 1;
			break;
		case 'h':
			heir = optarg;
			break;
		case 's':
			add_state(optarg);
			break;
		default:
			return 2;
		}
	}
	if (!is_alone)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGUSR1, &action, NULL);
	check(!pipe2(silent, O_CLOEXEC), "pipe2");
	if (file_fd < 0 && wanted[READS])
		file_fd = open_own_file();
	for (unsigned i = 0; i < ring_count; i++)
		make_ring(&rings[i], i);
	if (heir)
		make_heir(heir);
	enter_states(0);
	serve();
}
