/* SPDX-License-Identifier: MIT */
/*
 * list, dump and run of a real libaio program, tests/leaver.c, and of cores that were made elsewhere.
 * It needs nothing but the kernel, so that it can run where there is no shell.
 *
 *	process.t [VARIABLE=VALUE]...
 *
 *	TOOL      what is tested: $BUILD/aio-restorer
 *	LEAVER    the program that it is tested on, of whatever architecture: $BUILD/tests/leaver
 *	CORPUS    a folder of cores and of folders of CRIU's images, each with what `list --json` must say of it: tests/corpus
 *	FOREIGN   another one, of cores that another machine has just dumped: none
 *	OUT       a folder in which a core is left for other machines, and its JSON: none
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MOST_WORDS 64
#define SECONDS 100 /* only there to end a program that hangs */
#define DUMPS (3 + effort(17))

#ifndef BLOB_DIR
#define BLOB_DIR "build"
#endif

static char tool[PATH_MAX], leaver_path[PATH_MAX], corpus[PATH_MAX];
static char folder[PATH_MAX]; /* of our own, for one core at a time */
static char core_path[PATH_MAX + 8];

/* ---- programs ---- */

/* Everything in a file, with a zero behind it; the caller frees it. */
static char *read_all(int fd, size_t *len)
{
	off_t size = lseek(fd, 0, SEEK_END);
	char *text = size < 0 ? NULL : calloc(1, (size_t)size + 1);
	ssize_t n = text ? pread(fd, text, (size_t)size, 0) : -1;

	*len = n > 0 ? (size_t)n : 0;
	return text ? text : calloc(1, 1);
}

/* What a command did. */
struct result {
	int status; /* it exited with; -1: a signal ended it */
	char *out, *err;
};

static void free_result(struct result *result)
{
	free(result->out);
	free(result->err);
}

/* The beginning of a text, each line a diagnostic. */
static void diag_text(const char *what, const char *text)
{
	char start[601], *rest = NULL;

	snprintf(start, sizeof(start), "%s", text);
	for (char *line = strtok_r(start, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		diag("%s: %s", what, line);
}

static void diag_result(const struct result *result)
{
	diag("exit status %d", result->status);
	diag_text("standard output", result->out);
	diag_text("standard error", result->err);
}

/* Whether there is no process but us: what the tool leaves behind becomes our child (main()). */
static int is_alone(void)
{
	return waitpid(-1, NULL, WNOHANG | __WALL) < 0 && errno == ECHILD;
}

/* The tool, started and not yet waited for. */
struct running {
	pid_t pid;
	int out, err;
};

static struct running begin_words(const char *const *words)
{
	struct running running = {
	    .out = memfd_create("out", MFD_CLOEXEC),
	    .err = memfd_create("err", MFD_CLOEXEC),
	};

	running.pid = fork_mortal();
	if (running.pid)
		return running;
	dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
	dup2(running.out, STDOUT_FILENO);
	dup2(running.err, STDERR_FILENO);
	signal(SIGPIPE, SIG_DFL);
	alarm(SECONDS);
	execv(tool, (char *const *)(uintptr_t)words);
	_exit(127);
}

#define begin_tool(...) begin_words((const char *const[]){"aio-restorer", __VA_ARGS__, NULL})
#define run_tool(...) end_tool(begin_tool(__VA_ARGS__))

static struct result end_tool(struct running running)
{
	struct result result = {.status = -1};
	int status = -1;
	size_t len;

	if (waitpid(running.pid, &status, 0) == running.pid && WIFEXITED(status))
		result.status = WEXITSTATUS(status);
	result.out = read_all(running.out, &len);
	result.err = read_all(running.err, &len);
	close(running.out);
	close(running.err);
	return result;
}

/* A leaver, and what it says it has. */
struct leaver {
	pid_t pid;
	char operand[16]; /* the pid, for a command line */
	FILE *to, *from;
	char *text;
};

static char *answer(struct leaver *leaver)
{
	char *line = NULL;
	size_t room = 0;

	if (getline(&line, &room, leaver->from) > 0)
		return line;
	free(line);
	return NULL;
}

/* Ends it. What it said is kept. */
static void end_leaver(struct leaver *leaver)
{
	kill(leaver->pid, SIGKILL);
	waitpid(leaver->pid, NULL, 0);
	fclose(leaver->to);
	fclose(leaver->from);
}

static void free_leaver(struct leaver *leaver)
{
	free(leaver->text);
}

static _Noreturn void become_leaver(const char *arguments, int in, int out)
{
	char text[1024], *words[MOST_WORDS + 1] = {"leaver"}, *rest = NULL;
	size_t count = 1;

	snprintf(text, sizeof(text), "%s", arguments);
	for (char *word = strtok_r(text, " ", &rest); word && count < MOST_WORDS;
	     word = strtok_r(NULL, " ", &rest))
		words[count++] = word;
	dup2(in, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	signal(SIGPIPE, SIG_DFL);
	alarm(SECONDS);
	execv(leaver_path, words);
	_exit(127);
}

/* Starts a leaver with arguments that spaces part; 0 if it does not say what it has. */
static int start_leaver(struct leaver *leaver, const char *arguments)
{
	int to[2], from[2];

	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		abort();
	leaver->pid = fork_mortal();
	if (!leaver->pid)
		become_leaver(arguments, to[0], from[1]);
	close(to[0]);
	close(from[1]);
	leaver->to = fdopen(to[1], "w");
	leaver->from = fdopen(from[0], "r");
	snprintf(leaver->operand, sizeof(leaver->operand), "%d", (int)leaver->pid);
	leaver->text = answer(leaver);
	if (leaver->text)
		return 1;
	ok(0, "%s %s: it says what it has", leaver_path, arguments);
	end_leaver(leaver);
	return 0;
}

/* Tells it to end its waits, and returns what they came back with. */
static char *end_waits(struct leaver *leaver)
{
	fputs("go\n", leaver->to);
	fflush(leaver->to);
	return answer(leaver);
}

/* ---- rings, as text ---- */

/* One ring in the JSON of a leaver or of the tool. */
struct ring_text {
	unsigned long long addr;
	long nr, head, tail;
	const char *events; /* between their brackets */
	size_t events_len;
};

/* The number behind "NAME": in a JSON text. */
static int find_number(const char *text, const char *name, long *number)
{
	char key[64];
	const char *at;

	snprintf(key, sizeof(key), "\"%s\":", name);
	at = strstr(text, key);
	if (!at)
		return 0;
	*number = strtol(at + strlen(key), NULL, 10);
	return 1;
}

/* The next ring from *at on, which moves behind it; 0 if there is none. */
static int next_ring(const char **at, struct ring_text *ring)
{
	static const char address[] = "{\"addr\":\"", events[] = "\"events\":[";
	const char *start = strstr(*at, address), *end;

	if (!start)
		return 0;
	start += sizeof(address) - 1;
	ring->addr = strtoull(start, NULL, 16);
	ring->events = strstr(start, events);
	if (!ring->events || !find_number(start, "nr", &ring->nr) ||
	    !find_number(start, "head", &ring->head) || !find_number(start, "tail", &ring->tail))
		return 0;
	ring->events += sizeof(events) - 1;
	end = strchr(ring->events, ']');
	if (!end)
		return 0;
	ring->events_len = (size_t)(end - ring->events);
	*at = end;
	return 1;
}

static int is_same_ring_text(const struct ring_text *a, const struct ring_text *b)
{
	return a->addr == b->addr && a->nr == b->nr && a->head == b->head && a->tail == b->tail &&
	       a->events_len == b->events_len && !memcmp(a->events, b->events, a->events_len);
}

static int find_ring(const char *text, unsigned long long addr, struct ring_text *ring)
{
	while (next_ring(&text, ring))
		if (ring->addr == addr)
			return 1;
	return 0;
}

static unsigned count_rings(const char *text)
{
	struct ring_text ring;
	unsigned count = 0;

	while (next_ring(&text, &ring))
		count++;
	return count;
}

/*
 * NULL, or what is wrong with the rings in `got`: they must be those of `wanted`, word by word, in the
 * order of their addresses. A leaver does not say what its waiting threads have: `others` rings in
 * which nothing is pending.
 */
static const char *why_not_rings(const char *wanted, const char *got, unsigned others)
{
	unsigned long long last = 0;
	struct ring_text ring, right;
	unsigned found = 0;

	for (const char *at = got; next_ring(&at, &ring); last = ring.addr) {
		if (ring.addr <= last)
			return "they are not in order";
		if (find_ring(wanted, ring.addr, &right)) {
			if (!is_same_ring_text(&ring, &right))
				return "a ring differs";
			found++;
		} else if (ring.events_len || ring.head != ring.tail || !others--) {
			return "there is a ring too many";
		}
	}
	return !found ? "there are none" : found < count_rings(wanted) ? "some are missing" : NULL;
}

/* A result of the tool with --json must succeed and have the rings of `wanted`. */
static int is_rings(
    const char *wanted, const struct result *result, unsigned others, const char *name)
{
	const char *why = result->status ? "it failed" : why_not_rings(wanted, result->out, others);

	if (ok(!why, "%s: every ring, every event", name))
		return 1;
	diag("%s", why);
	diag_text("wanted", wanted);
	diag_result(result);
	return 0;
}

/* The name behind "machine": in a JSON text; "" if there is none. */
static void get_machine(const char *json, char *name, size_t room)
{
	static const char key[] = "\"machine\":\"";
	const char *at = strstr(json, key);

	at = at ? at + sizeof(key) - 1 : "";
	snprintf(name, room, "%.*s", (int)strcspn(at, "\""), at);
}

/* ---- list, dump, run ---- */

/* One sentence that is worth the name. */
static int is_sentence(const char *text)
{
	static const char from[] = "aio-restorer: ";
	const char *end = strchr(text, '\n');

	return !strncmp(text, from, sizeof(from) - 1) && end && !end[1] && end - text > 40;
}

/*
 * Dumps a leaver. One of another architecture than the tool's may be refused, with a sentence; then
 * there is no core, and this is 0.
 */
static int dump(const struct leaver *leaver, const char *name)
{
	struct result result = run_tool("dump", leaver->operand, "-o", core_path), listed;
	char machine[32];
	int is_dumped = !result.status;

	listed = run_tool("list", leaver->operand, "--json");
	get_machine(listed.out, machine, sizeof(machine));
	if (result.status == 4 && strcmp(machine, HOST_ARCH_NAME)) {
		ok(is_sentence(result.err) && strstr(result.err, machine),
		    "%s: dump of a process on %s is refused, with a sentence", name, machine);
		diag_text("it says", result.err);
	} else if (!ok(is_dumped, "%s: dump of a process on %s", name, machine)) {
		diag_result(&result);
	}
	free_result(&result);
	free_result(&listed);
	return is_dumped;
}

static void goes_on(struct leaver *leaver, const char *name)
{
	char *text = end_waits(leaver);

	ok(text && *text == '{', "%s: the process goes on", name);
	free(text);
}

/* Restores what a leaver had, when it is gone. */
static void check_run_of(const char *wanted, const char *name)
{
	struct result run = run_tool("run", core_path, "--json");
	int is_left = !is_alone();
	char title[256];

	snprintf(title, sizeof(title), "%s: run", name);
	if (is_rings(wanted, &run, 0, title))
		ok(strstr(run.out, "\"restored\":true") && !is_left,
		    "%s: they were restored, and no process is left", name);
	free_result(&run);
}

/* list, dump, list of the core and run, all in JSON. */
static void check_leaver(struct leaver *leaver, const char *name)
{
	struct result live = run_tool("list", leaver->operand, "--json"), core;
	int is_dumped = dump(leaver, name);
	char title[256];

	snprintf(title, sizeof(title), "%s: list of the process", name);
	is_rings(leaver->text, &live, 0, title);
	if (is_dumped) {
		core = run_tool("list", core_path, "--json");
		if (!ok(!core.status && !strcmp(core.out, live.out),
			"%s: list of the core says the same", name))
			diag_result(&core);
		free_result(&core);
	}
	goes_on(leaver, name);
	end_leaver(leaver);
	if (is_dumped)
		check_run_of(leaver->text, name);
	free_result(&live);
}

/* A ring of each kind: empty, with pending events, wrapped, full. */
#define EACH_KIND                                                                                  \
	" --ring n=1 --ring n=1,head=5,tail=5 --ring n=1,tail=9 --ring n=1,head=3,tail=9"          \
	" --ring n=1,head=120,tail=4 --ring n=1,head=126,tail=1 --ring n=1,tail=full"              \
	" --ring n=1,head=7,tail=full --ring n=1,head=126,tail=full"

/* Addresses that processes of 32 and of 64 bits have free. */
static const struct {
	const char *name, *arguments;
} sets[] = {
    {"rings reaped by the program", "--reap user" EACH_KIND},
    {"rings reaped by the kernel", "--reap kernel" EACH_KIND},
    {"large rings", "--ring n=500,head=800,tail=20 --ring n=1500,head=17,tail=full --ring n=2000"},
    {"moved rings", "--ring n=1,head=3,tail=9,addr=0x70000000"
		    " --ring n=1,head=120,tail=4,addr=0x60000000 --ring n=1,head=2,tail=7"},
    {"100 rings", "--ring n=1,head=3,tail=5,count=98 --ring n=1,head=126,tail=1 --ring n=1"},
};

static void test_sets(void)
{
	for (size_t i = 0; i < COUNT(sets); i++) {
		struct leaver leaver;

		if (!start_leaver(&leaver, sets[i].arguments))
			continue;
		check_leaver(&leaver, sets[i].name);
		free_leaver(&leaver);
	}
}

/* ---- for people, and for other machines ---- */

static void check_text(const struct result *result, const char *pattern, const char *name)
{
	if (!ok(!result->status && strstr(result->out, ": 2 rings\n") &&
		    strstr(result->out, pattern),
		"%s, as text", name))
		diag_result(result);
}

static void test_text(void)
{
	struct leaver leaver;
	struct result result;

	if (!start_leaver(&leaver, "--ring n=1,head=3,tail=9 --ring n=1,head=120,tail=4"))
		return;
	result = run_tool("list", leaver.operand);
	check_text(&result, ", live: ", "list of a process");
	free_result(&result);
	if (dump(&leaver, "for people")) {
		result = run_tool("list", core_path, "--events");
		check_text(&result, "\n    slot 3: data 0x", "list of a core with its events");
		free_result(&result);
		result = run_tool("run", core_path);
		check_text(&result, ", restored: ", "run");
		free_result(&result);
	}
	end_leaver(&leaver);
	free_leaver(&leaver);
}

static char *read_file(const char *path, size_t *len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *text = read_all(fd, len);

	if (fd >= 0)
		close(fd);
	return text;
}

static int write_file(const char *path, const char *text, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	int is_written = fd >= 0 && len && write(fd, text, len) == (ssize_t)len;

	return fd >= 0 && !close(fd) && is_written;
}

/* Leaves a fresh core, and its JSON, for another architecture to read. */
static void test_out(const char *out)
{
	char path[PATH_MAX + 16];
	struct leaver leaver;
	struct result listed;
	int is_left = 0;
	size_t len;
	char *core;

	if (!start_leaver(&leaver, "--ring n=1,head=3,tail=9 --ring n=1,head=120,tail=4"))
		return;
	if (dump(&leaver, "for other machines")) {
		listed = run_tool("list", core_path, "--json");
		core = read_file(core_path, &len);
		snprintf(path, sizeof(path), "%s/fresh.core", out);
		is_left = write_file(path, core, len);
		snprintf(path, sizeof(path), "%s/fresh.json", out);
		is_left &= write_file(path, listed.out, strlen(listed.out));
		is_left &= is_rings(leaver.text, &listed, 0, "list of the core for other machines");
		free_result(&listed);
		free(core);
	}
	ok(is_left, "a core and its JSON are left in %s", out);
	end_leaver(&leaver);
	free_leaver(&leaver);
}

/* ---- waits ---- */

/* Each kind of wait that leaver knows, and what it must come back with. Two make a ring to wait for. */
#define WAITS_WITH_RING 2
static const struct {
	const char *name;
	long right;
} waits[] = {
    {"io_getevents", 1},
    {"io_pgetevents", 1},
    {"epoll_wait", 1},
    {"epoll_pwait", 1},
    {"poll", 1},
    {"eventfd", 0},
    {"semtimedop", 0},
    {"sigtimedwait", 1},
    {"recv", 1},
    {"socket-read", 1},
    {"send", 1},
    {"accept", 1},
    {"nanosleep", 1},
    {"futex", 1},
    {"pipe-read", 1},
    {"work", 1},
};

static void is_result(const char *text, const char *name, long right, const char *what)
{
	long got = LONG_MIN;

	if (!ok(find_number(text, name, &got) && got == right, "%s %s", name, what))
		diag("its result is %ld, not %ld", got, right);
}

static void test_waits(void)
{
	char arguments[1024] = "--ring n=1,head=3,tail=9", *text;
	struct leaver leaver;
	struct result listed;
	unsigned dumps = 1;

	for (size_t i = 0; i < COUNT(waits); i++) {
		strcat(arguments, " --wait ");
		strcat(arguments, waits[i].name);
	}
	if (!start_leaver(&leaver, arguments))
		return;
	if (dump(&leaver, "a thread in each kind of wait")) {
		for (unsigned i = 1; i < DUMPS; i++) {
			struct result result = run_tool("dump", leaver.operand, "-o", core_path);

			if (result.status)
				diag_result(&result);
			dumps += !result.status;
			free_result(&result);
		}
		ok(dumps == DUMPS, "... %u times", DUMPS);
		listed = run_tool("list", core_path, "--json");
		is_rings(leaver.text, &listed, WAITS_WITH_RING, "... and the last core");
		free_result(&listed);
	}
	text = end_waits(&leaver);
	for (size_t i = 0; i < COUNT(waits); i++)
		is_result(text ? text : "", waits[i].name, waits[i].right,
		    "comes back with what it waited for");
	free(text);
	end_leaver(&leaver);
	free_leaver(&leaver);
}

/*
 * A thread that waits inside io_submit is not interrupted: that would be its event. The dump waits
 * for it, and the thread for us.
 */
static void test_io_submit(void)
{
	struct leaver leaver;
	struct running running;
	struct result result;
	char *text;

	if (!start_leaver(&leaver, "--ring n=1,head=3,tail=9 --wait io_submit"))
		return;
	running = begin_tool("dump", leaver.operand, "-o", core_path);
	usleep(50000);
	text = end_waits(&leaver);
	result = end_tool(running);
	is_result(text ? text : "", "io_submit", 1, "is not interrupted by a dump");
	if (!ok(!result.status || (result.status == 4 && is_sentence(result.err)),
		"... and the dump ends when it is out of it"))
		diag_result(&result);
	free(text);
	free_result(&result);
	end_leaver(&leaver);
	free_leaver(&leaver);
}

/* Sends a signal to each thread but the first. */
static unsigned signal_threads(pid_t pid, int signal)
{
	char path[64];
	struct dirent *entry;
	unsigned count = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		pid_t tid = atoi(entry->d_name);

		if (tid > 0 && tid != pid)
			count += !syscall(SYS_tgkill, pid, tid, signal);
	}
	if (dir)
		closedir(dir);
	return count;
}

/* What has become of a process, as its parent sees it; 0 if nothing has, for a while. */
static int next_status(pid_t pid)
{
	int status;

	for (int ms = 0; ms < 20000; ms++) {
		if (waitpid(pid, &status, WNOHANG | WUNTRACED | WCONTINUED) == pid)
			return status;
		usleep(1000);
	}
	return 0;
}

/* A process that a signal has stopped, with a signal pending for each of its waits, is dumped. */
static void test_handlers(void)
{
	const char *name = "a stopped process with signals pending";
	struct leaver leaver;
	char *text;

	if (!start_leaver(
		&leaver, "--ring n=1,head=3,tail=9 --wait epoll_wait --wait io_getevents"))
		return;
	kill(leaver.pid, SIGSTOP);
	ok(WIFSTOPPED(next_status(leaver.pid)) && signal_threads(leaver.pid, SIGUSR1) == 2,
	    "%s is there", name);
	dump(&leaver, name);
	ok(!waitpid(leaver.pid, NULL, WNOHANG | WUNTRACED | WCONTINUED),
	    "... its parent sees nothing of it");
	kill(leaver.pid, SIGCONT);
	ok(WIFCONTINUED(next_status(leaver.pid)), "... it is stopped until it is continued");
	text = end_waits(&leaver);
	is_result(text ? text : "", "signals", 2, "are what its handler then sees");
	is_result(text ? text : "", "io_getevents", -EINTR, "ends with EINTR");
	is_result(text ? text : "", "epoll_wait", -EINTR, "ends with EINTR");
	free(text);
	end_leaver(&leaver);
	free_leaver(&leaver);
}

/* ---- cores from elsewhere ---- */

/* The rings of `wanted`, one after the other, and no others. */
static int has_same_rings(const char *wanted, const char *got)
{
	struct ring_text ring, right;
	unsigned count = 0;

	for (; next_ring(&wanted, &right); count++)
		if (!next_ring(&got, &ring) || !is_same_ring_text(&ring, &right))
			return 0;
	return count && !next_ring(&got, &ring);
}

/* A refusal to run a core of that machine: it must say what keeps it from running on this host. */
static int is_good_reason(const char *text, const char *machine)
{
	if (!strcmp(machine, HOST_ARCH_NAME))
		return strstr(text, "ring 0x") && strstr(text, "this host");
	return is_sentence(text) && strstr(text, machine) && strstr(text, HOST_ARCH_NAME);
}

static void check_run(const char *path, const char *wanted)
{
	struct result run = run_tool("run", path, "--json");
	int is_left = !is_alone(), is_right;
	char machine[32];

	get_machine(wanted, machine, sizeof(machine));
	if (run.status == 4) {
		is_right = ok(is_good_reason(run.err, machine),
		    "%s (%s) is refused on %s, with the reason", path, machine, HOST_ARCH_NAME);
		diag_text("it says", run.err);
	} else {
		is_right = ok(!run.status && has_same_rings(wanted, run.out),
		    "%s (%s) is run on %s: every event comes", path, machine, HOST_ARCH_NAME);
	}
	if (!ok(!is_left, "... and no process is left") || !is_right)
		diag_result(&run);
	free_result(&run);
}

/* What `list --json` must say stands beside the core, or the folder. */
static void check_core(const char *path)
{
	struct result listed = run_tool("list", path, "--json");
	char json[PATH_MAX], *wanted;
	size_t len;

	snprintf(json, sizeof(json), "%.*s.json", (int)(strrchr(path, '.') - path), path);
	wanted = read_file(json, &len);
	if (!ok(len && !listed.status && !strcmp(listed.out, wanted), "%s is listed as %s has it",
		path, json))
		diag_result(&listed);
	if (len)
		check_run(path, wanted);
	free(wanted);
	free_result(&listed);
}

static void test_cores(const char *in)
{
	struct dirent *entry;
	char path[PATH_MAX];
	unsigned count = 0;
	DIR *dir = opendir(in);

	while (dir && (entry = readdir(dir))) {
		const char *end = strrchr(entry->d_name, '.');

		if (!end || (strcmp(end, ".core") && strcmp(end, ".images")))
			continue;
		snprintf(path, sizeof(path), "%s/%s", in, entry->d_name);
		check_core(path);
		count++;
	}
	if (dir)
		closedir(dir);
	ok(count, "%s: there are cores (%u)", in, count);
}

/* ---- what it is run on ---- */

/* The environment's, or the default with $BUILD in front. */
static void get_path(char *path, const char *variable, const char *build, const char *otherwise)
{
	const char *value = getenv(variable);

	if (value)
		snprintf(path, PATH_MAX, "%s", value);
	else
		snprintf(path, PATH_MAX, "%s%s", build, otherwise);
}

static void get_paths(void)
{
	const char *build = getenv("BUILD") ? getenv("BUILD") : BLOB_DIR;
	const char *tmp = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";

	get_path(tool, "TOOL", build, "/aio-restorer");
	get_path(leaver_path, "LEAVER", build, "/tests/leaver");
	get_path(corpus, "CORPUS", "", "tests/corpus");
	snprintf(folder, sizeof(folder), "%s/aior-process-XXXXXX", tmp);
	if (!mkdtemp(folder)) {
		printf("Bail out! %s: %s\n", folder, strerror(errno));
		exit(1);
	}
	snprintf(core_path, sizeof(core_path), "%s/x.core", folder);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strchr(argv[i], '=') || putenv(argv[i]))
			return 2;
	get_paths();
	tap_start();
	signal(SIGPIPE, SIG_IGN);
	setenv("LC_ALL", "C", 1);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	test_sets();
	test_text();
	test_waits();
	test_io_submit();
	test_handlers();
	test_cores(corpus);
	if (getenv("FOREIGN"))
		test_cores(getenv("FOREIGN"));
	if (getenv("OUT"))
		test_out(getenv("OUT"));
	unlink(core_path);
	rmdir(folder);
	return tap_end();
}
