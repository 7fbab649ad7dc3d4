/* SPDX-License-Identifier: MIT */
/* Who may trace whom, and why not; ptrace(2), "Ptrace access mode checking". */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

/* As /proc/PID/status has them: real, effective, saved and for files; the sets in hexadecimal. */
struct rights {
	unsigned uids[4], gids[4];
	uint64_t permitted, effective;
	unsigned seccomp;
};

static int read_file(const char *owner, const char *name, char *text, size_t size)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%s/%s", owner, name);
	text[0] = '\0';
	return aior_read_text(text, size, path);
}

static int read_numbers(const char *text, const char *key, unsigned numbers[4])
{
	const char *at = strstr(text, key);

	return at && sscanf(at + strlen(key), "%u %u %u %u", &numbers[0], &numbers[1], &numbers[2],
			 &numbers[3]) == 4
		   ? 0
		   : -1;
}

static uint64_t read_set(const char *text, const char *key)
{
	const char *at = strstr(text, key);

	return at ? strtoull(at + strlen(key), NULL, 16) : 0;
}

static int read_rights(const char *owner, struct rights *rights)
{
	char text[16384];

	memset(rights, 0, sizeof(*rights));
	if (read_file(owner, "status", text, sizeof(text)) ||
	    read_numbers(text, "\nUid:", rights->uids) ||
	    read_numbers(text, "\nGid:", rights->gids))
		return -1;
	rights->permitted = read_set(text, "\nCapPrm:");
	rights->effective = read_set(text, "\nCapEff:");
	rights->seccomp = (unsigned)read_set(text, "\nSeccomp:");
	return 0;
}

int aior_has_capability(int capability)
{
	struct rights own;

	return !read_rights("thread-self", &own) && own.effective >> capability & 1;
}

/* What cannot be found out is tried. (It must be the first user namespace's, too.) */
int aior_may_suspend_filters(void)
{
	struct rights own;

	return read_rights("thread-self", &own) ||
	       (own.effective >> CAP_SYS_ADMIN & 1 && !own.seccomp);
}

int aior_ptrace_scope(void)
{
	uint64_t scope;

	return aior_read_number("/proc/sys/kernel/yama/ptrace_scope", &scope) ? 0 : (int)scope;
}

/* Whose the files of a process in /proc are that others may not read: root's if it is not dumpable: task_dump_owner(), fs/proc/base.c. */
static unsigned owner_of_files(const char *owner, unsigned uid)
{
	char path[64];
	struct stat status;

	snprintf(path, sizeof(path), "/proc/%s/status", owner);
	return stat(path, &status) ? uid : status.st_uid;
}

/* The map of another user namespace is another, as a rule; that it is readable does not depend on rights. */
static int is_in_other_namespace(const char *owner)
{
	char theirs[4096], own[sizeof(theirs)];

	return !read_file(owner, "uid_map", theirs, sizeof(theirs)) &&
	       !read_file("thread-self", "uid_map", own, sizeof(own)) && strcmp(theirs, own) != 0;
}

static int has_ids(const unsigned theirs[4], unsigned own)
{
	return theirs[0] == own && theirs[1] == own && theirs[2] == own;
}

int aior_refuse_tracing(
    const struct aior_process *process, int err, const char *step, struct aior_error *error)
{
	static const char hosts[] = "a security module of this host, or a sandbox that you are in, "
				    "forbids it (see ptrace(2), \"Ptrace access mode checking\")";
	const int scope = aior_ptrace_scope(), pid = (int)process->pid;
	struct rights own, theirs;
	char owner[16];
	unsigned files;
	int is_root;

	snprintf(owner, sizeof(owner), "%d", pid);
	if (scope > 2)
		return aior_fail(error, err, step,
		    "process %d may not be traced by you: nobody may trace here until the next "
		    "boot (kernel.yama.ptrace_scope is %d)",
		    pid, scope);
	if (read_rights("thread-self", &own) || read_rights(owner, &theirs))
		return aior_fail(
		    error, err, step, "process %d may not be traced by you: %s", pid, hosts);
	is_root = (int)(own.effective >> CAP_SYS_PTRACE & 1);
	files = owner_of_files(owner, theirs.uids[1]);
	if (!is_root && (!has_ids(theirs.uids, own.uids[1]) || !has_ids(theirs.gids, own.gids[1])))
		return aior_fail(error, err, step,
		    "process %d may not be traced by you: it is user %u's (group %u), and you are "
		    "user %u (group %u): be its owner or root",
		    pid, theirs.uids[1], theirs.gids[1], own.uids[1], own.gids[1]);
	if (is_in_other_namespace(owner))
		return aior_fail(error, err, step,
		    "process %d may not be traced by you: it is in another user namespace: call "
		    "from in there (nsenter --user --target %d), or be root outside of it",
		    pid, pid);
	if (!is_root && files != theirs.uids[1])
		return aior_fail(error, err, step,
		    "process %d may not be traced by you: it is not dumpable (PR_SET_DUMPABLE, or "
		    "a program that you may not read, or that has changed its user): be root "
		    "(CAP_SYS_PTRACE)",
		    pid);
	if (!is_root && theirs.permitted & ~own.permitted)
		return aior_fail(error, err, step,
		    "process %d may not be traced by you: it has capabilities that you have not "
		    "(0x%llx): be root (CAP_SYS_PTRACE)",
		    pid, (unsigned long long)(theirs.permitted & ~own.permitted));
	if (!is_root && scope)
		return aior_fail(error, err, step,
		    "process %d may not be traced by you: kernel.yama.ptrace_scope is %d: be root "
		    "(CAP_SYS_PTRACE), or set it to 0",
		    pid, scope);
	if (is_root && files != own.uids[1] &&
	    !(own.effective & (1ull << CAP_DAC_OVERRIDE | 1ull << CAP_DAC_READ_SEARCH)))
		return aior_fail(error, err, step,
		    "process %d may not be traced by you: its files in /proc are user %u's: it "
		    "takes CAP_DAC_READ_SEARCH beside CAP_SYS_PTRACE",
		    pid, files);
	return aior_fail(error, err, step, "process %d may not be traced by you: %s", pid, hosts);
}

/* This is the file that is read again and again, and most that tracing takes it takes, too: lock_trace(), fs/proc/base.c. */
int aior_check_rights(const struct aior_process *process, struct aior_error *error)
{
	char owner[16], text[256];

	snprintf(owner, sizeof(owner), "%d", (int)process->task);
	if (!read_file(owner, "syscall", text, sizeof(text)) || (errno != EACCES && errno != EPERM))
		return 0;
	return aior_refuse_tracing(process, EPERM, "open", error);
}
