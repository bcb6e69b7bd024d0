//! What wires count, as metrics: the same series for the wires of a configuration and for those of a node's pods.

use std::fmt;
use std::sync::Arc;

use dataplane::packet::Direction;
use dataplane::stats::{Counter, DirectionStats, PortStats, WireStats};
use dataplane::verdict::DropReason;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::metrics::{encode_count, gauge};

/// A wire that is shown.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Its name.
    pub(crate) name: String,
    /// The pod inside, as `namespace/name`; empty for none, which as a label is the same as none.
    pub(crate) pod: String,
    /// Both ports work.
    pub(crate) up: bool,
    /// What it counts.
    pub(crate) stats: Arc<WireStats>,
}

/// Writes all series of some wires.
///
/// # Errors
/// Never while there is memory to write to.
pub(crate) fn encode(encoder: &mut DescriptorEncoder<'_>, wires: &[Shown]) -> fmt::Result {
    encode_wires(encoder, wires)?;
    encode_directions(encoder, wires)?;
    encode_ports(encoder, wires)?;
    encode_drops(encoder, wires)
}

/// What a wire counts for one direction, and how it is named.
type PerDirection = (&'static str, &'static str, fn(&DirectionStats) -> &Counter);

const PER_DIRECTION: [PerDirection; 6] = [
    ("received_frames", "Frames that a wire took from the port that this direction starts at", |stats| &stats.received),
    ("forwarded_frames", "Frames that a wire let pass", |stats| &stats.forwarded),
    (
        "forwarded_segments",
        "Packets of the medium that the forwarded frames stand for: a super-frame counts as its segments",
        |stats| &stats.forwarded_segments,
    ),
    ("classified_frames", "Frames that policy was asked about: new flows, and flows judged again", |stats| {
        &stats.classified
    }),
    ("rejudged_flows", "Flows that were judged again because the policy of their wire had changed", |stats| {
        &stats.rejudged
    }),
    (
        "handed_over_frames",
        "Frames that came by a queue of another worker than the one that owns their flow",
        |stats| &stats.handed_over,
    ),
];

fn labels(wire: &Shown) -> [(&'static str, &str); 2] {
    [("wire", &wire.name), ("pod", &wire.pod)]
}

fn encode_wires(encoder: &mut DescriptorEncoder<'_>, wires: &[Shown]) -> fmt::Result {
    gauge(encoder, "wires", "Wires that there are to be", wires.len() as u64)?;
    let help = "1 while both ports of a wire work, 0 while one is lost and nothing passes";
    let mut family = encoder.encode_descriptor("wire_up", help, None, MetricType::Gauge)?;
    for wire in wires {
        let up = u64::from(wire.up);
        family.encode_family(&labels(wire))?.encode_gauge(&up)?;
    }
    let mut family = encoder.encode_descriptor("flows", "Live flows of a wire", None, MetricType::Gauge)?;
    for wire in wires {
        family.encode_family(&labels(wire))?.encode_gauge(&wire.stats.flows.get())?;
    }
    Ok(())
}

fn encode_directions(encoder: &mut DescriptorEncoder<'_>, wires: &[Shown]) -> fmt::Result {
    let mut encode = |name, help, unit: Option<&Unit>, pick: fn(&DirectionStats) -> &Counter| {
        let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for wire in wires {
            for direction in Direction::BOTH {
                let [name, pod] = labels(wire);
                let value = pick(wire.stats.direction(direction)).get();
                let labels = [name, pod, ("direction", direction.name())];
                encode_count(&mut family.encode_family(&labels)?, value)?;
            }
        }
        Ok(())
    };
    for (name, help, pick) in PER_DIRECTION {
        encode(name, help, None, pick)?;
    }
    encode("forwarded", "Bytes that a wire let pass", Some(&Unit::Bytes), |stats| &stats.forwarded_bytes)
}

/// What a port counts, and how it is named.
type PerPort = (&'static str, &'static str, fn(&PortStats) -> &Counter);

const PER_PORT: [PerPort; 4] = [
    ("port_receive_overflow_frames", "Frames that a port's device lost before they could be taken", |stats| {
        &stats.receive_overflow
    }),
    (
        "port_receive_error_frames",
        "Frames that came and could not be taken over: too long, unreadable metadata",
        |stats| &stats.receive_errors,
    ),
    ("port_send_error_frames", "Frames that a port's device refused for good", |stats| &stats.send_errors),
    ("port_completed_checksums", "Checksums that were completed in software", |stats| &stats.checksums_completed),
];

fn encode_ports(encoder: &mut DescriptorEncoder<'_>, wires: &[Shown]) -> fmt::Result {
    for (name, help, pick) in PER_PORT {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for wire in wires {
            // The inside port is where egress comes from.
            for (direction, side) in Direction::BOTH.into_iter().zip(["inside", "outside"]) {
                let [name, pod] = labels(wire);
                let labels = [name, pod, ("port", side)];
                encode_count(&mut family.encode_family(&labels)?, pick(wire.stats.port(direction)).get())?;
            }
        }
    }
    Ok(())
}

fn encode_drops(encoder: &mut DescriptorEncoder<'_>, wires: &[Shown]) -> fmt::Result {
    let help = "Frames that a wire dropped; a reason appears once it has occurred on the wire";
    let mut family = encoder.encode_descriptor("drops", help, None, MetricType::Counter)?;
    for wire in wires {
        for direction in Direction::BOTH {
            let stats = wire.stats.direction(direction);
            for &reason in DropReason::ALL {
                let value = stats.dropped(reason).get();
                if value > 0 {
                    let [name, pod] = labels(wire);
                    let labels = [name, pod, ("direction", direction.name()), ("reason", reason.label())];
                    encode_count(&mut family.encode_family(&labels)?, value)?;
                }
            }
        }
    }
    Ok(())
}
