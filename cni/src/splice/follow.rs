//! Keeping a wire in step with what it stands between.

use super::{Between, Scene};
use crate::error::Result;
use crate::link;
use crate::netns::Namespace;
use crate::state::{Phase, Splice, Wire};

/// Passes on through a pod's wires what a plain pair would show at once: an interface that is set down at one end has no
/// carrier at the other. And the wire takes frames as large as either end sends. To be called when the host's interfaces
/// have changed, and now and then, since nobody tells what happens inside a pod. Answers how many things it changed.
///
/// # Errors
/// When the kernel refuses. What is gone is no error: [`super::repair`] deals with it.
pub fn follow(splice: &Splice, host: &Namespace) -> Result<usize> {
    let Some(mut scene) = Scene::of(splice, host)? else { return Ok(0) };
    let mut changes = 0;
    for wire in splice.wires.iter().filter(|wire| wire.phase == Phase::Spliced) {
        changes += follow_one(&mut scene, wire)?;
    }
    Ok(changes)
}

fn follow_one(scene: &mut Scene<'_>, wire: &Wire) -> Result<usize> {
    let Some(mut between) = Between::open(wire)? else { return Ok(0) };
    let pod_end = link::by_index(&mut scene.in_pod, wire.index)?;
    let host_end = link::by_index(&mut scene.on_host, wire.host_index)?;
    let (Some(pod_end), Some(host_end)) = (pod_end, host_end) else { return Ok(0) };
    let (Some(inner), Some(outer)) = (between.inner(wire)?, between.outer(wire)?) else { return Ok(0) };
    let mtu = pod_end.like.mtu.max(host_end.like.mtu);
    let mut changes = 0;
    for (netlink, present, up) in
        [(&mut between.in_inside, inner, host_end.is_up()), (&mut between.in_outside, outer, pod_end.is_up())]
    {
        if present.like.mtu != mtu {
            link::set_mtu(netlink, present.index, mtu)?;
            changes += 1;
        }
        if present.is_up() != up {
            link::set_up(netlink, present.index, up)?;
            changes += 1;
        }
    }
    Ok(changes)
}
