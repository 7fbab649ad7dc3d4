# SPDX-License-Identifier: MIT
#
# Destroying contexts beside each other: pie/drain.h.

	.equ	SYS_io_destroy, 1
	.equ	SYS_exit, 93
	.equ	SYS_clone, 220

	.section .entry, "ax", %progbits

# long aior_drain(struct drain *drain, unsigned long clone_flags)
	.globl	aior_drain, aior_drain.stack
	.type	aior_drain, %function
aior_drain:
	mv	t0, a0			# struct drain: next, count, first (8), stride (16)
	mv	t1, a1
	beqz	a1, next
	mv	a0, a1			# flags
	li	a1, 0			# the stack that is there
	li	a7, SYS_clone
	ecall
	bnez	a0, return
next:
	li	t2, 1
	amoadd.w.aqrl	t2, t2, (t0)
	lwu	t3, 4(t0)
	bgeu	t2, t3, none_left
	ld	t3, 8(t0)
	ld	t4, 16(t0)
	mul	t2, t2, t4
	add	t2, t2, t3
	ld	a0, (t2)
	li	a7, SYS_io_destroy
	ecall
	bnez	a0, next
	sd	zero, (t2)
	j	next
none_left:
	beqz	t1, return
	li	a0, 0
	li	a7, SYS_exit
	ecall
	j	none_left
return:
	ret
	.size	aior_drain, . - aior_drain
	.set	aior_drain.stack, 0

	.section .note.GNU-stack, "", %progbits
