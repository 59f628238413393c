"""Simulated rollouts written down as records, for tests of record and report."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from airworthy.rollout import record as record_module
from airworthy.rollout.effects import EffectInterval
from airworthy.rollout.judge import JUDGE, Ending, Judge, Judgement, Settings, conclude
from airworthy.rollout.record import Outcome, Polled, RecordWriter, Seen
from airworthy.serving.observation import Arm, Observation, Pair

STEPS = (0.1, 0.5, 1.0)
WARM_UP = 200


@dataclasses.dataclass
class Clock:
    """Stands in for the `time` module: a record's lines lie between the simulated requests."""

    now: float = 1_700_000_000.0

    def time(self) -> float:
        return self.now


Write = Callable[..., Judgement]


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch) -> Write:
    """`write(folder, seen)` records a rollout of what was seen; one without an end if `ending` is None."""
    clock = Clock()
    monkeypatch.setattr(record_module, "time", clock)

    def write(
        folder: Path, seen: Iterable[Seen], *, ending: Ending | None = "completed", **start: Any
    ) -> Judgement:
        judge, effect = Judge(Settings(shadow=True)), EffectInterval()
        writer = RecordWriter(folder)
        writer.write("start", **facts(judge.settings), **start)
        writer.write("state", before="starting", after="verifying")
        writer.write("weight", percent=0)
        share = harm = 0.0
        for one in seen:
            if isinstance(one, Observation):
                one = dataclasses.replace(one, at=round(clock.now, 6))
                if one.share != share:
                    share = one.share
                    writer.write("state", before="?", after="baking" if share == 1 else "shifting")
                    writer.write("weight", percent=round(100 * share))
                judge.observe(one)
                harm += one.failed and one.arm == "canary"
                if writer.observe(one):
                    writer.write("evidence", index=one.index, evidence=judge.evidence)
            elif isinstance(one, Pair):
                judge.compare(one)
                writer.compare(one)
            elif isinstance(one, Polled):
                judge.complete()
                writer.polled()
            else:
                effect.observe(one.value, one.canary, one.share)
                writer.outcome(one.value, one.canary, one.share)
            if not isinstance(one, Polled) and getattr(one, "count", 1) == 1:
                clock.now += 0.01  # the sums of a poll have one time
            if judge.failure:
                break
        judgement = conclude(judge, ending or "interrupted")
        if ending:
            after = "proven" if judgement.outcome == "PASS" else "rolled back"
            writer.write("state", before="?", after=after, reason=judgement.reason)
            low, high = effect.interval
            found = (
                {"estimate": effect.estimate, "low": low, "high": high, "n": effect.n} if effect.n else None
            )
            said = {"judgement": dataclasses.asdict(judgement), "evidence": judge.evidence, "effect": found}
            writer.write("end", ending=ending, detail="", harm=int(harm), shielded=0, **said)
            writer.close({"decision": judgement.outcome, "reason": judgement.reason})
        return judgement

    return write


def facts(settings: Settings) -> dict[str, Any]:
    """What a start line says."""
    return {
        "service": "late",
        "model": "late",
        "rollout": "20130801-101500-1",
        "version": "2",
        "bundle_digest": "ab" * 32,
        "stable_version": "1",
        "stable_digest": "cd" * 32,
        "compared": True,
        "judge": JUDGE,
        "settings": dataclasses.asdict(settings),
        "plan": {},
        "traffic": "simulated",
    }


def requests(
    count: int = 1200,
    *,
    each: int = 400,
    seed: int = 3,
    error: Callable[[int, Arm], float] = lambda i, arm: 0.01,
    slower: float = 1.0,
) -> list[Observation]:
    """Requests after a stable warm-up: `each` at every step, the last step for ever.

    Args:
        count: Requests after the warm-up.
        each: Requests per step.
        seed: Of the draws.
        error: Chance to fail, by number (from 0 after the warm-up) and arm.
        slower: Factor on the canary's latency.
    """
    dice = random.Random(seed)
    seen = []
    for i in range(-WARM_UP, count):
        share = STEPS[min(i // each, len(STEPS) - 1)] if i >= 0 else 0.0
        arm: Arm = "canary" if dice.random() < share else "stable"
        failed = dice.random() < error(max(i, 0), arm)
        seconds = round(dice.lognormvariate(-6, 0.5) * (slower if arm == "canary" else 1.0), 6)
        score = None if failed else dice.random()
        seen.append(Observation(i + WARM_UP, 0.0, arm, share, "error" if failed else "ok", seconds, score))
    return seen


def pairs(count: int) -> list[Pair]:
    """Shadow pairs whose scores differ a little and whose decisions sometimes do."""
    return [
        Pair(i, 1_700_000_000.0 + i, "ok", "ok", 0.4 + (i % 7) / 50, 0.42, 0.003, 0.002) for i in range(count)
    ]


def outcomes(count: int) -> list[Outcome]:
    """Outcomes of an A/B test in which the canary is better by 0.2."""
    return [Outcome(float(i % 10 < (6 if i % 2 else 4)), i % 2 == 1, 0.5) for i in range(count)]
