// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//
// Makes frames out of pages that the kernel lends (BPF_PROG_RUN with live frames), and sends them out of an interface.
//
// A page comes back with what the device under test has written into it (addresses of the next hop, a lower time to live): so
// every header is written whole, each time. What never changes lies in `settings`, which the verifier knows to be constant: the
// branches not taken cost nothing.

#include "kernel.h"

struct settings {
	u32 interface;
	u32 is_v6;
	u32 is_tcp;
	u32 is_reversed;
	u32 has_stamp;
	u32 pairs;
	u32 flows;
	u32 order;
	u32 group_mask;
	u32 batch;
	u32 sizes;
	u32 new_per_second;
	u64 space;
	u64 interval; // in 2^-20 ns; 0 is flat out
	u32 ip_sum;
	u32 transport_sum;
	u16 first_port;
	u16 reserved[3];
	u16 size[16];
};

enum { SEQUENTIAL, UNIFORM, DRAWN };
#define DRAWS (1 << 20)

struct pair {
	u32 source[4]; // IPv4 in the first word
	u32 destination[4];
	u32 sum; // of both addresses
	u16 port;
	u16 reserved;
};

// What goes on from frame to frame. Written by the user program between runs.
struct state {
	u64 header[10]; // Ethernet, IP, transport; see plan.rs
	u64 sent;
	u64 bytes;
	u64 cursor;
	u64 random;
	u64 first; // the flow that the window started at
	u64 base;  // the one it is at
	u64 start;
	u64 due; // of the next frame, in 2^-20 ns since the start
	u64 stamp; // when frames of this batch were sent
	u64 latest;
	u32 left; // of the batch
	u32 size_index;
};

const volatile struct settings settings = {};
struct state state = {};

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[1];
	u32 *key;
	struct pair *value;
} pairs SECTION(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[1];
	u32 *key;
	u32 *value;
} sequences SECTION(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[1];
	u32 *key;
	u32 *value;
} draws SECTION(".maps");

static long is_due(u32 index, u64 *until)
{
	return monotonic_ns() >= *until;
}

// Once a batch: waits for its time, moves the window of flows on.
INLINE void start_batch(void)
{
	u64 now = monotonic_ns();

	state.left = settings.batch;
	if (settings.interval) {
		u64 until = state.start + (state.due >> 20);

		if (now < until)
			loop(1 << 22, is_due, &until, 0);
		else if (now - until > state.latest)
			state.latest = now - until;
	} else {
		state.stamp = now;
	}
	if (settings.new_per_second) {
		u64 elapsed = now > state.start ? now - state.start : 0;

		state.base = (state.first + elapsed * settings.new_per_second / 1000000000) % settings.space;
	}
}

INLINE u64 next_flow(void)
{
	u64 flow;

	if (settings.order == SEQUENTIAL) {
		flow = state.cursor;
		state.cursor = flow + 1 == settings.flows ? 0 : flow + 1;
	} else if (settings.order == UNIFORM) {
		u64 x = state.random;

		x ^= x << 13; // xorshift64 (Marsaglia 2003)
		x ^= x >> 7;
		x ^= x << 17;
		state.random = x;
		flow = ((x >> 32) * settings.flows) >> 32;
	} else {
		u32 index = state.cursor++ & (DRAWS - 1);
		u32 *drawn = map_lookup(&draws, &index);

		flow = drawn ? *drawn : 0;
	}
	flow += state.base;
	return flow >= settings.space ? flow - settings.space : flow;
}

INLINE u16 fold(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

#define FIELD16(offset) (*(u16 *)(bytes + (offset)))
#define FIELD32(offset) (*(u32 *)(bytes + (offset)))

INLINE void copy_header(u8 *bytes, const u32 length)
{
	const u8 *from = (const u8 *)state.header;

#pragma unroll
	for (u32 i = 0; i + 8 <= length; i += 8)
		*(u64 *)(bytes + i) = *(const u64 *)(from + i);
	if (length & 4)
		FIELD32(length & ~7u) = *(const u32 *)(from + (length & ~7u));
	if (length & 2)
		FIELD16(length & ~3u) = *(const u16 *)(from + (length & ~3u));
}

INLINE int write(struct xdp_md *frame, u32 size, const u32 is_v6, const u32 is_tcp)
{
	const u32 transport = ETHERNET + (is_v6 ? IPV6 : IPV4);
	const u32 payload = transport + (is_tcp ? TCP : UDP);
	u8 *bytes = (void *)(long)frame->data;
	u8 *end = (void *)(long)frame->data_end;

	if (bytes + payload + (settings.has_stamp ? STAMP : 0) > end)
		return XDP_ABORTED;

	u64 flow = next_flow();
	u32 index = 0;
	u32 port = flow;

	if (settings.pairs > 1) {
		index = flow % settings.pairs;
		port = flow / settings.pairs;
	}
	struct pair *pair = map_lookup(&pairs, &index);

	if (!pair)
		return XDP_ABORTED;
	copy_header(bytes, payload);

	u32 source = BIG16((u16)(settings.first_port + port));
	u32 destination = pair->port;
	u32 length = BIG16((u16)(size - transport));
	u64 sum = (u64)settings.transport_sum + pair->sum + source + destination + length;

	if (is_v6) {
		FIELD16(ETHERNET + 4) = length;
#pragma unroll
		for (u32 i = 0; i < 4; i++) {
			FIELD32(ETHERNET + 8 + 4 * i) = pair->source[i];
			FIELD32(ETHERNET + 24 + 4 * i) = pair->destination[i];
		}
	} else {
		u32 total = BIG16((u16)(size - ETHERNET));

		FIELD16(ETHERNET + 2) = total;
		FIELD16(ETHERNET + 10) = fold((u64)settings.ip_sum + pair->sum + total);
		FIELD32(ETHERNET + 12) = pair->source[0];
		FIELD32(ETHERNET + 16) = pair->destination[0];
	}
	FIELD32(transport) = settings.is_reversed ? source << 16 | destination : destination << 16 | source;
	if (!is_tcp) {
		FIELD16(transport + 4) = length;
		sum += length;
	}
	if (settings.has_stamp) {
		u32 group = flow & settings.group_mask;
		u32 *sequence = map_lookup(&sequences, &group);

		if (!sequence)
			return XDP_ABORTED;

		u64 time = settings.interval ? state.start + (state.due >> 20) : state.stamp;
		u32 words[4] = {BIG32(MAGIC << 16 | (group & 0xffff)), BIG32(*sequence), BIG32((u32)(time >> 32)), BIG32((u32)time)};

		*sequence += 1;
#pragma unroll
		for (u32 i = 0; i < 4; i++) {
			FIELD32(payload + 4 * i) = words[i];
			sum += words[i];
		}
	}
	if (is_tcp) {
		FIELD16(transport + 16) = fold(sum);
	} else {
		u16 checksum = fold(sum);

		FIELD16(transport + 6) = checksum ? checksum : 0xffff;
	}
	return XDP_REDIRECT;
}

SECTION("xdp")
int generate(struct xdp_md *frame)
{
	u32 size = settings.size[0];
	int action;

	if (state.left == 0)
		start_batch();
	state.left -= 1;
	if (settings.sizes > 1) {
		u32 i = state.size_index;

		size = settings.size[i & 15];
		state.size_index = i + 1 >= settings.sizes ? 0 : i + 1;

		int delta = (int)size - (int)(frame->data_end - frame->data);

		if (delta && adjust_tail(frame, delta))
			return XDP_ABORTED;
	}
	if (settings.is_v6)
		action = settings.is_tcp ? write(frame, size, 1, 1) : write(frame, size, 1, 0);
	else
		action = settings.is_tcp ? write(frame, size, 0, 1) : write(frame, size, 0, 0);
	if (action != XDP_REDIRECT)
		return action;
	state.due += settings.interval;
	state.sent += 1;
	state.bytes += size;
	return redirect(settings.interface, 0);
}

char terms[] SECTION("license") = "Dual MIT/GPL";
