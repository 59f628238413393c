"""Which device and how many threads to train on.

XGBoost itself falls back to the CPU with only a warning, and counts the CPUs of the machine, not those of
the container.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from airworthy.errors import MissingCapabilityError

if TYPE_CHECKING:
    import xgboost

Gpu = Literal["auto", "required", "off"]

CGROUP = Path("/sys/fs/cgroup")

_log = logging.getLogger(__name__)


def cpu_threads(cgroup: Path = CGROUP) -> int:
    """CPUs that this process may use: its affinity, or the container's quota where that is smaller."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, math.ceil(int(quota) / int(period))))


def wait_politely() -> None:
    """Let idle OpenMP threads sleep instead of spin; counts only before XGBoost is first imported.

    On a busy machine spinning threads slow training several times over; on an idle one sleeping costs little.
    A value that the user set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def resolve_device(gpu: Gpu) -> Literal["cuda", "cpu"]:
    """The device to ask XGBoost for.

    Args:
        gpu: `auto` takes CUDA where it is visible, `required` insists on it, `off` never does.

    Raises:
        MissingCapabilityError: Required, but this machine or this XGBoost has none.
    """
    if gpu == "off":
        return "cpu"
    problem = cuda_problem()
    if problem is None:
        return "cuda"
    if gpu == "required":
        raise MissingCapabilityError(
            f"trainer.gpu is required, but {problem}; run where a GPU is visible, or set it to auto"
        )
    _log.info("training on the CPU: %s", problem)
    return "cpu"


def cuda_problem() -> str | None:
    """Why CUDA can't be used here, as part of a sentence; None when it can."""
    import xgboost

    if cuda_devices() == 0:
        return "no NVIDIA GPU is visible"
    if not xgboost.build_info()["USE_CUDA"]:
        return "this XGBoost is built without CUDA (image group training-gpu has it)"
    return None


def cuda_devices() -> int:
    """GPUs that the NVIDIA driver shows to this process; `CUDA_VISIBLE_DEVICES` counts."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def used_device(booster: xgboost.Booster) -> str:
    """The device that training really used (`cpu`, `cuda:0`)."""
    return str(json.loads(booster.save_config())["learner"]["generic_param"]["device"])
