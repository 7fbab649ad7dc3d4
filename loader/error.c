/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "internal.h"

/* Here are the functions themselves. */
#undef aior_fail
#undef aior_fail_ring
#undef aior_refuse
#undef aior_fail_image

static void fill(
    struct aior_error *error, int err, const char *step, const char *format, va_list args)
{
	memset(error, 0, sizeof(*error));
	error->err = err;
	error->step = step;
	vsnprintf(error->message, sizeof(error->message), format, args);
}

int aior_fail(struct aior_error *error, int err, const char *step, const char *format, ...)
{
	va_list args;

	if (!error)
		return -1;
	va_start(args, format);
	fill(error, err, step, format, args);
	va_end(args);
	return -1;
}

int aior_fail_ring(
    struct aior_error *error, int err, const char *step, uint64_t ring, const char *format, ...)
{
	va_list args;
	int used;

	if (!error)
		return -1;
	memset(error, 0, sizeof(*error));
	error->err = err;
	error->step = step;
	error->has_ring = 1;
	error->ring = ring;
	used = snprintf(
	    error->message, sizeof(error->message), "ring 0x%llx: ", (unsigned long long)ring);
	va_start(args, format);
	vsnprintf(error->message + used, sizeof(error->message) - (size_t)used, format, args);
	va_end(args);
	return -1;
}

int aior_fail_image(struct aior_error *error, const char *file, const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return aior_fail(error, EINVAL, "image", "%s: %s", file, text);
}

int aior_refuse(struct aior_error *error, const char *format, ...)
{
	size_t used;
	va_list args;

	if (!error)
		return -1;
	if (!error->is_refused)
		memset(error, 0, sizeof(*error));
	error->is_refused = 1;
	error->step = "host";
	used = strlen(error->message);
	if (used && used + 1 < sizeof(error->message))
		error->message[used++] = '\n';
	va_start(args, format);
	vsnprintf(error->message + used, sizeof(error->message) - used, format, args);
	va_end(args);
	return -1;
}

static const struct {
	const char *name;
	const char *advice;
} steps[] = {
    [AIOR_STEP_NONE] = {"none", ""},
    [AIOR_STEP_ARGS] = {"args", "the argument block is not sound"},
    [AIOR_STEP_RING] = {"ring", "its record, its mapping, its header or its context is not sound"},
    [AIOR_STEP_RESERVE] = {"reserve", "something else is mapped where it belongs"},
    [AIOR_STEP_PIPE] = {"descriptor",
	"one is needed for a pipe or an eventfd: free one, or raise RLIMIT_NOFILE"},
    [AIOR_STEP_SETUP] = {"io_setup", "the kernel makes no more contexts: raise fs.aio-max-nr, or "
				     "free memory"},
    [AIOR_STEP_SIZE] = {"size", "this host's smallest ring is larger than the saved one: it has "
				"more possible CPUs"},
    [AIOR_STEP_ADVANCE] = {"advance", "the kernel admits fewer requests than are pending in it"},
    [AIOR_STEP_POLL] = {"poll", "a poll that was in flight cannot be submitted again"},
    [AIOR_STEP_MOVE] = {"move", "it cannot be moved: raise vm.max_map_count"},
    [AIOR_STEP_PROTECT] = {"protect", "it cannot be given its protection back"},
    [AIOR_STEP_MEMORY] = {"memory", "there is no memory to stage it into: free some, or raise "
				    "RLIMIT_AS or vm.max_map_count"},
    [AIOR_STEP_PIN] = {"pin", "its pages cannot be kept in a pipe: vmsplice must be allowed"},
    [AIOR_STEP_HELPER] = {"helper", "no helper can be started"},
    [AIOR_STEP_DRAIN] = {"drain", "io_destroy must be allowed"},
    [AIOR_STEP_READ] = {"read", "it cannot be read back"},
    [AIOR_STEP_DONE] = {"done", ""},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

const char *aior_step_name(uint32_t step)
{
	return step < COUNT(steps) ? steps[step].name : "unknown";
}

const char *aior_step_advice(uint32_t step, int err)
{
	if (err == ENOSYS && step > AIOR_STEP_RING)
		return "this kernel does not have a system call that it takes, or a filter forbids "
		       "it";
	if (err == ENOSYS)
		return "the blob does not know this version of the argument block";
	if (err == EPERM && step > AIOR_STEP_RING)
		return "a system call is forbidden: by a filter (aio-restorer(3) lists what must "
		       "be "
		       "allowed), or since the mapping is sealed (mseal)";
	if (step == AIOR_STEP_RESERVE && err != EEXIST)
		return "no process here can have it at that address, or none can have so many "
		       "mappings (vm.max_map_count, vm.mmap_min_addr)";
	if (step == AIOR_STEP_PIPE && err == ENOBUFS)
		return "it takes more pipes than there is room for: give the blob more scratch "
		       "memory";
	return step < COUNT(steps) ? steps[step].advice : "";
}

const char *aior_errno_text(int err)
{
	const char *text = strerrordesc_np(err);

	return text ? text : "an unknown error";
}

int aior_fail_blob(struct aior_error *error, const struct aior_args *args, const uint64_t *ring)
{
	const char *step = aior_step_name(args->step);
	const char *why = aior_errno_text((int)args->err);
	const char *advice = aior_step_advice(args->step, (int)args->err);

	if (!ring)
		return aior_fail(error, (int)args->err, step, "%s: %s: %s", step, why, advice);
	return aior_fail_ring(error, (int)args->err, step, *ring, "%s: %s: %s", step, why, advice);
}
