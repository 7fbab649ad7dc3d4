/* SPDX-License-Identifier: MIT */
/*
 * The first process of a guest: runs the programs that /list names, one after the other, and says on
 * the console what the host cannot see itself. With arguments (of the kernel's command line, behind "--") only
 * those programs. Lines of /list:
 *
 *	set VARIABLE VALUE                  for the programs that follow
 *	write FILE VALUE                    of /proc or /sys
 *	run NAME SECONDS PROGRAM ARGUMENT…
 *
 * On the console, each on a line of its own (boot.pl reads them):
 *
 *	@@ boot RELEASE MACHINE PAGE-SIZE POSSIBLE-CPUS
 *	@@ begin NAME
 *	@@ end NAME exit|signal|timeout NUMBER MILLISECONDS
 *	@@ file NAME                        of /tmp/out: lines of OFFSET HEX, those of zeros left out
 *	@@ end file LENGTH FNV-1a
 *	@@ done
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OUT "/tmp/out"
#define MAX_WORDS 32

static void mount_all(void)
{
	static const struct {
		const char *type, *at;
	} mounts[] = {
	    {"proc", "/proc"},
	    {"sysfs", "/sys"},
	    {"devtmpfs", "/dev"},
	    {"tmpfs", "/dev/shm"},
	    {"tmpfs", "/run"},
	    {"tmpfs", "/tmp"},
	};

	for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
		mkdir(mounts[i].at, 0755);
		if (mount(mounts[i].type, mounts[i].at, mounts[i].type, 0, NULL))
			printf("%s cannot be mounted: %s\n", mounts[i].at, strerror(errno));
	}
	mkdir(OUT, 0755);
}

static void write_value(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		printf("%s cannot be written: %s\n", path, strerror(errno));
	close(fd);
}

/* Only what ends the kernel may come between the lines of a test. */
static void silence_kernel(void)
{
	write_value("/proc/sys/kernel/printk", "1");
}

static void say_boot(void)
{
	char possible[64] = "";
	struct utsname name;
	int fd = open("/sys/devices/system/cpu/possible", O_RDONLY);

	if (read(fd, possible, sizeof(possible) - 1) < 0)
		possible[0] = '\0';
	close(fd);
	uname(&name);
	possible[strcspn(possible, "\n")] = '\0';
	printf("\n@@ boot %s %s %ld %s\n", name.release, name.machine, sysconf(_SC_PAGESIZE),
	    possible);
}

static long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/*
 * Reaps until `pid` has ended, or all children if it is -1. Returns 0 when the time is over before
 * that. SIGCHLD is blocked, so that none is missed between a look and the wait.
 */
static int reap_until(pid_t pid, int *status, long deadline)
{
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	for (;;) {
		long left = deadline - now_ms();
		struct timespec wait = {.tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000};
		int one;
		pid_t reaped = waitpid(-1, &one, WNOHANG);

		if (reaped == pid)
			*status = one;
		if (reaped == pid || reaped < 0)
			return 1;
		if (reaped > 0)
			continue;
		if (left <= 0)
			return 0;
		sigtimedwait(&child, NULL, &wait);
	}
}

static pid_t start(char **words)
{
	sigset_t none;
	pid_t pid = fork();
	int fd;

	if (pid)
		return pid;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	fd = open("/dev/null", O_RDONLY);
	dup2(fd, STDIN_FILENO);
	close(fd);
	execv(words[0], words);
	printf("%s cannot be run: %s\n", words[0], strerror(errno));
	/* (exit would set /list, which is the parent's, too, back to what has not been taken of it.) */
	fflush(stdout);
	_exit(127);
}

/* words: NAME SECONDS PROGRAM ARGUMENT... */
static void run(char **words)
{
	long begun = now_ms(), limit = atol(words[1]);
	const char *how = "timeout";
	int status = 255 << 8, number = (int)limit, unused;
	pid_t pid;

	printf("@@ begin %s\n", words[0]);
	pid = start(words + 2);
	if (pid > 0 && reap_until(pid, &status, begun + limit * 1000)) {
		how = WIFSIGNALED(status) ? "signal" : "exit";
		number = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
	}
	/* The program, if it still runs, and all that it left behind. */
	kill(-1, SIGKILL);
	if (!reap_until(-1, &unused, now_ms() + 5000))
		printf("\n# a process cannot be killed\n");
	printf("\n@@ end %s %s %d %ld\n", words[0], how, number, now_ms() - begun);
}

static int is_wanted(const char *name, char **only)
{
	int is_among = !*only;

	for (; *only; only++)
		is_among |= !strcmp(name, *only);
	return is_among;
}

/* `only`: the names of those that are run; none: all. */
static void run_list(char **only)
{
	FILE *list = fopen("/list", "r");
	char line[4096];

	if (!list)
		printf("there is no /list\n");
	while (list && fgets(line, sizeof(line), list)) {
		char *words[MAX_WORDS + 1] = {NULL}, *rest = NULL;
		int count = 0;

		for (char *word = strtok_r(line, " \n", &rest); word && count < MAX_WORDS;
		     word = strtok_r(NULL, " \n", &rest))
			words[count++] = word;
		if (count == 3 && !strcmp(words[0], "set"))
			setenv(words[1], words[2], 1);
		else if (count == 3 && !strcmp(words[0], "write"))
			write_value(words[1], words[2]);
		else if (count >= 4 && !strcmp(words[0], "run") && is_wanted(words[1], only))
			run(words + 1);
		else if (count >= 4 && !strcmp(words[0], "run"))
			continue;
		else if (count)
			printf("/list has a line that is not understood: %s\n", words[0]);
	}
}

/* ---- files for the host ---- */

static int is_zero(const unsigned char *bytes, size_t len)
{
	while (len && !bytes[len - 1])
		len--;
	return !len;
}

static void print_file(const char *name)
{
	unsigned char bytes[32];
	unsigned long offset = 0;
	uint32_t sum = 0x811c9dc5;
	FILE *file = fopen(name, "r");
	size_t len;

	if (!file)
		return;
	printf("@@ file %s\n", name);
	while ((len = fread(bytes, 1, sizeof(bytes), file)) > 0) {
		for (size_t i = 0; i < len; i++)
			sum = (sum ^ bytes[i]) * 0x01000193;
		if (!is_zero(bytes, len)) {
			printf("%lx ", offset);
			for (size_t i = 0; i < len; i++)
				printf("%02x", bytes[i]);
			printf("\n");
		}
		offset += len;
	}
	fclose(file);
	printf("@@ end file %lu %08x\n", offset, sum);
}

static void print_files(void)
{
	DIR *dir = opendir(OUT);
	struct dirent *entry;

	if (!dir || chdir(OUT))
		return;
	while ((entry = readdir(dir)))
		if (entry->d_type == DT_REG)
			print_file(entry->d_name);
}

int main(int argc, char **argv)
{
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	mount_all();
	silence_kernel();
	say_boot();
	(void)argc;
	run_list(argv + 1);
	print_files();
	printf("@@ done\n");
	sync();
	reboot(RB_POWER_OFF);
	return 1;
}
