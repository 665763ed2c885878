"""Who is measured: sendlake, dlt and sling, each from nothing to everything committed, as one process."""

import json
import os
import pathlib
import shutil

import measured


class Sendlake:
    """`export run` of one connector on the lake itself, from a fresh data folder."""

    name = "sendlake"

    def __init__(self, binary, work):
        self.binary, self.work = binary, work
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("SENDLAKE_")}

    def version(self):
        told = measured.output([self.binary, "--version"]).split()[-1]
        # cargo names the folder after the profile: `debug` is the dev profile, whose figures are lower bounds.
        return f"{told} ({self.binary.parent.name})"

    def settings(self, source, target):
        text = f'[storage]\ndir = "{self.work / "data"}"\nlake_url = "{source.lake}"\n\n[export.bench]\nschedule = "manual"\n'
        if target.name == "files":
            return text + f'\n[export.bench.files]\nurl = "{target.place(self.name)}"\n'
        return text + (
            f'\n[export.bench.postgresql]\nhost = "127.0.0.1"\nport = {target.port}\nuser = "{target.USER}"\n'
            f'sslmode = "disable"\nschema = "{self.name}"\n'
        )

    def prepare(self, source, target):
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        source.forget_positions()
        config = self.work / "sendlake.toml"
        config.write_text(self.settings(source, target))
        # Makes the control store.
        measured.run([self.binary, "--config", config, "tenant", "add", "bench"], self.env, self.work / "tenant.log")

    def load(self, source, target):
        command = [self.binary, "--config", self.work / "sendlake.toml", "export", "run", "bench"]
        return measured.run(command, self.env, self.work / "log")


class Dlt:
    """A pipeline over Arrow tables, as dlt's documentation advises for speed, or over dictionaries, as `dlt_rows`; appends
    files, merges into tables."""

    def __init__(self, venv, home, work, form="arrow"):
        self.name = "dlt" if form == "arrow" else f"dlt_{form}"
        self.python, self.work, self.form = venv / "bin" / "python", work, form
        self.env = {"HOME": str(home), "PATH": "/usr/bin:/bin"}

    def version(self):
        return measured.output([self.python, "-c", "import dlt; print(dlt.__version__)"], self.env)

    def prepare(self, source, target):
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)

    def load(self, source, target):
        url = target.place(self.name).as_uri() if target.name == "files" else target.url
        script = pathlib.Path(__file__).with_name("dlt_copy.py")
        command = [self.python, script, source.plain, self.form, target.name, url, self.name, self.work]
        return measured.run(command, self.env, self.work.with_suffix(".log"), cwd=self.work)


class Sling:
    """One command line; it reads and writes Parquet by the DuckDB that it finds."""

    name = "sling"

    def __init__(self, venv, home, work):
        (self.binary,) = venv.glob("lib/python*/site-packages/sling_linux_amd64/bin/sling-linux-amd64")
        self.binary.chmod(0o755)
        self.work = work
        self.env = {
            "HOME": str(home),
            "PATH": "/usr/bin:/bin",
            "DUCKDB_PATH": str(venv / "bin" / "duckdb"),
            "SLING_DISABLE_TELEMETRY": "TRUE",
        }

    def version(self):
        return measured.output([self.binary, "--version"], self.env).split()[-1]

    def prepare(self, source, target):
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)

    def load(self, source, target):
        command = [self.binary, "run", "--src-stream", f"file://{source.plain}/*.parquet"]
        if target.name == "files":
            # Of one file it would keep the last part alone: it begins another wherever columns turn out to hold more.
            options = json.dumps({"format": "parquet", "file_max_rows": 1_000_000})
            command += ["--tgt-object", f"file://{target.place(self.name)}/", "--tgt-options", options]
            command += ["--mode", "full-refresh"]
        else:
            command += ["--tgt-conn", f"{target.url}?sslmode=disable", "--tgt-object", f"{self.name}.events"]
            command += ["--mode", "incremental", "--primary-key", "event_id"]
        return measured.run(command, self.env, self.work / "log")
