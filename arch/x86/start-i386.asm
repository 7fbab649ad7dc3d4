; SPDX-License-Identifier: MIT
;
; Where the kernel enters the program that `aio-restorer run` executes: right behind the blob's
; header. The process's own stack may lie where a ring belongs, so the first thing is another one.

bits 32

%define RUN_BLOCK 0x10000		; pie/run.h; the program lies at a multiple of it

extern enter_jump

section .start progbits alloc exec nowrite align=16

global enter_exec:function (enter_exec.end - enter_exec)
global enter_exec.stack
enter_exec:
	call	.here
.here:
	pop	eax
	and	eax, -RUN_BLOCK
	add	eax, RUN_BLOCK
	mov	esp, [eax]		; struct run_block: stack, its lower half
	push	eax			; the argument
	push	eax			; where a return address would be
	jmp	enter_jump
.end:
.stack	equ	28			; these two, and what enter_jump needs

section .note.GNU-stack noalloc noexec nowrite progbits
