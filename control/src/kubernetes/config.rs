//! [`SourceConfig`]: how the API server is watched.

use std::path::PathBuf;
use std::time::Duration;

use super::access::Access;

/// How the API server is watched.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Where it is, and as whom it is asked.
    pub access: Access,
    /// Where the state is kept for a start without API server.
    pub state: Option<PathBuf>,
    /// Objects of a page of a list.
    pub page: u32,
    /// Changes that come within this time of the last ones are handed over together.
    pub coalesce: Duration,
    /// A connection on which nothing is heard for so long is given up, and a new one made.
    pub silence: Duration,
    /// How long to wait after a first failure; each further time doubles.
    pub first_wait: Duration,
    /// The longest that is waited.
    pub longest_wait: Duration,
}

impl SourceConfig {
    /// What suits a node of a cluster.
    pub fn new(access: Access) -> Self {
        SourceConfig {
            access,
            state: None,
            page: 500,
            coalesce: Duration::from_millis(10),
            silence: Duration::from_secs(90),
            first_wait: Duration::from_millis(250),
            longest_wait: Duration::from_secs(30),
        }
    }
}
