//! The examples and the recipes over real traffic, through wires of each kind of port. Needs root.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use control::lab::demo::Example;
use control::lab::{Family, Lab, LabOptions, Look, Question, Service};
use control::policy::manifest;
use dataplane::port::PortKind;
use serde_json::{Value, json};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples")
}

/// Plays all examples one after the other on one lab, as edits to a running one.
async fn play_examples(port: PortKind) {
    let examples = Example::all(&examples()).unwrap();
    assert_eq!(examples.len(), 10);
    let external: BTreeSet<IpAddr> =
        examples.iter().flat_map(|example| &example.expectation.external).copied().collect();
    let options = LabOptions { port: Some(port), external: external.into_iter().collect(), ..LabOptions::default() };
    let mut lab = Lab::start(&examples[0].load().unwrap(), options).unwrap();
    for example in &examples {
        lab.apply(&example.load().unwrap()).unwrap();
        let matrix = lab.matrix().await.unwrap();
        assert!(matrix.results.len() > 300, "{} probes", matrix.results.len());
        let differences = example.expectation.differences(&matrix);
        let table = matrix.to_table(None, Look::default());
        let texts: Vec<_> = differences.iter().map(ToString::to_string).collect();
        assert!(texts.is_empty(), "{} over {}: {texts:#?}\n{table}", example.name, port.name());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn examples_over_af_packet() {
    play_examples(PortKind::AfPacket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn examples_over_af_xdp() {
    play_examples(PortKind::AfXdp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn examples_over_tap() {
    play_examples(PortKind::Tap).await;
}

#[test]
fn refused_examples_are_refused_with_a_hint() {
    let mut files: Vec<_> =
        std::fs::read_dir(examples().join("refused")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 2);
    for file in files {
        let errors = manifest::load(std::slice::from_ref(&file)).unwrap_err().to_string();
        assert!(errors.contains("spec.policyTypes[1]: Unsupported value: \"egress\""), "{errors}");
        assert!(errors.contains("did you mean \"Egress\"?"), "{errors}");
        // But for that letter it is the example.
        let text = std::fs::read_to_string(&file).unwrap().replace("- egress", "- Egress");
        assert!(manifest::load_text("corrected", &text).is_ok());
    }
}

/// A recipe's question, in protocol and family of choice.
struct Probe {
    from: String,
    to: String,
    service: Service,
    passes: bool,
}

impl Probe {
    fn question(&self, family: Family) -> Question {
        let (from, to) = (endpoint(&self.from, family), endpoint(&self.to, family));
        Question { from, to, service: self.service, family }
    }
}

/// A recipe with every pod in both families. `mirrored` has TCP and UDP change places, in ports, policies and probes.
struct Recipe {
    id: String,
    manifest: String,
    probes: Vec<Probe>,
}

/// The recipes; `None` if the conformance corpus is not there, which only a developer's machine may say.
fn corpus() -> Option<Value> {
    let directory = std::env::var_os("PENSTOCK_CONFORMANCE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance"), PathBuf::from);
    let file = directory.join("np-recipes.json");
    match std::fs::read_to_string(&file) {
        Ok(text) => Some(serde_json::from_str(&text).unwrap()),
        Err(error) if std::env::var_os("CI").is_some() => panic!("{}: {error}", file.display()),
        Err(error) => {
            eprintln!("SKIPPED, no conformance corpus: {}: {error}; set PENSTOCK_CONFORMANCE", file.display());
            None
        }
    }
}

fn protocol(value: &Value, mirrored: bool) -> &'static str {
    match (value.as_str().unwrap_or("TCP"), mirrored) {
        ("TCP", false) | ("UDP", true) => "TCP",
        ("UDP", false) | ("TCP", true) => "UDP",
        (other, _) => panic!("unexpected protocol {other}"),
    }
}

/// The IPv6 address that stands for an IPv4 one.
fn sixth(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits((0x2001_0db8_0064 << 80) | u128::from(address.to_bits()))
}

fn recipes(corpus: &Value, mirrored: bool) -> Vec<Recipe> {
    let cases = corpus["cases"].as_array().unwrap();
    cases
        .iter()
        .flat_map(|case| case["steps"].as_array().unwrap().iter().map(move |step| (case, step)))
        .map(|(case, step)| Recipe {
            id: case["id"].as_str().unwrap().to_owned(),
            manifest: manifest_of(step, mirrored),
            probes: step["probes"].as_array().unwrap().iter().map(|probe| probe_of(probe, mirrored)).collect(),
        })
        .collect()
}

fn probe_of(probe: &Value, mirrored: bool) -> Probe {
    let text = |field: &str| probe[field].as_str().unwrap().to_owned();
    let service = format!("{}/{}", protocol(&probe["protocol"], mirrored), probe["port"]);
    Probe {
        from: text("from"),
        to: text("to"),
        service: service.parse().unwrap(),
        passes: probe["expect"].as_bool().unwrap(),
    }
}

fn manifest_of(step: &Value, mirrored: bool) -> String {
    let mut items = Vec::new();
    for namespace in step["world"]["namespaces"].as_array().unwrap() {
        let metadata = json!({"name": namespace["name"], "labels": namespace["labels"]});
        items.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
    }
    for pod in step["world"]["pods"].as_array().unwrap() {
        let mut ports = pod["ports"].clone();
        for port in ports.as_array_mut().unwrap() {
            *port = json!({"containerPort": port["port"], "name": port["name"],
                "protocol": protocol(&port["protocol"], mirrored)});
        }
        let fourth: Ipv4Addr = pod["ips"][0].as_str().unwrap().parse().unwrap();
        items.push(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": pod["namespace"], "name": pod["name"], "labels": pod["labels"]},
            "spec": {"containers": [{"name": "main", "ports": ports}]},
            "status": {"podIPs": [{"ip": fourth}, {"ip": sixth(fourth)}]}}));
    }
    for policy in step["policies"].as_array().unwrap() {
        let mut policy = policy.clone();
        for direction in ["ingress", "egress"] {
            let rules = policy["spec"].get_mut(direction).and_then(Value::as_array_mut).into_iter().flatten();
            for port in rules.filter_map(|rule| rule.get_mut("ports")?.as_array_mut()).flatten() {
                port["protocol"] = protocol(&port["protocol"], mirrored).into();
            }
        }
        items.push(policy);
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// An endpoint by the name that the lab gives it: external hosts have one for each family.
fn endpoint(name: &str, family: Family) -> String {
    match (name.parse::<Ipv4Addr>(), family) {
        (Ok(address), Family::V6) => sixth(address).to_string(),
        _ => name.to_owned(),
    }
}

async fn play_recipes(port: PortKind) {
    let Some(corpus) = corpus() else { return };
    let external: Ipv4Addr = "93.184.216.34".parse().unwrap();
    let external = vec![IpAddr::V4(external), IpAddr::V6(sixth(external))];
    let options = LabOptions { port: Some(port), external, ..LabOptions::default() };
    let nothing = manifest::load_text("nothing", "{apiVersion: v1, kind: Namespace, metadata: {name: x}}").unwrap();
    let mut lab = Lab::start(&nothing.cluster, options).unwrap();
    let mut checks = 0;
    for recipe in recipes(&corpus, false).into_iter().chain(recipes(&corpus, true)) {
        let loaded = manifest::load_text(&recipe.id, &recipe.manifest).unwrap();
        lab.apply(&loaded.cluster).unwrap();
        let both = |probe: &Probe| Family::ALL.map(|family| (probe.question(family), probe.passes));
        let (questions, expected): (Vec<_>, Vec<_>) = recipe.probes.iter().flat_map(both).unzip();
        let outcomes = lab.ask(&questions).await.unwrap();
        for ((question, outcome), passes) in questions.iter().zip(outcomes).zip(expected) {
            let what = format!("{} over {}: {question:?}: {outcome:?}", recipe.id, port.name());
            assert_eq!(outcome.passes(), Some(passes), "{what}");
            checks += 1;
        }
    }
    assert_eq!(checks, 40 * 2 * 2, "every check of the corpus, with TCP and UDP, IPv4 and IPv6");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recipes_over_af_packet() {
    play_recipes(PortKind::AfPacket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recipes_over_af_xdp() {
    play_recipes(PortKind::AfXdp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recipes_over_tap() {
    play_recipes(PortKind::Tap).await;
}
