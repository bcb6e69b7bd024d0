/* What both comparators need: EAL without reserved huge pages, a file in memory, time, memory, answers as JSON lines. */
#pragma once
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>
#include <rte_malloc.h>
#include <rte_memory.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "%s: %s\n", what, why);
	exit(1);
}

/* CPU time of this thread: what others do on the machine while it waits for the CPU is not its own. */
static uint64_t now_ns(void)
{
	struct timespec time;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
	return (uint64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Transparent huge pages for DPDK's memory: the program that it is compared with has them, too. */
static int huge_pages(const struct rte_memseg_list *list, void *arg)
{
	(void)arg;
	madvise(list->base_va, list->len, MADV_HUGEPAGE);
	madvise(list->base_va, list->len, MADV_COLLAPSE);
	return 0;
}

/* cpu: a number; megabytes: of DPDK's heap. */
static void start_eal(char *program, char *cpu, char *megabytes)
{
	char *arguments[] = { program, "--no-huge", "--no-shconf", "--no-pci", "--no-telemetry", "--log-level=error",
			      "-l", cpu, "-m", megabytes };
	if (rte_eal_init(sizeof(arguments) / sizeof(*arguments), arguments) < 0)
		fail("rte_eal_init", rte_strerror(rte_errno));
	rte_memseg_list_walk(huge_pages, NULL);
}

static const uint8_t *map_file(const char *path)
{
	int file = open(path, O_RDONLY);
	struct stat status;
	if (file < 0 || fstat(file, &status) < 0)
		fail(path, "cannot be opened");
	void *bytes = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
	if (bytes == MAP_FAILED)
		fail(path, "cannot be mapped");
	close(file);
	return bytes;
}

/* Bytes that are allocated from DPDK's heap. */
static size_t heap_bytes(void)
{
	struct rte_malloc_socket_stats stats;
	return rte_malloc_get_socket_stats(0, &stats) < 0 ? 0 : stats.heap_allocsz_bytes;
}

/* A field of /proc/self/smaps_rollup, in bytes. */
static size_t process_bytes(const char *field)
{
	char line[256];
	size_t kilobytes = 0;
	FILE *file = fopen("/proc/self/smaps_rollup", "r");
	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, field, strlen(field)))
			kilobytes = strtoull(line + strlen(field) + 1, NULL, 10);
	if (file)
		fclose(file);
	return kilobytes * 1024;
}
