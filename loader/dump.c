/* SPDX-License-Identifier: MIT */
/*
 * Writes an image as an ELF core; elf(5), core(5). A PT_NOTE with each thread's NT_PRSTATUS and our
 * own table of the rings, then a PT_LOAD for each ring.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/procfs.h>
#include <sys/stat.h>
#include <unistd.h>

#include "arch.h"
#include "internal.h"

struct core {
	const struct aior_image *image;
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

static uint64_t notes_size(const struct aior_image *image)
{
	return image->thread_count * note_size(sizeof("CORE"), sizeof(struct elf_prstatus)) +
	       note_size(sizeof(AIOR_NOTE_NAME), table_size(image));
}

static void put_threads(struct core *core)
{
	for (size_t i = 0; i < core->image->thread_count; i++) {
		const struct aior_thread *thread = &core->image->threads[i];
		struct elf_prstatus status = {
		    .pr_info.si_signo = thread->stop_signal,
		    .pr_cursig = (short)thread->stop_signal,
		    .pr_sigpend = thread->pending,
		    .pr_sighold = thread->blocked,
		    .pr_pid = thread->tid,
		};
		size_t len = sizeof(status.pr_reg);

		memcpy(
		    &status.pr_reg, thread->regs, thread->regs_len < len ? thread->regs_len : len);
		put_note_header(core, "CORE", NT_PRSTATUS, sizeof(status));
		put(core, &status, sizeof(status));
		pad(core, round_up(core->at, 4));
	}
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

/*
 * The ELF header, the section header that holds the number of segments where e_phnum cannot
 * (PN_XNUM, elf(5)), and the program headers. Returns where the first segment lies.
 */
static uint64_t put_headers(struct core *core)
{
	const struct aior_image *image = core->image;
	uint64_t segments = image->ring_count + 1, headers, data;
	int is_extended = segments >= PN_XNUM;
	Elf64_Ehdr header = {
	    .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
	    .e_type = ET_CORE,
	    .e_machine = HOST_MACHINE,
	    .e_version = EV_CURRENT,
	    .e_phoff = sizeof(header) + (is_extended ? sizeof(Elf64_Shdr) : 0),
	    .e_ehsize = sizeof(header),
	    .e_phentsize = sizeof(Elf64_Phdr),
	    .e_phnum = (Elf64_Half)(is_extended ? PN_XNUM : segments),
	};
	Elf64_Phdr phdr = {.p_type = PT_NOTE, .p_align = 4};

	if (is_extended) {
		header.e_shoff = sizeof(header);
		header.e_shentsize = sizeof(Elf64_Shdr);
		header.e_shnum = 1;
	}
	put(core, &header, sizeof(header));
	if (is_extended) {
		Elf64_Shdr shdr = {.sh_size = 1, .sh_info = (Elf64_Word)segments};

		put(core, &shdr, sizeof(shdr));
	}
	headers = core->at + segments * sizeof(phdr);
	phdr.p_offset = headers;
	phdr.p_filesz = notes_size(image);
	put(core, &phdr, sizeof(phdr));
	data = round_up(headers + phdr.p_filesz, image->page_size);
	phdr.p_offset = data;
	for (size_t i = 0; i < image->ring_count; i++) {
		phdr.p_type = PT_LOAD;
		phdr.p_flags = segment_flags(image->rings[i].prot);
		phdr.p_vaddr = image->rings[i].addr;
		phdr.p_filesz = phdr.p_memsz = image->rings[i].len;
		phdr.p_align = image->page_size;
		put(core, &phdr, sizeof(phdr));
		phdr.p_offset += phdr.p_filesz;
	}
	return data;
}

static void put_core(struct core *core)
{
	uint64_t data = put_headers(core);

	put_threads(core);
	put_table(core);
	pad(core, data);
	for (size_t i = 0; i < core->image->ring_count; i++)
		put(core, core->image->rings[i].content, core->image->rings[i].len);
}

static int cannot_write(const char *path, int err, struct aior_error *error)
{
	return aior_fail(error, err, "write", "%s cannot be written: %s", path, strerror(err));
}

/* Writes to `file`, made beside `path` under the name `beside`, and gives it that name. */
static int write_and_rename(const struct aior_image *image, FILE *file, const char *beside,
    const char *path, struct aior_error *error)
{
	struct core core = {.image = image, .file = file};
	int err;

	put_core(&core);
	/* The umask may have taken bits that the owner needs. */
	if (fflush(file) || ferror(file) || fchmod(fileno(file), 0600) || fdatasync(fileno(file)) ||
	    rename(beside, path)) {
		err = errno;
		fclose(file);
		unlink(beside);
		return cannot_write(path, err, error);
	}
	fclose(file);
	return 0;
}

int aior_write_core(const struct aior_image *image, const char *path, struct aior_error *error)
{
	struct stat there;
	char *beside;
	FILE *file;
	int fd, ret;

	if (image->arch != aior_host_arch())
		return aior_refuse(error,
		    "process %d is not a program of this host's own architecture: such a process "
		    "is not dumped",
		    (int)image->pid);
	if (aior_check_image(image, error))
		return -1;
	if (!stat(path, &there) && !S_ISREG(there.st_mode))
		return aior_fail(error, EINVAL, "write",
		    "%s is there, and not a regular file: it is left alone", path);
	if (asprintf(&beside, "%s.XXXXXX", path) < 0)
		return aior_fail(error, ENOMEM, "write", "out of memory");
	fd = mkostemp(beside, O_CLOEXEC);
	file = fd < 0 ? NULL : fdopen(fd, "wb");
	if (!file) {
		ret = cannot_write(path, errno, error);
		if (fd >= 0) {
			close(fd);
			unlink(beside);
		}
	} else {
		ret = write_and_rename(image, file, beside, path, error);
	}
	free(beside);
	return ret;
}
