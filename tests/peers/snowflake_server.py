"""A stand-in of a Snowflake account: fakesnow (DuckDB behind the connector's protocol) with the SQL API, version 2, in front.

    snowflake_server.py PORT DATABASE SCHEMA ACCOUNT USER PUBLIC_KEY.pem

Beyond what fakesnow does: key-pair tokens are verified (signature, fingerprint, times), in both protocols; statements of one
request share a session; a request id that is sent again with retry=true is not run again; 202 and polling; UPDATE and
MERGE hold a table's lock to the end of the request's transaction, as Snowflake's do; MERGE within a transaction; COPY into
temporary tables and with FILES from internal stages; REMOVE. POST /fault {"contains": "...", "code": "...", "times": 1} makes statements fail.
"""

import base64
import decimal
import gzip
import hashlib
import json
import os
import sys
import threading
import time
import uuid

import duckdb
import fakesnow.copy_into as copy_into
import fakesnow.server as fakesnow
import fakesnow.transforms.stage as stages
import jwt
import snowflake.connector.errors
import sqlglot
import uvicorn
from cryptography.hazmat.primitives import serialization
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

PORT, DATABASE, SCHEMA, ACCOUNT, USER, KEY_FILE = sys.argv[1:7]
with open(KEY_FILE, "rb") as file:
    PUBLIC_KEY = serialization.load_pem_public_key(file.read())
DER = PUBLIC_KEY.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
FINGERPRINT = "SHA256:" + base64.b64encode(hashlib.sha256(DER).digest()).decode()
# Answers that are over before this are given at once.
AT_ONCE_S = 0.3
ROWS_PER_PART = 50

statements = {}  # by handle
requests = {}  # handle by request id
faults = []
table_locks = {}
guard = threading.Lock()


def describe_table(table, duck, database, schema):
    """fakesnow asks for the target of a COPY by its full name, which a temporary table has not."""
    temporary = duck.execute("SELECT 1 FROM duckdb_tables() WHERE temporary AND table_name = ?", [table.name])
    if temporary.fetchone():
        return [(row[0], row[1]) for row in duck.execute(f'DESCRIBE "{table.name}"').fetchall()]
    return described_by_fakesnow(table, duck, database, schema)


def source_urls(source, files):
    """fakesnow takes FILES of external stages alone."""
    if files and stages.is_internal(source):
        return [os.path.join(source, file) for file in files]
    return urls_by_fakesnow(source, files)


described_by_fakesnow, urls_by_fakesnow = copy_into._describe_table, copy_into._source_urls
copy_into._describe_table, copy_into._source_urls = describe_table, source_urls


def token_problem(token):
    try:
        claims = jwt.decode(token, PUBLIC_KEY, algorithms=["RS256"], options={"require": ["iss", "sub", "iat", "exp"]})
    except jwt.PyJWTError as error:
        return str(error)
    if claims["iss"] != f"{ACCOUNT}.{USER}.{FINGERPRINT}" or claims["sub"] != f"{ACCOUNT}.{USER}":
        return "issuer or subject"
    if claims["exp"] - claims["iat"] > 3600:
        return "longer than an hour"
    return None


class Failed(Exception):
    def __init__(self, code, state, message):
        super().__init__(message)
        self.code, self.state, self.message = code, state, message


class Session:
    """The connection of one request."""

    def __init__(self, database, schema):
        self.conn = fakesnow.shared_fs.connect(database, schema)
        self.held = []

    def close(self):
        try:
            self.conn._duck_conn.execute("ROLLBACK")
        except Exception:
            pass
        self.release()
        self.conn.close()

    def release(self):
        for lock in self.held:
            lock.release()
        self.held = []

    def hold(self, sql):
        words = sql.replace("\n", " ").split()
        changes = {"UPDATE": 1, "MERGE": 2, "DELETE": 2}.get(words[0].upper())
        if changes is None:
            return
        name = words[changes].strip('"').upper()
        with guard:
            lock = table_locks.setdefault(name, threading.Lock())
        if lock not in self.held:
            if not lock.acquire(timeout=60):
                raise Failed("000625", "57014", f"Statement was aborted because the lock on {name} was not granted")
            self.held.append(lock)

    def execute(self, sql):
        with guard:
            for fault in list(faults):
                if fault["contains"] in sql:
                    fault["times"] -= 1
                    if fault["times"] <= 0:
                        faults.remove(fault)
                    raise Failed(fault["code"], "42000", "a fault that the test asked for")
        self.hold(sql)
        first = sql.split(None, 1)[0].upper()
        try:
            if first == "MERGE":
                text = sqlglot.transpile(sql, read="snowflake", write="duckdb")[0]
                done = self.conn._duck_conn.execute(text + " RETURNING merge_action").fetchall()
                kinds = [kind for kind in ("INSERT", "UPDATE", "DELETE") if f"THEN {kind}" in sql]
                return kinds, [[sum(row[0] == kind for row in done) for kind in kinds]]
            if first == "REMOVE":
                return ["name", "result"], [self.remove(sql.split()[1])]
            cursor = self.conn.cursor()
            cursor.execute(sql)
            rows = cursor.fetchall()
            if first in ("COMMIT", "ROLLBACK"):
                self.release()
            return [column.name for column in cursor.description or []], rows
        except snowflake.connector.errors.Error as error:
            raise Failed(f"{error.errno:06d}", error.sqlstate or "42000", error.msg) from error
        except Failed:
            raise
        except duckdb.BinderException as error:
            raise Failed("000904", "42000", f"SQL compilation error: invalid identifier: {error}") from error
        except Exception as error:
            raise Failed("100038", "22018", str(error)) from error

    def remove(self, reference):
        name, _, path = reference.lstrip("@").partition("/")
        parts = stages.parts_from_var(name, self.conn.database, self.conn.schema)
        file = stages.internal_dir(".".join(parts)) + path
        if not os.path.exists(file):
            return [path, "no such file"]
        os.remove(file)
        return [path, "removed"]


def split(text):
    """The statements of a text, by semicolons outside of quotes."""
    parts, quote, begun = [], None, 0
    for at, letter in enumerate(text):
        if quote:
            quote = None if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == ";":
            parts.append(text[begun:at].strip())
            begun = at + 1
    parts.append(text[begun:].strip())
    return [part for part in parts if part]


def plain(value):
    """A value as the SQL API writes it."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, decimal.Decimal) and value == value.to_integral_value():
        return str(int(value))
    return str(value)


def run(entry, body):
    parts = split(body["statement"])
    wanted = int(body.get("parameters", {}).get("MULTI_STATEMENT_COUNT", 1))
    session = Session(body.get("database"), body.get("schema"))
    try:
        if wanted != len(parts):
            raise Failed(
                "000008", "0A000", f"Actual statement count {len(parts)} did not match the desired statement count {wanted}."
            )
        for sql in parts:
            columns, rows = session.execute(sql)
            part = new_entry() if len(parts) > 1 else entry
            part["columns"], part["rows"] = columns, [[plain(value) for value in row] for row in rows]
            if part is not entry:
                part["state"] = "done"
                entry["handles"].append(part["handle"])
        if len(parts) > 1:
            entry["columns"], entry["rows"] = ["result"], [["Multiple statements executed successfully."]]
        entry["state"] = "done"
    except Failed as failed:
        entry["failure"] = failed
        entry["state"] = "failed"
    finally:
        session.close()
        entry["over"].set()


def new_entry():
    entry = {"handle": str(uuid.uuid4()), "state": "running", "handles": [], "over": threading.Event()}
    statements[entry["handle"]] = entry
    return entry


def answer(entry, part=0):
    base = {
        "statementHandle": entry["handle"],
        "createdOn": int(time.time() * 1000),
        "statementStatusUrl": f"/api/v2/statements/{entry['handle']}",
    }
    if entry["state"] == "running":
        text = {"code": "333334", "message": "Asynchronous execution in progress."}
        return JSONResponse({**base, **text}, status_code=202)
    if entry["state"] == "failed":
        failed = entry["failure"]
        text = {"code": failed.code, "sqlState": failed.state, "message": failed.message}
        return JSONResponse({**base, **text}, status_code=422)
    rows = entry["rows"]
    parts = [rows[at : at + ROWS_PER_PART] for at in range(0, len(rows), ROWS_PER_PART)] or [[]]
    if part > 0:
        # Later parts come compressed, whoever asks.
        body = gzip.compress(json.dumps({"data": parts[part]}).encode())
        return Response(body, media_type="application/json", headers={"Content-Encoding": "gzip"})
    whole = {
        **base,
        "code": "090001",
        "sqlState": "00000",
        "message": "Statement executed successfully.",
        "resultSetMetaData": {
            "numRows": len(rows),
            "format": "jsonv2",
            "rowType": [{"name": name, "type": "text"} for name in entry["columns"]],
            "partitionInfo": [{"rowCount": len(part)} for part in parts],
        },
        "data": parts[0],
    }
    if entry["handles"]:
        whole["statementHandles"] = entry["handles"]
    return JSONResponse(whole)


def refused(request):
    if request.headers.get("X-Snowflake-Authorization-Token-Type") != "KEYPAIR_JWT":
        return JSONResponse({"code": "390101", "message": "Authorization token type is missing."}, status_code=401)
    problem = token_problem(request.headers.get("Authorization", "").removeprefix("Bearer "))
    if problem:
        message = f"JWT token is invalid. [{problem}]"
        return JSONResponse({"code": "390144", "message": message}, status_code=401)
    return None


async def submit(request):
    if refusal := refused(request):
        return refusal
    body = await request.json()
    request_id = request.query_params.get("requestId")
    if request_id:
        uuid.UUID(request_id)
    if request.query_params.get("retry") == "true" and request_id in requests:
        return answer(statements[requests[request_id]])
    entry = new_entry()
    if request_id:
        requests[request_id] = entry["handle"]
    threading.Thread(target=run, args=(entry, body), daemon=True).start()
    if request.query_params.get("async") != "true":
        await fakesnow.run_in_threadpool(entry["over"].wait, AT_ONCE_S)
    return answer(entry)


async def status(request):
    if refusal := refused(request):
        return refusal
    entry = statements.get(request.path_params["handle"])
    if entry is None:
        return JSONResponse({"code": "000404", "message": "no such statement"}, status_code=404)
    return answer(entry, int(request.query_params.get("partition", 0)))


async def fault(request):
    faults.append(await request.json())
    return JSONResponse({})


async def log_in(request):
    body = await request.body()
    if request.headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    data = json.loads(body)["data"]
    problem = token_problem(data.get("TOKEN", "")) if data.get("AUTHENTICATOR") == "SNOWFLAKE_JWT" else "no key pair"
    if problem:
        message = f"JWT token is invalid. [{problem}]"
        return JSONResponse({"data": {}, "code": "390144", "message": message, "success": False})
    return await fakesnow.login_request(request)


app = Starlette(
    routes=[
        Route("/api/v2/statements", submit, methods=["POST"]),
        Route("/api/v2/statements/{handle}", status, methods=["GET"]),
        Route("/fault", fault, methods=["POST"]),
        Route("/session/v1/login-request", log_in, methods=["POST"]),
        Mount("/", fakesnow.app),
    ]
)

# The database and the schema are the account's: an administrator has made them.
fakesnow.shared_fs.connect(DATABASE, SCHEMA).close()
uvicorn.run(app, host="127.0.0.1", port=int(PORT), log_level="error")
