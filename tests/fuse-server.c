/* SPDX-License-Identifier: MIT */
/*
 * A file system of one file, whose reads and polls are answered by this process: while it is stopped (SIGSTOP) they
 * hang, as those of a network file system do whose server is gone.
 *
 *	fuse-server FILE FOLDER
 *
 * Serves FILE, to be read only, as FOLDER/file. Prints a line when it is mounted. It ends, and the file
 * system with it, when it gets SIGTERM; if it is killed, whoever waits for it gets ENOTCONN.
 */
#define FUSE_USE_VERSION 31

#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int file_fd;

static int is_file(const char *path)
{
	return !strcmp(path, "/file");
}

/* Without asynchronous direct I/O a read would be waited for inside io_submit. */
static void *serve_init(struct fuse_conn_info *conn, struct fuse_config *config)
{
	(void)config;
	if (!(conn->capable & FUSE_CAP_ASYNC_DIO)) {
		fprintf(stderr, "fuse-server: this kernel has no FUSE_ASYNC_DIO\n");
		fuse_exit(fuse_get_context()->fuse);
		return NULL;
	}
	conn->want |= FUSE_CAP_ASYNC_DIO;
	/* With more requests than this, submitters wait too. */
	conn->max_background = 1000;
	conn->congestion_threshold = 1000;
	return NULL;
}

static int serve_getattr(const char *path, struct stat *attr, struct fuse_file_info *info)
{
	(void)info;
	memset(attr, 0, sizeof(*attr));
	if (is_file(path)) {
		if (fstat(file_fd, attr))
			return -errno;
		attr->st_mode = S_IFREG | 0444;
		return 0;
	}
	attr->st_mode = S_IFDIR | 0755;
	attr->st_nlink = 2;
	return strcmp(path, "/") ? -ENOENT : 0;
}

static int serve_open(const char *path, struct fuse_file_info *info)
{
	(void)info;
	return is_file(path) ? 0 : -ENOENT;
}

static int serve_read(
    const char *path, char *data, size_t size, off_t offset, struct fuse_file_info *info)
{
	ssize_t n = pread(file_fd, data, size, offset);

	(void)path;
	(void)info;
	return n < 0 ? -errno : (int)n;
}

/* There is never anything new in it, which a poll of it is told each time. */
static int serve_poll(
    const char *path, struct fuse_file_info *info, struct fuse_pollhandle *handle, unsigned *events)
{
	(void)path;
	(void)info;
	if (handle)
		fuse_pollhandle_destroy(handle);
	*events = 0;
	return 0;
}

static const struct fuse_operations operations = {
    .init = serve_init,
    .getattr = serve_getattr,
    .open = serve_open,
    .read = serve_read,
    .poll = serve_poll,
};

int main(int argc, char **argv)
{
	char *words[] = {argv[0], "-o", "allow_other", NULL};
	struct fuse_args args = FUSE_ARGS_INIT(geteuid() ? 1 : 3, words);
	struct fuse *fuse;
	int ret;

	if (argc != 3)
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* a stopped process takes no other */
	file_fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (file_fd < 0) {
		perror(argv[1]);
		return 1;
	}
	fuse = fuse_new(&args, &operations, sizeof(operations), NULL);
	if (!fuse || fuse_mount(fuse, argv[2]))
		return 1;
	fuse_set_signal_handlers(fuse_get_session(fuse));
	printf("mounted\n");
	fflush(stdout);
	ret = fuse_loop(fuse);
	fuse_unmount(fuse);
	fuse_destroy(fuse);
	return ret < 0; /* above 0: the signal that ended it */
}
