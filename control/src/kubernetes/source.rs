//! All kinds put together: one ordered stream of changes to one cluster's state.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::access::Connection;
use super::config::SourceConfig;
use super::lean::{Change, Kind};
use super::lookup::{Found, Lookup};
use super::reflect::{Message, Settings, reflect};
use super::report::Report;
use super::saving::Saving;
use super::state::{State, merge, tidy};
use super::trouble::{SetupError, Trouble};
use super::writer::Writer;
use super::{store, wire};
use crate::policy::cluster::{Cluster, ObjectName, Touched};

/// Messages that wait between the tasks and the source. A slow reader slows the server down.
const QUEUE: usize = 64;

/// A batch has at most so many changes, those of a list apart.
const LARGEST_BATCH: usize = 4_096;

/// An answer to a question about one pod is never older than this.
const HEARD_OF_LATE: Duration = Duration::from_secs(60);

/// Reasons that are told before the connection is back.
const MOST_SAID: usize = 16;

/// Changes that belong together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What they touched: what [`LiveRules::update`](crate::policy::live::LiveRules::update) wants to know.
    pub touched: Touched,
    /// How many changes there were, those without an effect included.
    pub changes: usize,
    /// When the first of them was heard; of [`Update::Synced`], when the source was opened.
    pub received: Instant,
}

/// What [`Source::next`] has to say.
#[derive(Debug)]
pub enum Update {
    /// The state of last time is there, and was written at that time. It is the first update, if there is one.
    Restored(Batch, SystemTime),
    /// All kinds are listed: the state is whole, and what was restored is replaced.
    Synced(Batch),
    /// Something changed.
    Changed(Batch),
    /// All kinds are listed or watched again.
    Connected,
    /// A kind can be neither listed nor watched. The state stays as it is. Each reason is told once until all is well again.
    Disconnected {
        /// For how long.
        since: SystemTime,
        /// Why.
        trouble: Trouble,
    },
    /// Something to be told to people, once.
    Report(Report),
}

/// How far a kind is.
#[derive(Debug, Default)]
struct Progress {
    /// All its objects were seen once.
    listed: bool,
    /// The names of the list that is being read.
    seen: HashSet<ObjectName>,
    /// Changes that wait for the list's end, or for the other kinds.
    waiting: Vec<Change>,
    trouble: Option<(SystemTime, Trouble)>,
    connected: bool,
}

/// The state of a cluster, kept up to date from its API server.
#[derive(Debug)]
pub struct Source {
    state: State,
    messages: mpsc::Receiver<Message>,
    progress: [Progress; Kind::ALL.len()],
    updates: VecDeque<Update>,
    /// Changes that are about to be handed over.
    pending: Vec<Change>,
    /// When the first of them was heard.
    first: Option<Instant>,
    last_batch: Option<Instant>,
    coalesce: Duration,
    /// What the lists brought while nobody could read the state.
    built: Batch,
    /// The state may be read: it was restored, or is whole.
    usable: bool,
    synced: bool,
    /// Whether it was said that all is well.
    connected: bool,
    /// What was said of the trouble that there is.
    said: Vec<Trouble>,
    saving: Option<Saving>,
    connection: Arc<Connection>,
    /// Pods of which something was heard of late, and when.
    heard: HashMap<ObjectName, Instant>,
    /// The tasks end with the source.
    _tasks: JoinSet<()>,
}

impl Source {
    /// Restores the state of last time, if there is one, and begins to watch. Nothing is awaited of the server.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub async fn open(config: SourceConfig) -> Result<Source, SetupError> {
        let connection = Arc::new(Connection::open(config.access, config.silence).await?);
        let settings = Settings {
            page: config.page,
            silence: config.silence,
            first_wait: config.first_wait,
            longest_wait: config.longest_wait,
        };
        let (sender, messages) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        let arguments = || (Arc::clone(&connection), settings.clone(), sender.clone());
        let (connection_, settings_, sender_) = arguments();
        tasks.spawn(reflect::<wire::Namespace>(connection_, settings_, sender_));
        let (connection_, settings_, sender_) = arguments();
        tasks.spawn(reflect::<wire::Node>(connection_, settings_, sender_));
        let (connection_, settings_, sender_) = arguments();
        tasks.spawn(reflect::<wire::NetworkPolicy>(connection_, settings_, sender_));
        let (connection_, settings_, sender_) = arguments();
        tasks.spawn(reflect::<wire::Pod>(connection_, settings_, sender_));
        let (connection_, settings_, sender_) = arguments();
        tasks.spawn(reflect::<wire::Service>(connection_, settings_, sender_));
        let (connection_, settings_, sender_) = arguments();
        tasks.spawn(reflect::<wire::EndpointSlice>(connection_, settings_, sender_));
        let mut source = Source {
            state: State::default(),
            messages,
            progress: Default::default(),
            updates: VecDeque::new(),
            pending: Vec::new(),
            first: None,
            last_batch: None,
            coalesce: config.coalesce,
            built: Batch { touched: Touched::default(), changes: 0, received: Instant::now() },
            usable: false,
            synced: false,
            connected: false,
            said: Vec::new(),
            saving: config.state.map(Saving::new),
            connection,
            heard: HashMap::new(),
            _tasks: tasks,
        };
        source.restore().await;
        Ok(source)
    }

    /// The cluster, up to the last update that was handed out; `None` before anything whole is known.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.usable.then(|| self.state.cluster())
    }

    /// Says which addresses this node gave to a pod: [`Cluster::assign`]. What it touches.
    pub fn assign(&mut self, name: &ObjectName, uid: &str, addresses: &[IpAddr]) -> Touched {
        self.state.assign(name, uid, addresses)
    }

    /// Says which addresses a node has beside those that its object lists: [`Cluster::node_has`]. What it touches.
    pub fn node_has(&mut self, name: &str, addresses: &[IpAddr]) -> Touched {
        self.state.node_has(name, addresses)
    }

    /// The objects by which is judged, as manifests.
    pub fn manifests(&self) -> Vec<serde_json::Value> {
        self.state.objects().filter_map(|object| object.to_manifest()).collect()
    }

    /// A way to ask the API server for one pod, beside the watch.
    pub fn lookup(&self) -> Lookup {
        Lookup::new(Arc::clone(&self.connection))
    }

    /// A way to write to the API server.
    pub fn writer(&self) -> Writer {
        Writer::new(Arc::clone(&self.connection))
    }

    /// Takes what a [`Lookup`] found for news, unless the watch has told of the pod since it was asked for.
    pub fn learn(&mut self, found: Found) {
        let heard = self.heard.get(&found.change.key().name).is_some_and(|&at| at >= found.asked);
        if self.synced && !heard {
            self.take_event(found.change, Instant::now());
        }
    }

    /// Takes note that something was heard of a pod.
    fn heard_of(&mut self, change: &Change, at: Instant) {
        let key = change.key();
        if key.kind == Kind::Pod {
            if self.heard.len() >= LARGEST_BATCH {
                self.heard.retain(|_, then| at.saturating_duration_since(*then) < HEARD_OF_LATE);
            }
            self.heard.insert(key.name, at);
        }
    }

    /// Whether the API server has told the whole state since the start.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Why some kind can be neither listed nor watched just now, and since when.
    pub fn trouble(&self) -> Option<(SystemTime, &Trouble)> {
        let troubles = self.progress.iter().filter_map(|progress| progress.trouble.as_ref());
        troubles.min_by_key(|(since, _)| *since).map(|(since, trouble)| (*since, trouble))
    }

    async fn restore(&mut self) {
        let Some(path) = self.saving.as_ref().map(|saving| saving.path().clone()) else { return };
        let received = Instant::now();
        let file = path.clone();
        let kept = tokio::task::spawn_blocking(move || store::read(&file)).await;
        match kept.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(None) => {}
            Ok(Some(kept)) => {
                let changes: Vec<_> = kept.objects.into_iter().map(Change::Apply).collect();
                let (count, mut reports) = (changes.len(), Vec::new());
                let touched = self.state.apply(changes, &mut reports);
                self.usable = true;
                let batch = Batch { touched, changes: count, received };
                self.updates.push_back(Update::Restored(batch, kept.written));
                self.updates.extend(reports.into_iter().map(Update::Report));
            }
            Err(reason) => self.updates.push_back(Update::Report(Report::StateIgnored { path, reason })),
        }
    }

    /// What is new. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Update {
        loop {
            if let Some(update) = self.updates.pop_front() {
                return update;
            }
            if self.hand_over_at().is_some_and(|at| at <= Instant::now()) {
                self.drain();
                self.hand_over();
                continue;
            }
            let hand_over = sleep_until(self.hand_over_at());
            let save = sleep_until(self.saving.as_ref().filter(|_| self.synced).and_then(Saving::due));
            let written = async {
                match &mut self.saving {
                    Some(saving) => saving.written().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = self.messages.recv() => match message {
                    Some(message) => self.take(message),
                    // The tasks never end before the source does.
                    None => std::future::pending().await,
                },
                () = hand_over => {}
                () = save => self.save(),
                failure = written => self.saved(failure),
            }
        }
    }

    /// Ends watching, and keeps the state that there is.
    pub async fn close(mut self) -> Option<Report> {
        self.messages.close();
        let saving = self.saving.as_mut().filter(|_| self.synced)?;
        let mut failure = saving.finish().await;
        if saving.is_dirty() {
            let lines = store::encode(self.state.objects());
            saving.write(lines, Instant::now());
            failure = saving.finish().await;
        }
        failure.map(|reason| Report::StateNotKept { path: saving.path().clone(), reason })
    }

    fn save(&mut self) {
        let began = Instant::now();
        if let Some(saving) = &mut self.saving {
            saving.write(store::encode(self.state.objects()), began);
        }
    }

    fn saved(&mut self, failure: Option<String>) {
        if let Some((reason, saving)) = failure.zip(self.saving.as_ref()) {
            let path = saving.path().clone();
            self.updates.push_back(Update::Report(Report::StateNotKept { path, reason }));
        }
    }

    /// Takes what is there without waiting, so that a burst becomes one batch.
    fn drain(&mut self) {
        while self.pending.len() < LARGEST_BATCH
            && self.updates.is_empty()
            && let Ok(message) = self.messages.try_recv()
        {
            self.take(message);
        }
    }

    fn hand_over_at(&self) -> Option<Instant> {
        let first = self.first?;
        if self.pending.len() >= LARGEST_BATCH {
            return Some(first);
        }
        // At once after a quiet time; otherwise with those that come until then.
        Some(self.last_batch.map_or(first, |last| first.max(last + self.coalesce)))
    }

    fn hand_over(&mut self) {
        if let Some(received) = self.first.take() {
            let changes = std::mem::take(&mut self.pending);
            self.apply(changes, received, Update::Changed);
        }
    }

    fn apply(&mut self, changes: Vec<Change>, received: Instant, update: impl FnOnce(Batch) -> Update) {
        let mut reports = Vec::new();
        let count = changes.len();
        let touched = self.state.apply(changes, &mut reports);
        self.finish(touched, count, received, reports, update);
    }

    fn finish(
        &mut self,
        touched: Touched,
        changes: usize,
        received: Instant,
        reports: Vec<Report>,
        update: impl FnOnce(Batch) -> Update,
    ) {
        let update = update(Batch { touched, changes, received });
        let (batch, always) = match &update {
            Update::Synced(batch) => (batch, true),
            Update::Changed(batch) | Update::Restored(batch, _) => (batch, false),
            _ => return,
        };
        let any = batch.touched != Touched::default();
        if (any || always)
            && let Some(saving) = &mut self.saving
        {
            saving.changed(always || !batch.touched.policies.is_empty());
        }
        // Reports first: whoever reads them knows why when the change is logged.
        self.updates.extend(reports.into_iter().map(Update::Report));
        if any || always {
            self.last_batch = Some(Instant::now());
            self.updates.push_back(update);
        }
    }

    fn progress(&mut self, kind: Kind) -> &mut Progress {
        &mut self.progress[kind as usize]
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Server(server) => self.updates.extend(self.state.server(server.version).map(Update::Report)),
            Message::Connected(kind) => {
                let progress = self.progress(kind);
                (progress.connected, progress.trouble) = (true, None);
                if !self.connected && self.progress.iter().all(|progress| progress.connected) {
                    self.connected = true;
                    self.said.clear();
                    self.updates.push_back(Update::Connected);
                }
            }
            Message::Trouble(kind, trouble) => self.take_trouble(kind, trouble),
            Message::ListStarted(kind) => {
                // The list is compared with the state: nothing may be on its way there.
                self.hand_over();
                let synced = self.synced;
                let progress = self.progress(kind);
                progress.seen = HashSet::new();
                progress.waiting = Vec::new();
                progress.listed &= synced;
            }
            Message::Page(kind, changes) => self.take_page(kind, changes),
            Message::Listed(kind) => self.take_listed(kind),
            Message::Event(change, at) => {
                self.heard_of(&change, at);
                self.take_event(change, at);
            }
        }
    }

    /// Nobody reads the state yet: lists are put into it as they come.
    fn is_building(&self) -> bool {
        !self.usable
    }

    fn take_page(&mut self, kind: Kind, changes: Vec<Change>) {
        let mut different = Vec::new();
        for change in changes {
            // A finished pod in a list is one that is not there.
            let Change::Apply(object) = change else { continue };
            let name = self.state.kept_name(&object.key());
            if !self.state.holds(&object) {
                different.push(Change::Apply(object));
            }
            self.progress(kind).seen.insert(name);
        }
        match self.is_building() {
            true => self.build(different),
            false => self.progress(kind).waiting.extend(different),
        }
    }

    fn build(&mut self, changes: Vec<Change>) {
        let mut reports = Vec::new();
        self.built.changes += changes.len();
        let touched = self.state.apply(changes, &mut reports);
        merge(&mut self.built.touched, touched);
        self.updates.extend(reports.into_iter().map(Update::Report));
    }

    /// What was not in the list is gone.
    fn take_listed(&mut self, kind: Kind) {
        let seen = std::mem::take(&mut self.progress(kind).seen);
        let gone = self.state.names(kind).into_iter().filter(|name| !seen.contains(name));
        let gone: Vec<_> = gone.map(|name| Change::Remove(super::lean::Key { kind, name })).collect();
        let progress = self.progress(kind);
        progress.listed = true;
        progress.waiting.extend(gone);
        if self.is_building() {
            let changes = std::mem::take(&mut self.progress(kind).waiting);
            self.build(changes);
        }
        if self.synced {
            let changes = std::mem::take(&mut self.progress(kind).waiting);
            self.apply(changes, Instant::now(), Update::Changed);
        } else if self.progress.iter().all(|progress| progress.listed) {
            self.sync();
        }
    }

    /// All kinds are there: what is different from what was restored takes its place, all at once.
    fn sync(&mut self) {
        let waiting = self.progress.iter_mut().flat_map(|progress| std::mem::take(&mut progress.waiting));
        let changes: Vec<_> = waiting.collect();
        (self.synced, self.usable) = (true, true);
        let mut reports = Vec::new();
        let mut touched = std::mem::take(&mut self.built.touched);
        let count = self.built.changes + changes.len();
        merge(&mut touched, self.state.apply(changes, &mut reports));
        tidy(&mut touched);
        self.finish(touched, count, self.built.received, reports, Update::Synced);
    }

    fn take_event(&mut self, change: Change, at: Instant) {
        if self.synced {
            self.first.get_or_insert(at);
            self.pending.push(change);
        } else if self.is_building() {
            self.build(vec![change]);
        } else {
            self.progress(change.key().kind).waiting.push(change);
        }
    }

    /// Says why the connection is lost: several kinds that fail for one reason say it once.
    fn take_trouble(&mut self, kind: Kind, trouble: Trouble) {
        let progress = self.progress(kind);
        let since = progress.trouble.take().map_or_else(SystemTime::now, |(since, _)| since);
        (progress.connected, progress.trouble) = (false, Some((since, trouble.clone())));
        self.connected = false;
        if self.said.len() < MOST_SAID && !self.said.contains(&trouble) {
            self.said.push(trouble.clone());
            self.updates.push_back(Update::Disconnected { since, trouble });
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
