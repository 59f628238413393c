"""A Feast feature repo made ready for use: sources prepared, definitions applied, the store opened.

A feature repo is a folder with `feature_store.yaml` and modules of definitions. It may hold a module
`prepare.py` with a function `prepare(home: Path)` that makes the sources first.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airworthy.errors import AirworthyError, ConfigError
from airworthy.files import file_lock, write_whole

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore
    from feast.repo_config import RepoConfig

log = logging.getLogger(__name__)

CONFIG = "feature_store.yaml"
HOME = "AIRWORTHY_HOME"


def prepare_feature_repo(feature_repo: Path, home: Path) -> FeatureStore:
    """Prepare sources, apply the definitions when they changed, and open the store.

    Safe to call from several processes: one at a time does the work, the others find it done. Stamps are kept
    under `home/feast/`.

    Args:
        feature_repo: Folder with `feature_store.yaml`.
        home: State directory: `${AIRWORTHY_HOME}` in the configuration, and the variable `AIRWORTHY_HOME`
            while the repo's own code runs.

    Raises:
        ConfigError: The repo is missing, can't be read, uses an offline store that loses rows, or its own
            code fails.
    """
    feature_repo, home = feature_repo.resolve(), home.resolve()
    config = load_config(feature_repo, home)
    state = home / "feast"
    state.mkdir(parents=True, exist_ok=True)
    with file_lock(state / "prepare.lock"), _inside(feature_repo, home):
        if (feature_repo / "prepare.py").exists():
            _prepare(feature_repo, home)
        digest = _digest(feature_repo, config)
        stamp = state / f"applied-{config.project}.json"
        if not (_there(config) and stamp.exists() and json.loads(stamp.read_text()) == digest):
            _apply(feature_repo, config)
            write_whole(stamp, json.dumps(digest))
    return open_store(feature_repo, home)


def open_store(feature_repo: Path, home: Path) -> FeatureStore:
    """The store of a repo that has been prepared before.

    Raises:
        ConfigError: As `load_config`.
    """
    from feast import FeatureStore

    feature_repo = feature_repo.resolve()
    return FeatureStore(repo_path=str(feature_repo), config=load_config(feature_repo, home.resolve()))


def load_config(feature_repo: Path, home: Path) -> RepoConfig:
    """Read `feature_store.yaml` and refuse an offline store that can't be trusted.

    Raises:
        ConfigError: The file is missing or wrong, or configures Feast's `file`/`dask` store (its default).
    """
    path = feature_repo / CONFIG
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; a feature repo is a folder with a {CONFIG}")
    started = time.perf_counter()
    import yaml
    from feast.errors import FeastError
    from feast.infra.offline_stores.offline_utils import get_offline_store_from_config
    from feast.repo_config import FeastConfigError, load_repo_config

    log.debug("Feast imported, %.1f s", time.perf_counter() - started)
    try:
        with _environment(home):
            config = load_repo_config(feature_repo, path)
            store = get_offline_store_from_config(config.offline_store)
    except (yaml.YAMLError, FeastConfigError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path}: not a Feast configuration: {_first_line(error)}") from None
    except (ImportError, ValueError, FeastError) as error:
        raise ConfigError(f"{path}: {_first_line(error)}") from None
    if any(base.__name__ == "DaskOfflineStore" for base in type(store).__mro__):
        raise ConfigError(
            f"{path} offline_store: Feast's file store (type dask or file, also the default) silently drops "
            "rows and merges equal ones; use airworthy.feast_store.AsofOfflineStore or duckdb"
        )
    return config


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings of Feast and its libraries that nobody here can act on."""
    # They add warning filters of their own when imported, so that must come first.
    import ibis  # noqa: F401

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="On demand feature view is an experimental")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="ibis")
        yield


def get_service(store: FeatureStore, name: str) -> FeatureService:
    """The feature service `name`.

    Raises:
        ConfigError: There is none of that name; lists those there are.
    """
    services = {service.name: service for service in store.list_feature_services()}
    if name not in services:
        known = ", ".join(sorted(services)) or "none"
        raise ConfigError(f"feature service {name} is not in the feature repo; it has: {known}")
    return services[name]


def service_digest(store: FeatureStore, service: FeatureService) -> str:
    """SHA-256 (hex) of what a feature service means: features, types, keys, ttl, sources, on-demand code.

    Paths and times of registration don't count, so that equal definitions agree on every machine.
    """
    on_demand = {view.name: view for view in store.list_on_demand_feature_views()}
    plain = {view.name: view for view in store.list_feature_views()}
    parts: list[Any] = []
    for projection in service.feature_view_projections:
        part: dict[str, Any] = {
            "view": projection.name_to_use(),
            "features": [[f.name, str(f.dtype)] for f in projection.features],
        }
        if projection.name in on_demand:
            view = on_demand[projection.name]
            # the registry returns these in another order in every process
            sources = sorted(view.source_feature_view_projections.values(), key=lambda each: each.name)
            part["code"] = getattr(view.feature_transformation, "udf_string", "")
            part["request"] = sorted(view.get_request_data_schema())
            part["inputs"] = [
                [_view_meaning(plain[s.name]), [f.name for f in s.features]]
                for s in sources
                if s.name in plain
            ]
        else:
            part["means"] = _view_meaning(plain[projection.name])
        parts.append(part)
    return hashlib.sha256(json.dumps([service.name, parts], sort_keys=True).encode()).hexdigest()


def _view_meaning(view: Any) -> list[Any]:
    source = view.batch_source
    ttl = view.ttl or timedelta(0)
    keys = sorted(e.name for e in view.entity_columns)
    times = [source.timestamp_field, source.created_timestamp_column or ""]
    return [
        view.name,
        keys,
        ttl.total_seconds(),
        Path(source.name).name,
        *times,
        sorted(source.field_mapping.items()),
    ]


def _prepare(feature_repo: Path, home: Path) -> None:
    started = time.perf_counter()
    with _blamed(feature_repo / "prepare.py"):
        module = importlib.import_module("prepare")
        if not hasattr(module, "prepare"):
            raise ConfigError(f"{feature_repo / 'prepare.py'}: has no function prepare(home)")
        module.prepare(home)
    log.info("sources of %s ready, %.1f s", feature_repo.name, time.perf_counter() - started)


def _apply(feature_repo: Path, config: RepoConfig) -> None:
    from feast.repo_operations import apply_total

    started = time.perf_counter()
    said = io.StringIO()
    with _blamed(feature_repo), quiet(), contextlib.redirect_stdout(said):
        apply_total(config, feature_repo, skip_source_validation=False)
    for line in filter(None, map(str.strip, said.getvalue().splitlines())):
        log.debug("feast apply: %s", line)
    log.info("definitions of %s applied, %.1f s", feature_repo.name, time.perf_counter() - started)


@contextlib.contextmanager
def _blamed(place: Path) -> Iterator[None]:
    """Say where it happened when the user's own code fails."""
    try:
        yield
    except AirworthyError:
        raise
    except SystemExit as error:
        raise ConfigError(f"{place}: feast apply gave up (exit {error.code})") from None
    except Exception as error:
        log.debug("in %s", place, exc_info=True)
        raise ConfigError(f"{place}: {type(error).__name__}: {_first_line(error)}") from error


@contextlib.contextmanager
def _inside(feature_repo: Path, home: Path) -> Iterator[None]:
    """Work as Feast's own command does (in the folder, its modules importable), and leave no trace behind."""
    before, path, bytecode = set(sys.modules), list(sys.path), sys.dont_write_bytecode
    stale = [name for name, module in sys.modules.items() if _is_in(module, feature_repo)]
    for name in stale:
        del sys.modules[name]
    sys.path.insert(0, str(feature_repo))
    sys.dont_write_bytecode = True
    try:
        with _environment(home), contextlib.chdir(feature_repo):
            yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, bytecode
        for name in set(sys.modules) - before:
            if _is_in(sys.modules[name], feature_repo):
                del sys.modules[name]


def _is_in(module: Any, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve().is_relative_to(folder)


@contextlib.contextmanager
def _environment(home: Path) -> Iterator[None]:
    before = os.environ.get(HOME)
    os.environ[HOME] = str(home)
    try:
        yield
    finally:
        if before is None:
            del os.environ[HOME]
        else:
            os.environ[HOME] = before


def _digest(feature_repo: Path, config: RepoConfig) -> dict[str, str]:
    """What the registry's content depends on."""
    import feast

    code = hashlib.sha256()
    for file in sorted([*feature_repo.rglob("*.py"), feature_repo / CONFIG]):
        code.update(f"{file.relative_to(feature_repo)}\n".encode() + file.read_bytes())
    return {"code": code.hexdigest(), "registry": _registry(config), "feast": str(feast.__version__)}


def _registry(config: RepoConfig) -> str:
    return str(config.registry if isinstance(config.registry, str) else config.registry.path)


def _there(config: RepoConfig) -> bool:
    """Whether the registry can still hold what was applied: somebody may have deleted its file."""
    registry = _registry(config)
    if "://" in registry and not registry.startswith("sqlite:///"):
        return True
    return Path(registry.removeprefix("sqlite:///")).exists()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
