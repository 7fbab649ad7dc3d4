/* SPDX-License-Identifier: MIT */
/* The command line: aio-restorer(1). */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <linux/capability.h>
#include <locale.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "emit.h"
#include "images.h"
#include "internal.h"
#include "journal.h"
#include "names.h"
#include "show.h"

/* What the program exits with. */
enum { DONE, FAILED, USAGE, NOT_FINISHED, REFUSED };

struct options {
	const char *target; /* the one operand, or the first */
	char **targets;     /* all that there are */
	size_t target_count;
	const char *output;
	const char *arch, *blob, *format;
	int events, json, verbose, compact;
	double timeout; /* in seconds; negative: none */
	unsigned room;  /* for so many possible CPUs; 0: none */
};

struct command {
	const char *name;
	const char *operand; /* what it is called; in brackets: may be left out; with dots: there
			      * may be several; NULL: none */
	const char *flags;   /* the options it takes, by their letters */
	int (*run)(const struct options *options);
	const char *help;
};

static const struct option long_options[] = {
    {"events", no_argument, NULL, 'e'},
    {"json", no_argument, NULL, 'j'},
    {"output", required_argument, NULL, 'o'},
    {"arch", required_argument, NULL, 'a'},
    {"blob", required_argument, NULL, 'b'},
    {"format", required_argument, NULL, 'f'},
    {"timeout", required_argument, NULL, 't'},
    {"room", required_argument, NULL, 'r'},
    {"compact", no_argument, NULL, 'c'},
    {"verbose", no_argument, NULL, 'v'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

static int wrong_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));

static int wrong_usage(const char *format, ...)
{
	va_list args;

	fprintf(stderr, "aio-restorer: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\nTry `aio-restorer --help`.\n");
	return USAGE;
}

static int report(const struct options *options, const struct aior_error *error)
{
	fprintf(stderr, "aio-restorer: %s\n", error->message);
	if (options->json)
		show_error_json(stdout, error);
	if (error->is_refused)
		return REFUSED;
	return error->is_unfinished ? NOT_FINISHED : FAILED;
}

/* An image file that is cut off while it is read ends here, not in a crash. */
static void image_was_cut(int signal)
{
	static const char text[] = "aio-restorer: the image was truncated while it was read\n";

	(void)signal;
	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		_exit(FAILED);
	_exit(FAILED);
}

static int read_images(const char *path, struct images *images, struct aior_error *error)
{
	signal(SIGBUS, image_was_cut);
	return images_read(path, images, error);
}

static void show_images(const struct options *options, const struct images *images, int events)
{
	if (options->json)
		show_images_json(stdout, images);
	else
		show_images_text(stdout, images, events);
}

/* A pid, or 0 if `text` is none. */
static pid_t parse_pid(const char *text)
{
	unsigned long pid;
	char *end;

	if (!isdigit((unsigned char)*text))
		return 0;
	errno = 0;
	pid = strtoul(text, &end, 10);
	return *end || errno || !pid || pid > INT32_MAX ? 0 : (pid_t)pid;
}

/* Negative if `text` is no number of seconds that an int has room for, in milliseconds. */
static double parse_seconds(const char *text)
{
	char *end;
	double seconds = strtod(text, &end);

	return *text && !*end && seconds >= 0 && seconds <= INT32_MAX / 1000 ? seconds : -1;
}

static int is_path(const char *text)
{
	return strchr(text, '/') || strchr(text, '.');
}

static int run_list(const struct options *options)
{
	pid_t pid = parse_pid(options->target);
	struct aior_error error;
	struct images images;

	if (!pid && !is_path(options->target))
		return wrong_usage("%s is neither a pid nor a path (a file in this folder: ./%s)",
		    options->target, options->target);
	if (pid ? images_list(pid, &images, &error) : read_images(options->target, &images, &error))
		return report(options, &error);
	show_images(options, &images, options->events);
	images_free(&images);
	return DONE;
}

static int run_dump(const struct options *options)
{
	pid_t pid = parse_pid(options->target);
	struct aior_error error;
	struct aior_image image;
	uint64_t pending = 0;

	if (!pid)
		return wrong_usage("%s is not a pid", options->target);
	if (!options->output || !*options->output)
		return wrong_usage("dump needs a file to write to: -o FILE");
	if (aior_snapshot(pid, &image, &error))
		return report(options, &error);
	if (image.inherited_count)
		fprintf(stderr,
		    "aio-restorer: %zu rings are left out: process %d has inherited them by fork, "
		    "without their contexts\n",
		    image.inherited_count, (int)pid);
	if (aior_write_core(&image, options->output, &error)) {
		aior_image_free(&image);
		return report(options, &error);
	}
	for (size_t i = 0; i < image.ring_count; i++)
		pending += image.rings[i].pending;
	printf("%s: %zu ring%s of process %d, %llu pending event%s\n", options->output,
	    image.ring_count, image.ring_count == 1 ? "" : "s", (int)pid,
	    (unsigned long long)pending, pending == 1 ? "" : "s");
	fprintf(stderr,
	    "aio-restorer: requests in flight are not in %s: only the kernel knows them\n",
	    options->output);
	aior_image_free(&image);
	return DONE;
}

static int run_run(const struct options *options)
{
	struct images images, results;
	struct aior_error error;
	int ret;

	if (read_images(options->target, &images, &error))
		return report(options, &error);
	for (size_t i = 0; options->compact && i < images.count; i++)
		if (aior_compact_image(&images.images[i], &error)) {
			images_free(&images);
			return report(options, &error);
		}
	ret = images_run(&images, &results, &error);
	images_free(&images);
	if (ret)
		return report(options, &error);
	show_images(options, &results, 1);
	images_free(&results);
	return DONE;
}

/* Whether a child of ours can be stopped: sandboxes forbid it. And with these options of ptrace. */
static int try_tracing(unsigned long options)
{
	pid_t child = fork();
	int err = 0;

	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pause();
		_exit(0);
	}
	if (child < 0)
		return errno;
	if (ptrace(PTRACE_SEIZE, child, 0, options))
		err = errno;
	if (kill(child, SIGKILL))
		kill(child, SIGKILL);
	while (waitpid(child, NULL, __WALL) < 0 && errno == EINTR)
		;
	return err;
}

static void print_blobs(FILE *out)
{
	const char *comma = "";

	for (uint32_t op = AIOR_OP_RESTORE; op <= AIOR_OP_STAGE; op++)
		for (uint32_t arch = 1; aior_arch_name(arch); arch++)
			if (aior_blob(arch, op)) {
				fprintf(
				    out, "%s%s %s", comma, aior_op_name(op), aior_arch_name(arch));
				comma = ", ";
			}
}

static void print_local_archs(void)
{
	const char *comma = "";

	for (uint32_t arch = 1; aior_arch_name(arch); arch++)
		if (aior_blob(arch, AIOR_OP_RESTORE) && aior_can_execute(arch)) {
			printf("%s%s", comma, aior_arch_name(arch));
			comma = ", ";
		}
}

static void print_errno(const char *what, int err, const char *without)
{
	printf("%-22s %s%s%s%s\n", what, err ? "no: " : "yes", err ? strerror(err) : "",
	    err ? "; without it: " : "", err ? without : "");
}

/* What the caller's rights are good for; Yama's are described in the kernel's admin-guide/LSM/Yama.rst. */
static void print_rights(void)
{
	static const char *const scopes[] = {
	    "your own, if they are dumpable and have no more capabilities than you",
	    "what you have started, or what allows it (kernel.yama.ptrace_scope is 1)",
	    "none (kernel.yama.ptrace_scope is 2)",
	};
	const int scope = aior_ptrace_scope();
	char path[AIOR_JOURNAL_PATH];
	const char *folder = aior_journal_folder(path);

	if (scope > 2)
		printf("%-22s none, until the next boot (kernel.yama.ptrace_scope is 3)\n",
		    "may be traced");
	else if (aior_has_capability(CAP_SYS_PTRACE))
		printf("%-22s all of your user namespace\n", "may be traced");
	else
		printf("%-22s %s; root: all\n", "may be traced", scopes[scope]);
	print_errno("filters are suspended", try_tracing(PTRACE_O_SUSPEND_SECCOMP),
	    "no stage and restore of a process with a filter of system calls (seccomp)");
	printf("%-22s %s\n", "journals are in",
	    folder ? folder
		   : "no folder (it takes XDG_RUNTIME_DIR, or /run for root); without it: a call "
		     "that is killed while a thread is not itself cannot be finished");
}

static int check_this_host(const struct options *options)
{
	struct aior_error error;
	struct aior_host host;

	if (aior_get_host(&host, &error))
		return report(options, &error);
	printf("%-22s %s\n", "architecture", aior_arch_name(aior_host_arch()));
	printf("%-22s %u bytes\n", "page size", host.page_size);
	printf("%-22s %u (the smallest ring has %llu slots)\n", "possible CPUs", host.possible_cpus,
	    (unsigned long long)aio_ring_nr(aio_ring_len(1, host.possible_cpus, host.page_size)));
	printf("%-22s %llu of fs.aio-max-nr %llu\n", "requests in use",
	    (unsigned long long)host.aio_nr, (unsigned long long)host.aio_max_nr);
	print_errno("AIO works", host.aio_errno, "nothing can be restored");
	print_errno("tracing works", try_tracing(0), "no dump, stage and restore");
	print_rights();
	print_errno("kcmp works",
	    syscall(SYS_kcmp, getpid(), getpid(), KCMP_VM, 0, 0) < 0 ? errno : 0,
	    "dump does not see that processes share their memory");
	printf("%-22s %s\n", "images that are read", images_formats());
	printf("%-22s ", "images that run here");
	print_local_archs();
	printf("\n%-22s ", "blobs");
	print_blobs(stdout);
	printf("\n");
	return host.aio_errno ? REFUSED : DONE;
}

static int run_check(const struct options *options)
{
	struct images images;
	struct aior_error error;
	int ret = check_this_host(options), refused;
	size_t count = 0;

	if (!options->target)
		return ret;
	if (read_images(options->target, &images, &error))
		return report(options, &error);
	refused = aior_check_images(images.images, images.count, &error);
	for (size_t i = 0; i < images.count; i++)
		count += images.images[i].ring_count;
	if (!refused)
		printf("%-22s %zu ring%s, all can be restored here\n", options->target, count,
		    count == 1 ? "" : "s");
	images_free(&images);
	return refused ? report(options, &error) : ret;
}

/* ---- stage and restore ---- */

static volatile int cancel;

static void ask_to_end(int signal)
{
	(void)signal;
	cancel = 1;
}

/* More than any kernel has (CONFIG_NR_CPUS, 8192 at most), and a ring for them is no larger than a ring can be. */
#define MOST_CPUS 65536u

/* 0: it is none. */
static unsigned parse_cpus(const char *text)
{
	char *end;
	unsigned long count = strtoul(text, &end, 10);

	return *text >= '0' && *text <= '9' && !*end && count <= MOST_CPUS ? (unsigned)count : 0;
}

static int parse_pids(const struct options *options, pid_t *pids)
{
	for (size_t i = 0; i < options->target_count; i++) {
		pids[i] = parse_pid(options->targets[i]);
		if (!pids[i])
			return wrong_usage("%s is not a pid", options->targets[i]);
	}
	return 0;
}

/* It has been done, but nobody has been told; who does not know has to know what is parked now. */
static int not_told(const struct aior_outcome *outcomes, size_t count)
{
	size_t parked = 0;

	fprintf(stderr, "aio-restorer: standard output cannot be written: %s; all is done",
	    strerror(errno));
	for (size_t i = 0; i < count; i++)
		if (outcomes[i].is_staged)
			fprintf(stderr, "%s %d",
			    parked++ ? "" : ", and stays parked: go on with `aio-restorer restore",
			    (int)outcomes[i].pid);
	fprintf(stderr, parked ? "`\n" : "\n");
	return parked ? NOT_FINISHED : FAILED;
}

/* Both of them. What is done is told of each process, though another one may have failed. */
static int run_on_others(const struct options *options,
    int (*operation)(const pid_t *pids, size_t count, const struct aior_options *options,
	struct aior_outcome *outcomes, struct aior_error *error),
    void (*show)(FILE *out, const struct aior_outcome *outcome, int verbose), const char *verb)
{
	const struct aior_options how = {
	    .timeout_ms = options->timeout < 0 ? -1 : (int)(options->timeout * 1000),
	    .cancel = &cancel,
	    .room_cpus = options->room,
	    .compacts = options->compact,
	};
	size_t count = options->target_count;
	struct aior_outcome *outcomes = calloc(count, sizeof(*outcomes));
	pid_t *pids = calloc(count, sizeof(*pids));
	struct sigaction action = {.sa_handler = ask_to_end};
	struct aior_error error;
	int ret;

	if (!outcomes || !pids) {
		free(outcomes);
		free(pids);
		fprintf(stderr, "aio-restorer: out of memory\n");
		return FAILED;
	}
	if (parse_pids(options, pids)) {
		free(outcomes);
		free(pids);
		return USAGE;
	}
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	ret = operation(pids, count, &how, outcomes, &error) ? report(options, &error) : DONE;
	if (options->json && !ret)
		show_outcomes_json(stdout, outcomes, count, verb);
	for (size_t i = 0; i < count; i++) {
		if (!options->json && (outcomes[i].was_so || outcomes[i].finish_ns))
			show(ret ? stderr : stdout, &outcomes[i], options->verbose);
		show_warnings(stderr, &outcomes[i]);
	}
	if (!ret && (fflush(stdout) || ferror(stdout)))
		ret = not_told(outcomes, count);
	for (size_t i = 0; i < count; i++)
		aior_outcome_free(&outcomes[i]);
	free(outcomes);
	free(pids);
	return ret;
}

static int run_stage(const struct options *options)
{
	return run_on_others(options, aior_stage, show_staged, "staged");
}

static int run_restore(const struct options *options)
{
	return run_on_others(options, aior_restore, show_restored, "restored");
}

static const struct blob_format *find_format(const char *name)
{
	const struct blob_format *format = aior_blob_formats;

	while (format->name && strcmp(format->name, name))
		format++;
	return format->name ? format : NULL;
}

static int write_blob(
    const struct blob_format *format, const struct aior_blob *blob, const char *path)
{
	FILE *out = path ? fopen(path, "wb") : stdout;
	int err = 0;

	if (!out || format->write(out, blob) || fflush(out))
		err = errno ? errno : EIO;
	if (out && path && fclose(out) && !err)
		err = errno;
	if (!err)
		return DONE;
	fprintf(stderr, "aio-restorer: %s cannot be written: %s\n", path ? path : "the blob",
	    strerror(err));
	return FAILED;
}

static int wrong_format(const char *name)
{
	char all[256];
	size_t len = 0;

	for (const struct blob_format *format = aior_blob_formats; format->name; format++)
		len += (size_t)snprintf(
		    all + len, sizeof(all) - len, "%s%s", len ? ", " : "", format->name);
	return wrong_usage("%s is not a format; they are %s", name, all);
}

static int run_emit(const struct options *options)
{
	const struct blob_format *format = find_format(options->format ? options->format : "bin");
	uint32_t arch, op = options->blob ? aior_op_number(options->blob) : 0;
	const struct aior_blob *blob;

	arch = options->arch ? aior_arch_number(options->arch) : aior_host_arch();
	if (!arch)
		return wrong_usage("%s is not an architecture that is known", options->arch);
	if (op != AIOR_OP_RESTORE && op != AIOR_OP_STAGE)
		return wrong_usage("emit needs --blob restore or --blob stage");
	if (!format)
		return wrong_format(options->format);
	blob = aior_blob(arch, op);
	if (!blob) {
		fprintf(stderr,
		    "aio-restorer: this build has no %s blob for %s; it has: ", aior_op_name(op),
		    aior_arch_name(arch));
		print_blobs(stderr);
		fprintf(stderr, "\n");
		return REFUSED;
	}
	return write_blob(format, blob, options->output);
}

static const struct command commands[] = {
    {"list", "TARGET", "ej", run_list,
	"Shows the AIO rings of a running process (TARGET is a pid), of an ELF core, or\n"
	"of the processes in a folder of CRIU images (TARGET is a path): how many slots,\n"
	"what is pending, where head and tail are.\n"
	"\n"
	"  --events   also each pending event\n"
	"  --json     all of it as one JSON object\n"
	"\n"
	"Example: aio-restorer list $(pidof mariadbd) --events\n"},
    {"dump", "PID", "o", run_dump,
	"Writes the rings of a running process to an ELF core. The process stands still\n"
	"for the copy and goes on. Requests in flight are not in the core.\n"
	"\n"
	"  -o, --output FILE   the core; written beside it first, then renamed\n"
	"\n"
	"Example: aio-restorer dump 1234 -o rings.core\n"},
    {"stage", "PID...", "trvj", run_stage,
	"Turns the AIO rings of running processes into plain memory, in place, and leaves\n"
	"the processes parked: all or none. Requests in flight come to their end first;\n"
	"polls are remembered. Any tool can carry a parked process; `restore` lets it go\n"
	"on.\n"
	"\n"
	"  --timeout SECONDS   give up waiting for requests in flight (no limit): the\n"
	"                      process stays parked then, and a later call goes on\n"
	"  --room CPUS         keep address space behind each ring, so that it can be\n"
	"                      restored where so many CPUs are possible; names those\n"
	"                      that have none\n"
	"  -v, --verbose       also where the time went\n"
	"  --json              what was done, as one JSON object\n"
	"\n"
	"Example: aio-restorer stage $(pidof mariadbd) --room 256\n"},
    {"restore", "PID...", "tcvj", run_restore,
	"Turns the rings of parked processes back into live ones, and lets the processes\n"
	"go on.\n"
	"\n"
	"  --timeout SECONDS   give up waiting for requests in flight (no limit), if\n"
	"                      `stage` has given up before\n"
	"  --compact           each ring begins at slot 0, with nothing but its pending\n"
	"                      events: faster where many have gone through it, and seen\n"
	"                      by a program that keeps a ring's head itself\n"
	"  -v, --verbose       also where the time went\n"
	"  --json              what was done, as one JSON object\n"
	"\n"
	"Example: aio-restorer restore $(pidof mariadbd)\n"},
    {"run", "IMAGE", "cj", run_run,
	"Brings the rings of an ELF core back to life in a fresh process, reaps what is\n"
	"pending there through io_getevents, and shows it. The core is one of `dump`, of\n"
	"gdb's gcore or of the kernel. IMAGE may also be a folder of CRIU images: then\n"
	"there is a fresh process for each one in it.\n"
	"\n"
	"  --compact  each ring begins at slot 0, with nothing but its pending events\n"
	"  --json     all of it as one JSON object\n"
	"\n"
	"Example: aio-restorer run rings.core\n"},
    {"check", "[IMAGE]", "", run_check,
	"Says what this host can do, and what is missing; with IMAGE, also what keeps\n"
	"that image's rings from being restored here.\n"
	"\n"
	"Example: aio-restorer check rings.core\n"},
    {"emit", NULL, "abfo", run_emit,
	"Writes a blob for an embedder; see aio-restorer-blob(7).\n"
	"\n"
	"  --arch ARCH      x86_64, i386, aarch64, riscv64 (this host's)\n"
	"  --blob BLOB      restore or stage\n"
	"  --format FORMAT  bin, c (a header), obj (a relocatable object), json, rust,\n"
	"                   go, asm (for GNU as), nasm (bin)\n"
	"  -o, --output FILE\n"
	"\n"
	"Example: aio-restorer emit --blob restore --format c -o restore.h\n"},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int print_help(void)
{
	printf("usage: aio-restorer COMMAND ...\n"
	       "\n"
	       "Turns the AIO rings of Linux processes into memory, and memory into rings.\n"
	       "\n"
	       "  list TARGET [--events] [--json]   the rings of a process or an image\n"
	       "  dump PID -o FILE                  a running process's rings, as an ELF core\n"
	       "  stage PID... [--room CPUS]        processes' rings into memory; parks them\n"
	       "  restore PID... [--compact]        and back; they go on\n"
	       "  run IMAGE [--compact] [--json]    an image's rings, live in a fresh process\n"
	       "  check [IMAGE]                     what this host can do, and what is missing\n"
	       "  emit --blob BLOB [--arch ARCH] [--format FORMAT] [-o FILE]\n"
	       "                                    a blob for an embedder\n"
	       "\n"
	       "`aio-restorer COMMAND --help` says more; --version names the ABI and the\n"
	       "architectures. A TARGET of digits is a pid; one with a slash or a dot is a path.\n"
	       "Exit: 0 done; 1 failed, and the process is as it was; 2 wrong usage; 3 not\n"
	       "finished, the process is parked; 4 refused, this host cannot.\n"
	       "\n"
	       "Example: aio-restorer dump 123 -o rings.core && aio-restorer run rings.core\n");
	return DONE;
}

static int print_version(void)
{
	const char *comma = "";

	printf("aio-restorer " AIOR_VERSION ", ABI %u; blobs for ", AIOR_ABI);
	for (uint32_t arch = 1; aior_arch_name(arch); arch++)
		if (aior_blob(arch, AIOR_OP_RESTORE) && aior_blob(arch, AIOR_OP_STAGE)) {
			printf("%s%s", comma, aior_arch_name(arch));
			comma = ", ";
		}
	printf("\n");
	return DONE;
}

static int command_help(const struct command *command)
{
	printf("usage: aio-restorer %s%s%s%s\n\n%s", command->name, command->operand ? " " : "",
	    command->operand ? command->operand : "", *command->flags ? " [OPTION]..." : "",
	    command->help);
	return DONE;
}

/* What getopt_long() did not take; `word` is the last one that it is through with. */
static int wrong_option(const struct command *command, int letter, const char *word)
{
	if (letter == ':')
		return wrong_usage("%s needs a value", word);
	/* A letter that is not known; the word that it is part of may hold more of them. */
	if (letter == '?' && optopt && !strchr(word, '='))
		return wrong_usage("%s does not take -%c", command->name, optopt);
	return wrong_usage("%s does not take %s", command->name, word);
}

static int run_command(const struct command *command, int argc, char **argv)
{
	struct options options = {.timeout = -1};
	int letter;

	opterr = 0;
	while ((letter = getopt_long(argc, argv, ":o:vh", long_options, NULL)) != -1) {
		if (letter == 'h')
			return command_help(command);
		if (letter == ':' || letter == '?' || !strchr(command->flags, letter))
			return wrong_option(command, letter,
			    argv[optarg && optarg == argv[optind - 1] ? optind - 2 : optind - 1]);
		switch (letter) {
		case 'e':
			options.events = 1;
			break;
		case 'j':
			options.json = 1;
			break;
		case 'o':
			options.output = optarg;
			break;
		case 'a':
			options.arch = optarg;
			break;
		case 'b':
			options.blob = optarg;
			break;
		case 'f':
			options.format = optarg;
			break;
		case 'v':
			options.verbose = 1;
			break;
		case 'c':
			options.compact = 1;
			break;
		case 't':
			options.timeout = parse_seconds(optarg);
			if (options.timeout < 0)
				return wrong_usage(
				    "--timeout %s is not a number of seconds", optarg);
			break;
		case 'r':
			options.room = parse_cpus(optarg);
			if (!options.room)
				return wrong_usage("--room %s is not a number of CPUs, 1 to %u",
				    optarg, MOST_CPUS);
			break;
		}
	}
	if (command->operand && optind < argc)
		options.target = argv[optind++];
	options.targets = &argv[optind - 1];
	options.target_count = 1;
	if (command->operand && strstr(command->operand, "..."))
		while (optind < argc && ++optind)
			options.target_count++;
	if (command->operand && *command->operand != '[' && !options.target)
		return wrong_usage("%s: which %s?", command->name, command->operand);
	if (optind < argc)
		return wrong_usage("%s: what is %s?", command->name, argv[optind]);
	return command->run(&options);
}

/* What was printed must have arrived, too; where something has failed already, that was said. */
static int finish(int status)
{
	if (status || (!fflush(stdout) && !ferror(stdout)))
		return status;
	fprintf(stderr, "aio-restorer: standard output cannot be written: %s\n", strerror(errno));
	return FAILED;
}

/*
 * What the caller has left us with must not matter: an ignored SIGCHLD would take the children's
 * ends from us, and SIGXFSZ would end us in the middle of a file (write says EFBIG then).
 */
static void set_signals(void)
{
	signal(SIGCHLD, SIG_DFL);
	signal(SIGXFSZ, SIG_IGN);
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;

	setlocale(LC_CTYPE, "");
	set_signals();
	if (!name)
		return wrong_usage("what is to be done?");
	if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help"))
		return finish(print_help());
	if (!strcmp(name, "--version"))
		return finish(print_version());
	for (size_t i = 0; i < COUNT(commands); i++)
		if (!strcmp(name, commands[i].name))
			return finish(run_command(&commands[i], argc - 1, argv + 1));
	return wrong_usage("%s is not a command", name);
}
