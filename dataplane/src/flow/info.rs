//! [`FlowInfo`].

use super::{FlowState, FlowView, Judged, Origin};
use crate::packet::{Direction, Tuple};
use crate::rules::{Epoch, WireId};
use crate::time::Time;
use serde::{Deserialize, Serialize};

/// A flow as it is listed: a copy, of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowInfo {
    /// The wire.
    pub wire: WireId,
    /// The way of the originator's frames.
    pub direction: Direction,
    /// The originator's tuple.
    pub tuple: Tuple,
    /// What it was judged as, if that is another tuple.
    pub judged_as: Option<Tuple>,
    /// The age of the policy that allowed it.
    pub epoch: Epoch,
    /// Its state.
    pub state: FlowState,
    /// Seconds until it is gone, if nothing comes.
    pub expires_in: u32,
    /// Frames of the originator, and of the other end.
    pub packets: [u64; 2],
    /// Bytes of the originator, and of the other end.
    pub bytes: [u64; 2],
}

impl FlowInfo {
    pub(super) fn new(flow: &FlowView<'_>, judged: Judged, now: Time) -> Self {
        let entry = flow.entry;
        FlowInfo {
            wire: entry.key().wire(),
            direction: judged.direction,
            tuple: entry.tuple(),
            judged_as: entry.is_judged_as().then_some(judged.tuple),
            epoch: judged.epoch,
            state: entry.state(),
            expires_in: entry.expires.saturating_sub(now.as_secs()),
            packets: [flow.packets(Origin::Original), flow.packets(Origin::Reply)],
            bytes: [flow.bytes(Origin::Original), flow.bytes(Origin::Reply)],
        }
    }
}
