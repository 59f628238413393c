"""Operations on records of rollouts."""

from __future__ import annotations

from pathlib import Path

from airworthy.files import write_whole
from airworthy.operations.registered import say
from airworthy.state import home


def replay(record: str) -> None:
    """Recompute a rollout's decision from its record.

    Raises:
        RolloutError: There is none, it is damaged or has no end, or it says another decision than the recomputed
            one.
    """
    from airworthy.errors import RolloutError
    from airworthy.rollout.replay import find_record
    from airworthy.rollout.replay import replay as recompute

    path = find_record(record, home())
    found = recompute(path)
    if found.problem:
        raise RolloutError(found.problem)
    assert found.judgement is not None
    counts = ", ".join(f"{n:,} {name}" for name, n in found.told.counts.items() if n) or "no request"
    say(f"{found.judgement.outcome}: {found.judgement.reason}")
    say(f"recomputed from {counts} in {path}: the recorded decision is the same, bit for bit")


def report(record: str, out: Path | None) -> None:
    """Draw a rollout's page, by default beside its record.

    Raises:
        RolloutError: There is no record, or it is damaged.
    """
    from airworthy.rollout.replay import find_record
    from airworthy.rollout.report import render

    path = find_record(record, home())
    target = out or (path if path.is_dir() else path.parent) / "report.html"
    write_whole(target, render(path))
    say(f"wrote {target}")
