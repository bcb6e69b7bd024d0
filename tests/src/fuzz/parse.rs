//! Any bytes as a frame, read the short way and the thorough one.

use dataplane::frame::Frame;
use dataplane::packet::{Packet, Payload};
use dataplane::parse::{Medium, parse as read, parse_thoroughly};
use dataplane::port::Pool;

/// Reads the bytes as a frame, with and without an Ethernet header. What is said of a packet lies within the frame, and is
/// what the thorough way says.
pub fn parse(bytes: &[u8]) {
    let mut pool = Pool::new(1, Pool::HEADROOM + 1 + bytes.len());
    for medium in [Medium::Ethernet, Medium::Ip] {
        let Some(frame) = pool.frame(bytes) else { return };
        let parsed = read(&frame, medium);
        assert!(parsed == parse_thoroughly(bytes, None, bytes.len(), medium), "both ways read the same");
        if let Ok(parsed) = parsed
            && let Payload::Ip(packet) = parsed.payload
        {
            within(&frame, &packet);
        }
        pool.release(frame);
    }
}

fn within(frame: &Frame, packet: &Packet) {
    let end = usize::from(packet.transport_offset) + packet.transport_length as usize;
    assert!(end <= frame.length(), "the packet ends within its frame");
    assert!(packet.source.is_v4() == packet.destination.is_v4(), "both ends are of one family");
    assert!(packet.fragment.is_some() || packet.header_length() <= end, "the headers are within the packet");
    let tuple = packet.tuple();
    assert!((tuple.source, tuple.destination) == (packet.source, packet.destination));
    assert!(tuple.reverse().reverse() == tuple, "reversing twice changes nothing");
}
