"""How other tools would decide on the same requests: their decision rules as small functions.

Each looks at intervals of 100 requests (they say minutes). Numbers are those of the tool's own documentation and
examples; where a user has to bring the number, it is the limit that our judge is given, 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airworthy.serving.observation import Observation

INTERVAL = 100
LIMIT = 0.05


@dataclass(frozen=True)
class Requests:
    """One rollout after its warm-up, as columns: whether the canary's, whether failed, seconds taken."""

    canary: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    seconds: NDArray[np.float64]

    @classmethod
    def of(cls, observations: Sequence[Observation]) -> Requests:
        rows = [seen for seen in observations if seen.share > 0 for _ in range(seen.count)]
        return cls(
            np.array([seen.arm == "canary" for seen in rows]),
            np.array([seen.failed for seen in rows]),
            np.array([seen.seconds for seen in rows]),
        )

    def intervals(self) -> Iterator[tuple[int, Requests]]:
        """Each interval with the number of requests up to its end."""
        for end in range(INTERVAL, len(self.canary) + 1, INTERVAL):
            part = slice(end - INTERVAL, end)
            yield end, Requests(self.canary[part], self.failed[part], self.seconds[part])

    def rate(self, canary: bool) -> float:
        """Failure rate of an arm; not a number without requests."""
        mine = self.failed[self.canary == canary]
        return float(mine.mean()) if len(mine) else math.nan


Gate = Callable[[Requests], int | None]
"""Requests until the canary is rolled back; None if it isn't."""


def _failed_checks(seen: Requests, limit: float, most: int) -> int | None:
    checks = 0
    for end, part in seen.intervals():
        checks += part.rate(True) > limit
        if checks >= most:
            return end
    return None


def flagger(seen: Requests) -> int | None:
    """docs.flagger.app, usage/metrics: request-success-rate at least 99; `threshold: 5` failed checks in all."""
    return _failed_checks(seen, 0.01, 5)


def argo_rollouts(seen: Requests) -> int | None:
    """argo-rollouts docs, features/analysis: success rate at least 0.95, `failureLimit: 3`: the fourth one fails."""
    return _failed_checks(seen, 0.05, 4)


def cloudwatch_alarm(seen: Requests) -> int | None:
    """SageMaker deployment guardrails: any CloudWatch alarm rolls back. An alarm trips at 1 of 1 periods, unless set
    otherwise; the threshold is the user's."""
    return _failed_checks(seen, LIMIT, 1)


def iter8(seen: Requests) -> int | None:
    """Iter8 objectives: the error rate so far stays within an upper limit, at every iteration."""
    for end, _ in seen.intervals():
        mine = seen.failed[:end][seen.canary[:end]]
        if len(mine) and mine.mean() > LIMIT:
            return end
    return None


def kayenta(seen: Requests) -> int | None:
    """Kayenta's NetflixACAJudge: Mann-Whitney with confidence 0.98 and tolerance 0.25 per metric, on one point per
    interval; judged every five intervals on all points so far. With two metrics, one that is high leaves a score of 50,
    below the usual marginal 75."""
    points: list[tuple[float, float, float, float]] = []
    for end, part in seen.intervals():
        if 0 < part.canary.sum() < len(part.canary):
            canary, stable = part.seconds[part.canary], part.seconds[~part.canary]
            points.append((part.rate(True), part.rate(False), float(canary.mean()), float(stable.mean())))
        if end % (5 * INTERVAL) == 0 and len(points) >= 5:
            columns = np.array(points).T
            if _high(columns[0], columns[1]) or _high(columns[2], columns[3]):
                return end
    return None


def _high(canary: NDArray[np.float64], stable: NDArray[np.float64]) -> bool:
    """Whether the lower end of the 98 % interval of the shift exceeds a quarter of the shift's estimate."""
    differences = np.sort((canary[:, None] - stable[None, :]).ravel())
    n, m = len(canary), len(stable)
    k = int(n * m / 2 - 2.326 * math.sqrt(n * m * (n + m + 1) / 12))
    return k >= 0 and bool(differences[k] > 0.25 * abs(np.median(differences)))


def z_test(seen: Requests) -> int | None:
    """Pooled two-proportion z-test at 5 %, one-sided, on all requests so far."""
    for end, _ in seen.intervals():
        canary, failed = seen.canary[:end], seen.failed[:end]
        n = (int(canary.sum()), int((~canary).sum()))
        pooled = failed.mean()
        if not all(n) or pooled in (0, 1):
            continue
        spread = math.sqrt(pooled * (1 - pooled) * (1 / n[0] + 1 / n[1]))
        if (failed[canary].mean() - failed[~canary].mean()) / spread > 1.645:
            return end
    return None


GATES: dict[str, Gate] = {
    "z-test": z_test,
    "Flagger": flagger,
    "Argo Rollouts": argo_rollouts,
    "Kayenta": kayenta,
    "SageMaker alarm": cloudwatch_alarm,
    "Iter8": iter8,
}
