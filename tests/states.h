/* SPDX-License-Identifier: MIT */
/*
 * What can be special about a worker (tests/worker.c): limits, relatives, and damage to a ring.
 */
#ifndef TEST_STATES_H
#define TEST_STATES_H

#include <errno.h>
#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "restorer.h"
#include "ring.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define BLOCK 4096u

/* The worker's own. */
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...);
static void check(int ok, const char *what);
static int io_setup(unsigned n, aio_context_t *ctx);

static void end_with_parent(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
}

/* A child that has the memory of its parent, or shares it, and sleeps. */
static int sleep_for_ever(void *parent)
{
	end_with_parent(*(pid_t *)parent);
	for (;;)
		pause();
	return 0;
}

/* A ring of several pages that nobody drives. */
static char *spare_ring(size_t *len)
{
	static aio_context_t ctx;
	struct aio_ring *ring;

	if (!ctx)
		check(!io_setup(500, &ctx), "io_setup");
	ring = (struct aio_ring *)ctx;
	*len = (ring->nr + (size_t)1) * AIO_RING_SLOT;
	say("spare 0x%lx", ctx);
	return (char *)ctx;
}

static void scribble(const char *what)
{
	static const char *const words[] = {
	    "id", "nr", "head", "tail", "magic", "compat", "incompat", "header_length"};
	const char *value = strchr(what, '=');
	size_t len;
	uint32_t *header = (uint32_t *)spare_ring(&len);

	for (size_t i = 0; value && i < COUNT(words); i++)
		if (strlen(words[i]) == (size_t)(value - what) &&
		    !memcmp(words[i], what, strlen(words[i])))
			header[i] = (uint32_t)strtoul(value + 1, NULL, 0);
}

static void cut_ring(const char *page)
{
	size_t len;
	char *at = spare_ring(&len);

	check(!munmap(*page == 'l' ? at + len - BLOCK : at + BLOCK, BLOCK), "munmap");
}

static void split_ring(const char *unused)
{
	size_t len;
	char *at = spare_ring(&len);

	(void)unused;
	check(!mprotect(at + BLOCK, BLOCK, PROT_READ), "mprotect");
}

static void share_memory(const char *unused)
{
	static char stack[65536] __attribute__((aligned(16)));
	static pid_t parent;

	(void)unused;
	parent = getpid();
	check(
	    clone(sleep_for_ever, stack + sizeof(stack), CLONE_VM | SIGCHLD, &parent) > 0, "clone");
}

static void *call_vfork(void *unused)
{
	static char stack[65536] __attribute__((aligned(16)));
	static pid_t parent;

	parent = getpid();
	check(clone(sleep_for_ever, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD,
		  &parent) > 0,
	    "clone");
	return unused;
}

static void start_vfork(const char *unused)
{
	pthread_t thread;

	(void)unused;
	check(!pthread_create(&thread, NULL, call_vfork, NULL), "pthread_create");
}

/* What begins as a capsule does, between pages that cannot be touched, and is none. */
static void fake_capsule(const char *unused)
{
	char *at = mmap(NULL, 3 * BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)unused;
	check(at != MAP_FAILED && !mprotect(at + BLOCK, BLOCK, PROT_READ | PROT_WRITE), "mmap");
	memcpy(at + BLOCK, AIOR_TABLE_MAGIC, 8);
}

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#endif

/* What this kernel may not know is said: whoever reads "cannot" skips. */
static void set_prctl(int what, unsigned long value, const char *name)
{
	if (prctl(what, value, 0, 0, 0))
		say("cannot %s: %s", name, strerror(errno));
}

static void deny_write_exec(const char *unused)
{
	(void)unused;
	set_prctl(PR_SET_MDWE, 1, "PR_SET_MDWE");
}

static void be_undumpable(const char *unused)
{
	(void)unused;
	set_prctl(PR_SET_DUMPABLE, 0, "PR_SET_DUMPABLE");
}

static void be_unprivileged(const char *unused)
{
	(void)unused;
	set_prctl(PR_SET_NO_NEW_PRIVS, 1, "PR_SET_NO_NEW_PRIVS");
}

/* A filter ends it if it makes a call that a blob makes, and it does not. */
static void filter_calls(const char *unused)
{
	static const int forbidden[] = {
	    SYS_rt_sigsuspend, SYS_io_destroy, SYS_mremap, SYS_vmsplice};
	struct sock_filter program[2 * COUNT(forbidden) + 2] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
	struct sock_fprog prog = {.filter = program};
	unsigned short at = 1;

	(void)unused;
	for (size_t i = 0; i < COUNT(forbidden); i++) {
		program[at++] = (struct sock_filter)BPF_JUMP(
		    BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)forbidden[i], 0, 1);
		program[at++] =
		    (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	}
	program[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	prog.len = at;
	set_prctl(PR_SET_NO_NEW_PRIVS, 1, "PR_SET_NO_NEW_PRIVS");
	check(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog),
	    "seccomp");
}

/* A call that its filter refuses, and that it makes again and again: it must never be let through. */
static void *knock(void *unused)
{
	for (;;)
		if (syscall(SYS_getpgid, 0) >= 0)
			check(0, "a call that its filter forbids was made");
	return unused;
}

static void start_knocking(const char *unused)
{
	struct sock_filter program[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpgid, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.filter = program, .len = COUNT(program)};
	pthread_t thread;

	(void)unused;
	set_prctl(PR_SET_NO_NEW_PRIVS, 1, "PR_SET_NO_NEW_PRIVS");
	check(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog),
	    "seccomp");
	check(!pthread_create(&thread, NULL, knock, NULL), "pthread_create");
}

/* A thread that may do no more than read and write. */
static void *be_strict(void *data)
{
	const int *fds = data;
	char byte;

	check(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT), "PR_SET_SECCOMP");
	for (;;)
		if (read(fds[0], &byte, 1) != 1)
			return NULL;
}

static void start_strict(const char *unused)
{
	static int fds[2];
	pthread_t thread;

	(void)unused;
	check(!pipe(fds) && !pthread_create(&thread, NULL, be_strict, fds), "pthread_create");
}

/* A capsule that says that it is parked, which it is not, and that is another one at every other look. */
static void *flicker(void *data)
{
	const struct timespec time = {.tv_nsec = 3000000};
	volatile struct aior_table *table = data;

	for (;;) {
		table->possible_cpus ^= 1;
		nanosleep(&time, NULL);
	}
	return NULL;
}

static void pretend_to_be_parked(const char *arch)
{
	struct aior_table *table =
	    mmap(NULL, 3 * BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_t thread;

	check(table != MAP_FAILED, "mmap");
	table = (void *)((char *)table + BLOCK);
	check(!mprotect(table, BLOCK, PROT_READ | PROT_WRITE), "mprotect");
	*table = (struct aior_table){
	    .abi = AIOR_ABI,
	    .size = sizeof(*table),
	    .total = sizeof(*table) + sizeof(struct aior_ring_record) +
		     sizeof(struct aior_thread_record),
	    .state = AIOR_TABLE_STAGED,
	    .arch = (uint32_t)strtoul(arch, NULL, 0),
	    .page_size = BLOCK,
	    .pid = (uint32_t)getpid(),
	    .rings = sizeof(*table),
	    .ring_count = 1,
	    .ring_stride = sizeof(struct aior_ring_record),
	    .polls = sizeof(*table) + sizeof(struct aior_ring_record),
	    .poll_stride = sizeof(struct aior_poll_record),
	    .threads = sizeof(*table) + sizeof(struct aior_ring_record),
	    .thread_count = 1,
	    .thread_stride = sizeof(struct aior_thread_record),
	    .possible_cpus = 2,
	};
	memcpy(table->magic, AIOR_TABLE_MAGIC, sizeof(table->magic));
	check(!pthread_create(&thread, NULL, flicker, table), "pthread_create");
}

/* Further memory is locked, and there may be no more of that than `limit` bytes. */
static void lock_future(const char *limit)
{
	struct rlimit few = {strtoul(limit, NULL, 0), strtoul(limit, NULL, 0)};

	check(!setrlimit(RLIMIT_MEMLOCK, &few), "setrlimit");
	check(!mlockall(MCL_FUTURE), "mlockall");
}

/* So many mappings that only `left` more are possible. */
static void fill_mappings(const char *left)
{
	size_t pages = 1 << 18, i, spare = strtoul(left, NULL, 0);
	char *at = mmap(
	    NULL, pages * BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	check(at != MAP_FAILED, "mmap");
	for (i = 1; i < pages && !mprotect(at + i * BLOCK, BLOCK, PROT_READ); i += 2)
		;
	if (i >= pages) {
		say("cannot fill the mappings: this host allows too many");
		return;
	}
	for (; spare && i > 2; spare -= spare > 1 ? 2 : 1)
		check(!mprotect(at + (i -= 2) * BLOCK, BLOCK, PROT_NONE), "mprotect");
}

/* A limit that is where the process is already. */
static void limit_memory(const char *unused)
{
	unsigned long pages = 0;
	struct rlimit now;
	FILE *file = fopen("/proc/self/statm", "re");

	(void)unused;
	check(file && fscanf(file, "%lu", &pages) == 1, "/proc/self/statm");
	fclose(file);
	now.rlim_cur = now.rlim_max = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
	check(!setrlimit(RLIMIT_AS, &now), "setrlimit");
}

static void change_root(const char *path)
{
	check(!chroot(path) && !chdir("/"), "chroot");
}

/* ---- storms: what a thread does again and again ---- */

static void storm_nap(unsigned most_us)
{
	static _Thread_local unsigned seed = 1;
	struct timespec time = {.tv_nsec = (long)(rand_r(&seed) % most_us) * 1000};

	check(!nanosleep(&time, NULL), "nanosleep");
}

static void storm_of_forks(void)
{
	int status;
	pid_t child = fork();

	if (!child)
		_exit(7);
	check(child > 0 && waitpid(child, &status, 0) == child, "fork");
	check(WIFEXITED(status) && WEXITSTATUS(status) == 7, "a child's end");
}

static void storm_of_execs(void)
{
	char *argv[] = {"true", NULL}, *env[] = {NULL};
	int status;
	pid_t child;

	check(!posix_spawn(&child, "/bin/true", NULL, NULL, argv, env), "posix_spawn");
	check(waitpid(child, &status, 0) == child && !status, "/bin/true");
}

static void *come_and_go(void *value)
{
	return value;
}

static void storm_of_threads(void)
{
	pthread_t threads[4];
	int values[COUNT(threads)];
	void *value;

	for (size_t i = 0; i < COUNT(threads); i++)
		check(
		    !pthread_create(&threads[i], NULL, come_and_go, &values[i]), "pthread_create");
	for (size_t i = 0; i < COUNT(threads); i++)
		check(!pthread_join(threads[i], &value) && value == &values[i], "pthread_join");
}

/* One with requests that have ended, and a poll that its end cancels. */
static void storm_of_rings(void)
{
	static _Thread_local unsigned seed = 1;
	aio_context_t ctx = 0;
	int fds[2], n = 1 + rand_r(&seed) % 16;
	struct io_event events[16];
	struct iocb read = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_data = 4711},
		    poll = {.aio_lio_opcode = IOCB_CMD_POLL, .aio_buf = 1 /* POLLIN */}, *iocbs[17];

	check(!pipe(fds), "pipe");
	read.aio_fildes = poll.aio_fildes = (uint32_t)fds[0];
	for (int i = 0; i < n; i++)
		iocbs[i] = &read;
	iocbs[n] = &poll;
	check(!io_setup(1u + rand_r(&seed) % 400, &ctx), "io_setup");
	check(syscall(SYS_io_submit, ctx, n + 1l, iocbs) == n + 1, "io_submit");
	check(syscall(SYS_io_getevents, ctx, (long)n, 16l, events, NULL) == n, "io_getevents");
	for (int i = 0; i < n; i++)
		check(events[i].data == 4711 && !events[i].res, "an event");
	check(!syscall(SYS_io_destroy, ctx), "io_destroy");
	close(fds[0]);
	close(fds[1]);
}

static void storm_of_mappings(void)
{
	static _Thread_local unsigned seed = 1;
	size_t pages = 3 + rand_r(&seed) % 64, moved = pages - 2;
	char *at =
	    mmap(NULL, pages * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	check(at != MAP_FAILED, "mmap");
	memset(at, 0x5a, pages * BLOCK);
	check(!mprotect(at + BLOCK, BLOCK, PROT_READ), "mprotect");
	check(!munmap(at, BLOCK) && at[BLOCK] == 0x5a, "munmap");
	check(!munmap(at + BLOCK, BLOCK), "munmap");
	at = mremap(at + 2 * BLOCK, moved * BLOCK, (moved + 9) * BLOCK, MREMAP_MAYMOVE);
	check(at != MAP_FAILED && at[moved * BLOCK - 1] == 0x5a, "mremap");
	check(!munmap(at, (moved + 9) * BLOCK), "munmap");
}

/* Queued signals come in order, each of them once. */
static volatile int signals_sent, signals_seen;

static void on_storm(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	check(info->si_value.sival_int == signals_seen + 1, "a queued signal out of turn");
	signals_seen = info->si_value.sival_int;
}

static void storm_of_signals(void)
{
	union sigval value = {.sival_int = signals_sent + 1};
	struct sigaction action = {.sa_sigaction = on_storm, .sa_flags = SA_SIGINFO | SA_RESTART};

	if (!signals_sent)
		check(!sigaction(SIGRTMIN + 1, &action, NULL), "sigaction");
	check(!sigqueue(getpid(), SIGRTMIN + 1, value), "sigqueue");
	signals_sent++;
	while (signals_sent - signals_seen > 16)
		storm_nap(500);
}

static int sleep_a_moment(void *unused)
{
	const struct timespec time = {.tv_nsec = 2000000};

	(void)unused;
	syscall(SYS_nanosleep, &time, NULL);
	return 0;
}

/* Processes that share the memory come and go. */
static void storm_of_sharers(void)
{
	static char stack[65536] __attribute__((aligned(16)));
	pid_t child = clone(sleep_a_moment, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);

	check(child > 0 && waitpid(child, NULL, 0) == child, "clone");
	storm_nap(30000);
}

/* It is the tracer of a child, which goes from stop to stop. */
static void storm_of_traps(void)
{
	static pid_t child;
	int status;

	if (!child) {
		child = fork();
		if (!child) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			check(!ptrace(PTRACE_TRACEME, 0, 0, 0), "PTRACE_TRACEME");
			for (;;)
				raise(SIGSTOP);
		}
		say("traced %d", (int)child);
	}
	check(waitpid(child, &status, 0) == child && WIFSTOPPED(status), "a child's stop");
	check(!ptrace(PTRACE_SYSCALL, child, 0, 0), "PTRACE_SYSCALL");
}

static const struct storm {
	const char *name;
	void (*once)(void);
} storms[] = {
    {"forks", storm_of_forks},
    {"execs", storm_of_execs},
    {"threads", storm_of_threads},
    {"rings", storm_of_rings},
    {"mappings", storm_of_mappings},
    {"signals", storm_of_signals},
    {"sharers", storm_of_sharers},
    {"traps", storm_of_traps},
};

static void *run_storm(void *data)
{
	const struct storm *storm = data;

	for (;;) {
		storm->once();
		storm_nap(500);
	}
	return NULL;
}

/* Signals are the first thread's. */
static void start_storm(const char *name)
{
	sigset_t all, old;
	pthread_t thread;

	for (size_t i = 0; i < COUNT(storms); i++) {
		if (strcmp(storms[i].name, name))
			continue;
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &old);
		check(!pthread_create(&thread, NULL, run_storm, (void *)&storms[i]),
		    "pthread_create");
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		return;
	}
	fprintf(stderr, "worker: %s is no storm\n", name);
	exit(2);
}

static int leader_exits;

static void let_leader_exit(const char *unused)
{
	(void)unused;
	leader_exits = 1;
}

static const struct state {
	const char *name;
	void (*enter)(const char *argument); /* what stands behind a colon */
	int is_late;                         /* only when all threads are there */
} states[] = {
    {"scribble", scribble, 0},            /* WORD=VALUE: in the header of the further ring */
    {"cut", cut_ring, 0},                 /* last or middle: a page of it is unmapped */
    {"split", split_ring, 0},             /* a page of it has another protection */
    {"clone-vm", share_memory, 1},        /* another process shares its memory */
    {"vfork", start_vfork, 1},            /* a thread is in vfork() */
    {"fake-capsule", fake_capsule, 0},    /* memory that begins as a capsule does */
    {"mdwe", deny_write_exec, 0},         /* memory cannot become executable */
    {"undumpable", be_undumpable, 1},     /* PR_SET_DUMPABLE */
    {"no-new-privs", be_unprivileged, 0}, /* PR_SET_NO_NEW_PRIVS */
    {"filter", filter_calls, 1},          /* of system calls: it must not make those of a blob */
    {"knock", start_knocking, 1},         /* a thread makes a call that its filter refuses */
    {"strict", start_strict, 1},          /* a thread is under seccomp's strict mode */
    {"pretend", pretend_to_be_parked,
	1},                         /* ARCH, a number: a capsule that says that it is parked */
    {"mlockall", lock_future, 1},   /* LIMIT: MCL_FUTURE, and RLIMIT_MEMLOCK */
    {"mappings", fill_mappings, 1}, /* LEFT: all mappings but so many are in use */
    {"limit-as", limit_memory, 1},  /* no more memory can be mapped */
    {"chroot", change_root, 0},     /* PATH */
    {"leader-exits", let_leader_exit, 0}, /* the first thread exits, the others go on */
    {"storm", start_storm, 1},            /* NAME: a thread does that again and again */
};

static struct {
	const struct state *state;
	const char *argument;
} wanted_states[16];
static size_t wanted_state_count;

static void add_state(const char *text)
{
	size_t len = strcspn(text, ":");

	for (size_t i = 0; i < COUNT(states) && wanted_state_count < COUNT(wanted_states); i++) {
		if (strlen(states[i].name) != len || memcmp(states[i].name, text, len))
			continue;
		wanted_states[wanted_state_count].state = &states[i];
		wanted_states[wanted_state_count++].argument = text + len + (text[len] == ':');
		return;
	}
	fprintf(stderr, "worker: %s is no state\n", text);
	exit(2);
}

static void enter_states(int late)
{
	for (size_t i = 0; i < wanted_state_count; i++)
		if (wanted_states[i].state->is_late == late)
			wanted_states[i].state->enter(wanted_states[i].argument);
}

#endif
