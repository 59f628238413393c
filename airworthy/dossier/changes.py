"""What is different from the champion before: policy, data, features, training, metrics."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from airworthy.dossier.document import Changed, Changes, MetricChange, Scalar, scalar
from airworthy.dossier.records import Records
from airworthy.encoding import Feature
from airworthy.findings import Findings

_TAGS = {
    "as_of": "Time of the data",
    "training_rows": "Training rows",
    "training_start": "Training window from",
    "training_end": "Training window to",
    "feature_service": "Feature service",
    "feature_service_digest": "Feature definitions (SHA-256)",
    "training_fingerprint": "Training data (SHA-256)",
    "library_version": "Airworthy",
    "service": "Service",
}
"""Facts of the registration that are compared, and what they are called."""


def changes(before: Records, after: Records) -> Changes:
    """What changed between two versions, from the records of both; unknown facts are left out."""
    was, now = _features(before), _features(after)
    return Changes(
        version=before.version.version,
        bundle_digest=before.version.digest or None,
        facts=tuple(_facts(before, after)),
        features_added=tuple(name for name in now if name not in was) if was else (),
        features_removed=tuple(name for name in was if name not in now) if now else (),
        features_changed=tuple(_feature_changes(was, now)),
        metrics=tuple(_metrics(after.findings, before.version.digest)),
        spec_diff=_diff(before, after),
    )


def _facts(before: Records, after: Records) -> Iterator[Changed]:
    for tag, title in _TAGS.items():
        yield from _changed(title, before.version.tags.get(tag), after.version.tags.get(tag))
    if before.info is None or after.info is None:
        return
    was, now = before.info, after.info
    for title, name in (("Trees kept", "rounds"), ("Decision threshold", "threshold"), ("Device", "device"),
                        ("Share of positives in training", "base_rate")):  # fmt: skip
        yield from _changed(title, getattr(was, name), getattr(now, name))
    yield from _mappings("Parameter", was.params, now.params)
    yield from _mappings("Version of", was.versions, now.versions)


def _mappings(kind: str, was: Mapping[str, Scalar], now: Mapping[str, Scalar]) -> Iterator[Changed]:
    for name in sorted({*was, *now}):
        if was.get(name) != now.get(name):
            yield Changed(what=f"{kind} {name}", before=scalar(was.get(name)), after=scalar(now.get(name)))


def _changed(title: str, was: Scalar, now: Scalar) -> Iterator[Changed]:
    if was is not None and now is not None and was != now:
        yield Changed(what=title, before=was, after=now)


def _features(records: Records) -> dict[str, Feature]:
    return {feature.name: feature for feature in records.info.features} if records.info else {}


def _feature_changes(was: Mapping[str, Feature], now: Mapping[str, Feature]) -> Iterator[str]:
    for name, feature in now.items():
        before = was.get(name)
        if before is None or before == feature:
            continue
        if before.kind != feature.kind:
            yield f"{name}: {before.kind} became {feature.kind}"
        new = sorted(set(feature.categories) - set(before.categories))
        lost = sorted(set(before.categories) - set(feature.categories))
        if new or lost:
            yield f"{name}: {_categories(new, 'new')}{' and ' if new and lost else ''}{_categories(lost, 'gone')}"
        if before.nullable != feature.nullable:
            yield f"{name}: training saw {'' if feature.nullable else 'no '}missing values this time"


def _categories(names: list[str], word: str) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{len(names)} {word} categor{'y' if len(names) == 1 else 'ies'} ({shown})"


def _metrics(findings: Findings | None, digest: str) -> Iterator[MetricChange]:
    """Of both models on the same rows; none when the evaluation compared with another champion."""
    if findings is None or findings.champion is None or findings.challenger is None:
        return
    if findings.champion.digest != digest:
        return
    tested = {difference.metric: difference for difference in findings.differences}
    was, now = findings.champion.metrics, findings.challenger.metrics
    for name in now:
        found = tested.get(name)
        yield MetricChange(
            metric=name,
            before=was[name].value if name in was else None,
            after=now[name].value,
            difference=found.difference if found else None,
            margin=found.margin if found else None,
        )


def _diff(before: Records, after: Records) -> str | None:
    if before.spec_text is None or after.spec_text is None:
        return None
    lines = difflib.unified_diff(
        before.spec_text.splitlines(),
        after.spec_text.splitlines(),
        f"spec of version {before.version.version}",
        f"spec of version {after.version.version}",
        n=1,
        lineterm="",
    )
    return "\n".join(lines)
