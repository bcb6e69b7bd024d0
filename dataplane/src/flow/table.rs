//! [`FlowTable`].

use bytemuck::Zeroable;
use siphasher::sip::SipHasher13;

use super::evict::Shares;
use super::{
    Crossing, FlowEntry, FlowHash, FlowInfo, FlowKey, FlowRef, FlowRegion, FlowState, Index, Judged, Origin, Timeouts,
    sctp, tcp,
};
use crate::address::Address;
use crate::packet::{Direction, Packet, Protocol, Transport, Tuple};
use crate::rules::{Epoch, WireId};
use crate::time::Time;
use crate::verdict::DropReason;

/// Entries that a full table looks through for one that has run out, before it evicts.
const LOOK_FOR_EXPIRED: usize = 64;

/// Seconds between two sweeps for flows that have run out.
const SWEEP_PAUSE: u32 = 5;

/// Whether a connection whose handshake was not seen is taken up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MidStream {
    /// Never: its segments are dropped ([`DropReason::TcpNotSyn`]).
    #[default]
    Refuse,
    /// Until this time, if policy allows it as a new connection: for the connections that are older than the table. Until an
    /// answer is seen the flow is as evictable as a half-open one.
    Until(Time),
}

/// How a table is set up.
#[derive(Clone, Debug, Default)]
pub struct FlowConfig {
    /// The key of the hash: random and secret in operation, fixed in tests.
    pub hash_key: [u8; 16],
    /// The most flows that a wire may have; 0 stands for all.
    pub wire_quota: u32,
    /// The most wires that may have flows at once; 0 stands for 1,024.
    pub max_wires: usize,
    /// How long flows live.
    pub timeouts: Timeouts,
    /// Whether connections are picked up midway.
    pub mid_stream: MidStream,
}

/// The flows of one worker.
pub struct FlowTable {
    region: FlowRegion,
    config: FlowConfig,
    hasher: SipHasher13,
    pub(super) index: Index,
    shares: Shares,
    /// Free entries, the lowest numbers taken first: sweeps and listings look only at what was ever used.
    free: Vec<u32>,
    len: u32,
    /// No entry from here on is in use.
    used: u32,
    sweep: Sweep,
}

/// Where the search for flows that have run out stands.
#[derive(Debug)]
struct Sweep {
    /// The next entry to look at; 0 between sweeps.
    hand: u32,
    /// The earliest expiry of any flow, or earlier: no need to sweep before.
    earliest: u32,
    /// The earliest expiry that the running sweep has met.
    met: u32,
    /// The second of the last sweep's end.
    ended: u32,
}

impl FlowTable {
    /// An empty table in this region, whatever the region holds.
    pub fn new(mut region: FlowRegion, config: FlowConfig) -> Self {
        region.entries_mut().fill(FlowEntry::zeroed());
        Self::empty(region, config)
    }

    /// A table of the flows that are in the region: those of a process that has ended, perhaps in the middle of a change.
    /// What makes no sense, stands twice or has run out is cleared.
    pub fn adopt(region: FlowRegion, config: FlowConfig, now: Time) -> Self {
        let mut table = Self::empty(region, config);
        table.free.clear();
        let mut evictable = Vec::new();
        for number in (0..table.capacity() as u32).rev() {
            let mut entry = *table.entry(FlowRef(number));
            entry.expires = entry.expires.min(table.expiry(&entry, now));
            let wire = entry.key().wire();
            let hash = table.hash(entry.key());
            let usable = entry.is_sound()
                && !entry.is_expired(now)
                && table.find_key(entry.key(), hash).is_none()
                && table.shares.has_room(wire);
            if !usable || !table.index.insert(hash.0 as u32, number) {
                *table.entry_mut(FlowRef(number)) = FlowEntry::zeroed();
                table.free.push(number);
                continue;
            }
            *table.entry_mut(FlowRef(number)) = entry;
            table.shares.add(wire);
            table.len += 1;
            table.used = table.used.max(number + 1);
            table.sweep.earliest = table.sweep.earliest.min(entry.expires);
            if entry.is_evictable() {
                evictable.push((entry.expires, number));
            }
        }
        evictable.sort_unstable();
        for (_, number) in evictable {
            table.relist(FlowRef(number));
        }
        table
    }

    fn empty(region: FlowRegion, config: FlowConfig) -> Self {
        let capacity = region.entries().len();
        let max_wires = if config.max_wires == 0 { 1024 } else { config.max_wires };
        FlowTable {
            hasher: SipHasher13::new_with_key(&config.hash_key),
            index: Index::new(capacity),
            shares: Shares::new(capacity, max_wires),
            free: (0..capacity as u32).rev().collect(),
            len: 0,
            used: 0,
            sweep: Sweep { hand: 0, earliest: u32::MAX, met: u32::MAX, ended: 0 },
            region,
            config,
        }
    }

    /// How the table is set up.
    pub fn config(&self) -> &FlowConfig {
        &self.config
    }

    /// Allows or ends picking up connections midway, as after a restart without the old flows.
    pub fn set_mid_stream(&mut self, mid_stream: MidStream) {
        self.config.mid_stream = mid_stream;
    }

    /// Ends the table and gives its region back, for [`FlowTable::adopt`].
    pub fn into_region(self) -> FlowRegion {
        self.region
    }

    pub(super) fn region(&self) -> &FlowRegion {
        &self.region
    }

    /// Flows in the table, those that have run out and are not yet swept included.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The most flows that it can hold.
    pub fn capacity(&self) -> usize {
        self.region.entries().len()
    }

    /// Flows of a wire.
    pub fn wire_flows(&self, wire: WireId) -> u32 {
        self.shares.flows(wire)
    }

    /// The flow of a frame with this tuple, and whose way the frame goes. A flow that has run out is as absent.
    #[inline]
    pub fn find(&self, crossing: &Crossing, tuple: &Tuple) -> Option<(FlowRef, Origin)> {
        let key = Self::key(crossing, tuple);
        self.find_hashed(&key, self.hash(&key), crossing)
    }

    /// [`FlowTable::find`] with what a burst has computed beforehand.
    #[inline]
    pub fn find_hashed(&self, key: &FlowKey, hash: FlowHash, crossing: &Crossing) -> Option<(FlowRef, Origin)> {
        let flow = self.find_key(key, hash)?;
        let entry = self.entry(flow);
        (!entry.is_expired(crossing.now)).then(|| (flow, entry.origin(crossing.direction)))
    }

    /// Adds the flow that a packet opens, after policy has allowed it. Another flow of the same ends is replaced: one that
    /// has run out, or is over ([`super::Tracked::Reopen`]).
    ///
    /// When the wire's quota or the table is used up, an evictable flow makes room: the wire's own oldest, or, if
    /// it has none and the table is full, the oldest of all.
    ///
    /// # Errors
    /// Those of [`FlowTable::can_open`]; [`DropReason::FlowQuota`], [`DropReason::FlowTableFull`].
    pub fn insert(
        &mut self,
        crossing: &Crossing,
        packet: &Packet,
        tuple: &Tuple,
        epoch: Epoch,
    ) -> Result<FlowRef, DropReason> {
        let key = Self::key(crossing, tuple);
        self.insert_hashed(&key, self.hash(&key), crossing, packet, epoch)
    }

    /// [`FlowTable::insert`] with what a burst has computed beforehand.
    ///
    /// # Errors
    /// Those of [`FlowTable::insert`].
    pub fn insert_hashed(
        &mut self,
        key: &FlowKey,
        hash: FlowHash,
        crossing: &Crossing,
        packet: &Packet,
        epoch: Epoch,
    ) -> Result<FlowRef, DropReason> {
        self.can_open(packet, crossing.now)?;
        if !super::is_tracked(packet) {
            return Err(DropReason::IcmpUnrelated);
        }
        if let Some(old) = self.find_key(key, hash) {
            self.remove(old);
        }
        self.make_room(crossing.wire, crossing.now)?;
        let number = self.free.last().copied().ok_or(DropReason::FlowTableFull)?;
        if !self.index.insert(hash.0 as u32, number) {
            return Err(DropReason::FlowTableFull);
        }
        self.free.pop();
        let flow = FlowRef(number);
        let mut entry = FlowEntry::new(*key, crossing.direction, epoch, FlowState::Unreplied);
        match packet.transport {
            Transport::Tcp(segment) if segment.flags.syn() => tcp::open(&mut entry, &segment),
            Transport::Tcp(segment) => tcp::pick_up(&mut entry, &segment),
            Transport::Sctp { .. } => sctp::open(&mut entry),
            _ => {}
        }
        entry.count(Origin::Original, crossing.length);
        *self.entry_mut(flow) = entry;
        self.shares.add(crossing.wire);
        self.len += 1;
        self.used = self.used.max(number + 1);
        self.refresh(flow, crossing.now);
        self.relist(flow);
        Ok(flow)
    }

    /// What a flow was judged as, and when.
    pub fn judged(&self, flow: FlowRef) -> Judged {
        self.entry(flow).judged()
    }

    /// In which direction a flow was judged, and the age of the policy that allowed it: what every frame is asked.
    #[inline]
    pub fn judged_in(&self, flow: FlowRef) -> (Direction, Epoch) {
        let entry = self.entry(flow);
        (entry.direction(), entry.epoch())
    }

    /// A flow's state.
    pub fn state(&self, flow: FlowRef) -> FlowState {
        self.entry(flow).state()
    }

    /// Notes that a flow was judged again and is allowed by the policy of this age.
    pub fn set_epoch(&mut self, flow: FlowRef, epoch: Epoch) {
        self.entry_mut(flow).set_epoch(epoch);
    }

    /// Notes that a flow is judged as if its far end were another: the client that NAT hides (ingress; `port` does not
    /// matter), or the endpoint that a Service's address stands for (egress).
    pub fn judge_as(&mut self, flow: FlowRef, peer: Address, port: u16) {
        self.entry_mut(flow).judge_as(peer, port);
    }

    /// Policy no longer allows the flow. TCP and SCTP leave an entry behind that drops everything
    /// ([`DropReason::FlowCut`]) until it runs out or its originator opens a new connection; others are removed, since their
    /// next packet is judged as a new flow's.
    pub fn cut(&mut self, flow: FlowRef, now: Time) {
        let entry = self.entry_mut(flow);
        match entry.key().protocol() {
            Protocol::TCP | Protocol::SCTP if entry.state() == FlowState::Cut => {}
            Protocol::TCP | Protocol::SCTP => {
                entry.set_state(FlowState::Cut);
                self.refresh(flow, now);
                self.relist(flow);
            }
            _ => self.remove(flow),
        }
    }

    /// Looks at `budget` entries at most and removes flows that have run out; how many. Does nothing while none can
    /// have run out. To be called at every turn.
    pub fn expire(&mut self, budget: usize, now: Time) -> usize {
        let seconds = now.as_secs();
        let pausing = seconds < self.sweep.ended.saturating_add(SWEEP_PAUSE);
        if self.sweep.hand == 0 && (seconds < self.sweep.earliest || (pausing && !self.free.is_empty())) {
            return 0;
        }
        if self.sweep.hand == 0 {
            self.sweep.met = u32::MAX;
        }
        let end = self.used.min(self.sweep.hand.saturating_add(budget as u32));
        let before = self.len;
        for number in self.sweep.hand..end {
            let entry = self.entry(FlowRef(number));
            if entry.state() == FlowState::Free {
                continue;
            }
            if entry.is_expired(now) {
                self.remove(FlowRef(number));
            } else {
                self.sweep.met = self.sweep.met.min(entry.expires);
            }
        }
        self.sweep.hand = end;
        if end >= self.used {
            self.end_sweep(seconds);
        }
        (before - self.len) as usize
    }

    fn end_sweep(&mut self, seconds: u32) {
        self.sweep = Sweep { hand: 0, earliest: self.sweep.met, met: u32::MAX, ended: seconds };
        while self.used > 0 && self.entry(FlowRef(self.used - 1)).state() == FlowState::Free {
            self.used -= 1;
        }
    }

    /// When [`FlowTable::expire`] has something to do next, for a worker that goes to sleep; `None` for never.
    pub fn next_deadline(&self) -> Option<Time> {
        let seconds = match self.sweep {
            _ if self.len == 0 => return None,
            Sweep { hand: 1.., .. } => 0,
            Sweep { earliest, ended, .. } => earliest.max(ended.saturating_add(SWEEP_PAUSE)),
        };
        Some(Time(u64::from(seconds) * 1_000_000_000))
    }

    /// Goes on with a flush, over `budget` entries at most; how many flows were removed.
    pub fn flush(&mut self, flush: &mut Flush, budget: usize) -> usize {
        let end = self.used.min(flush.next.saturating_add(budget as u32));
        let before = self.len;
        for number in flush.next..end {
            let entry = self.entry(FlowRef(number));
            if entry.state() != FlowState::Free && flush.matches(entry.key()) {
                self.remove(FlowRef(number));
            }
        }
        flush.next = end;
        flush.done = end >= self.used;
        (before - self.len) as usize
    }

    /// Live flows from an entry's number on, each with its number: a listing goes on from the last number plus one, so that
    /// it can be made in pieces.
    pub fn list(&self, from: u32, now: Time) -> impl Iterator<Item = (u32, FlowInfo)> {
        let entries = self.region.entries()[..self.used as usize].iter().enumerate().skip(from as usize);
        entries
            .filter(move |(_, entry)| entry.state() != FlowState::Free && !entry.is_expired(now))
            .map(move |(number, entry)| (number as u32, FlowInfo::new(entry, now)))
    }

    /// The entry of a flow.
    pub fn entry(&self, flow: FlowRef) -> &FlowEntry {
        &self.region.entries()[flow.0 as usize]
    }

    pub(super) fn entry_mut(&mut self, flow: FlowRef) -> &mut FlowEntry {
        &mut self.region.entries_mut()[flow.0 as usize]
    }

    /// The key of a frame's flow.
    #[inline]
    pub fn key(crossing: &Crossing, tuple: &Tuple) -> FlowKey {
        FlowKey::new(crossing.wire, crossing.direction, tuple)
    }

    /// The key's hash: computed once a frame, then used by all that follows.
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> FlowHash {
        FlowHash(self.hasher.hash(bytemuck::bytes_of(key)))
    }

    pub(super) fn find_key(&self, key: &FlowKey, hash: FlowHash) -> Option<FlowRef> {
        let entries = self.region.entries();
        self.index.find(hash.0 as u32, |number| entries[number as usize].key() == key).map(FlowRef)
    }

    /// Starts a flow's time again, as its state has it.
    pub(super) fn refresh(&mut self, flow: FlowRef, now: Time) {
        let expires = self.expiry(self.entry(flow), now);
        self.entry_mut(flow).expires = expires;
        self.sweep.earliest = self.sweep.earliest.min(expires);
        self.sweep.met = self.sweep.met.min(expires);
    }

    /// The second from which a flow is gone if nothing comes after now. Rounded up: never early.
    fn expiry(&self, entry: &FlowEntry, now: Time) -> u32 {
        let seconds = u32::try_from(now.0.div_ceil(1_000_000_000)).unwrap_or(u32::MAX);
        seconds.saturating_add(self.config.timeouts.of(entry))
    }

    /// Puts a flow on the lists of evictable ones, or takes it off, as its state has it.
    pub(super) fn relist(&mut self, flow: FlowRef) {
        let entry = self.entry(flow);
        let (wire, evictable) = (entry.key().wire(), entry.is_evictable());
        match (evictable, self.shares.is_listed(flow.0)) {
            (true, false) => self.shares.list(wire, flow.0),
            (false, true) => self.shares.unlist(wire, flow.0),
            _ => {}
        }
    }

    /// Sees to it that a flow of this wire can be added.
    fn make_room(&mut self, wire: WireId, now: Time) -> Result<(), DropReason> {
        let quota = self.config.wire_quota;
        if quota > 0 && self.shares.flows(wire) >= quota {
            let own = self.shares.oldest_of(wire).ok_or(DropReason::FlowQuota)?;
            self.remove(FlowRef(own));
        }
        if self.free.is_empty() {
            self.expire(LOOK_FOR_EXPIRED, now);
        }
        if self.free.is_empty() {
            let oldest = self.shares.oldest_of(wire).or_else(|| self.shares.oldest());
            self.remove(FlowRef(oldest.ok_or(DropReason::FlowTableFull)?));
        }
        if self.shares.has_room(wire) { Ok(()) } else { Err(DropReason::FlowTableFull) }
    }

    fn remove(&mut self, flow: FlowRef) {
        let key = *self.entry(flow).key();
        if self.shares.is_listed(flow.0) {
            self.shares.unlist(key.wire(), flow.0);
        }
        self.index.remove(self.hash(&key).0 as u32, flow.0);
        self.shares.subtract(key.wire());
        *self.entry_mut(flow) = FlowEntry::zeroed();
        self.free.push(flow.0);
        self.len -= 1;
    }
}

#[cfg(test)]
impl FlowTable {
    /// How far the entry farthest from its place in the index is from it.
    pub(super) fn longest_probe(&self) -> usize {
        self.index.longest_probe()
    }

    /// Holds the table's parts against each other.
    pub(super) fn check(&self) {
        let mut wires = std::collections::HashMap::new();
        for number in 0..self.capacity() as u32 {
            let entry = self.entry(FlowRef(number));
            let free = self.free.contains(&number);
            assert_eq!(free, entry.state() == FlowState::Free, "entry {number} is free or not");
            if free {
                assert!(!self.shares.is_listed(number));
                continue;
            }
            assert!(number < self.used && entry.is_sound());
            assert_eq!(self.find_key(entry.key(), self.hash(entry.key())), Some(FlowRef(number)));
            assert_eq!(self.shares.is_listed(number), entry.is_evictable(), "{entry:?}");
            assert!(self.sweep.earliest <= entry.expires || number < self.sweep.hand || self.sweep.hand > 0);
            *wires.entry(entry.key().wire()).or_insert(0) += 1;
        }
        assert_eq!(self.len() + self.free.len(), self.capacity());
        assert_eq!(wires.values().sum::<u32>(), self.len);
        assert!(wires.iter().all(|(wire, flows)| self.wire_flows(*wire) == *flows));
    }
}

/// A removal of flows in pieces ([`FlowTable::flush`]): a wire that is gone, or an address that has got a new owner. Flows
/// that open meanwhile may stay; they are the new owner's.
#[derive(Clone, Copy, Debug)]
pub struct Flush {
    wire: Option<WireId>,
    address: Option<Address>,
    next: u32,
    done: bool,
}

impl Flush {
    /// All flows of a wire.
    pub fn wire(wire: WireId) -> Self {
        Flush { wire: Some(wire), address: None, next: 0, done: false }
    }

    /// The flows of an address on every wire.
    pub fn address(address: Address) -> Self {
        Flush { wire: None, address: Some(address), next: 0, done: false }
    }

    /// The flows of an address on one wire.
    pub fn address_on(wire: WireId, address: Address) -> Self {
        Flush { wire: Some(wire), address: Some(address), next: 0, done: false }
    }

    /// Whether all entries were looked at.
    pub fn is_done(&self) -> bool {
        self.done
    }

    fn matches(&self, key: &FlowKey) -> bool {
        self.wire.is_none_or(|wire| key.wire() == wire) && self.address.is_none_or(|address| key.has_address(address))
    }
}
