// SPDX-License-Identifier: MIT
//
// How a blob is entered and left on aarch64. What each entry needs of the stack stands beside it as
// NAME.stack: mkblob adds it to what the C code needs.

	.equ	SYS_rt_sigsuspend, 133
	.equ	SYS_rt_sigprocmask, 135
	.equ	SYS_rt_sigreturn, 139
	.equ	SIG_SETMASK, 2
	.equ	SIGSET_BYTES, 8

	.section .entry, "ax", %progbits
	.balign	16

// int enter_call(struct aior_args *args): a C function. Its caller's stack is used.
	.globl	enter_call, enter_call.stack
	.type	enter_call, %function
enter_call:
	hint	34			// bti c
	mov	w1, 0			// int jumped
	b	aior_main
	.size	enter_call, . - enter_call
	.set	enter_call.stack, 0

// Jumped to, args in x0, on a stack of its own whose pointer may be anything.
	.globl	enter_jump, enter_jump.stack
	.type	enter_jump, %function
enter_jump:
	hint	38			// bti jc
	mov	x29, 0			// the end of any backtrace
	mov	x30, 0
	mov	x9, sp
	and	sp, x9, -16
	mov	w1, 1
	bl	aior_main		// parks, or goes to the frame: never returns
	.inst	0			// udf
	.size	enter_jump, . - enter_jump
	.set	enter_jump.stack, 16	// the alignment

// void aior_sigreturn(unsigned long stack_pointer): into the frame that lies there.
	.globl	aior_sigreturn, aior_sigreturn.stack
	.type	aior_sigreturn, %function
aior_sigreturn:
	mov	sp, x0
	mov	x8, SYS_rt_sigreturn
	svc	0
	.inst	0
	.size	aior_sigreturn, . - aior_sigreturn
	.set	aior_sigreturn.stack, 0

// void aior_park(void): sleep with all signals blocked, whatever wakes it. A SIGCONT ends the sleep,
// not the loop. rt_sigsuspend leaves the kernel's restart block alone: what the thread slept in
// before may still need it.
	.globl	aior_park, aior_park.stack
	.type	aior_park, %function
aior_park:
	mov	x0, SIG_SETMASK
	adr	x1, every_signal
	mov	x2, 0
	mov	x3, SIGSET_BYTES
	mov	x8, SYS_rt_sigprocmask
	svc	0
sleep:
	adr	x0, every_signal
	mov	x1, SIGSET_BYTES
	mov	x8, SYS_rt_sigsuspend
	svc	0
	b	sleep
	.size	aior_park, . - aior_park
	.set	aior_park.stack, 0

	.balign	8
every_signal:
	.dword	-1

	.section .note.GNU-stack, "", %progbits
