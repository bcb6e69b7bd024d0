// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//
// The kernel's stable interface (linux/bpf.h), as far as our programs use it, so that they need no kernel headers; and what
// the two programs share.

#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PERCPU_ARRAY 6

enum { XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT };

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static u64 (*monotonic_ns)(void) = (void *)5;
static long (*redirect)(u32 interface, u64 flags) = (void *)23;
static long (*adjust_tail)(struct xdp_md *frame, int delta) = (void *)65;
static long (*loop)(u32 times, void *step, void *context, u64 flags) = (void *)181;

#define BIG16(x) __builtin_bswap16(x)
#define BIG32(x) __builtin_bswap32(x)

// Offsets in a frame.
#define ETHERNET 14
#define IPV4 20
#define IPV6 40
#define UDP 8
#define TCP 20

// The stamp at the start of a payload (frame.rs): "PS", group, sequence, time.
#define MAGIC 0x5053
#define STAMP 16
