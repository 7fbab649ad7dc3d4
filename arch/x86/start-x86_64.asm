; SPDX-License-Identifier: MIT
;
; Where the kernel enters the program that `aio-restorer run` executes: right behind the blob's
; header. The process's own stack may lie where a ring belongs, so the first thing is another one.

bits 64

%define RUN_BLOCK 0x10000		; pie/run.h

extern header
extern enter_jump

section .start progbits alloc exec nowrite align=16

global enter_exec:function (enter_exec.end - enter_exec)
global enter_exec.stack
enter_exec:
	lea	rdi, [rel header + RUN_BLOCK]
	mov	rsp, [rdi]		; struct run_block: stack
	jmp	enter_jump
.end:
.stack	equ	0

section .note.GNU-stack noalloc noexec nowrite progbits
