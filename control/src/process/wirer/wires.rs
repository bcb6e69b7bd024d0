//! The wires whose sockets are open. Only what the plugin has written down on the node is opened, whatever control says.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use cni::protocol::Pod;
use cni::state::{Splice, Store, Wire};
use dataplane::port::af_packet::{AfPacketOptions, BoundSocket};
use dataplane::port::netns::NetworkNamespace;
use dataplane::rules::WireId;

use crate::process::message::{End, ToDataplane};

struct Open {
    ends: [End; 2],
    /// What the pinned namespaces were, so that others at the same paths are not taken for them.
    identities: [(u64, u64); 2],
    sockets: [BoundSocket; 2],
    serial: u64,
}

pub(super) struct Wires {
    store: Store,
    open: BTreeMap<WireId, Open>,
    serial: u64,
}

fn is_end(end: &End, device: &cni::state::End) -> bool {
    end.netns == device.netns && end.interface == device.interface
}

fn is_wire(ends: &[End; 2], wire: &Wire) -> bool {
    is_end(&ends[0], &wire.inside) && is_end(&ends[1], &wire.outside)
}

impl Wires {
    pub(super) fn at(directory: PathBuf) -> Wires {
        Wires { store: Store::at(directory), open: BTreeMap::new(), serial: 0 }
    }

    /// What is written down.
    fn splices(&self) -> Result<Vec<Splice>, String> {
        Ok(self.store.list().map_err(|error| error.to_string())?.0)
    }

    /// All pods behind wires.
    pub(super) fn spliced(&self) -> Result<Vec<Pod>, String> {
        Ok(self.splices()?.iter().map(Pod::from).collect())
    }

    /// Opens a wire's sockets, unless they are. Answers the serial number, and whether they were opened now.
    pub(super) fn open(&mut self, wire: WireId, ends: &[End; 2]) -> Result<(u64, bool), String> {
        if !self.splices()?.iter().flat_map(|splice| &splice.wires).any(|written| is_wire(ends, written)) {
            let [inside, outside] = ends;
            return Err(format!(
                "{} in {} and {} in {} are no wire by what is written in {}; only penstock-cni makes wires",
                inside.interface,
                inside.netns.display(),
                outside.interface,
                outside.netns.display(),
                self.store.directory().display()
            ));
        }
        let namespace = |end: &End| NetworkNamespace::open_at(&end.netns).map_err(|error| error.to_string());
        let namespaces = [namespace(&ends[0])?, namespace(&ends[1])?];
        let identities = [namespaces[0].identity(), namespaces[1].identity()];
        if let Some(open) = self.open.get(&wire)
            && (&open.ends, open.identities) == (ends, identities)
        {
            return Ok((open.serial, false));
        }
        // The same devices under another number would be claimed twice.
        self.open.retain(|&number, open| number != wire && open.ends != *ends);
        let socket = |side: usize| {
            BoundSocket::open_in(&namespaces[side], &ends[side].interface, AfPacketOptions::default())
                .map_err(|error| error.to_string())
        };
        let sockets = [socket(0)?, socket(1)?];
        self.serial += 1;
        let open = Open { ends: ends.clone(), identities, sockets, serial: self.serial };
        self.open.insert(wire, open);
        Ok((self.serial, true))
    }

    /// Closes a wire's sockets. Answers whether there were some.
    pub(super) fn close(&mut self, wire: WireId) -> bool {
        self.open.remove(&wire).is_some()
    }

    /// A wire's sockets, as the dataplane is given them.
    pub(super) fn get(&self, wire: WireId) -> Option<(ToDataplane, [BorrowedFd<'_>; 2])> {
        let open = self.open.get(&wire)?;
        let message = ToDataplane::Ports {
            wire,
            devices: [open.ends[0].interface.clone(), open.ends[1].interface.clone()],
            mtus: [open.sockets[0].mtu(), open.sockets[1].mtu()],
            serial: open.serial,
        };
        Some((message, [open.sockets[0].as_fd(), open.sockets[1].as_fd()]))
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<(ToDataplane, [BorrowedFd<'_>; 2])> {
        self.open.keys().filter_map(|&wire| self.get(wire)).collect()
    }

    /// Open wires that are not written down any more: their pods have ended.
    pub(super) fn gone(&self) -> Vec<WireId> {
        // Unreadable is not gone.
        let Ok(splices) = self.splices() else { return Vec::new() };
        let written: Vec<&Wire> = splices.iter().flat_map(|splice| &splice.wires).collect();
        let is_gone = |open: &Open| !written.iter().any(|wire| is_wire(&open.ends, wire));
        self.open.iter().filter(|(_, open)| is_gone(open)).map(|(&wire, _)| wire).collect()
    }
}
