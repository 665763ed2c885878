"""A receiver of webhooks on loopback: checks each with the official library, and keeps a line of JSON about it.

usage: webhook_sink.py FOLDER

Prints its port. A path's first segment names a receiver, whose files lie in FOLDER:
- NAME.secret: its signing secrets, one a line; a signature has to verify under each of them
- NAME.mode: what it answers: a status such as 200 or 500, `hang`, or `slow` (200 after 300 ms); 200 without the file
- NAME.jsonl: what it took note of, in the order of arrival
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from standardwebhooks.webhooks import Webhook

FOLDER = Path(sys.argv[1])
LOCK = threading.Lock()


def verified(secrets, body, headers):
    """Whether every secret verifies it; the library raises where one does not."""
    try:
        for secret in secrets:
            Webhook(secret).verify(body, headers)
        return bool(secrets)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


class Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        name = self.path.split("?")[0].strip("/").split("/")[0]
        secret, mode = FOLDER / f"{name}.secret", FOLDER / f"{name}.mode"
        secrets = secret.read_text().split() if secret.exists() else []
        answer = mode.read_text().strip() if mode.exists() else "200"
        headers = {key.lower(): value for key, value in self.headers.items()}
        said = json.loads(body)
        line = {
            "at": time.time(),
            "answer": answer,
            "verified": verified(secrets, body, headers),
            "id": headers.get("webhook-id"),
            "signatures": len(headers.get("webhook-signature", "").split()),
            "replay": headers.get("webhook-replay"),
            "body": said,
        }
        with LOCK, open(FOLDER / f"{name}.jsonl", "a") as log:
            log.write(json.dumps(line) + "\n")
        if answer == "hang":
            time.sleep(600)
        if answer == "slow":
            time.sleep(0.3)
        status = int(answer) if answer.isdigit() else 200
        self.send_response(status)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server(("127.0.0.1", 0), Sink)
print(server.server_port, flush=True)
server.serve_forever()
