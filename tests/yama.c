/* SPDX-License-Identifier: MIT */
/*
 * Who may do what in each of Yama's scopes (kernel.yama.ptrace_scope): they hold for a whole machine, and the last of them
 * until it ends. So this runs in guests alone, behind all else: tests/qemu.
 *
 *	yama.t MAY_SET_SCOPE=1
 *
 *	TOOL   what is tested: $BUILD/aio-restorer
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/aio_abi.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define SCOPE "/proc/sys/kernel/yama/ptrace_scope"
#define USER 65534
#define CORE "/tmp/aior-yama.core"

static const char *tool;

/* ---- what is traced ---- */

static struct shared {
	atomic_ulong rounds; /* it goes on as long as this grows */
	atomic_int wrong;
} * shared;

static void be_user(void)
{
	if (setgroups(0, NULL) || setresgid(USER, USER, USER) || setresuid(USER, USER, USER))
		_exit(126);
}

/* A request that ends at once, and its event, again and again. */
static void work(int allows_all)
{
	const struct timespec nap = {.tv_nsec = 5000000};
	struct iocb iocb = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_data = 4711}, *iocbs[] = {&iocb};
	aio_context_t ctx = 0;
	struct io_event event;
	int fds[2];

	if (allows_all)
		prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
	if (pipe(fds) || syscall(SYS_io_setup, 8, &ctx))
		_exit(125);
	iocb.aio_fildes = (uint32_t)fds[0];
	for (;;) {
		memset(&event, 0, sizeof(event));
		if (syscall(SYS_io_submit, ctx, 1l, iocbs) != 1 ||
		    syscall(SYS_io_getevents, ctx, 1l, 1l, &event, NULL) != 1 || event.data != 4711)
			atomic_store(&shared->wrong, 1);
		atomic_fetch_add(&shared->rounds, 1);
		nanosleep(&nap, NULL);
	}
}

static pid_t start(int allows_all)
{
	pid_t pid;

	atomic_store(&shared->rounds, 0);
	pid = fork_mortal();
	if (!pid) {
		be_user();
		/* The change of user has ended both. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_DUMPABLE, 1);
		work(allows_all);
	}
	return pid;
}

static int goes_on(pid_t pid)
{
	const struct timespec nap = {.tv_nsec = 10000000};
	unsigned long before = atomic_load(&shared->rounds);

	for (int i = 0; i < 6000; i++) {
		if (atomic_load(&shared->rounds) > before + 1)
			return !atomic_load(&shared->wrong);
		if (waitpid(pid, NULL, WNOHANG))
			return 0;
		nanosleep(&nap, NULL);
	}
	return 0;
}

/* ---- the tool ---- */

static char said[4096];

/* Its exit status, with what it says in `said`. */
static int run(int as_user, const char *command, pid_t target)
{
	char pid[16];
	const char *const words[] = {"aio-restorer", command, target ? pid : NULL,
	    strcmp(command, "dump") ? NULL : "-o", CORE, NULL};
	int out = memfd_create("said", MFD_CLOEXEC), status = -1;
	pid_t child;
	ssize_t n;

	snprintf(pid, sizeof(pid), "%d", (int)target);
	unlink(CORE);
	child = fork_mortal();
	if (!child) {
		if (as_user)
			be_user();
		dup2(out, STDOUT_FILENO);
		dup2(out, STDERR_FILENO);
		alarm(300);
		execv(tool, (char *const *)(uintptr_t)words);
		_exit(127);
	}
	waitpid(child, &status, 0);
	n = pread(out, said, sizeof(said) - 1, 0);
	said[n < 0 ? 0 : n] = '\0';
	close(out);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const char *const commands[] = {"list", "dump", "stage", "restore"};

/* `why`: all is refused, with that in the reason; NULL: all is done. */
static void test_all(const char *name, int scope, int as_user, int allows_all, const char *why)
{
	pid_t pid = start(allows_all);
	const char *who = as_user ? "its user" : "root";

	ok(goes_on(pid), "scope %d, %s: there is a process", scope, name);
	for (size_t i = 0; i < COUNT(commands); i++) {
		int status = run(as_user, commands[i], pid);

		if (!ok(why ? status == 1 && strstr(said, why) : !status,
			"scope %d, %s: %s by %s is %s", scope, name, commands[i], who,
			why ? "refused, with the reason" : "done"))
			diag("exit status %d: %s", status, said);
	}
	ok(goes_on(pid), "scope %d, %s: it goes on", scope, name);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* What root has parked stays so, whoever else asks for it. */
static void test_parked(int scope, const char *why)
{
	pid_t pid = start(0);
	int status;

	ok(goes_on(pid) && !run(0, "stage", pid), "scope %d: root parks it", scope);
	status = run(1, "restore", pid);
	if (!ok(status == 1 && strstr(said, why),
		"scope %d: its user may not restore it, and is told why", scope))
		diag("exit status %d: %s", status, said);
	ok(!run(0, "restore", pid) && goes_on(pid), "scope %d: root may", scope);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void test_check(int scope, int as_user, const char *what)
{
	int status = run(as_user, "check", 0);

	if (!ok(!status && strstr(said, what), "scope %d: check says so to %s", scope,
		as_user ? "a user" : "root"))
		diag("exit status %d: %s", status, said);
}

static int set_scope(int scope)
{
	int fd = open(SCOPE, O_WRONLY | O_CLOEXEC), ret;

	ret = fd < 0 ? -1 : (int)dprintf(fd, "%d\n", scope);
	if (fd >= 0)
		close(fd);
	return ok(ret > 0, "scope %d is set", scope);
}

static void test_scopes(void)
{
	static const char *const whys[] = {NULL, "kernel.yama.ptrace_scope is 1: be root",
	    "kernel.yama.ptrace_scope is 2: be root",
	    "nobody may trace here until the next boot (kernel.yama.ptrace_scope is 3)"};
	static const char *const checks[] = {"your own, if they are dumpable",
	    "(kernel.yama.ptrace_scope is 1); root: all",
	    "(kernel.yama.ptrace_scope is 2); root: all",
	    "none, until the next boot (kernel.yama.ptrace_scope is 3)"};

	for (int scope = 0; scope <= 3; scope++) {
		if (!set_scope(scope))
			return;
		test_all("a process", scope, 1, 0, whys[scope]);
		test_all("one that lets all trace it", scope, 1, 1, scope > 1 ? whys[scope] : NULL);
		test_all("a process", scope, 0, 0, scope > 2 ? whys[scope] : NULL);
		if (scope == 1 || scope == 2)
			test_parked(scope, whys[scope]);
		test_check(scope, 1, checks[scope]);
		test_check(scope, 0, scope > 2 ? checks[scope] : "all of your user namespace");
	}
}

int main(int argc, char **argv)
{
	const char *build = getenv("BUILD") ? getenv("BUILD") : "build";
	static char path[PATH_MAX];

	for (int i = 1; i < argc; i++)
		if (!strchr(argv[i], '=') || putenv(argv[i]))
			return 2;
	tap_start();
	if (!getenv("MAY_SET_SCOPE")) {
		printf("1..0 # SKIP it would change how this machine works\n");
		return 0;
	}
	if (access(SCOPE, F_OK)) {
		printf("1..0 # SKIP there is no Yama in this kernel\n");
		return 0;
	}
	snprintf(path, sizeof(path), "%s/aio-restorer", build);
	tool = getenv("TOOL") ? getenv("TOOL") : path;
	shared =
	    mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	test_scopes();
	return tap_end();
}
