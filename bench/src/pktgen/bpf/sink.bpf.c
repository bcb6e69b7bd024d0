// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//
// Counts UDP and TCP frames and drops them; any other frame goes on to the kernel, which answers ARP and neighbour discovery.
// Stamped frames are checked for order, and for coming twice, by the last 64 sequence numbers of their group.

#include "kernel.h"

struct settings {
	u32 stamped_only;
	u32 has_latency;
};

struct counters {
	u64 frames;
	u64 bytes;
	u64 stamped;
	u64 reordered;
	u64 duplicates;
	u64 stale;
	u64 passed;
};

struct group {
	u64 seen; // bit n: `next - 1 - n` has come
	u32 next;
	u32 started;
};

// A histogram of 32 steps an octave: at most 3 % off.
#define STEPS_LOG 5
#define BINS (64 << STEPS_LOG)

const volatile struct settings settings = {};

struct {
	int (*type)[BPF_MAP_TYPE_PERCPU_ARRAY];
	int (*max_entries)[1];
	u32 *key;
	struct counters *value;
} counters SECTION(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[65536];
	u32 *key;
	struct group *value;
} groups SECTION(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_PERCPU_ARRAY];
	int (*max_entries)[BINS];
	u32 *key;
	u64 *value;
} latencies SECTION(".maps");

// Where the payload of a UDP or TCP frame starts; 0 for any other.
INLINE u32 payload_of(const u8 *bytes, const u8 *end)
{
	if (bytes + ETHERNET + IPV4 > end)
		return 0;

	u16 type = *(const u16 *)(bytes + 12);
	u32 transport;
	u8 protocol;

	if (type == BIG16(0x0800)) {
		protocol = bytes[ETHERNET + 9];
		transport = ETHERNET + (bytes[ETHERNET] & 15) * 4;
	} else if (type == BIG16(0x86dd)) {
		protocol = bytes[ETHERNET + 6];
		transport = ETHERNET + IPV6;
	} else {
		return 0;
	}
	if (protocol == 17)
		return transport + UDP;
	return protocol == 6 ? transport + TCP : 0;
}

INLINE void track(struct counters *count, struct group *group, u32 sequence)
{
	if (!group->started) {
		// Sequences start at 0 with the generator, so that what is lost before the first is a gap like any other.
		group->started = 1;
		group->next = sequence + 1;
		group->seen = 1;
		return;
	}

	int ahead = (int)(sequence - group->next);

	if (ahead >= 0) {
		group->seen = ahead >= 63 ? 1 : group->seen << (ahead + 1) | 1;
		group->next = sequence + 1;
	} else if (ahead < -64) {
		count->stale += 1;
		count->reordered += 1;
	} else {
		u64 bit = 1ull << ((u32)(-ahead - 1) & 63);

		if (group->seen & bit) {
			count->duplicates += 1;
		} else {
			group->seen |= bit;
			count->reordered += 1;
		}
	}
}

INLINE void time(u64 sent)
{
	u64 now = monotonic_ns();
	u64 value = now > sent ? now - sent : 0;
	u32 log = 0;
	u32 bin = value;

	if (value >> STEPS_LOG) {
		u64 rest = value;

		if (rest >> 32) { log += 32; rest >>= 32; }
		if (rest >> 16) { log += 16; rest >>= 16; }
		if (rest >> 8) { log += 8; rest >>= 8; }
		if (rest >> 4) { log += 4; rest >>= 4; }
		if (rest >> 2) { log += 2; rest >>= 2; }
		if (rest >> 1) log += 1;
		// Value is 1.xxxxx times 2^log: the five bits below the first.
		bin = ((log - STEPS_LOG + 1) << STEPS_LOG) + ((value >> (log - STEPS_LOG)) & ((1 << STEPS_LOG) - 1));
	}
	u64 *count = map_lookup(&latencies, &bin);

	if (count)
		*count += 1;
}

SECTION("xdp")
int count(struct xdp_md *frame)
{
	u8 *bytes = (void *)(long)frame->data;
	u8 *end = (void *)(long)frame->data_end;
	u32 zero = 0;
	struct counters *count = map_lookup(&counters, &zero);
	u32 payload = payload_of(bytes, end);

	if (!count)
		return XDP_PASS;
	if (!payload) {
		count->passed += 1;
		return XDP_PASS;
	}

	u8 *stamp = bytes + (payload & 0xff);

	if (stamp + STAMP <= end && *(u16 *)stamp == BIG16(MAGIC)) {
		u32 group = BIG16(*(u16 *)(stamp + 2));
		struct group *known = map_lookup(&groups, &group);

		count->stamped += 1;
		if (known)
			track(count, known, BIG32(*(u32 *)(stamp + 4)));
		if (settings.has_latency)
			time((u64)BIG32(*(u32 *)(stamp + 8)) << 32 | BIG32(*(u32 *)(stamp + 12)));
	} else if (settings.stamped_only) {
		count->passed += 1;
		return XDP_PASS;
	}
	count->frames += 1;
	count->bytes += end - bytes;
	return XDP_DROP;
}

char terms[] SECTION("license") = "Dual MIT/GPL";
