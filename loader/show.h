/* SPDX-License-Identifier: MIT */
#ifndef AIOR_SHOW_H
#define AIOR_SHOW_H

#include "aio-restorer.h"

struct images;

/* Draws the rings of one process, or of several, for a person: `events`, with what is pending in them. */
void show_images_text(FILE *out, const struct images *images, int events);

/* The same as one JSON object, for programs; and a failure. */
void show_images_json(FILE *out, const struct images *images);
void show_error_json(FILE *out, const struct aior_error *error);

/* What stage and restore have done with a process; `verbose`: and where the time went. */
void show_staged(FILE *out, const struct aior_outcome *outcome, int verbose);
void show_restored(FILE *out, const struct aior_outcome *outcome, int verbose);
/* What the caller should know besides: polls that are lost, rings that fork has passed on. */
void show_warnings(FILE *out, const struct aior_outcome *outcome);
/* All of it for programs; `verb`: the word for what has been done. */
void show_outcomes_json(
    FILE *out, const struct aior_outcome *outcomes, size_t count, const char *verb);

#endif
