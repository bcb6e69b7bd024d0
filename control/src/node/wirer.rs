//! [`Wirer`]: what a node needs privileges for, done by a process that parses no packet.

use cni::protocol::Pod;
pub use cni::sandbox::Sandbox;
use dataplane::rules::WireId;

/// What is asked of whoever has the privileges.
pub trait Wirer: Send + Sync {
    /// All pods that are behind wires by what is written down on the node, whole or not.
    ///
    /// # Errors
    /// In a sentence, when it can't be found out.
    fn spliced(&self) -> Result<Vec<Pod>, String>;

    /// Running pods of the node with an interface that is not behind a wire, as far as the runtime tells who they are.
    ///
    /// # Errors
    /// In a sentence, when it can't be found out.
    fn unspliced(&self) -> Result<Vec<Sandbox>, String>;

    /// Whether the CNI configuration that the runtime takes names Penstock, so that new pods come by it.
    ///
    /// # Errors
    /// In a sentence, when it can't be found out.
    fn chained(&self) -> Result<bool, String>;

    /// Puts a running pod behind wires; answers with all of its wires, and for how long it was cut off. Nothing passes until
    /// the engine carries them: to be called when the rules know the pod.
    ///
    /// # Errors
    /// In a sentence; the pod is then as it was, or is told by [`Wirer::spliced`].
    fn splice(&self, sandbox: &Sandbox) -> Result<Pod, String>;
}

/// What happens without having been asked for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Notice {
    /// There is a new engine that knows no wires and no rules: tell it the rules, then the wires.
    EngineStarted,
    /// The engine is gone, and why; a new one is on its way. Until then nothing passes.
    EngineLost(String),
    /// A wire's devices are gone: its pod has ended, or somebody took it apart.
    WireGone(WireId),
    /// Something is worth telling people.
    Warning(String),
}
