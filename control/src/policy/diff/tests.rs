//! What changes, and that nothing else is said to change.

use super::*;
use crate::policy::manifest::load_text;

const WORLD: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}, status: {podIPs: [{ip: 10.0.0.1}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: b, namespace: x}, status: {podIPs: [{ip: 10.0.0.2}]}}
";

fn world(specs: &[&str]) -> Cluster {
    let mut text = WORLD.to_owned();
    for (index, spec) in specs.iter().enumerate() {
        text += &format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{index}, namespace: x}}\n\
             spec: {spec}\n"
        );
    }
    load_text("world", &text).unwrap().cluster
}

fn changes(old: &[&str], new: &[&str]) -> String {
    diff(&world(old), &world(new), &[]).to_string()
}

#[test]
fn the_same_is_no_change() {
    assert_eq!(changes(&["{podSelector: {}}"], &["{podSelector: {}, ingress: []}"]), "no answer changes\n");
    let written_otherwise = ["{podSelector: {}, ingress: [{ports: [{port: 1, endPort: 99}, {port: 100}]}]}"];
    assert_eq!(
        changes(&["{podSelector: {}, ingress: [{ports: [{port: 1, endPort: 100}]}]}"], &written_otherwise),
        "no answer changes\n"
    );
}

#[test]
fn ranges_of_ports_are_exact() {
    let old = "{podSelector: {}, ingress: [{ports: [{port: 10, endPort: 20}]}]}";
    let new = "{podSelector: {}, ingress: [{ports: [{port: 11, endPort: 14}, {port: 16, endPort: 21}]}]}";
    assert_eq!(
        changes(&[old], &[new]),
        "newly allowed:\n  x/a → x/b  TCP/21\n  x/b → x/a  TCP/21\n  203.0.113.7 → x/a  TCP/21\n  203.0.113.7 → x/b  TCP/21\n\
         newly denied:\n  x/a → x/b  TCP/10, TCP/15\n  x/b → x/a  TCP/10, TCP/15\n  203.0.113.7 → x/a  TCP/10, TCP/15\n  \
         203.0.113.7 → x/b  TCP/10, TCP/15\n"
    );
}

#[test]
fn blocks_are_sampled_inside_and_out() {
    let old = "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}";
    let new = "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}]}]}";
    assert_eq!(
        changes(&[old], &[new]),
        "newly denied:\n  x/a → 192.0.2.129  TCP/*, UDP/*, SCTP/*\n  x/b → 192.0.2.129  TCP/*, UDP/*, SCTP/*\n"
    );
}

#[test]
fn pods_that_come_and_go_are_named_and_asked_ports_alone_are_asked() {
    let old = world(&[]);
    let mut new = world(&["{podSelector: {}}"]);
    new.remove_pod(&"x/b".parse().unwrap());
    let difference = diff(&old, &new, &["TCP/80".parse().unwrap()]);
    assert_eq!(difference.to_string(), "newly denied:\n  203.0.113.7 → x/a  TCP/80\nonly in the old: pods x/b\n");
    assert_eq!(serde_json::to_value(&difference).unwrap()["newlyDenied"][0]["ports"], serde_json::json!(["TCP/80"]));
}
