"""All benchmarks that need no GPU; prints the tables and renews them in benchmarks/README.md.

    python -m benchmarks [--rounds 3] [--retrieval-rows 60000]

The whole takes about ten minutes on two cores; leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path

import psutil

from benchmarks import release_steps

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
VERSIONS = {
    "dev": ("kfp", "feast", "duckdb", "polars", "mlflow", "xgboost-cpu", "kserve", "pandas"),
    "validation": ("tensorflow-data-validation",),
}
"""Packages worth naming, by the lock file that pins them."""
QUIET = 0.05
"""Share of the cores that others may take."""


def main() -> None:
    """Measures everything, then writes."""
    parser = argparse.ArgumentParser(description="Benchmarks; renews the tables of benchmarks/README.md.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the release and the bare calls")
    parser.add_argument("--retrieval-rows", type=int, default=60_000, help="entity rows of the retrieval")
    options = parser.parse_args()
    if BEGIN not in README.read_text() or END not in README.read_text():
        raise SystemExit(f"{README}: the lines {BEGIN} and {END} are missing")
    parts, before = [machine(), "### Steps of a release\n"], core_seconds()
    say("releases and bare library calls")
    parts += [release_steps.table(*release_steps.measure(options.rounds))]
    say("engine and kfp.local")
    parts += ["\n### Local engine\n", script("engine_overhead.py")]
    say("feature retrieval")
    parts += [
        "\n### Point-in-time retrieval\n",
        script("retrieval.py", "--rows", str(options.retrieval_rows)),
    ]
    parts += [f"\n{disturbance(before, core_seconds())}"]
    text = "\n".join(parts)
    write(text)
    print(text)


def say(what: str) -> None:
    """What is being measured, on standard error."""
    print(f"measuring: {what} …", file=sys.stderr, flush=True)


def script(name: str, *arguments: str) -> str:
    """The table that another benchmark prints."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / name), *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.strip().splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith("|"))
    notes, rows = lines[:first], lines[first:]
    return "\n".join([*rows, *(["", *notes] if notes else [])])


def machine() -> str:
    """Where and when: processor, cores, memory, versions, date and load at the start."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"Python {platform.python_version()}"]
    for lock, names in VERSIONS.items():
        pinned = (ROOT / "requirements" / f"{lock}.txt").read_text()
        for name in names:
            found = re.search(rf"^{re.escape(name)}==(\S+)", pinned, re.MULTILINE)
            versions.append(f"{name} {found.group(1) if found else '?'}")
    return (
        f"Measured on {datetime.datetime.now(datetime.UTC):%Y-%m-%d} on {processor()}, {os.cpu_count()} cores, "
        f"{memory:.0f} GiB; load average at the start {os.getloadavg()[0]:.1f}.\n"
        f"{', '.join(versions)}.\n"
    )


def core_seconds() -> tuple[float, float, float]:
    """Core seconds so far: of the whole machine, busy or not; busy; busy for this benchmark."""
    times = psutil.cpu_times()
    ours = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total, times.user + times.system, sum(each.ru_utime + each.ru_stime for each in ours)


def disturbance(before: tuple[float, float, float], after: tuple[float, float, float]) -> str:
    """How much of the machine other processes took meanwhile: a load at the start says nothing about that."""
    total, busy, ours = (b - a for a, b in zip(before, after, strict=True))
    others = max(0.0, busy - ours) / total
    verdict = (
        "quiet enough"
        if others <= QUIET
        else "**too busy: measure again before believing small differences**"
    )
    return f"Other processes took {others:.0%} of the cores meanwhile ({verdict})."


def processor() -> str:
    """The processor's model, as the system names it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def write(text: str) -> None:
    """Puts the tables between the marks in the README, whole or not at all."""
    before, _, rest = README.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    temporary = README.with_name(f"{README.name}.incomplete")
    temporary.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    temporary.replace(README)


if __name__ == "__main__":
    main()
