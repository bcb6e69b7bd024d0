"""Penstock on the test cluster, installed from its chart, and its processes."""
import json
import os
import pathlib
import signal
import shutil
import time

from world import CACHE, ROOT, RUN, Failure, run, until

NAMESPACE = "penstock"
CHART = ROOT / "deploy/helm/penstock"
IMAGE = os.environ.get("PENSTOCK_IMAGE", str(ROOT / "target/penstock-image.tar"))
REPOSITORY, TAG = "localhost/penstock", "test"
# What fresh nodes come with until Penstock is there.
TAINT = "penstock.io/not-ready"


def ancestors(process):
    """The numbers of a process's parents, up to the machine's first."""
    found = []
    while process > 1:
        process = int(pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(process)
    return found


class Node:
    """What Penstock has on a node, however it came there."""

    def __init__(self, cluster):
        self.cluster = cluster

    def nodes(self):
        return [f"node{number + 1}" for number in range(self.cluster.nodes)]

    def processes(self, node, role):
        """The daemon's processes of a role (`dataplane`, `control`, `run`: the wirer) on a node, as the machine numbers them."""
        first, found = int(pathlib.Path(RUN, node, "unshare.pid").read_text()), []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if words[0].endswith("penstock") and role in words[1:3] and first in ancestors(int(entry.name)):
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                pass
        return found

    def signal(self, node, role, number=signal.SIGKILL):
        """Sends a signal to all processes of a role; how many there were."""
        found = self.processes(node, role)
        for process in found:
            os.kill(process, number)
        if not found:
            raise Failure(f"{node} has no {role} process")
        return len(found)

    def traces(self, node):
        """Everything that Penstock may leave on a node."""
        look = "ls -d /run/penstock /opt/cni/bin/penstock-cni /etc/cni/net.d/*penstock* /var/lib/penstock /etc/penstock /var/log/penstock* 2>/dev/null; ip netns list; ls /run/netns | grep -i penstock; grep -l penstock /etc/cni/net.d/* 2>/dev/null; true"
        return [line for line in self.cluster.on(node, "sh", "-c", look).splitlines() if "penstock" in line]

    def stopped(self, node):
        """Waits until no process of Penstock is on a node."""
        until(f"no process of Penstock on {node}", 60, lambda: not self.processes(node, "run"))
        time.sleep(0.2)


class Chart(Node):
    """Penstock as its chart installs it."""

    def helm(self, *words, **options):
        return run("ip", "netns", "exec", "penstock-k8s-control", f"{CACHE}/bin/helm", "--kubeconfig", f"{RUN}/kubeconfig", "-n", NAMESPACE, *words, **options)

    def load(self):
        """The image, known to containerd as what the chart is told."""
        if not pathlib.Path(IMAGE).exists():
            raise Failure(f"there is no image {IMAGE}: make image, or name it in PENSTOCK_IMAGE")
        for node in self.nodes():
            before = set(self.images(node))
            self.cluster.on(node, "ctr", "-n", "k8s.io", "images", "import", IMAGE, timeout=300)
            found = [name for name in self.images(node) if "penstock" in name and name not in before]
            wanted = f"docker.io/{REPOSITORY}:{TAG}" if "/" not in REPOSITORY else f"{REPOSITORY}:{TAG}"
            if found and wanted not in found:
                self.cluster.on(node, "ctr", "-n", "k8s.io", "images", "tag", found[0], wanted)

    def images(self, node):
        return self.cluster.on(node, "ctr", "-n", "k8s.io", "images", "ls", "-q").split()

    def install(self, *values):
        """`helm install`, and all pods of the DaemonSet ready."""
        self.load()
        for node in self.nodes():
            self.cluster.kubectl("taint", "node", node, f"{TAINT}:NoSchedule")
        options = (f"image.repository={REPOSITORY}", f"image.tag={TAG}", "image.pullPolicy=Never", f"startupTaint={TAINT}", "events.denied=true", "dashboard.enabled=true")
        # All nodes at once: there are as many updates as tests of them, and each node is its own.
        options += ("updateStrategy.type=RollingUpdate", "updateStrategy.rollingUpdate.maxUnavailable=100%")
        sets = [word for value in (*options, *values) for word in ("--set", value)]
        self.helm("install", "penstock", CHART, "--create-namespace", *sets, timeout=120)
        self.ready()

    def ready(self, seconds=90):
        """Waits until every node's pod is ready."""
        try:
            self.cluster.kubectl("-n", NAMESPACE, "rollout", "status", "daemonset/penstock", f"--timeout={seconds}s", timeout=seconds + 20)
        except Failure as failure:
            raise Failure(f"{failure}\n{self.logs()}") from None

    def logs(self, lines=40):
        """The last lines of a node's daemon and installer, without those of dropped frames."""
        told = self.cluster.kubectl("-n", NAMESPACE, "logs", "daemonset/penstock", "--all-containers", "--tail=1000", check=False)
        return "\n".join([line for line in told.splitlines() if '"event":' not in line][-lines:])

    def pods(self):
        return self.cluster.get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=penstock")["items"]

    def restart(self):
        """A rolling update of the DaemonSet."""
        self.cluster.kubectl("-n", NAMESPACE, "rollout", "restart", "daemonset/penstock")
        self.ready(120)

    def is_installed(self):
        """Whether it can be given other values."""
        return "penstock" in self.helm("list", "-q", check=False)

    def upgrade(self, *values):
        """`helm upgrade` with some other values."""
        sets = [word for value in values for word in ("--set", value)]
        # Other tests have changed the DaemonSet by kubectl.
        self.helm("upgrade", "penstock", CHART, "--reuse-values", "--force-conflicts", *sets, timeout=120)
        self.ready(120)

    def uninstall(self):
        try:
            self.helm("uninstall", "penstock", "--wait", "--timeout", "120s", timeout=150)
        except Failure as failure:
            job = self.cluster.kubectl("-n", NAMESPACE, "logs", "job/penstock-uninstall", check=False)
            raise Failure(f"{failure}\n{job}\n{self.logs()}") from None

    def tell(self, node, *words):
        """What `penstock` answers on a node."""
        pod = next(pod for pod in self.pods() if pod["spec"].get("nodeName") == node)
        return self.cluster.kubectl("-n", NAMESPACE, "exec", pod["metadata"]["name"], "-c", "penstock", "--", "penstock", *words)

    def status(self, node):
        """What `penstock status` says on a node."""
        return json.loads(self.tell(node, "status", "-o", "json"))


class Program(Node):
    """The programs of a directory, run on each node without image or chart, and started again when they end: for who works on Penstock."""

    binaries = None

    def install(self):
        for node in self.nodes():
            self.begin(node)
        self.ready()

    def begin(self, node):
        directory = pathlib.Path(RUN, node)
        self.cluster.on(node, "mkdir", "-p", "/etc/penstock")
        configuration = {"kubernetes": {"kubeconfig": f"{RUN}/kubeconfig"}, "node": node, "pods": "adopt", "metrics": {"address": "127.0.0.1:9967"}}
        self.cluster.on(node, "sh", "-c", "cat >/etc/penstock/config.yaml", stdin=json.dumps(configuration))
        shutil.copy(f"{self.binaries}/penstock", directory / "penstock")
        self.cluster.on(node, "install", "-m", "755", f"{self.binaries}/penstock-cni", "/opt/cni/bin/penstock-cni")
        loop = f"while :; do {directory}/penstock run --config /etc/penstock/config.yaml; sleep 0.5; done"
        (directory / "penstock.command").write_text(f"sh -c '{loop}'")
        self.cluster.script("start", node, "penstock")
        until(f"penstock's socket on {node}", 20, lambda: self.cluster.on(node, "sh", "-c", "test -S /run/penstock/cni.sock && echo yes", check=False))
        # Our own conflist, before the primary's: a copy of it with Penstock last.
        first = json.loads(self.cluster.on(node, "sh", "-c", "cat $(ls /etc/cni/net.d/*.conflist | head -1)"))
        first["plugins"].append({"type": "penstock-cni"})
        self.cluster.on(node, "sh", "-c", "cat >/etc/cni/net.d/.new && mv /etc/cni/net.d/.new /etc/cni/net.d/00-penstock.conflist", stdin=json.dumps(first))

    def ready(self, seconds=60):
        ask = "wget -q -O - http://127.0.0.1:9967/readyz || busybox wget -q -O - http://127.0.0.1:9967/readyz"
        for node in self.nodes():
            until(f"{node} is ready", seconds, lambda: self.cluster.on(node, "sh", "-c", ask, check=False).startswith("ok") or self.cluster.on(node, "sh", "-c", ask + " >/dev/null && echo yes", check=False))

    def processes(self, node, role):
        # Engine and control may be one process, or several.
        return super().processes(node, role) or super().processes(node, "run")

    def restart(self):
        for node in self.nodes():
            before = self.processes(node, "run")
            self.signal(node, "run", signal.SIGTERM)
            until(f"another process on {node}", 30, lambda: set(self.processes(node, "run")) - set(before))
        self.ready()

    def is_installed(self):
        return False

    def pods(self):
        return [{"metadata": {"uid": process}} for node in self.nodes() for process in self.processes(node, "run")]

    def uninstall(self):
        raise Failure("only what was installed from the chart can be uninstalled")


def Installation(cluster):
    """The way of this run."""
    return Program(cluster) if Program.binaries else Chart(cluster)
