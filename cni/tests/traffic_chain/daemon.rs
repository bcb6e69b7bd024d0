//! A daemon of few words: it carries wires with the real engine, open both ways, and answers as it was told to.

use std::collections::BTreeMap;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use cni::protocol::{self, Answer, Call, Outcome, Pod, PodWire, Reason, Request};
use control::enforcer::{Enforcer, EnforcerConfig, WireSpec};
use dataplane::address::Address;
use dataplane::flow::MidStream;
use dataplane::guard::{Endpoint, Permissions};
use dataplane::port::{PortKind, PortSpec};
use dataplane::rules::{Policy, RuleSet, WireId, WireRules};
use dataplane::time::Time;
use dataplane::wire::Tracking;

/// How the daemon answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As it should.
    Willing,
    /// It has no policies yet.
    Loading,
    /// It is ready, and then refuses to add anything.
    Broken,
}

/// Wires by container and interface.
type Wires = BTreeMap<(String, String), WireId>;

struct Inner {
    enforcer: Enforcer,
    wires: Mutex<Wires>,
    calls: Mutex<Vec<Call>>,
    mood: Mutex<Mood>,
}

/// The daemon, listening until it is dropped.
pub(crate) struct Daemon {
    inner: Arc<Inner>,
    socket: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Starts to listen.
    pub(crate) fn start(socket: &Path) -> Daemon {
        let mut config = EnforcerConfig::default();
        // Pods are adopted with their connections.
        config.tracking.mid_stream = MidStream::Until(Time(u64::MAX));
        let inner = Arc::new(Inner {
            enforcer: Enforcer::start(&config).expect("starting the engine"),
            wires: Mutex::default(),
            calls: Mutex::default(),
            mood: Mutex::new(Mood::Willing),
        });
        let listener = UnixListener::bind(socket).expect("listening");
        let serving = inner.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                // An empty connection ends it.
                if !serving.serve(&stream) {
                    return;
                }
            }
        });
        Daemon { inner, socket: socket.to_owned(), thread: Some(thread) }
    }

    /// Changes how it answers.
    pub(crate) fn set(&self, mood: Mood) {
        *self.inner.mood.lock().unwrap() = mood;
    }

    /// What it was asked since this was last called.
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.inner.calls.lock().unwrap())
    }

    /// How many wires it carries.
    pub(crate) fn carried(&self) -> usize {
        self.inner.wires.lock().unwrap().len()
    }

    /// Carries a pod's wires, as if it had found them by itself.
    pub(crate) fn adopt(&self, pod: &Pod) {
        self.inner.add(pod);
    }

    /// Lets go of everything.
    pub(crate) fn forget(&self) {
        let wires = std::mem::take(&mut *self.inner.wires.lock().unwrap());
        wires.into_values().for_each(|wire| assert!(self.inner.enforcer.detach(wire)));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(UnixStream::connect(&self.socket));
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
        let _gone = std::fs::remove_file(&self.socket);
    }
}

impl Inner {
    fn serve(&self, stream: &UnixStream) -> bool {
        let Ok(Request { version, call }) = protocol::read(stream) else { return false };
        assert_eq!(version, protocol::VERSION);
        let outcome = self.outcome(&call);
        self.calls.lock().unwrap().push(call);
        protocol::write(stream, &Answer { version: protocol::VERSION, outcome }).expect("answering");
        true
    }

    fn outcome(&self, call: &Call) -> Outcome {
        let refuse = |reason, message: &str| Outcome::Refused { reason, message: message.to_owned() };
        match (*self.mood.lock().unwrap(), call) {
            (Mood::Loading, Call::Add(_) | Call::Status | Call::Check(_)) => {
                return refuse(Reason::Later, "policies are not loaded yet");
            }
            (Mood::Broken, Call::Add(_)) => return refuse(Reason::Failed, "the worker is gone"),
            _ => {}
        }
        match call {
            Call::Add(pod) => self.add(pod),
            Call::Remove { container, interfaces } => self.remove(container, interfaces),
            Call::Check(pod) => {
                let wires = self.wires.lock().unwrap();
                let known = |wire: &PodWire| wires.contains_key(&(pod.container.clone(), wire.interface.clone()));
                if !pod.wires.iter().all(known) {
                    return refuse(Reason::Unknown, "the pod's wires are not carried");
                }
            }
            Call::Status => {}
        }
        Outcome::Done
    }

    fn add(&self, pod: &Pod) {
        let mut wires = self.wires.lock().unwrap();
        for wire in &pod.wires {
            let key = (pod.container.clone(), wire.interface.clone());
            if wires.contains_key(&key) {
                continue;
            }
            let port = |end: &cni::state::End| {
                PortSpec::new(PortKind::AfPacket, &end.interface).in_namespace(end.netns.to_str().unwrap())
            };
            let addresses = wire.addresses.iter().map(|&address| Address::from(address)).collect();
            let endpoint = Endpoint { mac: Some(wire.mac.parse().unwrap()), addresses };
            let spec = WireSpec {
                name: format!("{}/{}", pod.container, wire.interface),
                inside: port(&wire.inside),
                outside: port(&wire.outside),
                endpoint: Some(endpoint),
                permissions: Permissions::POD,
                tracking: Tracking::Stateful,
            };
            wires.insert(key, self.enforcer.attach(&spec).expect("attaching a wire"));
        }
        self.publish(&wires);
    }

    fn publish(&self, wires: &Wires) {
        let open = |&wire: &WireId| WireRules { wire, egress: Policy::Open, ingress: Policy::Open };
        let rules = RuleSet { wires: wires.values().map(open).collect() };
        self.enforcer.publish(rules).expect("publishing a policy");
    }

    fn remove(&self, container: &str, interfaces: &[String]) {
        let mut wires = self.wires.lock().unwrap();
        wires.retain(|(owner, interface), wire| {
            let ends = owner == container && (interfaces.is_empty() || interfaces.contains(interface));
            if ends {
                assert!(self.enforcer.detach(*wire));
            }
            !ends
        });
    }
}
