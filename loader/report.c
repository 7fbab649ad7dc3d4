/* SPDX-License-Identifier: MIT */
/* What has been done. Kept out of the heap, which aior_stage_self() must not use. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

static uint64_t whole_pages(uint64_t bytes)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	return (bytes + page - 1) & ~(page - 1);
}

static uint64_t lost_bytes(uint64_t count)
{
	return whole_pages(count * sizeof(struct aior_lost_poll));
}

/* Memory for a list, which may be one of nothing. */
static int reserve(void **list, size_t *list_len, uint64_t len, const char *of, uint64_t most,
    void *hint, struct aior_error *error)
{
	void *at = MAP_FAILED;

	if (!len)
		return 0;
	errno = ENOMEM;
	if (len <= SIZE_MAX)
		at = mmap(
		    hint, (size_t)len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return aior_fail(error, errno, "memory",
		    "there is no memory for a list of %llu %s: %s", (unsigned long long)most, of,
		    aior_errno_text(errno));
	*list = at;
	*list_len = (size_t)len;
	return 0;
}

int aior_reserve_lost(struct aior_report *report, uint64_t most, struct aior_error *error)
{
	void *list = report->lost;
	int ret = reserve(&list, &report->lost_len, lost_bytes(most), "polls", most, NULL, error);

	report->lost = list;
	return ret;
}

int aior_reserve_no_room(
    struct aior_report *report, uint64_t most, void *hint, struct aior_error *error)
{
	void *list = NULL;
	int ret;

	if (report->no_room_len)
		munmap(report->no_room, report->no_room_len);
	report->no_room_len = report->no_room_count = 0;
	ret = reserve(&list, &report->no_room_len, whole_pages(most * sizeof(*report->no_room)),
	    "rings", most, hint, error);

	report->no_room = list;
	return ret;
}

void aior_trim_no_room(struct aior_report *report)
{
	size_t used = (size_t)whole_pages(report->no_room_count * sizeof(*report->no_room));

	if (used < report->no_room_len)
		munmap((char *)report->no_room + used, report->no_room_len - used);
	report->no_room_len = used;
	if (!used)
		report->no_room = NULL;
}

void aior_add_lost(struct aior_report *report, const struct aior_poll_record *poll, int err)
{
	report->lost[report->lost_count++] =
	    (struct aior_lost_poll){poll->ring, poll->iocb, poll->data, err};
}

void aior_trim_lost(struct aior_report *report)
{
	size_t used = (size_t)lost_bytes(report->lost_count);

	if (used < report->lost_len)
		munmap((char *)report->lost + used, report->lost_len - used);
	report->lost_len = used;
	if (!used)
		report->lost = NULL;
}

void aior_report_free(struct aior_report *report)
{
	if (report->lost_len)
		munmap(report->lost, report->lost_len);
	if (report->no_room_len)
		munmap(report->no_room, report->no_room_len);
	memset(report, 0, sizeof(*report));
}

void aior_report_restore(
    struct aior_report *report, const struct aior_table *table, const void *bytes)
{
	report->ring_count = table->ring_count;
	report->poll_count = table->poll_count;
	for (uint32_t i = 0; i < table->ring_count; i++) {
		const struct aior_ring_record *ring = aior_capsule_ring(table, bytes, i);

		report->pending +=
		    aio_ring_pending(ring->head, ring->tail, aio_ring_nr((uint32_t)ring->len));
	}
	for (uint32_t i = 0; i < table->poll_count; i++) {
		const struct aior_poll_record *poll = aior_capsule_poll(table, bytes, i);

		if (poll->flags & AIOR_POLL_LOST)
			aior_add_lost(report, poll, (int)poll->err);
	}
	aior_trim_lost(report);
}
