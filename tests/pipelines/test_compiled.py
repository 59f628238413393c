"""The committed YAML is what the sources compile to, and says what a cluster needs to know."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.metadata import CREDENTIALS, SIGNING, image, metadata
from pipelines.compile import COMPILED, compile_all

TASKS = {
    "settle-release": "settle_release",
    "load-champion": "load_champion",
    "retrieve-features": "retrieve_features",
    "validate-data": "validate_data",
    "train-model": "train_model",
    "evaluate-model": "evaluate_model",
    "smoke-test": "smoke_test",
    "register-model": "register_model",
    "rollout-canary": "rollout_canary",
    "promote-model": "promote_model",
    "write-dossier": "write_dossier",
    "await-approval": "await_approval",
}


@pytest.fixture(scope="module")
def documents() -> tuple[dict[str, Any], dict[str, Any]]:
    pipeline, platform = yaml.safe_load_all((COMPILED / "release.yaml").read_text())
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@pytest.fixture(scope="module")
def tasks(documents: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    pipeline = documents[0]
    found = dict(pipeline["root"]["dag"]["tasks"])
    for component in pipeline["components"].values():
        found.update(component.get("dag", {}).get("tasks", {}))
    return found


def test_the_committed_files_are_current(tmp_path: Path) -> None:
    for fresh in compile_all(tmp_path):
        assert fresh.read_bytes() == (COMPILED / fresh.name).read_bytes(), "run `make compile` and commit"


def test_compiling_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first = [p.read_bytes() for p in compile_all(tmp_path / "a")]
    second = [p.read_bytes() for p in compile_all(tmp_path / "b")]
    assert first == second


def test_no_path_of_a_machine_and_no_secret_is_in_it() -> None:
    text = (COMPILED / "release.yaml").read_text()
    for pattern in (r"/home/", r"/root/", r"/Users/", r"/work/", r"(?i)password:\s*\S", r"(?i)token:\s*\S"):
        assert not re.search(pattern, text), pattern


def test_every_component_is_in_the_pipeline(tasks: dict[str, Any]) -> None:
    assert set(TASKS) <= set(tasks)
    folders = {p.parent.name for p in (Path(__file__).parents[2] / "components").glob("*/component.py")}
    assert folders == set(TASKS.values())


@pytest.mark.parametrize(("task", "component"), TASKS.items())
def test_tasks_follow_their_metadata(
    documents: tuple[dict[str, Any], dict[str, Any]], tasks: dict[str, Any], task: str, component: str
) -> None:
    facts = metadata(component)
    node = tasks[task]
    executor = f"exec-{node['componentRef']['name'].removeprefix('comp-')}"
    container = documents[0]["deploymentSpec"]["executors"][executor]["container"]
    platform = documents[1][executor]
    assert container["image"] == image(component)
    assert node["taskInfo"]["name"] == facts.display_name
    assert node.get("cachingOptions", {}).get("enableCache", False) is facts.cacheable
    assert int(node.get("retryPolicy", {}).get("maxRetryCount", 0)) == facts.retries
    assert platform["activeDeadlineSeconds"] == str(facts.timeout_seconds)
    assert container["resources"]["memoryLimit"] > 0
    secrets = {
        s.get("secretName") or s["secretNameParameter"]["runtimeValue"]["constant"]
        for s in platform.get("secretAsEnv", [])
    }
    assert secrets == {*([CREDENTIALS] if facts.registry_access else []), *([SIGNING] if facts.signs else [])}
    assert all(secret["optional"] for secret in platform.get("secretAsEnv", []))


def test_the_gpu_request_hangs_on_a_pipeline_parameter(
    documents: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    pipeline, platform = documents
    accelerator = pipeline["deploymentSpec"]["executors"]["exec-train-model"]["container"]["resources"][
        "accelerator"
    ]
    assert accelerator["resourceType"] == "nvidia.com/gpu"
    assert "training_gpus" in accelerator["resourceCount"]
    assert pipeline["root"]["inputDefinitions"]["parameters"]["training_gpus"]["defaultValue"] == 1
    assert platform["exec-train-model"]["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_what_moves_or_reads_the_world_is_never_cached() -> None:
    for component in (
        "load_champion",
        "retrieve_features",
        "register_model",
        "write_dossier",
        "await_approval",
        "rollout_canary",
        "promote_model",
    ):
        assert not metadata(component).cacheable


def test_conditions_compare_booleans_only(tasks: dict[str, Any]) -> None:
    conditions = [
        t["triggerPolicy"]["condition"] for t in tasks.values() if "condition" in t.get("triggerPolicy", {})
    ]
    assert len(conditions) == 4
    assert all(c.endswith("== true") for c in conditions)
