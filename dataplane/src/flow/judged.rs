//! [`JudgedPeer`]: the far ends that flows are judged as.
//!
//! Few flows are judged as another than they show, and those that are share the ends of a few Services or clients: each
//! such end is kept once, counted, and a flow keeps its number. It never moves, so there is no probing
//! beyond a fixed window: an end that finds no room in it is refused, and so is its flow.

use bytemuck::{Pod, Zeroable};

use super::KeyedHash;
use crate::address::Address;

/// Places where an end may be.
const WINDOW: usize = 16;

/// A far end that flows are judged as; free while no flow is.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct JudgedPeer {
    pub(super) address: Address,
    flows: u32,
    pub(super) port: u16,
    unused: u16,
}

const _: () = assert!(size_of::<JudgedPeer>() == 24);

/// Counts a flow of this end; the end's number, or `None` when there is no room.
pub(super) fn hold(peers: &mut [JudgedPeer], hash: &KeyedHash, address: Address, port: u16) -> Option<u32> {
    let [high, low] = [address.to_bits() >> 64, address.to_bits()].map(|half| half as u64);
    let home = hash.hash(&[high, low, port.into(), 0, 0, 0]) % peers.len() as u64;
    let mut free = None;
    for step in 0..WINDOW.min(peers.len()) {
        let place = (home as usize + step) % peers.len();
        let peer = &mut peers[place];
        if peer.flows == 0 {
            free = free.or(Some(place));
        } else if (peer.address, peer.port) == (address, port) {
            peer.flows += 1;
            return Some(place as u32);
        }
    }
    let place = free?;
    peers[place] = JudgedPeer { address, flows: 1, port, unused: 0 };
    Some(place as u32)
}

/// Counts a flow less.
pub(super) fn release(peers: &mut [JudgedPeer], number: u32) {
    if let Some(peer) = peers.get_mut(number as usize) {
        peer.flows = peer.flows.saturating_sub(1);
    }
}

/// Counts a flow that was found in a region, of an end that is known by its number. False if there is none.
pub(super) fn adopt(peers: &mut [JudgedPeer], number: u32) -> bool {
    peers.get_mut(number as usize).map(|peer| peer.flows += 1).is_some()
}

/// Begins to count anew.
pub(super) fn forget(peers: &mut [JudgedPeer]) {
    peers.iter_mut().for_each(|peer| peer.flows = 0);
}
