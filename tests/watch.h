/* SPDX-License-Identifier: MIT */
/*
 * Makes a blob's system calls fail, one by one. A seccomp filter sends what is called from the blob's
 * bytes, and nothing else, to a thread of the same process, which lets it pass or answers it.
 */
#ifndef TEST_WATCH_H
#define TEST_WATCH_H

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/ioctl.h>

#include "blob.h"
#include "errnos.h"

#define PARALLEL 16
#define MOST 200 /* system calls of one call of a blob */

static struct {
	int listener;
	volatile int nth, calls, forever;
	volatile int
	    err; /* what it fails with; ONE_OF(i): the i-th of its own errors, and then that one */
	volatile int has_none;                                /* it has not so many */
	volatile long nr;                                     /* of the call that failed */
	void (*before_call)(const struct seccomp_data *call); /* sees each; may be NULL */
} faults;

/* The i-th of the errors that the call can have: errnos.h. */
#define ONE_OF(i) (-1 - (int)(i))

/* The calls that cannot fail as they are made, whatever the kernel lacks. */
static inline int is_infallible(long nr)
{
	return nr == __NR_rt_sigprocmask || nr == __NR_exit;
}

/* What the call that is to fail fails with; 0: it has no such error, and is made. */
static inline int failure_of(const struct seccomp_data *call)
{
	int i = ONE_OF(faults.err);

	if (faults.err >= 0)
		return faults.err;
	faults.has_none = (unsigned)i >= count_errnos(call->nr);
	if (faults.has_none)
		return 0;
	/* Descriptors are shared with the supervisor. */
	if (fails_having_been_made(call->nr))
		close((int)call->args[0]);
	return faults.err = errno_of(call->nr, (unsigned)i);
}

static inline void *supervise(void *unused)
{
	struct seccomp_notif call;

	for (;;) {
		struct seccomp_notif_resp answer = {0};

		memset(&call, 0, sizeof(call));
		if (ioctl(faults.listener, SECCOMP_IOCTL_NOTIF_RECV, &call))
			return unused;
		answer.id = call.id;
		answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		if (faults.before_call)
			faults.before_call(&call.data);
		if (!is_infallible(call.data.nr)) {
			int n = ++faults.calls;

			if (n == faults.nth ||
			    (faults.forever && n >= faults.nth + faults.forever)) {
				faults.nr = call.data.nr;
				answer.error = -failure_of(&call.data);
				if (answer.error)
					answer.flags = 0;
			}
		}
		ioctl(faults.listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
}

/*
 * Helpers whose calls wait for a supervisor that is gone would wait for ever: however this process
 * ends, somebody who sees it ends them.
 */
static inline void end_with_this_process(void)
{
	pid_t self = getpid();
	struct pollfd ended = {.fd = (int)syscall(SYS_pidfd_open, self, 0), .events = POLLIN};

	if (ended.fd < 0 || setpgid(0, 0))
		return;
	fflush(stdout);
	if (!fork()) {
		if (fork())
			_exit(0);
		setpgid(0, 0);
		while (poll(&ended, 1, -1) < 0)
			;
		kill(-self, SIGKILL);
		_exit(0);
	}
	wait(NULL);
	close(ended.fd);
}

/* All of the blob lies in one page or two: the upper half of the address is the same for both. */
static inline int watch(const struct blob *watched)
{
	uint64_t from = (uintptr_t)watched->base, to = from + watched->room;
	const unsigned ip = offsetof(struct seccomp_data, instruction_pointer);
	struct sock_filter filter[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ip + 4),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(from >> 32), 0, 4),
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ip),
	    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)from, 0, 2),
	    BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)to, 1, 0),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};

	end_with_this_process();
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	faults.listener = (int)syscall(
	    __NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
	if (faults.listener < 0)
		diag("seccomp: %s", strerror(errno));
	return faults.listener;
}

static inline void start_supervisor(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, supervise, NULL))
		abort();
}

/* How one run with a failing call ended: its exit status. */
enum {
	RUN_FAILED,    /* it failed, and all was well */
	RUN_BROKE,     /* not well */
	RUN_NO_CALL,   /* there is no such call */
	RUN_NO_FILTER, /* there is no seccomp */
	RUN_NO_ERRNO,  /* the call has no such error */
	RUN_SUCCEEDED,
	RUN_KINDS
};

struct outcome {
	unsigned count[RUN_KINDS], crashed;
};

struct failing {
	int (*run)(int nth, int err, int forever);
	int err, forever;
};

static inline int run_failing(unsigned i, const void *what)
{
	const struct failing *failing = what;

	alarm(TAP_PATIENCE);
	return failing->run((int)i + 1, failing->err, failing->forever);
}

static inline int count_outcome(int status, void *tally)
{
	struct outcome *outcome = tally;

	if (WIFEXITED(status) && WEXITSTATUS(status) < RUN_KINDS)
		outcome->count[WEXITSTATUS(status)]++;
	else
		outcome->crashed++;
	return outcome->count[RUN_NO_CALL] || outcome->count[RUN_NO_FILTER];
}

/*
 * Runs `run` for the first system call, the second and so on, until none is left to fail. All in
 * children, several at a time: each waits for RCU when contexts are destroyed.
 */
static inline struct outcome fail_each(
    int (*run)(int nth, int err, int forever), int err, int forever)
{
	struct failing failing = {run, err, forever};
	struct outcome outcome = {0};

	each_in_child(MOST, PARALLEL, run_failing, &failing, count_outcome, &outcome);
	return outcome;
}

/* Each call with one of its own errors. Returns whether any had so many. */
static inline int fail_in_one_way(int (*run)(int nth, int err, int forever), unsigned i)
{
	struct outcome outcome = fail_each(run, ONE_OF(i), 0);
	const unsigned *count = outcome.count;
	unsigned failed = count[RUN_FAILED] + count[RUN_BROKE] + count[RUN_SUCCEEDED];

	if (count[RUN_NO_FILTER]) {
		skip("errors of their own", "no seccomp user notification here");
		return 0;
	}
	if (failed || outcome.crashed)
		ok(!count[RUN_BROKE] && !outcome.crashed && count[RUN_NO_CALL],
		    "error %u of each call: %u have one; %u times all is as it was, %u times it "
		    "succeeds, %u times neither, %u crashes",
		    i, failed, count[RUN_FAILED], count[RUN_SUCCEEDED], count[RUN_BROKE],
		    outcome.crashed);
	return failed || outcome.crashed;
}

/* The same with the first of its errors, the second, and so on, until none has so many. */
static inline void fail_in_all_ways(int (*run)(int nth, int err, int forever))
{
	for (unsigned i = 0; i < effort(MOST_ERRNOS) && fail_in_one_way(run, i); i++)
		;
}

#endif
