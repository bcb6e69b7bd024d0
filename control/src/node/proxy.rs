//! Whether kube-proxy rewrites addresses on this node, where the kernel's connection tracking sees it. Otherwise nobody can tell who is behind the
//! node's own address, and it is taken for the node, which Kubernetes wants to reach its pods.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::core::Core;
use super::shared::Node;
use crate::conntrack::asking::Counts;
use crate::daemon::config::KubeProxy;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(5);

/// How often in a row nobody may answer before there is nobody.
const PATIENT: u32 = 3;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

/// So many connections from the node of which the kernel knows none, and it does not track them.
const UNTRACKED: u64 = 8;

/// Where kube-proxy answers unless told otherwise: its mode (`--metrics-bind-address`), and that it lives (`--healthz-bind-address`).
const PLACES: [(&str, &str); 2] = [("127.0.0.1:10249", "/proxyMode"), ("127.0.0.1:10256", "/healthz")];

/// What is known of kube-proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Rewriting {
    /// It rewrites, as far as is known: who is behind the node's address is asked.
    #[default]
    Seen,
    /// Nobody is there who would.
    Nobody,
    /// Connection tracking does not know what comes from the node.
    Untracked,
}

impl Rewriting {
    /// Whether who is behind the node's address can be found out.
    pub(super) fn is_seen(self) -> bool {
        self == Rewriting::Seen
    }

    /// What to tell people.
    fn problem(self) -> Option<&'static str> {
        match self {
            Rewriting::Seen => None,
            Rewriting::Nobody => Some(
                "kube-proxy answers nowhere on this node: what comes from the node's own address is taken for the node itself and passes, also if \
                 something else has hidden a client there; if kube-proxy is there, set kubeProxy: present",
            ),
            Rewriting::Untracked => Some(
                "the kernel's connection tracking does not know what comes from this node (NOTRACK, or a replacement of kube-proxy in eBPF): the \
                 node's own address is taken for the node itself and passes, also if a client is hidden there; if it is tracked, set kubeProxy: present",
            ),
        }
    }
}

/// Looks from time to time, and tells the core.
pub(super) async fn watch(node: Arc<Node>) {
    let mut silent = 0;
    loop {
        let rewriting = match node.own.kube_proxy {
            KubeProxy::Present => Rewriting::Seen,
            KubeProxy::Absent => Rewriting::Nobody,
            KubeProxy::Auto => {
                silent = if answers().await { 0 } else { silent + 1 };
                judge(silent, &node.engine.asked())
            }
        };
        node.tell(move |core| core.rewrites(rewriting));
        sleep(LOOK).await;
    }
}

/// What it means that nobody answered so often, and that these questions were answered so.
fn judge(silent: u32, counts: &Counts) -> Rewriting {
    let [found, unknown] = [0, 1].map(|outcome| counts.answers[..2].iter().map(|kind| kind[outcome]).sum::<u64>());
    if counts.rewritten > 0 {
        return Rewriting::Seen;
    }
    match (found, unknown) {
        (0, UNTRACKED..) => Rewriting::Untracked,
        _ if silent >= PATIENT => Rewriting::Nobody,
        _ => Rewriting::Seen,
    }
}

async fn answers() -> bool {
    for (place, path) in PLACES {
        if timeout(ANSWER, get(place, path)).await.is_ok_and(|answer| answer.is_ok()) {
            return true;
        }
    }
    false
}

/// Any answer will do: it is there.
async fn get(place: &str, path: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(place).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {place}\r\n\r\n").as_bytes()).await?;
    let mut begin = [0; 5];
    stream.read_exact(&mut begin).await?;
    if &begin == b"HTTP/" { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

impl Core {
    /// Takes note of whether addresses are rewritten where it can be seen.
    fn rewrites(&mut self, rewriting: Rewriting) {
        if std::mem::replace(&mut self.rewriting, rewriting) != rewriting {
            self.live.set_own_node(self.own_node());
            self.told = false;
        }
        self.node.hidden.store(!rewriting.is_seen(), Ordering::Relaxed);
        match rewriting.problem() {
            Some(problem) => self.problem("kube-proxy", problem.to_owned()),
            None => self.solved("kube-proxy"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_counts_more_than_who_answers() {
        let counts = |found, unknown, rewritten| {
            let mut counts = Counts { rewritten, ..Counts::default() };
            counts.answers[0] = [found, unknown, 0];
            counts
        };
        assert_eq!(judge(0, &counts(0, 0, 0)), Rewriting::Seen);
        assert_eq!(judge(PATIENT - 1, &counts(3, 0, 0)), Rewriting::Seen);
        assert_eq!(judge(PATIENT, &counts(3, 0, 0)), Rewriting::Nobody);
        assert_eq!(judge(PATIENT, &counts(3, 99, 1)), Rewriting::Seen, "somebody rewrites");
        assert_eq!(judge(0, &counts(0, UNTRACKED - 1, 0)), Rewriting::Seen);
        assert_eq!(judge(0, &counts(0, UNTRACKED, 0)), Rewriting::Untracked);
        assert_eq!(judge(0, &counts(1, UNTRACKED, 0)), Rewriting::Seen, "some are known: the others are odd");
    }
}
