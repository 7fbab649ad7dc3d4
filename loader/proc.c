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
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "internal.h"
#include "names.h"

/* include/linux/sched.h; field `flags` of /proc/PID/stat */
#define PF_IO_WORKER 0x00000010u
#define PF_USER_WORKER 0x00004000u
#define PF_KTHREAD 0x00200000u

struct task_stat {
	char state;
	pid_t parent;
	unsigned flags;
	uint64_t start_time, stack;
};

/* ---- what is tried twice: see internal.h ---- */

long aior_do_trace(int request, pid_t tid, uintptr_t addr, uintptr_t data)
{
	long ret;

	/* PTRACE_PEEKTEXT returns what it has read. */
	for (int i = 0; i < 2; i++) {
		errno = 0;
		ret = ptrace((enum __ptrace_request)request, tid, addr, data);
		if (ret != -1 || !errno)
			break;
	}
	return ret;
}

ssize_t aior_read_pieces(pid_t tid, const struct iovec *local, size_t local_count,
    const struct iovec *remote, size_t remote_count)
{
	ssize_t n = process_vm_readv(tid, local, local_count, remote, remote_count, 0);

	return n >= 0 ? n : process_vm_readv(tid, local, local_count, remote, remote_count, 0);
}

ssize_t aior_write_pieces(pid_t tid, const struct iovec *local, size_t local_count,
    const struct iovec *remote, size_t remote_count)
{
	ssize_t n = process_vm_writev(tid, local, local_count, remote, remote_count, 0);

	return n >= 0 ? n : process_vm_writev(tid, local, local_count, remote, remote_count, 0);
}

pid_t aior_wait_now(pid_t tid, int *status)
{
	pid_t pid = waitpid(tid, status, __WALL | WNOHANG);

	return pid >= 0 ? pid : waitpid(tid, status, __WALL | WNOHANG);
}

static int open_to_read(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	return fd >= 0 ? fd : open(path, O_RDONLY | O_CLOEXEC);
}

static ssize_t read_some(int fd, void *to, size_t len)
{
	ssize_t n = read(fd, to, len);

	return n >= 0 ? n : read(fd, to, len);
}

int aior_read_text(char *text, size_t size, const char *path)
{
	int fd = open_to_read(path), err;
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read_some(fd, text, size - 1);
	err = errno;
	close(fd);
	errno = err;
	if (n < 0)
		return -1;
	text[n] = '\0';
	return 0;
}

static int read_stat(pid_t task, struct task_stat *stat)
{
	char path[64], text[2048], *at;
	unsigned long long start_time = 0, stack = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)task);
	if (aior_read_text(text, sizeof(text), path))
		return -1;
	at = strrchr(text, ')'); /* the name before it may hold anything */
	if (!at || sscanf(at + 1,
		       " %c %d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d "
		       "%llu %*s %*s %*s %*s %*s %llu",
		       &stat->state, &stat->parent, &stat->flags, &start_time, &stack) != 5) {
		errno = EIO;
		return -1;
	}
	stat->start_time = start_time;
	stat->stack = stack;
	return 0;
}

int aior_last_cpu(pid_t task)
{
	char path[64], text[2048], *at;
	int cpu;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)task);
	if (aior_read_text(text, sizeof(text), path))
		return -1;
	at = strrchr(text, ')');
	/* The 39th field; the state is the third. */
	for (int field = 2; at && field < 39; field++)
		at = strchr(at + 1, ' ');
	return at && sscanf(at, "%d", &cpu) == 1 ? cpu : -1;
}

long aior_status_number(pid_t task, const char *key)
{
	char path[64], text[16384], *at; /* it names sets of CPUs, too */

	snprintf(path, sizeof(path), "/proc/%d/status", (int)task);
	if (aior_read_text(text, sizeof(text), path))
		return -1;
	at = strstr(text, key);
	return at ? strtol(at + strlen(key), NULL, 10) : 0;
}

static int has_exited(char state)
{
	return state == 'Z' || state == 'X' || state == 'x';
}

/* What cannot be read for another reason, as that no descriptor is free, says nothing. */
static int is_gone(int err)
{
	return err == ENOENT || err == ESRCH;
}

int aior_task_has_exited(pid_t task)
{
	struct task_stat stat;

	return read_stat(task, &stat) ? is_gone(errno) : has_exited(stat.state);
}

int aior_task_is_stopped(pid_t task)
{
	struct task_stat stat;

	return !read_stat(task, &stat) && (stat.state == 'T' || stat.state == 't');
}

int aior_task_runs(pid_t task)
{
	struct task_stat stat;

	return read_stat(task, &stat) || stat.state == 'R';
}

int aior_is_worker(pid_t task)
{
	struct task_stat stat;

	return !read_stat(task, &stat) && stat.flags & (PF_IO_WORKER | PF_USER_WORKER);
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
	long leader, tracer;

	memset(process, 0, sizeof(*process));
	process->pid = pid;
	if (pid <= 0 || read_stat(pid, &stat))
		return pid <= 0 || is_gone(errno)
			   ? aior_fail(error, ESRCH, "open", "there is no process %d", (int)pid)
			   : aior_not_allowed(process, errno, error);
	leader = aior_status_number(pid, "\nTgid:");
	if (leader > 0 && leader != pid)
		return aior_fail(error, ESRCH, "open", "%d is a thread of process %ld: name that",
		    (int)pid, leader);
	process->task = pid;
	process->parent = stat.parent;
	process->start_time = stat.start_time;
	process->stack = stat.stack;
	tracer = aior_status_number(pid, "\nTracerPid:");
	process->tracer = tracer > 0 ? (pid_t)tracer : 0;
	process->is_kernel_thread = !!(stat.flags & PF_KTHREAD);
	if (!has_exited(stat.state))
		return 0;
	/* The leader has exited; its process goes on if another thread has not. */
	process->task = 0;
	if (aior_each_task(pid, find_live_task, &process->task) < 0)
		return aior_not_allowed(process, errno, error);
	if (!process->task)
		return aior_not_allowed(process, ESRCH, error);
	if (!read_stat(process->task, &stat))
		process->stack = stat.stack;
	return 0;
}

int aior_each_task(pid_t pid, int (*visit)(pid_t task, void *data), void *data)
{
	struct dirent *entry;
	char path[64];
	int ret = 0, err = 0;
	DIR *dir;

	snprintf(path, sizeof(path), pid ? "/proc/%d/task" : "/proc", (int)pid);
	dir = opendir(path);
	if (!dir)
		dir = opendir(path);
	if (!dir)
		return -1;
	while (!ret) {
		errno = 0;
		entry = readdir(dir);
		err = errno;
		if (!entry)
			break;
		if (isdigit((unsigned char)entry->d_name[0]))
			ret = visit((pid_t)atoi(entry->d_name), data);
		err = errno;
	}
	closedir(dir);
	errno = err;
	return !entry && err ? -1 : ret;
}

/* A number, and over the one character that ends it. */
static uint64_t next_number(const char **at, int base)
{
	char *end;
	uint64_t number = strtoull(*at, &end, base);

	*at = *end ? end + 1 : end;
	return number;
}

/* No file, and none of the kernel's own: what mmap(MAP_ANONYMOUS) and brk give. */
static int is_anonymous(const struct aior_mapping *mapping, const char *name)
{
	return !mapping->major && !mapping->minor && !mapping->inode &&
	       (!*name || !strcmp(name, "[heap]") || !strncmp(name, "[anon:", 6));
}

/* start-end perms offset major:minor inode path */
static int parse_mapping(const char *line, struct aior_mapping *mapping)
{
	const char *perms;

	mapping->start = next_number(&line, 16);
	mapping->end = next_number(&line, 16);
	perms = line;
	if (mapping->end <= mapping->start || strlen(perms) < 5)
		return -1;
	line += 5;
	mapping->offset = next_number(&line, 16);
	mapping->major = (uint32_t)next_number(&line, 16);
	mapping->minor = (uint32_t)next_number(&line, 16);
	mapping->inode = next_number(&line, 10);
	line += strspn(line, " ");
	mapping->prot = (perms[0] == 'r' ? PROT_READ : 0) | (perms[1] == 'w' ? PROT_WRITE : 0) |
			(perms[2] == 'x' ? PROT_EXEC : 0);
	/* The kernel's own file system for AIO has no device. */
	mapping->is_ring =
	    !mapping->major && (!strcmp(line, "/[aio] (deleted)") || !strcmp(line, "/[aio]"));
	mapping->is_private_memory = perms[3] == 'p' && is_anonymous(mapping, line);
	mapping->is_stack = !strcmp(line, "[stack]");
	mapping->is_vdso = !strcmp(line, "[vdso]");
	return 0;
}

/* A file of a thread; 0: of the caller. */
static int open_of_task(pid_t task, const char *name)
{
	char path[64];

	if (task)
		snprintf(path, sizeof(path), "/proc/%d/%s", (int)task, name);
	else
		snprintf(path, sizeof(path), "/proc/thread-self/%s", name);
	return open_to_read(path);
}

int aior_open_pagemap(pid_t task)
{
	return open_of_task(task, "pagemap");
}

/* The maps as they are being read: the kernel gives a page of them at a time. */
struct maps {
	char text[4096];
	size_t len;
	int is_rest; /* of a line whose beginning is through: its name is longer than any of ours */
};

/* The whole lines of what has been read. What is left stays for the next read. */
static int visit_lines(
    struct maps *maps, int (*visit)(const struct aior_mapping *mapping, void *data), void *data)
{
	char *line = maps->text;
	struct aior_mapping mapping;
	int ret = 0;

	while (!ret && *line) {
		char *end = strchrnul(line, '\n');
		int is_whole = !!*end;

		if (!is_whole && (line > maps->text || maps->len < sizeof(maps->text) - 1))
			break;
		*end = '\0';
		if (!maps->is_rest && !parse_mapping(line, &mapping))
			ret = visit(&mapping, data);
		maps->is_rest = !is_whole;
		line = end + is_whole;
	}
	maps->len -= (size_t)(line - maps->text);
	memmove(maps->text, line, maps->len);
	return ret;
}

int aior_each_mapping_in(
    int fd, int (*visit)(const struct aior_mapping *mapping, void *data), void *data)
{
	struct maps maps = {.len = 0};
	ssize_t n = 0;
	int ret = 0;

	while (!ret &&
	       (n = read_some(fd, maps.text + maps.len, sizeof(maps.text) - 1 - maps.len)) > 0) {
		maps.len += (size_t)n;
		maps.text[maps.len] = '\0';
		ret = visit_lines(&maps, visit, data);
	}
	return n < 0 ? -1 : ret;
}

int aior_each_mapping(
    pid_t task, int (*visit)(const struct aior_mapping *mapping, void *data), void *data)
{
	int fd = open_of_task(task, "maps"), ret, err;

	if (fd < 0)
		return -1;
	ret = aior_each_mapping_in(fd, visit, data);
	err = errno;
	close(fd);
	errno = err;
	return ret;
}

int aior_read_memory(pid_t tid, uint64_t addr, void *to, size_t len)
{
	struct iovec local = {to, len}, remote = {(void *)(uintptr_t)addr, len};
	ssize_t n = aior_read_pieces(tid, &local, 1, &remote, 1);

	if (n >= 0 && (size_t)n != len)
		errno = EFAULT;
	return n == (ssize_t)len ? 0 : -1;
}

int aior_write_memory(pid_t tid, uint64_t addr, const void *from, size_t len)
{
	struct iovec local = {(void *)(uintptr_t)from, len},
		     remote = {(void *)(uintptr_t)addr, len};
	ssize_t n = aior_write_pieces(tid, &local, 1, &remote, 1);

	if (n >= 0 && (size_t)n != len)
		errno = EFAULT;
	return n == (ssize_t)len ? 0 : -1;
}

int aior_not_allowed(const struct aior_process *process, int err, struct aior_error *error)
{
	struct task_stat stat;

	/* What is gone may be a thread alone: whoever calls execve(2) takes the first one's id. */
	if ((err == ENOENT || err == ESRCH) && !read_stat(process->pid, &stat) &&
	    !has_exited(stat.state) && stat.start_time == process->start_time)
		return aior_fail(error, EAGAIN, "open",
		    "process %d has become another program meanwhile (execve): try again",
		    (int)process->pid);
	if (err == ENOENT || err == ESRCH)
		return aior_fail(error, ESRCH, "open", "process %d has exited", (int)process->pid);
	if (err == EACCES || err == EPERM)
		return aior_refuse_tracing(process, EPERM, "open", error);
	return aior_fail(error, err, "open", "process %d cannot be looked at: %s",
	    (int)process->pid, strerror(err));
}

/* What aior_mappings() gathers. */
struct mapping_list {
	struct aior_mapping *mappings;
	size_t count, room;
};

static int keep_mapping(const struct aior_mapping *mapping, void *data)
{
	struct mapping_list *list = data;

	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 64;
		struct aior_mapping *larger = reallocarray(list->mappings, room, sizeof(*larger));

		if (!larger)
			return ENOMEM;
		list->mappings = larger;
		list->room = room;
	}
	list->mappings[list->count++] = *mapping;
	return 0;
}

int aior_mappings(const struct aior_process *process, struct aior_mapping **mappings, size_t *count,
    struct aior_error *error)
{
	struct mapping_list list = {NULL, 0, 0};
	int err = aior_each_mapping(process->task, keep_mapping, &list);

	*mappings = NULL;
	*count = 0;
	if (err) {
		err = err < 0 ? errno : err;
		free(list.mappings);
		return aior_not_allowed(process, err, error);
	}
	*mappings = list.mappings;
	*count = list.count;
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
	fd = open_to_read(path);
	if (fd < 0)
		return aior_host_arch();
	n = read_some(fd, ident, sizeof(ident));
	close(fd);
	if (n != sizeof(ident))
		return aior_host_arch();
	memcpy(&machine, ident + offsetof(Elf32_Ehdr, e_machine), sizeof(machine));
	return aior_arch_of_elf(machine, ident[EI_CLASS]);
}

/*
 * "running"; or the number, the arguments, the stack pointer and the pc in hexadecimal; or -1 and the last
 * two: fs/proc/base.c.
 */
int aior_current_place(pid_t tid, uint64_t *first, uint64_t *pc)
{
	unsigned long long args[6], sp, at = 0;
	char path[64], text[256];
	int nr;

	*pc = 0;
	snprintf(path, sizeof(path), "/proc/%d/syscall", (int)tid);
	if (aior_read_text(text, sizeof(text), path) || sscanf(text, "%d", &nr) != 1)
		return -1;
	if (nr < 0) {
		if (sscanf(text, "-1 0x%llx 0x%llx", &sp, &at) == 2)
			*pc = at;
		return -1;
	}
	if (sscanf(text, "%d 0x%llx 0x%llx 0x%llx 0x%llx 0x%llx 0x%llx 0x%llx 0x%llx", &nr,
		&args[0], &args[1], &args[2], &args[3], &args[4], &args[5], &sp, &at) != 9)
		return -1;
	*first = args[0];
	*pc = at;
	return nr;
}

int aior_current_call(pid_t tid, uint64_t *first)
{
	uint64_t pc;

	return aior_current_place(tid, first, &pc);
}

int aior_read_number(const char *path, uint64_t *number)
{
	char text[64];

	if (aior_read_text(text, sizeof(text), path))
		return -1;
	*number = strtoull(text, NULL, 10);
	return 0;
}

/* Loads, "running/all", and the pid: fs/proc/loadavg.c. */
uint64_t aior_newest_pid(void)
{
	char text[128];
	unsigned long long pid;

	if (aior_read_text(text, sizeof(text), "/proc/loadavg") ||
	    sscanf(text, "%*s %*s %*s %*s %llu", &pid) != 1)
		return 0;
	return pid;
}

/* A list of ranges, "0-3,8-11": how many it names. */
uint32_t aior_possible_cpus(void)
{
	char text[4096], *at = text;
	uint32_t count = 0;

	if (aior_read_text(text, sizeof(text), "/sys/devices/system/cpu/possible"))
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
