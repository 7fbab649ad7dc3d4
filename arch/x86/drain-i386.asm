; SPDX-License-Identifier: MIT
;
; Destroying contexts beside each other: pie/drain.h.

bits 32

%define SYS_exit 1
%define SYS_clone 120
%define SYS_io_destroy 246

section .entry progbits alloc exec nowrite align=16

; long aior_drain(struct drain *drain, unsigned long clone_flags)
global aior_drain:function (aior_drain.end - aior_drain)
global aior_drain.stack
aior_drain:
	push	ebx
	push	esi
	push	edi
	mov	esi, eax		; struct drain: next, count, first (8), stride (12)
	mov	edi, edx
	test	edi, edi
	jz	.next
	mov	ebx, edi		; flags
	xor	ecx, ecx		; the stack that is there
	mov	eax, SYS_clone
	int	0x80
	test	eax, eax
	jnz	.return
.next:
	xor	eax, eax
	inc	eax
	lock xadd [esi], eax
	cmp	eax, [esi + 4]
	jae	.none_left
	imul	eax, [esi + 12]
	add	eax, [esi + 8]
	mov	edx, eax
	mov	ebx, [edx]		; the upper half is 0, and stays it
	mov	eax, SYS_io_destroy
	int	0x80
	test	eax, eax
	jnz	.next
	mov	[edx], eax
	jmp	.next
.none_left:
	test	edi, edi
	jz	.return
	xor	ebx, ebx
	mov	eax, SYS_exit
	int	0x80
	jmp	.none_left
.return:
	pop	edi
	pop	esi
	pop	ebx
	ret
.end:
.stack	equ	16			; three registers and the return address

section .note.GNU-stack noalloc noexec nowrite progbits
