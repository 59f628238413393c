"""From the records of a version to its dossier; nothing here knows more than what was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from airworthy.dossier import card
from airworthy.dossier.changes import changes
from airworthy.dossier.check import against_earlier, agreements
from airworthy.dossier.document import (
    ColumnStatistics,
    Data,
    Dossier,
    Event,
    Identity,
    OpenPoint,
    Oversight,
    Reference,
    RolloutFacts,
    Training,
    Window,
    scalar,
)
from airworthy.dossier.limits import limits
from airworthy.dossier.records import Records, read_records
from airworthy.errors import RegistryError
from airworthy.model_spec import ModelSpec
from airworthy.registry import Registry, Version, approval
from airworthy.registry.versions import CHALLENGER, CHAMPION, ROLLED_BACK, WITHDRAWN
from airworthy.verdict import Verdict


def compose(registry: Registry, model: str, version: str, *, earlier: bool = False) -> Dossier:
    """The dossier of a version, from what is recorded now.

    Args:
        registry: Where the version is registered.
        model: Registered model.
        version: Its number.
        earlier: Also hold it against the dossier kept with the version. Not for the dossier that is to be kept: it
            would have to speak of itself.

    Raises:
        RegistryError: There is no such version, or the registry can't be reached.
    """
    records = read_records(registry, registry.version(model, version))
    references = _references(records)
    before = _baseline(registry, records, references)
    dossier = _document(registry, records, before, references)
    if not earlier:
        return dossier
    found = against_earlier(registry, records.version, dossier)
    return dossier.model_copy(update={"integrity": (*dossier.integrity, *found)})


def _document(
    registry: Registry, records: Records, before: Records | None, references: tuple[Reference, ...]
) -> Dossier:
    version = records.version
    statements = card.statements(records.spec)
    history = tuple(_history(registry, version))
    compared = before.version if before and before.version.version == _compared(records) else None
    return Dossier(
        model=version.model,
        version=version.version,
        recorded_until=max([version.created.isoformat(), *(event.time for event in history)]),
        identity=_identity(registry, records),
        card=statements,
        data=_data(records),
        features=records.info.features if records.info else (),
        training=_training(records),
        verdict=records.verdict,
        findings=records.findings,
        smoke=records.smoke,
        rollout=_rollout(records.rollout),
        oversight=_oversight(records),
        limits=tuple(limits(records)),
        changes=changes(before, records) if before else None,
        history=history,
        integrity=(*records.integrity, *agreements(records, compared, history)),
        open_points=(*card.unstated(statements), *_gaps(records, references, before)),
        references=references,
    )


def _identity(registry: Registry, records: Records) -> Identity:
    version, tags = records.version, records.version.tags
    return Identity(
        description=records.spec.description if records.spec else "",
        status=_status(registry, version),
        aliases=version.aliases,
        bundle_digest=version.digest,
        registered=version.created.isoformat(),
        run_id=version.run_id,
        pipeline_run=tags.get("pipeline_run"),
        service=tags.get("service"),
        library_version=tags.get("library_version"),
        signed=records.signed,
    )


def _status(registry: Registry, version: Version) -> str:
    if ROLLED_BACK in version.tags:
        return "rolled back from production"
    if CHAMPION in version.aliases:
        return "champion: serves"
    if CHALLENGER in version.aliases:
        return "challenger: passed the gate, not yet in production"
    if WITHDRAWN in version.tags:
        return "withdrawn before production"
    champion = registry.champion(version.model)
    served = any(
        entry.alias == CHAMPION and entry.version == version.version
        for entry in registry.moves(version.model)
    )
    if served and champion is not None:
        return f"served before; version {champion.version} is champion now"
    return "registered, never in production"


def _data(records: Records) -> Data:
    tags, spec = records.version.tags, records.spec
    said = records.statistics.get("windows", {})
    measured = {
        role: {name: ColumnStatistics.model_validate(entry) for name, entry in window["features"].items()}
        for role, window in said.items()
    }
    findings = [f for f in records.anomalies.get("findings", ()) if f.get("severity") != "block"]
    return Data(
        as_of=tags.get("as_of"),
        feature_service=tags.get("feature_service"),
        feature_service_digest=tags.get("feature_service_digest"),
        entities=spec.features.entities if spec else None,
        label=spec.label.column if spec else None,
        label_known_at=spec.label.known_at if spec else None,
        schema_digest=records.statistics.get("schema_digest"),
        windows=tuple(_windows(records)),
        statistics=measured,
        remarks=tuple(str(finding["sentence"]) for finding in findings),
    )


def _windows(records: Records) -> Iterator[Window]:
    tags, found, said = records.version.tags, records.findings, records.statistics.get("windows", {})
    for role, run_role, tag in (
        ("train", "training", "training"),
        ("tune", "tuning", "tune"),
        ("test", "", "test"),
    ):
        profile = records.run.inputs.get(run_role, {})
        rows = said.get(role, {}).get("rows", profile.get("rows"))
        start, end, positives = profile.get("start"), profile.get("end"), None
        if role == "train":
            rows = tags.get("training_rows", rows)
            start, end = tags.get("training_start", start), tags.get("training_end", end)
        if role == "test" and found is not None:
            rows, positives, start, end = found.rows, found.positives, found.start, found.end
        yield Window.model_validate(
            {
                "role": role,
                "rows": int(rows) if str(rows).isdecimal() else None,
                "positives": positives,
                "start": start,
                "end": end,
                "fingerprint": tags.get(f"{tag}_fingerprint"),
            }
        )


def _training(records: Records) -> Training:
    info, run = records.info, records.run
    machine: dict[str, str] = {
        name: run.tags[name] for name in ("cpus", "platform", "python") if name in run.tags
    }
    return Training(
        trainer=records.spec.trainer.kind if records.spec else None,
        device=info.device if info else None,
        rounds=info.rounds if info else None,
        threshold=info.threshold if info else None,
        base_rate=info.base_rate if info else None,
        params={name: scalar(value) for name, value in info.params.items()} if info else {},
        versions=info.versions if info else {},
        machine=machine,
        onnx=info.onnx if info else None,
        metrics={name: v for name, v in run.metrics.items() if name not in run.curves},
        curves=run.curves,
        reproduced=records.reproduction.get("headline"),
    )


def _rollout(said: dict[str, Any]) -> RolloutFacts | None:
    if not said:
        return None
    return RolloutFacts(
        decision=said["decision"],
        reason=said["reason"],
        service=said["service"],
        stable_version=said.get("stable_version"),
        traffic=said.get("traffic"),
        fault=said["fault"]["kind"] if said.get("fault") else None,
        seconds=said.get("seconds"),
        steps=tuple(said.get("plan", {}).get("steps", ())),
        counts=said.get("counts", {}),
        evidence=said.get("evidence", {}),
        warnings=tuple(said.get("warnings", ())),
    )


def _oversight(records: Records) -> Oversight:
    spec, version = records.spec, records.version
    answer = approval.read(version)
    return Oversight(
        approval_required=answer.state != "not required" if spec is None else spec.approval.required,
        approvers=spec.approval.approvers if spec else (),
        approval=answer.sentence if answer.state not in ("not required", "not asked") else None,
        overrides=tuple(_overrides(records.verdict)),
        rollback_command=f"airworthy rollback {version.model} --reason 'WHY'",
        prediction_log=_logged(spec),
    )


def _overrides(verdict: Verdict | None) -> Iterator[str]:
    for check in verdict.overridden if verdict else ():
        if check.override:
            where = f" ({check.slice})" if check.slice else ""
            yield (
                f"{check.name}{where}: {check.reason} Let pass by {check.override.by} until "
                f"{check.override.until}: {check.override.reason}"
            )


def _logged(spec: ModelSpec | None) -> str | None:
    if spec is None:
        return None
    log = spec.serving.prediction_log
    if not log.enabled:
        return "The spec turns the log of predictions off."
    left_out = f"; left out: {', '.join(log.drop)}" if log.drop else ""
    hashed = f"; only a salted hash is kept of: {', '.join(log.hash)}" if log.hash else ""
    return f"Every request and its score is kept for {log.keep_days:g} days{left_out}{hashed}."


def _history(registry: Registry, version: Version) -> Iterator[Event]:
    for entry in registry.history(version.model):
        if version.version in (entry.version, entry.before) and not entry.void:
            yield Event(
                time=entry.time,
                action=entry.action,
                version=entry.version,
                by=entry.by or None,
                reason=entry.reason,
                alias=entry.alias,
                before=entry.before,
            )


def _compared(records: Records) -> str | None:
    if records.verdict is not None:
        return records.verdict.champion_version
    return records.version.tags.get("champion_compared") or None


def _references(records: Records) -> tuple[Reference, ...]:
    replaced = records.version.tags.get("replaced_version") or None
    compared = _compared(records)
    named = [("replaced champion", replaced), ("compared champion", compared)]
    return tuple(Reference.model_validate({"role": role, "version": v}) for role, v in named if v)


def _baseline(registry: Registry, records: Records, references: tuple[Reference, ...]) -> Records | None:
    """The records of the champion that this version replaced or, before that, was compared with."""
    if not references:
        return None
    try:
        return read_records(registry, registry.version(records.version.model, references[0].version))
    except RegistryError:
        return None


def _gaps(records: Records, references: tuple[Reference, ...], before: Records | None) -> Iterator[OpenPoint]:
    for name in ("verdict", "findings", "statistics", "spec"):
        if any(entry.name == name and entry.outcome == "not recorded" for entry in records.integrity):
            yield OpenPoint(
                field=name, mandatory=False, sentence=f"No {name} was kept when this version was registered."
            )
    for sentence in records.unreadable:
        yield OpenPoint(field="records", mandatory=False, sentence=sentence)
    if references and before is None:
        yield OpenPoint(
            field="changes",
            mandatory=False,
            sentence=f"Version {references[0].version}, the champion before, is not in the registry any more.",
        )
