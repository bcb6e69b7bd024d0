#!/usr/bin/python3
"""A primary plugin in the manner of the AWS VPC CNI: /32 addresses, a gateway that only a permanent neighbour knows, rules
and tables on the host, a second interface with a table of its own, jumbo frames, and a result that is odd on purpose.
Addresses are those that the configuration has for the container, or an IPAM plugin's."""
import functools, hashlib, json, os, subprocess, sys

def ip(*words, pod=False, check=True):
    command = ["ip"] + list(words)
    if pod:
        command = ["nsenter", "--net=" + os.environ["CNI_NETNS"]] + command
    answer = subprocess.run(command, capture_output=True, text=True)
    if check and answer.returncode:
        sys.exit(json.dumps({"code": 100, "msg": " ".join(words) + ": " + answer.stderr}))
    return answer.stdout

conf = json.load(sys.stdin)
command = os.environ["CNI_COMMAND"]
container = os.environ.get("CNI_CONTAINERID", "")
numbers = [0, 1] if conf.get("second") else [0]
eni = lambda n: "eni" + hashlib.sha1(f"{container}{n}".encode()).hexdigest()[:11]

def ipam():
    program = os.path.join(os.environ["CNI_PATH"].split(":")[0], conf["ipam"]["type"])
    answer = subprocess.run([program], input=json.dumps(conf), capture_output=True, text=True)
    if answer.returncode:
        print(answer.stdout)
        sys.exit(1)
    return answer.stdout

def known():
    """The pod's address at DEL: as ADD answered, or as the host's routes have it."""
    if ips := (conf.get("prevResult") or {}).get("ips"):
        return [ips[0]["address"].split("/")[0]]
    route = subprocess.run(["ip", "-j", "route", "show", "dev", eni(0)], capture_output=True, text=True).stdout
    return [entry["dst"] for entry in json.loads(route or "[]")][:1] or ["0.0.0.0"]

@functools.cache
def addresses():
    if "ipam" not in conf:
        return conf["addresses"][container]
    return [json.loads(ipam())["ips"][0]["address"].split("/")[0]] if command == "ADD" else known()

address = lambda n: addresses()[n]

def add():
    for n in numbers:
        name = f"eth{n}"
        # The end on the host is made first, and keeps its index.
        ip("link", "add", eni(n), "mtu", "9001", "type", "veth", "peer", "name", name, "mtu", "9001", "netns",
           os.environ["CNI_NETNS"])
        ip("link", "set", eni(n), "up")
        mac = json.loads(ip("-j", "link", "show", eni(n)))[0]["address"]
        table = "main" if n == 0 else str(100 + n)
        ip("link", "set", name, "up", pod=True)
        ip("address", "add", address(n) + "/32", "dev", name, pod=True)
        ip("route", "add", "169.254.1.1", "dev", name, "scope", "link", "table", table, pod=True)
        # A gateway has to be reachable by the main table.
        if n:
            ip("route", "add", "169.254.1.1", "dev", name, "scope", "link", "metric", "500", pod=True)
            ip("rule", "add", "from", address(n), "lookup", table, "priority", "500", pod=True)
            ip("rule", "add", "oif", name, "lookup", table, "priority", "501", pod=True)
        ip("route", "add", "default", "via", "169.254.1.1", "dev", name, "table", table, pod=True)
        ip("neigh", "add", "169.254.1.1", "lladdr", mac, "dev", name, "nud", "permanent", pod=True)
        ip("route", "add", address(n) + "/32", "dev", eni(n), "scope", "link")
        ip("rule", "add", "to", address(n), "lookup", "main", "priority", "512")
        ip("rule", "add", "from", address(n), "lookup", "2", "priority", "1536")
    netns = os.environ["CNI_NETNS"]
    interfaces = [{"name": eni(0)}, {"name": "eth0", "sandbox": netns},
                  {"name": "dummy" + container[:8], "mac": "0", "sandbox": "0"}]
    result = {"cniVersion": conf["cniVersion"], "interfaces": interfaces,
              "ips": [{"version": "4", "address": address(0) + "/32", "interface": 1}], "dns": {}}
    print(json.dumps(result, separators=(" ,", ":  ")))

def delete():
    if "ipam" in conf:
        addresses()
        ipam()
    for n in numbers:
        ip("link", "del", eni(n), check=False)
        ip("rule", "del", "to", address(n), "lookup", "main", "priority", "512", check=False)
        ip("rule", "del", "from", address(n), "lookup", "2", "priority", "1536", check=False)

{"ADD": add, "DEL": delete, "CHECK": lambda: None}[command]()
