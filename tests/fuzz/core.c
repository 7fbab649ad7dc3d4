/* SPDX-License-Identifier: MIT */
/* An ELF core: whatever is in the file, behind the first byte of the input (FUZZ_MARK). */
#include "image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct fuzz_file file;
	struct aior_error error = {0};
	struct aior_image image;

	if (size < FUZZ_MARK)
		return 0;
	if (core_read(fuzz_write(&file, data + FUZZ_MARK, size - FUZZ_MARK), &image, &error)) {
		fuzz_check_error(&error);
		return 0;
	}
	fuzz_image(&image);
	aior_image_free(&image);
	return 0;
}
