; SPDX-License-Identifier: MIT
;
; How a blob is entered and left on i386. C functions of the blob take their arguments in registers
; (-mregparm=3); whoever enters it passes his on the stack, as everywhere on i386. What each entry
; needs of the stack stands beside it as NAME.stack: mkblob adds it to what the C code needs.

bits 32

%define SYS_rt_sigreturn 173
%define SYS_rt_sigprocmask 175
%define SYS_rt_sigsuspend 179
%define SIG_SETMASK 2
%define SIGSET_BYTES 8

extern aior_main

section .entry progbits alloc exec nowrite align=16

; int enter_call(struct aior_args *args): a C function. Its caller's stack is used.
global enter_call:function (enter_call.end - enter_call)
global enter_call.stack
enter_call:
	endbr32
	mov	eax, [esp + 4]
	xor	edx, edx		; int jumped
	jmp	aior_main
.end:
.stack	equ	4			; the return address

; Jumped to, on a stack of its own: at its pointer, which may be anything, lies a word that does not
; matter, then args.
global enter_jump:function (enter_jump.end - enter_jump)
global enter_jump.stack
enter_jump:
	endbr32
	cld
	mov	eax, [esp + 4]
	xor	ebp, ebp		; the end of any backtrace
	and	esp, -16
	xor	edx, edx
	inc	edx
	call	aior_main		; parks, or goes to the frame: never returns
	ud2
.end:
.stack	equ	20			; the alignment and the return address

; void aior_sigreturn(unsigned long stack_pointer): into the frame that lies there.
global aior_sigreturn:function (aior_sigreturn.end - aior_sigreturn)
global aior_sigreturn.stack
aior_sigreturn:
	mov	esp, eax
	mov	eax, SYS_rt_sigreturn
	int	0x80
	ud2
.end:
.stack	equ	4

; void aior_park(void): sleep with all signals blocked, whatever wakes it. A SIGCONT ends the sleep,
; not the loop. rt_sigsuspend leaves the kernel's restart block alone: what the thread slept in
; before may still need it.
global aior_park:function (aior_park.end - aior_park)
global aior_park.stack
aior_park:
	push	-1			; every signal
	push	-1
	mov	ebx, SIG_SETMASK
	mov	ecx, esp
	xor	edx, edx
	mov	esi, SIGSET_BYTES
	mov	eax, SYS_rt_sigprocmask
	int	0x80
.sleep:
	mov	ebx, esp
	mov	ecx, SIGSET_BYTES
	mov	eax, SYS_rt_sigsuspend
	int	0x80
	jmp	.sleep
.end:
.stack	equ	12			; the return address and the set

section .note.GNU-stack noalloc noexec nowrite progbits
