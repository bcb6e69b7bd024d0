#!/usr/bin/python3
"""What runs in a pod's network namespace: clients, servers and counters. Each prints one line of JSON.

  probe.py reach ATTEMPTS TIMEOUT TARGET…    TARGET: PROTOCOL/ADDRESS/PORT[/SOURCE]; "yes", "no" or what went wrong, for each
  probe.py serve PROTOCOL/PORT[/ADDRESS]…    answers until it is killed; prints "ready" first
  probe.py send TARGET SECONDS RATE          datagrams, numbered; prints how many
  probe.py heard PORT SECONDS                frames with this destination port that come in here, counted below all sockets, until the time is over or SIGTERM comes
  probe.py stream PORT SECONDS RATE          waits for one datagram, then sends back numbered ones, from PORT
  probe.py listen TARGET SECONDS             sends one datagram, then counts the numbered ones that come back
  probe.py cut PORT QUIET                    when the last datagram came (monotonic clock) before QUIET seconds without one
  probe.py post URL TOKEN                    posts standard input, as kubectl would; when it was sent, and when answered
"""
import json
import selectors
import signal
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.request


def split(target):
    protocol, address, port, *source = target.split("/")
    return protocol.lower(), address, int(port), source[0] if source else None


def attempt(target, timeout):
    """Whether an answer came. A refusal is neither: frames passed, but nobody serves there, which is a mistake of the test's."""
    protocol, address, port, source = split(target)
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    try:
        with socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(timeout)
            if source:
                client.bind((source, 0))
            client.connect((address, port))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return "yes" if client.recv(64) else "closed"
    except TimeoutError:
        return "no"
    except OSError as error:
        return f"{error.strerror}"


def reach(attempts, timeout, *targets):
    answers = [[None] * int(attempts) for _ in targets]

    def one(target, place):
        answers[target][place] = attempt(targets[target], float(timeout))

    threads = [threading.Thread(target=one, args=(t, a)) for t in range(len(targets)) for a in range(int(attempts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ["/".join(sorted(set(these))) for these in answers]


def serve(*ports):
    selector = selectors.DefaultSelector()
    for port in ports:
        protocol, number, *address = port.lower().split("/")
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address[0] if address else "0.0.0.0", int(number)))
        if protocol == "tcp":
            server.listen(512)
        selector.register(server, selectors.EVENT_READ, protocol)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            if key.data == "udp":
                data, peer = key.fileobj.recvfrom(2048)
                key.fileobj.sendto(data, peer)
            else:
                try:
                    connection, _ = key.fileobj.accept()
                    with connection:
                        connection.sendall(b"ok\n")
                except OSError:
                    # Who asked is gone.
                    pass


def send(target, seconds, rate):
    _, address, port, _ = split(target)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    begin, sent = time.monotonic(), 0
    while time.monotonic() < begin + float(seconds):
        try:
            client.sendto(b"%d" % sent, (address, port))
        except OSError:
            pass
        sent += 1
        time.sleep(max(0.0, begin + sent / float(rate) - time.monotonic()))
    return {"sent": sent}


def heard(port, seconds):
    everything = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    end, frames, told = time.monotonic() + float(seconds), 0, []
    # Whoever has seen enough says so.
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    print("ready", flush=True)
    while not told and (left := end - time.monotonic()) > 0:
        everything.settimeout(min(left, 0.2))
        try:
            packet, (_, _, kind, *_) = everything.recvfrom(128)
        except TimeoutError:
            continue
        header = (packet[0] & 15) * 4
        outgoing = kind == socket.PACKET_OUTGOING
        if not outgoing and packet[9] in (6, 17) and struct.unpack_from("!H", packet, header + 2)[0] == int(port):
            frames += 1
    return {"frames": frames}


def stream(port, seconds, rate):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", int(port)))
    print("ready", flush=True)
    _, peer = server.recvfrom(64)
    begin, sent = time.monotonic(), 0
    while time.monotonic() < begin + float(seconds):
        try:
            server.sendto(struct.pack("!Q", sent), peer)
        except OSError:
            # While the interface is taken away: a frame that is lost like others.
            pass
        sent += 1
        time.sleep(max(0.0, begin + sent / float(rate) - time.monotonic()))
    return {"sent": sent}


def listen(target, seconds):
    """Counts, and finds the longest silence, in seconds, with the frame after which it began."""
    _, address, port, source = split(target)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if source:
        client.bind((source, 0))
    client.connect((address, port))
    client.send(b"go")
    end, last, received, silence, after, number = time.monotonic() + float(seconds), None, 0, 0.0, 0, -1
    while (left := end - time.monotonic()) > 0:
        client.settimeout(left)
        try:
            data = client.recv(64)
        except TimeoutError:
            break
        now = time.monotonic()
        if last is not None and now - last > silence:
            silence, after = now - last, number
        received, last, number = received + 1, now, struct.unpack("!Q", data)[0]
    return {"received": received, "last": number, "silence": round(silence, 3), "after": after}


def cut(port, quiet):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", int(port)))
    server.recv(64)
    print("ready", flush=True)
    server.settimeout(float(quiet))
    last = None
    try:
        while True:
            server.recv(64)
            last = time.monotonic()
    except TimeoutError:
        return {"last": last}


def post(url, token):
    request = urllib.request.Request(url, sys.stdin.buffer.read(), {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
    context = ssl._create_unverified_context()
    sent = time.monotonic()
    urllib.request.urlopen(request, context=context).read()
    return {"sent": sent, "answered": time.monotonic()}


commands = {"cut": cut, "post": post, "reach": reach, "serve": serve, "send": send, "heard": heard, "stream": stream, "listen": listen}
if __name__ == "__main__":
    print(json.dumps(commands[sys.argv[1]](*sys.argv[2:])), flush=True)
