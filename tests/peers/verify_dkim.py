"""Verifies every DKIM signature of messages with dkimpy, against the records that `sendlake domain dns` prints.

usage: verify_dkim.py ZONE_LINES MESSAGE…     prints a list per message: [{"domain", "selector", "valid"}, …]
"""

import json
import pathlib
import re
import sys

import dkim

zone = {}
for line in pathlib.Path(sys.argv[1]).read_text().splitlines():
    if match := re.match(r"(\S+) IN TXT (.*)", line):
        zone[match[1].lower()] = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', match[2])).encode()


def lookup(name, timeout=5):
    name = name.decode() if isinstance(name, bytes) else name
    return zone.get(name.rstrip(".").lower() + ".")


def signatures(message):
    verifier = dkim.DKIM(message)
    count = sum(1 for name, _ in verifier.headers if name.lower() == b"dkim-signature")
    for index in range(count):
        valid = bool(verifier.verify(idx=index, dnsfunc=lookup))
        yield {"domain": verifier.domain.decode(), "selector": verifier.selector.decode(), "valid": valid}


print(json.dumps([list(signatures(pathlib.Path(path).read_bytes())) for path in sys.argv[2:]]))
