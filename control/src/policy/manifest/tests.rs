//! What people put into files, and what they are told.

use super::*;

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: NAME}\nstatus: {podIPs: [{ip: IP}]}\n";

fn pod(name: &str, ip: &str) -> String {
    POD.replace("NAME", name).replace("IP}", &format!("{ip}}}"))
}

fn errors(text: &str) -> Vec<String> {
    load_text("f.yaml", text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

fn warnings(text: &str) -> Vec<String> {
    load_text("f.yaml", text).unwrap().warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn an_invalid_policy_is_named_with_place_object_field_reason_and_hint() {
    let text = format!(
        "{}---\nkind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata:\n  name: default-deny\n  \
         namespace: japp\nspec:\n  podSelector: {{}}\n  policyTypes:\n  - Ingress\n  - egress\n",
        pod("a", "10.0.0.1")
    );
    assert_eq!(
        errors(&text),
        [
            "f.yaml:15 (document 2): NetworkPolicy japp/default-deny: spec.policyTypes[1]: Unsupported value: \"egress\": \
          supported values: \"Egress\", \"Ingress\"; did you mean \"Egress\"?"
        ]
    );
}

#[test]
fn worlds_that_cannot_be_are_refused() {
    assert_eq!(
        errors(&format!("{}---\n{}", pod("a", "10.0.0.1"), pod("b", "10.0.0.1"))),
        [
            "f.yaml:6 (document 2): Pod default/b: status.podIPs: 10.0.0.1 is also the address of Pod default/a in f.yaml:1 \
          (document 1); live pods cannot share an address"
        ]
    );
    assert_eq!(
        errors(&format!("{}---\n{}", pod("a", "10.0.0.1"), pod("a", "10.0.0.2"))),
        ["f.yaml:6 (document 2): Pod default/a: the object is also in f.yaml:1 (document 1); keep one of them"]
    );
    assert_eq!(
        errors("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"),
        ["f.yaml:1: Pod default/a: status.podIPs: Required value: a running pod has an address; add the pod's \
          addresses, or set status.phase to Pending"]
    );
    let finished = pod("b", "10.0.0.1").replace("{podIPs", "{phase: Failed, podIPs");
    assert!(load_text("f", &format!("{}---\n{finished}", pod("a", "10.0.0.1"))).is_ok());
}

#[test]
fn what_is_no_object() {
    for (text, expected) in [
        ("- a\n", "f.yaml:1: not a Kubernetes object: the document is no mapping"),
        ("a: 1\n", "f.yaml:1: not a Kubernetes object: kind is missing or no text"),
        ("kind: Pod\n", "f.yaml:1: not a Kubernetes object: apiVersion is missing or no text"),
        ("a: 1\na: 2\n", "f.yaml:2: not valid YAML or JSON: the key \"a\" comes twice in one mapping, first on line 1"),
        (
            "apiVersion: extensions/v1beta1\nkind: NetworkPolicy\nmetadata: {name: p}\n",
            "f.yaml:1: NetworkPolicy default/p: apiVersion \"extensions/v1beta1\" of NetworkPolicy is not supported; it \
             was removed in Kubernetes 1.16: write networking.k8s.io/v1",
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: A}\n",
            "f.yaml:3: Namespace A: metadata.name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower \
             case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. \
             'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
    ] {
        assert_eq!(errors(text), [expected]);
    }
    let message = load(&["/nonexistent"]).unwrap_err().to_string();
    assert!(message.starts_with("/nonexistent: cannot be read: "), "{message}");
}

#[test]
fn oddities_are_warned_of() {
    assert_eq!(
        warnings("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s, namespace: x}\n"),
        ["f.yaml:1: ConfigMap x/s: objects of kind ConfigMap say nothing to policy and are left out"]
    );
    assert_eq!(
        warnings("apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: s}\n"),
        [
            "f.yaml:1: CiliumNetworkPolicy s: policies of kind CiliumNetworkPolicy (cilium.io/v2) are not enforced; what \
          they deny may pass"
        ]
    );
    assert_eq!(
        warnings(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  ingres: [{}]\n  \
             ingress:\n  - from:\n    - ipBlock:\n        cidr: 10.0.0.1/8\n"
        ),
        [
            "f.yaml:5: NetworkPolicy default/p: unknown field \"spec.ingres\"",
            "f.yaml:9: NetworkPolicy default/p: spec.ingress[0].from[0].ipBlock.cidr: CIDR value \"10.0.0.1/8\" is \
             ambiguous in this context (bits set beyond the prefix): it means 10.0.0.0/8"
        ]
    );
}

#[test]
fn lists_json_and_yaml_are_alike() {
    let yaml = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: PodList\n  items:\n  - metadata: {name: a}\n    \
                status: {podIP: 10.0.0.1}\n";
    let json = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"x"}}
        {"apiVersion":"v1","kind":"PodList","items":[{"metadata":{"name":"a","creationTimestamp":null},
            "status":{"podIPs":[{"ip":"10.0.0.1"}]}}]}"#;
    for text in [yaml, json] {
        let cluster = load_text("f", text).unwrap().cluster;
        assert_eq!(cluster.pods().map(|pod| pod.name.to_string()).collect::<Vec<_>>(), ["default/a"]);
    }
    let twice = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"x","name":"y"}}"#;
    let message = load_text("f.json", twice).unwrap_err().to_string();
    assert_eq!(message, "f.json:1: not valid YAML or JSON: the key \"name\" comes twice in one object");
    let bad = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a}\n  status:\n    \
               podIPs:\n    - ip: x\n";
    assert!(errors(bad)[0].starts_with("f.yaml:9: Pod default/a: status.podIPs[0].ip: Invalid value: \"x\""));
}

#[test]
fn directories_are_read_in_order_and_not_below() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    assert!(load(&[directory.path()]).unwrap_err().to_string().contains("holds no *.yaml"));
    write("b.yml", &pod("b", "10.0.0.2"));
    write("a.yaml", &pod("a", "10.0.0.1"));
    write("c.json", r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"c"},"status":{"podIP":"10.0.0.3"}}"#);
    write("notes.txt", "no manifest");
    std::fs::create_dir(directory.path().join("sub.yaml")).unwrap();
    std::fs::write(directory.path().join("sub.yaml/d.yaml"), "broken: [").unwrap();
    std::fs::create_dir_all(directory.path().join("..data/x")).unwrap();
    std::fs::write(directory.path().join("..data/x/e.yaml"), "broken: [").unwrap();
    std::fs::create_dir(directory.path().join("empty")).unwrap();
    let loaded = load(&[directory.path()]).unwrap();
    assert_eq!(loaded.cluster.pods().count(), 3);
    let warnings: Vec<_> = loaded.warnings.iter().map(|warning| warning.place.file.clone()).collect();
    assert_eq!(warnings, [directory.path().join("sub.yaml").to_str().unwrap()]);
}

#[test]
fn no_entry_of_a_directory_is_silently_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("a.yaml"), pod("a", "10.0.0.1")).unwrap();
    std::os::unix::fs::symlink("a.yaml", path("b.txt")).unwrap();
    std::os::unix::fs::symlink("nobody@host.1", path(".#a.yaml")).unwrap();
    assert_eq!(load(&[directory.path()]).unwrap().warnings, []);
    std::os::unix::fs::symlink("/nonexistent", path("gone.yaml")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path("zero.json")).unwrap();
    let message = load(&[directory.path()]).unwrap_err().to_string();
    assert!(message.contains("gone.yaml (a symbolic link to /nonexistent): cannot be read: "), "{message}");
    assert!(message.contains("zero.json: a device, not a file"), "{message}");
    assert!(load(&["/dev/zero"]).unwrap_err().to_string().starts_with("/dev/zero: a device, not a file"));
}

#[test]
fn mistyped_kinds_are_refused() {
    let object = |version: &str, kind: &str| format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: p}}\n");
    let networking = "networking.k8s.io/v1";
    assert_eq!(
        errors(&object(networking, "networkPolicy")),
        ["f.yaml:1: networkPolicy p: there is no kind \"networkPolicy\" in networking.k8s.io/v1; did you mean \
          \"NetworkPolicy\"?"]
    );
    assert!(errors(&object("v1", "pod"))[0].ends_with("did you mean \"Pod\"?"));
    assert!(errors(&object("v1", "list"))[0].ends_with("did you mean \"List\"?"));
    assert!(errors(&object(networking, "NetworkPolcy"))[0].contains("write \"NetworkPolicy\" if it is a policy"));
    for kind in ["Ingress", "IngressClass", "IngressList", "IPAddress", "ServiceCIDR"] {
        assert_eq!(warnings(&object(networking, kind)).len(), 1, "{kind}");
    }
}

#[test]
fn policies_in_namespaces_that_nothing_else_speaks_of_are_warned_of() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: y}\n";
    assert_eq!(warnings(policy), [""; 0]);
    assert_eq!(
        warnings(&format!("{}---\n{policy}", pod("a", "10.0.0.1"))),
        ["f.yaml:6 (document 2): NetworkPolicy y/p: the manifests have neither a Namespace y nor a pod in it, so the \
          policy selects nothing; check metadata.namespace"]
    );
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: y}\n";
    assert_eq!(warnings(&format!("{namespace}---\n{policy}")), [""; 0]);
}

#[test]
fn addresses_that_no_pod_can_have() {
    for ip in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "'::1'", "'::'", "'ff02::1'"] {
        assert!(errors(&pod("a", ip))[0].contains("must be the address of one host"), "{ip}");
    }
    assert_eq!(
        errors(&pod("a", "10.0.0.1}, {ip: 10.0.0.2")),
        [
            "f.yaml:4: Pod default/a: status.podIPs: Invalid value: \"10.0.0.1, 10.0.0.2\": may specify no more than one IP \
          for each IP family"
        ]
    );
    assert!(load_text("f", &pod("a", "10.0.0.1}, {ip: 'fd00::2'")).is_ok());
}

#[test]
fn what_input_says_is_shown_escaped_and_short() {
    let message = errors(&pod("\"a\\e[31m\"", "10.0.0.1")).concat();
    assert!(message.contains("Pod default/a\\u{1b}[31m: ") && !message.contains('\u{1b}'), "{message}");
    let message = errors(&pod(&"A".repeat(5000), "10.0.0.1")).concat();
    assert!(message.len() < 1000 && message.contains(&format!("Pod default/{}…: ", "A".repeat(80))), "{message}");
}
