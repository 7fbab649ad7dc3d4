/* SPDX-License-Identifier: MIT */
/* The library says no to what the command line never asks it: images of rings that are not sound. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "aio-restorer.h"
#include "tap.h"

static void refuses(struct aior_ring ring, const char *what)
{
	static const char path[] = "build/tests/api.core";
	struct aior_image image = {
	    .arch = aior_host_arch(), .page_size = 4096, .ring_count = 1, .rings = &ring};
	struct aior_image result;
	struct aior_error error = {0};

	unlink(path);
	ok(aior_run(&image, &result, &error) == -1 && error.err == EINVAL && error.has_ring,
	    "run, %s: %s", what, error.message);
	memset(&error, 0, sizeof(error));
	ok(aior_write_core(&image, path, &error) == -1 && error.err == EINVAL && error.has_ring &&
		access(path, F_OK),
	    "write, %s: %s", what, error.message);
	ok(aior_run(&image, &result, NULL) == -1 && aior_write_core(&image, path, NULL) == -1,
	    "%s: an error that nobody wants", what);
}

/* Whatever its length says. */
static void check_refuses(struct aior_ring ring)
{
	struct aior_image image = {
	    .arch = aior_host_arch(), .page_size = 4096, .ring_count = 1, .rings = &ring};
	struct aior_error error = {0};

	ring.len += 1ull << 32;
	ok(aior_check_host(&image, &error) == -1 && error.is_refused &&
		strstr(error.message, ring.damage),
	    "check, damaged: %s", error.message);
}

int main(void)
{
	struct aior_ring ring = {.addr = 0x10000000, .len = 4096, .nr = 127};

	tap_start();
	refuses(ring, "no content");
	ring.state = AIOR_INHERITED;
	refuses(ring, "inherited");
	ring.state = AIOR_DAMAGED;
	ring.damage = "its header has lost its magic number";
	refuses(ring, "damaged");
	check_refuses(ring);
	return tap_end();
}
