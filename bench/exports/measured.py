"""One command, measured: wall seconds, processor seconds, peak memory. And what this machine is."""

import os
import pathlib
import subprocess
import time


class Failed(Exception):
    """A command that ended with something else than 0; the text says which, and the end of what it said."""


def run(command, env=None, log=None, cwd=None):
    """Runs a command to its end. `peak_mib` is the largest process of it and of those it started.

    This process must stay small: on Linux a child begins with the peak of whoever started it.
    """
    began = time.perf_counter()
    out = open(log, "wb") if log else subprocess.DEVNULL
    child = subprocess.Popen([str(part) for part in command], stdout=out, stderr=out, env=env, cwd=cwd)
    _, status, used = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if log:
        out.close()
    if child.returncode != 0:
        said = pathlib.Path(log).read_text(errors="replace")[-3000:] if log else ""
        raise Failed(f"{command[0]} ended with {child.returncode}; the end of {log}:\n{said}")
    return {
        "wall_s": round(wall_s, 3),
        "cpu_s": round(used.ru_utime + used.ru_stime, 3),
        "peak_mib": round(used.ru_maxrss / 1024, 1),
    }


def output(command, env=None):
    """What a command prints."""
    done = subprocess.run([str(part) for part in command], env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))[:500]}: {done.stderr.strip()[-2000:]}")
    return done.stdout.strip()


def cpu_of(pid):
    """Processor seconds of a process and of its children that have ended."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def median(readings):
    """The middle one; the lower of two in the middle."""
    return sorted(readings)[(len(readings) - 1) // 2]


def machine():
    """The machine in a line, as sendlake-bench prints it."""
    info = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), "unknown")
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    return f"{model} · {os.cpu_count()} cores, {gib} GiB, load {os.getloadavg()[0]:.2f} before"
