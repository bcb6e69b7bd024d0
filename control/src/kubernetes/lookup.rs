//! One pod, asked for by name: for a node whose runtime starts a pod before the watch has told of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::core::Request;
use kube::core::params::GetParams;

use super::access::Connection;
use super::lean::{Change, Kind};
use super::trouble::{Asked, Trouble};
use super::wire::{self, Watched};
use crate::policy::cluster::ObjectName;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A way to ask for one pod.
#[derive(Clone, Debug)]
pub struct Lookup {
    connection: Arc<Connection>,
}

/// What was found, for [`Source::learn`](super::Source::learn).
#[derive(Clone, Debug)]
pub struct Found {
    pub(super) change: Change,
    /// When it was asked for.
    pub(super) asked: Instant,
}

impl Lookup {
    pub(super) fn new(connection: Arc<Connection>) -> Lookup {
        Lookup { connection }
    }

    /// Asks for a pod; `None` if there is none.
    ///
    /// # Errors
    /// Why the API server does not say.
    pub async fn pod(&self, name: &ObjectName) -> Result<Option<Found>, Trouble> {
        let asked = Instant::now();
        let client = self.connection.client();
        let path = format!("/api/v1/namespaces/{}/pods", name.namespace);
        let request = Request::new(path).get(&name.name, &GetParams::default()).map_err(kube::Error::BuildRequest);
        let answer = match request {
            Ok(request) => tokio::time::timeout(PATIENCE, client.request::<wire::Pod>(request)).await,
            Err(error) => Ok(Err(error)),
        };
        let asking = Asked::new("get", Kind::Pod, "v1");
        match answer {
            Ok(Ok(pod)) => Ok(Some(Found { change: pod.into_change(), asked })),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(None),
            Ok(Err(error)) => Err(Trouble::of(&error, &asking, &self.connection.place)),
            Err(_) => {
                let reason = "it does not answer in time".to_owned();
                Err(Trouble::Unreachable { server: self.connection.place.clone(), reason })
            }
        }
    }
}
