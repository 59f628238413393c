"""A service to roll out to, with servers that start quickly (`tests/light_server.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airworthy.model_spec import ModelSpec
from airworthy.rollout import RolloutOutcome, deploy, roll_out
from airworthy.serving.state import Service, ServiceStore
from tests.release_evidence import Evidence, flights, make_evidence, spec, write_flights

PLAN = "{service: late, steps: [20, 50], requests_per_step: 150, bake_requests: 60, max_latency_increase: 4}"


@dataclass(frozen=True)
class World:
    """An old model that serves, a new one that passed the gate, and traffic."""

    home: Path
    old: Evidence
    new: Evidence
    traffic: Path

    @property
    def state(self) -> Service:
        state = ServiceStore(self.home, "late").read()
        assert state is not None
        return state

    def release(self, folder: Path, plan: str = PLAN, **changes: Any) -> RolloutOutcome:
        """Roll the new model out; its record goes to `folder`."""
        arguments = {
            "bundle": self.new.bundle,
            "version": "2",
            "verdict": self.new.verdict,
            "stable": (self.old.bundle, "1"),
            "traffic": self.traffic,
            "home": self.home,
            "record_out": folder,
            "server_module": "tests.light_server",
            **changes,
        }
        return roll_out(planned(plan), **arguments)


def planned(plan: str = PLAN) -> ModelSpec:
    return spec(**{"{service: late}": plan})[0]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evidence, Evidence, Path]:
    folder = tmp_path_factory.mktemp("models")
    old, new = make_evidence(folder / "old", rounds=3), make_evidence(folder / "new", rounds=5)
    return old, new, write_flights(folder / "test", flights(400, seed=3))


@pytest.fixture
def world(models: tuple[Evidence, Evidence, Path], tmp_path: Path) -> World:
    old, new, traffic = models
    deploy("late", model="late", bundle=old.bundle, version="1", home=tmp_path / "home")
    return World(tmp_path / "home", old, new, traffic)


Release = Callable[..., RolloutOutcome]
