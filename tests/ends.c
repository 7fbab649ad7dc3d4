/* SPDX-License-Identifier: MIT */
/* How the restore blob is entered and how it ends: called or jumped to; return, park, rt_sigreturn. */
#include <sys/ptrace.h>
#include <linux/ptrace.h>
#include <sys/uio.h>

#include "blob.h"

#define N 2

static struct aior_ring_record *rings;
static struct aior_args *args;
static struct staged staged[N];
static int null_fd;

/* Before the fork, so that both sides know the addresses. */
static void set_up(uint32_t end)
{
	uint64_t len = aio_ring_len(1, possible_cpus(), (uint32_t)blob.page);

	rings = map_guarded(N * sizeof(*rings));
	args = map_guarded(sizeof(*args));
	arena_make(1 << 20);
	for (uint32_t i = 0; i < N; i++)
		stage(&rings[i], &staged[i], len, 120, 40, i & 1, i);
	*args = blob_args(rings, N, NULL, 0);
	args->end = end;
	null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* On a fresh stack; comes back by rt_sigreturn, or not at all. */
static void enter_on_another_stack(uint32_t entry)
{
	static ucontext_t other;

	getcontext(&other);
	other.uc_stack.ss_sp = blob.stack;
	other.uc_stack.ss_size = STACK_BYTES;
	other.uc_link = NULL;
	makecontext(&other, (void (*)(void))(uintptr_t)(blob.base + entry), 1, args);
	setcontext(&other);
}

static int in_park(uint64_t pc)
{
	uint64_t base = (uintptr_t)blob.base;

	return pc >= base + blob.header->park && pc <= base + blob.header->park_end;
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
		while (!may_go)
			usleep(1000);
		enter_on_another_stack(entry);
		_exit(99);
	}
	return pid;
}

static int peek(pid_t pid, const void *at, void *to, size_t len)
{
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
	pid_t pid = fork_waiting(blob.header->jump);

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
			 record.flags == AIOR_RING_LIVE && staged[i].len <= sizeof(bytes) &&
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
		blob_call(args);
		_exit(99);
	}
	ok(is_parked(pid), "called, to park: asleep, all signals blocked");
	drop(pid);
	set_up(AIOR_END_PARK);
	rings[0].staged++;
	pid = fork_mortal();
	if (!pid)
		_exit(blob_call(args) == -EINVAL ? 42 : 99);
	ok(waitpid(pid, &status, 0) == pid && status == 42 << 8,
	    "called, to park, and failed: returns");
	set_up(AIOR_END_SIGRETURN);
	rings[0].staged++;
	ok(blob_call(args) == -EINVAL, "called, to rt_sigreturn, and failed: returns");
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
	enter_on_another_stack(by_jump ? blob.header->jump : blob.header->call);
}

static void test_sigreturn(void)
{
	struct sigaction action = {.sa_sigaction = enter_from_handler, .sa_flags = SA_SIGINFO};
	uint64_t values[16], seed = 99, before = 0, after = 0;
	double fraction = 1.0 / 3.0;
	const char *why = NULL;
	sigset_t mask;

	set_up(AIOR_END_SIGRETURN);
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
		why = why_not_live(&rings[i], &staged[i], args, null_fd);
	ok(!why, "the rings are %s", why ? why : "exact");
}

int main(void)
{
	long nr = test_start();

	in_child("park", test_park);
	in_child("failed jump", test_failed_jump);
	in_child("called", test_called);
	for (by_jump = 0; by_jump < 2; by_jump++)
		in_child("sigreturn", test_sigreturn);
	return test_end(nr);
}
