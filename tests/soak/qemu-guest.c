/* SPDX-License-Identifier: MIT */
/*
 * What tests/soak/qemu.pm runs inside QEMU: no more than a machine's own program, which drives its
 * disks (virtio-blk, legacy) with many requests in flight. Each block says whose it is and which
 * write it is of, so that a read shows lost, torn, late and misplaced writes. It takes completions
 * only after an interrupt; one that does not come, and one that comes twice, end it.
 *
 * It says "running", works until it is sent a byte on the serial port, reads all it has ever
 * written, says "all right: ...", and ends QEMU with status 33. Whatever is wrong it says after
 * "wrong:", and ends QEMU with status 35.
 *
 * On its command line "flush" makes it flush first of all, and now and then.
 */
#include <stdbool.h>
#include <stdint.h>

#define MOST_DISKS 4
#define MOST_BLOCKS 4096 /* of a disk: the rest of a larger one is left alone */
#define BLOCK 4096u
#define WORDS (BLOCK / 4)
#define REQUESTS 24 /* in flight on a disk */
#define MOST_OF_A_REQUEST 8
#define DESCRIPTORS (MOST_OF_A_REQUEST + 2)
#define MOST_OF_A_QUEUE 256
#define POISON 0xbadbadbau

#define TICKS 100 /* a second */
/* They stand while the machine does, and those that were missed are not made up for. */
#define PATIENCE (60 * TICKS)

/* ---- the machine ---- */

#define COM1 0x3f8
#define PIC 0x20
#define PIC2 0xa0
#define PIT 0x40
#define EXIT 0xf4 /* -device isa-debug-exit,iobase=0xf4 */
#define FIRST_VECTOR 0x20

static void out8(uint16_t port, uint8_t value)
{
	asm volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static void out16(uint16_t port, uint16_t value)
{
	asm volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static void out32(uint16_t port, uint32_t value)
{
	asm volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static uint8_t in8(uint16_t port)
{
	uint8_t value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static uint16_t in16(uint16_t port)
{
	uint16_t value;

	asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static uint32_t in32(uint16_t port)
{
	uint32_t value;

	asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

/* It must lie in the first 8 KiB, which are code. */
asm(".section .text.startup, \"ax\"\n"
    ".balign 4\n"
    ".long 0x1badb002, 3, -(0x1badb002 + 3)\n"
    ".globl _start\n"
    "_start:\n"
    "	movl $stack_end, %esp\n"
    "	pushl %ebx\n"
    "	call run\n"
    ".previous\n"
    ".section .bss\n"
    ".balign 16\n"
    ".skip 16384\n"
    "stack_end:\n"
    ".previous\n");

/* The compiler may make calls of these. */
void *memset(void *at, int value, unsigned long length)
{
	for (volatile uint8_t *p = at; length--; p++)
		*p = value;
	return at;
}

void *memcpy(void *to, const void *from, unsigned long length)
{
	volatile uint8_t *p = to;

	for (const uint8_t *q = from; length--;)
		*p++ = *q++;
	return to;
}

/* ---- what it says ---- */

static void say_char(char c)
{
	while (!(in8(COM1 + 5) & 0x20))
		;
	out8(COM1, c);
}

static void say(const char *text)
{
	while (*text)
		say_char(*text++);
}

static void say_number(uint32_t number)
{
	char digits[11];
	int i = sizeof(digits) - 1;

	digits[i] = '\0';
	do {
		digits[--i] = '0' + number % 10;
	} while (number /= 10);
	say(digits + i);
}

/* TEXT, where each % is the next number. */
static void say_with(const char *text, const uint32_t *numbers)
{
	for (; *text; text++) {
		if (*text == '%')
			say_number(*numbers++);
		else
			say_char(*text);
	}
	say_char('\n');
}

/* QEMU ends with 2 * CODE + 1. */
static void end(uint8_t code)
{
	while (!(in8(COM1 + 5) & 0x40))
		;
	out8(EXIT, code);
	for (;;)
		asm volatile("cli; hlt");
}

#define SAY(text, ...) say_with(text, (const uint32_t[]){__VA_ARGS__})
#define WRONG(...) (say("wrong: "), SAY(__VA_ARGS__), end(17))

/* ---- disks ---- */

/* The legacy device's registers, and its ring: Virtual I/O Device (VIRTIO) 1.1, 4.1.4.8 and 2.6. */
enum {
	GUEST_FEATURES = 4,
	QUEUE_ADDRESS = 8,
	QUEUE_SIZE = 12,
	QUEUE_SELECT = 14,
	QUEUE_NOTIFY = 16,
	DEVICE_STATUS = 18,
	INTERRUPT_STATUS = 19,
	CAPACITY = 20,
};
#define FEATURE_FLUSH (1u << 9)

struct descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t flags, next;
};
enum { NEXT = 1, DEVICE_WRITES = 2 };

struct used_ring {
	uint16_t flags, index;
	struct {
		uint32_t id, length;
	} ring[];
};

enum kind { READ = 0, WRITE = 1, FLUSH = 4 };

struct header {
	uint32_t kind, unused;
	uint64_t sector;
};

struct request {
	bool is_in_flight;
	volatile uint8_t status;
	uint32_t begun, block, count;
	struct header header;
};

struct disk {
	uint16_t port;
	uint8_t line;
	volatile bool has_interrupt;
	uint32_t blocks, in_flight;
	uint16_t size, reaped;
	struct descriptor *table;
	volatile uint16_t *available; /* flags, index, ring */
	volatile struct used_ring *used;
	uint32_t written, read, flushed;
	struct request requests[REQUESTS];
	uint32_t sequence[MOST_BLOCKS]; /* of its last write; 0: none yet */
	bool is_busy[MOST_BLOCKS];
};

static struct disk disks[MOST_DISKS];
static unsigned disk_count;
static _Alignas(4096) uint8_t queues[MOST_DISKS][4 * 4096];
static _Alignas(4096) uint32_t buffers[MOST_DISKS][REQUESTS][MOST_OF_A_REQUEST][WORDS];

static volatile uint32_t ticks;
static bool has_flushes;

static uint32_t random_below(uint32_t limit)
{
	static uint32_t state = 2463534242;

	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state % limit;
}

static uint32_t number_of(const struct disk *disk)
{
	return disk - disks;
}

/* ---- what is in a block ---- */

static uint32_t first_word(const struct disk *disk, uint32_t block, uint32_t sequence)
{
	return (block * 2654435761u ^ sequence) + number_of(disk) * 40503u;
}

static void fill(uint32_t *words, const struct disk *disk, uint32_t block, uint32_t sequence)
{
	uint32_t word = first_word(disk, block, sequence);

	words[0] = number_of(disk);
	words[1] = block;
	words[2] = sequence;
	for (unsigned i = 3; i < WORDS; i++)
		words[i] = word += 0x9e3779b9;
}

static void verify(const uint32_t *words, const struct disk *disk, uint32_t block)
{
	uint32_t sequence = disk->sequence[block];
	uint32_t word = first_word(disk, block, sequence);

	if (words[0] != number_of(disk) || words[1] != block || words[2] != sequence)
		WRONG("disk %, block %, write %: it holds that of disk %, block %, write %",
		    number_of(disk), block, sequence, words[0], words[1], words[2]);
	for (unsigned i = 3; i < WORDS; i++)
		if (words[i] != (word += 0x9e3779b9))
			WRONG("disk %, block %, write %: word % is another", number_of(disk), block,
			    sequence, i);
}

/* ---- requests ---- */

/* The descriptors of a request: its header, its blocks one by one, its status. */
static void describe(struct disk *disk, unsigned index)
{
	struct request *request = &disk->requests[index];
	unsigned first = index * DESCRIPTORS, last = first + request->count + 1;
	uint16_t direction = request->header.kind == READ ? DEVICE_WRITES : 0;

	for (unsigned i = first; i <= last; i++)
		disk->table[i] = (struct descriptor){
		    .address = (uintptr_t)buffers[number_of(disk)][index][i - first - 1],
		    .length = BLOCK,
		    .flags = NEXT | direction,
		    .next = i + 1,
		};
	disk->table[first].address = (uintptr_t)&request->header;
	disk->table[first].length = sizeof(request->header);
	disk->table[first].flags = NEXT;
	disk->table[last].address = (uintptr_t)&request->status;
	disk->table[last].length = 1;
	disk->table[last].flags = DEVICE_WRITES;
}

static void submit(
    struct disk *disk, unsigned index, enum kind kind, uint32_t block, uint32_t count)
{
	struct request *request = &disk->requests[index];

	request->is_in_flight = true;
	request->status = 0xff;
	request->begun = ticks;
	request->block = block;
	request->count = count;
	request->header = (struct header){.kind = kind, .sector = (uint64_t)block * (BLOCK / 512)};
	for (uint32_t i = 0; i < count; i++) {
		uint32_t *words = buffers[number_of(disk)][index][i];

		disk->is_busy[block + i] = true;
		if (kind == WRITE)
			fill(words, disk, block + i, ++disk->sequence[block + i]);
		else
			words[0] = words[WORDS / 2] = words[WORDS - 1] = POISON;
	}
	describe(disk, index);
	disk->available[2 + disk->available[1] % disk->size] = index * DESCRIPTORS;
	__sync_synchronize();
	disk->available[1]++;
	disk->in_flight++;
}

static void complete(struct disk *disk, uint32_t id, uint32_t length)
{
	unsigned index = id / DESCRIPTORS;
	struct request *request = &disk->requests[index];
	uint32_t wanted = 1;

	if (id % DESCRIPTORS || index >= REQUESTS || !request->is_in_flight)
		WRONG("disk %: a completion of %, which is not in flight", number_of(disk), id);
	if (request->status)
		WRONG("disk %: status % of a request of kind % for % blocks at %", number_of(disk),
		    request->status, request->header.kind, request->count, request->block);
	if (request->header.kind == READ)
		wanted += request->count * BLOCK;
	if (length != wanted)
		WRONG("disk %: % bytes, not %", number_of(disk), length, wanted);
	for (uint32_t i = 0; i < request->count; i++) {
		disk->is_busy[request->block + i] = false;
		if (request->header.kind == READ)
			verify(buffers[number_of(disk)][index][i], disk, request->block + i);
	}
	if (request->header.kind == WRITE)
		disk->written += request->count;
	else if (request->header.kind == READ)
		disk->read += request->count;
	else
		disk->flushed++;
	request->is_in_flight = false;
	disk->in_flight--;
}

static void reap(struct disk *disk)
{
	while (disk->reaped != disk->used->index) {
		__sync_synchronize();
		unsigned at = disk->reaped++ % disk->size;
		uint32_t id = disk->used->ring[at].id, length = disk->used->ring[at].length;

		complete(disk, id, length);
	}
}

static int free_request(const struct disk *disk)
{
	for (int i = 0; i < REQUESTS; i++)
		if (!disk->requests[i].is_in_flight)
			return i;
	return -1;
}

/* How many blocks from there on, at most, nothing is in flight for; and, to be read, which hold something. */
static uint32_t free_blocks(const struct disk *disk, uint32_t block, uint32_t most, bool is_read)
{
	uint32_t count = 0;

	while (count < most && block + count < disk->blocks && !disk->is_busy[block + count] &&
	       (!is_read || disk->sequence[block + count]))
		count++;
	return count;
}

static bool submit_any(struct disk *disk)
{
	int index = free_request(disk);

	if (index < 0)
		return false;
	if (has_flushes && (!disk->available[1] || !random_below(64))) {
		submit(disk, index, FLUSH, 0, 0);
		return true;
	}
	uint32_t block = random_below(disk->blocks);
	bool is_read = disk->sequence[block] && random_below(2);
	uint32_t count = free_blocks(disk, block, 1 + random_below(MOST_OF_A_REQUEST), is_read);

	if (count)
		submit(disk, index, is_read ? READ : WRITE, block, count);
	return true;
}

static void notify(struct disk *disk)
{
	__sync_synchronize();
	out16(disk->port + QUEUE_NOTIFY, 0);
}

static void check_times(const struct disk *disk)
{
	for (unsigned i = 0; i < REQUESTS; i++) {
		const struct request *request = &disk->requests[i];

		if (request->is_in_flight && ticks - request->begun > PATIENCE)
			WRONG(
			    "disk %: a request of kind % for % blocks at % does not complete (% of "
			    "% completions were taken)",
			    number_of(disk), request->header.kind, request->count, request->block,
			    disk->reaped, disk->used->index);
	}
}

/* ---- interrupts ---- */

struct frame;

__attribute__((interrupt)) static void on_tick(struct frame *frame)
{
	(void)frame;
	ticks++;
	out8(PIC, 0x20);
}

/*
 * A device takes its interrupt back when it is asked for it. So the one of another disk may come
 * when nothing is left of it, as a spurious one of the second PIC: in service in the first one only.
 */
__attribute__((interrupt)) static void on_disk(struct frame *frame)
{
	(void)frame;
	for (unsigned i = 0; i < disk_count; i++)
		if (in8(disks[i].port + INTERRUPT_STATUS) & 1)
			disks[i].has_interrupt = true;
	out8(PIC2, 0x20);
	out8(PIC, 0x20);
}

__attribute__((interrupt)) static void on_fault(struct frame *frame)
{
	(void)frame;
	WRONG("a fault of the processor");
}

/* The first PIC's own spurious one, which is not in service. */
__attribute__((interrupt)) static void on_nothing(struct frame *frame)
{
	(void)frame;
}

static uint64_t gdt[] = {0, 0x00cf9a000000ffff, 0x00cf92000000ffff};
static uint64_t idt[FIRST_VECTOR + 16];
struct __attribute__((packed)) table {
	uint16_t limit;
	uint32_t address;
};

static void set_gate(unsigned vector, void (*handler)(struct frame *))
{
	uint32_t address = (uintptr_t)handler;

	idt[vector] = (uint64_t)(address >> 16) << 48 | 0x8e0000080000 | (address & 0xffff);
}

static void set_interrupts(void)
{
	struct table gdt_at = {sizeof(gdt) - 1, (uintptr_t)gdt};
	struct table idt_at = {sizeof(idt) - 1, (uintptr_t)idt};
	uint16_t lines = 1 << 0 | 1 << 2;

	for (unsigned i = 0; i < sizeof(idt) / sizeof(idt[0]); i++)
		set_gate(i, i < FIRST_VECTOR       ? on_fault
			    : i < FIRST_VECTOR + 8 ? on_nothing
						   : on_disk);
	set_gate(FIRST_VECTOR, on_tick);
	for (unsigned i = 0; i < disk_count; i++)
		lines |= 1 << disks[i].line;
	asm volatile("lgdt %0; ljmp $8, $1f; 1: mov %2, %%ds; mov %2, %%es; mov %2, %%ss; lidt %1"
		     :
		     : "m"(gdt_at), "m"(idt_at), "r"(16)
		     : "memory");
	for (unsigned i = 0; i < 2; i++) {
		uint16_t pic = i ? PIC2 : PIC;

		out8(pic, 0x11);
		out8(pic + 1, FIRST_VECTOR + 8 * i);
		out8(pic + 1, i ? 2 : 4);
		out8(pic + 1, 1);
		out8(pic + 1, ~lines >> 8 * i);
	}
	out8(PIT + 3, 0x34);
	out8(PIT, 1193182 / TICKS & 0xff);
	out8(PIT, 1193182 / TICKS >> 8);
	asm volatile("sti");
}

/* ---- finding disks ---- */

static uint32_t pci_address(unsigned slot, unsigned offset)
{
	return 0x80000000 | slot << 11 | offset;
}

static uint32_t pci_read(unsigned slot, unsigned offset)
{
	out32(0xcf8, pci_address(slot, offset));
	return in32(0xcfc);
}

static void pci_write(unsigned slot, unsigned offset, uint32_t value)
{
	out32(0xcf8, pci_address(slot, offset));
	out32(0xcfc, value);
}

static void set_up_disk(unsigned slot)
{
	struct disk *disk = &disks[disk_count];
	uint8_t *queue = queues[disk_count++];

	pci_write(slot, 4,
	    (pci_read(slot, 4) & 0xffff) | 1 | 4); /* its ports, and its own reads and writes */
	disk->port = pci_read(slot, 0x10) & ~3u;
	disk->line = pci_read(slot, 0x3c) & 0xff;
	if (disk->line < 8 || disk->line > 15)
		WRONG("disk % has the interrupt %", number_of(disk), disk->line);
	out8(disk->port + DEVICE_STATUS, 0);
	out8(disk->port + DEVICE_STATUS, 1 | 2);
	/* With a disk that is never told to flush, QEMU does it after each write. */
	if (!(in32(disk->port) & FEATURE_FLUSH))
		WRONG("disk % does not flush", number_of(disk));
	out32(disk->port + GUEST_FEATURES, FEATURE_FLUSH);
	out16(disk->port + QUEUE_SELECT, 0);
	disk->size = in16(disk->port + QUEUE_SIZE);
	if (disk->size > MOST_OF_A_QUEUE || disk->size < REQUESTS * DESCRIPTORS)
		WRONG("disk % has a queue of %", number_of(disk), disk->size);
	disk->table = (void *)queue;
	disk->available = (void *)(queue + 16 * disk->size);
	disk->used = (void *)(queue + ((18 * disk->size + 6 + 4095) & ~4095));
	out32(disk->port + QUEUE_ADDRESS, (uintptr_t)queue / 4096);
	disk->blocks = in32(disk->port + CAPACITY) / (BLOCK / 512);
	if (disk->blocks > MOST_BLOCKS)
		disk->blocks = MOST_BLOCKS;
}

static void find_disks(void)
{
	for (unsigned slot = 0; slot < 32 && disk_count < MOST_DISKS; slot++)
		if (pci_read(slot, 0) == 0x10011af4)
			set_up_disk(slot);
	if (!disk_count)
		WRONG("there is no disk");
	set_interrupts();
	for (unsigned i = 0; i < disk_count; i++)
		out8(disks[i].port + DEVICE_STATUS, 1 | 2 | 4);
}

/* ---- work ---- */

/* Sleeps until something comes, and takes it. */
static void wait_for_any(void)
{
	bool has_any = false;

	asm volatile("cli" : : : "memory");
	for (unsigned i = 0; i < disk_count; i++)
		has_any |= disks[i].has_interrupt;
	if (has_any)
		asm volatile("sti" : : : "memory");
	else
		asm volatile("sti; hlt" : : : "memory");
	for (unsigned i = 0; i < disk_count; i++) {
		if (disks[i].has_interrupt) {
			disks[i].has_interrupt = false;
			reap(&disks[i]);
		}
		check_times(&disks[i]);
	}
}

static void drain(struct disk *disk)
{
	while (disk->in_flight)
		wait_for_any();
}

/* Until a byte comes. Many at a time or few, as it comes: a notification for each few. */
static void work(void)
{
	while (!(in8(COM1 + 5) & 1)) {
		for (unsigned i = 0; i < disk_count; i++) {
			uint32_t few = random_below(REQUESTS);

			while (few-- && submit_any(&disks[i]))
				;
			notify(&disks[i]);
		}
		wait_for_any();
	}
}

static void read_all(struct disk *disk)
{
	for (uint32_t block = 0; block < disk->blocks;) {
		uint32_t count = free_blocks(disk, block, MOST_OF_A_REQUEST, true);

		while (count && free_request(disk) < 0)
			wait_for_any();
		if (count) {
			submit(disk, free_request(disk), READ, block, count);
			notify(disk);
		}
		block += count ? count : 1;
	}
	drain(disk);
}

/* Whether a word is on the command line that QEMU gives a multiboot program. */
static bool is_asked_for(const uint32_t *information, const char *word)
{
	const char *at = (const char *)(uintptr_t)information[4];

	for (; information[0] & 4 && *at; at++) {
		unsigned i = 0;

		while (word[i] && at[i] == word[i])
			i++;
		if (!word[i] && at[-1] == ' ')
			return true;
	}
	return false;
}

__attribute__((used, noreturn)) void run(const uint32_t *information)
{
	uint32_t written = 0, read = 0, flushed = 0;

	has_flushes = is_asked_for(information, "flush");
	find_disks();
	say("running\n");
	work();
	for (unsigned i = 0; i < disk_count; i++)
		drain(&disks[i]);
	for (unsigned i = 0; i < disk_count; i++)
		read_all(&disks[i]);
	/* What comes twice may come late. */
	for (uint32_t begun = ticks; ticks - begun < TICKS / 5;)
		wait_for_any();
	for (unsigned i = 0; i < disk_count; i++) {
		if (disks[i].used->index != disks[i].available[1])
			WRONG("disk %: % completions of % requests", i, disks[i].used->index,
			    disks[i].available[1]);
		written += disks[i].written;
		read += disks[i].read;
		flushed += disks[i].flushed;
	}
	SAY("all right: % blocks written, % read, % flushes, % disks", written, read, flushed,
	    disk_count);
	end(16);
	__builtin_unreachable();
}
