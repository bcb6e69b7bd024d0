use std::path::Path;

use crate::daemon::config::{Config, ConfigError, MidStream, NonIp, Occupant};
use gateway::placement::Placement;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/penstock/penstock.yaml"), text)
}

const PORTS: &str = "inside: {kind: af_packet, interface: lan0}, outside: {kind: af_packet, interface: wan0, as: wan}";
const HOST: &str = "inside: {kind: tap, interface: wan}, outside: {kind: af_packet, interface: wan0, as: wan}";

#[test]
fn the_examples_are_valid() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/gateway");
    for (file, placements) in [("penstock.yaml", ["wan", "lan"].as_slice()), ("transparent.yaml", &["lan and wan"])] {
        let config = Config::load(&directory.join(file)).unwrap_or_else(|error| panic!("{error}"));
        let gateway = config.gateway.expect("it is a gateway's");
        crate::gateway::read(&gateway.rules).unwrap_or_else(|error| panic!("{error}"));
        let of = |occupant: &Occupant| match occupant {
            Occupant::Gateway(Placement::HostInside { interface, .. }, _) => interface.clone(),
            Occupant::Gateway(Placement::Transparent { inside, outside }, _) => format!("{inside} and {outside}"),
            other => panic!("{file}: {other:?}"),
        };
        assert_eq!(config.wires.iter().map(|wire| of(&wire.occupant)).collect::<Vec<_>>(), placements, "{file}");
        assert_eq!(config.mid_stream, MidStream::Always, "{file}");
    }
}

#[test]
fn a_place_is_read() {
    let text = format!(
        "rules: r.yaml\nwires:\n- {{name: a, placement: hostInside, host: [192.0.2.1/24, '2001:db8::1'], forward: false, \
         dnat: ['tcp:443', 'udp:5000-5010'], {HOST}}}\n"
    );
    let config = parse(&text).unwrap();
    let gateway = config.gateway.unwrap();
    assert_eq!(gateway.rules, Path::new("/etc/penstock/r.yaml"));
    assert_eq!(gateway.versions(), Path::new("/var/lib/penstock/rules"));
    let addresses = ["192.0.2.1/24", "2001:db8::1/128"].map(|text| text.parse().unwrap()).to_vec();
    let dnat = vec![(6, 443..=443), (17, 5000..=5010)];
    let expected = Placement::HostInside { interface: "wan".to_owned(), addresses, forward: false, dnat };
    assert_eq!(config.wires[0].occupant, Occupant::Gateway(expected, NonIp::Pass));
    assert_eq!(config.policy, None);
}

#[test]
fn what_makes_no_sense_names_its_field_and_the_remedy() {
    let wire = |fields: &str| format!("rules: r\nwires:\n- {{name: a, {fields}, {PORTS}}}\n");
    let host = |fields: &str| format!("rules: r\nwires:\n- {{name: a, placement: hostInside, {fields}, {HOST}}}\n");
    for (text, field, reason) in [
        (wire("traffic: allow"), "rules", "no wire has a placement"),
        (wire("placement: transparent").replace("rules: r\n", "policy: p\n"), "rules", "there are no rules for it"),
        (wire("traffic: allow").replace("rules: r\n", "policy: p\nstate: s\n"), "state", "it goes with rules"),
        (wire("traffic: allow, host: [192.0.2.1]"), "wires[0].host", "it goes with `placement: hostInside`"),
        (wire("traffic: allow"), "wires[0].outside.as", "it goes with a placement"),
        (wire("placement: transparent, pod: a/b"), "wires[0].pod", "the rules decide"),
        (wire("placement: transparent, tracking: false"), "wires[0].tracking", "the rules decide"),
        (wire("traffic: allow, nonIp: drop"), "wires[0].nonIp", "it goes with a placement"),
        (wire("placement: transparent, forward: false"), "wires[0].forward", "no host inside"),
        (wire("placement: transparent").replace("as: wan", "as: lan0"), "wires[0].outside.as", "the same name"),
        (wire("placement: hostInside, host: [192.0.2.1]"), "wires[0].inside.kind", "write `kind: tap`"),
        (host("forward: true"), "wires[0].host", "list them"),
        (host("host: [192.0.2.300]"), "wires[0].host[0]", "is no address"),
        (host("host: [192.0.2.1], dnat: ['tcp:1']"), "wires[0].dnat", "it goes with `forward: false`"),
        (
            host("host: [192.0.2.1], forward: false, dnat: ['tcp:1', '80']"),
            "wires[0].dnat[1]",
            "write one such as tcp:8443",
        ),
        (
            host("host: [192.0.2.1]").replace("interface: wan}", "interface: wan, as: x}"),
            "wires[0].inside.as",
            "write it there",
        ),
    ] {
        // The field without a name of its own stands where its wire does.
        let text = if field.ends_with(".as") { text } else { text.replace(", as: wan", "") };
        let sentence = parse(&text).map_or_else(|error| error.to_string(), |config| panic!("{text}\n{config:?}"));
        let start = format!("/etc/penstock/penstock.yaml: {field}: ");
        assert!(sentence.starts_with(&start), "{sentence}\ndoes not start with {start}");
        assert!(sentence.contains(reason), "{sentence}\ndoes not contain {reason}");
    }
}
