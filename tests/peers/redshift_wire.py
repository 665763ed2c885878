"""Stands in for Amazon Redshift: its wire protocol and its Data API on one DuckDB, COPY from an S3 of the test's.

usage: redshift_wire.py S3_ENDPOINT USER PASSWORD [CERTIFICATE KEY]
prints the ports of the wire protocol and of the Data API when both listen. Access key and secret of S3, which are also
the ones that sign requests to the Data API, are in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. With CERTIFICATE and KEY
the wire is encrypted. POST /fail to the Data API's port makes the next batch of statements fail at its end.

Kept as in Redshift, because loads rest on it: a batch of the Data API is one transaction and a used ClientToken gives its
statement; LOCK waits for the lock's holder to end and the snapshot is taken after it; COPY reads what the manifest names,
wants content_length, as many columns as the file has, of types that fit, and refuses longer text; temporary tables are a
session's own. Not kept: permissions, IAM, distribution, isolation of what takes no lock.
"""

import datetime
import decimal
import hashlib
import hmac
import http.server
import json
import os
import re
import socketserver
import ssl
import struct
import sys
import tempfile
import threading
import urllib.parse
import uuid

import boto3
import duckdb
import pyarrow.parquet
import sqlglot

S3_ENDPOINT, USER, PASSWORD = sys.argv[1:4]
TLS = sys.argv[4:6]
STORE = duckdb.connect(":memory:", config={"preserve_insertion_order": "false"})
STORE.execute("SET TimeZone = 'UTC'")
STORE.execute("CREATE TABLE main.varchar_bytes (tab VARCHAR, col VARCHAR, bytes INTEGER)")
STORE.execute(
    """CREATE VIEW main.svv_columns AS
    SELECT schema_name AS table_schema, table_name, column_name,
      CASE data_type WHEN 'JSON' THEN 'super' WHEN 'VARCHAR' THEN 'character varying'
        WHEN 'TIMESTAMP' THEN 'timestamp without time zone' ELSE lower(data_type) END AS data_type,
      (SELECT max(bytes) FROM main.varchar_bytes WHERE tab = table_name AND col = column_name)
        AS character_maximum_length,
      CASE WHEN is_nullable THEN 'YES' ELSE 'NO' END AS is_nullable
    FROM duckdb_columns()"""
)
LOCKS, GUARD = {}, threading.Lock()
FAIL = threading.Event()


class Problem(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def code_of(error):
    if isinstance(error, Problem):
        return error.code
    kinds = [
        (duckdb.CatalogException, "42P01"),
        (duckdb.BinderException, "42703"),
        (duckdb.ParserException, "42601"),
        (duckdb.ConversionException, "22P02"),
        (duckdb.ConstraintException, "23502"),
        (duckdb.TransactionException, "40001"),
    ]
    return next((code for kind, code in kinds if isinstance(error, kind)), "XX000")


class Session:
    """One client's state. `run` gives (columns, rows, tag)."""

    def __init__(self):
        self.cursor = STORE.cursor()
        self.cursor.execute("SET search_path = 'main'")
        self.cursor.execute("SET TimeZone = 'UTC'")
        self.state, self.held = "I", []

    def close(self):
        self.end()
        self.cursor.close()

    def end(self, how="ROLLBACK"):
        try:
            if self.state != "I":
                self.cursor.execute("ROLLBACK" if self.state == "E" else how)
        finally:
            self.state = "I"
            for lock in self.held:
                lock.release()
            self.held = []

    def run(self, sql):
        words = sql.strip().rstrip(";").split()
        verb = words[0].upper() if words else ""
        if verb in ("COMMIT", "END", "ROLLBACK", "ABORT"):
            self.end("COMMIT" if verb in ("COMMIT", "END") else "ROLLBACK")
            return None, [], "COMMIT" if verb == "COMMIT" else "ROLLBACK"
        if self.state == "E":
            raise Problem("25P02", "current transaction is aborted, commands ignored until end of transaction block")
        try:
            return self.work(sql, verb, words)
        except Exception:
            if self.state == "T":
                self.state = "E"
            raise

    def work(self, sql, verb, words):
        if not verb or verb in ("SET", "GRANT", "ANALYZE"):
            return None, [], verb or "SET"
        if verb in ("BEGIN", "START"):
            self.cursor.execute("BEGIN")
            self.state = "T"
            return None, [], "BEGIN"
        if verb == "LOCK":
            if self.state != "T":
                raise Problem("25P01", "LOCK TABLE can only be used in transaction blocks")
            with GUARD:
                lock = LOCKS.setdefault(words[-1].lower(), threading.Lock())
            if lock not in self.held:
                lock.acquire()
                self.held.append(lock)
            # The snapshot is of the first statement after the lock.
            self.cursor.execute("ROLLBACK")
            self.cursor.execute("BEGIN")
            self.cursor.execute(f"SELECT 1 FROM {words[-1]} LIMIT 0")
            return None, [], "LOCK TABLE"
        if verb == "COPY":
            return None, [], f"COPY {self.copy(sql)}"
        return self.translated(sql, verb)

    def translated(self, sql, verb):
        if verb in ("CREATE", "ALTER"):
            table = re.search(r'TABLE\s+(?:IF NOT EXISTS\s+)?(?:"?\w+"?\.)?"?(\w+)"?', sql, re.I)
            for column, size in re.findall(r'"?(\w+)"? VARCHAR\((\d+)\)', sql, re.I) if table else []:
                with GUARD:
                    values = [table[1], column, int(size)]
                    STORE.cursor().execute("INSERT INTO main.varchar_bytes VALUES (?, ?, ?)", values)
            sql = re.sub(r"\)\s*DISTSTYLE[\s\S]*$", ")", sql, flags=re.I)
            sql = re.sub(r"\bSUPER\b", "JSON", sql, flags=re.I)
        if verb == "DROP" and (dropped := re.search(r'"?(\w+)"?$', sql.strip())):
            STORE.cursor().execute("DELETE FROM main.varchar_bytes WHERE tab = ?", [dropped[1]])
        sql = re.sub(r"GETDATE\(\)", "CAST(CURRENT_TIMESTAMP AS TIMESTAMP)", sql, flags=re.I)
        sql = ";".join(one.sql(dialect="duckdb") for one in sqlglot.parse(sql, read="redshift") if one)
        self.cursor.execute(sql)
        if verb in ("SELECT", "WITH", "SHOW"):
            return self.cursor.description, self.cursor.fetchall(), None
        rows = self.cursor.fetchall() if verb in ("INSERT", "UPDATE", "DELETE", "MERGE") else []
        changed = rows[0][0] if rows else 0
        tag = {"INSERT": f"INSERT 0 {changed}"}.get(verb, f"{verb} {changed}" if rows else verb)
        return None, [], tag

    def copy(self, sql):
        shape = r"COPY\s+(\S+)\s+FROM\s+'s3://([^/']+)/([^']+)'\s+IAM_ROLE\s+(?:default|'arn:[^']+')\s+FORMAT AS PARQUET MANIFEST\s*$"
        told = re.match(shape, sql.strip(), re.I)
        if not told:
            raise Problem("42601", f"syntax error in COPY: {sql[:80]}")
        table, bucket, key = told.groups()
        s3 = boto3.client("s3", endpoint_url=S3_ENDPOINT, region_name="us-east-1")
        try:
            entries = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())["entries"]
        except s3.exceptions.NoSuchKey:
            raise Problem("XX000", "The specified S3 prefix does not exist (manifest)")
        columns = self.cursor.execute(f"SELECT name, type FROM pragma_table_info('{table.strip(chr(34))}')").fetchall()
        loaded = 0
        for entry in entries:
            place = re.match(r"s3://([^/]+)/(.+)", entry["url"])
            with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
                try:
                    s3.download_file(*place.groups(), file.name)
                except Exception as error:
                    raise Problem("XX000", f"S3ServiceException: {error}")
                if "content_length" not in entry.get("meta", {}):
                    raise Problem("XX000", "File size must be specified in manifest: content_length is missing")
                if entry["meta"]["content_length"] != os.path.getsize(file.name):
                    raise Problem("XX000", f"Spectrum Scan Error: the file has not the length of the manifest {place[2]}")
                loaded += self.copy_file(table, columns, file.name)
        return loaded

    def copy_file(self, table, columns, path):
        schema = pyarrow.parquet.read_schema(path)
        if len(schema) != len(columns):
            raise Problem("XX000", f"Spectrum Scan Error: file has {len(schema)} columns, table {len(columns)}")
        kinds = {
            "string": "VARCHAR",
            "int32": "INTEGER",
            "int64": "BIGINT",
            "bool": "BOOLEAN",
            "date32[day]": "DATE",
            "timestamp[us, tz=UTC]": "TIMESTAMP",
        }
        values = []
        for field, (name, kind) in zip(schema, columns):
            if kinds.get(str(field.type)) != kind:
                raise Problem("XX000", f"Spectrum Scan Error: column {name} of {kind} has an incompatible Parquet schema {field.type}")
            # Read as an instant, stored without its zone.
            values.append(f'"{field.name}" AT TIME ZONE \'UTC\'' if kind == "TIMESTAMP" else f'"{field.name}"')
            size = self.cursor.execute(
                "SELECT max(bytes) FROM main.varchar_bytes WHERE tab = ? AND col = ?", [table.strip('"'), name]
            ).fetchone()[0]
            if kind == "VARCHAR" and size:
                longest = f'SELECT max(octet_length(encode("{field.name}"))) FROM read_parquet(\'{path}\')'
                longest = self.cursor.execute(longest).fetchone()[0] or 0
                if longest > size:
                    raise Problem("XX000", f"Spectrum Scan Error: the length of the data column {name} is longer than the length defined in the table. Table: {size}, Data: {longest}")
        self.cursor.execute(f"INSERT INTO {table} SELECT {', '.join(values)} FROM read_parquet('{path}')")
        return self.cursor.fetchone()[0]


def as_text(value):
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    return str(value)


def as_binary(value, oid):
    if oid in (1114, 1184):
        epoch = datetime.datetime(2000, 1, 1, tzinfo=value.tzinfo and datetime.timezone.utc)
        return struct.pack("!q", (value - epoch) // datetime.timedelta(microseconds=1))
    shape = {16: "!?", 20: "!q", 23: "!i", 701: "!d"}.get(oid)
    return struct.pack(shape, value) if shape else as_text(value).encode()


OIDS = {
    "BOOLEAN": 16, "BIGINT": 20, "INTEGER": 23, "DOUBLE": 701, "DATE": 1082, "TIMESTAMP": 1114,
    "TIMESTAMP WITH TIME ZONE": 1184, "HUGEINT": 1700, "JSON": 4000,
}


class Wire(socketserver.BaseRequestHandler):
    """PostgreSQL's protocol 3.0, simple and extended queries, everything as text."""

    def handle(self):
        self.session = None
        try:
            if self.start():
                while self.message():
                    pass
        except (ConnectionError, EOFError, ssl.SSLError):
            pass
        finally:
            if self.session:
                self.session.close()

    def read(self, count):
        data = b""
        while len(data) < count:
            part = self.request.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def send(self, kind, body=b""):
        self.out += kind + struct.pack("!i", len(body) + 4) + body

    def flush(self):
        self.request.sendall(self.out)
        self.out = b""

    def start(self):
        self.out = b""
        (length,) = struct.unpack("!i", self.read(4))
        body = self.read(length - 4)
        (code,) = struct.unpack("!i", body[:4])
        if code == 80877103:
            self.request.sendall(b"S" if TLS else b"N")
            if TLS:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*TLS)
                self.request = context.wrap_socket(self.request, server_side=True)
            return self.start()
        if code != 196608:
            return False
        fields = [field.decode() for field in body[4:].split(b"\0")]
        user = dict(zip(fields[::2], fields[1::2])).get("user")
        salt = os.urandom(4)
        self.send(b"R", struct.pack("!i", 5) + salt)
        self.flush()
        self.read(1)
        (length,) = struct.unpack("!i", self.read(4))
        given = self.read(length - 4).rstrip(b"\0").decode()
        inner = hashlib.md5((PASSWORD + USER).encode()).hexdigest()
        if user != USER or given != "md5" + hashlib.md5(inner.encode() + salt).hexdigest():
            self.error(Problem("28000", f'password authentication failed for user "{user}"'))
            self.flush()
            return False
        self.session, self.statements, self.portals = Session(), {}, {}
        self.send(b"R", struct.pack("!i", 0))
        for name, value in {"server_version": "8.0.2", "client_encoding": "UTF8", "server_protocol_version": "0"}.items():
            self.send(b"S", f"{name}\0{value}\0".encode())
        self.send(b"K", struct.pack("!ii", 1, 1))
        self.ready()
        return True

    def ready(self):
        self.send(b"Z", self.session.state.encode())
        self.flush()

    def error(self, problem):
        fields = {"S": "ERROR", "C": code_of(problem), "M": str(problem)}
        self.send(b"E", b"".join(f"{key}{value}\0".encode() for key, value in fields.items()) + b"\0")

    def message(self):
        kind = self.read(1)
        (length,) = struct.unpack("!i", self.read(4))
        body = self.read(length - 4)
        if kind == b"X":
            return False
        if kind == b"Q":
            try:
                self.answer(self.session.run(body.rstrip(b"\0").decode()))
            except Exception as error:
                self.error(error)
            self.ready()
        elif kind == b"S":
            self.skipping = False
            self.ready()
        elif not getattr(self, "skipping", False):
            try:
                self.extended(kind, body)
            except Exception as error:
                self.error(error)
                self.skipping = True
        return True

    def extended(self, kind, body):
        if kind == b"P":
            name, sql = body.split(b"\0")[:2]
            self.statements[name] = [sql.decode(), None]
            self.send(b"1")
        elif kind == b"B":
            portal, statement = body.split(b"\0")[:2]
            # No parameters; then how many result formats, and each: 1 for binary, which Amazon's client asks for.
            rest = body[len(portal) + len(statement) + 2 :]
            (parameter_formats,) = struct.unpack("!h", rest[:2])
            rest = rest[4 + 2 * parameter_formats :]
            (count,) = struct.unpack("!h", rest[:2])
            formats = struct.unpack(f"!{count}h", rest[2 : 2 + 2 * count])
            self.portals[portal] = (self.statements[statement], formats)
            self.send(b"2")
        elif kind == b"D":
            name = body[1:].rstrip(b"\0")
            known = self.statements[name] if body[:1] == b"S" else self.portals[name][0]
            if body[:1] == b"S":
                self.send(b"t", struct.pack("!h", 0))
            if known[0].split()[0].upper() in ("SELECT", "WITH", "SHOW"):
                known[1] = self.session.run(known[0])
                self.describe(known[1][0])
            else:
                self.send(b"n")
        elif kind == b"E":
            known, formats = self.portals[body.split(b"\0")[0]]
            result, known[1] = known[1] or self.session.run(known[0]), None
            self.rows(result, formats)
        elif kind == b"C":
            self.send(b"3")
        elif kind == b"H":
            self.flush()

    def answer(self, result):
        if result[0] is not None:
            self.describe(result[0])
        self.rows(result)

    def describe(self, columns):
        body = struct.pack("!h", len(columns))
        for column in columns:
            oid = OIDS.get(str(column[1]), 1043)
            body += column[0].encode() + b"\0" + struct.pack("!ihihih", 0, 0, oid, -1, -1, 0)
        self.send(b"T", body)

    def rows(self, result, formats=()):
        oids = [OIDS.get(str(column[1]), 1043) for column in result[0] or []]
        for row in result[1]:
            body = struct.pack("!h", len(row))
            for number, value in enumerate(row):
                binary = formats[number if len(formats) > 1 else 0] == 1 if formats else False
                sent = None if value is None else as_binary(value, oids[number]) if binary else as_text(value).encode()
                body += struct.pack("!i", -1) if sent is None else struct.pack("!i", len(sent)) + sent
            self.send(b"D", body)
        self.send(b"C", (result[2] or f"SELECT {len(result[1])}").encode() + b"\0")


class Statements:
    """What the Data API was asked to run."""

    def __init__(self):
        self.all, self.tokens, self.guard = {}, {}, threading.Lock()

    def submit(self, body, batch):
        with self.guard:
            token = body.get("ClientToken")
            if token and token in self.tokens:
                identifier, asked = self.tokens[token]
                if asked != body:
                    raise Problem("ValidationException", "the token was used for another request")
                return self.all[identifier]
            statement = {"Id": str(uuid.uuid4()), "Status": "SUBMITTED", "HasResultSet": False}
            self.all[statement["Id"]] = statement
            if token:
                self.tokens[token] = (statement["Id"], body)
        sqls = body["Sqls"] if batch else [body["Sql"]]
        threading.Thread(target=self.run, args=(statement, sqls, batch), daemon=True).start()
        return statement

    def run(self, statement, sqls, batch):
        statement["Status"] = "STARTED"
        session, each = Session(), []
        try:
            if batch:
                session.run("BEGIN")
            for sql in sqls:
                columns, rows, tag = session.run(sql)
                counted = tag.split()[-1] if tag else str(len(rows))
                each.append({"ResultRows": int(counted) if counted.isdigit() else -1, "Status": "FINISHED"})
                statement["rows"] = (columns, rows)
            if batch and FAIL.is_set():
                FAIL.clear()
                raise Problem("XX000", "the cluster was restarted")
            if batch:
                session.run("COMMIT")
                statement["SubStatements"] = each
            else:
                statement["HasResultSet"] = statement["rows"][0] is not None
                statement["ResultRows"] = each[-1]["ResultRows"]
            statement["Status"] = "FINISHED"
        except Exception as error:
            statement["Error"] = f"ERROR: {error}"
            statement["Status"] = "FAILED"
        finally:
            session.close()


STATEMENTS = Statements()


def field_of(value):
    if value is None:
        return {"isNull": True}
    if isinstance(value, bool):
        return {"booleanValue": value}
    return {"longValue": value} if isinstance(value, int) and abs(value) < 2**63 else {"stringValue": as_text(value)}


class DataApi(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/fail":
            FAIL.set()
            return self.reply(200, {})
        try:
            self.signed(raw)
            self.reply(200, self.act(self.headers["x-amz-target"].split(".")[1], json.loads(raw)))
        except Problem as problem:
            self.reply(400, {"__type": problem.code, "message": str(problem)})

    def signed(self, raw):
        """Signature Version 4, as "Create a signed AWS API request" says."""
        shape = r"AWS4-HMAC-SHA256 Credential=([^/]+)/((\d+)/([^/]+)/([^/]+)/aws4_request), ?SignedHeaders=([^,]+), ?Signature=(\w+)"
        told = re.match(shape, self.headers.get("authorization", ""))
        if not told:
            raise Problem("MissingAuthenticationTokenException", "the request is not signed")
        key, scope, day, region, service, names, signature = told.groups()
        if key != os.environ["AWS_ACCESS_KEY_ID"] or service != "redshift-data":
            raise Problem("UnrecognizedClientException", "the security token included in the request is invalid")
        if not {"host", "x-amz-target", "x-amz-date"} <= set(names.split(";")):
            raise Problem("IncompleteSignatureException", f"signed are {names} alone")
        headers = "".join(f"{name}:{' '.join(self.headers[name].split())}\n" for name in names.split(";"))
        digest = hashlib.sha256(raw).hexdigest()
        request = f"POST\n{urllib.parse.quote(self.path)}\n\n{headers}\n{names}\n{digest}"
        to_sign = f"AWS4-HMAC-SHA256\n{self.headers['x-amz-date']}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        secret = ("AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"]).encode()
        for part in (day, region, service, "aws4_request", to_sign):
            secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
        if not hmac.compare_digest(secret.hex(), signature):
            raise Problem("InvalidSignatureException", "the request signature we calculated does not match")

    def act(self, action, body):
        if action in ("ExecuteStatement", "BatchExecuteStatement"):
            if not body.get("Database") or bool(body.get("WorkgroupName")) == bool(body.get("ClusterIdentifier")):
                raise Problem("ValidationException", "a database, and one of a workgroup and a cluster")
            if body.get("WorkgroupName") == "crowded":
                raise Problem("ActiveStatementsExceededException", "there are too many active statements")
            return {"Id": STATEMENTS.submit(body, action.startswith("Batch"))["Id"], "Database": body["Database"]}
        statement = STATEMENTS.all.get(body["Id"])
        if not statement:
            raise Problem("ResourceNotFoundException", "no such statement")
        if action == "DescribeStatement":
            return {key: value for key, value in statement.items() if key != "rows"}
        if action == "GetStatementResult":
            # Pages of two rows, so that there is more than one.
            rows, begin = statement["rows"][1], int(body.get("NextToken") or 0)
            page = {"Records": [[field_of(value) for value in row] for row in rows[begin : begin + 2]]}
            return page | ({"NextToken": str(begin + 2)} if begin + 2 < len(rows) else {})
        raise Problem("ValidationException", f"no action {action}")

    def reply(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/x-amz-json-1.1")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


wire = Server(("127.0.0.1", 0), Wire)
api = http.server.ThreadingHTTPServer(("127.0.0.1", 0), DataApi)
threading.Thread(target=wire.serve_forever, daemon=True).start()
print(wire.server_address[1], api.server_address[1], flush=True)
api.serve_forever()
