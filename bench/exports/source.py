"""What is copied: a lake of made-up events, and the same rows as plain Parquet files for loaders that read no Delta table."""

import pathlib
import shutil

import measured

DAYS = 7
# What its measurement of a refresh adds to the lake in the one round that it must have.
REFRESHED = 100_000


class Duckdb:
    """DuckDB's command line, with extensions that lie in a home folder."""

    def __init__(self, venv, home):
        self.program = venv / "bin" / "duckdb"
        self.env = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
        version = measured.output([self.program, "-version"]).split()[0]
        folder = home / ".duckdb" / "extensions" / version / "linux_amd64"
        folder.mkdir(parents=True, exist_ok=True)
        for file in venv.glob("lib/python*/site-packages/duckdb_extension_*/extensions/*/*.duckdb_extension"):
            if not (folder / file.name).exists():
                shutil.copy(file, folder)

    def ask(self, sql):
        """The rows of the last statement, as lists of text."""
        told = measured.output([self.program, "-csv", "-noheader", "-c", "SET TimeZone = 'UTC'; " + sql], self.env)
        return [line.split(",") for line in told.splitlines()]

    def counts(self, glob):
        """Rows and distinct event_ids of Parquet files."""
        (found,) = self.ask(f"SELECT count(*), count(DISTINCT event_id) FROM read_parquet('{glob}', union_by_name = true)")
        return tuple(map(int, found))


class Source:
    """`lake`, the folder of a lake; `plain`, a folder with one Parquet file for each day of it."""

    def __init__(self, folder, rows, bench, duckdb):
        self.lake, self.plain = folder / "made" / "lake", folder / "plain"
        if not (folder / "whole").exists():
            print(f"making about {rows} events …", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            measured.run(
                [bench, "large", "--rows", max(rows - REFRESHED, 1), "--days", DAYS, "--questions", 1, "--rounds", 1, "--keep"]
                + ["--dir", folder / "made"],
                log=folder / "made.log",
            )
            shutil.rmtree(folder / "made" / "early")
            self._copy(duckdb)
            (folder / "whole").touch()
        self.rows, self.events = duckdb.counts(self.plain / "*.parquet")
        self.bytes = sum(file.stat().st_size for file in self.plain.iterdir())

    def _copy(self, duckdb):
        """Columns as they are, the map as JSON text, the day among them: no loader has to know how a lake is laid out."""
        self.plain.mkdir()
        lake = f"delta_scan('{self.lake / 'events'}')"
        for (day,) in duckdb.ask(f"SELECT DISTINCT event_date FROM {lake} ORDER BY 1"):
            duckdb.ask(
                f"COPY (SELECT * REPLACE (CAST(to_json(tags) AS VARCHAR) AS tags) FROM {lake} WHERE event_date = '{day}') "
                f"TO '{self.plain / day}.parquet' (FORMAT parquet, COMPRESSION zstd)"
            )

    def forget_positions(self):
        """Takes away how far connectors of earlier rounds have come."""
        for file in self.lake.glob("_readers/export-*"):
            file.unlink()


def size_of(folder):
    """Octets of all files below a folder."""
    return sum(file.stat().st_size for file in pathlib.Path(folder).rglob("*") if file.is_file())
