"""Sends and receives Ethernet frames with VLAN tags that the kernel knows nothing of.

tagged.py send DEVICE SOURCE_MAC TARGET_MAC SOURCE TARGET PORT TAG…
tagged.py receive DEVICE PORT
receive prints the tags of each UDP datagram to the port or beyond, outermost first, and its payload, until one goes to
the port beyond it.
"""
import ipaddress
import socket
import struct
import sys

PAYLOAD = b"tagged payload"
AUXILIARY = 8
TAG_VALID = 0x10


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(source, target, port):
    length = 8 + len(PAYLOAD)
    head = struct.pack("!HHHH", 4000, port, length, 0)
    pseudo = source.packed + target.packed + struct.pack("!IHBB", length, 0, 0, 17)
    udp = head[:6] + struct.pack("!H", checksum(pseudo + head + PAYLOAD)) + PAYLOAD
    if source.version == 6:
        return 0x86DD, struct.pack("!IHBB", 6 << 28, length, 17, 64) + source.packed + target.packed + udp
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, 17, 0) + source.packed + target.packed
    return 0x0800, ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + udp


def send(device, source_mac, target_mac, source, target, port, *tags):
    ethertype, data = packet(ipaddress.ip_address(source), ipaddress.ip_address(target), int(port))
    frame = bytes.fromhex((target_mac + source_mac).replace(":", ""))
    for index, tag in enumerate(tags):
        frame += struct.pack("!HH", 0x8100 if index == len(tags) - 1 else 0x88A8, int(tag))
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sender.bind((device, 0))
    sender.send(frame + struct.pack("!H", ethertype) + data)


def receive(device, port):
    port = int(port)
    receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    receiver.bind((device, 3))
    receiver.setsockopt(socket.SOL_PACKET if hasattr(socket, "SOL_PACKET") else 263, AUXILIARY, 1)
    receiver.settimeout(20)
    print("ready", flush=True)
    while True:
        frame, auxiliary, _, _ = receiver.recvmsg(2048, 256)
        tags = []
        for _, _, data in auxiliary:
            status, _, _, _, _, control, _ = struct.unpack("=IIIHHHH", data[:20])
            if status & TAG_VALID:
                tags.append(control)
        at = 12
        (ethertype,) = struct.unpack_from("!H", frame, at)
        while ethertype in (0x8100, 0x88A8):
            control, ethertype = struct.unpack_from("!HH", frame, at + 2)
            tags.append(control)
            at += 4
        udp = at + 2 + (20 if ethertype == 0x0800 else 40)
        if ethertype not in (0x0800, 0x86DD) or len(frame) < udp + 8:
            continue
        protocol = frame[at + 11] if ethertype == 0x0800 else frame[at + 8]
        (target,) = struct.unpack_from("!H", frame, udp + 2)
        if protocol != 17 or target not in (port, port + 1):
            continue
        intact = frame[udp + 8 :].startswith(PAYLOAD)
        print("port", target - port, *tags, "intact" if intact else "broken", flush=True)
        if target == port + 1:
            return


{"send": send, "receive": receive}[sys.argv[1]](*sys.argv[2:])
