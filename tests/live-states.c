/* SPDX-License-Identifier: MIT */
/*
 * What threads may be in when they are stopped for a stage: registers of any content, a restartable sequence
 * (rseq(2)), a filter of system calls (seccomp(2)), the hands of a tool that has stopped them itself, and SIGSTOP.
 */
#include <elf.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>

#include "internal.h"
#include "live.h"

/* glibc's signature of restartable sequences, for each architecture. */
#if __has_include(<sys/rseq.h>)
#include <sys/rseq.h>
#endif

/* ---- registers ---- */

struct registers {
	size_t len, fp_len;
	unsigned char regs[1024], fp[4096];
	uint64_t mask;
};

/* Of a thread that is in a ptrace-stop. */
static int get_registers(pid_t tid, struct registers *registers)
{
	struct iovec vec = {registers->regs, sizeof(registers->regs)};

	memset(registers->regs, 0, sizeof(registers->regs));
	if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &vec))
		return -1;
	registers->len = vec.iov_len;
	vec = (struct iovec){registers->fp, sizeof(registers->fp)};
	if (ptrace(PTRACE_GETREGSET, tid, NT_PRFPREG, &vec))
		return -1;
	registers->fp_len = vec.iov_len;
	return (int)ptrace(PTRACE_GETSIGMASK, tid, 8L, &registers->mask);
}

/* Returns 0 when it is in a ptrace-stop. */
static int seize(pid_t tid, unsigned long options)
{
	int status;

	if (ptrace(PTRACE_SEIZE, tid, 0, options) || ptrace(PTRACE_INTERRUPT, tid, 0, 0))
		return -1;
	return waitpid(tid, &status, __WALL) == tid && WIFSTOPPED(status) ? 0 : -1;
}

static int read_registers(pid_t tid, struct registers *registers)
{
	int ret = seize(tid, 0);

	if (!ret)
		ret = get_registers(tid, registers);
	return ptrace(PTRACE_DETACH, tid, 0, 0) || ret ? -1 : 0;
}

static int is_same_registers(const struct registers *a, const struct registers *b)
{
	const unsigned long *words_a = (const void *)a->regs, *words_b = (const void *)b->regs;

	for (size_t i = 0; i < a->len / sizeof(long); i++)
		if (words_a[i] != words_b[i])
			diag("register %zu was 0x%lx, is 0x%lx", i, words_a[i], words_b[i]);
	return a->len && a->fp_len && a->len == b->len && a->fp_len == b->fp_len &&
	       !memcmp(a->regs, b->regs, a->len) && !memcmp(a->fp, b->fp, a->fp_len) &&
	       a->mask == b->mask;
}

static void registers_stay(const struct target *target, int is_stopped, const char *name)
{
	const pid_t tids[] = {target->pid, target->shared->workers[0].tid,
	    target->shared->workers[1].tid, target->shared->workers[2].tid};
	struct registers registers[2][COUNT(tids)];
	int is_same = 1;

	for (size_t i = 0; i < COUNT(tids); i++)
		is_same &= !read_registers(tids[i], &registers[0][i]);
	for (int round = 0; round < 3; round++)
		is_same &= !stage_all(target, 1) && !restore_all(target, 1);
	for (size_t i = 0; i < COUNT(tids); i++) {
		is_same &= eventually(state_of(tids[i]) == (is_stopped ? 'T' : 'S'));
		is_same &= !read_registers(tids[i], &registers[1][i]);
		is_same &= is_same_registers(&registers[0][i], &registers[1][i]);
	}
	ok(is_same, "%s: all registers and masks are as they were, bit for bit", name);
}

static void test_registers(void)
{
	struct target target;
	const char *why;

	make_target(&target);
	add_worker(&target, READ);
	add_worker(&target, FUTEX);
	add_worker(&target, READ);
	if (begin_target(&target, run_many) && ok(settle_target(&target), "all threads wait")) {
		registers_stay(&target, 0, "in read and futex");
		ok(is_unseen(&target), "its parent has seen nothing");
		kill(target.pid, SIGSTOP);
		eventually(target.shared->reports == 1);
		registers_stay(&target, 1, "stopped by SIGSTOP");
		kill(target.pid, SIGCONT);
		ok(eventually(target.shared->reports == 2) &&
			target.shared->last_code == CLD_CONTINUED,
		    "its parent has seen it stop and go on, once each");
		why = end_workers(&target);
		ok(!why, "%s", why ? why : "all waits end");
	}
	end_target(&target);
}

/* ---- for tools that stop all threads themselves ---- */

#define OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXIT)

struct held {
	const struct target *target;
	pid_t tids[MOST_THREADS];
	unsigned count;
	struct registers was[4];
};

/* Stops all its threads; they are few. */
static int hold(struct held *held, const struct target *target, unsigned long options)
{
	held->target = target;
	held->count = threads_of(target->pid, held->tids);
	if (held->count > COUNT(held->was))
		return -1;
	for (unsigned i = 0; i < held->count; i++)
		if (seize(held->tids[i], options) || get_registers(held->tids[i], &held->was[i]))
			return -1;
	return 0;
}

static void let_go(const struct held *held)
{
	for (unsigned i = 0; i < held->count; i++)
		ptrace(PTRACE_DETACH, held->tids[i], 0, 0);
}

/* Whether all are in ptrace-stops, with the registers that they had, and have nothing to report. */
static int are_held(const struct held *held)
{
	struct registers now;
	int status;

	for (unsigned i = 0; i < held->count; i++) {
		if (waitpid(held->tids[i], &status, __WALL | WNOHANG)) {
			diag("thread %u reports 0x%x", i, (unsigned)status);
			return 0;
		}
		if (get_registers(held->tids[i], &now)) {
			diag("thread %u is not in a ptrace-stop", i);
			return 0;
		}
		if (!is_same_registers(&held->was[i], &now))
			return 0;
	}
	return 1;
}

/* The next stop of a thread at a system call: its signal, with what PTRACE_O_TRACESYSGOOD adds. */
static int next_call_stop(pid_t tid)
{
	int status;

	if (ptrace(PTRACE_SYSCALL, tid, 0, 0) || waitpid(tid, &status, __WALL) != tid ||
	    !WIFSTOPPED(status))
		return -1;
	return status >> 8;
}

static void check_options(struct held *held, unsigned long options)
{
	struct worker *reader = &held->target->shared->workers[0];
	int stop = next_call_stop(held->target->pid), status = 0;

	ok(stop == (options & PTRACE_O_TRACESYSGOOD ? SIGTRAP | 0x80 : SIGTRAP),
	    "... PTRACE_O_TRACESYSGOOD is as it was set");
	for (unsigned i = 0; i < held->count; i++)
		if (held->tids[i] != reader->tid)
			ptrace(PTRACE_DETACH, held->tids[i], 0, 0);
	ptrace(PTRACE_CONT, reader->tid, 0, 0);
	send_byte(reader);
	waitpid(reader->tid, &status, __WALL);
	if (options & PTRACE_O_TRACEEXIT)
		ok(status >> 8 == (SIGTRAP | PTRACE_EVENT_EXIT << 8),
		    "... PTRACE_O_TRACEEXIT is set");
	else
		ok(WIFEXITED(status), "... PTRACE_O_TRACEEXIT is not set");
	ptrace(PTRACE_DETACH, reader->tid, 0, 0);
	ok(reader->is_back && reader->result == 1, "... a wait ends with what it waited for");
	ok(goes_on(held->target), "... what computes goes on");
}

static void stage_held(struct held *held, unsigned long options)
{
	pid_t pid = held->target->pid;
	struct aior_image staged;
	unsigned live = 0;

	memset(outcomes, 0, sizeof(outcomes));
	ok(!aior_stage_traced(pid, options, &patient, &outcomes[0], &error) &&
		!outcomes[0].was_so && outcomes[0].rings.ring_count == SHAPES,
	    "options 0x%lx: it is staged in a tracer's hands", options);
	ok(are_held(held), "... all its threads are stopped, with their registers and masks");
	if (ok(!aior_list(pid, &staged, &error) && staged.ring_count == SHAPES,
		"... it is listed")) {
		for (size_t i = 0; i < staged.ring_count; i++)
			live += staged.rings[i].state != AIOR_STAGED;
		ok(!live, "... all its rings as staged");
		aior_image_free(&staged);
	}
	if (error.err)
		diag("%s", error.message);
	aior_outcome_free(&outcomes[0]);
	ok(!aior_restore_traced(pid, options, &patient, &outcomes[0], &error) &&
		outcomes[0].rings.ring_count == SHAPES,
	    "... it is restored");
	ok(are_held(held), "... all its threads are stopped, with their registers and masks");
	aior_outcome_free(&outcomes[0]);
}

/* Parked in a tracer's hands: the threads sleep when they are let go, and are restored by either way. */
static void park_held(struct held *held, unsigned long options)
{
	const struct aior_options parking = {.timeout_ms = PATIENCE_MS, .parks = 1};
	pid_t pid = held->target->pid;
	const char *why;

	memset(outcomes, 0, sizeof(outcomes));
	ok(!aior_stage_traced(pid, options, &parking, &outcomes[0], &error) &&
		outcomes[0].is_staged && outcomes[0].rings.ring_count == SHAPES,
	    "options 0x%lx: it is parked in a tracer's hands", options);
	ok(!aior_stage_traced(pid, options, &parking, NULL, &error), "... a second time, too");
	ok(!aior_restore_traced(pid, options, &patient, NULL, &error) && are_held(held),
	    "... restored there, its threads are stopped, with their registers and masks");
	ok(!aior_stage_traced(pid, options, &parking, NULL, &error), "... it is parked again");
	let_go(held);
	why = why_not_parked(held->target);
	ok(!why, "... let go, %s", why ? why : "it sleeps");
	for (unsigned i = 0; i < held->count; i++)
		if (seize(held->tids[i], options))
			abort();
	ok(!aior_restore_traced(pid, options, &patient, NULL, &error) && are_held(held),
	    "... seized again and restored, its threads are as before");
	ok(!aior_stage_traced(pid, options, &parking, NULL, &error), "... it is parked again");
	let_go(held);
	ok(!aior_restore(&pid, 1, &patient, NULL, &error), "... and restored by another host");
}

/* One of its threads is about to take a signal, which is the tracer's to give: it cannot be parked then. */
static void park_with_signal(struct held *held, unsigned long options)
{
	const struct aior_options parking = {.timeout_ms = PATIENCE_MS, .parks = 1};
	pid_t pid = held->target->pid, tid = held->target->shared->workers[0].tid;
	int status = 0;

	syscall(SYS_tgkill, pid, tid, SIGURG);
	ptrace(PTRACE_CONT, tid, 0, 0);
	waitpid(tid, &status, __WALL);
	for (unsigned i = 0; i < held->count; i++)
		if (get_registers(held->tids[i], &held->was[i]))
			abort();
	ok(WIFSTOPPED(status) && status >> 8 == SIGURG &&
		aior_stage_traced(pid, options, &parking, NULL, &error) == -1 && error.err == EBUSY,
	    "options 0x%lx: %s", options, error.message);
	ok(are_held(held), "... all its threads are stopped, with their registers and masks");
}

/* A process that can have no pipe. What has failed must leave it as it was, in the tracer's hands. */
static void fail_held(struct held *held, unsigned long options)
{
	struct rlimit limit, none;
	pid_t pid = held->target->pid;

	if (prlimit(pid, RLIMIT_NOFILE, NULL, &limit))
		abort();
	none = (struct rlimit){.rlim_max = limit.rlim_max};
	prlimit(pid, RLIMIT_NOFILE, &none, NULL);
	memset(outcomes, 0, sizeof(outcomes));
	ok(aior_stage_traced(pid, options, &patient, &outcomes[0], &error) == -1 &&
		error.err == EMFILE && !error.is_unfinished,
	    "options 0x%lx: %s", options, error.message);
	prlimit(pid, RLIMIT_NOFILE, &limit, NULL);
	ok(are_held(held), "... all its threads are stopped, with their registers and masks");
	aior_outcome_free(&outcomes[0]);
}

static void traced_with(unsigned long options)
{
	struct target target;
	struct held held;
	char *before_it;
	const char *why;

	make_target(&target);
	add_worker(&target, READ);
	add_worker(&target, INTEGERS);
	add_worker(&target, REALS);
	if (begin_target(&target, run_many) && settle_target(&target)) {
		before_it = look(target.pid);
		if (ok(!hold(&held, &target, options), "all threads are stopped")) {
			fail_held(&held, options);
			stage_held(&held, options);
			park_held(&held, options);
		}
		let_go(&held);
		if (!hold(&held, &target, options))
			park_with_signal(&held, options);
		let_go(&held);
		ok(settle_target(&target) && is_same_look(before_it, look(target.pid)),
		    "... all is as it was");
		if (!hold(&held, &target, options)) {
			stage_held(&held, options);
			check_options(&held, options);
		}
		why = ask_why(&target, why_other_rings, 0);
		ok(!why, "... %s", why ? why : "its rings are exact");
		ok(is_unseen(&target), "... its parent has seen nothing");
	}
	end_target(&target);
}

static void test_traced(void)
{
	traced_with(0);
	traced_with(OPTIONS);
}

/* ---- restartable sequences ---- */

/* struct rseq and struct rseq_cs of linux/rseq.h: 32 bytes each, in that alignment. */
static struct {
	uint32_t cpu_id_start, cpu_id;
	uint64_t section;
	uint32_t flags, reserved[3];
} rseq_area __attribute__((aligned(32)));

static struct {
	uint32_t version, flags;
	uint64_t start, len, abort;
} section __attribute__((aligned(32)));

static jmp_buf before_section;

enum { ENTERED, ABORTED, FORGOTTEN, REGISTERED };

/* The linker says where this section begins and ends. */
extern const char __start_aior_rseq[], __stop_aior_rseq[];

/*
 * The whole function is the critical section. Whenever the kernel comes back to a thread in it, it has been
 * sent to `abort`; so the section is never found forgotten from inside.
 */
static __attribute__((section("aior_rseq"), noinline, no_sanitize("address", "undefined"))) int
spin_in_section(void)
{
	const volatile uint64_t *is_known = &rseq_area.section;
	const atomic_int *stop = &own->stop;

	*(volatile uint64_t *)&rseq_area.section = (uintptr_t)&section;
	while (!atomic_load_explicit(stop, memory_order_relaxed))
		if (!*is_known)
			return 0;
	return 1;
}

/* The kernel jumps here, out of the section's frame. */
static _Noreturn void leave_section(void)
{
	own->counts[ABORTED]++;
	longjmp(before_section, 1);
}

/*
 * The word in front of the abort handler is the signature that is registered: code of any kind can then be one.
 * The C library has registered an area of its own, as a rule.
 */
static int register_section(void)
{
	uint32_t signature;

	memcpy(&signature, (const void *)((uintptr_t)leave_section - 4), sizeof(signature));
	section.start = (uintptr_t)__start_aior_rseq;
	/* cppcheck-suppress comparePointers ; the linker makes both, of one section */
	section.len = (uintptr_t)(__stop_aior_rseq - __start_aior_rseq);
	section.abort = (uintptr_t)leave_section;
#ifdef RSEQ_SIG
	if (__rseq_size) {
		char *area = (char *)__builtin_thread_pointer() + __rseq_offset;

		syscall(SYS_rseq, area, 32L, 1L, RSEQ_SIG);
	}
#endif
	return result(syscall(SYS_rseq, &rseq_area, 32L, 0L, signature)) ? -1 : 0;
}

static void run_sections(struct target *target)
{
	(void)target;
	make_rings();
	start_workers();
	own->counts[REGISTERED] = !register_section();
	own->is_ready = 1;
	setjmp(before_section);
	while (own->counts[REGISTERED] && !own->stop) {
		own->counts[ENTERED]++;
		own->counts[FORGOTTEN] += !spin_in_section();
		*(volatile uint64_t *)&rseq_area.section = 0;
	}
	for (;;)
		pause();
}

static void sections_abort(struct target *target, const char *name)
{
	struct shared *shared = target->shared;
	int are_done = 1, are_aborted = 1;

	for (unsigned i = 0; i < 2 + effort(18) && are_done; i++) {
		unsigned long aborted, entered;

		usleep(1000 * (i % 4));
		are_done &= !stage_all(target, 1);
		aborted = shared->counts[ABORTED];
		entered = shared->counts[ENTERED];
		are_done &= !restore_all(target, 1);
		are_aborted &= eventually(
		    shared->counts[ABORTED] > aborted && shared->counts[ENTERED] > entered);
	}
	ok(are_done, "%s: staged and restored", name);
	ok(are_aborted && !shared->counts[FORGOTTEN],
	    "%s: it comes out at the abort handler, always", name);
	diag("%lu entered, %lu aborted, %lu forgotten", shared->counts[ENTERED],
	    shared->counts[ABORTED], shared->counts[FORGOTTEN]);
}

/* Whether the kernel tells a tracer where the area of a thread is: since 5.13. */
static int is_told_of_areas(pid_t pid)
{
	const int get_rseq_configuration = 0x420f;
	uint32_t told[6] = {0};
	int ret =
	    !seize(pid, 0) && ptrace(get_rseq_configuration, pid, (long)sizeof(told), told) > 0;

	ptrace(PTRACE_DETACH, pid, 0, 0);
	return ret;
}

static void spin_beside(unsigned waiting, const char *name)
{
	struct target target;
	const char *why;

	make_target(&target);
	for (unsigned i = 0; i < waiting; i++)
		add_worker(&target, READ);
	if (begin_target(&target, run_sections)) {
		if (!target.shared->counts[REGISTERED]) {
			skip(name, "restartable sequences cannot be registered here");
		} else if (!is_told_of_areas(target.pid)) {
			skip(name, "this kernel does not tell a tracer of restartable sequences");
		} else {
			sections_abort(&target, name);
			why = end_workers(&target);
			ok(!why, "%s: %s", name, why ? why : "others wait as they did");
		}
	}
	end_target(&target);
}

static void test_rseq(void)
{
	spin_beside(0, "a process of one thread in its critical section");
	spin_beside(2, "a thread in its critical section, beside others that wait");
}

/* ---- filters ---- */

#define FILTERED_RINGS 8

enum { MAY_END, SURVIVED };

static aio_context_t filtered[FILTERED_RINGS];

/* Kills the process for all other system calls. */
static void filter(unsigned flags)
{
	static const int allowed[] = {
	    SYS_read,
	    SYS_write,
	    SYS_io_submit,
	    SYS_io_getevents,
	    SYS_futex,
	    SYS_nanosleep,
	    SYS_clock_nanosleep,
	    SYS_clock_gettime,
	    SYS_gettid,
	    SYS_exit,
	    SYS_exit_group,
	    SYS_rt_sigreturn,
	    SYS_restart_syscall,
#ifdef SYS_clock_gettime64
	    SYS_clock_gettime64,
	    SYS_clock_nanosleep_time64,
#endif
	};
	struct sock_filter program[2 * COUNT(allowed) + 2] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
	struct sock_fprog fprog = {COUNT(program), program};
	size_t at = 1;

	for (size_t i = 0; i < COUNT(allowed); i++) {
		program[at++] = (struct sock_filter)BPF_JUMP(
		    BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)allowed[i], 0, 1);
		program[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	program[at] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &fprog))
		abort();
}

/* Makes a call that the filter does not know, when the host says so. */
static long linger(struct worker *worker, long (*work)(struct worker *worker))
{
	worker->result = work(worker);
	worker->is_back = 1;
	while (!own->counts[MAY_END])
		syscall(SYS_futex, &own->counts[MAY_END], FUTEX_WAIT, 0, NULL, NULL, 0);
	syscall(SYS_getppid);
	own->counts[SURVIVED] = 1;
	for (;;)
		syscall(SYS_futex, &own->counts[SURVIVED], FUTEX_WAIT, 1, NULL, NULL, 0);
	return 0;
}

static long linger_read(struct worker *worker)
{
	return linger(worker, in_read);
}

static long linger_nanosleep(struct worker *worker)
{
	return linger(worker, in_nanosleep);
}

static long linger_integers(struct worker *worker)
{
	return linger(worker, in_integers);
}

static long linger_filtered(struct worker *worker)
{
	filter(0);
	return linger(worker, in_read);
}

static const struct kind lingering[] = {
    {"read", make_pipe, linger_read, send_byte, 1, 0},
    {"nanosleep", make_nothing, linger_nanosleep, make_nothing, 0, 0},
    {"integers", make_nothing, linger_integers, make_nothing, 0, 0},
};

static const struct kind filtered_read = {"filtered", make_pipe, linger_filtered, send_byte, 1, 0};

static void make_filtered_rings(void)
{
	const struct rlimit none = {0, 0};

	setrlimit(RLIMIT_CORE, &none);
	for (unsigned i = 0; i < FILTERED_RINGS; i++) {
		filtered[i] = new_ring(1);
		if (complete(filtered[i], i, 0x200 + i) != (long)i)
			abort();
	}
}

/* A question, answered by system calls that the filter lets pass. */
static long why_other_filtered(long unused)
{
	struct aio_slot events[FILTERED_RINGS];

	(void)unused;
	for (unsigned i = 0; i < FILTERED_RINGS; i++) {
		if (io_getevents(filtered[i], FILTERED_RINGS, events) != (long)i)
			return (long)"the events pending";
		for (unsigned j = 0; j < i; j++)
			if (events[j].data != 0x200 + i || events[j].res)
				return (long)"an event";
		if (!works(filtered[i]))
			return (long)"a ring that does not work";
		if (complete(filtered[i], i, 0x200 + i) != (long)i)
			return (long)"a submission";
	}
	return 0;
}

static void run_with_filter(struct target *target)
{
	make_filtered_rings();
	start_workers();
	for (unsigned i = 0; i < own->worker_count; i++)
		if (!eventually(own->workers[i].tid))
			abort();
	filter(SECCOMP_FILTER_FLAG_TSYNC);
	serve(target);
}

static void run_beside_filter(struct target *target)
{
	make_filtered_rings();
	start_workers();
	serve(target);
}

static void stages_under_filter(struct target *target, const char *name)
{
	char *before_it = look(target->pid);
	int are_done = 1, are_parked = 1;
	const char *why = NULL;

	for (unsigned i = 0; i < 1 + effort(4) && are_done && are_parked && !why; i++) {
		are_done &= !stage_all(target, 1) && outcomes[0].rings.ring_count == FILTERED_RINGS;
		kill(target->pid, SIGCONT);
		usleep(20000);
		are_parked &= !why_not_parked(target) && !target->shared->reports;
		are_done &= !restore_all(target, 1);
		why = ask_why(target, why_other_filtered, 0);
	}
	ok(are_done, "%s: staged and restored", name);
	ok(are_parked, "%s: parked, it stays alive", name);
	/* Left a moment too early, a parked thread is ended by its filter: one in a thousand. */
	for (unsigned i = 0; i < effort(60) && are_done; i++)
		are_done = !stage_all(target, 1) && !restore_all(target, 1);
	ok(are_done, "%s: again and again", name);
	ok(!why, "%s: %s", name, why ? why : "its rings are as before");
	ok(settle_target(target) && is_same_look(before_it, look(target->pid)),
	    "%s: all else is as before, filters too", name);
	why = end_workers(target);
	ok(!why, "%s: %s", name, why ? why : "its threads go on");
}

static void dies_of_filter(struct target *target, const char *name)
{
	struct shared *shared = target->shared;

	ok(!shared->reports, "%s: it lives", name);
	shared->counts[MAY_END] = 1;
	syscall(SYS_futex, &shared->counts[MAY_END], FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	ok(eventually(shared->reports) && shared->last_status == SIGSYS &&
		shared->last_code != CLD_EXITED && !shared->counts[SURVIVED],
	    "%s: the filter kills still", name);
}

static void test_filter(void)
{
	const char *name = "all threads under a filter";
	struct target target;

	make_target(&target);
	for (unsigned i = 0; i < COUNT(lingering); i++) {
		struct worker *worker = add_worker(&target, i ? FUTEX : READ);

		worker->kind = &lingering[i];
	}
	if (begin_target(&target, run_with_filter) && settle_target(&target)) {
		stages_under_filter(&target, name);
		dies_of_filter(&target, name);
	}
	end_target(&target);
}

static void test_one_filter(void)
{
	const char *name = "one thread under a filter";
	struct target target;

	make_target(&target);
	add_worker(&target, READ)->kind = &filtered_read;
	add_worker(&target, INTEGERS);
	if (begin_target(&target, run_beside_filter) && settle_target(&target)) {
		stages_under_filter(&target, name);
		dies_of_filter(&target, name);
	}
	end_target(&target);
}

/* ---- stopped on its way out of io_submit ---- */

#define BATCH_OF_READS 64

static int file_of_reads;

/* Submits reads that are done in io_submit itself, and takes their events, without end. */
static void run_submitting(struct target *target)
{
	static char bytes[BATCH_OF_READS][4096];
	struct iocb iocbs[BATCH_OF_READS] = {0}, *list[BATCH_OF_READS];
	struct aio_slot events[BATCH_OF_READS];
	aio_context_t ctx = 0;

	(void)target;
	if (io_setup(BATCH_OF_READS, &ctx))
		_exit(1);
	for (unsigned i = 0; i < BATCH_OF_READS; i++) {
		iocbs[i].aio_lio_opcode = IOCB_CMD_PREAD;
		iocbs[i].aio_fildes = (uint32_t)file_of_reads;
		iocbs[i].aio_buf = (uintptr_t)bytes[i];
		iocbs[i].aio_nbytes = sizeof(bytes[i]);
		list[i] = &iocbs[i];
	}
	own->is_ready = 1;
	while (io_submit(ctx, BATCH_OF_READS, list) == BATCH_OF_READS &&
	       io_getevents(ctx, BATCH_OF_READS, events) == BATCH_OF_READS) {
		for (unsigned i = 0; i < BATCH_OF_READS; i++)
			if (events[i].res != (int64_t)sizeof(bytes[i]))
				_exit(2);
		own->counts[0]++;
	}
	_exit(3);
}

/*
 * The kernel shows the call that a thread has come from until it is back in its program: also while it is stopped.
 * Not on arm64, which forgets the call before it stops (arch/arm64/kernel/signal.c, do_signal).
 */
static int is_call_shown_when_stopped(void)
{
	pid_t pid = fork_mortal();
	uint64_t first;
	int is_shown;

	if (!pid)
		for (;;)
			pause();
	eventually(state_of(pid) == 'S');
	kill(pid, SIGSTOP);
	eventually(state_of(pid) == 'T');
	is_shown = aior_current_call(pid, &first) >= 0;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return is_shown;
}

static int stops_after_io_submit(const struct target *target)
{
	int64_t begun = now_ms();
	uint64_t first;

	while (now_ms() - begun < PATIENCE_MS) {
		kill(target->pid, SIGSTOP);
		if (!eventually(state_of(target->pid) == 'T'))
			return 0;
		if (aior_current_call(target->pid, &first) == SYS_io_submit)
			return 1;
		kill(target->pid, SIGCONT);
		tick();
	}
	return 0;
}

static void test_stopped_after_io_submit(void)
{
	const char *name = "stopped on its way out of io_submit";
	struct target target;
	unsigned long passes;

	if (!is_call_shown_when_stopped()) {
		skip(name, "this kernel forgets a thread's call when it stops");
		return;
	}
	file_of_reads = memfd_create("reads", MFD_CLOEXEC);
	if (file_of_reads < 0 || ftruncate(file_of_reads, 4096))
		abort();
	make_target(&target);
	if (begin_target(&target, run_submitting) &&
	    ok(stops_after_io_submit(&target), "it is %s", name)) {
		ok(!stage_all(&target, 1), "%s: it is staged", name);
		ok(!restore_all(&target, 1) && eventually(state_of(target.pid) == 'T'),
		    "%s: it is restored, and stopped", name);
		passes = target.shared->counts[0];
		kill(target.pid, SIGCONT);
		ok(eventually(target.shared->counts[0] > passes + 1), "%s: it goes on", name);
	}
	end_target(&target);
	close(file_of_reads);
}

/* ---- a poll that it has cancelled itself, right before ---- */

#define BUSY_MS 500

static aio_context_t cancelled_ctx;
static struct iocb cancelled_poll;

static int be_real_time(int priority)
{
	struct sched_param param = {.sched_priority = priority};

	return sched_setscheduler(0, priority ? SCHED_FIFO : SCHED_OTHER, &param);
}

static void run_cancelling(struct target *target)
{
	int fds[2];

	pin_to(0);
	if (be_real_time(2) || pipe2(fds, O_CLOEXEC) || io_setup(1, &cancelled_ctx))
		_exit(1);
	iocb_poll(&cancelled_poll, fds[0], POLLIN, 0x77);
	if (submit_one(cancelled_ctx, &cancelled_poll) != 1)
		_exit(1);
	serve(target);
}

static long cancel_poll(long unused)
{
	return io_cancel(cancelled_ctx, &cancelled_poll) + 0 * unused;
}

static long events_of_cancelled(long unused)
{
	struct aio_slot events[4];

	return io_getevents(cancelled_ctx, 4, events) + 0 * unused;
}

/* Keeps the workers of a CPU from running, for a while: the event of the poll comes from one. */
static pid_t keep_cpu_busy(atomic_ulong *is_busy)
{
	pid_t pid = fork_mortal();

	if (pid)
		return pid;
	pin_to(0);
	if (be_real_time(1))
		_exit(1);
	*is_busy = 1;
	for (int64_t begun = now_ms(); now_ms() - begun < BUSY_MS;)
		;
	_exit(0);
}

static void test_cancelled(void)
{
	const char *name = "a poll cancelled right before, with its worker held";
	struct target target;
	pid_t busy;

	if (be_real_time(2)) {
		skip(name, "real-time scheduling is not allowed here");
		return;
	}
	make_target(&target);
	if (begin_target(&target, run_cancelling)) {
		busy = keep_cpu_busy(&target.shared->counts[0]);
		eventually(target.shared->counts[0]);
		ok(ask(&target, cancel_poll, 0) == -EINPROGRESS, "%s: its event is to come", name);
		ok(!stage_all(&target, 1) && !outcomes[0].rings.poll_count,
		    "%s: it is staged, and no poll remembered", name);
		ok(!restore_all(&target, 1) && ask(&target, events_of_cancelled, 0) == 1,
		    "%s: restored, its event is there, once", name);
		waitpid(busy, NULL, 0);
	}
	be_real_time(0);
	end_target(&target);
}

int main(void)
{
	static const struct live_test tests[] = {
	    {"registers", test_registers},
	    {"traced", test_traced},
	    {"restartable sequences", test_rseq},
	    {"a filter", test_filter},
	    {"a filter of one thread", test_one_filter},
	    {"stopped after io_submit", test_stopped_after_io_submit},
	    {"cancelled right before", test_cancelled},
	};

	return run_live_tests(tests, COUNT(tests));
}
