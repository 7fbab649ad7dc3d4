/* SPDX-License-Identifier: MIT */
/*
 * What may befall a process while it is staged or restored, from outside; and a program that executes itself.
 *
 *   misbehave kill PID                 SIGKILL, and waits until it has exited
 *   misbehave scribble PID WHAT SEED   writes something over what the tool has in its memory:
 *                                      capsule   the table that heads it
 *                                      records   what follows that
 *                                      args      the argument block of the blob, and the stack below it
 *                                      rings     a ring's header, live or staged, or its slots
 *                                      code      the blob
 *                                      any       one of these
 *                                      Prints what and where; nothing if there is none
 *   misbehave rain PID WHAT SEED       the same without pause, until the process is gone, or SIGTERM
 *   misbehave set PID OFFSET VALUE     a word of the capsule's table
 *   misbehave trace TID MS             is its tracer, so long: it stands still. Prints "traced" when it is
 *   misbehave traces PID SEED          is that of one thread and another, for moments, until SIGTERM
 *   misbehave execs [COUNT]            uses AIO, and executes itself anew from one thread or the other. Prints
 *                                      "ok COUNT" now and then
 */
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "restorer.h"
#include "ring.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
/* As in loader/inject.c: what lies in the scratch memory in front of the argument block. */
#define SCRATCH_BYTES (65536u + 8192u)
#define SCRATCH_LEN 0x13000u

static volatile sig_atomic_t must_end;

static void on_term(int signal)
{
	(void)signal;
	must_end = 1;
}

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static void nap(long us)
{
	const struct timespec time = {.tv_nsec = us * 1000};

	nanosleep(&time, NULL);
}

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* ---- the end of a process ---- */

/* Calls `visit` for each thread, until it returns non-zero. */
static int each_thread(pid_t pid, int (*visit)(pid_t tid, void *data), void *data)
{
	struct dirent *entry;
	char path[64];
	int ret = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (!dir)
		return 0;
	while (!ret && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			ret = visit((pid_t)atoi(entry->d_name), data);
	closedir(dir);
	return ret;
}

static int is_alive(pid_t tid, void *unused)
{
	char path[64], text[512] = "", *at;
	FILE *file;

	(void)unused;
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)tid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	at = fgets(text, sizeof(text), file) ? strrchr(text, ')') : NULL;
	fclose(file);
	return at && at[2] != 'Z' && at[2] != 'X';
}

static int end_process(pid_t pid)
{
	kill(pid, SIGKILL);
	for (int i = 0; i < 2000 && each_thread(pid, is_alive, NULL); i++)
		nap(500);
	return 0;
}

/* ---- over what is written ---- */

enum what { CAPSULE, RECORDS, ARGS, RINGS, CODE, ANY };

static const char *const names[] = {"capsule", "records", "args", "rings", "code", "any"};

struct place {
	enum what what;
	uint64_t at, len;
};

struct places {
	struct place list[64];
	size_t count;
};

static void add(struct places *places, enum what what, uint64_t at, uint64_t len)
{
	if (places->count < COUNT(places->list))
		places->list[places->count++] = (struct place){what, at, len};
}

static int read_there(pid_t pid, uint64_t addr, void *to, size_t len)
{
	/* cppcheck-suppress ctuuninitvar ; it is filled in there */
	struct iovec local = {to, len}, remote = {(void *)(uintptr_t)addr, len};

	return process_vm_readv(pid, &local, 1, &remote, 1, 0) == (ssize_t)len ? 0 : -1;
}

static void look_at(struct places *places, pid_t pid, uint64_t start, uint64_t len, int is_ring)
{
	struct aior_table table;
	struct aio_ring *ring = (void *)&table;

	if (read_there(pid, start, &table, sizeof(table)))
		return;
	if (!memcmp(table.magic, AIOR_TABLE_MAGIC, sizeof(table.magic))) {
		add(places, CAPSULE, start, sizeof(table));
		add(places, RECORDS, start + sizeof(table), len < 4096 ? 0 : 2048);
		/* cppcheck-suppress uninitvar ; it is filled in there */
	} else if (is_ring || ring->magic == AIO_RING_MAGIC) {
		add(places, RINGS, start, sizeof(*ring));
		add(places, RINGS, start, len);
	} else if (len == SCRATCH_LEN) {
		add(places, ARGS, start + SCRATCH_BYTES - 256, 256 + 64 + sizeof(struct aior_args));
	}
}

static void find_places(struct places *places, pid_t pid)
{
	unsigned long long start, end;
	char path[64], line[512], perms[8], name[64];
	FILE *file;

	places->count = 0;
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		int n;

		name[0] = '\0';
		n = sscanf(line, "%llx-%llx %7s %*s %*s %*s %63s", &start, &end, perms, name);
		if (n < 3)
			continue;
		if (!strcmp(name, "/[aio]") || (!*name && !strcmp(perms, "rw-p")))
			look_at(places, pid, start, end - start, !!*name);
		else if (!*name && !strcmp(perms, "r-xp"))
			add(places, CODE, start, 4096);
	}
	if (file)
		fclose(file);
}

static uint64_t some_value(uint64_t *random)
{
	const uint64_t values[] = {
	    0, 1, 2, 0xffffffff, UINT64_MAX, 0x7fffffff, 0x80000000, 4096, 32, 0x10000000};
	uint64_t i = random_next(random) % (COUNT(values) + 4);

	return i < COUNT(values) ? values[i] : random_next(random);
}

/* As a debugger would: the code is nobody's to write. */
static void write_there(pid_t pid, uint64_t at, const void *from, size_t len)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (pwrite(fd, from, len, (off_t)at) < 0)
		errno = 0; /* it is gone */
	close(fd);
}

static int scribble(pid_t pid, const struct places *places, enum what what, uint64_t *random)
{
	size_t first = random_next(random) % (places->count + 1);

	for (size_t i = 0; i < places->count; i++) {
		const struct place *place = &places->list[(first + i) % places->count];
		size_t len = random_next(random) % 2 ? 4 : 8;
		uint64_t value = some_value(random), at;

		if ((what != ANY && place->what != what) || place->len < len)
			continue;
		at = place->at + (random_next(random) % (place->len - len + 1) & ~3ull);
		write_there(pid, at, &value, len);
		if (!must_end && what != ANY)
			printf("%s+0x%llx = 0x%llx\n", names[place->what],
			    (unsigned long long)(at - place->at), (unsigned long long)value);
		return 1;
	}
	return 0;
}

static enum what find_what(const char *name)
{
	for (size_t i = 0; i < COUNT(names); i++)
		if (!strcmp(names[i], name))
			return (enum what)i;
	fprintf(stderr, "misbehave: %s?\n", name);
	exit(2);
}

static uint64_t seed_of(const char *text)
{
	return strtoull(text, NULL, 0) * 0x9e3779b97f4a7c15ull + 1;
}

static int rain(pid_t pid, const char *name, uint64_t random)
{
	enum what what = find_what(name);
	struct places places;
	unsigned long drops = 0;

	if (!freopen("/dev/null", "w", stdout))
		die("/dev/null");
	while (!must_end && !kill(pid, 0)) {
		find_places(&places, pid);
		for (int i = 0; i < 20 && !must_end; i++)
			drops += (unsigned long)scribble(pid, &places, what, &random);
		if (!places.count)
			nap(100);
	}
	fprintf(stderr, "%lu drops\n", drops);
	return 0;
}

static int set_word(pid_t pid, uint64_t offset, uint32_t value)
{
	struct places places;

	find_places(&places, pid);
	for (size_t i = 0; i < places.count; i++)
		if (places.list[i].what == CAPSULE)
			write_there(pid, places.list[i].at + offset, &value, sizeof(value));
	return 0;
}

/* ---- another tracer ---- */

static int begin_trace(pid_t tid)
{
	int status;

	if (ptrace(PTRACE_SEIZE, tid, 0, 0))
		return -1;
	ptrace(PTRACE_INTERRUPT, tid, 0, 0);
	return waitpid(tid, &status, __WALL) == tid && WIFSTOPPED(status) ? 0 : -1;
}

static int trace(pid_t tid, long ms)
{
	if (begin_trace(tid))
		die("PTRACE_SEIZE");
	puts("traced");
	fflush(stdout);
	for (long i = 0; i < ms && !must_end; i++)
		nap(1000);
	return ptrace(PTRACE_DETACH, tid, 0, 0) ? 1 : 0;
}

static int trace_a_moment(pid_t tid, void *data)
{
	uint64_t *random = data;

	if (random_next(random) % 2 || begin_trace(tid))
		return 0;
	nap((long)(random_next(random) % 1000));
	ptrace(PTRACE_DETACH, tid, 0, 0);
	return 0;
}

static int traces(pid_t pid, uint64_t random)
{
	while (!must_end && !kill(pid, 0)) {
		each_thread(pid, trace_a_moment, &random);
		nap((long)(random_next(&random) % 3000));
	}
	return 0;
}

/* ---- a program that executes itself ---- */

static char *program;
static unsigned long executed;

static _Noreturn void violation(const char *what)
{
	printf("VIOLATION %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *execute(void *unused)
{
	char count[32];

	snprintf(count, sizeof(count), "%lu", executed + 1);
	execl(program, program, "execs", count, NULL);
	violation("exec");
	return unused;
}

static void *spin(void *unused)
{
	for (;;)
		nap(300);
	return unused;
}

static void use_aio(aio_context_t ctx, int fd)
{
	struct iocb iocb = {
	    .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)fd, .aio_data = executed};
	struct iocb *iocbs[4] = {&iocb, &iocb, &iocb, &iocb};
	struct io_event events[4];

	if (syscall(SYS_io_submit, ctx, 4l, iocbs) != 4)
		violation("io_submit");
	if (syscall(SYS_io_getevents, ctx, 4l, 4l, events, NULL) != 4)
		violation("io_getevents");
	for (int i = 0; i < 4; i++)
		if (events[i].data != executed || events[i].res)
			violation("an event");
}

static int execs(const char *count)
{
	uint64_t random;
	aio_context_t ctx = 0;
	pthread_t thread;
	int fds[2], tries = 0;

	executed = count ? strtoul(count, NULL, 10) : 0;
	random = seed_of(count ? count : "0");
	if (!(executed % 4)) {
		printf("ok %lu\n", executed);
		fflush(stdout);
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* What the last program had still counts for a moment (fs.aio-nr). */
	while (syscall(SYS_io_setup, 8, &ctx))
		if (errno != EAGAIN || ++tries > 1000)
			violation("io_setup");
		else
			nap(1000);
	if (pipe2(fds, O_CLOEXEC))
		violation("pipe");
	for (int i = 0; i < 2; i++)
		if (pthread_create(&thread, NULL, spin, NULL))
			violation("pthread_create");
	for (uint64_t i = random_next(&random) % 20; i; i--) {
		use_aio(ctx, fds[0]);
		nap(500);
	}
	if (random_next(&random) % 2)
		execute(NULL);
	if (pthread_create(&thread, NULL, execute, NULL))
		violation("pthread_create");
	for (;;)
		pause();
}

/* ---- options ---- */

int main(int argc, char **argv)
{
	const struct sigaction action = {.sa_handler = on_term};
	const char *verb = argc > 1 ? argv[1] : "";
	pid_t pid = argc > 2 ? atoi(argv[2]) : 0;

	program = argv[0];
	if (!strcmp(verb, "execs"))
		return execs(argc > 2 ? argv[2] : NULL);
	sigaction(SIGTERM, &action, NULL);
	if (argc == 3 && !strcmp(verb, "kill"))
		return end_process(pid);
	if (argc == 5 && !strcmp(verb, "scribble")) {
		uint64_t random = seed_of(argv[4]);
		struct places places;

		find_places(&places, pid);
		scribble(pid, &places, find_what(argv[3]), &random);
		return 0;
	}
	if (argc == 5 && !strcmp(verb, "rain"))
		return rain(pid, argv[3], seed_of(argv[4]));
	if (argc == 5 && !strcmp(verb, "set"))
		return set_word(
		    pid, strtoul(argv[3], NULL, 0), (uint32_t)strtoul(argv[4], NULL, 0));
	if (argc == 4 && !strcmp(verb, "trace"))
		return trace(pid, atol(argv[3]));
	if (argc == 4 && !strcmp(verb, "traces"))
		return traces(pid, seed_of(argv[3]));
	fputs("usage: see the head of tests/misbehave.c\n", stderr);
	return 2;
}
