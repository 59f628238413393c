"""What the packaged model takes on the real server, held against the spec's budget.

Other work on the machine can only add to a latency, and seldom to all rounds: so single-row requests are asked in
several rounds and the median round counts. A start is measured once, and twice more when it took too long; then
the median counts, too. The slowest round and start are told beside it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from airworthy.model_spec import Budget
from airworthy.verdict import Check

ROUNDS = 5
ROUND_REQUESTS = 200
FAMILY = "budget"
_MIB = 2**20
_TITLES = {
    "p50_ms": ("Single-row latency, median", "ms"),
    "p99_ms": ("Single-row latency, 99 %", "ms"),
    "start_seconds": ("Server start", "s"),
    "bundle_mib": ("Bundle on disk", "MiB"),
    "memory_mib": ("Server's resident memory", "MiB"),
}


@dataclass(frozen=True)
class Usage:
    """What was measured; latencies in ms, as a client on the same machine sees them."""

    p50: tuple[float, ...]
    """By round."""
    p99: tuple[float, ...]
    starts: tuple[float, ...]
    """Seconds from starting the process to its first readiness."""
    bundle_mib: float
    memory_mib: float
    """Resident memory of the server's processes after all requests."""
    load: float
    """Processes that wanted a core, on average over the last minute, when the requests were answered."""
    cores: int

    @property
    def values(self) -> dict[str, float]:
        """What counts, by the name of its budget."""
        return {
            "p50_ms": median(self.p50),
            "p99_ms": median(self.p99),
            "start_seconds": median(self.starts),
            "bundle_mib": self.bundle_mib,
            "memory_mib": self.memory_mib,
        }

    @property
    def metrics(self) -> dict[str, float]:
        """The same rounded for people, and the load."""
        return {name: round(value, 3) for name, value in self.values.items()} | {
            "load": round(self.load, 2),
            "cores": self.cores,
        }

    def samples(self, name: str) -> tuple[float, ...]:
        """All measurements behind a value."""
        several = {"p50_ms": self.p50, "p99_ms": self.p99, "start_seconds": self.starts}
        return several.get(name, (self.values[name],))


def quantiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Median and 99th percentile of a round, in ms."""
    times = sorted(1e3 * value for value in seconds)
    return times[len(times) // 2], times[int(0.99 * (len(times) - 1))]


def size_mib(folder: Path) -> float:
    """Size of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / _MIB


def memory_mib(pid: int) -> float:
    """Resident memory of a process and its children.

    Raises:
        psutil.NoSuchProcess: It has ended.
    """
    process = psutil.Process(pid)
    resident: int = process.memory_info().rss
    for child in process.children(recursive=True):
        try:
            resident += child.memory_info().rss
        except psutil.NoSuchProcess:  # ended since it was listed: takes nothing
            continue
    return resident / _MIB


def machine_load() -> tuple[float, int]:
    """Load average of the last minute, and how many cores there are."""
    return os.getloadavg()[0], os.cpu_count() or 1


def budget_checks(budget: Budget, usage: Usage) -> tuple[Check, ...]:
    """One check per limit that the spec gives; without limits none."""
    limits = budget.model_dump(exclude_none=True)
    return tuple(_check(name, limits[name], usage) for name in _TITLES if name in limits)


def usage_rows(budget: Budget, usage: Usage) -> list[list[object]]:
    """For a table: what, measured, limit (or none), lowest and highest measurement."""
    limits = budget.model_dump()
    table: list[list[object]] = []
    for name, (title, unit) in _TITLES.items():
        limit, samples = limits[name], usage.samples(name)
        spread = f"{min(samples):.3g}–{max(samples):.3g} {unit}" if len(samples) > 1 else "–"
        shown = "no limit" if limit is None else f"{limit:g} {unit}"
        table.append([title, f"{usage.values[name]:.3g} {unit}", shown, spread])
    return table


def _check(name: str, limit: float, usage: Usage) -> Check:
    title, unit = _TITLES[name]
    value, samples = usage.values[name], usage.samples(name)
    kept = value <= limit
    how = ""
    if len(samples) > 1:
        what = "starts" if name == "start_seconds" else f"rounds of {ROUND_REQUESTS} requests"
        how = f" (median of {len(samples)} {what}, {min(samples):.3g} to {max(samples):.3g} {unit})"
    busy = not kept and unit != "MiB" and usage.load > usage.cores
    excuse = f"; the machine was busy: load {usage.load:.1f} on {usage.cores} cores" if busy else ""
    return Check(
        name=name,
        family=FAMILY,
        observed=value,
        threshold=limit,
        outcome="pass" if kept else "fail",
        reason=f"{title}: {value:.3g} {unit}{how}, {'within' if kept else 'above'} the budget of {limit:g} {unit}"
        f"{excuse}.",
    )
