/* SPDX-License-Identifier: MIT */
/*
 * Writes an image as an ELF core; elf(5), core(5). A PT_NOTE with each thread's NT_PRSTATUS and our
 * own table of the rings, then a PT_LOAD for each ring.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "headers.h"
#include "internal.h"
#include "names.h"

struct core {
	const struct aior_image *image;
	unsigned char class;
	uint16_t machine;
	uint32_t flags; /* e_flags, as the process's program has them */
	FILE *file;
	uint64_t at; /* bytes written */
};

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

static void put(struct core *core, const void *data, size_t len)
{
	fwrite(data, 1, len, core->file);
	core->at += len;
}

static void pad(struct core *core, uint64_t to)
{
	static const char zeros[4096];

	while (core->at < to) {
		uint64_t left = to - core->at;

		put(core, zeros, left < sizeof(zeros) ? left : sizeof(zeros));
	}
}

static uint64_t note_size(size_t name, size_t desc)
{
	return sizeof(Elf64_Nhdr) + round_up(name, 4) + round_up(desc, 4);
}

static void put_note_header(struct core *core, const char *name, uint32_t type, size_t desc)
{
	Elf64_Nhdr header = {
	    .n_namesz = (Elf64_Word)strlen(name) + 1,
	    .n_descsz = (Elf64_Word)desc,
	    .n_type = type,
	};

	put(core, &header, sizeof(header));
	put(core, name, header.n_namesz);
	pad(core, round_up(core->at, 4));
}

static size_t table_size(const struct aior_image *image)
{
	return sizeof(struct aior_table) + image->ring_count * sizeof(struct aior_ring_record);
}

/*
 * struct elf_prstatus (linux/elfcore.h), whose words are the architecture's, and in whose middle its
 * registers lie: where they do, and how many bytes it has in all.
 */
static size_t regs_offset(const struct core *core)
{
	return core->class == ELFCLASS64 ? 112 : 72;
}

static size_t status_size(const struct core *core, const struct aior_thread *thread)
{
	/* Behind the registers a 32-bit flag, pr_fpvalid. */
	return regs_offset(core) +
	       round_up(thread->regs_len + sizeof(int32_t), core->class == ELFCLASS64 ? 8 : 4);
}

static uint64_t notes_size(const struct core *core)
{
	const struct aior_image *image = core->image;
	uint64_t size = note_size(sizeof(AIOR_NOTE_NAME), table_size(image));

	for (size_t i = 0; i < image->thread_count; i++)
		size += note_size(sizeof("CORE"), status_size(core, &image->threads[i]));
	return size;
}

/* A word of the architecture's, low half first. */
static unsigned char *put_word(const struct core *core, unsigned char *at, uint64_t value)
{
	size_t size = core->class == ELFCLASS64 ? 8 : 4;

	memcpy(at, &value, size);
	return at + size;
}

static int put_thread(struct core *core, const struct aior_thread *thread)
{
	size_t size = status_size(core, thread);
	unsigned char *status = calloc(1, size), *at = status;
	int32_t signal = thread->stop_signal, tid = thread->tid;
	int16_t current = (int16_t)signal;

	if (!status)
		return -1;
	memcpy(at, &signal, sizeof(signal));        /* pr_info.si_signo */
	memcpy(at + 12, &current, sizeof(current)); /* pr_cursig */
	at = put_word(core, at + 16, thread->pending);
	at = put_word(core, at, thread->blocked);
	memcpy(at, &tid, sizeof(tid)); /* pr_pid */
	memcpy(status + regs_offset(core), thread->regs, thread->regs_len);
	put_note_header(core, "CORE", NT_PRSTATUS, size);
	put(core, status, size);
	pad(core, round_up(core->at, 4));
	free(status);
	return 0;
}

static void put_table(struct core *core)
{
	const struct aior_image *image = core->image;
	struct aior_table table = {
	    .abi = AIOR_ABI,
	    .size = sizeof(table),
	    .total = table_size(image),
	    .state = AIOR_TABLE_IMAGE,
	    .arch = image->arch,
	    .page_size = image->page_size,
	    .pid = (uint32_t)image->pid,
	    .rings = sizeof(table),
	    .ring_count = (uint32_t)image->ring_count,
	    .ring_stride = sizeof(struct aior_ring_record),
	    .polls = (uint32_t)table_size(image),
	    .poll_stride = sizeof(struct aior_poll_record),
	    .possible_cpus = image->possible_cpus,
	};

	memcpy(table.magic, AIOR_TABLE_MAGIC, sizeof(table.magic));
	put_note_header(core, AIOR_NOTE_NAME, AIOR_NOTE_TABLE, table_size(image));
	put(core, &table, sizeof(table));
	for (size_t i = 0; i < image->ring_count; i++) {
		const struct aior_ring *ring = &image->rings[i];
		struct aior_ring_record record = {
		    .addr = ring->addr,
		    .len = ring->len,
		    .staged = ring->addr,
		    .prot = ring->prot,
		    .head = ring->head,
		    .tail = ring->tail,
		};

		put(core, &record, sizeof(record));
	}
}

static uint32_t segment_flags(uint32_t prot)
{
	return (prot & PROT_READ ? PF_R : 0u) | (prot & PROT_WRITE ? PF_W : 0u) |
	       (prot & PROT_EXEC ? PF_X : 0u);
}

/* Where a header of the core's class is made. */
union elf_any {
	Elf64_Ehdr header;
	Elf64_Phdr segment;
	Elf64_Shdr section;
};

static void put_segment(struct core *core, Elf64_Phdr segment)
{
	union elf_any any;

	put(core, &any, aior_elf_segment(&any, core->class, segment));
}

/*
 * The ELF header, the section header that holds the number of segments where e_phnum cannot
 * (PN_XNUM, elf(5)), and the program headers. Returns where the first segment lies.
 */
static uint64_t put_headers(struct core *core)
{
	const struct aior_image *image = core->image;
	uint64_t segments = image->ring_count + 1, data;
	Elf64_Ehdr header = {.e_type = ET_CORE, .e_machine = core->machine, .e_flags = core->flags};
	Elf64_Shdr section = {.sh_size = 1, .sh_info = (Elf64_Word)segments};
	Elf64_Phdr segment = {.p_type = PT_NOTE, .p_align = 4, .p_filesz = notes_size(core)};
	union elf_any any;
	size_t header_size = aior_elf_header(&any, core->class, header);
	size_t section_size = aior_elf_section(&any, core->class, section);
	int is_extended = segments >= PN_XNUM;

	header.e_phoff = header_size + (is_extended ? section_size : 0);
	header.e_phnum = (Elf64_Half)(is_extended ? PN_XNUM : segments);
	header.e_shoff = is_extended ? header_size : 0;
	header.e_shnum = (Elf64_Half)is_extended;
	put(core, &any, aior_elf_header(&any, core->class, header));
	if (is_extended)
		put(core, &any, aior_elf_section(&any, core->class, section));
	segment.p_offset =
	    core->at + segments * aior_elf_segment(&any, core->class, (Elf64_Phdr){0});
	data = round_up(segment.p_offset + segment.p_filesz, image->page_size);
	put_segment(core, segment);
	segment.p_offset = data;
	for (size_t i = 0; i < image->ring_count; i++) {
		segment.p_type = PT_LOAD;
		segment.p_flags = segment_flags(image->rings[i].prot);
		segment.p_vaddr = image->rings[i].addr;
		segment.p_filesz = segment.p_memsz = image->rings[i].len;
		segment.p_align = image->page_size;
		put_segment(core, segment);
		segment.p_offset += segment.p_filesz;
	}
	return data;
}

static int put_core(struct core *core)
{
	uint64_t data = put_headers(core);

	for (size_t i = 0; i < core->image->thread_count; i++)
		if (put_thread(core, &core->image->threads[i]))
			return -1;
	put_table(core);
	pad(core, data);
	for (size_t i = 0; i < core->image->ring_count; i++)
		put(core, core->image->rings[i].content, core->image->rings[i].len);
	return 0;
}

static int cannot_write(const char *path, int err, struct aior_error *error)
{
	return aior_fail(error, err, "write", "%s cannot be written: %s", path, strerror(err));
}

/*
 * Where the file is to be. The folder is opened once, and the rest is done in there: whoever may change what leads to it
 * cannot have us write elsewhere. What the name itself leads to is never followed.
 */
struct place {
	const char *path; /* for messages */
	const char *name;
	int folder;
	char beside[NAME_MAX +
		    1]; /* the file's name, which becomes `name`; empty: it has none yet */
	sigset_t mask;  /* of signals, as the caller has it */
};

static int open_place(const char *path, struct place *place, struct aior_error *error)
{
	const char *slash = strrchr(path, '/');
	char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	struct stat there;
	int err;

	*place = (struct place){.path = path, .name = slash ? slash + 1 : path, .folder = -1};
	if (folder)
		place->folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	err = errno;
	free(folder);
	if (place->folder < 0)
		return cannot_write(path, err, error);
	if (*place->name && fstatat(place->folder, place->name, &there, AT_SYMLINK_NOFOLLOW))
		return 0;
	if (*place->name && S_ISREG(there.st_mode))
		return 0;
	close(place->folder);
	if (*place->name && S_ISLNK(there.st_mode))
		return aior_fail(error, EINVAL, "write",
		    "%s is a link, which is not followed: name the file that it leads to, or "
		    "remove it",
		    path);
	return aior_fail(
	    error, EINVAL, "write", "%s is there, and not a regular file: it is left alone", path);
}

/*
 * A name that nobody can have guessed: what is there by that name is none of ours. Signals wait from here on: one that
 * ended us would leave the file there.
 */
static int name_beside(struct place *place)
{
	uint64_t random;
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return -1;
	snprintf(place->beside, sizeof(place->beside), "%.200s.%016llx", place->name,
	    (unsigned long long)random);
	return 0;
}

/* One without a name, which nobody sees if we die; or where there are none such, one beside it. */
static int open_file(struct place *place)
{
	int fd = openat(place->folder, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600);

	if (fd >= 0)
		return fd;
	if (name_beside(place))
		return -1;
	return openat(place->folder, place->beside,
	    O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
}

/* Gives it a name that there is not yet: -1 and EEXIST, it is there. */
static int name_file(int fd, const struct place *place, const char *name)
{
	char own[64];

	snprintf(own, sizeof(own), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, own, place->folder, name, AT_SYMLINK_FOLLOW);
}

/* It takes the place of what has that name, which is not looked at: a link is replaced, and not followed. */
static int move_file(struct place *place)
{
	int err;

	if (!renameat(place->folder, place->beside, place->folder, place->name))
		return 0;
	err = errno;
	unlinkat(place->folder, place->beside, 0);
	errno = err;
	return -1;
}

static int publish(FILE *file, struct place *place)
{
	int fd = fileno(file);

	/* The umask may have taken bits that the owner needs. */
	if (fflush(file) || ferror(file) || fchmod(fd, 0600) || fdatasync(fd))
		return -1;
	if (*place->beside)
		return move_file(place);
	if (!name_file(fd, place, place->name))
		return 0;
	/* No name can be given to a file in the place of another one's: so it has one of its own for a moment. */
	if (errno != EEXIST || name_beside(place) || name_file(fd, place, place->beside))
		return -1;
	return move_file(place);
}

static int write_file(
    const struct aior_image *image, FILE *file, struct place *place, struct aior_error *error)
{
	const struct aior_arch_elf *elf = aior_arch_elf(image->arch);
	struct core core = {
	    .image = image,
	    .class = elf->class,
	    .machine = elf->machine,
	    .flags = elf->flags,
	    .file = file,
	};
	const int had_name = !!*place->beside;
	int err = 0;

	if (put_core(&core) || publish(file, place))
		err = errno;
	fclose(file);
	if (!err)
		return 0;
	if (had_name)
		unlinkat(place->folder, place->beside, 0);
	return cannot_write(place->path, err, error);
}

int aior_write_core(const struct aior_image *image, const char *path, struct aior_error *error)
{
	struct place place;
	FILE *file;
	int fd, ret;
	AIOR_UNCANCELLED;

	if (!aior_arch_name(image->arch))
		return aior_fail(error, EINVAL, "image", "its architecture is not known");
	if (aior_check_image(image, error) || open_place(path, &place, error))
		return -1;
	pthread_sigmask(SIG_BLOCK, NULL, &place.mask);
	fd = open_file(&place);
	file = fd < 0 ? NULL : fdopen(fd, "wb");
	if (file) {
		ret = write_file(image, file, &place, error);
	} else {
		ret = cannot_write(path, errno, error);
		if (fd >= 0)
			close(fd);
		if (fd >= 0 && *place.beside)
			unlinkat(place.folder, place.beside, 0);
	}
	close(place.folder);
	pthread_sigmask(SIG_SETMASK, &place.mask, NULL);
	return ret;
}
