//! What changes while pods run: policies, labels, engines, the API server, control itself.

use std::net::IpAddr;
use std::time::Duration;

use cni::protocol::Call;
use control::node::api::Request;
use control::node::wirer::{Notice, Sandbox};
use dataplane::event::{Dropped, Event};
use dataplane::packet::Direction::Ingress;
use dataplane::packet::{Protocol, Tuple};
use dataplane::time::Time;
use dataplane::verdict::DropReason;
use serde_json::json;

use crate::api_server::Server;
use crate::engine::Step;
use crate::support::*;

/// A node with pod `a/server`, which only `a/client` at 10.0.0.2 may reach.
async fn guarded() -> (Server, Place, Running) {
    let server = cluster().await;
    server.apply("networkpolicies", allow_in("a/in", Some("client")));
    server.apply("pods", pod("a/server", json!({}), Some("10.0.0.1")));
    server.apply("pods", pod("a/client", json!({"app": "client"}), Some("10.0.0.2")));
    let (place, node) = begun(&server).await;
    node.add("a/server", "10.0.0.1").await;
    (server, place, node)
}

#[test]
fn policies_and_labels_that_change_are_followed() {
    run(async {
        let server = cluster().await;
        server.apply("pods", pod("a/server", json!({}), Some("10.0.0.1")));
        server.apply("pods", pod("a/client", json!({"app": "client"}), Some("10.0.0.2")));
        let (place, node) = begun(&server).await;
        node.add("a/server", "10.0.0.1").await;
        let passes = || place.engine.passes(&wire("a/server"), Ingress, "10.0.0.2", 80);
        assert!(passes(), "no policy");
        server.apply("networkpolicies", allow_in("a/in", None));
        until("added", || !passes()).await;
        server.apply("networkpolicies", allow_in("a/in", Some("client")));
        until("changed", passes).await;
        server.apply("pods", pod("a/client", json!({"app": "other"}), Some("10.0.0.2")));
        until("relabelled", || !passes()).await;
        server.remove("networkpolicies", "a/in");
        until("deleted", passes).await;
        node.stop().await;
    });
}

#[test]
fn losing_the_api_server_changes_no_verdict_and_is_said() {
    run(async {
        let (server, place, node) = guarded().await;
        server.set_down(true);
        let mut status = json!({});
        while status["disconnected_since"].is_null() {
            status = node.ask(Request::Status).await.remove(0);
        }
        assert_eq!(status["ready"], true, "{status}");
        assert!(status["problems"][0].as_str().unwrap().contains("until then the last known state is enforced"));
        assert!(place.engine.passes(&wire("a/server"), Ingress, "10.0.0.2", 80));
        assert!(!place.engine.passes(&wire("a/server"), Ingress, "10.0.0.3", 80));
        server.apply("networkpolicies", allow_in("a/in", None));
        server.set_down(false);
        until("the policy of meanwhile", || !place.engine.passes(&wire("a/server"), Ingress, "10.0.0.2", 80)).await;
        node.stop().await;
    });
}

#[test]
fn without_server_or_state_pods_wait_and_the_reason_is_told() {
    run(async {
        let server = cluster().await;
        server.set_down(true);
        let place = Place::new(&server);
        let node = place.start();
        let mut message = String::new();
        while !message.contains("cannot be reached") {
            message = node.call(Call::Status).await.unwrap_err().to_string();
        }
        assert!(message.contains("the cluster's policies are not known yet"), "{message}");
        assert!(place.engine.steps().is_empty());
        server.set_down(false);
        node.ready().await;
        node.stop().await;
    });
}

#[test]
fn a_new_engine_is_told_the_rules_before_the_wires() {
    run(async {
        let server = cluster().await;
        server.apply("networkpolicies", allow_in("a/in", Some("client")));
        server.apply("pods", pod("a/server", json!({}), None));
        let (place, node) = begun(&server).await;
        node.add("a/server", "10.0.0.1").await;
        let number = place.engine.number(&wire("a/server"));
        place.engine.kill();
        node.notices.send(Notice::EngineLost("killed".to_owned())).unwrap();
        until("noticed", || node.notices.is_closed() || place.engine.steps().is_empty()).await;
        assert!(!place.engine.passes(&wire("a/server"), Ingress, "192.168.0.1", 80));
        place.engine.start();
        node.notices.send(Notice::EngineStarted).unwrap();
        until("carried again", || place.engine.number(&wire("a/server")).is_some()).await;
        assert_eq!(place.engine.number(&wire("a/server")), number, "flows are kept by the wire's number");
        let steps = place.engine.steps();
        assert_eq!(steps[0], Step::Rules { whole: true }, "{steps:?}");
        assert!(place.engine.asks(&wire("a/server"), "192.168.0.1"), "its own node");
        node.stop().await;
    });
}

#[test]
fn a_new_control_without_api_server_enforces_the_state_of_last_time_and_cuts_no_wire() {
    run(async {
        let (server, place, node) = guarded().await;
        place.wirer.spliced.lock().unwrap().push(sandbox("a/server", "10.0.0.1"));
        node.stop().await;
        server.set_down(true);
        let before = place.engine.steps().len();
        let node = place.start();
        node.ready().await;
        let steps = place.engine.steps().split_off(before);
        assert_eq!(steps[0], Step::Rules { whole: true }, "{steps:?}");
        // What is learnt after that may change rules, and leaves the wire alone.
        let leaves_it = |step: &Step| *step == Step::Rules { whole: false };
        assert!(steps[1..].iter().all(leaves_it), "the wire is carried still, and stays so: {steps:?}");
        assert!(place.engine.passes(&wire("a/server"), Ingress, "10.0.0.2", 80));
        assert!(!place.engine.passes(&wire("a/server"), Ingress, "10.0.0.3", 80));
        node.call(Call::Check(sandbox("a/server", "10.0.0.1"))).await.unwrap();
        node.stop().await;
    });
}

/// A pod that runs, without a wire.
fn running(place: &Place, server: &crate::api_server::Server) {
    server.apply("pods", pod("a/old", json!({}), Some("10.0.0.7")));
    let spliced = sandbox("a/old", "10.0.0.7");
    let sandbox = Sandbox {
        container: spliced.container.clone(),
        netns: "/netns/old".into(),
        attachment: "eth0".into(),
        network: "net".into(),
        pod: spliced.pod.clone(),
    };
    place.wirer.unspliced.lock().unwrap().push((sandbox, spliced));
}

#[test]
fn a_pod_that_runs_already_is_adopted_or_reported() {
    run(async {
        let server = cluster().await;
        server.apply("networkpolicies", allow_in("a/deny", None));
        let place = Place::new(&server);
        running(&place, &server);
        let node = place.start();
        until("adopted", || place.engine.number(&wire("a/old")).is_some()).await;
        assert!(!place.engine.passes(&wire("a/old"), Ingress, "10.9.9.9", 80));
        node.stop().await;

        let place = Place::new(&server);
        running(&place, &server);
        let node = place.start_with("pods: leave", "off");
        node.ready().await;
        let mut status = json!({"unspliced": []});
        while status["unspliced"] == json!([]) {
            status = node.ask(Request::Status).await.remove(0);
        }
        assert_eq!(status["unspliced"], json!(["a/old"]));
        assert!(place.engine.number(&wire("a/old")).is_none());
        node.stop().await;
    });
}

#[test]
fn people_and_programs_are_told_what_is() {
    run(async {
        let server = cluster().await;
        server.apply("networkpolicies", allow_in("a/in", Some("client")));
        server.apply("pods", pod("a/server", json!({}), Some("10.0.0.1")));
        let place = Place::new(&server);
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let node = place.start_with("pods: leave", &address.to_string());
        node.ready().await;
        node.add("a/server", "10.0.0.1").await;
        let pods = node.ask(Request::Pods).await;
        assert_eq!((&pods[0]["pod"], &pods[0]["carried"]), (&json!("a/server"), &json!(true)));
        assert_eq!((&pods[0]["ingress"], &pods[0]["egress"]), (&json!(["a/in"]), &json!(null)));
        assert_eq!(pods[0]["wires"], json!([["eth0", "veth0"]]));
        let policies = node.ask(Request::Policies).await;
        assert_eq!((&policies[0]["policy"], &policies[0]["pods"]), (&json!("a/in"), &json!(["a/server"])));
        let objects = node.ask(Request::Objects).await;
        let kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["Namespace", "Namespace", "Node", "NetworkPolicy", "Pod"]);
        let get = |path: &'static str| async move {
            tokio::task::spawn_blocking(move || {
                use std::io::{Read, Write};
                let mut stream = std::net::TcpStream::connect(address).unwrap();
                write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                answer
            })
            .await
            .unwrap()
        };
        assert!(get("/readyz").await.contains("ready: policy generation"));
        assert!(get("/livez").await.starts_with("HTTP/1.1 200"));
        let metrics = get("/metrics").await;
        for line in [
            "penstock_policy_implementation_delay_seconds_count",
            "penstock_cni_calls_total{result=\"done\"} ",
            "penstock_api_server_connected 1",
            "penstock_unspliced_pods 0",
            "penstock_wire_up{wire=\"c-server/eth0\",pod=\"a/server\"} 1",
            "penstock_engine_restarts_total 0",
            "penstock_policies 1",
        ] {
            assert!(metrics.contains(line), "{line} is missing:\n{metrics}");
        }
        // A histogram's and a counter's series have more in their names than what is declared.
        let declared: Vec<&str> =
            metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        for name in shown_by_the_dashboard() {
            let family = ["_bucket", "_total"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
            assert!(declared.contains(&family), "the dashboard shows {name}, which is none of {declared:?}");
        }
        node.stop().await;
    });
}

/// The names of all metrics that the Grafana dashboard asks for.
fn shown_by_the_dashboard() -> Vec<String> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/penstock/dashboards/penstock.json");
    let dashboard: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let targets = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = expressions.iter().flat_map(|expression| expression.split(|letter| !is_name(letter)));
    let names: Vec<String> = words.filter(|word| word.starts_with("penstock_")).map(str::to_owned).collect();
    assert!(names.len() > 20, "{names:?}");
    names
}

#[test]
fn the_startup_taint_goes_once_new_pods_come_by_penstock() {
    run(async {
        let server = cluster().await;
        let taints =
            json!([{"key": "own/x", "effect": "NoSchedule"}, {"key": "penstock.io/not-ready", "effect": "NoExecute"}]);
        server.apply("nodes", json!({"metadata": {"name": "n0"}, "spec": {"taints": taints}}));
        let place = Place::new(&server);
        *place.wirer.unchained.lock().unwrap() = true;
        let node = place.start_with("startupTaint: penstock.io/not-ready", "off");
        node.ready().await;
        let mut status = json!({});
        while !status["problems"].to_string().contains("does not name Penstock") {
            status = node.ask(Request::Status).await.remove(0);
        }
        let keys = || -> Vec<String> {
            let node = server.objects("nodes").into_iter().find(|node| node["metadata"]["name"] == "n0").unwrap();
            node["spec"]["taints"]
                .as_array()
                .unwrap()
                .iter()
                .map(|taint| taint["key"].as_str().unwrap().into())
                .collect()
        };
        assert_eq!(keys().len(), 2, "pods would start without policy");
        *place.wirer.unchained.lock().unwrap() = false;
        until("the taint is gone", || keys() == ["own/x"]).await;
        let problems = node.ask(Request::Status).await.remove(0)["problems"].to_string();
        assert!(!problems.contains("does not name"), "{problems}");
        node.stop().await;
    });
}

#[test]
fn denied_traffic_becomes_one_event_of_the_pod() {
    run(async {
        let server = cluster().await;
        server.apply("networkpolicies", allow_in("a/deny", None));
        server.apply("pods", pod("a/p", json!({}), None));
        server.apply("pods", pod("b/stranger", json!({}), Some("10.0.0.9")));
        let place = Place::new(&server);
        let node = place.start_with("events: {denied: true}", "off");
        node.ready().await;
        node.add("a/p", "10.0.0.5").await;
        let dropped = Dropped {
            judged_as: None,
            at: Time(1),
            wire: place.engine.number(&wire("a/p")).unwrap(),
            direction: Ingress,
            judged: Ingress,
            reason: DropReason::PolicyDenied,
            tuple: Some(Tuple {
                source: "10.0.0.9".parse::<IpAddr>().unwrap().into(),
                destination: "10.0.0.5".parse::<IpAddr>().unwrap().into(),
                protocol: Protocol::TCP,
                source_port: 4711,
                destination_port: 80,
            }),
            rule: None,
            generation: 1,
            length: 74,
        };
        for _ in 0..5 {
            place.engine.tell(Event::Dropped(dropped));
        }
        place.engine.tell(Event::Dropped(Dropped { reason: DropReason::TcpState, ..dropped }));
        until("an Event", || !server.events().is_empty()).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let events = server.events();
        assert_eq!(events.len(), 1, "{events:?}");
        let (event, about) = (&events[0], &events[0]["involvedObject"]);
        assert_eq!((&about["name"], &about["namespace"], &about["uid"]), (&json!("p"), &json!("a"), &json!("uid-p")));
        assert_eq!((&event["reason"], &event["type"]), (&json!("PolicyDenied"), &json!("Warning")));
        assert_eq!(
            event["message"],
            "ingress of TCP/80 from pod b/stranger (10.0.0.9) is denied; the pod is isolated by a/deny"
        );
        node.stop().await;
    });
}
