//! Making a splice.

use std::time::{Duration, Instant};

use super::{Between, INSIDE, OUTSIDE, Outcome, Scene, Target, mac_text, recover, undo};
use crate::error::{Result, SpliceError};
use crate::fault;
use crate::link::{self, Link};
use crate::netns::{self, Namespace};
use crate::snapshot::{Learnt, PrefixRoutes, Snapshot};
use crate::state::{End, Entry, Phase, Sandbox, Splice, Store, Wire};

/// Puts every interface of a pod that is one end of a veth pair to the host behind a wire. Those that are already are left
/// alone, so that it may be repeated; what a crash left half done is finished. A running pod is adopted in the same way.
///
/// `host` is the namespace in which the primary's ends are: the calling thread's, for a CNI plugin.
///
/// # Errors
/// When one interface cannot be spliced, those that this call spliced are given back as they were.
pub fn splice(store: &Store, host: &Namespace, target: &Target<'_>) -> Result<Outcome> {
    let pod = Namespace::open(target.netns)?;
    let sandbox = Sandbox { path: target.netns.to_owned(), identity: pod.identity() };
    let mut scene = Scene::open(host, pod)?;
    let entry = store.lock(target.container)?;
    let mut splice = match entry.load()? {
        Some(known) if known.sandbox.identity == sandbox.identity => known,
        other => {
            if let Some(mut former) = other {
                undo::clear(&entry, &mut former)?;
            }
            Splice::new(target.container, target.pod.clone(), sandbox)
        }
    };
    let answer = splice_all(&mut scene, &entry, &mut splice, target);
    // A splice without wires leaves nothing behind.
    entry.save(&splice)?;
    let (made, cut, warnings) = answer?;
    Ok(Outcome { splice, made, cut, warnings })
}

fn splice_all(
    scene: &mut Scene<'_>,
    entry: &Entry,
    splice: &mut Splice,
    target: &Target<'_>,
) -> Result<(usize, Duration, Vec<String>)> {
    let mut warnings = recover::tidy(Some(scene), entry, splice)?.0;
    let before = splice.wires.len();
    let mut cut = Duration::ZERO;
    for (end, host_end) in scene.direct_pairs()? {
        match splice_one(scene, entry, splice, target, &end, &host_end) {
            Ok((time, more)) => {
                cut = cut.max(time);
                warnings.extend(more);
            }
            Err(error) => {
                while splice.wires.len() > before {
                    undo::restore_last(scene, entry, splice)?;
                }
                return Err(error);
            }
        }
    }
    warnings.extend(other_ways_out(scene)?);
    Ok((splice.wires.len() - before, cut, warnings))
}

/// Interfaces by which a pod's frames leave it and that are no pairs: no wire can be put there.
fn other_ways_out(scene: &mut Scene<'_>) -> Result<Vec<String>> {
    let leads_out = |link: &Link| match link.kind.as_deref() {
        Some("veth") => false,
        Some(_) => link.peer_namespace.is_some(),
        None => link.like.flags & libc::IFF_LOOPBACK as u32 == 0,
    };
    let sentence = |link: Link| {
        let kind = link.kind.as_deref().unwrap_or("a device of the node");
        format!("interface {} ({kind}) leaves the pod without a wire: no policy holds for it", link.like.name)
    };
    Ok(link::all(&mut scene.in_pod)?.into_iter().filter(leads_out).map(sentence).collect())
}

fn splice_one(
    scene: &mut Scene<'_>,
    entry: &Entry,
    splice: &mut Splice,
    target: &Target<'_>,
    end: &Link,
    host_end: &Link,
) -> Result<(Duration, Vec<String>)> {
    suitable(scene, end)?;
    let snapshot = Snapshot::take(&scene.pod, &mut scene.in_pod, end)?;
    let (inside, outside) = entry.pins(end.index, host_end.index);
    let wire = Wire {
        attachment: target.attachment.to_owned(),
        network: target.network.map(str::to_owned),
        interface: end.like.name.clone(),
        index: end.index,
        mac: mac_text(&end.like.mac.0),
        mtu: end.like.mtu,
        addresses: snapshot.addresses(),
        host_interface: host_end.like.name.clone(),
        host_index: host_end.index,
        inside: End { netns: inside, interface: INSIDE.to_owned(), index: host_end.index },
        outside: End { netns: outside, interface: OUTSIDE.to_owned(), index: end.index },
        phase: Phase::Planned,
        snapshot,
    };
    let mut warnings = Vec::new();
    if !matches!(end.discipline.as_str(), "" | "noqueue") {
        warnings.push(format!("the queueing discipline {} of {} is not kept", end.discipline, end.like.name));
    }
    splice.wires.push(wire.clone());
    entry.save(splice)?;
    fault::point("planned");
    let on_host: Vec<u32> = [host_end.index].into_iter().chain(host_end.master).collect();
    let learnt = Learnt::take(&mut scene.on_host, &on_host, &wire.addresses)?;
    let (cut, more) = build(scene, &wire, host_end)?;
    learnt.replay(&mut scene.on_host);
    warnings.extend(more);
    if let Some(wire) = splice.wires.last_mut() {
        wire.phase = Phase::Spliced;
    }
    entry.save(splice)?;
    Ok((cut, warnings))
}

/// Whether nothing hangs on the interface that would not survive its being moved.
fn suitable(scene: &mut Scene<'_>, end: &Link) -> Result<()> {
    let refuse = |reason: String| Err(SpliceError::Unsuitable { interface: end.like.name.clone(), reason });
    if end.master.is_some() {
        return refuse("it is a port of a bridge or bond in the pod".to_owned());
    }
    let above = |other: &&Link| other.peer == Some(end.index) && other.peer_namespace.is_none() && !other.is_veth();
    match link::all(&mut scene.in_pod)?.iter().find(above) {
        Some(other) => refuse(format!("interface {} in the pod is built upon it", other.like.name)),
        None => Ok(()),
    }
}

/// Makes the namespaces and moves P; from there on the pod is cut off until the rest is done.
fn build(scene: &mut Scene<'_>, wire: &Wire, host_end: &Link) -> Result<(Duration, Vec<String>)> {
    for pin in wire.pins() {
        netns::unpin(pin)?;
    }
    let inside = netns::create_pinned(&wire.inside.netns)?;
    let outside = match wire.pins()[..] {
        [_] => Namespace::open(&wire.outside.netns)?,
        _ => netns::create_pinned(&wire.outside.netns)?,
    };
    let mut between = Between::new(inside, outside)?;
    let started = Instant::now();
    link::move_to(&mut scene.in_pod, wire.index, &between.outside, OUTSIDE, None)?;
    fault::point("moved");
    let warnings = complete(scene, &mut between, wire, host_end)?;
    Ok((started.elapsed(), warnings))
}

/// With P in the wire namespace: makes what takes its place.
pub(super) fn complete(
    scene: &mut Scene<'_>,
    between: &mut Between,
    wire: &Wire,
    host_end: &Link,
) -> Result<Vec<String>> {
    let like = &wire.snapshot.like;
    // The wire carries what either side may send: limits stay with the pod's and the host's interfaces.
    let mtu = like.mtu.max(host_end.like.mtu);
    let near = link::End { name: &like.name, index: wire.index, mac: Some(&like.mac.0), mtu: like.mtu };
    let far = link::End { name: INSIDE, index: wire.inside.index, mac: None, mtu };
    link::create_pair(&mut scene.in_pod, &near, (&far, &between.inside), like)?;
    fault::point("created");
    let was_up = like.flags & libc::IFF_UP as u32 != 0;
    link::settle_wire_end(&mut between.in_inside, wire.inside.index, None, mtu)?;
    // Another address than the pod's, so that the kernel takes no frame there for its own.
    link::settle_wire_end(&mut between.in_outside, wire.outside.index, Some(any_mac()?), mtu)?;
    if !host_end.is_up() {
        link::set_up(&mut between.in_inside, wire.inside.index, false)?;
    }
    if !was_up {
        link::set_up(&mut between.in_outside, wire.outside.index, false)?;
    }
    let warnings = wire.snapshot.replay(&scene.pod, &mut scene.in_pod, wire.index, PrefixRoutes::Ours)?;
    fault::point("configured");
    Ok(warnings)
}

/// A random, locally administered, unicast address.
fn any_mac() -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    rustix::rand::getrandom(&mut mac[..], rustix::rand::GetRandomFlags::empty())
        .map_err(SpliceError::system("drawing a hardware address"))?;
    mac[0] = mac[0] & !1 | 2;
    Ok(mac)
}
