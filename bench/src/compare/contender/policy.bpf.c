// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//
// A policy in XDP, to compare with: frames from device 0 are judged and sent out of device 1; what comes back passes
// (MODE 0 and 1) or belongs to a known connection (MODE 2). MODE 0 judges nothing.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
#define XDP_DROP 1
#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_LRU_HASH 9
#define BPF_MAP_TYPE_LPM_TRIE 11
#define BPF_MAP_TYPE_DEVMAP 14
#define BPF_F_NO_PREALLOC 1

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};

struct prefix {
	u32 length;
	u8 address[4];
};

struct service {
	u32 class;
	u32 protocol_and_port;
};

struct flow {
	u32 near;
	u32 far;
	u16 near_port;
	u16 far_port;
	u32 protocol;
};

struct {
	int (*type)[BPF_MAP_TYPE_LPM_TRIE];
	int (*map_flags)[BPF_F_NO_PREALLOC];
	int (*max_entries)[1];
	struct prefix *key;
	u32 *value;
} classes SECTION(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_HASH];
	int (*max_entries)[1];
	struct service *key;
	u32 *value;
} services SECTION(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_LRU_HASH];
	int (*max_entries)[1];
	struct flow *key;
	u64 *value;
} flows SECTION(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_DEVMAP];
	int (*max_entries)[2];
	u32 *key;
	u32 *value;
} devices SECTION(".maps");

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static u64 (*now)(void) = (void *)5;
static long (*redirect_map)(void *map, u64 key, u64 flags) = (void *)51;

static __attribute__((always_inline)) u16 swap(u16 value)
{
	return (u16)(value << 8 | value >> 8);
}

static __attribute__((always_inline)) int judge(struct xdp_md *frame, int is_back)
{
	u8 *data = (u8 *)(long)frame->data, *end = (u8 *)(long)frame->data_end;
	if (data + 42 > end)
		return 0;
	if (*(u16 *)(data + 12) != swap(0x0800) || data[14] != 0x45)
		return 0;
	u32 protocol = data[23];
	u32 source = *(u32 *)(data + 26), destination = *(u32 *)(data + 30);
	u16 source_port = *(u16 *)(data + 34), destination_port = *(u16 *)(data + 36);
#if MODE == 2
	struct flow flow = {
		.near = is_back ? destination : source,
		.far = is_back ? source : destination,
		.near_port = is_back ? destination_port : source_port,
		.far_port = is_back ? source_port : destination_port,
		.protocol = protocol,
	};
	u64 *seen = map_lookup(&flows, &flow);
	if (seen) {
		*seen = now();
		return 1;
	}
	if (is_back)
		return 0;
#else
	if (is_back)
		return 1;
#endif
	struct prefix prefix = { .length = 32 };
	*(u32 *)prefix.address = source;
	u32 *class = map_lookup(&classes, &prefix);
	if (!class)
		return 0;
	struct service service = { *class, protocol << 16 | swap(destination_port) };
	if (!map_lookup(&services, &service))
		return 0;
#if MODE == 2
	u64 time = now();
	map_update(&flows, &flow, &time, 0);
#endif
	return 1;
}

SECTION("xdp")
int forward(struct xdp_md *frame)
{
#if MODE > 0
	if (!judge(frame, 0))
		return XDP_DROP;
#endif
	return redirect_map(&devices, 1, XDP_DROP);
}

SECTION("xdp")
int back(struct xdp_md *frame)
{
#if MODE > 0
	if (!judge(frame, 1))
		return XDP_DROP;
#endif
	return redirect_map(&devices, 0, XDP_DROP);
}

char terms[] SECTION("license") = "Dual MIT/GPL";
