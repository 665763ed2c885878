"""ClickHouse's HTTP interface before chDB, which is ClickHouse in a library.

usage: clickhouse_http.py FOLDER USER PASSWORD
prints its port when it listens. Kept as in a server: statements in the body or the URL, settings in the URL, status and
code of errors, users, one query of a name at a time. Not kept: grants, replication, several queries at once (they queue).
"""

import http.server
import json
import re
import sys
import tempfile
import threading
import urllib.parse

from chdb import session

FOLDER, USER, PASSWORD = sys.argv[1:]
STORE = session.Session(FOLDER)
ONE, NAMES, GUARD = threading.Lock(), set(), threading.Lock()
# Of the interface itself, not of the query.
OF_HTTP = {"query", "database", "user", "password", "query_id", "wait_end_of_query", "session_id", "compress",
           "client_protocol_version", "enable_http_compression", "default_format", "buffer_size", "role"}
STATUS = {516: 403, 192: 403, 497: 403, 60: 404, 81: 404, 62: 400, 47: 404, 202: 503, 241: 500}


class Interface(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        if self.headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().strip(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
        parameters = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query, keep_blank_values=True))
        given = (self.headers.get("x-clickhouse-user", ""), self.headers.get("x-clickhouse-key", ""))
        if basic := re.match("Basic (.+)", self.headers.get("authorization", "")):
            import base64

            given = tuple(base64.b64decode(basic[1]).decode().split(":", 1))
        if given != (USER, PASSWORD):
            return self.fail(516, f"Code: 516. DB::Exception: {given[0]}: Authentication failed. (AUTHENTICATION_FAILED)")
        name = parameters.get("query_id")
        with GUARD:
            if name and name in NAMES:
                return self.fail(216, f"Code: 216. DB::Exception: Query with id = {name} is already running.")
            NAMES.add(name)
        try:
            self.reply(200, self.run(parameters, body))
        except Exception as error:
            code = re.search(r"Code: (\d+)", str(error))
            self.fail(int(code[1]) if code else 1002, str(error))
        finally:
            with GUARD:
                NAMES.discard(name)

    def run(self, parameters, body):
        sql = parameters.get("query", "")
        inserted = re.match(r"\s*(INSERT INTO .+?)\s+FORMAT\s+(\w+)\s*$", sql, re.S)
        settings = {key: value for key, value in parameters.items() if key not in OF_HTTP}
        with ONE, tempfile.NamedTemporaryFile(suffix=".data") as file:
            if inserted:
                file.write(body)
                file.flush()
                sql = f"{inserted[1]} SELECT * FROM file('{file.name}', {inserted[2]})"
            else:
                sql = (sql + "\n" + body.decode()).strip().rstrip(";")
            shape = re.search(r"\bFORMAT\s+(\w+)\s*$", sql)
            shape = shape[1] if shape else self.headers.get("x-clickhouse-format", parameters.get("default_format", "TabSeparated"))
            sql = re.sub(r"\bFORMAT\s+\w+\s*$", "", sql)
            try:
                for key, value in settings.items():
                    STORE.query(f"SET {key} = '{value}'")
                return STORE.query(sql, shape).bytes()
            finally:
                for key in settings:
                    STORE.query(f"SET {key} = DEFAULT")

    def fail(self, code, text):
        self.reply(STATUS.get(code, 500), text.encode() + b"\n", {"X-ClickHouse-Exception-Code": str(code)})

    def reply(self, status, body, headers={}):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("content-length", str(len(body)))
        self.send_header("X-ClickHouse-Summary", json.dumps({}))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Interface)
print(server.server_address[1], flush=True)
server.serve_forever()
