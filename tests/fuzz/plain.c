/* SPDX-License-Identifier: MIT */
/*
 * A fuzz target as a plain program: runs it with each file that is named, and with those in a folder. With --break it
 * breaks a promise itself, to show that this is seen.
 */
#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

#include "fuzz.h"

#define SECONDS 20 /* for an input; what takes longer is a finding */

/* So much memory at once is a finding, too, as it is for libFuzzer (tests/fuzz.sh). */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "max_allocation_size_mb=128";
}

static unsigned long count;

static void run_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	struct stat status;
	uint8_t *data;

	if (!file || fstat(fileno(file), &status)) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		exit(2);
	}
	/* As large as the input and no larger: what is read behind it is seen. */
	data = malloc((size_t)status.st_size);
	if (fread(data, 1, (size_t)status.st_size, file) != (size_t)status.st_size)
		exit(2);
	fclose(file);
	/* So that whoever sees it end knows with which. */
	fprintf(stderr, "%s\n", path);
	alarm(SECONDS);
	LLVMFuzzerTestOneInput(data, (size_t)status.st_size);
	alarm(0);
	free(data);
	count++;
}

static void run_folder(const char *path)
{
	struct dirent **names;
	int n = scandir(path, &names, NULL, alphasort);
	char file[4096];

	for (int i = 0; i < n; i++) {
		snprintf(file, sizeof(file), "%s/%s", path, names[i]->d_name);
		if (*names[i]->d_name != '.')
			run_file(file);
		free(names[i]);
	}
	free(names);
}

int main(int argc, char **argv)
{
	struct stat status;

	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--break"))
			PROMISE(0, "as it was asked to");
		else if (!stat(argv[i], &status) && S_ISDIR(status.st_mode))
			run_folder(argv[i]);
		else
			run_file(argv[i]);
	printf("%lu inputs\n", count);
	return 0;
}
