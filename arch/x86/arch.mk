# SPDX-License-Identifier: MIT
# x86_64: what the Makefile must know to build its blobs.

BLOB_ARCHES += x86_64

x86_64.dir := arch/x86
x86_64.prefix := x86_64-linux-gnu-
x86_64.cflags := -mgeneral-regs-only -mno-red-zone -fcf-protection=none
x86_64.ldflags := -m elf_x86_64
x86_64.as = nasm -f elf64 -o $@ $<
x86_64.asm := asm
x86_64.machines := x86_64
