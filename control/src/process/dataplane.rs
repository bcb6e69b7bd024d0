//! The dataplane's process: the workers and the rules' compiler, shut in with the descriptors that it was given.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dataplane::flow::{FlowConfig, FlowRegion, MidStream};
use dataplane::port::af_packet::AfPacket;
use dataplane::port::{PortKind, PortSpec};
use dataplane::rules::WireId;
use dataplane::time::Time;
use dataplane::worker::Pinning;

use super::message::{Carried, Counted, Engine as Asked, FromDataplane, ToDataplane, Told};
use super::{bind_to_parent, channel, parent, seal};
use crate::command::{CommandResult, Failure, Outcome};
use crate::conntrack::asking::Answering;
use crate::conntrack::remote::Remote;
use crate::enforcer::{Enforcer, EnforcerConfig, WireSpec};

/// How long a process that was killed may take to be gone.
const DYING: Duration = Duration::from_secs(3);

/// The largest MTU that a device may be given later: what networks with jumbo frames use at the most.
const JUMBO: usize = 9_216;

/// How long an attachment waits for the wirer's sockets, which come by another channel.
const PORTS: Duration = Duration::from_secs(5);

/// The sockets of a wire.
struct Ports {
    sockets: [OwnedFd; 2],
    devices: [String; 2],
    mtus: [usize; 2],
    /// Which opening of the wire's devices they are of.
    serial: u64,
}

struct Dataplane {
    engine: Enforcer,
    answering: Answering,
    /// Where sockets go by which connections are looked up.
    look_ups: Sender<OwnedFd>,
    ports: Mutex<BTreeMap<WireId, Ports>>,
    arrived: Condvar,
    /// The wires that are carried, and how.
    carried: Mutex<BTreeMap<WireId, (u64, Carried)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the dataplane until the wirer ends. Only the wirer starts it: standard input is the channel to it.
///
/// # Errors
/// When the process was started otherwise, or the system refuses; the wirer is told too.
pub fn run() -> CommandResult {
    let not_a_child = || Failure::BadInput("only `penstock run` starts this; standard input is no channel".to_owned());
    let wirer = parent().map_err(Failure::system)?;
    bind_to_parent().map_err(Failure::system)?;
    // A worker that panics has lost its wires: a new process carries them again.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
    let (start, files) = channel::receive::<ToDataplane>(&wirer).map_err(|_| not_a_child())?;
    let ToDataplane::Start { workers, flows, mid_stream } = start else { return Err(not_a_child()) };
    let started = start_engine(&workers, flows, mid_stream, files).and_then(|engine| {
        let (look_ups, sockets) = channel();
        let answering = engine.answer_with(Remote::new(sockets)).map_err(|error| error.to_string())?;
        let dataplane = Arc::new(Dataplane {
            engine,
            answering,
            look_ups,
            ports: Mutex::default(),
            arrived: Condvar::new(),
            carried: Mutex::default(),
        });
        let (links, receiver) = channel();
        let served = dataplane.clone();
        let thread = std::thread::Builder::new().name("control".to_owned());
        thread.spawn(move || served.serve(&receiver)).map_err(|error| error.to_string())?;
        seal::seal().map_err(|error| format!("shutting itself in: {error}"))?;
        Ok((dataplane, links))
    });
    let (dataplane, links) = match started {
        Ok(started) => started,
        Err(reason) => {
            let _gone = channel::send(&wirer, &FromDataplane::Failed(reason.clone()), &[]);
            return Err(Failure::System(reason));
        }
    };
    channel::send(&wirer, &FromDataplane::Ready, &[]).map_err(Failure::system)?;
    // An error is the wirer's end: nothing passes from here on.
    while let Ok((message, descriptors)) = channel::receive::<ToDataplane>(&wirer) {
        if !dataplane.obey(message, descriptors, &wirer, &links) {
            break;
        }
    }
    Ok(Outcome::Done)
}

/// A worker's flows. The dataplane before this one may still be dying: its memory is given back first, its locks last.
fn region(file: &OwnedFd, flows: usize) -> std::io::Result<(FlowRegion, bool)> {
    let until = Instant::now() + DYING;
    loop {
        match FlowRegion::shared(file, flows) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(2));
            }
            opened => return opened,
        }
    }
}

fn start_engine(
    workers: &[Option<usize>],
    flows: usize,
    mid_stream: Option<u64>,
    files: Vec<OwnedFd>,
) -> Result<Enforcer, String> {
    if files.len() != workers.len() {
        return Err(format!("{} files of flows came for {} workers", files.len(), workers.len()));
    }
    let regions = files.iter().map(|file| region(file, flows)).collect::<Result<Vec<_>, _>>();
    let regions = regions.map_err(|error| format!("opening the file of a worker's flows: {error}"))?;
    let mid_stream = mid_stream.map_or(MidStream::Refuse, |until| MidStream::Until(Time(until)));
    let config = EnforcerConfig {
        workers: workers.iter().map(|cpu| cpu.map_or(Pinning::None, Pinning::Cpu)).collect(),
        flows,
        tracking: FlowConfig { mid_stream, ..FlowConfig::default() },
        trace: false,
    };
    Enforcer::start_with(&config, regions).map_err(|error| error.to_string())
}

impl Dataplane {
    /// Does what the wirer says. False if it can't be told any more.
    fn obey(
        &self,
        message: ToDataplane,
        descriptors: Vec<OwnedFd>,
        wirer: &UnixStream,
        links: &Sender<UnixStream>,
    ) -> bool {
        let mut descriptors = descriptors.into_iter();
        match message {
            ToDataplane::Start { .. } => {}
            ToDataplane::Link => {
                if let Some(link) = descriptors.next() {
                    let _served_to_the_end = links.send(link.into());
                }
            }
            ToDataplane::LookUp => {
                if let Some(socket) = descriptors.next() {
                    let _taken_to_the_end = self.look_ups.send(socket);
                }
            }
            ToDataplane::Ports { wire, devices, mtus, serial } => {
                if let (Some(inside), Some(outside)) = (descriptors.next(), descriptors.next()) {
                    let ports = Ports { sockets: [inside, outside], devices, mtus, serial };
                    locked(&self.ports).insert(wire, ports);
                    self.arrived.notify_all();
                }
            }
            ToDataplane::Drop(wire) => {
                self.detach(wire);
                locked(&self.ports).remove(&wire);
            }
            ToDataplane::Ping(number) => {
                // Every worker answers, or the wirer waits in vain and starts another process.
                self.engine.count_ports();
                return channel::send(wirer, &FromDataplane::Pong(number), &[]).is_ok();
            }
        }
        true
    }

    /// Answers control, one after another.
    fn serve(&self, links: &Receiver<UnixStream>) {
        for link in links {
            let mut is_first = true;
            while let Ok((asked, _)) = channel::receive::<Asked>(&link) {
                let told = self.answer(asked, &mut is_first).unwrap_or_else(Told::Refused);
                if channel::send(&link, &told, &[]).is_err() {
                    break;
                }
            }
        }
    }

    fn answer(&self, asked: Asked, is_first: &mut bool) -> Result<Told, String> {
        Ok(match asked {
            Asked::Change(rules) => {
                let change = rules.into_change()?;
                if std::mem::take(is_first) && change.whole {
                    self.forget_others(&change.wires.iter().map(|rules| rules.wire).collect::<Vec<_>>());
                }
                Told::Generation(self.engine.change(&change).map_err(|error| error.to_string())?)
            }
            Asked::Attach(wire, serial, carried) => {
                self.attach(wire, serial, carried)?;
                Told::Done
            }
            Asked::Detach(wire) => Told::Found(self.detach(wire)),
            Asked::Wires => {
                self.engine.count_ports();
                let counted = |(wire, running): (WireId, crate::enforcer::RunningWire)| Counted {
                    wire,
                    name: running.name,
                    workers: running.lanes.iter().map(|lane| lane.worker).collect(),
                    values: running.stats.values(),
                    warnings: running.warnings,
                };
                Told::Wires(self.engine.wires().into_iter().map(counted).collect())
            }
            Asked::Events(most) => {
                let events = self.engine.take_events().take(most.min(100_000)).collect();
                Told::Events(events, self.engine.events_lost())
            }
            Asked::Flush(address) => Told::Flushed(self.engine.flush(address)),
            Asked::Asks => Told::Asks(self.answering.counts()),
            Asked::Flows => Told::Flows(self.engine.flows().map_err(|error| error.to_string())?),
            Asked::Workers => Told::Workers(self.engine.asks().len(), self.engine.dead_workers()),
        })
    }

    /// Closes what a new control, which begins with all rules, does not know: wires that ended while there was none.
    fn forget_others(&self, known: &[WireId]) {
        let stale: Vec<WireId> = locked(&self.carried).keys().filter(|wire| !known.contains(wire)).copied().collect();
        for wire in stale {
            self.detach(wire);
        }
    }

    /// Carries a wire. One that is carried just so already stays as it is, with its flows: control may have been started anew.
    fn attach(&self, wire: WireId, serial: u64, carried: Carried) -> Result<(), String> {
        if locked(&self.carried).get(&wire) == Some(&(serial, carried.clone())) {
            return Ok(());
        }
        self.detach(wire);
        let ports = locked(&self.ports);
        let (ports, _) = (self
            .arrived
            .wait_timeout_while(ports, PORTS, |ports| ports.get(&wire).is_none_or(|ports| ports.serial < serial)))
        .unwrap_or_else(PoisonError::into_inner);
        let Some(found) = ports.get(&wire).filter(|ports| ports.serial >= serial) else {
            return Err(format!("wire {}: its sockets did not come", carried.name));
        };
        let port = |side: usize| {
            let socket = found.sockets[side].try_clone().map_err(|error| format!("wire {}: {error}", carried.name))?;
            // An MTU that is raised later is followed by the devices; they refuse what is too long for them.
            Ok::<_, String>(AfPacket::adopt(socket, &found.devices[side], found.mtus[side].max(JUMBO)))
        };
        let (inside, outside) = (port(0)?, port(1)?);
        let named = |side: usize| PortSpec::new(PortKind::AfPacket, found.devices[side].clone());
        let spec = WireSpec {
            name: carried.name.clone(),
            inside: named(0),
            outside: named(1),
            endpoint: carried.endpoint.clone(),
            permissions: carried.permissions,
            tracking: carried.tracking,
        };
        drop(ports);
        self.engine.attach_adopted(wire, &spec, inside, outside).map_err(|error| error.to_string())?;
        locked(&self.carried).insert(wire, (serial, carried));
        Ok(())
    }

    fn detach(&self, wire: WireId) -> bool {
        locked(&self.carried).remove(&wire);
        self.engine.detach(wire)
    }
}
