//! Packets that belong together: connections with all that comes of them.

use gateway::model::{Family, States};

use crate::fates::Fates;
use crate::kernel::Kernel;
use crate::packet::{ACK, FIN, PSH, Packet, RST, SYN, TCP, UDP, icmp_of};
use crate::solver::Solver;

/// Sends a connection that begins with this packet, as far as the protocol has one.
pub(crate) fn connection(kernel: &mut Kernel, fates: &mut Fates<'_>, solver: &mut Solver<'_>, first: &Packet) {
    let mut first = Packet { wish: States::NEW, about: None, bad_checksum: false, ..first.clone() };
    match first.protocol {
        TCP => {
            (first.tcp_flags, first.acknowledgement, first.payload) = (SYN, 0, 0);
            tcp(kernel, fates, solver, &first);
        }
        UDP => udp(kernel, fates, solver, &first),
        _ if first.is_icmp() => echo(kernel, fates, &first),
        _ => {
            for packet in [&first, &first.turned(), &first] {
                fates.send(kernel, "other protocols", packet);
            }
        }
    }
}

fn tcp(kernel: &mut Kernel, fates: &mut Fates<'_>, solver: &mut Solver<'_>, first: &Packet) {
    let (mut ours, mut theirs) = (first.sequence, solver.random.u32(..));
    let kind = solver.random.u8(..6);
    fates.send(kernel, "tcp syn", first);
    ours = ours.wrapping_add(1);
    let back = first.turned();
    let answer = Packet { tcp_flags: SYN | ACK, sequence: theirs, acknowledgement: ours, ..back.clone() };
    if kind == 0 {
        // Nobody listens.
        fates.send(kernel, "tcp refused", &Packet { tcp_flags: RST | ACK, sequence: 0, ..answer });
        return;
    }
    fates.send(kernel, "tcp syn+ack", &answer);
    theirs = theirs.wrapping_add(1);
    let segment = |of: &Packet, flags, sequence, acknowledgement, payload| Packet {
        tcp_flags: flags,
        sequence,
        acknowledgement,
        payload,
        ..of.clone()
    };
    fates.send(kernel, "tcp ack", &segment(first, ACK, ours, theirs, 0));
    fates.send(kernel, "tcp data", &segment(first, PSH | ACK, ours, theirs, 20));
    ours = ours.wrapping_add(20);
    fates.send(kernel, "tcp data back", &segment(&back, PSH | ACK, theirs, ours, 30));
    theirs = theirs.wrapping_add(30);
    match kind {
        1 => {
            fates.send(kernel, "tcp rst", &segment(first, RST, ours, theirs, 0));
            fates.send(kernel, "tcp behind rst", &segment(&back, ACK, theirs, ours, 5));
        }
        2 => {
            let far = ours.wrapping_add(1 << 30);
            fates.send(kernel, "tcp out of the window", &segment(first, PSH | ACK, far, theirs, 10));
        }
        3 => error(kernel, fates, solver, &segment(first, ACK, ours, theirs, 0)),
        _ => {}
    }
    fates.send(kernel, "tcp fin", &segment(first, FIN | ACK, ours, theirs, 0));
    ours = ours.wrapping_add(1);
    fates.send(kernel, "tcp fin back", &segment(&back, FIN | ACK, theirs, ours, 0));
    fates.send(kernel, "tcp last ack", &segment(first, ACK, ours, theirs.wrapping_add(1), 0));
}

fn udp(kernel: &mut Kernel, fates: &mut Fates<'_>, solver: &mut Solver<'_>, first: &Packet) {
    fates.send(kernel, "udp", first);
    if solver.random.bool() {
        error(kernel, fates, solver, first);
    }
    fates.send(kernel, "udp answer", &first.turned());
    fates.send(kernel, "udp again", first);
    error(kernel, fates, solver, first);
}

/// An ICMP error about a packet, from where it went to.
fn error(kernel: &mut Kernel, fates: &mut Fates<'_>, solver: &mut Solver<'_>, about: &Packet) {
    let kinds: [u16; 5] = match about.family() {
        Family::V4 => [0x0301, 0x0303, 0x0304, 0x0b00, 0x0c00],
        Family::V6 => [0x0103, 0x0104, 0x0200, 0x0300, 0x0401],
    };
    let error = Packet {
        protocol: icmp_of(about.family()),
        destination_port: kinds[solver.random.usize(..kinds.len())],
        about: Some(about.bytes()),
        wish: States::RELATED,
        ..about.turned()
    };
    fates.send(kernel, "icmp error", &error);
}

fn echo(kernel: &mut Kernel, fates: &mut Fates<'_>, first: &Packet) {
    let (request, reply) = if first.family() == Family::V4 { (0x0800, 0) } else { (0x8000, 0x8100) };
    let first = Packet { destination_port: request, ..first.clone() };
    fates.send(kernel, "echo request", &first);
    fates.send(kernel, "echo reply", &Packet { destination_port: reply, ..first.turned() });
    fates.send(kernel, "echo again", &first);
    let lost = Packet { destination_port: reply, sequence: first.sequence.wrapping_add(1), ..first.turned() };
    fates.send(kernel, "echo reply to nobody", &lost);
}
