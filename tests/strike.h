/* SPDX-License-Identifier: MIT */
#ifndef STRIKE_H
#define STRIKE_H

/*
 * No system calls have these numbers. Between the first and the second none is counted, and nothing happens to the
 * program; with --marked nor does before the first of the second kind.
 */
#define STRIKE_NO_MORE 0x5354
#define STRIKE_FROM_HERE 0x5355

#endif
