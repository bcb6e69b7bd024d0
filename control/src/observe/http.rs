//! `/metrics`, `/livez` and `/readyz`.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::DescriptorEncoder;
use tokio::task::spawn_blocking;

use super::metrics::{self, CONTENT_TYPE};

/// Yes or no, and what there is to say of it: whole lines.
pub(crate) type Health = Result<String, String>;

/// What is shown over HTTP. Each question may wait; none is asked on the runtime's own threads.
pub(crate) trait Observed: Send + Sync + 'static {
    /// Writes the metrics, beside those that every program has.
    ///
    /// # Errors
    /// When there is nothing to tell just now.
    fn metrics(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result;

    /// Whether it works at all; if not, it should be started anew.
    fn alive(&self) -> Health;

    /// Whether it does what it is there for.
    fn ready(&self) -> Health;
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
pub(crate) async fn serve(listener: TcpListener, observed: Arc<dyn Observed>) -> std::io::Result<()> {
    match listener.local_addr() {
        Ok(address) => tracing::info!("metrics and health on http://{address}/metrics, /livez and /readyz"),
        Err(error) => tracing::warn!("the address of /metrics cannot be told: {error}"),
    }
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/livez", get(async |State(observed): State<Arc<dyn Observed>>| health(move || observed.alive()).await))
        .route("/readyz", get(async |State(observed): State<Arc<dyn Observed>>| health(move || observed.ready()).await))
        .with_state(observed);
    axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await
}

async fn scrape(State(observed): State<Arc<dyn Observed>>) -> Response {
    match spawn_blocking(move || metrics::text(observed)).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn health(ask: impl FnOnce() -> Health + Send + 'static) -> (StatusCode, String) {
    match spawn_blocking(ask).await {
        Ok(Ok(text)) => (StatusCode::OK, text),
        Ok(Err(text)) => (StatusCode::SERVICE_UNAVAILABLE, text),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the question ended in a panic; see the log\n".to_owned()),
    }
}
