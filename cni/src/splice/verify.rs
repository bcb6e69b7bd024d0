//! Whether a pod is behind its wires.

use super::{Between, Scene};
use crate::error::Result;
use crate::link;
use crate::netns::Namespace;
use crate::state::{Phase, Splice, Store, Wire};

/// Looks whether every interface of a container's pod is behind a whole wire. Answers what is wrong, in sentences; empty
/// if nothing is.
///
/// # Errors
/// When it cannot be looked at.
pub fn verify(store: &Store, host: &Namespace, container: &str) -> Result<Vec<String>> {
    let Some(splice) = store.find(container)? else {
        return Ok(vec![format!("container {container} is not behind a wire")]);
    };
    let Some(mut scene) = Scene::of(&splice, host)? else {
        let path = splice.sandbox.path.display();
        return Ok(vec![format!("the pod's network namespace {path} is gone, or another one")]);
    };
    let mut faults = unspliced(&mut scene)?;
    for wire in &splice.wires {
        faults.extend(check(&mut scene, &splice, wire)?);
    }
    Ok(faults)
}

fn unspliced(scene: &mut Scene<'_>) -> Result<Vec<String>> {
    let pairs = scene.direct_pairs()?;
    let sentence = |(end, host): &(link::Link, link::Link)| {
        format!("interface {} leads to {} on the host without a wire", end.like.name, host.like.name)
    };
    Ok(pairs.iter().map(sentence).collect())
}

fn check(scene: &mut Scene<'_>, splice: &Splice, wire: &Wire) -> Result<Option<String>> {
    let name = &wire.interface;
    if wire.phase != Phase::Spliced {
        return Ok(Some(format!("the wire of {name} is half made; splicing the pod again finishes it")));
    }
    let Some(mut between) = Between::open(wire)? else {
        return Ok(Some(format!("the wire namespace of {name} is not pinned at {}", wire.inside.netns.display())));
    };
    let Some(inner) = between.inner(wire)? else {
        return Ok(Some(format!("the wire of {name} has lost its end towards the pod")));
    };
    let Some(outer) = between.outer(wire)? else {
        return Ok(Some(format!("the wire of {name} has lost its end towards the host")));
    };
    let Some(end) = link::by_index(&mut scene.in_pod, wire.index)? else {
        return Ok(Some(format!("the pod of {} has no interface {name} any more", splice.container)));
    };
    let pod_number = link::namespace_number(&mut between.in_inside, &scene.pod)?;
    if end.peer != Some(wire.inside.index) || inner.peer != Some(wire.index) || inner.peer_namespace != pod_number {
        return Ok(Some(format!("interface {name} is not the other end of its wire")));
    }
    let host_number = link::namespace_number(&mut between.in_outside, scene.host)?;
    if outer.peer != Some(wire.host_index) || outer.peer_namespace != host_number {
        return Ok(Some(format!("the wire of {name} does not lead to {}", wire.host_interface)));
    }
    let down = end.is_up() && !end.has_carrier();
    let host_up = link::by_index(&mut scene.on_host, wire.host_index)?.is_some_and(|host| host.is_up());
    Ok((down && host_up).then(|| format!("interface {name} has no carrier, though {} is up", wire.host_interface)))
}
