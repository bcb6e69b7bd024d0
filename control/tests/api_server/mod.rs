//! An API server that does what a test tells it: lists in pages, watches with history, bookmarks, and every way to fail.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::watch;

/// Something that goes wrong with the next request of its sort.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// An answer with this status.
    Status(u16),
    /// The connection ends in the middle of the answer.
    Cut,
    /// The answer takes its time.
    Slow(Duration),
    /// A watch is accepted and ends at once.
    EndAtOnce,
    /// A watch's first line is an error with this code.
    ErrorEvent(u16),
    /// A watch tells the last events before its version once more.
    Repeat(usize),
    /// There is no answer until the server is told to go on.
    Hang,
}

/// An event of the history.
#[derive(Clone, Debug)]
struct Logged {
    /// Its number in the history.
    number: u64,
    version: u64,
    line: String,
}

#[derive(Default)]
struct Collection {
    objects: BTreeMap<String, Value>,
    log: Vec<Logged>,
    /// The number of the next event.
    next: u64,
    /// The number before which the history is forgotten.
    forgotten: u64,
    /// Watches from before this version are told 410.
    compacted: u64,
    list_faults: VecDeque<Fault>,
    watch_faults: VecDeque<Fault>,
    /// Lists that are being read in pages, by their token.
    snapshots: HashMap<String, (u64, Vec<Value>)>,
}

struct World {
    version: u64,
    collections: BTreeMap<&'static str, Collection>,
    /// Every request, with its query.
    requests: Vec<String>,
    /// Events that were made.
    events: Vec<Value>,
    /// Answers nothing at all.
    down: bool,
    minor: &'static str,
    policies_at: &'static str,
}

struct Shared {
    world: Mutex<World>,
    /// Rings when something happened; the number counts cuts of all watches.
    bell: watch::Sender<u64>,
    hanging: watch::Sender<u64>,
}

/// A running server.
#[derive(Clone)]
pub(crate) struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
}

pub(crate) const KINDS: [&str; 7] =
    ["namespaces", "nodes", "networkpolicies", "pods", "services", "endpointslices", "endpoints"];

/// Where slices are served, if the server has them.
const SLICES: &str = "discovery.k8s.io/v1";

fn kind_of(resource: &str) -> (&'static str, &'static str) {
    match resource {
        "namespaces" => ("Namespace", "v1"),
        "nodes" => ("Node", "v1"),
        "pods" => ("Pod", "v1"),
        "services" => ("Service", "v1"),
        "endpoints" => ("Endpoints", "v1"),
        "endpointslices" => ("EndpointSlice", SLICES),
        _ => ("NetworkPolicy", "networking.k8s.io/v1"),
    }
}

fn key(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

impl Collection {
    fn log(&mut self, version: u64, line: &Value) {
        self.log.push(Logged { number: self.next, version, line: line.to_string() });
        self.next += 1;
    }
}

impl Server {
    pub(crate) async fn start() -> Server {
        let world = World {
            version: 100,
            collections: KINDS.into_iter().map(|kind| (kind, Collection::default())).collect(),
            requests: Vec::new(),
            events: Vec::new(),
            down: false,
            minor: "33",
            policies_at: "networking.k8s.io/v1",
        };
        let shared =
            Arc::new(Shared { world: Mutex::new(world), bell: watch::Sender::new(0), hanging: watch::Sender::new(0) });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Server { shared, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().unwrap()
    }

    fn ring(&self) {
        self.shared.bell.send_modify(|_| ());
    }

    /// Makes or changes an object.
    pub(crate) fn apply(&self, resource: &str, mut object: Value) {
        let mut world = self.world();
        world.version += 1;
        let version = world.version;
        let (kind, api) = kind_of(resource);
        object["kind"] = kind.into();
        object["apiVersion"] = api.into();
        object["metadata"]["resourceVersion"] = version.to_string().into();
        object["metadata"]["managedFields"] = json!([{"manager": "test", "fieldsV1": {"f:spec": {"f:x": {}}}}]);
        let collection = world.collections.get_mut(resource).unwrap();
        let before = collection.objects.insert(key(&object), object.clone());
        let what = if before.is_some() { "MODIFIED" } else { "ADDED" };
        collection.log(version, &json!({"type": what, "object": object}));
        drop(world);
        self.ring();
    }

    /// Removes an object; answers whether it was there.
    pub(crate) fn remove(&self, resource: &str, name: &str) -> bool {
        let mut world = self.world();
        world.version += 1;
        let version = world.version;
        let collection = world.collections.get_mut(resource).unwrap();
        let Some(mut object) = collection.objects.remove(name) else { return false };
        object["metadata"]["resourceVersion"] = version.to_string().into();
        collection.log(version, &json!({"type": "DELETED", "object": object}));
        drop(world);
        self.ring();
        true
    }

    /// All objects of a kind.
    pub(crate) fn objects(&self, resource: &str) -> Vec<Value> {
        self.world().collections[resource].objects.values().cloned().collect()
    }

    /// Tells watches of a kind how far the server is.
    pub(crate) fn bookmark(&self, resource: &str) {
        let version = self.world().version;
        self.bookmark_at(resource, version);
    }

    pub(crate) fn bookmark_at(&self, resource: &str, at: u64) {
        let mut world = self.world();
        let version = world.version;
        let (kind, api) = kind_of(resource);
        let line = json!({"type": "BOOKMARK", "object": {"kind": kind, "apiVersion": api,
            "metadata": {"resourceVersion": at.to_string()}}});
        let collection = world.collections.get_mut(resource).unwrap();
        collection.log(version, &line);
        drop(world);
        self.ring();
    }

    pub(crate) fn version(&self) -> u64 {
        self.world().version
    }

    /// Forgets a kind's history and its unfinished lists: who wants to go on from before is told 410.
    pub(crate) fn compact(&self, resource: &str) {
        let mut world = self.world();
        let version = world.version;
        let collection = world.collections.get_mut(resource).unwrap();
        collection.compacted = version;
        collection.forgotten = collection.next;
        collection.log.clear();
        collection.snapshots.clear();
    }

    pub(crate) fn fail_list(&self, resource: &str, fault: Fault) {
        self.world().collections.get_mut(resource).unwrap().list_faults.push_back(fault);
    }

    pub(crate) fn fail_watch(&self, resource: &str, fault: Fault) {
        self.world().collections.get_mut(resource).unwrap().watch_faults.push_back(fault);
    }

    /// Forgets the faults that have not happened yet.
    pub(crate) fn heal(&self) {
        for collection in self.world().collections.values_mut() {
            collection.list_faults.clear();
            collection.watch_faults.clear();
        }
    }

    /// Breaks all watches.
    pub(crate) fn cut(&self) {
        self.shared.bell.send_modify(|cuts| *cuts += 1);
    }

    /// Breaks everything, and answers nothing until it is up again.
    pub(crate) fn set_down(&self, down: bool) {
        self.world().down = down;
        if down {
            self.cut();
        }
    }

    /// Lets hanging requests go on.
    pub(crate) fn go_on(&self) {
        self.shared.hanging.send_modify(|times| *times += 1);
    }

    /// Which Kubernetes it says it is.
    pub(crate) fn set_minor(&self, minor: &'static str) {
        self.world().minor = minor;
    }

    /// Under which group and version network policies are served.
    pub(crate) fn set_policies_at(&self, version: &'static str) {
        self.world().policies_at = version;
    }

    /// The requests for a kind so far, `list …` or `watch …`, each with the query's interesting parts.
    pub(crate) fn requests(&self, resource: &str) -> Vec<String> {
        let marker = format!("/{resource}?");
        let world = self.world();
        world.requests.iter().filter(|request| request.contains(&marker)).cloned().collect()
    }

    /// The Events that were made.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.world().events.clone()
    }

    /// Puts the server's data to an earlier time, as a restored backup does.
    pub(crate) fn go_back_to(&self, version: u64) {
        self.world().version = version;
    }
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn status(code: u16, message: &str) -> Response {
    let reason = match code {
        410 => "Expired",
        403 => "Forbidden",
        401 => "Unauthorized",
        404 => "NotFound",
        _ => "InternalError",
    };
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": message, "metadata": {}});
    respond(code, Body::from(body.to_string()))
}

fn respond(code: u16, body: Body) -> Response {
    Response::builder()
        .status(StatusCode::from_u16(code).unwrap())
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

/// A body that begins and then breaks.
fn broken(begin: String) -> Response {
    let pieces = [Ok(begin), Err(std::io::Error::other("cut"))];
    respond(200, Body::from_stream(futures::stream::iter(pieces)))
}

async fn answer(State(shared): State<Arc<Shared>>, method: Method, uri: Uri, body: Bytes) -> Response {
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    let (down, minor, policies_at) = {
        let mut world = shared.world.lock().unwrap();
        world.requests.push(format!("{path}?{query}"));
        (world.down, world.minor, world.policies_at)
    };
    if down {
        return broken(String::new());
    }
    match path {
        "/version" => {
            let text = "";
            let info = json!({"major": "1", "minor": minor, "gitVersion": text, "gitCommit": text, "gitTreeState": text,
                "buildDate": text, "goVersion": text, "compiler": text, "platform": text});
            return respond(200, Body::from(info.to_string()));
        }
        path if path.strip_prefix("/apis/") == Some(SLICES) && minor >= "21" => {
            let list = json!({"kind": "APIResourceList", "groupVersion": SLICES, "resources": [
                {"name": "endpointslices", "singularName": "", "namespaced": true, "kind": "EndpointSlice", "verbs": ["list"]}]});
            return respond(200, Body::from(list.to_string()));
        }
        path if path.strip_prefix("/apis/").is_some_and(|version| version == policies_at) => {
            let list = json!({"kind": "APIResourceList", "groupVersion": policies_at, "resources": [
                {"name": "networkpolicies", "singularName": "", "namespaced": true, "kind": "NetworkPolicy", "verbs": ["list"]}]});
            return respond(200, Body::from(list.to_string()));
        }
        _ => {}
    }
    let expected = |kind: &&&'static str| match **kind {
        "networkpolicies" => path == format!("/apis/{policies_at}/networkpolicies"),
        "endpointslices" => path == format!("/apis/{SLICES}/endpointslices"),
        kind => path == format!("/api/v1/{kind}"),
    };
    if method != Method::GET || path.starts_with("/api/v1/nodes/") {
        let body = serde_json::from_slice(&body).unwrap_or_default();
        return write_answer(Server { shared: Arc::clone(&shared), address: ([127, 0, 0, 1], 0).into() }, path, body);
    }
    if let Some(name) = path.strip_prefix("/api/v1/namespaces/").and_then(|rest| rest.split_once("/pods/")) {
        let pod =
            shared.world.lock().unwrap().collections["pods"].objects.get(&format!("{}/{}", name.0, name.1)).cloned();
        return match pod {
            Some(pod) => respond(200, Body::from(pod.to_string())),
            None => status(404, "pods not found"),
        };
    }
    match KINDS.iter().find(expected) {
        None => status(404, "the server could not find the requested resource"),
        Some(kind) if parameter(query, "watch") == Some("true") => watch_answer(shared, kind, query).await,
        Some(kind) => list_answer(shared, kind, query).await,
    }
}

/// One node, read or merged with what is sent; an Event, kept.
fn write_answer(server: Server, path: &str, body: Value) -> Response {
    if path.ends_with("/events") {
        server.world().events.push(body.clone());
        return respond(201, Body::from(body.to_string()));
    }
    let Some(name) = path.strip_prefix("/api/v1/nodes/") else { return status(404, "not found") };
    let found = server.world().collections["nodes"].objects.get(&format!("/{name}")).cloned();
    let Some(mut node) = found else { return status(404, "not found") };
    if !body.is_null() {
        if body["metadata"]["resourceVersion"] != node["metadata"]["resourceVersion"] {
            return status(409, "the object has been modified");
        }
        node["spec"]["taints"] = body["spec"]["taints"].clone();
        server.apply("nodes", node.clone());
    }
    respond(200, Body::from(node.to_string()))
}

async fn hang(shared: &Shared) {
    let _closed = shared.hanging.subscribe().changed().await;
}

fn refusal(code: u16, verb: &str, resource: &str) -> Response {
    let message = match code {
        403 => format!(
            "{resource} is forbidden: User \"system:serviceaccount:penstock:node\" cannot {verb} resource \"{resource}\""
        ),
        410 => "The provided continue parameter is too old".to_owned(),
        _ => "as the test says".to_owned(),
    };
    status(code, &message)
}

async fn list_answer(shared: Arc<Shared>, resource: &'static str, query: &str) -> Response {
    let fault = shared.world.lock().unwrap().collections.get_mut(resource).unwrap().list_faults.pop_front();
    match &fault {
        Some(Fault::Status(code)) => return refusal(*code, "list", resource),
        Some(Fault::Slow(time)) => tokio::time::sleep(*time).await,
        Some(Fault::Hang) => hang(&shared).await,
        _ => {}
    }
    let mut world = shared.world.lock().unwrap();
    let version = world.version;
    let (kind, api) = kind_of(resource);
    let collection = world.collections.get_mut(resource).unwrap();
    let limit = parameter(query, "limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let (version, mut rest) = match parameter(query, "continue") {
        None => (version, collection.objects.values().cloned().collect::<Vec<_>>()),
        Some(token) => match collection.snapshots.remove(token) {
            Some(snapshot) => snapshot,
            None => return refusal(410, "list", resource),
        },
    };
    let later = if rest.len() > limit { rest.split_off(limit) } else { Vec::new() };
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if !later.is_empty() {
        let token = format!("t{}-{}", version, later.len());
        metadata["continue"] = token.as_str().into();
        collection.snapshots.insert(token, (version, later));
    }
    for object in &mut rest {
        // As items of a list come.
        object.as_object_mut().unwrap().retain(|field, _| field != "kind" && field != "apiVersion");
    }
    let list =
        json!({"kind": format!("{kind}List"), "apiVersion": api, "metadata": metadata, "items": rest}).to_string();
    match fault {
        Some(Fault::Cut) => broken(list[..list.len() / 2].to_owned()),
        _ => respond(200, Body::from(list)),
    }
}

async fn watch_answer(shared: Arc<Shared>, resource: &'static str, query: &str) -> Response {
    let fault = shared.world.lock().unwrap().collections.get_mut(resource).unwrap().watch_faults.pop_front();
    let gone = |code: u16| {
        let status =
            json!({"kind": "Status", "status": "Failure", "code": code, "reason": "Expired", "message": "too old"});
        format!("{}\n", json!({"type": "ERROR", "object": status}))
    };
    let mut back = 0;
    match fault {
        Some(Fault::Status(code)) => return refusal(code, "watch", resource),
        Some(Fault::Cut) => return broken("{\"type\":\"ADD".to_owned()),
        Some(Fault::EndAtOnce) => return respond(200, Body::empty()),
        Some(Fault::ErrorEvent(code)) => return respond(200, Body::from(gone(code))),
        Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
        Some(Fault::Hang) => hang(&shared).await,
        Some(Fault::Repeat(times)) => back = times,
        None => {}
    }
    let from: u64 = parameter(query, "resourceVersion").unwrap().parse().unwrap();
    let mut place = {
        let world = shared.world.lock().unwrap();
        let collection = &world.collections[resource];
        if from < collection.compacted {
            return respond(200, Body::from(gone(410)));
        }
        let later = collection.log.iter().find(|event| event.version > from);
        let place = later.map_or(collection.next, |event| event.number);
        place.saturating_sub(back as u64).max(collection.forgotten)
    };
    let mut bell = shared.bell.subscribe();
    let cuts = *bell.borrow_and_update();
    let events = async_lines(
        move || {
            let world = shared.world.lock().unwrap();
            let collection = &world.collections[resource];
            if place < collection.forgotten {
                // It was too slow: what it has not been told is forgotten.
                place = collection.next;
                return gone(410);
            }
            let news = collection.log.iter().filter(|event| event.number >= place);
            let lines: String = news.map(|event| format!("{}\n", event.line)).collect();
            place = collection.next;
            lines
        },
        bell,
        cuts,
    );
    respond(200, Body::from_stream(events))
}

/// Lines as they come, until the server cuts its watches.
fn async_lines(
    take: impl FnMut() -> String + Send + 'static,
    bell: watch::Receiver<u64>,
    cuts: u64,
) -> impl futures::Stream<Item = Result<String, std::io::Error>> + Send {
    futures::stream::unfold(Some((take, bell)), move |state| async move {
        let (mut take, mut bell) = state?;
        loop {
            if *bell.borrow_and_update() != cuts {
                return Some((Err(std::io::Error::other("cut")), None));
            }
            let lines = take();
            if !lines.is_empty() {
                return Some((Ok(lines), Some((take, bell))));
            }
            if bell.changed().await.is_err() {
                return None;
            }
        }
    })
}
