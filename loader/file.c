/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"
#include "internal.h"

const char *file_name(char name[FILE_NAME], const char *path)
{
	size_t len = strlen(path);

	snprintf(name, FILE_NAME, "%s%s", len < FILE_NAME ? "" : "...",
	    len < FILE_NAME ? path : path + len - (FILE_NAME - sizeof("...")));
	for (char *at = name; *at; at++)
		if ((unsigned char)*at < ' ' || *at == 0x7f)
			*at = '?';
	return name;
}

int file_map(int folder, const char *path, int flags, const char *name, struct file *file,
    struct aior_error *error)
{
	const int follows = flags & O_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0;
	struct stat status;
	void *data = NULL;
	int err = 0, fd;

	*file = (struct file){NULL, 0};
	/* A device may do something when it is opened. */
	if (!fstatat(folder, path, &status, follows) && !S_ISREG(status.st_mode) &&
	    !S_ISLNK(status.st_mode))
		return aior_fail_image(error, name, "not a regular file");
	fd = openat(folder, path, flags | O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &status)) {
		err = errno;
		if (fd >= 0)
			close(fd);
		return aior_fail(error, err, "image", "%s: %s", name, strerror(err));
	}
	if (!S_ISREG(status.st_mode)) {
		close(fd);
		return aior_fail_image(error, name, "not a regular file");
	}
	/* Where addresses have 32 bits, a file may be larger than memory. */
	if ((uint64_t)status.st_size > SIZE_MAX)
		err = EFBIG;
	else if (status.st_size)
		data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (data == MAP_FAILED)
		err = errno;
	close(fd);
	if (err)
		return aior_fail(
		    error, err, "image", "%s: cannot be mapped: %s", name, strerror(err));
	file->data = data;
	file->size = (uint64_t)status.st_size;
	return 0;
}

void file_unmap(struct file *file)
{
	if (file->size)
		munmap((void *)(uintptr_t)file->data, (size_t)file->size);
	*file = (struct file){NULL, 0};
}
