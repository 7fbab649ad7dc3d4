# SPDX-License-Identifier: MIT
#
# Where the kernel enters the program that `aio-restorer run` executes: right behind the blob's
# header. The process's own stack may lie where a ring belongs, so the first thing is another one.

	.equ	RUN_BLOCK, 0x10000	# pie/run.h

	.section .start, "ax", %progbits
	.balign	16

	.globl	enter_exec, enter_exec.stack
	.type	enter_exec, %function
enter_exec:
	lla	a0, header
	li	t0, RUN_BLOCK
	add	a0, a0, t0
	ld	sp, 0(a0)		# struct run_block: stack
	tail	enter_jump
	.size	enter_exec, . - enter_exec
	.set	enter_exec.stack, 0

	.section .note.GNU-stack, "", %progbits
