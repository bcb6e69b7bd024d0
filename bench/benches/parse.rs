//! Reading a frame's headers, the frame in the cache.

use dataplane::frame::VlanTag;
use dataplane::packet::TcpFlags;
use dataplane::parse::{Medium, parse_bytes};
use dataplane::testing::FrameBuilder;
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};

/// What each benchmark asks the heap for stands beside its times.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

fn frame(name: &str) -> Vec<u8> {
    let v4 = || FrameBuilder::new().ip("10.0.0.1", "10.0.0.2");
    let v6 = || FrameBuilder::new().ip("fd00::1", "fd00::2");
    let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    match name {
        "tcp_v4" => v4().tcp(40_000, 80, TcpFlags::ACK).tcp_options(&timestamps).payload(&[0; 1400]),
        "tcp_v6" => v6().tcp(40_000, 80, TcpFlags::ACK).tcp_options(&timestamps).payload(&[0; 1400]),
        "udp_v4" => v4().udp(40_000, 53).payload(&[0; 40]),
        "udp_v4_vlan" => v4().vlan(VlanTag { protocol: 0x8100, control: 7 }).udp(40_000, 53).payload(&[0; 40]),
        "udp_v6_hop_by_hop" => v6().extension(0, &[0; 6]).udp(40_000, 53).payload(&[0; 40]),
        _ => v4().icmp_error(3, 3, 0, &FrameBuilder::packet().ip("10.0.0.2", "10.0.0.1").udp(53, 40_000).build()),
    }
    .build()
}

#[divan::bench(args = ["tcp_v4", "tcp_v6", "udp_v4", "udp_v4_vlan", "udp_v6_hop_by_hop", "icmp_error_v4"], sample_size = 1_000)]
fn parse(bencher: Bencher<'_, '_>, name: &str) {
    let bytes = frame(name);
    assert!(parse_bytes(&bytes, None, bytes.len(), Medium::Ethernet).is_ok(), "{name} is well-formed");
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
        black_box(parse_bytes(black_box(&bytes), None, bytes.len(), Medium::Ethernet).is_ok());
    });
}
