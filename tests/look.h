/* SPDX-License-Identifier: MIT */
/* What a process looks like from outside: all of it, as text that can be compared, and parts of it. */
#ifndef TEST_LOOK_H
#define TEST_LOOK_H

#include <dirent.h>

#include "facts.h"

#define MOST_THREADS 65

/* A field of /proc/PID/stat behind the name: 'S', 'T' and so on. */
static inline char state_of(pid_t tid)
{
	char path[64], text[512] = "", *end;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(fd);
	end = strrchr(text, ')');
	return end && end[1] ? end[2] : 0;
}

/* Calls `put` for each entry of a folder of /proc, in order. */
static inline void each_entry(FILE *out, pid_t pid, const char *folder,
    void (*put)(FILE *out, const char *folder, const char *name))
{
	struct dirent **entries;
	char path[64];
	int count;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, folder);
	count = scandir(path, &entries, NULL, alphasort);
	for (int i = 0; i < count; i++) {
		if (entries[i]->d_name[0] != '.')
			put(out, path, entries[i]->d_name);
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
}

/* Calls `put` for each line of a file. */
static inline void each_line(
    FILE *out, const char *path, void (*put)(FILE *out, const char *path, const char *line))
{
	FILE *in = fopen(path, "re");
	char *line = NULL;
	size_t room = 0;

	while (in && getline(&line, &room, in) > 0)
		put(out, path, line);
	free(line);
	if (in)
		fclose(in);
}

static inline void put_line(FILE *out, const char *path, const char *line)
{
	fprintf(out, "%s: %s", path, line);
}

/* Of a ring, the device and the inode may be others. */
static inline void put_mapping(FILE *out, const char *path, const char *line)
{
	char range[64], prot[8], offset[32];

	if (strstr(line, " /[aio]") && sscanf(line, "%63s %7s %31s", range, prot, offset) == 3)
		fprintf(out, "%s: %s %s %s, a ring\n", path, range, prot, offset);
	else
		put_line(out, path, line);
}

/* What a thread is, without what changes by itself. */
static inline void put_status(FILE *out, const char *path, const char *line)
{
	static const char *const changing[] = {"State:", "Vm", "Rss",
	    "SigQ:", "HugetlbPages:", "voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"};

	for (size_t i = 0; i < COUNT(changing); i++)
		if (!strncmp(line, changing[i], strlen(changing[i])))
			return;
	put_line(out, path, line);
}

static inline void put_task(FILE *out, const char *folder, const char *name)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s/status", folder, name);
	each_line(out, path, put_status);
}

static inline void put_fd(FILE *out, const char *folder, const char *name)
{
	char path[512], link[512];
	ssize_t n;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	n = readlink(path, link, sizeof(link));
	fprintf(out, "%s: %.*s\n", path, (int)n, link);
}

/* All processes of a test share the standard ones, and write to them. */
static inline void put_fdinfo(FILE *out, const char *folder, const char *name)
{
	char path[512];

	if (atoi(name) <= STDERR_FILENO)
		return;
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	each_line(out, path, put_line);
}

/* All of it, as text; the caller frees it. */
static inline char *look(pid_t pid)
{
	static const char *const files[] = {"limits", "comm", "timers", "oom_score_adj"};
	char path[64], *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	each_line(out, path, put_mapping);
	for (size_t i = 0; i < COUNT(files); i++) {
		snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, files[i]);
		each_line(out, path, put_line);
	}
	each_entry(out, pid, "fd", put_fd);
	each_entry(out, pid, "fdinfo", put_fdinfo);
	each_entry(out, pid, "task", put_task);
	fclose(out);
	return text;
}

/* Whether both are the same; shows the first line that is not. Frees them. */
static inline int is_same_look(char *was_so, char *is_so)
{
	char *a = was_so, *b = is_so;
	int is_same = *a && !strcmp(a, b);

	while (!is_same && *a && *b) {
		size_t len_a = strcspn(a, "\n") + 1, len_b = strcspn(b, "\n") + 1;

		if (len_a != len_b || memcmp(a, b, len_a)) {
			diag("was %.*s", (int)len_a - 1, a);
			diag("is  %.*s", (int)len_b - 1, b);
			break;
		}
		a += len_a;
		b += len_b;
	}
	free(was_so);
	free(is_so);
	return is_same;
}

static inline long status_number(pid_t tid, const char *key)
{
	char path[64], *line = NULL;
	size_t room = 0;
	long number = -1;
	FILE *in;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
	in = fopen(path, "re");
	while (in && getline(&line, &room, in) > 0)
		if (!strncmp(line, key, strlen(key)))
			number = atol(line + strlen(key));
	free(line);
	if (in)
		fclose(in);
	return number;
}

/* Its threads; returns how many. */
static inline unsigned threads_of(pid_t pid, pid_t tids[MOST_THREADS])
{
	char path[64];
	struct dirent *entry;
	unsigned count = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir)) && count < MOST_THREADS)
		if (entry->d_name[0] != '.')
			tids[count++] = atoi(entry->d_name);
	if (dir)
		closedir(dir);
	return count;
}

#endif
