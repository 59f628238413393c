"""Batches of counted requests as observations for the judge.

The order of the requests in a batch is unknown. All its observations bear one time, so that the judge compares them
with the same references and decides when it has seen all of them (`Judge.complete`). That time is the batch's
beginning: whoever drops what came before some moment drops every batch that reaches back behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from airworthy.rollout.signals.counters import Request, requests
from airworthy.rollout.signals.families import Family
from airworthy.rollout.signals.watch import Batch
from airworthy.serving.observation import Observation

SAMPLE = 200
"""Requests that the judge keeps as references: stable's last ones of a batch are a fair sample of it."""


def observations(batch: Batch, family: Family, share: float, index: int) -> list[Observation]:
    """Observations of a batch: stable's before the canary's, sums before single requests.

    Those that may not be compared are marked `repeat`, which keeps them in the counts and in the certificate.

    Args:
        batch: Windows to report.
        family: Whose series they are.
        share: Canary's share of traffic during all of it.
        index: Of the first observation.
    """
    found: Counter[tuple[Request, bool]] = Counter()
    for windows, lone in ((batch.compared, False), (batch.lone, True)):
        for window in windows:
            for request, number in requests(window, family).items():
                found[request, lone or (request.result == "ok" and not family.sees_both)] += number
    return [
        Observation(
            index=index + place,
            at=round(batch.start, 6),
            arm=request.arm,
            share=share,
            result=request.result,
            seconds=request.seconds,
            score=None,
            repeat=repeat,
            count=number,
        )
        for place, ((request, repeat), number) in enumerate(_ordered(found))
    ]


def _ordered(found: Counter[tuple[Request, bool]]) -> Iterator[tuple[tuple[Request, bool], int]]:
    stable = Counter({key: number for key, number in found.items() if key[0].arm == "stable"})
    sample: Counter[tuple[Request, bool]] = Counter()
    if (total := stable.total()) > SAMPLE:
        sample.update({key: number * SAMPLE // total for key, number in stable.items()})
    for part in (stable - sample, +sample, found - stable):
        yield from sorted(part.items(), key=lambda item: (item[1] == 1, item[0]))
