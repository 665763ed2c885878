"""A name server on a free loopback port, which it prints.

usage: names.py NAME=IPV4 …     answers A for these names, nothing for their other types, NXDOMAIN for all else
"""

import socket
import struct
import sys

known = {name.lower(): socket.inet_aton(ip) for name, ip in (pair.split("=") for pair in sys.argv[1:])}
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
print("127.0.0.1:%d" % server.getsockname()[1], flush=True)
while True:
    query, client = server.recvfrom(4096)
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
        at += 1 + query[at]
    kind = struct.unpack(">H", query[at + 1 : at + 3])[0]
    address = known.get(".".join(labels))
    answers = [address] if address and kind == 1 else []
    head = query[:2] + struct.pack(">HHHHH", 0x8180 | (0 if address else 3), 1, len(answers), 0, 0)
    records = b"".join(struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + answer for answer in answers)
    server.sendto(head + query[12 : at + 5] + records, client)
