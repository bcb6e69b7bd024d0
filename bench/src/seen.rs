//! Whether the kernel's connection tracking knows a connection when its first packet comes to a pod, and how long it takes to say so.
//!
//! [`watch`] stands where Penstock's wire does: it sees what a node sends to a pod's interface, and asks about each first packet at once.
//! [`open`] makes the connections. Both are run by `tests/cluster/suite/seen.py`.
#![allow(unsafe_code)]

use std::collections::{HashSet, VecDeque};
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use control::conntrack::Conntrack;
use dataplane::address::Address;
use dataplane::packet::{Protocol, Tuple};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

/// When it is asked again about what was not known at once, and how often.
const AGAIN: [Duration; 4] =
    [Duration::from_micros(200), Duration::from_millis(1), Duration::from_millis(10), Duration::from_millis(100)];

/// A protocol whose first packets are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Segments with SYN alone.
    Tcp,
    /// The first datagram between two ports.
    Udp,
}

/// Which way the packets go that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// What the node sends out by the interface.
    Out,
    /// What comes in by it.
    In,
}

struct Waiting {
    tuple: Tuple,
    since: Instant,
    tries: usize,
}

/// Watches first packets at an interface of this network namespace until it was quiet for `quiet`. Answers how many were known at once
/// or later, and microseconds: of the question alone, and from the kernel's time stamp of the packet to the answer.
///
/// # Errors
/// When the interface is not there, or the kernel does not let it be watched or asked.
pub fn watch(interface: &str, way: Way, kind: Kind, quiet: Duration) -> Result<Value> {
    let socket = packet_socket(interface)?;
    let mut conntrack = Conntrack::open().context("opening a netfilter socket")?;
    println!("ready");
    let histogram = || Histogram::<u64>::new(3).context("a histogram");
    let (mut asking, mut whole, mut later) = (histogram()?, histogram()?, histogram()?);
    let (mut at_once, mut never) = (0u64, 0u64);
    let mut known = HashSet::new();
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    let mut client = HashSet::new();
    let mut last: Option<Instant> = None;
    loop {
        if let Some((tuple, stamp)) = next_first(&socket, way, kind)?
            && known.insert(tuple)
        {
            last = Some(Instant::now());
            // What comes in has not been rewritten yet; what goes out has, and answers to it look like its reverse.
            let asked = if way == Way::Out { tuple.reverse() } else { tuple };
            let began = Instant::now();
            let found = conntrack.find(&asked)?;
            asking.saturating_record(began.elapsed().as_micros() as u64);
            match found {
                Some(connection) => {
                    at_once += 1;
                    client.insert(IpAddr::from(connection.original.source).to_string());
                    let since = SystemTime::now().duration_since(stamp).unwrap_or_default();
                    whole.saturating_record(since.as_micros() as u64);
                }
                None => waiting.push_back(Waiting { tuple: asked, since: began, tries: 0 }),
            }
        }
        for _ in 0..waiting.len() {
            let Some(mut one) = waiting.pop_front() else { break };
            if one.since.elapsed() < AGAIN[one.tries] {
                waiting.push_back(one);
            } else if conntrack.find(&one.tuple)?.is_some() {
                later.saturating_record(one.since.elapsed().as_micros() as u64);
            } else {
                one.tries += 1;
                if one.tries < AGAIN.len() { waiting.push_back(one) } else { never += 1 }
            }
        }
        if last.is_some_and(|last| last.elapsed() > quiet) {
            break;
        }
    }
    let micros = |histogram: &Histogram<u64>| {
        let at = |quantile| histogram.value_at_quantile(quantile);
        json!({"p50": at(0.5), "p99": at(0.99), "max": histogram.max()})
    };
    let mut clients: Vec<_> = client.into_iter().collect();
    clients.sort_unstable();
    Ok(json!({
        "packets": known.len(), "at_once": at_once, "later": later.len(), "never": never, "asking": micros(&asking),
        "from_stamp": micros(&whole), "later_after": micros(&later), "clients": clients,
    }))
}

/// A socket for all frames of an interface, with time stamps.
fn packet_socket(interface: &str) -> Result<Socket> {
    let index = rustix::net::netdevice::name_to_index(
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?,
        interface,
    )
    .with_context(|| format!("looking for {interface}"))?;
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).context("opening a packet socket")?;
    socket.set_recv_buffer_size(32 << 20)?;
    socket.set_read_timeout(Some(Duration::from_micros(200)))?;
    // SAFETY: a sockaddr_ll is plain old data that fits into the storage, and all of it is written.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let mut address: libc::sockaddr_ll = MaybeUninit::zeroed().assume_init();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            address.sll_ifindex = index as i32;
            storage.cast::<libc::sockaddr_ll>().write(address);
            *length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    socket.bind(&address).context("binding the packet socket")?;
    Ok(socket)
}

/// The next frame that may be a connection's first, and the kernel's time stamp of it.
fn next_first(socket: &Socket, way: Way, kind: Kind) -> Result<Option<(Tuple, SystemTime)>> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 256];
    let (length, address) = match socket.recv_from(&mut buffer) {
        Ok(received) => received,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            return Ok(None);
        }
        Err(error) => return Err(error).context("reading frames"),
    };
    // SAFETY: the kernel wrote a sockaddr_ll, which the storage has room for.
    let packet_type = unsafe { (*address.as_ptr().cast::<libc::sockaddr_ll>()).sll_pkttype };
    if (packet_type == libc::PACKET_OUTGOING) != (way == Way::Out) {
        return Ok(None);
    }
    // SAFETY: recv_from has written so many bytes.
    let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) };
    let Some(tuple) = first_of(bytes, kind) else { return Ok(None) };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    /// The time stamp of the last frame read from a socket (socket(7)).
    const SIOCGSTAMPNS: libc::c_ulong = 0x8907;
    // SAFETY: the request writes a timespec.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSTAMPNS as _, &raw mut time) } != 0 {
        bail!("a frame has no time stamp: {}", std::io::Error::last_os_error());
    }
    let stamp = SystemTime::UNIX_EPOCH + Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32);
    Ok(Some((tuple, stamp)))
}

fn first_of(bytes: &[u8], kind: Kind) -> Option<Tuple> {
    let sliced = SlicedPacket::from_ethernet(bytes).ok()?;
    let (source, destination) = match sliced.net? {
        NetSlice::Ipv4(ip) => (Address::v4(ip.header().source()), Address::v4(ip.header().destination())),
        NetSlice::Ipv6(ip) => {
            let address = |bytes: [u8; 16]| Address::from(IpAddr::from(bytes));
            (address(ip.header().source()), address(ip.header().destination()))
        }
        NetSlice::Arp(_) => return None,
    };
    let (protocol, source_port, destination_port) = match (sliced.transport?, kind) {
        (TransportSlice::Tcp(tcp), Kind::Tcp) if tcp.syn() && !tcp.ack() => {
            (Protocol::TCP, tcp.source_port(), tcp.destination_port())
        }
        (TransportSlice::Udp(udp), Kind::Udp) => (Protocol::UDP, udp.source_port(), udp.destination_port()),
        _ => return None,
    };
    Some(Tuple { source, destination, protocol, source_port, destination_port })
}

/// Connects at a rate for a time, from so many threads, and closes each connection at once. Answers how many were tried, opened and timed
/// out, and microseconds until they were open.
///
/// # Errors
/// When there are no sockets or ports left.
pub fn connect(
    to: SocketAddr,
    from: IpAddr,
    rate: u32,
    lasting: Duration,
    threads: u32,
    patience: Duration,
) -> Result<Value> {
    let one = |number: u32| -> Result<(Histogram<u64>, u64, u64)> {
        let mut histogram = Histogram::new(3).context("a histogram")?;
        let (mut tried, mut late) = (0u64, 0u64);
        let period = f64::from(threads) / f64::from(rate);
        let began = Instant::now() + Duration::from_secs_f64(period * f64::from(number) / f64::from(threads));
        while began.elapsed() < lasting {
            let due = began + Duration::from_secs_f64(period * tried as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).context("opening a socket")?;
            socket.bind(&SocketAddr::new(from, 0).into()).with_context(|| format!("binding to {from}"))?;
            socket.set_linger(Some(Duration::ZERO))?;
            tried += 1;
            let asked = Instant::now();
            match socket.connect_timeout(&to.into(), patience) {
                Ok(()) => histogram.saturating_record(asked.elapsed().as_micros() as u64),
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => late += 1,
                // Neither an answer nor silence: said, and counted as what was not opened.
                Err(error) => eprintln!("connecting: {error}"),
            }
        }
        Ok((histogram, tried, late))
    };
    let mut all = Histogram::<u64>::new(3).context("a histogram")?;
    let (mut tried, mut late) = (0, 0);
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..threads).map(|number| scope.spawn(move || one(number))).collect();
        for thread in threads {
            let (histogram, some, of_them) = thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            all.add(histogram).context("adding histograms")?;
            tried += some;
            late += of_them;
        }
        Ok(())
    })?;
    let at = |quantile| all.value_at_quantile(quantile);
    Ok(json!({"tried": tried, "opened": all.len(), "timed_out": late, "p50": at(0.5), "p90": at(0.9), "p99": at(0.99)}))
}

/// Opens connections at a rate for a time, each from a port of its own. Answers how many.
///
/// # Errors
/// When there are no sockets or ports left.
pub fn open(to: SocketAddr, from: Option<IpAddr>, kind: Kind, rate: u32, lasting: Duration) -> Result<u64> {
    let domain = Domain::for_address(to);
    let (sort, to) = (if kind == Kind::Tcp { Type::STREAM } else { Type::DGRAM }, SockAddr::from(to));
    let (began, mut count) = (Instant::now(), 0u64);
    let mut open = VecDeque::new();
    while began.elapsed() < lasting {
        let due = began + Duration::from_secs_f64(count as f64 / f64::from(rate));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let socket = Socket::new(domain, sort, None).context("opening a socket")?;
        socket.set_nonblocking(true)?;
        if let Some(from) = from {
            socket.bind(&SocketAddr::new(from, 0).into()).with_context(|| format!("binding to {from}"))?;
        }
        if kind == Kind::Tcp {
            // No port waits for what may still come.
            socket.set_linger(Some(Duration::ZERO))?;
        }
        match socket.connect(&to) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error).context("connecting"),
            _ => {}
        }
        if kind == Kind::Udp {
            // Refused is an answer as well.
            let _refused = socket.send(b"first");
        }
        count += 1;
        open.push_back(socket);
        if open.len() > 256 {
            open.pop_front();
        }
    }
    Ok(count)
}
