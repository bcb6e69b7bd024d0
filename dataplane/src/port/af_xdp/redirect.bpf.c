// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//
// Hands every frame of a queue to the AF_XDP socket that was registered for it. Frames of other queues are dropped: what no
// wire reads must not reach the host's stack behind its back.
//
// It needs no kernel headers: the few definitions below are the kernel's stable interface (linux/bpf.h).

typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
#define BPF_MAP_TYPE_XSKMAP 17
#define XDP_DROP 1

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};

// The map's definition, in the form that BTF describes (bpf_helpers.h calls these __uint and __type).
struct {
	int (*type)[BPF_MAP_TYPE_XSKMAP];
	int (*max_entries)[1];
	u32 *key;
	u32 *value;
} sockets SECTION(".maps");

static long (*redirect_map)(void *map, u64 key, u64 flags) = (void *)51;

SECTION("xdp")
int redirect(struct xdp_md *frame)
{
	return redirect_map(&sockets, frame->rx_queue_index, XDP_DROP);
}

char terms[] SECTION("license") = "Dual MIT/GPL";
