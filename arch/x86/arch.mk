# SPDX-License-Identifier: MIT
# x86_64 and i386: what the Makefile must know to build for them.

KNOWN_ARCHES += x86_64 i386

x86_64.dir := arch/x86
x86_64.machines := x86_64
x86_64.prefix := x86_64-linux-gnu-
x86_64.cflags := -mgeneral-regs-only -mno-red-zone -fcf-protection=none -fno-inline-functions-called-once
x86_64.ldflags := -m elf_x86_64
x86_64.as = nasm -f elf64 -o $@ $<
x86_64.asm := asm
x86_64.also := i386
x86_64.needs := nasm
x86_64.srcs := arch/x86/calls-i386.c

# Arguments in registers: the blobs are a tenth smaller. Nothing in them wants an aligned stack.
i386.dir := arch/x86
i386.machines := i686 i586 i486 i386
i386.prefix := i686-linux-gnu-
i386.cflags := -march=i686 -mregparm=3 -fomit-frame-pointer -mgeneral-regs-only -fcf-protection=none \
	-mpreferred-stack-boundary=2 -fno-inline-functions-called-once -fno-inline-small-functions -fno-tree-sink \
	-fno-if-conversion -fno-ssa-phiopt -fno-expensive-optimizations -fsched-pressure -fno-tree-coalesce-vars \
	-fno-tree-dominator-opts -fno-lra-remat -fno-shrink-wrap -fno-ivopts -fno-move-loop-invariants -fno-tree-loop-im \
	-fno-thread-jumps -fno-tree-fre -frename-registers
i386.ldflags := -m elf_i386
i386.as = nasm -f elf32 -o $@ $<
i386.asm := asm
i386.needs := nasm
