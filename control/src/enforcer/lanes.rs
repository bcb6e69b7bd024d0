//! Wires over several workers: how their lanes are set up, and closed together.

use std::sync::Arc;

use dataplane::port::OpenedPair;
use dataplane::rules::WireId;
use dataplane::stats::WireStats;
use dataplane::wire::WireSetup;
use dataplane::worker::{ClosedLane, Command, HandOff, settle};

use super::{Enforcer, EnforcerError, RunningWire, WireSpec};

/// A worker's part of a wire.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Which worker.
    pub worker: usize,
    /// What it counts.
    pub stats: Arc<WireStats>,
}

impl Enforcer {
    /// Gives a wire's ports to workers, a lane each.
    pub(super) fn attach_lanes(
        &self,
        id: WireId,
        spec: &WireSpec,
        opened: Vec<OpenedPair>,
    ) -> Result<Vec<Lane>, EnforcerError> {
        let workers = self.workers_for(id, opened.len());
        let joined: Vec<_> = (opened.iter().zip(&workers))
            .map(|(pair, &worker)| (pair.pool.id(), self.workers[worker].doorbell()))
            .collect();
        let is_alone = opened.len() == 1;
        let mut lanes: Vec<Lane> = Vec::new();
        for ((pair, worker), hand_off) in opened.into_iter().zip(workers).zip(HandOff::between(&joined)) {
            let stats = Arc::new(WireStats::default());
            let setup = Box::new(WireSetup {
                id,
                inside: pair.inside,
                outside: pair.outside,
                endpoint: spec.endpoint.clone(),
                permissions: spec.permissions,
                tracking: spec.tracking,
                pool: Some(pair.pool),
                stats: stats.clone(),
            });
            let attached = self.workers[worker].ask(|answer| match is_alone {
                true => Command::Attach(setup, answer),
                false => Command::AttachLane(setup, Box::new(hand_off), answer),
            });
            let attached = attached.ok_or(EnforcerError::Dead(worker)).and_then(|attached| {
                attached.map_err(|source| EnforcerError::Wire { wire: spec.name.clone(), source })
            });
            if let Err(error) = attached {
                self.detach_lanes(id, &lanes);
                return Err(error);
            }
            lanes.push(Lane { worker, stats });
        }
        Ok(lanes)
    }

    /// Closes all lanes of a wire: at once, so that none waits for long for frames that another one has.
    pub(super) fn detach_lanes(&self, id: WireId, lanes: &[Lane]) -> bool {
        if let [Lane { worker, .. }] = lanes {
            return self.workers[*worker].ask(|answer| Command::Detach(id, answer)).unwrap_or(false);
        }
        let begin = |lane: &Lane| self.workers[lane.worker].begin(|answer| Command::DetachLane(id, answer));
        let answers: Vec<_> = lanes.iter().map(begin).collect();
        // A dead worker answers nothing, and its memory stays where it is.
        let closed: Vec<ClosedLane> = answers.into_iter().filter_map(|answer| answer.recv().ok().flatten()).collect();
        let found = !closed.is_empty();
        settle(closed);
        found
    }
}

impl RunningWire {
    /// Brings [`RunningWire::stats`] up to date. The caller is the only one who does.
    pub(super) fn sum_up(&self) {
        if self.lanes.len() > 1 {
            self.stats.set_sum(self.lanes.iter().map(|lane| &*lane.stats));
        }
    }
}

impl Drop for Enforcer {
    /// Lanes are closed while all workers still run, so that every frame's memory finds home.
    fn drop(&mut self) {
        let shared: Vec<_> =
            self.running().iter().filter(|(_, wire)| wire.lanes.len() > 1).map(|(&id, _)| id).collect();
        for wire in shared {
            self.detach(wire);
        }
    }
}
