#!/usr/bin/env python3
"""Writes the enterprise rule set: `enterprise.py ipset|v4|v6` prints what `ipset restore`, `iptables-restore` or
`ip6tables-restore` reads. The same every time."""
import random
import sys

ZONES = {
    "wan": ["wan0", "wan1"],
    "lan": ["lan0", "lan1"],
    "dmz": ["dmz0"],
    "srv": ["srv0"],
    "mgmt": ["mgmt0"],
    "vpn": ["vpn+"],
}
NETS = {"wan": 0, "lan": 10, "dmz": 20, "srv": 30, "mgmt": 40, "vpn": 50}
RULES = 2000


class Family:
    """How addresses, ICMP and refusals are written in a family."""

    def __init__(self, v6):
        self.v6 = v6
        self.random = random.Random(7 if v6 else 5)
        self.names = {}

    def host(self, zone, number):
        second, third, fourth = NETS[zone], number // 250, number % 250 + 1
        if self.v6:
            return f"2001:db8:{second:x}:{third:x}::{fourth:x}"
        if zone == "wan":
            return f"198.51.{100 + third % 4}.{fourth}"
        return f"10.{second}.{third}.{fourth}"

    def net(self, zone, number, short):
        if self.v6:
            base = f"2001:db8:{NETS[zone]:x}:{number % 250:x}::"
            return f"{base}/{64 if short else 112}"
        if zone == "wan":
            return f"198.51.{100 + number % 4}.{number % 16 * 16}/28"
        base = f"10.{NETS[zone]}.{number % 250}"
        return f"{base}.0/24" if short else f"{base}.{number % 8 * 32}/27"

    def range(self, zone, number):
        first = self.host(zone, number // 250 * 250 + number % 200)
        last = self.host(zone, number // 250 * 250 + number % 200 + 17)
        return f"{first}-{last}"

    def icmp(self, name):
        number = {
            "echo-request": ("8", "128"),
            "echo-reply": ("0", "129"),
            "unreachable": ("3", "1"),
            "too-big": ("3/4", "2"),
            "time-exceeded": ("11", "3"),
            "parameter": ("12", "4"),
            "host-unreachable": ("3/1", "1/3"),
        }[name][self.v6]
        return f"-p ipv6-icmp -m icmp6 --icmpv6-type {number}" if self.v6 else f"-p icmp -m icmp --icmp-type {number}"

    def reject(self, number):
        v4 = ["icmp-port-unreachable", "icmp-net-unreachable", "icmp-host-unreachable", "icmp-proto-unreachable",
              "icmp-net-prohibited", "icmp-host-prohibited", "icmp-admin-prohibited"]
        v6 = ["icmp6-port-unreachable", "icmp6-no-route", "icmp6-addr-unreachable", "icmp6-adm-prohibited",
              "icmp6-policy-fail", "icmp6-reject-route"]
        kinds = v6 if self.v6 else v4
        return f"-j REJECT --reject-with {kinds[number % len(kinds)]}"

    def set(self, name):
        return f"{name}{'6' if self.v6 else '4'}"


def ipset():
    lines = []
    for v6 in (False, True):
        family = Family(v6)
        pick = family.random
        inet = "inet6" if v6 else "inet"
        end = f"family {inet} hashsize 1024 maxelem 65536"
        lines.append(f"create {family.set('blocked')} hash:ip {end}")
        lines += [f"add {family.set('blocked')} {family.host('wan', 70 + 2 * n)}" for n in range(120)]
        lines.append(f"create {family.set('feeds')} hash:net {end}")
        for n in range(80):
            wide = f"2001:db8:f{n:03x}::/48" if v6 else f"172.{16 + n // 8}.{n % 8 * 32}.0/19"
            hole = f"2001:db8:f{n:03x}:7::/64" if v6 else f"172.{16 + n // 8}.{n % 8 * 32 + 3}.0/24"
            back = f"2001:db8:f{n:03x}:7::9" if v6 else f"172.{16 + n // 8}.{n % 8 * 32 + 3}.9"
            lines.append(f"add {family.set('feeds')} {wide}")
            if n % 3 == 0:
                lines.append(f"add {family.set('feeds')} {hole} nomatch")
            if n % 6 == 0:
                lines.append(f"add {family.set('feeds')} {back}")
        lines.append(f"create {family.set('services')} hash:ip,port {end}")
        message = "icmpv6:echo-request" if v6 else "icmp:echo-request"
        for n in range(90):
            what = [f"tcp:{20000 + n}", f"udp:{21000 + n}", message, f"sctp:{22000 + n}"][n % 4]
            lines.append(f"add {family.set('services')} {family.host('dmz', n)},{what}")
        lines.append(f"create {family.set('partners')} hash:net,port {end}")
        for n in range(90):
            what = [f"tcp:{23000 + n}", f"udp:{24000 + n}"][n % 2]
            lines.append(f"add {family.set('partners')} {family.net('wan', n, True)},{what}")
            if n % 10 == 0 and not v6:
                lines.append(f"add {family.set('partners')} 198.51.{100 + n % 4}.{n % 16 * 16 + 5}/32,{what} nomatch")
        lines.append(f"create {family.set('admins')} hash:ip {end}")
        lines += [f"add {family.set('admins')} {family.host('mgmt', pick.randrange(200))}" for _ in range(12)]
    # An element drawn twice is one element.
    return list(dict.fromkeys(lines))


def pair_rule(family, chain, source, target, number):
    """One rule of a pair of zones; `number` makes it another one than the others of the chain."""
    pick = family.random
    port = 1024 + number * 23
    protocol = pick.choice(["tcp", "tcp", "udp"])
    who = pick.choice(["", f"-s {family.net(source, number, True)} ", f"-s {family.host(source, number)} ",
                       f"! -s {family.net(source, number + 1, False)} "])
    whom = pick.choice(["", f"-d {family.host(target, number)} ", f"-d {family.net(target, number, False)} ",
                        f"-d {family.net(target, number, True)} "])
    comment = f' -m comment --comment "{chain} service {number}"' if number % 3 == 0 else ""
    verdict = pick.choice(["-j ACCEPT", "-j ACCEPT", "-j ACCEPT", "-j DROP", family.reject(number), "-j LOGDROP"])
    start = f"-A {chain} {who}{whom}"
    kind = number % 12
    if kind == 0:
        ports = ",".join(str(port + n) for n in (0, 2, 5)) + f",{port + 8}:{port + 12}"
        return f"{start}-p {protocol} -m multiport --dports {ports}{comment} {verdict}"
    if kind == 1:
        return (f"-A {chain} -p {protocol} -m iprange --src-range {family.range(source, number)} "
                f"-m {protocol} --dport {port}:{port + 9}{comment} {verdict}")
    if kind == 2:
        return (f"-A {chain} {who}-p {protocol} -m iprange --dst-range {family.range(target, number)} "
                f"-m {protocol} --dport {port}{comment} {verdict}")
    if kind == 3:
        return f"{start}-p tcp -m tcp --sport 1024:65535 --dport {port} -m conntrack --ctstate NEW{comment} {verdict}"
    if kind == 4:
        return f"{start}-p udp -m udp --sport {port} --dport {port}{comment} {verdict}"
    if kind == 5:
        return f"{start}-p tcp -m tcp --dport {port} --tcp-flags FIN,SYN,RST,ACK SYN{comment} {verdict}"
    if kind == 6:
        return f"{start}-p tcp -m tcp --dport {port}{comment} -j REJECT --reject-with tcp-reset"
    if kind == 7:
        return f"{start}-p {protocol} -m multiport --ports {port},{port + 3}{comment} {verdict}"
    if kind == 8:
        return f"{start}-p tcp -m tcp ! --sport {port} --dport {port + 1}{comment} {verdict}"
    if kind == 9:
        return f"{start}-p sctp -m sctp --dport {port}{comment} {verdict}"
    if kind == 10:
        return f"{start}-p udp -m multiport ! --sports {port},{port + 4} -m udp --dport {port + 6}{comment} {verdict}"
    return f"{start}-p {protocol} -m {protocol} --dport {port}:{port + 4}{comment} {verdict}"


def filter_table(v6):
    family = Family(v6)
    pairs = [(one, other) for one in ZONES for other in ZONES if one != other]
    chains = ["SANITY", "BADFLAGS", "LOGDROP", "LOGREJECT", "INVALID", "BLOCKED", "ICMP", "SHARED"]
    chains += [f"{one}-{other}" for one, other in pairs] + [f"{zone}-fw" for zone in ZONES] + ["fw-out"]
    rules = []
    add = rules.append

    limit = "-m limit --limit 5/min --limit-burst 10"
    for hook in ("INPUT", "FORWARD"):
        if hook == "INPUT":
            add("-A INPUT -i lo -j ACCEPT")
        add(f"-A {hook} -p tcp -j SANITY")
        add(f"-A {hook} -m conntrack --ctstate INVALID -j INVALID")
        add(f"-A {hook} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
        add(f"-A {hook} -m set --match-set {family.set('blocked')} src -j BLOCKED")
        add(f"-A {hook} -m set --match-set {family.set('feeds')} src -j BLOCKED")
        add(f"-A {hook} -m set --match-set {family.set('feeds')} dst -j LOGREJECT")
        add(f"-A {hook} -p {'ipv6-icmp' if v6 else 'icmp'} -j ICMP")
    for zone, interfaces in ZONES.items():
        for interface in interfaces:
            add(f"-A INPUT -i {interface} -g {zone}-fw")
    for one, other in pairs:
        for a in ZONES[one]:
            for b in ZONES[other]:
                add(f"-A FORWARD -i {a} -o {b} -{'g' if a < b else 'j'} {one}-{other}")
    add("-A FORWARD -i lan0 -o lan1 -j ACCEPT")
    add("-A FORWARD ! -i lan1 -o lan0 -j LOGDROP")
    add("-A OUTPUT -o lo -j ACCEPT")
    add("-A OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
    add("-A OUTPUT -j fw-out")

    for mask, flags in [("FIN,SYN,RST,PSH,ACK,URG", "NONE"), ("FIN,SYN", "FIN,SYN"), ("SYN,RST", "SYN,RST"),
                        ("FIN,RST", "FIN,RST"), ("FIN,SYN,RST,PSH,ACK,URG", "FIN,PSH,URG"), ("ACK,URG", "URG"),
                        ("FIN,ACK", "FIN"), ("PSH,ACK", "PSH")]:
        add(f"-A SANITY -p tcp -m tcp --tcp-flags {mask} {flags} -g BADFLAGS")
    add("-A SANITY -i vpn+ -p tcp -m tcp --dport 1:7 -j RETURN")
    add("-A SANITY -p tcp -m tcp --sport 0 -j LOGDROP")
    add("-A SANITY -p tcp -m tcp --dport 1:7 -j DROP")
    add(f'-A BADFLAGS {limit} -j LOG --log-prefix "bad flags: " --log-level 4')
    add("-A BADFLAGS -j DROP")
    add(f'-A LOGDROP {limit} -j LOG --log-prefix "dropped: "')
    add("-A LOGDROP -j DROP")
    add(f'-A LOGREJECT {limit} -j LOG --log-prefix "refused: "')
    add("-A LOGREJECT -p tcp -j REJECT --reject-with tcp-reset")
    add("-A LOGREJECT -p udp " + family.reject(0))
    add("-A LOGREJECT " + family.reject(3))
    add("-A INVALID -p tcp -m tcp --tcp-flags SYN,ACK SYN,ACK -j LOGDROP")
    add("-A INVALID -j DROP")
    add(f"-A BLOCKED -m set --match-set {family.set('admins')} dst -p tcp -m tcp --dport 22 -j RETURN")
    add(f"-A BLOCKED -p tcp -m multiport --dports 80,443 {limit.replace('5/min', '1/hour')} -j ACCEPT")
    add("-A BLOCKED -j LOGDROP")
    add(f"-A ICMP {family.icmp('echo-request')} -m limit --limit 10000/sec --limit-burst 10000 -j ACCEPT")
    for name in ("host-unreachable", "too-big", "time-exceeded"):
        add(f"-A ICMP {family.icmp(name)} -j ACCEPT")
    add(f"-A ICMP {family.icmp('parameter')} -j LOGDROP")
    add(f"-A ICMP ! -i wan0 {family.icmp('unreachable')} -j ACCEPT")
    add("-A ICMP -j RETURN")
    add(f"-A SHARED -m set --match-set {family.set('services')} dst,dst -j ACCEPT")
    add(f"-A SHARED -m set --match-set {family.set('partners')} src,dst -j ACCEPT")
    add(f"-A SHARED -p tcp -m set ! --match-set {family.set('partners')} src,dst -m tcp --dport 23000:23100 -j REJECT "
        "--reject-with tcp-reset")
    add(f"-A SHARED -p udp -m set ! --match-set {family.set('admins')} src -m udp --dport 161:162 -j DROP")
    add("-A SHARED -j RETURN")
    for number, zone in enumerate(ZONES):
        chain = f"{zone}-fw"
        add(f"-A {chain} -p tcp -m set --match-set {family.set('admins')} src -m tcp --dport 22 -j ACCEPT")
        add(f"-A {chain} -p udp -m multiport --dports 53,123 -j ACCEPT")
        if v6:
            add(f"-A {chain} -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT")
            add(f"-A {chain} -p ipv6-icmp -m icmp6 --icmpv6-type 136 -j ACCEPT")
        if zone == "vpn":
            add(f"-A {chain} -p esp -j ACCEPT")
            add(f"-A {chain} -p gre -j LOGREJECT")
        add(f"-A {chain} -p tcp -m tcp --dport {8000 + number} -m conntrack --ctstate NEW,UNTRACKED -j ACCEPT")
        add(f"-A {chain} -j {'LOGDROP' if zone == 'wan' else 'LOGREJECT'}")
    add("-A fw-out -p tcp -m tcp --dport 25 -j REJECT --reject-with tcp-reset")
    add(f"-A fw-out -m set --match-set {family.set('blocked')} dst {family.reject(6)}")
    add("-A fw-out -p udp -m multiport --dports 53,123,514 -j ACCEPT")
    add(f"-A fw-out -d {family.net('srv', 3, True)} -j ACCEPT")
    add("-A fw-out -m conntrack ! --ctstate NEW -j ACCEPT")
    add("-A fw-out -o wan+ -p tcp -m tcp --dport 1024:65535 -j LOGDROP")

    ends = len(pairs) * 2
    each = (RULES - len(rules) - ends) // len(pairs)
    extra = RULES - len(rules) - ends - each * len(pairs)
    for index, (one, other) in enumerate(pairs):
        chain = f"{one}-{other}"
        add(f"-A {chain} -j SHARED")
        for number in range(each + (index < extra)):
            add(pair_rule(family, chain, one, other, number))
        add(f"-A {chain} " + ["-j LOGDROP", "-j LOGREJECT", "-j RETURN"][index % 3])

    lines = ["*filter", ":INPUT DROP [0:0]", ":FORWARD DROP [0:0]", ":OUTPUT ACCEPT [0:0]"]
    lines += [f":{chain} - [0:0]" for chain in chains] + rules + ["COMMIT"]
    return lines


if __name__ == "__main__":
    what = sys.argv[1]
    print("\n".join(ipset() if what == "ipset" else filter_table(what == "v6")))
