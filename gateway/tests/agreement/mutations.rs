//! Rules changed so that it matters: comparing finds a packet, and the kernel treats that packet otherwise, too.

use gateway::equivalence::{self, Difference, Options};
use gateway::judge::Verdict;
use gateway::model::{Family, Ruleset, States};

use crate::drive::prepare;
use crate::edits;
use crate::fates::Fates;
use crate::kernel::Kernel;
use crate::observer::alone;
use crate::packet::{Packet, SYN, TCP, UDP, icmp_of};
use crate::planted::MUTATIONS;
use crate::rulesets::Named;
use crate::solver::first_state;

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
        options: false,
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

/// Other packets than a counter-example that the same rules decide: of a state and a protocol that go together.
fn alike(difference: &Difference, rulesets: [&Ruleset; 2]) -> Vec<equivalence::Packet> {
    let own = &difference.packet;
    let family = Family::of(own.destination);
    let error = if family == Family::V4 { 0x0301 } else { 0x0103 };
    let mut packets = Vec::new();
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
fn interfaces(named: Named, shown: &[Shown]) -> Vec<&str> {
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
        let differences: Vec<&Difference> = compared.differences.iter().filter(full).take(12).collect();
        // As they were told first.
        let alike =
            differences.iter().flat_map(|of| alike(of, [&original, &mutated]).into_iter().map(move |to| (of, to)));
        let told = differences.iter().map(|of| (of, of.packet.clone()));
        let shown: Vec<Shown> = told.chain(alike).map(|(of, packet)| (packet, [of.a.verdict, of.b.verdict])).collect();
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
