"""Asks for a neighbour by ARP and by neighbour discovery, once a second from each of several devices.

chatter.py {inside|outside} PREFIX COUNT SECONDS
Devices are PREFIX1, PREFIX2, …; the addresses of both ends follow from their numbers. Prints the number of frames.
"""
import ipaddress
import socket
import struct
import sys
import time


def checksum(data):
    value = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return ~value & 0xFFFF


def arp(mac, own, target):
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + own.packed + bytes(6) + target.packed
    return b"\xff" * 6 + mac + b"\x08\x06" + body


def solicitation(mac, own, target):
    group = ipaddress.ip_address("ff02::1:ff00:0").packed[:13] + target.packed[13:]
    body = struct.pack("!BBHI", 135, 0, 0, 0) + target.packed + b"\x01\x01" + mac
    pseudo = own.packed + group + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    head = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + own.packed + group
    return b"\x33\x33" + group[12:] + mac + b"\x86\xdd" + head + body


def main():
    side, prefix, count, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    frames = []
    for number in range(1, count + 1):
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sender.bind((prefix + str(number), 0))
        mac = bytes([2, 0x77, 0 if side == "inside" else 1, 0, 0, number])
        hosts = (2, 1) if side == "inside" else (1, 2)
        four = [ipaddress.ip_address("10.77.%d.%d" % (number, host)) for host in hosts]
        six = [ipaddress.ip_address("fd77:0:0:%x::%x" % (number, host)) for host in hosts]
        frames += [(sender, arp(mac, *four)), (sender, solicitation(mac, *six))]
    print("ready", flush=True)
    begin, sent = time.monotonic(), 0
    for second in range(seconds):
        for index, (sender, frame) in enumerate(frames):
            # Spread over the second: none finds the receiver awake for another one.
            time.sleep(max(0, begin + second + index / len(frames) - time.monotonic()))
            sender.send(frame)
            sent += 1
    print(sent)


main()
