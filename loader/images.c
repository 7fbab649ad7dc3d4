/* SPDX-License-Identifier: MIT */
/* The rings of several processes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core.h"
#include "criu.h"
#include "images.h"
#include "internal.h"

static int make(struct images *images, size_t room, struct aior_error *error)
{
	images->count = 0;
	images->images = calloc(room, sizeof(*images->images));
	return images->images
		   ? 0
		   : aior_fail(error, ENOMEM, "image", "there is no memory for what it holds");
}

void images_free(struct images *images)
{
	for (size_t i = 0; i < images->count; i++)
		aior_image_free(&images->images[i]);
	free(images->images);
	memset(images, 0, sizeof(*images));
}

/* One more, or none at all. */
static int took(struct images *images, int ret)
{
	if (ret)
		images_free(images);
	else
		images->count++;
	return ret;
}

static int cannot_read(
    const char *path, const char *what, const char *library, struct aior_error *error)
{
	memset(error, 0, sizeof(*error));
	return aior_refuse(error, "%s: this build reads no %s: there was no %s where it was made",
	    path, what, library);
}

/* Which of them this build has is the Makefile's; what it has not is not linked. */
const char *images_formats(void)
{
	if (AIOR_READS_CORE && AIOR_READS_CRIU)
		return "ELF cores, folders of CRIU's images";
	return AIOR_READS_CORE   ? "ELF cores"
	       : AIOR_READS_CRIU ? "folders of CRIU's images"
				 : "none";
}

int images_read(const char *path, struct images *images, struct aior_error *error)
{
	struct stat status;

	if (!stat(path, &status) && S_ISDIR(status.st_mode))
		return AIOR_READS_CRIU
			   ? criu_read(path, &images->images, &images->count, error)
			   : cannot_read(path, "folders of CRIU's images", "libprotobuf-c", error);
	if (!AIOR_READS_CORE)
		return cannot_read(path, "ELF cores", "libelf", error);
	if (make(images, 1, error))
		return -1;
	return took(images, core_read(path, images->images, error));
}

int images_list(pid_t pid, struct images *images, struct aior_error *error)
{
	if (make(images, 1, error))
		return -1;
	return took(images, aior_list(pid, images->images, error));
}

/* Where there are several, an address alone does not say whose ring it is. */
static void name_process(struct aior_error *error, pid_t pid)
{
	char message[sizeof(error->message)];

	snprintf(message, sizeof(message), "%s", error->message);
	snprintf(error->message, sizeof(error->message), "process %d: %.*s", (int)pid,
	    (int)sizeof(message) - 32, message);
}

int images_run(const struct images *images, struct images *results, struct aior_error *error)
{
	int ret = make(results, images->count, error);

	for (size_t i = 0; !ret && i < images->count; i++) {
		ret = took(results, aior_run(&images->images[i], &results->images[i], error));
		if (ret && images->count > 1)
			name_process(error, images->images[i].pid);
	}
	return ret;
}
