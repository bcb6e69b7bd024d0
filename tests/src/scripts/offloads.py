"""Looks at what the virtio header says of the TCP segments that arrive at a device, and whether that is right.

offloads.py DEVICE
prints how many frames were looked at, how many of them were super-frames and had an unfinished checksum, once 100
segments with data have come.
"""
import socket
import struct
import sys

IGNORE_OUTGOING, VNET_HEADER = 23, 15
NEEDS_CHECKSUM, DATA_VALID = 1, 2
ENOUGH = 100


def total(data):
    data += b"\0" * (len(data) % 2)
    value = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value


def main():
    receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    receiver.bind((sys.argv[1], 3))
    receiver.setsockopt(263, VNET_HEADER, 1)
    receiver.setsockopt(263, IGNORE_OUTGOING, 1)
    receiver.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    receiver.settimeout(20)
    print("ready", flush=True)
    seen = supers = partial = 0
    while seen < ENOUGH:
        data = receiver.recv(1 << 17)
        flags, kind, _, size, start, offset = struct.unpack("=BBHHHH", data[:10])
        frame = data[10:]
        (ethertype,) = struct.unpack_from("!H", frame, 12)
        if ethertype == 0x0800:
            transport, protocol, pseudo = 14 + (frame[14] & 15) * 4, frame[23], frame[26:34]
            (end,) = struct.unpack_from("!H", frame, 16)
            expected_kind = 1
        elif ethertype == 0x86DD:
            transport, protocol, pseudo = 54, frame[20], frame[22:54]
            (end,) = struct.unpack_from("!H", frame, 18)
            end += 40
            expected_kind = 4
        else:
            continue
        if protocol != 6:
            continue
        segment = frame[transport : 14 + end]
        header = (segment[12] >> 4) * 4
        if len(segment) == header:
            continue
        seen += 1
        pseudo = total(pseudo + struct.pack("!IHBB", len(segment), 0, 0, 6))
        if kind & 0x7F:
            supers += 1
            assert kind & 0x7F == expected_kind, kind
            assert 0 < size <= 1448 and len(segment) - header > size, (size, len(segment))
            assert flags & NEEDS_CHECKSUM, "a super-frame's checksum is unfinished"
        else:
            assert len(segment) <= 1480, len(segment)
        if flags & NEEDS_CHECKSUM:
            partial += 1
            assert (start, offset) == (transport, 16), (start, offset)
            (field,) = struct.unpack_from("!H", segment, 16)
            assert field == pseudo, (hex(field), hex(pseudo))
        elif not flags & DATA_VALID:
            assert total(segment + b"\0" * (len(segment) % 2)) in (0xFFFF - pseudo, 0xFFFF - pseudo or 0xFFFF), "checksum"
    print(seen, supers, partial)


main()
