//! Watches that go on, end, break, repeat themselves, or have been left behind.

use std::time::Duration;

use control::kubernetes::Update;
use serde_json::json;

use crate::server::{Fault, Server};
use crate::support::*;

fn watches(server: &Server, resource: &str) -> Vec<String> {
    server.requests(resource).into_iter().filter(|request| request.contains("watch=true")).collect()
}

fn lists(server: &Server, resource: &str) -> usize {
    server.requests(resource).len() - watches(server, resource).len()
}

#[test]
fn changes_are_told_with_what_they_touch() {
    run(async {
        let server = filled().await;
        let mut source = open_synced(&server).await;
        server.apply("pods", pod("a/p2", json!({"app": "other"}), "10.0.0.2"));
        let batch = next_batch(&mut source).await;
        assert_eq!(batch.touched.pods, ["a/p2".parse().unwrap()]);
        assert_eq!(batch.touched.addresses, ["10.0.0.2".parse::<std::net::IpAddr>().unwrap()]);
        server.apply("namespaces", namespace("a", json!({"team": "z"})));
        assert_eq!(&*next_batch(&mut source).await.touched.namespaces[0], "a");
        server.apply("nodes", node("n0", "192.168.0.9"));
        assert_eq!(&*next_batch(&mut source).await.touched.nodes[0], "n0");
        assert!(server.remove("networkpolicies", "a/allow"));
        assert_eq!(next_batch(&mut source).await.touched.policies, ["a/allow".parse().unwrap()]);
        assert!(server.remove("namespaces", "/c"));
        assert_eq!(&*next_batch(&mut source).await.touched.namespaces[0], "c");
        settle(&mut source, &server).await;
    });
}

#[test]
fn updates_that_change_nothing_are_not_told() {
    run(async {
        let server = filled().await;
        let mut source = open_synced(&server).await;
        calm(&mut source).await;
        let mut ready = pod("a/p2", json!({"app": "x2"}), "10.0.0.2");
        ready["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
        ready["metadata"]["annotations"]["c"] = "d".into();
        server.apply("pods", ready);
        server.apply("nodes", node("n0", "192.168.0.1"));
        server.apply("networkpolicies", allow("a/allow", "x1"));
        server.apply("namespaces", namespace("a", json!({"team": "a"})));
        assert!(is_quiet(&mut source).await);
    });
}

#[test]
fn a_broken_watch_goes_on_from_the_last_bookmark() {
    run(async {
        let server = filled().await;
        let mut source = open_synced(&server).await;
        server.apply("pods", pod("a/p2", json!({"app": "other"}), "10.0.0.2"));
        next_batch(&mut source).await;
        // Other kinds' changes move the server's version on; a bookmark tells the pods' watch so.
        for index in 0..20 {
            server.apply("namespaces", namespace("c", json!({"n": index.to_string()})));
        }
        let version = server.version();
        server.bookmark("pods");
        server.apply("pods", pod("a/p4", json!({"app": "other"}), "10.0.0.4"));
        let seen = server.version();
        assert!(seen > version);
        settle(&mut source, &server).await;
        let lists_before = lists(&server, "pods");
        server.bookmark("pods");
        server.apply("nodes", node("n1", "192.168.0.22"));
        server.bookmark("pods");
        let version = server.version();
        settle(&mut source, &server).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.cut();
        server.apply("pods", pod("a/p6", json!({"app": "missed"}), "10.0.0.6"));
        settle(&mut source, &server).await;
        let last = watches(&server, "pods").pop().unwrap();
        assert!(last.contains(&format!("resourceVersion={version}")), "{last} from {version}");
        assert!(last.contains("allowWatchBookmarks=true"), "{last}");
        assert_eq!(lists(&server, "pods"), lists_before, "nothing was listed again");
    });
}

#[test]
fn a_version_that_is_gone_is_listed_again_as_a_difference() {
    for answer in [Fault::ErrorEvent(410), Fault::Status(410)] {
        run(async {
            let server = Server::start().await;
            fill(&server);
            let mut source = open(&server).await;
            synced(&mut source).await;
            calm(&mut source).await;
            server.fail_watch("pods", answer.clone());
            server.set_down(true);
            while !matches!(next(&mut source).await, Update::Disconnected { .. }) {}
            server.remove("pods", "b/p1");
            server.apply("pods", pod("a/p2", json!({"app": "relabelled"}), "10.0.0.2"));
            server.apply("pods", pod("c/new", json!({}), "10.0.0.77"));
            server.compact("pods");
            server.set_down(false);
            let batch = next_batch(&mut source).await;
            let names: Vec<_> = batch.touched.pods.iter().map(ToString::to_string).collect();
            assert_eq!(names, ["a/p2", "b/p1", "c/new"], "these and no others");
            assert!(batch.touched.policies.is_empty() && batch.touched.nodes.is_empty());
            assert_eq!(text(source.cluster().unwrap()), from_scratch(&server));
        });
    }
}

#[test]
fn data_put_back_to_an_earlier_time_is_listed_again() {
    run(async {
        let server = filled().await;
        let mut source = open_synced(&server).await;
        calm(&mut source).await;
        // Events are lost and versions go back, as with a restored backup; the watch only sees a bookmark of the past.
        let version = server.version();
        server.set_down(true);
        while !matches!(next(&mut source).await, Update::Disconnected { .. }) {}
        server.remove("pods", "b/p1");
        server.compact("pods");
        server.go_back_to(version - 10);
        server.heal();
        server.set_down(false);
        let lists_before = lists(&server, "pods");
        while lists(&server, "pods") == lists_before {
            server.bookmark_at("pods", version - 10);
            let _news = tokio::time::timeout(Duration::from_millis(20), source.next()).await;
        }
        settle(&mut source, &server).await;
    });
}

#[test]
fn a_version_that_the_server_keeps_refusing_is_given_up() {
    run(async {
        let server = filled().await;
        let mut source = open_synced(&server).await;
        calm(&mut source).await;
        let before = lists(&server, "nodes");
        for _ in 0..3 {
            server.fail_watch("nodes", Fault::Status(400));
        }
        server.cut();
        server.apply("nodes", node("n2", "192.168.0.3"));
        settle(&mut source, &server).await;
        assert!(lists(&server, "nodes") > before);
    });
}

#[test]
fn a_server_that_ends_watches_at_once_is_not_asked_without_pause() {
    run(async {
        let server = filled().await;
        for _ in 0..10_000 {
            server.fail_watch("nodes", Fault::EndAtOnce);
        }
        let mut source = open_synced(&server).await;
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(400) {
            let _news = tokio::time::timeout(Duration::from_millis(20), source.next()).await;
        }
        // Waits of 5, 10, 20, 40, 40 … ms, a half of that at the least.
        let asked = watches(&server, "nodes").len();
        let most = 4 + began.elapsed().as_millis() / 20 + 1;
        assert!(asked as u128 <= most, "{asked} times");
    });
}

#[test]
fn repeated_events_end_in_the_same_state() {
    run(async {
        let server = filled().await;
        let mut source = open_synced(&server).await;
        server.apply("pods", pod("a/p2", json!({"app": "one"}), "10.0.0.2"));
        server.remove("pods", "a/p4");
        server.apply("pods", pod("a/p2", json!({"app": "two"}), "10.0.0.2"));
        settle(&mut source, &server).await;
        server.fail_watch("pods", Fault::Repeat(3));
        server.cut();
        server.apply("pods", pod("a/end", json!({}), "10.0.0.90"));
        settle(&mut source, &server).await;
    });
}

#[test]
fn a_burst_is_told_in_few_batches_with_the_last_word_of_each_object() {
    run(async {
        let server = filled().await;
        let mut source = open_synced(&server).await;
        calm(&mut source).await;
        for round in 0..5 {
            for index in 0..100 {
                let labels = json!({"round": round.to_string()});
                server.apply("pods", pod(&format!("c/q{index}"), labels, &format!("10.1.0.{index}")));
            }
        }
        let updates = settle(&mut source, &server).await;
        let batches: Vec<_> = updates
            .iter()
            .filter_map(|update| match update {
                Update::Changed(batch) => Some(batch),
                _ => None,
            })
            .collect();
        let changes: usize = batches.iter().map(|batch| batch.changes).sum();
        assert_eq!(changes, 500);
        assert!(batches.len() <= 100, "{} batches", batches.len());
        assert!(batches.iter().all(|batch| batch.touched.pods.is_sorted()));
    });
}
