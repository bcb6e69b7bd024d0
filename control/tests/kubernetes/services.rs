//! Services and what is behind them: by slices, or by Endpoints where the server has those only; kept for a start without server.

use control::kubernetes::{Source, Update};
use serde_json::{Value, json};

use crate::server::Server;
use crate::support::*;

fn service(name: &str) -> Value {
    json!({"metadata": {"namespace": "a", "name": name}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.10", "selector": {"x": "y"},
        "ports": [{"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080, "protocol": "TCP"}]}, "status": {"loadBalancer": {}}})
}

fn slice(name: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> =
        addresses.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect();
    // Servers write null for an empty list.
    let endpoints = if endpoints.is_empty() { Value::Null } else { endpoints.into() };
    json!({"metadata": {"namespace": "a", "name": name, "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "endpoints": endpoints, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})
}

/// What the Service stands for.
fn behind(source: &Source) -> Vec<String> {
    let cluster = source.cluster().unwrap();
    let of = |service| cluster.frontends_of(service).flat_map(|(_, backends)| backends);
    let mut ends: Vec<String> =
        cluster.services().flat_map(of).map(|end| format!("{}:{}", end.address, end.port)).collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}

async fn until(source: &mut Source, expected: &[&str]) {
    while behind(source) != expected {
        let update = next(source).await;
        assert!(matches!(update, Update::Changed(_) | Update::Connected | Update::Report(_)), "{update:?}");
    }
}

#[test]
fn slices_come_and_go() {
    run(async {
        let server = filled().await;
        server.apply("services", service("web"));
        server.apply("endpointslices", slice("web-1", &["10.0.0.1"]));
        let mut source = open_synced(&server).await;
        assert_eq!(behind(&source), ["10.0.0.1:8080"]);
        server.apply("endpointslices", slice("web-2", &["10.0.0.2", "10.0.0.3"]));
        until(&mut source, &["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]).await;
        server.apply("endpointslices", slice("web-2", &[]));
        until(&mut source, &["10.0.0.1:8080"]).await;
        server.remove("endpointslices", "a/web-1");
        until(&mut source, &[]).await;
        assert!(server.requests("endpoints").is_empty(), "a server with slices is not asked for the other form");
    });
}

#[test]
fn endpoints_serve_where_there_are_no_slices() {
    run(async {
        let server = filled().await;
        server.set_minor("20");
        server.apply("services", service("web"));
        let endpoints = |address: &str| {
            json!({"metadata": {"namespace": "a", "name": "web"}, "subsets": [{"addresses": [{"ip": address}],
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}]})
        };
        server.apply("endpoints", endpoints("10.0.0.1"));
        let mut source = open_synced(&server).await;
        assert_eq!(behind(&source), ["10.0.0.1:8080"]);
        server.apply("endpoints", endpoints("10.0.0.2"));
        until(&mut source, &["10.0.0.2:8080"]).await;
        assert!(server.requests("endpointslices").is_empty());
    });
}

#[test]
fn what_is_behind_services_is_kept_for_a_start_without_server() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("cluster");
        let server = filled().await;
        server.apply("services", service("web"));
        server.apply("endpointslices", slice("web-1", &["10.0.0.1"]));
        let mut source = open_with(&server, &state).await;
        synced(&mut source).await;
        assert!(source.close().await.is_none());
        server.set_down(true);
        let mut source = open_with(&server, &state).await;
        let update = next(&mut source).await;
        assert!(matches!(update, Update::Restored(..)), "{update:?}");
        assert_eq!(behind(&source), ["10.0.0.1:8080"]);
    });
}

#[test]
fn a_manifest_of_the_state_says_the_same() {
    run(async {
        let server: Server = filled().await;
        server.apply("services", service("web"));
        server.apply("endpointslices", slice("web-1", &["10.0.0.1"]));
        server.apply("endpointslices", slice("web-2", &["10.0.0.2"]));
        let source = open_synced(&server).await;
        let list = json!({"apiVersion": "v1", "kind": "List", "items": source.manifests()}).to_string();
        let loaded = control::policy::manifest::load_text("state", &list).unwrap();
        let service = loaded.cluster.services().next().unwrap().clone();
        let ends: Vec<String> = loaded
            .cluster
            .backends(&service, &service.ports[0], false)
            .iter()
            .map(|end| end.address.to_string())
            .collect();
        assert_eq!(ends, ["10.0.0.1", "10.0.0.2"]);
    });
}
