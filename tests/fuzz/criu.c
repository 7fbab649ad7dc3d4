/* SPDX-License-Identifier: MIT */
/*
 * A folder of CRIU's images: the files of one process, and what the folder before it has of its pages. In the
 * input one follows the other, with a mark between them. Pages are given by their first bytes; the rest is 0.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "criu.h"
#include "image.h"

#define PAGE 4096
#define GIVEN 512 /* of each page */
#define MOST_PAGES 32

static const char mark[] = "\x7f|/|";
static const char *const names[] = {"inventory.img", "core-7.img", "mm-7.img", "pagemap-7.img",
    "pages-1.img", "parent/pagemap-7.img", "parent/pages-1.img"};

#define FILES (sizeof(names) / sizeof(names[0]))

static char folder[] = "/dev/shm/aior-criu-XXXXXX";
static int fds[FILES];

static void remove_folder(void)
{
	char path[128];

	for (size_t i = 0; i < FILES; i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
		unlink(path);
	}
	snprintf(path, sizeof(path), "%s/parent", folder);
	rmdir(path);
	rmdir(folder);
}

static void make_folder(void)
{
	char path[128];

	if (!mkdtemp(folder))
		exit(2);
	atexit(remove_folder);
	snprintf(path, sizeof(path), "%s/parent", folder);
	mkdir(path, 0700);
	for (size_t i = 0; i < FILES; i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
		fds[i] = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (fds[i] < 0)
			exit(2);
	}
}

static void write_pages(int fd, const uint8_t *data, size_t size)
{
	size_t pages = (size + GIVEN - 1) / GIVEN;

	if (pages > MOST_PAGES)
		pages = MOST_PAGES;
	if (ftruncate(fd, 0) || ftruncate(fd, (off_t)(pages * PAGE)))
		abort();
	for (size_t i = 0; i < pages; i++) {
		size_t left = size - i * GIVEN, len = left < GIVEN ? left : GIVEN;

		if (pwrite(fd, data + i * GIVEN, len, (off_t)(i * PAGE)) != (ssize_t)len)
			abort();
	}
}

static void write_file(size_t i, const uint8_t *data, size_t size)
{
	if (strstr(names[i], "pages"))
		write_pages(fds[i], data, size);
	else if (ftruncate(fds[i], 0) || pwrite(fds[i], data, size, 0) != (ssize_t)size)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct aior_error error = {0};
	struct aior_image *images;
	size_t count;

	if (!*fds)
		make_folder();
	for (size_t i = 0; i < FILES; i++) {
		const uint8_t *end = memmem(data, size, mark, sizeof(mark) - 1);
		size_t len = end ? (size_t)(end - data) : size;

		write_file(i, data, len);
		len += end ? sizeof(mark) - 1 : 0;
		data += len;
		size -= len;
	}
	if (criu_read(folder, &images, &count, &error)) {
		fuzz_check_error(&error);
		return 0;
	}
	for (size_t i = 0; i < count; i++) {
		fuzz_image(&images[i]);
		aior_image_free(&images[i]);
	}
	free(images);
	return 0;
}
