"""Asks for a page as it is, without following anywhere (http.client).

usage: visit.py METHOD URL [NAME:VALUE…]     prints {"status", "headers": {lower-case name: value}, "bytes"}
"""

import http.client
import json
import sys
import urllib.parse

method, url, *headers = sys.argv[1:]
parts = urllib.parse.urlsplit(url)
connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
path = parts.path + ("?" + parts.query if parts.query else "")
connection.request(method, path, headers=dict(header.split(":", 1) for header in headers))
answer = connection.getresponse()
body = answer.read()
print(json.dumps({
    "status": answer.status,
    "headers": {name.lower(): value for name, value in answer.getheaders()},
    "bytes": len(body),
    "start": body[:6].decode("latin-1"),
}))
