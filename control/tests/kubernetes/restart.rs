//! The state of last time: enforced without an API server, and replaced by its first whole answer.

use std::path::Path;

use control::kubernetes::{Report, Source, Update};
use serde_json::json;

use crate::server::{Fault, Server};
use crate::support::*;

/// A state that was kept.
async fn keep(server: &Server, path: &Path) {
    let mut source = open_with(server, path).await;
    synced(&mut source).await;
    settle(&mut source, server).await;
    assert!(source.close().await.is_none());
}

/// The state of last time, and nothing else.
async fn restored(source: &mut Source) -> Vec<Report> {
    let Update::Restored(batch, written) = next(source).await else { panic!("the first update") };
    assert!(written.elapsed().unwrap() < PATIENCE);
    assert!(batch.touched.pods.len() + batch.touched.policies.len() == batch.touched.pods.len() + 2);
    Vec::new()
}

#[test]
fn without_a_server_the_state_of_last_time_holds_and_is_then_replaced_as_a_difference() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/cluster.json.zst");
        let server = filled().await;
        keep(&server, &path).await;
        let before = from_scratch(&server);
        server.set_down(true);
        let mut source = open_with(&server, &path).await;
        restored(&mut source).await;
        assert!(!source.is_synced());
        assert_eq!(text(source.cluster().unwrap()), before);
        while !matches!(next(&mut source).await, Update::Disconnected { .. }) {}
        server.remove("pods", "b/p3");
        server.apply("pods", pod("a/p2", json!({"app": "moved"}), "10.0.0.2"));
        server.remove("networkpolicies", "b/deny");
        // Half of the answer is no answer: one kind is missing still.
        server.fail_list("nodes", Fault::Hang);
        server.set_down(false);
        assert!(is_quiet(&mut source).await || source.trouble().is_some());
        assert_eq!(text(source.cluster().unwrap()), before);
        server.go_on();
        let (batch, _) = synced(&mut source).await;
        let names: Vec<_> = batch.touched.pods.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a/p2", "b/p3"], "what differs and no more");
        assert_eq!(batch.touched.policies, ["b/deny".parse().unwrap()]);
        assert!(batch.touched.nodes.is_empty() && batch.touched.namespaces.is_empty(), "{:?}", batch.touched);
        assert_eq!(text(source.cluster().unwrap()), from_scratch(&server));
    });
}

#[test]
fn a_change_of_policy_is_written_down_without_being_asked() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.json.zst");
        let server = filled().await;
        let mut source = open_with(&server, &path).await;
        synced(&mut source).await;
        server.remove("networkpolicies", "b/deny");
        settle(&mut source, &server).await;
        let began = std::time::Instant::now();
        while !path.exists() {
            assert!(began.elapsed() < PATIENCE);
            let _news = tokio::time::timeout(std::time::Duration::from_millis(20), source.next()).await;
        }
        drop(source);
        server.set_down(true);
        let mut source = open_with(&server, &path).await;
        let Update::Restored(batch, _) = next(&mut source).await else { panic!() };
        assert_eq!(batch.touched.policies, ["a/allow".parse().unwrap()]);
    });
}

#[test]
fn half_a_state_is_never_written() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.json.zst");
        let server = filled().await;
        server.fail_list("nodes", Fault::Hang);
        let mut source = open_with(&server, &path).await;
        assert!(is_quiet(&mut source).await);
        assert!(source.close().await.is_none());
        assert!(!path.exists());
    });
}

#[test]
fn a_damaged_file_is_said_to_be_and_not_used() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.json.zst");
        let server = filled().await;
        keep(&server, &path).await;
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        std::fs::write(&path, bytes).unwrap();
        let mut source = open_with(&server, &path).await;
        assert!(source.cluster().is_none());
        let Update::Report(report @ Report::StateIgnored { .. }) = next(&mut source).await else { panic!() };
        assert!(report.to_string().contains("the cluster's last state is not used: it is damaged"), "{report}");
        synced(&mut source).await;
        assert_eq!(text(source.cluster().unwrap()), from_scratch(&server));
        assert!(source.close().await.is_none());
        let mut source = open_with(&server, &path).await;
        assert!(matches!(next(&mut source).await, Update::Restored(..)), "a good one has taken its place");
    });
}

#[test]
fn a_state_that_cannot_be_written_is_said_once() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.json.zst");
        // A directory in the file's place.
        std::fs::create_dir_all(path.join("x")).unwrap();
        let server = filled().await;
        let mut source = open_with(&server, &path).await;
        let mut reports = Vec::new();
        let began = std::time::Instant::now();
        while reports.len() < 2 {
            assert!(began.elapsed() < PATIENCE);
            if let Update::Report(report) = next(&mut source).await {
                reports.push(report);
            }
        }
        assert!(matches!(reports[0], Report::StateIgnored { .. }), "{reports:?}");
        assert!(matches!(reports[1], Report::StateNotKept { .. }), "{reports:?}");
        assert!(source.is_synced());
    });
}
