"""Exports beside dlt and sling: the same events into the same targets, by turns, on this machine.

Called by `bench/run path/to/sendlake exports`, which makes the virtual environment that holds the other two.
"""

import argparse
import json
import pathlib
import sys

import measured
from loaders import Dlt, Sendlake, Sling
from source import Duckdb, Source
from targets import Files, PostgreSql

# What is not alike, to be read beside the figures.
NOTES = [
    "dlt and sling read the rows as plain Parquet files made beforehand, a day each, JSON as text; sendlake reads its lake as it lies",
    "each with its own defaults: sendlake writes Zstandard and a file per day, synced and in its ledger; the others Snappy",
    "in PostgreSQL sendlake's table has a primary key, two indexes and JSONB; the others' have text, and no key on event_id",
]

# What was promised: so many times the rate of each, and memory that no size raises above this.
GOALS = {"dlt": 5.0, "sling": 1.0}
PEAK_MIB_MAX = 500


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=pathlib.Path, help="sendlake; sendlake-bench lies beside it")
    parser.add_argument("--venv", type=pathlib.Path, required=True, help="holds what requirements.txt names")
    parser.add_argument("--bench", type=pathlib.Path, help="sendlake-bench, where it lies elsewhere")
    parser.add_argument("--rows", type=int, nargs="+", default=[2_000_000], help="events, about; several sizes one after another")
    parser.add_argument("--rounds", type=int, default=3, help="figures are medians of so many")
    parser.add_argument("--targets", default="files,postgresql", help="where to, by commas")
    parser.add_argument("--loaders", default="sendlake,dlt,sling", help="who, by commas; dlt_rows is dlt over dictionaries, its slower way")
    parser.add_argument("--dir", type=pathlib.Path, default=pathlib.Path("bench-data/exports"), help="on the disk that is to be measured")
    parser.add_argument("--json", type=pathlib.Path, help="where figures go too; exports.json in the folder")
    return parser.parse_args()


def measure(source, target, loaders, rounds):
    """All rounds of one target: readings by loader. Who goes first changes with the round."""
    readings = {loader.name: [] for loader in loaders}
    for number in range(rounds):
        turn = number % len(loaders)
        for loader in loaders[turn:] + loaders[:turn]:
            target.empty(loader.name)
            loader.prepare(source, target)
            server_s = target.cpu_s()
            reading = loader.load(source, target)
            reading["server_cpu_s"] = round(target.cpu_s() - server_s, 3)
            reading["rows"], reading["events"] = target.counts(loader.name)
            reading["bytes"] = target.bytes(loader.name)
            reading["rows_per_s"] = round(source.rows / reading["wall_s"])
            readings[loader.name].append(reading)
            print(f"  {target.name} round {number + 1} {loader.name}: {json.dumps(reading)}", flush=True)
            if (reading["rows"], reading["events"]) != (source.rows, source.events):
                sys.exit(
                    f"{loader.name} left {reading['rows']} rows of {reading['events']} events in {target.name}, and not "
                    f"{source.rows} of {source.events}: there is nothing to compare"
                )
            target.empty(loader.name)
    return readings


def summary(readings):
    """Medians by loader; and by how many times sendlake is quicker than each of the others, and takes less work."""
    medians = {}
    for name, rounds in readings.items():
        medians[name] = {key: measured.median([reading[key] for reading in rounds]) for key in rounds[0]}
        rates = [reading["rows_per_s"] for reading in rounds]
        medians[name]["rows_per_s_range"] = [min(rates), max(rates)]
        medians[name]["peak_mib"] = max(reading["peak_mib"] for reading in rounds)
    ours = medians.get("sendlake")
    others = {name: found for name, found in medians.items() if ours and name != "sendlake"}
    rates = {name: round(ours["rows_per_s"] / found["rows_per_s"], 2) for name, found in others.items()}
    # What else the machine does stretches wall time; processor time tells what is left on one of its own. Servers' is in it.
    work = {name: round(cpu_s(found) / cpu_s(ours), 2) for name, found in others.items()}
    return medians, rates, work


def cpu_s(found):
    return max(found["cpu_s"] + found["server_cpu_s"], 0.01)


def table(results):
    head = ["rows", "target", "loader", "rows/s", "lowest – highest", "wall s", "CPU s", "server CPU s", "peak MiB", "MB there", "sendlake is", "by CPU"]
    lines = [head]
    for result in results:
        for name, found in result["medians"].items():
            rate, work = result["sendlake_times"].get(name), result["cpu_times"].get(name)
            server = f"{found['server_cpu_s']:.1f}" if result["target"] != "files" else ""
            low, high = found["rows_per_s_range"]
            lines.append([
                f"{result['rows']:,}",
                result["target"],
                name,
                f"{found['rows_per_s']:,}",
                f"{low:,} – {high:,}",
                f"{found['wall_s']:.1f}",
                f"{found['cpu_s']:.1f}",
                server,
                f"{found['peak_mib']:.0f}",
                f"{found['bytes'] / 1e6:.0f}",
                f"{rate:.1f} ×" if rate else "",
                f"{work:.1f} ×" if work else "",
            ])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        cells = [cell.ljust(width) if place in (1, 2) else cell.rjust(width) for place, (cell, width) in enumerate(zip(line, widths))]
        print("  ".join(cells).rstrip())


def goals(results):
    """Each promise with what was measured, in words."""
    for result in results:
        at = f"{result['target']}, {result['rows']:,} rows"
        for name, times in result["sendlake_times"].items():
            if name in GOALS:
                said = "met" if times >= GOALS[name] else "missed"
                yield f"{at}: {times:.1f} × {name}, at least {GOALS[name]:.0f} × was the goal: {said}"
        ours = result["medians"].get("sendlake")
        if ours:
            said = "met" if ours["peak_mib"] < PEAK_MIB_MAX else "missed"
            yield f"{at}: peak {ours['peak_mib']:.0f} MiB, below {PEAK_MIB_MAX} was the goal: {said}"


def main():
    args = arguments()
    folder = args.dir.resolve()
    binary, home = args.binary.resolve(), folder / "home"
    venv = args.venv.absolute()
    head = measured.machine()
    duckdb = Duckdb(venv, home)
    known = {
        "sendlake": lambda: Sendlake(binary, folder / "work" / "sendlake"),
        "dlt": lambda: Dlt(venv, home, folder / "work" / "dlt"),
        "dlt_rows": lambda: Dlt(venv, home, folder / "work" / "dlt_rows", "rows"),
        "sling": lambda: Sling(venv, home, folder / "work" / "sling"),
    }
    loaders = [known[name]() for name in args.loaders.split(",")]
    places = {"files": lambda: Files(folder / "out", duckdb), "postgresql": lambda: PostgreSql(folder / "postgresql")}
    bench = args.bench or binary.parent / "sendlake-bench"
    results, versions = [], {loader.name: loader.version() for loader in loaders}
    for rows in args.rows:
        source = Source(folder / f"rows-{rows}", rows, bench, duckdb)
        for name in args.targets.split(","):
            target = places[name]()
            try:
                versions[name] = target.version()
                readings = measure(source, target, loaders, args.rounds)
            finally:
                target.stop()
            medians, rates, work = summary(readings)
            results.append({
                "rows": source.rows,
                "target": name,
                "rounds": readings,
                "medians": medians,
                "sendlake_times": rates,
                "cpu_times": work,
            })
    print(head)
    print(" · ".join(f"{name} {version}" for name, version in versions.items()))
    print(f"medians of {args.rounds} rounds by turns, each from nothing to everything committed; rows and distinct event_ids agree")
    table(results)
    print("\n".join(NOTES))
    said = list(goals(results))
    print("\n".join(said))
    report = args.json or folder / "exports.json"
    report.write_text(json.dumps({"machine": head, "versions": versions, "notes": NOTES, "results": results, "goals": said}, indent=1) + "\n")
    print(f"as JSON: {report}")


if __name__ == "__main__":
    try:
        main()
    except measured.Failed as failed:
        sys.exit(str(failed))
