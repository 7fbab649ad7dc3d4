/* SPDX-License-Identifier: MIT */
/*
 * Breaks an image in thousands of ways, and has each read: by the image reader in this process, or
 * by the command that is given. Ends with one line that counts what came of it; a failure is a line
 * that starts with "bad", and leaves the image behind as IMAGE.bad.
 *
 * usage: hostile IMAGE SEED RANDOM STEP [COMMAND WORD...]
 *
 * IMAGE is cut at each length within its headers and its notes, and at some behind them; each byte
 * of its headers, notes and ring headers gets the values 0, 0xff, 0x7f, 0x80 and others; and RANDOM
 * images have several fields broken, by SEED. Of all these, every STEP-th is used. The command gets
 * the name of the broken image as its last argument.
 *
 * A folder of CRIU's images is broken in this way file by file, of which pages are those that no
 * message is in.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "images.h"
#include "internal.h"
#include "ring.h"

#define MOST_SPOTS 65536
#define SECONDS 20

struct image {
	unsigned char *bytes;
	size_t len;
	size_t spots[MOST_SPOTS]; /* offsets of bytes that something is decided by */
	size_t spot_count;
	size_t headers_end; /* of ELF header, program headers and notes */
};

static char broken_path[4096], bad_path[4096];
static char broken_file[8192]; /* the same, or the file of it that is broken at the moment */
static unsigned long accepted, refused, bad;
static uint64_t seed;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "hostile: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* splitmix64 */
static uint64_t random_number(void)
{
	uint64_t z = seed += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static void add_spots(struct image *image, size_t from, size_t to)
{
	for (size_t at = from; at < to && at < image->len && image->spot_count < MOST_SPOTS; at++)
		image->spots[image->spot_count++] = at;
}

static void read_file(struct image *image, const char *path)
{
	struct stat status;
	int fd = open(path, O_RDONLY);

	if (fd < 0 || fstat(fd, &status))
		die(path);
	image->len = (size_t)status.st_size;
	image->bytes = malloc(image->len);
	if (!image->bytes || read(fd, image->bytes, image->len) != status.st_size)
		die(path);
	close(fd);
}

/* The images that this is used with are sound, and of this machine's byte order. */
static void find_spots(struct image *image)
{
	Elf *elf;
	size_t count;
	GElf_Phdr phdr;
	GElf_Ehdr ehdr;

	elf_version(EV_CURRENT);
	elf = elf_memory((char *)image->bytes, image->len);
	if (!elf || elf_getphdrnum(elf, &count) || !gelf_getehdr(elf, &ehdr))
		die("not an ELF file");
	add_spots(image, 0, ehdr.e_phoff + count * ehdr.e_phentsize);
	for (size_t i = 0; i < count; i++) {
		gelf_getphdr(elf, (int)i, &phdr);
		if (phdr.p_type == PT_NOTE) {
			add_spots(image, phdr.p_offset, phdr.p_offset + phdr.p_filesz);
			image->headers_end = phdr.p_offset + phdr.p_filesz;
		} else {
			add_spots(image, phdr.p_offset, phdr.p_offset + AIO_RING_HEADER);
		}
	}
	elf_end(elf);
}

static void write_broken(const unsigned char *bytes, size_t len)
{
	int fd = open(broken_file, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0 || write(fd, bytes, len) != (ssize_t)len)
		die(broken_file);
	close(fd);
}

/* So that it can be looked at; a folder is broken in other ways afterwards. */
static void keep_broken(void)
{
	pid_t child = vfork();

	if (!child) {
		execlp("cp", "cp", "-a", broken_path, bad_path, NULL);
		_exit(127);
	}
	waitpid(child, NULL, 0);
}

static void complain(const char *what, const char *why)
{
	printf("bad: %s: %s: %s\n", broken_file, what, why);
	fflush(stdout);
	if (!bad++)
		keep_broken();
}

/* Reads the broken image here; what the memory checkers find ends this process. */
static void read_here(const char *what)
{
	struct images images;
	struct aior_error error = {0};
	uint64_t sum = 0;

	alarm(SECONDS);
	if (images_read(broken_path, &images, &error)) {
		refused++;
		if (!*error.message || strchr(error.message, '\n') ||
		    (error.err <= 0 && !error.is_refused))
			complain(what, "no message of one line");
		return;
	}
	accepted++;
	for (size_t p = 0; p < images.count; p++)
		for (size_t r = 0; r < images.images[p].ring_count; r++)
			for (uint32_t i = 0; i < images.images[p].rings[r].pending; i++)
				sum += aior_event(&images.images[p].rings[r], i).data;
	/* So that no compiler leaves the reading out. */
	if (sum == random_number())
		putchar('\n');
	aior_check_images(images.images, images.count, &error);
	images_free(&images);
}

static size_t lines(const char *text, size_t len)
{
	size_t count = 0;

	for (size_t i = 0; i < len; i++)
		count += text[i] == '\n';
	return count;
}

/* Runs the command on the broken image; it must end, and say what is wrong in a line. */
static void run_command(const char *what, char **command)
{
	static char text[65536];
	ssize_t len = 0, n;
	int status = 0, err[2];
	pid_t child;

	if (pipe(err))
		die("pipe");
	child = fork();
	if (!child) {
		alarm(SECONDS);
		dup2(open("/dev/null", O_WRONLY), STDOUT_FILENO);
		dup2(err[1], STDERR_FILENO);
		close(err[0]);
		execv(command[0], command);
		_exit(126);
	}
	if (child < 0)
		die("fork");
	close(err[1]);
	while ((n = read(err[0], text + len, sizeof(text) - 1 - (size_t)len)) > 0)
		len += n;
	text[len] = '\0';
	close(err[0]);
	waitpid(child, &status, 0);
	if (!WIFEXITED(status))
		complain(what, strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status) == 0 && !len)
		accepted++;
	else if ((WEXITSTATUS(status) == 1 && lines(text, (size_t)len) == 1) ||
		 (WEXITSTATUS(status) == 4 && lines(text, (size_t)len) >= 1 &&
		     lines(text, (size_t)len) <= 6))
		refused++;
	else
		complain(what, *text ? text : "the wrong exit status");
}

static void try(const unsigned char *bytes, size_t len, char **command, const char *what)
{
	write_broken(bytes, len);
	if (command)
		run_command(what, command);
	else
		read_here(what);
}

static void cut(const struct image *image, size_t step, char **command)
{
	char what[64];

	for (size_t len = 1; len < image->len; len += len < image->headers_end ? step : 97 * step) {
		snprintf(what, sizeof(what), "cut at %zu", len);
		try(image->bytes, len, command, what);
	}
}

static void break_bytes(const struct image *image, size_t step, char **command)
{
	static const unsigned char values[] = {0, 0xff, 0x7f, 0x80};
	size_t kinds = sizeof(values) + 2;
	char what[64];

	for (size_t i = 0; i < image->spot_count * kinds; i += step) {
		unsigned char *byte = &image->bytes[image->spots[i / kinds]], old = *byte;
		size_t kind = i % kinds;

		*byte = kind < sizeof(values)    ? values[kind]
			: kind == sizeof(values) ? (unsigned char)(old + 1)
						 : (unsigned char)(old ^ 1u << random_number() % 8);
		snprintf(what, sizeof(what), "byte %zu, 0x%x instead of 0x%x",
		    image->spots[i / kinds], *byte, old);
		if (*byte != old)
			try(image->bytes, image->len, command, what);
		*byte = old;
	}
}

/* A value that is likely to be wrong in an interesting way. */
static uint64_t odd_value(const struct image *image)
{
	static const uint64_t values[] = {0, 1, 2, 7, 8, 31, 32, 33, 0x7f, 0x80, 0xff, 0xfff,
	    0x1000, 0x1001, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
	    0x7ffffffff000, 0x7fffffffe000, 0x800000000000, 0x7fffffffffffffff, 0x8000000000000000,
	    0xfffffffffffff000, 0xffffffffffffffff};
	uint64_t pick = random_number() % 40;

	if (pick < sizeof(values) / sizeof(values[0]))
		return values[pick];
	return pick < 32 ? image->len + random_number() % 64 - 32 : random_number();
}

static void break_fields(
    const struct image *image, unsigned long count, size_t step, char **command)
{
	unsigned char *bytes = malloc(image->len);
	char what[64];

	if (!bytes)
		die("malloc");
	for (unsigned long i = 0; image->spot_count && i < count; i += step) {
		unsigned fields = 1 + (unsigned)(random_number() % 4);

		snprintf(what, sizeof(what), "random image %lu", i);
		memcpy(bytes, image->bytes, image->len);
		while (fields--) {
			size_t size = 1u << random_number() % 4;
			size_t at = image->spots[random_number() % image->spot_count] & ~(size - 1);
			uint64_t value = odd_value(image);

			if (at + size <= image->len)
				memcpy(bytes + at, &value, size);
		}
		try(bytes, image->len, command, what);
	}
	free(bytes);
}

/* What the memory checkers print names no image. */
static void keep_image(int signal)
{
	(void)signal;
	keep_broken();
	_exit(3);
}

static void break_image(struct image *image, unsigned long count, size_t step, char **command)
{
	cut(image, step, command);
	break_bytes(image, step, command);
	break_fields(image, count, step, command);
}

static void break_core(const char *path, unsigned long count, size_t step, char **command)
{
	static struct image image;

	snprintf(broken_file, sizeof(broken_file), "%s", broken_path);
	read_file(&image, path);
	find_spots(&image);
	break_image(&image, count, step, command);
	unlink(broken_path);
	free(image.bytes);
}

/* Everything but a file of pages is headers; of those, what rings and capsules begin with. */
static void find_spots_of(struct image *image, const char *name)
{
	image->spot_count = 0;
	image->headers_end = 0;
	if (strncmp(name, "pages-", 6)) {
		add_spots(image, 0, image->len);
		image->headers_end = image->len;
		return;
	}
	for (size_t at = 0; at < image->len; at += 4096)
		add_spots(image, at, at + 256);
}

/* Breaks each file of a folder, in a copy of it, where all others are whole. */
static void break_folder(const char *path, unsigned long count, size_t step, char **command)
{
	static struct image image;
	struct dirent **names;
	char whole[8192], text[4096];
	int n = scandir(path, &names, NULL, alphasort);

	if (n < 0 || mkdir(broken_path, 0700))
		die(path);
	for (int pass = 0; pass < 2; pass++)
		for (int i = 0; i < n; i++) {
			ssize_t len;

			snprintf(whole, sizeof(whole), "%s/%s", path, names[i]->d_name);
			snprintf(broken_file, sizeof(broken_file), "%s/%s", broken_path,
			    names[i]->d_name);
			len = readlink(whole, text, sizeof(text) - 1);
			if (len > 0 && !pass) {
				text[len] = '\0';
				if (symlink(text, broken_file))
					die(broken_file);
			}
			if (!strstr(names[i]->d_name, ".img"))
				continue;
			read_file(&image, whole);
			write_broken(image.bytes, image.len);
			if (pass) {
				find_spots_of(&image, names[i]->d_name);
				break_image(&image, count / (unsigned)n + 1, step, command);
				write_broken(image.bytes, image.len);
			}
			free(image.bytes);
		}
	for (int i = 0; i < n; i++) {
		snprintf(broken_file, sizeof(broken_file), "%s/%s", broken_path, names[i]->d_name);
		unlink(broken_file);
		free(names[i]);
	}
	free(names);
	rmdir(broken_path);
}

int main(int argc, char **argv)
{
	unsigned long count;
	struct stat status;
	char **command;
	size_t step;

	if (argc < 5) {
		fprintf(stderr, "usage: hostile IMAGE SEED RANDOM STEP [COMMAND WORD...]\n");
		return 2;
	}
	seed = strtoull(argv[2], NULL, 0);
	count = strtoul(argv[3], NULL, 0);
	step = strtoull(argv[4], NULL, 0);
	snprintf(broken_path, sizeof(broken_path), "%s.broken.%d", argv[1], (int)getpid());
	snprintf(bad_path, sizeof(bad_path), "%s.bad", argv[1]);
	if (stat(argv[1], &status))
		die(argv[1]);
	command = argc > 5 ? calloc((size_t)argc, sizeof(*command)) : NULL;
	for (int i = 5; i < argc; i++)
		command[i - 5] = argv[i];
	if (command)
		command[argc - 5] = broken_path;
	signal(SIGALRM, keep_image);
	signal(SIGBUS, keep_image);
	if (S_ISDIR(status.st_mode))
		break_folder(argv[1], count, step, command);
	else
		break_core(argv[1], count, step, command);
	printf("%lu accepted, %lu refused, %lu bad\n", accepted, refused, bad);
	free(command);
	return bad ? 1 : 0;
}
