// SPDX-License-Identifier: MIT
//
// Destroying contexts beside each other: pie/drain.h.

	.equ	SYS_io_destroy, 1
	.equ	SYS_exit, 93
	.equ	SYS_clone, 220

	.section .entry, "ax", %progbits

// long aior_drain(struct drain *drain, unsigned long clone_flags)
	.globl	aior_drain, aior_drain.stack
	.type	aior_drain, %function
aior_drain:
	mov	x9, x0			// struct drain: next, count, first (8), stride (16)
	mov	x10, x1
	cbz	x1, next
	mov	x0, x1			// flags
	mov	x1, 0			// the stack that is there
	mov	x8, SYS_clone
	svc	0
	cbnz	x0, return
next:
	ldaxr	w1, [x9]
	add	w2, w1, 1
	stlxr	w3, w2, [x9]
	cbnz	w3, next
	ldr	w2, [x9, 4]
	cmp	w1, w2
	b.hs	none_left
	ldp	x3, x4, [x9, 8]
	madd	x11, x1, x4, x3
	ldr	x0, [x11]
	mov	x8, SYS_io_destroy
	svc	0
	cbnz	x0, next
	str	xzr, [x11]
	b	next
none_left:
	cbz	x10, return
	mov	x0, 0
	mov	x8, SYS_exit
	svc	0
	b	none_left
return:
	ret
	.size	aior_drain, . - aior_drain
	.set	aior_drain.stack, 0

	.section .note.GNU-stack, "", %progbits
