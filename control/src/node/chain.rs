//! Whether new pods come by Penstock at all: the runtime's configuration must name it. Once it does, and rules are in force, the node's
//! startup taint goes, so that no pod is started here before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::core::Core;

/// How often the configuration is looked at while it does not name Penstock.
const SOON: Duration = Duration::from_secs(2);
/// How long to wait at first before a taint is tried again, and at most.
const WAIT: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// What is known of the runtime's configuration.
#[derive(Debug)]
pub(super) struct Chain {
    looking: bool,
    /// The configuration that the runtime takes names Penstock.
    chained: bool,
    /// When it is looked at next, while it is not chained.
    next: Instant,
    /// The taint is being removed, or has been.
    untainted: bool,
}

impl Default for Chain {
    fn default() -> Self {
        Chain { looking: false, chained: false, next: Instant::now(), untainted: false }
    }
}

impl Core {
    /// Looks at the runtime's configuration when it is time.
    pub(super) fn look_at_chain(&mut self, anyway: bool) {
        let due = !self.chain.chained && Instant::now() >= self.chain.next;
        if !self.told || !(due || anyway) || std::mem::replace(&mut self.chain.looking, true) {
            return;
        }
        self.chain.next = Instant::now() + SOON;
        let node = Arc::clone(&self.node);
        spawn_blocking(move || {
            let found = node.wirer.chained();
            node.tell(move |core| core.found_chain(found));
        });
    }

    fn found_chain(&mut self, found: Result<bool, String>) {
        self.chain.looking = false;
        self.chain.chained = found == Ok(true);
        match found {
            Ok(true) => {
                self.solved("chain");
                self.untaint();
            }
            Ok(false) => {
                let sentence = format!(
                    "the CNI configuration that the runtime takes from {} does not name Penstock: new pods of this node start \
                     without policy; `penstock-cni install` writes one (in the chart: the container conflist, see its log)",
                    self.node.own.paths.conflists.display()
                );
                self.problem("chain", sentence);
            }
            Err(reason) => {
                let sentence =
                    format!("whether new pods come by Penstock cannot be found out: {reason}; it is tried again");
                self.problem("chain", sentence);
            }
        }
    }

    /// Takes the startup taint off the node, however long the API server does not let it.
    fn untaint(&mut self) {
        let Some(key) = self.node.own.startup_taint.clone() else { return };
        if std::mem::replace(&mut self.chain.untainted, true) {
            return;
        }
        let (writer, node) = (self.source.writer(), Arc::clone(&self.node));
        tokio::spawn(async move {
            let [mut wait, longest] = WAIT;
            loop {
                match writer.remove_taint(&node.own.name, &key).await {
                    Ok(true) => break info!("taint {key} is taken off this node: pods may start here"),
                    Ok(false) => break,
                    Err(trouble) => warn!("taint {key} stays on this node for now: {trouble}"),
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(longest);
            }
        });
    }
}
