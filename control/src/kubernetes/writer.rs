//! What Penstock writes to the API server, each only where the configuration asks for it: the removal of a taint, and Events.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, Node};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::access::Connection;
use super::trouble::{Asked, Trouble};

/// A way to write to the API server.
#[derive(Clone, Debug)]
pub struct Writer {
    connection: Arc<Connection>,
}

impl Writer {
    pub(super) fn new(connection: Arc<Connection>) -> Writer {
        Writer { connection }
    }

    /// Removes all taints of this key from a node. Whether there was one.
    ///
    /// # Errors
    /// Why not; also when somebody else changed the node's taints meanwhile.
    pub async fn remove_taint(&self, node: &str, key: &str) -> Result<bool, Trouble> {
        let nodes: Api<Node> = Api::all(self.connection.client());
        let trouble = |verb| {
            let place = self.connection.place.clone();
            move |error: kube::Error| {
                Trouble::of(&error, &Asked { verb, resource: "nodes", group: String::new() }, &place)
            }
        };
        let found = nodes.get(node).await.map_err(trouble("get"))?;
        let all = found.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let count = all.len();
        let rest: Vec<_> = all.into_iter().filter(|taint| taint.key != key).collect();
        if rest.len() == count {
            return Ok(false);
        }
        // The list is replaced as a whole: only if it is still the one that was read.
        let version = found.metadata.resource_version;
        let patch = json!({ "metadata": { "resourceVersion": version }, "spec": { "taints": rest } });
        nodes.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(trouble("patch"))?;
        Ok(true)
    }

    /// Makes an Event in the namespace of what it is about.
    ///
    /// # Errors
    /// Why not.
    pub async fn event(&self, event: &Event) -> Result<(), Trouble> {
        let namespace = event.involved_object.namespace.as_deref().unwrap_or("default");
        let events: Api<Event> = Api::namespaced(self.connection.client(), namespace);
        let asked = Asked { verb: "create", resource: "events", group: String::new() };
        let made = events.create(&PostParams::default(), event).await;
        made.map(drop).map_err(|error| Trouble::of(&error, &asked, &self.connection.place))
    }
}
