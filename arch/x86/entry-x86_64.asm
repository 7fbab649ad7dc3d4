; SPDX-License-Identifier: MIT
;
; How a blob is entered and left on x86_64. What each entry needs of the stack stands beside it as
; NAME.stack: mkblob adds it to what the C code needs.

bits 64

%define SYS_rt_sigprocmask 14
%define SYS_rt_sigreturn 15
%define SYS_rt_sigsuspend 130
%define SIG_SETMASK 2
%define SIGSET_BYTES 8

extern aior_main

section .entry progbits alloc exec nowrite align=16

; int enter_call(struct aior_args *args): a C function. Its caller's stack is used.
global enter_call:function (enter_call.end - enter_call)
global enter_call.stack
enter_call:
	endbr64
	xor	esi, esi		; int jumped
	jmp	aior_main
.end:
.stack	equ	8			; the return address

; Jumped to, args in rdi, on a stack of its own whose pointer may be anything.
global enter_jump:function (enter_jump.end - enter_jump)
global enter_jump.stack
enter_jump:
	endbr64
	cld
	xor	ebp, ebp		; the end of any backtrace
	and	rsp, -16
	mov	esi, 1
	call	aior_main		; parks, or goes to the frame: never returns
	ud2
.end:
.stack	equ	24			; the alignment and the return address

; void aior_sigreturn(uint64_t stack_pointer): into the frame that lies there.
global aior_sigreturn:function (aior_sigreturn.end - aior_sigreturn)
global aior_sigreturn.stack
aior_sigreturn:
	mov	rsp, rdi
	mov	eax, SYS_rt_sigreturn
	syscall
	ud2
.end:
.stack	equ	8

; void aior_park(void): sleep with all signals blocked, whatever wakes it. A SIGCONT ends the sleep,
; not the loop. rt_sigsuspend leaves the kernel's restart block alone: what the thread slept in
; before may still need it.
global aior_park:function (aior_park.end - aior_park)
global aior_park.stack
aior_park:
	mov	edi, SIG_SETMASK
	lea	rsi, [rel every_signal]
	xor	edx, edx
	mov	r10d, SIGSET_BYTES
	mov	eax, SYS_rt_sigprocmask
	syscall
.sleep:
	lea	rdi, [rel every_signal]
	mov	esi, SIGSET_BYTES
	mov	eax, SYS_rt_sigsuspend
	syscall
	jmp	.sleep
.end:
.stack	equ	8

align 8
every_signal:
	dq	-1

section .note.GNU-stack noalloc noexec nowrite progbits
