//! The shape of what is resolved; what it means is held equal to the oracle in `tests/policy_oracle.rs`.

use super::super::manifest::load_text;
use super::*;
use dataplane::rules::Query;

const WORLD: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}}
- {apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {team: a}}}
- apiVersion: v1
  kind: Pod
  metadata: {name: a, namespace: x, labels: {app: web}}
  spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
  status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: b, namespace: x, labels: {app: web}}
  spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
  status: {podIPs: [{ip: 10.0.0.2}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: h, namespace: x, labels: {app: web}}
  spec: {hostNetwork: true, nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
  status: {podIPs: [{ip: 192.168.0.1}]}
";

fn cluster(policies: &[&str]) -> Cluster {
    let mut text = WORLD.to_owned();
    for (index, spec) in policies.iter().enumerate() {
        text += &format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{index}, namespace: x}}\n\
             spec: {spec}\n"
        );
    }
    load_text("world", &text).unwrap().cluster
}

fn endpoints() -> Vec<(ObjectName, WireId)> {
    ["x/a", "x/b", "x/h", "x/gone"]
        .iter()
        .enumerate()
        .map(|(index, name)| (name.parse().unwrap(), WireId(index as u32)))
        .collect()
}

fn chain(policy: &Policy) -> &Arc<Chain> {
    match policy {
        Policy::Chain(chain) => chain,
        Policy::Open | Policy::List(_) | Policy::Stateful(_) => panic!("no chain"),
    }
}

fn addresses(rule: &Rule) -> Vec<String> {
    match &rule.peers {
        Peers::Any => vec!["any".to_owned()],
        Peers::Group(group) => panic!("{group:?}"),
        Peers::Set(set) => {
            let text = |bits| Address::from_bits(bits).to_string();
            set.ranges().iter().map(|&(first, last)| format!("{}-{}", text(first), text(last))).collect()
        }
    }
}

#[test]
fn pods_without_a_wire_get_no_rules_and_unselected_ones_are_open() {
    let resolved = resolve(&cluster(&["{podSelector: {matchLabels: {app: db}}}"]), endpoints());
    assert_eq!(resolved.rules.wires.iter().map(|rules| rules.wire.0).collect::<Vec<_>>(), [0, 1]);
    assert!(resolved.rules.wires.iter().all(|rules| rules.ingress == Policy::Open && rules.egress == Policy::Open));
    assert!(resolved.table.isolating(WireId(0), Direction::Ingress).is_empty());
}

#[test]
fn the_own_node_comes_first_and_chains_are_shared() {
    let cluster = cluster(&["{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}"]);
    let resolved = resolve(&cluster, endpoints());
    let [a, b] = &resolved.rules.wires[..] else { panic!() };
    assert!(Arc::ptr_eq(chain(&a.ingress), chain(&b.ingress)));
    let tier = &chain(&a.ingress).tiers[0];
    assert_eq!(tier.default, Action::Deny);
    assert_eq!(resolved.table.describe(tier.rules[0].id), "own-node");
    assert_eq!(addresses(&tier.rules[0]), ["192.168.0.1-192.168.0.1"]);
    assert_eq!(resolved.table.describe(tier.rules[1].id), "x/p0 ingress[0]");
    assert_eq!(addresses(&tier.rules[1]), ["10.0.0.1-10.0.0.2", "fd00::1-fd00::1"]);
    assert_eq!(resolved.table.origin(tier.rules[1].id).unwrap().peers, "pods app=web in the policy's namespace");
    assert_eq!(resolved.table.isolating(WireId(0), Direction::Ingress)[0].to_string(), "x/p0");

    let first = |own_node| {
        let resolved = Resolver::new(own_node).resolve(&cluster, endpoints());
        chain(&resolved.rules.wires[0].ingress).tiers[0].rules[0].action
    };
    assert_eq!(first(OwnNode::Ask(7)), Action::Ask(7));
    let judged = Resolver::new(OwnNode::Judge).resolve(&cluster, endpoints());
    assert_eq!(chain(&judged.rules.wires[0].ingress).tiers[0].rules.len(), 1);
}

#[test]
fn named_ports_are_the_receivers() {
    let cluster = cluster(&["{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: http}]}], \
         egress: [{ports: [{port: http}]}]}"]);
    let resolved = resolve(&cluster, endpoints());
    let [a, b] = &resolved.rules.wires[..] else { panic!() };
    let judge = |policy: &Policy, ip: &str, port| {
        let peer = Address::from(ip.parse::<IpAddr>().unwrap());
        policy.judge(Direction::Egress, Query::new(peer, Protocol::TCP, port)).action == Action::Allow
    };
    assert!(judge(&a.ingress, "1.2.3.4", 80) && !judge(&a.ingress, "1.2.3.4", 8080));
    assert!(judge(&b.ingress, "1.2.3.4", 8080) && !judge(&b.ingress, "1.2.3.4", 80));
    assert!(Arc::ptr_eq(chain(&a.egress), chain(&b.egress)));
    for (ip, port, allowed) in [
        ("10.0.0.1", 80, true),
        ("fd00::1", 80, true),
        ("10.0.0.1", 8080, false),
        ("10.0.0.2", 8080, true),
        ("10.0.0.2", 80, false),
        ("192.168.0.1", 80, false),
        ("1.2.3.4", 80, false),
    ] {
        assert_eq!(judge(&a.egress, ip, port), allowed, "{ip} {port}");
    }
}

#[test]
fn a_block_of_one_family_never_means_the_other() {
    let everything = |cidr: &str| {
        let cluster =
            cluster(&[&format!("{{podSelector: {{}}, ingress: [{{from: [{{ipBlock: {{cidr: '{cidr}'}}}}]}}]}}")]);
        let resolved = Resolver::new(OwnNode::Judge).resolve(&cluster, endpoints());
        let rule = chain(&resolved.rules.wires[0].ingress).tiers[0].rules[0].clone();
        let Peers::Set(set) = rule.peers else { panic!() };
        ["1.2.3.4", "2001:db8::1"].map(|ip| set.contains(Address::from(ip.parse::<IpAddr>().unwrap())))
    };
    assert_eq!(everything("0.0.0.0/0"), [true, false]);
    assert_eq!(everything("::/0"), [false, true]);
    assert_eq!(everything("::ffff:0:0/96"), [true, false]);
}

#[test]
fn numbers_stay_while_the_world_turns() {
    let mut resolver = Resolver::new(OwnNode::Allow);
    let spec = "{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}]}]}";
    let before = resolver.resolve(&cluster(&[spec, spec]), endpoints());
    let mut world = cluster(&[spec, spec]);
    world.remove_policy(&"x/p0".parse().unwrap());
    let without = resolver.resolve(&world, endpoints());
    let after = resolver.resolve(&cluster(&[spec, spec]), endpoints());
    let last_id = |resolved: &Resolved| chain(&resolved.rules.wires[0].ingress).tiers[0].rules.last().unwrap().id;
    assert_eq!(last_id(&before), last_id(&without));
    assert_eq!(last_id(&before), last_id(&after));
    let first_id = |resolved: &Resolved| chain(&resolved.rules.wires[0].ingress).tiers[0].rules[1].id;
    assert_ne!(first_id(&before), first_id(&after), "a number is never used again for another rule");
}

#[test]
fn port_ranges_merge() {
    let range = |protocol, first, last| PortRange { protocol, first, last };
    let merged = merge_ranges(vec![
        range(Protocol::UDP, 53, 53),
        range(Protocol::TCP, 80, 90),
        range(Protocol::TCP, 85, 100),
        range(Protocol::TCP, 101, 101),
        range(Protocol::TCP, 65535, 65535),
        range(Protocol::TCP, 103, 103),
    ]);
    let expected =
        [(Protocol::TCP, 80, 101), (Protocol::TCP, 103, 103), (Protocol::TCP, 65535, 65535), (Protocol::UDP, 53, 53)];
    assert_eq!(merged, expected.map(|(protocol, first, last)| range(protocol, first, last)));
}
