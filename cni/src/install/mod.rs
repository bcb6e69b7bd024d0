//! Putting the plugin onto a node, and taking it away: its binary, and the configuration by which runtimes call it.
//!
//! The primary's own configuration is never touched: ours is a copy of it with us last, under a name that comes before. So a
//! primary that rewrites its file (the VPC CNI does at each start) and an installer that appends to it never fight; whoever takes
//! ours away has what was before. It is followed while somebody watches, and taken away when the primary's is gone.
//!
//! Order matters at the end: the configuration goes first, so that no new pod needs the binary; then pods get their interfaces
//! back; the binary goes last, since without it each DEL of a pod fails.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::netns::Namespace;
use crate::splice;
use crate::state::Store;

mod conflist;
#[cfg(test)]
mod tests;

pub use conflist::{ConflistError, chained, follow, is_chained, primary};

/// The file name of our configuration: before any other by name.
pub const CONFLIST: &str = "00-penstock.conflist";

/// The file name of our binary.
pub const BINARY: &str = "penstock-cni";

/// How often the primary's configuration is looked at. A rewritten file is rarer than a missed notice is bad, and reading a directory of
/// a few files costs nothing.
const LOOK: Duration = Duration::from_millis(500);

/// Where things go.
#[derive(Clone, Debug)]
pub struct Places {
    /// Where runtimes look for plugins.
    pub binaries: PathBuf,
    /// Where runtimes look for configurations.
    pub conflists: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Places { binaries: "/opt/cni/bin".into(), conflists: "/etc/cni/net.d".into() }
    }
}

/// Copies the binary, if the one that is there is another.
///
/// # Errors
/// When the system refuses; a sentence.
pub fn install_binary(own: &Path, places: &Places) -> Result<bool, String> {
    let target = places.binaries.join(BINARY);
    let fail = |error: io::Error| format!("{} cannot be written ({error})", target.display());
    let content = fs::read(own).map_err(|error| format!("{} cannot be read ({error})", own.display()))?;
    if fs::read(&target).is_ok_and(|there| there == content) {
        return Ok(false);
    }
    fs::create_dir_all(&places.binaries).map_err(fail)?;
    conflist::replace(&target, &content, 0o755).map_err(fail)?;
    Ok(true)
}

/// Keeps our configuration in step with the primary's for ever, and says what happens.
pub fn watch(places: &Places, mut say: impl FnMut(&str)) -> ! {
    let mut said = String::new();
    loop {
        match follow(&places.conflists, CONFLIST) {
            Ok(true) => {
                say(&format!("{} follows the primary's configuration", places.conflists.join(CONFLIST).display()))
            }
            Ok(false) => said.clear(),
            Err(error) => {
                let text = error.to_string();
                if text != said {
                    say(&text);
                    said = text;
                }
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// Takes our configuration away and keeps it away for ever.
pub fn withhold(places: &Places, mut say: impl FnMut(&str)) -> ! {
    let own = places.conflists.join(CONFLIST);
    let mut said = String::new();
    loop {
        match (own.exists(), conflist::remove(&own)) {
            (true, Ok(())) => say(&format!("{} is taken away", own.display())),
            (_, Ok(())) => said.clear(),
            (_, Err(error)) => {
                let text = format!("{} cannot be removed ({error})", own.display());
                if text != said {
                    say(&text);
                    said = text;
                }
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// Takes everything off the node: configuration, wires, directory of wires, these directories if they are empty, binary, in this
/// order. What is gone already is no error.
///
/// # Errors
/// What is left and why; a later step is not begun.
pub fn uninstall(store: &Store, host: &Namespace, places: &Places, directories: &[&str]) -> Result<(), String> {
    let own = places.conflists.join(CONFLIST);
    conflist::remove(&own).map_err(|error| format!("{} cannot be removed ({error})", own.display()))?;
    let (splices, broken) = store.list().map_err(|error| error.to_string())?;
    let mut left: Vec<String> = broken.iter().map(ToString::to_string).collect();
    for spliced in &splices {
        if let Err(error) = splice::unsplice(store, host, &spliced.container, None) {
            left.push(format!("container {}: {error}", spliced.container));
        }
    }
    // Pods that ended meanwhile have left what only a repair removes.
    let repaired = splice::repair(store, host).map_err(|error| error.to_string())?;
    left.extend(repaired.failed.iter().map(|(container, reason)| format!("container {container}: {reason}")));
    if !left.is_empty() {
        return Err(left.join("; "));
    }
    if !store.tear_down().map_err(|error| error.to_string())? {
        return Err("a pod came behind wires meanwhile; end the daemon, and call this again".to_owned());
    }
    for directory in directories {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(format!("{directory} cannot be removed ({error}); see what is in it"));
            }
            _ => {}
        }
    }
    let binary = places.binaries.join(BINARY);
    conflist::remove(&binary).map_err(|error| format!("{} cannot be removed ({error})", binary.display()))
}
