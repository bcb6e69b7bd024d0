/*
 * librte_acl, asked by commands, so that its rounds can take turns with those of another classifier.
 *
 *   acl_bench CPU MEGABYTES FILE
 *
 * FILE, in this machine's byte order: struct sizes, rules, headers. Answers are the number of a rule plus one, 0 for none.
 * Commands, one a line, each answered by a line of JSON:
 *   build                       builds, and tells the time, the memory and the methods that this CPU has
 *   round METHOD BATCH FROM N   N headers from number FROM on, BATCH in a call; {"ns": in all}
 *   answers METHOD PATH         answers of all headers, as 32-bit numbers, to a file
 */
#include <arpa/inet.h>
#include <rte_acl.h>

#include "common.h"

struct sizes {
	uint32_t family; /* 4 or 6 */
	uint32_t flags;  /* whether any rule looks at flags */
	uint32_t rules;
	uint32_t headers;
};

/* Addresses in network byte order, IPv4 in the first four bytes; the rest in host order. */
struct rule {
	uint8_t source[16], destination[16];
	uint8_t source_length, destination_length;
	uint8_t protocol, protocol_mask;
	uint8_t flags, flags_mask;
	uint16_t source_first, source_last, destination_first, destination_last;
	uint16_t unused;
};

/*
 * A header, all in network byte order as librte_acl reads it: protocol and three bytes unused, source, destination,
 * source port, destination port, flags and three bytes unused; addresses as long as the family's.
 */
enum { PROTOCOL = 0, ADDRESSES = 4 };

/* Flags fill four bytes: a field that is alone in its group of four, and shorter, is looked up wrong. */
enum { FLAGS_BYTES = 4 };

enum { MAX_FIELDS = 12, MAX_BATCH = 256 };

RTE_ACL_RULE_DEF(acl_rule, MAX_FIELDS);

static const struct { const char *name; enum rte_acl_classify_alg number; } methods[] = {
	{ "scalar", RTE_ACL_CLASSIFY_SCALAR },     { "sse", RTE_ACL_CLASSIFY_SSE },
	{ "avx2", RTE_ACL_CLASSIFY_AVX2 },         { "avx512x16", RTE_ACL_CLASSIFY_AVX512X16 },
	{ "avx512x32", RTE_ACL_CLASSIFY_AVX512X32 },
};

static const struct sizes *sizes;
static const struct rule *rules;
static uint8_t *headers;
static size_t address_bytes, header_bytes;
static const uint8_t **pointers;
static struct rte_acl_ctx *context;
static struct rte_acl_config config = { .num_categories = 1 };

static void field(uint8_t type, uint8_t size, uint8_t input, size_t offset)
{
	uint32_t number = config.num_fields++;
	config.defs[number] = (struct rte_acl_field_def){
		.type = type, .size = size, .field_index = number, .input_index = input, .offset = offset
	};
}

static void layout(void)
{
	size_t ports = ADDRESSES + 2 * address_bytes;
	int input = 0;
	field(RTE_ACL_FIELD_TYPE_BITMASK, 1, input++, PROTOCOL);
	for (size_t at = ADDRESSES; at < ports; at += 4)
		field(RTE_ACL_FIELD_TYPE_MASK, 4, input++, at);
	field(RTE_ACL_FIELD_TYPE_RANGE, 2, input, ports);
	field(RTE_ACL_FIELD_TYPE_RANGE, 2, input++, ports + 2);
	if (sizes->flags)
		field(RTE_ACL_FIELD_TYPE_BITMASK, FLAGS_BYTES, input, ports + 4);
}

/* The words of a prefix. */
static int prefix(struct rte_acl_field *fields, const uint8_t *address, int length)
{
	int words = address_bytes / 4;
	for (int word = 0; word < words; word++) {
		uint32_t value;
		int bits = length - 32 * word;
		memcpy(&value, address + 4 * word, 4);
		fields[word].value.u32 = ntohl(value);
		fields[word].mask_range.u32 = bits < 0 ? 0 : bits > 32 ? 32 : bits;
	}
	return words;
}

static void add_rules(void)
{
	for (uint32_t number = 0; number < sizes->rules; number++) {
		const struct rule *rule = &rules[number];
		struct acl_rule added = { .data = { .category_mask = 1, .priority = RTE_ACL_MAX_PRIORITY - number,
						    .userdata = number + 1 } };
		struct rte_acl_field *next = added.field;
		next->value.u8 = rule->protocol;
		next++->mask_range.u8 = rule->protocol_mask;
		next += prefix(next, rule->source, rule->source_length);
		next += prefix(next, rule->destination, rule->destination_length);
		next->value.u16 = rule->source_first;
		next++->mask_range.u16 = rule->source_last;
		next->value.u16 = rule->destination_first;
		next++->mask_range.u16 = rule->destination_last;
		if (sizes->flags) {
			next->value.u32 = (uint32_t)rule->flags << 8 * (FLAGS_BYTES - 1);
			next++->mask_range.u32 = (uint32_t)rule->flags_mask << 8 * (FLAGS_BYTES - 1);
		}
		int result = rte_acl_add_rules(context, (struct rte_acl_rule *)&added, 1);
		if (result < 0)
			fail("rte_acl_add_rules", rte_strerror(-result));
	}
}

static void build(void)
{
	layout();
	size_t heap = heap_bytes();
	uint64_t start = now_ns();
	struct rte_acl_param parameters = { .name = "rules", .socket_id = SOCKET_ID_ANY,
					    .rule_size = RTE_ACL_RULE_SZ(config.num_fields),
					    .max_rule_num = sizes->rules };
	context = rte_acl_create(&parameters);
	if (!context)
		fail("rte_acl_create", rte_strerror(rte_errno));
	add_rules();
	size_t heap_with_rules = heap_bytes();
	int result = rte_acl_build(context, &config);
	uint64_t end = now_ns();
	if (result < 0)
		fail("rte_acl_build", rte_strerror(-result));
	printf("{\"build_ns\":%lu,\"rules_bytes\":%zu,\"table_bytes\":%zu,\"peak_rss\":%zu,\"huge_bytes\":%zu,\"methods\":[",
	       end - start, heap_with_rules - heap, heap_bytes() - heap_with_rules, process_bytes("Rss:"),
	       process_bytes("AnonHugePages:"));
	const char *comma = "";
	for (size_t at = 0; at < sizeof(methods) / sizeof(*methods); at++) {
		if (rte_acl_set_ctx_classify(context, methods[at].number) < 0)
			continue;
		printf("%s\"%s\"", comma, methods[at].name);
		comma = ",";
	}
	printf("]}\n");
}

static enum rte_acl_classify_alg method(const char *name)
{
	for (size_t at = 0; at < sizeof(methods) / sizeof(*methods); at++)
		if (!strcmp(name, methods[at].name))
			return methods[at].number;
	fail(name, "no such method");
	return 0;
}

static void classify(enum rte_acl_classify_alg alg, uint32_t batch, uint32_t from, uint32_t count, uint32_t *results)
{
	for (uint32_t at = 0; at < count; at += batch) {
		uint32_t some = count - at < batch ? count - at : batch;
		if (rte_acl_classify_alg(context, pointers + from + at, results + at, some, 1, alg) < 0)
			fail("rte_acl_classify_alg", "refused");
	}
}

int main(int argc, char **argv)
{
	if (argc != 4)
		fail(argv[0], "expected CPU MEGABYTES FILE");
	start_eal(argv[0], argv[1], argv[2]);
	const uint8_t *file = map_file(argv[3]);
	sizes = (const struct sizes *)file;
	rules = (const struct rule *)(sizes + 1);
	/* Copied, so that the headers lie in memory like those of the other side. */
	address_bytes = sizes->family == 4 ? 4 : 16;
	header_bytes = ADDRESSES + 2 * address_bytes + 8;
	headers = malloc(header_bytes * sizes->headers);
	memcpy(headers, rules + sizes->rules, header_bytes * sizes->headers);
	pointers = malloc(sizeof(*pointers) * sizes->headers);
	for (uint32_t at = 0; at < sizes->headers; at++)
		pointers[at] = headers + header_bytes * at;
	uint32_t *results = calloc(sizes->headers, sizeof(*results));
	char line[4096], name[64], path[4000];
	uint32_t batch, from, count;
	while (fgets(line, sizeof(line), stdin)) {
		if (!strncmp(line, "build", 5)) {
			build();
		} else if (sscanf(line, "round %63s %u %u %u", name, &batch, &from, &count) == 4) {
			if (!batch || batch > MAX_BATCH || from > sizes->headers || count > sizes->headers - from)
				fail("round", "no such headers");
			uint64_t start = now_ns();
			classify(method(name), batch, from, count, results + from);
			printf("{\"ns\":%lu}\n", now_ns() - start);
		} else if (sscanf(line, "answers %63s %3999s", name, path) == 2) {
			classify(method(name), 32, 0, sizes->headers, results);
			FILE *out = fopen(path, "w");
			if (!out || fwrite(results, sizeof(*results), sizes->headers, out) != sizes->headers || fclose(out))
				fail(path, "cannot be written");
			printf("{}\n");
		} else {
			fail("no such command", line);
		}
		fflush(stdout);
	}
	return 0;
}
