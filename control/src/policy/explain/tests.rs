//! What people read; that it is true for every pair is checked in `tests/policy_explain.rs`.

use super::*;
use crate::policy::manifest::load_text;

const WORLD: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: n}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}}
- {apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {team: a}}}
- apiVersion: v1
  kind: Pod
  metadata: {name: web, namespace: x, labels: {app: web, pod-template-hash: abc}}
  spec: {nodeName: n, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
  status: {podIPs: [{ip: 10.0.0.1}]}
- {apiVersion: v1, kind: Pod, metadata: {name: db, namespace: x, labels: {app: db}}, status: {podIPs: [{ip: 10.0.0.2}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: bare, namespace: y}, status: {podIPs: [{ip: 10.0.0.3}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: to-web, namespace: x}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: db}}
    - ipBlock: {cidr: 10.0.0.0/24, except: [10.0.0.3/32]}
    ports: [{port: http}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: from-web, namespace: x}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress:
  - ports: [{port: 80}, {port: 443}]
";

fn text(from: &str, to: &str, service: &str) -> String {
    let cluster = load_text("w", WORLD).unwrap().cluster;
    let probe =
        Probe { from: from.parse().unwrap(), to: to.parse().unwrap(), service: service.parse().unwrap(), via: None };
    explain(&cluster, &probe).unwrap().to_string()
}

#[test]
fn a_rule_that_allows_is_named_with_its_selectors() {
    assert_eq!(
        text("x/db", "x/web", "80"),
        "\
x/db (10.0.0.2) → x/web (10.0.0.1) TCP/80: allowed

egress of x/db: allowed, no policy selects the pod for egress.

ingress of x/web: allowed by
  x/to-web ingress[0]
    podSelector app=web
    from[0]: pods app=db in the policy's namespace
    ports[0]: the TCP port named \"http\"
"
    );
}

#[test]
fn a_denial_says_what_did_not_match_and_what_would_allow_it() {
    assert_eq!(
        text("y/bare", "x/web", "TCP/81"),
        "\
y/bare (10.0.0.3) → x/web (10.0.0.1) TCP/81: denied

egress of y/bare: allowed, no policy selects the pod for egress.

ingress of x/web: denied, 1 policy isolates the pod and no rule allows it
  x/to-web, podSelector app=web
    ingress[0] does not match
      from[0] (pods app=db in the policy's namespace): y/bare is in namespace y; without a namespaceSelector only pods of x match
      from[1] (ipBlock 10.0.0.0/24 except 10.0.0.3/32): 10.0.0.3 is in the exception 10.0.0.3/32
      ports[0] is the TCP port named \"http\"; on x/web it is 80
  To allow it, add to spec.ingress of NetworkPolicy x/to-web:
    - from:
      - namespaceSelector:
          matchLabels:
            kubernetes.io/metadata.name: \"y\"
        podSelector: {}
      ports:
      - protocol: TCP
        port: 81
  Mind: y/bare has no lasting label, so this allows its whole namespace; label it to be exact.
"
    );
}

#[test]
fn a_denied_dns_is_pointed_out() {
    let text = text("x/web", "1.2.3.4", "TCP/443");
    assert!(text.starts_with("x/web (10.0.0.1) → 1.2.3.4 TCP/443: allowed\n"), "{text}");
    let note = "\
Note: x/web may not ask DNS (UDP and TCP port 53), so names do not resolve: no egress rule of x/from-web allows it.
  To allow it, add to spec.egress of NetworkPolicy x/from-web:
    - to:
      - namespaceSelector:
          matchLabels:
            kubernetes.io/metadata.name: kube-system
        podSelector:
          matchLabels:
            k8s-app: kube-dns
      ports:
      - protocol: UDP
        port: 53
      - protocol: TCP
        port: 53
";
    assert!(text.ends_with(note), "{text}");
}

#[test]
fn the_own_node_and_what_hides_behind_it() {
    let text = text("192.168.0.1", "x/web", "9999");
    assert!(text.contains("ingress of x/web: allowed (own-node)"), "{text}");
    assert!(text.contains("externalTrafficPolicy: Local"), "{text}");
    let cluster = load_text("w", WORLD).unwrap().cluster;
    let probe = serde_json::json!({"from": "192.168.0.1", "to": "x/web", "port": 9999, "via": "nodePort"});
    let explanation = explain(&cluster, &serde_json::from_value(probe).unwrap()).unwrap();
    assert_eq!(explanation.verdict, EndVerdict::Deny);
    let EndReason::Denied { suggestion, .. } = &explanation.ingress.reason else { panic!() };
    assert_eq!(suggestion.rule["from"][0]["ipBlock"]["cidr"], "192.168.0.1/32");
}

#[test]
fn a_nodeport_client_is_judged_as_itself() {
    let cluster = load_text("w", WORLD).unwrap().cluster;
    let ask = |to: &str| {
        let probe = serde_json::json!({"from": "203.0.113.5", "to": to, "port": 9999, "via": "nodePort"});
        explain(&cluster, &serde_json::from_value(probe).unwrap())
    };
    let text = ask("x/web").unwrap().to_string();
    assert!(text.contains("192.168.0.1 (its node, rewritten by kube-proxy from 203.0.113.5)"), "{text}");
    let probe = serde_json::json!({"from": "203.0.113.5", "to": "203.0.113.9", "port": 9999, "via": "nodePort"});
    let probe: Probe = serde_json::from_value(probe).unwrap();
    let error = probe.locate(&cluster).unwrap().check_via(&cluster).unwrap_err().to_string();
    assert!(error.starts_with("via nodePort: 203.0.113.9 is no pod of a node"), "{error}");
}

#[test]
fn volatile_labels_are_never_suggested() {
    let world = WORLD.replace("{matchLabels: {app: web}}\n  ingress", "{}\n  ingress");
    let cluster = load_text("w", &world).unwrap().cluster;
    let probe = serde_json::json!({"from": "x/web", "to": "x/db", "port": 81});
    let explanation = explain(&cluster, &serde_json::from_value(probe).unwrap()).unwrap();
    let text = serde_json::to_value(explanation).unwrap();
    let rule = &text["ingress"]["reason"]["suggestion"]["rule"];
    assert_eq!(rule["from"], serde_json::json!([{"podSelector": {"matchLabels": {"app": "web"}}}]));
}
