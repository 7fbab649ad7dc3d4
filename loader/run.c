/* SPDX-License-Identifier: MIT */
/*
 * Restores an image's rings in a fresh process.
 *
 * The fresh process is as empty as one can be: we make an ELF program for this one image, in
 * memory, and execute it. It holds the run blob, the restore blob and the rings' content, and lies
 * where none of the rings belongs. So there is no libc in that process whose mappings, thread area
 * or heap a ring could collide with. pie/run.c is what runs in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "grow.h"
#include "headers.h"
#include "internal.h"
#include "names.h"
#include "run.h"

#define SEGMENT 0x10000ull /* alignment of all parts: the largest page there is */
#define STACK_BYTES SEGMENT
#define SCRATCH_BYTES SEGMENT
#define BUFFER_BYTES (4 * SEGMENT)
#define LOWEST 0x400000ull /* where programs lie that lie at a fixed address */
#define TRIES 8
#define STACK_STEP (192ull << 20)

/* The program: addresses in it, and what it is made of. */
struct program {
	const struct aior_image *image;
	struct aior_host host; /* whose rings may have to be larger */
	uint64_t base;         /* of the run blob */
	uint64_t records;      /* of the ring records, from `base` on; so are all that follow */
	uint64_t content;
	uint64_t stack, scratch, buffer, end;
	int tries; /* how often it was executed in vain */
};

static uint64_t align(uint64_t n)
{
	return (n + SEGMENT - 1) & ~(SEGMENT - 1);
}

/* How long the ring will be. */
static uint64_t len_of(const struct program *program, size_t i)
{
	return aior_len_on(&program->host, program->image->rings[i].len);
}

static void lay_out(struct program *program)
{
	const struct aior_image *image = program->image;
	uint64_t at = RUN_BLOCK + sizeof(struct run_block) + sizeof(struct aior_args);

	program->records = at;
	at += image->ring_count * sizeof(struct aior_ring_record);
	program->content = at;
	for (size_t i = 0; i < image->ring_count; i++)
		at += len_of(program, i);
	program->stack = align(at);
	program->scratch = program->stack + STACK_BYTES;
	program->buffer = program->scratch + SCRATCH_BYTES;
	program->end = program->buffer + BUFFER_BYTES;
}

/* Puts the program below the first ring, or into the first gap behind one that it fits into. */
static void place(struct program *program)
{
	const struct aior_image *image = program->image;

	program->base = LOWEST;
	for (size_t i = 0; i < image->ring_count; i++) {
		const struct aior_ring *ring = &image->rings[i];

		if (program->base + program->end <= ring->addr)
			return;
		if (ring->addr + len_of(program, i) > program->base)
			program->base = align(ring->addr + len_of(program, i));
	}
}

/* Whether the program's addresses are such as its ELF file can name. */
static int fits(const struct program *program)
{
	const struct aior_arch_elf *elf = aior_arch_elf(program->image->arch);

	return elf->class == ELFCLASS64 || program->base + program->end <= UINT32_MAX;
}

static int put(int fd, const void *data, size_t len, uint64_t at)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(fd, (const char *)data + done, len - done, (off_t)(at + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		done += (size_t)n;
	}
	return 0;
}

static int put_headers(const struct program *program, int fd)
{
	const struct aior_arch_elf *elf = aior_arch_elf(program->image->arch);
	Elf64_Phdr segments[2] = {
	    {
		.p_type = PT_LOAD,
		.p_flags = PF_R | PF_X,
		.p_offset = SEGMENT,
		.p_vaddr = program->base,
		.p_filesz = RUN_RESTORE + AIOR_BLOB_MAX,
		.p_memsz = RUN_RESTORE + AIOR_BLOB_MAX,
		.p_align = SEGMENT,
	    },
	    {
		.p_type = PT_LOAD,
		.p_flags = PF_R | PF_W,
		.p_offset = SEGMENT + RUN_BLOCK,
		.p_vaddr = program->base + RUN_BLOCK,
		.p_filesz = program->stack - RUN_BLOCK,
		.p_memsz = program->end - RUN_BLOCK,
		.p_align = SEGMENT,
	    },
	};
	Elf64_Ehdr header = {
	    .e_type = ET_EXEC,
	    .e_entry = program->base + sizeof(struct aior_blob),
	    .e_phoff = sizeof(header), /* of either class: the shorter one is padded */
	    .e_phnum = 2,
	    .e_machine = elf->machine,
	};
	unsigned char bytes[sizeof(header) + sizeof(segments)] = {0};
	size_t at = sizeof(header);

	aior_elf_header(bytes, elf->class, header);
	at += aior_elf_segment(bytes + at, elf->class, segments[0]);
	at += aior_elf_segment(bytes + at, elf->class, segments[1]);
	return put(fd, bytes, at, 0);
}

static int put_blocks(const struct program *program, int fd, int out)
{
	const struct aior_blob *run = aior_blob(program->image->arch, AIOR_OP_RUN);
	const struct aior_blob *restore = aior_blob(program->image->arch, AIOR_OP_RESTORE);
	struct run_block block = {
	    .stack = program->base + program->stack + STACK_BYTES,
	    .restore = program->base + RUN_RESTORE + restore->call,
	    .args = program->base + RUN_BLOCK + sizeof(block),
	    .buffer = program->base + program->buffer,
	    .room = BUFFER_BYTES,
	    .out = out,
	};
	struct aior_args args = {
	    .abi = AIOR_ABI,
	    .size = sizeof(args),
	    .end = AIOR_END_RETURN,
	    .rings = program->base + program->records,
	    .ring_count = (uint32_t)program->image->ring_count,
	    .ring_stride = sizeof(struct aior_ring_record),
	    .page_size = (uint32_t)sysconf(_SC_PAGESIZE),
	    .scratch = program->base + program->scratch,
	    .scratch_len = SCRATCH_BYTES,
	    .fd = -1,
	};

	return put(fd, run, run->size, SEGMENT) ||
	       put(fd, restore, restore->size, SEGMENT + RUN_RESTORE) ||
	       put(fd, &block, sizeof(block), SEGMENT + RUN_BLOCK) ||
	       put(fd, &args, sizeof(args), SEGMENT + RUN_BLOCK + sizeof(block));
}

/* Its content, of the length that it has on this host. */
static int put_content(const struct program *program, size_t i, int fd, uint64_t at)
{
	const struct aior_ring *ring = &program->image->rings[i];
	uint64_t len = len_of(program, i);
	void *content;
	int ret;

	if (len == ring->len)
		return put(fd, ring->content, ring->len, at);
	content = calloc(1, (size_t)len);
	if (!content)
		return -1;
	memcpy(content, ring->content, (size_t)ring->len);
	aior_lay_out(content, ring->len, len);
	ret = put(fd, content, (size_t)len, at);
	free(content);
	return ret;
}

static int put_rings(const struct program *program, int fd)
{
	const struct aior_image *image = program->image;
	uint64_t content = program->content, record_at = program->records;
	uint32_t cpus = aior_possible_cpus();

	for (size_t i = 0; i < image->ring_count; i++) {
		const struct aior_ring *ring = &image->rings[i];
		struct aior_ring_record record = {
		    .addr = ring->addr,
		    .len = len_of(program, i),
		    .staged = program->base + content,
		    .prot = ring->prot,
		    .n = aior_least_n(cpus, ring->len),
		};

		if (put(fd, &record, sizeof(record), SEGMENT + record_at) ||
		    put_content(program, i, fd, SEGMENT + content))
			return -1;
		record_at += sizeof(record);
		content += record.len;
	}
	/* The last page of the file is whole, whatever follows it in memory. */
	return ftruncate(fd, (off_t)(SEGMENT + program->stack));
}

/* A file in memory that may be executed. Since 6.3 a host can forbid that: memfd_create(2). */
static int make_file(void)
{
#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
	int fd = memfd_create("aio-restorer", MFD_CLOEXEC | MFD_EXEC);

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("aio-restorer", MFD_CLOEXEC);
	return fd;
}

/*
 * What the kernel maps into the next process by itself shall not be where it was in the one before.
 * Where addresses are not random (setarch -R) it would be, and a 32-bit process has only 256 places for
 * it; but it lies below the room that the stack may grow into.
 */
static void lie_elsewhere(int tries)
{
	struct rlimit stack;

	personality((unsigned)personality(0xffffffff) & ~(unsigned)ADDR_NO_RANDOMIZE);
	if (getrlimit(RLIMIT_STACK, &stack))
		return;
	stack.rlim_cur = (rlim_t)tries * STACK_STEP;
	if (stack.rlim_max == RLIM_INFINITY || stack.rlim_cur <= stack.rlim_max)
		setrlimit(RLIMIT_STACK, &stack);
}

/* In the child. What fails here is told through the pipe, as an errno alone. */
static _Noreturn void execute(int program, int out, int tries)
{
	static char *const argv[] = {"aio-restorer-run", NULL}, *const envp[] = {NULL};
	char path[64];
	int err;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (tries)
		lie_elsewhere(tries);
	fcntl(out, F_SETFD, 0);
	syscall(SYS_execveat, program, "", argv, envp, AT_EMPTY_PATH);
	/* A kernel with TOMOYO may look /dev/fd/N up, which not every system has. */
	if (errno == ENOENT) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", program);
		execve(path, argv, envp);
	}
	err = errno;
	if (write(out, &err, sizeof(err)) != sizeof(err))
		_exit(126);
	_exit(127);
}

/* Memory for more; -1 with errno. */
static int make_room(unsigned char **data, size_t *room)
{
	size_t more = *room ? 2 * *room : 65536;
	unsigned char *larger = realloc(*data, more);

	if (!larger) {
		errno = ENOMEM;
		return -1;
	}
	*data = larger;
	*room = more;
	return 0;
}

/*
 * Everything that the process writes. It ends when nobody can write to the pipe any more, or when the process has ended:
 * a child that another thread of ours has forked meanwhile holds the pipe, too.
 */
static int read_pipe(int fd, int process, unsigned char **data, size_t *len)
{
	struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = process, .events = POLLIN}};
	int has_ended = 0;
	size_t room = 0;
	ssize_t n;

	for (;;) {
		if (poll(fds, has_ended ? 1 : 2, has_ended ? 0 : -1) < 0) {
			if (errno != EINTR)
				return -1;
			continue;
		}
		if (!fds[0].revents && has_ended)
			return 0;
		if (!fds[0].revents) {
			/* What it has written last may have come behind the look at the pipe. */
			has_ended = 1;
			continue;
		}
		if (*len == room && make_room(data, &room))
			return -1;
		n = read(fd, *data + *len, room - *len);
		if (!n)
			return 0;
		if (n < 0 && errno != EINTR)
			return -1;
		if (n > 0)
			*len += (size_t)n;
	}
}

static int read_all(int fd, int process, unsigned char **data, size_t *len)
{
	int ret, err;

	*data = NULL;
	*len = 0;
	ret = read_pipe(fd, process, data, len);
	if (ret) {
		err = errno;
		free(*data);
		*data = NULL;
		errno = err;
	}
	return ret;
}

/* As fork(), with a descriptor of the child, which names nobody else whoever waits for it first. */
static pid_t fork_with_descriptor(int *process)
{
	return (pid_t)syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, NULL, process, NULL, NULL);
}

/*
 * How it has ended, as waitpid() has it. If nobody can tell, since the caller does not want to hear of children, or has
 * waited for it in another thread, what it has written tells all the same whether it came to its end.
 */
static int wait_for(int process)
{
	siginfo_t info = {0};
	int ret;

	/* (P_PIDFD: glibc has the name since 2.36.) */
	while ((ret = waitid((idtype_t)3, (id_t)process, &info, WEXITED)) && errno == EINTR)
		;
	if (ret)
		return 0;
	return info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status;
}

/* Executes the program, and returns what it wrote and how it ended. */
static int execute_and_read(const struct program *program, pid_t *child, int *status,
    unsigned char **data, size_t *len, struct aior_error *error)
{
	int out[2] = {-1, -1}, fd = make_file(), process = -1, err;

	if (fd < 0 || pipe2(out, O_CLOEXEC) || put_headers(program, fd) ||
	    put_blocks(program, fd, out[1]) || put_rings(program, fd)) {
		err = errno;
		goto fail;
	}
	*child = fork_with_descriptor(&process);
	if (!*child)
		execute(fd, out[1], program->tries);
	err = errno;
	if (*child < 0)
		goto fail;
	close(fd);
	close(out[1]);
	err = read_all(out[0], process, data, len) ? errno : 0;
	close(out[0]);
	*status = wait_for(process);
	close(process);
	if (err)
		return aior_fail(
		    error, err, "run", "the fresh process cannot be read from: %s", strerror(err));
	return 0;
fail:
	if (fd >= 0)
		close(fd);
	if (out[0] >= 0) {
		close(out[0]);
		close(out[1]);
	}
	return aior_fail(error, err, "run",
	    "a fresh process cannot be made: %s (`ulimit -a` shows the limits that it has)",
	    strerror(err));
}

/* What the program wrote, taken apart piece by piece. */
struct reader {
	const unsigned char *data;
	size_t len, at;
};

static int take(struct reader *reader, void *to, size_t len)
{
	if (len > reader->len - reader->at)
		return -1;
	memcpy(to, reader->data + reader->at, len);
	reader->at += len;
	return 0;
}

/* One ring: its header, and its events, which come in as many pieces as io_getevents gave them. */
static int take_ring(struct reader *reader, struct aior_ring *ring, struct aior_error *error)
{
	struct aio_ring header;
	uint32_t taken = 0;
	int64_t n;

	if (take(reader, &header, sizeof(header)))
		return aior_fail_ring(error, EIO, "reap", ring->addr, "nothing came of it");
	aior_take_header(ring, &header);
	ring->events = calloc(ring->pending + 1, sizeof(*ring->events));
	if (!ring->events)
		return aior_fail(error, ENOMEM, "reap", "out of memory");
	for (;;) {
		if (take(reader, &n, sizeof(n)))
			return aior_fail_ring(
			    error, EIO, "reap", ring->addr, "its events did not come");
		if (!n)
			break;
		if (n < 0)
			return aior_fail_ring(error, (int)-n, "reap", ring->addr,
			    "io_getevents does not take it: %s", strerror((int)-n));
		if ((uint64_t)n > ring->pending - taken ||
		    take(reader, ring->events + taken, (size_t)n * sizeof(*ring->events)))
			return aior_fail_ring(
			    error, EIO, "reap", ring->addr, "more events came than are pending");
		taken += (uint32_t)n;
	}
	if (taken != ring->pending)
		return aior_fail_ring(error, EIO, "reap", ring->addr,
		    "%u events came where %u are pending", taken, ring->pending);
	ring->is_restored = 1;
	return 0;
}

static int take_result(const struct program *program, struct reader *reader, int status,
    struct aior_image *result, struct aior_error *error)
{
	const struct aior_image *image = program->image;
	struct aior_ring_record record;
	struct aior_args args;
	int err;

	if (reader->len == sizeof(err) && !take(reader, &err, sizeof(err)))
		return aior_fail(error, err, "run",
		    "the fresh process cannot be started: %s (does the host forbid execution from "
		    "memory, sysctl vm.memfd_noexec, or limit memory?)",
		    strerror(err));
	if (WIFSIGNALED(status))
		return aior_fail(error, EIO, "run",
		    "the fresh process was ended by signal %d (%s): does a limit keep it from its "
		    "memory (`ulimit -a` shows them)?",
		    WTERMSIG(status), strsignal(WTERMSIG(status)));
	if (WEXITSTATUS(status) || take(reader, &args, sizeof(args)))
		return aior_fail(error, EIO, "run", "the fresh process did not say all");
	for (size_t i = 0; i < image->ring_count; i++)
		if (take(reader, &record, sizeof(record)))
			return aior_fail(error, EIO, "run", "the fresh process did not say all");
	if (args.err)
		return aior_fail_blob(error, &args,
		    args.ring < image->ring_count ? &image->rings[args.ring].addr : NULL);
	for (size_t i = 0; i < image->ring_count; i++) {
		struct aior_ring *ring = aior_add_ring(result);

		if (!ring)
			return aior_fail(error, ENOMEM, "reap", "out of memory");
		ring->addr = image->rings[i].addr;
		ring->len = len_of(program, i);
		ring->prot = image->rings[i].prot;
		if (take_ring(reader, ring, error))
			return -1;
	}
	return 0;
}

static int try_run(
    const struct program *program, struct aior_image *result, struct aior_error *error)
{
	struct reader reader = {0};
	unsigned char *data = NULL;
	int status = 0, ret;

	memset(result, 0, sizeof(*result));
	ret = execute_and_read(program, &result->pid, &status, &data, &reader.len, error);
	if (ret)
		return ret;
	result->arch = program->image->arch;
	result->page_size = (uint32_t)sysconf(_SC_PAGESIZE);
	result->possible_cpus = aior_possible_cpus();
	reader.data = data;
	ret = take_result(program, &reader, status, result, error);
	free(data);
	if (ret)
		aior_image_free(result);
	return ret;
}

/* The program without a ring: only the kernel can say whether it would be executed. */
int aior_can_execute(uint32_t arch)
{
	struct aior_image none = {.arch = arch}, result;
	struct program program = {.image = &none};
	struct aior_error error;

	if (arch == aior_host_arch())
		return 1;
	if (!aior_calls_of(arch) || !aior_blob(arch, AIOR_OP_RUN))
		return 0;
	lay_out(&program);
	place(&program);
	if (try_run(&program, &result, &error))
		return error.err != ENOEXEC;
	aior_image_free(&result);
	return 1;
}

int aior_run(const struct aior_image *image, struct aior_image *result, struct aior_error *error)
{
	struct program program = {.image = image};
	struct aior_error own;
	int ret;
	AIOR_UNCANCELLED;

	if (!error)
		error = &own;
	memset(result, 0, sizeof(*result));
	if (aior_check_image(image, error) || aior_check_host(image, error) ||
	    aior_get_host(&program.host, error))
		return -1;
	lay_out(&program);
	place(&program);
	if (!fits(&program))
		return aior_fail(
		    error, ENOMEM, "run", "the rings leave no room for a program beside them");
	/*
	 * Something of the kernel's may lie in a ring's place and not be unmapped, or not in part
	 * (the vDSO; from 6.16 on it is sealed). The next process has it elsewhere.
	 */
	do {
		ret = try_run(&program, result, error);
	} while (ret && error->err == EEXIST && ++program.tries < TRIES);
	return ret;
}
