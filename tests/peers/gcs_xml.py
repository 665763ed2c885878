"""Google Cloud Storage's XML interface in front of fake-gcs-server, which speaks only the JSON one for writes.

usage: gcs_xml.py PORT FAKE_GCS_URL

Rust's object_store writes, lists and deletes by XML. Writes keep their precondition (x-goog-if-generation-match), which
is what makes one of two writers win. Whatever is not an XML request is handed through as it is. One process, loopback.
"""

import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

UPSTREAM = sys.argv[2]
PARTS = {}  # of uploads that are not complete: upload id -> {part number: octets}
JSON_FOLDERS = {"storage", "upload", "download", "b", "batch", "_internal"}
OWN_HEADERS = {"transfer-encoding", "content-length", "connection", "date", "server"}


def ask(method, path, body=None, headers=None):
    """One request to the server behind: status, headers, body."""
    request = urllib.request.Request(UPSTREAM + path, data=body, method=method, headers=headers or {})
    try:
        answer = urllib.request.urlopen(request)
    except urllib.error.HTTPError as refused:
        answer = refused
    return answer.status, list(answer.headers.items()), answer.read()


class Xml(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, headers=(), body=b""):
        self.send_response(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            if name.lower() not in OWN_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_any(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length) if length else None
        url = urllib.parse.urlsplit(self.path)
        query = {key: values[0] for key, values in urllib.parse.parse_qs(url.query, keep_blank_values=True).items()}
        named = re.match(r"/([^/]+)/(.+)$", url.path)
        if self.command == "GET" and "list-type" in query:
            return self.list(url.path.strip("/"), query)
        if not named or named[1] in JSON_FOLDERS or self.command in ("GET", "HEAD"):
            return self.pass_through(body)
        bucket, name = named[1], urllib.parse.unquote(named[2])
        if self.command == "DELETE" and "uploadId" in query:
            PARTS.pop(query["uploadId"], None)
            return self.answer(204)
        if self.command == "DELETE":
            status, _, text = ask("DELETE", f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}")
            return self.answer(204 if status < 300 else status, body=b"" if status < 300 else text)
        if "uploads" in query:
            upload = uuid.uuid4().hex
            PARTS[upload] = {}
            xml = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return self.answer(200, body=xml.encode())
        if "partNumber" in query:
            PARTS[query["uploadId"]][int(query["partNumber"])] = body or b""
            return self.answer(200, [("ETag", f'"part-{query["partNumber"]}"')])
        if "uploadId" in query:
            parts = PARTS.pop(query["uploadId"])
            body = b"".join(parts[number] for number in sorted(parts))
        source = self.headers.get("x-goog-copy-source")
        if source:
            body = ask("GET", "/" + source.lstrip("/"))[2]
        return self.write(bucket, name, body or b"", "uploadId" in query)

    def write(self, bucket, name, body, was_in_parts):
        kind = self.headers.get("content-type") or "application/octet-stream"
        query = {"uploadType": "multipart"}
        generation = self.headers.get("x-goog-if-generation-match")
        if generation is not None:
            query["ifGenerationMatch"] = generation
        line = uuid.uuid4().hex
        about = json.dumps({"name": name, "contentType": kind})
        head = f"--{line}\r\nContent-Type: application/json\r\n\r\n{about}\r\n--{line}\r\nContent-Type: {kind}\r\n\r\n"
        status, _, text = ask(
            "POST",
            f"/upload/storage/v1/b/{bucket}/o?{urllib.parse.urlencode(query)}",
            head.encode() + body + f"\r\n--{line}--\r\n".encode(),
            {"content-type": f"multipart/related; boundary={line}"},
        )
        if status >= 300:
            return self.answer(status, body=text)
        made = json.loads(text)
        headers = [("ETag", f'"{made["etag"]}"'), ("x-goog-generation", made["generation"])]
        xml = f'<CompleteMultipartUploadResult><ETag>"{made["etag"]}"</ETag></CompleteMultipartUploadResult>'
        return self.answer(200, headers, xml.encode() if was_in_parts else b"")

    def list(self, bucket, query):
        renamed = {"prefix": "prefix", "delimiter": "delimiter", "continuation-token": "pageToken", "max-keys": "maxResults"}
        wanted = {renamed[key]: value for key, value in query.items() if key in renamed}
        after = query.get("start-after", "")
        if after:
            wanted["startOffset"] = after
        status, _, text = ask("GET", f"/storage/v1/b/{bucket}/o?{urllib.parse.urlencode(wanted)}")
        if status >= 300:
            return self.answer(status, body=text)
        page = json.loads(text)
        token = page.get("nextPageToken")
        xml = f"<ListBucketResult><IsTruncated>{'true' if token else 'false'}</IsTruncated>"
        if token:
            xml += f"<NextContinuationToken>{escape(token)}</NextContinuationToken>"
        for item in page.get("items", []):
            if item["name"] > after:
                xml += (
                    f'<Contents><Key>{escape(item["name"])}</Key><LastModified>{item["updated"]}</LastModified>'
                    f'<ETag>"{item["etag"]}"</ETag><Size>{item["size"]}</Size></Contents>'
                )
        for prefix in page.get("prefixes", []):
            if prefix > after:
                xml += f"<CommonPrefixes><Prefix>{escape(prefix)}</Prefix></CommonPrefixes>"
        return self.answer(200, [("content-type", "application/xml")], (xml + "</ListBucketResult>").encode())

    def pass_through(self, body):
        dropped = {"host", "content-length", "connection", "accept-encoding"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        self.answer(*ask(self.command, self.path, body, headers))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Xml).serve_forever()
