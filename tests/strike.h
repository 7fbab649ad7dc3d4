/* SPDX-License-Identifier: MIT */
#ifndef STRIKE_H
#define STRIKE_H

/* No system call has this number. Behind it none is counted any more, and nothing happens to the program. */
#define STRIKE_NO_MORE 0x5354

#endif
