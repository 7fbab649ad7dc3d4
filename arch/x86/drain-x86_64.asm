; SPDX-License-Identifier: MIT
;
; Destroying contexts beside each other: pie/drain.h.

bits 64

%define SYS_clone 56
%define SYS_exit 60
%define SYS_io_destroy 207

section .entry progbits alloc exec nowrite align=16

; long aior_drain(struct drain *drain, unsigned long clone_flags)
global aior_drain:function (aior_drain.end - aior_drain)
global aior_drain.stack
aior_drain:
	mov	r8, rdi			; struct drain: next, count, first (8), stride (16)
	mov	r9, rsi
	test	esi, esi
	jz	.next
	mov	edi, esi		; flags
	xor	esi, esi		; the stack that is there
	mov	eax, SYS_clone
	syscall
	test	rax, rax
	jnz	.return
.next:
	xor	eax, eax
	inc	eax
	lock xadd [r8], eax
	cmp	eax, [r8 + 4]
	jae	.none_left
	imul	rax, [r8 + 16]
	add	rax, [r8 + 8]
	mov	r10, rax
	mov	rdi, [r10]
	mov	eax, SYS_io_destroy
	syscall
	test	rax, rax
	jnz	.next
	mov	[r10], rax
	jmp	.next
.none_left:
	test	r9d, r9d
	jz	.return
	xor	edi, edi
	mov	eax, SYS_exit
	syscall
	jmp	.none_left
.return:
	ret
.end:
.stack	equ	8			; the return address

section .note.GNU-stack noalloc noexec nowrite progbits
