# SPDX-License-Identifier: MIT
# riscv64: what the Makefile must know to build for it.

KNOWN_ARCHES += riscv64

riscv64.dir := arch/riscv64
riscv64.machines := riscv64
riscv64.prefix := riscv64-linux-gnu-
riscv64.cflags := -march=rv64imac -mabi=lp64
riscv64.ldflags := -m elf64lriscv --defsym=got_reserved=8
riscv64.as = $(riscv64.prefix)as -march=rv64imac -mabi=lp64 -o $@ $<
riscv64.asm := s
