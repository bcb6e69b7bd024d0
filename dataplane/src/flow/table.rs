//! [`FlowTable`].

use bytemuck::Zeroable;

use super::evict::Shares;
use super::known::second_after;
use super::sweep::Sweep;
use super::{
    Crossing, FlowDetail, FlowEntry, FlowHash, FlowInfo, FlowKey, FlowMut, FlowRef, FlowRegion, FlowState, FlowView,
    Index, Judged, KeyWords, KeyedHash, Origin, Timeouts, judged, sctp, tcp,
};
use crate::address::Address;
use crate::arch::prefetch::prefetch_slice;
use crate::packet::{Direction, Packet, Protocol, Transport, Tuple};
use crate::rules::{Epoch, WireId};
use crate::time::Time;
use crate::verdict::DropReason;

/// Whether a connection whose handshake was not seen is taken up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MidStream {
    /// Never: its segments are dropped ([`DropReason::TcpNotSyn`]).
    #[default]
    Refuse,
    /// Until this time, if policy allows it as a new connection: for the connections that are older than the table. Until an
    /// answer is seen the flow is as evictable as a half-open one.
    Until(Time),
    /// Always, but for segments that end a connection, as Linux does it (`nf_conntrack_tcp_loose`): for gateways that take over from it.
    Always,
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
    hasher: KeyedHash,
    pub(super) index: Index,
    /// Its free entries: the lowest numbers taken first, so that sweeps and listings look only at what was ever used.
    pub(super) shares: Shares,
    pub(super) len: u32,
    /// No entry from here on is in use.
    pub(super) used: u32,
    pub(super) sweep: Sweep,
}

impl FlowTable {
    /// An empty table in this region, whatever the region holds.
    pub fn new(mut region: FlowRegion, config: FlowConfig) -> Self {
        // Writes to all of it: its pages are there before the first frame is.
        region.entries_mut().fill(FlowEntry::zeroed());
        region.details_mut().fill(FlowDetail::zeroed());
        judged::forget(&mut region.peers);
        let mut table = Self::empty(region, config);
        (0..table.capacity() as u32).rev().for_each(|number| table.shares.give_free(number));
        table
    }

    /// A table of the flows that are in the region: those of a process that has ended, perhaps in the middle of a change.
    /// What makes no sense, stands twice or has run out is cleared.
    pub fn adopt(region: FlowRegion, config: FlowConfig, now: Time) -> Self {
        let mut table = Self::empty(region, config);
        judged::forget(&mut table.region.peers);
        let mut evictable = Vec::new();
        for number in (0..table.capacity() as u32).rev() {
            let mut entry = *table.entry(FlowRef(number));
            entry.expires = entry.expires.min(table.expiry(&entry, now));
            if !table.adopt_entry(number, &entry, now) {
                *table.entry_mut(FlowRef(number)) = FlowEntry::zeroed();
                table.shares.give_free(number);
                continue;
            }
            *table.entry_mut(FlowRef(number)) = entry;
            table.shares.adopt(number);
            table.shares.add(entry.key().wire());
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

    /// Forgets by which policy its flows were allowed: each is judged again before its next frame passes. For a table that was
    /// adopted from a process whose epochs mean nothing in this one.
    pub fn forget_epochs(&mut self) {
        let used = self.used as usize;
        self.region.entries_mut()[..used].iter_mut().for_each(|entry| entry.set_epoch(Epoch::NONE));
    }

    /// Puts an entry that was found in the region into the index, if it makes sense.
    fn adopt_entry(&mut self, number: u32, entry: &FlowEntry, now: Time) -> bool {
        let hash = self.hash(entry.key());
        let judged = entry.is_judged_as().then(|| self.region.details[number as usize].judged);
        let usable = entry.is_sound()
            && !entry.is_expired(now)
            && self.find_key(entry.key(), hash).is_none()
            && self.shares.has_room(entry.key().wire())
            && judged.is_none_or(|judged| judged::adopt(&mut self.region.peers, judged));
        if usable && self.index.insert(hash.0, number) {
            return true;
        }
        if let (true, Some(judged)) = (usable, judged) {
            judged::release(&mut self.region.peers, judged);
        }
        false
    }

    /// A table that knows of no entry, neither used nor free.
    fn empty(region: FlowRegion, config: FlowConfig) -> Self {
        let capacity = region.entries().len();
        let max_wires = if config.max_wires == 0 { 1024 } else { config.max_wires };
        FlowTable {
            hasher: KeyedHash::new(&config.hash_key),
            index: Index::new(capacity),
            shares: Shares::new(capacity, max_wires),
            len: 0,
            used: 0,
            sweep: Sweep::new(),
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

    #[inline]
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

    /// Bytes of memory, all included: entries and what belongs to them, index, lists, shares. Fixed at construction.
    pub fn memory(&self) -> usize {
        self.region.bytes() + self.index.bytes() + self.shares.bytes()
    }

    /// Bytes of memory for each flow that the table can hold.
    pub fn bytes_per_flow(&self) -> f64 {
        self.memory() as f64 / self.capacity() as f64
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
        let fresh = FlowEntry::new(*key, crossing.direction, epoch, FlowState::Unreplied);
        let flow = self.add(crossing.wire, fresh, hash).ok_or(DropReason::FlowTableFull)?;
        let mut entry = self.flow_mut(flow);
        match packet.transport {
            Transport::Tcp(segment) if segment.flags.syn() => tcp::open(&mut entry, &segment),
            Transport::Tcp(segment) => tcp::pick_up(&mut entry, &segment),
            Transport::Sctp { .. } => sctp::open(&mut entry),
            _ => {}
        }
        entry.count(Origin::Original, crossing.length);
        self.refresh(flow, crossing.now);
        self.relist(flow);
        self.prefetch_free();
        Ok(flow)
    }

    /// Puts an entry into a free place and the index, if there is room in both; else nothing changes.
    #[inline]
    pub(super) fn add(&mut self, wire: WireId, fresh: FlowEntry, hash: FlowHash) -> Option<FlowRef> {
        let number = self.shares.first_free()?;
        if !self.index.insert(hash.0, number) {
            return None;
        }
        self.shares.take_free();
        self.shares.add(wire);
        self.len += 1;
        self.used = self.used.max(number + 1);
        let flow = FlowRef(number);
        let entry = self.flow_mut(flow);
        *entry.entry = fresh;
        *entry.detail = FlowDetail::zeroed();
        Some(flow)
    }

    /// Asks for the memory that the next insert will write to.
    #[inline]
    pub(super) fn prefetch_free(&self) {
        if let Some(next) = self.shares.first_free() {
            prefetch_slice(&self.region.entries, next as usize);
            prefetch_slice(&self.region.details, next as usize);
        }
    }

    /// What a flow was judged as, and when.
    #[inline]
    pub fn judged(&self, flow: FlowRef) -> Judged {
        let entry = self.entry(flow);
        let (direction, mut tuple) = (entry.direction(), entry.tuple());
        if entry.is_judged_as() {
            let number = self.region.details[flow.0 as usize].judged;
            match (self.region.peers.get(number as usize), direction) {
                (Some(peer), Direction::Egress) => {
                    (tuple.destination, tuple.destination_port) = (peer.address, peer.port);
                }
                (Some(peer), Direction::Ingress) => tuple.source = peer.address,
                (None, _) => {}
            }
        }
        Judged { direction, tuple, stands_for: entry.is_judged_as(), epoch: entry.epoch() }
    }

    /// In which direction a flow was judged, and the age of the policy that allowed it: what every frame is asked.
    #[inline]
    pub fn judged_in(&self, flow: FlowRef) -> (Direction, Epoch) {
        let entry = self.entry(flow);
        (entry.direction(), entry.epoch())
    }

    /// A flow's state.
    #[inline]
    pub fn state(&self, flow: FlowRef) -> FlowState {
        self.entry(flow).state()
    }

    /// Notes that a flow was judged again and is allowed by the policy of this age.
    #[inline]
    pub fn set_epoch(&mut self, flow: FlowRef, epoch: Epoch) {
        self.entry_mut(flow).set_epoch(epoch);
    }

    /// Notes that a flow is judged as if its far end were another: the client that NAT hides (ingress; `port` does not
    /// matter), or the endpoint that a Service's address stands for (egress).
    ///
    /// # Errors
    /// [`DropReason::FlowTableFull`] when no more such ends can be kept: the flow is removed then.
    pub fn judge_as(&mut self, flow: FlowRef, peer: Address, port: u16) -> Result<(), DropReason> {
        self.forget_judged(flow);
        match judged::hold(&mut self.region.peers, &self.hasher, peer, port) {
            Some(number) => {
                let entry = self.flow_mut(flow);
                entry.entry.set_judged_as(true);
                entry.detail.judged = number;
                Ok(())
            }
            None => {
                self.remove(flow);
                Err(DropReason::FlowTableFull)
            }
        }
    }

    /// A flow is judged as what it shows.
    #[inline]
    fn forget_judged(&mut self, flow: FlowRef) {
        if self.entry(flow).is_judged_as() {
            judged::release(&mut self.region.peers, self.region.details[flow.0 as usize].judged);
            self.entry_mut(flow).set_judged_as(false);
        }
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

    /// Live flows from an entry's number on, each with its number: a listing goes on from the last number plus one, so that
    /// it can be made in pieces.
    pub fn list(&self, from: u32, now: Time) -> impl Iterator<Item = (u32, FlowInfo)> {
        let entries = self.region.entries()[..self.used as usize].iter().enumerate().skip(from as usize);
        entries.filter(move |(_, entry)| entry.state() != FlowState::Free && !entry.is_expired(now)).map(
            move |(number, _)| {
                let flow = FlowRef(number as u32);
                (flow.0, FlowInfo::new(&self.view(flow), self.judged(flow), now))
            },
        )
    }

    /// The entry of a flow.
    #[inline]
    pub fn entry(&self, flow: FlowRef) -> &FlowEntry {
        &self.region.entries()[flow.0 as usize]
    }

    /// Both parts of a flow.
    #[inline]
    pub(super) fn view(&self, flow: FlowRef) -> FlowView<'_> {
        FlowView { entry: self.entry(flow), detail: &self.region.details[flow.0 as usize] }
    }

    #[inline]
    pub(super) fn flow_mut(&mut self, flow: FlowRef) -> FlowMut<'_> {
        let number = flow.0 as usize;
        FlowMut { entry: &mut self.region.entries[number], detail: &mut self.region.details[number] }
    }

    #[inline]
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
        self.hash_words(&key.words())
    }

    /// [`FlowTable::hash`] of a key that is in words already.
    #[inline(always)]
    pub fn hash_words(&self, words: &KeyWords) -> FlowHash {
        FlowHash(self.hasher.hash(&words.0))
    }

    #[inline]
    pub(super) fn find_key(&self, key: &FlowKey, hash: FlowHash) -> Option<FlowRef> {
        let entries = self.region.entries();
        self.index.find(hash.0, |number| entries[number as usize].key() == key).map(FlowRef)
    }

    /// Starts a flow's time again, as its state has it.
    #[inline]
    pub(super) fn refresh(&mut self, flow: FlowRef, now: Time) {
        let expires = self.expiry(self.entry(flow), now);
        self.entry_mut(flow).expires = expires;
        self.note_expiry(expires);
    }

    /// Some flow is gone from this second on.
    #[inline]
    pub(super) fn note_expiry(&mut self, expires: u32) {
        self.sweep.earliest = self.sweep.earliest.min(expires);
        self.sweep.met = self.sweep.met.min(expires);
    }

    /// The second from which a flow is gone if nothing comes after now. Rounded up: never early.
    #[inline]
    fn expiry(&self, entry: &FlowEntry, now: Time) -> u32 {
        second_after(now).saturating_add(self.config.timeouts.of(entry))
    }

    /// Puts a flow on the lists of evictable ones, or takes it off, as its state has it.
    #[inline]
    pub(super) fn relist(&mut self, flow: FlowRef) {
        let entry = self.entry(flow);
        let (wire, evictable) = (entry.key().wire(), entry.is_evictable());
        match (evictable, self.shares.is_listed(flow.0)) {
            (true, false) => self.shares.list(wire, flow.0),
            (false, true) => self.shares.unlist(wire, flow.0),
            _ => {}
        }
    }

    #[inline]
    pub(super) fn remove(&mut self, flow: FlowRef) {
        self.remove_hashed(flow, self.hash(self.entry(flow).key()));
    }

    /// Removes a flow whose hash is known.
    #[inline]
    pub(super) fn remove_hashed(&mut self, flow: FlowRef, hash: FlowHash) {
        let wire = self.entry(flow).key().wire();
        if self.shares.is_listed(flow.0) {
            self.shares.unlist(wire, flow.0);
        }
        self.forget_judged(flow);
        self.index.remove(hash.0, flow.0);
        self.shares.subtract(wire);
        *self.entry_mut(flow) = FlowEntry::zeroed();
        self.shares.give_free(flow.0);
        self.len -= 1;
    }
}
