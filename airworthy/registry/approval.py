"""A person's word before traffic moves: asked for by the spec, recorded with the version, demanded by promotion.

A question is about one bundle under one verdict, and belongs to the pipeline run that asked it; its deadline is
kept with it, so a step that starts again goes on waiting where it was. The first answer counts. One thing may
still change it: a rejection takes an approval back for as long as the version is not champion, because promotion
looks again. An approval stands for that bundle and verdict, whichever run asks next; after a rejection, or no
answer, another run asks anew.

Names are as given: they are a record of who answered, while access to the registry decides who can.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airworthy.errors import ConfigError, GateError
from airworthy.model_spec import Approval as Policy
from airworthy.registry import aliases, transitions
from airworthy.registry.history import Change, now, whoami
from airworthy.registry.versions import (
    APPROVAL_ANSWER,
    APPROVAL_ASKED,
    APPROVAL_REQUIRED,
    CHAMPION,
    ROLLED_BACK,
    VERDICT,
    Version,
)

if TYPE_CHECKING:
    from airworthy.registry.registry import Registry

State = Literal["not required", "not asked", "waiting", "approved", "rejected", "lapsed"]
LONGEST_REASON = 2000


@dataclass(frozen=True)
class Approval:
    """Where the approval of a version stands.

    `asked`, `deadline` and `answered` are times (UTC, ISO); what has not happened is None. `lapsed`: there was no
    answer in time, or no use in one any more.
    """

    state: State
    bundle_digest: str
    verdict_sha256: str
    asked: str | None = None
    deadline: str | None = None
    answered: str | None = None
    by: str | None = None
    reason: str | None = None
    run: str | None = None
    """The pipeline run that asked."""

    @property
    def sentence(self) -> str:
        """It in words."""
        if self.state == "waiting":
            return f"waits for an answer until {_minute(self.deadline)}"
        if self.state == "lapsed":
            return f"was not approved: {self.reason}"
        if self.state in ("approved", "rejected"):
            return f"was {self.state} by {self.by} on {_minute(self.answered)}: {self.reason}"
        return (
            "needs no approval" if self.state == "not required" else "nobody has been asked to approve it yet"
        )


def read(version: Version) -> Approval:
    """Where the approval of a version stands, for its present verdict."""
    verdict = version.tags.get(f"{VERDICT}_sha256", "")
    if APPROVAL_REQUIRED not in version.tags:
        return Approval("not required", version.digest, verdict)
    asked, answer = _about(version, APPROVAL_ASKED), _about(version, APPROVAL_ANSWER)
    state: State = "not asked"
    if answer:
        state = answer["answer"]
    elif asked:
        state = "waiting" if now() < asked["deadline"] else "lapsed"
        if state == "lapsed":
            answer = {"reason": _nobody(asked["deadline"])}
    return Approval(
        state,
        version.digest,
        verdict,
        asked=asked.get("time"),
        deadline=asked.get("deadline"),
        answered=answer.get("time"),
        by=answer.get("by"),
        reason=answer.get("reason"),
        run=asked.get("run"),
    )


def require_approval(candidate: Version, verdict_sha256: str) -> None:
    """Refuse to promote what its spec wants approved and nobody approved.

    Raises:
        GateError: There is no approval of this bundle under this verdict.
    """
    found = read(candidate)
    if (
        found.state == "not required" or CHAMPION in candidate.aliases
    ):  # no traffic moves to what serves already
        return
    if found.state != "approved":
        raise GateError(f"{candidate} needs an approval before traffic moves to it; it {_so_far(found)}")
    if found.verdict_sha256 != verdict_sha256:
        raise GateError(f"{candidate} was approved under another verdict than this one: release it again")


def ask(registry: Registry, model: str, version: str, *, run: str) -> Approval:
    """Ask for approval; asking again on behalf of the same run changes nothing.

    Args:
        registry: The registry.
        model: Registered model.
        version: The version.
        run: The pipeline run that asks.

    Raises:
        RegistryError: There is no such version, or the registry can't be reached.
    """
    with registry.changing(model, "ask for approval of") as change:
        found = registry.version(model, version)
        before = read(found)
        if before.state in ("not required", "approved") or (before.asked and before.run == run):
            return before
        aliases.untag(change, found, APPROVAL_ANSWER)
        deadline = _write_question(change, found, run)
        change.record("approval asked", version, f"until {_minute(deadline)}")
        return read(registry.version(model, version))


def answer(
    registry: Registry, model: str, version: str, *, approved: bool, reason: str, by: str | None = None
) -> Approval:
    """Record a person's answer.

    Args:
        registry: The registry.
        model: Registered model.
        version: The version.
        approved: Yes or no.
        reason: Why, for the record.
        by: Who; by default `AIRWORTHY_USER`, or user@host.

    Returns:
        The answer that stands: an earlier one, when that said the same.

    Raises:
        ConfigError: The reason is missing or too long, or the spec names other approvers, or asks for none.
        GateError: It is too late for that answer.
        RegistryError: There is no such version, or the registry can't be reached.
    """
    reason, who = reason.strip(), (by or whoami()).strip()
    if not 0 < len(reason) <= LONGEST_REASON:
        raise ConfigError(f"--reason: say why, in at most {LONGEST_REASON} characters; it is kept for good")
    with registry.changing(model, "record the answer about", by=who) as change:
        found = registry.version(model, version)
        _require_approver(found, who)
        standing = read(found)
        wanted = "approved" if approved else "rejected"
        if standing.state == wanted:
            return standing
        _require_in_time(found, standing, approved)
        if standing.state == "not asked":  # faster than the step that asks
            _write_question(change, found, found.tags.get("pipeline_run", ""))
        _write_answer(change, found, wanted, reason)
        return read(registry.version(model, version))


def lapse(registry: Registry, model: str, version: str, *, reason: str | None = None) -> Approval:
    """End a question that was not answered.

    Args:
        registry: The registry.
        model: Registered model.
        version: The version.
        reason: Why an answer would be of no use; None when the time is over.

    Returns:
        What stands: an answer that came after all, or the end.
    """
    with registry.changing(model, "end the approval of") as change:
        found = registry.version(model, version)
        standing = read(found)
        if standing.state == "waiting" and reason is None:
            return standing
        if standing.state == "waiting" or (standing.state == "lapsed" and standing.answered is None):
            _write_answer(change, found, "lapsed", reason or _nobody(str(standing.deadline)))
        return read(registry.version(model, version))


def withdraw_unapproved(registry: Registry, model: str, version: str, why: Approval) -> None:
    """Take the alias `challenger` from a version that was not approved."""
    with registry.changing(model, "withdraw the challenger of") as change:
        transitions.withdraw(change, version, f"version {version} {why.sentence}")


def _about(version: Version, key: str) -> dict[str, Any]:
    """What a tag says, if that is about this bundle and its present verdict; a damaged one says nothing."""
    try:
        said: dict[str, Any] = dict(json.loads(version.tags.get(key, "{}")))
    except (ValueError, TypeError):
        return {}
    about = (said.get("bundle_digest"), said.get("verdict_sha256"))
    return said if about == (version.digest, version.tags.get(f"{VERDICT}_sha256")) else {}


def _subject(version: Version) -> dict[str, str]:
    return {
        "bundle_digest": version.digest,
        "verdict_sha256": version.tags.get(f"{VERDICT}_sha256", ""),
        "time": now(),
    }


def _write_question(change: Change, version: Version, run: str) -> str:
    hours = _policy(version).timeout_hours
    deadline = (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="microseconds")
    said = {**_subject(version), "run": run, "deadline": deadline}
    aliases.tag(change, version, {APPROVAL_ASKED: json.dumps(said)})
    return deadline


def _write_answer(change: Change, version: Version, word: str, reason: str) -> None:
    said = {**_subject(version), "answer": word, "by": change.by, "reason": reason}
    action = "approval lapsed" if word == "lapsed" else word
    change.record(action, version.version, reason)
    aliases.tag(change, version, {APPROVAL_ANSWER: json.dumps(said)})


def _policy(version: Version) -> Policy:
    return aliases.policy(version, APPROVAL_REQUIRED, Policy)


def _require_approver(version: Version, who: str) -> None:
    if APPROVAL_REQUIRED not in version.tags:
        raise ConfigError(
            f"{version} needs no approval; `approval: {{required: true}}` in its spec would ask for one"
        )
    named = _policy(version).approvers
    if named and who not in named and who.partition("@")[0] not in named:
        raise ConfigError(
            f"{who} may not answer for {version}: its spec names {', '.join(named)} (approval.approvers); "
            "say who you are with --by or AIRWORTHY_USER"
        )


def _require_in_time(version: Version, standing: Approval, approved: bool) -> None:
    if CHAMPION in version.aliases:
        way = "" if approved else f"; `airworthy rollback {version.model}` takes it out"
        raise GateError(f"{version} is champion already{way}")
    if ROLLED_BACK in version.tags:
        raise GateError(f"{version} was rolled back from production: no answer can bring it back")
    if standing.state in ("rejected", "lapsed"):
        raise GateError(f"{version} {standing.sentence}; that stands, the next release of it asks again")


def _so_far(found: Approval) -> str:
    return "has not been asked for" if found.state == "not asked" else found.sentence


def _nobody(deadline: str) -> str:
    return f"no answer until {_minute(deadline)}"


def _minute(time: str | None) -> str:
    return f"{(time or '')[:16].replace('T', ' ')} UTC"
