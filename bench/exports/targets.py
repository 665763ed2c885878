"""Where rows go: a folder, and a PostgreSQL of our own. Each can be emptied, and counts what it holds."""

import os
import pathlib
import shutil
import socket
import subprocess
import time

import measured
import source


class Files:
    """A folder below which each loader has one."""

    name = "files"

    def __init__(self, folder, duckdb):
        self.folder, self.duckdb = folder, duckdb

    def place(self, loader):
        return self.folder / loader

    def empty(self, loader):
        shutil.rmtree(self.place(loader), ignore_errors=True)
        self.place(loader).mkdir(parents=True)

    def counts(self, loader):
        return self.duckdb.counts(f"{self.place(loader)}/**/*.parquet")

    def bytes(self, loader):
        return source.size_of(self.place(loader))

    def cpu_s(self):
        return 0.0

    def version(self):
        return "Parquet"

    def stop(self):
        pass


class PostgreSql:
    """A server as initdb leaves it, on a free port, with a schema for each loader; stopped at the end."""

    name = "postgresql"
    USER = "loader"

    def __init__(self, folder):
        config = shutil.which("pg_config")
        found = [pathlib.Path(measured.output([config, "--bindir"]))] if config else []
        found += sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        self.bin = next((place for place in found if (place / "initdb").exists()), None)
        if self.bin is None:
            raise measured.Failed("no initdb here: install PostgreSQL's server")
        # As root it refuses to run.
        self.prefix = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if self.prefix:
            shutil.chown(folder, "nobody")
        data = folder / "data"
        measured.run(
            [*self.prefix, self.bin / "initdb", f"--username={self.USER}", "--auth=trust", "--encoding=UTF8"]
            + ["--locale=C", "-D", data],
            cwd="/",
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.server = subprocess.Popen(
            [*self.prefix, self.bin / "postgres", "-D", data, "-h", "127.0.0.1", "-k", "", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        # The password is not asked for, but dlt wants one.
        self.url = f"postgresql://{self.USER}:any@127.0.0.1:{self.port}/postgres"
        for _ in range(300):
            try:
                self.ask("SELECT 1")
                return
            except measured.Failed:
                time.sleep(0.1)
        self.stop()
        raise measured.Failed("PostgreSQL does not start")

    def ask(self, sql):
        return measured.output([self.bin / "psql", "-X", "-At", "-F", ",", "-d", self.url, "-c", sql])

    def schemas(self, loader):
        """A loader's schema, and the one in which dlt stages."""
        return [loader, f"{loader}_staging"]

    def empty(self, loader):
        for schema in self.schemas(loader):
            self.ask(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        # The last loader's work is not the next one's to write.
        self.ask("CHECKPOINT")

    def counts(self, loader):
        told = self.ask(f"SELECT count(*), count(DISTINCT event_id) FROM {loader}.events")
        return tuple(map(int, told.split(",")))

    def bytes(self, loader):
        told = self.ask(
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c JOIN pg_namespace n "
            f"ON n.oid = c.relnamespace WHERE n.nspname = '{loader}' AND c.relkind = 'r'"
        )
        return int(told)

    def cpu_s(self):
        return measured.cpu_of(self.server.pid)

    def version(self):
        return "PostgreSQL " + self.ask("SHOW server_version").split()[0]

    def stop(self):
        self.server.terminate()
        self.server.wait()
