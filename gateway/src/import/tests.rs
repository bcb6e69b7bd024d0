use super::*;
use crate::judge::{Header, Verdict};
use crate::model::States;
use crate::rulefile;

fn options(lenient: bool) -> Options {
    let local = vec!["192.0.2.1/24".parse().unwrap()];
    Options { lenient, local, ..Options::new(Family::V4, "dump".into()) }
}

/// A dump with these rules in FORWARD, whose policy is DROP, and a user's chain.
fn dump(rules: &[&str]) -> String {
    let rules: String = rules.iter().map(|rule| format!("-A FORWARD {rule}\n")).collect();
    format!(
        "# comment\n*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:user - [0:0]\n{rules}COMMIT\n"
    )
}

fn imported(rules: &[&str]) -> Imported {
    import(&dump(rules), &options(false)).unwrap_or_else(|errors| panic!("{rules:?}: {errors:?}"))
}

fn packet() -> Header<'static> {
    let address = |text: &str| text.parse::<std::net::IpAddr>().unwrap().into();
    Header {
        input: Some("eth0"),
        output: Some("eth1"),
        source: address("10.0.0.5"),
        destination: address("192.0.2.9"),
        protocol: 6,
        source_port: 1024,
        destination_port: 80,
        tcp_flags: 2,
        state: States::NEW,
    }
}

fn passes(ruleset: &Ruleset, packet: &Header<'_>) -> bool {
    ruleset.judge(Hook::Forward, packet, &mut |_, _| true).verdict == Verdict::Allow
}

#[test]
fn matches_mean_what_iptables_means() {
    let address = |text: &str| -> dataplane::address::Address { text.parse::<std::net::IpAddr>().unwrap().into() };
    let base = packet();
    let udp = Header { protocol: 17, tcp_flags: 0, ..base };
    let echo = Header { protocol: 1, source_port: 0, destination_port: 8 << 8, tcp_flags: 0, ..base };
    // Of each match what it means, and what it does not.
    for (rule, yes, no) in [
        ("-s 10.0.0.0/8", base, Header { source: address("11.0.0.0"), ..base }),
        ("-s 10.0.0.0/255.0.0.0", base, Header { source: address("11.0.0.0"), ..base }),
        ("! -d 10.0.0.0/8", base, Header { destination: address("10.1.1.1"), ..base }),
        ("-i eth+ ! -o ppp0", base, Header { output: Some("ppp0"), ..base }),
        ("-p tcp -m tcp --dport 80", base, udp),
        ("-p tcp -m tcp ! --dport 80", Header { destination_port: 81, ..base }, base),
        ("-p tcp -m tcp --sport 1024:65535 --dport :80", base, Header { source_port: 1023, ..base }),
        ("-p tcp -m multiport --dports 22,80:90", base, Header { destination_port: 91, ..base }),
        ("-p tcp -m multiport ! --ports 443,1024", Header { source_port: 1, ..base }, base),
        ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN", base, Header { tcp_flags: 18, ..base }),
        ("-p tcp -m tcp ! --tcp-flags ALL NONE", base, Header { tcp_flags: 0, ..base }),
        ("-m iprange --src-range 10.0.0.5-10.0.0.6", base, Header { source: address("10.0.0.7"), ..base }),
        ("-p icmp -m icmp --icmp-type 8", echo, Header { destination_port: 0, ..echo }),
        ("-p icmp -m icmp --icmp-type 3/4", Header { destination_port: 772, ..echo }, echo),
        ("-m conntrack --ctstate RELATED,NEW", base, Header { state: States::ESTABLISHED, ..base }),
        ("-m conntrack ! --ctstate INVALID,UNTRACKED", base, Header { state: States::INVALID, ..base }),
        ("-m state --state NEW", base, Header { state: States::RELATED, ..base }),
        ("-m addrtype --dst-type UNICAST", base, Header { destination: address("224.1.1.1"), ..base }),
        ("-m addrtype --dst-type LOCAL", Header { destination: address("192.0.2.1"), ..base }, base),
        (
            "-m addrtype --dst-type LOCAL",
            Header { destination: address("127.255.255.254"), ..base },
            Header { destination: address("127.255.255.255"), ..base },
        ),
        ("-m addrtype --dst-type BROADCAST", Header { destination: address("127.255.255.255"), ..base }, base),
        ("-m addrtype ! --dst-type BROADCAST", base, Header { destination: address("192.0.2.255"), ..base }),
        ("-p 47", Header { protocol: 47, ..udp }, base),
    ] {
        let ruleset = imported(&[&format!("{rule} -j ACCEPT")]).ruleset;
        assert!(passes(&ruleset, &yes), "{rule}");
        assert!(!passes(&ruleset, &no), "{rule}");
    }
}

#[test]
fn chains_comments_and_targets_are_kept() {
    let rules = [
        "-m comment --comment \"say \\\"it\\\"\" -g user",
        "-j LOG --log-prefix \"x: \" --log-level 4",
        "-p tcp -j REJECT --reject-with tcp-reset",
    ];
    let text = dump(&rules).replace(
        "COMMIT",
        "-A user -s 10.0.0.0/8 -m limit --limit 3/min --limit-burst 9 -j ACCEPT\n-A user -j RETURN\nCOMMIT",
    );
    let Imported { ruleset, .. } = import(&text, &options(false)).unwrap();
    let forward = &ruleset.chains[ruleset.base(Hook::Forward, Family::V4).unwrap().0];
    assert_eq!(forward.rules[0].comment.as_deref(), Some("say \"it\""));
    assert_eq!(forward.rules[0].action, Action::Goto("user".to_owned()));
    assert_eq!(forward.rules[0].origin.to_string(), "dump:7");
    assert_eq!(forward.rules[1].log.as_ref().unwrap().prefix, "x: ");
    let user = &ruleset.chains[ruleset.chain("user", Family::V4).unwrap()];
    assert_eq!(user.rules[0].limit.unwrap().burst, 9);
    let again = rulefile::read_str("again", &rulefile::write(&ruleset, "")).unwrap();
    assert_eq!(
        crate::equivalence::compare(&ruleset, &again, &Default::default()).unwrap().answer(),
        crate::equivalence::Answer::Equal
    );
}

#[test]
fn what_cannot_be_expressed_is_refused_with_its_line() {
    for (rule, reason) in [
        ("-m recent --name x --rcheck -j ACCEPT", "dump:7: match recent can't be expressed"),
        ("-m unheard -j ACCEPT", "dump:7: match unheard is not known here"),
        ("-j NFQUEUE --queue-num 1", "dump:7: target NFQUEUE can't be expressed"),
        ("-j nowhere", "dump:7: target nowhere can't be expressed"),
        ("-s 10.0.0.0/255.0.255.0 -j ACCEPT", "dump:7: -s: 10.0.0.0/255.0.255.0 has a mask that is no prefix"),
        ("-m comment --comment \"cut", "dump:7: a quote does not end"),
        ("-p tcp --dport", "dump:7: the value of --dport is missing"),
        ("-p dccp -m dccp --dport 53 -j DROP", "dump:7: ports of dccp are not looked at"),
        ("-p udplite -m multiport --dports 53 -j DROP", "dump:7: ports of udplite are not looked at"),
        ("-m set --match-set gone src -j DROP", "dump:7: this rule names the set gone: give what"),
        ("-m addrtype --dst-type ANYCAST -j DROP", "dump:7: --dst-type ANYCAST: "),
    ] {
        let errors = import(&dump(&[rule]), &options(false)).unwrap_err();
        assert!(errors[0].to_string().starts_with(reason), "{rule}: {}", errors[0]);
        if !rule.contains("set") || rule.contains("addrtype") {
            let lenient = import(&dump(&[rule, "-j ACCEPT"]), &options(true)).unwrap();
            assert_eq!(lenient.report.left_out.len(), 1);
            assert!(passes(&lenient.ruleset, &packet()), "the rule means nothing, and the next one goes on");
        }
    }
    let circle = dump(&["-j user"]).replace("COMMIT", "-A user -j user\nCOMMIT");
    assert!(import(&circle, &options(false)).is_err());
}

#[test]
fn dumps_that_are_cut_are_refused() {
    let whole = dump(&["-s 10.0.0.0/8 -m comment --comment \"a b\" -j ACCEPT", "-j user"]);
    assert!(import(&whole, &options(false)).is_ok());
    for end in 0..whole.len() - 1 {
        assert!(import(&whole[..end], &options(false)).is_err(), "{end}: {:?}", &whole[..end]);
    }
    for garbage in [
        "",
        "\0\0\0",
        "{}",
        "*filter\nCOMMIT\nrubbish",
        "*filter\n:INPUT\nCOMMIT",
        "*filter\n-A INPUT -j ACCEPT\nCOMMIT",
    ] {
        assert!(import(garbage, &options(false)).is_err(), "{garbage:?}");
    }
}

#[test]
fn marks_that_nobody_sets_are_zero() {
    let rule = "-m mark --mark 0x4000/0x4000 -j ACCEPT";
    let Imported { ruleset, report } = imported(&[rule]);
    assert!(!passes(&ruleset, &packet()));
    assert_eq!(report.notes.len(), 1);
    assert!(passes(&imported(&["-m mark ! --mark 0x4000/0x4000 -j ACCEPT"]).ruleset, &packet()));
    let nat = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j MARK --set-xmark 0x4000/0x4000\nCOMMIT\n";
    let errors = import(&format!("{nat}{}", dump(&[rule])), &options(false)).unwrap_err();
    assert!(errors[0].text.contains("set by dump:3 (nat PREROUTING)"), "{}", errors[0]);
    let other = import(&format!("{nat}{}", dump(&["-m mark --mark 0x1/0x1 -j ACCEPT"])), &options(false)).unwrap();
    assert_eq!(other.report.kernel.len(), 1);
}

#[test]
fn sets_are_taken_over() {
    let sets = "create hosts hash:ip family inet hashsize 1024 maxelem 65536\nadd hosts 10.0.0.5\n\
                create nets hash:net family inet\nadd nets 10.0.0.0/8\nadd nets 10.0.0.5 nomatch\n\
                create web hash:ip,port family inet\nadd web 192.0.2.9,tcp:80\nadd web 192.0.2.9,icmp:echo-request\n\
                create both list:set size 8\nadd both hosts\n\
                create macs hash:mac\nadd macs 02:00:00:00:00:01\n\
                create short hash:ip family inet timeout 60\nadd short 10.0.0.5 timeout 12\n\
                create holes list:set size 8\nadd holes hosts\nadd holes nets\n";
    let with = |lenient| Options { ipset: Some(("sets".into(), sets.to_owned())), ..options(lenient) };
    let echo = Header { protocol: 1, source_port: 0, destination_port: 8 << 8, tcp_flags: 0, ..packet() };
    for (rule, packet, expected) in [
        ("--match-set hosts src", packet(), true),
        ("! --match-set hosts src", packet(), false),
        ("--match-set nets src", packet(), false),
        (
            "--match-set nets src",
            Header { source: packet().source.to_bits().wrapping_add(1).into_address(), ..packet() },
            true,
        ),
        ("--match-set web dst,dst", packet(), true),
        ("--match-set web dst,dst", echo, true),
        ("--match-set web dst,dst", Header { destination_port: 81, ..packet() }, false),
        ("--match-set both src", packet(), true),
    ] {
        let text = dump(&[&format!("-m set {rule} -j ACCEPT")]);
        let Imported { ruleset, .. } =
            import(&text, &with(false)).unwrap_or_else(|errors| panic!("{rule}: {errors:?}"));
        assert_eq!(passes(&ruleset, &packet), expected, "{rule}");
    }
    for (set, reason) in [
        ("holes", "sets:15: set holes: some members have exceptions"),
        ("macs", "sets:11: set macs: type hash:mac can't be expressed"),
        ("short", "sets:14: set short: 10.0.0.5 has a timeout"),
        ("gone", "dump:7: this rule names the set gone, which is not in sets"),
    ] {
        let errors = import(&dump(&[&format!("-m set --match-set {set} src -j ACCEPT")]), &with(false)).unwrap_err();
        assert!(errors[0].to_string().starts_with(reason), "{}", errors[0]);
    }
    assert!(import(&dump(&["-m set --match-set short src -j ACCEPT"]), &with(true)).is_ok());
}

trait IntoAddress {
    fn into_address(self) -> dataplane::address::Address;
}

impl IntoAddress for u128 {
    fn into_address(self) -> dataplane::address::Address {
        dataplane::address::Address::from_bits(self)
    }
}

#[test]
fn interfaces_may_be_in_groups_of_other_names() {
    let map = interfaces(&"map".into(), "eth0 wan # comment\neth1=lan\n\neth2 = lan\n").unwrap();
    let options = Options { interfaces: map, ..options(false) };
    let ruleset = import(&dump(&["-i eth1 -j ACCEPT", "-i eth2 -j DROP"]), &options).unwrap().ruleset;
    assert_eq!(ruleset.groups["lan"].interfaces, ["eth1", "eth2"]);
    let errors = interfaces(&"map".into(), "eth0\neth1 lan\neth1 wan\n").unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(texts[0].starts_with("map:1: \"eth0\" is no interface with its group"), "{texts:?}");
    assert!(texts[1].starts_with("map:3: eth1 is in group lan already"), "{texts:?}");
}
