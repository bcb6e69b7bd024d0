//! One kind, listed and watched: pages, then events, then again from where it stopped.
//!
//! ```text
//!          ┌──────── 410, or an answer that makes no sense ────────┐
//!          ▼                                                       │
//!   list page by page ──▶ watch from the list's version ──▶ events, bookmarks
//!          ▲                    ▲                                  │
//!          └─ 410 while paging  └──── from the last version ───────┘ ended, silent, or broken
//! ```
//!
//! * A list is consistent (no `resourceVersion=0`): a server that lags behind must not take back what another one said. Pages keep
//!   both sides' memory small. A continuation that has expired starts the list again, in one piece, which cannot expire.
//! * A watch goes on from the newest version seen, bookmarks included, so that a reconnection costs no list.
//! * Every attempt after a failure waits, longer each time and never exactly as long as others do. A server that accepts watches
//!   and ends them at once counts as a failure; one that ended a watch in order does not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::core::params::{ListParams, WatchParams};
use kube::core::{Request, WatchEvent};
use tokio::sync::mpsc;

use super::access::Connection;
use super::backoff::Backoff;
use super::lean::{Change, Kind};
use super::server::{self, Server};
use super::trouble::{Asked, Trouble};
use super::wire::{List, Watched};

/// Failures to go on from a version, told by the server itself, after which the version is given up.
const STRIKES: u32 = 3;

/// A watch that lasted this long, or told anything, was one.
const WORTH_SOMETHING: Duration = Duration::from_secs(5);

/// What a kind's task tells.
#[derive(Debug)]
pub(super) enum Message {
    /// What the server is.
    Server(Server),
    /// The server has answered to this kind's task.
    Connected(Kind),
    /// It has not, or not with what was asked for.
    Trouble(Kind, Trouble),
    /// A list begins; an unfinished one of the kind is void.
    ListStarted(Kind),
    /// Some of the list's objects.
    Page(Kind, Vec<Change>),
    /// That was all of them.
    Listed(Kind),
    /// Something happened, and when that was heard.
    Event(Change, Instant),
}

/// How a kind is listed and watched.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) page: u32,
    pub(super) silence: Duration,
    pub(super) first_wait: Duration,
    pub(super) longest_wait: Duration,
}

/// What is done next.
enum Next {
    List,
    Watch(String),
}

/// An attempt that has to be repeated.
struct Failure {
    next: Next,
    /// What is told of it, if it is worth telling.
    trouble: Option<Trouble>,
}

/// Nobody listens any more.
struct Closed;

enum Stopped {
    Failed(Failure),
    Closed,
}

impl From<Closed> for Stopped {
    fn from(_: Closed) -> Self {
        Stopped::Closed
    }
}

/// Lists and watches one kind for as long as somebody listens.
pub(super) async fn reflect<K: Watched>(
    connection: Arc<Connection>,
    settings: Settings,
    messages: mpsc::Sender<Message>,
) {
    let backoff = Backoff::new(settings.first_wait, settings.longest_wait);
    let version = "v1";
    let mut reflector = Reflector { connection, settings, messages, backoff, version, whole: false, strikes: 0 };
    let mut next = Next::List;
    loop {
        let result = match next {
            Next::List => reflector.list::<K>().await,
            Next::Watch(version) => reflector.watch::<K>(version).await,
        };
        match result {
            Ok(after) => next = after,
            Err(Stopped::Closed) => return,
            Err(Stopped::Failed(failure)) => {
                next = failure.next;
                if let Some(trouble) = failure.trouble {
                    let renew = trouble.is_of_credentials();
                    if reflector.tell(Message::Trouble(K::KIND, trouble)).await.is_err() {
                        return;
                    }
                    if renew {
                        reflector.connection.renew().await;
                    }
                }
                tokio::time::sleep(reflector.backoff.next_wait()).await;
            }
        }
    }
}

struct Reflector {
    connection: Arc<Connection>,
    settings: Settings,
    messages: mpsc::Sender<Message>,
    backoff: Backoff,
    /// The group and version of the kind.
    version: &'static str,
    /// The next list is asked for in one piece.
    whole: bool,
    strikes: u32,
}

impl Reflector {
    async fn tell(&self, message: Message) -> Result<(), Closed> {
        self.messages.send(message).await.map_err(|_| Closed)
    }

    fn request<K: Watched>(&self) -> Request {
        Request::new(server::path(self.version, server::resource(K::KIND, self.version)))
    }

    fn trouble<K: Watched>(&self, verb: &'static str, error: &kube::Error) -> Trouble {
        Trouble::of(error, &Asked::new(verb, K::KIND, self.version), &self.connection.place)
    }

    /// Finds out where the kind is served.
    async fn discover<K: Watched>(&mut self) -> Result<(), Stopped> {
        let failed = |trouble| Stopped::Failed(Failure { next: Next::List, trouble: Some(trouble) });
        if K::KIND == Kind::EndpointSlice {
            let found = server::discover_endpoints(&self.connection.client(), &self.connection.place).await;
            self.version = found.map_err(failed)?;
        }
        if K::KIND != Kind::NetworkPolicy {
            return Ok(());
        }
        let found = server::discover(&self.connection.client(), &self.connection.place).await;
        let server = found.map_err(failed)?;
        self.version = server.policies;
        Ok(self.tell(Message::Server(server)).await?)
    }

    async fn list<K: Watched>(&mut self) -> Result<Next, Stopped> {
        self.discover::<K>().await?;
        self.tell(Message::ListStarted(K::KIND)).await?;
        let mut params = ListParams { field_selector: selector(K::KIND), ..ListParams::default() };
        params.limit = (!self.whole).then_some(self.settings.page);
        loop {
            let list = self.page::<K>(&params).await?;
            self.tell(Message::Connected(K::KIND)).await?;
            let changes = list.items.into_iter().flatten().map(K::into_change).collect();
            self.tell(Message::Page(K::KIND, changes)).await?;
            params.continue_token = list.metadata.next.filter(|next| !next.is_empty());
            if params.continue_token.is_none() {
                self.whole = false;
                self.strikes = 0;
                self.backoff.reset();
                self.tell(Message::Listed(K::KIND)).await?;
                return Ok(Next::Watch(list.metadata.resource_version));
            }
        }
    }

    async fn page<K: Watched>(&mut self, params: &ListParams) -> Result<List<K>, Stopped> {
        let request = self.request::<K>().list(params).map_err(kube::Error::BuildRequest);
        let result = match request {
            Ok(request) => self.connection.client().request::<List<K>>(request).await,
            Err(error) => Err(error),
        };
        result.map_err(|error| {
            let trouble = if is_gone(&error) && params.continue_token.is_some() {
                self.whole = true;
                None
            } else {
                Some(self.trouble::<K>("list", &error))
            };
            Stopped::Failed(Failure { next: Next::List, trouble })
        })
    }

    async fn watch<K: Watched>(&mut self, mut version: String) -> Result<Next, Stopped> {
        // Servers of many nodes are not to be asked by all of them at once.
        let seconds = 240 + Backoff::below(120);
        let params = WatchParams {
            field_selector: selector(K::KIND),
            timeout: Some(seconds),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = self.request::<K>().watch(&params, &version).map_err(kube::Error::BuildRequest);
        let stream = match request {
            Ok(request) => self.connection.client().request_events::<K>(request).await,
            Err(error) => Err(error),
        };
        let events = match stream {
            Ok(events) => events,
            Err(error) => return self.broken::<K>(version, &error),
        };
        self.tell(Message::Connected(K::KIND)).await?;
        let mut events = std::pin::pin!(events);
        let (began, mut heard) = (Instant::now(), false);
        // Where servers send bookmarks, they do so about every minute.
        while let Ok(Some(event)) = tokio::time::timeout(self.settings.silence, events.next()).await {
            let at = Instant::now();
            let change = match event {
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    advance(&mut version, object.version());
                    object.into_change()
                }
                Ok(WatchEvent::Deleted(object)) => {
                    advance(&mut version, object.version());
                    Change::Remove(object.into_change().key())
                }
                Ok(WatchEvent::Bookmark(bookmark)) => {
                    heard = true;
                    if is_before(&bookmark.metadata.resource_version, &version) {
                        // The server's data was put back to an earlier time.
                        return Ok(Next::List);
                    }
                    advance(&mut version, &bookmark.metadata.resource_version);
                    continue;
                }
                Ok(WatchEvent::Error(status)) => return self.broken::<K>(version, &kube::Error::Api(status)),
                // The connection is gone: whether that is trouble, the next attempt shows.
                Err(kube::Error::ReadEvents(_) | kube::Error::HyperError(_)) => break,
                Err(error) => return self.broken::<K>(version, &error),
            };
            heard = true;
            self.tell(Message::Event(change, at)).await?;
        }
        if heard || began.elapsed() >= WORTH_SOMETHING {
            self.strikes = 0;
            self.backoff.reset();
            return Ok(Next::Watch(version));
        }
        Err(Stopped::Failed(Failure { next: Next::Watch(version), trouble: None }))
    }

    /// A watch that did not begin, or whose server said that something is wrong.
    fn broken<K: Watched>(&mut self, version: String, error: &kube::Error) -> Result<Next, Stopped> {
        if is_gone(error) {
            return Err(Stopped::Failed(Failure { next: Next::List, trouble: None }));
        }
        let trouble = Some(self.trouble::<K>("watch", error));
        let told = match error {
            kube::Error::Api(status) => !matches!(status.code, 401 | 403 | 429),
            kube::Error::SerdeError(_) => true,
            _ => false,
        };
        self.strikes += u32::from(told);
        let next = if self.strikes >= STRIKES { Next::List } else { Next::Watch(version) };
        Err(Stopped::Failed(Failure { next, trouble }))
    }
}

/// Finished pods own nothing: they need not be sent.
fn selector(kind: Kind) -> Option<String> {
    (kind == Kind::Pod).then(|| "status.phase!=Succeeded,status.phase!=Failed".to_owned())
}

/// The version is too old to go on from.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410 || status.reason == "Expired" || status.reason == "Gone")
}

/// Versions are numbers to every server that there is, though clients should not count on it: what is no number is not compared.
fn is_before(version: &str, other: &str) -> bool {
    matches!((version.parse::<u64>(), other.parse::<u64>()), (Ok(version), Ok(other)) if version < other)
}

fn advance(version: &mut String, to: &str) {
    if !to.is_empty() && !is_before(to, version) {
        to.clone_into(version);
    }
}
