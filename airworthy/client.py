"""Submit pipelines and read their runs. `LocalClient` runs them on this machine with the local engine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airworthy.errors import ConfigError
from airworthy.model_spec import ModelSpec, read_spec
from airworthy.state import feature_repo, home

if TYPE_CHECKING:
    from airworthy.local import Event, RunResult
    from airworthy.registry import Approval


@dataclass(frozen=True)
class LocalClient:
    """Runs compiled pipelines here, without Docker or Kubernetes.

    Args:
        home: State directory; by default `$AIRWORTHY_HOME` or `.airworthy/`.
        workers: Steps that may run at the same time.
    """

    home: Path = field(default_factory=home)
    workers: int = 2

    def submit(
        self,
        pipeline: str | Path = "release",
        *,
        model: Path | None = None,
        parameters: Mapping[str, Any] | None = None,
        cache: bool = True,
        env: Mapping[str, str] | None = None,
        listener: Callable[[Event], None] | None = None,
    ) -> RunResult:
        """Run a pipeline to its end.

        Args:
            pipeline: Name of a shipped pipeline, or the path of any compiled YAML.
            model: Model spec; fills the parameters `spec` and `schema`.
            parameters: Further pipeline parameters.
            cache: Take unchanged steps from earlier runs.
            env: More environment variables for every step.
            listener: Called with every event, such as `airworthy.local.progress.Progress`.

        Raises:
            ConfigError: The spec, the pipeline or a parameter can't be used.
        """
        from airworthy.local import run_pipeline

        arguments = dict(parameters or {})
        if model is not None:
            _, text, schema = read_spec(model)
            arguments = {"spec": text, "schema": schema, **arguments}
        path = compiled_pipeline(pipeline)
        result = run_pipeline(
            path,
            arguments,
            home=self.home,
            env={**self._environment(), **(env or {})},
            workers=self.workers,
            cache=cache,
            listener=listener,
        )
        self._write_report(result)
        return result

    def resume(self, run_id: str, *, listener: Callable[[Event], None] | None = None) -> RunResult:
        """Go on with a run that was interrupted: finished steps are kept, the others run again."""
        from airworthy.local import load_run, run_pipeline

        directory = load_run(self.home, run_id).directory
        result = run_pipeline(
            directory / "pipeline.yaml",
            {},
            home=self.home,
            run_id=run_id,
            env=self._environment(),
            workers=self.workers,
            listener=listener,
            resume=True,
        )
        self._write_report(result)
        return result

    def approve(self, model_version: str, reason: str, *, by: str | None = None) -> Approval:
        """Let traffic move to a version whose spec asks for approval.

        Args:
            model_version: Such as `flight_delay@3`.
            reason: Why, for the record.
            by: Who; by default `AIRWORTHY_USER`, or user@host.

        Raises:
            ConfigError: It is no version, asks for no approval, or the spec names other approvers.
            GateError: It is too late.
            RegistryError: The registry can't be reached.
        """
        return self._answer(model_version, True, reason, by)

    def reject(self, model_version: str, reason: str, *, by: str | None = None) -> Approval:
        """Refuse a version; also after an approval, as long as it is not champion. See `approve`."""
        return self._answer(model_version, False, reason, by)

    def dossier(self, version: str, out: Path | None = None) -> Path:
        """Write the dossier of a version: `dossier.html`, `dossier.md` and `dossier.json`.

        Args:
            version: Such as `flight_delay@3`; a model alone means its champion.
            out: Folder; by default in the state directory.

        Returns:
            The folder.

        Raises:
            ConfigError: There is no such version.
            GateError: Records of it were changed or lost; the dossier that says so is written.
            RegistryError: The registry can't be reached.
        """
        from airworthy import dossier as room
        from airworthy.operations.registered import version_named
        from airworthy.registry import Registry

        registry = Registry(self._environment()["MLFLOW_TRACKING_URI"])
        found = version_named(registry, *model_version(version, "champion"))
        composed = room.compose(registry, found.model, found.version, earlier=True)
        folder = room.write(composed, out or self.home / "dossiers" / f"{found.model}-{found.version}")
        room.require_whole(composed)
        return folder

    def _answer(self, version: str, approved: bool, reason: str, by: str | None) -> Approval:
        from airworthy.operations.registered import version_named
        from airworthy.registry import Registry, approval

        registry = Registry(self._environment()["MLFLOW_TRACKING_URI"])
        found = version_named(registry, *model_version(version))
        return approval.answer(registry, found.model, found.version, approved=approved, reason=reason, by=by)

    def _environment(self) -> dict[str, str]:
        """What tells a step where things are; on a cluster a ConfigMap says the same."""
        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{self.home / 'mlflow.db'}")
        return {
            "AIRWORTHY_HOME": str(self.home),
            "MLFLOW_TRACKING_URI": uri,
            "AIRWORTHY_FEATURE_REPO": str(feature_repo()),
            "AIRWORTHY_DEPLOYER": "local",
            "AIRWORTHY_DEMO_FAULT": "",  # only the demonstration may ask for one, not a leftover in the shell
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin at barriers stall each other on a shared machine
        }

    def _write_report(self, result: RunResult) -> Path:
        from airworthy.reports.run import write_run_page

        return write_run_page(result)


def compiled_pipeline(pipeline: str | Path) -> Path:
    """The YAML of a pipeline: a path as it is, or a name among the shipped ones.

    Raises:
        ConfigError: There is no such pipeline; the message lists those there are.
    """
    given = Path(pipeline)
    if given.suffix in (".yaml", ".yml"):
        if not given.is_file():
            raise ConfigError(f"{given}: no such file")
        return given
    package = Path(__file__).resolve().parent  # environments hold a link to the package
    folders = (package / "_project" / "pipelines", package.parent / "pipelines" / "compiled")
    known = {
        path.stem: path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.yaml"))
    }
    if str(pipeline) not in known:
        raise ConfigError(
            f"{pipeline}: no such pipeline; there are {', '.join(sorted(known))}, or give a YAML file"
        )
    return known[str(pipeline)]


def model_name(spec_or_name: str) -> str:
    """A model's name, from itself or from the path of its spec."""
    if spec_or_name.endswith((".yaml", ".yml")):
        return read_model(Path(spec_or_name)).name
    return spec_or_name


def model_version(given: str, default: str | None = None) -> tuple[str, str]:
    """Model and version of `MODEL@VERSION`; the version is a number or an alias.

    Args:
        given: What the user named; the model also by its spec's path.
        default: The version when none is named; None asks for one.

    Raises:
        ConfigError: No version is named.
    """
    model, _, version = given.partition("@")
    if not model or not (version or default):
        raise ConfigError(f"{given}: which version? give MODEL@VERSION, such as {model or 'model'}@2")
    return model_name(model), version or str(default)


def read_model(path: Path) -> ModelSpec:
    """A model spec, without its schema file (which may not exist yet).

    Raises:
        ConfigError: The file is missing or wrong.
    """
    from airworthy.model_spec import load_spec, read_text

    return load_spec(read_text(path, "model spec"), str(path))


def parse_parameters(assignments: list[str]) -> dict[str, Any]:
    """`["training_gpus=0", "name=x"]` as a dictionary; values are JSON where they parse as such, else text.

    Raises:
        ConfigError: One is not of the form `name=value`.
    """
    parameters: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator or not name:
            raise ConfigError(f"--set {assignment}: expected name=value, such as training_gpus=0")
        try:
            parameters[name] = json.loads(value)
        except ValueError:
            parameters[name] = value
    return parameters
