//! `eval` and `explain` about Services and the clients that they hide.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// Two backends of which policy lets the client reach one; a node; a Service of both, one of each, one of none.
const WORLD: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: client, namespace: x, labels: {role: client}}, spec: {nodeName: n1}, status: {podIPs: [{ip: 10.0.0.1}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: open, namespace: x, labels: {tier: open}}, spec: {nodeName: n1}, status: {podIPs: [{ip: 10.0.0.2}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: shut, namespace: x}, spec: {nodeName: n1}, status: {podIPs: [{ip: 10.0.0.3}]}}
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: client, namespace: x}
  spec:
    podSelector: {matchLabels: {role: client}}
    policyTypes: [Egress]
    egress: [{to: [{podSelector: {matchLabels: {tier: open}}}], ports: [{port: 8080}]}]
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: open, namespace: x}
  spec:
    podSelector: {matchLabels: {tier: open}}
    ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}, {podSelector: {}}]}]
- {apiVersion: v1, kind: Service, metadata: {name: open, namespace: x}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}}
- {apiVersion: v1, kind: Service, metadata: {name: shut, namespace: x}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: both, namespace: x}, spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: none, namespace: x}, spec: {clusterIP: 10.96.0.4, ports: [{port: 80}]}}
- {apiVersion: v1, kind: Endpoints, metadata: {name: open, namespace: x}, subsets: [{addresses: [{ip: 10.0.0.2}], ports: [{port: 8080}]}]}
- {apiVersion: v1, kind: Endpoints, metadata: {name: shut, namespace: x}, subsets: [{addresses: [{ip: 10.0.0.3}], ports: [{port: 8080}]}]}
- {apiVersion: v1, kind: Endpoints, metadata: {name: both, namespace: x}, subsets: [{addresses: [{ip: 10.0.0.2}, {ip: 10.0.0.3}], ports: [{port: 8080}]}]}
";

fn file(directory: &Path) -> String {
    let path = directory.join("world.yaml");
    std::fs::write(&path, WORLD).unwrap();
    path.to_str().unwrap().to_owned()
}

fn run(args: &[&str], input: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    let piped = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("penstock runs");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
}

/// The two ends' answers and how many frames were judged.
fn eval(file: &str, question: &Value) -> (String, String, u64) {
    let (code, answer, error) = run(&["eval", "-f", file], &question.to_string());
    assert_eq!(code, 0, "{question}: {error}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let text = |field: &str| answer[field].as_str().unwrap().to_owned();
    (text("egress"), text("ingress"), answer["frames"].as_u64().unwrap())
}

#[test]
fn a_service_is_answered_by_its_endpoints() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    for (name, address, expected) in [
        ("x/open", "10.96.0.1", ("allow", "allow", 2)),
        ("x/shut", "10.96.0.2", ("deny", "allow", 2)),
        ("x/both", "10.96.0.3", ("deny", "allow", 3)),
    ] {
        let expected = (expected.0.to_owned(), expected.1.to_owned(), expected.2);
        let by_name = json!({"from": "x/client", "to": name, "port": 80, "via": "service"});
        assert_eq!(eval(&file, &by_name), expected, "{name}");
        assert_eq!(eval(&file, &json!({"from": "x/client", "to": address, "port": 80})), expected, "{address}");
    }
    let node_port = json!({"from": "x/client", "to": "192.168.0.1", "port": 30080});
    assert_eq!(eval(&file, &node_port).0, "allow", "a node's port leads to the Service's endpoints");
    for (question, reason) in [
        (
            json!({"from": "x/client", "to": "x/none", "port": 80, "via": "service"}),
            "Service x/none has no ready endpoint for TCP/80",
        ),
        (
            json!({"from": "x/client", "to": "x/open", "port": 81, "via": "service"}),
            "there is no Service x/open with port TCP/81",
        ),
        (json!({"from": "x/client", "to": "x/open", "port": 80, "via": "proxy"}), "unknown variant `proxy`"),
    ] {
        let (code, _, error) = run(&["eval", "-f", &file], &question.to_string());
        assert_eq!(code, 2);
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_hidden_client_is_found_and_judged() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    for (from, expected) in [("203.0.113.9", "allow"), ("198.51.100.9", "deny"), ("x/client", "allow")] {
        let question = json!({"from": from, "to": "x/open", "port": 8080, "via": "nodePort"});
        assert_eq!(eval(&file, &question).1, expected, "{from}");
    }
    // The node's address itself, standing for anybody, is judged as it is.
    let question = json!({"from": "192.168.0.1", "to": "x/open", "port": 8080, "via": "nodePort"});
    assert_eq!(eval(&file, &question).1, "deny");
    assert_eq!(eval(&file, &json!({"from": "192.168.0.1", "to": "x/open", "port": 8080})).1, "allow", "its own node");
}

/// A block with holes, and another node whose address is in the block: through it comes whoever wants to.
#[test]
fn a_block_that_holds_another_node_is_no_wall() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("world.yaml");
    let other = "- {apiVersion: v1, kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}}\n";
    let world = WORLD.replace("cidr: 203.0.113.0/24", "cidr: 0.0.0.0/0, except: [203.0.113.0/24]") + other;
    std::fs::write(&file, world).unwrap();
    let (_, answer, _) = run(&["explain", "-f", file.to_str().unwrap(), "203.0.113.9", "10.96.0.3", "80"], "");
    assert!(answer.contains("which a block holds: whoever comes so passes, also who is in its `except`"), "{answer}");
    let (_, far, _) = run(&["explain", "-f", file.to_str().unwrap(), "203.0.113.9", "192.168.0.2", "30080"], "");
    assert!(far.contains("what comes by n2 reaches 10.0.0.2, on other nodes, with the address of n2"), "{far}");
    let local = std::fs::read_to_string(&file)
        .unwrap()
        .replace("{clusterIP: 10.96.0.1,", "{type: NodePort, externalTrafficPolicy: Local, clusterIP: 10.96.0.1,");
    std::fs::write(&file, local).unwrap();
    let (_, none, _) = run(&["explain", "-f", file.to_str().unwrap(), "203.0.113.9", "192.168.0.2", "30080"], "");
    assert!(none.contains("n2 has no endpoint: kube-proxy drops"), "{none}");
    // Nobody judges the sender's side: kube-proxy chooses among the endpoints.
    let allowed =
        answer.contains("when kube-proxy chooses one of the former") || answer.contains("none of its endpoints");
    assert!(allowed && !answer.contains("serviceMixed"), "{answer}");
}

#[test]
fn explain_names_the_endpoints_and_warns_of_hidden_clients() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    let explain = |rest: &[&str]| run(&[&["explain", "-f", &file], rest].concat(), "");
    let (code, answer, _) = explain(&["x/client", "x/both", "80", "--via", "service", "--expect", "deny"]);
    assert_eq!(code, 0, "{answer}");
    assert!(
        answer.contains(
            "10.96.0.3 is Service x/both; of its endpoints x/open TCP/8080 are allowed and x/shut TCP/8080 are not"
        ),
        "{answer}"
    );
    let (_, answer, _) = explain(&["203.0.113.9", "x/open", "8080"]);
    assert!(
        answer.contains("x/open has ipBlocks, and clients from outside reach x/open by Service x/open"),
        "{answer}"
    );
    assert!(answer.contains("are dropped (other_node), unless a block holds that address"), "{answer}");
    let (_, answer, _) = explain(&["203.0.113.9", "x/open", "8080", "--via", "nodePort"]);
    assert!(answer.contains("192.168.0.1 (its node, rewritten by kube-proxy from 203.0.113.9)"), "{answer}");
}
