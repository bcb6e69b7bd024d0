//! Undoing a splice: giving a pod its interface back, or taking a wire away with its pod.

use std::path::Path;

use super::{Between, Scene, recover};
use crate::error::Result;
use crate::fault;
use crate::link;
use crate::netlink::Netlink;
use crate::netns::{self, Namespace};
use crate::snapshot::{PrefixRoutes, Snapshot};
use crate::state::{Entry, Phase, Splice, Store, Wire};

/// Gives a running pod its own interfaces back, with what they have now. Only those of this attachment (`CNI_IFNAME`), or
/// all. Answers how many. A container that nobody spliced has none; of one whose pod is gone, everything is removed.
///
/// # Errors
/// When the kernel refuses a step; the next call goes on.
pub fn unsplice(store: &Store, host: &Namespace, container: &str, attachment: Option<&str>) -> Result<usize> {
    let Some(entry) = store.lock_existing(container)? else { return Ok(0) };
    let Some(mut splice) = entry.load()? else {
        entry.forget()?;
        return Ok(0);
    };
    let Some(mut scene) = Scene::of(&splice, host)? else {
        clear(&entry, &mut splice)?;
        entry.save(&splice)?;
        return Ok(0);
    };
    recover::tidy(Some(&mut scene), &entry, &mut splice)?;
    let before = splice.wires.len();
    while let Some(position) = splice.wires.iter().rposition(|wire| is_of(wire, attachment)) {
        let last = splice.wires.len() - 1;
        splice.wires.swap(position, last);
        restore_last(&mut scene, &entry, &mut splice)?;
    }
    entry.save(&splice)?;
    Ok(before - splice.wires.len())
}

fn is_of(wire: &Wire, attachment: Option<&str>) -> bool {
    attachment.is_none_or(|attachment| wire.attachment == attachment)
}

/// Takes a pod's wires away because the pod ends: the primary's pair is removed with its end on the host, and the pod
/// keeps an interface of its name, with its addresses, that leads nowhere, so that the primary finds what it has to clean
/// up. Only wires of this attachment (`CNI_IFNAME`), or all. Answers how many.
///
/// `netns` is where the pod's namespace is, if the caller knows it and it still exists.
///
/// # Errors
/// When the kernel refuses a step; the next call goes on. That nothing is there is none.
pub fn remove(
    store: &Store,
    host: &Namespace,
    container: &str,
    attachment: Option<&str>,
    netns: Option<&Path>,
) -> Result<usize> {
    let Some(entry) = store.lock_existing(container)? else { return Ok(0) };
    let Some(mut splice) = entry.load()? else {
        entry.forget()?;
        return Ok(0);
    };
    if let Some(given) = netns.and_then(|path| Namespace::open(path).ok())
        && given.identity() == splice.sandbox.identity
    {
        splice.sandbox.path = given.path().to_owned();
    }
    let mut scene = Scene::of(&splice, host)?;
    let before = splice.wires.len();
    while let Some(position) = splice.wires.iter().position(|wire| is_of(wire, attachment)) {
        let wire = &splice.wires[position];
        match (&mut scene, wire.phase) {
            // The pod has no interface of that name now: it gets its own back, for the primary to remove.
            (Some(scene), Phase::Planned | Phase::Restoring) => {
                let last = splice.wires.len() - 1;
                splice.wires.swap(position, last);
                restore_last(scene, &entry, &mut splice)?;
            }
            _ => {
                splice.wires[position].phase = Phase::Removing;
                entry.save(&splice)?;
                dismantle(&splice.wires[position], scene.as_ref().map(|scene| &scene.pod))?;
                splice.wires.remove(position);
            }
        }
    }
    entry.save(&splice)?;
    Ok(before - splice.wires.len())
}

/// Removes what is left of all wires of a pod that is gone.
pub(super) fn clear(entry: &Entry, splice: &mut Splice) -> Result<()> {
    for wire in &mut splice.wires {
        wire.phase = Phase::Removing;
    }
    if splice.wires.is_empty() {
        return Ok(());
    }
    entry.save(splice)?;
    for wire in std::mem::take(&mut splice.wires) {
        dismantle(&wire, None)?;
    }
    Ok(())
}

/// Removes a wire, whatever is left of it.
pub(super) fn dismantle(wire: &Wire, pod: Option<&Namespace>) -> Result<()> {
    // One of two pins may be gone: each is looked at by itself.
    if let Ok(outside) = Namespace::open(&wire.outside.netns) {
        link::delete(&mut outside.netlink()?, wire.outside.index)?;
    }
    fault::point("dismantled");
    if let Ok(inside) = Namespace::open(&wire.inside.netns) {
        let mut netlink = inside.netlink()?;
        match (pod, link::by_index(&mut netlink, wire.inside.index)?) {
            // The other end would go with the namespace. It stays until the primary removes the pair.
            (Some(pod), Some(_)) => lay_down(&mut netlink, wire, pod)?,
            _ => link::delete(&mut netlink, wire.inside.index)?,
        }
    }
    for pin in wire.pins() {
        netns::unpin(pin)?;
    }
    Ok(())
}

/// Puts Q beside the interface that it is the other end of.
fn lay_down(netlink: &mut Netlink, wire: &Wire, pod: &Namespace) -> Result<()> {
    link::set_up(netlink, wire.inside.index, false)?;
    link::move_to(netlink, wire.inside.index, pod, &format!("pnstk{}", wire.index), None)
}

/// Gives the pod the interface of the last wire back, and forgets the wire.
pub(super) fn restore_last(scene: &mut Scene<'_>, entry: &Entry, splice: &mut Splice) -> Result<()> {
    let Some(wire) = splice.wires.last_mut() else { return Ok(()) };
    if wire.phase == Phase::Spliced {
        // What the pod's interface has become meanwhile is what it stays.
        if let Some(link) = link::by_index(&mut scene.in_pod, wire.index)? {
            let present = Snapshot::take(&scene.pod, &mut scene.in_pod, &link)?;
            wire.snapshot = present.with_address_flags_of(&wire.snapshot);
        }
    }
    let untouched = wire.phase == Phase::Planned && scene.has_original(wire)?;
    wire.phase = Phase::Restoring;
    let wire = wire.clone();
    if !untouched {
        entry.save(splice)?;
        fault::point("restoring");
        restore(scene, &wire)?;
    }
    for pin in wire.pins() {
        netns::unpin(pin)?;
    }
    splice.wires.pop();
    if splice.wires.is_empty() { Ok(()) } else { entry.save(splice) }
}

/// Moves P back into the pod, and gives it everything.
fn restore(scene: &mut Scene<'_>, wire: &Wire) -> Result<()> {
    if let Some(mut between) = Between::open(wire)?
        && between.outer(wire)?.is_some()
    {
        link::delete(&mut between.in_inside, wire.inside.index)?;
        fault::point("released");
        let name = &wire.snapshot.like.name;
        link::move_to(&mut between.in_outside, wire.outside.index, &scene.pod, name, None)?;
        fault::point("returned");
    }
    if scene.has_original(wire)? {
        wire.snapshot.replay(&scene.pod, &mut scene.in_pod, wire.index, PrefixRoutes::Original)?;
    }
    Ok(())
}
