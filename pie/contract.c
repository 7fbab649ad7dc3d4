/* SPDX-License-Identifier: MIT */
#include "contract.h"
#include "restorer.h"

/* The fields of the contract's structures: X(structure, field). */
#define ARGS(X)                                                                                    \
	X(aior_args, abi)                                                                          \
	X(aior_args, size)                                                                         \
	X(aior_args, flags)                                                                        \
	X(aior_args, end)                                                                          \
	X(aior_args, rings)                                                                        \
	X(aior_args, ring_count)                                                                   \
	X(aior_args, ring_stride)                                                                  \
	X(aior_args, polls)                                                                        \
	X(aior_args, poll_count)                                                                   \
	X(aior_args, poll_room)                                                                    \
	X(aior_args, poll_stride)                                                                  \
	X(aior_args, page_size)                                                                    \
	X(aior_args, scratch)                                                                      \
	X(aior_args, scratch_len)                                                                  \
	X(aior_args, sigframe)                                                                     \
	X(aior_args, fd)                                                                           \
	X(aior_args, helpers)                                                                      \
	X(aior_args, capsule)                                                                      \
	X(aior_args, reserved)                                                                     \
	X(aior_args, err)                                                                          \
	X(aior_args, step)                                                                         \
	X(aior_args, ring)                                                                         \
	X(aior_args, polls_lost)                                                                   \
	X(aior_args, sigmask)                                                                      \
	X(aior_args, reserved_out)

#define RING(X)                                                                                    \
	X(aior_ring_record, addr)                                                                  \
	X(aior_ring_record, len)                                                                   \
	X(aior_ring_record, staged)                                                                \
	X(aior_ring_record, aside)                                                                 \
	X(aior_ring_record, room)                                                                  \
	X(aior_ring_record, new_len)                                                               \
	X(aior_ring_record, flags)                                                                 \
	X(aior_ring_record, prot)                                                                  \
	X(aior_ring_record, err)                                                                   \
	X(aior_ring_record, step)                                                                  \
	X(aior_ring_record, head)                                                                  \
	X(aior_ring_record, tail)                                                                  \
	X(aior_ring_record, n)                                                                     \
	X(aior_ring_record, reserved)

#define POLL(X)                                                                                    \
	X(aior_poll_record, ring)                                                                  \
	X(aior_poll_record, iocb)                                                                  \
	X(aior_poll_record, data)                                                                  \
	X(aior_poll_record, flags)                                                                 \
	X(aior_poll_record, err)

#define THREAD(X)                                                                                  \
	X(aior_thread_record, stack)                                                               \
	X(aior_thread_record, start_time)                                                          \
	X(aior_thread_record, stopped_at)                                                          \
	X(aior_thread_record, sigmask)                                                             \
	X(aior_thread_record, scratch)                                                             \
	X(aior_thread_record, scratch_len)                                                         \
	X(aior_thread_record, ring)                                                                \
	X(aior_thread_record, events)                                                              \
	X(aior_thread_record, taken)                                                               \
	X(aior_thread_record, tid)                                                                 \
	X(aior_thread_record, flags)                                                               \
	X(aior_thread_record, call)                                                                \
	X(aior_thread_record, regs_len)                                                            \
	X(aior_thread_record, again)                                                               \
	X(aior_thread_record, since)                                                               \
	X(aior_thread_record, regs)

#define TABLE(X)                                                                                   \
	X(aior_table, magic)                                                                       \
	X(aior_table, abi)                                                                         \
	X(aior_table, size)                                                                        \
	X(aior_table, total)                                                                       \
	X(aior_table, state)                                                                       \
	X(aior_table, arch)                                                                        \
	X(aior_table, page_size)                                                                   \
	X(aior_table, pid)                                                                         \
	X(aior_table, rings)                                                                       \
	X(aior_table, ring_count)                                                                  \
	X(aior_table, ring_stride)                                                                 \
	X(aior_table, polls)                                                                       \
	X(aior_table, poll_count)                                                                  \
	X(aior_table, poll_stride)                                                                 \
	X(aior_table, threads)                                                                     \
	X(aior_table, thread_count)                                                                \
	X(aior_table, thread_stride)                                                               \
	X(aior_table, possible_cpus)                                                               \
	X(aior_table, reserved)

#define BLOB(X)                                                                                    \
	X(aior_blob, magic)                                                                        \
	X(aior_blob, abi)                                                                          \
	X(aior_blob, arch)                                                                         \
	X(aior_blob, op)                                                                           \
	X(aior_blob, size)                                                                         \
	X(aior_blob, call)                                                                         \
	X(aior_blob, jump)                                                                         \
	X(aior_blob, park)                                                                         \
	X(aior_blob, park_end)                                                                     \
	X(aior_blob, stack)                                                                        \
	X(aior_blob, scratch)                                                                      \
	X(aior_blob, flags)                                                                        \
	X(aior_blob, crc32)                                                                        \
	X(aior_blob, reserved)

/* No field is missing from the lists above: their sizes add up. */
#define SIZE(type, field) +sizeof(((struct type *)0)->field)
_Static_assert(0 ARGS(SIZE) == sizeof(struct aior_args), "ARGS");
_Static_assert(0 RING(SIZE) == sizeof(struct aior_ring_record), "RING");
_Static_assert(0 POLL(SIZE) == sizeof(struct aior_poll_record), "POLL");
_Static_assert(0 THREAD(SIZE) == sizeof(struct aior_thread_record), "THREAD");
_Static_assert(0 TABLE(SIZE) == sizeof(struct aior_table), "TABLE");
_Static_assert(0 BLOB(SIZE) == sizeof(struct aior_blob), "BLOB");

/* (An array is taken for a pointer to its first element.) */
#define ELEMENT(lvalue)                                                                            \
	_Generic((lvalue), uint8_t * : 1, uint32_t * : 4, uint64_t * : 8, default : sizeof(lvalue))

const struct contract_field aior_contract_fields[] = {
#define FIELD(type, field)                                                                         \
	{#type, #field, sizeof(struct type), offsetof(struct type, field),                         \
	    sizeof(((struct type *)0)->field), ELEMENT(((struct type *)0)->field),                 \
	    _Generic(((struct type *)0)->field, int32_t : 1, default : 0)},
    ARGS(FIELD) RING(FIELD) POLL(FIELD) THREAD(FIELD) TABLE(FIELD) BLOB(FIELD)
#undef FIELD
	{0},
};

const struct contract_constant aior_contract_constants[] = {
#define CONSTANT(name)                                                                             \
	{                                                                                          \
#name, name                                                                        \
	}
    CONSTANT(AIOR_ABI),
    CONSTANT(AIOR_F_GROW),
    CONSTANT(AIOR_F_COMPACT),
    CONSTANT(AIOR_END_RETURN),
    CONSTANT(AIOR_END_PARK),
    CONSTANT(AIOR_END_SIGRETURN),
    CONSTANT(AIOR_STEP_NONE),
    CONSTANT(AIOR_STEP_ARGS),
    CONSTANT(AIOR_STEP_RING),
    CONSTANT(AIOR_STEP_RESERVE),
    CONSTANT(AIOR_STEP_PIPE),
    CONSTANT(AIOR_STEP_SETUP),
    CONSTANT(AIOR_STEP_SIZE),
    CONSTANT(AIOR_STEP_ADVANCE),
    CONSTANT(AIOR_STEP_POLL),
    CONSTANT(AIOR_STEP_MOVE),
    CONSTANT(AIOR_STEP_PROTECT),
    CONSTANT(AIOR_STEP_MEMORY),
    CONSTANT(AIOR_STEP_PIN),
    CONSTANT(AIOR_STEP_HELPER),
    CONSTANT(AIOR_STEP_DRAIN),
    CONSTANT(AIOR_STEP_READ),
    CONSTANT(AIOR_STEP_DONE),
    CONSTANT(AIOR_NO_RING),
    CONSTANT(AIOR_RING_LIVE),
    CONSTANT(AIOR_RING_DRAINED),
    CONSTANT(AIOR_POLL_LOST),
    CONSTANT(AIOR_THREAD_INJECTED),
    CONSTANT(AIOR_THREAD_TIMED),
    CONSTANT(AIOR_TABLE_IMAGE),
    CONSTANT(AIOR_TABLE_PREPARED),
    CONSTANT(AIOR_TABLE_DRAINING),
    CONSTANT(AIOR_TABLE_STAGED),
    CONSTANT(AIOR_NOTE_TABLE),
    CONSTANT(AIOR_ARCH_X86_64),
    CONSTANT(AIOR_ARCH_I386),
    CONSTANT(AIOR_ARCH_AARCH64),
    CONSTANT(AIOR_ARCH_RISCV64),
    CONSTANT(AIOR_OP_RESTORE),
    CONSTANT(AIOR_OP_STAGE),
#undef CONSTANT
    {0},
};
