use std::net::{TcpListener, TcpStream, UdpSocket};

use dataplane::port::netns::{NetworkNamespace, enter};

use super::*;

fn tuple(source: std::net::SocketAddr, destination: std::net::SocketAddr, protocol: Protocol) -> Tuple {
    Tuple {
        source: source.ip().into(),
        destination: destination.ip().into(),
        protocol,
        source_port: source.port(),
        destination_port: destination.port(),
    }
}

/// Runs in a network namespace of its own, with loopback up and these rules of nft.
fn within(rules: &str, f: impl FnOnce(&mut Conntrack) + Send) {
    let namespace = NetworkNamespace::unnamed().expect("a network namespace: tests run as root");
    enter(&namespace, || {
        let run = |command: &mut std::process::Command| assert!(command.status().expect("it runs").success());
        run(std::process::Command::new("ip").args(["link", "set", "lo", "up"]));
        run(std::process::Command::new("nft").arg(rules));
        f(&mut Conntrack::open().expect("a netfilter socket"));
    })
    .expect("entering it");
}

const REWRITING: &str = "table inet t {
    chain out { type nat hook output priority -100; ip daddr 127.0.0.9 tcp dport 80 dnat ip to 127.0.0.1:8080; }
    chain post { type nat hook postrouting priority 100; ip daddr 127.0.0.1 tcp dport 8080 snat ip to 127.0.0.7; }
    chain track { type filter hook output priority 0; ct state new counter; }
}";

#[test]
fn who_hides_behind_a_rewritten_address_is_found_by_what_the_server_sees() {
    within(REWRITING, |conntrack| {
        let server = TcpListener::bind("127.0.0.1:8080").unwrap();
        let client = TcpStream::connect("127.0.0.9:80").unwrap();
        let (_served, seen) = server.accept().unwrap();
        assert_eq!(seen.ip().to_string(), "127.0.0.7", "the server sees an address that is not the client's");
        let local = client.local_addr().unwrap();
        let asked = tuple(seen, "127.0.0.1:8080".parse().unwrap(), Protocol::TCP);
        for by in [asked.reverse(), tuple(local, "127.0.0.9:80".parse().unwrap(), Protocol::TCP)] {
            let found = conntrack.find(&by).unwrap().expect("the kernel knows it");
            assert_eq!(found.original, tuple(local, "127.0.0.9:80".parse().unwrap(), Protocol::TCP));
            assert_eq!(found.reply, asked.reverse());
        }
    });
}

#[test]
fn what_nobody_opened_is_nobodys() {
    within(REWRITING, |conntrack| {
        let nobody = tuple("127.0.0.3:1".parse().unwrap(), "127.0.0.4:2".parse().unwrap(), Protocol::UDP);
        for _ in 0..3 {
            assert_eq!(conntrack.find(&nobody).unwrap(), None);
        }
    });
}

#[test]
fn datagrams_ipv6_and_echoes_are_found_too() {
    within(REWRITING, |conntrack| {
        let (one, other) = (UdpSocket::bind("[::1]:0").unwrap(), UdpSocket::bind("[::1]:0").unwrap());
        one.send_to(b"hello", other.local_addr().unwrap()).unwrap();
        let asked = tuple(one.local_addr().unwrap(), other.local_addr().unwrap(), Protocol::UDP);
        assert_eq!(conntrack.find(&asked).unwrap().map(|found| found.original), Some(asked));
        for (address, protocol) in [("127.0.0.1", Protocol::ICMP), ("::1", Protocol::ICMPV6)] {
            let ping = std::process::Command::new("ping").args(["-c", "1", "-e", "77", address]).output().unwrap();
            assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stderr));
            let at = |port| std::net::SocketAddr::new(address.parse().unwrap(), port);
            let request = tuple(at(77), at(0), protocol);
            for asked in [request, request.reverse()] {
                let found = conntrack.find(&asked).unwrap().expect("the kernel knows the echo");
                assert_eq!(found, Connection { original: request, reply: request.reverse() });
            }
        }
    });
}
