/* SPDX-License-Identifier: MIT */
/* How a blob is entered and how it ends: called or jumped to; return, park, rt_sigreturn. */
#include <sys/ptrace.h>
#include <linux/ptrace.h>
#include <sys/uio.h>

#include "blob.h"

#define N 2

static const struct blob *tested;
static struct aior_ring_record *rings;
static struct aior_poll_record *polls;
static struct aior_args *args;
static struct staged staged[N];
static int null_fd;

static int is_stage(void)
{
	return tested == &stage_blob;
}

/* Before the fork, so that both sides know the addresses. */
static void set_up(uint32_t end)
{
	uint64_t len = aio_ring_len(1, possible_cpus(), (uint32_t)blob.page);

	rings = map_guarded(N * sizeof(*rings));
	args = map_guarded(sizeof(*args));
	arena_make(1 << 20);
	for (uint32_t i = 0; i < N; i++)
		stage(&rings[i], &staged[i], len, 120, 40, is_stage() || i & 1, i);
	polls = map_guarded(N * (len / sizeof(struct aio_slot)) * sizeof(*polls));
	*args = blob_args(rings, N, polls, 0);
	args->scratch_len = tested->header->scratch;
	args->poll_room = N * (staged[0].nr - 1);
	args->end = end;
	null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* What the blob works on is the process's own: for stage, rings with the content that is noted. */
static void make_rings(void)
{
	struct iocb iocb, *iocbs[1] = {&iocb};

	iocb_null_read(&iocb, null_fd, 0);
	for (uint32_t i = 0; i < N && is_stage(); i++) {
		struct aio_ring *ring = ring_of(rings[i].addr);
		size_t len = staged[i].len;
		aio_context_t ctx;

		if (io_setup(1, &ctx) ||
		    mremap(ring_of(ctx), len, len, MREMAP_MAYMOVE | MREMAP_FIXED, ring) != ring)
			abort();
		while (ring->tail != staged[i].tail || ring->head != staged[i].head) {
			if (io_submit(rings[i].addr, 1, iocbs) != 1)
				abort();
			if (ring->head != staged[i].head)
				ring->head = ring->tail;
		}
		memcpy(slots_of(ring), slots_of(staged[i].copy), len - AIO_RING_HEADER);
	}
}

/* NULL, or what is wrong with a ring when the blob has succeeded. */
static const char *why_wrong(uint32_t i)
{
	const unsigned char *at = (const unsigned char *)(uintptr_t)rings[i].addr;

	if (!is_stage())
		return why_not_live(&rings[i], &staged[i], args, null_fd);
	if (rings[i].flags != AIOR_RING_DRAINED)
		return "the record's results";
	return memcmp(at + 4, staged[i].copy + 4, staged[i].len - 4) ? "its bytes" : NULL;
}

/* On a fresh stack; comes back by rt_sigreturn, or not at all. */
static void enter_on_another_stack(uint32_t entry)
{
	static ucontext_t other;

	getcontext(&other);
	other.uc_stack.ss_sp = blob.stack;
	other.uc_stack.ss_size = STACK_BYTES;
	other.uc_link = NULL;
	makecontext(&other, (void (*)(void))(uintptr_t)(tested->base + entry), 1, args);
	setcontext(&other);
}

static int in_park(uint64_t pc)
{
	uint64_t base = (uintptr_t)tested->base;

	return pc >= base + tested->header->park && pc <= base + tested->header->park_end;
}

/* Asleep in the park loop, with every signal blocked that can be. */
static int is_parked(pid_t pid)
{
	char path[64], text[4096], *pc, *blocked;
	ssize_t n;
	int fd;

	for (int tries = 0; tries < 10000; tries++, usleep(1000)) {
		snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		n = read(fd, text, sizeof(text) - 1);
		close(fd);
		if (n <= 0)
			continue;
		text[n] = '\0';
		pc = strrchr(text, ' ');
		if (atol(text) != __NR_rt_sigsuspend || !pc || !in_park(strtoull(pc, NULL, 16)))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/status", pid);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		n = read(fd, text, sizeof(text) - 1);
		close(fd);
		text[n > 0 ? n : 0] = '\0';
		blocked = strstr(text, "SigBlk:");
		if (!strstr(text, "State:\tS") || !blocked)
			continue;
		return strtoull(blocked + 7, NULL, 16) ==
		       (~0ull & ~(1ull << (SIGKILL - 1)) & ~(1ull << (SIGSTOP - 1)));
	}
	return 0;
}

/* Lets the child go from system call to system call until it enters the one it parks in. */
static int run_until_parked(pid_t pid)
{
	struct ptrace_syscall_info info;
	int status;

	if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) ||
	    ptrace(PTRACE_INTERRUPT, pid, 0, 0))
		return 0;
	while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status)) {
		if (WSTOPSIG(status) == (SIGTRAP | 0x80) &&
		    ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info) > 0 &&
		    info.op == PTRACE_SYSCALL_INFO_ENTRY && info.entry.nr == __NR_rt_sigsuspend)
			return in_park(info.instruction_pointer);
		/* The child waits for this, so no system call of the blob is missed. */
		if (status >> 16 == PTRACE_EVENT_STOP)
			kill(pid, SIGUSR2);
		if (ptrace(PTRACE_SYSCALL, pid, 0,
			WSTOPSIG(status) & 0x80 || status >> 16 ? 0 : WSTOPSIG(status)))
			return 0;
	}
	return 0;
}

static volatile sig_atomic_t may_go;

static void go(int signal)
{
	may_go = signal;
}

static pid_t fork_waiting(uint32_t entry)
{
	pid_t pid;

	signal(SIGUSR2, go);
	pid = fork_mortal();
	if (!pid) {
		make_rings();
		while (!may_go)
			usleep(1000);
		enter_on_another_stack(entry);
		_exit(99);
	}
	return pid;
}

static int peek(pid_t pid, const void *at, void *to, size_t len)
{
	/* cppcheck-suppress ctuuninitvar ; it is filled in there */
	struct iovec local = {to, len}, remote = {(void *)(uintptr_t)at, len};

	return process_vm_readv(pid, &local, 1, &remote, 1, 0) == (ssize_t)len;
}

static void drop(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* Jumps, and sees that it parks; what the block says then. */
static pid_t jump_and_park(const char *name, struct aior_args *results)
{
	pid_t pid = fork_waiting(tested->header->jump);

	ok(run_until_parked(pid), "%s: the driver sees it park", name);
	if (!peek(pid, args, results, sizeof(*results)))
		memset(results, 0, sizeof(*results));
	ptrace(PTRACE_DETACH, pid, 0, 0);
	ok(is_parked(pid), "%s: asleep, all signals blocked", name);
	return pid;
}

static void test_park(void)
{
	struct aior_ring_record record = {0};
	struct aior_args results;
	static unsigned char bytes[65536];
	int status, exact = 1;
	pid_t pid;

	set_up(AIOR_END_PARK);
	pid = jump_and_park("jump and park", &results);
	ok(!results.err && results.step == AIOR_STEP_DONE, "jump and park: it has succeeded");
	for (uint32_t i = 0; i < N; i++)
		exact &= peek(pid, &rings[i], &record, sizeof(record)) &&
			 record.flags == (is_stage() ? AIOR_RING_DRAINED : AIOR_RING_LIVE) &&
			 staged[i].len <= sizeof(bytes) &&
			 peek(pid, (void *)(uintptr_t)record.addr, bytes, staged[i].len) &&
			 !memcmp(bytes + 4, staged[i].copy + 4, staged[i].len - 4);
	ok(exact, "jump and park: the rings are there");
	kill(pid, SIGTERM);
	kill(pid, SIGUSR1);
	kill(pid, SIGSEGV);
	ok(is_parked(pid), "parked: signals do not wake it");
	kill(pid, SIGSTOP);
	ok(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status),
	    "parked: it can be stopped");
	kill(pid, SIGCONT);
	ok(waitpid(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status),
	    "parked: and continued");
	ok(is_parked(pid), "parked: and is parked again");
	drop(pid);
}

static void test_failed_jump(void)
{
	struct aior_args results;
	pid_t pid;

	set_up(AIOR_END_SIGRETURN);
	rings[1].len += 8;
	pid = jump_and_park("a jump that fails", &results);
	ok(results.err == EINVAL && results.step == AIOR_STEP_RING && results.ring == 1,
	    "a jump that fails: the block says why");
	drop(pid);
	set_up(AIOR_END_RETURN);
	pid = jump_and_park("a jump that should return", &results);
	ok(results.err == EINVAL && results.step == AIOR_STEP_ARGS && results.ring == AIOR_NO_RING,
	    "a jump that should return: refused");
	drop(pid);
	set_up(AIOR_END_PARK);
	args->abi = AIOR_ABI + 1;
	pid = jump_and_park("a jump with a newer block", &results);
	ok(!memcmp(&results, args, sizeof(results)), "a jump with a newer block: untouched");
	drop(pid);
}

static void test_called(void)
{
	int status;
	pid_t pid;

	set_up(AIOR_END_PARK);
	pid = fork_mortal();
	if (!pid) {
		make_rings();
		call(tested, args);
		_exit(99);
	}
	ok(is_parked(pid), "called, to park: asleep, all signals blocked");
	drop(pid);
	set_up(AIOR_END_PARK);
	rings[0].reserved++;
	pid = fork_mortal();
	if (!pid)
		_exit(call(tested, args) == -EINVAL ? 42 : 99);
	ok(waitpid(pid, &status, 0) == pid && status == 42 << 8,
	    "called, to park, and failed: returns");
	set_up(AIOR_END_SIGRETURN);
	rings[0].reserved++;
	ok(call(tested, args) == -EINVAL, "called, to rt_sigreturn, and failed: returns");
}

/* ---- rt_sigreturn ---- */

static volatile int by_jump;

/*
 * Where the stack pointer must be for rt_sigreturn: where a handler that returns leaves it, which is
 * its canonical frame address.
 */
static void enter_from_handler(int signal, siginfo_t *info, void *context)
{
	ucontext_t *interrupted = context;

	(void)signal, (void)info;
	sigaddset(&interrupted->uc_sigmask, SIGUSR1);
	args->sigframe = (uintptr_t)__builtin_dwarf_cfa();
	enter_on_another_stack(by_jump ? tested->header->jump : tested->header->call);
}

static void test_sigreturn(void)
{
	struct sigaction action = {.sa_sigaction = enter_from_handler, .sa_flags = SA_SIGINFO};
	uint64_t values[16], seed = 99, before = 0, after = 0;
	double fraction = 1.0 / 3.0;
	const char *why = NULL;
	sigset_t mask;

	set_up(AIOR_END_SIGRETURN);
	make_rings();
	sigaction(SIGUSR2, &action, NULL);
	for (int i = 0; i < 16; i++)
		before += values[i] = random_next(&seed);
	raise(SIGUSR2);
	for (int i = 0; i < 16; i++)
		after += values[i];
	sigprocmask(SIG_BLOCK, NULL, &mask);
	ok(before == after && fraction * 3.0 == 1.0,
	    "%s, rt_sigreturn: back where it was interrupted", by_jump ? "jump" : "call");
	ok(args->step == AIOR_STEP_DONE && !args->err, "the block says success");
	ok(sigismember(&mask, SIGUSR1) && !sigismember(&mask, SIGUSR2) &&
		!sigismember(&mask, SIGTERM),
	    "the signal mask is the frame's");
	for (uint32_t i = 0; i < N && !why; i++)
		why = why_wrong(i);
	ok(!why, "the rings are %s", why ? why : "exact");
}

static void test_all(const char *op, const struct blob *called)
{
	tested = called;
	diag("the %s blob", op);
	in_child("park", test_park);
	in_child("failed jump", test_failed_jump);
	in_child("called", test_called);
	for (by_jump = 0; by_jump < 2; by_jump++)
		in_child("sigreturn", test_sigreturn);
}

int main(void)
{
	long nr = test_start();

	blob_load(&stage_blob, blob_file("stage"), 0);
	test_all("restore", &blob);
	test_all("stage", &stage_blob);
	return test_end(nr);
}
