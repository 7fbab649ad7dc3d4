/* SPDX-License-Identifier: MIT */
/*
 * The host library: the AIO rings of running processes and of images.
 *
 * A function that can fail returns 0, or -1 and fills the struct aior_error that it was given, which
 * may be NULL. There is no global state: threads may work on different processes at the same time, and
 * on the same one all but the first are refused with EBUSY, or find it done. Structures that a function
 * fills are freed by the function named in its comment. All of this header is what the soname stands for:
 * see COMPATIBILITY in aio-restorer(3).
 */
#ifndef AIO_RESTORER_H
#define AIO_RESTORER_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define AIOR_PUBLIC __attribute__((visibility("default")))

struct aior_blob; /* <aio-restorer/restorer.h> */

/* Why something failed. */
struct aior_error {
	int err;           /* an errno, or 0 where none fits */
	int is_refused;    /* nothing failed: this host cannot do what was asked */
	int is_unfinished; /* aior_stage(), aior_restore(): a process is left parked, and a later call
			     * goes on with it */
	int has_ring;      /* `ring` is the one it failed on */
	uint64_t ring;     /* its address */
	const char *step;   /* what was being done, one word */
	char message[1024]; /* a sentence: what, to what, why, what to do about it */
};

enum aior_state {
	AIOR_LIVE,
	AIOR_STAGED,
	AIOR_INHERITED, /* mapped, but made by a relative: it has no context in this process */
	AIOR_DAMAGED,   /* its header or its mapping is not that of a sound ring */
};

/* One completed request, as the kernel's struct io_event. */
struct aior_event {
	uint64_t data, obj;
	int64_t res, res2;
};

struct aior_ring {
	uint64_t addr; /* the handle */
	uint64_t len;  /* of its mapping, in bytes */
	uint32_t prot; /* mmap's PROT_… */
	enum aior_state state;
	const char *damage; /* AIOR_DAMAGED: what is wrong, in words; else NULL */
	uint32_t id, nr, head, tail;
	uint32_t pending;          /* events completed and not reaped */
	uint32_t polls;            /* polls remembered in the capsule */
	uint32_t max_cpus;         /* possible CPUs that a host may have for this ring to fit */
	uint64_t room;             /* bytes from `addr` on that it may take where more CPUs are
				    * possible; 0: not known */
	int is_restored;           /* aior_run() brought it back */
	unsigned char *content;    /* all `len` bytes of it; NULL if it was not read */
	struct aior_event *events; /* instead of the content: the pending ones, oldest first */
};

struct aior_thread {
	pid_t tid;
	int stop_signal;  /* that it was about to take; 0 if none */
	uint64_t pending; /* signals */
	uint64_t blocked;
	size_t regs_len;
	unsigned char *regs; /* as NT_PRSTATUS has them on its architecture */
};

/* The rings of a process, now or as an image has them; in ascending order of address. */
struct aior_image {
	pid_t pid;
	uint32_t arch; /* AIOR_ARCH_… */
	uint32_t page_size;
	uint32_t possible_cpus; /* of the host it comes from; 0: not known */
	size_t ring_count;
	struct aior_ring *rings;
	size_t inherited_count; /* rings that aior_snapshot() has left out */
	size_t thread_count;
	struct aior_thread *threads;
};

/*
 * Reads the rings of the running process `pid` without stopping it, content included. No ring is no
 * error. Fails with ESRCH (no such process), EPERM (it may not be traced), EINVAL (a kernel thread),
 * ENOMEM. Free with aior_image_free().
 */
AIOR_PUBLIC int aior_list(pid_t pid, struct aior_image *image, struct aior_error *error);

/*
 * The same with all threads of the process stopped meanwhile, so that the rings are consistent with
 * each other; also reads the threads' registers. Rings that are only inherited are left out. Fails
 * also with ENOENT (it has no rings), EINVAL (a ring is damaged, or it shares its memory with
 * another process), EBUSY (traced already), EAGAIN (it has become another program meanwhile),
 * ETIMEDOUT (a thread does not stop). The process goes on in every case; waits that the stop
 * interrupted are made again, as aio-restorer(1) says.
 */
AIOR_PUBLIC int aior_snapshot(pid_t pid, struct aior_image *image, struct aior_error *error);

/*
 * Writes an image as an ELF core to `path`, mode 0600: to a file beside it first, which is then
 * renamed. While that file has a name of its own, signals wait for the calling thread. Fails with
 * the errno of the file operation; EINVAL if `path` is there and no regular file,
 * or if a ring is damaged, inherited or has no content, as aior_list() may give it.
 */
AIOR_PUBLIC int aior_write_core(
    const struct aior_image *image, const char *path, struct aior_error *error);

/*
 * Whether the rings of an image can be restored on this host. One that the host has no ring of its size for
 * may come back larger, if nothing lies in its way. Fails with is_refused set and a
 * message of one line for each thing in the way, separated by '\n'. Pass sums over all rings.
 */
AIOR_PUBLIC int aior_check_host(const struct aior_image *image, struct aior_error *error);

/*
 * Restores the rings of an image in a fresh process, reaps what is pending there through
 * io_getevents, ends that process, and fills `result` with the rings as they were then and with
 * their events. Fails as aior_check_host() and as the restore blob do, and with EINVAL if a ring is
 * damaged, inherited or has no content. Free `result` with aior_image_free().
 */
AIOR_PUBLIC int aior_run(
    const struct aior_image *image, struct aior_image *result, struct aior_error *error);

/*
 * Lays the rings of an image out anew: each begins at slot 0, with nothing but its pending events, as
 * options->compacts has it. Fails with ENOMEM, and with EINVAL if a ring is damaged or has no content.
 */
AIOR_PUBLIC int aior_compact_image(struct aior_image *image, struct aior_error *error);

AIOR_PUBLIC void aior_image_free(struct aior_image *image);

/* The i-th pending event of a ring, oldest first; i is below ring->pending. */
AIOR_PUBLIC struct aior_event aior_event(const struct aior_ring *ring, uint32_t i);

/* The blob for an architecture (AIOR_ARCH_…) and operation (AIOR_OP_…); NULL if there is none. */
AIOR_PUBLIC const struct aior_blob *aior_blob(uint32_t arch, uint32_t op);

/* The architecture of this host. */
AIOR_PUBLIC uint32_t aior_host_arch(void);

/* What this host can do. */
struct aior_host {
	uint32_t possible_cpus;
	uint32_t page_size;
	uint64_t aio_nr, aio_max_nr; /* sysctl fs.aio-nr, fs.aio-max-nr */
	int aio_errno;               /* what the AIO calls fail with; 0: they work here */
};

/* Fails with the errno of what could not be read. */
AIOR_PUBLIC int aior_get_host(struct aior_host *host, struct aior_error *error);

/*
 * A process stages and restores its own rings. A program calls aior_stage_self() before it is to be
 * checkpointed, with whatever tool, and aior_restore_self() when it goes on, wherever that is.
 *
 * Meanwhile its other threads must stand still, and from the one call to the other no thread may use
 * AIO: the handles are those of no context. They may stand anywhere, with any lock of libc held:
 * these functions need no heap, no stream and no lock. They take 64 KiB of stack.
 */

/*
 * A poll that was in flight and could not be submitted again, or that could not be as things are when it
 * is staged: its event has, or will have, `res` POLLNVAL.
 */
struct aior_lost_poll {
	uint64_t ring; /* the handle */
	uint64_t iocb; /* address of the struct iocb that was submitted */
	uint64_t data; /* its aio_data */
	int err;       /* EFAULT: the iocb is not mapped; ESTALE: it holds something else; else what
			* a submission says: EBADF, the descriptor is closed */
};

struct aior_report {
	size_t ring_count;      /* rings staged, or restored */
	size_t inherited_count; /* stage: mappings of rings that are not this process's own, but its
				 * parent's (fork): left alone */
	size_t pending;         /* events pending in those rings, those of lost polls apart */
	size_t drained;         /* stage: of them, those of requests that were in flight */
	size_t grown_count; /* restore: rings that are larger now, since this host has no smaller
				 * ones */
	size_t poll_count;  /* polls remembered, or submitted again */
	size_t lost_count;  /* of them, those that cannot be: one by one in */
	struct aior_lost_poll *lost; /* ... here */
	size_t lost_len;             /* of its mapping, for aior_report_free() */
	size_t no_room_count; /* stage with options->room_cpus: rings that would not fit where so
			       * many CPUs are possible: their handles in */
	uint64_t *no_room;    /* ... here */
	size_t no_room_len;   /* of its mapping */
};

/*
 * Turns all live rings of this process into plain memory, in place, and waits for all requests in
 * flight; polls are cancelled and remembered. All that aior_restore_self() needs lies in one mapping,
 * the capsule. No live ring is no error, and nothing is done; `report` says 0 then. `report` may be NULL;
 * otherwise free it with aior_report_free().
 *
 * Fails, and all is as it was: EBUSY (there is a capsule of rings that were staged before, and live
 * rings besides: restore first), EINVAL (a ring is damaged, or in several mappings), EMFILE or ENFILE
 * (no pipe), ENOMEM, EPERM (a system call is forbidden); for others the message says more. A failure
 * whose message says that the contexts are gone is the one exception: it takes a kernel that does not
 * give back what is in a pipe.
 *
 * It takes as long as the requests in flight take; that has no limit.
 */
AIOR_PUBLIC int aior_stage_self(struct aior_report *report, struct aior_error *error);

/*
 * The same, and keeps address space behind each ring, as far as nothing lies there, so that it can be restored
 * on a host where `room_cpus` CPUs are possible; 0: none. report->no_room names those that have none.
 * aior_restore_self() gives it back.
 */
AIOR_PUBLIC int aior_stage_self_with_room(
    uint32_t room_cpus, struct aior_report *report, struct aior_error *error);

/*
 * Turns them back into live rings with the same handles, submits the polls again, and unmaps the
 * capsule. No capsule is no error. Fails as aior_check_host() and as the restore blob do, and with
 * EINVAL or EFAULT if the capsule or the staged memory is damaged, or there are two capsules; ENOTSUP
 * if a newer release made it. All is as it was then, and it can be called again.
 */
AIOR_PUBLIC int aior_restore_self(struct aior_report *report, struct aior_error *error);

/* The same, with each ring as options->compacts has it. */
AIOR_PUBLIC int aior_restore_self_compact(struct aior_report *report, struct aior_error *error);

/* Frees what a report holds; one that is all 0 holds nothing. */
AIOR_PUBLIC void aior_report_free(struct aior_report *report);

/*
 * A process stages and restores the rings of others, which know nothing of it. Staged, a process is
 * parked: its threads sleep, with all signals blocked, in memory that travels with it. No host need
 * stay for that: another one can restore it, later or elsewhere.
 */

struct aior_samples;

struct aior_options {
	/*
	 * How long to wait for requests in flight, in milliseconds; negative: without end. A restore, which has none to
	 * wait for, takes no longer than that, or than ten seconds.
	 */
	int timeout_ms;
	/* If this becomes non-zero (in a signal's handler, say), give up as soon as nothing is lost by
	 * it; may be NULL. */
	const volatile int *cancel;
	/*
	 * Stage: keep address space behind each ring, as far as nothing lies there, so that it can be
	 * restored where so many CPUs are possible; 0: do not. report.no_room names those that have none.
	 */
	uint32_t room_cpus;
	/* aior_stage_traced(): its threads are parked, too. */
	int parks;
	/* aior_stage_traced(): from aior_sample(), or NULL. */
	const struct aior_samples *samples;
	/*
	 * aior_restore(), aior_restore_traced(): each ring begins at slot 0, with nothing but its pending events.
	 * That takes as long as they are many, and not as its tail says. A program that keeps a ring's head
	 * itself, and does not read it there each time, must not be restored so. After a failure they are staged as
	 * they were; but one that had its place already, when the next one could not be moved, may be compact.
	 */
	int compacts;
};

/* What has become of one process. Times are in nanoseconds. */
struct aior_outcome {
	pid_t pid;
	/* Nothing was to be done: it has no rings, is staged already, or is not staged. */
	int was_so;
	int is_staged; /* it is parked now */
	/*
	 * The inherited_count: rings that it has by fork. Stage gives it plain copies of them, since a
	 * relative's ring goes with its context.
	 */
	struct aior_report rings;
	size_t thread_count;
	size_t heir_count; /* stage: processes that map this one's rings by fork, and ... */
	pid_t heirs[8];    /* ... the first of them: their mappings are cut off */
	uint64_t stood_ns; /* stage: how long its threads have stood still before all was plain
				   * memory; restore: since they were stopped for the stage */
	/* Where the time went. */
	uint64_t stop_ns;    /* stopping its threads */
	uint64_t prepare_ns; /* finding the rings, and making room for the blob */
	uint64_t blob_ns;    /* in the blob: for stage, the drain above all */
	uint64_t finish_ns;  /* parking its threads, or letting them go */
};

/*
 * Stages all of these processes, or none. Needs the right to trace them (ptrace(2)), and for one with
 * a seccomp filter CAP_SYS_ADMIN. `outcomes` has room for `count`, or is NULL; free each with
 * aior_outcome_free(), on failure too. `options` may be NULL: no limits.
 *
 * Fails, and they go on as they were: as aior_snapshot() does, and as aior_stage_self() does. Fails with
 * ETIMEDOUT, EINTR (options->cancel) and is_unfinished if requests in flight do not end: then every
 * process named in the message stays parked, the drain goes on in it, and either function takes it up
 * again.
 *
 * Runs in a thread of its own, which is the tracer.
 */
AIOR_PUBLIC int aior_stage(const pid_t *pids, size_t count, const struct aior_options *options,
    struct aior_outcome *outcomes, struct aior_error *error);

/*
 * Restores their rings, and lets them go on. Fails as aior_restore_self() does: those processes stay
 * parked as they were, and is_unfinished is set; the others are restored.
 */
AIOR_PUBLIC int aior_restore(const pid_t *pids, size_t count, const struct aior_options *options,
    struct aior_outcome *outcomes, struct aior_error *error);

AIOR_PUBLIC void aior_outcome_free(struct aior_outcome *outcome);

/*
 * The same for a tool that has stopped all threads of the process itself: each is in a ptrace-stop
 * of the calling thread, and stays in one. One of the threads runs what is to be run.
 * `ptrace_options` are those that the tool has set (PTRACE_SETOPTIONS), which are put back.
 *
 * Nobody is parked: all threads have their registers and their signal masks back afterwards, and the
 * tool must not let them go before their rings are restored. With options->parks they are parked, in
 * the registers and masks that they have then: let go, or dumped and brought back elsewhere, they sleep, and
 * aior_restore() or aior_restore_traced() makes them go on. The latter takes both kinds.
 *
 * If such a tool dies before it has restored the rings, threads that are not parked run on, and their AIO calls fail
 * with EINVAL: aior_restore() brings the rings back, with all that was in them.
 */
AIOR_PUBLIC int aior_stage_traced(pid_t pid, unsigned long ptrace_options,
    const struct aior_options *options, struct aior_outcome *outcome, struct aior_error *error);
AIOR_PUBLIC int aior_restore_traced(pid_t pid, unsigned long ptrace_options,
    const struct aior_options *options, struct aior_outcome *outcome, struct aior_error *error);

/*
 * For such a tool, right before it stops the threads of a process. Waits until none of them is in
 * io_submit, where a stop would end requests with EINTR; and adds to `*samples`, which is NULL before the
 * first process, the system calls that they are in: on aarch64 and riscv64 nobody knows the first argument
 * of a wait that a stop has ended, and without it that wait ends with EINTR. (On x86 `*samples` stays NULL.)
 * A process without rings is passed over. Fails with ESRCH (no such process), ETIMEDOUT (a thread
 * does not come out of io_submit in ten seconds), ENOMEM. Free with aior_samples_free(), which takes NULL.
 */
AIOR_PUBLIC int aior_sample(pid_t pid, struct aior_samples **samples, struct aior_error *error);
AIOR_PUBLIC void aior_samples_free(struct aior_samples *samples);

#ifdef __cplusplus
}
#endif

#endif
