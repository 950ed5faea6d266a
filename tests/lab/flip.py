"""A box that spoils one byte: a relay on a TUN device that flips a bit and mends the TCP checksum, so that no kernel notices.

    flip.py DEVICE there|back OFFSET

The system routes what is to be spoiled into DEVICE, and onwards what comes out of it. Of each TCP stream over IPv4, from the
end that connects (there) or to it (back), the byte at OFFSET is changed, the first byte being 0. A line on standard error
names each stream whose byte was changed; the first line says that the device is there.
"""

import fcntl
import os
import struct
import sys

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SYN, ACK = 0x02, 0x10
TCP = 6
LARGEST_PACKET = 65535

DEVICE, WAY, OFFSET = sys.argv[1], {"there": SYN, "back": SYN | ACK}[sys.argv[2]], int(sys.argv[3])


def flip(segment, at):
    """Flips the lowest bit of the byte at `at`, and changes the checksum by as much (RFC 1624)."""
    before = segment[at]
    segment[at] ^= 1
    change = (segment[at] - before) << (0 if at % 2 else 8)
    checksum = struct.unpack_from("!H", segment, 16)[0]
    struct.pack_into("!H", segment, 16, (checksum - change) % 0xFFFF)


def spoil(packet, first):
    """Spoils a packet if it has the byte at OFFSET. `first` has the sequence number of each stream's first byte."""
    if packet[0] >> 4 != 4 or packet[9] != TCP:
        return
    segment = memoryview(packet)[(packet[0] & 0x0F) * 4:]
    stream = bytes(packet[12:20]) + bytes(segment[:4])  # Both addresses, both ports.
    sequence, header, flags = struct.unpack_from("!I4xBB", segment, 4)
    if flags & SYN:
        if flags & (SYN | ACK) == WAY:
            first[stream] = sequence + 1
        return
    if stream not in first:
        return
    payload = segment[(header >> 4) * 4:]
    at = (first[stream] + OFFSET - sequence) % 2**32
    # A segment that is sent again is spoiled again.
    if at < len(payload):
        flip(segment, len(segment) - len(payload) + at)
        source, target, from_port, to_port = struct.unpack("!4s4sHH", stream)
        dotted = [".".join(map(str, address)) for address in (source, target)]
        print(f"flipped {dotted[0]}:{from_port} > {dotted[1]}:{to_port}", file=sys.stderr)


def main():
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    print(f"{DEVICE} is there", file=sys.stderr)
    first = {}
    while True:
        packet = bytearray(os.read(tun, LARGEST_PACKET))
        spoil(packet, first)
        os.write(tun, packet)


main()
