"""The ten manifests of deploy/examples, over the ten pods of its world; and policies that come, change and go."""
import json
import re
from concurrent.futures import ThreadPoolExecutor

from suite import needs_penstock
from world import OUTSIDE, ROOT, Failure, Passed, Place, say, until

EXAMPLES = ROOT / "deploy/examples"


def decode(text):
    """JSON documents one after the other; lists are taken apart."""
    decoder, at, found = json.JSONDecoder(), 0, []
    while at < len(text.rstrip()):
        document, at = decoder.raw_decode(text, at)
        found += document["items"] if document["kind"].endswith("List") else [document]
        while at < len(text) and text[at].isspace():
            at += 1
    return found


class Expectation:
    """A file of deploy/examples/expected: everything passes but what `denied` names; of that, what `passes` names does after all."""

    def __init__(self, path):
        sections = {"denied": [], "passes": []}
        for line in path.read_text().splitlines():
            if named := re.match(r"(denied|passes):", line):
                section = sections[named[1]]
            elif line.startswith("- {"):
                section.append(dict(re.findall(r'(\w+): "?([^",}]+)', line)))
        self.denied, self.passing = sections["denied"], sections["passes"]

    def passes(self, origin, target, protocol, port):
        def is_meant(word, who):
            if word == "outside":
                return who in OUTSIDE
            return word in ("*", who) or (word.endswith("/*") and who.startswith(word[:-1]))

        def matches(entry):
            same_port = entry.get("port", f"{protocol.upper()}/{port}") == f"{protocol.upper()}/{port}"
            return is_meant(entry["from"], origin) and is_meant(entry["to"], target) and same_port

        return not any(map(matches, self.denied)) or any(map(matches, self.passing))


class World:
    """The ten pods, on two nodes where there are two, and the addresses outside."""

    def __init__(self, cluster):
        namespaces, pods = (decode_file(cluster, name) for name in ("namespaces.yaml", "pods.yaml"))
        cluster.apply(*namespaces)
        for namespace in namespaces:
            name = namespace["metadata"]["name"]
            until(f"a service account in {name}", 15, lambda: cluster.kubectl("get", "serviceaccount", "-n", name, "default", check=False))
        manifests, self.ports = [], {}
        for pod in pods:
            metadata, spec = pod["metadata"], pod["spec"]
            ports = [(p["protocol"].lower(), p["containerPort"]) for p in spec["containers"][0]["ports"]]
            self.ports[f"{metadata['namespace']}/{metadata['name']}"] = ports
            node = spec["nodeName"].replace("-", "") if cluster.nodes > 1 else "node1"
            manifests.append(cluster.manifest(metadata["namespace"], metadata["name"], metadata.get("labels"), [p for kind, p in ports if kind == "tcp"], node=node))
        self.cluster, self.pods = cluster, {str(pod): pod for pod in cluster.start(*manifests)}
        for name, ports in self.ports.items():
            if udp := [f"udp/{port}" for kind, port in ports if kind == "udp"]:
                cluster.serve(self.pods[name], *udp)

    def seen(self):
        """What passes: by origin, target, protocol and port."""
        answers = {}
        origins = {**self.pods, **{address: Place("client", address) for address in OUTSIDE}}

        def ask(name, origin):
            wanted = [(other, kind, port) for other, ports in self.ports.items() for kind, port in ports if other != name]
            if name in self.pods:
                wanted += [(address, kind, port) for address in OUTSIDE for kind, port in [("tcp", 80), ("tcp", 443), ("tcp", 5978), ("udp", 53)]]
            targets = [(self.pods.get(other, other), port, kind) for other, kind, port in wanted]
            for (other, kind, port), answer in zip(wanted, self.cluster.probe(origin, targets, attempts=2, timeout=2)):
                answers[name, other, kind, port] = answer

        # Nearly all of the time goes by in waiting for what does not come.
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(ask, *item) for item in origins.items()]:
                done.result()
        return answers

    def compare(self, expectation):
        """The lines that are not as expected, and how many there are at all."""
        seen = self.seen()
        wrong = []
        for (origin, target, kind, port), answer in seen.items():
            expected = "yes" if expectation is None or expectation.passes(origin, target, kind, port) else "no"
            if answer != expected:
                wrong.append(f"{origin} to {target} {kind}/{port}: expected {expected}, saw {answer}")
        return wrong, len(seen)

    def delete(self):
        for name in self.pods:
            namespace, pod = name.split("/")
            self.cluster.kubectl("delete", "pod", "-n", namespace, pod, "--grace-period=1", "--wait=false")


def decode_file(cluster, name):
    return decode(cluster.kubectl("create", "--dry-run=client", "--validate=false", "-o", "json", "-f", EXAMPLES / "world" / name))


@needs_penstock
def ten_manifests(cluster):
    world = World(cluster)
    try:
        wrong, count = world.compare(None)
        if wrong:
            raise Failure(f"without a policy, {len(wrong)} of {count} do not pass: {'; '.join(wrong[:5])}")
        say(f"without a policy all {count} pairs pass")
        failures = []
        for example in sorted(EXAMPLES.glob("[01][0-9]-*")):
            cluster.kubectl("apply", "--validate=false", "-f", example)
            expectation = Expectation(EXAMPLES / "expected" / f"{example.name}.yaml")
            wrong, count = world.compare(expectation)
            denied = sum(1 for key in world_keys(world) if not expectation.passes(*key))
            say(f"{example.name}: {count - len(wrong)} of {count} pairs as expected, {denied} of them denied")
            failures += [f"{example.name}: {line}" for line in wrong]
            cluster.kubectl("delete", "-f", example)
        if failures:
            kind = Passed if all("expected no, saw yes" in line for line in failures) else Failure
            raise kind(f"{len(failures)} pairs: {'; '.join(failures[:6])}")
        wrong, count = world.compare(None)
        if wrong:
            raise Failure(f"after all policies are gone: {'; '.join(wrong[:5])}")
    finally:
        world.delete()


def world_keys(world):
    """All that `World.seen` asks between pods."""
    for origin in [*world.pods, *OUTSIDE]:
        for target, ports in world.ports.items():
            for kind, port in ports:
                if target != origin:
                    yield origin, target, kind, port


@needs_penstock
def added_changed_deleted(cluster):
    namespace = cluster.namespace()
    web, friend, stranger = cluster.start(
        cluster.manifest(namespace, "web", {"app": "web"}, [80, 8080]),
        cluster.manifest(namespace, "friend", {"role": "friend"}),
        cluster.manifest(namespace, "stranger", {"role": "stranger"}, node=f"node{cluster.nodes}"),
    )
    both = [(friend, 80), (stranger, 80), (friend, 8080)]
    for origin, port in both:
        cluster.reach(origin, web, port, "yes")

    def rule(role, port):
        return {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": role}}}], "ports": [{"port": port}]}]}

    steps = {
        "added": (rule("friend", 80), ["yes", "no", "no"]),
        "changed to another peer": (rule("stranger", 80), ["no", "yes", "no"]),
        "changed to another port": (rule("friend", 8080), ["no", "no", "yes"]),
    }
    for step, (spec, answers) in steps.items():
        cluster.apply(cluster.policy(namespace, "rule", spec))
        waited = max(cluster.reach(origin, web, port, answer) for (origin, port), answer in zip(both, answers))
        say(f"policy {step}: seen {waited:.1f} s later, connections included")
    cluster.kubectl("delete", "networkpolicy", "-n", namespace, "rule")
    for origin, port in both:
        cluster.reach(origin, web, port, "yes")


@needs_penstock
def named_ports(cluster):
    namespace = cluster.namespace()
    ports = lambda number: {"ports": [{"name": "web", "containerPort": number}]}
    one, two, client = cluster.start(
        cluster.manifest(namespace, "one", {"app": "web"}, [80, 8080], container=ports(80)),
        cluster.manifest(namespace, "two", {"app": "web"}, [80, 8080], container=ports(8080)),
        cluster.manifest(namespace, "client"),
    )
    cluster.apply(cluster.policy(namespace, "named", {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"ports": [{"port": "web"}]}]}))
    for pod, port, answer in [(one, 80, "yes"), (one, 8080, "no"), (two, 80, "no"), (two, 8080, "yes")]:
        cluster.reach(client, pod, port, answer)
    say("one name is port 80 of one pod and 8080 of the other")


@needs_penstock
def address_block_with_except(cluster):
    namespace = cluster.namespace()
    web, pod = cluster.start(cluster.manifest(namespace, "web", {"app": "web"}), cluster.manifest(namespace, "other"))
    block = {"ipBlock": {"cidr": "172.17.0.0/16", "except": ["172.17.1.0/24"]}}
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": [block]}], "egress": [{"to": [block]}]}
    cluster.apply(cluster.policy(namespace, "block", spec))
    for address, answer in [("172.17.0.10", "yes"), ("172.17.1.10", "no"), ("203.0.113.10", "no")]:
        cluster.reach(Place("client", address), web, 80, answer)
        cluster.reach(web, address, 443, answer)
    cluster.reach(pod, web, 80, "no")
    say("172.17.0.10 passes both ways; 172.17.1.10, which is excepted, and the rest of the world do not")


@needs_penstock
def labels_change(cluster):
    namespace, theirs = cluster.namespace(), cluster.namespace({"team": "none"})
    web, client = cluster.start(cluster.manifest(namespace, "web", {"app": "web"}), cluster.manifest(theirs, "client", {"role": "none"}))
    peers = [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"role": "friend"}}}, {"namespaceSelector": {"matchLabels": {"team": "friends"}}}]
    cluster.apply(cluster.policy(namespace, "friends", {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": peers}]}))
    cluster.reach(client, web, 80, "no")
    for kind, name, where, label, other in [("pod", "client", ["-n", theirs], "role=friend", "role=none"), ("namespace", theirs, [], "team=friends", "team=none")]:
        for labels, answer in [(label, "yes"), (other, "no")]:
            cluster.kubectl("label", "--overwrite", kind, name, *where, labels)
            waited = cluster.reach(client, web, 80, answer)
            say(f"{kind} labelled {labels}: {answer} after {waited:.1f} s")
    # What selects the pod that a policy protects changes as well.
    cluster.kubectl("label", "--overwrite", "pod", "-n", namespace, "web", "app=free")
    cluster.reach(client, web, 80, "yes")


TESTS = [ten_manifests, added_changed_deleted, named_ports, address_block_with_except, labels_change]
