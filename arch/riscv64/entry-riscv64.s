# SPDX-License-Identifier: MIT
#
# How a blob is entered and left on riscv64. What each entry needs of the stack stands beside it as
# NAME.stack: mkblob adds it to what the C code needs.

	.equ	SYS_rt_sigsuspend, 133
	.equ	SYS_rt_sigprocmask, 135
	.equ	SYS_rt_sigreturn, 139
	.equ	SIG_SETMASK, 2
	.equ	SIGSET_BYTES, 8

	.section .entry, "ax", %progbits
	.balign	16

# int enter_call(struct aior_args *args): a C function. Its caller's stack is used.
	.globl	enter_call, enter_call.stack
	.type	enter_call, %function
enter_call:
	li	a1, 0			# int jumped
	tail	aior_main
	.size	enter_call, . - enter_call
	.set	enter_call.stack, 0

# Jumped to, args in a0, on a stack of its own whose pointer may be anything.
	.globl	enter_jump, enter_jump.stack
	.type	enter_jump, %function
enter_jump:
	li	s0, 0			# the end of any backtrace
	li	ra, 0
	andi	sp, sp, -16
	li	a1, 1
	call	aior_main		# parks, or goes to the frame: never returns
	unimp
	.size	enter_jump, . - enter_jump
	.set	enter_jump.stack, 16	# the alignment

# void aior_sigreturn(unsigned long stack_pointer): into the frame that lies there.
	.globl	aior_sigreturn, aior_sigreturn.stack
	.type	aior_sigreturn, %function
aior_sigreturn:
	mv	sp, a0
	li	a7, SYS_rt_sigreturn
	ecall
	unimp
	.size	aior_sigreturn, . - aior_sigreturn
	.set	aior_sigreturn.stack, 0

# void aior_park(void): sleep with all signals blocked, whatever wakes it. A SIGCONT ends the sleep,
# not the loop. rt_sigsuspend leaves the kernel's restart block alone: what the thread slept in
# before may still need it.
	.globl	aior_park, aior_park.stack
	.type	aior_park, %function
aior_park:
	li	a0, SIG_SETMASK
	lla	a1, every_signal
	li	a2, 0
	li	a3, SIGSET_BYTES
	li	a7, SYS_rt_sigprocmask
	ecall
sleep:
	lla	a0, every_signal
	li	a1, SIGSET_BYTES
	li	a7, SYS_rt_sigsuspend
	ecall
	j	sleep
	.size	aior_park, . - aior_park
	.set	aior_park.stack, 0

	.balign	8
every_signal:
	.dword	-1

	.section .note.GNU-stack, "", %progbits
