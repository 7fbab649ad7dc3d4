/* SPDX-License-Identifier: MIT */
/*
 * Reads rings out of folders of CRIU's images: https://criu.org/Images. An image is a magic number or two,
 * and messages, each behind its length; criu.proto has what is read of them. The memory itself is in
 * pages-N.img, page by page, and pagemap-PID.img says which page is where, or that it is where the
 * folder before this one has it, which `parent` leads to.
 *
 * Whoever made the folder may be an enemy: nothing of it is believed that was not compared with the
 * files' sizes, nothing is allocated that they do not hold, and no link but `parent` is followed.
 */
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "criu.h"
#include "criu.pb-c.h"
#include "file.h"
#include "internal.h"

/* criu/include/magic.h: what images begin with. */
#define MAGIC_COMMON 0x54564319u /* in front of the others, since version 2 */
#define MAGIC_INVENTORY 0x58313116u
#define MAGIC_CORE 0x55053847u
#define MAGIC_MM 0x57492820u
#define MAGIC_PAGEMAP 0x56084025u

#define NEWEST_VERSION 2u /* img_version: from 3 on, pages are compressed */

/* criu/include/image.h: the status of a vma. */
#define VMA_ANON_PRIVATE (1u << 9)
#define VMA_AIORING (1u << 13)

/* criu/include/pagemap.h: where an entry's pages are. */
#define PE_PARENT (1u << 0)
#define PE_LAZY (1u << 1)
#define PE_PRESENT (1u << 2)

/*
 * More than there are in any folder: bytes of a message (a vma takes some 60), and folders that are each
 * other's parents.
 */
#define MOST_MESSAGE (64u << 20)
#define MOST_LAYERS 1024

/* Architectures: core_entry.march, and user_x86_regs_mode, where there are two of one machine. */
static const struct {
	uint32_t machine, mode, arch, page_size; /* 0: not all have the same */
} machines[] = {
    {1, 1, AIOR_ARCH_X86_64, 4096},
    {1, 2, AIOR_ARCH_I386, 4096},
    {3, 1, AIOR_ARCH_AARCH64, 0},
    {8, 1, AIOR_ARCH_RISCV64, 4096},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Pages that lie behind each other, in memory and in the file. */
struct extent {
	uint64_t addr, end;
	uint64_t offset; /* in pages-N.img, if it is PE_PRESENT */
	uint32_t flags;
};

/* What a folder has of a process's memory. */
struct layer {
	char name[FILE_NAME], pages_name[FILE_NAME]; /* of the folder, and of pages-N.img */
	dev_t device;
	ino_t inode;
	struct file pages;
	struct extent *extents; /* in order of address */
	size_t count;
};

struct process {
	struct aior_memory memory;
	char name[FILE_NAME]; /* of the folder */
	int folder;
	uint32_t pid;
	struct layer *layers; /* the folder, its parent, ... */
	size_t layer_count;
	struct aior_image *image;
	struct aior_error *error;
};

/* ---- messages ---- */

struct messages {
	char name[FILE_NAME];
	struct file file;
	uint64_t at;
	struct aior_error *error;
};

#define bad(messages, ...) aior_fail_image((messages)->error, (messages)->name, __VA_ARGS__)

static const char *name_in(char name[FILE_NAME], const char *folder, const char *file)
{
	char path[FILE_NAME + 64];

	snprintf(path, sizeof(path), "%s/%s", folder, file);
	return file_name(name, path);
}

static uint32_t word_at(const struct messages *messages, uint64_t at)
{
	uint32_t word = 0;

	if (messages->file.size >= at + sizeof(word))
		memcpy(&word, messages->file.data + at, sizeof(word));
	return word;
}

/* Opens an image; `folder_name` is for messages. */
static int open_messages(struct messages *messages, int folder, const char *folder_name,
    const char *file, uint32_t magic, struct aior_error *error)
{
	messages->error = error;
	name_in(messages->name, folder_name, file);
	if (file_map(folder, file, O_NOFOLLOW, messages->name, &messages->file, error))
		return -1;
	messages->at = word_at(messages, 0) == MAGIC_COMMON ? sizeof(magic) : 0;
	if (word_at(messages, messages->at) != magic) {
		file_unmap(&messages->file);
		return bad(messages, "not an image of CRIU's, or one of another kind");
	}
	messages->at += sizeof(magic);
	return 0;
}

/* The next message: 1 and it, to be freed; or 0, there is none; or -1. */
static int next_message(
    struct messages *messages, const ProtobufCMessageDescriptor *descriptor, void *message_pointer)
{
	uint64_t left = messages->file.size - messages->at;
	ProtobufCMessage **message = message_pointer;
	uint32_t len;

	if (!left)
		return 0;
	if (left < sizeof(len))
		return bad(messages, "truncated");
	len = word_at(messages, messages->at);
	if (len > left - sizeof(len))
		return bad(messages, "truncated: it says that %u bytes follow, and has %llu", len,
		    (unsigned long long)(left - sizeof(len)));
	if (len > MOST_MESSAGE)
		return bad(messages, "has a message of %u bytes", len);
	*message = protobuf_c_message_unpack(
	    descriptor, NULL, len, messages->file.data + messages->at + sizeof(len));
	if (!*message)
		return bad(messages,
		    "damaged: what is at %llu is no %s, or there is no memory for it",
		    (unsigned long long)messages->at, descriptor->short_name);
	messages->at += sizeof(len) + len;
	return 1;
}

static void free_message(void *message)
{
	protobuf_c_message_free_unpacked(message, NULL);
}

/* The one message of an image. */
static int read_message(int folder, const char *folder_name, const char *file, uint32_t magic,
    const ProtobufCMessageDescriptor *descriptor, void *message, struct aior_error *error)
{
	struct messages messages;
	int ret;

	if (open_messages(&messages, folder, folder_name, file, magic, error))
		return -1;
	ret = next_message(&messages, descriptor, message);
	if (!ret)
		bad(&messages, "truncated: nothing is behind its magic number");
	file_unmap(&messages.file);
	return ret == 1 ? 0 : -1;
}

/* The same of a file of the process's own, whose name has its pid in it. */
static int read_own(const struct process *process, const char *kind, uint32_t magic,
    const ProtobufCMessageDescriptor *descriptor, void *message)
{
	char file[32];

	snprintf(file, sizeof(file), "%s-%u.img", kind, process->pid);
	return read_message(
	    process->folder, process->name, file, magic, descriptor, message, process->error);
}

/* ---- memory ---- */

static uint32_t flags_of(const Criu__PagemapEntry *entry)
{
	if (entry->has_in_parent && entry->in_parent)
		return PE_PARENT;
	return entry->has_flags ? entry->flags : PE_PRESENT;
}

/* Takes an entry of the pagemap in; `offset`, of the next page in the file, moves on. */
static int add_extent(struct messages *messages, struct layer *layer,
    const Criu__PagemapEntry *entry, uint64_t page, uint64_t *offset)
{
	uint64_t pages = entry->has_nr_pages ? entry->nr_pages : entry->compat_nr_pages;
	uint64_t addr = entry->vaddr,
		 last = layer->count ? layer->extents[layer->count - 1].end : 0;
	uint32_t flags = flags_of(entry);
	struct extent *extent;

	if (entry->base.n_unknown_fields || flags & ~(PE_PARENT | PE_LAZY | PE_PRESENT))
		return bad(messages,
		    "made by a newer CRIU, in a way that is not known here (compressed pages?): "
		    "`crit decompress` may help");
	if (addr % page || pages > (UINT64_MAX - addr) / page || addr < last ||
	    (flags & PE_PARENT && flags & PE_PRESENT))
		return bad(messages, "damaged: its entry for 0x%llx makes no sense",
		    (unsigned long long)addr);
	if (flags & PE_PRESENT && pages > (layer->pages.size - *offset) / page)
		return aior_fail_image(messages->error, layer->pages_name,
		    "truncated: it has %llu bytes, and its pagemap names more pages",
		    (unsigned long long)layer->pages.size);
	if (!(layer->count & (layer->count - 1))) {
		struct extent *larger = reallocarray(
		    layer->extents, layer->count ? 2 * layer->count : 1, sizeof(*larger));

		if (!larger)
			return aior_fail(messages->error, ENOMEM, "image",
			    "there is no memory for what it holds");
		layer->extents = larger;
	}
	extent = &layer->extents[layer->count++];
	*extent = (struct extent){addr, addr + pages * page, *offset, flags};
	if (flags & PE_PRESENT)
		*offset += pages * page;
	return 0;
}

static int read_extents(struct messages *messages, struct layer *layer, int folder, uint64_t page)
{
	char file[32];
	Criu__PagemapHead *head;
	Criu__PagemapEntry *entry;
	uint64_t offset = 0;
	int ret = next_message(messages, &criu__pagemap_head__descriptor, &head);

	if (ret != 1)
		return ret ? -1 : bad(messages, "truncated: nothing is behind its magic number");
	snprintf(file, sizeof(file), "pages-%u.img", head->pages_id);
	free_message(head);
	if (file_map(folder, file, O_NOFOLLOW, name_in(layer->pages_name, layer->name, file),
		&layer->pages, messages->error))
		return -1;
	while ((ret = next_message(messages, &criu__pagemap_entry__descriptor, &entry)) == 1) {
		ret = add_extent(messages, layer, entry, page, &offset);
		free_message(entry);
		if (ret)
			break;
	}
	return ret;
}

/* What a folder has of the process's memory. */
static int add_layer(struct process *process, int folder, const char *name)
{
	struct layer *layers =
	    reallocarray(process->layers, process->layer_count + 1, sizeof(*layers));
	struct messages messages;
	struct layer *layer;
	struct stat status;
	char file[32];
	int ret;

	if (!layers)
		return aior_fail(
		    process->error, ENOMEM, "image", "there is no memory for what it holds");
	process->layers = layers;
	layer = &layers[process->layer_count++];
	memset(layer, 0, sizeof(*layer));
	snprintf(layer->name, sizeof(layer->name), "%s", name);
	if (fstat(folder, &status))
		return aior_fail(
		    process->error, errno, "image", "%s: %s", layer->name, strerror(errno));
	layer->device = status.st_dev;
	layer->inode = status.st_ino;
	for (size_t i = 0; i + 1 < process->layer_count; i++)
		if (layers[i].device == layer->device && layers[i].inode == layer->inode)
			return aior_fail_image(
			    process->error, layers[0].name, "its `parent` links lead in a circle");
	snprintf(file, sizeof(file), "pagemap-%u.img", process->pid);
	if (open_messages(&messages, folder, layer->name, file, MAGIC_PAGEMAP, process->error))
		return -1;
	ret = read_extents(&messages, layer, folder, process->image->page_size);
	file_unmap(&messages.file);
	return ret;
}

static int needs_parent(const struct layer *layer)
{
	for (size_t i = 0; i < layer->count; i++)
		if (layer->extents[i].flags & PE_PARENT)
			return 1;
	return 0;
}

/* The folder, and its parents, as far as pages are left to them. */
static int read_layers(struct process *process)
{
	int folder = fcntl(process->folder, F_DUPFD_CLOEXEC, 0), err = errno, ret = 0;
	char name[FILE_NAME];

	snprintf(name, sizeof(name), "%s", process->name);
	while (folder >= 0 && !(ret = add_layer(process, folder, name)) &&
	       needs_parent(&process->layers[process->layer_count - 1])) {
		int parent = openat(folder, "parent", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		err = errno;
		name_in(name, process->layers[process->layer_count - 1].name, "parent");
		close(folder);
		folder = parent;
		if (process->layer_count == MOST_LAYERS) {
			ret = aior_fail_image(process->error, process->name,
			    "more than %d folders are each other's `parent`", MOST_LAYERS);
			break;
		}
	}
	if (folder < 0)
		return aior_fail(process->error, err, "image",
		    "%s: %s; pages are said to be where it leads, in the folder of the dump "
		    "before",
		    name, strerror(err));
	close(folder);
	for (size_t i = 0; i < process->layer_count; i++)
		process->memory.held += process->layers[i].pages.size;
	if (process->memory.held > AIOR_MOST_RING_BYTES)
		process->memory.held = AIOR_MOST_RING_BYTES;
	return ret;
}

/* The extent that ends behind `addr`: it holds it, or is the next one; NULL if there is none. */
static const struct extent *extent_at(const struct layer *layer, uint64_t addr)
{
	size_t low = 0, high = layer->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (layer->extents[middle].end <= addr)
			low = middle + 1;
		else
			high = middle;
	}
	return low < layer->count ? &layer->extents[low] : NULL;
}

static uint64_t not_held(struct process *process, uint64_t addr, const char *layer, const char *why)
{
	snprintf(process->memory.why, sizeof(process->memory.why), "%s: the page at 0x%llx %s",
	    layer, (unsigned long long)addr, why);
	return 0;
}

/*
 * Copies what lies at `addr`, as far as it lies together, at most `len` bytes; returns how many, or 0.
 * A page that no pagemap names has never been written to.
 */
static uint64_t copy_extent(struct process *process, void *to, uint64_t addr, uint64_t len)
{
	for (size_t i = 0; i < process->layer_count; i++) {
		const struct layer *layer = &process->layers[i];
		const struct extent *extent = extent_at(layer, addr);

		if (!extent || extent->addr > addr) {
			uint64_t until = extent ? extent->addr : UINT64_MAX;

			if (i)
				return not_held(process, addr, layer->name,
				    "is said to be there, and its pagemap does not name it");
			len = len < until - addr ? len : until - addr;
			memset(to, 0, (size_t)len);
			return len;
		}
		len = len < extent->end - addr ? len : extent->end - addr;
		if (extent->flags & PE_PARENT)
			continue;
		if (!(extent->flags & PE_PRESENT))
			return not_held(process, addr, layer->name,
			    "was left with the process: dump it without --lazy-pages");
		memcpy(to, layer->pages.data + extent->offset + (addr - extent->addr), (size_t)len);
		return len;
	}
	return not_held(process, addr, process->name, "is in none of its parents");
}

static int copy_saved(struct aior_memory *memory, void *to, uint64_t addr, uint64_t len)
{
	struct process *process = (struct process *)memory;
	char *at = to;

	if (len > UINT64_MAX - addr) {
		not_held(process, addr, process->name, "lies at the end of all memory");
		return -1;
	}
	for (uint64_t n; len; at += n, addr += n, len -= n) {
		n = copy_extent(process, at, addr, len);
		if (!n)
			return -1;
	}
	return 0;
}

/* ---- a process ---- */

static int read_arch(struct process *process, uint32_t *page_size)
{
	Criu__Core *core;
	uint32_t machine, mode = 1;

	if (read_own(process, "core", MAGIC_CORE, &criu__core__descriptor, &core))
		return -1;
	machine = core->mtype;
	if (core->thread_info && core->thread_info->gpregs && core->thread_info->gpregs->has_mode)
		mode = core->thread_info->gpregs->mode;
	free_message(core);
	for (size_t i = 0; i < COUNT(machines); i++)
		if (machines[i].machine == machine && machines[i].mode == mode) {
			process->image->arch = machines[i].arch;
			*page_size = machines[i].page_size;
			return 0;
		}
	return aior_fail_image(process->error, process->name,
	    "process %u is of a machine that is not known (core_entry.march %u, mode %u)",
	    process->pid, machine, mode);
}

/* The kernel tells each program how large pages are. */
static int read_page_size(struct process *process, const Criu__Mm *mm, uint32_t page_size)
{
	uint64_t said = page_size;

	for (size_t i = 0; i + 1 < mm->n_mm_saved_auxv; i += 2)
		if (mm->mm_saved_auxv[i] == AT_PAGESZ)
			said = mm->mm_saved_auxv[i + 1];
	if (said < 4096 || said > 65536 || said & (said - 1) || (page_size && said != page_size))
		return aior_fail_image(process->error, process->name,
		    "mm-%u.img says that pages have %llu bytes", process->pid,
		    (unsigned long long)said);
	process->image->page_size = (uint32_t)said;
	return 0;
}

static int by_start(const void *a, const void *b)
{
	uint64_t left = (*(Criu__Vma *const *)a)->start;
	uint64_t right = (*(Criu__Vma *const *)b)->start;

	return (left > right) - (left < right);
}

/* The rings that were live. */
static int read_live(struct process *process, const Criu__Mm *mm)
{
	for (size_t i = 0; i < mm->n_aios; i++) {
		const Criu__AioRing *ring = mm->aios[i];
		Criu__Vma key = {.start = ring->id}, *wanted = &key, **vma = NULL;

		if (mm->n_vmas)
			vma = bsearch(&wanted, mm->vmas, mm->n_vmas, sizeof(Criu__Vma *), by_start);
		if (!vma || !((*vma)->status & VMA_AIORING) ||
		    (*vma)->end - (*vma)->start != ring->ring_len)
			return aior_fail_ring(process->error, EINVAL, "image", ring->id,
			    "%s: mm-%u.img names it, and no mapping that could be it",
			    process->name, process->pid);
		if (aior_read_ring(&process->memory, ring->id, ring->ring_len, (*vma)->prot,
			AIOR_LIVE, process->error))
			return -1;
	}
	return 0;
}

/* Those that were staged: the capsule that names them is a mapping's beginning. */
static int find_staged(struct process *process, const Criu__Mm *mm)
{
	struct aior_capsule capsule = {.page_size = process->image->page_size};

	for (size_t i = 0; i < mm->n_vmas; i++) {
		const Criu__Vma *vma = mm->vmas[i];

		if (vma->status & VMA_ANON_PRIVATE && vma->prot & PROT_READ &&
		    vma->end > vma->start &&
		    aior_read_capsule_at(&process->memory, vma->start, vma->end - vma->start,
			vma->prot, &capsule, process->error))
			return -1;
	}
	return 0;
}

static int read_mm(struct process *process)
{
	uint32_t page_size = 0;
	Criu__Mm *mm;
	int ret;

	if (read_arch(process, &page_size) ||
	    read_own(process, "mm", MAGIC_MM, &criu__mm__descriptor, &mm))
		return -1;
	ret = read_page_size(process, mm, page_size);
	if (mm->n_vmas)
		qsort(mm->vmas, mm->n_vmas, sizeof(Criu__Vma *), by_start);
	if (!ret)
		ret = read_layers(process);
	if (!ret)
		ret = read_live(process, mm);
	if (!ret)
		ret = find_staged(process, mm);
	free_message(mm);
	return ret;
}

static int read_process(
    int folder, const char *name, uint32_t pid, struct aior_image *image, struct aior_error *error)
{
	struct process process = {
	    .memory = {.image = image, .copy = copy_saved},
	    .folder = folder,
	    .pid = pid,
	    .image = image,
	    .error = error,
	};
	int ret;

	memset(image, 0, sizeof(*image));
	image->pid = (pid_t)pid;
	snprintf(process.name, sizeof(process.name), "%s", name);
	process.memory.name = process.name;
	ret = read_mm(&process);
	if (!ret)
		ret = aior_sort_rings(image, error);
	for (size_t i = 0; i < process.layer_count; i++) {
		file_unmap(&process.layers[i].pages);
		free(process.layers[i].extents);
	}
	free(process.layers);
	if (ret)
		aior_image_free(image);
	return ret;
}

/* ---- the folder ---- */

/* The pid that mm-PID.img is named by; 0 if the name is another. */
static uint32_t pid_of(const char *name)
{
	char again[32];
	unsigned pid;

	if (sscanf(name, "mm-%9u.img", &pid) != 1)
		return 0;
	snprintf(again, sizeof(again), "mm-%u.img", pid);
	return strcmp(name, again) ? 0 : pid;
}

static int by_pid(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

	return (left > right) - (left < right);
}

/* The pids of the processes that the folder has memory of; to be freed. */
static int list_pids(
    int folder, const char *name, uint32_t **pids, size_t *count, struct aior_error *error)
{
	int fd = fcntl(folder, F_DUPFD_CLOEXEC, 0);
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *file;

	*pids = NULL;
	*count = 0;
	if (!stream) {
		int err = errno;

		if (fd >= 0)
			close(fd);
		return aior_fail(error, err, "image", "%s: %s", name, strerror(err));
	}
	while ((file = readdir(stream))) {
		uint32_t pid = pid_of(file->d_name), *larger;

		if (!pid)
			continue;
		larger = *count & (*count - 1)
			     ? *pids
			     : reallocarray(*pids, *count ? 2 * *count : 1, sizeof(**pids));
		if (!larger) {
			closedir(stream);
			return aior_fail(
			    error, ENOMEM, "image", "there is no memory for what it holds");
		}
		*pids = larger;
		(*pids)[(*count)++] = pid;
	}
	closedir(stream);
	if (!*count)
		return aior_fail_image(error, name,
		    "has no mm-PID.img: a pre-dump's folder has no more than pages, and the dump's "
		    "own folder is to be named");
	qsort(*pids, *count, sizeof(**pids), by_pid);
	return 0;
}

/* Whether the folder is one of CRIU's, and as it is known here. */
static int check_inventory(int folder, const char *name, struct aior_error *error)
{
	Criu__Inventory *inventory;
	uint32_t version;

	if (faccessat(folder, "inventory.img", F_OK, AT_SYMLINK_NOFOLLOW) && errno == ENOENT)
		return aior_fail_image(
		    error, name, "a folder, and none of CRIU's images: it has no inventory.img");
	if (read_message(folder, name, "inventory.img", MAGIC_INVENTORY,
		&criu__inventory__descriptor, &inventory, error))
		return -1;
	version = inventory->img_version;
	free_message(inventory);
	if (version && version <= NEWEST_VERSION)
		return 0;
	return aior_fail_image(error, name,
	    "its images are of version %u, and this release knows versions up to %u (pages that "
	    "are "
	    "compressed: `crit decompress` makes others of them)",
	    version, NEWEST_VERSION);
}

static int read_folder(int folder, const char *name, struct aior_image **images, size_t *count,
    struct aior_error *error)
{
	uint32_t *pids = NULL;
	size_t total = 0;
	int ret = check_inventory(folder, name, error);

	if (!ret)
		ret = list_pids(folder, name, &pids, &total, error);
	if (!ret) {
		*images = calloc(total, sizeof(**images));
		if (!*images)
			ret = aior_fail(
			    error, ENOMEM, "image", "there is no memory for what it holds");
	}
	for (; !ret && *count < total; *count += !ret)
		ret = read_process(folder, name, pids[*count], &(*images)[*count], error);
	free(pids);
	return ret;
}

int criu_read(const char *path, struct aior_image **images, size_t *count, struct aior_error *error)
{
	int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret;
	char name[FILE_NAME];

	*images = NULL;
	*count = 0;
	file_name(name, path);
	if (folder < 0)
		return aior_fail(error, errno, "image", "%s: %s", name, strerror(errno));
	ret = read_folder(folder, name, images, count, error);
	close(folder);
	if (!ret)
		return 0;
	for (size_t i = 0; i < *count; i++)
		aior_image_free(&(*images)[i]);
	free(*images);
	*images = NULL;
	*count = 0;
	return ret;
}
