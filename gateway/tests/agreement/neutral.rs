//! Rules changed so that it does not matter: comparing says that they are equal.

use gateway::equivalence::{self, Answer, Options};
use gateway::model::Family;

use crate::edits::{self, Edit, v4, v6};
use crate::observer::alone;
use crate::rulesets::{ALL, Named};

const NEUTRAL: [Edit; 62] = [
    v4(
        "ufw",
        "disjoint rules swapped",
        "-A ufw-user-input -p tcp -m tcp --dport 53 -j ACCEPT\n-A ufw-user-input -p udp -m udp --dport 53 -j ACCEPT",
        "-A ufw-user-input -p udp -m udp --dport 53 -j ACCEPT\n-A ufw-user-input -p tcp -m tcp --dport 53 -j ACCEPT",
    ),
    v4(
        "ufw",
        "ports merged",
        "-A ufw-user-input -p tcp -m multiport --dports 80,443 -j ACCEPT\n-A ufw-user-input -p tcp -m tcp --dport 53 -j ACCEPT",
        "-A ufw-user-input -p tcp -m multiport --dports 53,80,443 -j ACCEPT",
    ),
    v4(
        "ufw",
        "ports split",
        "-A ufw-user-input -p tcp -m multiport --dports 80,443 -j ACCEPT",
        "-A ufw-user-input -p tcp -m tcp --dport 80 -j ACCEPT\n-A ufw-user-input -p tcp -m tcp --dport 443 -j ACCEPT",
    ),
    v4(
        "ufw",
        "a prefix split",
        "-A ufw-user-input -s 203.0.113.0/24 -j DROP",
        "-A ufw-user-input -s 203.0.113.128/25 -j DROP\n-A ufw-user-input -s 203.0.113.0/25 -j DROP",
    ),
    v4(
        "ufw",
        "a rule behind itself",
        "-A ufw-user-output -p tcp -m tcp --dport 25 -j DROP",
        "-A ufw-user-output -p tcp -m tcp --dport 25 -j DROP\n-A ufw-user-output -p tcp -m tcp --dport 25 -j DROP",
    ),
    v4(
        "ufw",
        "a rule that nothing comes to",
        "-A ufw-skip-to-policy-input -j DROP",
        "-A ufw-skip-to-policy-input -j DROP\n-A ufw-skip-to-policy-input -p tcp -j ACCEPT",
    ),
    v4("ufw", "an empty chain inlined", "-A INPUT -j ufw-track-input", ""),
    v4(
        "ufw",
        "a chain inlined",
        "-A ufw-after-input -p udp -m udp --dport 137 -j ufw-skip-to-policy-input",
        "-A ufw-after-input -p udp -m udp --dport 137 -j DROP",
    ),
    v4(
        "ufw",
        "states split",
        "-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A ufw-before-input -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A ufw-before-input -m conntrack --ctstate RELATED -j ACCEPT",
    ),
    v4(
        "ufw",
        "a range split within a rule",
        "-A ufw-user-forward -d 10.2.0.80/32 -i eth0 -o eth2 -p tcp -m multiport --dports 80,443,8000:8080 -j ACCEPT",
        "-A ufw-user-forward -d 10.2.0.80/32 -i eth0 -o eth2 -p tcp -m multiport --dports 8000:8040,443,80,8041:8080 -j ACCEPT",
    ),
    v4(
        "ufw",
        "a range split",
        "-A ufw-user-input -p udp -m multiport --dports 60000:61000 -j ACCEPT",
        "-A ufw-user-input -p udp -m udp --dport 60000:60511 -j ACCEPT\n-A ufw-user-input -p udp -m udp --dport 60512:61000 -j ACCEPT",
    ),
    v4(
        "ufw",
        "a jump to a chain that only logs removed",
        "-A ufw-user-input -s 192.0.2.10/32 -p tcp -m tcp --dport 5432 -j ufw-user-logging-input",
        "",
    ),
    v4(
        "ufw",
        "disjoint rules swapped",
        "-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN\n-A ufw-not-local -m addrtype --dst-type BROADCAST -j RETURN",
        "-A ufw-not-local -m addrtype --dst-type BROADCAST -j RETURN\n-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN",
    ),
    v6(
        "ufw",
        "disjoint rules swapped",
        "-A ufw6-before-input -p ipv6-icmp -m icmp6 --icmpv6-type 1 -j ACCEPT\n-A ufw6-before-input -p ipv6-icmp -m icmp6 --icmpv6-type 2 -j ACCEPT",
        "-A ufw6-before-input -p ipv6-icmp -m icmp6 --icmpv6-type 2 -j ACCEPT\n-A ufw6-before-input -p ipv6-icmp -m icmp6 --icmpv6-type 1 -j ACCEPT",
    ),
    v6(
        "ufw",
        "a prefix split",
        "-A ufw6-user-forward -s fd00:1::/64 -i eth1 -o eth0 -j ACCEPT",
        "-A ufw6-user-forward -s fd00:1::/65 -i eth1 -o eth0 -j ACCEPT\n-A ufw6-user-forward -s fd00:1:0:0:8000::/65 -i eth1 -o eth0 -j ACCEPT",
    ),
    v6(
        "ufw",
        "ports split",
        "-A ufw6-user-input -p tcp -m multiport --dports 80,443 -j ACCEPT",
        "-A ufw6-user-input -p tcp -m tcp --dport 443 -j ACCEPT\n-A ufw6-user-input -p tcp -m tcp --dport 80 -j ACCEPT",
    ),
    v6(
        "ufw",
        "a rule behind itself",
        "-A ufw6-user-output -p tcp -m tcp --dport 25 -j DROP",
        "-A ufw6-user-output -p tcp -m tcp --dport 25 -j DROP\n-A ufw6-user-output -p tcp -m tcp --dport 25 -j DROP",
    ),
    v6("ufw", "an empty chain inlined", "-A FORWARD -j ufw6-reject-forward", ""),
    v6(
        "ufw",
        "disjoint rules swapped",
        "-A ufw6-user-input -p tcp -m tcp --dport 53 -j ACCEPT\n-A ufw6-user-input -p udp -m udp --dport 53 -j ACCEPT",
        "-A ufw6-user-input -p udp -m udp --dport 53 -j ACCEPT\n-A ufw6-user-input -p tcp -m tcp --dport 53 -j ACCEPT",
    ),
    v4("shorewall", "a policy that nothing comes to", ":INPUT DROP [0:0]", ":INPUT ACCEPT [0:0]"),
    v4("shorewall", "a policy that nothing comes to", ":FORWARD DROP [0:0]", ":FORWARD ACCEPT [0:0]"),
    v4(
        "shorewall",
        "a rule that nothing comes to removed",
        "-A dmz-net -s 10.2.0.80/32 -d 192.0.2.53/32 -p udp -m udp --dport 53 -m comment --comment DNS -j ACCEPT",
        "",
    ),
    v4(
        "shorewall",
        "disjoint rules swapped",
        "-A fw-dmz -p tcp -m multiport --dports 80,443 -j ACCEPT\n-A fw-dmz -p icmp -j ACCEPT",
        "-A fw-dmz -p icmp -j ACCEPT\n-A fw-dmz -p tcp -m multiport --dports 80,443 -j ACCEPT",
    ),
    v4(
        "shorewall",
        "disjoint rules swapped",
        "-A loc_frwd -o eth0 -j loc-net\n-A loc_frwd -o eth2 -j loc-dmz",
        "-A loc_frwd -o eth2 -j loc-dmz\n-A loc_frwd -o eth0 -j loc-net",
    ),
    v4(
        "shorewall",
        "a rule that only logs removed",
        "-A logflags -m limit --limit 1/hour --limit-burst 10 -j LOG --log-prefix \"logflags DROP \" --log-level 6 --log-ip-options",
        "",
    ),
    v4(
        "shorewall",
        "a jump to a chain that always decides",
        "-A INPUT -i eth0 -j net-fw",
        "-A INPUT -i eth0 -g net-fw",
    ),
    v4(
        "shorewall",
        "rules that do the same swapped",
        "-A tcpflags -p tcp -m tcp --tcp-flags SYN,RST SYN,RST -g logflags\n-A tcpflags -p tcp -m tcp --tcp-flags FIN,RST FIN,RST -g logflags",
        "-A tcpflags -p tcp -m tcp --tcp-flags FIN,RST FIN,RST -g logflags\n-A tcpflags -p tcp -m tcp --tcp-flags SYN,RST SYN,RST -g logflags",
    ),
    v4(
        "shorewall",
        "a chain inlined",
        "-A net-dmz -j Broadcast",
        "-A net-dmz -d 10.0.0.255/32 -j DROP\n-A net-dmz -d 10.1.0.255/32 -j DROP\n-A net-dmz -d 10.2.0.255/32 -j DROP\n\
         -A net-dmz -d 255.255.255.255/32 -j DROP",
    ),
    v4(
        "shorewall",
        "ports split",
        "-A loc-net -s 10.1.0.0/24 -p udp -m multiport --dports 137:139,445 -g reject",
        "-A loc-net -s 10.1.0.0/24 -p udp -m udp --dport 445 -g reject\n-A loc-net -s 10.1.0.0/24 -p udp -m udp --dport 137:139 -g reject",
    ),
    v4(
        "shorewall",
        "a prefix split",
        "-A INPUT -d 224.0.0.0/4 -j DROP",
        "-A INPUT -d 224.0.0.0/5 -j DROP\n-A INPUT -d 232.0.0.0/5 -j DROP",
    ),
    v4("shorewall", "an empty chain inlined", "-A dmz-fw -m conntrack --ctstate INVALID,NEW,UNTRACKED -j dynamic", ""),
    v6("shorewall", "a policy that nothing comes to", ":OUTPUT DROP [0:0]", ":OUTPUT ACCEPT [0:0]"),
    v6("shorewall", "a rule that nothing comes to removed", "-A fw-dmz -p ipv6-icmp -j AllowICMPs", ""),
    v6(
        "shorewall",
        "a prefix split",
        "-A net-dmz -s 2001:db8:bad::/48 -j DROP",
        "-A net-dmz -s 2001:db8:bad:8000::/49 -j DROP\n-A net-dmz -s 2001:db8:bad::/49 -j DROP",
    ),
    v6(
        "shorewall",
        "a rule for all ICMP types of a chain that means few",
        "-A loc-fw -p ipv6-icmp -j AllowICMPs",
        "-A loc-fw -j AllowICMPs",
    ),
    v6(
        "shorewall",
        "disjoint rules swapped",
        "-A net_frwd -o eth1 -j net-loc\n-A net_frwd -o eth2 -j net-dmz",
        "-A net_frwd -o eth2 -j net-dmz\n-A net_frwd -o eth1 -j net-loc",
    ),
    v6(
        "shorewall",
        "a rule that nothing comes to removed",
        "-A dmz-net -s fd00:2::80/128 -d 2001:db8::53/128 -p udp -m udp --dport 53 -m comment --comment DNS -j ACCEPT",
        "",
    ),
    v4(
        "kube-proxy",
        "a rule about a mark that nobody sets removed",
        "-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT",
        "",
    ),
    v4(
        "kube-proxy",
        "a rule that nothing comes to removed",
        "-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack pod destination rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "",
    ),
    v4(
        "kube-proxy",
        "disjoint rules swapped",
        "-A KUBE-SERVICES -d 10.96.0.20/32 -p tcp -m comment --comment \"default/gone:p has no endpoints\" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable\n\
         -A KUBE-SERVICES -d 10.96.0.22/32 -p tcp -m comment --comment \"default/node-gone:p has no endpoints\" -m tcp --dport 8080 -j REJECT --reject-with icmp-port-unreachable",
        "-A KUBE-SERVICES -d 10.96.0.22/32 -p tcp -m comment --comment \"default/node-gone:p has no endpoints\" -m tcp --dport 8080 -j REJECT --reject-with icmp-port-unreachable\n\
         -A KUBE-SERVICES -d 10.96.0.20/32 -p tcp -m comment --comment \"default/gone:p has no endpoints\" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable",
    ),
    v4(
        "kube-proxy",
        "ports of a later rule merged in",
        "-A KUBE-SERVICES -d 10.96.0.20/32 -p tcp -m comment --comment \"default/gone:p has no endpoints\" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable",
        "-A KUBE-SERVICES -d 10.96.0.20/32 -p tcp -m multiport --dports 80,443 -j REJECT --reject-with icmp-port-unreachable",
    ),
    v4(
        "kube-proxy",
        "rules that do the same swapped",
        "-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES",
        "-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES\n\
         -A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES",
    ),
    v4("kube-proxy", "a chain that nothing jumps to removed", ":KUBE-PROXY-CANARY - [0:0]", ""),
    v6(
        "kube-proxy",
        "disjoint rules swapped",
        "-A KUBE-SERVICES -d fd00:96::14/128 -p udp -m comment --comment \"default/gone:u has no endpoints\" -m udp --dport 5000 -j REJECT --reject-with icmp6-port-unreachable\n\
         -A KUBE-SERVICES -d fd00:96::15/128 -p sctp -m comment --comment \"default/sctp:p has no endpoints\" -m sctp --dport 3868 -j REJECT --reject-with icmp6-port-unreachable",
        "-A KUBE-SERVICES -d fd00:96::15/128 -p sctp -m comment --comment \"default/sctp:p has no endpoints\" -m sctp --dport 3868 -j REJECT --reject-with icmp6-port-unreachable\n\
         -A KUBE-SERVICES -d fd00:96::14/128 -p udp -m comment --comment \"default/gone:u has no endpoints\" -m udp --dport 5000 -j REJECT --reject-with icmp6-port-unreachable",
    ),
    v6(
        "kube-proxy",
        "ports merged",
        "-A KUBE-SERVICES -d fd00:96::14/128 -p tcp -m comment --comment \"default/gone:p has no endpoints\" -m tcp --dport 80 -j REJECT --reject-with icmp6-port-unreachable\n\
         -A KUBE-SERVICES -d fd00:96::14/128 -p tcp -m comment --comment \"default/gone:tls has no endpoints\" -m tcp --dport 443 -j REJECT --reject-with icmp6-port-unreachable",
        "-A KUBE-SERVICES -d fd00:96::14/128 -p tcp -m multiport --dports 443,80 -j REJECT --reject-with icmp6-port-unreachable",
    ),
    v6(
        "kube-proxy",
        "states split",
        "-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack pod source rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A KUBE-FORWARD -m conntrack --ctstate RELATED -j ACCEPT\n-A KUBE-FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
    ),
    v6(
        "kube-proxy",
        "a rule behind itself",
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n-A KUBE-FORWARD -m conntrack --ctstate INVALID -j ACCEPT",
    ),
    v4(
        "enterprise",
        "a jump to a chain that always decides",
        "-A FORWARD -i lan0 -o dmz0 -j lan-dmz",
        "-A FORWARD -i lan0 -o dmz0 -g lan-dmz",
    ),
    v4(
        "enterprise",
        "what comes back is dropped either way",
        "-A FORWARD -i dmz0 -o lan0 -g dmz-lan",
        "-A FORWARD -i dmz0 -o lan0 -j dmz-lan",
    ),
    v4(
        "enterprise",
        "an element split",
        "add feeds4 172.16.64.0/19",
        "add feeds4 172.16.64.0/20\nadd feeds4 172.16.80.0/20",
    ),
    v4(
        "enterprise",
        "a prefix split",
        "-A dmz-srv -d 10.30.6.0/24 -p tcp -m tcp --dport 1162 -m comment --comment \"dmz-srv service 6\" -j REJECT --reject-with tcp-reset",
        "-A dmz-srv -d 10.30.6.0/25 -p tcp -m tcp --dport 1162 -j REJECT --reject-with tcp-reset\n\
         -A dmz-srv -d 10.30.6.128/25 -p tcp -m tcp --dport 1162 -j REJECT --reject-with tcp-reset",
    ),
    v4(
        "enterprise",
        "ports in another order",
        "-A dmz-srv -s 10.20.0.8/32 -d 10.30.0.8/32 -p tcp -m multiport --ports 1185,1188 -j ACCEPT",
        "-A dmz-srv -s 10.20.0.8/32 -d 10.30.0.8/32 -p tcp -m multiport --ports 1188,1185 -j ACCEPT",
    ),
    v4(
        "enterprise",
        "rules that do the same swapped",
        "-A SANITY -p tcp -m tcp --tcp-flags ACK,URG URG -g BADFLAGS\n-A SANITY -p tcp -m tcp --tcp-flags FIN,ACK FIN -g BADFLAGS",
        "-A SANITY -p tcp -m tcp --tcp-flags FIN,ACK FIN -g BADFLAGS\n-A SANITY -p tcp -m tcp --tcp-flags ACK,URG URG -g BADFLAGS",
    ),
    v4(
        "enterprise",
        "a rule that only logs removed",
        "-A LOGDROP -m limit --limit 1/hour --limit-burst 10 -j LOG --log-prefix \"dropped: \"",
        "",
    ),
    v4("enterprise", "a return at the end removed", "-A ICMP -j RETURN", ""),
    v4("enterprise", "a return at the end removed", "-A SHARED -j RETURN", ""),
    v4(
        "enterprise",
        "a range split",
        "-A dmz-srv -p tcp -m iprange --src-range 10.20.0.26-10.20.0.43 -m tcp --dport 1599:1608 -j REJECT --reject-with icmp-net-prohibited",
        "-A dmz-srv -p tcp -m iprange --src-range 10.20.0.26-10.20.0.30 -m tcp --dport 1599:1608 -j REJECT --reject-with icmp-net-prohibited\n\
         -A dmz-srv -p tcp -m iprange --src-range 10.20.0.31-10.20.0.43 -m tcp --dport 1599:1608 -j REJECT --reject-with icmp-net-prohibited",
    ),
    v6(
        "enterprise",
        "a chain inlined",
        "-A dmz-srv -d 2001:db8:1e:9::/112 -p sctp -m sctp --dport 1231 -m comment --comment \"dmz-srv service 9\" -j DROP",
        "-A dmz-srv -d 2001:db8:1e:9::/112 -p sctp -m sctp --dport 1231 -m comment --comment \"dmz-srv service 9\" -j LOGDROP",
    ),
    v6(
        "enterprise",
        "ports split",
        "-A dmz-srv -p udp -m multiport --ports 1737,1740 -j ACCEPT",
        "-A dmz-srv -p udp -m multiport --ports 1740 -j ACCEPT\n-A dmz-srv -p udp -m multiport --ports 1737 -j ACCEPT",
    ),
    v6(
        "enterprise",
        "an element split",
        "add feeds6 2001:db8:f002::/48",
        "add feeds6 2001:db8:f002::/49\nadd feeds6 2001:db8:f002:8000::/49",
    ),
    v6(
        "enterprise",
        "disjoint rules swapped",
        "-A dmz-srv -s 2001:db8:14:b::/64 -d 2001:db8:1e:b::/64 -p tcp -m tcp --dport 1277:1281 -j LOGDROP\n\
         -A dmz-srv -s 2001:db8:14:c::/64 -d 2001:db8:1e:c::/64 -p udp -m multiport --dports 1300,1302,1305,1308:1312 -m comment --comment \"dmz-srv service 12\" -j ACCEPT",
        "-A dmz-srv -s 2001:db8:14:c::/64 -d 2001:db8:1e:c::/64 -p udp -m multiport --dports 1300,1302,1305,1308:1312 -m comment --comment \"dmz-srv service 12\" -j ACCEPT\n\
         -A dmz-srv -s 2001:db8:14:b::/64 -d 2001:db8:1e:b::/64 -p tcp -m tcp --dport 1277:1281 -j LOGDROP",
    ),
    v6(
        "enterprise",
        "a rule behind itself",
        "-A LOGREJECT -p udp -j REJECT --reject-with icmp6-port-unreachable",
        "-A LOGREJECT -p udp -j REJECT --reject-with icmp6-port-unreachable\n-A LOGREJECT -p udp -j DROP",
    ),
];

#[test]
fn what_does_not_matter_is_equal() {
    for (name, family) in ALL.into_iter().flat_map(|name| Family::BOTH.map(|family| (name, family))) {
        let named = Named { name, family };
        let (dump, ipset) = alone(|| named.slow_dump());
        let original = named.import(&dump, ipset.as_deref());
        for edit in edits::of(&NEUTRAL, named) {
            let (changed, changed_sets) = edit.apply(&dump, ipset.as_deref());
            let changed = named.import(&changed, changed_sets.as_deref());
            let compared =
                equivalence::compare(&original, &changed, &Options::default()).expect("they can be compared");
            assert_eq!(compared.answer(), Answer::Equal, "{named:?}: {}: {}: {compared:#?}", edit.what, edit.old);
        }
    }
}
