"""Whatever goes wrong during a rollout, afterwards the old model serves everyone and no process is left."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from airworthy.errors import RolloutError, ServingError
from airworthy.rollout import settle
from airworthy.rollout.record import replay
from airworthy.serving.chaos import Fault
from airworthy.serving.state import ServiceStore
from tests.release_evidence import make_evidence
from tests.unit.rollout.conftest import World, models, world  # noqa: F401 (fixtures)

LONG = "{service: late, steps: [10, 50], requests_per_step: 2000, bake_requests: 2000, max_latency_increase: 9}"

CONTROLLER = """
import json, sys
from pathlib import Path
from tests.unit.rollout.conftest import World, LONG_RELEASE
"""


def servers() -> list[psutil.Process]:
    """Model servers of any test that are alive."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "tests.light_server" in (process.info["cmdline"] or []):
            found.append(process)
    return found
