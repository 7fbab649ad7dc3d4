/* SPDX-License-Identifier: MIT */
/*
 * What a stop does to a thread that waits: facts about the kernel that loader/stop.c relies on.
 */
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "facts.h"

enum outcome {
	ENDS,          /* with EINTR */
	ENDS_IN_EVENT, /* with EINTR as its event's res */
	COMES_SHORT,   /* back, with what it had taken */
	GOES_ON,       /* until what it waits for comes */
};

/* Shared with the process that waits. */
static struct {
	volatile int is_about; /* to make the call */
	volatile int is_back, handled;
	volatile long result, sleep_ms;
	volatile unsigned long handle; /* of the context that it waits for */
	volatile uint32_t word;
	struct aio_slot events[4];
} * shared;

static int fds[2]; /* what is waited for comes through these */
static int semaphore, epoll;
static aio_context_t waiting_ctx; /* the waiting process's */

static const struct timeval minute = {.tv_sec = 60};
static const struct timespec minute_ns = {.tv_sec = 60};

/* One way to wait. */
struct kind {
	const char *name;
	enum outcome outcome;
	long number;         /* of the call, as /proc/PID/syscall has it; -1: libc chooses */
	int (*open)(void);   /* before the fork; 0 or -1 */
	void (*ready)(void); /* in the process that waits, before it does */
	long (*wait)(void);  /* > 0, or -errno */
	void (*end)(pid_t pid);
};

static const struct kind *kind;

static int open_nothing(void)
{
	return 0;
}

static int open_pipe(void)
{
	return pipe(fds);
}

static int open_sockets(void)
{
	return socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
}

static int open_sockets_with_limit(void)
{
	return open_sockets() ||
	       setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &minute, sizeof(minute));
}

static int open_listener(void)
{
	struct sockaddr_un any = {.sun_family = AF_UNIX};

	fds[0] = socket(AF_UNIX, SOCK_STREAM, 0);
	return fds[0] < 0 || bind(fds[0], (void *)&any, sizeof(any.sun_family)) ||
	       listen(fds[0], 1) ||
	       setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &minute, sizeof(minute));
}

static int open_epoll(void)
{
	struct epoll_event event = {.events = EPOLLIN};

	epoll = epoll_create1(0);
	return epoll < 0 || open_pipe() || epoll_ctl(epoll, EPOLL_CTL_ADD, fds[0], &event);
}

static int open_semaphore(void)
{
	semaphore = semget(IPC_PRIVATE, 1, 0600);
	return semaphore < 0;
}

static void make_nothing_ready(void)
{
}

/* Completes when there is something in the pipe. */
static void make_poll_ready(void)
{
	static struct iocb poll;

	waiting_ctx = shared->handle = new_ring(1);
	iocb_poll(&poll, fds[0], POLLIN, 19);
	submit_one(waiting_ctx, &poll);
}

static void make_one_of_two_ready(void)
{
	make_poll_ready();
	complete(waiting_ctx, 1, 20);
}

static void make_ring_ready(void)
{
	waiting_ctx = shared->handle = new_ring(1);
}

static void make_signal_ready(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

static long in_getevents(void)
{
	return result(syscall(__NR_io_getevents, waiting_ctx, 1L, 4L, shared->events, NULL));
}

static long in_getevents_of_two(void)
{
	return result(syscall(__NR_io_getevents, waiting_ctx, 2L, 4L, shared->events, NULL));
}

static long in_pgetevents(void)
{
	return result(syscall(__NR_io_pgetevents, waiting_ctx, 1L, 4L, shared->events, NULL, NULL));
}

static long in_pgetevents_of_two(void)
{
	return result(syscall(__NR_io_pgetevents, waiting_ctx, 2L, 4L, shared->events, NULL, NULL));
}

/* A pipe knows no asynchronous read: io_submit itself waits. What happens to the read is its event. */
static long in_submit(void)
{
	char byte;
	struct iocb iocb = {
	    .aio_lio_opcode = IOCB_CMD_PREAD,
	    .aio_fildes = (uint32_t)fds[0],
	    .aio_buf = (uintptr_t)&byte,
	    .aio_nbytes = 1,
	};

	if (submit_one(waiting_ctx, &iocb) != 1 ||
	    io_getevents(waiting_ctx, 4, shared->events) != 1)
		return -EPROTO;
	return (long)shared->events[0].res;
}

#ifdef __NR_epoll_wait
static long in_epoll_wait(void)
{
	struct epoll_event event;

	return result(syscall(__NR_epoll_wait, epoll, &event, 1L, 60000L));
}
#endif

static long in_epoll_pwait(void)
{
	struct epoll_event event;

	return result(syscall(__NR_epoll_pwait, epoll, &event, 1L, 60000L, NULL, 0L));
}

static long in_sigtimedwait(void)
{
	sigset_t set;
	long signal;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	signal = result(sigtimedwait(&set, NULL, &minute_ns));
	return signal == SIGRTMIN + 1 ? 1 : signal;
}

static long in_semtimedop(void)
{
	struct sembuf take = {.sem_op = -1};
	long err = result(semtimedop(semaphore, &take, 1, &minute_ns));

	return err ? err : 1;
}

static long in_recv(void)
{
	char byte;

	return result(recv(fds[0], &byte, 1, 0));
}

static long in_accept(void)
{
	long fd = result(accept(fds[0], NULL, NULL));

	return fd < 0 ? fd : 1;
}

static long in_nanosleep(void)
{
	struct timespec time = {.tv_nsec = shared->sleep_ms * 1000000};
	int64_t before = now_ms(), after;
	long err = result(nanosleep(&time, NULL));

	after = now_ms();
	/* Milliseconds are cut off on both sides. */
	return err ? err : after - before >= shared->sleep_ms - 1 ? 1 : -ETIME;
}

static long in_poll(void)
{
	struct pollfd fd = {.fd = fds[0], .events = POLLIN};

	return result(poll(&fd, 1, 60000));
}

static long in_futex(void)
{
	long err = result(syscall(__NR_futex, &shared->word, FUTEX_WAIT, 0, &minute_ns, NULL, 0));

	return err ? err : 1;
}

static long in_read(void)
{
	char byte;

	return result(read(fds[0], &byte, 1));
}

static void send_byte(pid_t pid)
{
	(void)pid;
	if (write(fds[1], "x", 1) != 1)
		diag("write: %s", strerror(errno));
}

static void send_signal(pid_t pid)
{
	kill(pid, SIGRTMIN + 1);
}

static void raise_semaphore(pid_t pid)
{
	struct sembuf give = {.sem_op = 1};

	(void)pid;
	semop(semaphore, &give, 1);
}

static void connect_to_it(pid_t pid)
{
	struct sockaddr_un address;
	socklen_t len = sizeof(address);

	(void)pid;
	if (getsockname(fds[0], (void *)&address, &len) ||
	    connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&address, len))
		diag("connect: %s", strerror(errno));
}

static void wake(pid_t pid)
{
	(void)pid;
	shared->word = 1;
	syscall(__NR_futex, &shared->word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void wait_only(pid_t pid)
{
	(void)pid;
}

#define AIO(call) __NR_io_##call, open_pipe

static const struct kind kinds[] = {
    {"io_getevents", ENDS, AIO(getevents), make_poll_ready, in_getevents, send_byte},
    {"io_getevents that has taken one event of two", COMES_SHORT, AIO(getevents),
	make_one_of_two_ready, in_getevents_of_two, send_byte},
    {"io_pgetevents", GOES_ON, AIO(pgetevents), make_poll_ready, in_pgetevents, send_byte},
    {"io_pgetevents that has taken one event of two", COMES_SHORT, AIO(pgetevents),
	make_one_of_two_ready, in_pgetevents_of_two, send_byte},
    {"a synchronous read inside io_submit", ENDS_IN_EVENT, AIO(submit), make_ring_ready, in_submit,
	send_byte},
#ifdef __NR_epoll_wait
    {"epoll_wait", ENDS, __NR_epoll_wait, open_epoll, make_nothing_ready, in_epoll_wait, send_byte},
#endif
    {"epoll_pwait", ENDS, __NR_epoll_pwait, open_epoll, make_nothing_ready, in_epoll_pwait,
	send_byte},
    {"sigtimedwait", ENDS, -1, open_nothing, make_signal_ready, in_sigtimedwait, send_signal},
    {"semtimedop", ENDS, -1, open_semaphore, make_nothing_ready, in_semtimedop, raise_semaphore},
    {"recv with SO_RCVTIMEO", ENDS, -1, open_sockets_with_limit, make_nothing_ready, in_recv,
	send_byte},
    {"accept with SO_RCVTIMEO", ENDS, -1, open_listener, make_nothing_ready, in_accept,
	connect_to_it},
    {"nanosleep", GOES_ON, -1, open_nothing, make_nothing_ready, in_nanosleep, wait_only},
    {"poll", GOES_ON, -1, open_pipe, make_nothing_ready, in_poll, send_byte},
    {"a futex wait with a timeout", GOES_ON, __NR_futex, open_nothing, make_nothing_ready, in_futex,
	wake},
    {"a read of a pipe", GOES_ON, __NR_read, open_pipe, make_nothing_ready, in_read, send_byte},
    {"recv without SO_RCVTIMEO", GOES_ON, -1, open_sockets, make_nothing_ready, in_recv, send_byte},
};

static void handle(int signal)
{
	(void)signal;
	shared->handled++;
}

/* A process in that kind of wait. SIGUSR1 has a handler that restarts what can be. */
static pid_t start_waiting(void)
{
	struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
	pid_t pid;

	shared->is_about = shared->is_back = 0;
	shared->handle = 0;
	pid = fork_mortal();
	if (pid)
		return pid;
	sigaction(SIGUSR1, &action, NULL);
	kind->ready();
	shared->is_about = 1;
	shared->result = kind->wait();
	shared->is_back = 1;
	_exit(0);
}

/* /proc/PID/NAME, behind the last `)` if there is one. */
static const char *proc_text(pid_t pid, const char *name)
{
	static char text[512];
	char path[64], *behind;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	behind = strrchr(text, ')');
	return behind ? behind + 2 : text;
}

/* Whether /proc/PID/syscall names the call that it waits in, with its context if it has one. */
static int shows_the_call(pid_t pid)
{
	unsigned long long first = 0;
	long number = -1;

	sscanf(proc_text(pid, "syscall"), "%ld %llx", &number, &first);
	return number == kind->number && (!shared->handle || first == shared->handle);
}

/* Until it sleeps in its wait (1) or is back from it (0). The state first: asleep, it cannot change. */
static int is_waiting(pid_t pid)
{
	for (int ms = 0; ms < PATIENCE_MS; ms++) {
		int sleeps = proc_text(pid, "stat")[0] == 'S' && shared->is_about;

		if (shared->is_back || sleeps)
			return !shared->is_back;
		tick();
	}
	diag("%s: it neither waits nor comes back", kind->name);
	return 0;
}

static int comes_back(void)
{
	for (int ms = 0; ms < PATIENCE_MS && !shared->is_back; ms++)
		tick();
	return shared->is_back;
}

static int stop(pid_t pid)
{
	int status;

	return !ptrace(PTRACE_SEIZE, pid, 0, 0) && !ptrace(PTRACE_INTERRUPT, pid, 0, 0) &&
	       waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status) &&
	       status >> 16 == PTRACE_EVENT_STOP;
}

static void let_go(pid_t pid)
{
	ptrace(PTRACE_DETACH, pid, 0, 0);
}

static void end_waiting(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	if (kind->open == open_semaphore)
		semctl(semaphore, 0, IPC_RMID);
}

/*
 * Starts a wait and stops it while it waits, which takes more than one try where the wait is over
 * sooner than this machine gets there. Returns its pid, or 0.
 */
static pid_t start_and_stop(void)
{
	for (shared->sleep_ms = 100; shared->sleep_ms < 900; shared->sleep_ms *= 2) {
		pid_t pid = start_waiting();

		if (is_waiting(pid)) {
			if (kind->number >= 0)
				ok(shows_the_call(pid),
				    "%s: /proc/PID/syscall shows the call while it waits",
				    kind->name);
			if (stop(pid) && !shared->is_back)
				return pid;
		}
		end_waiting(pid);
	}
	return 0;
}

static void check_outcome(int went_on)
{
	long right = kind->outcome == ENDS || kind->outcome == ENDS_IN_EVENT ? -EINTR : 1;
	int is_right = shared->result == right && (!went_on || kind->outcome == GOES_ON);

	switch (kind->outcome) {
	case ENDS:
		ok(is_right, "a stop ends %s with EINTR", kind->name);
		break;
	case ENDS_IN_EVENT:
		ok(is_right, "a stop ends %s, and its event's res is EINTR", kind->name);
		break;
	case COMES_SHORT:
		ok(is_right && shared->events[0].data == 20, "a stop makes %s come back short",
		    kind->name);
		break;
	case GOES_ON:
		ok(is_right, "a stop does not end %s: it goes on, and ends right", kind->name);
		break;
	}
	if (!is_right)
		diag("it %s, its result is %ld", went_on ? "went on" : "came back", shared->result);
}

static void test_kind(void)
{
	int went_on;
	pid_t pid;

	if (kind->open()) {
		skip(kind->name, "%s", strerror(errno));
		return;
	}
	pid = start_and_stop();
	if (!pid) {
		ok(0, "%s: it can be stopped while it waits", kind->name);
		return;
	}
	if (kind == &kinds[0])
		diag("once it is stopped, /proc/PID/syscall shows %s",
		    shows_the_call(pid) ? "it still" : "no call");
	let_go(pid);
	went_on = is_waiting(pid);
	if (went_on)
		kind->end(pid);
	if (comes_back())
		check_outcome(went_on);
	else
		ok(0, "%s: it comes back", kind->name);
	end_waiting(pid);
}

/* io_getevents, again; a signal with a handler comes while it waits, or while it is stopped. */
static void test_handler(void)
{
	for (int is_stopped = 0; is_stopped < 2; is_stopped++) {
		pid_t pid;

		shared->handled = 0;
		if (kind->open())
			_exit(1);
		pid = start_waiting();
		if (!is_waiting(pid) || (is_stopped && !stop(pid)))
			_exit(1);
		kill(pid, SIGUSR1);
		if (is_stopped) {
			int status;

			/* With the signal pending it stops before the delivery, and may take it. */
			ptrace(PTRACE_CONT, pid, 0, 0);
			waitpid(pid, &status, __WALL);
			ptrace(PTRACE_DETACH, pid, 0, SIGUSR1);
		}
		ok(comes_back() && shared->result == -EINTR && shared->handled == 1,
		    "a signal whose handler restarts calls ends io_getevents with EINTR%s",
		    is_stopped ? ", behind a stop, too" : "");
		end_waiting(pid);
	}
}

int main(void)
{
	if (facts_start())
		return 1;
	shared = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (size_t i = 0; i < COUNT(kinds); i++) {
		kind = &kinds[i];
		in_child(kind->name, test_kind);
	}
	kind = &kinds[0];
	in_child("a handler", test_handler);
	return tap_end();
}
