"""How far flights are from independent rows, and what blocks repair: two really trained models on the feature repo.

    python -m benchmarks.gate_flights [--splits 1000]

The champion is the demo's model trained as of August, the challenger the same trained as of September; both are
judged on the flights of September to December. Truth is not known here, so intervals are tested on halves: the days
are dealt into two halves again and again, and two halves of one population should differ by more than their intervals
say in 5 % of the deals.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airworthy.bundle import Scorer
from airworthy.datasets import read_frame
from airworthy.evaluation import comparison
from airworthy.evaluation.statistics import metrics
from airworthy.evaluation.statistics.metrics import Floats, Labels
from airworthy.evaluation.statistics.resampling import Bootstrap
from airworthy.features import retrieve
from airworthy.model_spec import ModelSpec, read_spec
from airworthy.training import train

ROOT = Path(__file__).resolve().parents[1]
SPEC = ROOT / "models" / "flight_delay.yaml"
TRAINED = {"champion": datetime(2013, 8, 1, tzinfo=UTC), "challenger": datetime(2013, 9, 1, tzinfo=UTC)}
JUDGED = datetime(2013, 12, 31, tzinfo=UTC)
JUDGED_DAYS = 121
UNITS = ("row", "hour", "day")
LOSSES: dict[str, Callable[[Labels, Floats], Floats]] = {
    "log_loss": metrics.log_losses,
    "brier": metrics.squared_errors,
    "cost": lambda labels, scores: metrics.costs(labels, scores, 0.25, 1.0, 3.0),
}


@dataclass(frozen=True)
class Flights:
    """The judged rows; `blocks` by unit, none for rows."""

    labels: Labels
    champion: Floats
    challenger: Floats
    blocks: dict[str, NDArray[np.int32] | None]

    def where(self, rows: NDArray[np.intp]) -> Flights:
        """Some of the rows."""
        blocks = {unit: None if codes is None else codes[rows] for unit, codes in self.blocks.items()}
        return Flights(self.labels[rows], self.champion[rows], self.challenger[rows], blocks)


def score(folder: Path) -> Flights:
    """Train both models, score both on the later flights."""
    spec, text, _ = read_spec(SPEC)
    home = folder / "home"
    scorers = []
    for name, as_of in TRAINED.items():
        place = folder / name
        # A window that nobody scores is not retrieved; these two end where the test window would begin.
        learn = spec.model_copy(update={"splits": spec.splits.model_copy(update={"test_days": 1})})
        windows = {part: place / part for part in ("train", "tune")}
        retrieve(learn, as_of, windows, feature_repo=ROOT / "feature_repo", home=home)
        train(spec, text, **windows, out=place / "bundle", as_of=as_of.isoformat(), tracking=False)
        scorers.append(Scorer.load(place / "bundle"))
    return _scored(spec, folder / "test", home, scorers)


def _scored(spec: ModelSpec, place: Path, home: Path, scorers: list[Scorer]) -> Flights:
    late = spec.model_copy(update={"splits": spec.splits.model_copy(update={"test_days": JUDGED_DAYS})})
    retrieve(late, JUDGED, {"test": place}, feature_repo=ROOT / "feature_repo", home=home)
    frame = read_frame(place)
    times = frame[spec.features.time].dt
    blocks: dict[str, NDArray[np.int32] | None] = {"row": None}
    for unit, step in (("hour", "h"), ("day", "D")):
        blocks[unit] = np.unique(times.floor(step), return_inverse=True)[1].astype(np.int32)
    champion, challenger = (np.asarray(s.score_frame(frame)[0], dtype=float) for s in scorers)
    return Flights(frame[spec.label.column].to_numpy().astype(np.int8), champion, challenger, blocks)


def errors(flights: Flights, unit: str) -> dict[str, tuple[float, float]]:
    """Difference and its standard error by metric, with that unit drawn."""
    boot = Bootstrap.plan(len(flights.labels), 1000, 0, flights.blocks[unit])
    labels, arms = flights.labels, (flights.champion, flights.challenger)
    found = {
        "auc": comparison.auc_difference(labels, *arms, boot, 0.95),
        "pr_auc": comparison.average_precision_difference(labels, *arms, boot, 0.95),
    }
    for name, of in LOSSES.items():
        found[name] = comparison.mean_difference(of(labels, arms[0]), of(labels, arms[1]), boot, 0.95)
    return {name: (e.value, e.error if e.error is not None else math.nan) for name, e in found.items()}


def design(flights: Flights) -> Iterator[str]:
    """What the rows are worth by unit."""
    rows = len(flights.labels)
    yield (
        f"\n**Flights are not independent**: {rows:,} flights, champion trained as of "
        f"{TRAINED['champion']:%Y-%m-%d}, challenger as of {TRAINED['challenger']:%Y-%m-%d}. Standard error of the "
        "difference by what is drawn, and how many independent rows the flights are worth.\n"
    )
    by = " | ".join(f"error by {unit}" for unit in UNITS)
    yield f"| metric | difference | {by} | worth by hour | by day |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    table = {unit: errors(flights, unit) for unit in UNITS}
    for metric, (difference, alone) in table["row"].items():
        spread = [table[unit][metric][1] for unit in UNITS]
        worth = [rows * (alone / error) ** 2 for error in spread[1:]]
        cells = [
            f"{difference:+.5f}",
            *(f"{error:.5f}" for error in spread),
            *(f"{value:,.0f}" for value in worth),
        ]
        yield f"| `{metric}` | " + " | ".join(cells) + " |"


def halves(flights: Flights, splits: int) -> Iterator[str]:
    """How often two halves of the days differ surely."""
    metric_names = ("auc", *LOSSES)
    draw = np.random.default_rng(0)
    days = flights.blocks["day"]
    assert days is not None
    seen = {(unit, name): 0 for unit in UNITS for name in metric_names}
    for _ in range(splits):
        first = draw.permutation(int(days.max()) + 1) % 2 == 0
        parts = [flights.where(np.flatnonzero(first[days] == side)) for side in (True, False)]
        for unit in UNITS:
            found = [_quick(part, unit) for part in parts]
            for name in metric_names:
                (a, error_a), (b, error_b) = (each[name] for each in found)
                seen[unit, name] += abs(a - b) > 1.96 * math.hypot(error_a, error_b)
    yield (
        f"\n**Two halves of the same days differ “surely”** (95 % intervals), of {splits:,} deals of the days; honest "
        "errors do so in 5 %.\n"
    )
    yield "| drawn | " + " | ".join(f"`{name}`" for name in metric_names) + " |"
    yield "|---|" + "---:|" * len(metric_names)
    for unit in UNITS:
        yield f"| {unit} | " + " | ".join(f"{seen[unit, name] / splits:.1%}" for name in metric_names) + " |"


def _quick(flights: Flights, unit: str) -> dict[str, tuple[float, float]]:
    """The same errors by formula: a thousand deals would be slow by resampling."""
    boot = Bootstrap.plan(len(flights.labels), 200, 0, flights.blocks[unit])
    labels, arms = flights.labels, (flights.champion, flights.challenger)
    area = comparison.auc_difference(labels, *arms, boot, 0.95)
    found = {"auc": (area.value, area.error or math.nan)}
    for name, of in LOSSES.items():
        values = of(labels, arms[1]) - of(labels, arms[0])
        mean = float(values.mean())
        found[name] = (mean, boot.error_of_sum((values - mean) / len(values)))
    return found


def lines(splits: int) -> Iterator[str]:
    """Both tables, as Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        flights = score(Path(folder))
    yield from design(flights)
    yield from halves(flights, splits)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--splits", type=int, default=1000)
    for line in lines(parser.parse_args().splits):
        print(line, flush=True)


if __name__ == "__main__":
    main()
