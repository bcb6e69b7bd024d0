//! What is made of objects that are odd, and what is said of them.

use control::kubernetes::{Report, Update};
use control::policy::cluster::{ObjectName, Phase};
use serde_json::json;

use crate::server::Server;
use crate::support::*;

#[test]
fn pods_in_all_the_states_of_their_lives() {
    run(async {
        let server = filled().await;
        let mut source = open_synced(&server).await;
        let name: ObjectName = "a/p2".parse().unwrap();
        let object = || pod("a/p2", json!({"app": "x2"}), "10.0.0.2");
        // Without a sandbox for a moment: it keeps its labels and owns nothing.
        let mut between = object();
        between["status"] = json!({"phase": "Running"});
        server.apply("pods", between);
        next_batch(&mut source).await;
        let cluster = source.cluster().unwrap();
        assert_eq!(cluster.pod(&name).unwrap().phase, Phase::Pending);
        assert!(cluster.owner("10.0.0.2".parse().unwrap()).is_none());
        // On its way out: it keeps what it has.
        let mut leaving = object();
        leaving["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z".into();
        server.apply("pods", leaving);
        next_batch(&mut source).await;
        let cluster = source.cluster().unwrap();
        assert!(cluster.pod(&name).unwrap().terminating);
        assert!(cluster.owner("10.0.0.2".parse().unwrap()).is_some());
        // Finished: nothing is left of it, and its address may be another's.
        let mut finished = object();
        finished["status"]["phase"] = "Succeeded".into();
        server.apply("pods", finished);
        server.apply("pods", pod("b/heir", json!({}), "10.0.0.2"));
        settle(&mut source, &server).await;
        let cluster = source.cluster().unwrap();
        assert!(cluster.pod(&name).is_none());
        assert_eq!(cluster.owner("10.0.0.2".parse().unwrap()).unwrap().name, "b/heir".parse().unwrap());
    });
}

#[test]
fn an_object_that_cannot_be_is_left_out_and_named_once() {
    run(async {
        let server = filled().await;
        let mut source = open_synced(&server).await;
        calm(&mut source).await;
        server.apply("pods", pod("a/p2", json!({"app": "x2"}), "127.0.0.1"));
        let update = next(&mut source).await;
        let Update::Report(report) = update else { panic!("{update:?}") };
        assert!(
            report.to_string().starts_with("Pod a/p2 is left out: status.podIPs[0].ip: Invalid value: \"127.0.0.1\""),
            "{report}"
        );
        next_batch(&mut source).await;
        assert!(source.cluster().unwrap().pod(&"a/p2".parse().unwrap()).is_none(), "what it was is no longer true");
        server.apply("pods", pod("a/p2", json!({"app": "x2", "again": ""}), "127.0.0.1"));
        assert!(is_quiet(&mut source).await);
        server.apply("pods", pod("a/p2", json!({"app": "x2"}), "10.0.0.2"));
        next_batch(&mut source).await;
        assert!(source.cluster().unwrap().pod(&"a/p2".parse().unwrap()).is_some());
    });
}

#[test]
fn a_policy_in_part_isolates_and_is_named_once() {
    run(async {
        let server = filled().await;
        let strange = json!({"podSelector": {}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"trustDomain": "x"}]}, {"from": [{"podSelector": {}}]}]});
        server.apply("networkpolicies", policy("c/strange", strange));
        let mut source = open(&server).await;
        let (_, reports) = synced(&mut source).await;
        let [report @ Report::PolicyInPart { .. }] = &reports[..] else { panic!("{reports:?}") };
        assert_eq!(
            report.to_string(),
            "NetworkPolicy c/strange is not understood as a whole: spec.ingress[0].from[0].trustDomain: the field is not known; \
             spec.ingress[0].from[0]: Required value: must specify a peer; what is not understood allows nothing, its pods stay \
             isolated"
        );
        let policy = source.cluster().unwrap().policy(&"c/strange".parse().unwrap()).unwrap();
        assert_eq!((policy.ingress.as_ref().unwrap().len(), policy.egress.is_none()), (1, true));
        // Listing it again says nothing.
        server.compact("networkpolicies");
        server.fail_watch("networkpolicies", crate::server::Fault::ErrorEvent(410));
        server.cut();
        calm(&mut source).await;
        assert!(server.requests("networkpolicies").iter().filter(|request| request.contains("limit=")).count() > 2);
    });
}

#[test]
fn a_field_that_the_server_drops_is_named_once() {
    let applied = json!({"spec": {"egress": [{"ports": [{"port": 32000, "endPort": 32768}]}]}}).to_string();
    let ranged = |name: &str| {
        let spec = json!({"podSelector": {}, "policyTypes": ["Egress"],
            "egress": [{"ports": [{"port": 32000, "protocol": "TCP"}]}]});
        let mut object = policy(name, spec);
        object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": applied});
        object
    };
    run(async {
        let server = Server::start().await;
        server.set_minor("20+");
        fill(&server);
        server.apply("networkpolicies", ranged("a/ranged"));
        let mut source = open(&server).await;
        let (_, reports) = synced(&mut source).await;
        let texts: Vec<_> = reports.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "the API server (version 1.20) drops endPort from network policies without a word: ranges of ports become their \
                 first port; servers keep it from 1.22 on",
                "NetworkPolicy a/ranged was applied with spec.egress[0].ports[0].endPort, which the API server did not keep: only \
                 the first port of the range is allowed; list the ports one by one",
            ]
        );
        server.apply("networkpolicies", ranged("a/ranged"));
        server.compact("networkpolicies");
        server.fail_watch("networkpolicies", crate::server::Fault::ErrorEvent(410));
        server.cut();
        while let Ok(update) = tokio::time::timeout(std::time::Duration::from_millis(150), source.next()).await {
            assert!(!matches!(update, Update::Report(_)), "{update:?}");
        }
    });
    run(async {
        // A server that keeps it: somebody took it away by hand.
        let server = Server::start().await;
        server.apply("networkpolicies", ranged("a/ranged"));
        let mut source = open(&server).await;
        assert!(synced(&mut source).await.1.is_empty());
    });
}
