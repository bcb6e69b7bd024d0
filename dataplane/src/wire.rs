//! A wire: two ports, what the endpoint inside may say, and what is counted.

use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;

use crate::classify::WireSlot;
use crate::classify::stateful::StatefulTable;
use crate::flow::Current;
use crate::frame::{Burst, Checksum, Frame};
use crate::guard::{Endpoint, Guard, Permissions, Plain};
use crate::packet::Direction;
use crate::parse::Medium;
use crate::port::{Capabilities, Pool, Port};
use crate::publish::{Generation, Snapshot};
use crate::rules::{Epoch, WireId};
use crate::stats::{DirectionStats, WireStats};
use crate::time::Time;
use crate::verdict::DropReason;
use crate::worker::HandOff;

/// How often a full device is asked again before its frames are dropped as [`DropReason::PortOverflow`].
const SEND_ATTEMPTS: usize = 3;

/// Whether a wire's frames are judged by their flow or each by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tracking {
    /// A flow's first frame is judged, the others pass while they fit its state, in both directions.
    #[default]
    Stateful,
    /// Every frame is judged by the policy of its own direction, replies included, and nothing is kept of it. Later
    /// fragments still follow their first one. For rules that are written for it, such as a router's access lists.
    Off,
}

/// A wire as control sets it up and hands it to its worker.
pub struct WireSetup {
    /// The wire's number.
    pub id: WireId,
    /// The port towards the endpoint.
    pub inside: Box<dyn Port>,
    /// The port towards everything else.
    pub outside: Box<dyn Port>,
    /// The endpoint, if there is one inside; a gateway's wire has none.
    pub endpoint: Option<Endpoint>,
    /// What is allowed beside untagged IP, ARP and neighbour discovery.
    pub permissions: Permissions,
    /// Whether frames are judged by their flow.
    pub tracking: Tracking,
    /// The memory of the wire's frames; `None` for the worker's own pool. Ports that bring their memory (AF_XDP) need
    /// the pool that they were opened with.
    pub pool: Option<Pool>,
    /// Where the wire counts.
    pub stats: Arc<WireStats>,
}

impl std::fmt::Debug for WireSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {} | {}", self.id, self.inside.name(), self.outside.name())
    }
}

/// A port and whether it still works.
pub(crate) struct End {
    pub(crate) port: Box<dyn Port>,
    pub(crate) lost: bool,
}

/// A wire's place in a policy, looked up once a generation.
pub(crate) struct Standing {
    generation: Generation,
    /// `None` when the policy does not know the wire.
    pub(crate) slot: Option<WireSlot>,
    pub(crate) epochs: [Epoch; 2],
    /// Frames are read whole: a glance is not enough for what the rules look at.
    pub(crate) whole: bool,
    /// The rules want to be asked about each packet of a flow that has not been answered.
    each_new: bool,
}

impl Standing {
    /// Before any policy.
    const NONE: Standing =
        Standing { generation: Generation::NONE, slot: None, epochs: [Epoch::NONE; 2], whole: true, each_new: false };

    /// The age of a direction's policy.
    ///
    /// # Errors
    /// [`DropReason::WireClosed`] when no policy knows the wire.
    #[inline]
    pub(crate) fn epoch(&self, direction: Direction) -> Result<Epoch, DropReason> {
        self.slot.map(|_| self.epochs[direction as usize]).ok_or(DropReason::WireClosed)
    }
}

/// What was counted since the counters that everybody sees were brought up to date: once a burst.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) forwarded: u64,
    pub(crate) forwarded_segments: u64,
    pub(crate) forwarded_bytes: u64,
    pub(crate) classified: u64,
    pub(crate) rejudged: u64,
    pub(crate) handed_over: u64,
}

impl Tally {
    fn settle(&mut self, stats: &DirectionStats) {
        let Tally { forwarded, forwarded_segments, forwarded_bytes, classified, rejudged, handed_over } =
            std::mem::take(self);
        stats.forwarded.add(forwarded);
        stats.forwarded_segments.add(forwarded_segments);
        stats.forwarded_bytes.add(forwarded_bytes);
        stats.classified.add(classified);
        stats.rejudged.add(rejudged);
        stats.handed_over.add(handed_over);
    }
}

/// A wire in the hands of its worker.
pub(crate) struct Wire {
    pub(crate) id: WireId,
    /// By the direction of the frames that the port receives: `[inside, outside]`.
    pub(crate) ends: [End; 2],
    pub(crate) guard: Guard,
    /// The guard's short way.
    pub(crate) plain: Plain,
    pub(crate) tracking: Tracking,
    pub(crate) standing: Standing,
    pub(crate) medium: Medium,
    pub(crate) both: Capabilities,
    pub(crate) stats: Arc<WireStats>,
    /// By direction.
    pub(crate) tallies: [Tally; 2],
    /// Frames on their way out, by direction.
    pub(crate) out: [Box<Burst>; 2],
    /// Index into the worker's pools.
    pub(crate) pool: usize,
    /// What joins it to the wire's other lanes, if it has several.
    pub(crate) hand_off: Option<Box<HandOff>>,
}

impl Wire {
    /// Sets a wire up: its ports are limited to what both can carry.
    ///
    /// # Errors
    /// When a port cannot be limited, or one carries Ethernet frames and the other does not; the set-up comes back.
    pub(crate) fn new(mut setup: WireSetup, pool: usize) -> Result<Wire, (io::Error, WireSetup)> {
        let (inside, outside) = (setup.inside.capabilities(), setup.outside.capabilities());
        if inside.ethernet != outside.ethernet {
            let text = format!(
                "port {} and port {} cannot be joined: only one of them carries Ethernet frames; use tap instead of tun",
                setup.inside.name(),
                setup.outside.name()
            );
            return Err((io::Error::new(io::ErrorKind::InvalidInput, text), setup));
        }
        let both = inside.intersect(outside);
        if let Err(error) = setup.inside.limit(both).and_then(|()| setup.outside.limit(both)) {
            return Err((error, setup));
        }
        let medium = if both.ethernet { Medium::Ethernet } else { Medium::Ip };
        let guard = Guard::new(setup.endpoint, setup.permissions);
        Ok(Wire {
            id: setup.id,
            ends: [setup.inside, setup.outside].map(|port| End { port, lost: false }),
            plain: guard.plain(),
            guard,
            tracking: setup.tracking,
            standing: Standing::NONE,
            medium,
            both,
            stats: setup.stats,
            tallies: Default::default(),
            out: Default::default(),
            pool,
            hand_off: None,
        })
    }

    /// Looks its place up in a policy, unless it is known.
    #[inline]
    pub(crate) fn stand_in(&mut self, policy: &Snapshot) {
        if self.standing.generation != policy.generation() {
            let slot = policy.slot(self.id);
            let epoch = |direction| slot.map_or(Epoch::NONE, |slot| policy.epoch(slot, direction));
            let stateful = |direction| slot.and_then(|slot| policy.classifier().stateful(slot, direction));
            let rules = || Direction::BOTH.into_iter().filter_map(stateful).map(StatefulTable::rules);
            let is_off = self.tracking == Tracking::Off;
            self.standing = Standing {
                generation: policy.generation(),
                slot,
                epochs: Direction::BOTH.map(epoch),
                whole: slot.is_none() || rules().any(|rules| is_off || !rules.passes()),
                each_new: rules().any(|rules| rules.may_limit()),
            };
        }
    }

    /// What all frames have in common that go this way now.
    #[inline]
    pub(crate) fn current(&self, direction: Direction, now: Time) -> Current {
        Current::new(direction, self.standing.epochs, self.standing.each_new, now)
    }

    /// Makes what was counted visible to everybody.
    pub(crate) fn settle(&mut self) {
        for direction in Direction::BOTH {
            self.tallies[direction as usize].settle(self.stats.direction(direction));
        }
    }

    /// Gives the memory of a frame that was dropped back: to its own lane, if that is another one.
    #[inline]
    pub(crate) fn release(&mut self, frame: Frame, direction: Direction, pool: &mut Pool) {
        let own = match &mut self.hand_off {
            None => Some(frame),
            Some(hand_off) => hand_off.refuse(frame, direction),
        };
        if let Some(frame) = own {
            pool.release(frame);
        }
    }

    /// Whether the frame, which goes in this direction, can leave by the other port.
    #[inline]
    pub(crate) fn carries(&self, frame: &Frame) -> Result<(), DropReason> {
        if (frame.gso.is_some() && !self.both.gso) || (frame.segments() > 1 && !self.both.multi_segment) {
            return Err(DropReason::GsoUnsupported);
        }
        if frame.gso.is_none() && frame.length() > self.both.max_frame {
            return Err(DropReason::FrameTooLong);
        }
        // A kernel checks this for its own frames; a port's peer may be anybody, and whoever completes such a checksum
        // would write outside of the headers.
        let outside = match frame.checksum {
            Checksum::Partial { start, offset } => usize::from(start) + usize::from(offset) + 2 > frame.bytes().len(),
            Checksum::Unknown | Checksum::Valid => false,
        };
        if outside || frame.gso.is_some_and(|gso| gso.size == 0) {
            return Err(DropReason::ChecksumMetadata);
        }
        Ok(())
    }

    /// Takes a burst from the port that receives frames of this direction.
    ///
    /// # Errors
    /// When the port is lost just now.
    pub(crate) fn receive(
        &mut self,
        direction: Direction,
        pool: &mut Pool,
        burst: &mut Burst,
        now: Time,
    ) -> io::Result<()> {
        let end = &mut self.ends[direction as usize];
        if end.lost {
            return Ok(());
        }
        end.port.receive(pool, burst, now).inspect_err(|_| end.lost = true)
    }

    /// Makes what the ports count visible to everybody.
    pub(crate) fn count_ports(&self) {
        for direction in Direction::BOTH {
            let counters = self.ends[direction as usize].port.counters();
            let stats = self.stats.port(direction);
            stats.receive_overflow.set(counters.receive_overflow);
            stats.receive_errors.set(counters.receive_errors);
            stats.send_errors.set(counters.send_errors);
            stats.checksums_completed.set(counters.checksums_completed);
        }
    }

    /// Sends what waits in this direction; what the port has no room for is released and counted by `dropped`.
    ///
    /// # Errors
    /// When the port is lost just now.
    pub(crate) fn flush(
        &mut self,
        direction: Direction,
        pool: &mut Pool,
        now: Time,
        mut dropped: impl FnMut(&DirectionStats, DropReason, &Frame),
    ) -> io::Result<()> {
        let out = &mut self.out[direction as usize];
        let end = &mut self.ends[direction.reverse() as usize];
        let stats = self.stats.direction(direction);
        let mut result = Ok(());
        for _ in 0..SEND_ATTEMPTS {
            if out.is_empty() || end.lost {
                break;
            }
            result = end.port.send(pool, out, now).inspect_err(|_| end.lost = true);
        }
        let reason = if end.lost { DropReason::PortUnavailable } else { DropReason::PortOverflow };
        for frame in out.drain(..) {
            dropped(stats, reason, &frame);
            pool.release(frame);
        }
        result
    }
}
