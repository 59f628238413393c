"""What each step of a release costs, next to the bare library call (`bare_steps.py`), in the same rounds.

    python -m benchmarks.release_steps [--rounds 3]

A round makes two releases in a state directory of its own, caching off: the second one, a challenger against a
champion, is measured, one step at a time; then the bare calls run on its inputs, each in the environment of its
step. Medians over the rounds count. One more pair of releases, two steps at a time as in `make run`, gives
the wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airworthy import datasets
from airworthy.client import LocalClient
from airworthy.feast_repo import get_service, open_store
from airworthy.features.service import service_inputs
from airworthy.local import Environments, RunResult, TaskRecord
from airworthy.local.executor import child_environment
from airworthy.model_spec import ModelSpec, read_spec
from airworthy.outcome import artifact, release_outcome, task
from airworthy.rollout.deployers import PROBES
from airworthy.serving.smoke import ROWS

ROOT = Path(__file__).resolve().parents[1]
SPEC = ROOT / "models" / "flight_delay.yaml"
MONTHS = ("2013-08-01", "2013-09-01")
MEBIBYTE = 2**20
SAME_AUC = 0.01
"""How far the bare model's AUC may be from ours to count as the same work."""


@dataclass(frozen=True)
class Cost:
    """Wall seconds of a process from its start to its end, and MiB at the peak of its largest process."""

    seconds: float
    peak: float


@dataclass(frozen=True)
class Row:
    """One step and the bare call."""

    step: str
    ours: Cost
    bare: Cost

    @property
    def difference(self) -> float:
        return self.ours.seconds - self.bare.seconds


@dataclass(frozen=True)
class Walls:
    """Two releases with two steps at a time: wall seconds of each, and those in which no step ran."""

    releases: tuple[float, ...]
    idle: tuple[float, ...]


def measure(rounds: int) -> tuple[list[Row], Walls, list[float]]:
    """The rows, in the order of the steps, the walls, and our own share in each round.

    Raises:
        SystemExit: A release did not end in a promotion, or a bare call failed or did other work than ours.
    """
    walls = story()
    taken: dict[str, list[tuple[Cost, Cost]]] = {}
    shares: list[float] = []
    for _ in range(rounds):
        measured = [Row(*each) for each in one_round()]
        shares.append(own_share(measured))
        for row in measured:
            taken.setdefault(row.step, []).append((row.ours, row.bare))
    rows = [
        Row(step, *(_median(costs) for costs in zip(*pairs, strict=True))) for step, pairs in taken.items()
    ]
    return rows, walls, shares


def own_share(rows: list[Row]) -> float:
    """(ours - bare) / ours, of the steps' seconds."""
    return sum(row.difference for row in rows) / sum(row.ours.seconds for row in rows)


def story() -> Walls:
    """Two releases as `make run` makes them, reading the pipeline and writing the report included."""
    walls, idle = [], []
    with state_directory() as home:
        for month in MONTHS:
            began = time.perf_counter()
            result = release(LocalClient(home), month)
            walls.append(time.perf_counter() - began)
            idle.append(walls[-1] - busy_seconds(result))
    return Walls(tuple(walls), tuple(idle))


def one_round() -> Iterator[tuple[str, Cost, Cost]]:
    """Step, what it cost, what the bare call cost."""
    with state_directory() as home:
        before = release(LocalClient(home), MONTHS[0])
        result = release(LocalClient(home, workers=1), MONTHS[1])
        spec, _, schema = read_spec(SPEC)
        (home / "bare" / "champion").mkdir(parents=True)
        (home / "bare" / "schema.pbtxt").write_text(schema)
        asked = request(home, spec, result)
        first = {**asked, "data": _data(before), "out": asked["champion"]}
        _bare(home, _required(before, "train-model"), first)
        for record in leaves(result):
            cost, found = _bare(home, record, asked)
            _require_same(record, found, result)
            yield record.name, _cost(record), cost


@contextmanager
def state_directory() -> Iterator[Path]:
    """A state directory for one story; it shares nothing with the checkout's but the environments."""
    shared = Path(os.environ.get("AIRWORTHY_HOME", ROOT / ".airworthy")) / "envs"
    shared.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="airworthy-bench-") as name:
        home = Path(name)
        (home / "envs").symlink_to(shared.absolute())
        yield home


def release(client: LocalClient, as_of: str) -> RunResult:
    """A release without cache that must end in a promotion."""
    result = client.submit(
        "release", model=SPEC, parameters={"as_of": as_of}, cache=False, env=_store(client.home)
    )
    outcome = release_outcome(result)
    if outcome.ending != "released":
        raise SystemExit(f"the release as of {as_of} ended otherwise: {outcome.headline} {outcome.reasons}")
    return result


def leaves(result: RunResult) -> list[TaskRecord]:
    """The steps, in the order in which they started."""
    found = [record for record in result.tasks.values() if record.is_leaf and record.started]
    return sorted(found, key=lambda record: record.started or 0.0)


def busy_seconds(result: RunResult) -> float:
    """Seconds of a run in which at least one step ran."""
    busy, end = 0.0, 0.0
    for record in leaves(result):
        began, ended = record.started or 0.0, record.ended or 0.0
        busy += max(0.0, ended - max(began, end))
        end = max(end, ended)
    return busy


def request(home: Path, spec: ModelSpec, result: RunResult) -> dict[str, Any]:
    """What the bare calls work on: the inputs of the run's own steps."""
    store = open_store(ROOT / "feature_repo", home)
    keys, inputs = service_inputs(store, get_service(store, spec.features.service))
    about = datasets.read_info(_output(result, "retrieve-features", "test"))
    windows = {name: datasets.read_info(_output(result, "retrieve-features", name)) for name in _data(result)}
    counts = json.loads((_output(result, "rollout-canary", "record") / "rollout.json").read_text())["counts"]
    return {
        "model": spec.name,
        "registered": f"{spec.name}_bare",
        "features": about.feature_names,
        "categories": about.categories,
        "id": spec.features.id,
        "time": spec.features.time,
        "label": spec.label.column,
        "known_at": spec.label.known_at,
        "windows": {name: (info.start.isoformat(), info.end.isoformat()) for name, info in windows.items()},
        "service": spec.features.service,
        "feature_repo": str(ROOT / "feature_repo"),
        "entities": str(home / "feast" / "sources" / f"{spec.features.entities}.parquet"),
        "entity_columns": [*keys, *inputs],
        "data": _data(result),
        "schema": str(home / "bare" / "schema.pbtxt"),
        "previous_statistics": str(_output(result, "load-champion", "champion") / "statistics" / "train.pb"),
        "skew": spec.validation.skew.model_dump(),
        "drift": spec.validation.drift.model_dump(),
        "params": {**spec.trainer.params, "seed": spec.trainer.seed},
        "rounds": spec.trainer.rounds,
        "early_stopping_rounds": spec.trainer.early_stopping_rounds,
        "smoke_rows": ROWS,
        "traffic": {arm: count["requests"] + PROBES for arm, count in counts.items()},
        "champion": str(home / "bare" / "champion"),
        "out": str(home / "bare"),
    }


def _bare(home: Path, record: TaskRecord, asked: Mapping[str, Any]) -> tuple[Cost, dict[str, Any]]:
    """Runs a step's bare call as a process of its own; returns what it cost and what it found."""
    step = record.name.replace("-", "_")
    python = Environments(home).python_for(record.image or "")
    out = Path(asked["out"])
    file = out / "request.json"
    file.write_text(json.dumps(asked))
    command = [str(python), "-W", "ignore", str(ROOT / "benchmarks" / "bare_steps.py"), step, str(file)]
    extra = {**_store(home), "OMP_WAIT_POLICY": "PASSIVE"}
    with (out / f"{step}.out").open("w+") as said, (out / f"{step}.err").open("w+") as complained:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=out, env=child_environment(python, home, out, extra), stdout=said, stderr=complained
        )
        _, status, usage = os.wait4(process.pid, 0)  # unlike Popen.wait it also tells the memory
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            complained.seek(0)
            raise SystemExit(f"the bare {step} failed: {complained.read()[-2000:]}")
        said.seek(0)
        found = json.loads(said.read().splitlines()[-1])
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(seconds, usage.ru_maxrss * unit / MEBIBYTE), found


def _require_same(record: TaskRecord, found: Mapping[str, Any], result: RunResult) -> None:
    """Refuses a comparison with a bare call that did less: other rows, another model, other scores."""
    problem = ""
    if record.name == "retrieve-features":
        rows = sum(items[0]["metadata"]["rows"] for items in record.outputs["artifacts"].values())
        problem = f"{found['rows']} rows instead of {rows}" if found["rows"] != rows else ""
    elif record.name == "evaluate-model":
        metrics = record.outputs["artifacts"]["metrics"][0]["metadata"]
        if found["rows"] != metrics["rows"] or abs(found["auc"] - metrics["auc"]) > SAME_AUC:
            problem = f"{found} instead of {metrics['rows']} rows, AUC {metrics['auc']}"
    elif record.name == "smoke-test" and not found["largest_difference"] <= 1e-5:
        problem = f"scores differ by {found['largest_difference']}"
    if problem:
        raise SystemExit(f"the bare {record.name} of {result.run_id} did other work: {problem}")


def _store(home: Path) -> dict[str, str]:
    return {"MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}"}


def _data(result: RunResult) -> dict[str, str]:
    """Each window's Parquet file (one: the windows are small)."""
    found = {}
    for name in ("train", "tune", "test"):
        (file,) = datasets.files(_output(result, "retrieve-features", name))
        found[name] = str(file)
    return found


def _output(result: RunResult, step: str, name: str) -> Path:
    path = artifact(result, step, name)
    if path is None:
        raise SystemExit(f"{result.run_id}: {step} left no {name}")
    return path


def _required(result: RunResult, step: str) -> TaskRecord:
    record = task(result, step)
    assert record is not None, step
    return record


def _cost(record: TaskRecord) -> Cost:
    return Cost(record.seconds or 0.0, (record.peak_memory_bytes or 0) / MEBIBYTE)


def _median(costs: tuple[Cost, ...]) -> Cost:
    return Cost(statistics.median(c.seconds for c in costs), statistics.median(c.peak for c in costs))


def table(rows: list[Row], walls: Walls, shares: list[float]) -> str:
    """Markdown: one line per step, the totals, and what they say about the aims."""
    lines = [
        "| Step | Ours, s | Bare, s | We add, s | Ours, peak MiB | Bare, peak MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row.step} | {row.ours.seconds:.1f} | {row.bare.seconds:.1f} | {row.difference:+.1f} "
            f"| {row.ours.peak:.0f} | {row.bare.peak:.0f} |"
        )
    ours, bare = (sum(getattr(row, side).seconds for row in rows) for side in ("ours", "bare"))
    peaks = [max(getattr(row, side).peak for row in rows) for side in ("ours", "bare")]
    lines.append(
        f"| **all** | **{ours:.1f}** | **{bare:.1f}** | **{ours - bare:+.1f}** | {peaks[0]:.0f} | {peaks[1]:.0f} |"
    )
    share = own_share(rows)
    costs = sum(max(0.0, row.difference) for row in rows) / ours
    total = sum(walls.releases)
    first, second = walls.releases
    lines += [
        "",
        f"Medians of {len(shares)} round(s), one step at a time.",
        "",
        f"- Our own share of the steps, (ours - bare) / ours: **{share:.1%}** "
        f"(aim: at most 10 %, {_reached(share <= 0.1)}); by round {', '.join(f'{s:.1%}' for s in shares)}.",
        f"- The same, counting only the steps in which we are slower, so that no quicker step pays for them: "
        f"**{costs:.1%}** ({_reached(costs <= 0.1)}).",
        f"- Two releases with two steps at a time, as in `make run`: {first:.0f} s + {second:.0f} s = "
        f"**{total:.0f} s** (aim: at most 180 s on 2 cores, {_reached(total <= 180)}).",
        f"- Time of these two runs in which no step ran (reading the pipeline, the engine, the report): "
        f"{walls.idle[0]:.2f} s + {walls.idle[1]:.2f} s, {sum(walls.idle) / total:.1%} of the whole.",
    ]
    return "\n".join(lines)


def _reached(reached: bool) -> str:
    return "reached" if reached else "**not reached**"


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description="Steps of a release next to the bare library calls.")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(table(*measure(options.rounds)))


if __name__ == "__main__":
    main()
