//! What is built, read by others.

use super::*;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// etherparse is the second opinion: it reads what was built, checksums included.
#[test]
fn etherparse_agrees() {
    for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let tag = VlanTag { protocol: 0x8100, control: 5 };
        let ip = FrameBuilder::new().vlan(tag).ip(source, destination);
        let frame =
            ip.clone().tcp(1, 2, TcpFlags::SYN).tcp_options(&[2, 4, 5, 180, 1, 3, 3, 7]).payload(b"odd").build();
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("{sliced:?}") };
        assert_eq!((tcp.source_port(), tcp.destination_port(), tcp.syn(), tcp.payload()), (1, 2, true, &b"odd"[..]));
        let sum = match sliced.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => {
                assert_eq!(ip.header().to_header().calc_header_checksum(), ip.header().header_checksum());
                tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap()
            }
            NetSlice::Ipv6(ip) => tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(tcp.checksum(), sum);

        let frame = ip.clone().udp(53, 54).payload(&[9; 11]).build();
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("{sliced:?}") };
        assert_eq!((udp.source_port(), udp.destination_port(), udp.length()), (53, 54, 19));
    }
}

#[test]
fn fragments_add_up() {
    for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let datagram = FrameBuilder::packet().ip(source, destination).udp(7, 8).payload(&[1; 3000]).id(77);
        let pieces = datagram.fragments(1400);
        assert_eq!(pieces.len(), 3);
        let headers = if source.contains(':') { 48 } else { 20 };
        let bytes: usize = pieces.iter().map(|piece| piece.len() - headers).sum();
        assert_eq!(bytes, 3008);
        let slice = etherparse::IpSlice::from_slice(&pieces[1]).unwrap();
        assert!(slice.is_fragmenting_payload());
    }
}
