/* SPDX-License-Identifier: MIT */
/* What the parts of the library share. */
#ifndef AIOR_INTERNAL_H
#define AIOR_INTERNAL_H

#include "aio-restorer.h"
#include "calls.h"
#include "restorer.h"
#include "ring.h"

#include <pthread.h>
#include <sys/uio.h>
#include <time.h>

/*
 * At the head of a public function that opens, maps or stops something: a cancellation of the thread
 * (pthread_cancel(3)) comes behind it, when all that is undone.
 */
#define AIOR_UNCANCELLED                                                                           \
	int cancel_state_ __attribute__((cleanup(aior_may_be_cancelled), unused)) =                \
	    aior_not_cancelled()

static inline int aior_not_cancelled(void)
{
	int state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	return state;
}

static inline void aior_may_be_cancelled(const int *state)
{
	pthread_setcancelstate(*state, NULL);
}

/* error.c */

/* Fills `error` (unless NULL) with a formatted message, and returns -1. */
int aior_fail(struct aior_error *error, int err, const char *step, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The same about a ring. */
int aior_fail_ring(struct aior_error *error, int err, const char *step, uint64_t ring,
    const char *format, ...) __attribute__((format(printf, 5, 6)));
/*
 * The same when the host refuses; a further call adds a line, so whoever makes the first clears `error`
 * beforehand.
 */
int aior_refuse(struct aior_error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The same about an image: EINVAL, and "FILE: " before the message. */
int aior_fail_image(struct aior_error *error, const char *file, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* That all of them return -1 is said here, where compilers and analysers see it. */
#define aior_fail(...) aior_failed(aior_fail(__VA_ARGS__))
#define aior_fail_ring(...) aior_failed(aior_fail_ring(__VA_ARGS__))
#define aior_refuse(...) aior_failed(aior_refuse(__VA_ARGS__))
#define aior_fail_image(...) aior_failed(aior_fail_image(__VA_ARGS__))
static inline int aior_failed(int ret)
{
	(void)ret;
	return -1;
}
/* The word for an AIOR_STEP_…, and what to do about a failure in it. */
const char *aior_step_name(uint32_t step);
const char *aior_step_advice(uint32_t step, int err);
/* Fails as a blob says that it did; `ring` is the address of the one it names, or NULL. */
int aior_fail_blob(struct aior_error *error, const struct aior_args *args, const uint64_t *ring);
/* As strerror(), but never translated: so it needs no heap and no lock. */
const char *aior_errno_text(int err);

/* The first bytes of a file of /proc, as a string. Returns -1 with errno. */
int aior_read_text(char *text, size_t size, const char *path);

/* rights.c */

struct aior_process;

/* Whether the calling thread has it, in its own user namespace. */
int aior_has_capability(int capability);
/* Whether a tracer that is the calling thread may keep filters of system calls from working. */
int aior_may_suspend_filters(void);
/* Yama's: 0 to 3; 0 also if there is no Yama. */
int aior_ptrace_scope(void);
/* Fails if it may not be traced, or if what is to be known of it then may not be read. */
int aior_check_rights(const struct aior_process *process, struct aior_error *error);
/* Fails with `err`: it may not be traced, or looked at, and the message says for what reason, as far as can be seen. */
int aior_refuse_tracing(
    const struct aior_process *process, int err, const char *step, struct aior_error *error);

/* proc.c */

struct aior_mapping {
	uint64_t start, end, offset, inode;
	uint32_t prot, major, minor;
	int is_ring;           /* a mapping of the kernel's AIO file */
	int is_private_memory; /* private and anonymous: staged memory, or a capsule, is that */
	int is_stack, is_vdso;
};

struct aior_process {
	pid_t pid;
	pid_t task; /* a thread that lives, through which its memory is seen */
	pid_t parent, tracer;
	uint64_t start_time; /* in clock ticks after boot */
	uint64_t
	    stack; /* where its program's began: execve(2) chooses another place; 0: not known */
	int is_kernel_thread;
};

/* Finds out about a process; fails with ESRCH if there is none, or if it has exited. */
int aior_process_open(pid_t pid, struct aior_process *process, struct aior_error *error);
/* Says why a process cannot be looked at, by the errno of having tried. Returns -1. */
int aior_not_allowed(const struct aior_process *process, int err, struct aior_error *error);
/* Whether a thread has exited, though it may still be listed. (If that cannot be told, it has not.) */
int aior_task_has_exited(pid_t task);
/* Whether a signal has stopped it, which shows as a trap when it is traced: it is on its way back to its program. */
int aior_task_is_stopped(pid_t task);
/*
 * Whether it runs, or is about to; or that cannot be told. (/proc/TID/syscall takes one that is being woken on another
 * CPU for one that still waits: TASK_WAKING, kernel/sched/core.c; task_current_syscall(), lib/syscall.c.)
 */
int aior_task_runs(pid_t task);
/* Its mappings; freed with free(). */
int aior_mappings(const struct aior_process *process, struct aior_mapping **mappings, size_t *count,
    struct aior_error *error);
/*
 * Calls `visit` for each mapping of a thread's process (0: the caller's), in ascending order, until it
 * returns what is not 0, and returns that. Or -1 with errno. Without the heap and without a lock, for
 * aior_stage_self().
 */
int aior_each_mapping(
    pid_t task, int (*visit)(const struct aior_mapping *mapping, void *data), void *data);
/* The same of the text that a descriptor gives. */
int aior_each_mapping_in(
    int fd, int (*visit)(const struct aior_mapping *mapping, void *data), void *data);
/*
 * ptrace(2), process_vm_readv(2), process_vm_writev(2), and wait4(2) that does not wait. Each of them may fail for
 * want of memory, or since a signal has come; and what it says then must not be taken for the end of a thread that is
 * still there. So what fails is tried once more. What is made again has done nothing the first time.
 */
#define aior_trace(request, tid, addr, data)                                                       \
	aior_do_trace(request, tid, (uintptr_t)(addr), (uintptr_t)(data))
long aior_do_trace(int request, pid_t tid, uintptr_t addr, uintptr_t data);
ssize_t aior_read_pieces(pid_t tid, const struct iovec *local, size_t local_count,
    const struct iovec *remote, size_t remote_count);
ssize_t aior_write_pieces(pid_t tid, const struct iovec *local, size_t local_count,
    const struct iovec *remote, size_t remote_count);
pid_t aior_wait_now(pid_t tid, int *status);

/* Reads and writes memory of a thread's process; -1 with errno. */
int aior_read_memory(pid_t tid, uint64_t addr, void *to, size_t len);
int aior_write_memory(pid_t tid, uint64_t addr, const void *from, size_t len);

/* Its pagemap (see proc_pid_pagemap(5)): a descriptor, or -1 with errno. */
int aior_open_pagemap(pid_t task);
/*
 * Calls `visit` for each thread, or (pid 0) each process; stops when it returns non-zero. Returns that, or -1 with
 * errno if not all can be listed.
 */
int aior_each_task(pid_t pid, int (*visit)(pid_t task, void *data), void *data);
/* The architecture of the program that it runs; 0: one that is not known. */
uint32_t aior_process_arch(const struct aior_process *process);
/*
 * The system call that a thread is in, and its first argument; -1: it is in none, or running, or
 * that is not known.
 */
int aior_current_call(pid_t tid, uint64_t *first);
/* The same with its pc, 0 where that is not known. */
int aior_current_place(pid_t tid, uint64_t *first, uint64_t *pc);
/* The CPU that it runs on, or has run on; -1: not known. */
int aior_last_cpu(pid_t task);
/* Whether it is one of the kernel's own in the program's guise (io_uring's workers): it runs no program. */
int aior_is_worker(pid_t task);
/* A number that /proc/TID/status has behind `key`; 0 if it has none; -1 with errno if it cannot be read. */
long aior_status_number(pid_t tid, const char *key);
int aior_read_number(const char *path, uint64_t *number);
/* The pid that was given last, to whatever process or thread; 0: not known. */
uint64_t aior_newest_pid(void);
uint32_t aior_possible_cpus(void);

/* host.c */

/*
 * A check of this host, ring by ring (ring->room says how large it may come back): begin, each ring, end. What is in the way is gathered in
 * `error` as aior_check_host() says. Without the heap and without a lock.
 */
struct aior_host_check {
	struct aior_host host;
	struct aior_error *error;
	uint64_t requests; /* of fs.aio-max-nr */
	size_t refused;
};

/* Whether programs of that architecture run here, and this build has what it takes; is_refused: they do not. */
int aior_check_arch(uint32_t arch, struct aior_error *error);
int aior_begin_check(struct aior_host_check *check, struct aior_error *error);
/* `may_lie_nowhere`: its address may be one that no process of this host can have. */
void aior_check_ring(
    struct aior_host_check *check, const struct aior_ring *ring, int may_lie_nowhere);
int aior_end_check(struct aior_host_check *check);
/* How long a ring of that length is on that host: the same, or longer. */
uint64_t aior_len_on(const struct aior_host *host, uint64_t len);
/* The same on one with our pages, where so many CPUs are possible. */
uint64_t aior_len_for(uint32_t cpus, uint64_t len);
/* What io_setup is to be asked for there to have such a ring again, or the larger one that it takes. */
uint32_t aior_least_n(uint32_t cpus, uint64_t len);
/* aior_check_host(), of several at once. */
int aior_check_images(const struct aior_image *images, size_t count, struct aior_error *error);

/* report.c */

/*
 * Makes room in a report for as many lost polls as there may be, before anything is done that cannot be
 * undone; takes them in; gives back the room of those that there were not. Without the heap.
 */
int aior_reserve_lost(struct aior_report *report, uint64_t most, struct aior_error *error);
void aior_add_lost(struct aior_report *report, const struct aior_poll_record *poll, int err);
void aior_trim_lost(struct aior_report *report);
/* The same of rings that have no room; `hint`: where the list is in nobody's way, or NULL. */
int aior_reserve_no_room(
    struct aior_report *report, uint64_t most, void *hint, struct aior_error *error);
void aior_trim_no_room(struct aior_report *report);
/* What a restore has done, as its records say; there must be room for as many lost polls as there are polls. */
void aior_report_restore(
    struct aior_report *report, const struct aior_table *table, const void *bytes);

/* stop.c */

struct aior_stopped;

enum aior_purpose {
	AIOR_TO_READ,
	AIOR_TO_INJECT, /* filters of system calls are suspended from when a thread has stopped until it is left */
	AIOR_PARKED, /* the same for a parked process, whose threads are in no call that matters */
};

/*
 * Stops all threads of a process. Fails with EPERM, EBUSY (traced already), ETIMEDOUT, ESRCH, ENOMEM, and then
 * all go on.
 */
int aior_stop(const struct aior_process *process, enum aior_purpose purpose,
    struct aior_stopped **stopped, struct aior_error *error);
/*
 * The same of a parked process, for AIOR_PARKED; its capsule lies there. Returns 1, and all go on, if there is none
 * any more when nobody else can trace it: then it is parked no more.
 */
int aior_stop_staged(const struct aior_process *process, uint64_t capsule,
    struct aior_stopped **stopped, struct aior_error *error);
size_t aior_stopped_count(const struct aior_stopped *stopped);
int aior_stopped_thread(const struct aior_stopped *stopped, size_t i, struct aior_thread *thread);
/* They go on: waits that the stop has broken are made again. Frees `stopped`. */
void aior_continue(struct aior_stopped *stopped);

/* blobs.c */

/*
 * The system calls of an architecture's programs; NULL if none of them can run here. The host's own
 * can, and those of others that its kernel knows: see aior_can_execute().
 */
const struct aior_calls *aior_calls_of(uint32_t arch);

/* run.c */

/* Whether a program of that architecture can be executed here; tries it, if it is not the host's. */
int aior_can_execute(uint32_t arch);

/* live.c */
int aior_read_rings(
    const struct aior_process *process, struct aior_image *image, struct aior_error *error);
/* Fails if it is not one whose rings are its own alone, and which runs a program of this host. */
int aior_check_process(const struct aior_process *process, struct aior_error *error);
/* Fails if another process shares its memory, or if that cannot be found out. */
int aior_check_alone(const struct aior_process *process, struct aior_error *error);
/*
 * Calls `visit` for each other process that runs the same program and maps a ring that `mappings` have, too;
 * `is_older`: it may be the one whose ring it is. Returns -1 with errno if not all processes can be listed.
 */
int aior_each_relative(const struct aior_process *process, const struct aior_mapping *mappings,
    size_t count,
    void (*visit)(pid_t pid, int is_older, const struct aior_mapping *ring, void *data),
    void *data);
/* Says so, by errno. Returns -1. */
int aior_cannot_list(const struct aior_process *process, struct aior_error *error);
/* Whether it maps one, its own or a relative's. */
int aior_has_rings(const struct aior_process *process);
/* Whether the mapping behind this one goes on with the same ring. */
int aior_ring_continues(const struct aior_mapping *mapping);

/* capsule.c */

/* A capsule, and the table that heads it. */
struct aior_capsule {
	uint64_t addr;
	uint64_t room;      /* from there to the end of its mapping */
	uint32_t prot;      /* of the mapping */
	uint32_t page_size; /* where it lies; 0: not known */
	int may_be_live;    /* rings of it, which is no damage to who only looks */
	struct aior_table table;
};

/*
 * Looks for a capsule in the memory of a thread's process (0: the caller's), and reads its table,
 * which is not checked yet. Returns 1 if there is one, 0 if there is none, -1 if nobody can tell; EINVAL:
 * there are several.
 *
 * Since it is staged between two pages that cannot be touched, it is the beginning of a mapping: the
 * first bytes of every mapping are enough to find it. If it is not there, somebody may have put memory
 * into the place of those pages, and mappings have merged: then every page is looked at, up to a limit
 * of some milliseconds (capsule.c says which), as far as /proc/PID/pagemap can be had.
 */
int aior_find_capsule(pid_t task, struct aior_capsule *capsule, struct aior_error *error);
/* The same where it lies as whoever stages puts it: at the beginning of a mapping. That takes no time. */
int aior_find_new_capsule(pid_t task, struct aior_capsule *capsule, struct aior_error *error);
/* Whether the table is that of a staged process on `arch` which can be restored here. */
int aior_check_capsule(const struct aior_capsule *capsule, uint32_t arch, struct aior_error *error);
/* The same in whatever state it is: its tables lie where it says, and in it. */
int aior_check_table(const struct aior_capsule *capsule, uint32_t arch, struct aior_error *error);
/* Whether all its ring records lie in it, as far as it says where they are. Of one that is not checked. */
int aior_holds_rings(const struct aior_capsule *capsule);
/* What tells a blob of a capsule at `addr`; without scratch memory. It parks when it is done. */
struct aior_args aior_capsule_args(const struct aior_table *table, uint64_t addr);
/* Until a host has counted the polls in, behind the blob, `total` ends in front of them: does it. */
void aior_count_polls(struct aior_table *table);
/* The same of its records; `bytes` is the capsule, or a copy of it, of `total` bytes. */
int aior_check_records(
    const struct aior_capsule *capsule, const void *bytes, struct aior_error *error);
const struct aior_ring_record *aior_capsule_ring(
    const struct aior_table *table, const void *bytes, uint32_t i);
const struct aior_poll_record *aior_capsule_poll(
    const struct aior_table *table, const void *bytes, uint32_t i);
struct aior_thread_record *aior_capsule_thread(
    const struct aior_table *table, const void *bytes, uint32_t i);

/* What the maps say of a staged process. */
struct aior_survey {
	const struct aior_table *table;
	const void *bytes;
	uint32_t ring;       /* the first that is not wholly seen yet */
	uint64_t seen;       /* of it, the address up to which */
	uint64_t start, end; /* the capsule's pages */
	int is_guarded_before, is_guarded_behind;
};

/*
 * Whether the memory that the capsule of a thread's process (0: the caller's) names is there to be read:
 * private and anonymous, as it was staged, and no more than that is replaced. EFAULT: it is not.
 */
int aior_survey(pid_t task, const struct aior_capsule *capsule, const void *bytes,
    struct aior_survey *survey, struct aior_error *error);
/* Whether the staged content is sound (EINVAL), and this host can have such rings: as aior_check_host(). */
int aior_check_staged(
    pid_t tid, const struct aior_table *table, const void *bytes, struct aior_error *error);
/*
 * What a stage, or a restore that has failed, has written there, the restore blob wants to be 0; and what to ask
 * io_setup for depends on the host.
 */
void aior_reset_records(const struct aior_table *table, void *bytes);

/* memory.c */

/* More than the rings of any process have; a file with holes may well say, and hold, more. */
#define AIOR_MOST_RING_BYTES (1ull << 30)

/* The memory of a process, running or saved, that rings are read from. */
struct aior_memory {
	struct aior_image *image; /* that they are added to */
	const char *name;         /* what it is, for messages */
	uint64_t held;            /* no more bytes than these can be rings */
	uint64_t claimed;         /* bytes of rings, and of a capsule, so far */
	int takes_damaged;
	uint32_t unseen; /* rings that a capsule says are live, and which are not there yet */
	/* Copies [addr, addr + len) of it; -1, and `why` is a sentence about why it cannot be had. */
	int (*copy)(struct aior_memory *memory, void *to, uint64_t addr, uint64_t len);
	char why[512];
};

/* Adds a ring; fails if it is not sound, unless such are taken. */
int aior_read_ring(struct aior_memory *memory, uint64_t addr, uint64_t len, uint32_t prot,
    enum aior_state state, struct aior_error *error);
/*
 * Looks for a capsule where a mapping begins, of `room` bytes, and adds what is staged. `found` is the one
 * that was found before, if its address is not 0, and becomes it: two of them are an error.
 */
int aior_read_capsule_at(struct aior_memory *memory, uint64_t addr, uint64_t room, uint32_t prot,
    struct aior_capsule *found, struct aior_error *error);
/* Adds the rings that a capsule names, if they are staged; its table is read already. */
int aior_read_capsule(
    struct aior_memory *memory, struct aior_capsule *capsule, struct aior_error *error);

/* image.c */

/* Adds a ring; NULL if there is no memory. */
struct aior_ring *aior_add_ring(struct aior_image *image);
struct aior_thread *aior_add_thread(struct aior_image *image);
/* Takes a header's fields into `ring`, and finds out whether it is sound. */
void aior_take_header(struct aior_ring *ring, const struct aio_ring *header);
const char *aior_fault_text(enum aio_ring_fault fault);
/* Whether all rings are sound and have their content; fails with EINVAL. */
int aior_check_image(const struct aior_image *image, struct aior_error *error);
/* Puts the rings in order; fails with EINVAL when two overlap. */
int aior_sort_rings(struct aior_image *image, struct aior_error *error);

#endif
