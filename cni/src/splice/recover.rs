//! Going on after a crash, and ending what has lost its other half.

use super::{Between, Scene, make, undo};
use crate::error::Result;
use crate::link;
use crate::netns::Namespace;
use crate::state::{Entry, Phase, Splice, Store, Wire};

/// What [`repair`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Containers that had a half-made or half-undone wire, which is whole, or gone, now.
    pub finished: Vec<String>,
    /// Containers of which wires were removed, since the pod's or the host's end was gone.
    pub removed: Vec<String>,
    /// What could not be repaired, and why.
    pub failed: Vec<(String, String)>,
}

/// Looks at all splices: finishes what a crash left half done, and removes wires whose pod, or whose end on the host, is
/// gone. Waits for those who work on a container.
///
/// # Errors
/// When the directory cannot be read. What is wrong with one container does not keep it from the others.
pub fn repair(store: &Store, host: &Namespace) -> Result<Repaired> {
    let mut repaired = Repaired::default();
    for container in store.containers()? {
        match repair_one(store, host, &container) {
            Ok((finished, removed)) => {
                repaired.finished.extend(finished.then(|| container.clone()));
                repaired.removed.extend(removed.then_some(container));
            }
            Err(error) => repaired.failed.push((container, error.to_string())),
        }
    }
    Ok(repaired)
}

fn repair_one(store: &Store, host: &Namespace, container: &str) -> Result<(bool, bool)> {
    let Some(entry) = store.lock_existing(container)? else { return Ok((false, false)) };
    let Some(mut splice) = entry.load()? else {
        // Nothing was written down, so nothing was changed.
        entry.forget()?;
        return Ok((true, false));
    };
    let mut scene = Scene::of(&splice, host)?;
    let unfinished = splice.wires.iter().any(|wire| wire.phase != Phase::Spliced);
    let (_, removed) = tidy(scene.as_mut(), &entry, &mut splice)?;
    entry.save(&splice)?;
    Ok((unfinished, removed > 0))
}

/// Makes every wire whole, or ends it. Answers warnings and how many were ended. The caller saves.
pub(super) fn tidy(
    mut scene: Option<&mut Scene<'_>>,
    entry: &Entry,
    splice: &mut Splice,
) -> Result<(Vec<String>, usize)> {
    let (mut warnings, mut removed) = (Vec::new(), 0);
    let mut position = 0;
    while let Some(wire) = splice.wires.get(position) {
        let keep = match (&mut scene, wire.phase) {
            (None, _) | (_, Phase::Removing) => false,
            (Some(_), Phase::Spliced) => is_whole(wire)?,
            (Some(scene), Phase::Planned) => match go_on(scene, wire)? {
                Some(more) => {
                    warnings.extend(more);
                    true
                }
                None => false,
            },
            (Some(scene), Phase::Restoring) => {
                let last = splice.wires.len() - 1;
                splice.wires.swap(position, last);
                undo::restore_last(scene, entry, splice)?;
                continue;
            }
        };
        if keep {
            splice.wires[position].phase = Phase::Spliced;
            position += 1;
            continue;
        }
        let wire = splice.wires.remove(position);
        // An interface that never left its pod is no loss.
        if wire.phase != Phase::Planned {
            removed += 1;
        }
        let pod = scene.as_ref().map(|scene| &scene.pod).filter(|_| wire.phase == Phase::Removing);
        undo::dismantle(&wire, pod)?;
    }
    Ok((warnings, removed))
}

/// Whether both ends of a wire are there.
fn is_whole(wire: &Wire) -> Result<bool> {
    let Some(mut between) = Between::open(wire)? else { return Ok(false) };
    Ok(between.inner(wire)?.is_some() && between.outer(wire)?.is_some())
}

/// Finishes a wire that was being made. None if its interface is still in the pod, or gone with its namespace: then there
/// is no wire.
fn go_on(scene: &mut Scene<'_>, wire: &Wire) -> Result<Option<Vec<String>>> {
    let Some(mut between) = Between::open(wire)? else { return Ok(None) };
    if between.outer(wire)?.is_none() {
        return Ok(None);
    }
    let Some(host_end) = link::by_index(&mut scene.on_host, wire.host_index)? else { return Ok(None) };
    // Whatever there is of its replacement goes: nothing can have used it.
    link::delete(&mut between.in_inside, wire.inside.index)?;
    make::complete(scene, &mut between, wire, &host_end).map(Some)
}

/// Whether [`repair`] would have something to do.
pub(super) fn is_stale(splice: &Splice, host: &Namespace) -> Result<bool> {
    if splice.wires.iter().any(|wire| wire.phase != Phase::Spliced) || Scene::of(splice, host)?.is_none() {
        return Ok(true);
    }
    for wire in &splice.wires {
        if !is_whole(wire)? {
            return Ok(true);
        }
    }
    Ok(false)
}
