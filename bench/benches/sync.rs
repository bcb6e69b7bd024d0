//! The first sync from an API server, its memory, and what a restart without one costs:
//! `cargo bench -p penstock-bench --bench sync -- [PODS [POLICIES [NAMESPACES]]]`.
//!
//! The server is this program again, in a process of its own: it answers lists in pages and holds watches open. Its pods are as
//! large as real ones (about 6 KiB: environment, volumes, conditions, managed fields), written as they are asked for.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use control::kubernetes::{Access, Batch, Source, SourceConfig, Update};
use control::policy::cluster::ObjectName;
use control::policy::live::LiveRules;
use control::policy::resolve::OwnNode;
use dataplane::rules::WireId;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Pods of the node that the rules are for.
const LOCAL: u32 = 110;

fn main() -> Result<()> {
    let numbers: Vec<u32> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let number = |index: usize, usual| numbers.get(index).copied().unwrap_or(usual);
    let shape = Shape { pods: number(0, 100_000), policies: number(1, 10_000), namespaces: number(2, 1_000).max(1) };
    if std::env::args().any(|argument| argument == "serve") {
        return serve(shape);
    }
    let arguments = [shape.pods, shape.policies, shape.namespaces].map(|number| number.to_string());
    let mut server =
        Command::new(std::env::current_exe()?).arg("serve").args(arguments).stdout(Stdio::piped()).spawn()?;
    let mut url = String::new();
    BufReader::new(server.stdout.take().context("the server's output")?).read_line(&mut url)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(measure(shape, url.trim()));
    server.kill()?;
    server.wait()?;
    result
}

#[derive(Clone, Copy)]
struct Shape {
    pods: u32,
    policies: u32,
    namespaces: u32,
}

impl Shape {
    fn namespace(self, index: u32) -> String {
        format!("ns{}", index % self.namespaces)
    }
}

/// Resident memory in MiB: now, and at its most.
fn memory() -> Result<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a line of memory")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? >> 10)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

async fn whole(source: &mut Source) -> Batch {
    loop {
        match source.next().await {
            Update::Synced(batch) | Update::Restored(batch, _) => return batch,
            Update::Changed(_) | Update::Connected => {}
            other => eprintln!("{other:?}"),
        }
    }
}

async fn measure(shape: Shape, url: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("cluster.json.zst");
    let config = |url: &str| {
        let mut config = SourceConfig::new(Access::Url(url.to_owned()));
        config.state = Some(file.clone());
        config
    };
    let before = memory()?.0;
    let began = Instant::now();
    let mut source = Source::open(config(url)).await?;
    let batch = whole(&mut source).await;
    let synced = began.elapsed();
    let (after, most) = memory()?;
    println!("{} pods, {} policies, {} namespaces", shape.pods, shape.policies, shape.namespaces);
    println!("first sync             {synced:>10.2?}   {} changes", batch.changes);
    println!("memory before          {before:>7} MiB");
    println!("memory after           {after:>7} MiB   at the most {most} MiB");
    let cluster = source.cluster().context("a cluster")?;
    let local = (0..LOCAL.min(shape.pods))
        .map(|index| (ObjectName::new(&shape.namespace(index), &format!("pod-{index}")), WireId(index)));
    let began = Instant::now();
    let mut live = LiveRules::new(OwnNode::Allow);
    let change = live.start(cluster, local);
    println!("rules of {LOCAL} local pods {:>9.2?}   {} addresses in groups", began.elapsed(), change.members.len());
    drop(change);
    let began = Instant::now();
    if let Some(report) = source.close().await {
        println!("{report}");
    }
    let length = std::fs::metadata(&file)?.len();
    println!("writing the state      {:>10.2?}   {} KiB", began.elapsed(), length >> 10);
    let began = Instant::now();
    let mut source = Source::open(config("http://127.0.0.1:9")).await?;
    whole(&mut source).await;
    println!("start from the state   {:>10.2?}", began.elapsed());
    drop(source);
    let mut source = Source::open(config(url)).await?;
    whole(&mut source).await;
    let began = Instant::now();
    let batch = whole(&mut source).await;
    let touched = batch.touched.pods.len() + batch.touched.policies.len() + batch.touched.namespaces.len();
    println!("sync after that        {:>10.2?}   {touched} objects differ", began.elapsed());
    println!("memory at the most     {:>7} MiB", memory()?.1);
    Ok(())
}

fn serve(shape: Shape) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("http://{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || answer_all(shape, &stream));
    }
    Ok(())
}

fn answer_all(shape: Shape, stream: &TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut request = String::new();
        reader.read_line(&mut request).ok().filter(|&length| length > 0)?;
        let mut line = String::new();
        while reader.read_line(&mut line).ok()? > 2 {
            line.clear();
        }
        let target = request.split(' ').nth(1)?;
        if target.contains("watch=true") {
            writer
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
                .ok()?;
            std::thread::sleep(Duration::from_secs(3_600));
            return None;
        }
        let body = answer(shape, target);
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        writer.write_all(head.as_bytes()).ok()?;
        writer.write_all(body.as_bytes()).ok()?;
    }
}

fn answer(shape: Shape, target: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let item: fn(Shape, u32) -> String = match path {
        "/version" => {
            let fields = ["gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"];
            let fields = fields.map(|field| format!("\"{field}\":\"\"")).join(",");
            return format!("{{\"major\":\"1\",\"minor\":\"33\",{fields}}}");
        }
        "/apis/networking.k8s.io/v1" => {
            return "{\"groupVersion\":\"networking.k8s.io/v1\",\"resources\":[{\"name\":\"networkpolicies\",\
                    \"singularName\":\"\",\"namespaced\":true,\"kind\":\"NetworkPolicy\",\"verbs\":[\"list\"]}]}"
                .to_owned();
        }
        "/api/v1/pods" => pod,
        "/api/v1/namespaces" => namespace,
        "/api/v1/nodes" => node,
        _ => policy,
    };
    let count = match path {
        "/api/v1/pods" => shape.pods,
        "/api/v1/namespaces" => shape.namespaces,
        "/api/v1/nodes" => shape.pods.div_ceil(LOCAL),
        _ => shape.policies,
    };
    let first: u32 = parameter("continue").and_then(|token| token.parse().ok()).unwrap_or(0);
    let limit: u32 = parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(u32::MAX);
    let end = count.min(first.saturating_add(limit));
    let next = if end < count { format!(",\"continue\":\"{end}\"") } else { String::new() };
    let items: Vec<String> = (first..end).map(|index| item(shape, index)).collect();
    format!("{{\"metadata\":{{\"resourceVersion\":\"1000\"{next}}},\"items\":[{}]}}", items.join(","))
}

fn namespace(shape: Shape, index: u32) -> String {
    let name = shape.namespace(index);
    format!("{{\"metadata\":{{\"name\":\"{name}\",\"labels\":{{\"team\":\"t{}\"}}}}}}", index % 50)
}

fn node(_: Shape, index: u32) -> String {
    let [_, _, high, low] = index.to_be_bytes();
    format!(
        "{{\"metadata\":{{\"name\":\"node-{index}\"}},\"status\":{{\"addresses\":[{{\"type\":\"InternalIP\",\"address\":\
         \"172.16.{high}.{low}\"}}]}}}}"
    )
}

fn pod(shape: Shape, index: u32) -> String {
    // What nobody reads: environment, volumes, managed fields.
    static FILLER: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let variable = |number| format!("{{\"name\":\"VARIABLE_{number}\",\"value\":\"some value of a variable\"}}");
        (0..60).map(variable).collect::<Vec<_>>().join(",")
    });
    let (namespace, filler, node) = (shape.namespace(index), &*FILLER, index / LOCAL);
    let [_, a, b, c] = index.to_be_bytes();
    let app = index % 500;
    format!(
        "{{\"metadata\":{{\"name\":\"pod-{index}\",\"namespace\":\"{namespace}\",\"uid\":\"00000000-0000-4000-8000-{index:012}\",\
         \"creationTimestamp\":\"2026-01-02T03:04:05Z\",\"resourceVersion\":\"{index}\",\"labels\":{{\"app\":\"app{app}\",\
         \"tier\":\"tier{}\",\"pod-template-hash\":\"{app:x}\"}},\"managedFields\":[{{\"manager\":\"kubelet\",\"fieldsV1\":\
         {{\"f:env\":[{filler}]}}}}]}},\"spec\":{{\"nodeName\":\"node-{node}\",\"containers\":[{{\"name\":\"main\",\"env\":\
         [{filler}],\"ports\":[{{\"name\":\"http\",\"containerPort\":8080,\"protocol\":\"TCP\"}}]}}]}},\"status\":{{\"phase\":\
         \"Running\",\"podIP\":\"10.{a}.{b}.{c}\",\"podIPs\":[{{\"ip\":\"10.{a}.{b}.{c}\"}}]}}}}",
        index % 4
    )
}

fn policy(shape: Shape, index: u32) -> String {
    let (namespace, app, peer, team) = (shape.namespace(index), index % 500, (index * 7) % 500, index % 50);
    format!(
        "{{\"metadata\":{{\"name\":\"policy-{index}\",\"namespace\":\"{namespace}\",\"resourceVersion\":\"{index}\"}},\"spec\":\
         {{\"podSelector\":{{\"matchLabels\":{{\"app\":\"app{app}\"}}}},\"policyTypes\":[\"Ingress\"],\"ingress\":[{{\"from\":\
         [{{\"podSelector\":{{\"matchLabels\":{{\"app\":\"app{peer}\"}}}},\"namespaceSelector\":{{\"matchLabels\":{{\"team\":\
         \"t{team}\"}}}}}}],\"ports\":[{{\"protocol\":\"TCP\",\"port\":8080}}]}}]}}}}"
    )
}
