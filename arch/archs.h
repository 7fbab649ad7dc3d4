/* SPDX-License-Identifier: MIT */
/*
 * The architectures, a row each: the name used everywhere, its number in the contract, and what an
 * ELF file of it says. What knows more about one of them lies in its folder.
 */
#ifndef AIOR_ARCHS_H
#define AIOR_ARCHS_H

#include <elf.h>

/*
 * X(name, number, e_machine, ELF class, e_flags). The flags are those of everybody's programs there,
 * which a blob that is emitted as an object is to be linked with: on riscv64 compressed instructions,
 * and arguments in floating-point registers, of which no function of ours has any.
 */
#define AIOR_ARCHS(X)                                                                              \
	X(x86_64, AIOR_ARCH_X86_64, EM_X86_64, ELFCLASS64, 0)                                      \
	X(i386, AIOR_ARCH_I386, EM_386, ELFCLASS32, 0)                                             \
	X(aarch64, AIOR_ARCH_AARCH64, EM_AARCH64, ELFCLASS64, 0)                                   \
	X(riscv64, AIOR_ARCH_RISCV64, EM_RISCV, ELFCLASS64,                                        \
	    EF_RISCV_RVC | EF_RISCV_FLOAT_ABI_DOUBLE)

#endif
