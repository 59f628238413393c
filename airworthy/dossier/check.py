"""Whether the records of a version agree with each other, and with the dossier that was kept with it.

A digest in the registry proves a file against the registry. What a person with access to both could still
change together is caught where another record, or an earlier dossier, says the same thing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel

from airworthy.dossier.document import Dossier, Event, Integrity, Scalar, Training, read_dossier, scalar
from airworthy.dossier.records import OWN, Records
from airworthy.errors import BundleError, GateError, RegistryError
from airworthy.model_spec import spec_digest
from airworthy.registry import Registry, Version, approval
from airworthy.registry.versions import CHAMPION

Told = Mapping[str, Scalar]
"""What each record says about one fact; None where it says nothing."""


def agreements(
    records: Records, compared: Version | None, history: tuple[Event, ...]
) -> tuple[Integrity, ...]:
    """One entry per fact that at least two records state.

    Args:
        records: What is recorded about the version.
        compared: The champion that the verdict names; None on a first release.
        history: What happened to the version.
    """
    facts = {**_lineage(records), **_evidence(records), **_run(records), **_people(records, history)}
    if compared is not None and records.verdict is not None:
        facts["champion compared with"] = {
            "the verdict": records.verdict.champion_digest,
            f"the registry of version {compared.version}": compared.digest,
        }
    return tuple(entry for name, told in facts.items() for entry in _agree(name, told))


def against_earlier(registry: Registry, version: Version, now: Dossier) -> tuple[Integrity, ...]:
    """Whether the dossier kept with a version still describes what is recorded; empty when none was kept."""
    digest = registry.evidence(version).get(OWN)
    if digest is None:
        return ()

    def note(outcome: str, sentence: str) -> Integrity:
        return Integrity.model_validate(
            {
                "name": OWN,
                "kind": "artifact",
                "outcome": outcome,
                "digest": digest,
                "sentence": sentence,
            }
        )

    with tempfile.TemporaryDirectory() as scratch:
        try:
            found = registry.fetch_evidence(version, OWN, Path(scratch) / OWN)
            earlier = read_dossier(found) if found else None
        except BundleError as error:
            return (note("changed", f"{error}."),)
        except (RegistryError, GateError):
            return (note("missing", "A dossier was kept with this version, but it can't be read any more."),)
    if earlier is None:
        return ()
    different = _differences(earlier, now)
    if different:
        return (note("changed", f"Since its dossier was written, there changed: {', '.join(different)}."),)
    return (note("verified", "The dossier kept with this version describes what is still recorded."),)


def _differences(earlier: Dossier, now: Dossier) -> list[str]:
    said = {entry.name: entry.digest for entry in earlier.integrity if entry.digest}
    says = {entry.name: entry.digest for entry in now.integrity if entry.digest}
    different = [name for name, digest in said.items() if says.get(name) != digest]
    facts = (
        ("identity", earlier.identity.registered, now.identity.registered),
        ("data", earlier.data, now.data),
        ("training", _as_trained(earlier.training), _as_trained(now.training)),
    )
    for part, before, after in facts:
        # A part that now can't be shown is reported as a broken artifact, not once more here.
        if before != after and not now.broken:
            different.append(f"the facts on {part}")
    return different


def _as_trained(training: Training) -> Training:
    """Without what is learnt about a training later, when it is made again."""
    return training.model_copy(update={"reproduced": None})


def _lineage(records: Records) -> dict[str, Told]:
    tags, info, verdict = records.version.tags, records.info, records.verdict
    windows = records.statistics.get("windows", {})
    inputs = records.run.inputs

    def data(role: str, run_role: str, said: Told) -> Told:
        return {
            **said,
            "the registry": tags.get(f"{'training' if role == 'train' else role}_fingerprint"),
            "the statistics": windows.get(role, {}).get("fingerprint"),
            "the training run": inputs.get(run_role, {}).get("fingerprint"),
        }

    return {
        "training data": data("train", "training", {"the bundle": _of(info, "training_fingerprint")}),
        "training rows": {
            "the registry": tags.get("training_rows"),
            "the statistics": windows.get("train", {}).get("rows"),
            "the training run": inputs.get("training", {}).get("rows"),
        },
        "training window": {
            "the registry": _window(tags.get("training_start"), tags.get("training_end")),
            "the training run": _window(*(inputs.get("training", {}).get(key) for key in ("start", "end"))),
        },
        "tuning data": data("tune", "tuning", {"the bundle": _of(info, "tune_fingerprint")}),
        "test data": data("test", "", {"the verdict": _of(verdict, "data_fingerprint")}),
        "feature service": {
            "the bundle": _of(info, "feature_service"),
            "the registry": tags.get("feature_service"),
        },
        "feature definitions": {
            "the bundle": _of(info, "feature_service_digest"),
            "the registry": tags.get("feature_service_digest"),
        },
        "time of the data": {"the bundle": _of(info, "as_of"), "the registry": tags.get("as_of")},
        "trees": {"the bundle": _of(info, "rounds"), "the registry": tags.get("rounds")},
    }


def _evidence(records: Records) -> dict[str, Told]:
    tags, info, verdict, findings = records.version.tags, records.info, records.verdict, records.findings
    challenger = findings.challenger if findings else None
    bundle: dict[str, Scalar] = {"the registry": records.version.digest}
    return {
        "bundle that was judged": {**bundle, "the verdict": _of(verdict, "bundle_digest")},
        "bundle that was measured": {**bundle, "the findings": _of(challenger, "digest")},
        "bundle that was smoke-tested": {**bundle, "the smoke test": _of(records.smoke, "bundle_digest")},
        "bundle that was rolled out": {**bundle, "the rollout": records.rollout.get("bundle_digest")},
        "bundle that was made again": {
            **bundle,
            "the reproduction": records.reproduction.get("recorded_digest"),
        },
        "spec": {
            "the recorded text": _text_digest(records.spec_text),
            "the training run": _text_digest(records.run.spec_text),
            "the registry": tags.get("spec_digest"),
            "the bundle": _of(info, "spec_digest"),
            "the verdict": _of(verdict, "policy_digest"),
        },
        "rows judged on": {
            "the verdict": verdict.settings.get("rows") if verdict else None,
            "the findings": _of(findings, "rows"),
        },
        "outcome of the gate": {
            "the registry": tags.get("verdict.status"),
            "the verdict": _of(verdict, "status"),
        },
        "verdict at promotion": {
            "the registry": tags.get("promotion_verdict_sha256"),
            "the verdict": records.verdict_digest,
        },
        "data schema": {
            "the statistics": records.statistics.get("schema_digest"),
            "the validation": records.anomalies.get("schema_digest"),
        },
    }


def _run(records: Records) -> dict[str, Told]:
    info, run = records.info, records.run
    if info is None or not run.params:
        return {}
    told = {**info.params, "threshold": info.threshold, "rounds_kept": info.rounds, "as_of": info.as_of}
    bundle = json.dumps({name: str(value) for name, value in sorted(told.items())})
    logged = json.dumps({name: run.params.get(name) for name in sorted(told)})
    return {
        "training parameters": {"the bundle": bundle, "the training run": logged},
        "bundle that was trained": {
            "the registry": records.version.digest,
            "the training run": run.tags.get("bundle_digest"),
        },
    }


def _people(records: Records, history: tuple[Event, ...]) -> dict[str, Told]:
    """An answer about the approval stands in the version's tags, and in the model's history."""
    answer = approval.read(records.version)
    if answer.state not in ("approved", "rejected"):
        if (
            records.spec is None
            or not records.spec.approval.required
            or CHAMPION not in records.version.aliases
        ):
            return {}
        return {"approval of the champion": {"the spec": "required", "the registry": "nobody approved it"}}
    said = [e for e in history if e.action == answer.state and e.version == records.version.version]
    latest = f"{said[-1].action} by {said[-1].by}: {said[-1].reason}" if said else "nothing"
    told = {"the registry": f"{answer.state} by {answer.by}: {answer.reason}", "the history": latest}
    return {"answer about the approval": told}


def _agree(name: str, told: Told) -> Iterator[Integrity]:
    said = {who: value for who, value in told.items() if value is not None and value != ""}
    if len(said) < 2:
        return
    if len({str(value) for value in said.values()}) == 1:
        sentence = f"{_listed(list(said))} agree."
        yield Integrity(name=name, kind="agreement", outcome="verified", sentence=_capital(sentence))
        return
    different = "; ".join(f"{who} says {_short(value)}" for who, value in said.items())
    sentence = f"The records disagree on the {name}: {different}."
    yield Integrity(name=name, kind="agreement", outcome="changed", sentence=sentence)


def _text_digest(text: str | None) -> str | None:
    return None if text is None else spec_digest(text)


def _window(start: str | None, end: str | None) -> str | None:
    return f"{start} to {end}" if start and end else None


def _of(record: BaseModel | None, name: str) -> Scalar:
    return None if record is None else scalar(getattr(record, name))


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _short(value: Scalar) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text[:120]
