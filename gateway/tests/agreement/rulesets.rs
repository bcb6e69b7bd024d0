//! The rule sets, and for each the rules that no packet can meet.

use std::path::PathBuf;
use std::sync::Arc;

use gateway::import;
use gateway::model::{Family, Ruleset};

use crate::fates::slow_limits;
use crate::kernel::{Kernel, own, run};

/// A rule set for one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named {
    pub(crate) name: &'static str,
    pub(crate) family: Family,
}

/// All of them.
pub(crate) const ALL: [&str; 4] = ["ufw", "shorewall", "kube-proxy", "enterprise"];

/// Beginnings of the lines of rules that no packet meets, each with the reason.
type Unreachable = &'static [(&'static str, &'static str)];

const NOTHING_JUMPS: &str = "nothing jumps to this chain";

const UFW4: Unreachable = &[
    ("-A ufw-user-limit ", NOTHING_JUMPS),
    ("-A ufw-user-limit-accept ", NOTHING_JUMPS),
    ("-A ufw-logging-allow ", NOTHING_JUMPS),
    ("-A ufw-skip-to-policy-forward ", NOTHING_JUMPS),
    ("-A ufw-skip-to-policy-output ", NOTHING_JUMPS),
];
const UFW6: Unreachable = &[
    ("-A ufw6-user-limit ", NOTHING_JUMPS),
    ("-A ufw6-user-limit-accept ", NOTHING_JUMPS),
    ("-A ufw6-logging-allow ", NOTHING_JUMPS),
    ("-A ufw6-skip-to-policy-forward ", NOTHING_JUMPS),
    ("-A ufw6-skip-to-policy-output ", NOTHING_JUMPS),
];
const MARTIAN: &str = "the IP layer drops what comes from there";
const NO_GROUPS: &str = "the IP layer forwards to groups only with multicast routing";
const BEHIND_ALL: &str = "the rules before it mean all that it means";
const SHOREWALL4: Unreachable = &[
    ("-A logdrop ", NOTHING_JUMPS),
    ("-A logreject ", NOTHING_JUMPS),
    ("-A smurfs -s 255.255.255.255/32 ", MARTIAN),
    ("-A smurfs -s 224.0.0.0/4 ", MARTIAN),
    ("-A FORWARD -d 224.0.0.0/4 ", NO_GROUPS),
    ("-A dmz-loc -d 224.0.0.0/4 ", NO_GROUPS),
    ("-A dmz-net -d 224.0.0.0/4 ", NO_GROUPS),
    ("-A loc-dmz -d 224.0.0.0/4 ", NO_GROUPS),
    ("-A net-dmz -d 224.0.0.0/4 ", NO_GROUPS),
    ("-A net-loc -d 224.0.0.0/4 ", NO_GROUPS),
    ("-A dmz-net -s 10.2.0.80/32 -d 192.0.2.53/32 ", BEHIND_ALL),
];
const SHOREWALL6: Unreachable = &[
    ("-A logdrop ", NOTHING_JUMPS),
    ("-A logreject ", NOTHING_JUMPS),
    ("-A FORWARD -d ff00::/8 ", NO_GROUPS),
    ("-A dmz-loc -d ff00::/8 ", NO_GROUPS),
    ("-A dmz-net -d ff00::/8 ", NO_GROUPS),
    ("-A loc-dmz -d ff00::/8 ", NO_GROUPS),
    ("-A net-dmz -d ff00::/8 ", NO_GROUPS),
    ("-A net-loc -d ff00::/8 ", NO_GROUPS),
    ("-A dmz-net -s fd00:2::80/128 -d 2001:db8::53/128 ", BEHIND_ALL),
    ("-A fw-dmz -p ipv6-icmp -j AllowICMPs", BEHIND_ALL),
    ("-A fw-loc -p ipv6-icmp -j AllowICMPs", BEHIND_ALL),
    ("-A fw-net -p ipv6-icmp -j AllowICMPs", BEHIND_ALL),
];
const KUBE_PROXY: Unreachable = &[
    ("-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark", "nobody sets the mark"),
    (
        "-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack pod destination rule\"",
        "the rule before it means the same packets",
    ),
];

impl Named {
    /// The names of the interfaces that the rules speak of.
    pub(crate) fn interfaces(self) -> &'static [&'static str] {
        match self.name {
            "enterprise" => &["wan0", "wan1", "lan0", "lan1", "dmz0", "srv0", "mgmt0", "vpn0", "vpn1"],
            // No rule speaks of the last one.
            _ => &["eth0", "eth1", "eth2", "eth3"],
        }
    }

    /// The interfaces between which wires are made: all of them, or few where there are many, with their numbers.
    pub(crate) fn wired(self, all: bool) -> Vec<(usize, &'static str)> {
        let few = |name: &str| self.name == "enterprise" && ["wan1", "lan1", "mgmt0", "vpn1"].contains(&name);
        self.interfaces().iter().copied().enumerate().filter(|(_, name)| all || !few(name)).collect()
    }

    pub(crate) fn unreachable(self) -> Unreachable {
        match (self.name, self.family) {
            ("ufw", Family::V4) => UFW4,
            ("ufw", Family::V6) => UFW6,
            ("shorewall", Family::V4) => SHOREWALL4,
            ("shorewall", Family::V6) => SHOREWALL6,
            ("kube-proxy", _) => KUBE_PROXY,
            _ => &[],
        }
    }

    fn version(self) -> &'static str {
        if self.family == Family::V4 { "v4" } else { "v6" }
    }

    /// What `iptables-save` or `ip6tables-save` printed, and `ipset save`.
    pub(crate) fn dump(self) -> (String, Option<String>) {
        let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/rulesets"));
        if self.name != "enterprise" {
            let path = directory.join(format!("{}.{}", self.name, self.version()));
            return (std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}")), None);
        }
        // It is written for iptables-restore: the kernel is asked how iptables-save prints it.
        let script = directory.join("enterprise.py");
        let script = |what: &str| run(&["python3", script.to_str().expect("a path"), what], "");
        let kernel = Kernel::new(self.family, &[]);
        kernel.load(&script(self.version()), Some(&script("ipset")));
        (kernel.saved(), Some(run(&["ipset", "save"], "")))
    }

    /// The dump with limits that a test can count with.
    pub(crate) fn slow_dump(self) -> (String, Option<String>) {
        let (dump, ipset) = self.dump();
        (slow_limits(&dump), ipset)
    }

    /// Imports a dump of this rule set, or one made from it.
    pub(crate) fn import(self, dump: &str, ipset: Option<&str>) -> Ruleset {
        let mut options = import::Options::new(self.family, Arc::from(format!("{}.{}", self.name, self.version())));
        options.ipset = ipset.map(|text| (Arc::from("ipset"), text.to_owned()));
        let length = if self.family == Family::V4 { 32 } else { 128 };
        let address = |index| format!("{}/{length}", own(self.family, index)).parse().expect("an address");
        options.local = (0..self.interfaces().len()).map(address).collect();
        let imported = import::import(dump, &options);
        imported.unwrap_or_else(|errors| panic!("{self:?} is not taken over: {errors:#?}")).ruleset
    }
}
