//! What the port tests share: namespaces and veth pairs of their own, a bare loop between two ports, and real traffic
//! through it.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use dataplane::frame::{Burst, Checksum};
use dataplane::port::netns::{self, NetworkNamespace};
use dataplane::port::{OpenedPair, PortCounters};
use dataplane::time::Time;

/// Runs a command and shows what it said when it fails.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap_or_else(|e| panic!("{command}: {e}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command}: {stdout}{stderr}");
    stdout.into_owned()
}

/// Namespaces of one test, gone with it.
pub(crate) struct World {
    prefix: String,
    namespaces: Vec<String>,
}

impl World {
    pub(crate) fn new(test: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        World { prefix: format!("ps-{test}-{}-{number}", std::process::id()), namespaces: Vec::new() }
    }

    /// Makes a namespace; the answer is its name.
    pub(crate) fn namespace(&mut self, name: &str) -> String {
        let name = format!("{}-{name}", self.prefix);
        run(&format!("ip netns add {name}"));
        self.namespaces.push(name.clone());
        for interface in ["all", "default"] {
            // No router solicitations and no delay before an address can be used.
            self.inside(&name, &format!("sysctl -q -w net.ipv6.conf.{interface}.accept_dad=0"));
        }
        self.inside(&name, "ip link set lo up");
        name
    }

    pub(crate) fn inside(&self, namespace: &str, command: &str) -> String {
        run(&format!("ip netns exec {namespace} {command}"))
    }

    /// Gives a device addresses `10.9.0.n/24` and `fd09::n/64` and switches it on.
    pub(crate) fn address(&self, namespace: &str, device: &str, n: u8) {
        self.inside(namespace, &format!("ip addr add 10.9.0.{n}/24 dev {device}"));
        self.inside(namespace, &format!("ip addr add fd09::{n}/64 dev {device} nodad"));
        self.inside(namespace, &format!("ip link set {device} up"));
    }

    /// A client, a wire's namespace and a server, with veths between: `eth0` in the outer ones, `inside` and `outside`
    /// in the middle.
    pub(crate) fn with_veths(test: &str) -> (Self, [String; 3]) {
        let mut world = World::new(test);
        let [client, wire, server] = ["client", "wire", "server"].map(|name| world.namespace(name));
        for (end, device, n) in [(&client, "inside", 1), (&server, "outside", 2)] {
            world.inside(&wire, "sysctl -q -w net.ipv6.conf.default.disable_ipv6=1");
            world.inside(&wire, &format!("ip link add {device} type veth peer name eth0 netns {end}"));
            world.inside(&wire, &format!("ip link set {device} up"));
            world.address(end, "eth0", n);
        }
        (world, [client, wire, server])
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// What the loop saw, by direction: inside to outside, outside to inside.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) frames: [u64; 2],
    pub(crate) super_frames: [u64; 2],
    pub(crate) partial: [u64; 2],
    pub(crate) tagged: [u64; 2],
    pub(crate) no_room: [u64; 2],
    pub(crate) counters: [PortCounters; 2],
    pub(crate) outstanding: usize,
}

/// A thread that moves frames between two ports until it is stopped.
pub(crate) struct Loop {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Loop {
    pub(crate) fn start(mut pair: OpenedPair) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) {
                wait(&pair);
                let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
                let now = Time(clock.tv_sec as u64 * 1_000_000_000 + clock.tv_nsec as u64);
                round(&mut pair, &mut seen, now);
            }
            for (i, port) in [&mut pair.inside, &mut pair.outside].into_iter().enumerate() {
                seen.counters[i] = port.counters();
                port.close(&mut pair.pool);
                assert_eq!(port.held_chunks(), 0);
            }
            seen.outstanding = pair.pool.outstanding();
            seen
        });
        Loop { stop, thread }
    }

    /// Stops it, and holds what every test expects of it.
    pub(crate) fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().unwrap();
        assert_eq!(seen.outstanding, 0, "every chunk is back in the pool: {seen:?}");
        seen
    }
}

/// Sleeps until a port is readable; a short time at most, so that the loop can be stopped.
fn wait(pair: &OpenedPair) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let ports = [&pair.inside, &pair.outside];
    let mut polled: Vec<PollFd<'_>> = ports
        .iter()
        .filter_map(|port| port.descriptor())
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    let _ = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 }));
}

/// One burst each way.
pub(crate) fn round(pair: &mut OpenedPair, seen: &mut Seen, now: Time) {
    for direction in 0..2 {
        let (from, to) =
            if direction == 0 { (&mut pair.inside, &mut pair.outside) } else { (&mut pair.outside, &mut pair.inside) };
        let mut burst = Burst::new();
        from.receive(&mut pair.pool, &mut burst, now).unwrap();
        for frame in &burst {
            seen.frames[direction] += 1;
            seen.super_frames[direction] += u64::from(frame.gso.is_some());
            seen.partial[direction] += u64::from(matches!(frame.checksum, Checksum::Partial { .. }));
            seen.tagged[direction] += u64::from(frame.vlan.is_some());
        }
        to.send(&mut pair.pool, &mut burst, now).unwrap();
        for frame in burst.drain(..) {
            seen.no_room[direction] += 1;
            pair.pool.release(frame);
        }
    }
}

/// Runs `f` in a namespace.
pub(crate) fn inside<T: Send>(namespace: &str, f: impl FnOnce() -> T + Send) -> T {
    netns::enter(&NetworkNamespace::open(namespace).unwrap(), f).unwrap()
}

/// Sends `length` bytes each way over one TCP connection from `client` to `server` and compares them.
pub(crate) fn transfer(client: &str, server: &str, address: &str, length: usize) {
    let address: IpAddr = address.parse().unwrap();
    let listener = inside(server, || TcpListener::bind(SocketAddr::new(address, 0)).unwrap());
    let target = listener.local_addr().unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let mut stream = inside(client, || TcpStream::connect_timeout(&target, Duration::from_secs(10)).unwrap());
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let bytes: Vec<u8> = (0..length).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
    stream.write_all(&bytes).unwrap();
    let mut back = vec![0; length];
    stream.read_exact(&mut back).unwrap();
    assert!(bytes == back, "the payload came back as it went");
    echo.join().unwrap();
}

/// One datagram there and back, larger than the MTU if `length` says so.
pub(crate) fn datagram(client: &str, server: &str, address: &str, length: usize) {
    let address: IpAddr = address.parse().unwrap();
    let there = inside(server, || UdpSocket::bind(SocketAddr::new(address, 0)).unwrap());
    let any: IpAddr = if address.is_ipv4() { "0.0.0.0".parse().unwrap() } else { "::".parse().unwrap() };
    let here = inside(client, || UdpSocket::bind(SocketAddr::new(any, 0)).unwrap());
    for socket in [&here, &there] {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    let bytes: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
    here.send_to(&bytes, there.local_addr().unwrap()).unwrap();
    let mut buffer = vec![0; 65536];
    let (received, from) = there.recv_from(&mut buffer).unwrap();
    assert!(buffer[..received] == bytes[..]);
    there.send_to(&bytes, from).unwrap();
    let received = here.recv(&mut buffer).unwrap();
    assert!(buffer[..received] == bytes[..]);
}

/// Ping in both families, TCP with super-frames, a fragmented and an unfragmented datagram.
pub(crate) fn everything(world: &World, client: &str, server: &str, bytes: usize) {
    for address in ["10.9.0.2", "fd09::2"] {
        world.inside(client, &format!("ping -n -c 2 -i 0.05 -W 5 {address}"));
        transfer(client, server, address, bytes);
        datagram(client, server, address, 100);
        datagram(client, server, address, 20_000);
    }
}
