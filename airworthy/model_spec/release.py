"""From the gate to users: approval, rollout, serving, and what only a person can say about the model."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from airworthy.model_spec.fields import Days, Section, ServiceName, Share


class Experiment(Section):
    """An A/B test: a split is held, and the effect on a declared outcome is reported. Nothing is promoted by it."""

    outcome: str
    """Column with the outcome of each request, between 0 and 1; `cost` is the cost of the decision at the model's
    threshold, scaled to 0..1, which needs the label."""
    traffic_percent: Annotated[int, Field(ge=1, le=99)] = 50
    requests: Annotated[int, Field(ge=1)] = 2000
    """The split is held for this many requests …"""
    seconds: Annotated[float, Field(ge=0, le=7_776_000)] = 0
    """… and at least this long."""


class Rollout(Section):
    """How traffic moves to a new model, and what stops it."""

    service: ServiceName
    kind: Literal["canary", "shadow", "ab"] = "canary"
    """`canary` moves traffic by `steps` (blue-green: `steps: [0, 100]`), `shadow` never moves any, `ab` holds a
    split."""
    steps: tuple[Annotated[int, Field(ge=0, le=100)], ...] = (10, 50)
    """Traffic percent of the canary, rising; 100 % follows."""
    requests_per_step: Annotated[int, Field(ge=1)] = 400
    step_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0
    """Least time at each step."""
    settle_seconds: Annotated[float, Field(ge=0, le=3600)] | None = None
    """What arrives this long after a change of weights is no evidence. Default: 0 locally, where weights change at
    once, 10 on a cluster, where gateways follow late."""
    shadow_requests: Annotated[int, Field(ge=0)] = 0
    """Requests that both models are asked before the first step; users get the stable model's answer."""
    bake_requests: Annotated[int, Field(ge=0)] = 300
    bake_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0
    """Least time at 100 % before PASS."""
    sticky_header: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")] | None = None
    """Requests with the same value of this header stay with one model; only the first of each is evidence."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    max_error_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    max_error_increase: Annotated[float, Field(ge=0)] = 0.0
    """Tolerated relative excess of the canary's error rate over stable's."""
    max_latency_increase: Annotated[float, Field(ge=0)] = 1.0
    """Tolerated relative excess over the stable 95th percentile latency before the evidence counts against
    the canary (1.0: twice as slow)."""
    latency_slack_ms: Annotated[float, Field(ge=0)] = 2.0
    """Milliseconds tolerated on top of that: a model that answers in 0.3 ms may take 0.7, nobody notices."""
    on_score_shift: Literal["warn", "fail"] = "warn"
    """What scores that are distributed differently from stable's do: a retrained model may well mean it."""
    max_flip_rate: Share | None = None
    """Most decisions that may differ between the two models in the shadow phase; None only reports them."""
    min_canary_requests: Annotated[int, Field(ge=0)] = 0
    """Canary requests that PASS needs, whatever the other evidence says."""
    experiment: Experiment | None = None
    """Needed by `kind: ab`."""
    deadline_seconds: Annotated[float, Field(gt=0, le=7_776_000)] = 600
    on_inconclusive: Literal["rollback", "hold"] = "rollback"

    @model_validator(mode="after")
    def _plan_makes_sense(self) -> Rollout:
        if not self.steps or any(b <= a for a, b in pairwise(self.steps)):
            raise ValueError("steps: must be traffic percents that rise, such as [10, 50]")
        if (self.kind == "ab") != (self.experiment is not None):
            raise ValueError("experiment: is for kind: ab, which needs it")
        if self.kind == "shadow" and not self.shadow_requests:
            raise ValueError("shadow_requests: must be above 0 for kind: shadow")
        if self.max_flip_rate is not None and not self.shadow_requests:
            raise ValueError("max_flip_rate: needs shadow_requests above 0 to be measured")
        return self


class PredictionLog(Section):
    """What the model server writes down about every request."""

    enabled: bool = True
    drop: tuple[str, ...] = ()
    """Features that are not written (personal data)."""
    hash: tuple[str, ...] = ()
    """Features of which only a salted hash is written."""
    keep_days: Days = 90
    max_mib: Annotated[int, Field(ge=1)] = 10_240


class Budget(Section):
    """What the packaged model may take, measured on the real server in the smoke test. Only what is given is
    checked."""

    p50_ms: Annotated[float, Field(gt=0)] | None = None
    """Latency of single-row requests, one after the other."""
    p99_ms: Annotated[float, Field(gt=0)] | None = None
    start_seconds: Annotated[float, Field(gt=0)] | None = None
    """From starting the server to its first readiness."""
    bundle_mib: Annotated[float, Field(gt=0)] | None = None
    memory_mib: Annotated[float, Field(gt=0)] | None = None
    """Resident memory of the server after the test's requests."""


class Serving(Section):
    """What the model server accepts and writes down."""

    max_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    unseen_category: Literal["missing", "reject"] = "missing"
    prediction_log: PredictionLog = PredictionLog()
    budget: Budget = Budget()


class Approval(Section):
    """Whether a person must agree before traffic moves."""

    required: bool = False
    timeout_hours: Annotated[float, Field(gt=0, le=720)] = 72
    """No answer by then is a no."""
    approvers: tuple[str, ...] = ()
    """Who may answer; anybody by default."""


class Retention(Section):
    """Which old versions `airworthy prune` keeps, besides those that an alias or a dossier refers to."""

    versions: Annotated[int, Field(ge=1)] = 20
    days: Annotated[float, Field(ge=0, le=36_500)] = 365


class Card(Section):
    """What only a person can say about a model; the dossier prints it beside the recorded facts, and lists what
    is mandatory and missing. A value may be text, or `docs/file.md` to take a file's text."""

    owner: str | None = None
    contact: str | None = None
    purpose: str | None = None
    users: str | None = None
    """Who uses the answers, and for what."""
    out_of_scope: str | None = None
    """Uses that the model must not be put to."""
    risks: str | None = None
    """Foreseeable harm, to whom, and what is done about it."""
    oversight: str | None = None
    """How people watch over the model, and who can stop it."""
    limitations: str | None = None
    data_rights: str | None = None
    """Legal basis and licences of the data."""
    standards: str | None = None
    """Standards applied, declarations made."""
    mandatory: tuple[str, ...] = ("owner", "contact", "purpose", "out_of_scope", "oversight", "limitations")

    @model_validator(mode="after")
    def _mandatory_ones_exist(self) -> Card:
        unknown = sorted(set(self.mandatory) - (set(type(self).model_fields) - {"mandatory"}))
        if unknown:
            raise ValueError(f"mandatory: {', '.join(unknown)} is no field of the card")
        return self
