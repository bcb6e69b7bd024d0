// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//
// Drops the kernel's own copy of frames that an AF_PACKET socket has been given: it runs at tc ingress, behind the taps.
//
// It needs no kernel headers: the few definitions below are the kernel's stable interface (linux/bpf.h, linux/pkt_cls.h).

#define SECTION(name) __attribute__((section(name), used))
#define TC_ACT_SHOT 2

struct __sk_buff;

SECTION("classifier")
int drop(struct __sk_buff *frame)
{
	return TC_ACT_SHOT;
}

char terms[] SECTION("license") = "Dual MIT/GPL";
