//! Pods that come and go.

use std::time::Duration;

use cni::protocol::{Call, CallError, Reason};
use dataplane::packet::Direction::{Egress, Ingress};
use serde_json::json;

use crate::engine::Step;
use crate::support::*;

/// Long enough for something to happen that must not.
const A_WHILE: Duration = Duration::from_millis(300);

#[test]
fn add_waits_for_the_pods_labels_and_nothing_is_attached_before() {
    run(async {
        let server = cluster().await;
        server.apply("networkpolicies", allow_in("a/deny", None));
        let (place, node) = begun(&server).await;
        let adding = node.begin(Call::Add(sandbox("a/p", "10.0.0.5")));
        tokio::time::sleep(A_WHILE).await;
        assert!(!adding.is_finished(), "the API server does not know the pod yet");
        assert!(place.engine.number(&wire("a/p")).is_none(), "nothing is carried without rules");
        server.apply("pods", pod("a/p", json!({"app": "x"}), None));
        adding.await.unwrap().unwrap();
        assert!(!place.engine.passes(&wire("a/p"), Ingress, "10.9.9.9", 80), "isolated from its first frame");
        assert!(place.engine.passes(&wire("a/p"), Egress, "10.9.9.9", 80), "open the other way");
        let steps = place.engine.steps();
        let attached = steps.iter().position(|step| *step == Step::Attach(wire("a/p"))).unwrap();
        assert!(matches!(steps[attached - 1], Step::Rules { .. }), "rules first: {steps:?}");
        assert!(node.call(Call::Check(sandbox("a/p", "10.0.0.5"))).await.is_ok());
        node.stop().await;
    });
}

#[test]
fn add_is_answered_only_when_every_worker_has_acknowledged() {
    run(async {
        let server = cluster().await;
        server.apply("pods", pod("a/p", json!({}), None));
        let (place, node) = begun(&server).await;
        place.engine.hold(true);
        let adding = node.begin(Call::Add(sandbox("a/p", "10.0.0.5")));
        tokio::time::sleep(A_WHILE).await;
        assert!(!adding.is_finished() && place.engine.number(&wire("a/p")).is_none());
        place.engine.hold(false);
        adding.await.unwrap().unwrap();
        assert!(place.engine.number(&wire("a/p")).is_some());
        node.stop().await;
    });
}

#[test]
fn add_is_answered_only_when_the_wires_are_carried() {
    run(async {
        let server = cluster().await;
        server.apply("pods", pod("a/p", json!({}), None));
        let (place, node) = begun(&server).await;
        place.engine.hold_wires(true);
        let adding = node.begin(Call::Add(sandbox("a/p", "10.0.0.5")));
        tokio::time::sleep(A_WHILE).await;
        assert!(!adding.is_finished(), "a pod that starts now would have no network");
        place.engine.hold_wires(false);
        adding.await.unwrap().unwrap();
        node.stop().await;
    });
}

#[test]
fn another_pod_of_the_same_name_is_not_the_pod() {
    run(async {
        let server = cluster().await;
        let mut other = pod("a/p", json!({}), Some("10.0.0.4"));
        other["metadata"]["uid"] = "uid-of-before".into();
        server.apply("pods", other);
        let (_place, node) = begun(&server).await;
        let adding = node.begin(Call::Add(sandbox("a/p", "10.0.0.5")));
        tokio::time::sleep(A_WHILE).await;
        assert!(!adding.is_finished());
        server.remove("pods", "a/p");
        server.apply("pods", pod("a/p", json!({}), None));
        adding.await.unwrap().unwrap();
        node.stop().await;
    });
}

#[test]
fn a_pod_that_the_api_server_does_not_have_is_refused_and_stays_closed() {
    run(async {
        let server = cluster().await;
        let (place, node) = begun(&server).await;
        let error = node.call(Call::Add(sandbox("a/ghost", "10.0.0.5"))).await.unwrap_err();
        let CallError::Refused { reason, message } = error else { panic!("{error}") };
        assert_eq!(
            (reason, message.as_str()),
            (Reason::Failed, "the API server knows no pod a/ghost: it was deleted meanwhile")
        );
        assert!(place.engine.number(&wire("a/ghost")).is_none());
        let mut nameless = sandbox("a/p", "10.0.0.6");
        nameless.pod.name = String::new();
        let error = node.call(Call::Add(nameless)).await.unwrap_err().to_string();
        assert!(error.contains("K8S_POD_NAME"), "{error}");
        node.stop().await;
    });
}

#[test]
fn a_local_pod_is_allowed_to_by_the_address_of_its_add_before_its_status_has_one() {
    run(async {
        let server = cluster().await;
        server.apply("networkpolicies", allow_in("a/in", Some("client")));
        server.apply("pods", pod("a/server", json!({"app": "server"}), None));
        server.apply("pods", pod("a/client", json!({"app": "client"}), None));
        let (place, node) = begun(&server).await;
        node.add("a/server", "10.0.0.1").await;
        assert!(!place.engine.passes(&wire("a/server"), Ingress, "10.0.0.2", 80), "nobody has that address");
        node.add("a/client", "10.0.0.2").await;
        // At the moment of the answer, without waiting.
        assert!(place.engine.passes(&wire("a/server"), Ingress, "10.0.0.2", 80));
        assert!(!place.engine.passes(&wire("a/server"), Ingress, "10.0.0.2", 81));
        node.stop().await;
    });
}

#[test]
fn an_address_that_is_given_anew_means_the_new_pod_and_old_flows_are_flushed() {
    run(async {
        let server = cluster().await;
        server.apply("networkpolicies", allow_in("a/in", Some("client")));
        for (name, app) in [("a/server", "server"), ("a/client", "client"), ("a/other", "other")] {
            server.apply("pods", pod(name, json!({ "app": app }), None));
        }
        let (place, node) = begun(&server).await;
        node.add("a/server", "10.0.0.1").await;
        node.add("a/client", "10.0.0.2").await;
        let container = sandbox("a/client", "10.0.0.2").container;
        node.call(Call::Remove { container, interfaces: Vec::new() }).await.unwrap();
        server.remove("pods", "a/client");
        until("the address is nobody's", || !place.engine.passes(&wire("a/server"), Ingress, "10.0.0.2", 80)).await;
        assert!(place.engine.number(&wire("a/client")).is_none(), "its wire is closed");
        node.add("a/other", "10.0.0.2").await;
        assert!(!place.engine.passes(&wire("a/server"), Ingress, "10.0.0.2", 80));
        assert!(place.engine.steps().contains(&Step::Flush("10.0.0.2".parse().unwrap())));
        node.stop().await;
    });
}

#[test]
fn a_finished_pod_owns_nothing_and_its_wire_is_closed() {
    run(async {
        let server = cluster().await;
        server.apply("networkpolicies", allow_in("a/in", Some("client")));
        server.apply("pods", pod("a/server", json!({}), None));
        server.apply("pods", pod("a/client", json!({"app": "client"}), Some("10.0.0.2")));
        let (place, node) = begun(&server).await;
        node.add("a/server", "10.0.0.1").await;
        node.add("a/client", "10.0.0.2").await;
        assert!(place.engine.passes(&wire("a/client"), Egress, "10.0.0.1", 80));
        let mut ending = pod("a/client", json!({"app": "client"}), Some("10.0.0.2"));
        ending["metadata"]["deletionTimestamp"] = "2026-01-02T03:05:00Z".into();
        server.apply("pods", ending.clone());
        server.apply("pods", pod("b/marker", json!({}), Some("10.0.1.1")));
        tokio::time::sleep(A_WHILE).await;
        assert!(
            place.engine.passes(&wire("a/server"), Ingress, "10.0.0.2", 80),
            "terminating pods keep their identity"
        );
        ending["status"]["phase"] = "Succeeded".into();
        server.apply("pods", ending);
        until("closed", || !place.engine.passes(&wire("a/client"), Egress, "10.0.0.1", 80)).await;
        assert!(!place.engine.passes(&wire("a/server"), Ingress, "10.0.0.2", 80));
        node.stop().await;
    });
}

#[test]
fn fifty_pods_at_once() {
    run(async {
        let server = cluster().await;
        server.apply("networkpolicies", allow_in("a/deny", None));
        let (place, node) = begun(&server).await;
        let name = |index: usize| format!("a/p{index}");
        let address = |index: usize| format!("10.0.0.{}", index + 1);
        let adding: Vec<_> =
            (0..50).map(|index| node.begin(Call::Add(sandbox(&name(index), &address(index))))).collect();
        for index in 0..50 {
            server.apply("pods", pod(&name(index), json!({}), None));
        }
        for adding in adding {
            adding.await.unwrap().unwrap();
        }
        let numbers: std::collections::BTreeSet<_> =
            (0..50).map(|index| place.engine.number(&wire(&name(index))).unwrap()).collect();
        assert_eq!(numbers.len(), 50);
        assert!((0..50).all(|index| !place.engine.passes(&wire(&name(index)), Ingress, "10.0.0.1", 80)));
        for index in 0..50 {
            let container = sandbox(&name(index), &address(index)).container;
            node.call(Call::Remove { container, interfaces: Vec::new() }).await.unwrap();
        }
        assert!((0..50).all(|index| place.engine.number(&wire(&name(index))).is_none()));
        node.stop().await;
    });
}
