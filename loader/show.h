/* SPDX-License-Identifier: MIT */
#ifndef AIOR_SHOW_H
#define AIOR_SHOW_H

#include "aio-restorer.h"

/* Draws the rings of an image for a person: `events`, with what is pending in them. */
void show_image(FILE *out, const struct aior_image *image, int events);

/* The same as one JSON object, for programs; and a failure. */
void show_image_json(FILE *out, const struct aior_image *image);
void show_error_json(FILE *out, const struct aior_error *error);

#endif
