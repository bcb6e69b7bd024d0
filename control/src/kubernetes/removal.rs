//! Taking Penstock off a cluster: its DaemonSet is told to, and waited for until every node has done it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::access::{Access, Connection};
use super::trouble::{Asked, SetupError, Trouble};
use crate::process::wirer::UNINSTALL;

/// How often the DaemonSet is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// No answer of the API server may take longer.
const SILENCE: Duration = Duration::from_secs(30);

/// Which DaemonSet is to go, and how long that may take.
#[derive(Clone, Debug)]
pub struct Removal {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub daemonset: String,
    /// How long is waited for the nodes.
    pub patience: Duration,
}

/// Why Penstock is still there.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The API server refuses, or is not reached.
    #[error(transparent)]
    Trouble(#[from] Trouble),
    /// There is no such DaemonSet.
    #[error(
        "there is no DaemonSet {daemonset} in namespace {namespace}; name them with --namespace and --daemonset (`kubectl get \
         daemonsets -A -l app.kubernetes.io/name=penstock` lists them)"
    )]
    NoDaemonSet {
        /// The namespace.
        namespace: String,
        /// The name.
        daemonset: String,
    },
    /// Some nodes have not said that they are done.
    #[error(
        "Penstock is still on {nodes}; `kubectl -n {namespace} logs {pod} -c penstock` says why; a node that is down is cleaned with \
         `penstock-cni uninstall` when it is back"
    )]
    Left {
        /// Their names.
        nodes: String,
        /// The namespace.
        namespace: String,
        /// The pod of one of them.
        pod: String,
    },
}

impl Removal {
    /// Tells all nodes to give their pods the interfaces back and to keep nothing of Penstock, and waits until they have.
    /// `say` is told the progress: nodes that are done, of how many.
    ///
    /// # Errors
    /// See [`RemovalError`].
    pub async fn carry_out(&self, access: Access, mut say: impl FnMut(i32, i32)) -> Result<(), RemovalError> {
        let connection = Connection::open(access, SILENCE.min(self.patience)).await?;
        let daemonsets: Api<DaemonSet> = Api::namespaced(connection.client(), &self.namespace);
        let asked = |verb| Asked { verb, resource: "daemonsets", group: "apps".to_owned() };
        let patched = daemonsets.patch(&self.daemonset, &PatchParams::default(), &Patch::Strategic(self.patch())).await;
        let mut found = match patched {
            Ok(found) => found,
            Err(error) => return Err(self.failed(&error, &asked("patch"), &connection.place)),
        };
        let until = Instant::now() + self.patience;
        let mut said = None;
        loop {
            let (done, of) = progress(&found);
            if said.replace((done, of)) != Some((done, of)) {
                say(done, of);
            }
            if done == of {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(self.left(&connection, &found).await);
            }
            tokio::time::sleep(LOOK).await;
            match daemonsets.get(&self.daemonset).await {
                Ok(now) => found = now,
                Err(kube::Error::Api(status)) if status.code != 404 && status.code >= 500 => {}
                Err(error) => return Err(self.failed(&error, &asked("get"), &connection.place)),
            }
        }
    }

    /// All nodes at once: none of them passes anything on for another.
    fn patch(&self) -> Value {
        let told = json!([{ "name": UNINSTALL, "value": "yes" }]);
        let containers = ["penstock", "conflist"].map(|name| json!({ "name": name, "env": told }));
        let strategy = json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 0, "maxUnavailable": "100%" } });
        json!({ "spec": { "updateStrategy": strategy, "template": { "spec": { "containers": containers } } } })
    }

    fn failed(&self, error: &kube::Error, asked: &Asked, place: &str) -> RemovalError {
        match error {
            kube::Error::Api(status) if status.code == 404 => {
                RemovalError::NoDaemonSet { namespace: self.namespace.clone(), daemonset: self.daemonset.clone() }
            }
            error => Trouble::of(error, asked, place).into(),
        }
    }

    /// Who is not done yet.
    async fn left(&self, connection: &Connection, found: &DaemonSet) -> RemovalError {
        let labels = found.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let pods: Api<Pod> = Api::namespaced(connection.client(), &self.namespace);
        let listed = match pods.list(&ListParams::default().labels(&labels.join(","))).await {
            Ok(listed) => listed.items,
            Err(error) => {
                let asked = Asked { verb: "list", resource: "pods", group: String::new() };
                return Trouble::of(&error, &asked, &connection.place).into();
            }
        };
        let left: Vec<&Pod> = listed.iter().filter(|pod| !has_left(pod)).collect();
        let nodes: BTreeSet<&str> = left.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref()).collect();
        let nodes = match nodes.is_empty() {
            true => "nodes that have no pod of it yet".to_owned(),
            false => nodes.into_iter().collect::<Vec<_>>().join(", "),
        };
        let pod = left.first().and_then(|pod| pod.metadata.name.clone());
        let pod = pod.unwrap_or_else(|| format!("daemonset/{}", self.daemonset));
        RemovalError::Left { nodes, namespace: self.namespace.clone(), pod }
    }
}

/// Whether a pod was told to leave, and has.
fn has_left(pod: &Pod) -> bool {
    let told = pod.spec.iter().flat_map(|spec| &spec.containers).any(|container| {
        container.env.iter().flatten().any(|variable| variable.name == UNINSTALL && variable.value.is_some())
    });
    let conditions = pod.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    told && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Nodes that are done, of how many. While the controller has not looked at the change, none is.
fn progress(found: &DaemonSet) -> (i32, i32) {
    let Some(DaemonSetStatus {
        observed_generation,
        desired_number_scheduled: of,
        updated_number_scheduled: updated,
        number_available: available,
        ..
    }) = &found.status
    else {
        return (0, 1);
    };
    if *observed_generation < found.metadata.generation {
        return (0, (*of).max(1));
    }
    // Those that were told; before all were, the available ones may be others.
    let updated = updated.unwrap_or(0);
    let done = if updated < *of { 0 } else { available.unwrap_or(0).min(*of) };
    (done, *of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemonset(generation: i64, status: Value) -> DaemonSet {
        let object = json!({ "metadata": { "name": "penstock", "generation": generation }, "status": status });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn done_is_what_was_told_and_is_available() {
        let status = |observed: i64, updated: i32, available: i32| {
            json!({
                "observedGeneration": observed, "desiredNumberScheduled": 3, "currentNumberScheduled": 3,
                "numberMisscheduled": 0, "numberReady": available, "updatedNumberScheduled": updated,
                "numberAvailable": available,
            })
        };
        assert_eq!(progress(&daemonset(2, status(1, 3, 3))), (0, 3), "the controller has not seen it");
        assert_eq!(progress(&daemonset(2, status(2, 1, 3))), (0, 3), "the available ones may be old");
        assert_eq!(progress(&daemonset(2, status(2, 3, 1))), (1, 3));
        assert_eq!(progress(&daemonset(2, status(2, 3, 3))), (3, 3));
    }

    #[test]
    fn a_pod_has_left_when_it_was_told_and_is_ready() {
        let pod = |env: Value, ready: &str| -> Pod {
            serde_json::from_value(json!({
                "spec": { "containers": [{ "name": "penstock", "env": env }] },
                "status": { "conditions": [{ "type": "Ready", "status": ready }] },
            }))
            .unwrap()
        };
        let told = json!([{ "name": UNINSTALL, "value": "yes" }]);
        assert!(has_left(&pod(told.clone(), "True")));
        assert!(!has_left(&pod(told, "False")));
        assert!(!has_left(&pod(json!([{ "name": "NODE_NAME", "value": "a" }]), "True")));
    }
}
