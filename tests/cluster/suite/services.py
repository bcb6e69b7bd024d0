"""Services: what policies mean where kube-proxy rewrites addresses."""
import json
import signal
import subprocess
import time

from installation import Installation
from suite import needs_penstock
from world import Failure, Passed, Place, say, until


class Service:
    """A Service with a NodePort and the address of a load balancer."""

    def __init__(self, manifest, balanced):
        self.namespace, self.name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        self.address, self.balanced = manifest["spec"]["clusterIP"], balanced
        self.node_port = manifest["spec"]["ports"][0].get("nodePort")


def service(namespace, name, selector, external, protocol, port=80, kind="LoadBalancer"):
    """The manifest of a Service for the pods of a selector."""
    ports = [{"protocol": protocol.upper(), "port": port, "targetPort": port}]
    spec = {"type": kind, "selector": selector, "ports": ports}
    if kind != "ClusterIP":
        spec["externalTrafficPolicy"] = external
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name}, "spec": spec}


def balance(cluster, made, address):
    """Gives a Service the address of a load balancer, as its controller would."""
    made["status"] = {"loadBalancer": {"ingress": [{"ip": address}]}}
    path = f"/api/v1/namespaces/{made['metadata']['namespace']}/services/{made['metadata']['name']}/status"
    cluster.kubectl("replace", "--raw", path, "-f", "-", stdin=json.dumps(made))


def expose(cluster, namespace, name, selector, external="Cluster", balanced=None, protocol="tcp", port=80, kind="LoadBalancer"):
    """A Service for the pods of a selector, with the endpoints that it has by now."""
    cluster.apply(service(namespace, name, selector, external, protocol, port, kind))
    made = cluster.get("service", "-n", namespace, name)
    if balanced:
        balance(cluster, made, balanced)
    wait_for_endpoints(cluster, namespace, [name])
    return Service(made, balanced)


# Who asks: a pod that a policy names and one that none does, clients outside of whom one is in a policy's block, the node, and the pod itself.
ALLOWED, STRANGER = Place("client", "172.17.0.10"), Place("client", "203.0.113.10")
NODE, OTHER = Place("node1", "10.254.0.11"), Place("node2", "10.254.0.12")
SETTINGS = ("originalClient", "postSnat", "allow")
# What lets in whom: nobody, the block of the one client, another block, the pod.
POLICIES = {
    "default-deny": [],
    "block-of-the-client": [{"from": [{"ipBlock": {"cidr": "172.17.0.0/24"}}]}],
    "another-block": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}],
    "the-pod": [{"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}]}],
}


def expected(policy, origin, hidden, setting):
    """What a connection comes to: by whom it seems to come from, unless somebody is hidden behind the node and is found."""
    if origin in ("node", "itself"):
        return "yes"
    allowed = (policy, origin) in (("block-of-the-client", "allowed"), ("the-pod", "friend"))
    if hidden and setting != "originalClient":
        # The node's own address is in none of the blocks.
        return "yes" if setting == "allow" else "no"
    return "yes" if allowed else "no"


def expose_all(cluster, namespace, webs):
    """Services over both protocols with both external traffic policies, made at once."""
    wanted = [(web, external, protocol) for web in webs for external in ("Cluster", "Local") for protocol in ("tcp", "udp")]
    name = lambda web, external, protocol: f"{web.name}-{external.lower()}-{protocol}"
    cluster.apply(*(service(namespace, name(*one), {"web": one[0].name}, one[1], one[2]) for one in wanted))
    for web in webs:
        cluster.serve(web, "udp/80")
    made = {one["metadata"]["name"]: one for one in cluster.get("services", "-n", namespace)["items"]}
    for number, one in enumerate(wanted):
        balance(cluster, made[name(*one)], f"198.51.100.{number + 1}")
    wait_for_endpoints(cluster, namespace, made)
    return [(*one, Service(made[name(*one)], f"198.51.100.{number + 1}")) for number, one in enumerate(wanted)]


def wait_for_endpoints(cluster, namespace, names):
    """Waits until each of these Services has ready endpoints."""
    def ready():
        listed = {one["metadata"]["name"]: one.get("subsets") for one in cluster.get("endpoints", "-n", namespace)["items"]}
        return all("addresses" in (listed.get(name) or [{}])[0] for name in names)

    until("all endpoints are ready", 60, ready, every=0.3)


def build(cluster):
    """For each policy a pod with Services over both protocols and with both external traffic policies; and who asks."""
    namespace = cluster.namespace()
    names = {f"web-{number}": policy for number, policy in enumerate(POLICIES)}
    manifests = [cluster.manifest(namespace, name, {"web": name}, readinessProbe={"httpGet": {"port": 80, "path": "/"}, "periodSeconds": 1}) for name in names]
    for manifest in manifests:
        manifest["spec"]["containers"][0]["readinessProbe"] = manifest["spec"].pop("readinessProbe")
    manifests.append(cluster.manifest(namespace, "friend", {"role": "friend"}))
    *webs, friend = cluster.start(*manifests)
    made = expose_all(cluster, namespace, webs)
    for web in webs:
        policy = names[web.name]
        cluster.apply(cluster.policy(namespace, policy, {"podSelector": {"matchLabels": {"web": web.name}}, "policyTypes": ["Ingress"], "ingress": POLICIES[policy]}))
    for _, _, _, service in made:
        cluster.route_outside(service.balanced, NODE)
        # Nobody outside should know it; who does, and sends it to a node, comes in like any other.
        cluster.route_outside(service.address, NODE)
    return names, webs, friend, made


def cells(names, webs, friend, made):
    """Each cell of the table: the policy, who asks, from where, to which address and port, and whether the node's address hides who asks."""
    for web, external, protocol, service in made:
        frontends = {"ClusterIP": (service.address, 80), "NodePort": (NODE.address, service.node_port), "LoadBalancer": (service.balanced, 80)}
        for frontend, (address, port) in frontends.items():
            for name, origin in (("friend", friend), ("allowed", ALLOWED), ("stranger", STRANGER), ("node", NODE), ("itself", web)):
                # kube-proxy hides who comes from outside, unless the Service wants it seen; of pods, only those that come by a node's port.
                outside = name in ("allowed", "stranger")
                hidden = (outside and frontend == "ClusterIP") or (external == "Cluster" and frontend != "ClusterIP")
                yield names[web.name], name, origin, (frontend, external, protocol), (address, port, protocol), hidden


@needs_penstock
def the_whole_table(cluster):
    """{ClusterIP, NodePort, LoadBalancer} x {pod, clients outside, node, itself} x {Cluster, Local} x policies x protocols, for each setting."""
    penstock, world = Installation(cluster), build(cluster)
    webs = world[1]
    for setting in SETTINGS if penstock.is_installed() else SETTINGS[:1]:
        if setting != SETTINGS[0]:
            penstock.upgrade(f"nodePort={setting}")
            settle(cluster, world)
        wrong, count = compare(cluster, list(cells(*world)), setting)
        everything_ready(cluster, webs, 5)
        if wrong:
            kind = Passed if all(seen == "yes" for *_, seen in wrong) else Failure
            raise kind(f"nodePort {setting}: {len(wrong)} of {count} cells are not as expected: " + "; ".join(" ".join(map(str, one)) for one in wrong[:12]))
        say(f"nodePort {setting}: {count} cells as expected, kubelet's probes never failed")


def settle(cluster, world):
    """While a node's daemon was replaced, probes may have failed: waits until all Services have their endpoints again, on all nodes."""
    _, webs, _, made = world
    everything_ready(cluster, webs, 60)
    wait_for_endpoints(cluster, webs[0].namespace, [service.name for *_, service in made])
    time.sleep(2)


def everything_ready(cluster, pods, seconds):
    cluster.kubectl("wait", "-n", pods[0].namespace, "--for=condition=Ready", f"--timeout={seconds}s", *(f"pod/{pod.name}" for pod in pods), timeout=seconds + 20)


def compare(cluster, listed, setting):
    """Tries all cells, those that are not as expected a second time: what was lost once is no verdict."""
    wrong = []
    for origin in {id(cell[2]): cell[2] for cell in listed}.values():
        mine = [cell for cell in listed if cell[2] is origin]
        for begin in range(0, len(mine), 48):
            part = mine[begin : begin + 48]
            for attempt in range(2):
                seen = cluster.probe(origin, [cell[4] for cell in part], attempts=1, timeout=1.5)
                pairs = [(cell, got) for cell, got in zip(part, seen) if got != expected(cell[0], cell[1], cell[5], setting)]
                part = [cell for cell, _ in pairs]
                if not part:
                    break
            wrong += [(cell[0], cell[1], *cell[3], got) for cell, got in pairs]
    return wrong, len(listed)


def drops_of(cluster, pod):
    """Dropped frames of a pod, by reason."""
    told = Installation(cluster).tell(pod.node, "pods", "-o", "json")
    listed = [json.loads(line) for line in told.splitlines()] if not told.startswith("[") else json.loads(told)
    return next(one["drops"] for one in listed if one["pod"] == str(pod))


@needs_penstock
def another_node_hides_whom_nobody_can_find(cluster):
    """A client that comes by a port of another node: dropped for a reason of its own, unless the Service keeps the client's address."""
    namespace = cluster.namespace()
    [web] = cluster.start(cluster.manifest(namespace, "web", {"app": "web"}))
    service = expose(cluster, namespace, "web", {"app": "web"}, kind="NodePort")
    cluster.reach(STRANGER, OTHER.address, service.node_port, "yes")
    cluster.apply(cluster.policy(namespace, "client", {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}]}))
    cluster.reach(STRANGER, OTHER.address, service.node_port, "no")
    cluster.reach(STRANGER, NODE.address, service.node_port, "yes")
    drops = drops_of(cluster, web)
    if not drops.get("other_node"):
        raise Failure(f"the drops have no reason other_node: {drops}")
    say(f"by node2, where nobody can tell who it is: denied, {drops}; by node1: allowed")


@needs_penstock
def services_are_judged_by_their_endpoints(cluster):
    """Egress that allows only the pods behind a Service, by the Service's name, asked of a DNS server that is behind a Service too."""
    namespace = cluster.namespace()
    dns, backend, stranger = cluster.start(cluster.manifest(namespace, "dns", {"role": "dns"}), cluster.manifest(namespace, "backend", {"app": "web", "tier": "open"}), cluster.manifest(namespace, "stranger", {"app": "other"}))
    service = expose(cluster, namespace, "web", {"app": "web"}, kind="ClusterIP")
    forbidden = expose(cluster, namespace, "other", {"app": "other"}, kind="ClusterIP")
    names = {"web.example": service.address, "other.example": forbidden.address}
    words = [f"--address=/{name}/{address}" for name, address in names.items()]
    server = subprocess.Popen([*dns.enter(), "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--pid-file=", *words], stderr=subprocess.DEVNULL)
    cluster.children.append(server)
    resolver = expose(cluster, namespace, "dns", {"role": "dns"}, kind="ClusterIP", protocol="udp", port=53)
    [client] = cluster.start(cluster.manifest(namespace, "client", {"role": "client"}, dnsPolicy="None", dnsConfig={"nameservers": [resolver.address]}))

    def fetch(name):
        """Asks the pod's resolver, which is a Service, and speaks to the address that it answers."""
        # It fails for want of an IPv6 address, after it has told of the other one.
        told = cluster.kubectl("exec", "-n", namespace, client.name, "--", "timeout", "6", "nslookup", name, check=False)
        addresses = [line.split()[1] for line in told.partition("Name:")[2].splitlines() if line.startswith("Address:")]
        return bool(addresses) and cluster.probe(client, [(addresses[0], 80)], attempts=1)[0] == "yes"

    until("without a policy both names lead somewhere", 10, lambda: fetch("web.example") and fetch("other.example"))
    egress = [{"to": [{"podSelector": {"matchLabels": {"role": "dns"}}}], "ports": [{"port": 53, "protocol": "UDP"}]}, {"to": [{"podSelector": {"matchLabels": {"tier": "open"}}}]}]
    cluster.apply(cluster.policy(namespace, "client", {"podSelector": {"matchLabels": {"role": "client"}}, "policyTypes": ["Egress"], "egress": egress}))
    try:
        until("the other Service is out of reach", 10, lambda: not fetch("other.example"))
    except Failure as failure:
        raise Passed(str(failure)) from None
    if not fetch("web.example"):
        raise Failure("a Service whose endpoints are allowed is out of reach by its name")
    cluster.kubectl("label", "pod", "-n", namespace, backend.name, "tier=closed", "--overwrite")
    until("the Service is out of reach when its endpoints' labels have changed", 10, lambda: not fetch("web.example"))
    cluster.kubectl("label", "pod", "-n", namespace, backend.name, "tier=open", "--overwrite")
    until("and back", 10, lambda: fetch("web.example"))
    # A second endpoint, which is not allowed: nobody can tell beforehand which of them is reached.
    cluster.kubectl("label", "pod", "-n", namespace, stranger.name, "app=web", "--overwrite")
    until("some endpoints are no endpoints", 10, lambda: not fetch("web.example"))
    drops = drops_of(cluster, client)
    if not drops.get("service_mixed") or not drops.get("service_denied"):
        raise Failure(f"the drops have no reasons service_mixed and service_denied: {drops}")
    say(f"a Service by its name: as its endpoints' labels say; {drops}")


@needs_penstock
def endpoints_come_and_go_under_a_connection(cluster):
    """A connection to a Service goes on while its own endpoint is allowed, whatever endpoints come beside it."""
    namespace = cluster.namespace()
    mine, other, client = cluster.start(cluster.manifest(namespace, "mine", {"app": "web", "tier": "open"}), cluster.manifest(namespace, "other", {"app": "none"}), cluster.manifest(namespace, "client", {"role": "client"}))
    service = expose(cluster, namespace, "web", {"app": "web"}, kind="ClusterIP", protocol="udp", port=5000)
    egress = [{"to": [{"podSelector": {"matchLabels": {"tier": "open"}}}]}]
    cluster.apply(cluster.policy(namespace, "client", {"podSelector": {"matchLabels": {"role": "client"}}, "policyTypes": ["Egress", "Ingress"], "egress": egress}))
    time.sleep(1)
    stream = cluster.background(mine, "stream", 5000, 9, 200)
    heard = cluster.background(client, "listen", f"udp/{service.address}/5000", 10, ready=False)
    time.sleep(1)
    cluster.kubectl("label", "pod", "-n", namespace, other.name, "app=web", "--overwrite")
    time.sleep(1)
    # The rules of the client are other ones now, so that its flows are judged again: one endpoint of two is allowed.
    cluster.apply(cluster.policy(namespace, "more", {"podSelector": {"matchLabels": {"role": "client"}}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]}))
    time.sleep(2)
    cluster.kubectl("label", "pod", "-n", namespace, other.name, "app=none", "--overwrite")
    time.sleep(1)
    cluster.apply(cluster.policy(namespace, "more", {"podSelector": {"matchLabels": {"role": "client"}}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "192.0.3.0/24"}}]}]}))
    got, sent = cluster.finish(heard), cluster.finish(stream)
    if got["received"] < sent["sent"] - 20 or got["silence"] > 1:
        raise Failure(f"of {sent['sent']} datagrams {got['received']} came, the longest silence {got['silence']} s")
    say(f"{got['received']} of {sent['sent']} datagrams, longest silence {got['silence']} s, while endpoints came and went and policies changed")
    # Its own endpoint is not allowed any more.
    stream = cluster.background(mine, "stream", 5001, 6, 100)
    again = expose(cluster, namespace, "again", {"app": "web"}, kind="ClusterIP", protocol="udp", port=5001)
    time.sleep(2)
    heard = cluster.background(client, "listen", f"udp/{again.address}/5001", 7, ready=False)
    time.sleep(2)
    cluster.kubectl("label", "pod", "-n", namespace, mine.name, "tier=closed", "--overwrite")
    got, sent = cluster.finish(heard), cluster.finish(stream)
    if not 50 < got["received"] < sent["sent"] - 150:
        raise (Passed if got["received"] > 500 else Failure)(f"of {sent['sent']} datagrams {got['received']} came, though the endpoint was allowed for 2 s only")
    say(f"cut when its endpoint's labels changed: {got['received']} of {sent['sent']} datagrams")


def lookups_stall(cluster):
    """The process that asks the kernel is stopped for three seconds: nothing opens, what is open goes on, and afterwards all is as before."""
    penstock, namespace = Installation(cluster), cluster.namespace()
    [web] = cluster.start(cluster.manifest(namespace, "web", {"app": "web"}))
    service = expose(cluster, namespace, "web", {"app": "web"}, kind="NodePort")
    flowing = expose(cluster, namespace, "flowing", {"app": "web"}, kind="NodePort", protocol="udp", port=5000)
    cluster.apply(cluster.policy(namespace, "client", {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"ipBlock": {"cidr": "172.17.0.0/24"}}]}]}))
    cluster.reach(STRANGER, NODE.address, service.node_port, "no")
    cluster.reach(ALLOWED, NODE.address, service.node_port, "yes")
    stream = cluster.background(web, "stream", 5000, 9, 200)
    heard = cluster.background(Place("client", ALLOWED.address), "listen", f"udp/{NODE.address}/{flowing.node_port}/{ALLOWED.address}", 10, ready=False)
    time.sleep(1)
    penstock.signal("node1", "run", signal.SIGSTOP)
    try:
        seen = [cluster.probe(origin, [(NODE.address, service.node_port)] * 100, attempts=1, timeout=2) for origin in (STRANGER, ALLOWED)]
    finally:
        penstock.signal("node1", "run", signal.SIGCONT)
    opened = [sum(answer == "yes" for answer in answers) for answers in seen]
    got, sent = cluster.finish(heard), cluster.finish(stream)
    cluster.reach(ALLOWED, NODE.address, service.node_port, "yes")
    cluster.reach(STRANGER, NODE.address, service.node_port, "no")
    if opened[0]:
        raise Passed(f"{opened[0]} of 100 connections of a client that is not allowed were opened")
    if got["received"] < sent["sent"] - 20:
        raise Failure(f"an open connection lost {sent['sent'] - got['received']} of {sent['sent']} datagrams")
    drops = drops_of(cluster, web)
    say(f"stopped: {opened[0]} and {opened[1]} of 100 connections opened, of the open one {got['received']} of {sent['sent']} datagrams; {drops}")


def kube_proxy_is_absent(cluster):
    """Without kube-proxy the node's address is the node's: said so, and nothing is asked."""
    penstock, namespace = Installation(cluster), cluster.namespace()
    [web] = cluster.start(cluster.manifest(namespace, "web", {"app": "web"}, node="node2"))
    cluster.isolate(namespace, "Ingress")
    cluster.reach(OTHER, web, 80, "yes")
    cluster.script("stop", "node2", "kube-proxy")
    try:
        # What a process has seen to be rewritten it remembers.
        penstock.signal("node2", "dataplane")
        until("kube-proxy is missed", 90, lambda: any("kube-proxy" in problem for problem in penstock.status("node2")["problems"]))
        cluster.reach(OTHER, web, 80, "yes")
        [told] = [problem for problem in penstock.status("node2")["problems"] if "kube-proxy" in problem]
    finally:
        cluster.script("start", "node2", "kube-proxy")
    until("kube-proxy is there again", 60, lambda: not any("kube-proxy" in problem for problem in penstock.status("node2")["problems"]))
    cluster.reach(OTHER, web, 80, "yes")
    say(f"told: {told[:120]}…")


# The table ends with another setting than it began with: it is the last.
TESTS = [another_node_hides_whom_nobody_can_find, services_are_judged_by_their_endpoints, endpoints_come_and_go_under_a_connection, lookups_stall, kube_proxy_is_absent, the_whole_table]
