"""Evidence from request metrics that Prometheus has collected, per revision or model version.

Raw samples are read (a range vector), never `rate` or `increase`, which answer in fractions. Only what lies between
two scrapes after the last change of weights is reported, so that no request of former weights gets through.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airworthy.errors import ServingError
from airworthy.rollout.signals import NamedBy
from airworthy.rollout.signals.batches import observations
from airworthy.rollout.signals.counters import Scrape, Target, read_scrapes
from airworthy.rollout.signals.families import Family
from airworthy.rollout.signals.silence import Silence
from airworthy.rollout.signals.watch import Watch
from airworthy.serving.observation import Arm, Observation

if TYPE_CHECKING:
    from aiohttp import ClientSession

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
LONGEST_RANGE = 900.0
"""Seconds of raw samples that are read at most: longer gaps end the rollout before."""


class PrometheusSignals:
    """Reads one service's request counters.

    Args:
        url: Of Prometheus (or what answers like it), without `/api/v1`.
        family: What the metrics are called.
        namespace: The service's, where the family can tell namespaces apart.
        scrapes: Scrapes per report where each arm is scraped for itself (`airworthy.rollout.signals.watch`): about one
            in so many of the canary's failures can't be compared. A failing canary is reported at once.
        patience: Seconds that Prometheus or an arm may be silent.
        token_file: File with a bearer token, read anew for each query.
    """

    def __init__(
        self,
        url: str,
        family: Family,
        *,
        namespace: str = "",
        scrapes: int = 4,
        patience: float = 120.0,
        token_file: Path | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._family = family
        self._namespace = namespace
        self._scrapes = scrapes
        self._token_file = token_file
        self._silence = Silence(f"Prometheus at {self._url}", patience)
        self._since: float | None = None
        self._followed: tuple[float, dict[Arm, str]] | None = None
        self._watch: Watch | None = None
        self._index = 0

    @property
    def named_by(self) -> NamedBy:
        return self._family.named_by

    async def skip(self) -> None:
        """Forget everything up to now, by Prometheus' clock; if it doesn't answer, up to the next poll."""
        self._watch = None
        self._since = None
        with contextlib.suppress(_NoAnswerError):
            async with self._session() as session:
                self._since = await self._now(session)

    async def poll(self, share: float, arms: Mapping[Arm, str]) -> list[Observation]:
        """See `Signals.poll`."""
        if arms["stable"] == arms["canary"]:
            raise ServingError(
                f"both arms are called {arms['canary']!r}: metrics can't tell which of them failed"
            )
        try:
            async with self._session() as session:
                found = await self._poll(session, share, dict(arms))
        except _NoAnswerError as error:
            log.warning("Prometheus at %s did not answer: %s", self._url, error)
            self._silence.failed(time.monotonic(), str(error))
            return []
        self._silence.answered()
        return found

    async def _poll(self, session: ClientSession, share: float, arms: dict[Arm, str]) -> list[Observation]:
        now = await self._now(session)
        watch = self._watch
        if watch is None or self._followed != (share, arms):
            # Another share without a skip: since when it applies is unknown, but at most since now.
            since = self._since if watch is None and self._since is not None else now
            alike = self._family.sees_both or share >= 1.0
            watch = self._watch = Watch(since, 0 if alike else self._scrapes)
            self._followed, self._since = (share, arms), None
            self._silence.begin(now)
        seconds = min(max(now - watch.wanted_since(now), 1.0), LONGEST_RANGE)
        matrix = await self._query(
            session, self._range(self._family.series(arms, self._namespace), seconds), now
        )
        scrapes = read_scrapes(matrix, self._family, arms)
        watch.add(scrapes, await self._empty(session, watch, scrapes, now))
        return self._report(watch, share, now)

    def _report(self, watch: Watch, share: float, now: float) -> list[Observation]:
        for arm in ("stable", "canary"):
            heard = watch.fresh(arm)
            if heard is not None:
                self._silence.fresh(arm, heard)
        batch = watch.take(now)
        found = observations(batch, self._family, share, self._index) if batch else []
        self._index += len(found)
        counts = {arm: sum(seen.count for seen in found if seen.arm == arm) for arm in ("stable", "canary")}
        self._silence.counted(counts["stable"], counts["canary"], share, now)
        self._silence.check(now, share)
        return found

    async def _empty(
        self, session: ClientSession, watch: Watch, scrapes: Mapping[Target, list[Scrape]], now: float
    ) -> dict[Target, float]:
        """When newcomers had counted nothing yet: at their start, or when they were scraped before and showed none."""
        times: dict[Target, float] = {}
        for job, instance in watch.newcomers(scrapes):
            first = scrapes[job, instance][0].at
            matchers = f"job={json.dumps(job)},instance={json.dumps(instance)}"
            selector = f'{{__name__=~"up|process_start_time_seconds",{matchers}}}'
            for series in await self._query(session, self._range(selector, max(now - watch.since, 1.0)), now):
                if series["metric"]["__name__"] == "up":
                    known = [
                        float(at) for at, value in series["values"] if value == "1" and float(at) < first
                    ]
                else:
                    known = [float(value) for at, value in series["values"] if float(at) == first]
                times[job, instance] = max([*known, times.get((job, instance), 0.0)])
        return times

    def _session(self) -> ClientSession:
        from aiohttp import ClientSession, ClientTimeout

        return ClientSession(timeout=ClientTimeout(total=ANSWER_SECONDS), headers=self._headers())

    async def _now(self, session: ClientSession) -> float:
        return float((await self._query(session, "time()"))[0])

    @staticmethod
    def _range(selector: str, seconds: float) -> str:
        return f"{selector}[{round(seconds * 1000)}ms]"

    async def _query(self, session: ClientSession, query: str, at: float | None = None) -> list[Any]:
        """The result of an instant query, as Prometheus' API gives it.

        Raises:
            _NoAnswerError: It may answer later.
            ServingError: It will not.
        """
        from aiohttp import ClientError

        data = {"query": query} if at is None else {"query": query, "time": f"{at:.3f}"}
        try:
            async with session.post(f"{self._url}/api/v1/query", data=data) as answer:
                body = await answer.text()
                if answer.status >= 500:
                    raise _NoAnswerError(f"it answered with status {answer.status}")
                reply = json.loads(body)
                if answer.status == 200:
                    return list(reply["data"]["result"])
                why = f"{reply['error']} (status {answer.status})"
        except (ClientError, TimeoutError, OSError) as error:
            raise _NoAnswerError(str(error) or type(error).__name__) from None
        except (ValueError, KeyError, TypeError):
            why = f"the answer to a query (status {answer.status}) is not one of Prometheus' API"
        raise ServingError(f"{self._url} can't be used as Prometheus: {why}")

    def _headers(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        try:
            return {"Authorization": f"Bearer {self._token_file.read_text().strip()}"}
        except OSError as error:
            raise ServingError(
                f"{self._token_file}: the token for Prometheus can't be read: {error.strerror}"
            ) from None


class _NoAnswerError(Exception):
    """Prometheus is unreachable or out of order, for now."""
