//! Every contender forwards what its rules allow and drops what they do not, in the real kernel, before it is compared.
//! Needs root.

use std::time::Duration;

use penstock_bench::compare::contender::{Kind, Layout, PortKind, Running, Setting, userspace};
use penstock_bench::compare::topology::Family;
use penstock_bench::compare::workload::packets::Ends;
use penstock_bench::compare::workload::{Flows, Turn, reach};

/// Sets a contender up, checks it, and takes it down.
fn check(kind: Kind, family: Family) {
    if let Some(reason) = kind.missing() {
        assert!(std::env::var_os("CI").is_none(), "{}: {reason}", kind.name());
        println!("skipped {}: {reason}", kind.name());
        return;
    }
    let layout = if kind.is_userspace() { Layout::TwoCpus } else { Layout::OneCpu };
    let setting = Setting { family, active: 256, flows: 4_096, ..Setting::new(kind, 100, layout) };
    let mut running = Running::start(setting).unwrap_or_else(|error| panic!("{}: {error:#}", kind.name()));
    let mut ends = Ends::open(&running).expect("putting counters at the ends");
    ends.check(&running).unwrap_or_else(|error| panic!("{} {}: {error:#}", kind.name(), family.name()));
    ends.establish(&running).unwrap_or_else(|error| panic!("{} {}: {error:#}", kind.name(), family.name()));
    // More than any memory holds, and all one way: no port but the first ever receives.
    let turn = Turn { settle: Duration::from_millis(200), measure: Duration::from_millis(200) };
    ends.flood(&mut running, Flows::Established, turn)
        .unwrap_or_else(|error| panic!("{} {}: {error:#}", kind.name(), family.name()));
}

#[test]
fn peers_in_the_kernel_decide_alike() {
    for kind in [
        Kind::Forwarding,
        Kind::IptablesLegacy,
        Kind::IptablesNft,
        Kind::IptablesLegacyConntrack,
        Kind::IptablesNftConntrack,
        Kind::Calico,
        Kind::Ipset,
        Kind::NftExact,
        Kind::NftInterval,
        Kind::NftConntrackInterval,
    ] {
        for family in [Family::V4, Family::V6] {
            check(kind, family);
        }
    }
    for kind in [Kind::XdpRedirect, Kind::XdpPolicy, Kind::XdpConntrackPolicy] {
        check(kind, Family::V4);
    }
}

#[test]
fn penstock_decides_as_its_peers_do() {
    // The subcommands are in the command, not in this test.
    userspace::use_program(env!("CARGO_BIN_EXE_penstock-bench").into());
    for port in [PortKind::AfXdp, PortKind::AfPacket, PortKind::Tap] {
        for family in [Family::V4, Family::V6] {
            check(Kind::Penstock(port), family);
        }
        check(Kind::Bare(port), Family::V4);
    }
    check(Kind::PenstockStateless(PortKind::AfXdp), Family::V4);
    check(Kind::PenstockList(PortKind::AfPacket), Family::V4);
    check(Kind::PenstockList(PortKind::AfPacket), Family::V6);
}

#[test]
fn clients_are_checked_by_what_is_denied_too() {
    let start = |kind, is_pair| {
        let setting = Setting { is_pair, flows: 4_096, ..Setting::new(kind, 100, Layout::Clients) };
        let running = Running::start(setting).unwrap_or_else(|error| panic!("{}: {error:#}", kind.name()));
        running.go_on();
        running
    };
    userspace::use_program(env!("CARGO_BIN_EXE_penstock-bench").into());
    for (kind, is_pair) in [
        (Kind::Penstock(PortKind::AfPacket), false),
        (Kind::Penstock(PortKind::AfPacket), true),
        (Kind::Bare(PortKind::AfPacket), true),
    ] {
        reach::check(&start(kind, is_pair))
            .unwrap_or_else(|error| panic!("{}, pair {is_pair}: {error:#}", kind.name()));
    }
    // One that is said to have rules and lets everything pass.
    let mut open = start(Kind::Forwarding, false);
    open.setting.kind = Kind::Ipset;
    let error = reach::check(&open).expect_err("a denied connection was answered");
    assert!(error.to_string().contains("not allowed"), "{error:#}");
}
