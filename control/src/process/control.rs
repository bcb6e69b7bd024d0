//! Control's process: it decides, and has no privileges; engine and wirer are others.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::message::ToControl;
use super::remote::{RemoteEngine, RemoteWirer};
use super::{bind_to_parent, channel, parent};
use crate::command::{CommandResult, Failure};
use crate::daemon::config::Config;
use crate::node::Handles;
use crate::node::wirer::{Notice, Wirer};
use crate::{enforcer, node};

/// Runs control of a node until a signal, or the wirer's end. Only the wirer starts it: standard input is the channel to it.
///
/// # Errors
/// When the process was started otherwise; those of [`node::run`].
pub fn run() -> CommandResult {
    let (begun, file, text) = begin()?;
    let config = Config::parse(&file, &text).map_err(Failure::input)?;
    let Begun { engine, wirer, notices, cni, api } = begun;
    node::run(Handles { engine, wirer, notices, cni, api, config })
}

/// What control begins with, beside its configuration.
pub struct Begun {
    /// The engine.
    pub engine: Arc<dyn enforcer::Engine>,
    /// What needs privileges.
    pub wirer: Arc<dyn Wirer>,
    /// What happens without having been asked for.
    pub notices: tokio::sync::mpsc::UnboundedReceiver<Notice>,
    /// Where the CNI plugin calls.
    pub cni: UnixListener,
    /// Where people ask.
    pub api: UnixListener,
}

/// Takes what the wirer gives to control, with the configuration file and its content. The first notice is
/// [`Notice::EngineStarted`], as after every start of control or of the dataplane.
///
/// # Errors
/// When the process was not started by the wirer, or the system refuses.
pub fn begin() -> Result<(Begun, PathBuf, String), Failure> {
    let not_a_child = || Failure::BadInput("only `penstock run` starts this; standard input is no channel".to_owned());
    let stream = parent().map_err(Failure::system)?;
    bind_to_parent().map_err(Failure::system)?;
    let (start, descriptors) = channel::receive::<ToControl>(&stream).map_err(|_| not_a_child())?;
    let ToControl::Start { file, text, workers } = start else { return Err(not_a_child()) };
    let Ok([cni, api]) = <[OwnedFd; 2]>::try_from(descriptors) else { return Err(not_a_child()) };
    let wirer = Arc::new(RemoteWirer::new(stream.try_clone().map_err(Failure::system)?));
    let engine = Arc::new(RemoteEngine::new(wirer.clone(), workers));
    let (sender, notices) = unbounded_channel();
    let reader = Reader { stream, wirer: wirer.clone(), engine: engine.clone(), notices: sender };
    let thread = std::thread::Builder::new().name("wirer".to_owned());
    thread.spawn(move || reader.run()).map_err(Failure::system)?;
    Ok((Begun { engine, wirer, notices, cni: cni.into(), api: api.into() }, file, text))
}

/// What the wirer says.
struct Reader {
    stream: UnixStream,
    wirer: Arc<RemoteWirer>,
    engine: Arc<RemoteEngine>,
    notices: UnboundedSender<Notice>,
}

impl Reader {
    fn run(self) {
        while let Ok((message, descriptors)) = channel::receive::<ToControl>(&self.stream) {
            match message {
                ToControl::Start { .. } => {}
                ToControl::Link => {
                    if let Some(link) = descriptors.into_iter().next() {
                        self.engine.connect(link.into());
                    }
                }
                ToControl::Notice(notice) => {
                    let _nobody_listens_any_more = self.notices.send(notice);
                }
                ToControl::Answer(number, answer) => self.wirer.answered(number, answer),
            }
        }
        // Without the wirer nothing can be done, and a new one starts a new control.
        eprintln!("penstock: the wirer is gone");
        std::process::exit(3);
    }
}
