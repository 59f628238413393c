"""Limits, people, and what happened on the way into production."""

from __future__ import annotations

from airworthy.dossier.annex import points_of
from airworthy.dossier.blocks import Alarm, Block, Chapter, Code, Facts, Items, Table, Text
from airworthy.dossier.chapters.general import stated
from airworthy.dossier.document import Dossier, Oversight, RolloutFacts
from airworthy.verdict import SmokeRecord

_OUTCOMES = {
    "overridden": "overridden",
    "failed": "fail",
    "warning": "warn",
    "inconclusive": "inconclusive",
    "not assessed": "not assessed",
    "weak spot": "weak spot",
    "scope": "scope",
}


def limits(dossier: Dossier) -> Chapter:
    """Known limits: recorded ones, and what the owner says."""
    rows = [(limit.name, limit.sentence) for limit in dossier.limits]
    outcomes = [_OUTCOMES[limit.kind] for limit in dossier.limits]
    table = Table(("What", "Limit"), rows, outcomes)
    said = stated(dossier, ("limitations", "risks"))
    return Chapter("limits", "Known limits", points_of("limits"), (table, *said))


def oversight(dossier: Dossier) -> Chapter:
    """Who watches, who decided, how to go back."""
    about = dossier.oversight
    asked = {True: "required before traffic moves", False: "not asked for by the spec", None: None}
    facts = Facts(
        {
            "Approval by a person": asked[about.approval_required],
            **(_approval(about) if about.approval_required else {}),
            "Log of predictions": about.prediction_log,
        }
    )
    blocks: list[Block] = [facts]
    if about.overrides:
        blocks += [Text("Failed checks that a person let pass:"), Items(about.overrides)]
    blocks += [
        Text("To return to the champion before, in registry and serving:"),
        Code(about.rollback_command),
    ]
    return Chapter(
        "oversight",
        "Human oversight",
        points_of("oversight"),
        (*blocks, *stated(dossier, ("oversight",))),
    )


def _approval(about: Oversight) -> dict[str, str]:
    return {
        "Who may approve": ", ".join(about.approvers) or "anybody",
        "Answer": about.approval or "nobody was asked yet",
    }


def operation(dossier: Dossier) -> Chapter:
    """The smoke test of the packaged model, and its rollout."""
    blocks: list[Block] = []
    if dossier.smoke is None:
        blocks.append(Text("Smoke test in the real server: not recorded with this version."))
    else:
        blocks += _smoke(dossier.smoke)
    if dossier.rollout is None:
        blocks.append(Text("Rollout: none recorded with this version yet."))
    else:
        blocks += _rollout(dossier.rollout)
    return Chapter("operation", "On the way into production", points_of("operation"), tuple(blocks))


def _smoke(smoke: SmokeRecord) -> list[Block]:
    said = "passed" if smoke.passed else "did not pass"
    blocks: list[Block] = [
        Text(f"The packaged model {said} the smoke test in a real server."),
        Facts(dict(smoke.metrics)),
    ]
    if smoke.checks:
        rows = [(c.name, c.observed, c.threshold, c.reason) for c in smoke.checks]
        table = Table(("Check", "Observed", "Limit", "Why"), rows, [c.outcome for c in smoke.checks])
        blocks.append(table)
    return blocks


def _rollout(rollout: RolloutFacts) -> list[Block]:
    against = f"version {rollout.stable_version}" if rollout.stable_version else "nothing: none served before"
    steps = ", ".join(f"{step} %" for step in rollout.steps)
    blocks: list[Block] = [
        Text(f"Rollout: {rollout.decision}. {_sentence(rollout.reason)}"),
        Facts(
            {
                "Service": rollout.service,
                "Against": against,
                "Steps": f"{steps}, then 100 %" if steps else None,
                "Traffic": rollout.traffic,
                "Took, seconds": rollout.seconds,
            }
        ),
    ]
    if rollout.fault:
        blocks.append(Alarm("A fault was injected for demonstration", (rollout.fault,)))
    if rollout.counts:
        names = list(dict.fromkeys(name for counts in rollout.counts.values() for name in counts))
        rows = [(arm, *(counts.get(name) for name in names)) for arm, counts in rollout.counts.items()]
        blocks.append(Table(("Arm", *(name.capitalize() for name in names)), rows))
    if rollout.evidence:
        titles = ("Question of the judge", "Evidence (above its threshold it decides)")
        blocks.append(Table(titles, list(rollout.evidence.items())))
    if rollout.warnings:
        blocks.append(Items(rollout.warnings))
    return blocks


def _sentence(text: str) -> str:
    stopped = text if text.endswith(".") else f"{text}."
    return stopped[:1].upper() + stopped[1:]
