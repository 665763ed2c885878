"""A scripted SMTP receiver (aiosmtpd) with STARTTLS on a free loopback port, which it prints.

usage: smtp_sink.py CERT KEY DIR

The recipient's local part picks the answer: `r450.x` and `r550.x` at RCPT, `d451.x` and `d554.x` after DATA,
`grey.x` 451 the first time, `drop.x` the connection cut at RCPT the first time, `ddrop.x` after DATA the first
time. Everything else is taken: DIR/taken.jsonl lists it, DIR/N.eml holds the octets.
"""

import asyncio
import json
import pathlib
import re
import ssl
import sys

from aiosmtpd.smtp import SMTP


class Sink:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.log = open(self.folder / "taken.jsonl", "a", buffering=1)
        self.seen = set()
        self.count = 0

    def first_time(self, sender, recipient):
        is_first = (sender, recipient) not in self.seen
        self.seen.add((sender, recipient))
        return is_first

    async def handle_RCPT(self, server, session, envelope, address, options):
        local = address.split("@")[0]
        if match := re.match(r"r([45]\d\d)\.", local):
            code = match[1]
            return f"{code} {code[0]}.2.1 <{address}> scripted at RCPT"
        if local.startswith("drop.") and self.first_time(envelope.mail_from, address):
            server.transport.abort()
            return "421 4.3.0 gone"
        if local.startswith("grey.") and self.first_time(envelope.mail_from, address):
            return "451 4.7.1 greylisted, come back"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session, envelope):
        for recipient in envelope.rcpt_tos:
            if match := re.match(r"d([45]\d\d)\.", recipient):
                code = match[1]
                return f"{code} {code[0]}.3.0 scripted after DATA"
            if recipient.startswith("ddrop.") and self.first_time(envelope.mail_from, recipient):
                server.transport.abort()
                return "421 4.3.0 gone"
        for recipient in envelope.rcpt_tos:
            name = f"{self.count}.eml"
            self.count += 1
            (self.folder / name).write_bytes(envelope.original_content)
            entry = {"tls": session.ssl is not None, "from": envelope.mail_from, "to": recipient, "file": name}
            self.log.write(json.dumps(entry) + "\n")
        return "250 2.0.0 taken"


async def main(cert, key, folder):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    sink = Sink(folder)

    def session():
        return SMTP(sink, hostname="mx.sink.test", tls_context=context, enable_SMTPUTF8=True)

    server = await asyncio.get_running_loop().create_server(session, "127.0.0.1", 0)
    print("127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:4]))
