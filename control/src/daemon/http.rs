//! `/metrics`, `/livez` and `/readyz`.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::metrics::{CONTENT_TYPE, Metrics};
use super::running::Daemon;

/// What requests are answered from.
struct Served {
    daemon: Arc<Daemon>,
    metrics: Metrics,
}

/// Takes the address, before anything else is done.
///
/// # Errors
/// When it is taken or not this machine's; a sentence with the remedy.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|error| {
        format!(
            "metrics.address: {address} cannot be listened on ({error}); stop what uses it, or name another address"
        )
    })
}

/// Answers requests for ever.
///
/// # Errors
/// When the listener is refused by the runtime.
pub(super) async fn serve(listener: TcpListener, daemon: Arc<Daemon>) -> std::io::Result<()> {
    let served = Served { metrics: Metrics::new(daemon.clone()), daemon };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(Arc::new(served));
    axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await
}

async fn metrics(State(served): State<Arc<Served>>) -> Response {
    match served.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Alive: every worker runs.
async fn livez(State(served): State<Arc<Served>>) -> (StatusCode, String) {
    let dead = served.daemon.enforcer.dead_workers();
    if dead.is_empty() {
        (StatusCode::OK, "alive\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("workers {dead:?} have died; restart penstock\n"))
    }
}

/// Ready: the first policy is in force on every worker. It stays so while a later one is refused; the answer says that.
async fn readyz(State(served): State<Arc<Served>>) -> (StatusCode, String) {
    let daemon = &served.daemon;
    if !daemon.ready.load(Ordering::Acquire) {
        return (StatusCode::SERVICE_UNAVAILABLE, "not ready: no policy is in force yet\n".to_owned());
    }
    let mut text = format!("ready: policy generation {} is in force\n", daemon.enforcer.generation().0);
    if let Some(reasons) = daemon.refused() {
        for reason in reasons.lines() {
            text += &format!("the manifests that are there now are refused: {reason}\n");
        }
    }
    for wire in daemon.wires() {
        if let Some(reason) = wire.lost {
            text += &format!("wire {} is lost: {reason}\n", wire.config.name);
        }
    }
    (StatusCode::OK, text)
}
