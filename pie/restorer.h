/* SPDX-License-Identifier: MIT */
/*
 * The contract between a blob and whoever places it in a process: the argument block, the ring and
 * poll records, the results, and the header that each blob starts with. aio-restorer-blob(7) tells
 * how they are used.
 *
 * One layout serves 32- and 64-bit processes: fixed-width fields, 64-bit addresses, no implicit
 * padding, little-endian. In a 32-bit process the upper halves of addresses and lengths are 0.
 *
 * Versions. AIOR_ABI counts the versions of this contract. A version only ever adds: fields at the
 * end of a structure, flags, steps. Nothing changes its place or meaning.
 *  - A blob knows every version up to its own, each with the one size that its argument block had.
 *    It treats the fields that an older block lacks as zero.
 *  - A newer version, a size that is not the version's, a flag that the blob does not know or a
 *    reserved field that is not zero is answered with -ENOSYS, and nothing at all is touched, not
 *    even the results in the block.
 *  - Records are found by their stride, so they may be larger than the blob knows: it reads and
 *    writes the part that it knows. Flags (but those that the other operation leaves) or reserved
 *    fields in a record that are not zero are answered with EINVAL: a newer host says by a flag in
 *    the block that it uses them.
 */
#ifndef AIOR_RESTORER_H
#define AIOR_RESTORER_H

#ifdef __cplusplus
#include <cstddef>
#include <cstdint>
#define AIOR_ASSERT(condition, text) static_assert(condition, text)
#else
#include <stddef.h>
#include <stdint.h>
#define AIOR_ASSERT(condition, text) _Static_assert(condition, text)
#endif

/* Of bytes that are written like a string and have no terminating zero: newer compilers ask. */
#ifdef __has_attribute
#if __has_attribute(nonstring)
#define AIOR_NONSTRING __attribute__((nonstring))
#endif
#endif
#ifndef AIOR_NONSTRING
#define AIOR_NONSTRING
#endif

#define AIOR_ABI 1u

/* The sizes of struct aior_args, version by version: see aior_args_size(). */
#define AIOR_ARGS_SIZE_1 176u

/* struct aior_args, flags: how the work is to be done. */
#define AIOR_F_GROW 0x1u    /* a ring may come back larger, in the room behind it */
#define AIOR_F_COMPACT 0x2u /* start each ring at slot 0, with nothing but its pending events */
/* (The first is not known to any blob yet: whoever places one lays the staged rings out so beforehand.) */

/*
 * struct aior_args, end: where the blob goes when it has succeeded. When it has failed, a blob that
 * was called returns, and one that was jumped to parks: whoever placed it decides what comes next.
 */
#define AIOR_END_RETURN 0u    /* to its caller (called only: a jump leaves nowhere to return to) */
#define AIOR_END_PARK 1u      /* sleep with all signals blocked until the driver takes over */
#define AIOR_END_SIGRETURN 2u /* rt_sigreturn, with the stack pointer set to `sigframe` */

/* struct aior_args and the ring records, step: what was being done when a call failed. */
#define AIOR_STEP_NONE 0u     /* nothing yet */
#define AIOR_STEP_ARGS 1u     /* checking the argument block and the records */
#define AIOR_STEP_RING 2u     /* checking a ring: its header, its mapping, its context */
#define AIOR_STEP_RESERVE 3u  /* reserving the address that a ring goes to */
#define AIOR_STEP_PIPE 4u     /* making a pipe, or an eventfd */
#define AIOR_STEP_SETUP 5u    /* io_setup */
#define AIOR_STEP_SIZE 6u     /* the kernel made a ring of another size than the saved one */
#define AIOR_STEP_ADVANCE 7u  /* completing requests until the kernel's tail is the saved one */
#define AIOR_STEP_POLL 8u     /* submitting a remembered poll */
#define AIOR_STEP_MOVE 9u     /* moving a ring onto its address, or aside from it */
#define AIOR_STEP_PROTECT 10u /* giving a ring its protection back */
#define AIOR_STEP_MEMORY 11u  /* mapping the memory that a ring is staged into */
#define AIOR_STEP_PIN 12u     /* keeping a ring's pages for reading them after the drain */
#define AIOR_STEP_HELPER 13u  /* starting a helper for the drain */
#define AIOR_STEP_DRAIN 14u   /* io_destroy: waiting for what is in flight */
#define AIOR_STEP_READ 15u    /* reading the drained ring back */
#define AIOR_STEP_DONE 16u    /* all done */

#define AIOR_NO_RING 0xffffffffu /* struct aior_args, ring: the failure is no ring's */

/*
 * The argument block. Whoever places the blob fills it, and zeroes what it does not use.
 * In: what the blob reads. Out: what it writes, on success and on every failure but -ENOSYS.
 */
struct aior_args {
	uint32_t abi;         /* in: AIOR_ABI */
	uint32_t size;        /* in: sizeof(struct aior_args) */
	uint32_t flags;       /* in: AIOR_F_… */
	uint32_t end;         /* in: AIOR_END_… */
	uint64_t rings;       /* in: address of the ring records, in ascending order of `addr` */
	uint32_t ring_count;  /* in: how many there are; 0 is no error */
	uint32_t ring_stride; /* in: bytes from one to the next; a multiple of 8 */
	uint64_t polls;       /* in: address of the poll records, grouped by ring, in ring order */
	uint32_t poll_count;  /* in for restore, out for stage: how many there are */
	uint32_t poll_room;   /* in for stage: how many fit; at least nr - 1 for each ring, since as
			       * many may be in flight */
	uint32_t poll_stride; /* in: bytes from one to the next; a multiple of 8 */
	uint32_t page_size;   /* in: of the host, in bytes */
	uint64_t scratch;     /* in: memory that the blob may overwrite, 16-byte aligned */
	uint64_t scratch_len; /* in: its length; at least the blob header's `scratch` */
	uint64_t sigframe;    /* in: AIOR_END_SIGRETURN: the stack pointer for rt_sigreturn */
	int32_t fd;           /* in for restore: a zero-byte read of it completes at once; -1: make
			       * an eventfd */
	uint32_t helpers;     /* in for stage: the most helpers that may be started; 0: as needed */
	uint64_t capsule;     /* in for stage: address of the struct aior_table whose `state` says
			       * whether the point of no return is passed, and whose `poll_count` is
			       * set; 0: none */
	uint64_t reserved[4]; /* in: 0 */
	uint32_t err;         /* out: 0, or the errno of the failure */
	uint32_t step;        /* out: AIOR_STEP_…: where it failed; AIOR_STEP_DONE: it did not */
	uint32_t ring;        /* out: index of the ring record that failed, or AIOR_NO_RING */
	uint32_t polls_lost;  /* out: polls that could not be submitted again (AIOR_POLL_LOST) */
	uint64_t sigmask;     /* out: the signal mask that the blob was entered with */
	uint64_t reserved_out[3]; /* out: 0 */
};

/* struct aior_ring_record, flags. */
#define AIOR_RING_LIVE 0x1u    /* out: the new ring is at its address */
#define AIOR_RING_DRAINED 0x2u /* out: the context is gone, nothing is in flight any more */

/*
 * A ring. These records are the table that the argument block points to, and stand in the capsule
 * and in the ELF note `AIOR` of an image.
 */
struct aior_ring_record {
	uint64_t addr;    /* in: where the ring belongs: its handle; page aligned */
	uint64_t len;     /* in: length of its mapping in bytes; whole pages */
	uint64_t staged;  /* in for restore: where its content lies: `addr` itself (private
			    * anonymous memory that the ring replaces), or elsewhere, 8-byte
			    * aligned, and then nothing may be mapped at [addr, addr + len); out
			    * after a failure: where it lies now; out of stage: `addr` */
	uint64_t aside;   /* out: where the ring lies while it is not at `addr`; else 0 */
	uint64_t room;    /* in: bytes from `addr` on that it may grow into; 0: just `len` */
	uint64_t new_len; /* out: length of the ring that is there now */
	uint32_t flags;   /* in: 0, or what the other operation left; out: AIOR_RING_… */
	uint32_t prot;    /* in: mmap's PROT_… of the mapping; 0: PROT_READ | PROT_WRITE */
	uint32_t err;     /* out: 0, or the errno of the failure */
	uint32_t step;    /* out: AIOR_STEP_…: where it failed, or how far it had come */
	uint32_t head;    /* out: the ring's head */
	uint32_t tail;    /* out: and its tail, without the polls of the poll records */
	uint32_t n; /* in for restore: what io_setup is asked for, which fs.aio-nr grows by; 0:
			    * the smallest that makes a ring of `len` bytes where few CPUs are possible.
			    * (Where a ring has the smallest length that there is, 1 does it.) */
	uint32_t reserved; /* in: 0 */
};

/* struct aior_poll_record, flags. */
#define AIOR_POLL_LOST 0x1u /* out: could not be submitted; its event says POLLNVAL */

/* A poll that was in flight (IOCB_CMD_POLL). */
struct aior_poll_record {
	uint64_t ring;  /* the `addr` of its ring */
	uint64_t iocb;  /* address of the program's struct iocb */
	uint64_t data;  /* that iocb's aio_data: it must still be the same */
	uint32_t flags; /* in: 0; out: AIOR_POLL_… */
	uint32_t err;   /* out: why it was lost, an errno */
};

/* struct aior_thread_record, flags. */
#define AIOR_THREAD_INJECTED 0x1u /* it runs the stage blob, on a stack in `scratch` */
#define AIOR_THREAD_TIMED 0x2u    /* what is left of its wait's time is in the wait's own timeout */

/*
 * What a parked thread was doing, in the capsule. It sleeps in the blob's park loop, and its stack
 * pointer lies in `stack` or at its end: so nothing need name it that is known to one pid namespace
 * only.
 */
struct aior_thread_record {
	uint64_t stack[2];    /* all ones: what the park loop needs of a stack */
	uint64_t start_time;  /* of the process, in clock ticks after boot: if that and `tid` are
			      * still right, the kernel knows how long a wait has lasted */
	uint64_t stopped_at;  /* when it was stopped: CLOCK_REALTIME, in ns */
	uint64_t sigmask;     /* its own signal mask */
	uint64_t scratch;     /* AIOR_THREAD_INJECTED: memory that goes when the blob has ended */
	uint64_t scratch_len; /* its length; 0: there is none any more */
	uint64_t ring;        /* it waits for this ring's events, ... */
	uint64_t events;      /* ... has taken some already, to this address, ... */
	uint32_t taken;       /* ... and so many go back to the ring; 0: there are none */
	uint32_t tid;         /* in the writer's pid namespace */
	uint32_t flags;       /* AIOR_THREAD_… */
	int32_t call;         /* the system call that it was in, as far as that is known; or -1 */
	uint32_t regs_len;    /* of its registers, as NT_PRSTATUS has them on its architecture */
	uint32_t again;       /* as they go back: 1 + the head that the ring gets; else 0 */
	uint64_t since;       /* when it was stopped, by CLOCK_MONOTONIC, in ns */
	uint8_t regs[328];
};

/* struct aior_table, state. */
#define AIOR_TABLE_IMAGE 0u    /* a copy of live rings, in an image */
#define AIOR_TABLE_PREPARED 1u /* nothing irrevocable has been done */
#define AIOR_TABLE_DRAINING 2u /* contexts are being destroyed: there is no way back */
#define AIOR_TABLE_STAGED 3u   /* the rings are plain memory */

#define AIOR_TABLE_MAGIC "AIOR\x0d\x0a\x1a\x0a"

/*
 * Heads a set of records that travels: the descriptor of the ELF note (name AIOR, type
 * AIOR_NOTE_TABLE) and the capsule. Offsets are from its first byte.
 */
struct aior_table {
	AIOR_NONSTRING
	uint8_t magic[8];   /* AIOR_TABLE_MAGIC, without its terminating zero */
	uint32_t abi;       /* AIOR_ABI of the writer */
	uint32_t size;      /* sizeof(struct aior_table) of that version */
	uint64_t total;     /* bytes from the magic to the end of the last record */
	uint32_t state;     /* AIOR_TABLE_… */
	uint32_t arch;      /* AIOR_ARCH_… of the process */
	uint32_t page_size; /* of the host */
	uint32_t pid;       /* in the writer's pid namespace */
	uint32_t rings;     /* offset of the ring records */
	uint32_t ring_count;
	uint32_t ring_stride;
	uint32_t polls; /* offset of the poll records */
	uint32_t poll_count;
	uint32_t poll_stride;
	uint32_t threads; /* offset of what the threads were doing; 0: nothing is said, as
			 * by a process that has staged itself */
	uint32_t thread_count;
	uint32_t thread_stride;
	uint32_t possible_cpus; /* of the host */
	uint64_t reserved[3];   /* 0 */
};

#define AIOR_NOTE_NAME "AIOR"
#define AIOR_NOTE_TABLE 0x41494f52u

/* Architectures: numbers never change. */
#define AIOR_ARCH_X86_64 1u
#define AIOR_ARCH_I386 2u
#define AIOR_ARCH_AARCH64 3u
#define AIOR_ARCH_RISCV64 4u

/* What a blob does. */
#define AIOR_OP_RESTORE 1u
#define AIOR_OP_STAGE 2u
#define AIOR_OP_RUN 3u /* the loader's own: the whole program of the process that `run` starts */

#define AIOR_BLOB_MAGIC "AIORBLOB"
#define AIOR_BLOB_MAX 4096u

/*
 * A blob starts with this header. It is copied, header and all, to any 16-byte aligned address in
 * memory that can be read and executed. Offsets are from the header's first byte.
 */
struct aior_blob {
	AIOR_NONSTRING
	uint8_t magic[8];  /* AIOR_BLOB_MAGIC, without its terminating zero */
	uint32_t abi;      /* AIOR_ABI: the newest version that it knows */
	uint32_t arch;     /* AIOR_ARCH_… */
	uint32_t op;       /* AIOR_OP_… */
	uint32_t size;     /* of the whole blob in bytes, this header included */
	uint32_t call;     /* entry: a C function, int (struct aior_args *), returns 0 or -errno */
	uint32_t jump;     /* entry: a jump, with the argument block's address where a C function
			    * has its first argument (on the stack, on i386), on a stack of
			    * its own; never returns */
	uint32_t park;     /* the loop in which it parks: from here ... */
	uint32_t park_end; /* ... up to here, exclusive */
	uint32_t stack;    /* bytes below the stack pointer that it uses, at most */
	uint32_t scratch;  /* bytes of scratch memory that it needs */
	uint32_t flags;    /* the AIOR_F_… that it knows */
	uint32_t crc32;    /* CRC-32 (IEEE 802.3) of the blob, with this field zero */
	uint64_t reserved; /* 0 */
};

/* The size that an argument block of version `abi` has; 0 for a version that is not known. */
static inline uint32_t aior_args_size(uint32_t abi)
{
	return abi == 1 ? AIOR_ARGS_SIZE_1 : 0;
}

#define AIOR_AT(type, field, offset)                                                               \
	AIOR_ASSERT(offsetof(struct type, field) == (offset), #type "." #field)

AIOR_ASSERT(sizeof(struct aior_args) == AIOR_ARGS_SIZE_1, "aior_args");
AIOR_AT(aior_args, rings, 16);
AIOR_AT(aior_args, polls, 32);
AIOR_AT(aior_args, page_size, 52);
AIOR_AT(aior_args, scratch, 56);
AIOR_AT(aior_args, sigframe, 72);
AIOR_AT(aior_args, fd, 80);
AIOR_AT(aior_args, capsule, 88);
AIOR_AT(aior_args, reserved, 96);
AIOR_AT(aior_args, err, 128);
AIOR_AT(aior_args, sigmask, 144);
AIOR_ASSERT(sizeof(struct aior_ring_record) == 80, "aior_ring_record");
AIOR_AT(aior_ring_record, staged, 16);
AIOR_AT(aior_ring_record, new_len, 40);
AIOR_AT(aior_ring_record, flags, 48);
AIOR_AT(aior_ring_record, step, 60);
AIOR_AT(aior_ring_record, n, 72);
AIOR_ASSERT(sizeof(struct aior_poll_record) == 32, "aior_poll_record");
AIOR_AT(aior_poll_record, flags, 24);
AIOR_ASSERT(sizeof(struct aior_thread_record) == 432, "aior_thread_record");
AIOR_AT(aior_thread_record, sigmask, 32);
AIOR_AT(aior_thread_record, taken, 72);
AIOR_AT(aior_thread_record, since, 96);
AIOR_AT(aior_thread_record, regs, 104);
AIOR_ASSERT(sizeof(struct aior_table) == 104, "aior_table");
AIOR_AT(aior_table, total, 16);
AIOR_AT(aior_table, rings, 40);
AIOR_AT(aior_table, possible_cpus, 76);
AIOR_ASSERT(sizeof(struct aior_blob) == 64, "aior_blob");
AIOR_AT(aior_blob, call, 24);
AIOR_AT(aior_blob, crc32, 52);

#undef AIOR_AT

#endif
