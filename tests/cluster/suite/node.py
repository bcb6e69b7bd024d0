"""A node: pods that run before Penstock, what is left when it goes, other plugins of the chain, and versions of CNI."""
import json
import subprocess
import time

from installation import TAINT, Installation
from interruptions import report_of
from suite import needs_penstock
from world import CACHE, PROBE, ROOT, Failure, Place, say, until


@needs_penstock
def running_pods_are_adopted(cluster):
    """Installs Penstock while pods run and talk; to be called on a cluster without it."""
    penstock, namespace = Installation(cluster), cluster.namespace()
    web, client, stranger = cluster.start(*[cluster.manifest(namespace, name, {"app": name}) for name in ("web", "client", "stranger")])
    cluster.apply(cluster.policy(namespace, "client", {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]}))
    cluster.reach(stranger, web, 80, "yes", within=0)
    streaming = cluster.background(web, "stream", 7001, 30, 500)
    listening = cluster.background(client, "listen", f"udp/{web.address}/7001", 31, ready=False)
    server = subprocess.Popen([*web.enter(), "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    bulk = subprocess.Popen([*client.enter(), "iperf3", "-c", web.address, "-t", "24", "-b", "100M", "-J"], stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(2)
        penstock.install()
        cluster.reach(stranger, web, 80, "no", within=20)
        cluster.reach(client, web, 80, "yes", within=0)
        report = report_of(bulk, 100)
        sent, heard = cluster.finish(streaming)["sent"], cluster.finish(listening)
    finally:
        server.kill()
        bulk.kill()
    say(f"adopted while it ran: {sent - heard['received']} of {sent} datagrams lost, longest silence {heard['silence']} s; TCP: {report.get('error') or 'went on'}")
    if heard["last"] < sent - 500 or "error" in report:
        raise Failure("a flow that policy allows did not outlive the adoption")


@needs_penstock
def uninstalled_without_a_trace(cluster):
    """`helm uninstall`: pods keep a working network. The last test of all."""
    penstock, namespace = Installation(cluster), cluster.namespace()
    web, client = cluster.start(cluster.manifest(namespace, "web", {"app": "web"}), cluster.manifest(namespace, "client"))
    cluster.isolate(namespace, "Ingress")
    cluster.reach(client, web, 80, "no")
    penstock.uninstall()
    cluster.reach(client, web, 80, "yes", within=30)
    for node in penstock.nodes():
        if traces := penstock.traces(node):
            raise Failure(f"left on {node}: {', '.join(traces)}")
        # Helm does not wait for the pods of what it deletes: these have nothing left to do but end.
        until(f"the processes on {node} end", 30, lambda node=node: not penstock.processes(node, "run") + penstock.processes(node, "dataplane"))
    links = cluster.on("node1", "ip", "-o", "link")
    [later] = cluster.start(cluster.manifest(namespace, "later"))
    cluster.reach(later, web, 80, "yes")
    for pod in (web, client, later):
        pod.delete()
    until("the pods' interfaces are gone", 60, lambda: len(cluster.on("node1", "ip", "-o", "link").splitlines()) <= len(links.splitlines()))
    say("pods that ran, and one made later, reach one another; nothing of Penstock is on the nodes")


def ports_of_the_node(cluster):
    """The portmap plugin of the same chain."""
    namespace = cluster.namespace()
    manifest = cluster.manifest(namespace, "web", container={"ports": [{"containerPort": 80, "hostPort": 8088}]})
    cluster.start(manifest)
    cluster.reach(Place("client", "203.0.113.10"), "10.254.0.11", 8088, "yes")
    say("hostPort 8088 of the node leads to the pod")


def bandwidth_is_limited(cluster):
    """The bandwidth plugin of the same chain, where the primary's chain has it."""
    if cluster.primary == "vpc":
        return say("the VPC CNI's chain has no bandwidth plugin")
    namespace = cluster.namespace()
    limits = {"kubernetes.io/ingress-bandwidth": "20M", "kubernetes.io/egress-bandwidth": "20M"}
    slow, client = cluster.start(cluster.manifest(namespace, "slow", annotations=limits), cluster.manifest(namespace, "client"))
    server = subprocess.Popen([*slow.enter(), "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    try:
        done = subprocess.run([*client.enter(), "iperf3", "-c", slow.address, "-t", "6", "-O", "2", "-J"], capture_output=True, text=True, timeout=60)
        rate = json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 1e6
    finally:
        server.kill()
    say(f"a pod that is limited to 20 Mbit/s received {rate:.0f} Mbit/s")
    if not 5 < rate < 40:
        raise Failure(f"limited to 20 Mbit/s, received {rate:.0f}")


def versions_by_cnitool(cluster):
    """The node's chain as 0.4.0 and as 1.0.0: ADD, CHECK, connections, DEL. Containerd uses 0.4.0 with ptp and vpc, 1.0.0 with bridge."""
    namespace = cluster.namespace()
    [web] = cluster.start(cluster.manifest(namespace, "web"))
    limits = {"bandwidth": {f"{way}{what}": 100_000_000 for way in ("ingress", "egress") for what in ("Rate", "Burst")}}
    listing = cluster.on("node1", "sh", "-c", "cat $(ls /etc/cni/net.d/*.conflist | head -1)")
    for version in ("0.4.0", "1.0.0"):
        name = "tool" + version.replace(".", "")
        # A pod of the API server that no kubelet starts: its sandbox is made here.
        cluster.apply(cluster.manifest(namespace, name, node="elsewhere"))
        uid = cluster.get("pod", "-n", namespace, name)["metadata"]["uid"]
        who = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid};K8S_POD_INFRA_CONTAINER_ID={name}"
        chain = json.loads(listing) | {"cniVersion": version, "name": name}
        # portmap's CHECK fails in the release that Debian has, with and without Penstock.
        chain["plugins"] = [plugin for plugin in chain["plugins"] if plugin["type"] != "portmap"]
        cluster.on("node1", "sh", "-c", f"mkdir -p /run/{name}; cat >/run/{name}/10.conflist; ip netns add {name}", stdin=json.dumps(chain))
        tool = ["env", f"NETCONFPATH=/run/{name}", "CNI_PATH=/opt/cni/bin", f"CNI_ARGS={who}", f"CAP_ARGS={json.dumps(limits)}", f"{CACHE}/bin/cnitool"]
        try:
            cluster.on("node1", *tool, "add", name, f"/run/netns/{name}")
            cluster.on("node1", *tool, "check", name, f"/run/netns/{name}")
            seen = cluster.on("node1", "ip", "netns", "exec", name, "/usr/bin/python3", PROBE, "reach", 3, 3, f"tcp/{web.address}/80")
            if json.loads(seen) != ["yes"]:
                raise Failure(f"CNI {version}: from the sandbox to {web}: {seen}")
        finally:
            cluster.on("node1", *tool, "del", name, f"/run/netns/{name}", check=False)
            cluster.on("node1", "sh", "-c", f"ip netns delete {name}; rm -r /run/{name}")
        say(f"CNI {version} by cnitool: ADD, CHECK, connections and DEL")


@needs_penstock
def asked_by_kubectl(cluster):
    """`kubectl penstock`, the taint of a fresh node, and Events of denied traffic."""
    namespace = cluster.namespace()
    web, stranger = cluster.start(cluster.manifest(namespace, "web", {"app": "web"}), cluster.manifest(namespace, "stranger"))
    cluster.isolate(namespace, "Ingress", selector={"matchLabels": {"app": "web"}})
    cluster.reach(stranger, web, 80, "no")
    status = cluster.penstock("status")
    if "node1:" not in status or "node2:" not in status:
        raise Failure(f"kubectl penstock status: {status}")
    if f"{web}" not in (pods := cluster.penstock("pods", "--node", "node1")):
        raise Failure(f"kubectl penstock pods: {pods}")
    until("the drop is told", 10, lambda: f"{namespace}/default-deny" in cluster.penstock("drops", "--pod", f"{web}"))
    # The manifests for those without Helm, as this server sees them.
    cluster.kubectl("apply", "--dry-run=server", "-f", ROOT / "deploy/manifests/penstock.yaml")
    why = cluster.penstock("explain", f"{stranger}", f"{web}", "TCP/80")
    if "deny" not in why or f"{namespace}/default-deny" not in why:
        raise Failure(f"kubectl penstock explain: {why}")
    event = lambda: [event["message"] for event in cluster.get("events", "-n", namespace)["items"] if event["reason"] == "PolicyDenied" and event["involvedObject"]["name"] == "web"]
    messages = until("an Event", 20, event)
    if f"isolated by {namespace}/default-deny" not in messages[0]:
        raise Failure(f"the Event says: {messages}")
    if tainted := [node["metadata"]["name"] for node in cluster.get("nodes")["items"] if any(taint["key"] == TAINT for taint in node["spec"].get("taints", []))]:
        raise Failure(f"still with the startup taint: {tainted}")
    say(f"kubectl penstock status, pods, drops, explain; Event: {messages[0]}")


TESTS = [asked_by_kubectl, ports_of_the_node, bandwidth_is_limited, versions_by_cnitool]
