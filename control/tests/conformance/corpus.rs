//! The corpus's files: where they are, and their worlds as manifests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde_json::{Value, json};

/// Reads a file of the corpus. `None` if the corpus is not there, which only a developer's machine may say.
pub(crate) fn read(file: &str) -> Option<Value> {
    let directory = std::env::var_os("PENSTOCK_CONFORMANCE")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/conformance")), PathBuf::from);
    let path = directory.join(file);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(serde_json::from_str(&text).expect("the corpus is JSON")),
        Err(error) if std::env::var_os("CI").is_some() => panic!("{}: {error}", path.display()),
        Err(error) => {
            eprintln!("SKIPPED, no conformance corpus: {}: {error}; set PENSTOCK_CONFORMANCE", path.display());
            None
        }
    }
}

/// The elements of a list; an absent list has none.
pub(crate) fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

/// A field that is text.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} in {value}"))
}

/// A world and its policies as one manifest.
pub(crate) fn manifest(world: &Value, policies: &[Value]) -> String {
    let namespaces = list(world, "namespaces").iter().map(|namespace| {
        json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace["name"], "labels": namespace["labels"]}})
    });
    let nodes = list(world, "nodes").iter().map(|node| {
        let addresses = list(node, "ips").iter().map(|ip| json!({"type": "InternalIP", "address": ip}));
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node["name"], "labels": node["labels"]},
            "status": {"addresses": addresses.collect::<Vec<_>>()}})
    });
    let pods = list(world, "pods").iter().map(|pod| {
        let ports = list(pod, "ports")
            .iter()
            .map(|port| json!({"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]}));
        let ips = list(pod, "ips").iter().map(|ip| json!({"ip": ip}));
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod["name"], "namespace": pod["namespace"], "labels": pod["labels"]},
            "spec": {"nodeName": pod["node"], "hostNetwork": pod["hostNetwork"],
                "containers": [{"name": "c", "ports": ports.collect::<Vec<_>>()}]},
            "status": {"phase": "Running", "podIPs": ips.collect::<Vec<_>>()}})
    });
    let items: Vec<_> = namespaces.chain(nodes).chain(pods).chain(policies.iter().cloned()).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// The same with every IPv4 address moved into an IPv6 prefix of 96 bits, a CIDR's length with it.
pub(crate) fn readdress(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(readdress_text(text)),
        Value::Array(elements) => elements.iter().map(readdress).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(key, value)| (readdress_text(key), readdress(value))).collect())
        }
        other => other.clone(),
    }
}

fn readdress_text(text: &str) -> String {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    match (address.parse::<IpAddr>(), length.map(str::parse::<u8>)) {
        (Ok(IpAddr::V4(address)), None) => move_address(address).to_string(),
        (Ok(IpAddr::V4(address)), Some(Ok(length))) => format!("{}/{}", move_address(address), 96 + length),
        _ => text.to_owned(),
    }
}

fn move_address(address: Ipv4Addr) -> Ipv6Addr {
    let prefix: Ipv6Addr = "fd00:10:244::".parse().unwrap();
    Ipv6Addr::from_bits(prefix.to_bits() | u128::from(address.to_bits()))
}
