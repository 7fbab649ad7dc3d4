# SPDX-License-Identifier: MIT
# aarch64: what the Makefile must know to build for it.

KNOWN_ARCHES += aarch64

# The tiny code model has no adrp, which would want the blob to lie as in its file, page by page.
aarch64.dir := arch/aarch64
aarch64.machines := aarch64
aarch64.prefix := aarch64-linux-gnu-
aarch64.cflags := -mgeneral-regs-only -mcmodel=tiny -fno-thread-jumps -fno-move-loop-stores -fno-move-loop-invariants
aarch64.ldflags := -m aarch64linux --defsym=got_reserved=32
aarch64.as = $(aarch64.prefix)as -o $@ $<
aarch64.asm := s
