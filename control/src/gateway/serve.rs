//! The socket of a gateway's daemon.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::api::Request;
use super::plan::FlowNow;
use super::{Gateway, Publish, Refused};
use crate::node::api::Flow;
use crate::sockets::{Answers, bind, listen, say};

/// The longest request: rules with a million elements.
const LONGEST: u64 = 1 << 30;

/// The daemon, as the socket needs it.
pub(crate) trait Serving: Publish + Answers {
    /// The gateway's rules.
    fn gateway(&self) -> Option<&Arc<Gateway>>;

    /// The live flows of the gateway's wires.
    ///
    /// # Errors
    /// In a sentence, when a worker is gone.
    fn flows_now(&self) -> Result<Vec<FlowNow>, String>;

    /// The same for people.
    ///
    /// # Errors
    /// As [`Serving::flows_now`].
    fn flow_lines(&self) -> Result<Vec<Flow>, String>;
}

/// Listens, for root alone.
///
/// # Errors
/// When the socket can't be made; a sentence with the remedy.
pub(crate) fn start<T: Serving>(path: &Path, daemon: &Arc<T>) -> Result<(), String> {
    let fail = |error: io::Error| {
        format!("socket: {} can't be listened on ({error}); name a place that penstock may write to", path.display())
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(fail)?;
    }
    let listener = bind(path).map_err(fail)?;
    listen("gateway", Arc::clone(daemon), listener, serve).map_err(fail)
}

fn serve<T: Serving>(daemon: &Arc<T>, stream: &UnixStream) {
    let mut line = String::new();
    if BufReader::new(stream.take(LONGEST)).read_line(&mut line).is_err() {
        return;
    }
    let request: Request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => {
            let reason = format!("the request cannot be read: {error}; use the penstock of the same release");
            let _gone = say(stream, &json!({ "error": reason }));
            return;
        }
    };
    // A plan of many rules takes its time, and the caller waits for as long as it likes.
    let _unlimited = stream.set_write_timeout(None);
    let _there = match answer(daemon, request) {
        Ok(lines) => lines.iter().all(|line| say(stream, line)),
        Err(Refused::Input(reason)) => say(stream, &json!({ "error": reason, "input": true })),
        Err(Refused::System(reason)) => say(stream, &json!({ "error": reason })),
    };
}

fn answer<T: Serving>(daemon: &Arc<T>, request: Request) -> Result<Vec<serde_json::Value>, Refused> {
    let Some(gateway) = daemon.gateway() else {
        return Err(Refused::System("this daemon has no rules of a gateway".to_owned()));
    };
    let flows = || daemon.flows_now().map_err(Refused::System);
    match request {
        Request::Plan { rules } => one(gateway.plan(&rules, &flows()?)?),
        Request::PlanRollback { to } => one(gateway.plan_rollback(to, &flows()?)?),
        Request::Apply { plan, confirm } => one(gateway.apply(plan, confirm.map(Duration::from_secs), daemon)?),
        Request::Confirm => one(gateway.confirm()?),
        Request::Rules => all(&gateway.rule_lines()),
        Request::Versions => all(&gateway.version_lines()?),
        Request::Set { name, add, remove, save } => one(gateway.change_set(&name, &add, &remove, save, &**daemon)?),
        Request::Flows { follow: true } => {
            Err(Refused::Input("a gateway's flows can't be followed; leave --follow away".to_owned()))
        }
        Request::Flows { follow: false } => all(&daemon.flow_lines().map_err(Refused::System)?),
    }
}

fn one(answer: impl Serialize) -> Result<Vec<serde_json::Value>, Refused> {
    all(&[answer])
}

fn all<T: Serialize>(answers: &[T]) -> Result<Vec<serde_json::Value>, Refused> {
    answers.iter().map(serde_json::to_value).collect::<Result<_, _>>().map_err(Refused::system)
}
