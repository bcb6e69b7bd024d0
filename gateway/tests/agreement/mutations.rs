//! Rules changed so that it matters: comparing finds a packet, and the kernel treats that packet otherwise, too.

use gateway::equivalence::{self, Difference, Options};
use gateway::judge::Verdict;
use gateway::model::{Family, Ruleset, States};

use crate::drive::prepare;
use crate::edits::{self, Edit, v4, v6};
use crate::fates::Fates;
use crate::kernel::Kernel;
use crate::observer::alone;
use crate::packet::{Packet, SYN, TCP, UDP, icmp_of};
use crate::rulesets::Named;
use crate::solver::first_state;

const MUTATIONS: [Edit; 60] = [
    v4(
        "ufw",
        "an action flipped",
        "-A ufw-user-input -s 203.0.113.0/24 -j DROP",
        "-A ufw-user-input -s 203.0.113.0/24 -j ACCEPT",
    ),
    v4(
        "ufw",
        "a port more",
        "-A ufw-user-input -s 10.1.0.0/24 -i eth1 -p tcp -m tcp --dport 22 -j ACCEPT",
        "-A ufw-user-input -s 10.1.0.0/24 -i eth1 -p tcp -m tcp --dport 22:23 -j ACCEPT",
    ),
    v4(
        "ufw",
        "a prefix shorter",
        "-A ufw-user-forward -s 10.1.0.0/24 -i eth1 -o eth0 -j ACCEPT",
        "-A ufw-user-forward -s 10.1.0.0/23 -i eth1 -o eth0 -j ACCEPT",
    ),
    v4("ufw", "a rule removed", "-A ufw-user-forward -i eth1 -o eth0 -p tcp -m tcp --dport 25 -j DROP", ""),
    v4(
        "ufw",
        "another interface",
        "-A ufw-user-input -i eth0 -p tcp -m tcp --dport 113 -j REJECT --reject-with tcp-reset",
        "-A ufw-user-input -i eth1 -p tcp -m tcp --dport 113 -j REJECT --reject-with tcp-reset",
    ),
    v4(
        "ufw",
        "overlapping rules swapped",
        "-A ufw-user-forward -i eth1 -o eth0 -p tcp -m tcp --dport 25 -j DROP\n\
         -A ufw-user-forward -s 10.1.0.0/24 -i eth1 -o eth0 -j ACCEPT",
        "-A ufw-user-forward -s 10.1.0.0/24 -i eth1 -o eth0 -j ACCEPT\n\
         -A ufw-user-forward -i eth1 -o eth0 -p tcp -m tcp --dport 25 -j DROP",
    ),
    v4(
        "ufw",
        "a state dropped",
        "-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A ufw-before-input -m conntrack --ctstate RELATED -j ACCEPT",
    ),
    v4("ufw", "a policy flipped", ":FORWARD DROP [0:0]", ":FORWARD ACCEPT [0:0]"),
    v4(
        "ufw",
        "refused otherwise",
        "-A ufw-user-output -d 10.0.0.0/8 -o eth0 -j REJECT --reject-with icmp-port-unreachable",
        "-A ufw-user-output -d 10.0.0.0/8 -o eth0 -j REJECT --reject-with icmp-host-unreachable",
    ),
    v4(
        "ufw",
        "a negation more",
        "-A ufw-user-input -s 192.0.2.0/24 -p udp -m udp --sport 123 -j ACCEPT",
        "-A ufw-user-input ! -s 192.0.2.0/24 -p udp -m udp --sport 123 -j ACCEPT",
    ),
    v6(
        "ufw",
        "a prefix shorter",
        "-A ufw6-user-forward -d fd00:2::80/128 -i eth0 -o eth2 -p tcp -m tcp --dport 443 -j ACCEPT",
        "-A ufw6-user-forward -d fd00:2::80/127 -i eth0 -o eth2 -p tcp -m tcp --dport 443 -j ACCEPT",
    ),
    v6(
        "ufw",
        "an ICMP type one lower",
        "-A ufw6-before-input -p ipv6-icmp -m icmp6 --icmpv6-type 128 -j ACCEPT",
        "-A ufw6-before-input -p ipv6-icmp -m icmp6 --icmpv6-type 127 -j ACCEPT",
    ),
    v6(
        "ufw",
        "a range one port shorter",
        "-A ufw6-user-input -p udp -m multiport --dports 60000:61000 -j ACCEPT",
        "-A ufw6-user-input -p udp -m multiport --dports 60001:61000 -j ACCEPT",
    ),
    v6("ufw", "a policy flipped", ":INPUT DROP [0:0]", ":INPUT ACCEPT [0:0]"),
    v6("ufw", "a rule removed", "-A ufw6-user-output -p tcp -m tcp --dport 25 -j DROP", ""),
    v4(
        "shorewall",
        "a range one port longer",
        "-A net-dmz -d 10.2.0.80/32 -p tcp -m multiport --dports 80,443,8000:8080 -m comment --comment \"Web and others\" -j ACCEPT",
        "-A net-dmz -d 10.2.0.80/32 -p tcp -m multiport --dports 80,443,8000:8081 -m comment --comment \"Web and others\" -j ACCEPT",
    ),
    v4(
        "shorewall",
        "an action flipped",
        "-A loc-net -p tcp -m tcp --dport 25 -m comment --comment SMTP -g reject",
        "-A loc-net -p tcp -m tcp --dport 25 -m comment --comment SMTP -j ACCEPT",
    ),
    v4(
        "shorewall",
        "a negation more",
        "-A loc-net -s 10.1.0.0/24 -p udp -m multiport --dports 137:139,445 -g reject",
        "-A loc-net ! -s 10.1.0.0/24 -p udp -m multiport --dports 137:139,445 -g reject",
    ),
    v4(
        "shorewall",
        "an action flipped",
        "-A net-fw -p icmp -m icmp --icmp-type 8 -m comment --comment Ping -j DROP",
        "-A net-fw -p icmp -m icmp --icmp-type 8 -m comment --comment Ping -j ACCEPT",
    ),
    v4("shorewall", "a jump to another chain", "-A dmz_frwd -o eth1 -j dmz-loc", "-A dmz_frwd -o eth1 -j dmz-net"),
    v4("shorewall", "a rule removed", "-A tcpflags -p tcp -m tcp --tcp-flags SYN,RST SYN,RST -g logflags", ""),
    v4(
        "shorewall",
        "a state dropped",
        "-A net-fw -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A net-fw -m conntrack --ctstate ESTABLISHED -j ACCEPT",
    ),
    v4(
        "shorewall",
        "a range one port shorter",
        "-A loc-dmz -p tcp -m multiport --dports 5432,3306 -m multiport --sports 1024:65535 -g ~log0",
        "-A loc-dmz -p tcp -m multiport --dports 5432,3306 -m multiport --sports 1025:65535 -g ~log0",
    ),
    v4("shorewall", "a jump to another chain", "-A INPUT -i eth2 -j dmz-fw", "-A INPUT -i eth2 -j loc-fw"),
    v4("shorewall", "an action flipped", "-A fw-dmz -p icmp -j ACCEPT", "-A fw-dmz -p icmp -j DROP"),
    v4(
        "shorewall",
        "a port one higher",
        "-A dmz-net -p udp -m udp --dport 53 -m comment --comment DNS -j ACCEPT",
        "-A dmz-net -p udp -m udp --dport 54 -m comment --comment DNS -j ACCEPT",
    ),
    v6(
        "shorewall",
        "a prefix shorter",
        "-A net-dmz -s 2001:db8:bad::/48 -j DROP",
        "-A net-dmz -s 2001:db8:bac::/47 -j DROP",
    ),
    v6(
        "shorewall",
        "a prefix longer",
        "-A loc-net -s fd00:1::/64 -p udp -m multiport --dports 137:139,445 -g reject",
        "-A loc-net -s fd00:1::/65 -p udp -m multiport --dports 137:139,445 -g reject",
    ),
    v6(
        "shorewall",
        "an action flipped",
        "-A AllowICMPs -p ipv6-icmp -m icmp6 --icmpv6-type 135 -m comment --comment \"Needed ICMP types (RFC4890)\" -j ACCEPT",
        "-A AllowICMPs -p ipv6-icmp -m icmp6 --icmpv6-type 135 -m comment --comment \"Needed ICMP types (RFC4890)\" -j DROP",
    ),
    v6(
        "shorewall",
        "a rule removed",
        "-A dmz-loc -p ipv6-icmp -m icmp6 --icmpv6-type 128 -m comment --comment Ping -j ACCEPT",
        "",
    ),
    v6("shorewall", "a jump to another chain", "-A net_frwd -o eth2 -j net-dmz", "-A net_frwd -o eth2 -j net-loc"),
    v6(
        "shorewall",
        "refused otherwise",
        "-A reject -p udp -j REJECT --reject-with icmp6-port-unreachable",
        "-A reject -p udp -j REJECT --reject-with icmp6-adm-prohibited",
    ),
    v4(
        "kube-proxy",
        "an action flipped",
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j ACCEPT",
    ),
    v4(
        "kube-proxy",
        "a port one higher",
        "-A KUBE-SERVICES -d 10.96.0.20/32 -p tcp -m comment --comment \"default/gone:tls has no endpoints\" -m tcp --dport 443 -j REJECT --reject-with icmp-port-unreachable",
        "-A KUBE-SERVICES -d 10.96.0.20/32 -p tcp -m comment --comment \"default/gone:tls has no endpoints\" -m tcp --dport 444 -j REJECT --reject-with icmp-port-unreachable",
    ),
    v4(
        "kube-proxy",
        "a state more",
        "-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES",
        "-A INPUT -m conntrack --ctstate NEW,UNTRACKED -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES",
    ),
    v4(
        "kube-proxy",
        "a prefix shorter",
        "-A KUBE-SERVICES -d 10.96.0.21/32 -p sctp -m comment --comment \"default/sctp:p has no endpoints\" -m sctp --dport 3868 -j REJECT --reject-with icmp-port-unreachable",
        "-A KUBE-SERVICES -d 10.96.0.20/31 -p sctp -m comment --comment \"default/sctp:p has no endpoints\" -m sctp --dport 3868 -j REJECT --reject-with icmp-port-unreachable",
    ),
    v4(
        "kube-proxy",
        "a rule removed",
        "-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES",
        "",
    ),
    v4(
        "kube-proxy",
        "an action flipped",
        "-A KUBE-SERVICES -d 10.96.0.20/32 -p udp -m comment --comment \"default/gone:u has no endpoints\" -m udp --dport 5000 -j REJECT --reject-with icmp-port-unreachable",
        "-A KUBE-SERVICES -d 10.96.0.20/32 -p udp -m comment --comment \"default/gone:u has no endpoints\" -m udp --dport 5000 -j DROP",
    ),
    v4("kube-proxy", "a policy flipped", ":FORWARD ACCEPT [0:0]", ":FORWARD DROP [0:0]"),
    v4(
        "kube-proxy",
        "a negation more",
        "-A KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment \"default/node-gone:p has no endpoints\" -m addrtype --dst-type LOCAL -m tcp --dport 30080 -j REJECT --reject-with icmp-port-unreachable",
        "-A KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment \"default/node-gone:p has no endpoints\" -m addrtype ! --dst-type LOCAL -m tcp --dport 30080 -j REJECT --reject-with icmp-port-unreachable",
    ),
    v6(
        "kube-proxy",
        "a prefix shorter",
        "-A KUBE-SERVICES -d fd00:96::17/128 -p tcp -m comment --comment \"default/lb-gone:p has no endpoints\" -m tcp --dport 443 -j REJECT --reject-with icmp6-port-unreachable",
        "-A KUBE-SERVICES -d fd00:96::16/127 -p tcp -m comment --comment \"default/lb-gone:p has no endpoints\" -m tcp --dport 443 -j REJECT --reject-with icmp6-port-unreachable",
    ),
    v6(
        "kube-proxy",
        "a rule removed",
        "-A KUBE-SERVICES -d fd00:96::14/128 -p udp -m comment --comment \"default/gone:u has no endpoints\" -m udp --dport 5000 -j REJECT --reject-with icmp6-port-unreachable",
        "",
    ),
    v6(
        "kube-proxy",
        "another state",
        "-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES",
        "-A FORWARD -m conntrack --ctstate ESTABLISHED -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES",
    ),
    v6(
        "kube-proxy",
        "another protocol",
        "-A KUBE-SERVICES -d fd00:96::14/128 -p tcp -m comment --comment \"default/gone:tls has no endpoints\" -m tcp --dport 443 -j REJECT --reject-with icmp6-port-unreachable",
        "-A KUBE-SERVICES -d fd00:96::14/128 -p udp -m comment --comment \"default/gone:tls has no endpoints\" -m udp --dport 443 -j REJECT --reject-with icmp6-port-unreachable",
    ),
    v4("enterprise", "an element removed", "add blocked4 198.51.100.71", ""),
    v4("enterprise", "an exception removed", "add feeds4 172.16.195.0/24 nomatch", ""),
    v4(
        "enterprise",
        "an element's port one higher",
        "add services4 10.20.0.5,tcp:20004",
        "add services4 10.20.0.5,tcp:20005",
    ),
    v4(
        "enterprise",
        "an action flipped",
        "-A dmz-srv -d 10.30.0.5/32 -p udp -m udp --sport 1116 --dport 1116 -j ACCEPT",
        "-A dmz-srv -d 10.30.0.5/32 -p udp -m udp --sport 1116 --dport 1116 -j DROP",
    ),
    v4(
        "enterprise",
        "a port one higher",
        "-A dmz-srv -s 10.20.0.8/32 -d 10.30.0.8/32 -p tcp -m multiport --ports 1185,1188 -j ACCEPT",
        "-A dmz-srv -s 10.20.0.8/32 -d 10.30.0.8/32 -p tcp -m multiport --ports 1185,1189 -j ACCEPT",
    ),
    v4(
        "enterprise",
        "a negation less",
        "-A dmz-srv ! -s 10.20.21.160/27 -p tcp -m tcp ! --sport 1484 --dport 1485 -j ACCEPT",
        "-A dmz-srv ! -s 10.20.21.160/27 -p tcp -m tcp --sport 1484 --dport 1485 -j ACCEPT",
    ),
    v4(
        "enterprise",
        "a range one address shorter",
        "-A dmz-lan -p udp -m iprange --src-range 10.20.0.2-10.20.0.19 -m udp --dport 1047:1056 -j REJECT --reject-with icmp-net-unreachable",
        "-A dmz-lan -p udp -m iprange --src-range 10.20.0.2-10.20.0.18 -m udp --dport 1047:1056 -j REJECT --reject-with icmp-net-unreachable",
    ),
    v4(
        "enterprise",
        "a negation less",
        "-A ICMP ! -i wan0 -p icmp -m icmp --icmp-type 3 -j ACCEPT",
        "-A ICMP -i wan0 -p icmp -m icmp --icmp-type 3 -j ACCEPT",
    ),
    v4(
        "enterprise",
        "a rule removed",
        "-A SHARED -p udp -m set ! --match-set admins4 src -m udp --dport 161:162 -j DROP",
        "",
    ),
    v4("enterprise", "a rule removed", "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", ""),
    v6(
        "enterprise",
        "an action flipped",
        "-A dmz-srv -d 2001:db8:1e:7::/64 -p tcp -m multiport --ports 1185,1188 -j LOGDROP",
        "-A dmz-srv -d 2001:db8:1e:7::/64 -p tcp -m multiport --ports 1185,1188 -j ACCEPT",
    ),
    v6(
        "enterprise",
        "another protocol",
        "-A dmz-srv -p udp -m multiport --ports 1737,1740 -j ACCEPT",
        "-A dmz-srv -p tcp -m multiport --ports 1737,1740 -j ACCEPT",
    ),
    v6(
        "enterprise",
        "an element's prefix shorter",
        "add partners6 2001:db8:0:4c::/64,tcp:23076",
        "add partners6 2001:db8:0:4c::/63,tcp:23076",
    ),
    v6(
        "enterprise",
        "overlapping rules swapped",
        "-A SANITY -i vpn+ -p tcp -m tcp --dport 1:7 -j RETURN\n-A SANITY -p tcp -m tcp --sport 0 -j LOGDROP",
        "-A SANITY -p tcp -m tcp --sport 0 -j LOGDROP\n-A SANITY -i vpn+ -p tcp -m tcp --dport 1:7 -j RETURN",
    ),
    v6(
        "enterprise",
        "a negation less",
        "-A SHARED -p tcp -m set ! --match-set partners6 src,dst -m tcp --dport 23000:23100 -j REJECT --reject-with tcp-reset",
        "-A SHARED -p tcp -m set --match-set partners6 src,dst -m tcp --dport 23000:23100 -j REJECT --reject-with tcp-reset",
    ),
    v6("enterprise", "a rule removed", "-A LOGREJECT -p udp -j REJECT --reject-with icmp6-port-unreachable", ""),
];

/// A counter-example as a packet. `None`: no packet that is sent is like that.
fn packet(of: &equivalence::Packet, interfaces: &[String]) -> Option<Packet> {
    let index = |name: &Option<String>| match name {
        None => Some(None),
        Some(name) => interfaces.iter().position(|known| known == name).map(Some),
    };
    let mut packet = Packet {
        hook: of.hook,
        input: index(&of.input)?,
        output: index(&of.output)?,
        source: of.source,
        destination: of.destination,
        protocol: of.protocol,
        source_port: of.source_port,
        destination_port: of.destination_port,
        tcp_flags: of.tcp_flags,
        sequence: 1000,
        acknowledgement: 0,
        payload: 4,
        wish: of.state,
        about: None,
        bad_checksum: false,
    };
    if of.state == States::RELATED {
        // An answer to what the other side is said to have sent.
        let about = Packet {
            source: of.destination,
            destination: of.source,
            protocol: UDP,
            source_port: 4000,
            destination_port: 4001,
            ..packet.clone()
        };
        packet.about = Some(about.bytes());
    }
    packet.bad_checksum = of.state == States::INVALID && first_state(&packet) != States::INVALID;
    Some(packet)
}

/// The counter-example itself, and others that the same rules decide: of a state or a protocol that the kernel may well give them.
fn alike(difference: &Difference, rulesets: [&Ruleset; 2]) -> Vec<equivalence::Packet> {
    let own = &difference.packet;
    let family = Family::of(own.destination);
    let error = if family == Family::V4 { 0x0301 } else { 0x0103 };
    let mut packets = vec![own.clone()];
    for state in States::EXCLUSIVE {
        packets.push(equivalence::Packet { state, ..own.clone() });
        for (protocol, source_port, destination_port, tcp_flags) in
            [(TCP, 40000, 9999, SYN), (UDP, 40000, 9999, 0), (icmp_of(family), 0, error, 0)]
        {
            let other =
                equivalence::Packet { protocol, source_port, destination_port, tcp_flags, state, ..own.clone() };
            packets.push(other);
        }
    }
    packets.dedup();
    let decided = |packet: &equivalence::Packet| {
        rulesets.iter().zip([&difference.a, &difference.b]).all(|(ruleset, side)| {
            let judgement = ruleset.judge(packet.hook, &packet.header(), &mut |_, _| true);
            (judgement.verdict, judgement.rule) == (side.verdict, side.rule)
        })
    };
    packets.retain(decided);
    packets
}

/// A packet that shows a difference, and what is expected of either rule set.
type Shown = (equivalence::Packet, [Verdict; 2]);

/// What the kernel does with packets by the rules that are loaded; `None` of those that do not come to the table as they should.
fn fates(kernel: &mut Kernel, ruleset: &Ruleset, shown: &[Shown]) -> Vec<Option<Verdict>> {
    let interfaces = kernel.interfaces.clone();
    let mut fate = |of: &equivalence::Packet| {
        let packet = packet(of, &interfaces)?;
        kernel.forget();
        prepare(kernel, &packet);
        let mut fates = Fates::new(ruleset, None, kernel);
        fates.send(kernel, "a counter-example", &packet);
        let fate = fates.last.iter().find(|fate| fate.hook == of.hook && fate.header() == of.header());
        fate.map(|fate| fate.verdict)
    };
    shown.iter().map(|(packet, _)| fate(packet)).collect()
}

/// The interfaces of a rule set, and those of the packets.
fn interfaces<'p>(named: Named, shown: &'p [Shown]) -> Vec<&'p str> {
    let mut names = named.interfaces().to_vec();
    for name in shown.iter().flat_map(|(packet, _)| packet.input.iter().chain(&packet.output)) {
        if !names.contains(&name.as_str()) && name != "lo" {
            names.push(name);
        }
    }
    names
}

fn mutations(name: &'static str, family: Family) {
    let named = Named { name, family };
    let (dump, ipset) = alone(|| named.slow_dump());
    let original = named.import(&dump, ipset.as_deref());
    let mut failures = Vec::new();
    let (mut count, mut as_told) = (0, 0);
    for edit in edits::of(&MUTATIONS, named) {
        count += 1;
        let (changed, changed_sets) = edit.apply(&dump, ipset.as_deref());
        let mutated = named.import(&changed, changed_sets.as_deref());
        let options = Options { max_differences: 200, ..Options::default() };
        let compared = equivalence::compare(&original, &mutated, &options).expect("the rules can be compared");
        let full =
            |difference: &&Difference| difference.a.tokens.iter().chain(&difference.b.tokens).all(|(_, token)| *token);
        let shown: Vec<Shown> = compared
            .differences
            .iter()
            .filter(full)
            .take(12)
            .flat_map(|of| {
                alike(of, [&original, &mutated]).into_iter().map(|packet| (packet, [of.a.verdict, of.b.verdict]))
            })
            .collect();
        let names = interfaces(named, &shown);
        let loaded = |dump: &str, sets: Option<&str>, ruleset: &Ruleset| {
            alone(|| {
                let mut kernel = Kernel::new(family, &names);
                kernel.load(dump, sets);
                fates(&mut kernel, ruleset, &shown)
            })
        };
        let before = loaded(&dump, ipset.as_deref(), &original);
        let after = loaded(&changed, changed_sets.as_deref(), &mutated);
        let both = || shown.iter().zip(before.iter().zip(&after));
        let found = both().find(|((_, [a, b]), fates)| *fates == (&Some(*a), &Some(*b)));
        match found {
            Some(((packet, [a, b]), _)) => {
                as_told += u32::from(compared.differences.iter().any(|difference| difference.packet == *packet));
                eprintln!("{name}, {family}: {}: {packet}: {a:?}, then {b:?}", edit.what);
            }
            None => {
                let told: Vec<String> = compared.differences.iter().take(5).map(ToString::to_string).collect();
                let tried: Vec<String> = both().map(|((packet, _), fates)| format!("{packet}: {fates:?}")).collect();
                failures.push(format!("{}: {}: {told:#?}, tried {tried:#?}", edit.what, edit.old));
            }
        }
    }
    let seen = count - failures.len();
    eprintln!(
        "{name}, {family}: {seen} of {count} mutations are seen by the kernel, {as_told} with a packet as it was told"
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_matters_is_told_by_the_comparison_and_the_kernel_ufw() {
    Family::BOTH.into_iter().for_each(|family| mutations("ufw", family));
}

#[test]
fn what_matters_is_told_by_the_comparison_and_the_kernel_shorewall() {
    Family::BOTH.into_iter().for_each(|family| mutations("shorewall", family));
}

#[test]
fn what_matters_is_told_by_the_comparison_and_the_kernel_kube_proxy() {
    Family::BOTH.into_iter().for_each(|family| mutations("kube-proxy", family));
}

#[test]
fn what_matters_is_told_by_the_comparison_and_the_kernel_enterprise() {
    Family::BOTH.into_iter().for_each(|family| mutations("enterprise", family));
}
