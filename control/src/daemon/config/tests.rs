use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/penstock/penstock.yaml"), text)
}

/// The sentence about a text that must be refused.
fn refusal(text: &str) -> String {
    match parse(text) {
        Ok(config) => panic!("accepted: {text}\n{config:?}"),
        Err(error) => error.to_string(),
    }
}

/// A file with one wire, and `more` at its end.
fn with_wire(wire: &str, more: &str) -> String {
    format!("policy: policies\nwires:\n- {wire}\n{more}\n")
}

const PORTS: &str = "inside: {kind: af_packet, interface: in}, outside: {kind: af_packet, interface: out}";

fn pod_wire() -> String {
    format!("{{name: web, pod: default/web, {PORTS}}}")
}

#[test]
fn the_example_is_valid_and_says_what_its_comments_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/penstock.example.yaml");
    let config = Config::load(&path).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.policy, Some(path.parent().unwrap().join("examples/world")));
    let kinds: Vec<_> = config.wires.iter().map(|wire| (wire.inside.kind, wire.outside.kind)).collect();
    assert!(kinds.contains(&(PortKind::AfPacket, PortKind::AfPacket)));
    assert!(config.wires.iter().any(|wire| wire.occupant.pod().is_some()));
    assert!(config.wires.iter().any(|wire| matches!(wire.occupant, Occupant::Endpoint { .. })));
    assert!(config.wires.iter().any(|wire| matches!(wire.occupant, Occupant::Subnet { .. })));
    assert_eq!(config.metrics.map(|address| address.to_string()).as_deref(), Some(METRICS_ADDRESS));
    assert_eq!((config.log.drops.per_second, config.log.drops.burst), DROP_LINES);
    assert_eq!(config.flows, FLOWS);
    assert_eq!(config.mid_stream, MidStream::Refuse);
}

#[test]
fn what_is_left_away_has_a_default() {
    let config = parse(&with_wire(&pod_wire(), "")).unwrap();
    assert_eq!(config.policy, Some(Path::new("/etc/penstock/policies").to_owned()), "relative to the file");
    assert_eq!(config.workers, [None]);
    assert_eq!(config.flows, FLOWS);
    assert_eq!(config.metrics, METRICS_ADDRESS.parse().ok());
    assert_eq!(config.log.level, LogLevel::Info);
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.log.drops.file, None);
    let port = |interface: &str| PortConfig {
        kind: PortKind::AfPacket,
        interface: interface.to_owned(),
        namespace: None,
        queue: None,
    };
    let wire = WireConfig {
        name: "web".to_owned(),
        occupant: Occupant::Pod { name: "default/web".to_owned(), mac: None },
        tracking: Tracking::Stateful,
        inside: port("in"),
        outside: port("out"),
    };
    assert_eq!(config.wires, [wire]);
}

#[test]
fn everything_can_be_said() {
    let text = "policy: /srv/policies\nworkers: [{cpu: 1}, {cpu: 3}, {}]\nflows: 4096\n\
        midStream: {adopt: {seconds: 60}}\nmetrics: {address: '[::1]:0'}\n\
        log: {level: debug, format: json, drops: {file: drops.json, perSecond: 5, burst: 7}}\n\
        wires:\n\
        - {name: a, pod: x/y, mac: '02:00:00:00:00:01', inside: {kind: af_xdp, interface: eth1, queue: 2}, \
           outside: {kind: tap, interface: tap0, namespace: blue}}\n\
        - {name: b, endpoint: {addresses: [10.0.0.1, 'fd00::1'], mac: '02:00:00:00:00:02'}, traffic: deny, \
           tracking: true, inside: {kind: tun, interface: tun0}, outside: {kind: tun, interface: tun1}}\n\
        - {name: c, traffic: allow, tracking: false, inside: {kind: af_packet, interface: eth1, namespace: red}, \
           outside: {kind: af_packet, interface: eth2, namespace: /run/netns/red}}\n";
    let config = parse(text).unwrap();
    assert_eq!(config.workers, [Some(1), Some(3), None]);
    assert_eq!(config.mid_stream, MidStream::Adopt(Duration::from_secs(60)));
    assert_eq!(config.metrics, "[::1]:0".parse().ok());
    let file = Some(PathBuf::from("/etc/penstock/drops.json"));
    let drops = DropLogConfig { file, per_second: 5, burst: 7 };
    assert_eq!(config.log, LogConfig { level: LogLevel::Debug, format: LogFormat::Json, drops });
    assert_eq!(config.wires[0].inside.queue, Some(2));
    assert_eq!(config.wires[0].outside.to_string(), "tap tap0 in blue");
    let mac = "02:00:00:00:00:02".parse().ok();
    let addresses = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    assert_eq!(config.wires[1].occupant, Occupant::Endpoint { addresses, mac, traffic: Traffic::Deny });
    assert_eq!(config.wires[2].occupant, Occupant::Subnet { traffic: Traffic::Allow });
    let tracking: Vec<_> = config.wires.iter().map(|wire| wire.tracking).collect();
    assert_eq!(tracking, [Tracking::Stateful, Tracking::Stateful, Tracking::Off]);
    let off = parse(&with_wire(&pod_wire(), "metrics: {address: 'off'}\nworkers: 3")).unwrap();
    assert_eq!((off.metrics, off.workers.len()), (None, 3));
}

#[test]
fn what_serde_refuses_names_file_line_field_and_reason() {
    let file = "/etc/penstock/penstock.yaml";
    for (text, expected) in [
        (
            String::new(),
            "{file}: policy: it is missing; write policy and wires, rules and wires for a gateway, or `kubernetes: {}` for a node of a cluster",
        ),
        ("wires: [".to_owned(), "{file}:1: wires: unclosed bracket '['"),
        (
            "wires: []".to_owned(),
            "{file}: policy: it is missing; write policy and wires, rules and wires for a gateway, or `kubernetes: {}` for a node of a cluster",
        ),
        ("policy: a\npolicy: b\nwires: []".to_owned(), "{file}:2: duplicate mapping key: policy"),
        (
            with_wire("{name: a, insid: 3}", ""),
            "{file}:3: wires[0].insid: unknown field `insid`, expected one of name, pod, mac, endpoint, traffic, \
             tracking, placement, host, forward, dnat, nonIp, inside, outside",
        ),
        (
            with_wire("{name: a, inside: {kind: af_paket, interface: x}}", ""),
            "{file}:3: wires[0].inside.kind: unknown variant `af_paket`, expected one of af_packet, af_xdp, tap, tun",
        ),
        (with_wire(&pod_wire(), "flows: many"), "{file}:4: flows: it must be a whole number"),
        (
            with_wire(&pod_wire(), "workers: [{cpu: -1}]"),
            "{file}:4: workers: write a number of workers, or a list such as [{cpu: 0}, {cpu: 1}]",
        ),
        (
            with_wire(&pod_wire(), "midStream: maybe"),
            "{file}:4: midStream: unknown variant `maybe`, expected one of refuse, always, adopt",
        ),
        (
            with_wire(&pod_wire(), "log: {level: loud}"),
            "{file}:4: log.level: unknown variant `loud`, expected one of error, warn, info, debug, trace",
        ),
    ] {
        assert_eq!(refusal(&text), expected.replace("{file}", file), "{text}");
    }
}

#[test]
fn what_makes_no_sense_names_its_field_and_the_remedy() {
    let named = |name: &str| format!("{{name: {name}, pod: default/web, {PORTS}}}");
    let wire = |fields: &str| format!("{{name: a, {fields}, {PORTS}}}");
    let inside = |port: &str| {
        format!("{{name: a, traffic: allow, inside: {{{port}}}, outside: {{kind: af_packet, interface: out}}}}")
    };
    let second = |wire: &str| format!("- {wire}");
    let other = "{name: b, pod: default/b, inside: {kind: tap, interface: t1}, outside: {kind: tap, interface: t2}}";
    for (text, field, reason) in [
        ("policy: a\nwires: []".to_owned(), "wires", "there is no wire"),
        (with_wire(&named("'a b'"), ""), "wires[0].name", "not a wire's name"),
        (with_wire(&pod_wire(), &second(&pod_wire())), "wires[1].name", "names must differ"),
        (
            with_wire(&pod_wire(), &second(&other.replace("default/b", "default/web"))),
            "wires[1].pod",
            "pod default/web is behind wire web already",
        ),
        (
            with_wire(&pod_wire(), &second(&other.replace("t2", "in"))),
            "wires[1].outside.interface",
            "in is used by wires[0].inside already",
        ),
        (with_wire(&wire("pod: web"), ""), "wires[0].pod", "write NAMESPACE/NAME"),
        (with_wire(&wire("pod: a/b, traffic: deny"), ""), "wires[0].traffic", "leave traffic away"),
        (with_wire(&wire("pod: a/b, tracking: false"), ""), "wires[0].tracking", "leave tracking away"),
        (with_wire(&wire("pod: a/b, mac: zz"), ""), "wires[0].mac", "not a MAC address"),
        (
            with_wire(&wire("pod: a/b, mac: 'ff:ff:ff:ff:ff:ff'"), ""),
            "wires[0].mac",
            "cannot be an interface's own address",
        ),
        (
            with_wire(&wire("pod: a/b, endpoint: {addresses: [1.2.3.4]}"), ""),
            "wires[0].endpoint",
            "a pod or an endpoint",
        ),
        (
            with_wire(&wire("endpoint: {addresses: []}, traffic: allow"), ""),
            "wires[0].endpoint.addresses",
            "list its addresses",
        ),
        (with_wire(&wire("endpoint: {addresses: [1.2.3.4]}"), ""), "wires[0].traffic", "`traffic: allow`"),
        (with_wire(&wire("traffic: allow, mac: '02:00:00:00:00:01'"), ""), "wires[0].mac", "mac goes with pod"),
        (with_wire(&format!("{{name: a, {PORTS}}}"), ""), "wires[0].traffic", "`traffic: allow`"),
        (
            with_wire(&inside("kind: af_packet, interface: far-too-long-a-name"), ""),
            "wires[0].inside.interface",
            "1 to 15 characters",
        ),
        (with_wire(&inside("kind: tap, interface: x, queue: 1"), ""), "wires[0].inside.queue", "only an af_xdp port"),
        (
            with_wire(&inside("kind: af_xdp, interface: x, queue: 70000"), ""),
            "wires[0].inside.queue",
            "the greatest possible is 65535",
        ),
        (
            with_wire(&inside("kind: tap, interface: x, namespace: a b"), ""),
            "wires[0].inside.namespace",
            "letters and no spaces",
        ),
        (
            with_wire(&wire("traffic: allow, endpoint: {addresses: [1.2.3.4, '::1', 1.2.3.4]}"), ""),
            "wires[0].endpoint.addresses[2]",
            "in the list already",
        ),
        (with_wire(&inside("kind: tun, interface: x"), ""), "wires[0]", "make both tun, or use tap"),
        (
            with_wire(&inside("kind: tap, interface: x, namespace: ''"), ""),
            "wires[0].inside.namespace",
            "letters and no spaces",
        ),
        (with_wire(&pod_wire(), "workers: 0"), "workers", "1 to 1024 workers"),
        (with_wire(&pod_wire(), "workers: [{cpu: 1}, {cpu: 1}]"), "workers[1].cpu", "give each its own"),
        (with_wire(&pod_wire(), "flows: 3"), "flows", "write 1024 to"),
        (with_wire(&pod_wire(), "midStream: {adopt: {seconds: 0}}"), "midStream.adopt.seconds", "write 1 to 3600"),
        (with_wire(&pod_wire(), "metrics: {address: localhost}"), "metrics.address", "is not ADDRESS:PORT"),
    ] {
        let sentence = refusal(&text);
        let start = format!("/etc/penstock/penstock.yaml: {field}: ");
        assert!(sentence.starts_with(&start), "{sentence}\ndoes not start with {start}");
        assert!(sentence.contains(reason), "{sentence}\ndoes not contain {reason}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(Path::new("/nowhere/penstock.yaml")).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/penstock.yaml: the configuration cannot be read"), "{error}");
}

#[test]
fn a_node_needs_nothing_but_to_be_one() {
    let config = parse("kubernetes: {}\nnode: n1\n").unwrap();
    let node = config.node.unwrap();
    assert_eq!((node.name.as_str(), node.pods, node.paths), ("n1", RunningPods::Adopt, Paths::default()));
    assert!(config.wires.is_empty());
    let text = "kubernetes: {kubeconfig: k, context: c}\nnode: n\npods: leave\npaths: {run: /r, state: /s}\n";
    let node = parse(text).unwrap().node.unwrap();
    let file = Some("/etc/penstock/k".into());
    assert_eq!(node.access, crate::kubernetes::Access::Kubeconfig { file, context: Some("c".to_owned()) });
    assert_eq!((node.pods, node.paths.cni_socket()), (RunningPods::Leave, "/r/cni.sock".into()));
    assert_eq!(node.paths.cluster(), Path::new("/s/cluster"));
    assert_eq!((node.startup_taint, node.events), (None, false));
    let node = parse("kubernetes: {}\nnode: n\nstartupTaint: penstock.io/not-ready\nevents: {denied: true}\n")
        .unwrap()
        .node
        .unwrap();
    assert_eq!((node.startup_taint.as_deref(), node.events), (Some("penstock.io/not-ready"), true));
}

#[test]
fn a_node_that_is_described_badly_is_refused() {
    for (text, sentence) in [
        ("kubernetes: {}\npolicy: p", "policy: policies and pods come from the API server; leave it away"),
        ("kubernetes: {}\nwires: []", "wires: policies and pods come from the API server; leave it away"),
        ("policy: p\nwires: []\nnode: n", "node: it goes with kubernetes; add `kubernetes: {}`"),
        ("pods: leave", "pods: it goes with kubernetes"),
        ("policy: p", "wires: it is missing; write policy and wires"),
        ("kubernetes: {}\nnode: A_B", "node: \"A_B\" is not a node's name; write the one that `kubectl get nodes`"),
        ("kubernetes: {context: c}", "kubernetes.context: a context is one of a kubeconfig"),
        ("kubernetes: {kubeconfig: k, server: 'http://x'}", "kubernetes.server: the kubeconfig names the server"),
        ("kubernetes: {server: x}", "kubernetes.server: \"x\" is no URL"),
        ("kubernetes: {}\npaths: {run: r}", "paths.run: r is relative; write a path that begins with /"),
        ("kubernetes: {}\npods: maybe", "unknown variant `maybe`"),
        ("kubernetes: {}\nstartupTaint: a=b:NoSchedule", "startupTaint: \"a=b:NoSchedule\" is no key of a taint"),
        ("events: {denied: true}", "events: it goes with kubernetes"),
    ] {
        let refusal = refusal(text);
        assert!(refusal.contains(sentence), "{text}: {refusal}");
    }
}
