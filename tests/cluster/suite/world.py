"""The cluster as tests see it: kubectl, pods with real clients and servers, and who reaches whom."""
import glob
import json
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SCRIPT = str(HERE.parent / "cluster.sh")
PROBE = str(HERE / "probe.py")
# Addresses of the client outside; the first is nobody's in particular, the others are those of policies.
OUTSIDE = ["203.0.113.10", "172.17.0.10", "172.17.1.10", "10.0.0.10"]
IMAGE = "localhost/tools:1"
CACHE = os.environ.get("PENSTOCK_CLUSTER_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "penstock-cluster")
RUN = os.environ.get("PENSTOCK_CLUSTER_RUN", os.path.join(os.environ.get("TMPDIR", "/tmp"), "penstock-cluster"))


class Failure(Exception):
    """What a test expected and did not see."""


class Passed(Failure):
    """Something passed that policy denies."""


def run(*command, stdin=None, check=True, timeout=120):
    """Runs a command; its standard output."""
    done = subprocess.run([str(word) for word in command], input=stdin, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode:
        raise Failure(f"{' '.join(map(str, command))[:300]}: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout


def until(what, seconds, condition, every=0.1):
    """Waits for a condition; answers with what it answered, and fails naming `what` when it does not come."""
    end, last = time.monotonic() + seconds, None
    while True:
        try:
            if answer := condition():
                return answer
        except Failure as failure:
            last = failure
        if time.monotonic() > end:
            raise Failure(f"{what}: not within {seconds} s" + (f" ({last})" if last else ""))
        time.sleep(every)


def script(name, main):
    """Runs a script's main function: a failure is a sentence."""
    try:
        main()
    except Failure as failure:
        sys.exit(f"{name}: {failure}")


class Pod:
    """A pod that runs."""

    def __init__(self, cluster, manifest):
        self.cluster, self.manifest = cluster, manifest
        self.namespace, self.name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        self.uid, self.address = manifest["metadata"]["uid"], manifest["status"].get("podIP")
        self.node = manifest["spec"].get("nodeName")

    def __str__(self):
        return f"{self.namespace}/{self.name}"

    def process(self):
        """The pod's oldest process, as the machine numbers it: others, such as those that serve one connection, come and go."""
        files = glob.glob(f"/sys/fs/cgroup/pids/penstock-test-{self.node}/**/pod{self.uid}/*/cgroup.procs", recursive=True)
        found = [int(process) for procs in files for process in pathlib.Path(procs).read_text().split()]
        if not found:
            raise Failure(f"{self} has no process")
        return min(found)

    def enter(self):
        """Words before a command that is to run in its network namespace."""
        return ["nsenter", f"--net=/proc/{self.process()}/ns/net"]

    def delete(self, wait=True):
        self.cluster.kubectl("delete", "pod", "-n", self.namespace, self.name, "--grace-period=1", f"--wait={str(wait).lower()}")


class Place:
    """A node, or the client outside, with one of its addresses."""

    def __init__(self, name, address):
        self.name, self.address = name, address

    def __str__(self):
        return f"{self.name} ({self.address})"

    def enter(self):
        return ["ip", "netns", "exec", f"penstock-k8s-{self.name}"]


class Cluster:
    """The test cluster."""

    def __init__(self, primary, nodes):
        self.primary, self.nodes, self.number, self.children = primary, nodes, 0, []

    def up(self):
        run(SCRIPT, "up", "--nodes", self.nodes, "--primary", self.primary, timeout=180)
        # Who is outside has these addresses; the nodes send there whatever they know no other way to.
        for address in OUTSIDE:
            run("ip", "-n", "penstock-k8s-client", "address", "add", f"{address}/32", "dev", "lo")
        # An answer to a datagram has to come from the address that was asked.
        self.serve(Place("client", OUTSIDE[0]), "tcp/80", "tcp/443", "tcp/5978", "tcp/8080", *(f"udp/53/{address}" for address in OUTSIDE))

    def down(self):
        for child in self.children:
            child.kill()
        run(SCRIPT, "down")

    def script(self, *words, **options):
        return run(SCRIPT, *words, **options)

    def on(self, node, *command, **options):
        """Runs a command on a node, in its mount, network and process namespaces."""
        return run(SCRIPT, "exec", node, *command, **options)

    def kubectl(self, *words, **options):
        return run(SCRIPT, "kubectl", *words, **options)

    def penstock(self, *words, **options):
        """`kubectl penstock`, as an administrator calls it."""
        path = f"{ROOT}/deploy:{CACHE}/bin:{os.environ['PATH']}"
        kubectl = [f"{CACHE}/bin/kubectl", "penstock", *words, "--kubeconfig", f"{RUN}/kubeconfig"]
        return run("ip", "netns", "exec", "penstock-k8s-control", "env", f"PATH={path}", *kubectl, **options)

    def get(self, *words):
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def apply(self, *objects):
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--validate=false", "-f", "-", stdin=json.dumps(listed))

    def namespace(self, labels=None):
        """A new namespace of the test's own."""
        self.number += 1
        name = f"t{self.number}"
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, **(labels or {})}}})
        until("the namespace's service account", 15, lambda: self.kubectl("get", "serviceaccount", "-n", name, "default", check=False))
        return name

    def policy(self, namespace, name, spec):
        return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": namespace, "name": name}, "spec": spec}

    def route_outside(self, address, node):
        """The client outside sends what is for an address to a node, as a load balancer would."""
        run("ip", "-n", "penstock-k8s-client", "route", "replace", f"{address}/32", "via", node.address)

    def isolate(self, namespace, *types, name="default-deny", selector=None):
        self.apply(self.policy(namespace, name, {"podSelector": selector or {}, "policyTypes": list(types)}))

    def manifest(self, namespace, name, labels=None, ports=(80,), command=None, node="node1", annotations=None, **spec):
        """A pod that serves HTTP on its ports, or runs a command."""
        listening = "".join(f"httpd -p {port} -h /www; " for port in ports)
        container = {"name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": command or ["sh", "-c", listening + "exec pause"]}
        container.update(spec.pop("container", {}))
        metadata = {"namespace": namespace, "name": name, "labels": labels or {}, "annotations": annotations or {}}
        spec = {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [container], **spec}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    def start(self, *manifests, ready=60):
        """Makes pods and waits until all are ready; the pods, in this order."""
        self.apply(*manifests)
        for namespace in {manifest["metadata"]["namespace"] for manifest in manifests}:
            names = [f"pod/{m['metadata']['name']}" for m in manifests if m["metadata"]["namespace"] == namespace]
            self.kubectl("wait", "-n", namespace, "--for=condition=Ready", f"--timeout={ready}s", *names, timeout=ready + 30)
        return [self.find(m["metadata"]["namespace"], m["metadata"]["name"]) for m in manifests]

    def find(self, namespace, name):
        return Pod(self, self.get("pod", "-n", namespace, name))

    def serve(self, where, *ports):
        """A server there, beside those of the pod's own; until the cluster ends."""
        return self.background(where, "serve", *ports)

    def background(self, where, *words, ready=True):
        """A probe that goes on; `finish` gets what it printed."""
        words = [*where.enter(), "/usr/bin/python3", PROBE, *map(str, words)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.children.append(child)
        if ready and (line := child.stdout.readline()) != "ready\n":
            raise Failure(f"{where}: {' '.join(words[-4:])}: {line}")
        return child

    def enough(self, child):
        """`finish` for a counter that need not go on: what was sent has had the time to arrive."""
        time.sleep(1)
        # `ip netns exec` and `nsenter` become the probe.
        child.terminate()
        return self.finish(child)

    def finish(self, child, timeout=120):
        output, _ = child.communicate(timeout=timeout)
        try:
            return json.loads(output)
        except ValueError:
            raise Failure(f"a probe said {output!r}") from None

    def probe(self, origin, targets, attempts=3, timeout=1.5):
        """Each target (address or who has one, port, and perhaps `udp`): "yes", "no", or what else was seen."""
        words = []
        for target, port, *protocol in targets:
            address = target if isinstance(target, str) else target.address
            source = [origin.address] if isinstance(origin, Place) else []
            words.append("/".join([*(protocol or ["tcp"]), address, str(port), *source]))
        return json.loads(run(*origin.enter(), "/usr/bin/python3", PROBE, "reach", attempts, timeout, *words))

    def reach(self, origin, target, port, answer, *protocol, within=10.0):
        """Several connections, all of which pass, or none; a change of policy may take `within` seconds to be seen."""
        begin = time.monotonic()
        while True:
            seen = self.probe(origin, [(target, port, *protocol)], timeout=1.5 if answer == "no" else 3)[0]
            if seen == answer:
                return time.monotonic() - begin
            if time.monotonic() > begin + within:
                kind = Passed if (answer, seen) == ("no", "yes") else Failure
                raise kind(f"{origin} to {target} on {port}: expected {answer}, saw {seen} for {within:.0f} s")


def say(text):
    """What a test saw."""
    print(f"      {text}", flush=True)
    sys.stdout.flush()
