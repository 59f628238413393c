"""What the model server tells Prometheus. Counted in plain numbers and put into words only when it is scraped."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airworthy.serving.prediction_log import PredictionLog
    from airworthy.serving.predictor import Prediction

LATENCY_BUCKETS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1, 2, 5)
"""Seconds. KServe's own histograms begin at 5 ms, which is slower than nearly every request here."""
SCORE_BUCKETS = tuple(k / 10 for k in range(1, 11))


class Tally:
    """A histogram: how many values fell up to each bound, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> tuple[list[tuple[str, int]], float]:
        """Cumulative counts by upper bound as Prometheus writes it, and the sum."""
        from prometheus_client.utils import floatToGoString

        totals = accumulate(self._counts)
        bounds = (*self._bounds, float("inf"))
        return [(floatToGoString(bound), n) for bound, n in zip(bounds, totals, strict=True)], self._sum


class Instruments:
    """Counts what was asked and answered; a collector for `prometheus_client`. Used by one thread.

    Args:
        model_name: Name in the addresses.
        version: Registry version; label `model_version` of everything.
        digest: The bundle's.
        arm: `stable`, `canary` or "".
        engine: What scores.
        log: The prediction log, if there is one.
    """

    def __init__(
        self,
        model_name: str,
        version: str,
        *,
        digest: str = "",
        arm: str = "",
        engine: str = "",
        log: PredictionLog | None = None,
    ) -> None:
        self.in_flight = 0
        self._version = version
        self._about = [model_name, version, digest[:12], arm, engine]
        self._log = log
        self._statuses: Counter[int] = Counter()
        self._unseen: Counter[str] = Counter()
        self._rows = 0
        self._unsound = 0
        self._seconds = Tally(LATENCY_BUCKETS)
        self._scores = Tally(SCORE_BUCKETS)

    def answered(self, status: int, seconds: float) -> None:
        """A prediction request was answered, whatever came of it."""
        self._statuses[status] += 1
        self._seconds.add(seconds)

    def predicted(self, prediction: Prediction) -> None:
        """Rows were scored."""
        self._rows += len(prediction.scores)
        for score in prediction.scores:
            self._scores.add(score)
        if prediction.unseen:
            self._unseen.update(prediction.unseen)

    def unsound(self) -> None:
        """The model gave something that is no probability."""
        self._unsound += 1

    def describe(self) -> Iterable[Any]:
        """For `prometheus_client`: nothing is promised before the first scrape."""
        return []

    def collect(self) -> Iterator[Any]:
        """For `prometheus_client`: everything, as of now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        about = ["model_name", "model_version", "digest", "arm", "engine"]
        yield _family(
            GaugeMetricFamily, "airworthy_model_info", "What is served", about, {tuple(self._about): 1}
        )
        labels, own = ["model_version"], (self._version,)
        counted: list[tuple[Any, str, str, list[str], dict[tuple[str, ...], float]]] = [
            (CounterMetricFamily, "requests", "Predictions asked", [*labels, "status"],
             {(*own, str(status)): n for status, n in self._statuses.items()}),
            (CounterMetricFamily, "rows", "Rows scored", labels, {own: self._rows}),
            (CounterMetricFamily, "unseen_categories", "Category values not seen in training",
             [*labels, "feature"], {(*own, feature): n for feature, n in self._unseen.items()}),
            (CounterMetricFamily, "unsound_scores", "Answers of the model that are no probability", labels,
             {own: self._unsound}),
            (GaugeMetricFamily, "in_flight", "Prediction requests being answered", labels, {own: self.in_flight}),
        ]  # fmt: skip
        if self._log is not None:
            counted += [
                (CounterMetricFamily, "prediction_log_rows", "Rows on disk", labels, {own: self._log.written}),
                (CounterMetricFamily, "prediction_log_dropped", "Rows that were not written", [*labels, "reason"],
                 {(*own, reason): n for reason, n in self._log.dropped.items()}),
                (GaugeMetricFamily, "prediction_log_queue_rows", "Rows waiting to be written", labels,
                 {own: self._log.waiting}),
            ]  # fmt: skip
        for kind, name, text, names, values in counted:
            yield _family(kind, f"airworthy_{name}", text, names, values)
        for name, text, tally in (
            ("airworthy_request_seconds", "Time to answer", self._seconds),
            ("airworthy_prediction", "Predicted probabilities", self._scores),
        ):
            histogram = HistogramMetricFamily(name, text, labels=labels)
            histogram.add_metric(own, *tally.buckets())
            yield histogram


def _family(
    kind: Any, name: str, text: str, labels: Sequence[str], values: dict[tuple[str, ...], float]
) -> Any:
    family = kind(name, text, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family
