//! First lists, pages, and lists that do not come to their end.

use std::time::Duration;

use control::kubernetes::Update;
use serde_json::json;

use crate::server::{Fault, Server};
use crate::support::*;

#[test]
fn all_kinds_are_read_in_pages_and_told_as_one() {
    run(async {
        let server = filled().await;
        let mut source = open(&server).await;
        assert!(source.cluster().is_none(), "nothing is known yet");
        let (_, reports) = synced(&mut source).await;
        assert_eq!(text(source.cluster().unwrap()), from_scratch(&server));
        assert!(reports.is_empty(), "{reports:?}");
        let lists: Vec<_> = server.requests("pods").into_iter().filter(|request| !request.contains("watch=")).collect();
        assert_eq!(lists.len(), 4, "seven pods in pages of two: {lists:?}");
        assert!(lists.iter().all(|list| list.contains("limit=2") && list.contains("status.phase%21%3DSucceeded")));
        assert!(lists[1..].iter().all(|list| list.contains("continue=")), "{lists:?}");
    });
}

#[test]
fn an_empty_cluster_is_whole() {
    run(async {
        let server = Server::start().await;
        let source = open_synced(&server).await;
        assert_eq!(source.cluster().unwrap().pods().count(), 0);
    });
}

#[test]
fn nothing_is_told_while_one_kind_is_missing() {
    run(async {
        let server = filled().await;
        server.fail_list("nodes", Fault::Hang);
        let mut source = open(&server).await;
        assert!(is_quiet(&mut source).await, "nodes are not listed");
        assert!(source.cluster().is_none());
        // Events of the others are not told either, and not lost.
        server.apply("pods", pod("a/late", json!({}), "10.0.0.99"));
        server.remove("pods", "b/p1");
        assert!(is_quiet(&mut source).await);
        server.go_on();
        synced(&mut source).await;
        settle(&mut source, &server).await;
        assert!(source.cluster().unwrap().pod(&"a/late".parse().unwrap()).is_some());
    });
}

#[test]
fn a_list_that_expires_between_pages_begins_again_in_one_piece() {
    run(async {
        let server = filled().await;
        server.fail_list("pods", Fault::Slow(Duration::ZERO));
        server.fail_list("pods", Fault::Status(410));
        let mut source = open(&server).await;
        let (_, reports) = synced(&mut source).await;
        assert_eq!(text(source.cluster().unwrap()), from_scratch(&server));
        assert!(reports.is_empty());
        let lists: Vec<_> = server.requests("pods").into_iter().filter(|request| !request.contains("watch=")).collect();
        assert_eq!(lists.len(), 3, "{lists:?}");
        assert!(!lists[2].contains("limit=") && !lists[2].contains("continue="), "{lists:?}");
    });
}

#[test]
fn half_a_list_changes_nothing() {
    run(async {
        let server = filled().await;
        let mut source = open_synced(&server).await;
        let before = text(source.cluster().unwrap());
        // A relist whose first page comes, then the server dies.
        for index in 1..8 {
            server.remove("pods", &format!("{}/p{index}", ["a", "b"][index % 2]));
        }
        server.apply("pods", pod("a/other", json!({}), "10.0.0.50"));
        server.apply("pods", pod("a/p8", json!({}), "10.0.0.51"));
        server.apply("pods", pod("a/p9", json!({}), "10.0.0.52"));
        let _changed_before_the_cut = next_batch(&mut source).await;
        settle(&mut source, &server).await;
        for index in 1..8 {
            let name = format!("{}/p{index}", ["a", "b"][index % 2]);
            server.apply("pods", pod(&name, json!({"app": format!("x{}", index % 3)}), &format!("10.0.0.{index}")));
        }
        for name in ["a/other", "a/p8", "a/p9"] {
            server.remove("pods", name);
        }
        settle(&mut source, &server).await;
        assert_eq!(text(source.cluster().unwrap()), before);
        server.fail_list("pods", Fault::Slow(Duration::ZERO));
        for _ in 0..5 {
            server.fail_list("pods", Fault::Cut);
        }
        server.fail_list("pods", Fault::Hang);
        // While nobody watches, most pods go.
        server.set_down(true);
        while !matches!(next(&mut source).await, Update::Disconnected { .. }) {}
        for index in 2..8 {
            server.remove("pods", &format!("{}/p{index}", ["a", "b"][index % 2]));
        }
        server.apply("pods", pod("a/x", json!({}), "10.0.0.60"));
        server.apply("pods", pod("a/y", json!({}), "10.0.0.61"));
        server.compact("pods");
        server.set_down(false);
        let lists =
            |server: &Server| server.requests("pods").iter().filter(|request| !request.contains("watch=")).count();
        let listed = lists(&server);
        while lists(&server) < listed + 7 {
            let update = tokio::time::timeout(Duration::from_millis(20), source.next()).await;
            assert!(!matches!(update, Ok(Update::Changed(_) | Update::Synced(_))), "{update:?}");
        }
        assert_eq!(text(source.cluster().unwrap()), before, "pages were read, the list was not");
        server.go_on();
        let batch = next_batch(&mut source).await;
        assert_eq!(text(source.cluster().unwrap()), from_scratch(&server), "all of it at once");
        assert_eq!(batch.touched.pods.len(), 8, "six gone, two new: {:?}", batch.touched.pods);
    });
}

#[test]
fn a_slow_list_is_waited_for() {
    run(async {
        let server = filled().await;
        for _ in 0..3 {
            server.fail_list("pods", Fault::Slow(Duration::from_millis(60)));
        }
        let source = open_synced(&server).await;
        assert_eq!(text(source.cluster().unwrap()), from_scratch(&server));
    });
}
