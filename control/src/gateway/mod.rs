//! A gateway's rules in force: what they are on each wire, how they change, and how one goes back.
//!
//! ```text
//!   rule file ──check──▶ plan: what will differ, which flows are cut ──▶ apply ──▶ in force ──▶ confirmed: a restart's rules
//!                          (nothing has changed yet)                        └─ nobody confirms in time ──▶ back
//! ```

pub mod api;
mod plan;
mod serve;
pub(crate) mod session;
pub(crate) mod versions;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::gateway::lower::{Lowered, lower};
use ::gateway::model::Ruleset;
use ::gateway::placement::Placement;
use ::gateway::rulefile;
use dataplane::packet::Direction;
use dataplane::rules::{Policy, RuleId};
use tracing::{info, warn};

use self::api::{Applied, Changed, Plan, RuleLine, VersionLine};
use self::versions::{Version, Versions};
use crate::daemon::config::{Config, GatewayConfig, Occupant};
use crate::observe::drops::RuleName;

pub(crate) use plan::FlowNow;
pub(crate) use serve::{Serving, start};

/// Rules that have been compiled for the wires of a gateway. Sets change in place; nothing else does.
#[derive(Debug)]
pub(crate) struct Rules {
    /// As they are written.
    ruleset: Mutex<Ruleset>,
    /// What the engine is told.
    lowered: Mutex<Arc<Lowered>>,
}

impl Rules {
    fn new(ruleset: Ruleset, lowered: Lowered) -> Arc<Rules> {
        Arc::new(Rules { ruleset: Mutex::new(ruleset), lowered: Mutex::new(Arc::new(lowered)) })
    }

    fn ruleset(&self) -> MutexGuard<'_, Ruleset> {
        self.ruleset.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lowered(&self) -> Arc<Lowered> {
        Arc::clone(&self.lowered.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_lowered(&self, lowered: Arc<Lowered>) {
        *self.lowered.lock().unwrap_or_else(PoisonError::into_inner) = lowered;
    }
}

/// Rules in force.
#[derive(Clone, Debug)]
struct InForce {
    version: u32,
    rules: Arc<Rules>,
}

/// What may be carried out.
struct Planned {
    number: u64,
    rules: Arc<Rules>,
    /// The version that they are already, of a rollback.
    version: Option<u32>,
}

/// What goes back by itself.
struct Unconfirmed {
    /// By which it is known that it is this one still.
    version: u32,
    before: InForce,
    until: Instant,
    /// Whether nobody has ever confirmed it.
    fresh: bool,
}

struct State {
    in_force: InForce,
    planned: Option<Planned>,
    unconfirmed: Option<Unconfirmed>,
    plans: u64,
}

/// A gateway's rules, and the versions of them that are kept.
pub(crate) struct Gateway {
    placements: BTreeMap<String, Placement>,
    workers: usize,
    versions: Versions,
    state: Mutex<State>,
}

/// Why something is not done.
#[derive(Debug)]
pub(crate) enum Refused {
    /// What was asked for is at fault.
    Input(String),
    /// The system is.
    System(String),
}

impl Refused {
    fn system(error: impl std::fmt::Display) -> Refused {
        Refused::System(error.to_string())
    }
}

/// Puts the rules of a gateway in force on all of its wires, as they are when it asks for them ([`Gateway::policies`]).
pub(crate) trait Publish {
    /// Returns when every worker follows the rules.
    ///
    /// # Errors
    /// In a sentence; the rules before are in force then.
    fn publish(&self) -> Result<(), String>;
}

/// Reads the rules that a configuration begins with, and says where they are from: the version that was in force last, or else the file
/// that the configuration names.
///
/// # Errors
/// All that is wrong with them, a sentence a line.
pub(crate) fn load(config: &GatewayConfig) -> Result<(Ruleset, Option<Version>), String> {
    let kept = match config.versions().is_dir() {
        true => Versions::open(&config.versions())?.current()?,
        false => None,
    };
    let path = kept.as_ref().map_or(config.rules.as_path(), |version| version.path.as_path());
    Ok((read(path)?, kept))
}

/// Reads a rule file.
///
/// # Errors
/// All that is wrong with it, a sentence a line.
pub(crate) fn read(path: &Path) -> Result<Ruleset, String> {
    rulefile::read(path).map_err(|problems| lines(&problems))
}

/// Rules as one text: what stands in files of its own is in it.
pub(crate) fn whole(ruleset: &Ruleset) -> String {
    let mut ruleset = ruleset.clone();
    ruleset.sets.values_mut().for_each(|set| set.file = None);
    rulefile::write(&ruleset, "")
}

fn lines<T: ToString>(problems: &[T]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The gateway's wires in a configuration, by name.
pub(crate) fn placements(config: &Config) -> BTreeMap<String, Placement> {
    let of = |wire: &crate::daemon::config::WireConfig| match &wire.occupant {
        Occupant::Gateway(placement, _) => Some((wire.name.clone(), placement.clone())),
        _ => None,
    };
    config.wires.iter().filter_map(of).collect()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gateway {
    /// A gateway with the rules that it begins with, not yet in force.
    ///
    /// # Errors
    /// Rules that are more than can be compiled, or no room to keep versions.
    pub(crate) fn new(
        config: &GatewayConfig,
        placements: BTreeMap<String, Placement>,
        workers: usize,
        ruleset: Ruleset,
        kept: Option<Version>,
    ) -> Result<Gateway, Refused> {
        let lowered = lower(&ruleset, &placements, workers, None).map_err(|error| Refused::Input(error.to_string()))?;
        let versions = Versions::open(&config.versions()).map_err(Refused::System)?;
        let version = match kept {
            Some(version) => {
                info!(
                    version = version.number,
                    "the rules that were in force last; `penstock apply` puts others in force"
                );
                version
            }
            None => {
                let version =
                    versions.keep(&whole(&ruleset)).map_err(|error| Refused::System(versions.complaint(&error)))?;
                versions.confirm(version.number).map_err(|error| Refused::System(versions.complaint(&error)))?;
                version
            }
        };
        let in_force = InForce { version: version.number, rules: Rules::new(ruleset, lowered) };
        let state = Mutex::new(State { in_force, planned: None, unconfirmed: None, plans: 0 });
        Ok(Gateway { placements, workers, versions, state })
    }

    /// The rules in force.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&lock(&self.state).in_force.rules)
    }

    /// What holds on a wire.
    pub(crate) fn policies(&self, wire: &str) -> Option<[Policy; 2]> {
        let state = lock(&self.state);
        let lowered = state.in_force.rules.lowered();
        let rules = lowered.wires.get(wire)?;
        Some(Direction::BOTH.map(|direction| Policy::Stateful(Arc::clone(&rules[direction as usize]))))
    }

    /// What rules, as one rule file, would change.
    pub(crate) fn plan(&self, text: &str, flows: &[FlowNow]) -> Result<Plan, Refused> {
        let ruleset = rulefile::read_str("-", text).map_err(|problems| Refused::Input(lines(&problems)))?;
        self.plan_for(ruleset, None, flows)
    }

    /// What going back would change.
    pub(crate) fn plan_rollback(&self, to: Option<u32>, flows: &[FlowNow]) -> Result<Plan, Refused> {
        let now = lock(&self.state).in_force.version;
        let versions = self.versions.list().map_err(Refused::system)?;
        let chosen = match to {
            Some(number) => versions.iter().find(|version| version.number == number),
            None => versions.iter().rev().find(|version| version.number < now),
        };
        let Some(version) = chosen else {
            let kept: Vec<String> = versions.iter().map(|version| version.number.to_string()).collect();
            let what = to.map_or_else(|| format!("before {now}"), |number| number.to_string());
            return Err(Refused::Input(format!("no version {what} is kept; there are {}", kept.join(", "))));
        };
        let ruleset = read(&version.path).map_err(Refused::System)?;
        self.plan_for(ruleset, Some(version.number), flows)
    }

    fn plan_for(&self, ruleset: Ruleset, version: Option<u32>, flows: &[FlowNow]) -> Result<Plan, Refused> {
        let before = lock(&self.state).in_force.clone();
        let lowered = {
            let (written, known) = (before.rules.ruleset(), before.rules.lowered());
            lower(&ruleset, &self.placements, self.workers, Some((&written, &known)))
        };
        let rules = Rules::new(ruleset, lowered.map_err(|error| Refused::Input(error.to_string()))?);
        let mut plan = plan::compare(&before.rules, &rules, flows);
        let mut state = lock(&self.state);
        state.plans += 1;
        (plan.plan, plan.version) = (state.plans, before.version);
        state.planned = Some(Planned { number: state.plans, rules, version });
        Ok(plan)
    }

    /// Carries a plan out. With `confirm` it goes back after that time unless [`Gateway::confirm`] is called.
    pub(crate) fn apply(
        self: &Arc<Self>,
        number: u64,
        confirm: Option<Duration>,
        publisher: &Arc<impl Publish + Send + Sync + 'static>,
    ) -> Result<Applied, Refused> {
        let began = Instant::now();
        let mut state = lock(&self.state);
        let planned = match state.planned.take() {
            Some(planned) if planned.number == number => planned,
            other => {
                state.planned = other;
                let reason =
                    "the plan is not the last one that was made: somebody else changes the rules, too; try again";
                return Err(Refused::System(reason.to_owned()));
            }
        };
        let kept = match planned.version {
            Some(version) => version,
            None => self.versions.keep(&whole(&planned.rules.ruleset())).map_err(|error| self.unkept(&error))?.number,
        };
        // What is not confirmed yet is not what one goes back to.
        let before = state.unconfirmed.take().map_or_else(|| state.in_force.clone(), |unconfirmed| unconfirmed.before);
        let running = std::mem::replace(&mut state.in_force, InForce { version: kept, rules: planned.rules });
        drop(state);
        if let Err(reason) = publisher.publish() {
            lock(&self.state).in_force = running;
            if planned.version.is_none() {
                self.versions.discard(kept);
            }
            return Err(Refused::System(reason));
        }
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        match confirm {
            None => self.versions.confirm(kept).map_err(|error| {
                Refused::System(format!(
                    "the rules are in force, but a restart will not know of them: {}",
                    self.versions.complaint(&error)
                ))
            })?,
            Some(time) => {
                let fresh = planned.version.is_none();
                let unconfirmed = Unconfirmed { version: kept, before, until: Instant::now() + time, fresh };
                self.go_back_after(time, unconfirmed, publisher)?;
            }
        }
        info!(version = kept, took, "rules in force");
        Ok(Applied { version: kept, unconfirmed: confirm.map(|time| time.as_secs()), took })
    }

    fn go_back_after(
        self: &Arc<Self>,
        time: Duration,
        unconfirmed: Unconfirmed,
        publisher: &Arc<impl Publish + Send + Sync + 'static>,
    ) -> Result<(), Refused> {
        let (version, until) = (unconfirmed.version, unconfirmed.until);
        lock(&self.state).unconfirmed = Some(unconfirmed);
        let (gateway, publisher) = (Arc::clone(self), Arc::clone(publisher));
        let thread = std::thread::Builder::new().name("confirm".to_owned()).spawn(move || {
            std::thread::sleep(time);
            gateway.go_back(version, until, &*publisher);
        });
        thread.map(drop).map_err(Refused::system)
    }

    /// Goes back, unless that has been confirmed or superseded.
    fn go_back(&self, version: u32, until: Instant, publisher: &impl Publish) {
        let mut state = lock(&self.state);
        let unconfirmed = match state.unconfirmed.take() {
            Some(unconfirmed) if (unconfirmed.version, unconfirmed.until) == (version, until) => unconfirmed,
            other => {
                state.unconfirmed = other;
                return;
            }
        };
        let back_to = unconfirmed.before.version;
        let running = std::mem::replace(&mut state.in_force, unconfirmed.before.clone());
        drop(state);
        match publisher.publish() {
            Ok(()) => {
                if unconfirmed.fresh {
                    self.versions.discard(version);
                }
                warn!(
                    version = back_to,
                    "nobody confirmed version {version} in time: the rules before it are in force again"
                );
            }
            Err(reason) => {
                lock(&self.state).in_force = running;
                tracing::error!(
                    "nobody confirmed version {version} in time, and the rules before it can't be put back: {reason}"
                );
            }
        }
    }

    fn unkept(&self, error: &std::io::Error) -> Refused {
        Refused::System(self.versions.complaint(error))
    }

    /// What is in force stays.
    pub(crate) fn confirm(&self) -> Result<Applied, Refused> {
        let mut state = lock(&self.state);
        let Some(unconfirmed) = state.unconfirmed.take() else {
            return Err(Refused::Input("nothing waits to be confirmed".to_owned()));
        };
        if let Err(error) = self.versions.confirm(unconfirmed.version) {
            // They go back in time, unless there is room until then.
            state.unconfirmed = Some(unconfirmed);
            return Err(self.unkept(&error));
        }
        info!(version = unconfirmed.version, "rules confirmed");
        Ok(Applied { version: unconfirmed.version, unconfirmed: None, took: 0 })
    }

    /// What a rule is called that the engine tells of.
    pub(crate) fn name_of(&self, number: RuleId) -> Option<RuleName> {
        plan::name_of(&self.rules(), number)
    }

    /// The rules in force, each with what it has met.
    pub(crate) fn rule_lines(&self) -> Vec<RuleLine> {
        plan::rule_lines(&self.rules())
    }

    /// The versions that are kept.
    pub(crate) fn version_lines(&self) -> Result<Vec<VersionLine>, Refused> {
        let now = lock(&self.state).in_force.version;
        let line = |version: Version| VersionLine {
            version: version.number,
            in_force: version.number == now,
            file: version.path.display().to_string(),
        };
        Ok(self.versions.list().map_err(Refused::system)?.into_iter().map(line).collect())
    }

    /// Puts elements into a set and takes others out of it, all at once. With `save` a restart knows of it, too.
    pub(crate) fn change_set(
        &self,
        name: &str,
        add: &[String],
        remove: &[String],
        save: bool,
        publisher: &impl Publish,
    ) -> Result<Changed, Refused> {
        let began = Instant::now();
        let InForce { version, rules } = lock(&self.state).in_force.clone();
        // Held to the end: changes of sets come one after the other.
        let mut ruleset = rules.ruleset();
        let change = rulefile::change_set(&mut ruleset, name, add, remove).map_err(Refused::Input)?;
        let elements = ruleset.sets.get(name).map_or(0, |set| set.elements.len()) as u64;
        let before = rules.lowered();
        let lowered = match before.with_elements(&ruleset, name, &change) {
            Some(lowered) => Ok(lowered),
            None => lower(&ruleset, &self.placements, self.workers, Some((&ruleset, &before))),
        };
        let refused = match lowered {
            Ok(lowered) => {
                rules.set_lowered(Arc::new(lowered));
                publisher.publish().err().map(Refused::System)
            }
            Err(error) => Some(Refused::Input(error.to_string())),
        };
        if let Some(refused) = refused {
            rules.set_lowered(before);
            change.take_back(&mut ruleset, name);
            return Err(refused);
        }
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        if save {
            self.versions.replace(version, &whole(&ruleset)).map_err(|error| {
                Refused::System(format!(
                    "the set is changed, but a restart will not know of it: it can't be saved ({error})"
                ))
            })?;
        }
        Ok(Changed { elements, took })
    }
}
