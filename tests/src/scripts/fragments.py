"""Sends one UDP datagram as fragments, in the order asked for, past the kernel's own fragmentation.

fragments.py DEVICE ORDER SOURCE TARGET SOURCE_MAC TARGET_MAC SOURCE_PORT TARGET_PORT FILE
prints the number of fragments.
"""
import ipaddress
import random
import socket
import struct
import sys

MTU = 1500


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data[: len(data) // 2 * 2]))
    if len(data) % 2:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(source, target, source_port, target_port, payload):
    length = 8 + len(payload)
    head = struct.pack("!HHHH", source_port, target_port, length, 0)
    pseudo = source.packed + target.packed + struct.pack("!IHBB", length, 0, 0, 17)
    value = checksum(pseudo + head + payload) or 0xFFFF
    return head[:6] + struct.pack("!H", value) + payload


def ipv4(source, target, identification, offset, more, piece):
    flags = (0x2000 if more else 0) | offset // 8
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(piece), identification, flags, 64, 17, 0)
    head += source.packed + target.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + piece


def ipv6(source, target, identification, offset, more, piece):
    head = struct.pack("!IHBB", 6 << 28, 8 + len(piece), 44, 64) + source.packed + target.packed
    return head + struct.pack("!BBHI", 17, 0, offset | more, identification) + piece


def main():
    device, order, source, target, source_mac, target_mac, source_port, target_port, path = sys.argv[1:]
    source, target = ipaddress.ip_address(source), ipaddress.ip_address(target)
    with open(path, "rb") as file:
        whole = udp(source, target, int(source_port), int(target_port), file.read())
    build, room, ethertype = (ipv4, MTU - 20, 0x0800) if source.version == 4 else (ipv6, MTU - 48, 0x86DD)
    room -= room % 8
    identification = random.randrange(1, 1 << 16)
    pieces = [
        build(source, target, identification, at, at + room < len(whole), whole[at : at + room])
        for at in range(0, len(whole), room)
    ]
    if order == "reverse":
        pieces.reverse()
    elif order == "shuffled":
        seed = random.randrange(1 << 32)
        print("order from seed", seed, file=sys.stderr)
        random.Random(seed).shuffle(pieces)
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sender.bind((device, 0))
    mac = lambda text: bytes.fromhex(text.replace(":", ""))
    for piece in pieces:
        sender.send(mac(target_mac) + mac(source_mac) + struct.pack("!H", ethertype) + piece)
    print(len(pieces))


main()
