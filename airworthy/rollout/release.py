"""Rolling a judged model out to a service: from the gate's verdict to a decision, a record and a page."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airworthy.errors import ConfigError, RolloutError
from airworthy.files import write_whole
from airworthy.model_spec import ModelSpec, Rollout
from airworthy.rollout.begin import Beginning
from airworthy.rollout.controller import Controller, Setting
from airworthy.rollout.deployers import Plane, Sink, Store
from airworthy.rollout.deployers.choose import open_store
from airworthy.rollout.deployers.kserve import Timing
from airworthy.rollout.deployers.local import LocalPlane, LocalSetting
from airworthy.rollout.experiment import decision_cost
from airworthy.rollout.judge import JUDGE, Judgement, Outcome
from airworthy.rollout.record import RecordWriter
from airworthy.rollout.report import render
from airworthy.rollout.settings import Settings
from airworthy.serving.chaos import Fault
from airworthy.serving.local import SERVER_MODULE
from airworthy.serving.observation import Arm
from airworthy.serving.replay import sample_rows, v1_body
from airworthy.serving.state import Service, ServiceStore

log = logging.getLogger(__name__)

TRAFFIC_ROWS = 1000
"""Different rows that are cycled through as traffic."""


@dataclass(frozen=True)
class RolloutOutcome:
    """How a rollout ended. `metrics` are numbers for the pipeline's UI."""

    decision: Outcome
    reason: str
    judgement: Judgement
    record: Path
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.decision == "PASS"


def roll_out(
    spec: ModelSpec,
    *,
    bundle: Path,
    version: str,
    verdict: Path,
    stable: tuple[Path, str] | None,
    traffic: Path,
    home: Path,
    record_out: Path,
    report_out: Path | None = None,
    run: str = "",
    registered_champion: Callable[[], str | None] | None = None,
    fault: Fault | None = None,
    server_module: str = SERVER_MODULE,
    storage_uri: Callable[[str], str] | None = None,
) -> RolloutOutcome:
    """Move traffic from the stable model to a canary for as long as the evidence is with it.

    Locally the traffic is replayed rows; on a cluster it is the users', and evidence comes from its signals.

    Whatever happens, afterwards the stable model is what the service's state says to serve, except after
    PASS: then the canary holds 100 % in state `proven` until `finish` or `settle`.

    Args:
        spec: The model spec; `rollout` is the plan, `serving` the server's options.
        bundle: The challenger.
        version: Its registry version.
        verdict: The gate's verdict on exactly this bundle.
        stable: The champion's bundle and version; None on a first release: then there is nothing to compare
            with and only the absolute error rate is certified.
        traffic: Dataset whose rows are replayed (local), or used for probes and the shadow phase (cluster).
        home: State directory.
        record_out: Folder for `record.jsonl` and `rollout.json`.
        report_out: HTML file; None writes none.
        run: The pipeline run, which may settle this rollout whatever state it is in.
        registered_champion: Asks the registry for the champion's bundle digest, under the service's lock; None
            trusts `stable` to be the champion still.
        fault: Misbehaviour to inject (demo); by default what `AIRWORTHY_DEMO_FAULT` names.
        server_module: Module that is run as the model server, with the options of `airworthy.serving.server`.
        storage_uri: Where a registry version's bundle is stored; needed on a cluster.

    Raises:
        GateError: The verdict did not pass, or is about another bundle; or the champion has changed since.
        RolloutError: Another rollout of this service is under way.
        ServingError: The stable model could not be served.
    """
    from airworthy.bundle import read_bundle_info
    from airworthy.verdict import require_passed

    require_passed(verdict, bundle)
    fault = fault or Fault.from_environment()
    # a canary that doesn't get ready is told as that, with the reason, before the deadline would end the waiting
    timing = Timing(ready=min(Timing.ready, 0.9 * spec.rollout.deadline_seconds))
    store = open_store(spec.rollout.service, home, model=spec.name, storage_uri=storage_uri, timing=timing)
    if fault and not isinstance(store, ServiceStore):
        raise ConfigError("faults can be injected only locally: nothing was deployed")
    canary_info = read_bundle_info(bundle)
    stable_info = read_bundle_info(stable[0]) if stable else canary_info
    features = {f.name: f for f in (*stable_info.features, *canary_info.features)}
    rows = sample_rows(traffic, [*features, spec.label.column], TRAFFIC_ROWS)
    bodies = tuple(v1_body([row], tuple(features.values())) for row in rows)
    plane: Callable[[Service, Sink], Plane]
    if isinstance(store, ServiceStore):
        thresholds: dict[Arm, float] = {"stable": stable_info.threshold, "canary": canary_info.threshold}
        cost = decision_cost(spec, [row[spec.label.column] for row in rows], thresholds)
        local = LocalSetting(spec, store, bodies, tuple(features), fault, server_module, cost)
        plane = functools.partial(LocalPlane, local)
    else:
        plane = _cluster_plane(store, spec, bodies)
    record = RecordWriter(record_out)  # first: without a record nothing may begin
    champion = store.keep(*stable) if stable else None
    state = Beginning(spec, store.keep(bundle, version), champion, run, registered_champion).take(store)
    assert state.rollout is not None
    settings = Settings.of(spec.rollout, canary_info.threshold)
    facts = _facts(spec.rollout, settings, state, isinstance(store, ServiceStore), fault)
    setting = Setting(spec.rollout, settings, store, state.rollout.id, functools.partial(plane, state), facts)
    outcome = _run(setting, state, record)
    if report_out is not None:
        write_whole(report_out, render(record_out))
    store.prune()
    return outcome


def _cluster_plane(
    store: Store, spec: ModelSpec, bodies: tuple[bytes, ...]
) -> Callable[[Service, Sink], Plane]:
    from airworthy.rollout.deployers.choose import reach
    from airworthy.rollout.deployers.kserve import KServeStore
    from airworthy.rollout.deployers.plane import SETTLE_SECONDS, ClusterSetting, KServePlane
    from airworthy.rollout.signals.choose import choose, choose_outcomes

    assert isinstance(store, KServeStore)
    if spec.rollout.sticky_header:
        raise ConfigError(
            "rollout.sticky_header is for local rollouts: KServe's gateways draw the model of each request anew; "
            "remove it to release to a cluster"
        )
    family = "knative" if store.mode.name == "knative" else "airworthy"
    outcomes = choose_outcomes(spec.rollout.experiment)
    signals = choose(model=spec.name, namespace=store.cluster.namespace, family=family, outcomes=outcomes)
    settle = SETTLE_SECONDS if spec.rollout.settle_seconds is None else spec.rollout.settle_seconds
    setting = ClusterSetting(store, signals, bodies, reach(), settle, outcomes=outcomes)
    return functools.partial(KServePlane, setting)


def _run(setting: Setting, state: Service, record: RecordWriter) -> RolloutOutcome:
    begun = time.time()
    controller = Controller(setting, state, record)
    problem = ""
    try:
        judgement = asyncio.run(_until_signal(controller))
    except BaseException as error:
        problem = str(error) or type(error).__name__
        raise
    finally:
        told = controller.judgement
        counts = {arm: dataclasses.asdict(count) for arm, count in controller.judge.counts.items()}
        summary = {
            "format": 1,
            **setting.facts,
            "decision": told.outcome if told else "INCONCLUSIVE",
            "reason": told.reason if told else problem,
            "process": told.process if told else "controller",
            "index": told.index if told else None,
            "evidence": controller.judge.evidence,
            "warnings": controller.judge.warnings,
            "counts": counts,
            "harm": controller.harm,
            "shielded": controller.shielded,
            "effect": controller.effect.found,
            "seconds": round(time.time() - begun, 3),
        }
        try:
            record.close(summary)
        except RolloutError as error:
            if not problem:
                raise
            log.warning("%s", error)  # what ended the rollout is the news
    metrics: dict[str, float] = {"seconds": round(time.time() - begun, 3), "harm": controller.harm}
    metrics |= {f"effect_{name}": value for name, value in (controller.effect.found or {}).items()}
    metrics |= {f"{arm}_{name}": n for arm, count in counts.items() for name, n in count.items()}
    metrics |= {f"evidence_{name}": value for name, value in judgement.evidence.items()}
    return RolloutOutcome(judgement.outcome, judgement.reason, judgement, record.folder, metrics)


async def _until_signal(controller: Controller) -> Judgement:
    """Run the controller; SIGTERM (a pipeline timeout) rolls back like any other exception."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    except (ValueError, RuntimeError):
        log.debug("not in the main thread: SIGTERM is the caller's to handle")
    try:
        return await controller.run()
    except asyncio.CancelledError:
        raise RolloutError("the rollout was interrupted; the stable model serves everyone") from None


def _facts(
    plan: Rollout, settings: Settings, state: Service, replayed: bool, fault: Fault | None
) -> dict[str, Any]:
    assert state.canary is not None
    assert state.rollout is not None
    return {
        "service": state.service,
        "model": state.model,
        "rollout": state.rollout.id,
        "version": state.canary.version,
        "bundle_digest": state.canary.digest,
        "stable_version": state.stable.version if state.stable else None,
        "stable_digest": state.stable.digest if state.stable else None,
        "compared": state.stable is not None,
        "judge": JUDGE,
        "settings": dataclasses.asdict(settings),
        "plan": plan.model_dump(mode="json"),
        "traffic": "replayed rows of the test window" if replayed else "requests of users",
        "fault": dataclasses.asdict(fault) if fault else None,
    }
