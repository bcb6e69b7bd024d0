/*
 * rte_hash as a flow table, asked by commands, so that its rounds can take turns with those of another table.
 *
 *   hash_bench CPU MEGABYTES FILE crc|jhash
 *
 * FILE, in this machine's byte order: struct sizes; the keys, in the order in which they are added; their numbers in the
 * order in which they are looked up. Commands, one a line, each answered by a line of JSON:
 *   create            makes the table and an array of payloads, and tells their memory
 *   insert            empties the table, adds all keys; {"ns": in all}
 *   lookup BURST P    finds all keys, BURST in a call; with P = 1 each flow's payload is fetched and read too;
 *                     {"ns": in all, "found": how many flows were found to be the right ones}
 */
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_jhash.h>
#include <rte_prefetch.h>

#include "common.h"

struct sizes {
	uint32_t key_bytes, keys, capacity, payload_bytes;
};

enum { MAX_BURST = RTE_HASH_LOOKUP_BULK_MAX };

static const struct sizes *sizes;
static uint8_t *keys;
static uint8_t *wanted_keys; /* in the order of looking up */
static uint32_t *order;
static struct rte_hash *table;
static uint8_t *payloads;
static rte_hash_function hash_function = rte_hash_crc;

static void create(void)
{
	size_t heap = heap_bytes();
	struct rte_hash_parameters parameters = { .name = "flows", .entries = sizes->capacity, .key_len = sizes->key_bytes,
						  .hash_func = hash_function, .hash_func_init_val = 1 };
	table = rte_hash_create(&parameters);
	if (!table)
		fail("rte_hash_create", rte_strerror(rte_errno));
	size_t heap_with_table = heap_bytes();
	/* A position is at most the capacity: slot 0 of the table's own store is never handed out. */
	payloads = rte_zmalloc("payloads", (size_t)sizes->payload_bytes * (sizes->capacity + 64), 64);
	if (!payloads)
		fail("payloads", "not enough memory");
	printf("{\"table_bytes\":%zu,\"payload_bytes\":%zu,\"huge_bytes\":%zu}\n", heap_with_table - heap,
	       heap_bytes() - heap_with_table, process_bytes("AnonHugePages:"));
}

static void insert(void)
{
	rte_hash_reset(table);
	uint64_t start = now_ns();
	for (uint32_t at = 0; at < sizes->keys; at++) {
		int position = rte_hash_add_key(table, keys + (size_t)at * sizes->key_bytes);
		if (position < 0)
			fail("rte_hash_add_key", rte_strerror(-position));
		*(uint32_t *)(payloads + (size_t)position * sizes->payload_bytes) = at;
	}
	printf("{\"ns\":%lu}\n", now_ns() - start);
}

/* Whose payload the flow has is looked at outside of the measured time when payloads are not part of it. */
static uint32_t right(const int32_t *positions, const uint32_t *numbers, uint32_t some)
{
	uint32_t found = 0;
	for (uint32_t at = 0; at < some; at++)
		found += positions[at] >= 0 &&
			 *(uint32_t *)(payloads + (size_t)positions[at] * sizes->payload_bytes) == numbers[at];
	return found;
}

static void lookup(uint32_t burst, int with_payload)
{
	const void *wanted[MAX_BURST];
	int32_t *positions = malloc(sizeof(*positions) * (sizes->keys + MAX_BURST));
	memset(positions, 0, sizeof(*positions) * (sizes->keys + MAX_BURST));
	uint32_t found = 0;
	uint64_t start = now_ns();
	for (uint32_t at = 0; at < sizes->keys; at += burst) {
		uint32_t some = sizes->keys - at < burst ? sizes->keys - at : burst;
		for (uint32_t next = 0; next < some; next++)
			wanted[next] = wanted_keys + (size_t)(at + next) * sizes->key_bytes;
		if (rte_hash_lookup_bulk(table, wanted, some, positions + at) < 0)
			fail("rte_hash_lookup_bulk", "refused");
		if (!with_payload)
			continue;
		for (uint32_t next = 0; next < some; next++)
			if (positions[at + next] >= 0)
				rte_prefetch0(payloads + (size_t)positions[at + next] * sizes->payload_bytes);
		found += right(positions + at, order + at, some);
	}
	uint64_t end = now_ns();
	if (!with_payload)
		found = right(positions, order, sizes->keys);
	free(positions);
	printf("{\"ns\":%lu,\"found\":%u}\n", end - start, found);
}

int main(int argc, char **argv)
{
	if (argc != 5)
		fail(argv[0], "expected CPU MEGABYTES FILE crc|jhash");
	start_eal(argv[0], argv[1], argv[2]);
	if (!strcmp(argv[4], "jhash"))
		hash_function = rte_jhash;
	const uint8_t *file = map_file(argv[3]);
	sizes = (const struct sizes *)file;
	size_t key_bytes = (size_t)sizes->key_bytes * sizes->keys, order_bytes = sizeof(*order) * sizes->keys;
	keys = rte_malloc("keys", key_bytes, 64);
	wanted_keys = rte_malloc("wanted_keys", key_bytes, 64);
	order = rte_malloc("order", order_bytes, 64);
	if (!keys || !wanted_keys || !order)
		fail("keys", "not enough memory");
	memcpy(keys, sizes + 1, key_bytes);
	memcpy(order, (const uint8_t *)(sizes + 1) + key_bytes, order_bytes);
	for (uint32_t at = 0; at < sizes->keys; at++)
		memcpy(wanted_keys + (size_t)at * sizes->key_bytes, keys + (size_t)order[at] * sizes->key_bytes,
		       sizes->key_bytes);
	char line[256];
	uint32_t burst;
	int with_payload;
	while (fgets(line, sizeof(line), stdin)) {
		if (!strncmp(line, "create", 6))
			create();
		else if (!strncmp(line, "insert", 6))
			insert();
		else if (sscanf(line, "lookup %u %d", &burst, &with_payload) == 2 && burst && burst <= MAX_BURST)
			lookup(burst, with_payload);
		else
			fail("no such command", line);
		fflush(stdout);
	}
	return 0;
}
