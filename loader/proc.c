/* SPDX-License-Identifier: MIT */
/* What /proc and /sys say; proc(5). */
#include <ctype.h>
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"
#include "names.h"

#define PF_KTHREAD 0x00200000u /* include/linux/sched.h; field `flags` of /proc/PID/stat */

struct task_stat {
	char state;
	pid_t parent;
	unsigned flags;
	uint64_t start_time;
};

/* The first bytes of a file of /proc, as a string. Returns -1 with errno. */
static int read_text(char *text, size_t size, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read(fd, text, size - 1);
	close(fd);
	if (n < 0)
		return -1;
	text[n] = '\0';
	return 0;
}

static int read_stat(pid_t task, struct task_stat *stat)
{
	char path[64], text[2048], *at;
	unsigned long long start_time = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)task);
	if (read_text(text, sizeof(text), path))
		return -1;
	at = strrchr(text, ')'); /* the name before it may hold anything */
	if (!at || sscanf(at + 1,
		       " %c %d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d "
		       "%llu",
		       &stat->state, &stat->parent, &stat->flags, &start_time) != 4) {
		errno = EIO;
		return -1;
	}
	stat->start_time = start_time;
	return 0;
}

long aior_status_number(pid_t task, const char *key)
{
	char path[64], text[16384], *at; /* it names sets of CPUs, too */

	snprintf(path, sizeof(path), "/proc/%d/status", (int)task);
	if (read_text(text, sizeof(text), path))
		return 0;
	at = strstr(text, key);
	return at ? strtol(at + strlen(key), NULL, 10) : 0;
}

static int has_exited(char state)
{
	return state == 'Z' || state == 'X' || state == 'x';
}

int aior_task_has_exited(pid_t task)
{
	struct task_stat stat;

	return read_stat(task, &stat) || has_exited(stat.state);
}

static int find_live_task(pid_t task, void *data)
{
	if (aior_task_has_exited(task))
		return 0;
	*(pid_t *)data = task;
	return 1;
}

int aior_process_open(pid_t pid, struct aior_process *process, struct aior_error *error)
{
	struct task_stat stat;
	long leader;

	memset(process, 0, sizeof(*process));
	if (pid <= 0 || read_stat(pid, &stat))
		return aior_fail(error, ESRCH, "open", "there is no process %d", (int)pid);
	leader = aior_status_number(pid, "\nTgid:");
	if (leader && leader != pid)
		return aior_fail(error, ESRCH, "open", "%d is a thread of process %ld: name that",
		    (int)pid, leader);
	process->pid = pid;
	process->task = pid;
	process->parent = stat.parent;
	process->start_time = stat.start_time;
	process->tracer = (pid_t)aior_status_number(pid, "\nTracerPid:");
	process->is_kernel_thread = !!(stat.flags & PF_KTHREAD);
	if (!has_exited(stat.state))
		return 0;
	/* The leader has exited; its process goes on if another thread has not. */
	process->task = 0;
	aior_each_task(pid, find_live_task, &process->task);
	if (!process->task)
		return aior_fail(error, ESRCH, "open", "process %d has exited", (int)pid);
	return 0;
}

int aior_each_task(pid_t pid, int (*visit)(pid_t task, void *data), void *data)
{
	struct dirent *entry;
	char path[64];
	int ret = 0;
	DIR *dir;

	snprintf(path, sizeof(path), pid ? "/proc/%d/task" : "/proc", (int)pid);
	dir = opendir(path);
	if (!dir)
		return -1;
	while (!ret && (entry = readdir(dir)))
		if (isdigit((unsigned char)entry->d_name[0]))
			ret = visit((pid_t)atoi(entry->d_name), data);
	closedir(dir);
	return ret;
}

/* start-end perms offset major:minor inode path */
static int parse_mapping(const char *line, struct aior_mapping *mapping)
{
	unsigned long long start, end, offset, inode;
	char perms[5];
	int path = 0;

	memset(mapping, 0, sizeof(*mapping));
	if (sscanf(line, "%llx-%llx %4s %llx %x:%x %llu %n", &start, &end, perms, &offset,
		&mapping->major, &mapping->minor, &inode, &path) != 7 ||
	    end <= start)
		return -1;
	mapping->start = start;
	mapping->end = end;
	mapping->offset = offset;
	mapping->inode = inode;
	mapping->prot = (perms[0] == 'r' ? PROT_READ : 0) | (perms[1] == 'w' ? PROT_WRITE : 0) |
			(perms[2] == 'x' ? PROT_EXEC : 0);
	/* The kernel's own file system for AIO has no device. */
	mapping->is_ring = !mapping->major && path &&
			   (!strncmp(line + path, "/[aio] (deleted)\n", 17) ||
			       !strncmp(line + path, "/[aio]\n", 7));
	return 0;
}

static int not_allowed(const struct aior_process *process, int err, struct aior_error *error)
{
	if (err == ENOENT || err == ESRCH)
		return aior_fail(error, ESRCH, "open", "process %d has exited", (int)process->pid);
	if (err == EACCES || err == EPERM)
		return aior_fail(error, EPERM, "open",
		    "process %d may not be traced by you: be its owner or root (and see ptrace(2), "
		    "\"Ptrace access mode checking\")",
		    (int)process->pid);
	return aior_fail(error, err, "open", "process %d cannot be looked at: %s",
	    (int)process->pid, strerror(err));
}

int aior_mappings(const struct aior_process *process, struct aior_mapping **mappings, size_t *count,
    struct aior_error *error)
{
	size_t room = 0, line_room = 0;
	char path[64], *line = NULL;
	FILE *file;

	*mappings = NULL;
	*count = 0;
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)process->task);
	file = fopen(path, "re");
	if (!file)
		return not_allowed(process, errno, error);
	errno = 0;
	while (getline(&line, &line_room, file) > 0) {
		struct aior_mapping mapping;

		if (parse_mapping(line, &mapping))
			continue;
		if (*count == room) {
			struct aior_mapping *larger =
			    reallocarray(*mappings, room ? 2 * room : 64, sizeof(*larger));

			if (!larger) {
				errno = ENOMEM;
				break;
			}
			*mappings = larger;
			room = room ? 2 * room : 64;
		}
		(*mappings)[(*count)++] = mapping;
	}
	free(line);
	if (errno) {
		int err = errno;

		fclose(file);
		free(*mappings);
		*mappings = NULL;
		return not_allowed(process, err, error);
	}
	fclose(file);
	return 0;
}

uint32_t aior_process_arch(const struct aior_process *process)
{
	unsigned char ident[sizeof(Elf32_Ehdr)];
	char path[64];
	uint16_t machine;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/exe", (int)process->task);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return aior_host_arch();
	n = read(fd, ident, sizeof(ident));
	close(fd);
	if (n != sizeof(ident))
		return aior_host_arch();
	memcpy(&machine, ident + offsetof(Elf32_Ehdr, e_machine), sizeof(machine));
	return aior_arch_of_elf(machine, ident[EI_CLASS]);
}

/* "running", or the number and the arguments in hexadecimal, or -1: fs/proc/base.c. */
int aior_current_call(pid_t tid, uint64_t *first)
{
	unsigned long long argument;
	char path[64], text[256];
	int nr;

	snprintf(path, sizeof(path), "/proc/%d/syscall", (int)tid);
	if (read_text(text, sizeof(text), path) || sscanf(text, "%d 0x%llx", &nr, &argument) != 2 ||
	    nr < 0)
		return -1;
	*first = argument;
	return nr;
}

int aior_read_number(const char *path, uint64_t *number)
{
	char text[64];

	if (read_text(text, sizeof(text), path))
		return -1;
	*number = strtoull(text, NULL, 10);
	return 0;
}

/* A list of ranges, "0-3,8-11": how many it names. */
uint32_t aior_possible_cpus(void)
{
	char text[4096], *at = text;
	uint32_t count = 0;

	if (read_text(text, sizeof(text), "/sys/devices/system/cpu/possible"))
		return (uint32_t)sysconf(_SC_NPROCESSORS_CONF);
	while (isdigit((unsigned char)*at)) {
		unsigned long first = strtoul(at, &at, 10), last = first;

		if (*at == '-')
			last = strtoul(at + 1, &at, 10);
		count += (uint32_t)(last - first + 1);
		if (*at == ',')
			at++;
	}
	return count;
}
