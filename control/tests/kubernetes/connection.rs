//! Servers that are not there, do not trust us, or come back; and what is said of it.

use std::time::Duration;

use control::kubernetes::{Access, SetupError, Source, SourceConfig, Trouble, Update};
use serde_json::json;

use crate::server::{Fault, KINDS, Server};
use crate::support::*;

/// Waits for the connection to be lost; why.
async fn lost(source: &mut Source) -> Trouble {
    loop {
        if let Update::Disconnected { trouble, .. } = next(source).await {
            return trouble;
        }
    }
}

#[test]
fn a_lost_server_changes_nothing_and_is_told_once() {
    run(async {
        let server = filled().await;
        let mut source = open(&server).await;
        let mut connected = false;
        while !(connected && source.is_synced()) {
            connected |= matches!(next(&mut source).await, Update::Connected);
        }
        let before = text(source.cluster().unwrap());
        server.set_down(true);
        let trouble = lost(&mut source).await;
        assert_eq!(trouble.label(), "unreachable", "{trouble}");
        assert!(source.trouble().is_some());
        assert!(is_quiet(&mut source).await, "once is enough");
        assert_eq!(text(source.cluster().unwrap()), before);
        server.apply("pods", pod("a/p2", json!({"app": "meanwhile"}), "10.0.0.2"));
        server.set_down(false);
        let (mut connected, mut changed) = (false, false);
        while !(connected && changed) {
            match next(&mut source).await {
                Update::Connected => connected = true,
                Update::Changed(_) => changed = true,
                update => panic!("{update:?}"),
            }
        }
        assert!(source.trouble().is_none());
        settle(&mut source, &server).await;
    });
}

#[test]
fn no_server_at_all() {
    run(async {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut source = Source::open(SourceConfig::new(Access::Url(format!("http://{free}")))).await.unwrap();
        let trouble = lost(&mut source).await;
        assert_eq!(
            trouble.to_string(),
            format!(
                "the API server at http://{free} cannot be reached: Connection refused (os error 111); see that it runs and \
                 that this node can reach it"
            )
        );
        assert!(source.cluster().is_none());
    });
}

#[test]
fn a_silent_server_is_left() {
    run(async {
        let server = filled().await;
        let mut config = config(&server);
        config.silence = Duration::from_millis(80);
        server.fail_list("pods", Fault::Hang);
        let mut source = Source::open(config).await.unwrap();
        let trouble = lost(&mut source).await;
        assert_eq!(trouble.label(), "unreachable", "{trouble}");
        synced(&mut source).await;
        // Quiet watches are made anew and go on.
        let before = server.requests("pods").len();
        while server.requests("pods").len() < before + 2 {
            let _news = tokio::time::timeout(Duration::from_millis(20), source.next()).await;
        }
        server.apply("pods", pod("a/p2", json!({"app": "later"}), "10.0.0.2"));
        settle(&mut source, &server).await;
    });
}

#[test]
fn permission_that_is_missing_is_named() {
    run(async {
        let server = filled().await;
        for _ in 0..3 {
            server.fail_list("networkpolicies", Fault::Status(403));
        }
        let mut source = open(&server).await;
        let trouble = lost(&mut source).await;
        assert_eq!(
            trouble.to_string(),
            "the API server does not allow system:serviceaccount:penstock:node to list networkpolicies.networking.k8s.io; add \
             this rule to its ClusterRole: apiGroups: [\"networking.k8s.io\"], resources: [\"networkpolicies\"], verbs: \
             [\"get\", \"list\", \"watch\"]"
        );
        assert!(source.cluster().is_none(), "without policies nothing is whole");
        synced(&mut source).await;
        // A permission that is taken away leaves what is known.
        calm(&mut source).await;
        for _ in 0..3 {
            server.fail_watch("pods", Fault::Status(403));
        }
        server.cut();
        assert!(lost(&mut source).await.to_string().contains("to watch pods; add this rule"));
        assert_eq!(text(source.cluster().unwrap()), from_scratch(&server));
        while !matches!(next(&mut source).await, Update::Connected) {}
    });
}

#[test]
fn all_permissions_that_are_missing_are_named() {
    run(async {
        let server = Server::start().await;
        for kind in KINDS {
            server.fail_list(kind, Fault::Status(403));
            server.fail_list(kind, Fault::Status(403));
        }
        let mut source = open(&server).await;
        let mut named = std::collections::BTreeSet::new();
        loop {
            match next(&mut source).await {
                Update::Disconnected { trouble: Trouble::Forbidden { plain, .. }, .. } => {
                    assert!(named.insert(plain), "once each")
                }
                Update::Connected => break,
                _ => {}
            }
        }
        // Endpoints are asked for only where there are no slices of them.
        let asked = KINDS.into_iter().filter(|kind| *kind != "endpoints");
        assert_eq!(named, asked.map(str::to_owned).collect());
    });
}

#[test]
fn credentials_that_are_not_accepted() {
    run(async {
        let server = filled().await;
        server.fail_list("pods", Fault::Status(401));
        let mut source = open(&server).await;
        let trouble = lost(&mut source).await;
        assert_eq!(trouble.label(), "unauthorized");
        synced(&mut source).await;
    });
}

#[test]
fn policies_are_found_where_the_server_has_them() {
    run(async {
        let server = filled().await;
        server.set_policies_at("extensions/v1beta1");
        let source = open_synced(&server).await;
        assert_eq!(text(source.cluster().unwrap()), from_scratch(&server));

        let server = Server::start().await;
        server.set_policies_at("networking.k8s.io/v9");
        let mut source = open(&server).await;
        let trouble = lost(&mut source).await;
        assert!(
            trouble
                .to_string()
                .ends_with("none of the versions that Penstock reads (networking.k8s.io/v1, extensions/v1beta1)")
        );
    });
}

#[test]
fn something_that_is_no_api_server() {
    run(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = axum::Router::new().fallback(|| async { "<html>hello</html>" });
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut source = Source::open(SourceConfig::new(Access::Url(format!("http://{address}")))).await.unwrap();
        let trouble = lost(&mut source).await;
        assert_eq!(trouble.label(), "unreadable", "{trouble}");
        // Nor does it speak TLS.
        let mut source = Source::open(SourceConfig::new(Access::Url(format!("https://{address}")))).await.unwrap();
        let trouble = lost(&mut source).await;
        assert!(["untrusted", "unreachable"].contains(&trouble.label()), "{trouble}");
    });
}

#[test]
fn kubeconfigs_that_cannot_be_used() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kubeconfig");
        let open = async |text: &str, context: Option<&str>| {
            std::fs::write(&file, text).unwrap();
            let context = context.map(str::to_owned);
            let access = Access::Kubeconfig { file: Some(file.clone()), context };
            Source::open(SourceConfig::new(access)).await.map(drop)
        };
        let good = "apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n\
                    users: [{name: u, user: {token: t}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n";
        open(good, None).await.unwrap();
        let wrong = async |text: &str, context: Option<&str>| open(text, context).await.unwrap_err().to_string();
        for (text, context, reason) in [
            ("clusters: {", None, "parse kubeconfig"),
            ("", None, ""),
            (good, Some("y"), "context"),
            (&good.replace("cluster: c, user", "cluster: d, user"), None, "cluster"),
            (
                &good.replace("token: t", "client-certificate: /nonexistent/a, client-key: /nonexistent/b"),
                None,
                "/nonexistent/",
            ),
        ] {
            let error = wrong(text, context).await;
            assert!(error.contains(reason) && !error.contains('\n'), "{error}");
        }
        let access = Access::Kubeconfig { file: Some(directory.path().join("none")), context: None };
        let error = Source::open(SourceConfig::new(access)).await.unwrap_err();
        assert!(matches!(error, SetupError::Kubeconfig { .. }));
        let error = error.to_string();
        assert!(
            error.contains("none: ") && error.contains("No such file") && error.contains("kubectl --kubeconfig"),
            "{error}"
        );
    });
}

#[test]
fn without_a_service_account() {
    run(async {
        let error = Source::open(SourceConfig::new(Access::InCluster)).await.unwrap_err();
        assert!(error.to_string().starts_with("there is no service account here ("), "{error}");
    });
}
